//! Streaming sliding-window attention (causal, GQA, RoPE), one block of positions at a time.
//!
//! A layer caches only the keys and values that are still inside the window, so memory does not grow with the stream. Encoder and decoder
//! use the same code with different sizes and biases.

use crate::model::attention::{merge_heads, split_heads};
use crate::model::linear::Linear;
use crate::weights::WeightLoader;
use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor, TensorData};

/// Sizes of an attention layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowHeads {
    /// Hidden size.
    pub(super) width: usize,
    /// Number of query heads.
    pub(super) heads: usize,
    /// Number of key/value heads.
    pub(super) key_heads: usize,
    /// Size of a head.
    pub(super) head_width: usize,
    /// Whether query, value and output projections have a bias; key projections never do.
    pub(super) biased: bool,
}

/// Sliding-window grouped-query attention.
#[derive(Module, Debug)]
pub struct SlidingWindowAttention {
    /// Query projection.
    pub q_proj: Linear,
    /// Key projection.
    pub k_proj: Linear,
    /// Value projection.
    pub v_proj: Linear,
    /// Output projection.
    pub o_proj: Linear,
    heads: usize,
    key_heads: usize,
}

impl SlidingWindowAttention {
    pub(super) fn load(sizes: WindowHeads, weights: &mut WeightLoader, name: &str) -> Self {
        let WindowHeads { width, heads, key_heads, head_width, biased } = sizes;
        let mut linear = |part: &str, inputs, outputs, bias| Linear::load(weights, &format!("{name}.{part}"), inputs, outputs, bias);
        Self {
            q_proj: linear("q_proj", width, heads * head_width, biased),
            k_proj: linear("k_proj", width, key_heads * head_width, false),
            v_proj: linear("v_proj", width, key_heads * head_width, biased),
            o_proj: linear("o_proj", heads * head_width, width, biased),
            heads,
            key_heads,
        }
    }

    /// # Shapes
    /// `[1, block, width]` → the same
    pub(super) fn forward(&self, x: Tensor<3>, block: &PositionBlock, cache: &mut WindowCache) -> Tensor<3> {
        let q = block.apply_rope(split_heads(self.q_proj.forward(x.clone()), self.heads));
        let k = block.apply_rope(split_heads(self.k_proj.forward(x.clone()), self.key_heads));
        let (k, v) = cache.append(k, split_heads(self.v_proj.forward(x), self.key_heads));
        self.o_proj.forward(merge_heads(attend(q, k, v, block.bias.clone())))
    }
}

/// softmax(q kᵀ / √width + bias) v. Query head h uses key head h / (heads / key heads). Query heads that share a key head are stacked as
/// rows, so keys are not copied.
///
/// # Shapes
/// q `[batch, heads, queries, width]`, k and v `[batch, key heads, keys, width]`, bias `[1, 1, queries, keys]` → as q
fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, bias: Option<Tensor<4>>) -> Tensor<4> {
    let [batch, heads, queries, width] = q.dims();
    let [_, key_heads, keys, _] = k.dims();
    let rows = heads / key_heads * queries;
    let mut scores = (q / (width as f64).sqrt()).reshape([batch, key_heads, rows, width]).matmul(k.transpose());
    if let Some(bias) = bias {
        scores = (scores.reshape([batch, heads, queries, keys]) + bias).reshape([batch, key_heads, rows, keys]);
    }
    softmax(scores, 3).matmul(v).reshape([batch, heads, queries, width])
}

/// RoPE tables and attention mask of a block of positions, shared by all layers.
#[derive(Debug)]
pub(super) struct PositionBlock {
    cos: Tensor<4>,
    sin: Tensor<4>,
    bias: Option<Tensor<4>>,
}

impl PositionBlock {
    /// The positions `start .. start + length` of a stream with this attention window.
    pub(super) fn new(start: usize, length: usize, window: usize, head_width: usize, theta: f64, device: &Device) -> Self {
        let half = head_width / 2;
        // Frequencies are f32, as in transformers. Angles are f64: after hours, f32 cannot distinguish neighboring positions.
        let frequencies: Vec<f64> = (0..half).map(|i| f64::from(1.0 / (theta as f32).powf((2 * i) as f32 / head_width as f32))).collect();
        let angles = |f: fn(f64) -> f64| -> Tensor<4> {
            let of = |position: usize| frequencies.iter().chain(&frequencies).map(move |frequency| f(position as f64 * frequency) as f32);
            let values: Vec<f32> = (start..start + length).flat_map(of).collect();
            Tensor::from_data(TensorData::new(values, [1, 1, length, head_width]), device)
        };
        let kept = start.min(window.saturating_sub(1));
        // A single position sees all cached positions, so it needs no mask.
        let bias = (length > 1).then(|| {
            let hidden = |query: usize, key: usize| key > kept + query || key + window <= kept + query;
            let row = |query: usize| (0..kept + length).map(move |key| if hidden(query, key) { f32::NEG_INFINITY } else { 0.0 });
            let values: Vec<f32> = (0..length).flat_map(row).collect();
            Tensor::from_data(TensorData::new(values, [1, 1, length, kept + length]), device)
        });
        Self { cos: angles(f64::cos), sin: angles(f64::sin), bias }
    }

