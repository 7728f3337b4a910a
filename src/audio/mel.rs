//! The log-mel spectrogram Voxtral was trained on: Whisper's, with one maximum for the whole recording.
//!
//! The recording is padded with silence to whole chunks (30 s for the published models), then, over all of it at once:
//! reflected by half a window at both ends, cut into Hann windows of 400 samples every 160, Fourier-transformed to a power
//! spectrum, gathered into mel bands (Slaney's scale and normalisation, 0 to 8 kHz), and the logarithm taken. Values more
//! than eight decades under the loudest one of the recording are raised to that floor; then (x + 4) / 4. A stream has no loudest
//! value until it ends: there the ceiling is a constant ([`Ceiling::Fixed`]).
//!
//! It is computed in double precision, as the triangles of the mel bands are, so that it is nearer to the definition than any
//! single-precision reference is. A frame costs no allocation, and one that lies in the padding costs next to nothing.

use std::f64::consts::PI;
use std::sync::Arc;

use realfft::{RealFftPlanner, RealToComplex};

use super::SAMPLE_RATE;
use crate::error::{Error, Result};

/// Samples from one frame to the next.
pub const HOP: usize = 160;
/// Samples a frame looks at.
pub const WINDOW: usize = 400;
/// Frequencies of the spectrum, zero and Nyquist included.
const BINS: usize = WINDOW / 2 + 1;
/// Power under which a band counts as silent.
const SILENCE: f64 = 1e-10;

/// Makes spectrograms; built once, used for any number of recordings and from any number of threads.
#[derive(Clone)]
pub struct LogMel {
    window: Vec<f64>,
    bands: Vec<Band>,
    fft: Arc<dyn RealToComplex<f64>>,
    ceiling: Ceiling,
}

/// What the floor lies eight decades under.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Ceiling {
    /// The loudest value of the recording.
    #[default]
    Recording,
    /// A decimal logarithm of power, whatever is heard; 1.5 for Voxtral Realtime.
    Fixed(f32),
}

/// What the model hears of one recording: `data` is laid out `[chunks, mels, frames]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// Mel bands.
    pub mels: usize,
    /// Frames a chunk.
    pub frames: usize,
    /// Chunks the recording fills, the last one padded.
    pub chunks: usize,
    /// The values, chunk by chunk, band by band.
    pub data: Vec<f32>,
}

/// The triangle of one mel band: weights of the bins `first..first + weights.len()`, the only ones that are not zero.
#[derive(Clone, Debug)]
struct Band {
    first: usize,
    weights: Vec<f64>,
}

impl LogMel {
    /// A spectrogram of so many mel bands; the published models have 128.
    pub fn new(mels: usize) -> Self {
        let window = (0..WINDOW).map(|n| 0.5 - 0.5 * (2.0 * PI * n as f64 / WINDOW as f64).cos()).collect();
        Self { window, bands: bands(mels), fft: RealFftPlanner::new().plan_fft_forward(WINDOW), ceiling: Ceiling::Recording }
    }

    /// The same with another ceiling.
    pub fn with_ceiling(self, ceiling: Ceiling) -> Self {
        Self { ceiling, ..self }
    }

    /// Hears a recording of 16 kHz samples in chunks of `chunk_frames` (twice the encoder's positions: 3000 are 30 s).
    pub fn features(&self, samples: &[f32], chunk_frames: usize) -> Result<Features> {
        let (mels, frames) = (self.bands.len(), chunk_frames);
        if samples.is_empty() {
            return Err(Error::new("cannot hear a recording of 0 samples"));
        }
        if mels == 0 || frames * HOP <= WINDOW / 2 {
            return Err(Error::new(format!("cannot make a spectrogram of {mels} mel bands and {frames} frames a chunk")));
        }
        let chunks = samples.len().div_ceil(frames * HOP);
        let padded = reflected(samples, chunks * frames * HOP);
        // The first frame that sees nothing but padding; the reflection at the end mirrors padding only if there is enough of it.
        let sounding =
            if chunks * frames * HOP - samples.len() > WINDOW { (samples.len() + WINDOW / 2).div_ceil(HOP) } else { chunks * frames };

        let mut data = vec![SILENCE.log10() as f32; chunks * mels * frames];
        let mut windowed = vec![0.0; WINDOW];
        let mut spectrum = self.fft.make_output_vec();
        let mut scratch = self.fft.make_scratch_vec();
        let mut power = [0.0; BINS];
        for t in 0..sounding.min(chunks * frames) {
            let heard = &padded[t * HOP..t * HOP + WINDOW];
            for ((value, sample), weight) in windowed.iter_mut().zip(heard).zip(&self.window) {
                *value = f64::from(*sample) * weight;
            }
            self.fft
                .process_with_scratch(&mut windowed, &mut spectrum, &mut scratch)
                .map_err(|error| Error::new(format!("the Fourier transform refused its input: {error}")))?;
            for (power, value) in power.iter_mut().zip(&spectrum) {
                *power = value.norm_sqr();
            }
            let at = t / frames * mels * frames + t % frames;
            for (m, band) in self.bands.iter().enumerate() {
                let energy: f64 = band.weights.iter().zip(&power[band.first..]).map(|(weight, power)| weight * power).sum();
                data[at + m * frames] = energy.max(SILENCE).log10() as f32;
            }
        }

        let ceiling = match self.ceiling {
            Ceiling::Recording => data.iter().copied().fold(f32::MIN, f32::max),
            Ceiling::Fixed(ceiling) => ceiling,
        };
        let floor = ceiling - 8.0;
        for value in &mut data {
            *value = (value.max(floor) + 4.0) / 4.0;
        }
        Ok(Features { mels, frames, chunks, data })
    }
}

