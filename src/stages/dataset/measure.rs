//! Audio checks of a dataset: measures each clip, and says why it cannot be used or what is suspicious about it.

use super::Clip;
use crate::error::{Error, ErrorKind, Result};
use pipeline::stage::Context;
use rayon::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};
use voxpipe_io::digest::Digest;
use voxtral::audio;
use voxtral::audio::quality::{LIMITS, Measurements};
use voxtral::audio::speech::Background;
use voxtral::audio::speech::fingerprint::AudioFingerprint;

/// Audio measurements of a clip.
pub(super) struct Sound {
    pub(super) seconds: f64,
    pub(super) peak_dbfs: f64,
    pub(super) rms_dbfs: f64,
    speech_dbfs: f64,
    /// Fraction of samples in flat tops.
    pub(super) clipped: f64,
    dc_offset: f64,
    dropouts: usize,
    pub(super) snr_db: Option<f64>,
    pub(super) telephone: bool,
    pub(super) speech_seconds: f64,
    doubtful: bool,
    /// What the clip has instead of speech.
    pub(super) absence: Option<String>,
    silent: Option<f64>,
    /// From the beginning of the speech to its end, in seconds.
    spoken: f64,
    /// Digest of the samples, to find duplicates.
    pub(super) digest: Digest,
    pub(super) fingerprint: AudioFingerprint,
}

impl Sound {
    fn of(samples: &[f32]) -> Self {
        let measured = Measurements::quick(samples);
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        Self {
            seconds: measured.seconds,
            peak_dbfs: measured.peak_dbfs,
            rms_dbfs: measured.rms_dbfs,
            speech_dbfs: measured.speech_dbfs,
            clipped: measured.clipped_share,
            dc_offset: measured.dc_offset,
            dropouts: measured.dropouts.len(),
            snr_db: measured.snr_db,
            telephone: measured.telephone,
            speech_seconds: measured.speech.seconds(),
            doubtful: measured.speech.doubtful(),
            absence: measured.speech.absence(),
            silent: (measured.speech.instead == Some(Background::Silence)).then_some(measured.speech.loudest_dbfs),
            spoken: (measured.seconds - measured.lead_silence - measured.trail_silence).max(0.1),
            digest: Digest::of(&bytes),
            fingerprint: measured.fingerprint,
        }
    }

    /// Speech rate in letters per second, from the beginning of the speech to its end; of the whole clip if it has none.
    pub(super) fn rate(&self, text: &str) -> f64 {
        letters(text) / if self.absence.is_some() { self.seconds } else { self.spoken }
    }

    /// Letters per second of the whole clip.
    pub(super) fn least_rate(&self, text: &str) -> f64 {
        letters(text) / self.seconds
    }

    /// Properties of the audio that a person should check.
    pub(super) fn oddities(&self, text: &str) -> Vec<String> {
        let mut odd = Vec::new();
        let mut note = |holds: bool, what: String| {
            if holds {
                odd.push(what);
            }
        };
        let limits = &LIMITS;
        note(self.clipped > limits.clipped.value, format!("is clipped ({:.1} % of its samples in flat tops)", self.clipped * 100.0));
        note(self.dc_offset.abs() > limits.dc_offset.value, format!("has a DC offset of {:.0} %", self.dc_offset.abs() * 100.0));
        note(self.dropouts as f64 >= limits.dropouts.value, format!("has gaps in the sound ({})", self.dropouts));
        note(self.speech_dbfs < limits.quiet_dbfs.value, format!("is very quiet ({:.0} dBFS)", self.speech_dbfs));
        if let Some(snr) = self.snr_db {
            note(snr < limits.snr_db.value, format!("is noisy (signal-to-noise ratio of {snr:.0} dB)"));
        }
        note(self.doubtful, "has hardly any speech".to_owned());
        let rate = self.rate(text);
        let implausible = rate < limits.slow.value || rate > limits.fast.value;
        note(implausible, format!("has {rate:.1} letters a second: text and sound may not belong together"));
        odd
    }
}

fn letters(text: &str) -> f64 {
    text.chars().filter(|character| character.is_alphanumeric()).count() as f64
}

/// Measures the audio of each clip, or gives the reason why it cannot be read.
pub(super) fn measure(cx: &Context, clips: &[Clip]) -> Result<Vec<Result<Sound, String>>> {
    let done = AtomicU64::new(0);
    clips
        .par_iter()
        .map(|clip| {
            if cx.stopping() {
                return Err(Error::new("interrupted while reading the clips").kind(ErrorKind::Interrupted).hint("run again to continue"));
            }
            let sound = audio::read_wav16k(&clip.path)
                .map_err(|error| error.message.replace(&clip.path.display().to_string(), "").trim().to_owned())
                .map(|samples| Sound::of(&samples));
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            cx.progress(done, clips.len() as u64, "clips", "");
            Ok(sound)
        })
        .collect()
}

impl super::Dataset {
    /// Checks a clip against the limits of the settings.
    pub(super) fn check_limits(&self, sound: &Sound, text: &str) -> Result<(), String> {
        let letters = text.trim().chars().count();
        if sound.seconds < self.min_seconds {
            Err(format!("is too short: {:.2} s", sound.seconds))
        } else if sound.seconds > self.max_seconds {
            Err(format!("is too long: {:.2} s", sound.seconds))
        } else if let Some(level) = sound.silent {
            Err(format!("is silent ({level:.0} dBFS)"))
        } else if letters < self.min_text_chars {
            Err(format!("has a text of {letters} characters"))
        } else {
            Ok(())
        }
    }
}
