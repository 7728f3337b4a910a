//! Data augmentation: speed, gain and noise perturbation of samples, and SpecAugment masks (Park et al. 2019) on the spectrogram.
//!
//! The augmentation of a clip depends only on the seed, the clip's name and the epoch, not on when, where or with which other clips it is
//! processed.

use super::log_mel::HOP;
use super::resample::{resample, resampled_length};
use super::{Features, SAMPLE_RATE};
use crate::error::Result;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Augmentation settings. Values are drawn uniformly from their ranges.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Augmentation {
    /// Probability that a clip is augmented at all, from 0 to 1.
    pub probability: f64,
    /// Speed factor, which also changes the pitch; from 0.5 to 2, rounded to whole percent.
    pub speed: Option<[f64; 2]>,
    /// Gain in dB, limited so that no sample exceeds full scale.
    pub gain_db: Option<[f64; 2]>,
    /// Signal-to-noise ratio of added white noise in dB, relative to the mean power of the recording.
    pub noise_snr_db: Option<[f64; 2]>,
    /// Number of time masks.
    pub time_masks: usize,
    /// Longest time mask, in frames of 10 ms.
    pub time_mask_frames: usize,
    /// Number of frequency masks.
    pub frequency_masks: usize,
    /// Widest frequency mask, in mel bands.
    pub frequency_mask_bins: usize,
}

/// Augmentation drawn for one clip in one epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipAugmentation {
    key: [u8; 32],
    /// Speed in percent; 100 leaves the clip unchanged.
    speed: u32,
    gain_db: Option<f64>,
    noise_snr_db: Option<f64>,
}

impl Augmentation {
    /// Draws the augmentation of a clip for an epoch; `None` leaves the clip unchanged.
    pub fn draw(&self, seed: u64, clip: &str, epoch: u64) -> Option<ClipAugmentation> {
        let mut hasher = blake3::Hasher::new_derive_key("voxpipe 2026 augmentation of clips");
        hasher.update(&seed.to_le_bytes()).update(&epoch.to_le_bytes()).update(clip.as_bytes());
        let key = *hasher.finalize().as_bytes();
        if !generator(&key, "probability").random_bool(self.probability.clamp(0.0, 1.0)) {
            return None;
        }
        // A separate generator each: a draw does not depend on which other augmentations are enabled.
        let drawn = |range: Option<[f64; 2]>, what: &str| range.map(|[low, high]| generator(&key, what).random_range(low..=high.max(low)));
        let speed = drawn(self.speed, "speed").map_or(100, |speed| (100.0 * speed).round().clamp(50.0, 200.0) as u32);
        Some(ClipAugmentation { key, speed, gain_db: drawn(self.gain_db, "gain"), noise_snr_db: drawn(self.noise_snr_db, "noise") })
    }

    /// Applies time and frequency masks to the features of a clip of `samples` samples. Masked values become the lowest value of the
    /// recording, which is its silence. The model knows it from every pause and from the padding; the mean over the bands occurs nowhere.
    pub fn mask(&self, drawn: &ClipAugmentation, features: &mut Features, samples: usize) {
        let silence = features.data.iter().copied().fold(f32::INFINITY, f32::min);
        let (mels, frames) = (features.mels, features.frames);
        let unpadded = samples.div_ceil(HOP).min(features.chunks * frames);
        let mut rng = generator(&drawn.key, "time");
        for _ in 0..self.time_masks {
            let (start, width) = random_span(&mut rng, self.time_mask_frames.min(unpadded / 2), unpadded);
            for band in 0..features.chunks * mels {
                let (chunk, first) = (band / mels.max(1), band * frames);
                for frame in start.max(chunk * frames)..(start + width).min((chunk + 1) * frames) {
                    features.data[first + frame - chunk * frames] = silence;
                }
            }
        }
        let mut rng = generator(&drawn.key, "frequency");
        for _ in 0..self.frequency_masks {
            let (start, width) = random_span(&mut rng, self.frequency_mask_bins.min(mels), mels);
            for chunk in features.data.chunks_mut((mels * frames).max(1)) {
                chunk[start * frames..(start + width) * frames].fill(silence);
            }
        }
    }
}

