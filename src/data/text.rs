//! Texts and names as people write them, brought into forms that can be compared and stored.

use std::collections::BTreeMap;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use voxpipe_io::digest::Digest;
use voxtral::metrics::wer::TextNormalization;

/// What two texts must share to count as the same sentence: what also counts as the same when they are scored.
pub fn normalised(text: &str) -> String {
    TextNormalization::Basic.apply(text)
}

/// A file name made of plain ASCII letters, digits, `-`, `_` and `.`, that means the same in every file system and address.
pub fn safe_name(name: &str) -> String {
    let mut safe = String::new();
    for character in name.nfkd().filter(|character| !is_combining_mark(*character)) {
        if character.is_ascii_alphanumeric() || matches!(character, '_' | '.') {
            safe.push(character);
        } else if !safe.ends_with('-') {
            safe.push('-');
        }
    }
    let safe: String = safe.trim_matches(['-', '.']).chars().take(80).collect();
    if safe.is_empty() { "clip".to_owned() } else { safe }
}

/// Gives every name (a path with a stem wished for it) a safe stem of its own. Where two would meet, each gets a digest of
/// its path, so that the outcome does not depend on their order.
pub fn unique_stems<'a>(wished: impl IntoIterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, String> {
    let wished: Vec<(&str, String)> = wished.into_iter().map(|(path, stem)| (path, safe_name(stem))).collect();
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for (_, stem) in &wished {
        // Some file systems do not tell `A` from `a`.
        *count.entry(stem.to_lowercase()).or_default() += 1;
    }
    let name = |path: &str, stem: String| match count[&stem.to_lowercase()] {
        1 => stem,
        _ => format!("{stem}-{}", Digest::of(path.as_bytes()).short()),
    };
    wished.into_iter().map(|(path, stem)| (path.to_owned(), name(path, stem))).collect()
}

/// The known name closest to a mistyped one, if any is close.
pub fn closest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase();
    let scored = known.into_iter().map(|name| (strsim::jaro_winkler(&typed, &name.to_lowercase()), name));
    let best = scored.fold(None, |best: Option<(f64, &str)>, (score, name)| match best {
        Some((highest, _)) if highest >= score => best,
        _ => Some((score, name)),
    });
    best.filter(|(score, _)| *score > 0.8).map(|(_, name)| name)
}

/// `1 clip`, `2 clips`.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// The first few of a list, and how many more there are.
pub fn first_few<T: AsRef<str>>(names: &[T], few: usize) -> String {
    let shown = names.iter().take(few).map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(few) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_sentence_is_recognised() {
        for (one, other) in
            [("Don't  go!", "don’t go"), ("¿Qué tal, amigo?", "qué tal amigo"), ("Ｆｕｌｌ width", "full width"), ("e\u{301}té", "été")]
        {
            assert_eq!(normalised(one), normalised(other), "{one}");
        }
        assert_ne!(normalised("el papa"), normalised("el papá"));
        assert_ne!(normalised("कि"), normalised("क"));
        assert_eq!(normalised("?! …"), "");
    }

    #[test]
    fn names_are_safe_anywhere() {
        for (name, safe) in [
            ("Été à Paris", "Ete-a-Paris"),
            ("../../etc/passwd", "etc-passwd"),
            ("日本", "clip"),
            (".hidden", "hidden"),
            ("a b\\c", "a-b-c"),
        ] {
            assert_eq!(safe_name(name), safe, "{name}");
        }
    }

    #[test]
    fn names_that_meet_are_told_apart_in_any_order() {
        let wished = [("x/a.wav", "a"), ("y/A.wav", "A"), ("b.wav", "b")];
        let forth = unique_stems(wished);
        let back = unique_stems(wished.into_iter().rev());
        assert_eq!(forth, back);
        assert_eq!(forth["b.wav"], "b");
        assert!(forth["x/a.wav"].starts_with("a-") && forth["y/A.wav"].starts_with("A-"));
        assert_ne!(forth["x/a.wav"].to_lowercase(), forth["y/A.wav"].to_lowercase());
    }
}