impl std::fmt::Debug for LogMel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogMel").field("mels", &self.bands.len()).finish_non_exhaustive()
    }
}

/// The samples, padded with zeros to `length`, with half a window mirrored at both ends (the end samples are not repeated).
fn reflected(samples: &[f32], length: usize) -> Vec<f32> {
    let half = WINDOW / 2;
    let mut padded = vec![0.0; length + WINDOW];
    padded[half..half + samples.len()].copy_from_slice(samples);
    for i in 1..=half {
        padded[half - i] = padded[half + i];
        padded[half + length - 1 + i] = padded[half + length - 1 - i];
    }
    padded
}

/// Triangles between neighbouring points of the mel scale, each of the same area.
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
        Band { first, weights: (first..BINS).map(weight).take_while(|&weight| weight > 0.0).collect() }
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

    /// Of the reference implementations, which agree with each other to 5e-5.
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
        let all: Vec<f64> = bands.iter().flat_map(|band| band.weights.clone()).collect();
        assert!((all.iter().sum::<f64>() - 3.190_985_528_540_70).abs() < 1e-12, "{}", all.iter().sum::<f64>());
        assert!((all.iter().copied().fold(0.0, f64::max) - 0.041_681_749_283_5).abs() < 1e-12);
        assert!((weight(1, 0).unwrap() - 0.012_373_986_332_6).abs() < 1e-12);
        assert!((weight(199, 127).unwrap() - 0.001_114_280_198_75).abs() < 1e-13);
        assert_eq!(weight(200, 127), None);
    }

    #[test]
    fn silence_is_the_floor() {
        let heard = LogMel::new(128).features(&[0.0; 16_000], 3000).unwrap();
        assert_eq!((heard.mels, heard.frames, heard.chunks, heard.data.len()), (128, 3000, 1, 384_000));
        assert!(heard.data.iter().all(|value| *value == -1.5));
    }

    #[test]
    fn a_sine_has_the_values_of_the_reference() {
        let heard = LogMel::new(128).features(&sine(1.0), 3000).unwrap();
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
            let found = f64::from(heard.data[mel * 3000 + frame]);
            assert!((found - value).abs() < TOLERANCE, "[{mel}, {frame}] is {found}, not {value}");
        }
        let all = || heard.data.iter().map(|value| f64::from(*value));
        let (low, high) = (all().fold(f64::MAX, f64::min), all().fold(f64::MIN, f64::max));
        let mean = all().sum::<f64>() / heard.data.len() as f64;
        assert!((high - 1.485_354_1).abs() < TOLERANCE && (low + 0.514_645_93).abs() < TOLERANCE);
        assert!((mean + 0.511_268_59).abs() < TOLERANCE, "mean {mean}");
    }

    #[test]
    fn a_fixed_ceiling_holds_whatever_is_heard() {
        let log_mel = LogMel::new(128).with_ceiling(Ceiling::Fixed(1.5));
        let silent = log_mel.features(&[0.0; 16_000], 100).unwrap();
        assert!(silent.data.iter().all(|value| *value == (1.5 - 8.0 + 4.0) / 4.0));
        // Above the floor it changes nothing; this sine's own ceiling is 1.94.
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
        // One sample more or less padding than the shortcut needs: the last frames differ only if the shortcut were wrong.
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
