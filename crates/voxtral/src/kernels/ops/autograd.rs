//! Autodiff: the backward passes of the kernel operations.
//!
//! Each operation stores only the inputs its gradient needs; an operation without gradients stores nothing. The method names of the kernels
//! appear only here and in the trait, so the compiler checks that they match.

use super::Kernels;
use crate::kernels::attention::{AttentionMask, MatmulPrecision};
use crate::kernels::norm::NormKind;
use crate::kernels::quantized::QuantType;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::autodiff::{Autodiff, NodeId};
use burn::backend::tensor::FloatTensor;
use burn::backend::{AutodiffBackend, TensorMetadata};

/// Registers a gradient for an input that needs one.
fn register<B: Kernels>(grads: &mut Gradients, input: Option<NodeId>, gradient: impl FnOnce() -> FloatTensor<B>) {
    if let Some(input) = input {
        grads.register::<B>(input, gradient());
    }
}

/// Runs the forward pass and records the backward pass, with `$state` if any input is tracked.
macro_rules! operation {
    ($backward:expr, $checkpoints:ty, [$($input:ident),+], $state:expr, $forward:expr) => {
        match $backward.prepare::<$checkpoints>([$($input.node()),+]).compute_bound().stateful() {
            OpsKind::Tracked(tracked) => {
                let state = $state;
                $(let $input = $input.into_primitive();)+
                tracked.finish(state, $forward)
            }
            OpsKind::UnTracked(untracked) => {
                $(let $input = $input.into_primitive();)+
                untracked.finish($forward)
            }
        }
    };
}

#[derive(Debug)]
struct Gelu;

impl<B: Kernels> Backward<B, 1> for Gelu {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x] = ops.parents.map(|input| input.map(|input| input.id));
        let gradient = grads.consume::<B>(&ops.node);
        register::<B>(grads, x, || B::kernel_gelu_backward(ops.state, gradient));
    }
}

#[derive(Debug)]
struct SiluMul;

impl<B: Kernels> Backward<B, 2> for SiluMul {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [gate, up] = ops.parents.map(|input| input.map(|input| input.id));
        let gradient = grads.consume::<B>(&ops.node);
        let (dgate, dup) = B::kernel_silu_mul_backward(ops.state.0, ops.state.1, gradient);
        register::<B>(grads, gate, || dgate);
        register::<B>(grads, up, || dup);
    }
}

/// State: x and weight. The third input of LayerNorm is the bias.
#[derive(Debug)]
struct Normalise(NormKind, f32);

impl<B: Kernels, const N: usize> Backward<B, N> for Normalise {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (dx, dweight, dbias) = B::kernel_norm_backward(ops.state.0, ops.state.1, gradient, self.1, self.0);
        for (input, gradient) in ops.parents.map(|input| input.map(|input| input.id)).into_iter().zip([dx, dweight, dbias]) {
            register::<B>(grads, input, || gradient);
        }
    }
}

/// State: x and weight, each stored only if the other one needs a gradient. A third input is the bias.
#[derive(Debug)]
struct Linear(MatmulPrecision);

impl<B: Kernels, const N: usize> Backward<B, N> for Linear {
    type State = (Option<FloatTensor<B>>, Option<FloatTensor<B>>);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let mut inputs = ops.parents.map(|input| input.map(|input| input.id)).into_iter();
        let (x, weight, bias) = (inputs.next().flatten(), inputs.next().flatten(), inputs.next().flatten());
        if let Some(kept) = ops.state.1 {
            register::<B>(grads, x, || B::kernel_linear_input_gradient(gradient.clone(), kept, self.0));
        }
        if let Some(kept) = ops.state.0 {
            register::<B>(grads, weight, || B::kernel_linear_weight_gradient(gradient.clone(), kept, self.0));
        }
        register::<B>(grads, bias, || B::kernel_linear_bias_gradient(gradient));
    }
}

/// Number of inputs and quantization type.
#[derive(Debug)]
struct QuantizedLinear(usize, QuantType);

