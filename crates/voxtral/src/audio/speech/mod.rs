//! Speech detection: whether a clip has speech, where, and what it has instead.
//!
//! A small neural network (earshot) rates each frame of 16 ms. It was made for streams in which speech comes and goes, and takes some
//! music, hum and strong noise for speech. So three properties that no spoken word has are checked as well: a level that never changes, a
//! spectrum of a few lines, and noise whose spectrum never changes. The limits were chosen on labelled takes such that none with speech is
//! refused; music may pass (`a_word_is_found_and_a_noise_is_none` below has some of them).

pub mod fingerprint;
pub(super) mod spectra;
#[cfg(test)]
pub(super) mod speech_like;

use super::SAMPLE_RATE;
use earshot::Detector;
use spectra::{BANDS, Spectra};
use std::ops::Range;

/// Frame length in samples: 16 ms.
pub const FRAME: usize = 256;
/// Part of the clip's score from which a frame counts as speech, averaged with its neighbors. White noise has single frames of 0.6.
const SPOKEN: f32 = 0.6;
/// Frames whose mean score is that of a clip: the shortest words have 130 ms.
const WORD: usize = 8;
/// Lowest score of a clip with speech. The faintest whispered word has 0.27, others 0.4 and more; clicks have up to 0.24.
const LEAST: f32 = 0.26;
/// Score below which the detector is in doubt: whispering and loud noise have it, ordinary voices in up to 5 dB of noise do not.
const DOUBTFUL: f32 = 0.55;
/// Score from which the spectrum of a clip may be that of noise if it is voiced. Steady noise has up to 0.6.
const CERTAIN: f32 = 0.65;
/// Level in dBFS of the loudest 80 ms below which a clip is silent: a word has at most 18 steps of 16 bits then.
const SILENT: f64 = -65.0;
/// Level that the loudest 80 ms are brought to for the network, which depends on the level.
const NOMINAL: f64 = -20.0;
/// Largest amplification for that.
const MOST_GAIN: f64 = 60.0;
/// Frames of spectra (10 ms) averaged before changes are measured: noise fluctuates less then, syllables remain.
const SMOOTH: usize = 12;
/// Groups of bands in which changes are measured.
const GROUPS: [Range<usize>; 7] = [0..2, 2..5, 5..8, 8..11, 11..14, 14..16, 16..BANDS];
/// Range of the smoothed level in dB below which a sound is steady. Words in noise as loud as they are have 4 and more.
const STEADY: f32 = 2.5;
/// Deviation in dB of the most variable group of bands, relative to the level, below which a sound is noise of one colour.
const ONE_COLOUR: f32 = 1.6;
/// Frames of spectra (10 ms, 25 ms wide) of the shortest sound within 25 dB of the loudest. Clicks and keys have less.
const SOUND: usize = 7;
/// Bins (40 Hz) that hold 99 % of the power of tones and chords; hummed words have 12 and more.
const LINES: usize = 8;
/// Score that neither chords and beeps nor bursts of noise have.
const SURE: f32 = 0.85;
/// Power of the loudest frames over that of the noise from which levels tell speech from noise: 35 dB.
const CLEAR: f64 = 3162.0;
/// Correlation of voiced sound with itself one pitch period later.
const VOICED: f32 = 0.6;

/// What a clip has instead of speech.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Background {
    /// Nothing above -65 dBFS.
    Silence,
    /// A constant value (DC offset) and nothing else.
    Constant,
    /// A tone below 200 Hz with its overtones.
    Hum,
    /// One or a few tones.
    Tone,
    /// Noise, clicks and everything else.
    Noise,
}

/// Where a clip has speech.
#[derive(Clone, Debug, PartialEq)]
pub struct SpeechActivity {
    /// Whether each frame of [`FRAME`] samples has speech; none has if the clip has no speech.
    pub frames: Vec<bool>,
    /// Mean score of the most speech-like 130 ms, from 0 to 1.
    pub score: f32,
    /// What the clip has instead of speech; `None` if it has speech.
    pub instead: Option<Background>,
    /// Level of the loudest 80 ms in dBFS, without DC offset.
    pub loudest_dbfs: f64,
}

impl SpeechActivity {
    /// Looks for speech in 16 kHz samples.
    pub fn of(samples: &[f32]) -> Self {
        Self::with(samples, &Spectra::of(samples), false)
    }

