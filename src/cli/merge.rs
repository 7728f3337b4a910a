//! `voxpipe merge --model BASE --adapter DIR --out DIR`: an adapter becomes part of its base.

use super::print;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use clap::Args;
use std::fs;
use std::path::PathBuf;
use voxtral::lora;
use voxtral::lora::merge;

/// What to merge, and into which folder.
#[derive(Args)]
pub(super) struct Merge {
    /// The base model's folder
    #[arg(long)]
    model: PathBuf,
    /// The adapter's folder
    #[arg(long)]
    adapter: PathBuf,
    /// The folder to write the merged model into; it must not hold anything yet
    #[arg(long)]
    out: PathBuf,
    /// How the merged model is stored: as-base, f32 or bf16
    #[arg(long, default_value = "as-base")]
    dtype: merge::MergeDtype,
    /// The largest weights file; a larger model goes into several with an index
    #[arg(long, default_value = "5GB", value_name = "SIZE", value_parser = merge::size)]
    max_shard_size: u64,
}

impl Merge {
    pub(super) fn go(&self) -> Result<()> {
        let usage = |message: String, hint: &str| Err(Error::new(message).kind(ErrorKind::InvalidInput).hint(hint));
        if !lora::is_adapter(&self.adapter) {
            return usage(format!("`{}` is not an adapter's folder", self.adapter.display()), "give the folder with adapter_config.json");
        }
        if lora::is_adapter(&self.model) || !self.model.is_dir() {
            return usage(format!("`{}` is not a base model's folder", self.model.display()), "give the folder of a full model");
        }
        let shown = self.out.display();
        let existed = self.out.exists();
        if existed {
            let mut entries = fs::read_dir(&self.out).with_context(|| format!("cannot read folder `{shown}`"))?;
            if entries.next().is_some() {
                return usage(format!("`{shown}` is not empty"), "give a folder that is not there yet");
            }
        }
        // What appears under the name is whole.
        let mut draft = self.out.clone().into_os_string();
        draft.push(".part");
        let draft = PathBuf::from(draft);
        if draft.exists() {
            return usage(format!("`{}` is in the way, perhaps left by a merge that was cut off", draft.display()), "remove it");
        }
        fs::create_dir_all(&draft).with_context(|| format!("cannot create folder `{}`", draft.display()))?;
        let merged = merge::merge(&self.model, &self.adapter, &draft, self.dtype, self.max_shard_size);
        let placed = merged.and_then(|merged| {
            if existed {
                fs::remove_dir(&self.out).with_context(|| format!("cannot replace `{shown}`"))?;
            }
            fs::rename(&draft, &self.out).with_context(|| format!("cannot create `{shown}`"))?;
            Ok(merged)
        });
        match placed {
            Ok(merged) => print(&format!("{} layers merged; {} tensors in {shown}\n", merged.layers, merged.tensors)),
            Err(error) => {
                // The draft is ours and of no use; that it cannot be removed is not the error to report.
                let _ = fs::remove_dir_all(&draft);
                Err(error)
            }
        }
    }
}
