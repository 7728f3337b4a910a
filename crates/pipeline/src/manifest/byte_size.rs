//! Parses and formats byte sizes such as `20GB` and `1.5 GiB`.

/// Unit symbols and their sizes in bytes: binary (IEC), then decimal (SI), each from large to small.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Examples of valid sizes, for messages.
pub const FORMS: &str = "\"500MB\", \"20GB\" or \"1.5 TiB\"";

/// Parses a size into bytes. A number without a unit is not a size.
pub fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let (unit, factor) = UNITS.iter().find(|(unit, _)| {
        text.len() >= unit.len()
            && text.is_char_boundary(text.len() - unit.len())
            && text[text.len() - unit.len()..].eq_ignore_ascii_case(unit)
    })?;
    let number = text[..text.len() - unit.len()].trim_end();
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    let bytes = number.parse::<f64>().ok()? * *factor as f64;
    (bytes.is_finite() && bytes < u64::MAX as f64).then_some(bytes as u64)
}

/// Formats a size with the largest decimal unit that fits: `5.2 MB`.
pub fn words(bytes: u64) -> String {
    let decimal = UNITS.iter().filter(|(unit, factor)| !unit.contains('i') && *factor > 1);
    decimal
        .into_iter()
        .find(|(_, factor)| bytes >= *factor)
        .map_or_else(|| format!("{bytes} B"), |(unit, factor)| format!("{:.1} {unit}", bytes as f64 / *factor as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed_and_formatted() {
        for (text, bytes) in
            [("20GB", 20_000_000_000), ("1.5 TiB", 1_649_267_441_664), ("500mb", 500_000_000), ("0 B", 0), (" 2 kB ", 2_000)]
        {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
        for text in ["", "20", "GB", "-1GB", "1e3GB", "1..2GB", "twenty GB", "20 XB", "9999999999TB", "é", "1éB"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!([0, 999, 1000, 5_234_567, 20_000_000_000].map(words), ["0 B", "999 B", "1.0 kB", "5.2 MB", "20.0 GB"]);
    }
}
