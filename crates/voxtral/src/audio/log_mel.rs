//! Log-mel spectrogram: the input features Voxtral was trained on (Whisper's, with one maximum for the whole recording).
//!
//! The recording is padded with silence to whole chunks (30 s for the published models). Then, over all of it at once: reflection padding
//! by half a window at both ends, a short-time Fourier transform with Hann windows of 400 samples every 160, the power spectrum, mel filter
//! banks (Slaney scale and normalization, 0 to 8 kHz), and log10. Values more than 8 (eight decades) below the maximum of the recording are
//! raised to that floor; then (x + 4) / 4. A stream has no maximum until it ends, so there the ceiling is a constant
//! ([`MelCeiling::Fixed`]).
//!
//! The FFT runs in double precision, so it is closer to the definition than any single-precision reference. What follows it (sums of
//! positive numbers, a logarithm) loses nothing in single precision. Eight frames are computed side by side in the widest vector registers
//! of the CPU, with the same bits for any width. Frames in the padding cost almost nothing.

use super::SAMPLE_RATE;
use super::fft::{LANES, SPAN, Scratch, Spectrum, Vectorized, each, widest};
use crate::error::{Error, Result};

/// Hop length: samples from one frame to the next.
pub const HOP: usize = 160;
/// Window length in samples.
pub const WINDOW: usize = 400;
/// Bins of the power spectrum, including 0 Hz and Nyquist.
pub(super) const BINS: usize = WINDOW / 2 + 1;
/// Floor of the log10 power of a band.
const SILENCE: f32 = -10.0;

/// Log-mel feature extractor. Build it once and use it for any number of recordings, from any thread.
#[derive(Clone)]
pub struct LogMel {
    spectrum: Spectrum,
    bands: Vec<Band>,
    ceiling: MelCeiling,
}

/// The value that the floor lies eight decades below.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum MelCeiling {
    /// Maximum of the recording.
    #[default]
    Recording,
    /// A constant log10 power; 1.5 for Voxtral Realtime.
    Fixed(f32),
}

/// Log-mel features of one recording; `data` has shape `[chunks, mels, frames]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// Number of mel bands.
    pub mels: usize,
    /// Frames per chunk.
    pub frames: usize,
    /// Number of chunks; the last one is padded.
    pub chunks: usize,
    /// Values, chunk by chunk, band by band.
    pub data: Vec<f32>,
}

/// Triangular filter of a mel band: its nonzero weights, for the bins `first..first + weights.len()`.
#[derive(Clone, Debug)]
struct Band {
    first: usize,
    weights: Vec<f32>,
}

impl LogMel {
    /// Creates an extractor for `mels` mel bands; the published models use 128.
    pub fn new(mels: usize) -> Self {
        Self { spectrum: Spectrum::new(), bands: bands(mels), ceiling: MelCeiling::Recording }
    }

    /// Returns the extractor with another ceiling.
    pub fn with_ceiling(self, ceiling: MelCeiling) -> Self {
        Self { ceiling, ..self }
    }

    /// Computes the features of 16 kHz samples in chunks of `chunk_frames` frames: twice the encoder's positions, 3000 for 30 s.
    pub fn features(&self, samples: &[f32], chunk_frames: usize) -> Result<Features> {
        let (mels, frames) = (self.bands.len(), chunk_frames);
        if samples.is_empty() {
            return Err(Error::new("cannot compute features of a recording of 0 samples"));
        }
        if mels == 0 || frames * HOP <= WINDOW / 2 {
            return Err(Error::new(format!("cannot compute a spectrogram of {mels} mel bands and {frames} frames per chunk")));
        }
        let chunks = samples.len().div_ceil(frames * HOP);
        let length = chunks * frames * HOP;
        // First frame that covers only padding. The reflection at the end mirrors only padding if there is enough of it.
        let unpadded = if length - samples.len() > WINDOW { (samples.len() + WINDOW / 2).div_ceil(HOP) } else { chunks * frames };
        let mut data = vec![SILENCE; chunks * mels * frames];
        for (chunk, rows) in data.chunks_exact_mut(mels * frames).enumerate() {
            let active = unpadded.saturating_sub(chunk * frames).min(frames);
            widest(Work { log_mel: self, samples, length, start: chunk * frames, active, frames, rows });
        }

        let ceiling = match self.ceiling {
            MelCeiling::Recording => loudest(&data),
            MelCeiling::Fixed(ceiling) => ceiling,
        };
        let floor = ceiling - 8.0;
        for value in &mut data {
            *value = (if *value > floor { *value } else { floor } + 4.0) / 4.0;
        }
        Ok(Features { mels, frames, chunks, data })
    }
}

