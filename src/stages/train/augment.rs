//! The settings `augment = { … }`: clips made a little different in each pass over the data.

use super::SettingError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use voxtral::audio::augment::Augmentation;

/// Make clips a little different in each pass over the data. What is left out does not happen.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Augment {
    /// How likely a clip is changed in a pass; otherwise it is heard as it is.
    probability: f64,
    /// The slowest and the fastest a clip is played, such as [0.9, 1.1].
    #[serde(skip_serializing_if = "Option::is_none")]
    speed: Option<[f64; 2]>,
    /// How much softer and louder, in dB, such as [-6, 6]; never beyond full scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    gain_db: Option<[f64; 2]>,
    /// How far white noise lies below the recording, in dB, such as [15, 40].
    #[serde(skip_serializing_if = "Option::is_none")]
    noise_snr_db: Option<[f64; 2]>,
    /// How many stretches of time are hidden, as in SpecAugment.
    time_masks: usize,
    /// The longest of them, in frames of 10 ms.
    time_mask_frames: usize,
    /// How many groups of mel bands are hidden, as in SpecAugment.
    frequency_masks: usize,
    /// The largest of them, in bands.
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
    /// What is wrong with the settings as they are.
    pub(super) fn check(&self) -> Vec<SettingError> {
        let mut complaints = Vec::new();
        let mut complain = |wrong: bool, key: &str, what: &str| {
            if wrong {
                complaints.push(SettingError::new(&format!("augment.{key}"), format!("`{key}` must be {what}")));
            }
        };
        let outside = |range: Option<[f64; 2]>, low: f64, high: f64| {
            range.is_some_and(|[from, to]| !(low..=high).contains(&from) || !(low..=high).contains(&to) || from > to)
        };
        complain(!(self.probability > 0.0 && self.probability <= 1.0), "probability", "above 0 and at most 1");
        complain(outside(self.speed, 0.5, 2.0), "speed", "two numbers from 0.5 to 2, the lower first, such as [0.9, 1.1]");
        complain(outside(self.gain_db, -60.0, 60.0), "gain_db", "two numbers from -60 to 60, the lower first, such as [-6, 6]");
        complain(
            outside(self.noise_snr_db, -20.0, 100.0),
            "noise_snr_db",
            "two numbers from -20 to 100, the lower first, such as [15, 40]",
        );
        for (count, widest, keys) in [
            (self.time_masks, self.time_mask_frames, ["time_masks", "time_mask_frames"]),
            (self.frequency_masks, self.frequency_mask_bins, ["frequency_masks", "frequency_mask_bins"]),
        ] {
            complain(count > 100, keys[0], "at most 100");
            complain(widest == 0 || widest > super::MOST, keys[1], "at least 1, and not more than a clip has");
        }
        let idle =
            self.speed.is_none() && self.gain_db.is_none() && self.noise_snr_db.is_none() && self.time_masks + self.frequency_masks == 0;
        if idle {
            let complaint = SettingError::new("augment", "`augment` says nothing that could happen to a clip");
            complaints.push(complaint.hint("write at least one of `speed`, `gain_db`, `noise_snr_db`, `time_masks` and `frequency_masks`"));
        }
        complaints
    }

    /// The same for those who do it.
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

    /// How much longer a clip can become.
    pub(super) fn longest(&self) -> f64 {
        self.speed.map_or(1.0, |[slowest, _]| (1.0 / slowest).max(1.0))
    }
}
