//! A speech recognition model of any supported architecture, chosen by the contents of its folder.

use crate::device;
use crate::error::{Error, ErrorKind, Result};
use crate::inference::transcriber::{TokenLimit, TranscribeEvent, Transcriber, Utterance, WeightsFrom};
use crate::realtime::transcriber::RealtimeTranscriber;
use crate::realtime::{MODEL_NAME, config};
use crate::weights::LoadReport;
use crate::weights::precision::Precision;
use burn::tensor::Device;
use std::path::Path;

/// A speech transcriber: Voxtral Mini/Small or Voxtral Realtime.
#[derive(Debug)]
pub enum AnyTranscriber {
    /// Voxtral Mini or Small: transcribes recordings.
    Recordings(Box<Transcriber>),
    /// Voxtral Realtime: transcribes streams, and recordings as streams.
    Realtime(Box<RealtimeTranscriber>),
}

impl AnyTranscriber {
    /// Opens a model folder laid out as on the Hub, with the weights as they are stored, on the best device there is.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let device = device::choose("auto")?.device;
        Self::open_with(folder.as_ref(), WeightsFrom::Checkpoint, Precision::Auto, &device)
    }

    /// Opens a model folder with a choice of weights, precision and device.
    pub fn open_with(folder: &Path, start: WeightsFrom, precision: Precision, device: &Device) -> Result<Self> {
        Ok(match config::is_realtime(folder) {
            true => Self::Realtime(Box::new(RealtimeTranscriber::open_with(folder, start, precision, device)?)),
            false => Self::Recordings(Box::new(Transcriber::open_with(folder, start, precision, device)?)),
        })
    }

    /// Precision of the weights, their finite check, and a note for the user.
    pub fn loaded(&self) -> &LoadReport {
        match self {
            Self::Recordings(transcriber) => &transcriber.loaded,
            Self::Realtime(transcriber) => &transcriber.loaded,
        }
    }

    /// Loads a LoRA adapter from a folder; Voxtral Realtime does not support adapters.
    pub fn adapt(&mut self, adapter: &Path) -> Result<()> {
        match self {
            Self::Recordings(transcriber) => transcriber.adapt(adapter),
            Self::Realtime(_) => Err(Error::new(format!("{MODEL_NAME} does not support adapters: `{}`", adapter.display()))
                .kind(ErrorKind::InvalidInput)
                .hint("omit the adapter, or use the base model it was trained on")),
        }
    }

    /// Transcribes clips and reports each transcript as soon as it is complete; see [`Transcriber::transcribe_each`].
    pub fn transcribe_each(
        &self,
        utterances: &[Utterance],
        limit: TokenLimit,
        say: &mut dyn FnMut(TranscribeEvent) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Recordings(transcriber) => transcriber.transcribe_each(utterances, limit, say),
            Self::Realtime(transcriber) => transcriber.transcribe_each(utterances, limit, say),
        }
    }
}
