//! `dataset`: checks audio quality, removes duplicates, and splits clips by sentence so that no sentence appears in two splits.
//!
//! The split of a sentence depends only on a hash of the seed and its words, so most sentences keep their split when clips are added.
//! `report.json` lists rejected clips with reasons, and clips with suspicious audio.

mod edits;

use crate::data::clip_row::ClipRow;
use crate::data::ingest::rounded;
use crate::data::managed_dir;
use crate::data::managed_dir::ManagedDir;
use crate::data::text::{count, first_few, normalized, unique_stems};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use pipeline::artifact::ArtifactKind;
use pipeline::stage::{Arity, Context, Port, SettingError, Stage, StageOutcome, StageResult};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use voxpipe_io::digest::Digest;
use voxpipe_io::jsonl;
use voxtral::audio;

/// Build a checked dataset with train, test and validation splits from clips.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dataset {
    /// Fraction of the clips in each split; the fractions must add up to 1. All clips of a sentence go to the same split.
    pub split: Split,
    /// Minimum clip duration in seconds; shorter clips are rejected.
    pub min_seconds: f64,
    /// Maximum clip duration in seconds; longer clips are rejected.
    pub max_seconds: f64,
    /// Minimum transcript length in characters; clips with a shorter transcript are rejected.
    pub min_text_chars: usize,
    /// Path of a JSON Lines file with manual corrections: `{"clip": "en-0001.wav", "text": "What was said."}` replaces a transcript,
    /// `"exclude": true` removes the clip. `clip` is the name of the recording, or its `audio_path` in the upstream stage. The file may be
    /// missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edits: Option<PathBuf>,
    /// Additional folder to copy the dataset to. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
}

impl Default for Dataset {
    fn default() -> Self {
        Self { split: Split::default(), min_seconds: 0.2, max_seconds: 30.0, min_text_chars: 1, edits: None, folder: None }
    }
}

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
}

impl Default for Split {
    fn default() -> Self {
        Self { train: 0.9, test: 0.1, validation: 0.0 }
    }
}

impl Split {
    fn shares(&self) -> [(&'static str, f64); 3] {
        [("train", self.train), ("test", self.test), ("validation", self.validation)]
    }
}

/// Marker file in the folder that `folder` creates.
const MARKER: &str = ".voxpipe-dataset";
/// Samples of at least this amplitude count as clipped: full scale and one 16-bit step below.
const CLIPPED: f32 = 32_766.0 / 32_768.0;
/// RMS level in dBFS below which a clip is silent.
const SILENCE_DBFS: f64 = -60.0;
/// Fraction of clipped samples above which a clip is reported as clipped.
const CLIPPED_SHARE: f64 = 0.001;
/// Plausible speech rates in letters per second, for single words and with pauses.
const SPEECH_RATE: std::ops::RangeInclusive<f64> = 2.0..=30.0;

impl Stage for Dataset {
    const KIND: &'static str = "dataset";
    const ABOUT: &'static str = "builds a checked dataset with train, test and validation splits from clips";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] =
        &[Port { name: "clips", kinds: &[ArtifactKind::Clips], arity: Arity::Many, about: "clips with their transcripts" }];

    fn output(&self) -> ArtifactKind {
        ArtifactKind::Dataset
    }

    fn check(&self) -> Vec<SettingError> {
        let mut errors = Vec::new();
        let shares = self.split.shares();
        for (name, share) in shares.iter().filter(|(_, share)| !(0.0..=1.0).contains(share)) {
            errors
                .push(SettingError::new(&format!("split.{name}"), format!("{share} is not a fraction")).hint("write a number from 0 to 1"));
        }
        let sum: f64 = shares.iter().map(|(_, share)| share).sum();
        if errors.is_empty() && (sum - 1.0).abs() > 1e-6 {
            let named = shares.map(|(name, share)| format!("{name} {share}")).join(", ");
            let hint = format!("the fractions are {named}; omitted ones have their defaults");
            errors.push(SettingError::new("split", format!("the split fractions add up to {}, not 1", rounded(sum))).hint(hint));
        }
        if !(self.min_seconds >= 0.0 && self.max_seconds > self.min_seconds) {
            let message = format!("`min_seconds` {} and `max_seconds` {} exclude every clip", self.min_seconds, self.max_seconds);
            errors.push(SettingError::new("max_seconds", message).hint("set `max_seconds` above `min_seconds`"));
        }
        errors
    }