impl<B: Kernels> Backward<B, 1> for QuantizedLinear {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x] = ops.parents.map(|input| input.map(|input| input.id));
        let gradient = grads.consume::<B>(&ops.node);
        register::<B>(grads, x, || B::kernel_linear_quantised_input_gradient(gradient, ops.state, self.0, self.1));
    }
}

#[derive(Debug)]
struct Rotate;

impl<B: Kernels> Backward<B, 1> for Rotate {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x] = ops.parents.map(|input| input.map(|input| input.id));
        let gradient = grads.consume::<B>(&ops.node);
        register::<B>(grads, x, || B::kernel_rotate(gradient, ops.state.0, ops.state.1, true));
    }
}

#[derive(Debug)]
struct Attend(AttentionMask);

impl<B: Kernels> Backward<B, 3> for Attend {
    type State = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [q, k, v] = ops.parents.map(|input| input.map(|input| input.id));
        let gradient = grads.consume::<B>(&ops.node);
        let (dq, dk, dv) = B::kernel_attend_backward(ops.state.0, ops.state.1, ops.state.2, gradient, self.0);
        register::<B>(grads, q, || dq);
        register::<B>(grads, k, || dk);
        register::<B>(grads, v, || dv);
    }
}

/// State: x, weight and the log-sum-exp of the forward pass.
#[derive(Debug)]
struct Entropy(Vec<u32>);

impl<B: Kernels> Backward<B, 2> for Entropy {
    type State = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x, weight] = ops.parents.map(|input| input.map(|input| input.id));
        let gradient = grads.consume::<B>(&ops.node);
        let (kept_x, kept_weight, logarithms) = ops.state;
        let (dx, dweight) = B::kernel_entropy_backward(kept_x, kept_weight, logarithms, gradient, self.0, weight.is_some());
        register::<B>(grads, x, || dx);
        register::<B>(grads, weight, || dweight);
    }
}

