//! Quality check of a recorded take: measures it right after the recording, rates it, and gives the reasons.

use super::SAMPLE_RATE;
use serde::Serialize;

/// Frame length for level measurement: 20 ms.
const FRAME: usize = SAMPLE_RATE as usize / 50;
/// Lowest reported level in dBFS, so that digital silence is a finite number.
const FLOOR: f64 = -120.0;
/// Magnitude from which a sample counts as clipped: full scale and one step below.
const CLIPPED: f32 = 32_766.0 / 32_768.0;

/// Measurements and rating of a take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClipQuality {
    /// Length in seconds.
    pub seconds: f64,
    /// Peak level in dBFS.
    pub peak_dbfs: f64,
    /// RMS level of the whole take in dBFS.
    pub rms_dbfs: f64,
    /// Number of clipped samples.
    pub clipped: usize,
    /// Level of speech above the level between words, in dB.
    pub snr_db: f64,
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
        let seconds = samples.len() as f64 / f64::from(SAMPLE_RATE);
        let peak = samples.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
        let levels: Vec<f64> = samples.chunks(FRAME).map(|frame| dbfs(rms(frame))).collect();
        let mut sorted = levels.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted.get((share * sorted.len() as f64) as usize).copied().unwrap_or(FLOOR);
        let (noise, speech) = (at(0.1), at(0.9));
        // Speech frames are closer to the loud level than to the quiet one.
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
        quality.rate(samples.len());
        quality
    }

    fn rate(&mut self, samples: usize) {
        use QualityVerdict::{Reject, Warn};
        let clipped = self.clipped as f64 / samples.max(1) as f64;
        let silent = self.peak_dbfs < -45.0 || self.rms_dbfs < -60.0;
        let rules = [
            (self.seconds < 0.3, Reject, format!("too short: {:.1} s", self.seconds)),
            (self.seconds > 30.0, Reject, format!("too long: {:.0} s; the limit is 30 s", self.seconds)),
            (silent, Reject, "silent: check that the right microphone is selected and switched on".to_owned()),
            (clipped > 0.01, Reject, "far too loud: the audio is clipped; move away from the microphone or lower its gain".to_owned()),
            (clipped > 0.0002 && clipped <= 0.01, Warn, "too loud in places; move a little away from the microphone".to_owned()),
            (!silent && self.rms_dbfs < -40.0, Warn, "very quiet; move closer to the microphone or raise its gain".to_owned()),
            (!silent && self.snr_db < 15.0, Warn, "noisy: speech is hardly louder than the background".to_owned()),
            (!silent && self.lead_silence < 0.02, Warn, "starts immediately: the first sound may be cut off".to_owned()),
            (!silent && self.trail_silence < 0.02, Warn, "ends immediately: the last sound may be cut off".to_owned()),
            (!silent && self.chars_per_second > 28.0, Warn, "very fast for this sentence: was it read completely?".to_owned()),
            (!silent && self.chars_per_second < 2.5, Warn, "very slow for this sentence: does it contain a long pause?".to_owned()),
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

    /// A tone between pauses, over hiss; both given as amplitudes.
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
