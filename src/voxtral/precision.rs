//! How exactly frozen matrices are kept in memory: a choice between size and the last bits.

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
}

impl Precision {
    /// As settings and results write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// The type a matrix stored as `stored` is kept in.
    pub(super) fn keeps(self, stored: DType) -> DType {
        match (self, stored) {
            (Self::Bf16, _) | (Self::Auto, DType::BF16) => DType::BF16,
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
        [Self::Auto, Self::F32, Self::Bf16]
            .into_iter()
            .find(|precision| precision.name() == text)
            .ok_or_else(|| format!("no precision is called `{text}`: write `auto`, `f32` or `bf16`"))
    }
}
