//! Reporter for Trackio, an experiment-tracking dashboard. Each training is a Trackio run with its metrics, settings, system metrics and
//! the held-out clips with the highest word error rate, as audio.
//!
//! Trackio mirrors the metrics log and never replaces it. Events become items; a background thread delivers them to a local folder or a
//! server, so a slow disk or an unavailable server does not delay training. Every record has a stable id, so resending is safe: failed
//! deliveries are retried, and a resumed training sends its whole metrics log again.

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
use voxpipe_io::metrics;

/// Settings of the reporter.
#[derive(Clone, Debug)]
pub struct TrackioSettings {
    /// Where Trackio runs.
    pub place: TrackioTarget,
    /// Name of the Trackio project.
    pub project: String,
    /// Name of the Trackio runs; default: stage name and start time.
    pub run: Option<String>,
    /// Evaluation stage → stage that trained the model: both are logged to one Trackio run.
    pub models: BTreeMap<String, String>,
}

/// Where Trackio runs.
#[derive(Clone, Debug)]
pub enum TrackioTarget {
    /// On this machine: Trackio's data folder.
    Here(PathBuf),
    /// A self-hosted server or a Hugging Face Space.
    Server {
        /// URL: `http://…` or `https://…`.
        address: String,
        /// Token for write access, if required.
        token: Option<TrackioToken>,
    },
}

/// A secret token; its `Debug` output is redacted.
#[derive(Clone)]
pub struct TrackioToken(String);

