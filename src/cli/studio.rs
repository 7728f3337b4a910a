//! `voxpipe studio`, `record` and `demo`: what the command line does, as pages.

use super::run::listen;
use super::transcribe::ModelArgs;
use super::{note, print};
use crate::error::{Error, ErrorKind, Result};
use crate::studio;
use crate::studio::ServerOptions;
use crate::studio::inference::{InferenceService, TranscribeFn};
use axum::Router;
use clap::Args;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use voxtral::inference::transcribe::TokenLimit;
use voxtral::inference::transcriber::{TranscribeEvent, Utterance};
use voxtral::lora;

/// Where the server listens.
#[derive(Args, Clone, Copy)]
struct Place {
    /// The address to listen on; others than the loopback one want a token, which is in the address that is printed
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// The port; 0 takes any that is free
    #[arg(long, default_value_t = 7860)]
    port: u16,
}

/// The whole journey as pages
#[derive(Args)]
pub(super) struct Studio {
    /// The pipeline file; it is made on the first page if it is not there
    #[arg(default_value = "pipeline.toml")]
    file: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// The recorder alone, for the pipeline's `recordings` stage
#[derive(Args)]
pub(super) struct RecordArgs {
    /// The pipeline file
    #[arg(default_value = "pipeline.toml")]
    file: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// One model to try, and the address that clients of OpenAI's transcription API know
#[derive(Args)]
pub(super) struct Demo {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    place: Place,
    /// Let anybody in who reaches the address, without a token
    #[arg(long)]
    public: bool,
}

impl Place {
    fn serve(self, router: Router, what: &str, public: bool) -> Result<()> {
        let listening = ServerOptions { host: self.host, port: self.port, public };
        if !self.host.is_loopback() && !public {
            note("others can reach this address: whoever knows the token in it can do everything that the page does");
        }
        studio::serve(router, listening, &listen()?.asked, |address| print(&format!("{what}: {address}\n")))
    }
}

/// A folder is meant as the file in it.
fn file(named: &Path) -> PathBuf {
    if named.is_dir() { named.join("pipeline.toml") } else { named.to_owned() }
}

impl Studio {
    pub(super) fn go(&self) -> Result<()> {
        let project = Arc::new(studio::StudioProject::new(&file(&self.file), models_of(&file(&self.file)))?);
        self.place.serve(studio::studio(&project), "the studio is at", false)
    }
}

impl RecordArgs {
    pub(super) fn go(&self) -> Result<()> {
        let file = file(&self.file);
        if !file.is_file() {
            return Err(Error::new(format!("there is no `{}`", file.display()))
                .kind(ErrorKind::InvalidInput)
                .hint("`voxpipe init` or `voxpipe studio` makes one"));
        }
        let project = Arc::new(studio::StudioProject::new(&file, models_of(&file))?);
        // Sentences there are after a first run, which then waits for the recordings.
        project.prepare()?;
        self.place.serve(studio::recorder(&project), "the recorder is at", false)
    }
}

impl Demo {
    pub(super) fn go(self) -> Result<()> {
        let name = self.model.name();
        let choice = Arc::new(self.model);
        // A model that cannot be opened is told now, and not to the first visitor.
        choice.check()?;
        let speech = InferenceService::new(move || vec![name.clone()], Arc::new(move |_| Ok(hear(choice.open()?))));
        self.place.serve(studio::demo(Arc::new(speech)), "the model listens at", self.public)
    }
}

fn hear(listener: voxtral::inference::asr_model::AnyTranscriber) -> TranscribeFn {
    Box::new(move |samples, language| {
        let mut text = String::new();
        listener.transcribe_each(&[Utterance { samples, language }], TokenLimit::Auto, &mut |heard| {
            if let TranscribeEvent::Clip(_, transcript) = heard {
                text = transcript.text;
            }
            Ok(())
        })?;
        Ok(text.trim().to_owned())
    })
}

/// The tuned model of a project and its base, as far as they are there.
fn models_of(file: &Path) -> Arc<InferenceService> {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let names = {
        let file = file.clone();
        move || if trained(&file).is_some() { vec!["tuned".to_owned(), "base".to_owned()] } else { Vec::new() }
    };
    let open = move |name: &str| {
        let model = trained(&file).ok_or_else(|| Error::new("no model was trained yet"))?;
        let root = file.parent().unwrap_or(Path::new(""));
        let adapter = lora::is_adapter(&model);
        let base = if adapter { lora::base_of(&model)? } else { base_of(&model) };
        let base = base.map(|base| if root.join(&base).is_dir() { root.join(&base).display().to_string() } else { base });
        let named = match (name, &base) {
            ("base", Some(base)) => ModelArgs::of(base, None),
            ("base", None) => return Err(Error::new("the model does not say which base it was trained from")),
            _ if adapter => ModelArgs::of(&model.display().to_string(), base.as_deref()),
            _ => ModelArgs::of(&model.display().to_string(), None),
        };
        Ok(hear(named.open()?))
    };
    Arc::new(InferenceService::new(names, Arc::new(open)))
}

/// The folder of the newest trained model.
fn trained(file: &Path) -> Option<PathBuf> {
    studio::newest(file, &["merge", "train"])
}

/// What a full model says it was trained from.
fn base_of(model: &Path) -> Option<String> {
    let told: serde_json::Value = serde_json::from_str(&fs::read_to_string(model.join("training.json")).ok()?).ok()?;
    Some(told["base"]["name"].as_str()?.to_owned())
}
