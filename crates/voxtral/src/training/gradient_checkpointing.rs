//! The loss and gradient of a batch with little memory: only what goes into each layer is kept, and a layer is computed a second time
//! when the gradient comes back to it.
//!
//! The model is taken as a chain of links with one tensor between them. Masks of dropout depend on the row and the layer, not on how
//! often they are drawn, and sums are taken in the same order: the gradient is the same to the bit.

use super::adamw::GradientMap;
use super::collate::{Batch, BatchAudio};
use super::loss_of;
use crate::error::{Error, Result};
use crate::model::decoder::RotaryEmbedding;
use crate::model::visitor::NamedVisitor;
use crate::model::{Voxtral, visitor};
use burn::module::Param;
use burn::tensor::Tensor;

/// A part of the model between two places where all it knows is one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Link {
    /// From features to the first layer of the audio tower.
    Sound,
    /// A layer of the audio tower.
    Hear(usize),
    /// From the audio tower, or what it made earlier, to the first layer of the text model.
    Embed,
    /// A layer of the text model.
    Write(usize),
    /// From the last layer to the loss.
    Score,
}

impl Link {
    /// The link that a parameter belongs to.
    fn of(name: &str) -> Self {
        let layer = |rest: &str| rest.split('.').next().and_then(|layer| layer.parse().ok()).unwrap_or(0);
        if let Some(rest) = name.strip_prefix("audio_tower.layers.") {
            Self::Hear(layer(rest))
        } else if name.starts_with("audio_tower.conv") || name.starts_with("audio_tower.embed_positions") {
            Self::Sound
        } else if let Some(rest) = name.strip_prefix("language_model.model.layers.") {
            Self::Write(layer(rest))
        } else if name.starts_with("language_model.lm_head") || name.starts_with("language_model.model.norm") {
            Self::Score
        } else {
            Self::Embed
        }
    }
}

/// A model, whose trained parameters are marked, with a batch to run through it.
pub(super) struct Chain<'a> {
    pub(super) model: &'a Voxtral,
    pub(super) batch: &'a Batch,
    /// Targets of the whole step, over which the loss is the mean.
    pub(super) targets: usize,
}

impl Chain<'_> {
    /// What the batch adds to the step's loss and gradient.
    pub(super) fn loss_and_gradient(&self) -> Result<(f64, GradientMap)> {
        let (first, decoder) = (self.first_trained(), &self.model.language_model.model);
        let rotary = decoder.rotary(self.batch.tokens.length, &decoder.embed_tokens.weight.device());
        // Forwards: what goes into each link is kept as far down as a gradient has to come back.
        let (mut kept, mut x) = (Vec::new(), None);
        for link in self.links() {
            let y = self.pass(link, x.clone(), &rotary)?.inner();
            if first.is_some_and(|first| link >= first) {
                kept.push((link, x));
            }
            x = Some(y);
        }
        let Some(hidden) = leaf(x) else { return Err(Error::new("the text model has no layers")) };
        let mut gradient = GradientMap::default();
        let loss = loss_of(self.model, decoder.norm.forward(hidden.clone()), self.batch) / self.targets as f64;
        let value = f64::from(loss.clone().into_scalar::<f32>());
        let mut gradients = loss.backward();
        // Backwards: the gradient of what comes out of a link is given to it as the weights of a sum.
        let mut back = hidden.grad_remove(&mut gradients);
        gradient.add(self.model, gradients);
        for (link, x) in kept.into_iter().rev() {
            let Some(g) = back else { break };
            let x = leaf(x);
            let y = self.pass(link, x.clone(), &rotary)?;
            let mut gradients = (y * Tensor::from_inner(g)).sum().backward();
            back = x.as_ref().and_then(|x| x.grad_remove(&mut gradients));
            gradient.add(self.model, gradients);
        }
        Ok((value, gradient))
    }

    /// The links from the one that reads the batch to the last layer.
    fn links(&self) -> Vec<Link> {
        let mut links = Vec::new();
        if matches!(self.batch.audio, BatchAudio::Features(_)) {
            links.push(Link::Sound);
            links.extend((0..self.model.audio_tower.layers.len()).map(Link::Hear));
        }
        links.push(Link::Embed);
        links.extend((0..self.model.language_model.model.layers.len()).map(Link::Write));
        links
    }

    /// The first link with something to learn.
    fn first_trained(&self) -> Option<Link> {
        struct First(Option<Link>);
        impl NamedVisitor for First {
            fn look<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
                if param.val().is_require_grad() {
                    let link = Link::of(name);
                    self.0 = Some(self.0.map_or(link, |first| first.min(link)));
                }
            }
        }
        let mut first = First(None);
        visitor::look(self.model, &mut first);
        first.0
    }

    /// Runs one link. The first of all reads the batch and needs no `x`.
    fn pass(&self, link: Link, x: Option<Tensor<3>>, rotary: &RotaryEmbedding) -> Result<Tensor<3>> {
        let (tower, decoder) = (&self.model.audio_tower, &self.model.language_model.model);
        match (link, x) {
            (Link::Hear(layer), Some(x)) => Ok(tower.layers[layer].forward(x)),
            (Link::Write(layer), Some(x)) => Ok(decoder.layers[layer].read(x, rotary)),
            (Link::Embed, Some(x)) => {
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

/// The same numbers as the beginning of a graph of its own.
fn leaf(x: Option<Tensor<3>>) -> Option<Tensor<3>> {
    x.map(|x| Tensor::from_inner(x).require_grad())
}
