//! Kernel operations of the CPU backend (burn `Flex`): tensors to slices, kernels, and results back to tensors.

use super::Kernels;
use crate::kernels::attention::{AttentionHeads, AttentionMask, MatmulPrecision};
use crate::kernels::cross_entropy::LmHead;
use crate::kernels::norm::NormKind;
use crate::kernels::quantized::QuantType;
use crate::kernels::{activation, attention, bf16_gemm, cross_entropy, gemm, norm, quantized, rope};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{Bytes, DType, Shape, TensorData};
use half::bf16;

type Float = FloatTensor<Flex>;

/// Makes a tensor contiguous; copies only if it is not.
fn contiguous(x: Float) -> Float {
    if x.is_contiguous() { x } else { x.to_contiguous() }
}

/// Values of a [`contiguous`] tensor.
fn numbers(x: &Float) -> &[f32] {
    let start = x.layout().start_offset();
    x.storage::<f32>().get(start..start + x.layout().num_elements()).unwrap_or_default()
}

fn tensor(numbers: Vec<f32>, shape: Shape) -> Float {
    Float::from_data(TensorData::from_bytes(Bytes::from_elems(numbers), shape, DType::F32))
}

/// `[…, from]` → `[…, to]`
fn with_last(x: &Float, to: usize) -> Shape {
    let mut dims = x.shape().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = to;
    }
    Shape::from(dims)
}

fn last(x: &Float) -> usize {
    x.shape().to_vec().last().copied().unwrap_or(1)
}

/// Rows and columns of a weight: outputs and inputs.
fn sides(weight: &Float) -> (usize, usize) {
    let dims = weight.shape().to_vec();
    (dims.first().copied().unwrap_or(0), dims.get(1).copied().unwrap_or(0))
}

fn linear(x: Float, weight: Float, bias: &[f32], precision: MatmulPrecision) -> Float {
    let (x, weight) = (contiguous(x), contiguous(weight));
    let (outputs, inputs) = sides(&weight);
    let y = match weight.dtype() {
        DType::BF16 => bf16_gemm::linear(numbers(&x), bf16_numbers(&weight), bias, inputs, outputs),
        _ if precision == MatmulPrecision::Bf16 => {
            bf16_gemm::linear(numbers(&x), &bf16_gemm::to_bf16(numbers(&weight)), bias, inputs, outputs)
        }
        _ => gemm::linear(numbers(&x), numbers(&weight), bias, inputs, outputs),
    };
    tensor(y, with_last(&x, outputs))
}

fn bf16_numbers(x: &Float) -> &[bf16] {
    let start = x.layout().start_offset();
    x.storage::<bf16>().get(start..start + x.layout().num_elements()).unwrap_or_default()
}

/// Makes the rows (last dimension) of a tensor contiguous; other strides may be anything nonnegative.
fn in_rows(x: Float) -> Float {
    let strides = x.layout().strides();
    if strides.iter().all(|stride| *stride >= 0) && strides.last() == Some(&1) { x } else { x.to_contiguous() }
}

/// Strided view of a tensor `[batch, heads, length, width]`.
fn heads(x: &Float) -> AttentionHeads<'_> {
    let stride = |dimension: usize| x.layout().strides().get(dimension).copied().unwrap_or(0).unsigned_abs();
    let data = x.storage::<f32>().get(x.layout().start_offset()..).unwrap_or_default();
    AttentionHeads { data, batch_stride: stride(0), head_stride: stride(1), row_stride: stride(2) }
}

fn shape_of(q: &Float, k: &Float) -> attention::AttentionShape {
    let (q, k) = (q.shape().to_vec(), k.shape().to_vec());
    let dim = |dims: &[usize], i: usize| dims.get(i).copied().unwrap_or(1);
    let key_heads = dim(&k, 1).max(1);
    attention::AttentionShape { batch: dim(&q, 0), heads: dim(&q, 1), key_heads, queries: dim(&q, 2), keys: dim(&k, 2), width: dim(&q, 3) }
}

/// Bytes of quantized weights, which are stored in a tensor of type bf16.
fn bytes(packed: &Float) -> &[u8] {
    bytemuck::cast_slice(bf16_numbers(packed))
}

