//! Extensions of the runner's [`Context`] for stages that use models: device selection, model folders, the feature cache.

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

/// Speech-specific methods of the runner's [`Context`].
pub trait SpeechContext {
    /// Selects the device for the setting `device`. GPUs allocated to the stage take precedence.
    fn device(&self, wanted: &str) -> Result<SelectedDevice>;

    /// The folder of a model: a folder in the project, or a Hub repository, downloaded if it is not in the cache.
    fn model(&self, name: &str, revision: Option<&str>) -> Result<PathBuf>;

    /// Finds the base model of `model`. `with` is the stage's setting `base`; the port `base` takes precedence over it.
    fn base_of(&self, model: &Artifact, with: Option<&str>) -> Result<BaseModel>;

    /// Opens the feature cache for the encoder outputs of `chunks` chunks of audio. `identity` identifies the model's weights. If the disk
    /// has too little free space or the cache is not `wanted`, the returned cache stores nothing.
    fn memory(&self, recognizer: &Transcriber, identity: &str, chosen: &SelectedDevice, chunks: usize, wanted: bool) -> FeatureCache;

    /// Warns about errors of a cache.
    fn warn_about_cache(&self, memory: &FeatureCache);
}

impl SpeechContext for Context {
    fn device(&self, wanted: &str) -> Result<SelectedDevice> {
        // `auto` and `cuda` mean the first GPU allocated to this stage.
        match self.gpus.first().filter(|_| wanted == "cuda" || wanted == "auto" && device::class(wanted) == "cuda") {
            Some(card) => device::choose(&format!("cuda:{}", card.index))
                .map(|chosen| SelectedDevice { reason: "allocated to this stage".to_owned(), ..chosen }),
            None => device::choose(wanted),
        }
    }

    fn model(&self, name: &str, revision: Option<&str>) -> Result<PathBuf> {
        let mut reported = None;
        hub::model_folder(&self.root, name, revision, Network::unless(false), &mut |fetching| {
            if self.stopping() {
                return Err(Error::new(format!("interrupted while downloading `{name}`")).kind(ErrorKind::Interrupted).hint("run again"));
            }
            let (done, total) = (fetching.done >> 20, fetching.total >> 20);
            if total > 0 && reported != Some(done) {
                reported = Some(done);
                self.progress(done, total, "MiB", format!("downloading {} of {}", fetching.file, fetching.repository));
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

    fn warn_about_cache(&self, memory: &FeatureCache) {
        feature_cache::warn_about_cache(self, memory);
    }
}
