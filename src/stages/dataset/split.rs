//! Which split each clip goes to: the one that came with it, or one by share, in whole groups of clips.

use crate::data::clip_row::ClipRow;
use crate::data::text::{count, first_few, normalized};
use crate::error::{Error, ErrorKind, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use voxpipe_io::digest::Digest;

/// Fraction of the clips in each split, from 0 to 1.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Split {
    /// Training data.
    pub train: f64,
    /// Held out for the final evaluation.
    pub test: f64,
    /// Held out for validation during training.
    pub validation: f64,
    /// What to keep together in one split: `sentence`, `speaker`, or the name of any other column of the clips, such as `client_id`.
    #[serde(skip_serializing_if = "is_sentence")]
    pub by: String,
    /// Whether splits that come with the clips (a `split` column, `train.tsv` and `test.tsv`, splits of a Hub dataset) are kept. Clips without one
    /// are distributed by the fractions, and a split that is missing is taken from `train`.
    #[serde(skip_serializing_if = "is_kept")]
    pub given: GivenSplits,
}

/// What to do with splits that come with the clips.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GivenSplits {
    /// Keep them.
    #[default]
    Keep,
    /// Ignore them: all clips are distributed by the fractions.
    Ignore,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_kept(given: &GivenSplits) -> bool {
    *given == GivenSplits::Keep
}

fn is_sentence(by: &str) -> bool {
    by == SENTENCE
}

const SENTENCE: &str = "sentence";
/// The names of the splits.
pub(super) const SPLITS: [&str; 3] = ["train", "test", "validation"];

impl Default for Split {
    fn default() -> Self {
        Self { train: 0.9, test: 0.1, validation: 0.0, by: SENTENCE.to_owned(), given: GivenSplits::Keep }
    }
}

/// The splits of all clips.
#[derive(Debug)]
pub(super) struct Assigned {
    /// The split of each clip.
    pub(super) splits: Vec<&'static str>,
    /// Clips whose split came with them.
    pub(super) given: usize,
    /// What was done, for the user.
    pub(super) notes: Vec<String>,
}

/// The split that comes with a clip; an error if the word is none.
pub(super) fn given(row: &ClipRow) -> Result<Option<&'static str>, String> {
    let Some(value) = row.rest.get("split").filter(|value| !value.is_null()) else { return Ok(None) };
    let word = value.as_str().map_or_else(|| value.to_string(), |word| word.trim().to_lowercase());
    match word.as_str() {
        "" => Ok(None),
        "train" | "training" => Ok(Some("train")),
        "test" | "testing" => Ok(Some("test")),
        "validation" | "valid" | "val" | "dev" | "eval" => Ok(Some("validation")),
        other => Err(format!("has the split `{other}`, which is none of `train`, `validation` and `test`")),
    }
}

