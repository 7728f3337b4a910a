//! Default values of the `train` settings.

use super::BatchSize;
use voxtral::training::adamw::AdamWConfig;

pub(super) fn learning_rate() -> f64 {
    5e-5
}
pub(super) fn epochs() -> f64 {
    3.0
}
pub(super) fn batch_size() -> BatchSize {
    BatchSize::Clips(2)
}
pub(super) fn gradient_accumulation() -> usize {
    4
}
pub(super) fn adam_beta1() -> f64 {
    AdamWConfig::default().beta1
}
pub(super) fn adam_beta2() -> f64 {
    AdamWConfig::default().beta2
}
pub(super) fn adam_epsilon() -> f64 {
    AdamWConfig::default().epsilon
}
pub(super) fn max_grad_norm() -> f64 {
    1.0
}
pub(super) fn max_text_tokens() -> usize {
    256
}
pub(super) fn save_steps() -> u64 {
    50
}
pub(super) fn save_total_limit() -> usize {
    2
}
pub(super) fn audio_cache() -> bool {
    true
}
pub(super) fn device() -> String {
    "auto".to_owned()
}
