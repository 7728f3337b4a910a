//! What a take is like, for somebody who has just read a sentence aloud: measured at once, judged, and said in words.

use super::SAMPLE_RATE;
use serde::Serialize;

/// Levels are measured in pieces this long.
const FRAME: usize = SAMPLE_RATE as usize / 50;
/// Decibels that no silence falls below, so that it can be written as a number.
const FLOOR: f64 = -120.0;
/// Full scale and the step below it: where a microphone that is too loud ends up.
const CLIPPED: f32 = 32_766.0 / 32_768.0;

/// A take in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClipQuality {
    /// How long it is.
    pub seconds: f64,
    /// The loudest sample.
    pub peak_dbfs: f64,
    /// The level of all of it.
    pub rms_dbfs: f64,
    /// Samples at full scale.
    pub clipped: usize,
    /// How far speech is above what is heard between words.
    pub snr_db: f64,
    /// Seconds before the speech.
    pub lead_silence: f64,
    /// Seconds after it.
    pub trail_silence: f64,
    /// Letters of the sentence for each second of speech.
    pub chars_per_second: f64,
    /// What to do with it.
    pub verdict: QualityVerdict,
    /// Why, in words; empty if all is well.
    pub reasons: Vec<String>,
}

/// Whether a take will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum QualityVerdict {
    /// As it should be.
    Ok,
    /// It can be used; another may be better.
    Warn,
    /// Nobody could learn from it.
    Reject,
}

impl ClipQuality {
    /// Measures 16 kHz samples of somebody who read this text.
    pub fn of(samples: &[f32], text: &str) -> Self {
        let seconds = samples.len() as f64 / f64::from(SAMPLE_RATE);
        let peak = samples.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
        let levels: Vec<f64> = samples.chunks(FRAME).map(|frame| dbfs(rms(frame))).collect();
        let mut sorted = levels.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted.get((share * sorted.len() as f64) as usize).copied().unwrap_or(FLOOR);
        let (noise, speech) = (at(0.1), at(0.9));
        // Speech is what is nearer to the loud parts than to the quiet ones.
        let threshold = (noise + speech) / 2.0;
        let spoken = |level: &f64| *level > threshold.max(-55.0);
        let frame = FRAME as f64 / f64::from(SAMPLE_RATE);
        let lead = levels.iter().position(spoken).unwrap_or(levels.len()) as f64 * frame;
        let trail = levels.iter().rev().position(spoken).unwrap_or(levels.len()) as f64 * frame;
        let letters = text.chars().filter(|character| character.is_alphanumeric()).count() as f64;
        let mut quality = Self {
            seconds: hundredths(seconds),
            peak_dbfs: hundredths(dbfs(f64::from(peak))),
            rms_dbfs: hundredths(dbfs(rms(samples))),
            clipped: samples.iter().filter(|sample| sample.abs() >= CLIPPED).count(),
            snr_db: hundredths(speech - noise),
            lead_silence: hundredths(lead.min(seconds)),
            trail_silence: hundredths(trail.min(seconds)),
            chars_per_second: hundredths(letters / (seconds - lead - trail).max(0.1)),
            verdict: QualityVerdict::Ok,
            reasons: Vec::new(),
        };
        quality.judge(samples.len());
        quality
    }

