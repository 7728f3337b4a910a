//! Reads sentences from NVIDIA Granary, or a dataset with the same layout: `{language}/{corpus}/{language}_asr*.jsonl` on the Hub.
//!
//! Manifests may have gigabytes, so random blocks (chosen by the seed) are read, round-robin over the corpora, until there are enough
//! sentences. Incomplete lines at both ends of a block are skipped.

use super::filters::{FilterStats, Found};
use super::{Choice, Phrases};
use crate::data::text::count;
use crate::error::{Error, ErrorKind, Result};
use crate::hub;
use crate::hub::Network;
use crate::hub::read::{RepoEntry, RepoReader};
use pipeline::stage::Context;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Hub id of Granary.
pub(super) const REPOSITORY: &str = "nvidia/Granary";
/// Size of a block in bytes.
const BLOCK: u64 = 64 << 10;
/// Maximum number of bytes read from all manifests together.
const MOST: u64 = 4 << 20;
/// One block contributes at most 1/`SHARE` of the wanted sentences, as long as other blocks have enough.
const SHARE: usize = 4;

const TEXT: &[&str] = &["text", "transcript", "transcription", "sentence"];
const LANGUAGE: &[&str] = &["source_lang", "lang", "language"];
const RECORDING: &[&str] = &["original_source_id", "source_id", "video_id"];

/// A corpus with its manifests and the blocks read so far.
struct Corpus {
    name: String,
    manifests: Vec<RepoEntry>,
    read: BTreeSet<u64>,
    rows: usize,
}

impl Corpus {
    /// Total number of blocks.
    fn blocks(&self) -> u64 {
        self.manifests.iter().map(|manifest| manifest.size.div_ceil(BLOCK)).sum()
    }

    /// Picks a random unread block (manifest and offset); `None` if all blocks were read.
    fn next(&mut self, random: &mut ChaCha8Rng) -> Option<(RepoEntry, u64)> {
        let blocks = self.blocks();
        if self.read.len() as u64 >= blocks {
            return None;
        }
        let mut block = random.random_range(0..blocks);
        while !self.read.insert(block) {
            block = (block + 1) % blocks;
        }
        let mut place = block;
        for manifest in &self.manifests {
            let has = manifest.size.div_ceil(BLOCK);
            if place < has {
                return Some((manifest.clone(), place * BLOCK));
            }
            place -= has;
        }
        None
    }
}

impl Phrases {
    /// Reads blocks until there are `wanted` suitable sentences.
    pub(super) fn granary(&self, cx: &Context, filter: &mut FilterStats, wanted: usize) -> Result<Choice> {
        let repository = hub::dataset(self.repo.as_deref().unwrap_or(REPOSITORY), self.revision.as_deref())?;
        let stopped = || cx.stopping();
        let reader = RepoReader::open(&repository, Network::unless(false), &stopped)?;
        let mut corpora = self.corpora(&reader)?;
        let mut random = ChaCha8Rng::seed_from_u64(cx.seed);
        let (mut chosen, mut spare) = (Vec::new(), Vec::new());
        let (mut bytes, mut turn, mut idle) = (0, 0, 0);
        let most_of_block = wanted.div_ceil(SHARE).max(5);
        while chosen.len() < wanted && bytes < MOST && idle < corpora.len() {
            let place = turn % corpora.len();
            turn += 1;
            let Some((manifest, from)) = corpora[place].next(&mut random) else {
                idle += 1;
                continue;
            };
            idle = 0;
            let length = BLOCK.min(manifest.size - from);
            let block = reader.part(&manifest.path, from, length)?;
            bytes += length;
            cx.progress(bytes >> 10, MOST >> 10, "KiB", format!("{} of {wanted} sentences", chosen.len()));
            let mut of_block = 0;
            for (at, line) in lines(&block, from > 0, from + length < manifest.size) {
                corpora[place].rows += 1;
                let found = match found(line, || format!("{} {} byte {}", reader.name(), manifest.path, from + at as u64)) {
                    Ok(found) => found,
                    Err(reason) => {
                        filter.reject(reason, &String::from_utf8_lossy(line));
                        continue;
                    }
                };
                if let Some(text) = filter.pass(&found) {
                    of_block += 1;
                    let list = if of_block <= most_of_block { &mut chosen } else { &mut spare };
                    list.push((self.by_text(text, found.place), corpora[place].name.clone()));
                }
            }
        }
        let rows: usize = corpora.iter().map(|corpus| corpus.rows).sum();
        if rows == 0 {
            return Err(Error::new(format!("no readable line in the manifests for `{}` in `{}`", self.language, reader.name())));
        }
        chosen.extend(spare);
        let license = reader.license()?;
        let describe = |corpus: &Corpus| {
            let manifests: Vec<Value> =
                corpus.manifests.iter().map(|manifest| json!({ "path": manifest.path, "bytes": manifest.size })).collect();
            (corpus.name.clone(), json!({ "rows": corpus.rows, "manifests": manifests, "licence": license }))
        };
        let corpora: Map<String, Value> = corpora.iter().map(describe).collect();
        let about = json!({ "repository": repository.id(), "commit": reader.commit(), "licence": license, "bytes_read": bytes, "rows_read": rows, "corpora": corpora });
        let (phrases, corpora) = chosen.into_iter().unzip();
        Ok(Choice { phrases, corpora, about, from: format!("{} of `{}`", count(rows, "row"), reader.name()) })
    }

