//! Batch sizes: clips per optimizer step, and how a step is split into forward passes (gradient accumulation).

use super::{MOST, SettingError};
use crate::error::{Error, ErrorKind, Result};
use schemars::JsonSchema;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use voxtral::device::SelectedDevice;
use voxtral::model::config::VoxtralConfig;
use voxtral::training::memory_estimate::StepShape;

/// Clips per forward pass: a number or `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub(super) enum BatchSize {
    /// A fixed number of clips.
    Clips(usize),
    /// As many as fit into the free memory of the device.
    #[schemars(with = "AutoText")]
    Auto,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only gives the JSON schema of the word")]
enum AutoText {
    Auto,
}

/// How an optimizer step is split into forward passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Clips per forward pass.
    pub(super) rows: usize,
    /// Forward passes per optimizer step.
    pub(super) passes: usize,
}

/// Default effective batch size with `batch_size = "auto"`: `batch_size` × `gradient_accumulation` of the other defaults.
const EFFECTIVE: usize = 8;

/// Fraction of the free memory to plan with.
const USED: f64 = 0.8;

/// The settings `batch_size`, `gradient_accumulation` and `effective_batch`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batches {
    pub(super) size: BatchSize,
    pub(super) accumulation: usize,
    pub(super) effective: Option<usize>,
}

impl Batches {
    /// Errors in the settings.
    pub(super) fn check(&self) -> Vec<SettingError> {
        let counts = |count: usize| (1..=MOST).contains(&count);
        let mut errors = Vec::new();
        let mut positive = |ok: bool, key: &str, what: &str| {
            if !ok {
                errors.push(SettingError::new(key, format!("`{key}` must be {what}")));
            }
        };
        positive(!matches!(self.size, BatchSize::Clips(clips) if !counts(clips)), "batch_size", "from 1 to 65536, or \"auto\"");
        positive(counts(self.accumulation), "gradient_accumulation", "from 1 to 65536");
        positive(self.effective.is_none_or(counts), "effective_batch", "from 1 to 65536");
        if let (BatchSize::Clips(clips), Some(effective)) = (self.size, self.effective)
            && clips.saturating_mul(self.accumulation) != effective
        {
            let message = format!("batch_size {clips} × gradient_accumulation {} is not effective_batch {effective}", self.accumulation);
            errors
                .push(SettingError::new("effective_batch", message).hint("leave `effective_batch` out, or write `batch_size = \"auto\"`"));
        }
        errors
    }

    /// Effective batch size: clips per optimizer step. The result depends on this number only, not on how the step is split.
    pub(super) fn effective(&self) -> usize {
        match self.size {
            BatchSize::Clips(clips) => clips.saturating_mul(self.accumulation),
            BatchSize::Auto => self.effective.unwrap_or(EFFECTIVE),
        }
    }

    /// Splits a step for a device. With `batch_size = "auto"` also returns a note on the chosen size.
    pub(super) fn cut(&self, shape: &StepShape, config: &VoxtralConfig, chosen: &SelectedDevice) -> Result<(Cut, Option<String>)> {
        let effective = self.effective();
        let BatchSize::Clips(rows) = self.size else {
            // On the CPU, more rows per pass than cores only use more memory.
            let most = if chosen.name == "cpu" { rayon::current_num_threads() } else { effective };
            let Some(free) = chosen.free_memory() else {
                let cut = Cut { rows: 1, passes: effective };
                return Ok((cut, Some("batch_size: 1 (the amount of free memory is unknown)".to_owned())));
            };
            // The model is already loaded, so its memory is no longer counted as free.
            let usable = (free as f64 * USED) as u64 + shape.model;
            let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
            return match shape.rows_that_fit(config, effective, most, usable) {
                Some(rows) => {
                    let need = gib(shape.step(config, rows) - shape.model);
                    let note =
                        format!("batch_size: {rows} (needs about {need:.1} GiB in addition to the model; {:.1} GiB are free)", gib(free));
                    Ok((Cut { rows, passes: effective / rows }, Some(note)))
                }
                None => {
                    let need = gib(shape.step(config, 1) - shape.model);
                    let free = gib(free);
                    let message = format!("a batch of one clip needs about {need:.1} GiB in addition to the model; {free:.1} GiB are free");
                    Err(Error::new(message).kind(ErrorKind::OutOfMemory).hint(
                        "set `gradient_checkpointing = true` or `precision = \"bf16\"`, or use shorter clips; \
                             a fixed `batch_size` skips this check",
                    ))
                }
            };
        };
        Ok((Cut { rows, passes: self.accumulation }, None))
    }
}

impl Serialize for BatchSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Clips(clips) => serializer.serialize_u64(*clips as u64),
            Self::Auto => serializer.serialize_str("auto"),
        }
    }
}

impl<'de> Deserialize<'de> for BatchSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Written by hand: the error of a derived untagged enum does not say what was expected.
        struct Either;
        impl Visitor<'_> for Either {
            type Value = BatchSize;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a number of clips or \"auto\"")
            }
            fn visit_u64<E: de::Error>(self, clips: u64) -> Result<BatchSize, E> {
                usize::try_from(clips).map(BatchSize::Clips).map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, clips: i64) -> Result<BatchSize, E> {
                usize::try_from(clips).map(BatchSize::Clips).map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<BatchSize, E> {
                if word == "auto" { Ok(BatchSize::Auto) } else { Err(E::invalid_value(de::Unexpected::Str(word), &self)) }
            }
        }
        deserializer.deserialize_any(Either)
    }
}
