//! `voxpipe merge --model BASE --adapter DIR --out DIR`: merges a LoRA adapter into its base model.

use super::download_progress::Fetch;
use super::transcribe::OTHER_BASE;
use super::{note, print};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::hub::{self, Network};
use crate::stages::base_model::check_base;
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};
use voxtral::lora;
use voxtral::lora::merge;

/// Options of `voxpipe merge`.
#[derive(Args)]
pub(super) struct Merge {
    /// Base model: a folder or a Hub repository such as ORG/NAME or ORG/NAME@REVISION
    #[arg(long, value_name = "DIR|REPO")]
    model: String,
    /// Branch, tag or commit of the base model's repository
    #[arg(long)]
    revision: Option<String>,
    /// Adapter: a folder or a Hub repository
    #[arg(long, value_name = "DIR|REPO")]
    adapter: String,
    /// Output folder; must be empty or not exist
    #[arg(long)]
    out: PathBuf,
    /// Data type of the merged weights: as-base, f32 or bf16
    #[arg(long, default_value = "as-base")]
    dtype: merge::MergeDtype,
    /// Maximum size of a weights file; a larger model is split into shards with an index
    #[arg(long, default_value = "5GB", value_name = "SIZE", value_parser = merge::size)]
    max_shard_size: u64,
    /// Merge into another base model than the adapter was trained on
    #[arg(long)]
    force: bool,
    /// Do not use the network; use only local files and the download cache
    #[arg(long)]
    offline: bool,
}

impl Merge {
    pub(super) fn go(&self) -> Result<()> {
        let usage = |message: String, hint: &str| Err(Error::new(message).kind(ErrorKind::InvalidInput).hint(hint));
        let shown = self.out.display();
        let existed = self.out.exists();
        if existed {
            let mut entries = fs::read_dir(&self.out).with_context(|| format!("cannot read folder `{shown}`"))?;
            if entries.next().is_some() {
                return usage(format!("`{shown}` is not empty"), "choose a new folder");
            }
        }
        // The model is written to a draft folder and renamed, so that the output is always complete.
        let mut draft = self.out.clone().into_os_string();
        draft.push(".part");
        let draft = PathBuf::from(draft);
        if draft.exists() {
            return usage(format!("`{}` already exists, perhaps from an interrupted merge", draft.display()), "remove it");
        }
        let adapter = self.folder(&self.adapter, None)?;
        if !lora::is_adapter(&adapter) {
            return usage(format!("`{}` is not an adapter folder", self.adapter), "pass a folder with adapter_config.json");
        }
        let model = self.folder(&self.model, self.revision.as_deref())?;
        if lora::is_adapter(&model) {
            return usage(format!("`{}` is not a base model folder", self.model), "pass the folder of a full model");
        }
        if let Some(what) = check_base(&adapter, &model, self.force, OTHER_BASE)? {
            note(&what);
        }
        fs::create_dir_all(&draft).with_context(|| format!("cannot create folder `{}`", draft.display()))?;
        let merged = merge::merge(&model, &adapter, &draft, self.dtype, self.max_shard_size);
        let placed = merged.and_then(|merged| {
            if existed {
                fs::remove_dir(&self.out).with_context(|| format!("cannot replace `{shown}`"))?;
            }
            fs::rename(&draft, &self.out).with_context(|| format!("cannot create `{shown}`"))?;
            Ok(merged)
        });
        match placed {
            Ok(merged) => print(&format!("merged {} layers; wrote {} tensors to {shown}\n", merged.layers, merged.tensors)),
            Err(error) => {
                // The merge error is the one to report, not a failure to remove the draft.
                let _ = fs::remove_dir_all(&draft);
                Err(error)
            }
        }
    }

    /// The folder of a model or an adapter, downloaded if it is a repository.
    fn folder(&self, name: &str, revision: Option<&str>) -> Result<PathBuf> {
        let mut fetch = Fetch::default();
        hub::model_folder(Path::new(""), name, revision, Network::unless(self.offline), &mut |progress| fetch.say(progress))
    }
}
