//! To Trackio, the dashboard of experiments: each training is a run there, with its curves, its settings, what the machine did meanwhile,
//! and the held-out clips that were heard worst, to be listened to.
//!
//! It stands beside our own journal and never instead of it. Events become parcels; a thread of its own carries them to a folder that
//! Trackio empties or to a server, so that neither a slow disk nor a server that is away holds up a training. Each parcel has a name of its
//! own, so sending it twice does no harm: what did not get through is sent again, and a training that goes on sends its whole journal.

mod inbox;
mod server;
mod system;
mod uploader;

use crate::error::Error;
use pipeline::events::metrics_log::MetricsRow;
use pipeline::events::reporter::Reporter;
use pipeline::events::{Event, WorstClip, metrics_log};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uploader::{UploadItem, Uploader, Watched};

/// What is shown, and where.
#[derive(Clone, Debug)]
pub struct TrackioSettings {
    /// Where Trackio is.
    pub place: TrackioTarget,
    /// The project there.
    pub project: String,
    /// What runs are called there; otherwise a stage and when it began.
    pub run: Option<String>,
    /// Stage that scores a model → stage that made the model: both are shown in one run.
    pub models: BTreeMap<String, String>,
}

/// Where Trackio is.
#[derive(Clone, Debug)]
pub enum TrackioTarget {
    /// On this machine: the folder where it keeps its data.
    Here(PathBuf),
    /// A server or a Space.
    Server {
        /// `http://…` or `https://…`
        address: String,
        /// What it asks of those who write.
        token: Option<TrackioToken>,
    },
}

/// A secret, shown to nobody.
#[derive(Clone)]
pub struct TrackioToken(String);

