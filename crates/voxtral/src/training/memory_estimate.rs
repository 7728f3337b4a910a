//! How much memory a training needs, as far as that follows from shapes.
//!
//! What is kept of a row for the way back is counted tensor by tensor, as the kernels keep it; the rest is small beside it. It is meant to be
//! an upper bound. Peaks of whole processes on two cores, 80 M parameters in f32, clips of 30 s (estimate, measured, in MiB): adapters, one row
//! at once 444 and 418, two 580 and 397; everything trained, one row 2500 and 2503, two 3191 and 2874.

use crate::model::config::VoxtralConfig;

/// What decides how much is kept.
#[derive(Clone, Copy, Debug)]
pub struct StepShape {
    /// Tokens of the longest row.
    pub length: usize,
    /// Chunks of audio in the longest row.
    pub chunks: usize,
    /// Whether anything learns in the audio tower or the projector.
    pub tower: bool,
    /// Whether anything learns in the feed-forward blocks.
    pub feed_forward: bool,
    /// Whether layers are computed twice instead of kept.
    pub gradient_checkpointing: bool,
    /// Bytes of the model as it was loaded.
    pub model: u64,
    /// Trained numbers.
    pub trained: u64,
}

/// Bytes of a number.
const FLOAT: u64 = 4;
/// How often the trained numbers are there beside the model and each row's gradients: the optimizer's two means, the sum of the gradients,
/// that sum clipped, and what is being written.
const SETS: u64 = 5;

impl StepShape {
    /// Bytes that a row adds while it is computed.
    pub fn row(&self, config: &VoxtralConfig) -> u64 {
        let (text, audio) = (&config.text_config, &config.audio_config);
        let wide = |size: usize| size as u64;
        let (width, inner) = (wide(text.hidden_size), wide(text.intermediate_size));
        let heads = wide((text.num_attention_heads + text.num_key_value_heads) * text.head_dim);
        // Both norms' inputs and what comes out of them, queries, keys, values, what attention gives, gate and up, and their product.
        let layer = 4 * width + 2 * heads + if self.feed_forward { 3 } else { 2 } * inner;
        let text_layers = wide(self.length) * layers(wide(text.num_hidden_layers), layer, width, self.gradient_checkpointing);
        let frames = wide(self.chunks * audio.max_source_positions);
        let (width, inner) = (wide(audio.hidden_size), wide(audio.intermediate_size));
        let layer = 8 * width + 2 * inner;
        let audio_layers = match self.tower {
            true => frames * layers(wide(audio.num_hidden_layers), layer, width, self.gradient_checkpointing),
            // A frozen tower holds one layer at a time.
            false => frames * layer,
        };
        FLOAT * (text_layers + audio_layers)
    }

    /// Bytes of a step with so many rows at once: the model, what `SETS` says, and what each row adds with its gradients.
    pub fn step(&self, config: &VoxtralConfig, rows: usize) -> u64 {
        let rows = rows as u64;
        self.model + FLOAT * self.trained * (SETS + rows) + rows * self.row(config)
    }

    /// The most rows, of those that divide `batch` and are no more than `most`, whose step fits in so many bytes.
    pub fn rows_that_fit(&self, config: &VoxtralConfig, batch: usize, most: usize, bytes: u64) -> Option<usize> {
        (1..=batch.min(most)).rev().filter(|rows| batch.is_multiple_of(*rows)).find(|rows| self.step(config, *rows) <= bytes)
    }
}

/// Numbers that layers keep of a position: all of each, or the inputs of each and all of one.
fn layers(count: u64, layer: u64, input: u64, gradient_checkpointing: bool) -> u64 {
    if gradient_checkpointing { count * input + layer } else { count * layer }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mini-3B with adapters on the attention of the text model, half a minute of audio.
    fn mini(gradient_checkpointing: bool) -> (StepShape, VoxtralConfig) {
        let config = serde_json::json!({
            "audio_config": {"num_mel_bins": 128, "hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20, "intermediate_size": 5120, "max_source_positions": 1500},
            "text_config": {"vocab_size": 131072, "hidden_size": 3072, "num_hidden_layers": 30, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 8192},
            "audio_token_id": 24,
        });
        let shape = StepShape {
            length: 447,
            chunks: 1,
            tower: false,
            feed_forward: false,
            gradient_checkpointing,
            model: 9_350_000_000,
            trained: 5_406_720,
        };
        (shape, serde_json::from_value(config).unwrap())
    }

    #[test]
    fn a_row_of_mini_takes_about_what_was_measured_of_it() {
        let (shape, config) = mini(false);
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        // PyTorch keeps 51.9 MiB a text layer in brain floats, 1.5 GiB in all; ours are 32-bit floats, of which fewer are kept.
        let row = gib(shape.row(&config));
        assert!((1.5..3.0).contains(&row), "{row}");
        let (frugal, _) = mini(true);
        assert!(gib(frugal.row(&config)) < row / 4.0);
    }

    #[test]
    fn rows_fit_that_divide_the_batch() {
        let (shape, config) = mini(false);
        let room = |rows: usize| shape.step(&config, rows);
        assert_eq!(shape.rows_that_fit(&config, 8, 8, room(8)), Some(8));
        assert_eq!(shape.rows_that_fit(&config, 8, 8, room(8) - 1), Some(4));
        assert_eq!(shape.rows_that_fit(&config, 8, 3, room(8)), Some(2));
        assert_eq!(shape.rows_that_fit(&config, 7, 7, room(6)), Some(1));
        assert_eq!(shape.rows_that_fit(&config, 8, 8, room(1) - 1), None);
    }
}
