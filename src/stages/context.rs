//! What stages that work with models ask of their [`Context`]: a device, the folder of a model, cached encoder outputs.

use super::base_model::{self, BaseModel};
use super::feature_cache;
use crate::error::{Error, ErrorKind, Result};
use crate::hub::{self, Network};
use pipeline::artifact::Artifact;
use pipeline::stage::Context;
use std::path::PathBuf;
use voxtral::device::{self, SelectedDevice};
use voxtral::inference::encoder_cache::FeatureCache;
use voxtral::inference::transcriber::Transcriber;

/// What the runner's [`Context`] lacks, as it knows nothing of speech.
pub trait SpeechContext {
    /// The device a setting asks for, one of the stage's own GPUs if it was given any.
    fn device(&self, wanted: &str) -> Result<SelectedDevice>;

    /// The folder of a model: one in the project, or a repository of the Hub, which is downloaded if it is not here.
    fn model(&self, name: &str, revision: Option<&str>) -> Result<PathBuf>;

    /// The base of `model`; `with` is the stage's own setting, and the port `base` counts more.
    fn base_of(&self, model: &Artifact, with: Option<&str>) -> Result<BaseModel>;

    /// The cache for the encoder outputs of so many chunks of audio. `identity` says which weights the model has. With too little room on the
    /// disk, or where it is not `wanted`, one that keeps nothing.
    fn memory(&self, recognizer: &Transcriber, identity: &str, chosen: &SelectedDevice, chunks: usize, wanted: bool) -> FeatureCache;

    /// Warns of what went wrong with a cache.
    fn tell_trouble(&self, memory: &FeatureCache);
}

impl SpeechContext for Context {
    fn device(&self, wanted: &str) -> Result<SelectedDevice> {
        // `auto` and `cuda` mean the first of the GPUs that were given to this stage.
        match self.gpus.first().filter(|_| wanted == "cuda" || wanted == "auto" && device::class(wanted) == "cuda") {
            Some(card) => device::choose(&format!("cuda:{}", card.index))
                .map(|chosen| SelectedDevice { reason: "given to this stage".to_owned(), ..chosen }),
            None => device::choose(wanted),
        }
    }

    fn model(&self, name: &str, revision: Option<&str>) -> Result<PathBuf> {
        let mut said = None;
        hub::model_folder(&self.root, name, revision, Network::unless(false), &mut |fetching| {
            if self.stopping() {
                return Err(Error::new(format!("stopped while `{name}` was downloaded")).kind(ErrorKind::Interrupted).hint("run again"));
            }
            let (done, total) = (fetching.done >> 20, fetching.total >> 20);
            if total > 0 && said != Some(done) {
                said = Some(done);
                self.progress(done, total, "MiB", format!("fetching {} of {}", fetching.file, fetching.repository));
            }
            Ok(())
        })
    }

    fn base_of(&self, model: &Artifact, with: Option<&str>) -> Result<BaseModel> {
        base_model::base_of(self, model, with)
    }

    fn memory(&self, recognizer: &Transcriber, identity: &str, chosen: &SelectedDevice, chunks: usize, wanted: bool) -> FeatureCache {
        feature_cache::open(self, recognizer, identity, chosen, chunks, wanted)
    }

    fn tell_trouble(&self, memory: &FeatureCache) {
        feature_cache::tell_trouble(self, memory);
    }
}
