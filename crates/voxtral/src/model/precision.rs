//! How exactly frozen matrices are kept in memory: a choice between size and the last bits.

use crate::kernels::quantized::{BLOCK, QuantType};
use burn::tensor::DType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How the matrices of linear layers and the table of embeddings are kept in memory. Everything else (norms, biases, convolutions,
/// positions, adapters, activations) is kept in 32-bit floats. Sums are too, but processors that multiply brain floats (AVX-512 BF16)
/// round what meets a brain-float matrix to the same width, as transformers does in bfloat16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// As the checkpoint stores them: F32 stays, BF16 stays, F16 becomes F32.
    #[default]
    Auto,
    /// 32-bit floats: 4 bytes a value.
    F32,
    /// Brain floats: 2 bytes a value, 8 bits of mantissa.
    Bf16,
    /// 8 bits a value and a scale for every 32, for the matrices of linear layers but the head; the rest in brain floats. For the
    /// processor.
    Q8,
    /// 4 bits a value, and a scale and a least value for every 32; the rest as with `q8`.
    Q4,
}

impl Precision {
    /// As settings and results write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }

    /// How many bits the weights of linear layers have, if they are quantised.
    pub fn bits(self) -> Option<QuantType> {
        match self {
            Self::Q8 => Some(QuantType::Eight),
            Self::Q4 => Some(QuantType::Four),
            Self::Auto | Self::F32 | Self::Bf16 => None,
        }
    }

    /// Bytes that a number of a matrix takes.
    pub fn bytes(self) -> f64 {
        match self {
            Self::Auto | Self::F32 => 4.0,
            Self::Bf16 => 2.0,
            Self::Q8 => QuantType::Eight.block() as f64 / BLOCK as f64,
            Self::Q4 => QuantType::Four.block() as f64 / BLOCK as f64,
        }
    }

    /// The type a matrix stored as `stored` is kept in.
    pub(crate) fn keeps(self, stored: DType) -> DType {
        match (self, stored) {
            (Self::Bf16 | Self::Q8 | Self::Q4, _) | (Self::Auto, DType::BF16) => DType::BF16,
            _ => DType::F32,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Auto, Self::F32, Self::Bf16, Self::Q8, Self::Q4]
            .into_iter()
            .find(|precision| precision.name() == text)
            .ok_or_else(|| format!("no precision is called `{text}`: write `auto`, `f32`, `bf16`, `q8` or `q4`"))
    }
}
