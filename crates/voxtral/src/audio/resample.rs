//! Resampling from any sample rate to 16 kHz.
//!
//! A synchronous FFT resampler (rubato): content above the lower of the two Nyquist frequencies is removed before it can alias. The filter
//! delay is compensated, so sounds keep their position.

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Indexing, Resampler, WindowFunction};

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
    let mut resampler = StreamResampler::new(rate)?;
    let mut resampled = Vec::with_capacity(resampled_length(samples.len(), rate));
    let mut keep = |block: &[f32]| {
        resampled.extend_from_slice(block);
        Ok(true)
    };
    resampler.push(&samples, &mut keep)?;
    resampler.finish(&mut keep)?;
    Ok(resampled)
}

/// Resamples a recording to 16 kHz block by block. However it is cut into blocks, the result is the same.
pub(super) struct StreamResampler {
    fft: Fft<f32>,
    rate: u32,
    /// Input that does not fill a chunk of the resampler yet.
    pending: Vec<f32>,
    /// Output of one chunk.
    output: Vec<f32>,
    /// Output samples at the start that are the delay of the filter, not yet removed.
    delay: usize,
    received: usize,
    handed_out: usize,
}

impl StreamResampler {
    /// A resampler from a rate in Hz. A rate outside [`RATES`] is an error.
    pub(super) fn new(rate: u32) -> Result<Self> {
        if !RATES.contains(&rate) {
            return Err(Error::new(format!("unsupported sample rate {rate} Hz: expected {} to {} Hz", RATES.start(), RATES.end())));
        }
        let (from, to) = (rate as usize, SAMPLE_RATE as usize);
        let fft = Fft::<f32>::new_custom(from, to, filter_length(from, to), 1, 1, WindowFunction::BlackmanHarris2, FixedSync::Both)
            .map_err(|error| failed(rate, error))?;
        let output = vec![0.0; fft.output_frames_max()];
        Ok(Self { delay: fft.output_delay(), fft, rate, pending: Vec::new(), output, received: 0, handed_out: 0 })
    }

    /// Takes the next samples and hands out what is ready. Returns whether `on_block` wants more.
    pub(super) fn push(&mut self, mut samples: &[f32], on_block: &mut dyn FnMut(&[f32]) -> Result<bool>) -> Result<bool> {
        if let Some(n) = samples.iter().position(|sample| sample.is_nan() || sample.abs() > MAX_MAGNITUDE) {
            let place = self.received + n;
            return Err(Error::new(format!("cannot resample: sample {place} is {:e}, where 1 is full scale", samples[n])));
        }
        self.received += samples.len();
        let chunk = self.fft.input_frames_next();
        while self.pending.len() + samples.len() >= chunk {
            if self.pending.is_empty() {
                let (now, rest) = samples.split_at(chunk);
                samples = rest;
                if !self.process(now, on_block)? {
                    return Ok(false);
                }
            } else {
                let (now, rest) = samples.split_at(chunk - self.pending.len());
                samples = rest;
                let mut whole = std::mem::take(&mut self.pending);
                whole.extend_from_slice(now);
                let go_on = self.process(&whole, on_block)?;
                whole.clear();
                self.pending = whole;
                if !go_on {
                    return Ok(false);
                }
            }
        }
        self.pending.extend_from_slice(samples);
        Ok(true)
    }

    /// Hands out the rest: the duration is kept, to the nearest sample.
    pub(super) fn finish(mut self, on_block: &mut dyn FnMut(&[f32]) -> Result<bool>) -> Result<()> {
        let length = resampled_length(self.received, self.rate);
        let mut rest = std::mem::take(&mut self.pending);
        while self.handed_out < length {
            if !self.process(&rest, on_block)? {
                return Ok(());
            }
            rest.clear();
        }
        Ok(())
    }

    /// Resamples one chunk, which is filled up with zeros, and hands out its part of the result.
    fn process(&mut self, chunk: &[f32], on_block: &mut dyn FnMut(&[f32]) -> Result<bool>) -> Result<bool> {
        let rate = self.rate;
        let size = self.output.len();
        let input = InterleavedSlice::new(chunk, 1, chunk.len()).map_err(|error| failed(rate, error))?;
        let mut output = InterleavedSlice::new_mut(&mut self.output, 1, size).map_err(|error| failed(rate, error))?;
        let indexing = Indexing { input_offset: 0, output_offset: 0, active_channels_mask: None, partial_len: Some(chunk.len()) };
        let (_, made) = self.fft.process_into_buffer(&input, &mut output, Some(&indexing)).map_err(|error| failed(rate, error))?;
        let delay = self.delay.min(made);
        self.delay -= delay;
        let left = resampled_length(self.received, rate) - self.handed_out;
        let ready = self.output.get(delay..made.min(delay + left)).unwrap_or_default();
        self.handed_out += ready.len();
        if ready.is_empty() { Ok(true) } else { on_block(ready) }
    }
}

fn failed(rate: u32, error: impl std::fmt::Display) -> Error {
    Error::new(format!("cannot resample from {rate} Hz to {SAMPLE_RATE} Hz: {error}"))
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

    /// The whole recording at once, by the resampler's own function.
    fn at_once(samples: &[f32], rate: u32) -> Vec<f32> {
        let (from, to, length) = (rate as usize, SAMPLE_RATE as usize, samples.len());
        let window = WindowFunction::BlackmanHarris2;
        let mut fft = Fft::<f32>::new_custom(from, to, filter_length(from, to), 1, 1, window, FixedSync::Both).unwrap();
        let mut whole = fft.process_all(&InterleavedSlice::new(samples, 1, length).unwrap(), length, None).unwrap().take_data();
        whole.resize(resampled_length(length, rate), 0.0);
        whole
    }

    #[test]
    fn blocks_of_any_length_give_the_same_samples() {
        for (rate, length) in
            [(8_000, 12_345), (44_100, 100_003), (44_101, 50_000), (48_000, 3), (96_000, 6_144), (11_025, 1), (22_050, 70_000)]
        {
            let samples = tone(440.0, rate, length);
            let expected = at_once(&samples, rate);
            assert_eq!(resample(samples.clone(), rate).unwrap(), expected, "{rate} Hz");
            for step in [1, 7, 1000, 4096, 65_536] {
                let mut found = Vec::new();
                let mut keep = |block: &[f32]| {
                    assert!(!block.is_empty());
                    found.extend_from_slice(block);
                    Ok(true)
                };
                let mut resampler = StreamResampler::new(rate).unwrap();
                for block in samples.chunks(step) {
                    assert!(resampler.push(block, &mut keep).unwrap());
                }
                resampler.finish(&mut keep).unwrap();
                assert_eq!(found, expected, "{rate} Hz in blocks of {step}");
            }
        }
        // Whoever has enough is not asked again.
        let mut blocks = 0;
        let mut resampler = StreamResampler::new(48_000).unwrap();
        let more = resampler.push(&[0.25; 100_000], &mut |_| {
            blocks += 1;
            Ok(false)
        });
        assert_eq!((more.unwrap(), blocks), (false, 1));
    }

    #[test]
    fn odd_rates_work_and_absurd_ones_are_named() {
        assert_eq!(resample(tone(440.0, 44_101, 44_101), 44_101).unwrap().len(), 16_000);
        for rate in [0, 1, 3_999, 384_001, u32::MAX] {
            assert!(resample(vec![0.0; 10], rate).unwrap_err().message.contains(&format!("{rate} Hz")));
        }
    }
}
