//! `evaluate`: word and character error rates (WER, CER) of a fine-tuned model on held-out clips, compared with its base model.
//!
//! Output: `scores.json` and, per clip, `clips.jsonl`.

use crate::data::clip_row::ClipRow;
use crate::data::scored_model::ScoredModel;
use crate::data::trained_on::{ClipDigest, Overlap, SeenAs, TrainedOn};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::hub;
use crate::stages::context::SpeechContext;
use pipeline::artifact::{Artifact, ArtifactKind};
use pipeline::events::{Event, WorstClip};
use pipeline::stage::{Arity, Context, Port, ResolveRevision, SettingError, Stage, StageOutcome, StageResult};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use voxpipe_io::digest::Digest;
use voxpipe_io::jsonl;
use voxtral::audio::{SAMPLE_RATE, read_wav16k};
use voxtral::inference::transcriber::{TokenLimit, TranscribeEvent, Transcriber, Utterance, WeightsFrom};
use voxtral::metrics::wer::{ErrorCounts, ErrorRates, TextNormalization};
use voxtral::model::model_dir;
use voxtral::weights::precision::Precision;
use voxtral::{device, lora};

/// Number of clips whose samples are in memory at the same time.
const AT_ONCE: usize = 64;

/// Score a model on held-out clips: word and character error rates, compared with the base model.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluate {
    /// Held-out split to score: `test` or `validation`.
    split: String,
    /// Text normalization applied to reference and transcript before they are compared. Its name is written next to every score; scores
    /// with different normalizations are not comparable.
    normalisation: TextNormalization,
    /// Also score the base model.
    compare_base: bool,
    /// Number of training clips to score as well, from the start of the split; the gap to the held-out score shows overfitting. 0 for none.
    train_clips: usize,
    /// Number of clips to list as the worst, by WER.
    worst: usize,
    /// Maximum length of a generated transcript, in tokens. Default: until the model ends the transcript, repeats itself, or writes more than
    /// anybody can say in that time. Transcripts that the model did not end are counted as `unfinished`.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_new_tokens: Option<usize>,
    /// Device: `auto` (a GPU if there is one, otherwise the CPU), `cpu`, or one GPU: `cuda:N`, `rocm:N`, `wgpu:N`.
    device: String,
    /// Data type of the weight matrices in memory: `auto` (as stored in the checkpoint), `f32`, `bf16`, `q8` or `q4` (8 or 4 bits).
    precision: Precision,
    /// Feature cache: store the output of the audio encoder on disk and reuse it.
    audio_cache: bool,
    /// Folder or Hub id of the base model. Default: the base model that the model's `train` stage used.
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<String>,
}

impl Default for Evaluate {
    fn default() -> Self {
        Self {
            split: "test".to_owned(),
            normalisation: TextNormalization::default(),
            compare_base: true,
            train_clips: 0,
            worst: 10,
            max_new_tokens: None,
            device: "auto".to_owned(),
            precision: Precision::Auto,
            audio_cache: true,
            base: None,
        }
    }
}

/// A row of `clips.jsonl`.
#[derive(Debug, Serialize)]
struct Clip {
    audio_path: String,
    split: String,
    language: Option<String>,
    reference: String,
    base: Option<String>,
    tuned: String,
    wer: f64,
    cer: f64,
    /// Whether the model ended its transcript; false if a limit was reached or the transcript repeats itself.
    finished: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    base_finished: Option<bool>,
    /// How the model was trained on it; none if it was not, or if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    trained_on: Option<SeenAs>,
}

/// The transcripts of some clips by one model.
#[derive(Default)]
struct Transcripts {
    texts: Vec<String>,
    finished: Vec<bool>,
    /// Number of transcripts that were ended because they repeat themselves.
    repeats: usize,
}

impl Transcripts {
    fn unfinished(&self) -> usize {
        self.finished.iter().filter(|finished| !**finished).count()
    }
}

/// What is known of the clips' part in the training.
struct Seen {
    overlap: Overlap,
    /// How each held-out clip and each clip of the train split was trained on.
    held_out: Vec<Option<SeenAs>>,
    train: Vec<Option<SeenAs>>,
    /// Digest of the held-out clips with their sentences.
    digest: Digest,
}

