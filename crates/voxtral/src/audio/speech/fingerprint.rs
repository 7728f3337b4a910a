//! Audio fingerprints: finds the same recording again after it was made louder or quieter, cut, padded, or encoded another way.
//!
//! For each frame of 10 ms, 15 bits say whether the balance between neighboring bands rises or falls (Haitsma and Kalker, 2002). Two frames
//! 80 ms apart are one key; clips that share several keys at one time shift are candidates, found by sorting all keys. Whether a candidate
//! is the same recording is decided by the correlation of the samples: another reading of the same words never repeats the waveform.

use super::super::SAMPLE_RATE;
use super::spectra::Spectra;

/// Frames averaged, so that a shift of half a frame changes little.
const SMOOTH: usize = 5;
/// Frames between the two sides of a bit.
const RISE: usize = 6;
/// Frames between the two halves of a key.
const APART: usize = 8;
/// Bands that are compared: those that a telephone transmits.
const COMPARED: usize = 16;
/// Bits of a frame.
const BITS: u16 = (1 << (COMPARED - 1)) - 1;
/// Marks a frame that is loud enough to be compared.
const LOUD: u16 = 1 << 15;
/// Equal keys with one time shift that make two clips candidates.
const VOTES: usize = 2;
/// Clips that a clip is compared with for each key, so that many copies of one clip take no quadratic time.
const NEIGHBOURS: usize = 4;
/// Parts of the clips that are looked at one after the other.
const PARTS: u32 = 8;
/// Samples averaged into one for the correlation: 4 kHz remain.
const COARSE: usize = 4;
/// Correlation from which two recordings are the same. Codecs leave 0.9, other readings of the same words have up to 0.6.
const SAME: f64 = 0.8;
/// Part of the shorter clip that has to be in the other one.
const COMMON: f64 = 0.7;

/// Logarithm of the power of each band, and the power of all.
type Frame = ([f32; COMPARED], f32);

/// The fingerprint of a clip: two bytes for each 10 ms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AudioFingerprint(Vec<u16>);

/// Two clips that may be the same recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SimilarClips {
    /// Index of the first clip.
    pub first: usize,
    /// Index of the second clip.
    pub second: usize,
    /// Samples by which the sound comes later in the first clip than in the second, to within 10 ms or so.
    pub shift: isize,
}

impl AudioFingerprint {
    pub(in crate::audio) fn of(spectra: &Spectra) -> Self {
        let smooth: Vec<Frame> = spectra
            .bands
            .windows(SMOOTH)
            .map(|frames| {
                let bands: [f32; COMPARED] = std::array::from_fn(|band| frames.iter().map(|frame| frame[band]).sum());
                (bands.map(|power| (power + 1e-9).ln()), bands.iter().sum())
            })
            .collect();
        let loudest = smooth.iter().map(|(_, power)| *power).fold(0.0, f32::max);
        let frame = |(before, after): (&Frame, &Frame)| {
            let balance = |bands: &[f32; COMPARED], band: usize| bands[band] - bands[band + 1];
            let bit = |band: usize| u16::from(balance(&after.0, band) > balance(&before.0, band)) << band;
            let bits: u16 = (0..COMPARED - 1).map(bit).sum();
            // Within 25 dB of the loudest frame.
            let loud = before.1.min(after.1) > 0.003 * loudest;
            bits | if loud { LOUD } else { 0 }
        };
        Self(smooth.iter().zip(smooth.iter().skip(RISE)).map(frame).collect())
    }

    /// The keys of the loud frames, with their places.
    fn keys(&self) -> impl Iterator<Item = (u32, u16)> + '_ {
        self.0.iter().zip(self.0.iter().skip(APART)).zip(0..=u16::MAX).filter_map(|((first, second), at)| {
            (first & second & LOUD != 0).then_some((u32::from(first & BITS) << 15 | u32::from(second & BITS), at))
        })
    }
}

