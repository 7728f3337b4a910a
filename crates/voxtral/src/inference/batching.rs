//! Batching by length: groups clips of similar length to limit padding, within a memory budget.
//!
//! A batch is padded to its longest prompt and decoded until its longest transcript is complete. Clips are sorted by length, and a new
//! batch starts when the memory budget, the row limit or the padding limit would be exceeded.

use crate::model::config::VoxtralConfig;
use std::cmp::Reverse;

/// Size of a clip, known before it is transcribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClipSize {
    /// Prompt length in tokens, mostly `[AUDIO]`.
    pub prompt: usize,
    /// Number of 16 kHz samples; a proxy for the transcript length.
    pub samples: usize,
    /// Expected maximum length of the transcript, in tokens.
    pub limit: usize,
}

/// Limits of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchBudget {
    /// Maximum bytes of everything that grows with the number of rows: KV cache and prefill activations.
    pub bytes: u64,
    /// Maximum number of rows; more rows would not be faster.
    pub rows: usize,
}

impl Default for BatchBudget {
    /// 2 GiB and 32 rows on every host: batching affects rounding, and results should not depend on the host.
    fn default() -> Self {
        Self { bytes: 2 << 30, rows: 32 }
    }
}

/// Groups clips into batches of indices, ordered by their first clip. A clip that exceeds the budget alone gets its own batch.
pub fn plan(clips: &[ClipSize], budget: BatchBudget, config: &VoxtralConfig) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..clips.len()).collect();
    // Longest first, so that the first clip of a batch determines its padded length.
    order.sort_by_key(|index| (Reverse((clips[*index].prompt, clips[*index].samples)), *index));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let (mut tokens, mut limit) = (0, 0);
    for index in order {
        let clip = clips[index];
        if let Some(batch) = batches.last_mut() {
            let (rows, longest) = (batch.len() + 1, clips[batch[0]].prompt);
            let fits = rows as u64 * row_bytes(longest, limit.max(clip.limit), config) <= budget.bytes;
            // Padding may add at most a third to the work.
            let little_padding = rows * longest * 3 <= (tokens + clip.prompt) * 4;
            if fits && little_padding && rows <= budget.rows {
                batch.push(index);
                tokens += clip.prompt;
                limit = limit.max(clip.limit);
                continue;
            }
        }
        batches.push(vec![index]);
        (tokens, limit) = (clip.prompt, clip.limit);
    }
    for batch in &mut batches {
        batch.sort_unstable();
    }
    batches.sort_unstable();
    batches
}

/// Memory of one row, in bytes.
fn row_bytes(prompt: usize, limit: usize, config: &VoxtralConfig) -> u64 {
    let (audio, text) = (&config.audio_config, &config.text_config);
    // The KV cache is over-allocated by a quarter, and holds the old and the new buffer while it grows.
    let cache = (prompt + limit) * 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 9 / 4;
    // Activations of one layer: input and output, queries, keys and values, and the feed-forward block.
    let layer = prompt * (4 * text.hidden_size + 4 * text.num_attention_heads * text.head_dim + 3 * text.intermediate_size);
    let features = prompt.div_ceil(audio.chunk_tokens().max(1)) * audio.num_mel_bins * audio.chunk_frames();
    ((cache + layer + features) * size_of::<f32>()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip(seconds: usize) -> ClipSize {
        ClipSize { prompt: 8 + seconds.div_ceil(30) * 375, samples: seconds * 16_000, limit: 64 + 16 * seconds }
    }

    fn mini() -> VoxtralConfig {
        serde_json::from_str(r#"{"audio_config":{},"text_config":{}}"#).unwrap()
    }

    fn planned(seconds: &[usize], budget: BatchBudget) -> Vec<Vec<usize>> {
        plan(&seconds.iter().map(|seconds| clip(*seconds)).collect::<Vec<_>>(), budget, &mini())
    }

    #[test]
    fn clips_of_like_length_share_a_batch() {
        let budget = BatchBudget { bytes: u64::MAX, rows: 3 };
        assert_eq!(planned(&[5, 300, 7, 310, 6, 3, 90], budget), [vec![0, 2, 4], vec![1, 3], vec![5], vec![6]]);
        assert_eq!(planned(&[], budget), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn memory_bounds_a_batch_and_no_clip_is_left_out() {
        let bytes = row_bytes(clip(30).prompt, clip(30).limit, &mini());
        assert!((200 << 20..800 << 20).contains(&bytes), "a 30-second clip of Mini takes {bytes} bytes");
        let two = BatchBudget { bytes: 2 * bytes, rows: 32 };
        assert_eq!(planned(&[30; 5], two), [vec![0, 1], vec![2, 3], vec![4]]);
        assert_eq!(planned(&[1800, 30], BatchBudget { bytes: 1, rows: 32 }), [[0], [1]]);
        let mut all: Vec<usize> = planned(&[31, 12, 900, 3, 3, 3, 75, 61, 44], BatchBudget::default()).concat();
        all.sort_unstable();
        assert_eq!(all, (0..9).collect::<Vec<_>>());
    }

    #[test]
    fn little_padding_is_no_reason_to_part() {
        let budget = BatchBudget { bytes: u64::MAX, rows: 32 };
        assert_eq!(planned(&[30, 60], budget), [[0, 1]], "one of 60 seconds carries one of 30");
        assert_eq!(planned(&[30, 60, 30], budget), [vec![0, 1], vec![2]], "but not two");
    }
}
