//! Batched greedy decoding with a KV cache: one prefill of the prompts with their audio, then one token per row and step.
//!
//! Rows are independent. Prompts may differ in length: short ones are padded on the left, and the padding is masked. Finished rows are
//! removed from the batch once they are at least a quarter of it, so that long clips do not pay for short ones.

use super::loop_guard::LoopGuard;
use crate::error::{Error, Result};
use crate::model::kv_cache::DecoderCache;
use crate::model::{TokenBatch, Voxtral};
use burn::tensor::Tensor;

/// A prompt to continue.
#[derive(Clone, Debug)]
pub struct DecoderPrompt {
    /// Prompt token ids.
    pub ids: Vec<u32>,
    /// Maximum number of generated tokens, including `</s>`.
    pub limit: usize,
    /// Ends a row that repeats itself before it reaches the limit; `None` lets it go on.
    pub guard: Option<LoopGuard>,
}

/// Special token ids used for decoding.
#[derive(Clone, Copy, Debug)]
pub struct SpecialTokens {
    /// End of sequence, `</s>`; not part of the output.
    pub eos: u32,
    /// Padding, `<pad>`.
    pub pad: u32,
}

/// Generated tokens of one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    /// Generated token ids, without `</s>`.
    pub tokens: Vec<u32>,
    /// Log-probability (natural) of each token.
    pub log_probabilities: Vec<f32>,
    /// Whether the model generated `</s>`; false if the token limit was reached or the row repeats itself.
    pub finished: bool,
    /// Whether the row was ended by its [`LoopGuard`].
    pub repeats: bool,
}

/// Progress events of [`greedy`].
#[derive(Clone, Debug, PartialEq)]
pub enum GenerationEvent {
    /// One decoding step is complete.
    Token,
    /// The row of this prompt index has ended.
    Ended(usize, Generated),
}

/// A row that is being generated.
struct Row {
    prompt: usize,
    generated: Generated,
    ended: bool,
}

/// Greedy decoding: continues each prompt with the most probable token until every row has ended. Stops if `on_event` returns an error.
///
/// # Shapes
/// audio `[audio tokens of all prompts in order, text width]`
pub fn greedy(
    model: &Voxtral,
    prompts: &[DecoderPrompt],
    audio: Tensor<2>,
    special: SpecialTokens,
    on_event: &mut dyn FnMut(GenerationEvent) -> Result<()>,
) -> Result<()> {
    if prompts.iter().any(|prompt| prompt.limit == 0 || prompt.ids.is_empty()) {
        return Err(Error::new("cannot generate 0 tokens or continue an empty prompt").hint("allow at least 1 token"));
    }
    let ids: Vec<&[u32]> = prompts.iter().map(|prompt| prompt.ids.as_slice()).collect();
    let (mut tokens, pads) = TokenBatch::left_padded(&ids, special.pad);
    let mut rows: Vec<Row> = (0..prompts.len()).map(|prompt| Row { prompt, generated: Generated::default(), ended: false }).collect();
    let decoder = &model.language_model.model;
    let mut cache = DecoderCache::new(decoder.layers.len(), pads);
    let mut audio = Some(audio);
    while !rows.is_empty() {
        let hidden = decoder.forward_cached(model.embed(&tokens, audio.take())?, &mut cache);
        let chosen = argmax(model, hidden)?;
        on_event(GenerationEvent::Token)?;
        for (row, (id, log_probability)) in rows.iter_mut().zip(&chosen).filter(|(row, _)| !row.ended) {
            row.generated.finished = *id == special.eos;
            if !row.generated.finished {
                row.generated.tokens.push(*id);
                row.generated.log_probabilities.push(*log_probability);
            }
            let DecoderPrompt { limit, guard, .. } = &prompts[row.prompt];
            row.generated.repeats = !row.generated.finished && guard.is_some_and(|guard| guard.is_loop(&row.generated.tokens));
            row.ended = row.generated.finished || row.generated.repeats || row.generated.tokens.len() >= *limit;
            if row.ended {
                on_event(GenerationEvent::Ended(row.prompt, std::mem::take(&mut row.generated)))?;
            }
        }
        let mut next: Vec<u32> = rows.iter().zip(chosen).map(|(row, (id, _))| if row.ended { special.pad } else { id }).collect();
        // Removing rows copies the cache of the others, so several are removed at once.
        let left: Vec<usize> = (0..rows.len()).filter(|row| !rows[*row].ended).collect();
        if left.len() * 4 <= rows.len() * 3 {
            next = left.iter().map(|row| next[*row]).collect();
            cache.keep(&left);
            rows.retain(|row| !row.ended);
        }
        tokens = TokenBatch { rows: next.len(), ids: next, length: 1 };
    }
    Ok(())
}

/// The most probable next token of each row and its log-probability.
///
/// # Shapes
/// hidden `[rows, 1, width]`
fn argmax(model: &Voxtral, hidden: Tensor<3>) -> Result<Vec<(u32, f32)>> {
    let [rows, _, width] = hidden.dims();
    let logits = model.language_model.lm_head.forward(hidden.reshape([rows, width]));
    let (best, ids) = logits.clone().max_dim_with_indices(1);
    let sums = (logits - best).exp().sum_dim(1);
    let not_read = |error| Error::new(format!("cannot read the logits: {error:?}"));
    let ids = ids.into_data().convert::<i64>().try_to_vec::<i64>().map_err(not_read)?;
    let sums = sums.into_data().try_to_vec::<f32>().map_err(not_read)?;
    let row = |(id, sum): (i64, f32)| {
        let id = u32::try_from(id).ok().filter(|_| sum.is_finite());
        id.map(|id| (id, -sum.ln()))
            .ok_or_else(|| Error::new("the logits are not finite").hint("the weights do not fit the config, or the training diverged"))
    };
    ids.into_iter().zip(sums).map(row).collect()
}
