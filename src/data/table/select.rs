//! Which tables of a dataset hold its rows: what its card says, the usual names, or a question. Tables of the same clips are never
//! concatenated.

use super::{TableFiles, TableOptions, ending, read_bytes, text_beside};
use crate::data::columns::{Columns, TableClip};
use crate::data::dataset_card::{CardConfig, read_configs};
use crate::data::ingest::is_audio;
use crate::data::split_name::{split_of, split_of_path};
use crate::data::text::first_few;
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How the rows of a table are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableSource {
    /// A file of rows.
    Rows,
    /// A Parquet file.
    Parquet,
    /// Lines `ID TEXT`: Kaldi's `text`, with `wav.scp` and `segments` if they are there, or LibriSpeech's `*.trans.txt`.
    Lines,
    /// A text file beside each recording.
    Beside,
}

impl TableSource {
    /// How the rows are found, for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Rows => "a table",
            Self::Parquet => "Parquet with its sound",
            Self::Lines => "lines of an id and a text",
            Self::Beside => "a text beside each recording",
        }
    }
}

/// A table that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PickedTable {
    /// Its path; the folder of the dataset if the texts are beside the recordings.
    pub path: String,
    /// How it is read.
    pub source: TableSource,
    /// The split that the card or the name of the table names, as it is written there.
    pub split: Option<String>,
}

/// What is asked of a dataset.
#[derive(Clone, Copy, Debug, Default)]
pub struct TableWish<'a> {
    /// Glob patterns of tables.
    pub patterns: &'a [String],
    /// A configuration.
    pub config: Option<&'a str>,
    /// Splits; all if empty.
    pub splits: &'a [String],
    /// Whether folders beside each other are configurations, of which one must be chosen.
    pub folders_are_configs: bool,
}

const METADATA: &[&str] = &["metadata.jsonl", "metadata.csv", "metadata.tsv"];
const SEPARATED: &[&str] = &["csv", "tsv", "tab", "psv"];
/// Tables of Common Voice that are no training data.
const NOT_CLIPS: &[&str] = &[
    "invalidated.tsv",
    "other.tsv",
    "reported.tsv",
    "validated_sentences.tsv",
    "unvalidated_sentences.tsv",
    "clip_durations.tsv",
    "times.txt",
];
/// Tables up to this size are compared with each other.
const COMPARED: u64 = 64 << 20;

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Whether a path is a table of one form.
type Form<'a> = &'a dyn Fn(&str) -> bool;

/// The tables of the richest form among some paths.
fn richest<'a>(files: &dyn TableFiles, paths: &[&'a str], known_file: &dyn Fn(&str) -> bool) -> (TableSource, Vec<&'a str>) {
    let of = |is: &dyn Fn(&str) -> bool| -> Vec<&'a str> { paths.iter().copied().filter(|path| is(path)).collect() };
    let ends = |path: &str, endings: &[&str]| endings.contains(&ending(path).as_str());
    let name_has = |path: &str, part: &str| file_name(path).to_lowercase().contains(part);
    // A JSON file beside a recording is one row of a WebDataset.
    let stems: BTreeSet<&str> =
        paths.iter().filter(|path| is_audio(Path::new(path))).filter_map(|path| Some(path.rsplit_once('.')?.0)).collect();
    let alone = |path: &str| path.rsplit_once('.').is_none_or(|(stem, _)| !stems.contains(stem));
    let kaldi = |path: &str| {
        file_name(path) == "text"
            && ["wav.scp", "segments", "utt2spk"].iter().any(|name| {
                let beside = if folder(path).is_empty() { (*name).to_owned() } else { format!("{}/{name}", folder(path)) };
                files.contains(&beside)
            })
    };
    let forms: [(TableSource, Form); 9] = [
        (TableSource::Rows, &|path| METADATA.contains(&file_name(path))),
        (TableSource::Parquet, &|path| ends(path, &["parquet"])),
        (TableSource::Rows, &|path| ends(path, &["jsonl", "ndjson"]) || ends(path, &["json"]) && name_has(path, "manifest")),
        (TableSource::Rows, &|path| ends(path, SEPARATED) && alone(path)),
        (TableSource::Lines, &kaldi),
        (TableSource::Lines, &|path| path.ends_with(".trans.txt")),
        (TableSource::Rows, &|path| ends(path, &["xlsx", "xlsm", "ods"])),
        (TableSource::Rows, &|path| {
            ends(path, &["json"])
                && alone(path)
                && !matches!(file_name(path), "dataset_info.json" | "dataset_infos.json" | "state.json" | "config.json")
        }),
        (TableSource::Rows, &|path| {
            ends(path, &["txt", "list", "lst"])
                && alone(path)
                && !NOT_CLIPS.contains(&file_name(path))
                && is_filelist(files, path, known_file)
        }),
    ];
    for (source, form) in forms {
        let found = of(form);
        if !found.is_empty() {
            return (source, found);
        }
    }
    let beside = paths.iter().any(|path| is_audio(Path::new(path)) && text_beside(files, path).is_some());
    (TableSource::Beside, if beside { vec![""] } else { Vec::new() })
}

