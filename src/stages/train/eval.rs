//! Validation settings (`eval = { … }`): evaluates held-out clips during training, to keep the best model and to stop early.

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

/// Validation during training.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Eval {
    /// Split to evaluate: `validation` or `test`. Do not select the model on the split that you report scores on.
    pub(super) split: String,
    /// Optimizer steps between two validations; the last step is always validated.
    pub(super) steps: u64,
    /// Metric that selects the best model, lower is better: `loss` (the default), or the error rates `wer` and `cer`, for which the clips
    /// are transcribed at each validation.
    pub(super) metric: Metric,
    /// Model to keep as the result: the `best` (the default) or the `last`.
    pub(super) keep: Keep,
    /// Early stopping: end the training after this many validations without improvement. Default: no early stopping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) patience: Option<u64>,
    /// Maximum number of clips to evaluate, taken from the start of the split. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) clips: Option<usize>,
}

/// Metric that selects the best model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Metric {
    /// Mean loss over the target tokens of the clips.
    #[default]
    Loss,
    /// Word error rate (WER).
    Wer,
    /// Character error rate (CER).
    Cer,
}

/// Model to keep as the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Keep {
    /// The model with the lowest metric.
    #[default]
    Best,
    /// The model after the last step.
    Last,
}

impl Default for Eval {
    fn default() -> Self {
        Self { split: "validation".to_owned(), steps: 50, metric: Metric::default(), keep: Keep::default(), patience: None, clips: None }
    }
}

impl Metric {
    /// Name of the metric in the metrics log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Loss => "eval_loss",
            Self::Wer => "eval_wer",
            Self::Cer => "eval_cer",
        }
    }
}

impl Eval {
    /// Errors in the settings.
    pub(super) fn check(&self) -> Vec<SettingError> {
        let mut errors = Vec::new();
        if !["test", "validation"].contains(&self.split.as_str()) {
            let error = SettingError::new("eval.split", format!("unknown held-out split `{}`", self.split));
            errors.push(error.hint("write `validation` or `test`"));
        }
        for (zero, key) in [(self.steps == 0, "steps"), (self.patience == Some(0), "patience"), (self.clips == Some(0), "clips")] {
            if zero {
                errors.push(SettingError::new(&format!("eval.{key}"), format!("`{key}` must be at least 1")));
            }
        }
        errors
    }

    /// Reads the clips to evaluate from a dataset.
    pub(super) fn records(&self, data: &Path) -> Result<Vec<ClipRow>> {
        let path = data.join(format!("{}.jsonl", self.split));
        let mut records = if path.exists() { ClipRow::read_all(&path)? } else { Vec::new() };
        records.truncate(self.clips.unwrap_or(usize::MAX));
        if records.is_empty() {
            return Err(Error::new(format!("`eval`: split `{}` of the dataset has no clips", self.split))
                .hint(format!("give it a share in the `split` setting of the dataset stage, such as `{} = 0.1`", self.split)));
        }
        Ok(records)
    }
}

/// Evaluates models on the held-out clips.
pub(super) struct Evaluator<'a> {
    recognizer: &'a mut Transcriber,
    examples: Vec<Example>,
    /// Empty if the metric is the loss, which needs no transcripts.
    clips: Vec<Clip>,
}

struct Clip {
    samples: Vec<f32>,
    language: Option<String>,
    text: String,
}

impl<'a> Evaluator<'a> {
    /// Loads the clips in `records`.
    pub(super) fn new(
        eval: &Eval,
        recognizer: &'a mut Transcriber,
        data: &Path,
        records: &[Tokenized],
        memory: Option<&FeatureCache>,
    ) -> Result<Self> {
        let examples = examples(recognizer, data, records, memory)?;
        recognizer.feature_cache = memory.cloned();
        let clip = |(record, _): &Tokenized| {
            let samples = read_wav16k(&data.join(&record.audio_path))?;
            Ok(Clip { samples, language: record.language.clone(), text: record.text.clone() })
        };
        let clips = if eval.metric == Metric::Loss { Ok(Vec::new()) } else { records.iter().map(clip).collect::<Result<_>>() }?;
        Ok(Self { recognizer, examples, clips })
    }

    /// Computes the metrics of a model: its loss and, if the clips are transcribed, WER, CER and the number of transcripts that the model
    /// did not finish.
    pub(super) fn look(&mut self, model: &Voxtral) -> Result<BTreeMap<String, f64>> {
        let loss = mean_loss(model, &self.examples, self.recognizer.special().pad, &self.recognizer.device)?;
        let mut metrics = BTreeMap::from([(Metric::Loss.name().to_owned(), loss)]);
        if self.clips.is_empty() {
            return Ok(metrics);
        }
        self.recognizer.model = model.clone();
        let utterances: Vec<Utterance> =
            self.clips.iter().map(|clip| Utterance { samples: &clip.samples, language: clip.language.as_deref() }).collect();
        let transcripts = self.recognizer.transcribe_batch(&utterances, TokenLimit::Auto, &mut |_| ())?;
        let of = |(clip, transcript): (&Clip, &Transcript)| ErrorCounts::of(&clip.text, &transcript.text, TextNormalization::default());
        let score = self.clips.iter().zip(&transcripts).map(of).sum::<ErrorCounts>().score();
        metrics.insert(Metric::Wer.name().to_owned(), score.wer);
        metrics.insert(Metric::Cer.name().to_owned(), score.cer);
        let unfinished = transcripts.iter().filter(|transcript| !transcript.finished).count();
        if unfinished > 0 {
            metrics.insert("eval_unfinished".to_owned(), unfinished as f64);
        }
        Ok(metrics)
    }
}
