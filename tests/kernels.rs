//! Kernels compared with plain f64 sums, and their tensor operations with the reference implementation, forward and backward.

use burn::tensor::{DType, Device, Tensor, TensorData};
use half::bf16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use voxtral::kernels::attention::{AttentionHeads, AttentionMask, AttentionShape, MatmulPrecision};
use voxtral::kernels::ops::reference;
use voxtral::kernels::{attention, bf16_gemm, cpu, gemm, ops, rope};

/// Random values between -1 and 1.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| 2.0 * rng.random::<f32>() - 1.0).collect()
}

fn random<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers(shape.iter().product(), seed), shape), &Device::flex())
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec::<f32>().unwrap()
}

#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f32], within: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1.0_f32, |a, b| a.max(b.abs()));
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= within * scale, "{what}, number {place}: {found} instead of {expected}");
    }
}

/// Result of a computation and the gradients of its inputs for the loss Σ result · g, with a fixed random g.
fn both_ways<const D: usize>(inputs: &[Tensor<D>], f: impl Fn(&[Tensor<D>]) -> Tensor<D>) -> (Vec<f32>, Vec<Vec<f32>>) {
    let leaves: Vec<Tensor<D>> = inputs.iter().map(|x| Tensor::from_inner(x.clone()).require_grad()).collect();
    let y = f(&leaves);
    let g = Tensor::from_inner(random(y.dims(), 99));
    let gradients = (y.clone() * g).sum().backward();
    let found = leaves.iter().map(|leaf| values(leaf.grad(&gradients).unwrap())).collect();
    (values(y.inner()), found)
}

#[track_caller]
fn same_both_ways<const D: usize>(
    what: &str,
    inputs: &[Tensor<D>],
    kernel: impl Fn(&[Tensor<D>]) -> Tensor<D>,
    composed: impl Fn(&[Tensor<D>]) -> Tensor<D>,
) {
    let ((y, dy), (expected, expected_dy)) = (both_ways(inputs, &kernel), both_ways(inputs, &composed));
    assert_close(what, &y, &expected, 1e-5);
    for (input, (found, expected)) in dy.iter().zip(&expected_dy).enumerate() {
        assert_close(&format!("{what}, gradient of input {input}"), found, expected, 2e-5);
    }
    // Without gradients the result is exactly the same.
    assert_eq!(values(kernel(inputs)), y, "{what}");
}

#[test]
fn activations_are_as_composed() {
    let inputs = [random([3, 50, 70], 1) * 4.0, random([3, 50, 70], 2)];
    same_both_ways("gelu", &inputs[..1], |x| ops::gelu(x[0].clone()), |x| reference::gelu(x[0].clone()));
    let (kernel, made) = (ops::silu_mul::<3>, reference::silu_mul::<3>);
    same_both_ways("silu_mul", &inputs, |x| kernel(x[0].clone(), x[1].clone()), |x| made(x[0].clone(), x[1].clone()));
    // A view with permuted dimensions.
    let turned = [inputs[0].clone().swap_dims(0, 2)];
    same_both_ways("gelu of a view", &turned, |x| ops::gelu(x[0].clone()), |x| reference::gelu(x[0].clone()));
}

#[test]
fn norms_are_as_composed() {
    // Weights are passed as matrices of one row, so that all inputs have one type.
    let inputs = [random([70, 37], 1), random([1, 37], 2), random([1, 37], 3)];
    let row = |x: &Tensor<2>| x.clone().reshape([37]);
    same_both_ways(
        "layer norm",
        &inputs,
        |x| ops::layer_norm(x[0].clone(), row(&x[1]), row(&x[2]), 1e-5),
        |x| reference::layer_norm(x[0].clone(), row(&x[1]), row(&x[2]), 1e-5),
    );
    same_both_ways(
        "rms norm",
        &inputs[..2],
        |x| ops::rms_norm(x[0].clone(), row(&x[1]), 1e-6),
        |x| reference::rms_norm(x[0].clone(), row(&x[1]), 1e-6),
    );
}

