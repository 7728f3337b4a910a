//! FLOP counts of a model, with multiplications and additions counted separately.

use voxtral::model::config::VoxtralConfig;

/// FLOPs of the forward pass for one row: a prompt with its audio, and targets to predict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OperationCount {
    /// Audio encoder and projector.
    pub hearing: f64,
    /// Text model without its output head.
    pub reading: f64,
    /// Output head at the targets.
    pub writing: f64,
}

impl OperationCount {
    /// Counts the FLOPs of convolutions, matrix products and attention; norms and activations are negligible.
    pub fn of(config: &VoxtralConfig, chunks: usize, length: usize, targets: usize) -> Self {
        let (audio, text) = (&config.audio_config, &config.text_config);
        let number = |count: usize| count as f64;
        let (frames, width, inner) = (number(audio.max_source_positions), number(audio.hidden_size), number(audio.intermediate_size));
        let convolutions = 6.0 * width * (2.0 * number(audio.num_mel_bins) + width) * frames;
        let layer = frames * (8.0 * width * width + 4.0 * width * inner) + 4.0 * frames * frames * width;
        let (rows, out) = (number(audio.chunk_tokens()), number(text.hidden_size));
        let projector = 2.0 * rows * (inner * out + out * out);
        let hearing = number(chunks) * (convolutions + number(audio.num_hidden_layers) * layer + projector);

        let (width, inner, length) = (out, number(text.intermediate_size), number(length));
        let (heads, shared) = (number(text.num_attention_heads * text.head_dim), number(text.num_key_value_heads * text.head_dim));
        let linears = 2.0 * length * (2.0 * width * heads + 2.0 * width * shared + 3.0 * width * inner);
        // Causal attention computes half of all pairs.
        let layer = linears + 2.0 * length * length * heads;
        let reading = number(text.num_hidden_layers) * layer;
        Self { hearing, reading, writing: 2.0 * number(targets) * width * number(text.vocab_size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::BenchSize;

    #[test]
    fn a_row_of_mini_is_as_much_as_counted_by_hand() {
        // 30 seconds, 447 tokens, 64 of them targets: 2.274 + 0.019, 2.869 + 0.049 and 0.052 × 10¹².
        let work = OperationCount::of(&BenchSize::Mini3b.config(), 1, 447, 64);
        for (found, expected) in [(work.hearing, 2.293e12), (work.reading, 2.918e12), (work.writing, 0.0515e12)] {
            assert!((found / expected - 1.0).abs() < 0.01, "{found} instead of {expected}");
        }
    }
}