/// Whether a text file lists recordings: its first line has a separator and names a sound, or is a header, or its lines are cells with tabs
/// that begin with recordings.
fn is_filelist(files: &dyn TableFiles, path: &str, known_file: &dyn Fn(&str) -> bool) -> bool {
    let start = files.part(path, 0, files.size(path).min(4096)).unwrap_or_default();
    let text = super::decode(&start).text;
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let first = |line: &str| line.split('\t').next().is_some_and(|cell| known_file(cell.trim()));
    ['|', '\t', ';', ','].iter().any(|separator| {
        let mut cells = line.split(*separator);
        line.contains(*separator) && cells.any(|cell| is_audio(Path::new(cell.trim())))
    }) || is_header(line)
        || tabs_of(&text) > 0 && text.lines().take(TAB_LINES).any(first)
}

/// Lines that decide whether a text has cells with tabs.
const TAB_LINES: usize = 50;

/// Number of tabs that most lines of a text have; 0 if the numbers differ.
fn tabs_of(text: &str) -> usize {
    let mut numbers: BTreeMap<usize, usize> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()).take(TAB_LINES) {
        *numbers.entry(line.matches('\t').count()).or_default() += 1;
    }
    let lines: usize = numbers.values().sum();
    numbers.into_iter().find(|(_, number)| number * 2 > lines).map_or(0, |(tabs, _)| tabs)
}

/// Whether a line is the header of a table of clips.
fn is_header(line: &str) -> bool {
    use crate::data::columns::ColumnRole;
    let columns = Columns::default();
    ['|', '\t', ';', ','].iter().any(|separator| {
        let roles: Vec<ColumnRole> =
            line.split(*separator).filter_map(|name| Some(columns.role(name.trim().trim_matches('"'))?.0)).collect();
        roles.contains(&ColumnRole::Audio) && roles.contains(&ColumnRole::Text)
    })
}

/// Whether the lines of a text are cells with tabs between them, not an id and its text as in Kaldi. `is_kaldi` says whether `wav.scp` or
/// `segments` is beside it.
pub fn has_tabbed_cells(text: &str, is_kaldi: bool, known_file: &dyn Fn(&str) -> bool) -> bool {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    match tabs_of(text) {
        0 => false,
        1 if !is_header(first) => {
            let is_id = |line: &str| {
                let id = line.split('\t').next().unwrap_or_default().trim();
                !id.contains(char::is_whitespace) && (is_kaldi || known_file(id))
            };
            // A recording may be missing.
            let lines = || text.lines().filter(|line| !line.trim().is_empty()).take(TAB_LINES);
            lines().filter(|line| is_id(line)).count() * 2 <= lines().count()
        }
        _ => true,
    }
}

/// Whether a glob pattern of a card matches a path. `*` stays inside of a folder, `**` does not.
fn matches(pattern: &str, path: &str) -> bool {
    if let Some(before) = pattern.strip_suffix("**")
        && (before.is_empty() || before.ends_with('/'))
    {
        return glob::Pattern::new(&format!("{before}*")).is_ok_and(|pattern| pattern.matches(path));
    }
    let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
    glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_with(path, options))
}

/// Whether a split that is asked for is the one that a table has.
pub fn is_split(asked: &str, has: &str) -> bool {
    asked == has || split_of(asked).is_some_and(|asked| Some(asked) == split_of(has)) && !crate::data::split_name::is_special(asked)
}