/// One chunk to compute.
struct Work<'a> {
    log_mel: &'a LogMel,
    samples: &'a [f32],
    /// Length of the padded recording in samples.
    length: usize,
    /// First frame of the chunk within the recording.
    start: usize,
    /// Frames that cover audio, not only padding.
    active: usize,
    /// Frames per chunk: the length of a row.
    frames: usize,
    /// Output: one row of log10 energies per band.
    rows: &'a mut [f32],
}

impl Vectorized for Work<'_> {
    #[inline(always)]
    fn run(self) {
        let (mut scratch, mut edge) = (Scratch::new(), [0.0; SPAN]);
        for at in (0..self.active).step_by(LANES) {
            // The last batch overlaps the previous one, so that it still fills a register.
            let at = at.min(self.frames.saturating_sub(LANES));
            let input = span(self.samples, self.length, (self.start + at) * HOP, &mut edge);
            let power = self.log_mel.spectrum.power(input, &mut scratch);
            for (band, row) in self.log_mel.bands.iter().zip(self.rows.chunks_exact_mut(self.frames)) {
                let energies = band.energies(power);
                match row.get_mut(at..at + LANES).and_then(|row| row.as_mut_array()) {
                    Some(all) => *all = energies,
                    None => row.copy_from_slice(&energies[..row.len()]),
                }
            }
        }
        // The last of these may be padding, where the energy is 0.
        let written = self.active.next_multiple_of(LANES).min(self.frames);
        for row in self.rows.chunks_exact_mut(self.frames) {
            for value in &mut row[..written] {
                *value = log10(*value).max(SILENCE);
            }
        }
    }
}

/// log10 of a positive normal number, to within 3e-7 or a few parts in ten million; for 0, a value below [`SILENCE`]. Written out because
/// the standard library computes one number at a time.
#[inline(always)]
fn log10(x: f32) -> f32 {
    // x = 2^exponent · m with √½ ≤ m < √2.
    const ROOT_HALF: u32 = 0x3f35_04f3;
    let bits = x.to_bits().wrapping_sub(ROOT_HALF);
    let exponent = (bits as i32 >> 23) as f32;
    let m = f32::from_bits((bits & 0x007f_ffff) + ROOT_HALF);
    // ln m = 2 artanh s with |s| < 0.172: four terms leave 3e-9.
    let s = (m - 1.0) / (m + 1.0);
    let q = s * s;
    let artanh = s + s * q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0))));
    exponent * std::f32::consts::LOG10_2 + artanh * (2.0 * std::f32::consts::LOG10_E)
}

impl std::fmt::Debug for LogMel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogMel").field("mels", &self.bands.len()).finish_non_exhaustive()
    }
}

/// Maximum of the values, computed eight at a time.
fn loudest(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (groups, rest) = values.as_chunks::<LANES>();
    let lanes = groups.iter().fold([f32::MIN; LANES], |most, group| each(0.0, |lane| larger(most[lane], group[lane])));
    lanes.into_iter().chain(rest.iter().copied()).fold(f32::MIN, larger)
}

/// Input samples of [`LANES`] frames from sample `start` on, beginning half a window earlier. Beyond the recording there is silence up to
/// `length`; beyond that, and before the start, the signal is reflected (the end samples are not repeated).
#[inline(always)]
fn span<'a>(samples: &'a [f32], length: usize, start: usize, edge: &'a mut [f32; SPAN]) -> &'a [f32; SPAN] {
    let inside = start.checked_sub(WINDOW / 2).and_then(|from| samples.get(from..)?.first_chunk());
    inside.unwrap_or_else(|| {
        for (n, sample) in edge.iter_mut().enumerate() {
            let place = (start + n).abs_diff(WINDOW / 2);
            let place = if place < length { place } else { (2 * (length - 1)).saturating_sub(place) };
            *sample = samples.get(place).copied().unwrap_or(0.0);
        }
        edge
    })
}

impl Band {
    /// Energy of the band in each frame.
    #[inline(always)]
    fn energies(&self, power: &[[f32; LANES]; BINS]) -> [f32; LANES] {
        let mut sums = [0.0; LANES];
        for (weight, power) in self.weights.iter().zip(&power[self.first..]) {
            sums = each(0.0, |lane| sums[lane] + weight * power[lane]);
        }
        sums
    }
}

