//! How many clips a step takes, and how many of them at once.

use super::{MOST, SettingError};
use crate::error::{Error, ErrorKind, Result};
use schemars::JsonSchema;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use voxtral::device::SelectedDevice;
use voxtral::model::config::VoxtralConfig;
use voxtral::training::memory_estimate::StepShape;

/// Clips in one forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub(super) enum BatchSize {
    /// So many.
    Clips(usize),
    /// As many as fit in memory.
    #[schemars(with = "AutoText")]
    Auto,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
#[expect(dead_code, reason = "stands for the schema of the word")]
enum AutoText {
    Auto,
}

/// How a step is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Clips in one forward pass.
    pub(super) rows: usize,
    /// Forward passes in a step.
    pub(super) passes: usize,
}

/// Clips in a step with `batch_size = "auto"` where nothing is said: as many as with the other defaults.
const EFFECTIVE: usize = 8;

/// The part of free memory that is planned with.
const USED: f64 = 0.8;

/// The three settings together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batches {
    pub(super) size: BatchSize,
    pub(super) accumulation: usize,
    pub(super) effective: Option<usize>,
}

impl Batches {
    pub(super) fn check(&self) -> Vec<SettingError> {
        let counts = |count: usize| (1..=MOST).contains(&count);
        let mut complaints = Vec::new();
        let mut positive = |ok: bool, key: &str, what: &str| {
            if !ok {
                complaints.push(SettingError::new(key, format!("`{key}` must be {what}")));
            }
        };
        positive(!matches!(self.size, BatchSize::Clips(clips) if !counts(clips)), "batch_size", "from 1 to 65536, or \"auto\"");
        positive(counts(self.accumulation), "gradient_accumulation", "from 1 to 65536");
        positive(self.effective.is_none_or(counts), "effective_batch", "from 1 to 65536");
        if let (BatchSize::Clips(clips), Some(effective)) = (self.size, self.effective)
            && clips.saturating_mul(self.accumulation) != effective
        {
            let message = format!("{clips} clips at once, {} times, are not {effective} in a step", self.accumulation);
            complaints.push(SettingError::new("effective_batch", message).hint("leave it out, or write `batch_size = \"auto\"`"));
        }
        complaints
    }

    /// Clips in a step: what shapes the result.
    pub(super) fn effective(&self) -> usize {
        match self.size {
            BatchSize::Clips(clips) => clips.saturating_mul(self.accumulation),
            BatchSize::Auto => self.effective.unwrap_or(EFFECTIVE),
        }
    }

    /// How a step is cut on a device, and a sentence on why if that was left to us.
    pub(super) fn cut(&self, shape: &StepShape, config: &VoxtralConfig, chosen: &SelectedDevice) -> Result<(Cut, Option<String>)> {
        let effective = self.effective();
        let BatchSize::Clips(rows) = self.size else {
            // On a processor more rows at once than cores only take memory.
            let most = if chosen.name == "cpu" { rayon::current_num_threads() } else { effective };
            let Some(free) = chosen.free_memory() else {
                let cut = Cut { rows: 1, passes: effective };
                return Ok((cut, Some("batch_size: 1, because nothing says how much memory is free".to_owned())));
            };
            // The model is loaded already, and no longer among what is free.
            let usable = (free as f64 * USED) as u64 + shape.model;
            let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
            return match shape.rows_that_fit(config, effective, most, usable) {
                Some(rows) => {
                    let need = gib(shape.step(config, rows) - shape.model);
                    let said =
                        format!("batch_size: {rows}, which takes about {need:.1} GiB beside the model, and {:.1} are free", gib(free));
                    Ok((Cut { rows, passes: effective / rows }, Some(said)))
                }
                None => {
                    let need = gib(shape.step(config, 1) - shape.model);
                    Err(Error::new(format!("one clip at a time takes about {need:.1} GiB beside the model, and {:.1} are free", gib(free)))
                        .kind(ErrorKind::OutOfMemory)
                        .hint("write `gradient_checkpointing = true`, `precision = \"bf16\"` or shorter clips; or a number as `batch_size` to try all the same"))
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
        // By hand, because the error of a derived untagged enum does not say what was expected.
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
