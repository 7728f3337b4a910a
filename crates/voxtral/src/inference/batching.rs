//! Which clips are decoded side by side.
//!
//! A batch is padded to its longest prompt and lives until its longest transcript, so clips of like length belong together: they are
//! sorted, and cut into batches where memory, a number of rows or too much padding ask for it.

use crate::model::config::VoxtralConfig;
use std::cmp::Reverse;

/// What is known of a clip before it is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClipSize {
    /// Tokens of its prompt, most of them audio.
    pub prompt: usize,
    /// 16 kHz samples: the longer a clip, the longer its transcript.
    pub samples: usize,
    /// Most tokens that its transcript should have.
    pub limit: usize,
}

/// What a batch may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchBudget {
    /// Bytes for what grows with the rows of a batch: keys and values, and the activations while prompts are read.
    pub bytes: u64,
    /// Rows; beyond some number more rows are no faster.
    pub rows: usize,
}

impl Default for BatchBudget {
    /// The same everywhere: how clips are batched shows in the last bits of the numbers, and these should not depend on the host.
    fn default() -> Self {
        Self { bytes: 2 << 30, rows: 32 }
    }
}

/// Puts clips into batches: lists of indices, the batch of the first clip first. A clip that alone exceeds the budget is a batch of
/// its own.
pub fn plan(clips: &[ClipSize], budget: BatchBudget, config: &VoxtralConfig) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..clips.len()).collect();
    // From the longest down, so that the first clip of a batch decides how wide it is.
    order.sort_by_key(|index| (Reverse((clips[*index].prompt, clips[*index].samples)), *index));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let (mut tokens, mut limit) = (0, 0);
    for index in order {
        let clip = clips[index];
        if let Some(batch) = batches.last_mut() {
            let (rows, longest) = (batch.len() + 1, clips[batch[0]].prompt);
            let fits = rows as u64 * row_bytes(longest, limit.max(clip.limit), config) <= budget.bytes;
            // Padding may add a third to the work.
            let alike = rows * longest * 3 <= (tokens + clip.prompt) * 4;
            if fits && alike && rows <= budget.rows {
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

/// What one row takes, in bytes.
fn row_bytes(prompt: usize, limit: usize, config: &VoxtralConfig) -> u64 {
    let (audio, text) = (&config.audio_config, &config.text_config);
    // The cache has a quarter to spare, and holds old and new at once while it grows.
    let cache = (prompt + limit) * 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 9 / 4;
    // In one layer: what came in and what goes out, queries, keys and values, and the insides of the feed-forward block.
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