impl TrackioToken {
    /// Wraps a token.
    pub fn new(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for TrackioToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Sends run events to Trackio.
pub struct TrackioReporter {
    settings: TrackioSettings,
    runs: BTreeMap<String, Run>,
    kinds: BTreeMap<String, String>,
    uploader: Uploader,
    /// Time of the replayed event; `None` for live events.
    replay_time: Option<String>,
}

/// A Trackio run.
#[derive(Clone, Debug, PartialEq)]
struct Run {
    project: String,
    name: String,
    id: String,
    /// The highest step logged.
    step: u64,
    /// Settings, sent once with the first metrics.
    config: Value,
}

impl TrackioReporter {
    /// A reporter with its own uploader thread.
    pub fn new(settings: TrackioSettings) -> Self {
        let uploader = Uploader::start(settings.place.clone());
        Self { settings, runs: BTreeMap::new(), kinds: BTreeMap::new(), uploader, replay_time: None }
    }

    /// Replays a past event with its original time. Trackio skips records it already has, by their ids.
    pub fn report_again(&mut self, time: &str, event: &Event) -> Result<(), Error> {
        if matches!(event, Event::RunFinished { .. }) {
            return Ok(());
        }
        self.replay_time = Some(time.to_owned());
        self.report_event(event)
    }

    /// Waits until all items are delivered, up to a time limit. Returns the number of items (records and media files).
    pub fn deliver(&mut self, patience: Duration) -> Result<u64, Error> {
        let (sent, left) = self.uploader.flush(patience).unwrap_or_default();
        if left == 0 {
            return Ok(sent);
        }
        let cause = self.uploader.warning().map_or_else(String::new, |cause| format!(": {cause}"));
        Err(Error::new(format!("{left} of {sent} records were not sent to Trackio{cause}"))
            .environment()
            .hint("repeat the command later: records that arrived are not duplicated"))
    }

    /// Time of the current event.
    fn time(&self) -> String {
        self.replay_time.clone().unwrap_or_else(metrics_log::now)
    }

    /// Queues an item: live events never wait, replayed ones do.
    fn send(&mut self, item: UploadItem) {
        if self.replay_time.is_some() { self.uploader.send_all(item) } else { self.uploader.send(item) }
    }

    /// Sets the run that system metrics are recorded for; live events only.
    fn watch(&mut self, run: Option<Watched>) {
        if self.replay_time.is_none() {
            self.uploader.watch(run);
        }
    }

    /// Starts a Trackio run for a stage.
    fn open(&mut self, stage: &str, id: &str, began: &str, settings: &Value) -> Run {
        let when: String = began.chars().take(19).map(|letter| if letter == 'T' { ' ' } else { letter }).collect();
        // The name becomes part of file paths.
        let name = self.settings.run.clone().unwrap_or_else(|| format!("{stage} {when}")).replace(['/', '\\'], "-");
        let mut config = settings.as_object().cloned().unwrap_or_default();
        config.insert("_Created".to_owned(), json!(timestamp(began)));
        let run = Run { project: self.settings.project.clone(), name, id: id.to_owned(), step: 0, config: Value::Object(config) };
        self.watch(Some((run.project.clone(), run.name.clone(), run.id.clone())));
        self.runs.insert(stage.to_owned(), run.clone());
        run
    }

    /// The key of the Trackio run that a stage logs to. A stage without a metrics log gets a run of its own.
    fn run_of(&mut self, stage: &str) -> String {
        let shown = self.settings.models.get(stage).filter(|model| self.runs.contains_key(*model)).cloned();
        let shown = shown.unwrap_or_else(|| stage.to_owned());
        if !self.runs.contains_key(&shown) {
            let (id, time) = (self.id_of(&shown), self.time());
            self.open(&shown, &id, &time, &Value::Null);
        }
        shown
    }

    /// Run id of a stage without a metrics log; a replay gives the same id each time.
    fn id_of(&self, stage: &str) -> String {
        match &self.replay_time {
            Some(time) => blake3::hash(format!("{stage} {time}").as_bytes()).to_hex().chars().take(32).collect(),
            None => metrics_log::id(Path::new(stage)),
        }
    }

    /// Sends metrics of a step; `what` makes the record id unique within the step.
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

    /// Sends a row of the metrics log.
    fn row(&mut self, stage: &str, row: &MetricsRow) {
        let kind = if row.values.contains_key("loss") { "train" } else { "eval" };
        self.log(
            stage,
            row.step,
            kind,
            row.time.as_deref(),
            row.values.iter().map(|(name, value)| (grouped(name), metrics::number(*value))).collect(),
        );
    }

    /// Sends the worst clips: a table and their audio.
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
            // Clips from different folders may share a file name.
            let kept = format!("{index:02}-{name}");
            let caption = format!("WER {:.0} % · said: {} · heard: {}", 100.0 * clip.wer, clip.reference, clip.tuned);
            let path = format!("{}/{}/{}/{kept}", canonical(&run.project), run.name, run.step);
            // In a replay the audio file may no longer exist.
            if self.replay_time.is_some() && !audio.is_file() {
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

    /// Sends an alert: `level` is `warn` or `error`.
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
    fn report_event(&mut self, event: &Event) -> Result<(), Error> {
        match event {
            Event::StageStarted { stage, kind, .. } => {
                self.kinds.insert(stage.clone(), kind.clone());
            }
            Event::Journal { stage, id, began, path, step, settings } => {
                self.open(stage, id, began, settings);
                // Send the whole log of a resumed training: Trackio skips the records it already has.
                let rows = if *step > 0 { metrics_log::read(Path::new(path)).map_or(Vec::new(), |(_, rows)| rows) } else { Vec::new() };
                for row in rows {
                    self.row(stage, &row);
                }
            }
            Event::Metrics { stage, step, values } => {
                let shown = self.run_of(stage);
                self.row(&shown, &MetricsRow { step: *step, time: None, values: values.clone() });
            }
            Event::WorstClips { stage, clips } => self.clips(stage, clips),
            Event::StageFinished { stage, metrics, .. } if self.kinds.get(stage).is_some_and(|kind| kind == "evaluate") => {
                let shown = self.run_of(stage);
                let step = self.runs.get(&shown).map_or(0, |run| run.step);
                let metrics = metrics.iter().map(|(name, value)| (format!("{stage}/{name}"), metrics::number(*value))).collect();
                self.log(&shown, step, stage, None, metrics);
                self.watch(None);
            }
            Event::StageFinished { .. } | Event::StageInterrupted { .. } => self.watch(None),
            Event::StageFailed { stage, message, .. } => {
                self.alert(stage, "error", format!("stage {stage} failed"), message);
                self.watch(None);
            }
            Event::Warning { stage, message } => self.alert(stage, "warn", format!("stage {stage}"), message),
            Event::RunFinished { .. } => self.uploader.finish(),
            _ => {}
        }
        Ok(())
    }

    fn warning(&mut self) -> Option<String> {
        self.uploader.warning()
    }
}

/// Metric name with its chart group, as the Hugging Face Trainer logs it: `train/loss`, `eval/loss`.
fn grouped(name: &str) -> String {
    match name.strip_prefix("eval_") {
        Some(name) => format!("eval/{name}"),
        None if name.contains('/') => name.to_owned(),
        None => format!("train/{name}"),
    }
}

/// The project name as Trackio uses it in file paths: letters, digits, `-` and `_` only.
fn canonical(project: &str) -> String {
    let kept: String = project.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, '-' | '_')).collect();
    if kept.is_empty() { "default".to_owned() } else { kept }
}

/// A UTC time in Trackio's format: `+00:00` instead of `Z`.
fn timestamp(time: &str) -> String {
    time.strip_suffix('Z').map_or_else(|| time.to_owned(), |time| format!("{time}+00:00"))
}
