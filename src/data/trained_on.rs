//! What a model was trained on: digests of the clips and sentences of every training that went into it.
//!
//! A training writes `trained-on.json` beside `training.json`. It holds the digests of its own clips and those that its base model and the
//! adapter it continues hold in turn, so that scores of any later model can be compared with all of them. Two clips are the same if their
//! 16 kHz samples are, whatever file they came from; two sentences if they are equal after normalization. The file holds no text and no
//! sound, but whoever has a clip or a sentence can tell that it was trained on.

use super::clip_row::ClipRow;
use super::text::normalized;
use crate::error::{Error, Result, ResultExt};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use voxpipe_io::digest::Digest;
use voxtral::audio::read_wav16k;
use voxtral::model::model_dir::TRAINED_ON;

/// Hexadecimal digits of a digest that are kept: 128 bits.
const DIGITS: usize = 32;

/// The clips and sentences that a model was trained on, by their digests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainedOn {
    v: u32,
    /// Clips, by the digest of their samples.
    clips: BTreeSet<String>,
    /// Sentences, by the digest of their normalized text.
    sentences: BTreeSet<String>,
    /// Held-out clips that chose which step of a training was kept, or when it ended, by the digest of their samples.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    chosen_on: BTreeSet<String>,
    /// Models that went into this one and whose training data are not known, by their name.
    #[serde(default)]
    unknown: BTreeSet<String>,
}

/// A clip as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipDigest {
    clip: String,
    /// None if the sentence has neither letters nor digits.
    sentence: Option<String>,
}

/// What `training.json` says of the file beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainedOnRecord {
    /// Digest of the file.
    pub digest: Digest,
    /// Number of different clips.
    pub clips: usize,
    /// Number of different sentences.
    pub sentences: usize,
    /// Models that went into this one and whose training data are not known.
    pub unknown: Vec<String>,
}

/// How a scored clip was trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeenAs {
    /// The same samples.
    Clip,
    /// Another recording of the same sentence.
    Sentence,
}

/// Which of the scored clips a model was trained on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum Overlap {
    /// The scored clips were compared with those that the model was trained on.
    Checked {
        /// Scored clips.
        scored: usize,
        /// Scored clips whose samples or whose sentence was trained on.
        trained_on: usize,
        /// Scored clips whose samples were trained on.
        same_clip: usize,
        /// Further scored clips that chose which step of a training was kept.
        #[serde(default)]
        chosen_on: usize,
        /// Different clips that the model and its bases were trained on.
        training_clips: usize,
        /// Models that went into this one and whose training data are not known.
        unknown: Vec<String>,
    },
    /// They were not.
    NotChecked {
        /// The reason, as the end of a sentence.
        why: String,
    },
}

impl ClipDigest {
    /// The digests of a clip in the folder of a dataset.
    pub fn of(folder: &Path, row: &ClipRow) -> Result<Self> {
        let samples = read_wav16k(&folder.join(&row.audio_path))?;
        // What `read_wav16k` gives is 16 bits in a float.
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| ((sample * 32_768.0) as i16).to_le_bytes()).collect();
        let sentence = normalized(&row.text);
        Ok(Self { clip: short(&bytes), sentence: (!sentence.is_empty()).then(|| short(sentence.as_bytes())) })
    }

    /// The digests of several clips, in their order.
    pub fn of_all<'a>(folder: &Path, rows: impl IntoIterator<Item = &'a ClipRow>) -> Result<Vec<Self>> {
        let rows: Vec<&ClipRow> = rows.into_iter().collect();
        rows.par_iter().map(|row| Self::of(folder, row)).collect()
    }

    /// One digest for a list of clips.
    pub fn digest(clips: &[Self]) -> Digest {
        let lines = clips.iter().map(|clip| format!("{} {}\n", clip.clip, clip.sentence.as_deref().unwrap_or("-")));
        Digest::of(lines.collect::<String>().as_bytes())
    }
}