/// Chooses the tables that hold the rows. `known_file` says whether a text is the name of a recording. Returns notes too.
pub fn pick_tables(files: &dyn TableFiles, wish: TableWish, known_file: &dyn Fn(&str) -> bool) -> Result<(Vec<PickedTable>, Vec<String>)> {
    let mut notes = Vec::new();
    let wrong = |message: String, hint: String| Err(Error::new(format!("{message} in `{}`", files.name())).hint(hint));
    let all = files.paths();
    let mut found: Vec<PickedTable> = Vec::new();
    let mut by_card = false;
    if !wish.patterns.is_empty() {
        let patterns: Vec<glob::Pattern> = wish.patterns.iter().filter_map(|pattern| glob::Pattern::new(pattern).ok()).collect();
        let named = all.iter().filter(|path| patterns.iter().any(|pattern| pattern.matches(path)));
        found.extend(named.map(|path| table(path, source_of(path))));
    } else if let Some(config) = card_config(files, wish.config)? {
        by_card = true;
        let inside =
            |path: &&str| config.data_dir.as_deref().is_none_or(|folder| path.starts_with(&format!("{}/", folder.trim_matches('/'))));
        for (split, patterns) in &config.data_files {
            let full = |pattern: &String| {
                config.data_dir.as_deref().map_or_else(|| pattern.clone(), |dir| format!("{}/{pattern}", dir.trim_matches('/')))
            };
            let patterns: Vec<String> = patterns.iter().map(full).collect();
            let of_split: Vec<&str> = all.iter().copied().filter(|path| patterns.iter().any(|pattern| matches(pattern, path))).collect();
            let (source, tables) = richest(files, &of_split, known_file);
            for path in tables {
                if found.iter().any(|other| other.path == path) {
                    notes.push(format!("`{path}` of `{}` is in several splits: it was read once", files.name()));
                } else {
                    found.push(PickedTable { split: Some(split.clone()), ..table(path, source) });
                }
            }
        }
        if config.data_files.is_empty() {
            let inside: Vec<&str> = all.iter().copied().filter(inside).collect();
            let (source, tables) = richest(files, &inside, known_file);
            found.extend(tables.into_iter().map(|path| table(path, source)));
        }
        if found.is_empty() {
            return wrong(format!("no files of the configuration `{}` of its card", config.name), "name the tables in `files`".to_owned());
        }
    } else {
        let (source, tables) = richest(files, &all, known_file);
        found.extend(tables.into_iter().map(|path| table(path, source)));
    }
    if found.is_empty() {
        let hint = "expected metadata.csv or metadata.jsonl, Parquet files, a JSON Lines manifest, another table, Kaldi's `text`, or a .txt file \
                    beside each recording; name other tables in `files`";
        return wrong(format!("no table of clips among {} files", all.len()), hint.to_owned());
    }
    if let Some(config) = wish.config.filter(|_| !by_card) {
        found.retain(|table| table.path.split('/').any(|part| part == config));
        if found.is_empty() {
            return wrong(format!("no table in a folder `{config}`"), format!("files: {}", first_few(&all, 10)));
        }
    }
    if wish.patterns.is_empty() && !by_card {
        common_voice(&mut found);
        if found.is_empty() {
            let hint = "its tables hold what is not for training; name one in `files` if you want it".to_owned();
            return wrong("no table of validated clips".to_owned(), hint);
        }
    }
    let is_named = |table: &PickedTable, split: &str| {
        table.split.as_deref().is_some_and(|has| is_split(split, has))
            || table.path.split('/').any(|part| {
                part.split(['-', '_', '.']).any(|word| word == split)
                    || part == split
                    || part.rsplit_once('.').is_some_and(|(stem, _)| stem == split)
            })
    };
    if !wish.splits.is_empty() {
        let named = |table: &PickedTable| wish.splits.iter().find(|split| is_named(table, split));
        let some_are = found.iter().any(|table| named(table).is_some());
        let known: BTreeSet<(usize, String)> = found.iter().filter_map(|table| Some((rank(table), table.split.clone()?))).collect();
        if let Some(missing) = wish.splits.iter().find(|split| !found.iter().any(|table| is_named(table, split) || table.split.is_none())) {
            let known: Vec<String> = known.into_iter().map(|(_, split)| split).collect();
            return wrong(format!("no split `{missing}`"), format!("available: {}", known.join(", ")));
        }
        // Rows of a table whose name has no split may name theirs themselves.
        found.retain(|table| named(table).is_some() || table.split.is_none() && !some_are);
        for table in &mut found {
            table.split = table.split.take().or_else(|| wish.splits.iter().find(|split| is_named(table, split)).cloned());
        }
    }
    if wish.patterns.is_empty() && !by_card {
        one_of_each(files, &mut found, known_file, &mut notes)?;
        let folders: BTreeSet<&str> = found.iter().filter_map(|table| config_folder(&table.path)).collect();
        if wish.config.is_none() && wish.folders_are_configs && folders.len() > 1 {
            let known: Vec<&str> = folders.into_iter().collect();
            return wrong("several configurations".to_owned(), format!("set `config` to one of: {}", first_few(&known, 10)));
        }
    }
    // What is for training comes first, so that `count` takes that.
    found.sort_by_key(rank);
    Ok((found, notes))
}

