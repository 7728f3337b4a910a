//! Unit-level tests of each stage kind in temporary folders: the normal path, and each bad input with the location that its message names.

mod command;
mod dataset;
mod environments;
mod phrases;
mod publishing;
mod recordings;
#[path = "../crates/voxtral/src/audio/speech/speech_like.rs"]
mod speech_like;
mod uploads;

use pipeline::artifact::{Artifact, ArtifactKind};
use pipeline::events::{Emitter, Event};
use pipeline::exit::Exit;
use pipeline::stage::{Context, Stage, StageOutcome, StageResult};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use voxpipe::error::{Error, Result};
use voxpipe_io::digest::Digest;

/// Test bench: a project in a temporary folder with one stage to run.
pub(crate) struct Bench {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) cx: Context,
    events: Arc<Mutex<Vec<Event>>>,
    runs: u32,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&events);
        let cx = Context {
            sources: Arc::default(),
            upstream: BTreeMap::new(),
            stage: "it".to_owned(),
            pipeline: "bench".to_owned(),
            root: folder.path().join("project"),
            seed: 7,
            inputs: BTreeMap::new(),
            out: folder.path().join("out-0"),
            scratch: folder.path().join("scratch"),
            cache: folder.path().join("cache"),
            gpus: Vec::new(),
            liveness: None,
            emitter: Emitter::new(move |event| heard.lock().unwrap().push(event)),
            stop: Arc::new(AtomicBool::new(false)),
        };
        for path in [&cx.root, &cx.out, &cx.scratch] {
            fs::create_dir(path).unwrap();
        }
        Self { folder, cx, events, runs: 0 }
    }

    /// Writes a file of the project.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.cx.root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// Adds an input artifact.
    pub(crate) fn give(&mut self, port: &str, artifact: Artifact) {
        self.cx.inputs.entry(port.to_owned()).or_default().push(artifact);
    }

    /// Runs a stage with a new, empty `cx.out`.
    pub(crate) fn outcome<S: Stage>(&mut self, with: Value) -> Result<StageOutcome> {
        self.runs += 1;
        self.cx.out = self.folder.path().join(format!("out-{}", self.runs));
        fs::create_dir(&self.cx.out).unwrap();
        self.events.lock().unwrap().clear();
        stage::<S>(with).run(&self.cx)
    }

    pub(crate) fn made<S: Stage>(&mut self, with: Value) -> StageResult {
        match self.outcome::<S>(with) {
            Ok(StageOutcome::Done(made)) => made,
            other => panic!("not done: {other:?}"),
        }
    }

    pub(crate) fn error<S: Stage>(&mut self, with: Value) -> Error {
        match self.outcome::<S>(with) {
            Err(error) => error,
            other => panic!("no error: {other:?}"),
        }
    }

    /// Runs a stage and adds its result as an input of the next one.
    pub(crate) fn artifact<S: Stage>(&mut self, with: Value) -> Artifact {
        let kind = stage::<S>(with.clone()).output();
        let made = self.made::<S>(with);
        let mut artifact = artifact(kind, &self.cx.out);
        artifact.metrics = made.metrics;
        artifact.facts = made.facts;
        artifact
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    /// All notes and warnings, one per line.
    pub(crate) fn heard(&self) -> String {
        let say = |event| match event {
            Event::Note { message, .. } => Some(format!("note: {message}\n")),
            Event::Warning { message, .. } => Some(format!("warning: {message}\n")),
            _ => None,
        };
        self.events().into_iter().filter_map(say).collect()
    }

    pub(crate) fn out(&self, name: &str) -> String {
        fs::read_to_string(self.cx.out.join(name)).unwrap()
    }

    pub(crate) fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.out(name)).unwrap()
    }

    pub(crate) fn rows<T: DeserializeOwned>(&self, name: &str) -> Vec<T> {
        self.out(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub(crate) fn stage<S: Stage>(with: Value) -> S {
    serde_json::from_value(with).unwrap()
}

pub(crate) fn complaints<S: Stage>(with: Value) -> Vec<(String, String)> {
    let complaints = Stage::check(&stage::<S>(with));
    complaints.into_iter().map(|it| (it.path.join("."), format!("{} | {}", it.message, it.hint.unwrap_or_default()))).collect()
}

pub(crate) fn artifact(kind: ArtifactKind, path: &Path) -> Artifact {
    Artifact {
        kind,
        path: path.to_owned(),
        digest: Digest::of(path.as_os_str().as_encoded_bytes()),
        stage: format!("the-{kind}"),
        summary: String::new(),
        metrics: BTreeMap::new(),
        facts: BTreeMap::new(),
    }
}

/// Every file below a folder with its contents.
pub(crate) fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(base: &Path, folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(base, &path, found);
            } else {
                found.insert(path.strip_prefix(base).unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}

#[track_caller]
pub(crate) fn says(error: &Error, parts: &[&str]) {
    for part in parts {
        assert!(error.message.contains(part), "`{part}` is missing in: {}", error.message);
    }
    assert!(error.hint.is_some(), "no advice with: {}", error.message);
}

/// A WAV file with a distinct tone, in any format that a recorder may produce.
pub(crate) fn tone(seconds: f64, pitch: f64, rate: u32, channels: u16, bits: u16) -> Vec<u8> {
    let spec = hound::WavSpec { channels, sample_rate: rate, bits_per_sample: bits, sample_format: hound::SampleFormat::Int };
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    let full = f64::from((1_u32 << (bits - 1)) - 1);
    for index in 0..(seconds * f64::from(rate)).round() as u32 {
        let phase = f64::from(index) / f64::from(rate) * pitch * std::f64::consts::TAU;
        (0..channels).for_each(|_| writer.write_sample((phase.sin() * 0.3 * full) as i32).unwrap());
    }
    writer.finalize().unwrap();
    bytes.into_inner()
}

/// A WAV file of 16 kHz with sound like speech; each `seed` is another utterance.
pub(crate) fn spoken(seconds: f64, seed: u64) -> Vec<u8> {
    wav(&speech_like::speech_like(seconds, seed))
}

/// A 16 kHz mono WAV file of samples.
pub(crate) fn wav(samples: &[f32]) -> Vec<u8> {
    let spec = hound::WavSpec { channels: 1, sample_rate: 16_000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    samples.iter().for_each(|sample| writer.write_sample((sample * 32_768.0).clamp(-32_768.0, 32_767.0) as i16).unwrap());
    writer.finalize().unwrap();
    bytes.into_inner()
}

/// A plain clip of a little more than one second.
pub(crate) fn clip(number: u32) -> Vec<u8> {
    tone(1.0 + f64::from(number) / 100.0, 200.0 + 10.0 * f64::from(number), 16_000, 1, 16)
}

#[test]
fn the_bench_itself_is_sound() {
    let bench = Bench::new();
    bench.file("a/b.txt", "x");
    assert_eq!(tree(&bench.cx.root), BTreeMap::from([("a/b.txt".to_owned(), b"x".to_vec())]));
    assert_eq!(complaints::<voxpipe::stages::command::Command>(json!({"run": []}))[0].0, "run");
    assert_eq!(Exit::from(&Error::new("x")), Exit::Failed);
}
