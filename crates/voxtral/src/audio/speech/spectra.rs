//! Short-time spectra of a clip in a few wide bands: what speech detection, the bandwidth of a take and audio fingerprints look at.

use super::super::fft::{LANES, SPAN, Scratch, Spectrum, Vectorized, widest};
use super::super::log_mel::{BINS, HOP};

/// Number of bands.
pub(in crate::audio) const BANDS: usize = 17;
/// First bin of each band and the end of the last one; a bin is 40 Hz wide. The first 16 bands are those that a telephone transmits.
const EDGES: [usize; BANDS + 1] = [3, 5, 7, 9, 11, 14, 17, 20, 24, 28, 33, 39, 46, 54, 64, 76, 90, 180];

/// Power above 5.2 kHz, relative to that around 2.7 kHz, below which a sound came through a telephone: -40 dB. Some resamplers leave more just
/// above 4 kHz; vowels alone have -28 dB.
const TELEPHONE: f32 = 1e-4;

/// Spectra of a clip, one frame every 10 ms.
#[derive(Clone, Debug)]
pub(in crate::audio) struct Spectra {
    /// Power of each band in each frame.
    pub(in crate::audio) bands: Vec<[f32; BANDS]>,
    /// Mean power of each bin.
    pub(in crate::audio) mean: Vec<f32>,
}

impl Spectra {
    /// The spectra of 16 kHz samples without their DC offset. A rest shorter than a frame is padded with silence.
    pub(in crate::audio) fn of(samples: &[f32]) -> Self {
        // The edge of an offset at the end would be as loud as a click.
        let offset = super::mean(samples);
        let samples: &[f32] = &samples.iter().map(|sample| sample - offset).collect::<Vec<_>>();
        let frames = samples.len().saturating_sub(SPAN - (LANES - 1) * HOP).div_ceil(HOP) + 1;
        let mut spectra = Self { bands: Vec::with_capacity(frames), mean: vec![0.0; BINS] };
        if !samples.is_empty() {
            widest(Work { samples, frames, spectra: &mut spectra });
        }
        spectra.mean.iter_mut().for_each(|power| *power /= frames as f32);
        spectra
    }

    /// Whether nothing is above the frequencies that a telephone transmits.
    pub(in crate::audio) fn telephone(&self) -> bool {
        let mean = |hertz: std::ops::Range<usize>| {
            let bins = self.mean.get(hertz.start / 40..hertz.end / 40).unwrap_or_default();
            bins.iter().sum::<f32>() / bins.len().max(1) as f32
        };
        mean(5_200..7_600) < TELEPHONE * mean(2_000..3_400)
    }
}

struct Work<'a> {
    samples: &'a [f32],
    frames: usize,
    spectra: &'a mut Spectra,
}

impl Vectorized for Work<'_> {
    #[inline(always)]
    fn run(self) {
        let (spectrum, mut scratch, mut edge) = (Spectrum::new(), Scratch::new(), [0.0; SPAN]);
        for first in (0..self.frames).step_by(LANES) {
            let from = self.samples.get(first * HOP..).unwrap_or_default();
            let input = from.first_chunk().unwrap_or_else(|| {
                edge.fill(0.0);
                edge.iter_mut().zip(from).for_each(|(to, sample)| *to = *sample);
                &edge
            });
            let power = spectrum.power(input, &mut scratch);
            let lanes = LANES.min(self.frames - first);
            for (mean, power) in self.spectra.mean.iter_mut().zip(power) {
                *mean += power[..lanes].iter().sum::<f32>();
            }
            let mut bands = [[0.0; BANDS]; LANES];
            for (band, edges) in EDGES.windows(2).enumerate() {
                let mut sums = [0.0; LANES];
                for power in &power[edges[0]..edges[1]] {
                    sums.iter_mut().zip(power).for_each(|(sum, power)| *sum += power);
                }
                bands.iter_mut().zip(sums).for_each(|(bands, sum)| bands[band] = sum);
            }
            self.spectra.bands.extend_from_slice(&bands[..lanes]);
        }
    }
}
