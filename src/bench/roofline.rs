//! What a device can do at most: copy bytes, and multiply large matrices.

use super::{BenchRow, Benchmark};
use crate::error::Result;
use burn::tensor::{DType, Device, Distribution, Tensor};

/// Operations a second in products of matrices.
#[derive(Clone, Copy, Debug)]
pub(super) struct Roofline {
    pub(super) floats: f64,
    pub(super) bf16_flops: f64,
}

impl Roofline {
    /// That of a matrix's type.
    pub(super) fn of(self, dtype: DType) -> f64 {
        if dtype == DType::BF16 { self.bf16_flops } else { self.floats }
    }
}

/// Numbers as those in a model: neither zeros nor all alike.
pub(super) fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
}

/// Measures both.
pub(super) fn measure(bench: &Benchmark, tell: &mut dyn FnMut(BenchRow)) -> Result<Roofline> {
    let device = &bench.device.device;
    let width = bench.config.text_config.intermediate_size;
    // Large beside any cache, small beside any memory.
    let numbers = if width > 4096 { 1 << 28 } else { 1 << (20 + width / 512) };
    let x = random([numbers], device);
    let mut row = bench.time(format!("copy of {} MB", numbers / 250_000), || drop(x.clone() + 1.0))?;
    row.note = "each number is read once and written once".to_owned();
    row.gigabytes = row.seconds.iter().copied().reduce(f64::min).map(|seconds| numbers as f64 * 8.0 / seconds / 1e9);
    tell(row);
    drop(x);

    let mut rate = |name: &str, dtype: DType| -> Result<f64> {
        let side = width.next_multiple_of(64);
        let (a, b) = (random([side, side], device).cast(dtype), random([side, side], device).cast(dtype));
        let flops = 2.0 * (side as f64).powi(3);
        let row = bench.time(format!("product of {side} × {side} in {name}"), || drop(a.clone().matmul(b.clone())))?.rated(flops, None);
        let rate = row.teraflops.map_or(f64::NAN, |rate| rate * 1e12);
        tell(row);
        Ok(rate)
    };
    // On the processor, products of brain floats are this program's own.
    let floats = rate("f32", DType::F32)?;
    let bf16_flops = if bench.device.name == "cpu" { own_product(bench, width, tell)? } else { rate("bf16", DType::BF16)? };
    Ok(Roofline { floats, bf16_flops })
}

fn own_product(bench: &Benchmark, side: usize, tell: &mut dyn FnMut(BenchRow)) -> Result<f64> {
    let device = &bench.device.device;
    let (x, weight) = (random([side, side], device), random([side, side], device).cast(DType::BF16));
    let name = format!("product of {side} × {side} in bf16");
    let flops = 2.0 * (side as f64).powi(3);
    let row = bench.time(name, || drop(super::operations::linear(x.clone(), weight.clone())))?.rated(flops, None);
    let rate = row.teraflops.map_or(f64::NAN, |rate| rate * 1e12);
    tell(row);
    Ok(rate)
}
