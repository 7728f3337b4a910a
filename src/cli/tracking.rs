//! From `[tracking]` to a reporter; and `voxpipe track`, which tells Trackio of runs that are over.

use super::project::plural;
use super::summary::find;
use super::{Project, note, print, print_json};
use crate::error::{Error, ErrorKind, Result};
use crate::hub;
use crate::hub::Network;
use crate::report::trackio::{TrackioReporter, TrackioSettings, TrackioTarget, TrackioToken};
use clap::{Args, Subcommand};
use pipeline::cache::store::Store;
use pipeline::events::jsonl;
use pipeline::graph::{Pipeline, TrackerKind};
use serde_json::json;
use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::time::Duration;

/// How long a server may take for what it is sent of a run.
const PATIENCE: Duration = Duration::from_secs(60);

/// `voxpipe track`.
#[derive(Subcommand)]
pub(super) enum Track {
    /// Show runs in Trackio that are over, or that it did not hear of while they went on
    Sync(Sync),
}

/// Which runs, and where.
#[derive(Args)]
pub(super) struct Sync {
    /// Its id, as `voxpipe runs` lists it; may be given several times; the newest if left out
    #[arg(long = "run", value_name = "RUN")]
    runs: Vec<String>,
    /// All runs there are
    #[arg(long, conflicts_with = "runs")]
    all: bool,
    /// `here`, or the address of a server or a Space; what the file's `[tracking]` says if left out, or else here
    #[arg(long, value_name = "PLACE")]
    to: Option<String>,
    #[command(flatten)]
    project: Project,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Track {
    /// Does what it says.
    pub(super) fn go(&self) -> Result<()> {
        let Self::Sync(sync) = self;
        sync.go()
    }
}

impl Sync {
    fn go(&self) -> Result<()> {
        let pipeline = self.project.pipeline()?;
        let store = Store::look(&pipeline.root)?;
        let tracker = match (self.to.as_deref(), &pipeline.tracking) {
            (Some("here"), _) | (None, None) => TrackerKind::Here,
            (Some(address), _) if address.starts_with("http://") || address.starts_with("https://") => {
                TrackerKind::Server(address.to_owned())
            }
            (Some(other), _) => {
                return Err(Error::new(format!("`{other}` is no address"))
                    .kind(ErrorKind::InvalidInput)
                    .hint("write `here`, or an address that begins with http:// or https://"));
            }
            (None, Some(tracking)) => tracking.to.clone(),
        };
        let Some(place) = place(&tracker)? else {
            return Err(Error::new("HF_HUB_OFFLINE is set, and nothing is sent to a server then").environment().hint("unset it"));
        };
        let runs = match (self.all, self.runs.as_slice()) {
            (true, _) => store.runs()?,
            (false, []) => vec![find(&store, "latest")?],
            (false, runs) => runs.iter().map(|run| find(&store, run)).collect::<Result<_>>()?,
        };
        let mut told = Vec::new();
        for run in runs {
            let mut trackio = TrackioReporter::new(settings(&pipeline, place.clone()));
            for line in jsonl::read(&store.log(&run))? {
                trackio.tell_again(&line.time, &line.event)?;
            }
            let records = trackio.deliver(PATIENCE).map_err(|error| error.context(format!("run {run}")))?;
            told.push((run, records));
        }
        let to = match &place {
            TrackioTarget::Here(folder) => folder.display().to_string(),
            TrackioTarget::Server { address, .. } => address.clone(),
        };
        if self.json {
            let runs: Vec<_> = told.iter().map(|(run, records)| json!({ "run": run, "records": records })).collect();
            return print_json(json!({ "to": to, "runs": runs }));
        }
        let total: u64 = told.iter().map(|(_, records)| records).sum();
        let records = plural(usize::try_from(total).unwrap_or(usize::MAX), "record");
        print(&format!("{records} of {} told to Trackio, `{to}`\n", plural(told.len(), "run")))
    }
}

/// The reporter that a pipeline asks for, if it asks for one.
pub(super) fn reporter(pipeline: &Pipeline) -> Result<Option<TrackioReporter>> {
    let Some(tracking) = &pipeline.tracking else { return Ok(None) };
    let Some(place) = place(&tracking.to)? else {
        note("HF_HUB_OFFLINE is set: nothing is sent to Trackio's server");
        return Ok(None);
    };
    let settings = settings(pipeline, place);
    if let TrackioTarget::Here(folder) = &settings.place {
        note(&format!(
            "Trackio shows this run while `trackio show --project {}` runs; its numbers are left in `{}`",
            settings.project,
            folder.display()
        ));
    }
    Ok(Some(TrackioReporter::new(settings)))
}

/// What is shown of a pipeline.
fn settings(pipeline: &Pipeline, place: TrackioTarget) -> TrackioSettings {
    let tracking = pipeline.tracking.as_ref();
    let project = tracking.and_then(|tracking| tracking.project.clone()).unwrap_or_else(|| pipeline.name.clone());
    let model = |step: &pipeline::graph::Step| {
        let model = step.from.get("model")?.first()?;
        (step.stage.kind() == "evaluate").then(|| (step.name.clone(), model.clone()))
    };
    let models: BTreeMap<String, String> = pipeline.steps.iter().filter_map(model).collect();
    TrackioSettings { place, project, run: tracking.and_then(|tracking| tracking.run.clone()), models }
}

/// Where Trackio is; none where the network is not to be used.
fn place(tracker: &TrackerKind) -> Result<Option<TrackioTarget>> {
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    Ok(match tracker {
        TrackerKind::Here => Some(TrackioTarget::Here(match variable("TRACKIO_DIR") {
            Some(folder) => PathBuf::from(folder),
            None => hub::home()?.join("trackio"),
        })),
        TrackerKind::Server(_) if Network::unless(false) == Network::Forbidden => None,
        TrackerKind::Server(address) => {
            let token = if address.trim_end_matches('/').ends_with(".hf.space") { hub::token() } else { variable("TRACKIO_WRITE_TOKEN") };
            Some(TrackioTarget::Server { address: address.clone(), token: token.map(TrackioToken::new) })
        }
    })
}