    fn judge(&mut self, samples: usize) {
        use QualityVerdict::{Reject, Warn};
        let clipped = self.clipped as f64 / samples.max(1) as f64;
        let silent = self.peak_dbfs < -45.0 || self.rms_dbfs < -60.0;
        let rules = [
            (self.seconds < 0.3, Reject, format!("too short: {:.1} s", self.seconds)),
            (self.seconds > 30.0, Reject, format!("too long: {:.0} s; at most 30 s can be used", self.seconds)),
            (silent, Reject, "silent: nothing was heard; is the microphone on, and the right one?".to_owned()),
            (clipped > 0.01, Reject, "far too loud: the sound is cut off; go back from the microphone or turn it down".to_owned()),
            (clipped > 0.0002 && clipped <= 0.01, Warn, "too loud in places; go a little back from the microphone".to_owned()),
            (!silent && self.rms_dbfs < -40.0, Warn, "very quiet; come nearer to the microphone or turn it up".to_owned()),
            (!silent && self.snr_db < 15.0, Warn, "noisy: speech is hardly louder than what is around it".to_owned()),
            (!silent && self.lead_silence < 0.02, Warn, "begins at once: the first sound may be cut off".to_owned()),
            (!silent && self.trail_silence < 0.02, Warn, "ends at once: the last sound may be cut off".to_owned()),
            (!silent && self.chars_per_second > 28.0, Warn, "very fast for this sentence: was all of it read?".to_owned()),
            (!silent && self.chars_per_second < 2.5, Warn, "very slow for this sentence: is there a long pause in it?".to_owned()),
        ];
        for (holds, verdict, reason) in rules {
            if holds {
                self.verdict = self.verdict.max(verdict);
                self.reasons.push(reason);
            }
        }
    }
}

fn rms(samples: &[f32]) -> f64 {
    (samples.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / samples.len().max(1) as f64).sqrt()
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

    /// A tone of an amplitude between pauses, over a hiss of another.
    fn take(amplitude: f32, hiss: f32, seconds: f64, pause: f64) -> Vec<f32> {
        let rate = f64::from(SAMPLE_RATE);
        let mut state = 1_u32;
        (0..(seconds * rate) as usize)
            .map(|at| {
                let time = at as f64 / rate;
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let noise = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
                let spoken = time >= pause && time < seconds - pause;
                let tone = if spoken { amplitude * (time * 1500.0).sin() as f32 } else { 0.0 };
                (tone + hiss * noise).clamp(-1.0, 1.0)
            })
            .collect()
    }

    #[test]
    fn takes_are_judged_and_the_reason_is_said() {
        let text = "The baker lights the oven.";
        let rows: [(Vec<f32>, QualityVerdict, &str); 9] = [
            (take(0.2, 0.0005, 2.5, 0.3), QualityVerdict::Ok, ""),
            (take(0.0, 0.0, 2.0, 0.3), QualityVerdict::Reject, "silent"),
            (take(0.0, 0.001, 2.0, 0.3), QualityVerdict::Reject, "silent"),
            (take(0.2, 0.0005, 0.2, 0.0), QualityVerdict::Reject, "too short"),
            (take(0.2, 0.0005, 31.0, 0.3), QualityVerdict::Reject, "too long"),
            (take(3.0, 0.0005, 2.5, 0.3), QualityVerdict::Reject, "far too loud"),
            (take(0.012, 0.0001, 2.5, 0.3), QualityVerdict::Warn, "very quiet"),
            (take(0.1, 0.05, 2.5, 0.6), QualityVerdict::Warn, "noisy"),
            (take(0.2, 0.0005, 1.2, 0.3), QualityVerdict::Warn, "very fast"),
        ];
        for (samples, verdict, reason) in rows {
            let quality = ClipQuality::of(&samples, text);
            assert_eq!(quality.verdict, verdict, "{quality:?}");
            assert!(quality.reasons.iter().any(|found| found.contains(reason)) || reason.is_empty(), "{reason}: {quality:?}");
            assert_eq!(quality.reasons.is_empty(), verdict == QualityVerdict::Ok);
        }
        let quality = ClipQuality::of(&take(0.2, 0.0005, 2.5, 0.3), text);
        assert!((quality.lead_silence - 0.3).abs() < 0.05 && (quality.trail_silence - 0.3).abs() < 0.05, "{quality:?}");
        assert!((quality.chars_per_second - 21.0 / 1.9).abs() < 0.5, "{quality:?}");
        assert_eq!(ClipQuality::of(&[], text).verdict, QualityVerdict::Reject);
    }
}