#[test]
fn linear_layers_are_as_composed_for_any_number_of_rows() {
    for rows in [1, 2, 3, 5, 8, 9, 17, 49, 130] {
        for (inputs, outputs) in [(64, 96), (50, 21), (7, 3)] {
            let given = [random([rows, inputs], 1), random([outputs, inputs], 2), random([1, outputs], 3)];
            let bias = |x: &[Tensor<2>]| x.get(2).map(|bias| bias.clone().reshape([outputs]));
            let kernel = |x: &[Tensor<2>]| ops::linear(x[0].clone(), x[1].clone(), bias(x), MatmulPrecision::F32);
            let made = |x: &[Tensor<2>]| reference::linear(x[0].clone(), x[1].clone(), bias(x), MatmulPrecision::F32);
            same_both_ways(&format!("linear {rows} × {inputs} × {outputs}"), &given, kernel, made);
            same_both_ways(&format!("linear {rows} × {inputs} × {outputs} without bias"), &given[..2], kernel, made);
            // bf16 weights get no gradient; x may be rounded to bf16, an error of up to 2⁻⁹.
            let weight = given[1].clone().cast(DType::BF16);
            let constant = || Tensor::from_inner(weight.clone());
            let (y, dx) = both_ways(&given[..1], |x| ops::linear(x[0].clone(), constant(), None, MatmulPrecision::F32));
            let wide = || constant().cast(DType::F32);
            let (expected, expected_dx) = both_ways(&given[..1], |x| reference::linear(x[0].clone(), wide(), None, MatmulPrecision::F32));
            let what = format!("bf16 {rows} × {inputs} × {outputs}");
            assert_close(&what, &y, &expected, 4e-3);
            assert_close(&format!("{what}, gradient"), &dx[0], &expected_dx[0], 4e-3);
            // The reference rounds the result as well; an f32 master weight gets its gradient through the rounding.
            let (y, dx) = both_ways(&given[..1], |x| reference::linear(x[0].clone(), constant(), None, MatmulPrecision::F32));
            assert_close(&format!("{what}, reference"), &y, &expected, 1e-2);
            assert_close(&format!("{what}, reference, gradient"), &dx[0], &expected_dx[0], 1e-2);
            let (y, d) = both_ways(&given, |x| reference::linear(x[0].clone(), x[1].clone(), bias(x), MatmulPrecision::Bf16));
            let (expected, expected_d) = both_ways(&given, |x| ops::linear(x[0].clone(), x[1].clone(), bias(x), MatmulPrecision::Bf16));
            assert_close(&format!("{what}, of a master copy"), &y, &expected, 1e-2);
            for (d, expected) in d.iter().zip(&expected_d) {
                assert_close(&format!("{what}, of a master copy, gradient"), d, expected, 1e-2);
            }
        }
    }
}

#[test]
fn bf16_products_are_sums_of_products_of_bf16_values() {
    // Both operands are rounded already, so only the order of summation differs.
    for (rows, inputs, outputs) in [(1, 66, 5), (7, 128, 33), (20, 130, 47), (100, 2050, 19), (48, 64, 48), (520, 1030, 67)] {
        let exact = |count, seed| numbers(count, seed).into_iter().map(bf16::from_f32).collect::<Vec<_>>();
        let (x, w, g) = (exact(rows * inputs, 1), exact(outputs * inputs, 2), exact(rows * outputs, 3));
        let wide = |x: &[bf16]| x.iter().map(|x| x.to_f32()).collect::<Vec<_>>();
        let bias = numbers(outputs, 4);
        let plain = |row: usize, output: usize| {
            let pairs = x[row * inputs..(row + 1) * inputs].iter().zip(&w[output * inputs..(output + 1) * inputs]);
            (pairs.map(|(x, w)| x.to_f64() * w.to_f64()).sum::<f64>() + f64::from(bias[output])) as f32
        };
        let expected: Vec<f32> = (0..rows * outputs).map(|i| plain(i / outputs, i % outputs)).collect();
        assert_close("y", &bf16_gemm::linear(&wide(&x), &w, &bias, inputs, outputs), &expected, 1e-5);
        let plain = |row: usize, input: usize| {
            (0..outputs).map(|output| g[row * outputs + output].to_f64() * w[output * inputs + input].to_f64()).sum::<f64>() as f32
        };
        let expected: Vec<f32> = (0..rows * inputs).map(|i| plain(i / inputs, i % inputs)).collect();
        assert_close("dx", &bf16_gemm::linear_input_gradient(&wide(&g), &w, inputs, outputs), &expected, 1e-5);
    }
}

