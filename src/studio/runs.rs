//! Runs API: start and stop runs, stream their events, compare past runs.
//!
//! A run is a separate process that outlives the server. Events come from the log file that every run writes, so runs started in a shell
//! are shown as well.

use super::project::{Started, StudioProject};
use super::{ApiError, ApiResult, blocking, file_name, json};
use crate::error::ResultExt;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use pipeline::cache::store::Store;
use serde::Deserialize;
use serde_json::{Value, json as value};
use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio_stream::wrappers::ReceiverStream;

/// Interval between polls of the run log.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Maximum number of bytes of the log per read.
const READ_LIMIT: u64 = 1 << 20;
/// How much of the standard error of a failed start is returned, in bytes from its end.
const MAX_ERROR_TEXT: usize = 4000;

type Shared = State<Arc<StudioProject>>;

pub(super) fn routes() -> Router<Arc<StudioProject>> {
    Router::new()
        .route("/api/state", get(state))
        .route("/api/run", post(run))
        .route("/api/stop", post(stop))
        .route("/api/events", get(events))
        .route("/api/runs", get(runs))
        .route("/api/diff", get(diff))
        .route("/api/graph.svg", get(graph))
        .route("/api/curves.svg", get(curves))
}

/// Returns the state of the project: pipeline status, run in progress, existing results, models, machine load.
async fn state(State(project): Shared) -> ApiResult {
    blocking(move || {
        let there = project.file.is_file();
        let status = if there { project.describe(&["status", project.name(), "--json"]) } else { Ok(Value::Null) };
        let (status, warning) = match status {
            Ok(status) => (status, None),
            Err(warning) => (Value::Null, Some(warning.1)),
        };
        let clips = ["recordings", "uploads", "import"].iter().any(|kind| project.latest(kind).is_some());
        json(value!({
            "folder": project.root.file_name().map(|name| name.to_string_lossy()),
            "file": project.name(),
            "there": there,
            "running": project.is_running(),
            "status": status,
            "trouble": warning.or_else(|| project.refusal()),
            "models": crate::studio::inference::names(&project.speech),
            "has": {
                "phrases": project.latest("phrases").is_some(),
                "clips": clips,
                "dataset": project.latest("dataset").is_some(),
                "model": project.latest("train").is_some(),
                "scores": project.latest("evaluate").is_some(),
                "card": project.latest("card").is_some(),
                "published": project.latest("publish").is_some(),
            },
            "machine": machine(),
            "records": !project.stages("recordings").is_empty(),
        }))
    })
    .await
}

/// Machine load as text lines: CPU load, free memory, `nvidia-smi` line per GPU. Unavailable values are omitted.
fn machine() -> Vec<String> {
    let mut words = Vec::new();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if let Some(load) = fs::read_to_string("/proc/loadavg").ok().as_deref().and_then(|text| text.split(' ').next()) {
        words.push(format!("load {load} on {cores} cores"));
    }
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let gib = |key: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok().map(|kib| kib / f64::from(1 << 20))
    };
    if let Some((free, whole)) = gib("MemAvailable:").zip(gib("MemTotal:")) {
        words.push(format!("{free:.1} of {whole:.1} GiB memory free"));
    }
    let arguments = ["--query-gpu=name,utilization.gpu,memory.used,memory.total", "--format=csv,noheader"];
    if let Ok(output) = Command::new("nvidia-smi").args(arguments).stdin(Stdio::null()).output()
        && output.status.success()
    {
        words.extend(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned));
    }
    words
}

/// Options of a run: stages to rerun (`--force`) and settings (`--set`).
#[derive(Default, Deserialize)]
#[serde(default)]
struct RunOptions {
    force: Vec<String>,
    set: Vec<String>,
}

/// Starts a run.
async fn run(State(project): Shared, options: Option<axum::Json<RunOptions>>) -> ApiResult {
    let options = options.map(|options| options.0).unwrap_or_default();
    blocking(move || project.begin(&options).and_then(|()| json(value!({ "running": true })))).await
}

/// Interrupts the run in progress, as Ctrl-C does.
async fn stop(State(project): Shared) -> ApiResult {
    blocking(move || {
        let runner = project.runner()?.ok_or_else(|| ApiError::conflict("no run in progress"))?;
        rustix::process::kill_process(runner, rustix::process::Signal::INT)
            .map_err(std::io::Error::from)
            .with_context(|| "cannot stop the run")?;
        json(value!({ "stopping": true }))
    })
    .await
}

