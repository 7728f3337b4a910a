//! Runs: begun, stopped, and told as they happen.
//!
//! A run is a process of its own. It does not end with the server, and one that was begun in a shell is shown like any other: what is told
//! comes from the log that every run writes.

use super::project::{Started, StudioProject};
use super::{ApiError, ApiResult, aside, json, plain};
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

/// How often the log is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// As much as is read of it at once.
const PIECE: u64 = 1 << 20;
/// As much of what a run said before it could begin as is passed on.
const WORDS: usize = 4000;

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

/// How everything stands.
async fn state(State(project): Shared) -> ApiResult {
    aside(move || {
        let there = project.file.is_file();
        let status = if there { project.told(&["status", project.name(), "--json"]) } else { Ok(Value::Null) };
        let (status, trouble) = match status {
            Ok(status) => (status, None),
            Err(trouble) => (Value::Null, Some(trouble.1)),
        };
        let clips = ["recordings", "uploads", "import"].iter().any(|kind| project.latest(kind).is_some());
        json(value!({
            "folder": project.root.file_name().map(|name| name.to_string_lossy()),
            "file": project.name(),
            "there": there,
            "running": project.is_running(),
            "status": status,
            "trouble": trouble.or_else(|| project.refusal()),
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

/// How busy the machine is, in words, as far as it tells.
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
        words.push(format!("{free:.1} of {whole:.1} GiB free"));
    }
    let asked = ["--query-gpu=name,utilization.gpu,memory.used,memory.total", "--format=csv,noheader"];
    if let Ok(told) = Command::new("nvidia-smi").args(asked).stdin(Stdio::null()).output()
        && told.status.success()
    {
        words.extend(String::from_utf8_lossy(&told.stdout).lines().map(str::to_owned));
    }
    words
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wanted {
    force: Vec<String>,
    set: Vec<String>,
}

async fn run(State(project): Shared, wanted: Option<axum::Json<Wanted>>) -> ApiResult {
    let wanted = wanted.map(|wanted| wanted.0).unwrap_or_default();
    aside(move || project.begin(&wanted).and_then(|()| json(value!({ "running": true })))).await
}

async fn stop(State(project): Shared) -> ApiResult {
    aside(move || {
        let runner = Store::look(&project.root)?.runner().ok_or_else(|| ApiError::conflict("no run is going on"))?;
        rustix::process::kill_process(runner, rustix::process::Signal::INT)
            .map_err(std::io::Error::from)
            .with_context(|| "cannot stop the run")?;
        json(value!({ "stopping": true }))
    })
    .await
}

impl StudioProject {
    /// Begins a run.
    fn begin(&self, wanted: &Wanted) -> Result<(), ApiError> {
        if self.is_running() {
            return Err(ApiError::conflict("a run is going on already"));
        }
        if wanted.force.iter().chain(&wanted.set).any(|text| text.starts_with('-')) {
            return Err(ApiError::bad("that is no setting"));
        }
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        let beginning = || "cannot begin the run";
        let said = tempfile::NamedTempFile::new().with_context(beginning)?;
        let mut command = self.command(&["run", self.name()]);
        command.args(wanted.force.iter().flat_map(|stage| ["--force", stage]));
        command.args(wanted.set.iter().flat_map(|set| ["--set", set]));
        command.stdout(Stdio::null()).stderr(said.reopen().with_context(beginning)?);
        // A key pressed in the terminal of the studio, or its end, is not meant for the run.
        command.process_group(0);
        let child = command.spawn().with_context(beginning)?;
        self.speech.forget();
        *run = Some(Started { child, said });
        Ok(())
    }

    /// Why the run that was begun here did not even begin, if so.
    fn refusal(&self) -> Option<String> {
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        let started = run.as_mut()?;
        let ended = started.child.try_wait().ok()??;
        let code = ended.code().unwrap_or(1);
        let words = fs::read_to_string(started.said.path()).ok()?;
        let at = words.floor_char_boundary(words.len().saturating_sub(WORDS));
        // 0 is done and 10 parked; what failed inside a run is in its log too.
        (code != 0 && code != 10).then(|| words[at..].trim().to_owned())
    }
}

/// What happens, from the beginning of the newest run on, and then of those after it.
async fn events(State(project): Shared) -> Response {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Event, Infallible>>(64);
    tokio::spawn(async move {
        let (mut run, mut read) = (String::new(), 0);
        loop {
            let newest = Store::look(&project.root).and_then(|store| Ok((store.runs()?.pop(), store)));
            if let Ok((Some(newest), store)) = newest {
                if newest != run {
                    (run, read) = (newest, 0);
                    if sender.send(Ok(Event::default().event("run").data(&run))).await.is_err() {
                        return;
                    }
                }
                let piece = more(&store.log(&run), read);
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
            tokio::time::sleep(LOOK).await;
        }
    });
    Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::default()).into_response()
}

/// The whole lines of a file from a place on.
fn more(path: &std::path::Path, from: u64) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(from))?;
        file.take(PIECE).read_to_end(&mut bytes)
    });
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    read.ok().and_then(|_| String::from_utf8(bytes[..whole].to_vec()).ok()).unwrap_or_default()
}

async fn runs(State(project): Shared) -> ApiResult {
    aside(move || json(project.told(&["runs", project.name(), "--json"])?)).await
}

#[derive(Deserialize)]
struct Two {
    a: String,
    b: String,
}

async fn diff(State(project): Shared, Query(two): Query<Two>) -> ApiResult {
    aside(move || json(project.told(&["diff", plain(&two.a)?, plain(&two.b)?, project.name(), "--json"])?)).await
}

async fn graph(State(project): Shared) -> ApiResult {
    aside(move || Ok(picture(project.ask(&["graph", project.name(), "--format", "svg"])?))).await
}

#[derive(Deserialize)]
struct Curve {
    metric: Option<String>,
    run: Option<String>,
    /// Drawn beside it.
    other: Option<String>,
}

/// The curves of trainings, also of one that is running.
async fn curves(State(project): Shared, Query(curve): Query<Curve>) -> ApiResult {
    aside(move || {
        let file = tempfile::Builder::new().suffix(".svg").tempfile().with_context(|| "cannot draw")?;
        let path = file.path().display().to_string();
        let mut arguments = vec!["plot", "--svg", &path];
        for (flag, value) in [("--metric", &curve.metric), ("", &curve.run), ("", &curve.other)] {
            if let Some(value) = value {
                arguments.extend([flag, plain(value)?].into_iter().filter(|part| !part.is_empty()));
            }
        }
        project.ask(&arguments)?;
        Ok(picture(fs::read_to_string(&path).with_context(|| "cannot read what was drawn")?))
    })
    .await
}

fn picture(svg: String) -> Response {
    ([(header::CONTENT_TYPE, "image/svg+xml")], svg).into_response()
}
