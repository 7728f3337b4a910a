//! The `configs:` of a dataset card: which files of a dataset are which split, as `datasets.load_dataset` obeys them.

use yaml_rust2::parser::{Event, Parser};
use yaml_rust2::{Yaml, YamlLoader};

/// Largest head of a card that is read.
const LARGEST: usize = 1 << 20;

/// A configuration of a dataset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CardConfig {
    /// Its name.
    pub name: String,
    /// Whether it is used if no other is asked for.
    pub is_default: bool,
    /// Folder of its files.
    pub data_dir: Option<String>,
    /// Glob patterns of the files of each split.
    pub data_files: Vec<(String, Vec<String>)>,
}

/// The configurations in the YAML head of a card. A card that cannot be read has none.
pub fn read_configs(card: &str) -> Vec<CardConfig> {
    let head = card.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let Some(head) = head.strip_prefix("---\n").and_then(|rest| rest.split("\n---").next()) else { return Vec::new() };
    if head.len() > LARGEST || has_alias(head) {
        return Vec::new();
    }
    let Ok(documents) = YamlLoader::load_from_str(head) else { return Vec::new() };
    let Some(configs) = documents.first().and_then(|document| document["configs"].as_vec()) else { return Vec::new() };
    configs.iter().map(config).collect()
}

/// Aliases may repeat each other without end, and no card needs them.
fn has_alias(text: &str) -> bool {
    let mut parser = Parser::new_from_str(text);
    loop {
        match parser.next_token() {
            Ok((Event::Alias(_), _)) => return true,
            Ok((Event::StreamEnd, _)) | Err(_) => return false,
            Ok(_) => {}
        }
    }
}

fn config(config: &Yaml) -> CardConfig {
    let text = |key: &str| config[key].as_str().map(str::to_owned);
    CardConfig {
        name: text("config_name").unwrap_or_else(|| "default".to_owned()),
        is_default: config["default"].as_bool().unwrap_or(false),
        data_dir: text("data_dir"),
        data_files: data_files(&config["data_files"]),
    }
}

fn data_files(files: &Yaml) -> Vec<(String, Vec<String>)> {
    let train = |patterns: Vec<String>| if patterns.is_empty() { Vec::new() } else { vec![("train".to_owned(), patterns)] };
    match files {
        Yaml::Array(list) if list.iter().any(|entry| entry["split"].as_str().is_some()) => list
            .iter()
            .filter_map(|entry| {
                let path = if entry["path"].is_badvalue() { &entry["pattern"] } else { &entry["path"] };
                Some((entry["split"].as_str()?.to_owned(), patterns(path)))
            })
            .collect(),
        Yaml::Hash(map) => map.iter().filter_map(|(split, files)| Some((split.as_str()?.to_owned(), patterns(files)))).collect(),
        other => train(patterns(other)),
    }
}

fn patterns(paths: &Yaml) -> Vec<String> {
    let plain = |path: &str| path.trim_start_matches("./").to_owned();
    match paths {
        Yaml::String(path) => vec![plain(path)],
        Yaml::Array(list) => list.iter().filter_map(Yaml::as_str).map(plain).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_data_files_is_read() {
        let files = |yaml: &str| {
            let card = format!("---\nlicense: cc0-1.0\nconfigs:\n- config_name: default\n{yaml}---\n# Mine\n");
            read_configs(&card).into_iter().flat_map(|config| config.data_files).collect::<Vec<_>>()
        };
        let list = |splits: &[(&str, &[&str])]| -> Vec<(String, Vec<String>)> {
            splits.iter().map(|(split, paths)| ((*split).to_owned(), paths.iter().map(|path| (*path).to_owned()).collect())).collect()
        };
        for (yaml, expected) in [
            (
                "  data_files:\n  - split: train\n    path: \"data/train/**\"\n  - split: test\n    path: [a.csv, ./b.csv]\n",
                list(&[("train", &["data/train/**"]), ("test", &["a.csv", "b.csv"])]),
            ),
            ("  data_files:\n    train: a.csv\n    test:\n    - b.csv\n", list(&[("train", &["a.csv"]), ("test", &["b.csv"])])),
            ("  data_files: a.csv\n", list(&[("train", &["a.csv"])])),
            ("  data_files:\n  - a.csv\n  - b.csv\n", list(&[("train", &["a.csv", "b.csv"])])),
            ("  data_dir: x\n", Vec::new()),
        ] {
            assert_eq!(files(yaml), expected, "{yaml}");
        }
        let several = read_configs("---\nconfigs:\n- config_name: de\n  data_dir: de\n- config_name: fr\n  default: true\n---\n");
        assert_eq!(
            several.iter().map(|config| (config.name.as_str(), config.is_default)).collect::<Vec<_>>(),
            [("de", false), ("fr", true)]
        );
        for nothing in ["", "# Mine", "---\nx: [\n---\n", "---\nlicense: mit\n---\n", "---\na: &a [x]\nconfigs: [*a, *a]\n---\n"] {
            assert_eq!(read_configs(nothing), [], "{nothing}");
        }
    }
}
