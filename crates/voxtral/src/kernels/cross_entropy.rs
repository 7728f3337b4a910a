//! Fused linear cross-entropy, chunked over the vocabulary (as in the Liger kernel): the full logits are never in memory. Mini-3B would
//! need 0.5 MB per target for them, several times over.

use super::cpu::versions;
use super::gemm::MatrixView;
use super::softmax::{LANES, exp, total};
use super::{bf16_gemm, buffer, gemm, parallel};
use half::bf16;

/// Vocabulary chunk: tokens scored at a time.
const BLOCK: usize = 4096;

/// Weight of the LM head, `[vocabulary, width]`.
#[derive(Clone, Copy, Debug)]
pub enum LmHead<'a> {
    /// Stored as f32.
    F32(&'a [f32]),
    /// Stored as bf16.
    Bf16(&'a [bf16]),
}

impl<'a> LmHead<'a> {
    fn vocabulary(self, width: usize) -> usize {
        let numbers = match self {
            Self::F32(weight) => weight.len(),
            Self::Bf16(weight) => weight.len(),
        };
        numbers.checked_div(width).unwrap_or(0)
    }

    /// The rows of `count` tokens from `first` on.
    fn part(self, first: usize, count: usize, width: usize) -> Self {
        let range = first * width..(first + count) * width;
        match self {
            Self::F32(weight) => Self::F32(&weight[range]),
            Self::Bf16(weight) => Self::Bf16(&weight[range]),
        }
    }

    /// `[rows, width]` → `[rows, tokens]`
    fn scores(self, x: &[f32], width: usize) -> Vec<f32> {
        let tokens = self.vocabulary(width);
        match self {
            Self::F32(weight) => gemm::linear(x, weight, &[], width, tokens),
            Self::Bf16(weight) => bf16_gemm::linear(x, weight, &[], width, tokens),
        }
    }

    /// `[rows, tokens]` → `[rows, width]`
    fn back(self, gradient: &[f32], width: usize) -> Vec<f32> {
        let tokens = self.vocabulary(width);
        match self {
            Self::F32(weight) => gemm::linear_input_gradient(gradient, weight, width, tokens),
            Self::Bf16(weight) => bf16_gemm::linear_input_gradient(gradient, weight, width, tokens),
        }
    }

    /// Its chunks, each with its first token.
    fn parts(self, width: usize) -> impl Iterator<Item = (usize, Self)> {
        let vocabulary = self.vocabulary(width);
        (0..vocabulary).step_by(BLOCK).map(move |first| (first, self.part(first, BLOCK.min(vocabulary - first), width)))
    }
}

/// Cross-entropy summed over the targets, and the log-sum-exp of the logits of each row.
///
/// x `[rows, width]`, one target per row, below the vocabulary size
#[must_use]
pub fn forward(x: &[f32], head: LmHead, targets: &[u32], width: usize) -> (f32, Vec<f32>) {
    let (rows, vocabulary) = (targets.len(), head.vocabulary(width));
    assert!(x.len() == rows * width && targets.iter().all(|target| (*target as usize) < vocabulary));
    // For each row of a chunk: its largest logit, the sum of exponentials relative to it, and the target's logit if it is in this chunk.
    let parts = parallel::map(x.len() * vocabulary, head.parts(width), |(first, part)| {
        let scores = part.scores(x, width);
        let tokens = scores.len().checked_div(rows).unwrap_or(0);
        let row = |(scores, target): (&[f32], &u32)| {
            let (greatest, sum) = max_and_exp_sum(scores);
            (greatest, sum, (*target as usize).checked_sub(first).and_then(|place| scores.get(place).copied()))
        };
        scores.chunks_exact(tokens.max(1)).zip(targets).map(row).collect::<Vec<_>>()
    });
    let (mut loss, mut logarithms) = (0.0, Vec::with_capacity(rows));
    for row in 0..rows {
        let of_row = || parts.iter().filter_map(|part| part.get(row));
        let greatest = of_row().fold(f32::NEG_INFINITY, |most, (greatest, ..)| most.max(*greatest));
        let sum: f64 = of_row().map(|(max, sum, _)| f64::from(*sum) * f64::from(max - greatest).exp()).sum();
        let target = of_row().find_map(|(.., score)| *score).unwrap_or(f32::NAN);
        let logarithm = f64::from(greatest) + sum.ln();
        loss += logarithm - f64::from(target);
        logarithms.push(logarithm as f32);
    }
    (loss as f32, logarithms)
}

/// Gradients of x and, if `of_head`, of the head, given that of the loss.
///
/// # Shapes
/// → `[rows, width]`, `[vocabulary, width]`
#[must_use]
pub fn backward(
    x: &[f32],
    head: LmHead,
    targets: &[u32],
    logarithms: &[f32],
    gradient: f32,
    width: usize,
    of_head: bool,
) -> (Vec<f32>, Option<Vec<f32>>) {
    let (rows, vocabulary) = (targets.len(), head.vocabulary(width));
    assert!(x.len() == rows * width && logarithms.len() == rows);
    let mut dhead = of_head.then(|| buffer::room(vocabulary * width));
    let mut spaces = dhead.as_mut().map(|dhead| dhead.chunks_mut(BLOCK * width.max(1)));
    let parts: Vec<_> = head.parts(width).map(|(first, part)| (first, part, spaces.as_mut().and_then(Iterator::next))).collect();
    let shares = parallel::map(2 * x.len() * vocabulary, parts.into_iter(), |(first, part, space)| {
        let mut scores = part.scores(x, width);
        let tokens = scores.len().checked_div(rows).unwrap_or(0);
        for ((scores, target), logarithm) in scores.chunks_exact_mut(tokens.max(1)).zip(targets).zip(logarithms) {
            probabilities(scores, *logarithm, gradient);
            if let Some(score) = (*target as usize).checked_sub(first).and_then(|place| scores.get_mut(place)) {
                *score -= gradient;
            }
        }
        if let Some(space) = space {
            let (scores, x) = (MatrixView::new(&scores, rows, tokens), MatrixView::new(x, rows, width));
            gemm::multiply(space, width, false, scores.transposed(), x, 1.0);
        }
        part.back(&scores, width)
    });
    let mut dx = vec![0.0; x.len()];
    for share in shares {
        super::softmax::add_scaled(&mut dx, &share, 1.0);
    }
    (dx, dhead)
}

versions! {
    /// Maximum of a row, and the sum of exponentials relative to it.
    fn max_and_exp_sum(row: &[f32]) -> (f32, f32) {
        let (body, tail) = row.as_chunks::<LANES>();
        let mut greatest = [f32::NEG_INFINITY; LANES];
        for lanes in body {
            for (greatest, x) in greatest.iter_mut().zip(lanes) {
                *greatest = greatest.max(*x);
            }
        }
        let greatest = tail.iter().chain(&greatest).fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        let mut sums = [0.0; LANES];
        for lanes in body {
            for (sum, x) in sums.iter_mut().zip(lanes) {
                *sum += exp::<FUSED>(*x - greatest);
            }
        }
        let rest: f32 = tail.iter().map(|x| exp::<FUSED>(*x - greatest)).sum();
        (greatest, total(sums) + rest)
    }
}

versions! {
    /// Logits to probabilities times `scale`, in place.
    fn probabilities(row: &mut [f32], logarithm: f32, scale: f32) {
        for x in row {
            *x = exp::<FUSED>(*x - logarithm) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vocabulary_in_parts_is_one_vocabulary() {
        // More than two chunks, the last one short, with a target in each.
        let (width, vocabulary, targets) = (3, 2 * BLOCK + 5, [0, BLOCK as u32, 2 * BLOCK as u32 + 4]);
        let x: Vec<f32> = (0..9).map(|i| (i as f32 - 4.0) / 3.0).collect();
        let weight: Vec<f32> = (0..vocabulary * width).map(|i| ((i * 7919) % 1000) as f32 / 400.0 - 1.25).collect();
        let (loss, logarithms) = forward(&x, LmHead::F32(&weight), &targets, width);
        let (dx, dhead) = backward(&x, LmHead::F32(&weight), &targets, &logarithms, 0.5, width, true);
        let dhead = dhead.unwrap();

        let (mut expected, mut expected_dx, mut expected_dhead) = (0.0, [0.0; 9], vec![0.0; weight.len()]);
        for (row, target) in targets.iter().enumerate() {
            let score =
                |token: usize| -> f64 { (0..width).map(|i| f64::from(x[row * width + i]) * f64::from(weight[token * width + i])).sum() };
            let sum: f64 = (0..vocabulary).map(|token| score(token).exp()).sum();
            expected += sum.ln() - score(*target as usize);
            for token in 0..vocabulary {
                let pull = 0.5 * (score(token).exp() / sum - f64::from(u8::from(token == *target as usize)));
                for i in 0..width {
                    expected_dx[row * width + i] += pull * f64::from(weight[token * width + i]);
                    expected_dhead[token * width + i] += pull * f64::from(x[row * width + i]);
                }
            }
        }
        assert!((f64::from(loss) - expected).abs() < 1e-4, "{loss} instead of {expected}");
        let close = |found: &[f32], expected: &[f64]| found.iter().zip(expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6);
        assert!(close(&dx, &expected_dx), "{dx:?} instead of {expected_dx:?}");
        assert!(close(&dhead, &expected_dhead));
        assert!(backward(&x, LmHead::F32(&weight), &targets, &logarithms, 0.5, width, false) == (dx, None));
    }
}
