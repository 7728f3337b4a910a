//! Rotary position embedding (RoPE, Su et al. 2021): component i of a head is rotated with component i + width / 2, by an angle that grows
//! with the position.

use super::buffer::room;
use super::cpu::{fused, versions};
use super::parallel;

/// Applies RoPE to every head at every position. `back` applies the inverse rotation, which is also the gradient.
///
/// # Shapes
/// x `[batch, length, heads, width]`, cos and sin `[tables, length, width]` where `tables` is 1 or `batch` → as x
#[must_use]
pub fn apply_rotary(x: &[f32], cos: &[f32], sin: &[f32], heads: usize, width: usize, length: usize, back: bool) -> Vec<f32> {
    assert!(cos.len() == sin.len() && width.is_multiple_of(2));
    let mut y = room(x.len());
    let row = heads * width;
    let (Some(tables), false) = (cos.len().checked_div(length * width), row == 0) else { return y };
    assert!(tables > 0 && x.len().is_multiple_of(length * row));
    let sign = if back { -1.0 } else { 1.0 };
    // 32 positions per task: small enough to balance the load, large enough to amortize the overhead.
    parallel::each(4 * x.len(), y.chunks_mut(32 * row).zip(x.chunks(32 * row)).enumerate(), |(part, (y, x))| {
        for (i, (y, x)) in y.chunks_exact_mut(row).zip(x.chunks_exact(row)).enumerate() {
            let place = part * 32 + i;
            let start = ((place / length % tables) * length + place % length) * width;
            turn_position(x, &cos[start..start + width], &sin[start..start + width], sign, y);
        }
    });
    y
}

versions! {
    fn turn_position(x: &[f32], cos: &[f32], sin: &[f32], sign: f32, y: &mut [f32]) {
        let half = cos.len() / 2;
        let ((cos_a, cos_b), (sin_a, sin_b)) = (cos.split_at(half), sin.split_at(half));
        for (x, y) in x.chunks_exact(2 * half).zip(y.chunks_exact_mut(2 * half)) {
            let ((xa, xb), (ya, yb)) = (x.split_at(half), y.split_at_mut(half));
            for i in 0..half {
                // Forward, each half rotates by its own angle (they are equal); backward is the transpose of that.
                let (sa, sb) = if sign > 0.0 { (sin_a[i], sin_b[i]) } else { (-sin_b[i], -sin_a[i]) };
                ya[i] = fused::<FUSED>(xa[i], cos_a[i], -xb[i] * sa);
                yb[i] = fused::<FUSED>(xb[i], cos_b[i], xa[i] * sb);
            }
        }
    }
}
