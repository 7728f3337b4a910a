//! Greedy decoding: the prompts with the audio once, then one token a row at a time against the cache.
//!
//! Rows are independent of each other: their prompts may differ in length (short ones are padded on the left, and nobody looks there),
//! and a row that has ended leaves the batch once a good part of it has, so that short clips do not wait for long ones.

use crate::error::{Error, Result};
use crate::model::kv_cache::DecoderCache;
use crate::model::{TokenBatch, Voxtral};
use burn::tensor::Tensor;

/// A row to continue.
#[derive(Clone, Debug)]
pub struct DecoderPrompt {
    /// What the model reads.
    pub ids: Vec<u32>,
    /// At most this many tokens are written, `</s>` included.
    pub limit: usize,
}

/// Ids with a meaning of their own.
#[derive(Clone, Copy, Debug)]
pub struct SpecialTokens {
    /// `</s>`: ends a row and is not part of it.
    pub end: u32,
    /// `<pad>`: fills rows up.
    pub pad: u32,
}

/// What the model wrote in one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    /// The new ids, without `</s>`.
    pub tokens: Vec<u32>,
    /// The natural logarithm of the probability the model gave each of them.
    pub log_probabilities: Vec<f32>,
    /// Whether the model ended the row itself; if not, its limit did.
    pub finished: bool,
}

/// What is said while rows are written.
#[derive(Clone, Debug, PartialEq)]
pub enum GenerationEvent {
    /// Every row has one more token.
    Token,
    /// The row of this prompt has ended.
    Ended(usize, Generated),
}

/// A row in the making.
struct Row {
    prompt: usize,
    written: Generated,
    ended: bool,
}

/// Continues prompts with the likeliest token each time, until every row has ended. An error that `say` returns ends it.
///
/// # Shapes
/// audio `[audio tokens of all prompts in order, text width]`
pub fn greedy(
    model: &Voxtral,
    prompts: &[DecoderPrompt],
    audio: Tensor<2>,
    special: SpecialTokens,
    say: &mut dyn FnMut(GenerationEvent) -> Result<()>,
) -> Result<()> {
    if prompts.iter().any(|prompt| prompt.limit == 0 || prompt.ids.is_empty()) {
        return Err(Error::new("cannot write 0 tokens, or continue an empty prompt").hint("allow at least 1 token"));
    }
    let ids: Vec<&[u32]> = prompts.iter().map(|prompt| prompt.ids.as_slice()).collect();
    let (mut tokens, pads) = TokenBatch::left_padded(&ids, special.pad);
    let mut rows: Vec<Row> = (0..prompts.len()).map(|prompt| Row { prompt, written: Generated::default(), ended: false }).collect();
    let decoder = &model.language_model.model;
    let mut cache = DecoderCache::new(decoder.layers.len(), pads);
    let mut audio = Some(audio);
    while !rows.is_empty() {
        let hidden = decoder.forward_cached(model.embed(&tokens, audio.take())?, &mut cache);
        let chosen = argmax(model, hidden)?;
        say(GenerationEvent::Token)?;
        for (row, (id, log_probability)) in rows.iter_mut().zip(&chosen).filter(|(row, _)| !row.ended) {
            row.written.finished = *id == special.end;
            if !row.written.finished {
                row.written.tokens.push(*id);
                row.written.log_probabilities.push(*log_probability);
            }
            row.ended = row.written.finished || row.written.tokens.len() >= prompts[row.prompt].limit;
            if row.ended {
                say(GenerationEvent::Ended(row.prompt, std::mem::take(&mut row.written)))?;
            }
        }
        let mut next: Vec<u32> = rows.iter().zip(chosen).map(|(row, (id, _))| if row.ended { special.pad } else { id }).collect();
        // To forget a row costs a copy of the others' cache, so it is done for several at once.
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

/// The best next token of each row, and the logarithm of its probability.
///
/// # Shapes
/// hidden `[rows, 1, width]`
fn argmax(model: &Voxtral, hidden: Tensor<3>) -> Result<Vec<(u32, f32)>> {
    let [rows, _, width] = hidden.dims();
    let scores = model.language_model.lm_head.forward(hidden.reshape([rows, width]));
    let (best, ids) = scores.clone().max_dim_with_indices(1);
    let sums = (scores - best).exp().sum_dim(1);
    let not_read = |error| Error::new(format!("cannot read the model's scores: {error:?}"));
    let ids = ids.into_data().convert::<i64>().try_to_vec::<i64>().map_err(not_read)?;
    let sums = sums.into_data().try_to_vec::<f32>().map_err(not_read)?;
    let row = |(id, sum): (i64, f32)| {
        let id = u32::try_from(id).ok().filter(|_| sum.is_finite());
        id.map(|id| (id, -sum.ln())).ok_or_else(|| {
            Error::new("the model's scores are no numbers").hint("its weights do not fit its config, or its training diverged")
        })
    };
    ids.into_iter().zip(sums).map(row).collect()
}
