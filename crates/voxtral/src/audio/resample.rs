//! Resampling from any sample rate to 16 kHz.
//!
//! A synchronous FFT resampler (rubato): content above the lower of the two Nyquist frequencies is removed before it can alias. The filter
//! delay is compensated, so sounds keep their position.

use rubato::audioadapter_buffers::owned::InterleavedOwned;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};

use super::SAMPLE_RATE;
use crate::error::{Error, Result};

/// Accepted sample rates in Hz. Outside this range the header must be wrong.
pub const RATES: std::ops::RangeInclusive<u32> = 4_000..=384_000;

/// Largest accepted sample magnitude, where 1 is full scale: above the values of every integer format read as floats. FFT sums of such
/// samples stay finite.
pub const MAX_MAGNITUDE: f32 = (1_u64 << 32) as f32;

/// Filter length in samples at the lower of the two rates: keeps 95 % of the band, and its ringing is inaudible.
const FILTER: usize = 1024;

/// Resamples to 16 kHz. Samples at 16 kHz are returned unchanged.
pub fn resample(samples: Vec<f32>, rate: u32) -> Result<Vec<f32>> {
    if rate == SAMPLE_RATE || samples.is_empty() {
        return Ok(samples);
    }
    if !RATES.contains(&rate) {
        return Err(Error::new(format!("unsupported sample rate {rate} Hz: expected {} to {} Hz", RATES.start(), RATES.end())));
    }
    if let Some(n) = samples.iter().position(|sample| sample.is_nan() || sample.abs() > MAX_MAGNITUDE) {
        return Err(Error::new(format!("cannot resample: sample {n} is {:e}, where 1 is full scale", samples[n])));
    }
    let failed = |error: String| Error::new(format!("cannot resample from {rate} Hz to {SAMPLE_RATE} Hz: {error}"));
    let (from, to) = (rate as usize, SAMPLE_RATE as usize);
    let length = samples.len();
    let chunk = filter_length(from, to);
    let mut fft = Fft::<f32>::new_custom(from, to, chunk, 1, 1, WindowFunction::BlackmanHarris2, FixedSync::Both)
        .map_err(|error| failed(error.to_string()))?;
    let input = InterleavedOwned::new_from(samples, 1, length).map_err(|error| failed(error.to_string()))?;
    let output = fft.process_all(&input, length, None).map_err(|error| failed(error.to_string()))?;
    let mut samples = output.take_data();
    // The resampler rounds the length up. Keep the duration, to the nearest sample.
    samples.resize(resampled_length(length, rate), 0.0);
    Ok(samples)
}

/// Input samples the resampler processes at once: whole periods of both rates, and an even number of them. The delay is half of it, and
/// half a sample could not be removed.
fn filter_length(from: usize, to: usize) -> usize {
    let (mut divisor, mut rest) = (from, to);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    (FILTER * from.div_ceil(to)).next_multiple_of(2 * (from / divisor))
}

/// `length · 16000 / rate`, rounded.
pub(super) fn resampled_length(length: usize, rate: u32) -> usize {
    let (length, rate) = (length as u128, u128::from(rate));
    ((2 * length * u128::from(SAMPLE_RATE) + rate) / (2 * rate)) as usize
}

#[cfg(test)]
mod tests {
    use std::f64::consts::PI;

    use super::*;

    const COMMON: [u32; 8] = [8_000, 11_025, 12_000, 22_050, 32_000, 44_100, 48_000, 96_000];

    fn tone(hertz: f64, rate: u32, length: usize) -> Vec<f32> {
        (0..length).map(|n| (0.5 * (2.0 * PI * hertz * n as f64 / f64::from(rate)).sin()) as f32).collect()
    }

    /// Power in decibels relative to the reference, away from the ends.
    fn decibel(signal: impl Iterator<Item = f32>, reference: &[f32]) -> f64 {
        let energy = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>();
        10.0 * (energy(&mut { signal }) / energy(&mut reference.iter().copied())).log10()
    }

    #[test]
    fn a_sine_stays_the_same_sine() {
        for rate in COMMON {
            let nyquist = f64::from(rate.min(SAMPLE_RATE)) / 2.0;
            for hertz in [100.0, 440.0, 0.5 * nyquist, 0.9 * nyquist] {
                let found = resample(tone(hertz, rate, rate as usize), rate).unwrap();
                let expected = tone(hertz, SAMPLE_RATE, 16_000);
                assert_eq!(found.len(), 16_000);
                let middle = 2_000..14_000;
                let wrong = found[middle.clone()].iter().zip(&expected[middle.clone()]).map(|(x, y)| x - y);
                let noise = decibel(wrong, &expected[middle.clone()]);
                assert!(noise < -60.0, "{hertz} Hz from {rate} Hz: noise at {noise:.1} dB");
            }
        }
    }

    #[test]
    fn what_16_khz_cannot_hold_vanishes() {
        for (rate, hertz) in [(96_000, 20_000.0), (44_100, 9_000.0), (48_000, 15_500.0), (22_050, 10_000.0)] {
            let found = resample(tone(hertz, rate, rate as usize), rate).unwrap();
            let left = decibel(found[2_000..14_000].iter().copied(), &tone(440.0, SAMPLE_RATE, 16_000)[2_000..14_000]);
            assert!(left < -60.0, "{hertz} Hz from {rate} Hz: {left:.1} dB left");
        }
    }

    #[test]
    fn a_click_stays_where_it_was() {
        for rate in COMMON {
            let mut click = vec![0.0; rate as usize];
            click[rate as usize / 4] = 1.0;
            let found = resample(click, rate).unwrap();
            let peak = (0..found.len()).max_by(|a, b| found[*a].abs().total_cmp(&found[*b].abs())).unwrap();
            assert!(peak.abs_diff(4_000) <= 1, "the click from {rate} Hz is at {peak}");
        }
    }

    #[test]
    fn the_length_is_rounded_and_16_khz_untouched() {
        let samples = tone(440.0, 16_000, 12_345);
        assert_eq!(resample(samples.clone(), 16_000).unwrap(), samples);
        for (length, rate, expected) in
            [(1, 8_000, 2), (441, 44_100, 160), (100_003, 44_100, 36_282), (5, 96_000, 1), (12_345, 11_025, 17_916)]
        {
            assert_eq!(resample(vec![0.25; length], rate).unwrap().len(), expected, "{length} at {rate} Hz");
        }
        assert_eq!(resample(Vec::new(), 44_100).unwrap(), Vec::<f32>::new());
    }

    #[test]
    fn what_is_no_sound_is_refused_and_what_is_loud_is_not() {
        for sample in [f32::NAN, f32::INFINITY, -f32::INFINITY, 1e38, -1e10] {
            let error = resample(vec![0.0, sample], 44_100).unwrap_err();
            assert!(error.message.contains("sample 1 is"), "{error}");
        }
        assert!(resample(vec![-MAX_MAGNITUDE; 4000], 44_100).unwrap().iter().all(|sample| sample.is_finite()));
    }

    #[test]
    fn odd_rates_work_and_absurd_ones_are_named() {
        assert_eq!(resample(tone(440.0, 44_101, 44_101), 44_101).unwrap().len(), 16_000);
        for rate in [0, 1, 3_999, 384_001, u32::MAX] {
            assert!(resample(vec![0.0; 10], rate).unwrap_err().message.contains(&format!("{rate} Hz")));
        }
    }
}
