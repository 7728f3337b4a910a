//! From `[tracking]` to a reporter.

use super::note;
use crate::error::Result;
use crate::hub::{self, Network};
use crate::pipeline::{Pipeline, Tracker};
use crate::report::trackio::{Place, Settings, Token, Trackio};
use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;

/// The reporter that a pipeline asks for, if it asks for one.
pub(super) fn reporter(pipeline: &Pipeline) -> Result<Option<Trackio>> {
    let Some(tracking) = &pipeline.tracking else { return Ok(None) };
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let project = tracking.project.clone().unwrap_or_else(|| pipeline.name.clone());
    let place = match &tracking.to {
        Tracker::Here => {
            let folder = match variable("TRACKIO_DIR") {
                Some(folder) => PathBuf::from(folder),
                None => hub::home()?.join("trackio"),
            };
            note(&format!(
                "Trackio shows this run while `trackio show --project {project}` runs; its numbers are left in `{}`",
                folder.display()
            ));
            Place::Here(folder)
        }
        Tracker::Server(address) if Network::unless(false) == Network::Forbidden => {
            note(&format!("HF_HUB_OFFLINE is set: nothing is sent to `{address}`"));
            return Ok(None);
        }
        Tracker::Server(address) => {
            let token = if address.trim_end_matches('/').ends_with(".hf.space") { hub::token() } else { variable("TRACKIO_WRITE_TOKEN") };
            Place::Server { address: address.clone(), token: token.map(Token::new) }
        }
    };
    let model = |step: &crate::pipeline::Step| {
        let model = step.from.get("model")?.first()?;
        (step.stage.kind() == "evaluate").then(|| (step.name.clone(), model.clone()))
    };
    let models: BTreeMap<String, String> = pipeline.steps.iter().filter_map(model).collect();
    Ok(Some(Trackio::new(Settings { place, project, run: tracking.run.clone(), models })))
}
