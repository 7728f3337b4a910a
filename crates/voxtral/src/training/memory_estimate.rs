//! Memory estimate of a training step, computed from shapes; intended as an upper bound.
//!
//! Counts the activations that the kernels store for the backward pass, tensor by tensor; everything else is small. Estimated and measured
//! peak memory of the process in MiB (two cores, 80 M parameters in f32, 30 s clips): LoRA, one row at a time 444 and 418, two rows 580
//! and 397; full fine-tuning, one row 2500 and 2503, two rows 3191 and 2874.

use crate::model::config::VoxtralConfig;

/// Inputs of the estimate.
#[derive(Clone, Copy, Debug)]
pub struct StepShape {
    /// Length of the longest row in tokens.
    pub length: usize,
    /// Audio chunks of the longest row.
    pub chunks: usize,
    /// Whether the audio encoder or the projector is trained.
    pub tower: bool,
    /// Whether the feed-forward blocks are trained.
    pub feed_forward: bool,
    /// Whether gradient checkpointing is on.
    pub gradient_checkpointing: bool,
    /// Bytes of the loaded model.
    pub model: u64,
    /// Number of trained parameters.
    pub trained: u64,
}

/// Bytes per f32.
const FLOAT: u64 = 4;
/// Copies of the trained parameters besides the model and each row's gradients: the optimizer's two moments, the summed gradient, the
/// clipped gradient, and the checkpoint being written.
const COPIES: u64 = 5;

impl StepShape {
    /// Activation memory of one row, in bytes.
    pub fn row(&self, config: &VoxtralConfig) -> u64 {
        let (text, audio) = (&config.text_config, &config.audio_config);
        let wide = |size: usize| size as u64;
        let (width, inner) = (wide(text.hidden_size), wide(text.intermediate_size));
        let heads = wide((text.num_attention_heads + text.num_key_value_heads) * text.head_dim);
        // Inputs and outputs of both norms, queries, keys, values, attention output, gate, up, and their product.
        let layer = 4 * width + 2 * heads + if self.feed_forward { 3 } else { 2 } * inner;
        let text_layers = wide(self.length) * layers(wide(text.num_hidden_layers), layer, width, self.gradient_checkpointing);
        let frames = wide(self.chunks * audio.max_source_positions);
        let (width, inner) = (wide(audio.hidden_size), wide(audio.intermediate_size));
        let layer = 8 * width + 2 * inner;
        let audio_layers = match self.tower {
            true => frames * layers(wide(audio.num_hidden_layers), layer, width, self.gradient_checkpointing),
            // A frozen encoder holds one layer at a time.
            false => frames * layer,
        };
        FLOAT * (text_layers + audio_layers)
    }

    /// Memory of a step with `rows` concurrent rows, in bytes: model, `COPIES`, and activations and gradients of each row.
    pub fn step(&self, config: &VoxtralConfig, rows: usize) -> u64 {
        let rows = rows as u64;
        self.model + FLOAT * self.trained * (COPIES + rows) + rows * self.row(config)
    }

    /// The largest divisor of `batch`, at most `most`, whose rows fit in `bytes` bytes; `None` if not even one row fits.
    pub fn rows_that_fit(&self, config: &VoxtralConfig, batch: usize, most: usize, bytes: u64) -> Option<usize> {
        (1..=batch.min(most)).rev().filter(|rows| batch.is_multiple_of(*rows)).find(|rows| self.step(config, *rows) <= bytes)
    }
}

/// Activations stored per position, in elements: those of all layers, or with gradient checkpointing all layer inputs plus one full layer.
fn layers(count: u64, layer: u64, input: u64, gradient_checkpointing: bool) -> u64 {
    if gradient_checkpointing { count * input + layer } else { count * layer }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mini-3B with LoRA on the attention of the language model, 30 s of audio.
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
        // PyTorch stores 51.9 MiB per decoder layer in bf16, 1.5 GiB in total; here it is f32, but fewer tensors.
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