/// Pairs of clips that may be the same recording, in order; [`same_recording`] decides. Of many copies of a clip, each is paired with a few.
pub fn similar_clips<'a>(fingerprints: impl IntoIterator<Item = &'a AudioFingerprint>) -> Vec<SimilarClips> {
    let mut keys: Vec<(u32, u32, u16)> = Vec::new();
    for (clip, fingerprint) in (0..).zip(fingerprints) {
        let mut own: Vec<(u32, u32, u16)> = fingerprint.keys().map(|(key, at)| (key, clip, at)).collect();
        // A key that a clip repeats, as a steady sound does, tells no time.
        own.sort_unstable();
        let repeated = |at: usize| {
            let same = |other: Option<&(u32, u32, u16)>| other.is_some_and(|other| other.0 == own[at].0);
            same(own.get(at + 1)) || at.checked_sub(1).is_some_and(|before| same(own.get(before)))
        };
        keys.extend((0..own.len()).filter(|at| !repeated(*at)).map(|at| own[at]));
    }
    keys.sort_unstable();
    let mut found = Vec::new();
    // A part of the clips at a time: the votes of a dataset full of copies need many times the memory of its keys.
    for part in 0..PARTS {
        let mut votes: Vec<(u32, u32, i32)> = Vec::new();
        for (index, (key, clip, at)) in keys.iter().enumerate().filter(|(_, (_, clip, _))| clip % PARTS == part) {
            for (_, other, later) in keys[index + 1..].iter().take_while(|next| next.0 == *key).take(NEIGHBOURS) {
                votes.push((*clip, *other, i32::from(*at) - i32::from(*later)));
            }
        }
        votes.sort_unstable();
        for pair in votes.chunk_by(|one, next| (one.0, one.1) == (next.0, next.1)) {
            // The best shift, to within a frame.
            let near = |shift: i32| pair.iter().filter(|vote| (vote.2 - shift).abs() <= 1).count();
            let Some(best) = pair.iter().map(|vote| vote.2).max_by_key(|shift| (near(*shift), -shift.abs())) else { continue };
            if near(best) >= VOTES {
                let shift = best as isize * super::super::log_mel::HOP as isize;
                found.push(SimilarClips { first: pair[0].0 as usize, second: pair[0].1 as usize, shift });
            }
        }
    }
    found.sort_unstable();
    found
}

/// Whether two clips of 16 kHz samples are the same recording, or one is a part of the other, if the sound comes about `shift` samples later
/// in the first.
pub fn same_recording(first: &[f32], second: &[f32], shift: isize) -> bool {
    let (first, second) = (Coarse::of(first), Coarse::of(second));
    let around = shift / COARSE as isize;
    let reach = SAMPLE_RATE as isize / COARSE as isize / 50;
    let shorter = loud_length(&first.samples).min(loud_length(&second.samples));
    // The expected shift is the likeliest one.
    let shifts = (0..=reach).flat_map(|by| [around - by, around + by]);
    shifts.into_iter().any(|shift| correlation(&first, &second, shift, shorter).abs() > SAME)
}

/// A clip at a quarter of the sample rate, with the energy of each of its beginnings.
struct Coarse {
    samples: Vec<f32>,
    /// Sum of the squares of the samples before each place.
    energy: Vec<f64>,
}

impl Coarse {
    fn of(samples: &[f32]) -> Self {
        let samples = coarse(samples);
        let mut sum = 0.0;
        let mut energy = vec![0.0];
        energy.extend(samples.iter().map(|sample| {
            sum += f64::from(sample * sample);
            sum
        }));
        Self { samples, energy }
    }

    /// Energy of `length` samples from `from` on.
    fn energy(&self, from: usize, length: usize) -> f64 {
        let at = |place: usize| self.energy.get(place).copied().unwrap_or(0.0);
        at(from + length) - at(from)
    }
}

/// Every fourth sample, without DC offset and with what is above 2 kHz mostly removed.
fn coarse(samples: &[f32]) -> Vec<f32> {
    let offset = super::mean(samples);
    samples.chunks_exact(COARSE).map(|four| four.iter().map(|sample| sample - offset).sum()).collect()
}

/// Samples from the first to the last one that is not far below the peak.
fn loud_length(samples: &[f32]) -> usize {
    let least = samples.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs())) * 0.05;
    let loud = |sample: &f32| sample.abs() > least;
    match (samples.iter().position(loud), samples.iter().rposition(loud)) {
        (Some(first), Some(last)) => last + 1 - first,
        _ => 0,
    }
}