impl ClipAugmentation {
    /// Length in samples after augmentation.
    pub fn length(&self, samples: usize) -> usize {
        if self.speed == 100 { samples } else { resampled_length(samples, self.rate()).max(1) }
    }

    /// Sample rate to declare for the samples, so that resampling to 16 kHz changes their speed.
    fn rate(&self) -> u32 {
        SAMPLE_RATE / 100 * self.speed
    }

    /// Applies speed, gain and noise to 16 kHz samples.
    pub fn apply(&self, samples: Vec<f32>) -> Result<Vec<f32>> {
        let length = self.length(samples.len());
        let mut samples = if self.speed == 100 { samples } else { resample(samples, self.rate())? };
        samples.resize(length, 0.0);
        if let Some(decibel) = self.gain_db {
            let peak = samples.iter().fold(0_f32, |peak, sample| peak.max(sample.abs()));
            let wanted = 10_f64.powf(decibel / 20.0) as f32;
            let gain = if wanted > 1.0 && peak > 0.0 { wanted.min((1.0 / peak).max(1.0)) } else { wanted };
            samples.iter_mut().for_each(|sample| *sample *= gain);
        }
        if let Some(decibel) = self.noise_snr_db {
            let power = samples.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / samples.len().max(1) as f64;
            let deviation = (power / 10_f64.powf(decibel / 10.0)).sqrt();
            let mut rng = generator(&self.key, "white noise");
            for sample in &mut samples {
                *sample += (deviation * normal(&mut rng)) as f32;
            }
        }
        Ok(samples)
    }
}

/// Start and width of a random span of at most `widest` within `0..length`.
fn random_span(rng: &mut ChaCha8Rng, widest: usize, length: usize) -> (usize, usize) {
    let width = rng.random_range(0..=widest as u64) as usize;
    (rng.random_range(0..=(length - width) as u64) as usize, width)
}

/// A normally distributed number (Box–Muller transform).
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (one, two): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * one.ln()).sqrt() * (2.0 * std::f64::consts::PI * two).cos()
}

