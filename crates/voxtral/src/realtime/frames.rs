//! The log-mel spectrogram of a stream: every frame as soon as its samples are there, the same as that of the whole recording.
//!
//! That is possible because nothing in it depends on what comes later: the ceiling is a constant, and the mirrors at both ends show
//! nothing but the silence a recording is surrounded with.

use super::CEILING;
use crate::audio::log_mel::{HOP, WINDOW};
use crate::audio::{LogMel, MelCeiling};
use crate::error::{Error, Result};

/// Frames more than are asked for, at either end: those see the mirrors of the piece they are computed from.
const MARGIN: usize = 2;
/// Samples a frame sees behind its place.
const AHEAD: usize = WINDOW / 2;

/// Samples on their way to being frames.
#[derive(Debug)]
pub struct MelFrameStream {
    mel: LogMel,
    mels: usize,
    /// Begins `MARGIN` frames before the next one.
    samples: Vec<f32>,
}

impl MelFrameStream {
    /// A stream of so many mel bands that begins after silence.
    pub fn new(mel: LogMel, mels: usize) -> Self {
        Self { mel: mel.with_ceiling(MelCeiling::Fixed(CEILING)), mels, samples: vec![0.0; MARGIN * HOP] }
    }

    /// Adds samples.
    pub fn push(&mut self, samples: &[f32]) {
        self.samples.extend_from_slice(samples);
    }

    /// Adds so many samples of silence.
    pub fn push_silence(&mut self, samples: usize) {
        self.samples.resize(self.samples.len() + samples, 0.0);
    }

    /// Frames that can be taken.
    pub fn ready(&self) -> usize {
        // Frame i is at sample i × HOP and sees AHEAD further.
        let seen = self.samples.len().saturating_sub(MARGIN * HOP + AHEAD);
        if self.samples.len() < MARGIN * HOP + AHEAD { 0 } else { seen / HOP + 1 }
    }

    /// Takes the next frames, of which so many are ready.
    ///
    /// # Shapes
    /// → `mels × frames` values, band by band
    pub fn take(&mut self, frames: usize) -> Result<Vec<f32>> {
        let whole = frames + 2 * MARGIN;
        let seen = (MARGIN + frames.saturating_sub(1)) * HOP + AHEAD;
        let piece = self.samples.get(..seen).filter(|_| frames > 0);
        let piece = piece.ok_or_else(|| Error::new(format!("{frames} frames were asked for, {} are there", self.ready())))?;
        let features = self.mel.features(piece, whole)?;
        let bands = features.data.chunks(whole).take(self.mels);
        let taken = bands.flat_map(|band| band.iter().skip(MARGIN).take(frames).copied()).collect();
        self.samples.drain(..frames * HOP);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_the_whole_recording_whatever_the_pieces() {
        let mel = LogMel::new(20);
        let sound: Vec<f32> = (0..8000u32).map(|n| ((n * n % 977) as f32 / 977.0 - 0.5) * (n as f32 / 8000.0)).collect();
        let (before, frames) = (1280, 80);
        let padded: Vec<f32> =
            std::iter::repeat_n(0.0, before).chain(sound.iter().copied()).chain(std::iter::repeat_n(0.0, 3520)).collect();
        let whole = mel.clone().with_ceiling(MelCeiling::Fixed(CEILING)).features(&padded, frames).unwrap();
        for piece in [1usize, 7, 159, 160, 1280, 20_000] {
            let mut stream = MelFrameStream::new(mel.clone(), 20);
            let mut found = vec![Vec::new(); 20];
            let collect = |stream: &mut MelFrameStream, found: &mut Vec<Vec<f32>>| {
                let ready = stream.ready().min(frames - found[0].len());
                if ready > 0 {
                    let taken = stream.take(ready).unwrap();
                    found.iter_mut().zip(taken.chunks(ready)).for_each(|(band, taken)| band.extend_from_slice(taken));
                }
            };
            stream.push_silence(before);
            for samples in sound.chunks(piece) {
                stream.push(samples);
                collect(&mut stream, &mut found);
                assert!(stream.samples.len() < 20_000 + before);
            }
            stream.push_silence(3520 + AHEAD);
            collect(&mut stream, &mut found);
            assert_eq!(found.concat(), whole.data, "pieces of {piece}");
        }
    }
}