    fn sources(&self) -> Vec<PathBuf> {
        self.edits.iter().cloned().collect()
    }

    fn external_outputs(&self) -> Vec<PathBuf> {
        self.folder.iter().cloned().collect()
    }

    fn run(&self, cx: &Context) -> Result<StageOutcome> {
        let mut clips = self.gather(cx)?;
        let excluded = self.apply_edits(cx, &mut clips)?;
        let measured = self.measure(cx, &clips)?;
        let mut rejected = Vec::new();
        let mut odd = Vec::new();
        let mut kept = Vec::new();
        let mut first: BTreeMap<Digest, &str> = BTreeMap::new();
        for (clip, sound) in clips.iter().zip(measured) {
            if excluded.contains(&clip.key) {
                rejected.push((clip.shown.as_str(), "is left out by a correction".to_owned()));
                continue;
            }
            let sound = match sound {
                Ok(sound) => sound,
                Err(reason) => {
                    rejected.push((clip.shown.as_str(), reason));
                    continue;
                }
            };
            if let Some(same) = first.get(&sound.digest) {
                rejected.push((clip.shown.as_str(), format!("sounds exactly like {same}")));
                continue;
            }
            first.insert(sound.digest, &clip.shown);
            odd.extend(sound.oddities(&clip.record.text).into_iter().map(|what| (clip.shown.as_str(), what)));
            kept.push((clip, sound));
        }
        let list = |pairs: &[(&str, String)]| pairs.iter().map(|(clip, reason)| format!("{clip} {reason}")).collect::<Vec<_>>();
        if !rejected.is_empty() {
            cx.warn(format!("{} rejected: {}", count(rejected.len(), "clip"), first_few(&list(&rejected), 5)));
        }
        if kept.is_empty() {
            return Err(Error::new(format!("none of {} can be used: {}", count(clips.len(), "clip"), first_few(&list(&rejected), 3)))
                .hint("record the clips again, or change the limits in `with`"));
        }
        if !odd.is_empty() {
            cx.warn(format!("suspicious audio: {}", first_few(&list(&odd), 5)));
        }
        let without_language: Vec<&str> =
            kept.iter().filter(|(clip, _)| clip.record.language.is_none()).map(|(clip, _)| clip.shown.as_str()).collect();
        if !without_language.is_empty() {
            cx.note(format!("{} without a language; the model detects it automatically", count(without_language.len(), "clip")));
        }

        let splits = self.split(cx.seed, &kept.iter().map(|(clip, _)| clip.record.text.as_str()).collect::<Vec<_>>())?;
        fs::create_dir_all(cx.out.join("audio"))?;
        let stems = unique_stems(kept.iter().map(|(clip, _)| (clip.key.as_str(), clip.stem())));
        let mut records = Vec::new();
        for ((clip, sound), split) in kept.iter().zip(&splits) {
            let mut record = clip.record.clone();
            record.audio_path = format!("audio/{}.wav", stems[&clip.key]);
            record.text = record.text.trim().to_owned();
            record.duration = Some(rounded(sound.seconds));
            record.rest.insert("split".to_owned(), (*split).into());
            let bytes = fs::read(&clip.path).with_context(|| format!("cannot read {}", clip.shown))?;
            fs::write(cx.out.join(&record.audio_path), bytes).with_context(|| format!("cannot write `{}`", record.audio_path))?;
            records.push(record);
        }
        jsonl::write(&cx.out.join("data.jsonl"), &records)?;
        let mut counts = BTreeMap::new();
        for (name, share) in self.split.shares() {
            if name == "validation" && share == 0.0 {
                continue;
            }
            let rows: Vec<&ClipRow> = records.iter().zip(&splits).filter(|(_, split)| **split == name).map(|(record, _)| record).collect();
            jsonl::write(&cx.out.join(format!("{name}.jsonl")), rows.iter().copied())?;
            counts.insert(name, rows.len());
        }
        let seconds = rounded(records.iter().filter_map(|record| record.duration).sum());
        let entry = |(clip, reason): &(&str, String)| json!({"clip": clip, "reason": reason});
        let report = json!({
            "clips": records.len(),
            "seconds": seconds,
            "splits": counts,
            "rejected": rejected.iter().map(entry).collect::<Vec<_>>(),
            "odd": odd.iter().map(entry).collect::<Vec<_>>(),
            "without_language": without_language,
            "sound": kept.iter().zip(&records).map(|((_, sound), record)| json!({
                "audio_path": record.audio_path,
                "seconds": rounded(sound.seconds),
                "peak_dbfs": tenths(sound.peak_dbfs),
                "rms_dbfs": tenths(sound.rms_dbfs),
                "clipped_share": (sound.clipped * 1e6).round() / 1e6,
                "chars_per_second": tenths(sound.rate(&record.text)),
            })).collect::<Vec<_>>(),
        });
        fs::write(cx.out.join("report.json"), serde_json::to_vec_pretty(&report)?)?;

        if let Some(folder) = &self.folder {
            let (path, written) = (cx.path(folder), folder.display().to_string());
            managed_dir::place(
                &managed_dir::named(&cx.out)?,
                &ManagedDir { path: &path, written: &written, marker: MARKER, overwrite: false },
            )?;
            cx.note(format!("the dataset was also written to `{written}`"));
        }
        let parts = counts.iter().map(|(name, number)| format!("{number} {name}")).collect::<Vec<_>>().join(", ");
        let mut made = StageResult::new(format!("{}, {:.1} min: {parts}", count(records.len(), "clip"), seconds / 60.0));
        made = made.metric("clips", records.len() as f64).metric("seconds", seconds);
        for (name, number) in counts {
            made = made.metric(&format!("{name}_clips"), number as f64);
        }
        Ok(StageOutcome::Done(made))
    }
}

/// A clip from one of the inputs.
struct Clip {
    record: ClipRow,
    path: PathBuf,
    /// Unique among all inputs.
    key: String,
    /// Name in messages and reports: the file, preceded by its stage if there are several inputs.
    shown: String,
}

impl Clip {
    fn stem(&self) -> &str {
        Path::new(&self.record.audio_path).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
    }
}

/// Audio measurements of a clip.
struct Sound {
    seconds: f64,
    peak_dbfs: f64,
    rms_dbfs: f64,
    /// Fraction of clipped samples.
    clipped: f64,
    /// Digest of the samples, to find duplicates.
    digest: Digest,
}

impl Sound {
    fn of(samples: &[f32]) -> Self {
        let number = samples.len().max(1) as f64;
        let peak = samples.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
        let power = samples.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / number;
        let clipped = samples.iter().filter(|sample| sample.abs() >= CLIPPED).count() as f64 / number;
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        Self {
            seconds: samples.len() as f64 / f64::from(audio::SAMPLE_RATE),
            peak_dbfs: dbfs(f64::from(peak)),
            rms_dbfs: dbfs(power.sqrt()),
            clipped,
            digest: Digest::of(&bytes),
        }
    }