#[test]
fn cross_entropy_is_as_composed_and_needs_no_gradient_of_the_head() {
    for (rows, width, vocabulary) in [(1, 4, 9), (5, 8, 4099), (20, 6, 9000)] {
        let targets: Vec<u32> = (0..rows as u32).map(|row| (row * 7919) % vocabulary as u32).collect();
        let inputs = [random([rows, width], 1), random([vocabulary, width], 2)];
        let sides = |f: &dyn Fn(Tensor<2>, Tensor<2>) -> Tensor<1>, of_weight: bool| {
            let leaf = |x: &Tensor<2>, wanted: bool| {
                let x = Tensor::from_inner(x.clone());
                if wanted { x.require_grad() } else { x }
            };
            let (x, weight) = (leaf(&inputs[0], true), leaf(&inputs[1], of_weight));
            let loss = f(x.clone(), weight.clone());
            let gradients = (loss.clone() * 0.25).backward();
            (values(loss.inner()), values(x.grad(&gradients).unwrap()), weight.grad(&gradients).map(values))
        };
        let kernel = |x, weight| ops::cross_entropy(x, weight, targets.clone());
        let composed = |x, weight| reference::cross_entropy(x, weight, &targets);
        let what = format!("{rows} targets of {vocabulary}");
        let (found, expected) = (sides(&kernel, true), sides(&composed, true));
        assert_close(&what, &found.0, &expected.0, 1e-5);
        assert_close(&what, &found.1, &expected.1, 1e-5);
        assert_close(&what, &found.2.unwrap(), &expected.2.unwrap(), 1e-5);
        let frozen = sides(&kernel, false);
        assert!(frozen.2.is_none() && (frozen.0, frozen.1) == (found.0, found.1), "{what}");

        // A bf16 head gives the same result as its values in f32.
        let narrow = inputs[1].clone().cast(DType::BF16);
        let rounded = narrow.clone().cast(DType::F32);
        let found = values(ops::cross_entropy(inputs[0].clone(), narrow, targets.clone()));
        assert_close(&what, &found, &values(reference::cross_entropy(inputs[0].clone(), rounded, &targets)), 4e-3);
    }
}

#[test]
fn the_gradient_of_a_rounded_weight_is_a_sum_of_bf16_products() {
    for (rows, inputs, outputs) in [(1, 3, 2), (5, 7, 40), (70, 33, 65), (131, 64, 48)] {
        let (g, x) = (numbers(rows * outputs, 1), numbers(rows * inputs, 2));
        let rounded = |x: &f32| if cpu::has_bf16_dot() { bf16::from_f32(*x).to_f64() } else { f64::from(*x) };
        let found = bf16_gemm::linear_weight_gradient(&g, &x, inputs, outputs);
        let expected: Vec<f32> = (0..outputs * inputs)
            .map(|i| (0..rows).map(|r| rounded(&g[r * outputs + i / inputs]) * rounded(&x[r * inputs + i % inputs])).sum::<f64>() as f32)
            .collect();
        assert_close(&format!("{rows} × {inputs} × {outputs}"), &found, &expected, 1e-5);
    }
}

