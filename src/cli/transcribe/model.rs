//! Model arguments: a folder or a Hub repository, with or without LoRA adapters.

use crate::cli::download_progress::Fetch;
use crate::error::{Error, ErrorKind, Result};
use crate::hub;
use crate::hub::Network;
use crate::stages::base_model::check_base;
use clap::Args;
use std::path::{Path, PathBuf};
use voxtral::any_transcriber::AnyTranscriber;
use voxtral::inference::transcriber::WeightsFrom;
use voxtral::lora::RecordedBase;
use voxtral::weights::precision::Precision;
use voxtral::{device, lora};

/// What to do about an adapter of another base.
pub(in crate::cli) const OTHER_BASE: &str = "name the base it was trained on, or, if this is meant, add `--force`";

/// Options that select a model.
#[derive(Args)]
pub(in crate::cli) struct ModelArgs {
    /// Model, or adapter that names its base: a folder or a Hub repository such as ORG/NAME or ORG/NAME@REVISION
    #[arg(long, value_name = "DIR|REPO")]
    model: String,
    /// Branch, tag or commit of the model's repository
    #[arg(long)]
    revision: Option<String>,
    /// LoRA adapter to add to the model: a folder or a repository
    #[arg(long, value_name = "DIR|REPO")]
    adapter: Option<String>,
    /// Base model, if `--model` is an adapter and its own base is not to be used: a folder or a repository
    #[arg(long, value_name = "DIR|REPO")]
    base: Option<String>,
    /// Do not use the network; use only local files and the download cache
    #[arg(long)]
    offline: bool,
    /// Device: auto, cpu, cuda:N, rocm:N or wgpu:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Precision of the weights in memory: auto (as in the checkpoint), f32, bf16, q8 or q4 (8 or 4 bits)
    #[arg(long, default_value_t)]
    precision: Precision,
}

impl ModelArgs {
    /// Arguments for a model, optionally with another base.
    pub(in crate::cli) fn of(model: &str, base: Option<&str>) -> Self {
        Self {
            model: model.to_owned(),
            revision: None,
            adapter: None,
            base: base.map(str::to_owned),
            offline: false,
            device: "auto".to_owned(),
            precision: Precision::default(),
        }
    }

    /// The same arguments with a revision of the model's repository.
    pub(in crate::cli) fn at(self, revision: Option<String>) -> Self {
        Self { revision, ..self }
    }

    /// Display name.
    pub(in crate::cli) fn name(&self) -> String {
        let named = self.adapter.as_ref().unwrap_or(&self.model);
        if Path::new(named).is_dir() {
            return Path::new(named).file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned());
        }
        named.clone()
    }

    /// Checks that all model files exist, downloading missing ones.
    pub(in crate::cli) fn check(&self) -> Result<()> {
        device::choose(&self.device)?;
        let model = self.folder(&self.model, self.revision.as_deref())?;
        if lora::is_adapter(&model) {
            self.base_of(&model)?;
        } else if !model.join("config.json").exists() && !model.join("params.json").exists() {
            return Err(Error::new(format!("`{}` is not a model: it has no config.json", self.model)).kind(ErrorKind::InvalidInput));
        }
        self.adapter().map(drop)
    }

    /// Opens the model with its adapters. An adapter that was trained on another base is refused unless `force` is set.
    pub(in crate::cli) fn open(&self, force: bool) -> Result<AnyTranscriber> {
        let chosen = device::choose(&self.device)?;
        let model = self.folder(&self.model, self.revision.as_deref())?;
        let (base, adapter) = if lora::is_adapter(&model) { (self.base_of(&model)?, Some(model)) } else { (self.full(model)?, None) };
        let adapters: Vec<PathBuf> = adapter.into_iter().chain(self.adapter()?).collect();
        if !voxtral::realtime::config::is_realtime(&base) {
            for adapter in &adapters {
                if let Some(note) = check_base(adapter, &base, force, OTHER_BASE)? {
                    crate::cli::note(&note);
                }
            }
        }
        let mut recognizer = AnyTranscriber::open_with(&base, WeightsFrom::Checkpoint, self.precision, &chosen.device)?;
        if let Some(note) = &recognizer.loaded().note {
            crate::cli::note(note);
        }
        for adapter in adapters {
            recognizer.adapt(&adapter)?;
        }
        Ok(recognizer)
    }

    /// The folder of a full model; `--base` is an error.
    fn full(&self, model: PathBuf) -> Result<PathBuf> {
        match &self.base {
            None => Ok(model),
            Some(base) => Err(Error::new(format!("`--base {base}` has no effect: `{}` is a full model, not an adapter", self.model))
                .kind(ErrorKind::InvalidInput)
                .hint("omit `--base`, or pass an adapter as `--model`")),
        }
    }

    /// The folder of an adapter's base model: that of `--base`, else the one that the adapter names.
    fn base_of(&self, adapter: &Path) -> Result<PathBuf> {
        let usage = |message: String, hint: &str| Error::new(message).kind(ErrorKind::InvalidInput).hint(hint);
        if self.adapter.is_some() {
            return Err(usage(format!("`--model {}` is itself an adapter", self.model), "pass the base model as `--model`"));
        }
        let named = lora::base_of(adapter)?;
        let base = match (&self.base, &named) {
            (Some(base), _) | (None, Some(base)) => base,
            (None, None) => {
                return Err(usage(format!("adapter `{}` does not name its base model", self.model), "pass one with `--base`"));
            }
        };
        // A path relative to the adapter comes first: folders that were copied together belong together.
        let relative = adapter.join(base);
        if self.base.is_none() && relative.is_dir() {
            return Ok(relative);
        }
        // The commit that it was trained on, where the adapter records it.
        let revision = if self.base.is_none() { RecordedBase::read(adapter)?.revision } else { None };
        let revision = revision.filter(|_| !Path::new(base).is_dir() && !base.contains('@'));
        let found = self.folder(base, revision.as_deref()).map_err(|error| match &self.base {
            None => {
                error.context(format_args!("base model named by the adapter `{}`", self.model)).hint("pass the base model with `--base`")
            }
            Some(_) => error,
        })?;
        if lora::is_adapter(&found) {
            return Err(usage(format!("`{base}` is an adapter, not a base model"), "pass a full model with `--base`"));
        }
        Ok(found)
    }

    fn adapter(&self) -> Result<Option<PathBuf>> {
        let Some(name) = &self.adapter else { return Ok(None) };
        let folder = self.folder(name, None)?;
        if lora::is_adapter(&folder) {
            return Ok(Some(folder));
        }
        Err(Error::new(format!("`--adapter {name}` is not an adapter: it has no adapter_config.json"))
            .kind(ErrorKind::InvalidInput)
            .hint("pass an adapter folder; a full model is `--model`"))
    }

    fn folder(&self, name: &str, revision: Option<&str>) -> Result<PathBuf> {
        let mut fetch = Fetch::default();
        hub::model_folder(Path::new(""), name, revision, Network::unless(self.offline), &mut |progress| fetch.say(progress))
    }
}
