//! Greedy decoding: the prompt with the audio once, then one token at a time against the caches.

use super::attention::KvCache;
use super::{Tokens, Voxtral};
use crate::error::Result;
use burn::tensor::Tensor;

/// When to stop, and what stands for nothing.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `</s>`: ends a row and is not part of it.
    pub end: u32,
    /// What ended rows are fed with.
    pub pad: u32,
    /// At most this many tokens a row.
    pub max_new_tokens: usize,
}

/// Continues prompts of one length with the likeliest token each time, until every row has ended.
///
/// # Shapes
/// prompts `[rows, length]`, audio `[audio tokens, text width]` → a list of new ids for each row
pub fn greedy(model: &Voxtral, prompts: &Tokens, audio: Tensor<2>, limits: Limits) -> Result<Vec<Vec<u32>>> {
    let decoder = &model.language_model.model;
    let mut caches: Vec<KvCache> = decoder.layers.iter().map(|_| KvCache::default()).collect();
    let mut written = vec![Vec::new(); prompts.rows];
    let mut ended = vec![false; prompts.rows];
    let mut hidden = decoder.forward_cached(model.embed(prompts, Some(audio))?, &mut caches);
    for _ in 0..limits.max_new_tokens {
        let [rows, length, width] = hidden.dims();
        let last = hidden.narrow(1, length - 1, 1).reshape([rows, width]);
        let scores = model.language_model.lm_head.forward(last);
        let best: Vec<i64> =
            scores.argmax(1).into_data().convert::<i64>().try_to_vec().map_err(|error| crate::error::Error::new(format!("{error:?}")))?;
        let mut ids = Vec::with_capacity(rows);
        for (row, id) in best.into_iter().enumerate() {
            ended[row] |= id as u32 == limits.end;
            if !ended[row] {
                written[row].push(id as u32);
            }
            ids.push(if ended[row] { limits.pad } else { id as u32 });
        }
        if ended.iter().all(|ended| *ended) {
            break;
        }
        hidden = decoder.forward_cached(model.embed(&Tokens { ids, rows, length: 1 }, None)?, &mut caches);
    }
    Ok(written)
}
