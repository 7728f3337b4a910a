//! Streaming log-mel spectrogram: frames are computed as soon as their samples arrive, identical to those of the complete recording.
//!
//! This is possible because no frame depends on later audio: the maximum is a constant, and the reflection padding at both ends contains
//! only the silence around the recording.

use super::CEILING;
use crate::audio::log_mel::{HOP, WINDOW};
use crate::audio::{LogMel, MelCeiling};
use crate::error::{Error, Result};

/// Extra frames computed at either end and dropped, because reflection padding affects them.
const MARGIN: usize = 2;
/// Samples that a frame needs after its position.
const AHEAD: usize = WINDOW / 2;

/// Buffers samples and computes log-mel frames from them.
#[derive(Debug)]
pub struct MelFrameStream {
    mel: LogMel,
    mels: usize,
    /// Buffered samples, starting `MARGIN` frames before the next frame.
    samples: Vec<f32>,
}

impl MelFrameStream {
    /// A stream with `mels` mel bins, preceded by silence.
    pub fn new(mel: LogMel, mels: usize) -> Self {
        Self { mel: mel.with_ceiling(MelCeiling::Fixed(CEILING)), mels, samples: vec![0.0; MARGIN * HOP] }
    }

    /// Appends samples.
    pub fn push(&mut self, samples: &[f32]) {
        self.samples.extend_from_slice(samples);
    }

    /// Appends this number of samples of silence.
    pub fn push_silence(&mut self, samples: usize) {
        self.samples.resize(self.samples.len() + samples, 0.0);
    }

    /// Number of frames that can be taken.
    pub fn ready(&self) -> usize {
        // Frame i is centered at sample i × HOP and needs AHEAD samples after it.
        let seen = self.samples.len().saturating_sub(MARGIN * HOP + AHEAD);
        if self.samples.len() < MARGIN * HOP + AHEAD { 0 } else { seen / HOP + 1 }
    }

    /// Computes and removes the next `frames` frames; an error if fewer are ready.
    ///
    /// # Shapes
    /// → `mels × frames` values, row-major
    pub fn take(&mut self, frames: usize) -> Result<Vec<f32>> {
        let whole = frames + 2 * MARGIN;
        let seen = (MARGIN + frames.saturating_sub(1)) * HOP + AHEAD;
        let piece = self.samples.get(..seen).filter(|_| frames > 0);
        let piece = piece.ok_or_else(|| Error::new(format!("{frames} frames requested, but {} are ready", self.ready())))?;
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
