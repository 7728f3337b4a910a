//! Scaled dot-product attention over heads, and the cache of keys and values that greedy decoding needs.

use burn::tensor::{Tensor, module::attention, ops::AttentionModuleOptions};

/// Splits `[batch, length, heads × width]` into `[batch, heads, length, width]`.
pub fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, length, width] = x.dims();
    x.reshape([batch, length, heads, width / heads]).swap_dims(1, 2)
}

/// The inverse of [`split_heads`].
pub fn merge_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, length, width] = x.dims();
    x.swap_dims(1, 2).reshape([batch, length, heads * width])
}

/// softmax(q kᵀ / √width) v, where several query heads may share a key head (grouped-query attention).
///
/// With `causal`, position i sees positions up to i; that needs as many queries as keys.
///
/// # Shapes
/// q `[batch, heads, queries, width]`, k and v `[batch, key heads, keys, width]` → `[batch, heads, queries, width]`
pub fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, causal: bool) -> Tensor<4> {
    let [batch, heads, queries, width] = q.dims();
    let [_, key_heads, keys, _] = k.dims();
    let shared = heads / key_heads;
    // Query head h uses key head h / shared: repeat each key head for its neighbours.
    let repeat = |x: Tensor<4>| match shared {
        1 => x,
        _ => x
            .reshape([batch, key_heads, 1, keys * width])
            .expand([batch, key_heads, shared, keys * width])
            .reshape([batch, heads, keys, width]),
    };
    debug_assert!(!causal || queries == keys);
    attention(q, repeat(k), repeat(v), None, None, AttentionModuleOptions { is_causal: causal, ..Default::default() })
}

/// The keys and values of the positions seen so far, of one layer.
///
/// The buffers grow by doubling, so that a token costs a copy of its own row and not of all before it.
#[derive(Debug, Default)]
pub struct KvCache {
    buffers: Option<(Tensor<4>, Tensor<4>)>,
    length: usize,
}

impl KvCache {
    /// How many positions are cached.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Adds positions and returns the keys and values of all so far.
    ///
    /// # Shapes
    /// k and v `[batch, key heads, new, width]` → `[batch, key heads, all, width]`
    pub fn append(&mut self, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [batch, heads, new, width] = k.dims();
        let (start, end) = (self.length, self.length + new);
        let capacity = self.buffers.as_ref().map_or(0, |(keys, _)| keys.dims()[2]);
        let (keys, values) = match self.buffers.take() {
            Some(buffers) if end <= capacity => buffers,
            full => {
                let room = Tensor::zeros([batch, heads, (2 * end).max(64), width], &k.device());
                match full {
                    Some((keys, values)) => {
                        let old = [0..batch, 0..heads, 0..start, 0..width];
                        (room.clone().slice_assign(old.clone(), keys.slice(old.clone())), room.slice_assign(old.clone(), values.slice(old)))
                    }
                    None => (room.clone(), room),
                }
            }
        };
        let place = [0..batch, 0..heads, start..end, 0..width];
        let keys = keys.slice_assign(place.clone(), k);
        let values = values.slice_assign(place, v);
        let all = [0..batch, 0..heads, 0..end, 0..width];
        let seen = (keys.clone().slice(all.clone()), values.clone().slice(all));
        self.buffers = Some((keys, values));
        self.length = end;
        seen
    }
}