    /// Speech rate in letters per second.
    fn rate(&self, text: &str) -> f64 {
        text.chars().filter(|character| character.is_alphanumeric()).count() as f64 / self.seconds
    }

    /// Properties of the audio that a person should check.
    fn oddities(&self, text: &str) -> Vec<String> {
        let mut odd = Vec::new();
        if self.clipped > CLIPPED_SHARE {
            odd.push(format!("is clipped ({:.1} % of its samples at full scale)", self.clipped * 100.0));
        }
        if self.rms_dbfs < -45.0 {
            odd.push(format!("is very quiet ({:.0} dBFS)", self.rms_dbfs));
        }
        let rate = self.rate(text);
        if !SPEECH_RATE.contains(&rate) {
            odd.push(format!("has {rate:.1} letters a second: text and sound may not belong together"));
        }
        odd
    }
}

/// Amplitude in dBFS, limited to -120 so that silence has a finite value.
fn dbfs(amplitude: f64) -> f64 {
    (20.0 * amplitude.log10()).max(-120.0)
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

impl Dataset {
    /// Applies manual corrections to the clips. Returns the keys of excluded clips.
    fn apply_edits(&self, cx: &Context, clips: &mut [Clip]) -> Result<BTreeSet<String>> {
        let mut excluded = BTreeSet::new();
        // The studio creates the file with the first correction.
        let Some(file) = self.edits.as_deref().filter(|file| cx.path(file).exists()) else { return Ok(excluded) };
        let mut edits = edits::read(&cx.path(file), file)?;
        for clip in clips {
            let names = [clip.record.source.clone(), Some(clip.record.audio_path.clone())];
            let Some(edit) = names.iter().flatten().find_map(|name| edits.remove(name)) else { continue };
            if let Some(text) = edit.text {
                clip.record.text = text.trim().to_owned();
            }
            if edit.exclude {
                excluded.insert(clip.key.clone());
            }
        }
        if !edits.is_empty() {
            let unknown: Vec<&String> = edits.keys().collect();
            cx.warn(format!("`{}` has corrections for unknown clips: {}", file.display(), first_few(&unknown, 3)));
        }
        Ok(excluded)
    }

    /// Reads the clips of all inputs.
    fn gather(&self, cx: &Context) -> Result<Vec<Clip>> {
        let inputs = cx.all("clips");
        let mut clips = Vec::new();
        for input in inputs {
            for record in ClipRow::read_all(&input.path.join("clips.jsonl"))
                .map_err(|error| error.context(format!("from stage `{}`", input.stage)))?
            {
                let key = format!("{}/{}", input.stage, record.audio_path);
                if !Path::new(&record.audio_path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
                    return Err(
                        Error::new(format!("{key} is outside the folder of its stage")).hint("write a relative `audio_path` without `..`")
                    );
                }
                let shown = if inputs.len() > 1 { key.clone() } else { record.audio_path.clone() };
                clips.push(Clip { path: input.path.join(&record.audio_path), record, key, shown });
            }
        }
        if clips.is_empty() {
            return Err(Error::new("no clips to build a dataset from").hint("check the results of the stages in `from`"));
        }
        Ok(clips)
    }

    /// Measures the audio of each clip, or gives the reason why it cannot be used.
    fn measure(&self, cx: &Context, clips: &[Clip]) -> Result<Vec<Result<Sound, String>>> {
        let done = std::sync::atomic::AtomicU64::new(0);
        clips
            .par_iter()
            .map(|clip| {
                if cx.stopping() {
                    return Err(Error::new("interrupted while reading the clips")
                        .kind(ErrorKind::Interrupted)
                        .hint("run again to continue"));
                }
                let sound = audio::read_wav16k(&clip.path)
                    .map_err(|error| error.message.replace(&clip.path.display().to_string(), "").trim().to_owned())
                    .map(|samples| Sound::of(&samples));
                let done = done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
                cx.progress(done, clips.len() as u64, "clips", "");
                Ok(sound.and_then(|sound| self.check_limits(&sound, &clip.record.text).map(|()| sound)))
            })
            .collect()
    }

    /// Checks a clip against the limits of the settings.
    fn check_limits(&self, sound: &Sound, text: &str) -> Result<(), String> {
        let letters = text.trim().chars().count();
        if sound.seconds < self.min_seconds {
            Err(format!("is too short: {:.2} s", sound.seconds))
        } else if sound.seconds > self.max_seconds {
            Err(format!("is too long: {:.2} s", sound.seconds))
        } else if sound.rms_dbfs < SILENCE_DBFS {
            Err(format!("is silent ({:.0} dBFS)", sound.rms_dbfs))
        } else if letters < self.min_text_chars {
            Err(format!("has a text of {letters} characters"))
        } else {
            Ok(())
        }
    }

    /// The split of each text. Texts that count as the same sentence stay together.
    fn split(&self, seed: u64, texts: &[&str]) -> Result<Vec<&'static str>> {
        let mut sentences: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, text) in texts.iter().enumerate() {
            sentences.entry(normalized(text)).or_default().push(index);
        }
        let mut wanted: Vec<(&'static str, f64)> = self.split.shares().into_iter().filter(|(_, share)| *share > 0.0).collect();
        // The largest split gets the remaining sentences.
        wanted.sort_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(a.0)));
        if sentences.len() < wanted.len() {
            let names = wanted.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            return Err(Error::new(format!(
                "{} cannot fill {}: {names}",
                count(sentences.len(), "different sentence"),
                count(wanted.len(), "split")
            ))
            .hint("add more clips, or use fewer splits"));
        }
        let different = sentences.len();
        let mut open: Vec<(Digest, Vec<usize>)> =
            sentences.into_iter().map(|(sentence, members)| (Digest::of(format!("{seed}/{sentence}").as_bytes()), members)).collect();
        open.sort();
        let Some((largest, others)) = wanted.split_last() else {
            return Err(Error::new("every split has the fraction 0")
                .kind(ErrorKind::InvalidInput)
                .hint("write `split = { train = 0.9, test = 0.1 }`"));
        };
        let mut splits = vec![largest.0; texts.len()];
        for (turn, (name, share)) in others.iter().enumerate() {
            let target = ((share * texts.len() as f64).round() as usize).max(1);
            // Leave at least one sentence for each of the remaining splits.
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
                // Every sentence has more clips than the split should get: take the one with the fewest.
                let fewest = left.iter().enumerate().min_by_key(|(_, (_, members))| members.len()).map(|(index, _)| index);
                let Some(fewest) = fewest else {
                    return Err(Error::new(format!("{} are too few to fill `{name}`", count(different, "different sentence")))
                        .hint("add more clips"));
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

    fn shares(train: f64, test: f64, validation: f64) -> Dataset {
        Dataset { split: Split { train, test, validation }, ..Dataset::default() }
    }

    #[test]
    fn no_sentence_is_in_two_splits() {
        let texts: Vec<String> = (0..200).map(|n| format!("Sentence {}{}", n % 70, if n % 2 == 0 { "." } else { "!" })).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        for seed in 0..50 {
            let splits = shares(0.7, 0.2, 0.1).split(seed, &texts).unwrap();
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
        let splits = shares(0.8, 0.1, 0.1).split(1, &texts).unwrap();
        for name in ["train", "test", "validation"] {
            assert!(splits.contains(&name), "{name}: {splits:?}");
        }
        let error = shares(0.8, 0.1, 0.1).split(1, &["a", "A!", "b"]).unwrap_err();
        assert!(error.message.starts_with("2 different sentences cannot fill 3 splits"), "{error}");
        assert_eq!(shares(0.0, 1.0, 0.0).split(1, &["a", "b"]).unwrap(), ["test", "test"]);
    }

    #[test]
    fn sentences_keep_their_split_when_others_are_added() {
        let texts: Vec<String> = (0..220).map(|n| format!("sentence {n}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (before, after) = (shares(0.9, 0.1, 0.0).split(3, &texts[..200]).unwrap(), shares(0.9, 0.1, 0.0).split(3, &texts).unwrap());
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        assert!(moved <= 5, "{moved} moved");
    }
}