    /// Lists the manifests of the language by corpus.
    fn corpora(&self, reader: &RepoReader) -> Result<Vec<Corpus>> {
        let language = &self.language;
        let missing = |message: String, hint: String| Err(Error::new(message).kind(ErrorKind::InvalidInput).hint(hint));
        let Some(files) = reader.list(language, true)? else {
            let folders = reader.list("", false)?.unwrap_or_default();
            let known: Vec<&str> =
                folders.iter().filter(|entry| entry.folder && entry.path.len() == 2).map(|entry| entry.path.as_str()).collect();
            return missing(
                format!("`{}` does not have the language `{language}`", reader.name()),
                format!("available: {}; for others use `source = \"embedded\"` or `\"file\"`", known.join(", ")),
            );
        };
        let mut corpora: BTreeMap<&str, Vec<RepoEntry>> = BTreeMap::new();
        let stem = format!("{language}_asr");
        for file in &files {
            let parts: Vec<&str> = file.path.split('/').collect();
            if let [_, corpus, name] = parts.as_slice()
                && name.starts_with(&stem)
                && name.ends_with(".jsonl")
                && file.size > 0
            {
                corpora.entry(corpus).or_default().push(file.clone());
            }
        }
        if corpora.is_empty() {
            return missing(
                format!("`{}` has no manifest `{language}/CORPUS/{stem}*.jsonl`", reader.name()),
                "name a dataset with the layout of nvidia/Granary, or use another `source`".to_owned(),
            );
        }
        let known = corpora.keys().copied().collect::<Vec<_>>().join(", ");
        if let Some(wanted) = &self.corpus {
            corpora.retain(|corpus, _| corpus == wanted);
            if corpora.is_empty() {
                return missing(format!("`{}` has no corpus `{wanted}` for `{language}`", reader.name()), format!("available: {known}"));
            }
        }
        let corpus =
            |(name, manifests): (&str, Vec<RepoEntry>)| Corpus { name: name.to_owned(), manifests, read: BTreeSet::new(), rows: 0 };
        Ok(corpora.into_iter().map(corpus).collect())
    }
}

/// The complete lines of a block with their offsets.
fn lines(block: &[u8], cut_before: bool, cut_behind: bool) -> Vec<(usize, &[u8])> {
    let mut found = Vec::new();
    let mut at = 0;
    for (index, line) in block.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let whole = line.ends_with(b"\n") || !cut_behind;
        // It is unknown whether the byte before the block ended a line.
        if whole && (index > 0 || !cut_before) && !line.trim_ascii().is_empty() {
            found.push((at, line.trim_ascii()));
        }
        at += line.len();
    }
    found
}

/// Parses a row of a manifest; only the text is required.
fn found(line: &[u8], place: impl FnOnce() -> String) -> Result<Found, &'static str> {
    let row: Map<String, Value> = serde_json::from_slice(line).map_err(|_| "no JSON object")?;
    read(&row, None, place)
}

/// Reads a row with any of the usual column names; `column` overrides the one of the text.
pub(super) fn read(row: &Map<String, Value>, column: Option<&str>, place: impl FnOnce() -> String) -> Result<Found, &'static str> {
    let text = |names: &[&str]| names.iter().find_map(|name| row.get(*name)?.as_str()).map(str::to_owned);
    let sentence = match column {
        Some(column) => text(&[column]),
        None => text(TEXT),
    };
    let seconds = row.get("duration").and_then(|value| value.as_f64().or_else(|| value.as_str()?.parse().ok()));
    let recording = RECORDING.iter().find_map(|name| match row.get(*name)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    });
    Ok(Found { text: sentence.ok_or("without a text")?, place: place(), seconds, language: text(LANGUAGE), recording })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_lines_are_read() {
        let block = b"xx\n{1}\n\n{2}\nyy";
        let shown = |before, behind| -> Vec<(usize, &str)> {
            lines(block, before, behind).into_iter().map(|(at, line)| (at, std::str::from_utf8(line).unwrap())).collect()
        };
        assert_eq!(shown(true, true), [(3, "{1}"), (8, "{2}")]);
        assert_eq!(shown(false, false), [(0, "xx"), (3, "{1}"), (8, "{2}"), (12, "yy")]);
    }

    #[test]
    fn every_block_comes_once() {
        let entry = |path: &str, size| RepoEntry { path: path.into(), size, folder: false };
        let manifests = vec![entry("a", BLOCK + 1), entry("b", BLOCK)];
        let mut corpus = Corpus { name: "c".into(), manifests, read: BTreeSet::new(), rows: 0 };
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let blocks: BTreeSet<(String, u64)> =
            std::iter::from_fn(|| corpus.next(&mut random)).map(|(entry, from)| (entry.path, from)).collect();
        assert_eq!(blocks, [("a".to_owned(), 0), ("a".to_owned(), BLOCK), ("b".to_owned(), 0)].into());
    }
}
