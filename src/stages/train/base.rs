//! Finds the base model of a training and the name under which results refer to it.

use super::{Init, Train};
use crate::error::{Error, ErrorKind, Result};
use crate::hub;
use crate::stages::context::SpeechContext;
use pipeline::artifact::Artifact;
use pipeline::stage::Context;
use std::path::{Path, PathBuf};
use voxtral::lora;
use voxtral::model::model_dir;

impl Train {
    /// The base model's portable name and the folder it is read from.
    pub(super) fn base_folder(&self, cx: &Context) -> Result<(String, PathBuf)> {
        match (&self.base, cx.optional("base")) {
            (Some(_), Some(_)) => Err(Error::new("both `with.base` and `from.base` name a base model")
                .kind(ErrorKind::InvalidInput)
                .hint("remove one of them")),
            (None, None) => Err(Error::new("no base model given")
                .kind(ErrorKind::InvalidInput)
                .hint("set `base = \"FOLDER\"` in `with` or `base = \"STAGE\"` in `from`")),
            (None, Some(Artifact { stage, path, .. })) if !lora::is_adapter(path) => Ok((format!("stage:{stage}"), path.clone())),
            (None, Some(Artifact { stage, .. })) => {
                Err(Error::new(format!("the result of stage `{stage}` is an adapter, which cannot be a base model"))
                    .hint("set `from.base` to a stage with `method = \"full\"`"))
            }
            (Some(name), None) => {
                let folder = cx.model(name, self.revision.as_deref()).map_err(|error| error.context("base model"))?;
                if let Some(commit) = hub::commit_of(&folder) {
                    cx.note(format!("base model: commit {commit} of {name}"));
                }
                let name = self.hub_id(&folder).unwrap_or_else(|| model_dir::portable_name(name, &folder, &cx.root));
                Ok((name, folder))
            }
        }
    }

    /// The Hub id of the base model, from the setting `base_model` or the path of its folder.
    pub(super) fn hub_id(&self, folder: &Path) -> Option<String> {
        self.base_model.clone().or_else(|| model_dir::hub_id(folder)).filter(|_| self.init == Init::Checkpoint)
    }
}
