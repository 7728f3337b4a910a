//! Packing of keys and values into the panels that the micro-kernel reads.

use super::{AttentionHeads, AttentionMask, AttentionShape};
use crate::kernels::gemm::MatrixView;
use crate::kernels::simd::{Simd, SimdLevel, SimdOp, run};
use crate::kernels::{microkernel, parallel};

/// Block of keys between two updates of the online softmax. A multiple of every panel, and of two vectors.
pub(super) const KEYS: usize = 192;

/// Packed keys and values of all batch rows, head after head.
pub(super) struct Packed {
    numbers: Vec<f32>,
    size: usize,
    key_heads: usize,
}

/// Packed keys and values of one head, from its first visible key on.
#[derive(Clone, Copy)]
pub(super) struct PackedHead<'a> {
    /// Panels of [`Sizes::panel`] keys, each `[units of a row, keys]`; missing keys are zero.
    pub(super) keys: &'a [f32],
    /// `[units of keys, width in whole vectors]`.
    pub(super) values: &'a [f32],
}

/// Sizes of the rows of a head, in floats or units.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// Units of a query or key.
    pub(super) units: usize,
    /// Head dimension rounded up to whole vectors.
    pub(super) padded: usize,
    /// Keys per panel.
    pub(super) panel: usize,
}

impl Sizes {
    #[inline(always)]
    pub(super) fn of<L: Simd, const V: usize>(width: usize) -> Self {
        Self { units: if L::PAIRS { width.div_ceil(2) } else { width }, padded: width.next_multiple_of(L::COUNT), panel: V * L::COUNT }
    }

    /// Size of the packed keys of a head, in floats.
    #[inline(always)]
    pub(super) fn of_keys(&self, keys: usize) -> usize {
        keys.next_multiple_of(self.panel) * self.units
    }

    /// Size of the packed values of a head, in floats.
    #[inline(always)]
    pub(super) fn of_values<L: Simd>(&self, keys: usize) -> usize {
        self.padded * if L::PAIRS { keys.div_ceil(2) } else { keys }
    }
}

/// Packed size of a head, in floats.
struct Size(AttentionShape);

impl SimdOp for Size {
    type Output = usize;
    #[inline(always)]
    fn run<L: Simd, const R: usize, const V: usize>(self, _: L) -> usize {
        let sizes = Sizes::of::<L, V>(self.0.width);
        sizes.of_keys(self.0.keys) + sizes.of_values::<L>(self.0.keys)
    }
}

impl Packed {
    pub(super) fn new(kind: SimdLevel, k: AttentionHeads, v: AttentionHeads, shape: AttentionShape, mask: &AttentionMask) -> Self {
        let AttentionShape { batch, key_heads, keys, width, .. } = shape;
        let size = run(kind, Size(shape));
        let mut numbers = vec![0.0; batch * key_heads * size];
        parallel::each(batch * key_heads * keys * width, numbers.chunks_mut(size.max(1)).enumerate(), |(task, to)| {
            let (batch, head) = (task / key_heads, task % key_heads);
            run(kind, Pack { k, v, shape, batch, head, first: shape.first_key(mask, batch), to });
        });
        Self { numbers, size, key_heads }
    }

    /// Packed head of a batch row. Must be read with the SIMD level it was packed for.
    #[inline(always)]
    pub(super) fn head<L: Simd, const V: usize>(&self, shape: AttentionShape, batch: usize, head: usize) -> PackedHead<'_> {
        let start = (batch * self.key_heads + head) * self.size;
        let (keys, values) = self.numbers[start..start + self.size].split_at(Sizes::of::<L, V>(shape.width).of_keys(shape.keys));
        PackedHead { keys, values }
    }
}

struct Pack<'a> {
    k: AttentionHeads<'a>,
    v: AttentionHeads<'a>,
    shape: AttentionShape,
    batch: usize,
    head: usize,
    first: usize,
    to: &'a mut [f32],
}

impl SimdOp for Pack<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Simd, const R: usize, const V: usize>(self, lanes: L) {
        let Self { k, v, shape, batch, head, first, to } = self;
        let sizes = Sizes::of::<L, V>(shape.width);
        let (keys, values) = to.split_at_mut(sizes.of_keys(shape.keys));
        let [k, v] = [k, v].map(|x| x.rows(batch, head, first, shape.keys - first, shape.width));
        as_panels(lanes, sizes, k, keys);
        as_depth(lanes, sizes, v, values);
    }
}

/// Packs rows into panels, for sums over their width: see [`PackedHead::keys`].
#[inline(always)]
pub(super) fn as_panels<L: Simd>(lanes: L, sizes: Sizes, rows: MatrixView, to: &mut [f32]) {
    let stride = sizes.units.next_multiple_of(L::COUNT);
    let mut some = vec![0.0; sizes.panel * stride];
    for (block, panel) in to.chunks_exact_mut(sizes.panel * sizes.units).enumerate().take(rows.rows.div_ceil(sizes.panel)) {
        for (i, to) in some.chunks_exact_mut(stride).enumerate() {
            match block * sizes.panel + i {
                i if i < rows.rows => microkernel::narrow(lanes, rows.row(i), 1.0, to),
                _ => to.fill(0.0),
            }
        }
        microkernel::side_by_side(lanes, &some, stride, sizes.units, sizes.panel, panel);
    }
}

/// Packs rows one after the other in whole vectors, for sums over rows: see [`PackedHead::values`].
#[inline(always)]
pub(super) fn as_depth<L: Simd>(lanes: L, sizes: Sizes, rows: MatrixView, to: &mut [f32]) {
    let (mut first, mut second) = (vec![0.0; sizes.padded], vec![0.0; sizes.padded]);
    let each = if L::PAIRS { 2 } else { 1 };
    for (unit, to) in to.chunks_exact_mut(sizes.padded).enumerate().take(rows.rows.div_ceil(each)) {
        if !L::PAIRS {
            to[..rows.columns].copy_from_slice(rows.row(unit));
            continue;
        }
        first[..rows.columns].copy_from_slice(rows.row(2 * unit));
        match 2 * unit + 1 {
            i if i < rows.rows => second[..rows.columns].copy_from_slice(rows.row(i)),
            _ => second.fill(0.0),
        }
        for start in (0..sizes.padded).step_by(L::COUNT) {
            lanes.store(lanes.pair(lanes.load(&first[start..]), lanes.load(&second[start..])), &mut to[start..]);
        }
    }
}