    /// Applies RoPE: rotates component i with component i + width / 2.
    ///
    /// # Shapes
    /// `[batch, heads, block, width]` → the same
    fn apply_rope(&self, x: Tensor<4>) -> Tensor<4> {
        let half = x.dims()[3] / 2;
        let rotated = Tensor::cat(vec![x.clone().narrow(3, half, half).neg(), x.clone().narrow(3, 0, half)], 3);
        x * self.cos.clone() + rotated * self.sin.clone()
    }
}

/// Sliding-window KV cache of one layer.
///
/// Keys and values are appended to an over-allocated buffer. When it is full, the positions still inside the window move to a new buffer.
/// Most steps copy only their own row, and the buffer stays below 1.25 windows plus a small constant.
#[derive(Debug)]
pub(super) struct WindowCache {
    buffers: Option<(Tensor<4>, Tensor<4>)>,
    start: usize,
    end: usize,
    window: usize,
}

impl WindowCache {
    /// An empty cache; a position sees `window` positions, including itself.
    pub(super) fn new(window: usize) -> Self {
        Self { buffers: None, start: 0, end: 0, window }
    }

    /// Allocated positions.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.buffers.as_ref().map_or(0, |(keys, _)| keys.dims()[2])
    }

    /// Appends a block and returns it together with the preceding positions that its first position sees.
    ///
    /// # Shapes
    /// k and v `[batch, key heads, block, width]` → `[batch, key heads, kept + block, width]`
    fn append(&mut self, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [batch, heads, new, width] = k.dims();
        self.start = self.end - (self.end - self.start).min(self.window.saturating_sub(1));
        let part = |from: usize, to: usize| [0..batch, 0..heads, from..to, 0..width];
        let capacity = self.buffers.as_ref().map_or(0, |(keys, _)| keys.dims()[2]);
        let (keys, values) = match self.buffers.take() {
            Some(buffers) if self.end + new <= capacity => buffers,
            full => {
                let kept = self.end - self.start;
                let seen = kept + new;
                let empty = Tensor::zeros([batch, heads, seen + seen.max(16).min(self.window / 4 + 16), width], &k.device());
                let moved = |old: Tensor<4>| empty.clone().slice_assign(part(0, kept), old.slice(part(self.start, self.end)));
                let buffers = match full {
                    Some((keys, values)) if kept > 0 => (moved(keys), moved(values)),
                    _ => (empty.clone(), empty),
                };
                (self.start, self.end) = (0, kept);
                buffers
            }
        };
        let keys = keys.slice_assign(part(self.end, self.end + new), k);
        let values = values.slice_assign(part(self.end, self.end + new), v);
        self.end += new;
        let seen = part(self.start, self.end);
        let result = (keys.clone().slice(seen.clone()), values.clone().slice(seen));
        self.buffers = Some((keys, values));
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(position: usize) -> Tensor<4> {
        Tensor::from_data(TensorData::new(vec![position as f32], [1, 1, 1, 1]), &Device::flex())
    }

    #[test]
    fn a_window_holds_the_last_positions_and_no_more() {
        let mut window = WindowCache::new(5);
        for position in 0..200 {
            let (keys, values) = window.append(row(position), row(position + 1000));
            let read = |x: Tensor<4>| x.into_data().try_to_vec::<f32>().unwrap();
            let expected: Vec<f32> = (position.saturating_sub(4)..=position).map(|p| p as f32).collect();
            assert_eq!(read(keys), expected);
            assert_eq!(read(values), expected.iter().map(|p| p + 1000.0).collect::<Vec<_>>());
            assert!(window.capacity() <= 5 + 5 / 4 + 16, "{}", window.capacity());
        }
    }

    #[test]
    fn a_position_sees_its_window_and_nothing_later() {
        let block = PositionBlock::new(10, 3, 4, 2, 1e4, &Device::flex());
        let bias = block.bias.unwrap().into_data().try_to_vec::<f32>().unwrap();
        let seen: Vec<Vec<bool>> = bias.chunks(6).map(|row| row.iter().map(|b| *b == 0.0).collect()).collect();
        // Three positions are kept; position 10 is the fourth column.
        let is = |row: usize| (0..6).map(|key| key >= row && key <= row + 3).collect::<Vec<_>>();
        assert_eq!(seen, [is(0), is(1), is(2)]);
    }

    #[test]
    fn angles_stay_exact_after_hours() {
        // Ten hours at 50 frames per second: the rotation between neighboring positions is still exact.
        let far = PositionBlock::new(1_800_000, 2, 4, 2, 1e4, &Device::flex());
        let read = |x: Tensor<4>| x.into_data().try_to_vec::<f32>().unwrap();
        let (cos, sin) = (read(far.cos), read(far.sin));
        let between = f64::from(cos[0]) * f64::from(cos[2]) + f64::from(sin[0]) * f64::from(sin[2]);
        assert!((between - 1f64.cos()).abs() < 1e-6, "{between}");
    }
}
