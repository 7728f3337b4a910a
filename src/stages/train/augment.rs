//! Data augmentation settings (`augment = { … }`): speed perturbation, gain, noise, and SpecAugment masks (Park 2019).

use super::SettingError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use voxtral::audio::augment::Augmentation;

/// Data augmentation: random changes to each clip in every epoch. Only the changes that are set are applied.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Augment {
    /// Probability that a clip is augmented in an epoch, above 0 and at most 1.
    probability: f64,
    /// Speed perturbation: lowest and highest playback speed factor, such as [0.9, 1.1].
    #[serde(skip_serializing_if = "Option::is_none")]
    speed: Option<[f64; 2]>,
    /// Gain: lowest and highest change in dB, such as [-6, 6]; limited so that the clip never exceeds full scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    gain_db: Option<[f64; 2]>,
    /// White noise: lowest and highest signal-to-noise ratio in dB, such as [15, 40].
    #[serde(skip_serializing_if = "Option::is_none")]
    noise_snr_db: Option<[f64; 2]>,
    /// SpecAugment: number of time masks per clip. Default: 0, none.
    time_masks: usize,
    /// Maximum width of a time mask, in frames of 10 ms.
    time_mask_frames: usize,
    /// SpecAugment: number of frequency masks per clip. Default: 0, none.
    frequency_masks: usize,
    /// Maximum width of a frequency mask, in mel bands.
    frequency_mask_bins: usize,
}

impl Default for Augment {
    fn default() -> Self {
        Self {
            probability: 1.0,
            speed: None,
            gain_db: None,
            noise_snr_db: None,
            time_masks: 0,
            time_mask_frames: 30,
            frequency_masks: 0,
            frequency_mask_bins: 10,
        }
    }
}

impl Augment {
    /// Errors in the settings.
    pub(super) fn check(&self) -> Vec<SettingError> {
        let mut errors = Vec::new();
        let mut check = |wrong: bool, key: &str, what: &str| {
            if wrong {
                errors.push(SettingError::new(&format!("augment.{key}"), format!("`{key}` must be {what}")));
            }
        };
        let outside = |range: Option<[f64; 2]>, low: f64, high: f64| {
            range.is_some_and(|[from, to]| !(low..=high).contains(&from) || !(low..=high).contains(&to) || from > to)
        };
        check(!(self.probability > 0.0 && self.probability <= 1.0), "probability", "above 0 and at most 1");
        check(outside(self.speed, 0.5, 2.0), "speed", "two numbers from 0.5 to 2, the lower first, such as [0.9, 1.1]");
        check(outside(self.gain_db, -60.0, 60.0), "gain_db", "two numbers from -60 to 60, the lower first, such as [-6, 6]");
        check(outside(self.noise_snr_db, -20.0, 100.0), "noise_snr_db", "two numbers from -20 to 100, the lower first, such as [15, 40]");
        for (count, widest, keys) in [
            (self.time_masks, self.time_mask_frames, ["time_masks", "time_mask_frames"]),
            (self.frequency_masks, self.frequency_mask_bins, ["frequency_masks", "frequency_mask_bins"]),
        ] {
            check(count > 100, keys[0], "at most 100");
            check(widest == 0 || widest > super::MOST, keys[1], "from 1 to 65536");
        }
        let idle =
            self.speed.is_none() && self.gain_db.is_none() && self.noise_snr_db.is_none() && self.time_masks + self.frequency_masks == 0;
        if idle {
            let error = SettingError::new("augment", "`augment` sets no augmentation");
            errors.push(error.hint("set at least one of `speed`, `gain_db`, `noise_snr_db`, `time_masks` and `frequency_masks`"));
        }
        errors
    }

    /// The settings as an [`Augmentation`].
    pub(super) fn augmentation(&self) -> Augmentation {
        Augmentation {
            probability: self.probability,
            speed: self.speed,
            gain_db: self.gain_db,
            noise_snr_db: self.noise_snr_db,
            time_masks: self.time_masks,
            time_mask_frames: self.time_mask_frames,
            frequency_masks: self.frequency_masks,
            frequency_mask_bins: self.frequency_mask_bins,
        }
    }

    /// Maximum factor by which augmentation lengthens a clip; at least 1.
    pub(super) fn longest(&self) -> f64 {
        self.speed.map_or(1.0, |[slowest, _]| (1.0 / slowest).max(1.0))
    }
}
