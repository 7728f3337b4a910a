//! Audio quality of a clip: its measurements, the limits they are held against, and the rating of a recorded take with its reasons.
//!
//! The recorder rates a take right after it was recorded, and the `dataset` stage checks every clip; both measure with [`Measurements`] and
//! judge by [`LIMITS`].

mod waveform;

use super::speech::fingerprint::AudioFingerprint;
use super::speech::spectra::Spectra;
use super::speech::{FRAME, SpeechActivity, mean, power};
use super::{SAMPLE_RATE, resample};
use crate::error::Result;
use serde::Serialize;
use waveform::Waveform;

/// Lowest reported level in dBFS, so that digital silence is a finite number.
const FLOOR: f64 = -120.0;

/// A measured quantity beyond which a clip is doubtful, or unusable as a take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QualityLimit {
    /// The limit.
    pub value: f64,
    /// The reason for it.
    pub why: &'static str,
}

/// The limits of audio quality, for the recorder and for datasets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QualityLimits {
    /// Shortest take in seconds.
    pub min_seconds: QualityLimit,
    /// Longest take in seconds.
    pub max_seconds: QualityLimit,
    /// Level of the speech in dBFS below which it is very quiet.
    pub quiet_dbfs: QualityLimit,
    /// Share of samples in flat tops above which a clip is clipped in places.
    pub clipped: QualityLimit,
    /// Share of samples in flat tops above which a take is unusable.
    pub far_too_loud: QualityLimit,
    /// DC offset, where 1 is full scale.
    pub dc_offset: QualityLimit,
    /// Signal-to-noise ratio in dB below which a clip is noisy.
    pub snr_db: QualityLimit,
    /// Number of gaps in the sound from which on packets were lost.
    pub dropouts: QualityLimit,
    /// Frequency in Hz above which a telephone transmits nothing.
    pub telephone_hz: QualityLimit,
    /// Seconds before the speech below which its beginning may be missing.
    pub cut_off_seconds: QualityLimit,
    /// Seconds before the speech above which the clip is mostly silence.
    pub lead_seconds: QualityLimit,
    /// Most letters a second of a person who reads.
    pub fast: QualityLimit,
    /// Fewest letters a second of a person who reads.
    pub slow: QualityLimit,
    /// Letters a second that nobody can speak.
    pub impossible: QualityLimit,
}

/// The limits, with their reasons.
pub const LIMITS: QualityLimits = QualityLimits {
    min_seconds: QualityLimit { value: 0.3, why: "the shortest words have 0.2 s, and a take has something before and after them" },
    max_seconds: QualityLimit { value: 30.0, why: "the model hears 30 s at once" },
    quiet_dbfs: QualityLimit { value: -40.0, why: "16 bits leave 50 dB below it; quieter speech drowns in the noise of most microphones" },
    clipped: QualityLimit { value: 0.0002, why: "some waves of a vowel are cut off; it is hardly heard, and a lower gain avoids it" },
    far_too_loud: QualityLimit { value: 0.01, why: "it is heard as distortion in all loud vowels" },
    dc_offset: QualityLimit { value: 0.01, why: "-40 dBFS: a fault of the device, inaudible, but it takes headroom" },
    snr_db: QualityLimit { value: 20.0, why: "below it, faint consonants are at the level of the noise" },
    dropouts: QualityLimit { value: 1.0, why: "a gap of 12 ms within a sound is heard as a click, and no microphone makes one" },
    telephone_hz: QualityLimit { value: 3600.0, why: "s and f, which differ above it, sound alike" },
    cut_off_seconds: QualityLimit { value: 0.02, why: "a plosive is that long" },
    lead_seconds: QualityLimit { value: 2.0, why: "a third of a second is needed; the rest is trained on as silence" },
    fast: QualityLimit { value: 30.0, why: "fast readers have 20 in English and 25 in Spanish" },
    slow: QualityLimit { value: 2.0, why: "single words and Chinese have 3 and more" },
    impossible: QualityLimit { value: 60.0, why: "the fastest speakers have 35: text and sound do not belong together" },
};