    /// With `quick`, the network stops when its verdict is certain, and where the rest of the speech is, is told by levels: the verdict is the
    /// same, and the frames nearly so.
    pub(in crate::audio) fn with(samples: &[f32], spectra: &Spectra, quick: bool) -> Self {
        let mean = mean(samples);
        let powers: Vec<f64> = samples.chunks(FRAME).map(|frame| power(frame, mean)).collect();
        let mut levels = powers.clone();
        levels.sort_by(|a, b| b.total_cmp(a));
        let loudest = levels.get(4).or(levels.last()).copied().unwrap_or(0.0);
        let loudest_dbfs = (10.0 * loudest.log10()).max(-120.0);
        if loudest_dbfs < SILENT {
            let instead = if f64::from(mean).abs() > 0.001 { Background::Constant } else { Background::Silence };
            return Self { frames: vec![false; levels.len()], score: 0.0, instead: Some(instead), loudest_dbfs };
        }
        // Where levels alone cannot tell speech from noise, only the network can.
        let noise = levels.get(levels.len() * 9 / 10).copied().unwrap_or(0.0).max(loudest * 1e-6);
        let quick = quick && loudest > noise * CLEAR;
        let mut scores = scores(samples, mean, (NOMINAL - loudest_dbfs).min(MOST_GAIN), quick);
        let score = sliding(&scores, WORD).fold(0.0, f32::max);
        if scores.len() < powers.len() {
            // 10 dB above the noise.
            scores.extend(powers.iter().skip(scores.len()).map(|power| if *power > 10.0 * noise { score } else { 0.0 }));
        }
        let changes = Changes::of(spectra);
        let long = samples.len() >= SAMPLE_RATE as usize / 2;
        let tones = changes.lines <= LINES && score < SURE;
        // A short clip may be cut out of the middle of a vowel.
        let steady = changes.level < STEADY && (long || score < CERTAIN);
        let noise = changes.colour < ONE_COLOUR && (score < CERTAIN || score < SURE && !voiced(samples, mean));
        let refused = score < LEAST || changes.longest < SOUND || tones || steady || noise;
        let varying = levels.iter().sum::<f64>() / levels.len() as f64;
        let instead = refused.then(|| match changes {
            _ if f64::from(mean).powi(2) > 100.0 * varying => Background::Constant,
            Changes { strongest: 0..=200, few: 0..=13, level, .. } if level < 1.0 => Background::Hum,
            Changes { few: 0..=8, level, .. } if level < 1.0 => Background::Tone,
            Changes { lines: 0..=LINES, .. } => Background::Tone,
            _ => Background::Noise,
        });
        let around = |at: usize| &scores[at.saturating_sub(1)..(at + 2).min(scores.len())];
        let spoken = |at: usize| around(at).iter().sum::<f32>() >= SPOKEN * score * around(at).len() as f32;
        let frames = (0..scores.len()).map(|at| !refused && spoken(at)).collect();
        Self { frames, score, instead, loudest_dbfs }
    }

    /// Frames from the first to the last one with speech; `None` if there is none.
    pub fn span(&self) -> Option<Range<usize>> {
        let spoken = |frame: &bool| *frame;
        Some(self.frames.iter().position(spoken)?..self.frames.iter().rposition(spoken)? + 1)
    }

    /// Signal-to-noise ratio in dB: power of the speech, without the noise in it, over the power of the noise between and around it. `None`
    /// if there are fewer than 160 ms without speech, or no speech.
    pub fn snr_db(&self, samples: &[f32]) -> Option<f64> {
        let frames: Vec<&[f32]> = samples.chunks_exact(FRAME).collect();
        let spoken = self.frames.get(..frames.len())?;
        let near = |at: usize, frames: usize| spoken[at.saturating_sub(frames)..(at + frames + 1).min(spoken.len())].contains(&true);
        // The ends of words are quiet and often not found, so noise is measured away from them, as far as the clip allows.
        let away = |distance: usize| -> Vec<&[f32]> { (0..frames.len()).filter(|at| !near(*at, distance)).map(|at| frames[at]).collect() };
        let quiet = [12, 8, 4].into_iter().map(away).find(|quiet| quiet.len() >= 10)?;
        // Voices are asymmetric: the mean of the whole clip is no offset of the noise.
        let offset = quiet.iter().map(|frame| mean(frame)).sum::<f32>() / quiet.len() as f32;
        let mut quiet: Vec<f64> = quiet.into_iter().map(|frame| power(frame, offset)).collect();
        quiet.sort_by(f64::total_cmp);
        // A click is no part of the noise.
        let middle = quiet[quiet.len() / 2];
        quiet.retain(|power| *power <= 3.0 * middle);
        let noise = (quiet.iter().sum::<f64>() / quiet.len() as f64).max(1e-10);
        let speech: Vec<f64> = (0..frames.len()).filter(|at| near(*at, 2)).map(|at| power(frames[at], offset) - noise).collect();
        let peak = speech.iter().copied().fold(0.0, f64::max);
        // Pauses within the speech are no speech.
        let least = (peak * 10_f64.powf(-2.5)).max(0.25 * noise);
        let (sum, number) = speech.iter().filter(|power| **power > least).fold((0.0, 0), |(sum, number), power| (sum + power, number + 1));
        if number == 0 {
            return None;
        }
        let found = 10.0 * (sum / f64::from(number) / noise).log10();
        // In loud noise only the loudest frames stand out, whose power is above that of the speech: by 2 dB at equal powers.
        Some(if found < 10.0 { found - 0.2 * (10.0 - found) } else { found })
    }

