//! Roofline: peak memory bandwidth and peak matrix-product rates of a device.

use super::{BenchRow, Benchmark};
use crate::error::Result;
use burn::tensor::{DType, Device, Distribution, Tensor};

/// Peak rates of matrix products in FLOP/s.
#[derive(Clone, Copy, Debug)]
pub(super) struct Roofline {
    pub(super) floats: f64,
    pub(super) bf16_flops: f64,
}

impl Roofline {
    /// The peak rate for a data type.
    pub(super) fn of(self, dtype: DType) -> f64 {
        if dtype == DType::BF16 { self.bf16_flops } else { self.floats }
    }
}

/// A random tensor, uniform from -1 to 1: constant data can be faster than that of a model.
pub(super) fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
}

/// Measures a large copy and square matrix products in f32 and bf16.
pub(super) fn measure(bench: &Benchmark, report: &mut dyn FnMut(BenchRow)) -> Result<Roofline> {
    let device = &bench.device.device;
    let width = bench.config.text_config.intermediate_size;
    // Larger than any cache, smaller than any memory.
    let numbers = if width > 4096 { 1 << 28 } else { 1 << (20 + width / 512) };
    let x = random([numbers], device);
    let mut row = bench.time(format!("copy of {} MB", numbers / 250_000), || drop(x.clone() + 1.0))?;
    row.note = "each element is read and written once".to_owned();
    row.gigabytes = row.seconds.iter().copied().reduce(f64::min).map(|seconds| numbers as f64 * 8.0 / seconds / 1e9);
    report(row);
    drop(x);

    let mut rate = |name: &str, dtype: DType| -> Result<f64> {
        let side = width.next_multiple_of(64);
        let (a, b) = (random([side, side], device).cast(dtype), random([side, side], device).cast(dtype));
        let flops = 2.0 * (side as f64).powi(3);
        let row = bench.time(format!("product of {side} × {side} in {name}"), || drop(a.clone().matmul(b.clone())))?.rated(flops, None);
        let rate = row.teraflops.map_or(f64::NAN, |rate| rate * 1e12);
        report(row);
        Ok(rate)
    };
    // On the CPU, bf16 products use this program's own kernels.
    let floats = rate("f32", DType::F32)?;
    let bf16_flops = if bench.device.name == "cpu" { own_product(bench, width, report)? } else { rate("bf16", DType::BF16)? };
    Ok(Roofline { floats, bf16_flops })
}

/// Peak rate of the CPU's bf16 linear kernel.
fn own_product(bench: &Benchmark, side: usize, report: &mut dyn FnMut(BenchRow)) -> Result<f64> {
    let device = &bench.device.device;
    let (x, weight) = (random([side, side], device), random([side, side], device).cast(DType::BF16));
    let name = format!("product of {side} × {side} in bf16");
    let flops = 2.0 * (side as f64).powi(3);
    let row = bench.time(name, || drop(super::operations::linear(x.clone(), weight.clone())))?.rated(flops, None);
    let rate = row.teraflops.map_or(f64::NAN, |rate| rate * 1e12);
    report(row);
    Ok(rate)
}
