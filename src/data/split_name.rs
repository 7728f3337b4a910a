//! Names of splits: what data call `dev`, `valid` or `test-clean` is brought to `train`, `validation` or `test`.

/// The three splits.
pub const SPLITS: [&str; 3] = ["train", "validation", "test"];

/// Words for each split, as whole words of a name.
const WORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training", "trn"]),
    ("validation", &["validation", "valid", "val", "dev", "devel", "development"]),
    ("test", &["test", "testing", "tst", "eval", "evaluation", "heldout"]),
];

/// The split that a word means: `dev`, `test-clean`, `Training`. `None` if it means none of the three, or several.
pub fn split_of(word: &str) -> Option<&'static str> {
    let word = word.trim().to_lowercase().replace("held-out", "heldout").replace("held_out", "heldout");
    let parts: Vec<&str> = word.split(|character: char| !character.is_alphabetic()).filter(|part| !part.is_empty()).collect();
    let mut found = WORDS.iter().filter(|(_, words)| parts.iter().any(|part| words.contains(part))).map(|(split, _)| *split);
    let first = found.next();
    first.filter(|_| found.next().is_none())
}

/// The split that a path names in its folders or its file name, the file name first: `data/test-00000-of-00001.parquet`, `dev/metadata.csv`.
pub fn split_of_path(path: &str) -> Option<&'static str> {
    path.rsplit('/').find_map(split_of)
}

/// Whether a word is more than another spelling of its split: `test-clean`, which a row keeps beside `test`.
pub fn is_special(word: &str) -> bool {
    let plain = word.trim().to_lowercase();
    !WORDS.iter().any(|(_, words)| words.contains(&plain.as_str())) && !matches!(plain.as_str(), "held-out" | "held_out")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_paths_name_a_split() {
        for (word, split) in [
            ("train", Some("train")),
            ("Training", Some("train")),
            ("dev", Some("validation")),
            ("valid", Some("validation")),
            ("eval", Some("test")),
            ("held-out", Some("test")),
            ("test-clean", Some("test")),
            ("train.100", Some("train")),
            ("validated", None),
            ("other", None),
            ("train_test", None),
            ("1", None),
        ] {
            assert_eq!(split_of(word), split, "{word}");
        }
        for (path, split) in [
            ("data/train-00000-of-00001.parquet", Some("train")),
            ("test/metadata.csv", Some("test")),
            ("train/dev.tsv", Some("validation")),
            ("dev_manifest.json", Some("validation")),
            ("latest/trainer/metadata.csv", None),
        ] {
            assert_eq!(split_of_path(path), split, "{path}");
        }
        assert!(is_special("test-clean") && !is_special("Dev") && !is_special("held-out"));
    }
}
