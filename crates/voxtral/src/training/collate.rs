//! Data collation: pads examples to a batch of tokens, audio and target positions.

use crate::audio::Features;
use crate::error::{Error, ErrorKind, Result};
use crate::inference::transcriber::stack;
use crate::model::{TokenBatch, Voxtral};
use burn::tensor::{Device, Tensor};
use std::borrow::Cow;
use std::sync::Arc;

/// Audio of an example, as input of the first trained part of the model.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "moved only once per example; boxing would add an indirection")]
pub enum ExampleAudio {
    /// Log-mel features, for a trained encoder or projector.
    Features(Arc<Features>),
    /// Audio embeddings of a frozen encoder and projector, `[audio tokens, text width]`.
    Rows(Tensor<2>),
}

/// Loads the audio of an example: from memory, from disk, or computed each time.
pub type LoadAudio = Arc<dyn Fn() -> Result<ExampleAudio> + Send + Sync>;

/// A training example: audio and tokens (prompt, transcript, `</s>`).
#[derive(Clone)]
pub struct Example {
    /// Name of the clip in messages.
    pub name: String,
    /// Loads the audio.
    pub sound: LoadAudio,
    /// Number of audio chunks.
    pub chunks: usize,
    /// Token ids: prompt, transcript, `</s>`.
    pub ids: Vec<u32>,
    /// Number of prompt tokens, which are excluded from the loss.
    pub prompt: usize,
    /// Creates the example of an epoch, if it is augmented differently in each epoch.
    pub anew: Option<ExampleOfEpoch>,
}

/// Creates the example of an epoch, counted from 0.
pub type ExampleOfEpoch = Arc<dyn Fn(u64) -> Result<Example> + Send + Sync>;

impl Example {
    /// The example of an epoch.
    pub fn in_epoch(&self, epoch: u64) -> Result<Cow<'_, Self>> {
        let anew = self.anew.as_ref().map(|anew| anew(epoch).map_err(|error| error.context(&self.name).kind(ErrorKind::BadSample)));
        Ok(anew.transpose()?.map_or(Cow::Borrowed(self), Cow::Owned))
    }

    /// Number of target tokens.
    pub fn targets(&self) -> usize {
        self.ids.len() - self.prompt
    }
}

/// Audio of all rows of a batch, concatenated in order.
#[derive(Debug)]
pub enum BatchAudio {
    /// Log-mel features, `[chunks, mels, frames]`.
    Features(Tensor<3>),
    /// Audio embeddings, `[audio tokens, text width]`.
    Rows(Tensor<2>),
}

impl BatchAudio {
    /// Audio embeddings; runs the encoder and projector if necessary.
    ///
    /// # Shapes
    /// → `[audio tokens, text width]`
    pub fn rows(&self, model: &Voxtral) -> Tensor<2> {
        match self {
            Self::Features(features) => model.embed_audio(features.clone()),
            Self::Rows(rows) => rows.clone(),
        }
    }
}

/// A batch of examples.
#[derive(Debug)]
pub struct Batch {
    /// `[rows, length]`, padded on the right. Causal attention never sees the padding, so no mask is needed.
    pub tokens: TokenBatch,
    /// Audio of all rows.
    pub audio: BatchAudio,
    /// Number of audio chunks per row.
    pub chunks: Vec<usize>,
    /// Flat positions in `rows × length` that predict a target: one before the target itself.
    pub positions: Vec<i64>,
    /// Target token ids, one per position.
    pub labels: Vec<u32>,
}

impl Batch {
    /// Collates examples; `pad` is the padding token.
    pub fn new(examples: &[&Example], pad: u32, device: &Device) -> Result<Self> {
        let length = examples.iter().map(|example| example.ids.len()).max().unwrap_or(0);
        let mut tokens = TokenBatch { ids: Vec::with_capacity(examples.len() * length), rows: examples.len(), length };
        let (mut positions, mut labels) = (Vec::new(), Vec::new());
        for (row, example) in examples.iter().enumerate() {
            tokens.ids.extend(example.ids.iter().copied().chain(std::iter::repeat(pad)).take(length));
            for place in example.prompt..example.ids.len() {
                positions.push((row * length + place - 1) as i64);
                labels.push(example.ids[place]);
            }
        }
        let chunks = examples.iter().map(|example| example.chunks).collect();
        Ok(Self { tokens, audio: audio(examples, device)?, chunks, positions, labels })
    }
}

fn audio(examples: &[&Example], device: &Device) -> Result<BatchAudio> {
    let (mut features, mut rows) = (Vec::new(), Vec::new());
    for example in examples {
        match (example.sound)().map_err(|error| error.context(&example.name).kind(ErrorKind::BadSample))? {
            ExampleAudio::Features(found) => features.push(found),
            ExampleAudio::Rows(found) => rows.push(found),
        }
    }
    match (features.is_empty(), rows.is_empty()) {
        (false, true) => Ok(BatchAudio::Features(stack(features.iter().map(Arc::as_ref), device))),
        (true, false) => Ok(BatchAudio::Rows(Tensor::cat(rows, 0))),
        _ => Err(Error::new("a batch must contain examples with the same kind of audio")),
    }
}