/// The value of a column of a clip, as text; `None` if the clip has none.
pub(super) fn column(row: &ClipRow, name: &str) -> Option<String> {
    let value = match name {
        "speaker" => row.speaker.clone(),
        "language" => row.language.clone(),
        "source" => row.source.clone(),
        "text" => Some(row.text.clone()),
        _ => match row.rest.get(name)? {
            Value::String(text) => Some(text.clone()),
            value @ (Value::Number(_) | Value::Bool(_)) => Some(value.to_string()),
            _ => None,
        },
    };
    value.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The clips that stay together, by the digest of what they have in common, in the order of the digests.
type Groups = Vec<(Digest, Vec<usize>)>;

impl Split {
    pub(super) fn shares(&self) -> [(&'static str, f64); 3] {
        [("train", self.train), ("test", self.test), ("validation", self.validation)]
    }

    /// The split of each clip. Clips of one group stay together, unless they came with different splits.
    pub(super) fn assign(&self, seed: u64, rows: &[&ClipRow]) -> Result<Assigned> {
        let mut notes = Vec::new();
        let mut wanted: Vec<(&'static str, f64)> = self.shares().into_iter().filter(|(_, share)| *share > 0.0).collect();
        // The largest split gets the remaining groups.
        wanted.sort_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(a.0)));
        if wanted.is_empty() {
            return Err(Error::new("every split has the fraction 0")
                .kind(ErrorKind::InvalidInput)
                .hint("write `split = { train = 0.9, test = 0.1 }`"));
        }
        let groups = self.groups(seed, rows, &mut notes)?;
        let brought: Vec<Option<&'static str>> = match self.given {
            GivenSplits::Keep => rows.iter().map(|row| given(row).unwrap_or_default()).collect(),
            GivenSplits::Ignore => vec![None; rows.len()],
        };
        let given = brought.iter().flatten().count();
        if given == 0 {
            let splits = self.distribute(&wanted, groups, rows.len())?;
            return Ok(Assigned { splits, given, notes });
        }
        let mut splits = brought.clone();
        let mut open = Vec::new();
        for (digest, members) in groups {
            // Clips without a split follow those of their group, the held-out ones first.
            let follow = ["test", "validation", "train"].into_iter().find(|name| members.iter().any(|at| brought[*at] == Some(name)));
            let free: Vec<usize> = members.into_iter().filter(|at| brought[*at].is_none()).collect();
            match follow {
                Some(name) => free.iter().for_each(|at| splits[*at] = Some(name)),
                None => open.push((digest, free)),
            }
        }
        let free: usize = open.iter().map(|(_, members)| members.len()).sum();
        if free > 0 {
            let few = open.len() < wanted.len();
            let largest = wanted.last().map_or("train", |(name, _)| name);
            let places: Vec<usize> = open.iter().flat_map(|(_, members)| members.iter().copied()).collect();
            let part = if few { vec![largest; rows.len()] } else { self.distribute(&wanted, open, rows.len())? };
            places.iter().for_each(|at| splits[*at] = Some(part[*at]));
            notes.push(format!("{} came without a split and went to one by share", count(free, "clip")));
        }
        let mut splits: Vec<&'static str> = splits.into_iter().map(|split| split.unwrap_or("train")).collect();
        for (name, share) in wanted.iter().filter(|(name, _)| *name != "train") {
            if !splits.contains(name) {
                notes.push(self.take_from_train(name, *share, seed, rows, &mut splits)?);
            }
        }
        Ok(Assigned { splits, given, notes })
    }

    /// Fills a split that the clips did not bring with groups of train.
    fn take_from_train(&self, name: &'static str, share: f64, seed: u64, rows: &[&ClipRow], splits: &mut [&'static str]) -> Result<String> {
        let train: Vec<usize> = (0..rows.len()).filter(|at| splits[*at] == "train").collect();
        let chosen: Vec<&ClipRow> = train.iter().map(|at| rows[*at]).collect();
        // As if the rest were all: the share is one of the clips that could be taken.
        let part = Self { given: GivenSplits::Ignore, ..self.clone() };
        let groups = part.groups(seed, &chosen, &mut Vec::new())?;
        if groups.len() < 2 {
            return Err(Error::new(format!("the clips bring no `{name}`, and `train` has too few clips to take one from"))
                .hint(format!("add more clips, or set `{name} = 0` in `split`")));
        }
        let taken = part.distribute(&[(name, share), ("train", 1.0 - share)], groups, chosen.len())?;
        train.iter().zip(&taken).for_each(|(at, split)| splits[*at] = split);
        let number = taken.iter().filter(|split| **split == name).count();
        Ok(format!("the clips bring no `{name}`: {} of their `train` became it", count(number, "clip")))
    }

    fn groups(&self, seed: u64, rows: &[&ClipRow], notes: &mut Vec<String>) -> Result<Groups> {
        let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut alone = 0;
        for (at, row) in rows.iter().enumerate() {
            let key = match self.by.as_str() {
                SENTENCE => normalized(&row.text),
                name => column(row, name).unwrap_or_else(|| {
                    alone += 1;
                    format!("\0{}", row.audio_path)
                }),
            };
            groups.entry(key).or_default().push(at);
        }
        if alone > 0 {
            let by = &self.by;
            if alone == rows.len() {
                let columns: BTreeSet<&str> = rows.iter().flat_map(|row| row.rest.keys().map(String::as_str)).collect();
                let columns: Vec<&str> = columns.into_iter().filter(|name| *name != "split").collect();
                return Err(Error::new(format!("no clip has a `{by}`, by which `split` keeps clips together"))
                    .kind(ErrorKind::InvalidInput)
                    .hint(format!("write `by = \"sentence\"`, `by = \"speaker\"` or a column that the clips have: {}", first_few(&columns, 8))));
            }
            notes.push(format!("{} without `{by}`: each is split on its own", count(alone, "clip")));
        }
        let mut groups: Groups =
            groups.into_iter().map(|(key, members)| (Digest::of(format!("{seed}/{key}").as_bytes()), members)).collect();
        groups.sort();
        Ok(groups)
    }

    fn noun(&self) -> String {
        if self.by == SENTENCE || self.by == "speaker" { self.by.clone() } else { format!("value of `{}`", self.by) }
    }

    /// Distributes groups to splits by share of `clips` clips; the last of `wanted` gets the rest.
    fn distribute(&self, wanted: &[(&'static str, f64)], groups: Groups, clips: usize) -> Result<Vec<&'static str>> {
        let different = groups.len();
        let some = |number: usize| match self.noun().strip_prefix("value ") {
            Some(of) => format!("{} {of}", count(number, "different value")),
            None => count(number, &format!("different {}", self.noun())),
        };
        if different < wanted.len() {
            let names = wanted.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            return Err(Error::new(format!("{} cannot fill {}: {names}", some(different), count(wanted.len(), "split")))
                .hint("add more clips, or use fewer splits"));
        }
        let members: usize = groups.iter().map(|(_, members)| members.len()).sum();
        let mut open = groups;
        let Some((largest, others)) = wanted.split_last() else { return Ok(Vec::new()) };
        let mut splits = vec![largest.0; clips];
        for (turn, (name, share)) in others.iter().enumerate() {
            let target = ((share * members as f64).round() as usize).max(1);
            // Leave at least one group for each of the remaining splits.
            let spare = others.len() - turn;
            let (mut taken, mut left) = (0, Vec::new());
            let mut available = open.len();
            for (digest, members) in open {
                if taken + members.len() <= target && available > spare {
                    taken += members.len();
                    available -= 1;
                    members.iter().for_each(|index| splits[*index] = name);
                } else {
                    left.push((digest, members));
                }
            }
            if taken == 0 {
                // Every group has more clips than the split should get: take the one with the fewest.
                let fewest = left.iter().enumerate().min_by_key(|(_, (_, members))| members.len()).map(|(index, _)| index);
                let Some(fewest) = fewest else {
                    return Err(Error::new(format!("{} are too few to fill `{name}`", some(different))).hint("add more clips"));
                };
                left.remove(fewest).1.iter().for_each(|index| splits[*index] = name);
            }
            open = left;
        }
        Ok(splits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shares(train: f64, test: f64, validation: f64) -> Split {
        Split { train, test, validation, ..Split::default() }
    }

    fn row(at: usize, text: &str, more: Value) -> ClipRow {
        let mut row = json!({"audio_path": format!("{at}.wav"), "text": text});
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(row).unwrap()
    }

    fn assigned(split: &Split, seed: u64, rows: &[ClipRow]) -> Result<Assigned> {
        split.assign(seed, &rows.iter().collect::<Vec<_>>())
    }

    fn by_text(split: &Split, seed: u64, texts: &[&str]) -> Result<Vec<&'static str>> {
        let rows: Vec<ClipRow> = texts.iter().enumerate().map(|(at, text)| row(at, text, json!({}))).collect();
        Ok(assigned(split, seed, &rows)?.splits)
    }

    #[test]
    fn no_sentence_is_in_two_splits() {
        let texts: Vec<String> = (0..200).map(|n| format!("Sentence {}{}", n % 70, if n % 2 == 0 { "." } else { "!" })).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        for seed in 0..50 {
            let splits = by_text(&shares(0.7, 0.2, 0.1), seed, &texts).unwrap();
            let mut split_of = BTreeMap::new();
            for (text, split) in texts.iter().zip(&splits) {
                assert_eq!(*split_of.entry(normalized(text)).or_insert(*split), *split, "{text}");
            }
            let number = |name: &str| splits.iter().filter(|split| **split == name).count();
            assert!((36..=40).contains(&number("test")), "{}", number("test"));
            assert!((16..=20).contains(&number("validation")), "{}", number("validation"));
        }
    }

    #[test]
    fn every_split_gets_a_sentence_or_it_is_an_error() {
        let texts = ["a", "a", "a", "b", "b", "b", "b", "c", "c", "c"];
        let splits = by_text(&shares(0.8, 0.1, 0.1), 1, &texts).unwrap();
        for name in SPLITS {
            assert!(splits.contains(&name), "{name}: {splits:?}");
        }
        let error = by_text(&shares(0.8, 0.1, 0.1), 1, &["a", "A!", "b"]).unwrap_err();
        assert!(error.message.starts_with("2 different sentences cannot fill 3 splits"), "{error}");
        assert_eq!(by_text(&shares(0.0, 1.0, 0.0), 1, &["a", "b"]).unwrap(), ["test", "test"]);
    }

    #[test]
    fn sentences_keep_their_split_when_others_are_added() {
        let texts: Vec<String> = (0..220).map(|n| format!("sentence {n}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let split = shares(0.9, 0.1, 0.0);
        let (before, after) = (by_text(&split, 3, &texts[..200]).unwrap(), by_text(&split, 3, &texts).unwrap());
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        assert!(moved <= 5, "{moved} moved");
    }

    #[test]
    fn a_split_that_came_with_a_clip_is_kept() {
        let words = ["train", "test", "dev", "Training", "validation", "TEST"];
        let expected = ["train", "test", "validation", "train", "validation", "test"];
        for split in [shares(0.9, 0.1, 0.0), shares(1.0, 0.0, 0.0), shares(0.0, 1.0, 0.0), shares(0.1, 0.1, 0.8)] {
            for seed in 0..20 {
                let rows: Vec<ClipRow> = (0..60).map(|n| row(n, &format!("s {n}"), json!({"split": words[n % 6]}))).collect();
                let found = assigned(&split, seed, &rows).unwrap();
                assert!(found.splits.iter().enumerate().all(|(n, split)| *split == expected[n % 6]), "{found:?}");
                assert_eq!((found.given, found.notes.len()), (60, 0));
                let ignored = Split { given: GivenSplits::Ignore, ..shares(0.5, 0.5, 0.0) };
                let found = assigned(&ignored, seed, &rows).unwrap();
                assert_eq!((found.given, found.splits.contains(&"validation")), (0, false));
            }
        }
        assert!(given(&row(0, "x", json!({"split": "other"}))).unwrap_err().contains("the split `other`"));
        assert!(given(&row(0, "x", json!({"split": 3}))).is_err());
        assert_eq!(given(&row(0, "x", json!({"split": null}))), Ok(None));
    }

    #[test]
    fn clips_without_a_split_follow_their_sentence_and_missing_splits_come_from_train() {
        for seed in 0..20 {
            // A tenth is given as test, half has no split; each sentence is there twice, with and without one.
            let rows: Vec<ClipRow> = (0..100)
                .map(|n| match n {
                    0..10 => row(n, &format!("S {n}!"), json!({"split": "test"})),
                    10..50 => row(n, &format!("S {n}!"), json!({"split": "train"})),
                    _ => row(n, &format!("s {}", n - 50), json!({})),
                })
                .collect();
            let found = assigned(&shares(0.8, 0.1, 0.1), seed, &rows).unwrap();
            for at in 0..50 {
                assert_eq!(found.splits[at], found.splits[at + 50], "{at}");
                assert_eq!(found.splits[at] == "test", at < 10, "{at}");
            }
            assert!(found.notes.iter().any(|note| note.contains("bring no `validation`: 8 clips of their `train`")), "{:?}", found.notes);
            // New sentences without a split are distributed.
            let free: Vec<ClipRow> =
                (0..100).map(|n| row(n, &format!("s {n}"), if n < 20 { json!({"split": "test"}) } else { json!({}) })).collect();
            let found = assigned(&shares(0.75, 0.25, 0.0), seed, &free).unwrap();
            assert_eq!(found.splits.iter().filter(|split| **split == "test").count(), 20 + 20);
        }
    }

    #[test]
    fn a_column_keeps_clips_together() {
        let rows: Vec<ClipRow> =
            (0..60).map(|n| row(n, &format!("s {}", n % 7), json!({"speaker": format!("p{}", n % 12), "room": n % 5, "split": null}))).collect();
        for (by, column_of) in [("speaker", 12), ("room", 5)] {
            let found = assigned(&Split { by: by.to_owned(), ..shares(0.6, 0.4, 0.0) }, 5, &rows).unwrap();
            for at in 0..60 - column_of {
                assert_eq!(found.splits[at], found.splits[at + column_of], "{by}");
            }
            assert!(found.splits.contains(&"test") && found.splits.contains(&"train") && found.notes.is_empty());
        }
        let error = assigned(&Split { by: "client_id".to_owned(), ..Split::default() }, 5, &rows).unwrap_err();
        assert!(error.message.contains("no clip has a `client_id`") && error.hint.unwrap().contains("`room`"));
        let some: Vec<ClipRow> =
            (0..20).map(|n| row(n, &format!("s {n}"), if n < 10 { json!({"speaker": "p"}) } else { json!({}) })).collect();
        let found = assigned(&Split { by: "speaker".to_owned(), ..shares(0.7, 0.3, 0.0) }, 5, &some).unwrap();
        assert!(found.notes[0].contains("10 clips without `speaker`"), "{:?}", found.notes);
        let one: Vec<ClipRow> = (0..20).map(|n| row(n, &format!("s {n}"), json!({"speaker": "p"}))).collect();
        let error = assigned(&Split { by: "speaker".to_owned(), ..Split::default() }, 5, &one).unwrap_err();
        assert!(error.message.starts_with("1 different speaker cannot fill 2 splits"), "{error}");
    }
}