impl<B: Kernels, C: CheckpointStrategy> Kernels for Autodiff<B, C> {
    fn kernel_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        operation!(Gelu, C, [x], x.primitive().clone(), B::kernel_gelu(x))
    }

    fn kernel_silu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        operation!(SiluMul, C, [gate, up], (gate.primitive().clone(), up.primitive().clone()), B::kernel_silu_mul(gate, up))
    }

    fn kernel_layer_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        let backward = Normalise(NormKind::Layer, epsilon);
        let state = (x.primitive().clone(), weight.primitive().clone());
        operation!(backward, C, [x, weight, bias], state, B::kernel_layer_norm(x, weight, bias, epsilon))
    }

    fn kernel_rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        let backward = Normalise(NormKind::Rms, epsilon);
        let state = (x.primitive().clone(), weight.primitive().clone());
        operation!(backward, C, [x, weight], state, B::kernel_rms_norm(x, weight, epsilon))
    }

    fn kernel_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, precision: MatmulPrecision) -> FloatTensor<Self> {
        let state = (weight.is_tracked().then(|| x.primitive().clone()), x.is_tracked().then(|| weight.primitive().clone()));
        operation!(Linear(precision), C, [x, weight], state, B::kernel_linear(x, weight, precision))
    }

    fn kernel_linear_with_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        precision: MatmulPrecision,
    ) -> FloatTensor<Self> {
        let state = (weight.is_tracked().then(|| x.primitive().clone()), x.is_tracked().then(|| weight.primitive().clone()));
        operation!(Linear(precision), C, [x, weight, bias], state, B::kernel_linear_with_bias(x, weight, bias, precision))
    }

    fn kernel_linear_quantized(x: FloatTensor<Self>, packed: FloatTensor<Self>, bits: QuantType) -> FloatTensor<Self> {
        // Quantized weights are not parameters: only x has a gradient.
        let packed = packed.into_primitive();
        let inputs = x.primitive().shape().to_vec().last().copied().unwrap_or(0);
        operation!(QuantizedLinear(inputs, bits), C, [x], packed.clone(), B::kernel_linear_quantized(x, packed, bits))
    }

    fn kernel_rotate(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>, back: bool) -> FloatTensor<Self> {
        // Angles are not parameters: only x has a gradient.
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        operation!(Rotate, C, [x], (cos.clone(), sin.clone()), B::kernel_rotate(x, cos, sin, back))
    }

    fn kernel_attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: AttentionMask,
        precision: MatmulPrecision,
    ) -> FloatTensor<Self> {
        let state = (q.primitive().clone(), k.primitive().clone(), v.primitive().clone());
        operation!(Attend(mask.clone()), C, [q, k, v], state, B::kernel_attend(q, k, v, mask, precision))
    }

    fn kernel_entropy(x: FloatTensor<Self>, weight: FloatTensor<Self>, targets: Vec<u32>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let prepared = Entropy(targets.clone()).prepare::<C>([x.node(), weight.node()]).compute_bound().stateful();
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let (loss, logarithms) = B::kernel_entropy(x.clone(), weight.clone(), targets);
        let loss = match prepared {
            OpsKind::Tracked(tracked) => tracked.finish((x, weight, logarithms.clone()), loss),
            OpsKind::UnTracked(untracked) => untracked.finish(loss),
        };
        (loss, constant::<B, C>(logarithms))
    }

    // Gradients are constants: the methods below run on the inner backend only, and there are no second-order gradients.

    fn kernel_gelu_backward(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        constant::<B, C>(B::kernel_gelu_backward(x.into_primitive(), gradient.into_primitive()))
    }

    fn kernel_silu_mul_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (dgate, dup) = B::kernel_silu_mul_backward(gate.into_primitive(), up.into_primitive(), gradient.into_primitive());
        (constant::<B, C>(dgate), constant::<B, C>(dup))
    }

    fn kernel_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f32,
        norm: NormKind,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (x, weight, gradient) = (x.into_primitive(), weight.into_primitive(), gradient.into_primitive());
        let (dx, dweight, dbias) = B::kernel_norm_backward(x, weight, gradient, epsilon, norm);
        (constant::<B, C>(dx), constant::<B, C>(dweight), constant::<B, C>(dbias))
    }

    fn kernel_linear_input_gradient(
        gradient: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        precision: MatmulPrecision,
    ) -> FloatTensor<Self> {
        constant::<B, C>(B::kernel_linear_input_gradient(gradient.into_primitive(), weight.into_primitive(), precision))
    }

    fn kernel_linear_weight_gradient(gradient: FloatTensor<Self>, x: FloatTensor<Self>, precision: MatmulPrecision) -> FloatTensor<Self> {
        constant::<B, C>(B::kernel_linear_weight_gradient(gradient.into_primitive(), x.into_primitive(), precision))
    }

    fn kernel_linear_quantised_input_gradient(
        gradient: FloatTensor<Self>,
        packed: FloatTensor<Self>,
        inputs: usize,
        bits: QuantType,
    ) -> FloatTensor<Self> {
        let (gradient, packed) = (gradient.into_primitive(), packed.into_primitive());
        constant::<B, C>(B::kernel_linear_quantised_input_gradient(gradient, packed, inputs, bits))
    }

    fn kernel_linear_bias_gradient(gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        constant::<B, C>(B::kernel_linear_bias_gradient(gradient.into_primitive()))
    }

    fn kernel_attend_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mask: AttentionMask,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (q, k, v) = (q.into_primitive(), k.into_primitive(), v.into_primitive());
        let (dq, dk, dv) = B::kernel_attend_backward(q, k, v, gradient.into_primitive(), mask);
        (constant::<B, C>(dq), constant::<B, C>(dk), constant::<B, C>(dv))
    }

    fn kernel_entropy_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        logarithms: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        targets: Vec<u32>,
        of_weight: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (x, weight, logarithms) = (x.into_primitive(), weight.into_primitive(), logarithms.into_primitive());
        let (dx, dweight) = B::kernel_entropy_backward(x, weight, logarithms, gradient.into_primitive(), targets, of_weight);
        (constant::<B, C>(dx), constant::<B, C>(dweight))
    }
}

/// Wraps a tensor without tracking it.
fn constant<B: Kernels, C: CheckpointStrategy>(x: FloatTensor<B>) -> FloatTensor<Autodiff<B, C>> {
    Autodiff::<B, C>::from_inner(x)
}
