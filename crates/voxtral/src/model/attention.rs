//! Multi-head scaled dot-product attention: reshaping between hidden states and heads.

pub use crate::kernels::ops::{AttentionMask, attend};
use burn::tensor::Tensor;

/// Splits hidden states into heads: `[batch, length, heads × head width]` → `[batch, heads, length, head width]`.
pub fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, length, width] = x.dims();
    x.reshape([batch, length, heads, width / heads]).swap_dims(1, 2)
}

/// The inverse of [`split_heads`]: `[batch, heads, length, head width]` → `[batch, length, heads × head width]`.
pub fn merge_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, length, width] = x.dims();
    x.swap_dims(1, 2).reshape([batch, length, heads * width])
}