/// Correlation of two signals, the second shifted to later; 0 if they have too little in common.
fn correlation(first: &Coarse, second: &Coarse, shift: isize, shorter: usize) -> f64 {
    let (from, to) = (shift.max(0) as usize, (-shift).max(0) as usize);
    let a = first.samples.get(from..).unwrap_or_default();
    let b = second.samples.get(to..).unwrap_or_default();
    let length = a.len().min(b.len());
    if shorter == 0 || (length as f64) < COMMON * shorter as f64 {
        return 0.0;
    }
    // Independent sums, which the compiler computes side by side.
    const LANES: usize = 16;
    let (a, b) = (&a[..length], &b[..length]);
    let mut sums = [0.0_f32; LANES];
    let (whole_a, rest_a) = a.as_chunks::<LANES>();
    let (whole_b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in whole_a.iter().zip(whole_b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum();
    let product = f64::from(sums.iter().sum::<f32>() + rest);
    product / (first.energy(from, length) * second.energy(to, length)).max(0.0).sqrt().max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::resample;
    use crate::audio::speech::speech_like::speech_like;
    use std::path::Path;

    fn pairs(clips: &[Vec<f32>]) -> Vec<(usize, usize)> {
        let prints: Vec<AudioFingerprint> = clips.iter().map(|clip| AudioFingerprint::of(&Spectra::of(clip))).collect();
        similar_clips(&prints)
            .into_iter()
            .filter(|pair| same_recording(&clips[pair.first], &clips[pair.second], pair.shift))
            .map(|pair| (pair.first, pair.second))
            .collect()
    }

    fn folder(name: &str) -> Vec<Vec<f32>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.iter().map(|file| crate::audio::load(file).unwrap()).collect()
    }

    #[test]
    fn a_recording_is_found_again_after_what_people_do_to_files() {
        let mut state = 1_u32;
        let mut hiss = move |level: f32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            level * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
        };
        let originals = folder("datasets/words/clips");
        let mut missed = Vec::new();
        for (number, clip) in originals.iter().enumerate().step_by(5) {
            let copies: [(&str, Vec<f32>); 8] = [
                ("quieter", clip.iter().map(|sample| 0.1 * sample).collect()),
                ("inverted", clip.iter().map(|sample| -sample).collect()),
                ("padded", [vec![0.0; 5_437], clip.clone(), vec![0.0; 3_000]].concat()),
                ("begun later", clip[clip.len() / 8..].to_vec()),
                ("noisy", clip.iter().map(|sample| sample + hiss(0.005)).collect()),
                ("of a lower rate", resample(clip.chunks_exact(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect(), 8_000).unwrap()),
                ("with DC", clip.iter().map(|sample| 0.5 * sample + 0.2).collect()),
                ("clipped", clip.iter().map(|sample| (1.5 * sample).clamp(-0.5, 0.5)).collect()),
            ];
            for (name, copy) in copies {
                if pairs(&[clip.clone(), copy]) != [(0, 1)] {
                    missed.push(format!("{number} {name}"));
                }
            }
        }
        assert!(missed.len() <= 10, "{} of 280 missed: {missed:?}", missed.len());
    }

    #[test]
    fn an_encoded_recording_is_found_again() {
        let original = crate::audio::load(Path::new("../../tests/audio/speech.wav")).unwrap();
        for name in ["speech.mp3", "speech.ogg", "speech.m4a", "speech-no-count.mp3"] {
            let encoded = crate::audio::load(&Path::new("../../tests/audio").join(name)).unwrap();
            assert_eq!(pairs(&[original.clone(), encoded]), [(0, 1)], "{name}");
        }
    }

    #[test]
    fn other_readings_are_not_the_same_recording() {
        // One speaker says similar words: six, sixty, sixteen, sixth …
        let words = folder("datasets/words/clips");
        assert_eq!(pairs(&words), []);
        // Candidates aside, no two of these clips correlate at any shift.
        for pair in words.chunks(2).take(40) {
            let alike = (-20..20).any(|shift| same_recording(&pair[0], pair.last().unwrap(), shift * 400));
            assert!(!alike || pair.len() == 1);
        }
        let synthetic: Vec<Vec<f32>> = (0..300).map(|seed| speech_like(1.0, seed)).collect();
        assert_eq!(pairs(&synthetic), []);
    }

    #[test]
    fn many_copies_are_linked_in_little_time() {
        let clip = speech_like(1.0, 1);
        let copies: Vec<Vec<f32>> = (1..=200).map(|n| clip.iter().map(|sample| sample * n as f32 / 200.0).collect()).collect();
        let found = pairs(&copies);
        assert!(found.len() < 200 * NEIGHBOURS * 2, "{}", found.len());
        let linked: std::collections::BTreeSet<usize> = found.iter().flat_map(|pair| [pair.0, pair.1]).collect();
        assert_eq!(linked.len(), 200);
    }
}