/// What is measured on a clip.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurements {
    /// Length in seconds.
    pub seconds: f64,
    /// Peak level in dBFS, without DC offset.
    pub peak_dbfs: f64,
    /// RMS level of the whole clip in dBFS, without DC offset.
    pub rms_dbfs: f64,
    /// RMS level of the speech in dBFS; that of the whole clip if it has none.
    pub speech_dbfs: f64,
    /// DC offset, where 1 is full scale.
    pub dc_offset: f64,
    /// Samples in flat tops.
    pub clipped: usize,
    /// Share of the samples in flat tops.
    pub clipped_share: f64,
    /// Gaps in the sound, in seconds each.
    pub dropouts: Vec<f64>,
    /// Signal-to-noise ratio in dB; `None` if the clip has too little without speech to tell.
    pub snr_db: Option<f64>,
    /// Whether nothing is above the frequencies that a telephone transmits.
    pub telephone: bool,
    /// Seconds before the speech.
    pub lead_silence: f64,
    /// Seconds after the speech.
    pub trail_silence: f64,
    /// Where the speech is, or what there is instead.
    pub speech: SpeechActivity,
    /// Fingerprint by which the same recording is found again.
    pub fingerprint: AudioFingerprint,
}

impl Measurements {
    /// Measures a dataset clip: 16 kHz samples.
    pub fn of(samples: &[f32]) -> Self {
        Self::with(&Waveform::of(samples, SAMPLE_RATE), samples, (samples.len(), SAMPLE_RATE), false)
    }

    /// Measures a dataset clip as [`Measurements::of`], in about half the time: once it is certain that a clip has speech, where the rest of it
    /// is, is told by levels. The signal-to-noise ratio may differ by some dB.
    pub fn quick(samples: &[f32]) -> Self {
        Self::with(&Waveform::of(samples, SAMPLE_RATE), samples, (samples.len(), SAMPLE_RATE), true)
    }

    /// Measures a recording at its own sample rate in Hz: levels, clipping and gaps before it is resampled.
    pub fn of_recording(samples: &[f32], rate: u32) -> Result<Self> {
        let waveform = Waveform::of(samples, rate);
        let offset = waveform.dc_offset as f32;
        let at_16k = resample(samples.iter().map(|sample| sample - offset).collect(), rate)?;
        Ok(Self::with(&waveform, &at_16k, (samples.len(), rate), false))
    }

    fn with(waveform: &Waveform, samples: &[f32], (recorded, rate): (usize, u32), quick: bool) -> Self {
        let spectra = Spectra::of(samples);
        let speech = SpeechActivity::with(samples, &spectra, quick);
        let seconds = recorded as f64 / f64::from(rate);
        let offset = mean(samples);
        let (sum, number) = samples
            .chunks(FRAME)
            .zip(&speech.frames)
            .filter(|(_, spoken)| **spoken)
            .fold((0.0, 0_usize), |(sum, number), (frame, _)| (sum + power(frame, offset), number + 1));
        let frames = |number: usize| (number * FRAME) as f64 / f64::from(SAMPLE_RATE);
        let (lead, trail) = match speech.span() {
            Some(span) => (frames(span.start), (seconds - frames(span.end)).max(0.0)),
            None => (seconds, seconds),
        };
        Self {
            seconds,
            peak_dbfs: dbfs(waveform.peak),
            rms_dbfs: dbfs(waveform.rms),
            speech_dbfs: if number > 0 { dbfs((sum / number as f64).sqrt()) } else { dbfs(waveform.rms) },
            dc_offset: waveform.dc_offset,
            clipped: waveform.clipped,
            clipped_share: waveform.clipped as f64 / recorded.max(1) as f64,
            dropouts: waveform.dropouts.clone(),
            snr_db: speech.snr_db(samples),
            telephone: rate <= 8_000 || spectra.telephone(),
            lead_silence: lead,
            trail_silence: trail,
            fingerprint: AudioFingerprint::of(&spectra),
            speech,
        }
    }

    /// Letters and digits of the transcript per second, from the beginning of the speech to its end.
    pub fn chars_per_second(&self, text: &str) -> f64 {
        let letters = text.chars().filter(|character| character.is_alphanumeric()).count() as f64;
        letters / (self.seconds - self.lead_silence - self.trail_silence).max(0.1)
    }
}

