//! Text helpers: normalization, safe file names, spelling suggestions, lists in messages.

use std::collections::BTreeMap;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use voxpipe_io::digest::Digest;
use voxtral::metrics::wer::TextNormalization;

/// Normalizes a text for comparison, with the same basic normalization as for word error rates.
pub fn normalized(text: &str) -> String {
    TextNormalization::Basic.apply(text)
}

/// A portable file name of at most 80 ASCII letters, digits, `-`, `_` and `.`; `clip` if nothing remains.
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

/// Assigns unique, safe file stems to paths, given as (path, preferred stem). Stems that collide all get a digest of their path, so the
/// result does not depend on the order.
pub fn unique_stems<'a>(wished: impl IntoIterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, String> {
    let wished: Vec<(&str, String)> = wished.into_iter().map(|(path, stem)| (path, safe_name(stem))).collect();
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for (_, stem) in &wished {
        // Some file systems are case-insensitive.
        *count.entry(stem.to_lowercase()).or_default() += 1;
    }
    let name = |path: &str, stem: String| match count[&stem.to_lowercase()] {
        1 => stem,
        _ => format!("{stem}-{}", Digest::of(path.as_bytes()).short()),
    };
    wished.into_iter().map(|(path, stem)| (path.to_owned(), name(path, stem))).collect()
}

/// The known name most similar to a mistyped one (Jaro–Winkler similarity above 0.8).
pub fn closest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase();
    let scored = known.into_iter().map(|name| (strsim::jaro_winkler(&typed, &name.to_lowercase()), name));
    let best = scored.fold(None, |best: Option<(f64, &str)>, (score, name)| match best {
        Some((highest, _)) if highest >= score => best,
        _ => Some((score, name)),
    });
    best.filter(|(score, _)| *score > 0.8).map(|(_, name)| name)
}

/// A count with its noun: `1 clip`, `2 clips`.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// The first `few` names in backticks, and the number of the others: ``"`a`, `b` and 3 more"``.
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
    fn equal_sentences_normalize_equally() {
        for (one, other) in
            [("Don't  go!", "don’t go"), ("¿Qué tal, amigo?", "qué tal amigo"), ("Ｆｕｌｌ width", "full width"), ("e\u{301}té", "été")]
        {
            assert_eq!(normalized(one), normalized(other), "{one}");
        }
        assert_ne!(normalized("el papa"), normalized("el papá"));
        assert_ne!(normalized("कि"), normalized("क"));
        assert_eq!(normalized("?! …"), "");
    }

    #[test]
    fn names_become_safe() {
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
    fn colliding_stems_are_disambiguated_in_any_order() {
        let wished = [("x/a.wav", "a"), ("y/A.wav", "A"), ("b.wav", "b")];
        let forth = unique_stems(wished);
        let back = unique_stems(wished.into_iter().rev());
        assert_eq!(forth, back);
        assert_eq!(forth["b.wav"], "b");
        assert!(forth["x/a.wav"].starts_with("a-") && forth["y/A.wav"].starts_with("A-"));
        assert_ne!(forth["x/a.wav"].to_lowercase(), forth["y/A.wav"].to_lowercase());
    }
}