#[test]
fn a_rounded_weight_is_its_bf16_values_forwards_and_keeps_its_gradient() {
    let inputs = [random([70, 32], 1), random([24, 32], 2)];
    let rounded = |x: &[Tensor<2>]| ops::linear(x[0].clone(), x[1].clone(), None, MatmulPrecision::Bf16);
    let (y, gradients) = both_ways(&inputs, rounded);
    let narrow = ops::linear(inputs[0].clone(), inputs[1].clone().cast(DType::BF16), None, MatmulPrecision::F32);
    assert_eq!(y, values(narrow));
    let (exact, exact_gradients) = both_ways(&inputs, |x| ops::linear(x[0].clone(), x[1].clone(), None, MatmulPrecision::F32));
    assert_close("result", &y, &exact, 1e-2);
    for (found, expected) in gradients.iter().zip(&exact_gradients) {
        assert_close("gradient", found, expected, 1e-2);
    }
}

#[test]
fn turning_is_as_composed_and_turns_back() {
    for tables in [1, 2] {
        let angles = numbers(tables * 5 * 4, 2);
        let table = |f: fn(f32) -> f32| {
            let both: Vec<f32> = angles.chunks(4).flat_map(|row| row.iter().chain(row)).map(|angle| f(3.0 * angle)).collect();
            Tensor::<4>::from_data(TensorData::new(both, [tables, 1, 5, 8]), &Device::flex())
        };
        let (cos, sin) = (table(f32::cos), table(f32::sin));
        let constant =
            |x: &Tensor<4>, like: &Tensor<4>| if like.device().is_autodiff() { Tensor::from_inner(x.clone()) } else { x.clone() };
        let given = [random([2, 3, 5, 8], 1)];
        same_both_ways(
            "rotate",
            &given,
            |x| ops::rotate(x[0].clone(), constant(&cos, &x[0]), constant(&sin, &x[0])),
            |x| reference::rotate(x[0].clone(), constant(&cos, &x[0]), constant(&sin, &x[0])),
        );
        let (x, cos, sin) = (numbers(2 * 5 * 24, 3), values(cos), values(sin));
        let turned = rope::apply_rotary(&x, &cos, &sin, 3, 8, 5, false);
        assert_close("there and back", &rope::apply_rotary(&turned, &cos, &sin, 3, 8, 5, true), &x, 1e-6);
    }
}

fn attend_f32(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: AttentionMask) -> Tensor<4> {
    ops::attend(q, k, v, mask, MatmulPrecision::F32)
}

fn reference_f32(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: AttentionMask) -> Tensor<4> {
    reference::attend(q, k, v, mask, MatmulPrecision::F32)
}

fn masks() -> [AttentionMask; 5] {
    [
        AttentionMask::None,
        AttentionMask::Causal,
        AttentionMask::LeftPadded(vec![0, 0]),
        AttentionMask::LeftPadded(vec![2, 0]),
        AttentionMask::LeftPadded(vec![1, 3]),
    ]
}

/// The definition, element by element, `[batch, queries, heads, width]`; zeros for a query without keys.
fn plain_attention(q: &[f32], k: &[f32], v: &[f32], shape: AttentionShape, mask: &AttentionMask) -> Vec<f32> {
    let AttentionShape { batch, heads, key_heads, queries, keys, width } = shape;
    let mut out = vec![0.0; batch * queries * heads * width];
    for place in 0..batch * queries * heads {
        let (b, i, h) = (place / heads / queries, place / heads % queries, place % heads);
        let last = if *mask == AttentionMask::None { keys } else { keys - queries + i + 1 };
        let first = if let AttentionMask::LeftPadded(pads) = mask { pads[b] } else { 0 };
        let query = ((b * heads + h) * queries + i) * width;
        let start = |key: usize| ((b * key_heads + h / (heads / key_heads)) * keys + key) * width;
        let score = |key| (0..width).map(|w| f64::from(q[query + w]) * f64::from(k[start(key) + w])).sum::<f64>() / (width as f64).sqrt();
        let weights: Vec<(usize, f64)> = (first..last).map(|key| (key, score(key).exp())).collect();
        let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
        for w in 0..width {
            let mixed: f64 = weights.iter().map(|(key, weight)| weight / sum * f64::from(v[start(*key) + w])).sum();
            out[place * width + w] = mixed as f32;
        }
    }
    out
}