/// Measurements and rating of a take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClipQuality {
    /// Length in seconds.
    pub seconds: f64,
    /// Peak level in dBFS, without DC offset.
    pub peak_dbfs: f64,
    /// RMS level of the whole take in dBFS, without DC offset.
    pub rms_dbfs: f64,
    /// RMS level of the speech in dBFS; that of the whole take if it has none.
    pub speech_dbfs: f64,
    /// DC offset, where 1 is full scale.
    pub dc_offset: f64,
    /// Number of clipped samples: those in flat tops.
    pub clipped: usize,
    /// Number of gaps in the sound.
    pub dropouts: usize,
    /// Signal-to-noise ratio in dB; `None` if there is too little without speech to tell.
    pub snr_db: Option<f64>,
    /// Seconds of speech.
    pub speech_seconds: f64,
    /// Silence before the speech, in seconds.
    pub lead_silence: f64,
    /// Silence after the speech, in seconds.
    pub trail_silence: f64,
    /// Letters of the sentence per second of speech.
    pub chars_per_second: f64,
    /// Overall rating.
    pub verdict: QualityVerdict,
    /// Reasons for the rating, in words; empty if the take is good.
    pub reasons: Vec<String>,
}

/// Rating of a take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum QualityVerdict {
    /// Good.
    Ok,
    /// Usable, but a new take may be better.
    Warn,
    /// Unusable for training.
    Reject,
}

impl ClipQuality {
    /// Measures and rates the 16 kHz samples of a speaker reading `text`.
    pub fn of(samples: &[f32], text: &str) -> Self {
        Self::rated(&Measurements::of(samples), text)
    }

    /// Measures and rates a recording at its own sample rate in Hz.
    pub fn of_recording(samples: &[f32], rate: u32, text: &str) -> Result<Self> {
        Ok(Self::rated(&Measurements::of_recording(samples, rate)?, text))
    }

    fn rated(measured: &Measurements, text: &str) -> Self {
        let reasons = reasons(measured, text);
        Self {
            seconds: hundredths(measured.seconds),
            peak_dbfs: hundredths(measured.peak_dbfs),
            rms_dbfs: hundredths(measured.rms_dbfs),
            speech_dbfs: hundredths(measured.speech_dbfs),
            dc_offset: (measured.dc_offset * 1e4).round() / 1e4,
            clipped: measured.clipped,
            dropouts: measured.dropouts.len(),
            snr_db: measured.snr_db.map(hundredths),
            speech_seconds: hundredths(measured.speech.seconds()),
            lead_silence: hundredths(measured.lead_silence),
            trail_silence: hundredths(measured.trail_silence),
            chars_per_second: hundredths(measured.chars_per_second(text)),
            verdict: reasons.iter().map(|(verdict, _)| *verdict).max().unwrap_or(QualityVerdict::Ok),
            reasons: reasons.into_iter().map(|(_, reason)| reason).collect(),
        }
    }
}

