//! The LoRA, rsLoRA or DoRA adapter of one linear layer, with PEFT's arithmetic. [`crate::lora`] places, loads and saves adapters.
//!
//! ```text
//! LoRA   y = x Wᵀ + s (x Aᵀ) Bᵀ              s = alpha / r; rsLoRA: alpha / √r
//! DoRA   y = m / n · (x Wᵀ + s (x Aᵀ) Bᵀ)    n = ‖W + s B A‖ of each row
//! ```

use super::dropout::SeededDropout;
use crate::kernels::ops::{self, MatmulPrecision};
use burn::module::{Module, Param};
use burn::tensor::{FloatDType, Tensor};

/// LoRA (or DoRA) adapter of one linear layer.
#[derive(Module, Debug)]
pub struct LoraLayer {
    /// A, `[r, in]`.
    pub a: Param<Tensor<2>>,
    /// B, `[out, r]`; initialized to zero, so that training starts from the base model.
    pub b: Param<Tensor<2>>,
    /// DoRA magnitudes; `None` for plain LoRA.
    pub dora: Option<DoraLayer>,
    pub(crate) scale: f64,
    pub(crate) dropout: f64,
    #[module(skip)]
    pub(crate) masks: SeededDropout,
}

/// DoRA: learned magnitude and current norm of each weight row.
#[derive(Module, Debug)]
pub struct DoraLayer {
    /// m, `[out]`: learned norm of each row of the adapted weight; initialized to the norm of the base weight's row.
    pub magnitude: Param<Tensor<1>>,
    /// n, `[out]`: norm of each row of W + s B A when last computed.
    pub(crate) norm: Tensor<1>,
}

impl LoraLayer {
    /// Output of the adapted layer. `base(x, bias)` multiplies by the frozen weight and adds the bias, if any.
    ///
    /// # Shapes
    /// `[…, in]` → `[…, out]`
    pub(super) fn forward<const D: usize>(
        &self,
        x: Tensor<D>,
        bias: Option<Tensor<1>>,
        base: impl Fn(Tensor<D>, Option<Tensor<1>>) -> Tensor<D>,
    ) -> Tensor<D> {
        let dropped = self.dropped(&x);
        match (&self.dora, dropped) {
            (None, dropped) => base(x.clone(), bias) + self.update(dropped.unwrap_or(x)),
            (Some(dora), None) => {
                let y = (base(x.clone(), None) + self.update(x)) * dora.factor();
                match bias {
                    Some(bias) => y + bias.unsqueeze(),
                    None => y,
                }
            }
            // As in PEFT, DoRA's change of the base output also uses the inputs after dropout.
            (Some(dora), Some(dropped)) => {
                let factor = dora.factor();
                base(x, bias) + base(dropped.clone(), None) * (factor.clone() - 1.0) + self.update(dropped) * factor
            }
        }
    }

    /// The weight with the adapter merged in, as `f32`.
    ///
    /// # Shapes
    /// `[out, in]` → the same
    pub fn merged(&self, weight: Tensor<2>) -> Tensor<2> {
        let sum = self.sum(weight);
        match &self.dora {
            None => sum,
            Some(dora) => {
                let factor = dora.magnitude.val().inner() / row_norms(sum.clone());
                sum * factor.unsqueeze_dim(1)
            }
        }
    }

    /// s (x Aᵀ) Bᵀ.
    fn update<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::linear(ops::linear(x, self.a.val(), None, MatmulPrecision::F32), self.b.val(), None, MatmulPrecision::F32) * self.scale
    }

    /// W + s B A as `f32`, without gradient.
    pub(crate) fn sum(&self, weight: Tensor<2>) -> Tensor<2> {
        weight.inner().cast(FloatDType::F32) + (self.b.val().inner() * self.scale).matmul(self.a.val().inner())
    }

    /// The inputs after dropout; `None` when not training or without dropout.
    fn dropped<const D: usize>(&self, x: &Tensor<D>) -> Option<Tensor<D>> {
        let training = self.dropout > 0.0 && self.a.val().is_require_grad();
        training.then(|| x.clone() * self.masks.mask(self.dropout, x.dims(), &x.device().without_autodiff()))
    }
}

impl DoraLayer {
    /// m / n, broadcastable to the outputs.
    fn factor<const D: usize>(&self) -> Tensor<D> {
        (self.magnitude.val() / self.norm.clone()).unsqueeze()
    }
}

/// L2 norm of each row.
pub(crate) fn row_norms(weight: Tensor<2>) -> Tensor<1> {
    weight.square().sum_dim(1).sqrt().squeeze_dim(1)
}
