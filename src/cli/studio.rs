//! `voxpipe studio`, `record` and `demo`: the web interfaces.

use super::signals::listen;
use super::transcribe::ModelArgs;
use super::{note, print};
use crate::error::{Error, ErrorKind, Result};
use crate::stages::base_model::check_base;
use crate::studio;
use crate::studio::ServerOptions;
use crate::studio::inference::{InferenceService, TranscribeFn, Transcription};
use axum::Router;
use clap::Args;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use voxtral::inference::transcribe::TokenLimit;
use voxtral::inference::transcriber::{TranscribeEvent, Utterance};
use voxtral::lora;
use voxtral::lora::RecordedBase;

/// Address of the server.
#[derive(Args, Clone, Copy)]
struct ListenArgs {
    /// IP address to listen on; any but loopback requires the token in the printed URL
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Port; 0 picks a free one
    #[arg(long, default_value_t = 7860)]
    port: u16,
}

/// Options of `voxpipe studio`.
#[derive(Args)]
pub(super) struct Studio {
    /// Pipeline file; if it does not exist, the first page creates it
    #[arg(default_value = "pipeline.toml")]
    file: PathBuf,
    #[command(flatten)]
    listen: ListenArgs,
}

/// Options of `voxpipe record`.
#[derive(Args)]
pub(super) struct RecordArgs {
    /// Pipeline file
    #[arg(default_value = "pipeline.toml")]
    file: PathBuf,
    #[command(flatten)]
    listen: ListenArgs,
}

/// Options of `voxpipe demo`.
#[derive(Args)]
pub(super) struct Demo {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    listen: ListenArgs,
    /// Allow access without a token, also from other machines
    #[arg(long)]
    public: bool,
    /// Accept an adapter that was trained on another base model
    #[arg(long)]
    force: bool,
}

impl ListenArgs {
    /// Serves until a signal asks to stop.
    fn serve(self, router: Router, what: &str, public: bool) -> Result<()> {
        let listening = ServerOptions { host: self.host, port: self.port, public };
        if public {
            let who = if self.host.is_loopback() { "every program and user of this machine" } else { "everyone who reaches this machine" };
            note(&format!("`--public`: {who} can use the model without a token, and can see nothing else"));
        } else if !self.host.is_loopback() {
            note("the server is reachable from other machines: anyone with the token in the URL has full access");
        }
        studio::serve(router, listening, &listen()?.asked, |address| print(&format!("{what}: {address}\n")))
    }
}

/// The pipeline file of a folder; a file is returned unchanged.
fn file(named: &Path) -> PathBuf {
    if named.is_dir() { named.join("pipeline.toml") } else { named.to_owned() }
}

impl Studio {
    pub(super) fn go(&self) -> Result<()> {
        let project = Arc::new(studio::StudioProject::new(&file(&self.file), models_of(&file(&self.file)))?);
        self.listen.serve(studio::studio(&project), "studio", false)
    }
}

impl RecordArgs {
    pub(super) fn go(&self) -> Result<()> {
        let file = file(&self.file);
        if !file.is_file() {
            return Err(Error::new(format!("pipeline file `{}` does not exist", file.display()))
                .kind(ErrorKind::InvalidInput)
                .hint("create one with `voxpipe init` or `voxpipe studio`"));
        }
        let project = Arc::new(studio::StudioProject::new(&file, models_of(&file))?);
        // The prompts are created by a first run, which then parks until they are recorded.
        project.prepare()?;
        self.listen.serve(studio::recorder(&project), "recorder", false)
    }
}

impl Demo {
    pub(super) fn go(self) -> Result<()> {
        let name = self.model.name();
        let (choice, force) = (Arc::new(self.model), self.force);
        // Report a missing model now rather than to the first visitor.
        choice.check()?;
        let speech = InferenceService::new(move || vec![name.clone()], Arc::new(move |_| Ok(transcribe_fn(choice.open(force)?))));
        self.listen.serve(studio::demo(Arc::new(speech)), "demo", self.public)
    }
}

/// A function that transcribes 16 kHz mono samples with the model.
fn transcribe_fn(transcriber: voxtral::any_transcriber::AnyTranscriber) -> TranscribeFn {
    Box::new(move |samples, language| {
        let mut transcription = Transcription { text: String::new(), finished: true };
        transcriber.transcribe_each(&[Utterance { samples, language }], TokenLimit::Auto, &mut |event| {
            if let TranscribeEvent::Transcript(_, transcript) = event {
                transcription = Transcription { text: transcript.text.trim().to_owned(), finished: transcript.finished };
            }
            Ok(())
        })?;
        Ok(transcription)
    })
}

/// The fine-tuned model of a project and its base model, once a model is trained.
fn models_of(file: &Path) -> Arc<InferenceService> {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let names = {
        let file = file.clone();
        move || if trained(&file).is_some() { vec!["tuned".to_owned(), "base".to_owned()] } else { Vec::new() }
    };
    let open = move |name: &str| {
        let model = trained(&file).ok_or_else(|| Error::new("no model is trained yet"))?;
        let root = file.parent().unwrap_or(Path::new(""));
        let adapter = lora::is_adapter(&model);
        let base = if adapter { lora::base_of(&model)? } else { base_of(&model) };
        let base = base.map(|base| if root.join(&base).is_dir() { root.join(&base).display().to_string() } else { base });
        let named = match (name, &base) {
            ("base", Some(base)) => {
                let recorded = RecordedBase::read(&model)?;
                if Path::new(base).is_dir() {
                    check_base(&model, Path::new(base), false, "put the base model that it was trained on back there")?;
                    ModelArgs::of(base, None)
                } else {
                    ModelArgs::of(base, None).at(recorded.revision.filter(|_| !base.contains('@')))
                }
            }
            ("base", None) => return Err(Error::new("the training.json of the model does not name its base model")),
            _ if adapter => ModelArgs::of(&model.display().to_string(), base.as_deref()),
            _ => ModelArgs::of(&model.display().to_string(), None),
        };
        Ok(transcribe_fn(named.open(false)?))
    };
    Arc::new(InferenceService::new(names, Arc::new(open)))
}

/// Folder of the newest trained model.
fn trained(file: &Path) -> Option<PathBuf> {
    studio::newest(file, &["merge", "train"])
}

/// Base model of a full fine-tuned model, from its training.json.
fn base_of(model: &Path) -> Option<String> {
    let training: serde_json::Value = serde_json::from_str(&fs::read_to_string(model.join("training.json")).ok()?).ok()?;
    Some(training["base"]["name"].as_str()?.to_owned())
}
