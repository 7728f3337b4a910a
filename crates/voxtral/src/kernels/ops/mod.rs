//! Differentiable tensor operations on every device, backed by the kernels on the CPU.
//!
//! On the CPU these are the kernels of this folder, registered with burn as a backend extension with their own gradients. On any other
//! device they consist of burn's own operations ([`mod@reference`]), and burn derives the gradients. Both compute the same, and tests compare
//! them, so the GPU implementation is tested without a GPU.

mod autograd;
mod cpu;
pub mod reference;

pub use super::attention::{AttentionMask, MatmulPrecision};
use super::norm::NormKind;
pub use super::quantized::QuantType;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Device, Tensor};

/// Whether a tensor is on the device the kernels run on.
fn is_here<const D: usize>(x: &Tensor<D>) -> bool {
    x.device() == Device::flex()
}

/// GELU: x · Φ(x).
#[must_use]
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !is_here(&x) {
        return reference::gelu(x);
    }
    Tensor::from_dispatch(Dispatch::kernel_gelu(x.into_dispatch()))
}

/// SwiGLU gate: silu(gate) · up.
#[must_use]
pub fn silu_mul<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    if !is_here(&gate) {
        return reference::silu_mul(gate, up);
    }
    Tensor::from_dispatch(Dispatch::kernel_silu_mul(gate.into_dispatch(), up.into_dispatch()))
}

/// LayerNorm of each row: (x - mean) / √(variance + ε) · weight + bias.
///
/// # Shapes
/// x `[…, width]`, weight and bias `[width]` → as x
#[must_use]
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<D> {
    if !is_here(&x) {
        return reference::layer_norm(x, weight, bias, epsilon);
    }
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::kernel_layer_norm(x, weight, bias, epsilon as f32))
}

/// RMSNorm of each row: x / √(mean square + ε) · weight.
///
/// # Shapes
/// x `[…, width]`, weight `[width]` → as x
#[must_use]
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    if !is_here(&x) {
        return reference::rms_norm(x, weight, epsilon);
    }
    Tensor::from_dispatch(Dispatch::kernel_rms_norm(x.into_dispatch(), weight.into_dispatch(), epsilon as f32))
}

/// Linear layer: x wᵀ + b. The weight is stored as f32 or bf16; a bf16 weight is used as it is and gets no gradient. With
/// [`MatmulPrecision::Bf16`], an f32 weight is rounded for the product, in both passes, and still gets its gradient.
///
/// # Shapes
/// x `[…, inputs]`, weight `[outputs, inputs]`, bias `[outputs]` → `[…, outputs]`
#[must_use]
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>, precision: MatmulPrecision) -> Tensor<D> {
    if !is_here(&x) {
        return reference::linear(x, weight, bias, precision);
    }
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(match bias {
        Some(bias) => Dispatch::kernel_linear_with_bias(x, weight, bias.into_dispatch(), precision),
        None => Dispatch::kernel_linear(x, weight, precision),
    })
}

/// Linear layer with block-quantized weights of 8 or 4 bits, packed by [`quantized`](super::quantized): the bytes of a row are stored in
/// pairs, in a tensor of type bf16. They get no gradient. CPU only.
///
/// # Shapes
/// x `[…, inputs]`, packed `[outputs, bytes of a row / 2]`, bias `[outputs]` → `[…, outputs]`
#[must_use]
pub fn linear_quantized<const D: usize>(x: Tensor<D>, packed: Tensor<2>, bias: Option<Tensor<1>>, bits: QuantType) -> Tensor<D> {
    let y = Tensor::from_dispatch(Dispatch::kernel_linear_quantized(x.into_dispatch(), packed.into_dispatch(), bits));
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// RoPE: rotates component i of a head with component i + width / 2.
///
/// # Shapes
/// x `[batch, heads, length, width]`, cos and sin `[1 or batch, 1, length, width]` → as x
#[must_use]
pub fn rotate(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
    if !is_here(&x) {
        return reference::rotate(x, cos, sin);
    }
    Tensor::from_dispatch(Dispatch::kernel_rotate(x.into_dispatch(), cos.into_dispatch(), sin.into_dispatch(), false))
}

/// Attention: softmax(q kᵀ / √width) v, where several query heads may share a key head (GQA). With [`MatmulPrecision::Bf16`], q, k, v and
/// the attention weights may be rounded to bf16. If there are more keys than queries, the queries are the last positions of the sequence. A
/// view of a longer buffer, such as a KV cache, is read in place.
///
/// # Shapes
/// q `[batch, heads, queries, width]`, k and v `[batch, key heads, keys, width]` → `[batch, heads, queries, width]`
#[must_use]
pub fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: AttentionMask, precision: MatmulPrecision) -> Tensor<4> {
    if !is_here(&q) {
        return reference::attend(q, k, v, mask, precision);
    }
    Tensor::from_dispatch(Dispatch::kernel_attend(q.into_dispatch(), k.into_dispatch(), v.into_dispatch(), mask, precision))
}

