//! Trackio tracking: the reporter configured by `[tracking]`, and `voxpipe trackio sync`, which sends finished runs.

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

/// Timeout for sending one run to a server.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// Subcommands of `voxpipe trackio`.
#[derive(Subcommand)]
pub(super) enum Trackio {
    /// Send runs that were not tracked live; nothing is sent twice
    Sync(Sync),
}

/// Options of `voxpipe trackio sync`.
#[derive(Args)]
pub(super) struct Sync {
    /// Run id, as listed by `voxpipe runs`; repeatable [default: latest]
    #[arg(long = "run", value_name = "RUN")]
    runs: Vec<String>,
    /// Send all runs
    #[arg(long, conflicts_with = "runs")]
    all: bool,
    /// Target: `here`, or the URL of a Trackio server or Space [default: `[tracking]` of the pipeline file, else `here`]
    #[arg(long, value_name = "PLACE")]
    to: Option<String>,
    #[command(flatten)]
    project: Project,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Trackio {
    /// Runs the subcommand.
    pub(super) fn go(&self) -> Result<()> {
        let Self::Sync(sync) = self;
        sync.go()
    }
}

impl Sync {
    fn go(&self) -> Result<()> {
        let pipeline = self.project.pipeline()?;
        let store = Store::open_readonly(&pipeline.root)?;
        let tracker = match (self.to.as_deref(), &pipeline.tracking) {
            (Some("here"), _) | (None, None) => TrackerKind::Here,
            (Some(address), _) if address.starts_with("http://") || address.starts_with("https://") => {
                TrackerKind::Server(address.to_owned())
            }
            (Some(other), _) => {
                return Err(Error::new(format!("invalid Trackio target `{other}`"))
                    .kind(ErrorKind::InvalidInput)
                    .hint("write `here`, or a URL that starts with http:// or https://"));
            }
            (None, Some(tracking)) => tracking.to.clone(),
        };
        let Some(place) = place(&tracker)? else {
            let message = "HF_HUB_OFFLINE is set: nothing can be sent to a Trackio server";
            return Err(Error::new(message).environment().hint("unset HF_HUB_OFFLINE"));
        };
        let runs = match (self.all, self.runs.as_slice()) {
            (true, _) => store.runs()?,
            (false, []) => vec![find(&store, "latest")?],
            (false, runs) => runs.iter().map(|run| find(&store, run)).collect::<Result<_>>()?,
        };
        let mut sent = Vec::new();
        for run in runs {
            let mut trackio = TrackioReporter::new(settings(&pipeline, place.clone()));
            for line in jsonl::read(&store.log(&run))? {
                trackio.report_again(&line.time, &line.event)?;
            }
            let records = trackio.deliver(SEND_TIMEOUT).map_err(|error| error.context(format!("run {run}")))?;
            sent.push((run, records));
        }
        let to = match &place {
            TrackioTarget::Here(folder) => folder.display().to_string(),
            TrackioTarget::Server { address, .. } => address.clone(),
        };
        if self.json {
            let runs: Vec<_> = sent.iter().map(|(run, records)| json!({ "run": run, "records": records })).collect();
            return print_json(json!({ "to": to, "runs": runs }));
        }
        let total: u64 = sent.iter().map(|(_, records)| records).sum();
        let records = plural(usize::try_from(total).unwrap_or(usize::MAX), "record");
        print(&format!("sent {records} of {} to Trackio: `{to}`\n", plural(sent.len(), "run")))
    }
}

/// The Trackio reporter of a pipeline, if it has `[tracking]`.
pub(super) fn reporter(pipeline: &Pipeline) -> Result<Option<TrackioReporter>> {
    let Some(tracking) = &pipeline.tracking else { return Ok(None) };
    let Some(place) = place(&tracking.to)? else {
        note("HF_HUB_OFFLINE is set: nothing is sent to the Trackio server");
        return Ok(None);
    };
    let settings = settings(pipeline, place);
    if let TrackioTarget::Here(folder) = &settings.place {
        note(&format!(
            "to see this run in Trackio, run `trackio show --project {}`; its metrics are written to `{}`",
            settings.project,
            folder.display()
        ));
    }
    Ok(Some(TrackioReporter::new(settings)))
}

/// Reporter settings of a pipeline.
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

/// Resolves the Trackio target; none for a server when the network is disabled.
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
