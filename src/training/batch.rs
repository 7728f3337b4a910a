//! From clips to what one forward pass needs: padded token rows, features, and which positions are scored.

use crate::audio::Features;
use crate::error::Result;
use crate::voxtral::Tokens;
use crate::voxtral::recognizer::stack;
use burn::tensor::{Device, Tensor};
use std::sync::Arc;

/// Gives a clip's log-mel spectrogram: from memory, or computed each time where all of them together would not fit.
pub type Listen = Arc<dyn Fn() -> Result<Arc<Features>> + Send + Sync>;

/// A clip as the model sees it: its features, and the prompt followed by the transcript and `</s>`.
#[derive(Clone)]
pub struct Example {
    /// What the clip is called in messages.
    pub name: String,
    /// The log-mel spectrogram of all its chunks.
    pub features: Listen,
    /// Prompt, transcript, `</s>`.
    pub ids: Vec<u32>,
    /// How many of the ids are prompt, which is read but not scored.
    pub prompt: usize,
}

impl Example {
    /// How many tokens are scored.
    pub fn targets(&self) -> usize {
        self.ids.len() - self.prompt
    }
}

/// Several examples side by side.
#[derive(Debug)]
pub struct Batch {
    /// `[rows, length]`, shorter rows padded on the right: a causal model never looks there, so no mask is needed.
    pub tokens: Tokens,
    /// `[chunks, mels, frames]`, the chunks of all rows in order.
    pub features: Tensor<3>,
    /// How many chunks each row has.
    pub chunks: Vec<usize>,
    /// Where in `rows × length` a target is predicted, which is one position before it stands.
    pub positions: Vec<i64>,
    /// The targets.
    pub labels: Vec<i64>,
}

impl Batch {
    /// Joins examples; `pad` fills short rows.
    pub fn new(examples: &[&Example], pad: u32, device: &Device) -> Result<Self> {
        let features = examples.iter().map(|example| (example.features)()).collect::<Result<Vec<_>>>()?;
        let length = examples.iter().map(|example| example.ids.len()).max().unwrap_or(0);
        let mut tokens = Tokens { ids: Vec::with_capacity(examples.len() * length), rows: examples.len(), length };
        let (mut positions, mut labels) = (Vec::new(), Vec::new());
        for (row, example) in examples.iter().enumerate() {
            tokens.ids.extend(example.ids.iter().copied().chain(std::iter::repeat(pad)).take(length));
            for place in example.prompt..example.ids.len() {
                positions.push((row * length + place - 1) as i64);
                labels.push(i64::from(example.ids[place]));
            }
        }
        let chunks = features.iter().map(|features| features.chunks).collect();
        Ok(Self { tokens, features: stack(features.iter().map(Arc::as_ref), device), chunks, positions, labels })
    }
}
