//! Which model hears, and how it is opened: a folder or a repository, with or without adapters.

use crate::cli::download_progress::Fetch;
use crate::error::{Error, ErrorKind, Result};
use crate::hub;
use crate::hub::Network;
use clap::Args;
use std::path::{Path, PathBuf};
use voxtral::inference::asr_model::AnyTranscriber;
use voxtral::inference::transcriber::WeightsFrom;
use voxtral::model::precision::Precision;
use voxtral::{device, lora};

/// The model.
#[derive(Args)]
pub(in crate::cli) struct ModelArgs {
    /// A model, or an adapter that names its base: a folder, or a repository of the Hub like ORG/NAME or ORG/NAME@REVISION
    #[arg(long, value_name = "DIR|REPO")]
    model: String,
    /// The branch, tag or commit of the model's repository
    #[arg(long)]
    revision: Option<String>,
    /// An adapter to put on the model: a folder or a repository
    #[arg(long, value_name = "DIR|REPO")]
    adapter: Option<String>,
    /// The base model, where `--model` is an adapter that names another place: a folder or a repository
    #[arg(long, value_name = "DIR|REPO")]
    base: Option<String>,
    /// Use only what is here; nothing is downloaded
    #[arg(long)]
    offline: bool,
    /// auto, cpu, or a card: cuda:N, rocm:N, wgpu:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// How the model's matrices are kept in memory: auto (as the checkpoint stores them), f32, bf16, q8 or q4 (8 or 4 bits)
    #[arg(long, default_value_t)]
    precision: Precision,
}

impl ModelArgs {
    /// A model by its name, on another base if that is named.
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

    /// What it is called where it is shown.
    pub(in crate::cli) fn name(&self) -> String {
        let named = self.adapter.as_ref().unwrap_or(&self.model);
        if Path::new(named).is_dir() {
            return Path::new(named).file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned());
        }
        named.clone()
    }

    /// Whether everything is where it should be; what is missing is downloaded.
    pub(in crate::cli) fn check(&self) -> Result<()> {
        device::choose(&self.device)?;
        let model = self.folder(&self.model, self.revision.as_deref())?;
        if lora::is_adapter(&model) {
            self.base_of(&model)?;
        } else if !model.join("config.json").exists() && !model.join("params.json").exists() {
            return Err(Error::new(format!("`{}` is no model: it has no config.json", self.model)).kind(ErrorKind::InvalidInput));
        }
        self.adapter().map(drop)
    }

    /// Opens the model with everything that belongs on it.
    pub(in crate::cli) fn open(&self) -> Result<AnyTranscriber> {
        let chosen = device::choose(&self.device)?;
        let model = self.folder(&self.model, self.revision.as_deref())?;
        let (base, adapter) = if lora::is_adapter(&model) { (self.base_of(&model)?, Some(model)) } else { (self.full(model)?, None) };
        let mut recognizer = AnyTranscriber::open(&base, WeightsFrom::Checkpoint, self.precision, &chosen.device)?;
        if let Some(note) = &recognizer.loaded().note {
            crate::cli::note(note);
        }
        for adapter in adapter.into_iter().chain(self.adapter()?) {
            recognizer.adapt(&adapter)?;
        }
        Ok(recognizer)
    }

    /// The folder of a model that is no adapter.
    fn full(&self, model: PathBuf) -> Result<PathBuf> {
        match &self.base {
            None => Ok(model),
            Some(base) => Err(Error::new(format!("`--base {base}` is of no use: `{}` is a full model, not an adapter", self.model))
                .kind(ErrorKind::InvalidInput)
                .hint("leave `--base` out, or give an adapter as `--model`")),
        }
    }

    /// The folder of an adapter's base model: the one that was asked for, or the one that it names.
    fn base_of(&self, adapter: &Path) -> Result<PathBuf> {
        let usage = |message: String, hint: &str| Error::new(message).kind(ErrorKind::InvalidInput).hint(hint);
        if self.adapter.is_some() {
            return Err(usage(format!("`--model {}` is itself an adapter", self.model), "give the base model as `--model`"));
        }
        let named = lora::base_of(adapter)?;
        let base = match (&self.base, &named) {
            (Some(base), _) | (None, Some(base)) => base,
            (None, None) => {
                return Err(usage(format!("`{}` is an adapter that names no base model", self.model), "give one with `--base`"));
            }
        };
        // Beside the adapter first: folders that were copied together belong together.
        let beside = adapter.join(base);
        if self.base.is_none() && beside.is_dir() {
            return Ok(beside);
        }
        let found = self.folder(base, None).map_err(|error| match &self.base {
            None => error
                .context(format_args!("the base model that the adapter `{}` names", self.model))
                .hint("give the base model with `--base`"),
            Some(_) => error,
        })?;
        if lora::is_adapter(&found) {
            return Err(usage(format!("`{base}` is an adapter, not a base model"), "give a full model with `--base`"));
        }
        Ok(found)
    }

    fn adapter(&self) -> Result<Option<PathBuf>> {
        let Some(name) = &self.adapter else { return Ok(None) };
        let folder = self.folder(name, None)?;
        if lora::is_adapter(&folder) {
            return Ok(Some(folder));
        }
        Err(Error::new(format!("`--adapter {name}` is no adapter: it has no adapter_config.json"))
            .kind(ErrorKind::InvalidInput)
            .hint("give a full model as `--model`"))
    }

    fn folder(&self, name: &str, revision: Option<&str>) -> Result<PathBuf> {
        let mut fetch = Fetch::default();
        hub::model_folder(Path::new(""), name, revision, Network::unless(self.offline), &mut |fetching| fetch.say(fetching))
    }
}
