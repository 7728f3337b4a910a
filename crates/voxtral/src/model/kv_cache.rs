//! KV cache for decoding: the keys and values of every layer, and the left padding of every row.
//!
//! Buffers are over-allocated, new keys and values are written in place, and attention reads views. A decoding step copies one row, not
//! the whole cache.

use super::attention::AttentionMask;
use super::int_tensor;
use burn::tensor::Tensor;
use std::ops::Range;

/// Decoding state of a batch: one [`KvCache`] per layer, and the left padding of each row.
#[derive(Debug)]
pub struct DecoderCache {
    /// One cache per layer.
    pub layers: Vec<KvCache>,
    pads: Vec<usize>,
    length: usize,
}

impl DecoderCache {
    /// An empty cache for rows with `pads` tokens of left padding each (empty: no padding).
    pub fn new(layers: usize, pads: Vec<usize>) -> Self {
        Self { layers: (0..layers).map(|_| KvCache::default()).collect(), pads, length: 0 }
    }

    /// Reserves the next `new` positions and returns their range in the padded sequence.
    pub(crate) fn advance(&mut self, new: usize) -> Range<usize> {
        let start = self.length;
        self.length += new;
        start..self.length
    }

    /// Left padding of each row; empty if no row is padded.
    pub fn pads(&self) -> &[usize] {
        if self.pads.iter().all(|pad| *pad == 0) { &[] } else { &self.pads }
    }

    /// The attention mask for the cached positions.
    pub fn mask(&self) -> AttentionMask {
        if self.pads().is_empty() { AttentionMask::Causal } else { AttentionMask::LeftPadded(self.pads.clone()) }
    }

    /// Keeps only these rows, and drops the padding that all of them share.
    pub fn keep(&mut self, rows: &[usize]) {
        self.pads = rows.iter().filter_map(|row| self.pads.get(*row).copied()).collect();
        let common = self.pads.iter().copied().min().unwrap_or(0);
        for pad in &mut self.pads {
            *pad -= common;
        }
        self.length -= common;
        for layer in &mut self.layers {
            layer.keep(rows, common);
        }
    }
}

/// Keys and values of one layer.
#[derive(Debug, Default)]
pub struct KvCache {
    buffers: Option<(Tensor<4>, Tensor<4>)>,
    length: usize,
}

impl KvCache {
    /// Number of cached positions.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Appends positions and returns the keys and values of all cached positions as views. Drop the views before the next call, or it
    /// copies the buffers.
    ///
    /// # Shapes
    /// k and v `[batch, key heads, new, width]` → `[batch, key heads, all, width]`
    pub fn append(&mut self, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [batch, heads, new, width] = k.dims();
        let (start, end) = (self.length, self.length + new);
        let part = |range: Range<usize>| [0..batch, 0..heads, range, 0..width];
        let (keys, values) = match self.buffers.take() {
            Some((keys, values)) if end <= keys.dims()[2] => (keys, values),
            full => {
                // Growing by a quarter amortizes the copies to a few rows per token.
                let allocate = || Tensor::zeros([batch, heads, end + (end / 4).max(64), width], &k.device());
                match full {
                    Some((keys, values)) => {
                        let moved = |old: Tensor<4>| allocate().slice_assign(part(0..start), old.slice(part(0..start)));
                        (moved(keys), moved(values))
                    }
                    None => (allocate(), allocate()),
                }
            }
        };
        let (keys, values) = (keys.slice_assign(part(start..end), k), values.slice_assign(part(start..end), v));
        let seen = (keys.clone().slice(part(0..end)), values.clone().slice(part(0..end)));
        self.buffers = Some((keys, values));
        self.length = end;
        seen
    }

    /// Keeps only these rows, and drops the first `from` positions.
    fn keep(&mut self, rows: &[usize], from: usize) {
        if let Some((keys, values)) = self.buffers.take() {
            let kept = |x: Tensor<4>| {
                let rows = int_tensor(rows.iter().map(|row| *row as i64), &x.device());
                let capacity = x.dims()[2];
                x.narrow(2, from, capacity - from).select(0, rows)
            };
            self.buffers = Some((kept(keys), kept(values)));
            self.length -= from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    /// Two rows with one head of size 1; the second row is the first plus 100.
    fn new(values: &[f32]) -> Tensor<4> {
        let both: Vec<f32> = values.iter().copied().chain(values.iter().map(|value| value + 100.0)).collect();
        Tensor::from_data(TensorData::new(both, [2, 1, values.len(), 1]), &Device::flex())
    }

    #[test]
    fn it_gives_back_what_it_was_given_however_it_grows() {
        let (mut cache, mut all) = (KvCache::default(), Vec::new());
        for step in 0..200_u16 {
            let values: Vec<f32> = (0..=step % 3).map(|i| f32::from(step * 3 + i)).collect();
            all.extend_from_slice(&values);
            let (keys, seen) = cache.append(new(&values), new(&values).neg());
            assert_eq!(keys.into_data(), new(&all).into_data());
            assert_eq!(seen.into_data(), new(&all).neg().into_data());
        }
    }

    /// The address of the key buffer, taken out and put back without a copy while there is no other reference.
    fn address(cache: &mut KvCache) -> usize {
        let (keys, values) = cache.buffers.take().unwrap();
        let data = keys.into_data();
        let address = data.as_bytes().as_ptr() as usize;
        cache.buffers = Some((Tensor::from_data(data, &Device::flex()), values));
        address
    }

    #[test]
    fn a_position_is_written_in_place() {
        let mut cache = KvCache::default();
        drop(cache.append(new(&[1.0; 4]), new(&[1.0; 4])));
        let first = address(&mut cache);
        for _ in 0..60 {
            drop(cache.append(new(&[2.0]), new(&[2.0])));
        }
        assert_eq!(address(&mut cache), first, "the buffer was copied");
    }

    #[test]
    fn rows_leave_with_the_padding_they_alone_needed() {
        let mut cache = DecoderCache::new(1, vec![3, 1]);
        assert_eq!(cache.advance(5), 0..5);
        drop(cache.layers[0].append(new(&[0.0, 1.0, 2.0, 3.0, 4.0]), new(&[0.0; 5])));
        assert_eq!(cache.mask(), AttentionMask::LeftPadded(vec![3, 1]));
        cache.keep(&[1]);
        assert_eq!((cache.mask(), cache.layers[0].length()), (AttentionMask::Causal, 4));
        assert_eq!(cache.advance(1), 4..5);
        let one = Tensor::<4>::from_data(TensorData::new(vec![9.0_f32], [1, 1, 1, 1]), &Device::flex());
        let (keys, _) = cache.layers[0].append(one.clone(), one);
        assert_eq!(keys.into_data().try_to_vec::<f32>().unwrap(), [101.0, 102.0, 103.0, 104.0, 9.0]);
    }
}
