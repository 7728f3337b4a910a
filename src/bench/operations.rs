//! Benchmarks of single model operations: the forward pass alone, then forward and backward.

use super::roofline::{Roofline, random};
use super::{BenchRow, Benchmark};
use crate::error::Result;
use burn::tensor::{DType, Tensor};
use voxtral::kernels::ops;
use voxtral::kernels::ops::{AttentionMask, MatmulPrecision};

/// Prompt and transcript tokens around the audio tokens of a row.
pub(super) const AROUND: usize = 72;
/// Transcript tokens of a row.
pub(super) const TARGETS: usize = 64;

/// Linear layer as in the model: `x` [rows, inputs] times the transposed `weight` [outputs, inputs].
pub(super) fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let precision = if weight.dtype() == DType::BF16 { MatmulPrecision::Bf16 } else { MatmulPrecision::F32 };
    ops::linear(x, weight, None, precision)
}

/// Measures linear layers, attention, row-wise operations and cross-entropy.
pub(super) fn measure(bench: &Benchmark, ceiling: Option<Roofline>, report: &mut dyn FnMut(BenchRow)) -> Result<()> {
    let device = &bench.device.device;
    let (audio, text) = (&bench.config.audio_config, &bench.config.text_config);
    let (frames, length) = (audio.max_source_positions, audio.chunk_tokens() + AROUND);
    for batch in [1, *bench.batches.iter().max().unwrap_or(&1)] {
        for (rows, inputs, outputs) in
            [(frames * batch, audio.hidden_size, audio.intermediate_size), (length * batch, text.hidden_size, text.intermediate_size)]
        {
            for (name, dtype) in [("f32", DType::F32), ("bf16", DType::BF16)] {
                let (x, weight) = (random([rows, inputs], device), random([outputs, inputs], device).cast(dtype));
                let flops = 2.0 * (rows * inputs * outputs) as f64;
                let what = format!("linear {rows} × {inputs} × {outputs}, {name}");
                let peak = ceiling.map(|ceiling| ceiling.of(dtype));
                // The weight is frozen: only x has a gradient.
                both(
                    bench,
                    &what,
                    [x],
                    |[x]| linear(x, Tensor::from_inner(weight.clone())),
                    |x| linear(x, weight.clone()),
                    flops,
                    peak,
                    report,
                )?;
            }
        }
        let heads = [(
            audio.num_attention_heads,
            audio.num_attention_heads,
            frames,
            audio.hidden_size / audio.num_attention_heads,
            AttentionMask::None,
        )];
        let heads =
            heads.into_iter().chain([(text.num_attention_heads, text.num_key_value_heads, length, text.head_dim, AttentionMask::Causal)]);
        for (heads, shared, rows, width, mask) in heads {
            for (name, precision) in [("f32", MatmulPrecision::F32), ("bf16", MatmulPrecision::Bf16)] {
                let causal = mask == AttentionMask::Causal;
                let given = [heads, shared, shared].map(|heads| random([batch, heads, rows, width], device));
                let pairs = (batch * heads * rows * rows) as f64 / if causal { 2.0 } else { 1.0 };
                let kind = if causal { "causal attention" } else { "attention" };
                let what = format!("{kind} {batch} × {heads}/{shared} heads of {width}, {rows} positions, {name}");
                let attend = |[q, k, v]: [Tensor<4>; 3]| ops::attend(q, k, v, mask.clone(), precision);
                let (k, v) = (given[1].clone(), given[2].clone());
                let ahead = |q| ops::attend(q, k.clone(), v.clone(), mask.clone(), precision);
                both(bench, &what, given, attend, ahead, pairs * 4.0 * width as f64, None, report)?;
            }
        }
        rows(bench, batch, report)?;
    }
    let width = text.hidden_size;
    let weight = random([text.vocab_size, width], device).cast(bench.matrices());
    let targets: Vec<u32> = (0..TARGETS).map(|target| (target * 7919 % text.vocab_size) as u32).collect();
    let entropy = |x: Tensor<2>, weight: Tensor<2>| ops::cross_entropy(x, weight, targets.clone());
    let what = format!("cross-entropy of {TARGETS} targets among {}, {}", text.vocab_size, name(bench.matrices()));
    let flops = 2.0 * (TARGETS * width * text.vocab_size) as f64;
    let x = random([TARGETS, width], device);
    both(bench, &what, [x], |[x]| entropy(x, Tensor::from_inner(weight.clone())), |x| entropy(x, weight.clone()), flops, None, report)
}