fn head(weight: &Float) -> LmHead<'_> {
    match weight.dtype() {
        DType::BF16 => LmHead::Bf16(bf16_numbers(weight)),
        _ => LmHead::F32(numbers(weight)),
    }
}

impl Kernels for Flex {
    fn kernel_gelu(x: Float) -> Float {
        let x = contiguous(x);
        tensor(activation::gelu(numbers(&x)), x.shape())
    }

    fn kernel_gelu_backward(x: Float, gradient: Float) -> Float {
        let (x, gradient) = (contiguous(x), contiguous(gradient));
        tensor(activation::gelu_backward(numbers(&x), numbers(&gradient)), x.shape())
    }

    fn kernel_silu_mul(gate: Float, up: Float) -> Float {
        let (gate, up) = (contiguous(gate), contiguous(up));
        tensor(activation::silu_mul(numbers(&gate), numbers(&up)), gate.shape())
    }

    fn kernel_silu_mul_backward(gate: Float, up: Float, gradient: Float) -> (Float, Float) {
        let (gate, up, gradient) = (contiguous(gate), contiguous(up), contiguous(gradient));
        let (dgate, dup) = activation::silu_mul_backward(numbers(&gate), numbers(&up), numbers(&gradient));
        (tensor(dgate, gate.shape()), tensor(dup, gate.shape()))
    }

    fn kernel_layer_norm(x: Float, weight: Float, bias: Float, epsilon: f32) -> Float {
        let (x, weight, bias) = (contiguous(x), contiguous(weight), contiguous(bias));
        tensor(norm::forward(NormKind::Layer, numbers(&x), numbers(&weight), numbers(&bias), epsilon), x.shape())
    }

    fn kernel_rms_norm(x: Float, weight: Float, epsilon: f32) -> Float {
        let (x, weight) = (contiguous(x), contiguous(weight));
        tensor(norm::forward(NormKind::Rms, numbers(&x), numbers(&weight), &[], epsilon), x.shape())
    }

    fn kernel_norm_backward(x: Float, weight: Float, gradient: Float, epsilon: f32, norm: NormKind) -> (Float, Float, Float) {
        let (x, weight, gradient) = (contiguous(x), contiguous(weight), contiguous(gradient));
        let found = norm::backward(norm, numbers(&x), numbers(&weight), epsilon, numbers(&gradient));
        (tensor(found.x, x.shape()), tensor(found.weight, weight.shape()), tensor(found.bias, weight.shape()))
    }

    fn kernel_linear(x: Float, weight: Float, precision: MatmulPrecision) -> Float {
        linear(x, weight, &[], precision)
    }

    fn kernel_linear_with_bias(x: Float, weight: Float, bias: Float, precision: MatmulPrecision) -> Float {
        let bias = contiguous(bias);
        linear(x, weight, numbers(&bias), precision)
    }

    fn kernel_linear_input_gradient(gradient: Float, weight: Float, precision: MatmulPrecision) -> Float {
        let (gradient, weight) = (contiguous(gradient), contiguous(weight));
        let (outputs, inputs) = sides(&weight);
        let dx = match weight.dtype() {
            DType::BF16 => bf16_gemm::linear_input_gradient(numbers(&gradient), bf16_numbers(&weight), inputs, outputs),
            _ if precision == MatmulPrecision::Bf16 => {
                bf16_gemm::linear_input_gradient(numbers(&gradient), &bf16_gemm::to_bf16(numbers(&weight)), inputs, outputs)
            }
            _ => gemm::linear_input_gradient(numbers(&gradient), numbers(&weight), inputs, outputs),
        };
        tensor(dx, with_last(&gradient, inputs))
    }

    fn kernel_linear_weight_gradient(gradient: Float, x: Float, precision: MatmulPrecision) -> Float {
        let (gradient, x) = (contiguous(gradient), contiguous(x));
        let (outputs, inputs) = (last(&gradient), last(&x));
        let dw = match precision {
            MatmulPrecision::F32 => gemm::linear_weight_gradient(numbers(&gradient), numbers(&x), inputs, outputs),
            MatmulPrecision::Bf16 => bf16_gemm::linear_weight_gradient(numbers(&gradient), numbers(&x), inputs, outputs),
        };
        tensor(dw, Shape::from(vec![outputs, inputs]))
    }

