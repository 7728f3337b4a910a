//! Precision of frozen weight matrices in memory: f32, bf16 or quantized.

use crate::kernels::quantized::{BLOCK, QuantType};
use burn::tensor::DType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Precision of linear-layer weights and the token embedding in memory. Norms, biases, convolutions, positions, adapters, activations and
/// accumulators are always f32. CPUs with bf16 instructions (AVX-512 BF16) also round the activations that are multiplied with a bf16
/// weight, as transformers does in bfloat16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// As stored in the checkpoint: F32 and BF16 are kept, F16 becomes F32.
    #[default]
    Auto,
    /// 32-bit floats: 4 bytes per weight.
    F32,
    /// bfloat16: 2 bytes per weight, 8 bits of precision.
    Bf16,
    /// 8-bit quantization of linear layers except the output head, with one scale per 32 weights; the other matrices are bf16. CPU only.
    Q8,
    /// 4-bit quantization with one scale and one minimum per 32 weights; otherwise like `q8`.
    Q4,
}

impl Precision {
    /// The name in settings and result files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }

    /// Quantization type of linear-layer weights; `None` if not quantized.
    pub fn bits(self) -> Option<QuantType> {
        match self {
            Self::Q8 => Some(QuantType::Q8_0),
            Self::Q4 => Some(QuantType::Q4_1),
            Self::Auto | Self::F32 | Self::Bf16 => None,
        }
    }

    /// Bytes per weight of a matrix; `auto` counts as f32.
    pub fn bytes(self) -> f64 {
        match self {
            Self::Auto | Self::F32 => 4.0,
            Self::Bf16 => 2.0,
            Self::Q8 => QuantType::Q8_0.block() as f64 / BLOCK as f64,
            Self::Q4 => QuantType::Q4_1.block() as f64 / BLOCK as f64,
        }
    }

    /// The type in which a matrix stored as `stored` is kept in memory; for quantized precisions, that of the unquantized matrices.
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
            .ok_or_else(|| format!("unknown precision `{text}`: use `auto`, `f32`, `bf16`, `q8` or `q4`"))
    }
}
