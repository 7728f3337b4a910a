//! From clips to what one forward pass needs: padded token rows, sound, and which positions are scored.

use crate::audio::Features;
use crate::error::{Error, ErrorKind, Result};
use crate::inference::transcriber::stack;
use crate::model::{TokenBatch, Voxtral};
use burn::tensor::{Device, Tensor};
use std::borrow::Cow;
use std::sync::Arc;

/// What a clip sounds like to the first part of the model that is trained.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "it is handed over once, and a box would be one more thing to open")]
pub enum ExampleAudio {
    /// Its log-mel spectrogram, for an audio tower or a projector that learns.
    Features(Arc<Features>),
    /// What a frozen audio tower and projector made of it, `[audio tokens, text width]`.
    Rows(Tensor<2>),
}

/// Gives a clip's sound: from memory, from disk, or computed each time.
pub type LoadAudio = Arc<dyn Fn() -> Result<ExampleAudio> + Send + Sync>;

/// A clip as the model sees it: its sound, and the prompt followed by the transcript and `</s>`.
#[derive(Clone)]
pub struct Example {
    /// What the clip is called in messages.
    pub name: String,
    /// What it sounds like.
    pub sound: LoadAudio,
    /// How many chunks of audio it has.
    pub chunks: usize,
    /// Prompt, transcript, `</s>`.
    pub ids: Vec<u32>,
    /// How many of the ids are prompt, which is read but not scored.
    pub prompt: usize,
    /// Makes the example as it is in a pass over the data, where it is another in each.
    pub anew: Option<ExampleOfEpoch>,
}

/// Gives an example of a pass, counted from 0.
pub type ExampleOfEpoch = Arc<dyn Fn(u64) -> Result<Example> + Send + Sync>;

impl Example {
    /// The example as it is in a pass.
    pub fn in_epoch(&self, epoch: u64) -> Result<Cow<'_, Self>> {
        let anew = self.anew.as_ref().map(|anew| anew(epoch).map_err(|error| error.context(&self.name).kind(ErrorKind::BadSample)));
        Ok(anew.transpose()?.map_or(Cow::Borrowed(self), Cow::Owned))
    }

    /// How many tokens are scored.
    pub fn targets(&self) -> usize {
        self.ids.len() - self.prompt
    }
}

/// The sound of all rows of a batch, in order.
#[derive(Debug)]
pub enum BatchAudio {
    /// `[chunks, mels, frames]`
    Features(Tensor<3>),
    /// `[audio tokens, text width]`
    Rows(Tensor<2>),
}

impl BatchAudio {
    /// What the text model reads.
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

/// Several examples side by side.
#[derive(Debug)]
pub struct Batch {
    /// `[rows, length]`, shorter rows padded on the right: a causal model never looks there, so no mask is needed.
    pub tokens: TokenBatch,
    /// What they sound like.
    pub audio: BatchAudio,
    /// How many chunks each row has.
    pub chunks: Vec<usize>,
    /// Where in `rows × length` a target is predicted, which is one position before it stands.
    pub positions: Vec<i64>,
    /// The targets.
    pub labels: Vec<u32>,
}

impl Batch {
    /// Joins examples; `pad` fills short rows.
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
        _ => Err(Error::new("a batch needs clips, all of them heard in one way")),
    }
}
