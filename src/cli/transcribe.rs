//! `voxpipe transcribe FILE… --model DIR`: what a model hears in some files.

use super::print;
use crate::audio;
use crate::device;
use crate::error::{Error, Exit, Result};
use crate::voxtral::lora;
use crate::voxtral::precision::Precision;
use crate::voxtral::prompt;
use crate::voxtral::recognizer::{Recognizer, Start, Utterance};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// What to transcribe, and with what.
#[derive(Args)]
pub(super) struct Transcribe {
    /// Audio files: WAV, FLAC, MP3, OGG, M4A
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// A model folder, or an adapter's
    #[arg(long)]
    model: PathBuf,
    /// An adapter to put on the model
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// The base model's folder, where `--model` is an adapter that names another place
    #[arg(long)]
    base: Option<PathBuf>,
    /// What is spoken, as a two-letter code; left out, the model finds out
    #[arg(long)]
    language: Option<String>,
    /// Longest transcript, in tokens
    #[arg(long, default_value_t = 256)]
    max_new_tokens: usize,
    /// auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// How the model's matrices are kept in memory: auto (as the checkpoint stores them), f32 or bf16
    #[arg(long, default_value_t)]
    precision: Precision,
    /// Print one JSON object a file
    #[arg(long)]
    json: bool,
}

impl Transcribe {
    pub(super) fn go(&self) -> Result<()> {
        if let Some(language) = &self.language {
            prompt::check_language(language).map_err(|error| error.exit(Exit::Usage))?;
        }
        let recognizer = self.recognizer()?;
        for file in &self.files {
            let samples = audio::load(file)?;
            let utterance = Utterance { samples: &samples, language: self.language.as_deref() };
            let heard = recognizer.transcribe(&[utterance], self.max_new_tokens, &mut |_| ())?;
            for transcript in heard {
                let text = transcript.text;
                let line = if self.json {
                    let seconds = samples.len() as f64 / f64::from(audio::SAMPLE_RATE);
                    json!({ "file": file, "text": text, "language": self.language, "tokens": transcript.tokens, "seconds": seconds })
                        .to_string()
                } else if self.files.len() > 1 {
                    format!("{}: {text}", file.display())
                } else {
                    text
                };
                print(&format!("{line}\n"))?;
            }
        }
        Ok(())
    }

    fn recognizer(&self) -> Result<Recognizer> {
        let chosen = device::choose(&self.device)?;
        if !self.model.is_dir() {
            return Err(Error::new(format!("there is no model folder `{}`", self.model.display()))
                .exit(Exit::Usage)
                .advice("give the folder that a `publish` stage wrote, or one downloaded from the Hub"));
        }
        let (folder, inner) =
            if lora::is_adapter(&self.model) { (self.base_of_adapter()?, Some(&self.model)) } else { (self.model.clone(), None) };
        let mut recognizer = Recognizer::open(&folder, Start::Checkpoint, self.precision, &chosen.device)?;
        if let Some(note) = &recognizer.loaded.note {
            super::note(note);
        }
        for adapter in inner.into_iter().chain(&self.adapter) {
            recognizer.adapt(adapter)?;
        }
        Ok(recognizer)
    }

    fn base_of_adapter(&self) -> Result<PathBuf> {
        if self.adapter.is_some() {
            return Err(Error::new("`--model` is itself an adapter").exit(Exit::Usage).advice("give the base model's folder as `--model`"));
        }
        if let Some(base) = &self.base {
            return Ok(base.clone());
        }
        let named = lora::base_of(&self.model)?;
        // Beside the adapter first: folders that were copied together belong together.
        let places = named.iter().flat_map(|name| [self.model.join(name), PathBuf::from(name)]);
        match places.into_iter().find(|place| place.is_dir()) {
            Some(place) => Ok(place),
            None => {
                let name = named.unwrap_or_else(|| "no base model".to_owned());
                Err(Error::new(format!("`{}` is an adapter for `{name}`, which is not a folder here", self.model.display()))
                    .exit(Exit::Usage)
                    .advice("give the base model's folder with `--base`"))
            }
        }
    }
}