impl Stage for Evaluate {
    const KIND: &'static str = "evaluate";
    const ABOUT: &'static str = "scores a model on held-out clips by word and character error rate, compared with its base model";
    const VERSION: u32 = 2;
    const INPUTS: &'static [Port] = &[
        Port { name: "model", kinds: &[ArtifactKind::Model], arity: Arity::One, about: "the fine-tuned model or adapter" },
        Port { name: "data", kinds: &[ArtifactKind::Dataset], arity: Arity::One, about: "the dataset with the held-out split" },
        Port { name: "base", kinds: &[ArtifactKind::Model], arity: Arity::Optional, about: "the base model, if another stage made it" },
    ];

    fn output(&self) -> ArtifactKind {
        ArtifactKind::Scores
    }

    fn check(&self) -> Vec<SettingError> {
        let mut errors = Vec::new();
        if !["test", "validation"].contains(&self.split.as_str()) {
            errors
                .push(SettingError::new("split", format!("unknown held-out split `{}`", self.split)).hint("write `test` or `validation`"));
        }
        if self.max_new_tokens == Some(0) {
            errors.push(SettingError::new("max_new_tokens", "`max_new_tokens` must be at least 1"));
        }
        if !device::is_name(&self.device) {
            errors.push(SettingError::new("device", format!("`device` must be {}", device::NAMES)));
        }
        errors
    }

    fn sources(&self) -> Vec<PathBuf> {
        self.base.iter().map(PathBuf::from).collect()
    }

    fn pin(&mut self, pin: &mut ResolveRevision<'_>) {
        if let Some(base) = &mut self.base {
            hub::pin(base, None, pin);
        }
    }

    fn reads(&self, file: &str) -> bool {
        model_dir::counts(file)
    }

    fn identity(&self) -> Value {
        let mut identity = serde_json::to_value(self).unwrap_or(Value::Null);
        if let Some(settings) = identity.as_object_mut() {
            for key in ["device", "audio_cache"] {
                settings.remove(key);
            }
        }
        identity
    }

    fn missing_on_machine(&self) -> Option<Error> {
        device::missing(&self.device)
    }

    fn numerics(&self) -> Option<String> {
        Some(format!("{}-{}", device::class(&self.device), self.precision))
    }

    fn uses_all_cores(&self) -> bool {
        true
    }

    fn run(&self, cx: &Context) -> Result<StageOutcome> {
        let chosen = cx.device(&self.device)?;
        let (model, data) = (cx.input("model")?, cx.input("data")?);
        let held_out = records(data, &self.split)?;
        if held_out.is_empty() {
            return Err(Error::new(format!("split `{}` of stage `{}` has no clips", self.split, data.stage))
                .hint("give it a share in the `split` setting of the dataset stage"));
        }
        let mut train = if self.train_clips > 0 { records(data, "train")? } else { Vec::new() };
        train.truncate(self.train_clips);
        let adapter = lora::is_adapter(&model.path);
        let base = if adapter || self.compare_base { Some(cx.base_of(model, self.base.as_deref())?) } else { None };

        let scored = ScoredModel::of(model, base.as_ref().filter(|_| adapter).map(|base| base.path.as_path()))?;
        let seen = seen(&model.path, scored.weights.as_deref(), &data.path, &held_out, &train)?;
        if let Some(warning) = seen.overlap.warning() {
            cx.warn(format!("{warning}: the scores tell how well it remembers them, not how well it transcribes other recordings"));
        }
        if let Some(choice) = seen.overlap.choice() {
            cx.warn(format!("{choice}: the scores on them are better than on new clips"));
        }

        let total = (held_out.len() * (1 + usize::from(self.compare_base)) + train.len()) as u64;
        let mut done = 0;
        let chunks = |recognizer: &Transcriber| {
            let seconds = |record: &ClipRow| record.duration.unwrap_or(0.0);
            let chunks = |record: &ClipRow| recognizer.chunks((seconds(record) * f64::from(SAMPLE_RATE)) as usize + 1);
            held_out.iter().chain(&train).map(chunks).sum()
        };
        // An adapter that does not touch the audio encoder leaves its outputs unchanged: base and adapter share the cache.
        let remember = |recognizer: &mut Transcriber, identity: &str| {
            recognizer.feature_cache = Some(cx.memory(recognizer, identity, &chosen, chunks(recognizer), self.audio_cache));
        };
        let mut transcribe = |recognizer: &Transcriber, records: &[ClipRow], what: &str| -> Result<Transcripts> {
            let transcripts =
                self.transcribe(cx, recognizer, data, records, &mut |count| cx.progress(done + count as u64, total, "clips", what))?;
            done += records.len() as u64;
            self.warn_of_unfinished(cx, &transcripts, what);
            Ok(transcripts)
        };
        // Keep one model in memory at a time: the adapter is applied to the base model after the base has been scored.
        let mut base_transcripts = None;
        let tuned_model = match &base {
            Some(base) if adapter => {
                let mut recognizer = Transcriber::open_with(&base.path, base.start, self.precision, &chosen.device)?;
                if let Some(note) = &recognizer.loaded.note {
                    cx.note(note);
                }
                remember(&mut recognizer, &base.identity());
                if self.compare_base {
                    base_transcripts = Some(transcribe(&recognizer, &held_out, "base model")?);
                }
                recognizer.adapt(&model.path)?;
                recognizer
            }
            _ => {
                let mut recognizer = Transcriber::open_with(&model.path, WeightsFrom::Checkpoint, self.precision, &chosen.device)?;
                remember(&mut recognizer, &model.digest.to_string());
                recognizer
            }
        };
        let tuned = transcribe(&tuned_model, &held_out, "fine-tuned model")?;
        let on_train = transcribe(&tuned_model, &train, "fine-tuned model on the train split")?;
        let (precision, stored) = (tuned_model.loaded.precision, tuned_model.loaded.stored);
        drop(tuned_model);
        if let Some(base) = base.filter(|_| !adapter) {
            let mut recognizer = Transcriber::open_with(&base.path, base.start, self.precision, &chosen.device)?;
            remember(&mut recognizer, &base.identity());
            base_transcripts = Some(transcribe(&recognizer, &held_out, "base model")?);
        }
        let base = base_transcripts;

        let tally = |records: &[ClipRow], transcripts: &Transcripts| -> ErrorCounts {
            records.iter().zip(&transcripts.texts).map(|(record, text)| ErrorCounts::of(&record.text, text, self.normalisation)).sum()
        };
        let total = tally(&held_out, &tuned);
        let (tuned_score, base_score) = (total.score(), base.as_ref().map(|transcripts| tally(&held_out, transcripts).score()));
        let train_score = (!train.is_empty()).then(|| tally(&train, &on_train).score());

        let mut clips = self.clips(&self.split, &held_out, &tuned, base.as_ref(), &seen.held_out);
        let mut worst: Vec<&Clip> = clips.iter().collect();
        worst.sort_by(|a, b| b.wer.total_cmp(&a.wer).then_with(|| b.cer.total_cmp(&a.cer)).then_with(|| a.audio_path.cmp(&b.audio_path)));
        let worst: Vec<&Clip> = worst.into_iter().filter(|clip| clip.wer > 0.0).take(self.worst).collect();
        let worst_clip = |clip: &&Clip| WorstClip {
            audio: data.path.join(&clip.audio_path).display().to_string(),
            reference: clip.reference.clone(),
            base: clip.base.clone(),
            tuned: clip.tuned.clone(),
            wer: clip.wer,
            finished: clip.finished,
        };
        cx.emitter.emit(Event::WorstClips { stage: cx.stage.clone(), clips: worst.iter().map(worst_clip).collect() });
        let worst: Vec<Value> = worst
            .into_iter()
            .map(|clip| json!({ "audio_path": clip.audio_path, "reference": clip.reference, "base": clip.base, "tuned": clip.tuned, "wer": clip.wer, "finished": clip.finished }))
            .collect();
        let scores = json!({
            "normalisation": self.normalisation.name(), "split": self.split, "clips": held_out.len(),
            "precision": precision, "stored_precision": stored,
            "words": total.words.reference(), "characters": total.characters.reference(),
            "tuned": score_json(&tuned_score, &tuned),
            "base": base_score.as_ref().zip(base.as_ref()).map(|(score, transcripts)| score_json(score, transcripts)),
            "train": train_score.as_ref().map(|score| with_clips(score_json(score, &on_train), train.len(), &seen)), "worst": worst,
            "model": scored, "data": { "digest": data.digest, "clips": seen.digest }, "overlap": seen.overlap,
        });
        clips.extend(self.clips("train", &train, &on_train, None, &seen.train));
        jsonl::write(&cx.out.join("clips.jsonl"), &clips)?;
        let path = cx.out.join("scores.json");
        fs::write(&path, format!("{}\n", serde_json::to_string_pretty(&scores)?))
            .with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(StageOutcome::Done(self.made(&seen.overlap, &tuned, &tuned_score, base_score.as_ref(), train_score.as_ref())))
    }
}