    /// Whether the detector found speech but is not sure of it.
    pub fn doubtful(&self) -> bool {
        self.instead.is_none() && self.score < DOUBTFUL
    }

    /// Seconds of speech.
    pub fn seconds(&self) -> f64 {
        (self.frames.iter().filter(|spoken| **spoken).count() * FRAME) as f64 / f64::from(SAMPLE_RATE)
    }

    /// What the clip has instead of speech, in words: `noise of -30 dBFS`; `None` if it has speech.
    pub fn absence(&self) -> Option<String> {
        let level = self.loudest_dbfs;
        Some(match self.instead? {
            Background::Silence => format!("silence: at most {level:.0} dBFS"),
            Background::Constant => "only a constant value, DC offset".to_owned(),
            Background::Hum => format!("hum of {level:.0} dBFS"),
            Background::Tone => format!("tones of {level:.0} dBFS"),
            Background::Noise => format!("noise of {level:.0} dBFS"),
        })
    }
}

/// Mean of the samples: their DC offset.
pub(in crate::audio) fn mean(samples: &[f32]) -> f32 {
    (samples.iter().map(|sample| f64::from(*sample)).sum::<f64>() / samples.len().max(1) as f64) as f32
}

/// Mean power of samples without their DC offset.
pub(in crate::audio) fn power(samples: &[f32], offset: f32) -> f64 {
    samples.iter().map(|sample| f64::from(sample - offset).powi(2)).sum::<f64>() / samples.len().max(1) as f64
}

/// The network's score of each frame, with the level changed by `gain` dB. With `quick`, the scores end where a word is certain.
fn scores(samples: &[f32], offset: f32, gain: f64, quick: bool) -> Vec<f32> {
    let gain = 10_f64.powf(gain / 20.0) as f32;
    let mut detector = Detector::default();
    let mut input = [0.0; FRAME];
    let mut scores: Vec<f32> = Vec::with_capacity(samples.len() / FRAME + 1);
    for frame in samples.chunks(FRAME) {
        input.fill(0.0);
        input.iter_mut().zip(frame).for_each(|(input, sample)| *input = ((sample - offset) * gain).clamp(-1.0, 1.0));
        scores.push(detector.predict_f32(&input));
        // A clip that is surely speech is refused for no score that follows.
        if quick && scores.len() >= WORD && scores[scores.len() - WORD..].iter().sum::<f32>() >= SURE * WORD as f32 {
            break;
        }
    }
    scores
}

/// Means of `width` consecutive values, or of all if there are fewer.
fn sliding(values: &[f32], width: usize) -> impl Iterator<Item = f32> {
    let width = width.min(values.len()).max(1);
    values.windows(width).map(move |window| window.iter().sum::<f32>() / width as f32)
}

/// How a sound changes over time, and how many tones it is made of.
#[derive(Debug)]
struct Changes {
    /// Range of the level in dB.
    level: f32,
    /// Deviation of the most variable group of bands relative to the level, in dB, in the most variable second.
    colour: f32,
    /// Frames of the longest stretch that is not far below the loudest frame.
    longest: usize,
    /// Bins that hold 90 % of the power.
    few: usize,
    /// Bins that hold 99 % of it.
    lines: usize,
    /// Frequency in Hz of the strongest bin.
    strongest: usize,
}