impl StudioProject {
    /// Starts `voxpipe run` in its own process group.
    fn begin(&self, options: &RunOptions) -> Result<(), ApiError> {
        if self.is_running() {
            return Err(ApiError::conflict("a run is already in progress"));
        }
        if options.force.iter().chain(&options.set).any(|text| text.starts_with('-')) {
            return Err(ApiError::bad("invalid setting"));
        }
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        let starting = || "failed to start the run";
        let said = tempfile::NamedTempFile::new().with_context(starting)?;
        let mut command = self.command(&["run", &self.file_to_run()]);
        command.args(options.force.iter().flat_map(|stage| ["--force", stage]));
        command.args(options.set.iter().flat_map(|set| ["--set", set]));
        command.stdout(Stdio::null()).stderr(said.reopen().with_context(starting)?);
        // Ctrl-C in the studio's terminal, or closing the terminal, must not stop the run.
        command.process_group(0);
        let child = command.spawn().with_context(starting)?;
        self.speech.forget();
        *run = Some(Started { child, said });
        Ok(())
    }

    /// Error output of a run started here that failed, if it did.
    fn refusal(&self) -> Option<String> {
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        let started = run.as_mut()?;
        let ended = started.child.try_wait().ok()??;
        let code = ended.code().unwrap_or(1);
        let words = fs::read_to_string(started.said.path()).ok()?;
        let at = words.floor_char_boundary(words.len().saturating_sub(MAX_ERROR_TEXT));
        // Exit code 0 is success, 10 is parked. Failures of stages are in the run log as well.
        (code != 0 && code != 10).then(|| words[at..].trim().to_owned())
    }
}

/// Streams the events of the newest run from its start, and of each later run (server-sent events).
async fn events(State(project): Shared) -> Response {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Event, Infallible>>(64);
    tokio::spawn(async move {
        let (mut run, mut read) = (String::new(), 0);
        loop {
            let newest = Store::open_readonly(&project.project_root()).and_then(|store| Ok((store.runs()?.pop(), store)));
            if let Ok((Some(newest), store)) = newest {
                if newest != run {
                    (run, read) = (newest, 0);
                    if sender.send(Ok(Event::default().event("run").data(&run))).await.is_err() {
                        return;
                    }
                }
                let piece = read_lines(&store.log(&run), read);
                read += piece.len() as u64;
                for line in piece.lines() {
                    if sender.send(Ok(Event::default().data(line))).await.is_err() {
                        return;
                    }
                }
            }
            if sender.is_closed() {
                return;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    });
    Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::default()).into_response()
}

/// Reads complete lines of a file from a byte offset.
fn read_lines(path: &std::path::Path, from: u64) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(from))?;
        file.take(READ_LIMIT).read_to_end(&mut bytes)
    });
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    read.ok().and_then(|_| String::from_utf8(bytes[..whole].to_vec()).ok()).unwrap_or_default()
}

/// Lists past runs.
async fn runs(State(project): Shared) -> ApiResult {
    blocking(move || json(project.describe(&["runs", project.name(), "--json"])?)).await
}

/// Two runs to compare.
#[derive(Deserialize)]
struct RunPair {
    a: String,
    b: String,
}

/// Returns the differences between two runs.
async fn diff(State(project): Shared, Query(pair): Query<RunPair>) -> ApiResult {
    blocking(move || json(project.describe(&["diff", file_name(&pair.a)?, file_name(&pair.b)?, project.name(), "--json"])?)).await
}

/// Returns the stage graph as SVG.
async fn graph(State(project): Shared) -> ApiResult {
    blocking(move || Ok(picture(project.ask(&["graph", project.name(), "--format", "svg"])?))).await
}

/// Which training curve to plot.
#[derive(Deserialize)]
struct CurveQuery {
    metric: Option<String>,
    run: Option<String>,
    /// A second run, plotted for comparison.
    other: Option<String>,
}

/// Plots training curves as SVG, including those of a run in progress.
async fn curves(State(project): Shared, Query(query): Query<CurveQuery>) -> ApiResult {
    blocking(move || {
        let file = tempfile::Builder::new().suffix(".svg").tempfile().with_context(|| "cannot plot the curves")?;
        let path = file.path().display().to_string();
        let mut arguments = vec!["plot", "--svg", &path];
        for (flag, value) in [("--metric", &query.metric), ("", &query.run), ("", &query.other)] {
            if let Some(value) = value {
                arguments.extend([flag, file_name(value)?].into_iter().filter(|part| !part.is_empty()));
            }
        }
        project.ask(&arguments)?;
        Ok(picture(fs::read_to_string(&path).with_context(|| "cannot read the plot")?))
    })
    .await
}

fn picture(svg: String) -> Response {
    ([(header::CONTENT_TYPE, "image/svg+xml")], svg).into_response()
}