/// Memory-bound element-wise and row-wise operations: norms and activations.
fn rows(bench: &Benchmark, batch: usize, report: &mut dyn FnMut(BenchRow)) -> Result<()> {
    let device = &bench.device.device;
    let (audio, text) = (&bench.config.audio_config, &bench.config.text_config);
    let (frames, length) = (batch * audio.max_source_positions, batch * (audio.chunk_tokens() + AROUND));
    let ones = |width: usize| Tensor::<1>::ones([width], device);
    let inner = |x: Tensor<1>| Tensor::from_inner(x);
    let (width, wide) = (audio.hidden_size, audio.intermediate_size);

    let (weight, bias) = (ones(width), ones(width));
    let norm = |[x]: [Tensor<2>; 1]| ops::layer_norm(x, inner(weight.clone()), inner(bias.clone()), 1e-5);
    let ahead = |x| ops::layer_norm(x, weight.clone(), bias.clone(), 1e-5);
    both(bench, &format!("layer norm of {frames} × {width}"), [random([frames, width], device)], norm, ahead, 0.0, None, report)?;

    let what = format!("gelu of {frames} × {wide}");
    both(bench, &what, [random([frames, wide], device)], |[x]| ops::gelu(x), ops::gelu::<2>, 0.0, None, report)?;

    let (width, wide) = (text.hidden_size, text.intermediate_size);
    let weight = ones(width);
    let norm = |[x]: [Tensor<2>; 1]| ops::rms_norm(x, inner(weight.clone()), 1e-5);
    let ahead = |x| ops::rms_norm(x, weight.clone(), 1e-5);
    both(bench, &format!("RMS norm of {length} × {width}"), [random([length, width], device)], norm, ahead, 0.0, None, report)?;

    let given = [random([length, wide], device), random([length, wide], device)];
    let up = given[1].clone();
    let ahead = move |gate| ops::silu_mul(gate, up.clone());
    both(bench, &format!("silu · up of {length} × {wide}"), given, |[gate, up]| ops::silu_mul(gate, up), ahead, 0.0, None, report)
}

/// A row for the way forwards and one for both ways; backwards, a product is two where both sides have a gradient, which is left out here:
/// the rate counts the gradient of x alone.
#[expect(clippy::too_many_arguments, reason = "private helper with few callers")]
fn both<const N: usize, const D: usize, const E: usize>(
    bench: &Benchmark,
    what: &str,
    given: [Tensor<D>; N],
    learned: impl Fn([Tensor<D>; N]) -> Tensor<E>,
    ahead: impl Fn(Tensor<D>) -> Tensor<E>,
    flops: f64,
    ceiling: Option<f64>,
    report: &mut dyn FnMut(BenchRow),
) -> Result<()> {
    let rated = |row: BenchRow, times: f64| if flops > 0.0 { row.rated(times * flops, ceiling) } else { row };
    let first = given[0].clone();
    report(rated(bench.time(format!("{what}: forwards"), || drop(ahead(first.clone())))?, 1.0));
    let forward_backward = || {
        let leaves = given.clone().map(|x| Tensor::from_inner(x).require_grad());
        let gradients = learned(leaves.clone()).sum().backward();
        drop(leaves.map(|x| x.grad(&gradients)));
    };
    report(rated(bench.time(format!("{what}: both ways"), forward_backward)?, if N == 1 { 2.0 } else { 3.0 }));
    Ok(())
}

fn name(dtype: DType) -> &'static str {
    if dtype == DType::BF16 { "bf16" } else { "f32" }
}
