//! The kernels as operations on tensors, differentiable and on every device.
//!
//! On the processor they are the kernels of this folder, made known to burn as an extension with gradients of their own. On any other
//! device they are composed of burn's own operations ([`composed`]), and burn finds the gradients. Both say the same, and tests hold
//! one against the other, so that what a graphics card computes is exercised without one.

mod autograd;
mod cpu;
pub mod reference;

pub use super::attention::{AttentionMask, MatmulPrecision};
use super::norm::NormKind;
pub use super::quantized::QuantType;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Device, Tensor};

/// Whether a tensor is where the kernels run.
fn is_here<const D: usize>(x: &Tensor<D>) -> bool {
    x.device() == Device::flex()
}

/// x · Φ(x).
#[must_use]
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !is_here(&x) {
        return reference::gelu(x);
    }
    Tensor::from_dispatch(Dispatch::kernel_gelu(x.into_dispatch()))
}

/// silu(gate) · up.
#[must_use]
pub fn silu_mul<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    if !is_here(&gate) {
        return reference::silu_mul(gate, up);
    }
    Tensor::from_dispatch(Dispatch::kernel_silu_mul(gate.into_dispatch(), up.into_dispatch()))
}

/// (x - mean) / √(variance + ε) · weight + bias, row by row.
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

/// x / √(mean square + ε) · weight, row by row.
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

/// x wᵀ + b. The weight is kept in 32-bit or in brain floats; in the latter it is taken as it is and gets no gradient. With factors in
/// brain floats, a weight of 32 bits is rounded for the product, forwards and backwards, and keeps its gradient.
///
/// # Shapes
/// x `[…, inputs]`, weight `[outputs, inputs]`, bias `[outputs]` → `[…, outputs]`
#[must_use]
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>, factors: MatmulPrecision) -> Tensor<D> {
    if !is_here(&x) {
        return reference::linear(x, weight, bias, factors);
    }
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(match bias {
        Some(bias) => Dispatch::kernel_linear_with_bias(x, weight, bias.into_dispatch(), factors),
        None => Dispatch::kernel_linear(x, weight, factors),
    })
}

/// x wᵀ + b with weights of 8 or 4 bits as [`quantised`](super::quantized) packs them: the bytes of a row are kept two by two in what
/// the tensor calls brain floats. They get no gradient. For the processor only.
///
/// # Shapes
/// x `[…, inputs]`, packed `[outputs, bytes of a row / 2]`, bias `[outputs]` → `[…, outputs]`
#[must_use]
pub fn linear_quantised<const D: usize>(x: Tensor<D>, packed: Tensor<2>, bias: Option<Tensor<1>>, bits: QuantType) -> Tensor<D> {
    let y = Tensor::from_dispatch(Dispatch::kernel_linear_quantised(x.into_dispatch(), packed.into_dispatch(), bits));
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// Turns component i of a head with component i + width / 2.
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

/// softmax(q kᵀ / √width) v, where several query heads may share a key head. With factors in brain floats, q, k, v and the scores may be
/// rounded to these. There may be more keys than queries, which are then the last
/// ones of the sequence; a view of a longer buffer is read where it lies.
///
/// # Shapes
/// q `[batch, heads, queries, width]`, k and v `[batch, key heads, keys, width]` → `[batch, heads, queries, width]`
#[must_use]
pub fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: AttentionMask, factors: MatmulPrecision) -> Tensor<4> {
    if !is_here(&q) {
        return reference::attend(q, k, v, mask, factors);
    }
    Tensor::from_dispatch(Dispatch::kernel_attend(q.into_dispatch(), k.into_dispatch(), v.into_dispatch(), mask, factors))
}

/// The summed cross-entropy of targets, of which every row of x has one, under the scores x wᵀ. The weight is kept in 32-bit floats or,
/// where it gets no gradient, in brain floats.
///
/// # Shapes
/// x `[rows, width]`, weight `[vocabulary, width]`, targets below the vocabulary's size → `[1]`
#[must_use]
pub fn cross_entropy(x: Tensor<2>, weight: Tensor<2>, targets: Vec<u32>) -> Tensor<1> {
    if !is_here(&x) {
        return reference::cross_entropy(x, weight, &targets);
    }
    Tensor::from_dispatch(Dispatch::kernel_entropy(x.into_dispatch(), weight.into_dispatch(), targets).0)
}

/// What the processor's backend can do besides burn's own operations.
#[backend_extension(Flex, Autodiff)]
pub trait Kernels: Backend {
    /// [`gelu`].
    fn kernel_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The gradient of x.
    fn kernel_gelu_backward(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;
    /// [`silu_mul`].
    fn kernel_silu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The gradients of gate and up.
    fn kernel_silu_mul_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// [`layer_norm`].
    fn kernel_layer_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;
    /// [`rms_norm`].
    fn kernel_rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;
    /// The gradients of x, weight and bias.
    fn kernel_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f32,
        norm: NormKind,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// [`linear`] without a bias.
    fn kernel_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, factors: MatmulPrecision) -> FloatTensor<Self>;
    /// [`linear`] with one.
    fn kernel_linear_with_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        factors: MatmulPrecision,
    ) -> FloatTensor<Self>;
    /// The gradient of x.
    fn kernel_linear_input_gradient(gradient: FloatTensor<Self>, weight: FloatTensor<Self>, factors: MatmulPrecision) -> FloatTensor<Self>;
    /// The gradient of the weight.
    fn kernel_linear_weight_gradient(gradient: FloatTensor<Self>, x: FloatTensor<Self>, factors: MatmulPrecision) -> FloatTensor<Self>;
    /// The gradient of the bias.
    fn kernel_linear_bias_gradient(gradient: FloatTensor<Self>) -> FloatTensor<Self>;
    /// [`linear_quantised`] without a bias.
    fn kernel_linear_quantised(x: FloatTensor<Self>, packed: FloatTensor<Self>, bits: QuantType) -> FloatTensor<Self>;
    /// The gradient of x, which has so many inputs.
    fn kernel_linear_quantised_input_gradient(
        gradient: FloatTensor<Self>,
        packed: FloatTensor<Self>,
        inputs: usize,
        bits: QuantType,
    ) -> FloatTensor<Self>;
    /// [`rotate`], or back, which is its gradient.
    fn kernel_rotate(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>, back: bool) -> FloatTensor<Self>;
    /// [`attend`].
    fn kernel_attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: AttentionMask,
        factors: MatmulPrecision,
    ) -> FloatTensor<Self>;
    /// The gradients of q, k and v.
    fn kernel_attend_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mask: AttentionMask,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// [`cross_entropy`], and what its gradients need beside the inputs.
    fn kernel_entropy(x: FloatTensor<Self>, weight: FloatTensor<Self>, targets: Vec<u32>) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// The gradients of x and, if it is wanted, of the weight; an empty one if not.
    fn kernel_entropy_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        logarithms: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        targets: Vec<u32>,
        of_weight: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}
