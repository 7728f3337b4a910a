//! Any model that can write down what it hears, whichever its folder turns out to hold.

use super::transcriber::{TokenLimit, TranscribeEvent, Transcriber, Utterance, WeightsFrom};
use crate::error::{Error, ErrorKind, Result};
use crate::model::precision::Precision;
use crate::realtime::transcriber::RealtimeTranscriber;
use crate::realtime::{MODEL_NAME, config};
use crate::weights::LoadReport;
use burn::tensor::Device;
use std::path::Path;

/// A recogniser.
#[derive(Debug)]
pub enum AnyTranscriber {
    /// Voxtral Mini or Small: hears recordings.
    Recordings(Box<Transcriber>),
    /// Voxtral Realtime: hears streams, and recordings as streams.
    Realtime(Box<RealtimeTranscriber>),
}

impl AnyTranscriber {
    /// Opens a model folder as on the Hub.
    pub fn open(folder: &Path, start: WeightsFrom, precision: Precision, device: &Device) -> Result<Self> {
        Ok(match config::is_realtime(folder) {
            true => Self::Realtime(Box::new(RealtimeTranscriber::open(folder, start, precision, device)?)),
            false => Self::Recordings(Box::new(Transcriber::open(folder, start, precision, device)?)),
        })
    }

    /// How its matrices are kept, and what a person should know.
    pub fn loaded(&self) -> &LoadReport {
        match self {
            Self::Recordings(recognizer) => &recognizer.loaded,
            Self::Realtime(recognizer) => &recognizer.loaded,
        }
    }

    /// Puts the adapter of a folder on the model; a Realtime model takes none.
    pub fn adapt(&mut self, adapter: &Path) -> Result<()> {
        match self {
            Self::Recordings(recognizer) => recognizer.adapt(adapter),
            Self::Realtime(_) => Err(Error::new(format!("{MODEL_NAME} takes no adapter, such as `{}`", adapter.display()))
                .kind(ErrorKind::InvalidInput)
                .hint("leave the adapter out, or give the base model that it was trained on")),
        }
    }

    /// Transcribes clips and hands each transcript out as soon as it is known; see [`Transcriber::transcribe_each`].
    pub fn transcribe_each(
        &self,
        utterances: &[Utterance],
        limit: TokenLimit,
        say: &mut dyn FnMut(TranscribeEvent) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Recordings(recognizer) => recognizer.transcribe_each(utterances, limit, say),
            Self::Realtime(recognizer) => recognizer.transcribe_each(utterances, limit, say),
        }
    }
}