/// The order of a table among those of other splits.
fn rank(table: &PickedTable) -> usize {
    match table.split.as_deref().and_then(split_of) {
        None | Some("train") => 0,
        Some("validation") => 1,
        Some(_) => 2,
    }
}

/// The folder of a table that may be a configuration: several of them are several datasets.
fn config_folder(path: &str) -> Option<&str> {
    let folders = folder(path).split('/').filter(|part| !part.is_empty());
    folders.into_iter().find(|part| split_of(part).is_none() && !["data", "audio", "parquet"].contains(part) && !part.contains('.'))
}

fn source_of(path: &str) -> TableSource {
    match ending(path).as_str() {
        "parquet" => TableSource::Parquet,
        "" => TableSource::Lines,
        "txt" if path.ends_with(".trans.txt") => TableSource::Lines,
        _ => TableSource::Rows,
    }
}

fn table(path: &str, source: TableSource) -> PickedTable {
    let written = path.rsplit('/').find_map(|part| {
        split_of(part)?;
        let name = if part == file_name(path) { part.rsplit_once('.').map_or(part, |(stem, _)| stem) } else { part };
        // `train-00000-of-00001` is a part of `train`.
        Some(name.split("-0").next().unwrap_or(name).to_owned())
    });
    // Words around the split, as in `train_manifest`, are no part of it.
    let plain = split_of_path(path).map(str::to_owned);
    let split = written.filter(|name| is_librispeech(name)).or(plain);
    PickedTable { path: path.to_owned(), source, split }
}

/// Whether a name is that of a special split that is kept: `test-clean`, `dev.other`, `train-clean-100`.
fn is_librispeech(name: &str) -> bool {
    let lower = name.to_lowercase();
    lower.contains("clean") || lower.contains("other")
}

/// The configuration of the card that is meant; `None` if the card has none.
fn card_config(files: &dyn TableFiles, asked: Option<&str>) -> Result<Option<CardConfig>> {
    if !files.contains("README.md") {
        return Ok(None);
    }
    let mut configs = read_configs(&String::from_utf8_lossy(&files.whole("README.md")?));
    if configs.is_empty() {
        return Ok(None);
    }
    let names: Vec<String> = configs.iter().map(|config| config.name.clone()).collect();
    let chosen = match asked {
        Some(asked) => names.iter().position(|name| name == asked),
        None if configs.len() == 1 => Some(0),
        None => configs.iter().position(|config| config.is_default).or_else(|| names.iter().position(|name| name == "default")),
    };
    if let Some(chosen) = chosen {
        return Ok(Some(configs.swap_remove(chosen)));
    }
    let message = match asked {
        Some(asked) => format!("no configuration `{asked}` in the card of `{}`", files.name()),
        None => format!("several configurations in `{}`", files.name()),
    };
    Err(Error::new(message).hint(format!("set `config` to one of: {}", first_few(&names, 10))))
}

/// Of the tables of Common Voice, those of its splits, or `validated.tsv` alone.
fn common_voice(found: &mut Vec<PickedTable>) {
    let in_folder = |found: &[PickedTable], folder_of: &str, name: &str| {
        found.iter().any(|table| folder(&table.path) == folder_of && file_name(&table.path) == name)
    };
    let folders: BTreeSet<String> = found.iter().map(|table| folder(&table.path).to_owned()).collect();
    for folder_of in folders {
        let is_release = ["validated.tsv", "invalidated.tsv", "other.tsv"].iter().filter(|name| in_folder(found, &folder_of, name)).count()
            > 0
            || in_folder(found, &folder_of, "clip_durations.tsv");
        if !is_release {
            continue;
        }
        let split = ["train.tsv", "dev.tsv", "test.tsv"].iter().any(|name| in_folder(found, &folder_of, name));
        found.retain(|table| {
            let name = file_name(&table.path);
            folder(&table.path) != folder_of || !(NOT_CLIPS.contains(&name) || split && name == "validated.tsv")
        });
    }
}

/// The texts of each file in a table, if it can be read.
type Contents = BTreeMap<String, BTreeSet<String>>;