/// What is wrong with a take, for the person who recorded it.
fn reasons(measured: &Measurements, text: &str) -> Vec<(QualityVerdict, String)> {
    use super::speech::Background::{Constant, Silence};
    use QualityVerdict::{Reject, Warn};
    let limits = &LIMITS;
    let (seconds, clipped) = (measured.seconds, measured.clipped_share);
    let microphone = "check that the right microphone is selected and switched on";
    let mut rules = vec![
        (seconds < limits.min_seconds.value, Reject, format!("too short: {seconds:.1} s")),
        (seconds > limits.max_seconds.value, Reject, format!("too long: {seconds:.0} s; the limit is {} s", limits.max_seconds.value)),
    ];
    if let Some(absence) = measured.speech.absence() {
        let reason = match measured.speech.instead {
            Some(Silence | Constant) => format!("silent: {microphone}"),
            _ => format!("no speech, only {absence}: {microphone}"),
        };
        rules.push((true, Reject, reason));
    } else {
        let rate = measured.chars_per_second(text);
        let far_too_loud = clipped > limits.far_too_loud.value;
        let dropouts = measured.dropouts.len();
        let lost = measured.dropouts.iter().sum::<f64>() * 1000.0;
        let lead = measured.lead_silence;
        let snr = measured.snr_db.unwrap_or(f64::INFINITY);
        let quiet = measured.speech_dbfs < limits.quiet_dbfs.value;
        let loud = "far too loud: the audio is clipped; move away from the microphone or lower its gain";
        rules.extend([
            (measured.speech.doubtful(), Warn, "hardly any speech was recognized: listen to it".to_owned()),
            (far_too_loud, Reject, loud.to_owned()),
            (
                !far_too_loud && clipped > limits.clipped.value,
                Warn,
                "too loud in places; move a little away from the microphone".to_owned(),
            ),
            (quiet, Warn, "very quiet; move closer to the microphone or raise its gain".to_owned()),
            (snr < limits.snr_db.value, Warn, format!("noisy: speech is only {snr:.0} dB louder than the background")),
            (
                dropouts as f64 >= limits.dropouts.value,
                Warn,
                format!("{dropouts} gaps in the sound ({lost:.0} ms in all): close other programs"),
            ),
            (
                measured.telephone,
                Warn,
                "sounds like a telephone: nothing above 3.6 kHz; choose another microphone, or one with a cable".to_owned(),
            ),
            (lead < limits.cut_off_seconds.value, Warn, "starts immediately: the first sound may be cut off".to_owned()),
            (lead > limits.lead_seconds.value, Warn, format!("{lead:.1} s of silence before the speech")),
            (measured.trail_silence < limits.cut_off_seconds.value, Warn, "ends immediately: the last sound may be cut off".to_owned()),
            (rate > limits.fast.value, Warn, "very fast for this sentence: was it read completely?".to_owned()),
            (rate < limits.slow.value, Warn, "very slow for this sentence: does it contain a long pause?".to_owned()),
        ]);
    }
    if measured.dc_offset.abs() > limits.dc_offset.value {
        let percent = measured.dc_offset.abs() * 100.0;
        rules.push((true, Warn, format!("the device adds a constant value (DC offset of {percent:.0} %); it is inaudible, but a fault")));
    }
    rules.into_iter().filter(|(holds, _, _)| *holds).map(|(_, verdict, reason)| (verdict, reason)).collect()
}

