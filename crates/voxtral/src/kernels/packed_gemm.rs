//! Packed GEMM (as in BLIS): y = x wᵀ + b for many rows. Weights are packed into panels once, and all rows of x are multiplied with each
//! panel.

use super::gemv::StoredWeight;
use super::microkernel::{Panel, Rows};
use super::simd::{Simd, SimdLevel, SimdOp};
use super::{microkernel, parallel, simd};

/// Block size along the inputs, in units, after which sums are written to memory: a panel and some rows of this depth fit into the cache.
const DEPTH: usize = 512;

/// Rows per task.
const ROWS: usize = 96;

/// Units of weights packed at a time: 2 MiB.
const BLOCK: usize = 1 << 19;

/// Linear layer: y = x wᵀ + b; an empty `bias` means none. bf16 weights need a CPU with bf16 dot products and an even number of inputs; x
/// is then rounded to bf16 too.
///
/// # Shapes
/// x `[rows, inputs]`, weight `[outputs, inputs]`, bias `[outputs]` → `[rows, outputs]`
#[must_use]
pub(super) fn linear<W: StoredWeight>(x: &[f32], weight: &[W], bias: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    let rows = x.len().checked_div(inputs).unwrap_or(0);
    assert!(x.len() == rows * inputs && weight.len() == outputs * inputs && (bias.is_empty() || bias.len() == outputs));
    let mut y = super::buffer::room(rows * outputs);
    if y.is_empty() || inputs == 0 {
        return y;
    }
    linear_by(SimdLevel::best(W::PAIRS), &mut y, x, weight, bias, inputs, outputs);
    y
}

fn linear_by<W: StoredWeight>(kind: SimdLevel, y: &mut [f32], x: &[f32], weight: &[W], bias: &[f32], inputs: usize, outputs: usize) {
    let units = if W::PAIRS { inputs / 2 } else { inputs };
    let panel = simd::run(kind, PanelWidth);
    let block = (BLOCK / units).max(1).next_multiple_of(panel).min(outputs.next_multiple_of(panel));
    let mut panels = vec![0.0; block * units];
    for first in (0..outputs).step_by(block) {
        let here = block.min(outputs - first);
        let weight = &weight[first * inputs..(first + here) * inputs];
        let parts = panels.chunks_mut(panel * units).zip(weight.chunks(panel * inputs));
        parallel::each(here * inputs, parts, |(to, weight)| simd::run(kind, PackPanel { weight, inputs, units, to }));
        let parts = y.chunks_mut(ROWS * outputs).zip(x.chunks(ROWS * inputs));
        parallel::each(x.len() * here, parts, |(y, x)| {
            let bias = bias.get(first..first + here).unwrap_or_default();
            simd::run(kind, Part { x, panels: &panels, bias, inputs, outputs, first, here, y });
        });
    }
}

/// Number of outputs in a panel.
struct PanelWidth;

impl SimdOp for PanelWidth {
    type Output = usize;
    #[inline(always)]
    fn run<L: Simd, const R: usize, const V: usize>(self, _: L) -> usize {
        V * L::COUNT
    }
}

/// Packs the weights of up to one panel of outputs. The places of missing outputs are undefined and never used.
struct PackPanel<'a, W> {
    weight: &'a [W],
    inputs: usize,
    units: usize,
    to: &'a mut [f32],
}

impl<W: StoredWeight> SimdOp for PackPanel<'_, W> {
    type Output = ();
    #[inline(always)]
    fn run<L: Simd, const R: usize, const V: usize>(self, lanes: L) {
        microkernel::side_by_side(lanes, self.weight, self.inputs, self.units, V * L::COUNT, self.to);
    }
}

/// Multiplies some rows of x with the panels of `here` outputs from `first` on.
struct Part<'a> {
    x: &'a [f32],
    panels: &'a [f32],
    bias: &'a [f32],
    inputs: usize,
    outputs: usize,
    first: usize,
    here: usize,
    y: &'a mut [f32],
}

