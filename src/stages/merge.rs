//! `merge`: merges a LoRA adapter into its base model. The result is a full model.

use crate::error::{Error, Result};
use crate::hub;
use crate::stages::context::SpeechContext;
use pipeline::artifact::ArtifactKind;
use pipeline::stage::{Arity, Context, Port, ResolveRevision, SettingError, Stage, StageOutcome, StageResult};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use voxtral::lora;
use voxtral::lora::merge;
use voxtral::model::model_dir;

/// Merge a LoRA adapter into its base model.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Merge {
    /// Folder or Hub id of the base model. Default: the base model that the adapter's `train` stage used.
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<String>,
    /// Data type of the merged weights: `as-base` (the default: the type of each tensor in the base model), `f32` or `bf16`.
    dtype: merge::MergeDtype,
    /// Maximum size of a weights file, such as `5GB`, `500MB` or a number of bytes; a larger model is split into several files (shards)
    /// with an index.
    max_shard_size: String,
}

impl Default for Merge {
    fn default() -> Self {
        Self { base: None, dtype: merge::MergeDtype::AsBase, max_shard_size: "5GB".to_owned() }
    }
}

impl Stage for Merge {
    const KIND: &'static str = "merge";
    const ABOUT: &'static str = "merges a LoRA adapter into its base model, giving a full model";
    const VERSION: u32 = 2;
    const INPUTS: &'static [Port] = &[
        Port { name: "model", kinds: &[ArtifactKind::Model], arity: Arity::One, about: "the adapter" },
        Port { name: "base", kinds: &[ArtifactKind::Model], arity: Arity::Optional, about: "the base model, if another stage made it" },
    ];

    fn output(&self) -> ArtifactKind {
        ArtifactKind::Model
    }

    fn check(&self) -> Vec<SettingError> {
        let size = merge::size(&self.max_shard_size);
        size.err().map(|message| SettingError::new("max_shard_size", message)).into_iter().collect()
    }

    fn sources(&self) -> Vec<PathBuf> {
        self.base.iter().map(PathBuf::from).collect()
    }

    fn pin(&mut self, pin: &mut ResolveRevision<'_>) {
        if let Some(base) = &mut self.base {
            hub::pin(base, None, pin);
        }
    }

    fn reads(&self, file: &str) -> bool {
        model_dir::counts(file)
    }

    fn uses_all_cores(&self) -> bool {
        true
    }

    fn run(&self, cx: &Context) -> Result<StageOutcome> {
        let adapter = cx.input("model")?;
        if !lora::is_adapter(&adapter.path) {
            return Err(Error::new(format!("the result of stage `{}` is a full model, not an adapter: nothing to merge", adapter.stage))
                .hint("remove this stage and use that result directly"));
        }
        let base = cx.base_of(adapter, self.base.as_deref())?;
        let most = merge::size(&self.max_shard_size).map_err(Error::new)?;
        let merged = merge::merge(&base.path, &adapter.path, &cx.out, self.dtype, most)?;
        Ok(StageOutcome::Done(StageResult::new(format!("{} layers merged into a model of {} tensors", merged.layers, merged.tensors))))
    }
}