/// Fused linear cross-entropy, summed over the targets, one per row of x: the logits are x wᵀ. The weight is stored as f32 or, if it gets
/// no gradient, as bf16.
///
/// x `[rows, width]`, weight `[vocabulary, width]`, targets below the vocabulary size → `[1]`
#[must_use]
pub fn cross_entropy(x: Tensor<2>, weight: Tensor<2>, targets: Vec<u32>) -> Tensor<1> {
    if !is_here(&x) {
        return reference::cross_entropy(x, weight, &targets);
    }
    Tensor::from_dispatch(Dispatch::kernel_entropy(x.into_dispatch(), weight.into_dispatch(), targets).0)
}

/// Kernel operations that extend the CPU backend of burn.
#[backend_extension(Flex, Autodiff)]
pub trait Kernels: Backend {
    /// [`gelu`].
    fn kernel_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Gradient of x.
    fn kernel_gelu_backward(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;
    /// [`silu_mul`].
    fn kernel_silu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Gradients of gate and up.
    fn kernel_silu_mul_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// [`layer_norm`].
    fn kernel_layer_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;
    /// [`rms_norm`].
    fn kernel_rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;
    /// Gradients of x, weight and bias.
    fn kernel_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f32,
        norm: NormKind,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// [`linear`] without a bias.
    fn kernel_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, precision: MatmulPrecision) -> FloatTensor<Self>;
    /// [`linear`] with a bias.
    fn kernel_linear_with_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        precision: MatmulPrecision,
    ) -> FloatTensor<Self>;
    /// Gradient of x.
    fn kernel_linear_input_gradient(
        gradient: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        precision: MatmulPrecision,
    ) -> FloatTensor<Self>;
    /// Gradient of the weight.
    fn kernel_linear_weight_gradient(gradient: FloatTensor<Self>, x: FloatTensor<Self>, precision: MatmulPrecision) -> FloatTensor<Self>;
    /// Gradient of the bias.
    fn kernel_linear_bias_gradient(gradient: FloatTensor<Self>) -> FloatTensor<Self>;
    /// [`linear_quantized`] without a bias.
    fn kernel_linear_quantized(x: FloatTensor<Self>, packed: FloatTensor<Self>, bits: QuantType) -> FloatTensor<Self>;
    /// Gradient of x, which has `inputs` columns.
    fn kernel_linear_quantised_input_gradient(
        gradient: FloatTensor<Self>,
        packed: FloatTensor<Self>,
        inputs: usize,
        bits: QuantType,
    ) -> FloatTensor<Self>;
    /// [`rotate`] or, with `back`, the inverse rotation, which is its gradient.
    fn kernel_rotate(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>, back: bool) -> FloatTensor<Self>;
    /// [`attend`].
    fn kernel_attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: AttentionMask,
        precision: MatmulPrecision,
    ) -> FloatTensor<Self>;
    /// Gradients of q, k and v.
    fn kernel_attend_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mask: AttentionMask,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// [`cross_entropy`], and the log-sum-exp per row that its gradient needs.
    fn kernel_entropy(x: FloatTensor<Self>, weight: FloatTensor<Self>, targets: Vec<u32>) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// Gradients of x and, if `of_weight`, of the weight; otherwise an empty tensor in its place.
    fn kernel_entropy_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        logarithms: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        targets: Vec<u32>,
        of_weight: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}