fn short(bytes: &[u8]) -> String {
    let mut digest = Digest::of(bytes).to_string();
    digest.truncate(DIGITS);
    digest
}

impl TrainedOn {
    /// A training on these clips.
    pub fn of(clips: &[ClipDigest]) -> Self {
        Self {
            v: 1,
            clips: clips.iter().map(|clip| clip.clip.clone()).collect(),
            sentences: clips.iter().filter_map(|clip| clip.sentence.clone()).collect(),
            chosen_on: BTreeSet::new(),
            unknown: BTreeSet::new(),
        }
    }

    /// Adds held-out clips that choose which step of the training is kept, or when it ends.
    pub fn add_choice(&mut self, clips: &[ClipDigest]) {
        self.chosen_on.extend(clips.iter().map(|clip| clip.clip.clone()));
    }

    /// Adds what the model or adapter in `folder`, whose weights have the digest `weights`, was trained on. If it does not say so, `name`
    /// counts as a model whose training data are not known.
    pub fn add_model(&mut self, folder: &Path, weights: Option<&str>, name: &str) -> Result<()> {
        match Self::of_model(folder, weights)? {
            Ok(other) => {
                self.clips.extend(other.clips);
                self.sentences.extend(other.sentences);
                self.chosen_on.extend(other.chosen_on);
                self.unknown.extend(other.unknown);
            }
            Err(_) => {
                self.unknown.insert(name.to_owned());
            }
        }
        Ok(())
    }

    /// Reads what the model in `folder` was trained on. The inner error is the reason why that is not known, as the end of a sentence.
    ///
    /// `weights` is the digest of the weights that are there now: the record counts only for those that the training wrote, since files are
    /// easily copied from one folder to another.
    pub fn of_model(folder: &Path, weights: Option<&str>) -> Result<Result<Self, String>> {
        let training = folder.join("training.json");
        if !training.is_file() {
            return Ok(Err("the model does not say what it was trained on (it has no `training.json`)".to_owned()));
        }
        let text = fs::read_to_string(&training).with_context(|| format!("cannot read `{}`", training.display()))?;
        let wrong = |path: &Path, error: serde_json::Error| Error::new(format!("{}: {error}", path.display()));
        let facts: Value = serde_json::from_str(&text).map_err(|error| wrong(&training, error))?;
        let Ok(record) = serde_json::from_value::<TrainedOnRecord>(facts["trained_on"].clone()) else {
            return Ok(Err(
                "the `training.json` of the model does not say which clips it was trained on; an older voxpipe or another program wrote it, or \
                 it was merged from files that are not those of one training"
                    .to_owned(),
            ));
        };
        match (facts["weights"].as_str(), weights) {
            (None, _) => {
                return Ok(Err(
                    "the `training.json` of the model does not say which weights the training wrote; an older voxpipe wrote it".to_owned(),
                ));
            }
            (Some(_), None) => return Ok(Err("its weights could not be compared with those that its training wrote".to_owned())),
            (Some(written), Some(found)) if written != found => {
                return Ok(Err("its weights are not those that its training wrote".to_owned()));
            }
            _ => {}
        }
        let path = folder.join(TRAINED_ON);
        if !path.is_file() {
            return Ok(Err(format!("the model has no `{TRAINED_ON}`, which its `training.json` names")));
        }
        let bytes = fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        if Digest::of(&bytes) != record.digest {
            return Ok(Err(format!("the `{TRAINED_ON}` of the model is not the one that its `training.json` names")));
        }
        let read: Self = serde_json::from_slice(&bytes).map_err(|error| wrong(&path, error))?;
        if read.v != 1 {
            return Ok(Err(format!("a newer voxpipe wrote the `{TRAINED_ON}` of the model (version {})", read.v)));
        }
        Ok(Ok(read))
    }