#[test]
fn attention_is_as_defined() {
    for mask in masks() {
        for (heads, key_heads, queries, keys, width) in
            [(6, 3, 5, 5, 4), (6, 2, 2, 5, 4), (5, 1, 1, 7, 20), (4, 4, 150, 150, 16), (8, 2, 70, 200, 64), (1, 1, 130, 131, 8)]
        {
            let shape = AttentionShape { batch: 2, heads, key_heads, queries, keys, width };
            let q = numbers(2 * heads * queries * width, 1).iter().map(|x| 3.0 * x).collect::<Vec<_>>();
            let (k, v) = (numbers(2 * key_heads * keys * width, 2), numbers(2 * key_heads * keys * width, 3));
            let lie = |x, heads, length| AttentionHeads::new(x, heads, length, width);
            let found = attention::forward(
                lie(&q, heads, queries),
                lie(&k, key_heads, keys),
                lie(&v, key_heads, keys),
                shape,
                &mask,
                MatmulPrecision::F32,
            );
            assert_close(&format!("{shape:?} {mask:?}"), &found, &plain_attention(&q, &k, &v, shape, &mask), 1e-5);
        }
    }
}

#[test]
fn attention_is_as_composed_both_ways() {
    for mask in [AttentionMask::None, AttentionMask::Causal] {
        for (q, k) in [([2, 6, 5, 4], [2, 3, 5, 4]), ([1, 4, 140, 16], [1, 2, 140, 16]), ([2, 2, 1, 8], [2, 1, 9, 8])] {
            let given = [random(q, 1) * 3.0, random(k, 2), random(k, 3)];
            let run = |attend: fn(Tensor<4>, Tensor<4>, Tensor<4>, AttentionMask) -> Tensor<4>| {
                let mask = mask.clone();
                move |x: &[Tensor<4>]| attend(x[0].clone(), x[1].clone(), x[2].clone(), mask.clone())
            };
            same_both_ways(&format!("attention {q:?} {k:?} {mask:?}"), &given, run(attend_f32), run(reference_f32));
        }
    }
    // Padding: outputs agree for queries that attend to a key; the others are never used.
    let given = [random([2, 4, 6, 8], 1), random([2, 2, 6, 8], 2), random([2, 2, 6, 8], 3)];
    let mask = || AttentionMask::LeftPadded(vec![2, 0]);
    let seen = |y: Tensor<4>| y.narrow(2, 2, 4);
    same_both_ways(
        "padded attention",
        &given,
        |x| seen(attend_f32(x[0].clone(), x[1].clone(), x[2].clone(), mask())),
        |x| seen(reference_f32(x[0].clone(), x[1].clone(), x[2].clone(), mask())),
    );
}

#[test]
fn bf16_reference_attention_is_as_close_as_bf16_allows() {
    for mask in [AttentionMask::None, AttentionMask::Causal, AttentionMask::LeftPadded(vec![0, 0]), AttentionMask::LeftPadded(vec![2, 1])] {
        let given = [random([2, 6, 40, 16], 1), random([2, 3, 40, 16], 2), random([2, 3, 40, 16], 3)];
        let seen = |y: Tensor<4>| y.narrow(2, 2, 38);
        let run =
            |precision| both_ways(&given, |x| seen(reference::attend(x[0].clone(), x[1].clone(), x[2].clone(), mask.clone(), precision)));
        let ((y, d), (expected, expected_d)) = (run(MatmulPrecision::Bf16), run(MatmulPrecision::F32));
        assert!(y != expected, "{mask:?}: nothing was rounded");
        assert_close(&format!("{mask:?}"), &y, &expected, 2e-2);
        for (d, expected) in d.iter().zip(&expected_d) {
            assert_close(&format!("{mask:?}, gradient"), d, expected, 3e-2);
        }
    }
}