impl TrackioToken {
    /// A token.
    pub fn new(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for TrackioToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Tells events to Trackio.
pub struct TrackioReporter {
    settings: TrackioSettings,
    runs: BTreeMap<String, Run>,
    kinds: BTreeMap<String, String>,
    courier: Uploader,
    /// The time of what is told again; what happens now has none.
    then: Option<String>,
}

/// A run as Trackio knows it.
#[derive(Clone, Debug, PartialEq)]
struct Run {
    project: String,
    name: String,
    id: String,
    /// The newest step that was told.
    step: u64,
    /// Told once, with the first numbers.
    config: Value,
}

impl TrackioReporter {
    /// A reporter with a courier of its own.
    pub fn new(settings: TrackioSettings) -> Self {
        let courier = Uploader::start(settings.place.clone());
        Self { settings, runs: BTreeMap::new(), kinds: BTreeMap::new(), courier, then: None }
    }

    /// Tells what happened at another time. What Trackio has heard of it already it knows by its name.
    pub fn tell_again(&mut self, time: &str, event: &Event) -> Result<(), Error> {
        if matches!(event, Event::RunFinished { .. }) {
            return Ok(());
        }
        self.then = Some(time.to_owned());
        self.tell(event)
    }

    /// Waits until everything has got there, and says how many records and recordings that were.
    pub fn deliver(&mut self, patience: Duration) -> Result<u64, Error> {
        let (sent, left) = self.courier.settle(patience).unwrap_or_default();
        if left == 0 {
            return Ok(sent);
        }
        let trouble = self.courier.trouble().map_or_else(String::new, |trouble| format!(": {trouble}"));
        Err(Error::new(format!("{left} of {sent} records did not get to Trackio{trouble}"))
            .environment()
            .hint("do it again later: what is there already is not sent twice"))
    }

    fn time(&self) -> String {
        self.then.clone().unwrap_or_else(metrics_log::now)
    }

    fn send(&mut self, parcel: UploadItem) {
        if self.then.is_some() { self.courier.send_all(parcel) } else { self.courier.send(parcel) }
    }

    /// What the machine does is told of what happens now.
    fn watch(&mut self, run: Option<Watched>) {
        if self.then.is_none() {
            self.courier.watch(run);
        }
    }

    /// Begins a run for a stage.
    fn open(&mut self, stage: &str, id: &str, began: &str, settings: &Value) -> Run {
        let when: String = began.chars().take(19).map(|letter| if letter == 'T' { ' ' } else { letter }).collect();
        // The name is part of paths.
        let name = self.settings.run.clone().unwrap_or_else(|| format!("{stage} {when}")).replace(['/', '\\'], "-");
        let mut config = settings.as_object().cloned().unwrap_or_default();
        config.insert("_Created".to_owned(), json!(timestamp(began)));
        let run = Run { project: self.settings.project.clone(), name, id: id.to_owned(), step: 0, config: Value::Object(config) };
        self.watch(Some((run.project.clone(), run.name.clone(), run.id.clone())));
        self.runs.insert(stage.to_owned(), run.clone());
        run
    }

    /// The run in which a stage is shown; a stage without a journal gets one of its own.
    fn run_of(&mut self, stage: &str) -> String {
        let shown = self.settings.models.get(stage).filter(|model| self.runs.contains_key(*model)).cloned();
        let shown = shown.unwrap_or_else(|| stage.to_owned());
        if !self.runs.contains_key(&shown) {
            let (id, time) = (self.id_of(&shown), self.time());
            self.open(&shown, &id, &time, &Value::Null);
        }
        shown
    }

    /// The id of a stage without a journal; told again it is the same each time.
    fn id_of(&self, stage: &str) -> String {
        match &self.then {
            Some(time) => blake3::hash(format!("{stage} {time}").as_bytes()).to_hex().chars().take(32).collect(),
            None => metrics_log::id(Path::new(stage)),
        }
    }

    fn log(&mut self, stage: &str, step: u64, what: &str, time: Option<&str>, metrics: Map<String, Value>) {
        if metrics.is_empty() {
            return;
        }
        let time = time.map_or_else(|| self.time(), str::to_owned);
        let Some(run) = self.runs.get_mut(stage) else { return };
        run.step = run.step.max(step);
        let record = json!({
            "v": 1, "kind": "metric", "project": run.project, "run": run.name, "run_id": run.id, "metrics": metrics, "step": step,
            "timestamp": timestamp(&time), "config": run.config.take(), "log_id": format!("{}-{step}-{what}", run.id),
        });
        self.send(UploadItem::Record(record));
    }

    fn row(&mut self, stage: &str, row: &MetricsRow) {
        let kind = if row.values.contains_key("loss") { "train" } else { "eval" };
        self.log(
            stage,
            row.step,
            kind,
            row.time.as_deref(),
            row.values.iter().map(|(name, value)| (grouped(name), json!(value))).collect(),
        );
    }

    /// A table of clips, and their sound.
    fn clips(&mut self, stage: &str, clips: &[WorstClip]) {
        let shown = self.run_of(stage);
        let Some(run) = self.runs.get(&shown).cloned() else { return };
        let mut metrics = Map::new();
        let mut rows = Vec::new();
        for (index, clip) in clips.iter().enumerate() {
            let audio = PathBuf::from(&clip.audio);
            let name = audio.file_name().unwrap_or_default().to_string_lossy().into_owned();
            rows.push(json!({
                "clip": name, "WER": clip.wer, "said": clip.reference, "heard": clip.tuned, "heard before": clip.base,
            }));
            // Clips of several folders may have one name.
            let kept = format!("{index:02}-{name}");
            let caption = format!("WER {:.0} % · said: {} · heard: {}", 100.0 * clip.wer, clip.reference, clip.tuned);
            let path = format!("{}/{}/{}/{kept}", canonical(&run.project), run.name, run.step);
            // Long afterwards the recording may be gone.
            if self.then.is_some() && !audio.is_file() {
                continue;
            }
            self.send(UploadItem::Media { from: audio, project: run.project.clone(), run: run.name.clone(), step: run.step, name: kept });
            metrics.insert(
                format!("{stage}/worst_{:02}", index + 1),
                json!({ "_type": "trackio.audio", "file_path": path, "caption": caption }),
            );
        }
        if !rows.is_empty() {
            metrics.insert(format!("{stage}/worst"), json!({ "_type": "trackio.table", "_value": rows }));
        }
        self.log(&shown, run.step, &format!("{stage}-worst"), None, metrics);
    }

    fn alert(&mut self, stage: &str, level: &str, title: String, text: &str) {
        let time = self.time();
        let Some(run) = self.runs.get(stage) else { return };
        let id = blake3::hash(format!("{} {} {title} {text}", run.id, run.step).as_bytes()).to_hex();
        let record = json!({
            "v": 1, "kind": "alert", "project": run.project, "run": run.name, "run_id": run.id, "title": title, "text": text, "level": level,
            "step": run.step, "timestamp": timestamp(&time), "alert_id": id.chars().take(32).collect::<String>(),
        });
        self.send(UploadItem::Record(record));
    }
}

impl Reporter for TrackioReporter {
    fn tell(&mut self, event: &Event) -> Result<(), Error> {
        match event {
            Event::StageStarted { stage, kind, .. } => {
                self.kinds.insert(stage.clone(), kind.clone());
            }
            Event::Journal { stage, id, began, path, step, settings } => {
                self.open(stage, id, began, settings);
                // What an earlier run could not send is sent now; what it did send is known there by its name.
                let rows = if *step > 0 { metrics_log::read(Path::new(path)).map_or(Vec::new(), |(_, rows)| rows) } else { Vec::new() };
                for row in rows {
                    self.row(stage, &row);
                }
            }
            Event::Metrics { stage, step, values } => {
                let shown = self.run_of(stage);
                self.row(&shown, &MetricsRow::new(*step, values.iter().map(|(name, value)| (name.as_str(), *value))));
            }
            Event::WorstClips { stage, clips } => self.clips(stage, clips),
            Event::StageFinished { stage, metrics, .. } if self.kinds.get(stage).is_some_and(|kind| kind == "evaluate") => {
                let shown = self.run_of(stage);
                let step = self.runs.get(&shown).map_or(0, |run| run.step);
                let metrics = metrics.iter().map(|(name, value)| (format!("{stage}/{name}"), json!(value))).collect();
                self.log(&shown, step, stage, None, metrics);
                self.watch(None);
            }
            Event::StageFinished { .. } | Event::StageInterrupted { .. } => self.watch(None),
            Event::StageFailed { stage, message, .. } => {
                self.alert(stage, "error", format!("stage {stage} failed"), message);
                self.watch(None);
            }
            Event::Warning { stage, message } => self.alert(stage, "warn", format!("stage {stage}"), message),
            Event::RunFinished { .. } => self.courier.finish(),
            _ => {}
        }
        Ok(())
    }

    fn trouble(&mut self) -> Option<String> {
        self.courier.trouble()
    }
}

/// Metrics as trainers of the field call them: the part before the slash makes a group of charts.
fn grouped(name: &str) -> String {
    match name.strip_prefix("eval_") {
        Some(name) => format!("eval/{name}"),
        None if name.contains('/') => name.to_owned(),
        None => format!("train/{name}"),
    }
}

/// What Trackio makes of a project's name where it names files: letters, digits, `-` and `_`.
fn canonical(project: &str) -> String {
    let kept: String = project.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, '-' | '_')).collect();
    if kept.is_empty() { "default".to_owned() } else { kept }
}

/// A time of ours as Trackio writes it.
fn timestamp(time: &str) -> String {
    time.strip_suffix('Z').map_or_else(|| time.to_owned(), |time| format!("{time}+00:00"))
}
