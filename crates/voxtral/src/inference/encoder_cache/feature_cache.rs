//! Feature cache: encoder outputs on disk, one file per clip, named by a hash of its samples.
//!
//! The folder is named by a hash of everything that affects the values: model, precision, CPU kernels and program version. Files may be
//! deleted at any time. A file whose checksum does not match is ignored.

use crate::error::{Error, Result, ResultExt};
use crate::kernels::{bf16_gemm, cpu};
use burn::tensor::TensorData;
use half::bf16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use voxpipe_io::write::{Durability, clear_drafts, write_atomic_with};

/// Format version. Increment it when the same model would produce other values for the same clip.
const VERSION: u32 = 1;

/// Name of the only tensor in a file.
const ROWS: &str = "rows";

/// On-disk cache of one model's audio embeddings.
#[derive(Clone, Debug)]
pub struct FeatureCache {
    folder: Option<PathBuf>,
    halved: bool,
    warning: Arc<Mutex<Option<String>>>,
}

impl FeatureCache {
    /// A cache in a subfolder of `cache`. `model` identifies the weights, their precision and the compute backend. With `halved`, values
    /// are rounded to bf16, for a model that computes in bf16.
    #[must_use]
    pub fn new(cache: &Path, model: &str, halved: bool) -> Self {
        // CPU types sum in different orders, and a newer program may have other kernels.
        let known = format!("{VERSION}\n{}\n{}\n{halved}\n{model}", env!("CARGO_PKG_VERSION"), cpu::kind());
        let folder = cache.join("audio").join(&blake3::hash(known.as_bytes()).to_hex()[..32]);
        clear_drafts(&folder);
        Self { folder: Some(folder), halved, warning: Arc::default() }
    }

    /// A cache that stores nothing; values are recomputed, and rounded in the same way.
    #[must_use]
    pub fn none(halved: bool) -> Self {
        Self { folder: None, halved, warning: Arc::default() }
    }

    /// The first write error, if any. Results are not affected: the clips are recomputed.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        self.warning.lock().ok().and_then(|warning| warning.clone())
    }

    /// Cache key of a clip: hash of its samples.
    pub(super) fn name(samples: &[f32]) -> String {
        blake3::hash(bytemuck::cast_slice(samples)).to_hex().to_string()
    }

    /// Reads the cached embeddings of a clip; `None` if there is no intact file.
    pub(super) fn recall(&self, clip: &str) -> Option<TensorData> {
        // Read, not mapped: deleting the file meanwhile must not crash the program.
        let bytes = fs::read(place(self.folder.as_ref()?, clip)).ok()?;
        let (_, header) = SafeTensors::read_metadata(&bytes).ok()?;
        let digest = header.metadata().as_ref()?.get("blake3")?.clone();
        let tensors = SafeTensors::deserialize(&bytes).ok()?;
        let rows = tensors.tensor(ROWS).ok()?;
        let wanted = if self.halved { Dtype::BF16 } else { Dtype::F32 };
        if rows.dtype() != wanted || rows.shape().len() != 2 || blake3::hash(rows.data()).to_hex().as_str() != digest {
            return None;
        }
        let numbers = if self.halved {
            bf16_gemm::to_f32(&bytemuck::pod_collect_to_vec::<u8, bf16>(rows.data()))
        } else {
            bytemuck::pod_collect_to_vec::<u8, f32>(rows.data())
        };
        Some(TensorData::new(numbers, rows.shape().to_vec()))
    }

    /// Stores embeddings and returns them as a later read would (rounded). A write failure is not an error, see [`Self::warning`].
    pub(super) fn keep(&self, clip: &str, mut numbers: Vec<f32>, shape: [usize; 2]) -> Result<Vec<f32>> {
        if let Some(place) = numbers.iter().position(|number| !number.is_finite()) {
            return Err(Error::new(format!("the audio encoder's output is not finite (row {})", place / shape[1].max(1)))
                .hint("the weights are damaged or do not fit the config"));
        }
        let kept = if self.halved {
            let narrow: Vec<bf16> = numbers.iter().map(|number| bf16::from_f32(*number)).collect();
            numbers = bf16_gemm::to_f32(&narrow);
            self.write(clip, Dtype::BF16, bytemuck::cast_slice(&narrow), shape)
        } else {
            self.write(clip, Dtype::F32, bytemuck::cast_slice(&numbers), shape)
        };
        if let (Err(error), Ok(mut warning)) = (kept, self.warning.lock()) {
            warning.get_or_insert(error.message);
        }
        Ok(numbers)
    }

    fn write(&self, clip: &str, dtype: Dtype, bytes: &[u8], shape: [usize; 2]) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let writing = || format!("cannot write to the feature cache `{}`", folder.display());
        let unfit = |error: safetensors::SafeTensorError| Error::new(error.to_string());
        let digest = HashMap::from([("blake3".to_owned(), blake3::hash(bytes).to_hex().to_string())]);
        let rows = TensorView::new(dtype, shape.to_vec(), bytes).map_err(unfit).with_context(writing)?;
        let file = safetensors::serialize([(ROWS, rows)], Some(digest)).map_err(unfit).with_context(writing)?;
        // Identical clips may be encoded at the same time: each write has a draft of its own.
        write_atomic_with(&place(folder, clip), Durability::ProcessEnd, |draft| draft.write_all(&file).with_context(writing))
    }
}

fn place(folder: &Path, clip: &str) -> PathBuf {
    folder.join(format!("{clip}.safetensors"))
}
