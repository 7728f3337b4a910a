//! The settings `eval = { … }`: held-out clips that are looked at while training, to keep the best model and to know when to stop.

use super::SettingError;
use super::examples::{Tokenized, examples};
use crate::data::clip_row::ClipRow;
use crate::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use voxtral::audio::read_wav16k;
use voxtral::inference::encoder_cache::FeatureCache;
use voxtral::inference::transcriber::{TokenLimit, Transcriber, Transcript, Utterance};
use voxtral::metrics::wer::{ErrorCounts, TextNormalization};
use voxtral::model::Voxtral;
use voxtral::training::collate::Example;
use voxtral::training::mean_loss;

/// Look at held-out clips while training.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Eval {
    /// Which split: `validation` or `test`. What chooses a model should not be what the model is scored on.
    pub(super) split: String,
    /// Optimizer steps from one look to the next; the last step is always looked at.
    pub(super) steps: u64,
    /// What decides which model is the best: `loss`, or the error rates `wer` and `cer`, for which the clips are transcribed.
    pub(super) metric: Metric,
    /// Which model is the result: the `best` or the `last`.
    pub(super) keep: Keep,
    /// End after so many looks without a better model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) patience: Option<u64>,
    /// Look at the first so many clips of the split only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) clips: Option<usize>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Metric {
    /// The mean loss over the clips' target tokens.
    #[default]
    Loss,
    /// The word error rate.
    Wer,
    /// The character error rate.
    Cer,
}

/// Which model is the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Keep {
    /// The one with the lowest metric.
    #[default]
    Best,
    /// The one after the last step.
    Last,
}

impl Default for Eval {
    fn default() -> Self {
        Self { split: "validation".to_owned(), steps: 50, metric: Metric::default(), keep: Keep::default(), patience: None, clips: None }
    }
}

impl Metric {
    /// What it is called in journals.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Loss => "eval_loss",
            Self::Wer => "eval_wer",
            Self::Cer => "eval_cer",
        }
    }
}

impl Eval {
    /// What is wrong with the settings as they are.
    pub(super) fn check(&self) -> Vec<SettingError> {
        let mut complaints = Vec::new();
        if !["test", "validation"].contains(&self.split.as_str()) {
            let complaint = SettingError::new("eval.split", format!("there is no held-out split `{}`", self.split));
            complaints.push(complaint.hint("write `validation` or `test`"));
        }
        for (zero, key) in [(self.steps == 0, "steps"), (self.patience == Some(0), "patience"), (self.clips == Some(0), "clips")] {
            if zero {
                complaints.push(SettingError::new(&format!("eval.{key}"), format!("`{key}` must be at least 1")));
            }
        }
        complaints
    }

    /// The clips of a dataset that are looked at.
    pub(super) fn records(&self, data: &Path) -> Result<Vec<ClipRow>> {
        let path = data.join(format!("{}.jsonl", self.split));
        let mut records = if path.exists() { ClipRow::read_all(&path)? } else { Vec::new() };
        records.truncate(self.clips.unwrap_or(usize::MAX));
        if records.is_empty() {
            return Err(Error::new(format!("`eval`: the dataset's split `{}` holds no clips", self.split))
                .hint(format!("give it a share in the dataset's `split`, such as `{} = 0.1`", self.split)));
        }
        Ok(records)
    }
}

/// The held-out clips, ready to be looked at.
pub(super) struct Look<'a> {
    recognizer: &'a mut Transcriber,
    examples: Vec<Example>,
    /// Only where they are transcribed.
    clips: Vec<Clip>,
}

struct Clip {
    samples: Vec<f32>,
    language: Option<String>,
    text: String,
}

impl<'a> Look<'a> {
    pub(super) fn new(
        eval: &Eval,
        recognizer: &'a mut Transcriber,
        data: &Path,
        records: &[Tokenized],
        memory: Option<&FeatureCache>,
    ) -> Result<Self> {
        let examples = examples(recognizer, data, records, memory)?;
        recognizer.memory = memory.cloned();
        let clip = |(record, _): &Tokenized| {
            let samples = read_wav16k(&data.join(&record.audio_path))?;
            Ok(Clip { samples, language: record.language.clone(), text: record.text.clone() })
        };
        let clips = if eval.metric == Metric::Loss { Ok(Vec::new()) } else { records.iter().map(clip).collect::<Result<_>>() }?;
        Ok(Self { recognizer, examples, clips })
    }

    /// What a model is worth.
    pub(super) fn look(&mut self, model: &Voxtral) -> Result<BTreeMap<String, f64>> {
        let loss = mean_loss(model, &self.examples, self.recognizer.special().pad, &self.recognizer.device)?;
        let mut metrics = BTreeMap::from([(Metric::Loss.name().to_owned(), loss)]);
        if self.clips.is_empty() {
            return Ok(metrics);
        }
        self.recognizer.model = model.clone();
        let utterances: Vec<Utterance> =
            self.clips.iter().map(|clip| Utterance { samples: &clip.samples, language: clip.language.as_deref() }).collect();
        let transcripts = self.recognizer.transcribe(&utterances, TokenLimit::Auto, &mut |_| ())?;
        let of = |(clip, heard): (&Clip, &Transcript)| ErrorCounts::of(&clip.text, &heard.text, TextNormalization::default());
        let score = self.clips.iter().zip(&transcripts).map(of).sum::<ErrorCounts>().score();
        metrics.insert(Metric::Wer.name().to_owned(), score.wer);
        metrics.insert(Metric::Cer.name().to_owned(), score.cer);
        Ok(metrics)
    }
}