/// Random generator for one purpose, derived from the key.
fn generator(key: &[u8; 32], what: &str) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(*blake3::keyed_hash(key, what.as_bytes()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::LogMel;

    fn tone(seconds: f64) -> Vec<f32> {
        (0..(seconds * 16_000.0) as usize).map(|n| 0.25 * (n as f32 * 0.17).sin()).collect()
    }

    fn all() -> Augmentation {
        Augmentation {
            probability: 1.0,
            speed: Some([0.9, 1.1]),
            gain_db: Some([-6.0, 6.0]),
            noise_snr_db: Some([15.0, 40.0]),
            time_masks: 2,
            time_mask_frames: 30,
            frequency_masks: 2,
            frequency_mask_bins: 10,
        }
    }

    #[test]
    fn what_is_drawn_depends_on_seed_clip_and_epoch_alone() {
        let drawn = all().draw(7, "a.wav", 3).unwrap();
        assert_eq!(all().draw(7, "a.wav", 3).unwrap(), drawn);
        for other in [all().draw(8, "a.wav", 3), all().draw(7, "b.wav", 3), all().draw(7, "a.wav", 4)] {
            assert_ne!(other.unwrap(), drawn);
        }
        let only_gain = Augmentation { speed: None, noise_snr_db: None, ..all() }.draw(7, "a.wav", 3).unwrap();
        assert_eq!((only_gain.gain_db, only_gain.speed), (drawn.gain_db, 100), "one does not depend on the others");
        assert_eq!(drawn.apply(tone(0.5)).unwrap(), drawn.apply(tone(0.5)).unwrap());
        let some = Augmentation { probability: 0.3, ..all() };
        let changed = (0..1000).filter(|epoch| some.draw(1, "a.wav", *epoch).is_some()).count();
        assert!((250..350).contains(&changed), "{changed} of 1000");
    }

    #[test]
    fn draws_stay_in_their_ranges_and_reach_both_ends() {
        let drawn: Vec<ClipAugmentation> = (0..300).map(|epoch| all().draw(1, "a.wav", epoch).unwrap()).collect();
        let speeds: Vec<u32> = drawn.iter().map(|drawn| drawn.speed).collect();
        assert_eq!((speeds.iter().min(), speeds.iter().max()), (Some(&90), Some(&110)));
        let gains = || drawn.iter().map(|drawn| drawn.gain_db.unwrap());
        assert!(gains().all(|gain| (-6.0..=6.0).contains(&gain)) && gains().any(|gain| gain < -5.5) && gains().any(|gain| gain > 5.5));
    }

    #[test]
    fn each_change_is_what_it_is_called() {
        let key = [3; 32];
        let as_it_is = ClipAugmentation { key, speed: 100, gain_db: None, noise_snr_db: None };
        assert_eq!(as_it_is.apply(tone(0.3)).unwrap(), tone(0.3));
        for speed in [50, 90, 97, 110, 200] {
            let drawn = ClipAugmentation { speed, ..as_it_is.clone() };
            let found = drawn.apply(tone(1.0)).unwrap();
            assert_eq!(found.len(), drawn.length(16_000));
            assert!((found.len() as f64 - 1_600_000.0 / f64::from(speed)).abs() <= 1.0, "{speed}: {}", found.len());
        }
        let power = |samples: &[f32]| samples.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / samples.len() as f64;
        let louder = ClipAugmentation { gain_db: Some(6.0), ..as_it_is.clone() }.apply(tone(0.3)).unwrap();
        assert!((10.0 * (power(&louder) / power(&tone(0.3))).log10() - 6.0).abs() < 0.01);
        let limited = ClipAugmentation { gain_db: Some(40.0), ..as_it_is.clone() }.apply(tone(0.3)).unwrap();
        assert!(limited.iter().all(|sample| sample.abs() <= 1.0) && limited.iter().any(|sample| sample.abs() > 0.999));
        let noisy = ClipAugmentation { noise_snr_db: Some(20.0), ..as_it_is.clone() }.apply(tone(2.0)).unwrap();
        let noise: Vec<f32> = noisy.iter().zip(tone(2.0)).map(|(noisy, clean)| noisy - clean).collect();
        assert!((10.0 * (power(&tone(2.0)) / power(&noise)).log10() - 20.0).abs() < 0.2);
        let silent = ClipAugmentation { noise_snr_db: Some(20.0), ..as_it_is }.apply(vec![0.0; 100]).unwrap();
        assert!(silent.iter().all(|sample| *sample == 0.0), "silence stays silence");
    }

    #[test]
    fn masks_hide_no_more_than_they_may_and_only_with_silence() {
        // 1.3 s in chunks of a second, so that masks cross the chunk boundary.
        let (log_mel, samples) = (LogMel::new(128), tone(1.3));
        let clean = log_mel.features(&samples, 100).unwrap();
        let silence = clean.data.iter().copied().fold(f32::INFINITY, f32::min);
        let mut hidden = 0;
        for epoch in 0..40 {
            let drawn = all().draw(1, "a.wav", epoch).unwrap();
            let mut features = clean.clone();
            all().mask(&drawn, &mut features, samples.len());
            let changed: Vec<usize> = (0..clean.data.len()).filter(|at| clean.data[*at] != features.data[*at]).collect();
            assert!(changed.iter().all(|at| features.data[*at] == silence));
            let place = |at: usize| (at / (128 * 100) * 100 + at % 100, at / 100 % 128);
            let whole_frames =
                (0..200).filter(|frame| (0..128).all(|band| features.data[frame / 100 * 12_800 + band * 100 + frame % 100] == silence));
            let already = (0..200)
                .filter(|frame| (0..128).all(|band| clean.data[frame / 100 * 12_800 + band * 100 + frame % 100] == silence))
                .count();
            assert!(whole_frames.count() <= already + 60);
            let bands: std::collections::BTreeSet<usize> =
                changed.iter().map(|at| place(*at)).filter(|(frame, _)| *frame < 10).map(|(_, band)| band).collect();
            assert!(bands.len() <= 128);
            hidden += changed.len();
        }
        assert!(hidden > 0);
        let drawn = all().draw(1, "a.wav", 0).unwrap();
        let mut same = clean.clone();
        Augmentation { time_masks: 0, frequency_masks: 0, ..all() }.mask(&drawn, &mut same, samples.len());
        assert_eq!(same, clean);
    }
}