impl Evaluate {
    /// Transcribes the clips in batches of [`AT_ONCE`]; `progress` gets the number of finished clips.
    fn transcribe(
        &self,
        cx: &Context,
        recognizer: &Transcriber,
        data: &Artifact,
        records: &[ClipRow],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Transcripts> {
        let mut made = Transcripts { texts: vec![String::new(); records.len()], finished: vec![false; records.len()], repeats: 0 };
        let mut done = 0;
        for (chunk, part) in records.chunks(AT_ONCE).enumerate() {
            let samples = part.iter().map(|record| read_wav16k(&data.path.join(&record.audio_path))).collect::<Result<Vec<_>>>()?;
            let mut utterances = Vec::with_capacity(part.len());
            for (record, samples) in part.iter().zip(&samples) {
                let language = record.language.as_deref();
                recognizer.prompt(language, recognizer.chunks(samples.len())).map_err(|error| error.context(&record.audio_path))?;
                utterances.push(Utterance { samples, language });
            }
            let limit = self.max_new_tokens.map_or(TokenLimit::Auto, TokenLimit::Tokens);
            let outcome = recognizer.transcribe_each(&utterances, limit, &mut |event| {
                if cx.stopping() {
                    return Err(Error::new("stopped before all clips were transcribed").kind(ErrorKind::Interrupted).hint("run again"));
                }
                if let TranscribeEvent::Transcript(index, transcript) = event {
                    let place = chunk * AT_ONCE + index;
                    made.repeats += usize::from(transcript.repeats);
                    (made.texts[place], made.finished[place]) = (transcript.text, transcript.finished);
                    done += 1;
                    progress(done);
                }
                Ok(())
            });
            if let Some(memory) = &recognizer.feature_cache {
                cx.warn_about_cache(memory);
            }
            outcome.map_err(|error| match error.kind {
                ErrorKind::Interrupted => error,
                _ => error.context(named(part)),
            })?;
        }
        Ok(made)
    }

    /// Tells that a model did not end some transcripts: their text may be cut off, which counts as errors.
    fn warn_of_unfinished(&self, cx: &Context, transcripts: &Transcripts, what: &str) {
        let (unfinished, all) = (transcripts.unfinished(), transcripts.texts.len());
        if unfinished == 0 {
            return;
        }
        let why = match self.max_new_tokens {
            Some(limit) => format!("cut at `max_new_tokens` = {limit}; raise it or leave it out"),
            None => {
                let longest = "reached the most text that such a recording or the model's context can hold";
                match (transcripts.repeats, unfinished - transcripts.repeats.min(unfinished)) {
                    (0, _) => longest.to_owned(),
                    (_, 0) => "they repeat themselves".to_owned(),
                    (repeats, others) => format!("{repeats} repeat themselves, {others} {longest}"),
                }
            }
        };
        cx.warn(format!(
            "{what}: {unfinished} of {all} transcripts are unfinished ({why}); their error rates are not those of whole texts"
        ));
    }

    /// The rows of `clips.jsonl` for one split.
    fn clips(
        &self,
        split: &str,
        records: &[ClipRow],
        tuned: &Transcripts,
        base: Option<&Transcripts>,
        seen: &[Option<SeenAs>],
    ) -> Vec<Clip> {
        let clip = |(index, record): (usize, &ClipRow)| {
            let ErrorRates { wer, cer, .. } = ErrorCounts::of(&record.text, &tuned.texts[index], self.normalisation).score();
            Clip {
                audio_path: record.audio_path.clone(),
                split: split.to_owned(),
                language: record.language.clone(),
                reference: record.text.clone(),
                base: base.map(|base| base.texts[index].clone()),
                tuned: tuned.texts[index].clone(),
                wer,
                cer,
                finished: tuned.finished[index],
                base_finished: base.map(|base| base.finished[index]),
                trained_on: seen.get(index).copied().flatten(),
            }
        };
        records.iter().enumerate().map(clip).collect()
    }

    /// The stage's result: one-line summary and metrics.
    fn made(
        &self,
        overlap: &Overlap,
        transcripts: &Transcripts,
        tuned: &ErrorRates,
        base: Option<&ErrorRates>,
        train: Option<&ErrorRates>,
    ) -> StageResult {
        let percent = |rate: f64| format!("{:.1} %", 100.0 * rate);
        let clips = transcripts.texts.len();
        // Clips that chose the kept step were not held out from the choice of the model.
        let chosen = overlap.chosen_on().unwrap_or(0);
        let on = match overlap.trained_on() {
            Some(0) if chosen == 0 => format!("{clips} held-out clips"),
            Some(all) if all == clips => format!("{clips} clips, all trained on"),
            Some(0) | None => format!("{clips} clips of the {} split", self.split),
            Some(some) => format!("{clips} clips, {some} of them trained on"),
        };
        let on = if chosen > 0 { format!("{on}, {chosen} of which chose the kept step") } else { on };
        let mut summary = format!("WER {} on {on}", percent(tuned.wer));
        let mut made = StageResult::default().metric("wer", tuned.wer).metric("cer", tuned.cer);
        let unfinished = transcripts.unfinished();
        made = made.metric("unfinished", unfinished as f64);
        if unfinished > 0 {
            summary += &format!(", {unfinished} unfinished");
        }
        if let Some(overlap) = overlap.trained_on() {
            made = made.metric("overlap", overlap as f64).metric("chosen_on", chosen as f64);
        }
        if let Some(base) = base {
            summary += &format!(", base {}", percent(base.wer));
            made = made.metric("base_wer", base.wer).metric("base_cer", base.cer);
        }
        if let Some(train) = train {
            summary += &format!(", training clips {}", percent(train.wer));
            made = made.metric("train_wer", train.wer).metric("train_cer", train.cer);
        }
        StageResult { summary: format!("{summary} ({})", self.normalisation.name()), ..made }
    }
}

/// Reads the clips of a split; none if the dataset does not have it.
fn records(data: &Artifact, split: &str) -> Result<Vec<ClipRow>> {
    let path = data.path.join(format!("{split}.jsonl"));
    if path.exists() { ClipRow::read_all(&path) } else { Ok(Vec::new()) }
}

/// Names a batch of clips for an error message.
fn named(records: &[ClipRow]) -> String {
    match records {
        [one] => one.audio_path.clone(),
        [first, .., last] => format!("clips {} to {}", first.audio_path, last.audio_path),
        [] => "no clips".to_owned(),
    }
}

/// A score as JSON, with the number of transcripts that the model did not end.
fn score_json(score: &ErrorRates, transcripts: &Transcripts) -> Value {
    let mut value = serde_json::to_value(score).unwrap_or(Value::Null);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("unfinished".to_owned(), json!(transcripts.unfinished()));
    }
    value
}

/// The score of the train split with the number of its clips and how many of them were trained on.
fn with_clips(mut value: Value, clips: usize, seen: &Seen) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.insert("clips".to_owned(), json!(clips));
        let checked = seen.overlap.trained_on().is_some();
        fields.insert("trained_on".to_owned(), json!(checked.then(|| seen.train.iter().flatten().count())));
    }
    value
}

/// Compares the clips in `data` with what `model`, whose weights have the digest `weights`, was trained on.
fn seen(model: &Path, weights: Option<&str>, data: &Path, held_out: &[ClipRow], train: &[ClipRow]) -> Result<Seen> {
    let held_out = ClipDigest::of_all(data, held_out)?;
    let digest = ClipDigest::digest(&held_out);
    Ok(match TrainedOn::of_model(model, weights)? {
        Ok(trained_on) => {
            let seen = |clips: &[ClipDigest]| clips.iter().map(|clip| trained_on.seen(clip)).collect();
            let train = seen(&ClipDigest::of_all(data, train)?);
            Seen { overlap: trained_on.overlap(&held_out), held_out: seen(&held_out), train, digest }
        }
        Err(why) => Seen { overlap: Overlap::NotChecked { why }, held_out: Vec::new(), train: Vec::new(), digest },
    })
}