impl Changes {
    fn of(spectra: &Spectra) -> Self {
        let width = SMOOTH.min(spectra.bands.len()).max(1);
        let smooth: Vec<[f32; 7]> = spectra
            .bands
            .windows(width)
            .map(|frames| std::array::from_fn(|group| frames.iter().map(|bands| bands[GROUPS[group].clone()].iter().sum::<f32>()).sum()))
            .collect();
        let totals: Vec<f32> = smooth.iter().map(|groups| groups.iter().sum()).collect();
        let top = totals.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
        let decibel = |power: f32| 10.0 * power.max(1e-5).log10();
        let lowest = totals.iter().copied().fold(top, f32::min);
        // Quieter moments are room noise, whose colour differs from that of the sound.
        let loud: Vec<[f32; 7]> = smooth
            .iter()
            .zip(&totals)
            .filter(|(_, total)| decibel(**total / top) > -15.0)
            .map(|(groups, total)| groups.map(|power| decibel((power / total).max(1e-4))))
            .collect();
        let colour = (0..loud.len().saturating_sub(100).max(1))
            .step_by(25)
            .map(|from| &loud[from..(from + 100).min(loud.len())])
            .flat_map(|second| (0..7).map(move |group| deviation(second.iter().map(move |groups| groups[group]))))
            .fold(0.0, f32::max);
        let powers: Vec<f32> = spectra.bands.iter().map(|bands| bands.iter().sum()).collect();
        let peak = powers.iter().copied().fold(0.0, f32::max);
        let longest = powers.split(|power| *power < 0.003 * peak).map(<[f32]>::len).max().unwrap_or(0);
        // The lowest bins hold what is left of a DC offset.
        let mut bins: Vec<f32> = spectra.mean.get(1..).unwrap_or_default().to_vec();
        let strongest = bins.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(bin, _)| 40 * (bin + 1));
        bins.sort_by(|a, b| b.total_cmp(a));
        let all: f32 = bins.iter().sum();
        let holding = |share: f32| {
            let mut sum = 0.0;
            let more = |power: &&f32| {
                let more = sum < share * all;
                sum += **power;
                more
            };
            bins.iter().take_while(more).count()
        };
        Self { level: -decibel(lowest / top), colour, longest, few: holding(0.9), lines: holding(0.99), strongest }
    }
}

fn deviation(values: impl Iterator<Item = f32> + Clone) -> f32 {
    let number = values.clone().count().max(1) as f32;
    let mean = values.clone().sum::<f32>() / number;
    (values.map(|value| (value - mean).powi(2)).sum::<f32>() / number).sqrt()
}

