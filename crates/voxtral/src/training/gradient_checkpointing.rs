//! Gradient checkpointing (Chen et al. 2016): stores only layer inputs and recomputes activations in the backward pass.
//!
//! The model is split into segments that are connected by a single tensor. Dropout masks depend on the row and the layer, not on how often
//! they are drawn, and sums are computed in the same order, so the gradient is bit-identical to that without checkpointing.

use super::adamw::GradientMap;
use super::collate::{Batch, BatchAudio};
use super::loss_of;
use crate::error::{Error, Result};
use crate::model::Voxtral;
use crate::model::decoder::RotaryEmbedding;
use crate::weights::visitor::{NamedVisitor, visit_named};
use burn::module::Param;
use burn::tensor::Tensor;

/// A segment of the model, with one tensor as input and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    /// From features to the input of the first encoder layer.
    Convolutions,
    /// An encoder layer.
    EncoderLayer(usize),
    /// From the encoder output, or cached audio embeddings, to the input of the first decoder layer.
    Embed,
    /// A decoder layer.
    DecoderLayer(usize),
    /// From the last decoder layer to the loss.
    Loss,
}

impl Segment {
    /// The segment of a parameter.
    fn of(name: &str) -> Self {
        let layer = |rest: &str| rest.split('.').next().and_then(|layer| layer.parse().ok()).unwrap_or(0);
        if let Some(rest) = name.strip_prefix("audio_tower.layers.") {
            Self::EncoderLayer(layer(rest))
        } else if name.starts_with("audio_tower.conv") || name.starts_with("audio_tower.embed_positions") {
            Self::Convolutions
        } else if let Some(rest) = name.strip_prefix("language_model.model.layers.") {
            Self::DecoderLayer(layer(rest))
        } else if name.starts_with("language_model.lm_head") || name.starts_with("language_model.model.norm") {
            Self::Loss
        } else {
            Self::Embed
        }
    }
}

/// A model with its trained parameters marked, and the batch to run.
pub(super) struct Chain<'a> {
    pub(super) model: &'a Voxtral,
    pub(super) batch: &'a Batch,
    /// Number of targets of the whole step, the denominator of the mean loss.
    pub(super) targets: usize,
}

impl Chain<'_> {
    /// Loss and gradient of the batch, scaled to the step's mean.
    pub(super) fn loss_and_gradient(&self) -> Result<(f64, GradientMap)> {
        let (first, decoder) = (self.first_trained(), &self.model.language_model.model);
        let rotary = decoder.rotary(self.batch.tokens.length, &decoder.embed_tokens.weight.device());
        // Forward pass: store the input of each segment that needs a gradient.
        let (mut kept, mut x) = (Vec::new(), None);
        for segment in self.segments() {
            let y = self.pass(segment, x.clone(), &rotary)?.inner();
            if first.is_some_and(|first| segment >= first) {
                kept.push((segment, x));
            }
            x = Some(y);
        }
        let Some(hidden) = leaf(x) else { return Err(Error::new("the language model has no layers")) };
        let mut gradient = GradientMap::default();
        let loss = loss_of(self.model, decoder.norm.forward(hidden.clone()), self.batch) / self.targets as f64;
        let value = f64::from(loss.clone().into_scalar::<f32>());
        let mut gradients = loss.backward();
        // Backward pass: recompute each segment, and inject its output gradient as the weights of a sum.
        let mut back = hidden.grad_remove(&mut gradients);
        gradient.add(self.model, gradients);
        for (segment, x) in kept.into_iter().rev() {
            let Some(g) = back else { break };
            let x = leaf(x);
            let y = self.pass(segment, x.clone(), &rotary)?;
            let mut gradients = (y * Tensor::from_inner(g)).sum().backward();
            back = x.as_ref().and_then(|x| x.grad_remove(&mut gradients));
            gradient.add(self.model, gradients);
        }
        Ok((value, gradient))
    }

    /// The segments from the input to the last decoder layer.
    fn segments(&self) -> Vec<Segment> {
        let mut segments = Vec::new();
        if matches!(self.batch.audio, BatchAudio::Features(_)) {
            segments.push(Segment::Convolutions);
            segments.extend((0..self.model.audio_tower.layers.len()).map(Segment::EncoderLayer));
        }
        segments.push(Segment::Embed);
        segments.extend((0..self.model.language_model.model.layers.len()).map(Segment::DecoderLayer));
        segments
    }

    /// The first segment with a trained parameter.
    fn first_trained(&self) -> Option<Segment> {
        struct First(Option<Segment>);
        impl NamedVisitor for First {
            fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
                if param.val().is_require_grad() {
                    let segment = Segment::of(name);
                    self.0 = Some(self.0.map_or(segment, |first| first.min(segment)));
                }
            }
        }
        let mut first = First(None);
        visit_named(self.model, &mut first);
        first.0
    }

    /// Runs one segment. The first segment reads the batch and has no input `x`.
    fn pass(&self, segment: Segment, x: Option<Tensor<3>>, rotary: &RotaryEmbedding) -> Result<Tensor<3>> {
        let (tower, decoder) = (&self.model.audio_tower, &self.model.language_model.model);
        match (segment, x) {
            (Segment::EncoderLayer(layer), Some(x)) => Ok(tower.layers[layer].forward(x)),
            (Segment::DecoderLayer(layer), Some(x)) => Ok(decoder.layers[layer].read(x, rotary)),
            (Segment::Embed, Some(x)) => {
                let rows = self.model.multi_modal_projector.forward(tower.layer_norm.forward(x));
                self.model.embed(&self.batch.tokens, Some(rows))
            }
            (_, _) => match &self.batch.audio {
                BatchAudio::Features(features) => Ok(tower.begin(features.clone())),
                BatchAudio::Rows(rows) => self.model.embed(&self.batch.tokens, Some(rows.clone())),
            },
        }
    }
}

/// The same values as a leaf of a new autodiff graph.
fn leaf(x: Option<Tensor<3>>) -> Option<Tensor<3>> {
    x.map(|x| Tensor::from_inner(x).require_grad())
}