/// Triangular filters between neighboring points of the mel scale, all of the same area.
fn bands(mels: usize) -> Vec<Band> {
    let top = hertz_to_mel(f64::from(SAMPLE_RATE) / 2.0);
    let edges: Vec<f64> = (0..mels + 2).map(|i| mel_to_hertz(top * i as f64 / (mels + 1) as f64)).collect();
    let band = |edge: &[f64]| {
        let weight = |bin: usize| {
            let hertz = f64::from(SAMPLE_RATE) / 2.0 * bin as f64 / (BINS - 1) as f64;
            let rising = (hertz - edge[0]) / (edge[1] - edge[0]);
            let falling = (edge[2] - hertz) / (edge[2] - edge[1]);
            rising.min(falling).max(0.0) * 2.0 / (edge[2] - edge[0])
        };
        let first = (0..BINS).find(|&bin| weight(bin) > 0.0).unwrap_or(0);
        Band { first, weights: (first..BINS).map(weight).take_while(|&weight| weight > 0.0).map(|weight| weight as f32).collect() }
    };
    edges.windows(3).map(band).collect()
}

/// Slaney's mel scale: linear below 1 kHz, logarithmic above.
fn hertz_to_mel(hertz: f64) -> f64 {
    if hertz < 1000.0 { hertz * 3.0 / 200.0 } else { 15.0 + (hertz / 1000.0).ln() * 27.0 / 6.4_f64.ln() }
}