    fn kernel_linear_bias_gradient(gradient: Float) -> Float {
        let gradient = contiguous(gradient);
        let outputs = last(&gradient);
        tensor(gemm::column_sums(numbers(&gradient), outputs), Shape::from(vec![outputs]))
    }

    fn kernel_linear_quantized(x: Float, weight: Float, bits: QuantType) -> Float {
        let (x, weight) = (contiguous(x), contiguous(weight));
        let y = quantized::linear(numbers(&x), bytes(&weight), &[], last(&x), bits);
        tensor(y, with_last(&x, sides(&weight).0))
    }

    fn kernel_linear_quantised_input_gradient(gradient: Float, weight: Float, inputs: usize, bits: QuantType) -> Float {
        let (gradient, weight) = (contiguous(gradient), contiguous(weight));
        let dx = quantized::linear_input_gradient(numbers(&gradient), bytes(&weight), inputs, bits);
        tensor(dx, with_last(&gradient, inputs))
    }

    fn kernel_rotate(x: Float, cos: Float, sin: Float, back: bool) -> Float {
        // The layout of the projections: the heads of a position are contiguous.
        let (x, cos, sin) = (contiguous(x.permute(&[0, 2, 1, 3])), contiguous(cos), contiguous(sin));
        let dims = x.shape().to_vec();
        let (length, heads) = (dims.get(1).copied().unwrap_or(1), dims.get(2).copied().unwrap_or(1));
        let turned = rope::apply_rotary(numbers(&x), numbers(&cos), numbers(&sin), heads, last(&x), length, back);
        tensor(turned, x.shape()).permute(&[0, 2, 1, 3])
    }

    fn kernel_attend(q: Float, k: Float, v: Float, mask: AttentionMask, precision: MatmulPrecision) -> Float {
        let (q, k, v) = (in_rows(q), in_rows(k), in_rows(v));
        let shape = shape_of(&q, &k);
        let out = attention::forward(heads(&q), heads(&k), heads(&v), shape, &mask, precision);
        tensor(out, Shape::from(vec![shape.batch, shape.queries, shape.heads, shape.width])).permute(&[0, 2, 1, 3])
    }

    fn kernel_attend_backward(q: Float, k: Float, v: Float, gradient: Float, mask: AttentionMask) -> (Float, Float, Float) {
        let (q, k, v, gradient) = (in_rows(q), in_rows(k), in_rows(v), in_rows(gradient));
        let shape = shape_of(&q, &k);
        let (dq, dk, dv) = attention::backward(heads(&q), heads(&k), heads(&v), heads(&gradient), shape, &mask);
        (tensor(dq, q.shape()), tensor(dk, k.shape()), tensor(dv, v.shape()))
    }

    fn kernel_entropy(x: Float, weight: Float, targets: Vec<u32>) -> (Float, Float) {
        let (x, weight) = (contiguous(x), contiguous(weight));
        let (loss, logarithms) = cross_entropy::forward(numbers(&x), head(&weight), &targets, last(&x));
        let rows = logarithms.len();
        (tensor(vec![loss], Shape::from(vec![1])), tensor(logarithms, Shape::from(vec![rows])))
    }

    fn kernel_entropy_backward(
        x: Float,
        weight: Float,
        logarithms: Float,
        gradient: Float,
        targets: Vec<u32>,
        of_weight: bool,
    ) -> (Float, Float) {
        let (x, weight, logarithms, gradient) = (contiguous(x), contiguous(weight), contiguous(logarithms), contiguous(gradient));
        let gradient = numbers(&gradient).first().copied().unwrap_or(0.0);
        let (dx, dweight) =
            cross_entropy::backward(numbers(&x), head(&weight), &targets, numbers(&logarithms), gradient, last(&x), of_weight);
        let dweight = match dweight {
            Some(dweight) => tensor(dweight, weight.shape()),
            None => tensor(Vec::new(), Shape::from(vec![0])),
        };
        (tensor(dx, x.shape()), dweight)
    }
}