fn dbfs(amplitude: f64) -> f64 {
    (20.0 * amplitude.log10()).max(FLOOR)
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::speech::speech_like::speech_like;

    /// Speech between pauses, over hiss: the peak of the one and the amplitude of the other.
    fn take(peak: f32, hiss: f32, seconds: f64, pause: f64) -> Vec<f32> {
        at_rate(peak, hiss, seconds, pause, SAMPLE_RATE)
    }

    fn at_rate(peak: f32, hiss: f32, seconds: f64, pause: f64, rate: u32) -> Vec<f32> {
        let quiet = vec![0.0; (pause * f64::from(SAMPLE_RATE)) as usize];
        let speech = speech_like((seconds - 2.0 * pause).max(0.0), 3);
        let take = [quiet.clone(), speech.iter().map(|sample| 2.0 * peak * sample).collect(), quiet].concat();
        let take = if rate == SAMPLE_RATE { take } else { upsampled(&take, rate) };
        let mut state = 1_u32;
        take.into_iter()
            .map(|sample| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (sample + hiss * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0)).clamp(-1.0, 1.0)
            })
            .collect()
    }

    /// The samples at a higher rate, by straight lines.
    fn upsampled(samples: &[f32], rate: u32) -> Vec<f32> {
        let step = f64::from(SAMPLE_RATE) / f64::from(rate);
        let at = |place: f64| {
            let (whole, part) = (place as usize, place.fract() as f32);
            samples[whole] * (1.0 - part) + samples.get(whole + 1).unwrap_or(&samples[whole]) * part
        };
        (0..(samples.len() as f64 / step) as usize).map(|n| at(n as f64 * step)).collect()
    }

    #[test]
    fn takes_are_judged_and_the_reason_is_said() {
        let text = "The baker lights the oven.";
        let mut lost = take(0.2, 0.0005, 2.5, 0.3);
        (1..8).for_each(|packet| lost[packet * 4_500..packet * 4_500 + 320].fill(0.0));
        let offset: Vec<f32> = take(0.2, 0.0005, 2.5, 0.3).iter().map(|sample| sample + 0.3).collect();
        let attenuated: Vec<f32> = take(3.0, 0.0, 2.5, 0.3).iter().map(|sample| 0.2 * sample).collect();
        let one_word: Vec<f32> = [take(0.0, 0.001, 1.5, 0.3), take(0.2, 0.001, 0.9, 0.3), take(0.0, 0.001, 12.0, 0.3)].concat();
        let rows: [(Vec<f32>, &str, QualityVerdict, &str); 15] = [
            (take(0.3, 0.0005, 2.5, 0.3), text, QualityVerdict::Ok, ""),
            (one_word, "Yes.", QualityVerdict::Ok, ""),
            (take(0.0, 0.0, 2.0, 0.3), text, QualityVerdict::Reject, "silent"),
            (vec![0.2; 32_000], text, QualityVerdict::Reject, "silent"),
            (take(0.0, 0.1, 2.0, 0.3), text, QualityVerdict::Reject, "no speech, only noise of -24 dBFS: check"),
            (take(0.2, 0.0005, 0.2, 0.0), text, QualityVerdict::Reject, "too short"),
            (take(0.2, 0.0005, 31.0, 0.3), text, QualityVerdict::Reject, "too long"),
            (take(3.0, 0.0005, 2.5, 0.3), text, QualityVerdict::Reject, "far too loud"),
            (attenuated, text, QualityVerdict::Reject, "far too loud"),
            (take(0.015, 0.0001, 2.5, 0.3), text, QualityVerdict::Warn, "very quiet"),
            (take(0.2, 0.03, 2.5, 0.6), text, QualityVerdict::Warn, "noisy: speech is only"),
            (take(0.2, 0.0005, 0.9, 0.3), text, QualityVerdict::Warn, "very fast"),
            (take(0.2, 0.0005, 8.0, 2.8), text, QualityVerdict::Warn, "s of silence before the speech"),
            (lost, text, QualityVerdict::Warn, "gaps in the sound"),
            (offset, text, QualityVerdict::Warn, "DC offset of 30 %"),
        ];
        for (samples, text, verdict, reason) in rows {
            let quality = ClipQuality::of(&samples, text);
            assert_eq!(quality.verdict, verdict, "{reason}: {quality:?}");
            assert!(quality.reasons.iter().any(|found| found.contains(reason)) || reason.is_empty(), "{reason}: {quality:?}");
            assert_eq!(quality.reasons.is_empty(), verdict == QualityVerdict::Ok);
        }
        let quality = ClipQuality::of(&take(0.3, 0.0005, 2.5, 0.3), text);
        assert!((quality.lead_silence - 0.3).abs() < 0.08 && (quality.trail_silence - 0.3).abs() < 0.08, "{quality:?}");
        assert!((quality.chars_per_second - 21.0 / 1.9).abs() < 0.8, "{quality:?}");
        assert_eq!(ClipQuality::of(&[], text).verdict, QualityVerdict::Reject);
    }

    #[test]
    fn a_take_is_measured_at_its_own_rate() {
        let text = "The baker lights the oven.";
        let clean = at_rate(0.3, 0.002, 2.5, 0.3, 48_000);
        let quality = ClipQuality::of_recording(&clean, 48_000, text).unwrap();
        assert_eq!(quality.verdict, QualityVerdict::Ok, "{quality:?}");
        assert_eq!(quality.seconds, 2.5);
        // Flat tops that resampling would round, at half of full scale.
        let clipped: Vec<f32> = at_rate(0.6, 0.002, 2.5, 0.3, 48_000).iter().map(|sample| sample.clamp(-0.4, 0.4)).collect();
        let quality = ClipQuality::of_recording(&clipped, 48_000, text).unwrap();
        assert!(quality.clipped > 100, "{quality:?}");
        let telephone = resample(at_rate(0.3, 0.002, 2.5, 0.3, 48_000), 48_000).unwrap();
        let telephone: Vec<f32> = telephone.chunks_exact(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
        let quality = ClipQuality::of_recording(&telephone, 8_000, text).unwrap();
        assert!(quality.reasons.iter().any(|reason| reason.contains("telephone")), "{quality:?}");
        let quality = ClipQuality::of(&resample(telephone, 8_000).unwrap(), text);
        assert!(quality.reasons.iter().any(|reason| reason.contains("telephone")), "{quality:?}");
    }
}
