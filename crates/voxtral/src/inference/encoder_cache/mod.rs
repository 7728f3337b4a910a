//! The part of a model that listens, where it does not learn: samples in, rows for the text model out, and what was heard once is
//! remembered on disk.
//!
//! A frozen audio tower makes the same rows of the same clip in every epoch, every run and every evaluation, and it is a good part of
//! the work: a quarter of a training step of Mini with adapters on the text model.

mod feature_cache;

pub use feature_cache::FeatureCache;

use super::transcribe::CHUNKS_AT_ONCE;
use super::transcriber::Transcriber;
use crate::audio::LogMel;
use crate::error::{Error, Result};
use crate::model::encoder::AudioEncoder;
use crate::model::projector::Projector;
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

/// A frozen audio tower and projector.
#[derive(Clone, Debug)]
pub struct FrozenEncoder {
    tower: AudioEncoder,
    projector: Projector,
    mel: LogMel,
    frames: usize,
    device: Device,
    memory: FeatureCache,
}

impl Transcriber {
    /// The ears of this model as they are now, with a memory.
    #[must_use]
    pub fn ears(&self, memory: &FeatureCache) -> FrozenEncoder {
        FrozenEncoder {
            tower: self.model.audio_tower.clone(),
            projector: self.model.multi_modal_projector.clone(),
            mel: self.mel.clone(),
            frames: self.config.audio_config.chunk_frames(),
            device: self.device.clone(),
            memory: memory.clone(),
        }
    }
}

impl FrozenEncoder {
    /// What the text model reads of a clip, 16 kHz mono. The same clip gives the same numbers whether it was remembered or not, and
    /// whatever is heard beside it.
    ///
    /// # Shapes
    /// → `[audio tokens, text width]`
    pub fn encode(&self, samples: &[f32]) -> Result<Tensor<2>> {
        let clip = FeatureCache::name(samples);
        if let Some(rows) = self.memory.recall(&clip) {
            return Ok(Tensor::from_data(rows, &self.device));
        }
        let rows = self.listen(samples)?;
        let shape = rows.dims();
        let numbers = rows.into_data().try_to_vec::<f32>().map_err(|error| Error::new(format!("cannot read what was heard: {error:?}")))?;
        let kept = self.memory.keep(&clip, numbers, shape)?;
        Ok(Tensor::from_data(TensorData::new(kept, shape), &self.device))
    }

    /// The same of several clips, one after the other in the result.
    pub fn encode_all(&self, clips: &[&[f32]]) -> Result<Tensor<2>> {
        Ok(Tensor::cat(clips.par_iter().map(|samples| self.encode(samples)).collect::<Result<Vec<_>>>()?, 0))
    }

    /// Hears a clip anew, some chunks at a time.
    fn listen(&self, samples: &[f32]) -> Result<Tensor<2>> {
        let features = self.mel.features(samples, self.frames)?;
        let size = features.mels * features.frames;
        let parts = features.data.chunks(CHUNKS_AT_ONCE * size.max(1)).map(|part| {
            let part = TensorData::new(part.to_vec(), [part.len() / size.max(1), features.mels, features.frames]);
            self.projector.forward(self.tower.forward(Tensor::from_data(part, &self.device)))
        });
        Ok(Tensor::cat(parts.collect(), 0))
    }
}
