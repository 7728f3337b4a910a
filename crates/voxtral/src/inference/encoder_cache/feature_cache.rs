//! What was heard, on disk: a file for each clip, named after its samples, in a folder named after all that decides what is heard.
//!
//! Anybody may delete these files at any time. A file that is not what was written is not used.

use crate::error::{Error, Result, ResultExt};
use crate::kernels::{bf16_gemm, cpu};
use burn::tensor::TensorData;
use half::bf16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::{fs, process};

/// Raise it when the same model would hear the same clip in other numbers.
const VERSION: u32 = 1;

/// What the only tensor of a file is called.
const ROWS: &str = "rows";

/// What files are called until they are whole, with the process and a number behind it.
const DRAFT: &str = ".draft-";

/// What one model heard.
#[derive(Clone, Debug)]
pub struct FeatureCache {
    folder: Option<PathBuf>,
    halved: bool,
    trouble: Arc<Mutex<Option<String>>>,
}

impl FeatureCache {
    /// The memory of a model in a folder below `cache`. `model` names its weights, how exactly they are kept and what computes with
    /// them; with `halved` numbers are rounded to brain floats, as befits a model that computes in them.
    #[must_use]
    pub fn new(cache: &Path, model: &str, halved: bool) -> Self {
        // Kinds of processors add in different orders, and a newer program may have other kernels.
        let known = format!("{VERSION}\n{}\n{}\n{halved}\n{model}", env!("CARGO_PKG_VERSION"), cpu::kind());
        let folder = cache.join("audio").join(&blake3::hash(known.as_bytes()).to_hex()[..32]);
        clear_drafts(&folder);
        Self { folder: Some(folder), halved, trouble: Arc::default() }
    }

    /// One that remembers nothing, and has everything heard anew in the same numbers.
    #[must_use]
    pub fn none(halved: bool) -> Self {
        Self { folder: None, halved, trouble: Arc::default() }
    }

    /// What went wrong, if anything: then clips were heard anew, which only took longer.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().ok().and_then(|trouble| trouble.clone())
    }

    /// What a clip is called here.
    pub(super) fn name(samples: &[f32]) -> String {
        blake3::hash(bytemuck::cast_slice(samples)).to_hex().to_string()
    }

    /// What was heard of a clip, if it was and the file is whole.
    pub(super) fn recall(&self, clip: &str) -> Option<TensorData> {
        // Read, not mapped: who empties the folder meanwhile must not end the program.
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
            bf16_gemm::widened(&bytemuck::pod_collect_to_vec::<u8, bf16>(rows.data()))
        } else {
            bytemuck::pod_collect_to_vec::<u8, f32>(rows.data())
        };
        Some(TensorData::new(numbers, rows.shape().to_vec()))
    }

    /// Remembers what was heard of a clip and gives it back as it will be recalled. That it cannot be written is no error.
    pub(super) fn keep(&self, clip: &str, mut numbers: Vec<f32>, shape: [usize; 2]) -> Result<Vec<f32>> {
        if let Some(place) = numbers.iter().position(|number| !number.is_finite()) {
            return Err(Error::new(format!("the audio tower's output is not finite (row {})", place / shape[1].max(1)))
                .hint("the model's weights are damaged, or do not fit its config"));
        }
        let kept = if self.halved {
            let narrow: Vec<bf16> = numbers.iter().map(|number| bf16::from_f32(*number)).collect();
            numbers = bf16_gemm::widened(&narrow);
            self.write(clip, Dtype::BF16, bytemuck::cast_slice(&narrow), shape)
        } else {
            self.write(clip, Dtype::F32, bytemuck::cast_slice(&numbers), shape)
        };
        if let (Err(error), Ok(mut trouble)) = (kept, self.trouble.lock()) {
            trouble.get_or_insert(error.message);
        }
        Ok(numbers)
    }

    fn write(&self, clip: &str, dtype: Dtype, bytes: &[u8], shape: [usize; 2]) -> Result<()> {
        static DRAFTS: AtomicU64 = AtomicU64::new(0);
        let Some(folder) = &self.folder else { return Ok(()) };
        let writing = || format!("cannot remember a clip in `{}`", folder.display());
        let unfit = |error: safetensors::SafeTensorError| Error::new(error.to_string());
        let digest = HashMap::from([("blake3".to_owned(), blake3::hash(bytes).to_hex().to_string())]);
        let rows = TensorView::new(dtype, shape.to_vec(), bytes).map_err(unfit).with_context(writing)?;
        let file = safetensors::serialize([(ROWS, rows)], Some(digest)).map_err(unfit).with_context(writing)?;
        fs::create_dir_all(folder).with_context(writing)?;
        // Two clips of one content may be heard side by side: each has a draft of its own.
        let draft = folder.join(format!("{DRAFT}{}-{}", process::id(), DRAFTS.fetch_add(1, Ordering::Relaxed)));
        let written = fs::write(&draft, file).and_then(|()| fs::rename(&draft, place(folder, clip)));
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        written.with_context(writing)
    }
}

fn place(folder: &Path, clip: &str) -> PathBuf {
    folder.join(format!("{clip}.safetensors"))
}

/// Removes what other processes left unfinished.
fn clear_drafts(folder: &Path) {
    let own = format!("{DRAFT}{}-", process::id());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(DRAFT) && !name.starts_with(&own)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