fn contents(files: &dyn TableFiles, path: &str, known_file: &dyn Fn(&str) -> bool) -> Option<Contents> {
    if files.size(path) > COMPARED {
        return None;
    }
    let bytes = files.whole(path).ok()?;
    let columns = Columns::default();
    let mut found: Contents = BTreeMap::new();
    let options = TableOptions { columns: &columns, clips: true, known_file };
    let read = read_bytes(path, &bytes, &options, &mut |row| {
        if let Ok(Ok(clip)) = row.map(|row| TableClip::read(&row, &columns)) {
            let name = clip.path.unwrap_or_default().replace('\\', "/");
            found.entry(name.trim_start_matches("./").to_owned()).or_default().insert(clip.text);
        }
        Ok(true)
    });
    read.ok().filter(|_| !found.is_empty()).map(|_| found)
}

/// Of tables beside each other, those with different clips: one that is within another is left out, and two that contradict each other are
/// a question. Tables numbered in their names are parts of one.
fn one_of_each(
    files: &dyn TableFiles,
    found: &mut Vec<PickedTable>,
    known_file: &dyn Fn(&str) -> bool,
    notes: &mut Vec<String>,
) -> Result<()> {
    let mut groups: BTreeMap<(String, Option<String>), Vec<String>> = BTreeMap::new();
    for table in found.iter().filter(|table| table.source == TableSource::Rows) {
        groups.entry((folder(&table.path).to_owned(), table.split.clone())).or_default().push(table.path.clone());
    }
    let unnumbered = |path: &str| file_name(path).chars().filter(|character| !character.is_ascii_digit()).collect::<String>();
    for paths in groups.into_values().filter(|paths| (2..=20).contains(&paths.len())) {
        let names: BTreeSet<String> = paths.iter().map(|path| unnumbered(path)).collect();
        if names.len() == 1 {
            continue;
        }
        let read: Vec<(&String, Option<Contents>)> = paths.iter().map(|path| (path, contents(files, path, known_file))).collect();
        let mut kept: Vec<(&String, &Contents)> = Vec::new();
        let usable = read.iter().filter(|(_, contents)| contents.is_some()).count();
        for (path, contents) in &read {
            let Some(contents) = contents else {
                if usable > 0 {
                    notes.push(format!("`{path}` of `{}` is no table of clips: it was left out", files.name()));
                    found.retain(|table| table.path != **path);
                }
                continue;
            };
            kept.push((path, contents));
        }
        // The largest first; of equals the first by name, but JSON before CSV, as its values have types.
        kept.sort_by_key(|(path, contents)| (std::cmp::Reverse(contents.len()), !path.ends_with("jsonl"), (*path).clone()));
        let mut chosen: Vec<(&String, &Contents)> = Vec::new();
        for (path, contents) in kept {
            let overlaps = |(_, other): &&(&String, &Contents)| contents.keys().any(|name| other.contains_key(name));
            let Some((first, other)) = chosen.iter().find(overlaps) else {
                chosen.push((path, contents));
                continue;
            };
            if contents.iter().all(|(name, texts)| other.get(name).is_some_and(|same| texts.is_subset(same))) {
                notes.push(format!("`{path}` of `{}` has clips that `{first}` has too: `{first}` was read", files.name()));
                found.retain(|table| table.path != **path);
                continue;
            }
            let tables: Vec<&String> = paths.iter().collect();
            return Err(Error::new(format!("several tables of the same clips in `{}`: {}", files.name(), first_few(&tables, 5)))
                .hint(format!("say which one is meant: `files = \"{first}\"`")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_with_tabs_are_told_from_an_id_and_a_text() {
        let known = |name: &str| ["a", "b", "a.wav", "b.wav"].contains(&name);
        for (text, is_kaldi, cells) in [
            ("a.wav\tHi you.\tann\nb.wav\tYo ho.\tbob\n", false, true),
            ("id\ttext\tspeaker\tfile\r\n0\tHi you.\tann\ta.wav\r\n", false, true),
            ("file\ttext\na.wav\tHi you.\nb.wav\tYo ho.\n", false, true),
            ("Hi you.\ta.wav\nYo ho.\tb.wav\n", false, true),
            ("x Hi you.\ta.wav\ny Yo ho.\tb.wav\n", true, true),
            ("a\tHi you.\nb\tYo ho.\n", false, false),
            ("u1\tHI YOU\nu2\tYO HO\n", true, false),
            ("a Hi you.\nb Yo ho.\n", false, false),
            ("a Hi\tyou.\nb Yo ho.\nc And\tso\ton.\n", false, false),
        ] {
            assert_eq!(has_tabbed_cells(text, is_kaldi, &known), cells, "{text}");
        }
    }
}