impl SimdOp for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Simd, const R: usize, const V: usize>(self, lanes: L) {
        let Self { x, panels, bias, inputs, outputs, first, here, y } = self;
        let units = if L::PAIRS { inputs / 2 } else { inputs };
        let narrow = if L::PAIRS { to_bf16(lanes, x) } else { Vec::new() };
        let x = if L::PAIRS { &narrow } else { x };
        let (rows, panel) = (y.len() / outputs, V * L::COUNT);
        for from in (0..units).step_by(DEPTH) {
            let depth = DEPTH.min(units - from);
            for (block, data) in panels.chunks_exact(panel * units).enumerate().take(here.div_ceil(panel)) {
                let (column, count) = (first + block * panel, panel.min(here - block * panel));
                let data = Panel { data: &data[from * panel..], step: panel };
                let bias = bias.get(block * panel..block * panel + count).unwrap_or_default();
                let mut row = 0;
                while row < rows {
                    let some = Rows { data: &x[row * units + from..], row: units, step: 1 };
                    let (y, start) = (&mut y[row * outputs + column..], from == 0);
                    row += if rows - row >= R {
                        add::<L, R, V>(lanes, some, data, depth, start, bias, count, y, outputs)
                    } else {
                        add::<L, 1, V>(lanes, some, data, depth, start, bias, count, y, outputs)
                    };
                }
            }
        }
    }
}

/// Adds the products of `R` rows with `depth` units of a panel to `count` values of rows of y, or to the bias if this is the start; returns
/// `R`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "kernels take many arguments")]
fn add<L: Simd, const R: usize, const V: usize>(
    lanes: L,
    rows: Rows,
    panel: Panel,
    depth: usize,
    start: bool,
    bias: &[f32],
    count: usize,
    y: &mut [f32],
    stride: usize,
) -> usize {
    let width = V * L::COUNT;
    if count == width {
        let sums = match (start, bias.is_empty()) {
            (true, true) => microkernel::nothing::<L, R, V>(lanes),
            (true, false) => microkernel::load::<L, R, V>(lanes, bias, 0, None),
            _ => microkernel::load::<L, R, V>(lanes, y, stride, None),
        };
        microkernel::store::<L, R, V>(lanes, microkernel::add_products::<L, R, V>(lanes, sums, rows, panel, depth), y, stride);
        return R;
    }
    // The last panel if the number of outputs is not a multiple of the panel width: through a buffer that is wide enough.
    let mut wide = [0.0; 6 * 64];
    for (r, wide) in wide.chunks_exact_mut(width).enumerate().take(R) {
        if !start {
            wide[..count].copy_from_slice(&y[r * stride..r * stride + count]);
        } else if !bias.is_empty() {
            wide[..count].copy_from_slice(bias);
        }
    }
    let sums = microkernel::load::<L, R, V>(lanes, &wide, width, None);
    microkernel::store::<L, R, V>(lanes, microkernel::add_products::<L, R, V>(lanes, sums, rows, panel, depth), &mut wide, width);
    for (r, wide) in wide.chunks_exact(width).enumerate().take(R) {
        y[r * stride..r * stride + count].copy_from_slice(&wide[..count]);
    }
    R
}

/// Converts an even number of floats to bf16 pairs.
#[inline(always)]
fn to_bf16<L: Simd>(lanes: L, x: &[f32]) -> Vec<f32> {
    let mut units = vec![0.0; (x.len() / 2).next_multiple_of(L::COUNT)];
    microkernel::narrow(lanes, x, 1.0, &mut units);
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_processor_computes_the_same() {
        let numbers = |count: usize, step: usize| (0..count).map(|i| (i * step % 1009) as f32 / 500.0 - 1.0).collect::<Vec<f32>>();
        for (rows, inputs, outputs) in [(100, 1100, 70), (7, 5, 3), (97, 64, 200)] {
            let (x, weight, bias) = (numbers(rows * inputs, 37), numbers(outputs * inputs, 53), numbers(outputs, 71));
            let by = |kind| {
                let mut y = vec![0.0; rows * outputs];
                linear_by(kind, &mut y, &x, &weight, &bias, inputs, outputs);
                y
            };
            for kind in SimdLevel::all().into_iter().filter(|kind| !kind.is_rounding()) {
                for (i, found) in by(kind).iter().enumerate() {
                    let (row, output) = (i / outputs, i % outputs);
                    let pairs = x[row * inputs..][..inputs].iter().zip(&weight[output * inputs..][..inputs]);
                    let exact = f64::from(bias[output]) + pairs.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
                    assert!((f64::from(*found) - exact).abs() < 2e-4, "{kind:?} {rows} × {inputs} × {outputs}: {found}, not {exact}");
                }
            }
        }
    }
}