    /// Writes the file to the folder of a model. Returns what `training.json` says of it.
    pub fn write(&self, folder: &Path) -> Result<TrainedOnRecord> {
        let path = folder.join(TRAINED_ON);
        let text = format!("{}\n", serde_json::to_string(self)?);
        fs::write(&path, &text).with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(TrainedOnRecord {
            digest: Digest::of(text.as_bytes()),
            clips: self.clips.len(),
            sentences: self.sentences.len(),
            unknown: self.unknown.iter().cloned().collect(),
        })
    }

    /// How a clip was trained on; `None` if it was not.
    pub fn seen(&self, clip: &ClipDigest) -> Option<SeenAs> {
        if self.clips.contains(&clip.clip) {
            return Some(SeenAs::Clip);
        }
        clip.sentence.as_ref().is_some_and(|sentence| self.sentences.contains(sentence)).then_some(SeenAs::Sentence)
    }

    /// Compares scored clips with those trained on.
    pub fn overlap(&self, scored: &[ClipDigest]) -> Overlap {
        let seen: Vec<SeenAs> = scored.iter().filter_map(|clip| self.seen(clip)).collect();
        Overlap::Checked {
            scored: scored.len(),
            trained_on: seen.len(),
            same_clip: seen.iter().filter(|seen| **seen == SeenAs::Clip).count(),
            chosen_on: scored.iter().filter(|clip| self.seen(clip).is_none() && self.chosen_on.contains(&clip.clip)).count(),
            training_clips: self.clips.len(),
            unknown: self.unknown.iter().cloned().collect(),
        }
    }
}

impl Overlap {
    /// The overlap that `scores.json` records; not checked if it records none.
    pub fn recorded(scores: &Value) -> Self {
        serde_json::from_value(scores["overlap"].clone()).unwrap_or_else(|_| Self::NotChecked {
            why: "the scores do not say it; an older voxpipe or another program wrote them".to_owned(),
        })
    }

    /// Number of scored clips that were trained on; `None` if that was not checked.
    pub fn trained_on(&self) -> Option<usize> {
        match self {
            Self::Checked { trained_on, .. } => Some(*trained_on),
            Self::NotChecked { .. } => None,
        }
    }

    /// What is known of the overlap, as a sentence about the scored clips.
    pub fn sentence(&self) -> String {
        let seen = match (self, self.warning()) {
            (_, Some(warning)) => format!("Warning: {warning}."),
            (Self::Checked { training_clips, .. }, None) => {
                format!("None of them is among the {training_clips} clips that are known to have been trained on.")
            }
            (Self::NotChecked { why }, None) => format!("Whether they were trained on was not checked: {why}."),
        };
        self.choice().map_or_else(|| seen.clone(), |choice| format!("{seen} Warning: {choice}."))
    }

    /// Number of further scored clips that chose which step of a training was kept; `None` if that was not checked.
    pub fn chosen_on(&self) -> Option<usize> {
        match self {
            Self::Checked { chosen_on, .. } => Some(*chosen_on),
            Self::NotChecked { .. } => None,
        }
    }

    /// A sentence that tells how many scored clips chose the kept step, without a full stop; `None` if none did or that was not checked.
    pub fn choice(&self) -> Option<String> {
        let Self::Checked { scored, chosen_on, .. } = self else { return None };
        let what = "chose which step of the training was kept";
        match (scored, chosen_on) {
            (_, 0) => None,
            (1, 1) => Some(format!("the scored clip {what}")),
            (all, chosen) if all == chosen => Some(format!("all {all} scored clips {what}")),
            (all, chosen) => Some(format!("{chosen} of {all} scored clips {what}")),
        }
    }