#[test]
fn a_view_of_a_longer_cache_is_read_where_it_lies() {
    let (cache, q) = (random([2, 3, 40, 8], 1), random([2, 6, 1, 8], 2));
    let view = || cache.clone().slice([0..2, 0..3, 3..17, 0..8]);
    let copy = Tensor::from_data(view().into_data(), &Device::flex());
    for mask in [AttentionMask::None, AttentionMask::LeftPadded(vec![4, 1])] {
        let found = values(attend_f32(q.clone(), view(), view(), mask.clone()));
        assert_eq!(found, values(attend_f32(q.clone(), copy.clone(), copy.clone(), mask)));
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let (rows, inputs, outputs) = (300, 520, 400);
    let (x, w) = (numbers(rows * inputs, 1), numbers(outputs * inputs, 2));
    let g = numbers(rows * outputs, 3);
    let bf16_weights: Vec<bf16> = w.iter().map(|w| bf16::from_f32(*w)).collect();
    let shape = AttentionShape { batch: 1, heads: 4, key_heads: 2, queries: 200, keys: 200, width: 32 };
    let (q, k) = (numbers(4 * 200 * 32, 4), numbers(2 * 200 * 32, 5));
    let (query, key) = (AttentionHeads::new(&q, 4, 200, 32), AttentionHeads::new(&k, 2, 200, 32));
    let all = || {
        let (dq, dk, dv) = attention::backward(query, key, key, query, shape, &AttentionMask::Causal);
        [
            gemm::linear(&x, &w, &[], inputs, outputs),
            gemm::linear(&x[..8 * inputs], &w, &[], inputs, outputs),
            gemm::linear_input_gradient(&g, &w, inputs, outputs),
            gemm::linear_weight_gradient(&g, &x, inputs, outputs),
            bf16_gemm::linear(&x, &bf16_weights, &[], inputs, outputs),
            bf16_gemm::linear(&[&x[..], &x].concat(), &bf16_weights, &[], inputs, outputs),
            bf16_gemm::linear_input_gradient(&g, &bf16_weights, inputs, outputs),
            attention::forward(query, key, key, shape, &AttentionMask::None, MatmulPrecision::F32),
            attention::forward(query, key, key, shape, &AttentionMask::Causal, MatmulPrecision::Bf16),
            dq,
            dk,
            dv,
        ]
    };
    let with = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(all);
    let one = with(1);
    for threads in [2, 5] {
        for (place, (found, expected)) in with(threads).iter().zip(&one).enumerate() {
            assert!(found == expected, "kernel {place} with {threads} threads");
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    // Decoding a clip alone or in a batch must choose the same tokens.
    let (inputs, outputs) = (100, 67);
    let (x, w) = (numbers(600 * inputs, 1), numbers(outputs * inputs, 2));
    let bf16_weights: Vec<bf16> = w.iter().map(|w| bf16::from_f32(*w)).collect();
    let f32_linear = |x: &[f32]| gemm::linear(x, &w, &[], inputs, outputs);
    let bf16_linear = |x: &[f32]| bf16_gemm::linear(x, &bf16_weights, &[], inputs, outputs);
    // Within each code path: f32 up to 32 rows and above, bf16 up to 8 rows and from 64 on.
    for (few, many) in [(1, 32), (33, 600)] {
        let together = f32_linear(&x[..many * inputs]);
        for row in (0..=many - few).step_by(7) {
            assert_eq!(
                f32_linear(&x[row * inputs..(row + few) * inputs]),
                together[row * outputs..(row + few) * outputs],
                "{few} of {many}"
            );
        }
    }
    for (few, many) in [(1, 8), (64, 600)] {
        let together = bf16_linear(&x[..many * inputs]);
        for row in (0..=many - few).step_by(7) {
            assert_eq!(
                bf16_linear(&x[row * inputs..(row + few) * inputs]),
                together[row * outputs..(row + few) * outputs],
                "{few} of {many}"
            );
        }
    }
}

#[test]
fn attention_of_a_padded_row_is_that_of_the_row_alone() {
    let (pad, length, heads, width) = (70, 330, 2, 24);
    let shape = AttentionShape { batch: 2, heads, key_heads: 1, queries: length, keys: length, width };
    let (q, k, v) = (numbers(2 * heads * length * width, 1), numbers(2 * length * width, 2), numbers(2 * length * width, 3));
    let alone = AttentionShape { batch: 1, queries: length - pad, keys: length - pad, ..shape };
    for precision in [MatmulPrecision::F32, MatmulPrecision::Bf16] {
        let [query, key, value] = [(&q, heads), (&k, 1), (&v, 1)].map(|(x, heads)| AttentionHeads::new(x, heads, length, width));
        let both = attention::forward(query, key, value, shape, &AttentionMask::LeftPadded(vec![0, pad]), precision);
        // From the first unpadded position of the second row on.
        let part = |x: AttentionHeads<'_>| x.batch_stride + pad * x.row_stride;
        let q = AttentionHeads { data: &q[part(query)..], ..query };
        let k = AttentionHeads { data: &k[part(key)..], ..key };
        let v = AttentionHeads { data: &v[part(value)..], ..value };
        let found = attention::forward(q, k, v, alone, &AttentionMask::Causal, precision);
        assert!(both[(length + pad) * heads * width..] == found, "{precision:?}");
        assert!(both[length * heads * width..(length + pad) * heads * width].iter().all(|x| *x == 0.0), "{precision:?}");
    }
}

#[test]
fn bf16_attention_is_as_exact_as_bf16_allows() {
    let (heads, length, width) = (3, 300, 40);
    let shape = AttentionShape { batch: 1, heads, key_heads: 1, queries: length, keys: length, width };
    let (q, k, v) = (numbers(heads * length * width, 1), numbers(length * width, 2), numbers(length * width, 3));
    let [query, key, value] = [(&q, heads), (&k, 1), (&v, 1)].map(|(x, heads)| AttentionHeads::new(x, heads, length, width));
    for mask in [AttentionMask::None, AttentionMask::Causal] {
        let [exact, found] =
            [MatmulPrecision::F32, MatmulPrecision::Bf16].map(|precision| attention::forward(query, key, value, shape, &mask, precision));
        assert_eq!(exact == found, !voxtral::kernels::cpu::has_bf16_dot(), "{mask:?}");
        for (place, (found, exact)) in found.chunks(width).zip(exact.chunks(width)).enumerate() {
            // Rounding changes a value by a factor of up to 2⁻⁹. A product has two rounded operands, so a score changes by 2⁻⁸ of Σ |q k| /
            // √width, a weight by twice that; then weight and value are rounded once more.
            let (i, head) = (place / heads, place % heads);
            let q = &q[(head * length + i) * width..][..width];
            let sum = |k: &[f32]| q.iter().zip(k).map(|(q, k)| (q * k).abs()).sum::<f32>() / (width as f32).sqrt();
            let most = k.chunks(width).map(sum).fold(0.0, f32::max);
            let within = (2.0 * most + 1.0) / 256.0;
            assert!(found.iter().zip(exact).all(|(a, b)| (a - b).abs() <= within), "{mask:?}, row {place}");
        }
    }
}
