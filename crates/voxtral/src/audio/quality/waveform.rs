//! What the samples of a take say as they were recorded, at any sample rate: DC offset, level, clipping and dropouts.
//!
//! Resampling moves every sample, so flat tops and gaps are no longer flat afterwards; and a microphone's DC offset is no loudness.

use crate::audio::speech::{mean, power};

/// Share of the peak from which on a wave is near its top.
const NEAR_TOP: f32 = 0.95;
/// Share of the peak within which samples are equal to it: one 16-bit step at full scale is less.
const EQUAL: f32 = 5e-4;
/// Shortest flat top, in samples.
const FLAT: usize = 3;
/// Part of the samples near the top of a wave that are equal to the peak if it is clipped. It is 0.1 for a sine.
const FLAT_PART: f32 = 0.4;

/// Measurements of the recorded samples.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Waveform {
    /// DC offset: mean of the samples, where 1 is full scale.
    pub(super) dc_offset: f64,
    /// Largest magnitude without the offset.
    pub(super) peak: f64,
    /// Root mean square without the offset.
    pub(super) rms: f64,
    /// Samples in flat tops.
    pub(super) clipped: usize,
    /// Gaps in the sound, and their length in seconds.
    pub(super) dropouts: Vec<f64>,
}

impl Waveform {
    pub(super) fn of(samples: &[f32], rate: u32) -> Self {
        let offset = mean(samples);
        let rms = power(samples, offset).sqrt();
        let (low, high) =
            samples.iter().fold((0.0_f32, 0.0_f32), |(low, high), sample| (low.min(sample - offset), high.max(sample - offset)));
        let clipped = clipped(samples, offset, high, 1.0) + clipped(samples, offset, -low, -1.0);
        Self { dc_offset: f64::from(offset), peak: f64::from(high.max(-low)), rms, clipped, dropouts: dropouts(samples, offset, rms, rate) }
    }
}

/// Samples in flat tops at the peak of one sign. A recording that was clipped and then attenuated is clipped at its own maximum. One flat
/// top alone may be chance.
fn clipped(samples: &[f32], offset: f32, peak: f32, sign: f32) -> usize {
    // Below that, steps of 16 bits are flat tops themselves.
    if peak < 0.02 {
        return 0;
    }
    let (mut tops, mut total) = (0, 0);
    let (mut near, mut equal) = (0_usize, 0_usize);
    for sample in samples.iter().map(|sample| sign * (sample - offset)).chain([f32::MIN]) {
        if sample > NEAR_TOP * peak {
            near += 1;
            equal += usize::from(sample >= (1.0 - EQUAL) * peak - f32::EPSILON);
        } else if near > 0 {
            if equal >= FLAT && equal as f32 >= FLAT_PART * near as f32 {
                tops += 1;
                total += equal;
            }
            (near, equal) = (0, 0);
        }
    }
    if tops > 1 { total } else { 0 }
}

/// Lengths in seconds of stretches of one value that begin and end in the middle of sound: lost packets and full buffers. A pause that a
/// noise gate silenced is none, since the sound around it has faded.
fn dropouts(samples: &[f32], offset: f32, rms: f64, rate: u32) -> Vec<f64> {
    let rate = rate.max(1) as usize;
    // 12 ms, which no plosive of a synthetic voice has without noise, to half a second; 2 ms around it are compared.
    let (shortest, longest, around) = ((rate / 83).max(8), rate / 2, (rate / 500).max(4));
    let loud = |part: &[f32]| power(part, offset).sqrt() > 0.3 * rms;
    let mut found = Vec::new();
    let mut start = 0;
    for at in 1..=samples.len() {
        if samples.get(at) == samples.get(start) {
            continue;
        }
        let length = at - start;
        if (shortest..=longest).contains(&length) && start >= around && at + around <= samples.len() {
            let level = f64::from((samples[start] - offset).abs());
            if level < 2.0 * rms && loud(&samples[start - around..start]) && loud(&samples[at..at + around]) {
                found.push(length as f64 / rate as f64);
            }
        }
        start = at;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::speech::speech_like::speech_like;

    fn sine(hertz: f64, rate: u32, level: f64) -> Vec<f32> {
        let step = std::f64::consts::TAU * hertz / f64::from(rate);
        let steps = |sample: f64| ((sample * 32_768.0).round() / 32_768.0) as f32;
        (0..rate).map(|n| steps((f64::from(n) * step).sin() * level)).collect()
    }

    #[test]
    fn clipping_is_a_flat_top_at_any_level() {
        for (rate, hertz) in [(16_000, 50.0), (16_000, 997.0), (48_000, 60.0), (48_000, 440.0), (44_100, 100.0), (8_000, 200.0)] {
            for level in [0.05, 0.5, 0.99, 32_767.0 / 32_768.0] {
                assert_eq!(Waveform::of(&sine(hertz, rate, level), rate).clipped, 0, "{hertz} Hz at {rate} Hz, {level}");
            }
        }
        for seed in 0..20 {
            let speech = speech_like(2.0, seed);
            assert_eq!(Waveform::of(&speech, 16_000).clipped, 0);
            for gain in [1.0, 0.5, 0.1] {
                let cut: Vec<f32> = speech.iter().map(|sample| (4.0 * sample).clamp(-1.0, 1.0) * gain + 0.02).collect();
                let share = Waveform::of(&cut, 16_000).clipped as f64 / cut.len() as f64;
                let over = speech.iter().filter(|sample| sample.abs() > 0.25).count() as f64 / cut.len() as f64;
                assert!(share > 0.3 * over && share <= over, "seed {seed}, gain {gain}: {share} of {over}");
            }
            let one_side: Vec<f32> = speech.iter().map(|sample| sample.min(0.15)).collect();
            assert!(Waveform::of(&one_side, 16_000).clipped > 5, "seed {seed}");
        }
    }

    #[test]
    fn dropouts_are_gaps_in_the_middle_of_sound() {
        let mut all = 0;
        for seed in 0..20 {
            let speech = speech_like(3.0, seed);
            assert_eq!(Waveform::of(&speech, 16_000).dropouts, Vec::<f64>::new(), "seed {seed}");
            let gated: Vec<f32> =
                speech.iter().enumerate().map(|(n, sample)| sample * (3.0 * (n as f32 / 2500.0).sin()).clamp(0.0, 1.0)).collect();
            assert_eq!(Waveform::of(&gated, 16_000).dropouts, Vec::<f64>::new(), "seed {seed}: pauses of a noise gate");
            let mut lost = speech;
            for packet in 1..8 {
                lost[packet * 6_000..packet * 6_000 + 320].fill(0.0);
            }
            let dropouts = Waveform::of(&lost, 16_000).dropouts;
            assert!(dropouts.iter().all(|seconds| (0.019..0.023).contains(seconds)), "{dropouts:?}");
            all += dropouts.len();
        }
        // The others lie in pauses.
        assert!(all > 60, "{all} of 140");
    }
}