fn mel_to_hertz(mel: f64) -> f64 {
    if mel < 15.0 { mel * 200.0 / 3.0 } else { 1000.0 * ((mel - 15.0) * 6.4_f64.ln() / 27.0).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::PI;

    /// Tolerance to the reference implementations, which agree with each other to 5e-5.
    const TOLERANCE: f64 = 1e-4;

    fn sine(seconds: f64) -> Vec<f32> {
        (0..(seconds * 16_000.0) as usize).map(|n| (0.5 * (2.0 * PI * 440.0 * n as f64 / 16_000.0).sin()) as f32).collect()
    }

    #[test]
    fn the_mel_matrix_is_the_published_one() {
        let bands = bands(128);
        let weight = |bin: usize, mel: usize| bin.checked_sub(bands[mel].first).and_then(|i| bands[mel].weights.get(i)).copied();
        assert_eq!(bands.iter().map(|band| band.weights.len()).sum::<usize>(), 394);
        assert!(bands.iter().all(|band| !band.weights.is_empty()));
        let all: Vec<f64> = bands.iter().flat_map(|band| &band.weights).map(|weight| f64::from(*weight)).collect();
        assert!((all.iter().sum::<f64>() - 3.190_985_528_540_70).abs() < 1e-7, "{}", all.iter().sum::<f64>());
        assert_eq!(all.iter().copied().fold(0.0, f64::max) as f32, 0.041_681_749_283_5_f64 as f32);
        assert_eq!(weight(1, 0), Some(0.012_373_986_332_6_f64 as f32));
        assert_eq!(weight(199, 127), Some(0.001_114_280_198_75_f64 as f32));
        assert_eq!(weight(200, 127), None);
    }

    #[test]
    fn the_logarithm_is_one() {
        let exact = |x: f32| (f64::from(log10(x)) - f64::from(x).log10()).abs() <= 3e-7_f64.max(f64::from(x).log10().abs() * 2e-7);
        // Every 9973rd number from the smallest normal one on; 1 and the number before and after it.
        for bits in (0x0080_0000..0x7f80_0000).step_by(9973).chain(0x3f7f_ffff..=0x3f80_0001) {
            assert!(exact(f32::from_bits(bits)), "{:e}: {}", f32::from_bits(bits), log10(f32::from_bits(bits)));
        }
        assert!(log10(0.0) < SILENCE && log10(1e-45) < SILENCE && log10(1.0) == 0.0);
    }

    #[test]
    fn every_width_gives_the_same_bits() {
        let log_mel = LogMel::new(128);
        let samples = sine(0.7);
        let mut rows = [vec![0.0; 128 * 100], vec![0.0; 128 * 100]];
        let [portable, vectors] = &mut rows;
        let work = |rows| Work { log_mel: &log_mel, samples: &samples, length: 16_000, start: 0, active: 100, frames: 100, rows };
        work(portable).run();
        widest(work(vectors));
        assert_eq!(rows[0], rows[1]);
    }

    #[test]
    fn silence_is_the_floor() {
        let silent = LogMel::new(128).features(&[0.0; 16_000], 3000).unwrap();
        assert_eq!((silent.mels, silent.frames, silent.chunks, silent.data.len()), (128, 3000, 1, 384_000));
        assert!(silent.data.iter().all(|value| *value == -1.5));
    }

    #[test]
    fn a_sine_has_the_values_of_the_reference() {
        let features = LogMel::new(128).features(&sine(1.0), 3000).unwrap();
        let expected = [
            (0, 0, 0.907_519_58),
            (10, 0, 0.985_810_82),
            (17, 50, 1.337_491_04),
            (18, 50, 1.485_354_07),
            (16, 99, 1.347_262_26),
            (16, 100, 1.304_910_18),
            (16, 101, 0.404_450_06),
            (64, 50, -0.514_645_93),
        ];
        for (mel, frame, value) in expected {
            let found = f64::from(features.data[mel * 3000 + frame]);
            assert!((found - value).abs() < TOLERANCE, "[{mel}, {frame}] is {found}, not {value}");
        }
        let all = || features.data.iter().map(|value| f64::from(*value));
        let (low, high) = (all().fold(f64::MAX, f64::min), all().fold(f64::MIN, f64::max));
        let mean = all().sum::<f64>() / features.data.len() as f64;
        assert!((high - 1.485_354_1).abs() < TOLERANCE && (low + 0.514_645_93).abs() < TOLERANCE);
        assert!((mean + 0.511_268_59).abs() < TOLERANCE, "mean {mean}");
    }

    #[test]
    fn a_fixed_ceiling_holds_whatever_is_heard() {
        let log_mel = LogMel::new(128).with_ceiling(MelCeiling::Fixed(1.5));
        let silent = log_mel.features(&[0.0; 16_000], 100).unwrap();
        assert!(silent.data.iter().all(|value| *value == (1.5 - 8.0 + 4.0) / 4.0));
        // Above the floor nothing changes; the maximum of this sine is 1.94.
        let (fixed, own) = (log_mel.features(&sine(1.0), 100).unwrap(), LogMel::new(128).features(&sine(1.0), 100).unwrap());
        let floor = own.data.iter().copied().fold(f32::MAX, f32::min);
        assert!(fixed.data.iter().zip(&own.data).all(|(fixed, own)| fixed == own || *own == floor && *fixed < floor));
        assert!(fixed.data.iter().any(|value| *value < floor));
    }

    #[test]
    fn chunks_share_one_maximum_and_frames_look_across_their_border() {
        let log_mel = LogMel::new(128);
        let long: Vec<f32> = sine(5.0).iter().enumerate().map(|(n, x)| if n < 32_000 { *x } else { x * 1e-3 }).collect();
        let whole = log_mel.features(&long, 600).unwrap();
        let parts = log_mel.features(&long, 200).unwrap();
        assert_eq!((whole.chunks, parts.chunks), (1, 3));
        for m in 0..128 {
            for t in 0..500 {
                let (one, other) = (whole.data[m * 600 + t], parts.data[(t / 200 * 128 + m) * 200 + t % 200]);
                assert_eq!(one, other, "[{m}, {t}]");
            }
        }
    }

    #[test]
    fn what_is_skipped_as_padding_is_what_would_have_been_computed() {
        // Padding around the limit of the shortcut: the last frames would differ if the shortcut were wrong.
        let log_mel = LogMel::new(128);
        for padding in [0, 1, 199, 200, 201, 399, 400, 401, 560] {
            let samples: Vec<f32> = sine(1.0)[..16_000 - padding].to_vec();
            let mut explicit = samples.clone();
            explicit.resize(16_000, 0.0);
            assert_eq!(log_mel.features(&samples, 100).unwrap(), log_mel.features(&explicit, 100).unwrap(), "{padding}");
        }
    }

    #[test]
    fn exactly_one_chunk_stays_one_and_nothing_is_refused() {
        let log_mel = LogMel::new(80);
        assert_eq!(log_mel.features(&vec![0.1; 64_000], 400).unwrap().chunks, 1);
        assert_eq!(log_mel.features(&vec![0.1; 64_001], 400).unwrap().chunks, 2);
        let error = log_mel.features(&[], 400).unwrap_err();
        assert!(error.message.contains("0 samples"), "{error}");
        assert!(log_mel.features(&[0.1], 0).is_err());
        assert!(LogMel::new(0).features(&[0.1], 400).is_err());
    }
}
