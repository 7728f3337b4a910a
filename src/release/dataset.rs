//! Contents of a dataset repository: an AudioFolder that `datasets` loads with splits and transcripts, and `data.jsonl` for the `import`
//! stage.
//!
//! Clips are named by the digest of their file. Names are therefore unique and stable when rows are added or reordered, and a file that
//! the Hub already has is not uploaded again.

use super::parquet::Row;
use super::{Release, parquet};
use crate::data::clip_row::ClipRow;
use crate::data::template;
use crate::error::{Error, Result, ResultExt};
use crate::hub::RepoType;
use pipeline::artifact::Artifact;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use voxpipe_io::digest::Digest;
use voxpipe_io::jsonl;

const CARD: &str = include_str!("../../templates/dataset_card.md");
/// Number of hexadecimal digits of the digest in file names (128 bits).
const NAME_DIGITS: usize = 32;
/// The Hub's `size_categories` with their upper limits in rows.
const SIZES: [(usize, &str); 4] = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")];

/// Dataset information that the user must provide.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DatasetInfo {
    /// Title of the dataset.
    pub title: String,
    /// Author.
    pub author: Option<String>,
    /// License identifier as used on the Hub.
    pub license: Option<String>,
    /// What the speakers consented to.
    pub consent: Option<String>,
    /// Whether to add Parquet files with embedded audio.
    pub parquet: bool,
}

/// A dataset to publish.
#[derive(Debug)]
pub struct DatasetRelease<'a> {
    /// The result of the `dataset` stage.
    pub artifact: &'a Artifact,
    /// Information for the dataset card.
    pub about: &'a DatasetInfo,
    /// Upstream stages by name.
    pub upstream: &'a BTreeMap<String, Value>,
}

impl DatasetRelease<'_> {
    /// Builds the release; generated files are written to `folder`.
    pub fn release(&self, folder: &Path) -> Result<Release> {
        let mut files = BTreeMap::new();
        let mut rows: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        let mut all = Vec::new();
        let mut inside: BTreeMap<String, Vec<Row>> = BTreeMap::new();
        let records = ClipRow::read_all(&self.artifact.path.join("data.jsonl"))?;
        for record in &records {
            let split = record.rest.get("split").and_then(Value::as_str).unwrap_or("train").to_owned();
            if split.is_empty() || !split.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                return Err(Error::new(format!("`{}` is in the split `{split}`, which is not a valid folder name", record.audio_path))
                    .hint("use only letters, digits and `_` in split names"));
            }
            let audio = self.artifact.path.join(&record.audio_path);
            let bytes =
                fs::read(&audio).with_context(|| format!("cannot read `{}` of stage `{}`", record.audio_path, self.artifact.stage))?;
            let ending = audio.extension().and_then(|ending| ending.to_str()).unwrap_or("wav").to_lowercase();
            let name = format!("{}.{ending}", &Digest::of(&bytes).to_string()[..NAME_DIGITS]);
            let path = format!("data/{split}/{name}");
            if self.about.parquet {
                let row = Row { name: name.clone(), audio: (audio.clone(), bytes.len() as u64), facts: facts(record) };
                inside.entry(split.clone()).or_default().push(row);
            }
            if files.insert(path.clone(), audio).is_some() {
                return Err(Error::new(format!("duplicate clip in the dataset: `{}`", record.audio_path)).hint("remove one of them"));
            }
            let facts = facts(record);
            let with = |key: &str, place: &str| {
                let mut row = Map::from_iter([(key.to_owned(), json!(place))]);
                row.extend(facts.clone());
                row
            };
            let mut row = with("audio_path", &path);
            row.insert("split".to_owned(), json!(split));
            all.push(Value::from(row));
            rows.entry(split).or_default().push(with("file_name", &name).into());
        }
        if records.is_empty() {
            return Err(Error::new(format!("the dataset of stage `{}` has no clips", self.artifact.stage)));
        }
        let mut write = |name: String, rows: &[Value]| {
            let path = folder.join(name.replace('/', "-"));
            jsonl::write(&path, rows)?;
            files.insert(name, path);
            Ok::<_, Error>(())
        };
        write("data.jsonl".to_owned(), &all)?;
        for (split, rows) in &rows {
            write(format!("data/{split}/metadata.jsonl"), rows)?;
        }
        for (split, rows) in &inside {
            for name in parquet::write(folder, split, rows)? {
                files.insert(format!("parquet/{name}"), folder.join(name));
            }
        }
        let card = folder.join("README.md");
        let text = template::render("templates/dataset_card.md", CARD, self.card_values(&records, &rows)?)?;
        fs::write(&card, text).with_context(|| "cannot write the dataset card")?;
        files.insert("README.md".to_owned(), card);
        Ok(Release { repository: RepoType::Dataset, kind: "dataset", files, left_out: Vec::new() })
    }

    /// Values for the template of the dataset card.
    fn card_values(&self, records: &[ClipRow], rows: &BTreeMap<String, Vec<Value>>) -> Result<Value> {
        let texts = |of: fn(&ClipRow) -> Option<&String>| -> BTreeSet<&String> { records.iter().filter_map(of).collect() };
        let seconds: f64 = records.iter().filter_map(|record| record.duration).sum();
        let report = self.artifact.path.join("report.json");
        let report: Value = if report.exists() {
            let text = fs::read_to_string(&report).with_context(|| "cannot read `report.json` of the dataset")?;
            serde_json::from_str(&text).map_err(|error| Error::new(format!("`report.json` of stage `{}`: {error}", self.artifact.stage)))?
        } else {
            Value::Null
        };
        let number = |list: &str| report[list].as_array().map_or(0, Vec::len);
        let kinds: BTreeSet<&str> = self.upstream.values().filter_map(|stage| stage["uses"].as_str()).collect();
        let size = SIZES.iter().find(|(below, _)| records.len() < *below).map_or("1M<n<10M", |(_, name)| name);
        Ok(json!({
            "title": self.about.title,
            "author": self.about.author,
            "license": self.about.license,
            "consent": self.about.consent,
            "parquet": self.about.parquet,
            "languages": texts(|record| record.language.as_ref()),
            "speakers": texts(|record| record.speaker.as_ref()),
            "without_speaker": records.iter().filter(|record| record.speaker.is_none()).count(),
            "clips": records.len(),
            "hours": seconds / 3600.0,
            "minutes": seconds / 60.0,
            "size": size,
            "splits": rows.iter().map(|(split, rows)| (split, rows.len())).collect::<BTreeMap<_, _>>(),
            "kinds": kinds,
            "checked": report.is_object(),
            "rejected": number("rejected"),
            "odd": number("odd"),
        }))
    }
}

/// Published columns of a row. `source` is reduced to its file name, because paths may be private.
fn facts(record: &ClipRow) -> Map<String, Value> {
    let source = record.source.as_deref().map(|source| source.rsplit(['/', '\\']).next().unwrap_or(source));
    let mut facts = Map::from_iter([("text".to_owned(), json!(record.text))]);
    facts.insert("language".to_owned(), json!(record.language));
    facts.insert("duration".to_owned(), json!(record.duration));
    facts.insert("speaker".to_owned(), json!(record.speaker));
    facts.insert("source".to_owned(), json!(source));
    facts.retain(|_, value| !value.is_null());
    facts
}