    /// A sentence that tells the overlap, without a full stop; `None` if there is none or it was not checked.
    pub fn warning(&self) -> Option<String> {
        let Self::Checked { scored, trained_on, same_clip, .. } = self else { return None };
        let (scored, trained_on, same_clip) = (*scored, *trained_on, *same_clip);
        let how = match same_clip {
            _ if trained_on == 0 => return None,
            0 => " in another recording of the same sentence",
            clips if clips == trained_on => "",
            _ => ", some of them in another recording of the same sentence",
        };
        Some(match (scored, trained_on) {
            (1, 1) => format!("the scored clip was trained on{how}"),
            (_, all) if all == scored => format!("all {scored} scored clips were trained on{how}"),
            (_, 1) => format!("1 of {scored} scored clips was trained on{how}"),
            (_, some) => format!("{some} of {scored} scored clips were trained on{how}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use voxtral::audio::write_wav16k;

    fn row(name: &str, text: &str) -> ClipRow {
        serde_json::from_value(json!({ "audio_path": name, "text": text })).unwrap()
    }

    fn clip(folder: &Path, name: &str, level: f32, text: &str) -> ClipDigest {
        write_wav16k(&folder.join(name), &[level; 160]).unwrap();
        ClipDigest::of(folder, &row(name, text)).unwrap()
    }

    #[test]
    fn the_same_samples_or_the_same_sentence_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let clip = |name: &str, level: f32, text: &str| clip(folder.path(), name, level, text);
        let trained = TrainedOn::of(&[clip("a.wav", 0.25, "Good day."), clip("b.wav", 0.5, "…")]);
        let seen = |clip: ClipDigest| trained.seen(&clip);
        assert_eq!(seen(clip("other name.wav", 0.25, "something else")), Some(SeenAs::Clip));
        assert_eq!(seen(clip("c.wav", 0.125, "good  DAY")), Some(SeenAs::Sentence));
        assert_eq!(seen(clip("d.wav", 0.75, "?!")), None, "texts without letters are not compared");
        assert_eq!(seen(clip("e.wav", 0.75, "good night")), None);
        let overlap = trained.overlap(&[clip("f.wav", 0.25, "x"), clip("g.wav", 0.1, "good day"), clip("h.wav", 0.1, "y")]);
        assert_eq!(overlap.trained_on(), Some(2));
        let warning = overlap.warning().unwrap();
        assert!(warning.starts_with("2 of 3 scored clips were trained on, some of them"), "{warning}");
    }

    #[test]
    fn what_is_not_recorded_is_not_known() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let known = || TrainedOn::of_model(dir, Some("w")).unwrap();
        assert!(known().unwrap_err().contains("no `training.json`"));
        fs::write(dir.join("training.json"), "{}").unwrap();
        assert!(known().unwrap_err().contains("older voxpipe"));
        let trained = TrainedOn::of(&[clip(dir, "a.wav", 0.25, "a")]);
        let record = trained.write(dir).unwrap();
        let says = |facts: Value| fs::write(dir.join("training.json"), facts.to_string()).unwrap();
        says(json!({ "trained_on": record }));
        assert!(known().unwrap_err().contains("does not say which weights"));
        says(json!({ "trained_on": record, "weights": "others" }));
        assert_eq!(known(), Err("its weights are not those that its training wrote".to_owned()));
        says(json!({ "trained_on": record, "weights": "w" }));
        assert!(TrainedOn::of_model(dir, None).unwrap().is_err());
        assert_eq!(known(), Ok(trained.clone()));
        TrainedOn::of(&[]).write(dir).unwrap();
        assert!(known().unwrap_err().contains("is not the one"));
        fs::remove_file(dir.join(TRAINED_ON)).unwrap();
        assert!(known().unwrap_err().contains("has no `trained-on.json`"));
        let mut next = trained;
        next.add_model(dir, Some("w"), "models/base").unwrap();
        assert_eq!(next.unknown, BTreeSet::from(["models/base".to_owned()]));
    }

    #[test]
    fn scores_without_an_overlap_are_not_checked() {
        for scores in [json!({}), json!({ "overlap": null }), json!({ "overlap": { "status": "fine" } })] {
            assert!(matches!(Overlap::recorded(&scores), Overlap::NotChecked { .. }), "{scores}");
        }
        let overlap = TrainedOn::of(&[]).overlap(&[]);
        assert_eq!(Overlap::recorded(&json!({ "overlap": overlap })), overlap);
    }
}