/// Whether any of the loud parts of a sound repeats itself with a pitch of 60 to 400 Hz.
fn voiced(samples: &[f32], offset: f32) -> bool {
    const WINDOW: usize = 800;
    let top = samples.chunks(WINDOW).map(|window| power(window, offset)).fold(0.0, f64::max);
    samples.windows(2 * WINDOW).step_by(WINDOW / 2).any(|part| {
        let part: Vec<f32> = part.iter().map(|sample| sample - offset).collect();
        let energy = |from: usize| part[from..from + WINDOW].iter().map(|sample| sample * sample).sum::<f32>();
        let first = energy(0);
        if f64::from(first) < 0.1 * top * WINDOW as f64 {
            return false;
        }
        (40..=266).any(|lag| {
            let product = part[..WINDOW].iter().zip(&part[lag..]).map(|(a, b)| a * b).sum::<f32>();
            product > VOICED * (first * energy(lag)).sqrt()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::speech_like::speech_like;
    use super::*;
    use std::f64::consts::TAU;

    fn sound(seconds: f64, sample: impl FnMut(f64) -> f64) -> Vec<f32> {
        let rate = f64::from(SAMPLE_RATE);
        (0..(seconds * rate) as usize).map(|n| n as f64 / rate).map(sample).map(|sample| sample as f32).collect()
    }

    /// White noise within ±1.
    fn hiss() -> impl FnMut() -> f64 {
        let mut state = 0x1234_5678_9abc_def0_u64;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
        }
    }

    /// Noise whose power falls with the frequency: by 3 dB (pink) or 6 dB (brown) per octave.
    fn coloured(seconds: f64, level: f64, brown: bool) -> Vec<f32> {
        let (mut white, mut slow) = (hiss(), [0.0; 4]);
        sound(seconds, |_| {
            let drive = white();
            for (state, keep) in slow.iter_mut().zip([0.998, 0.98, 0.9, 0.5]) {
                *state = keep * *state + (1.0 - keep) * drive * if brown { 1.0 } else { (1.0_f64 - keep).powf(-0.5) };
            }
            level * if brown { 6.0 * slow[1] } else { slow.iter().sum::<f64>() }
        })
    }

    fn mixed(a: &[f32], b: &[f32]) -> Vec<f32> {
        a.iter().zip(b).map(|(a, b)| a + b).collect()
    }

    /// Human speech: the words of the first run, as files of the repository.
    fn words() -> Vec<(String, Vec<f32>)> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../datasets/words/clips");
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.iter().map(|file| (file.display().to_string(), crate::audio::load(file).unwrap())).collect()
    }

    #[test]
    fn a_word_is_found_and_a_noise_is_none() {
        let tone = |hertz: f64, level: f64| sound(2.0, move |time| level * (TAU * hertz * time).sin());
        let hum = |hertz: f64, overtones: &[f64]| {
            sound(2.5, |time| overtones.iter().zip(1..).map(|(level, n)| level * (TAU * hertz * f64::from(n) * time).sin()).sum())
        };
        let burst = |every: f64, length: f64, level: f64| {
            let mut white = hiss();
            sound(3.0, move |time| if time % every < length { level * white() * (1.0 - time % every / length) } else { 1e-4 * white() })
        };
        let white = |level: f64| {
            let mut white = hiss();
            sound(2.5, move |_| level * white())
        };
        let slowly = |sound: Vec<f32>| -> Vec<f32> {
            sound.iter().enumerate().map(|(n, sample)| sample * (1.0 + 0.8 * (n as f32 / 4000.0).sin())).collect()
        };
        let silence = |level: f64| sound(2.0, move |_| level);
        let nothing = [
            ("silence", silence(0.0), Background::Silence),
            ("DC", silence(0.2), Background::Constant),
            ("negative DC", silence(-0.9), Background::Constant),
            ("DC and hiss", mixed(&silence(0.3), &white(0.004)), Background::Constant),
            ("white noise", white(0.5), Background::Noise),
            ("quiet white noise", white(0.01), Background::Noise),
            ("pink noise", coloured(3.0, 0.1, false), Background::Noise),
            ("brown noise", coloured(3.0, 0.3, true), Background::Noise),
            ("swelling noise", slowly(white(0.1)), Background::Noise),
            ("hum", hum(50.0, &[0.1]), Background::Hum),
            ("hum with overtones", hum(50.0, &[0.1, 0.05, 0.06, 0.0, 0.03]), Background::Hum),
            ("American hum", hum(60.0, &[0.05, 0.1, 0.02, 0.04]), Background::Hum),
            ("hum and hiss", mixed(&hum(50.0, &[0.1, 0.02]), &white(0.002)), Background::Hum),
            ("a tone", tone(440.0, 0.3), Background::Tone),
            ("a low tone", tone(300.0, 0.1), Background::Tone),
            ("a high tone", tone(3000.0, 0.5), Background::Tone),
            ("two tones", mixed(&tone(697.0, 0.2), &tone(1209.0, 0.2)), Background::Tone),
            ("beeps", sound(3.0, |time| if time % 0.6 < 0.3 { 0.3 * (TAU * 800.0 * time).sin() } else { 0.0 }), Background::Tone),
            ("clicks", burst(0.5, 0.003, 0.8), Background::Noise),
            ("typing", burst(0.17, 0.02, 0.3), Background::Noise),
        ];
        for (name, samples, instead) in &nothing {
            let activity = SpeechActivity::of(samples);
            assert_eq!(activity.instead, Some(*instead), "{name}: {:?}", activity.absence());
            assert!(activity.seconds() == 0.0 && activity.span().is_none() && activity.snr_db(samples).is_none(), "{name}");
        }
        let room = coloured(10.0, 0.003, false);
        for (name, word) in words() {
            let found = SpeechActivity::of(&word);
            assert!(found.instead.is_none() && found.seconds() > 0.08, "{name}: {:?}", found.absence());
            // Quiet, with DC, and in a long take.
            let quiet: Vec<f32> = word.iter().map(|sample| 0.05 * sample).collect();
            assert!(SpeechActivity::of(&quiet).instead.is_none(), "{name}, quiet");
            let offset: Vec<f32> = word.iter().map(|sample| 0.4 * sample + 0.3).collect();
            assert!(SpeechActivity::of(&offset).instead.is_none(), "{name}, with DC");
            let mut take = room.clone();
            take.iter_mut().skip(60_000).zip(&word).for_each(|(room, sample)| *room += sample);
            let found = SpeechActivity::of(&take);
            let at = found.span().map(|span| span.start * FRAME..span.end * FRAME);
            assert!(
                at.as_ref().is_some_and(|at| at.start.abs_diff(60_000) < 8_000 && at.end < 60_000 + word.len() + 8_000),
                "{name}: {at:?}"
            );
        }
    }

    #[test]
    fn a_word_is_found_in_noise() {
        for (name, word) in words().iter().step_by(3) {
            let loud = 2.0 * power(word, 0.0).sqrt();
            for (colour, decibel) in [(false, 20.0), (false, 10.0), (false, 5.0), (true, 10.0), (true, 5.0)] {
                let noise = coloured(word.len() as f64 / 16_000.0, 1.0, colour);
                let level = loud / power(&noise, 0.0).sqrt() * 10_f64.powf(-decibel / 20.0);
                let noise: Vec<f32> = noise.iter().map(|sample| sample * level as f32).collect();
                let found = SpeechActivity::of(&mixed(word, &noise));
                assert!(found.instead.is_none(), "{name} in noise at {decibel} dB: {:?} {}", found.absence(), found.score);
            }
        }
    }

    #[test]
    fn a_quick_look_gives_the_same_verdict() {
        let mut sure = 0;
        for (number, (name, word)) in words().iter().enumerate() {
            let noise = coloured(word.len() as f64 / 16_000.0, 0.02 * (number % 3) as f64, number % 2 == 0);
            // Silence before and after it, in which the noise is told.
            let take = [vec![0.0; 4_000], mixed(word, &noise), vec![0.0; 4_000]].concat();
            let (quick, thorough) = (SpeechActivity::with(&take, &Spectra::of(&take), true), SpeechActivity::of(&take));
            assert_eq!((quick.instead, quick.frames.len()), (thorough.instead, thorough.frames.len()), "{name}");
            assert!(quick.score == thorough.score || quick.score >= SURE, "{name}");
            sure += usize::from(quick.score != thorough.score);
        }
        assert!(sure > 5, "{sure}: it was quick for some");
    }

    #[test]
    fn the_signal_to_noise_ratio_is_that_of_the_mixture() {
        let mut wrong = Vec::new();
        let words = words();
        for (name, word) in words.iter().step_by(5) {
            let speech: Vec<f32> = [vec![0.0; 8_000], word.clone(), vec![0.0; 8_000]].concat();
            // The power of the speech is that of its frames that are not pauses.
            let powers: Vec<f64> = speech.chunks(FRAME).map(|frame| power(frame, 0.0)).collect();
            let peak = powers.iter().copied().fold(0.0, f64::max);
            let spoken: Vec<f64> = powers.into_iter().filter(|power| *power > peak * 10_f64.powf(-2.5)).collect();
            let signal = spoken.iter().sum::<f64>() / spoken.len() as f64;
            let seconds = speech.len() as f64 / f64::from(SAMPLE_RATE);
            let mut white = hiss();
            let noises = [sound(seconds, |_| white()), coloured(seconds, 1.0, false), coloured(seconds, 1.0, true)];
            for (noise, kind) in noises.iter().zip(["white", "pink", "brown"]) {
                for decibel in [0.0, 5.0, 10.0, 20.0, 30.0, 40.0] {
                    let level = (signal / power(noise, mean(noise))).sqrt() * 10_f64.powf(-decibel / 20.0);
                    let noise: Vec<f32> = noise.iter().map(|sample| sample * level as f32).collect();
                    let mixture = mixed(&speech, &noise);
                    let found = SpeechActivity::of(&mixture).snr_db(&mixture);
                    if !found.is_some_and(|found| (found - decibel).abs() < 3.0) {
                        wrong.push(format!("{kind} {decibel} dB, {name}: {found:?}"));
                    }
                }
            }
        }
        assert!(wrong.len() <= 12, "{} of 630: {}", wrong.len(), wrong.join("\n"));
    }

    #[test]
    fn synthetic_speech_of_the_tests_counts_as_speech() {
        for seed in 0..300 {
            let activity = SpeechActivity::of(&speech_like(1.0, seed));
            assert!(activity.instead.is_none(), "seed {seed}: {:?}", activity.absence());
        }
    }
}
