//! Tests of experiment tracking: the metrics log, plotted curves, the Trackio reporter; and reproducible training with audio augmentation.

mod server;

use crate::end_to_end::project;
use crate::support::{Ran, Sandbox, files, golden, signal, skipped};
use pipeline::events::metrics_log::{MetricsLog, MetricsRow};
use pipeline::events::reporter::Reporter;
use pipeline::events::{Event, WorstClip, metrics_log};
use serde_json::{Value, json};
use server::Server;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use voxpipe::report::trackio::{TrackioReporter, TrackioSettings, TrackioTarget, TrackioToken};

const SECRET: &str = "a-secret-that-nobody-should-see";

fn reporter(place: TrackioTarget) -> TrackioReporter {
    let models = BTreeMap::from([("scores".to_owned(), "adapter".to_owned())]);
    TrackioReporter::new(TrackioSettings { place, project: "my project".to_owned(), run: None, models })
}

fn metrics(step: u64) -> Event {
    Event::Metrics { stage: "adapter".to_owned(), step, values: BTreeMap::from([("loss".to_owned(), 1.0 / step as f64)]) }
}

fn begin(journal: &MetricsLog, step: u64) -> Event {
    Event::Journal {
        stage: "adapter".to_owned(),
        id: journal.head.id.clone(),
        began: "2026-11-22T10:00:00.000Z".to_owned(),
        path: journal.path().display().to_string(),
        step,
        settings: json!({ "lora": { "r": 8 } }),
    }
}

/// Reports a training of three steps, resumed after the first one, and its evaluation. Returns the warnings.
fn tell_all(trackio: &mut dyn Reporter, folder: &Path) -> Vec<String> {
    let mut journal = MetricsLog::open(&folder.join(metrics_log::FILE), "p", "adapter", Vec::new()).unwrap();
    journal.write(MetricsRow::new(1, [("loss", 1.0)])).unwrap();
    fs::write(folder.join("clip.wav"), b"RIFF").unwrap();
    let clip = WorstClip {
        audio: folder.join("clip.wav").display().to_string(),
        reference: "good day".to_owned(),
        base: None,
        tuned: "good hay".to_owned(),
        wer: 0.5,
        finished: true,
    };
    let stage = || "scores".to_owned();
    let wer = BTreeMap::from([("wer".to_owned(), 0.5)]);
    let events = [
        begin(&journal, 1),
        metrics(2),
        Event::Metrics { stage: "adapter".to_owned(), step: 2, values: BTreeMap::from([("eval_loss".to_owned(), 0.7)]) },
        metrics(3),
        Event::Warning { stage: "adapter".to_owned(), message: "the loss jumps".to_owned() },
        Event::StageStarted { stage: stage(), kind: "evaluate".to_owned(), why: String::new(), attempt: 1 },
        Event::WorstClips { stage: stage(), clips: vec![clip] },
        Event::StageFinished { stage: stage(), seconds: 1.0, summary: String::new(), metrics: wer, kept: Default::default() },
        Event::RunFinished { exit: 0, seconds: 1.0 },
    ];
    let mut troubles = Vec::new();
    for event in &events {
        trackio.report_event(event).unwrap();
        troubles.extend(std::iter::from_fn(|| trackio.warning()));
    }
    troubles
}

fn records(folder: &Path) -> Vec<Value> {
    let fragments = files(&folder.join("inbox"));
    assert!(fragments.keys().all(|name| name.ends_with(".jsonl")), "{:?}", fragments.keys());
    fragments
        .values()
        .flat_map(|bytes| String::from_utf8_lossy(bytes).lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>())
        .collect()
}

#[test]
fn on_this_machine_trackio_finds_fragments_and_recordings() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("trackio");
    assert_eq!(tell_all(&mut reporter(TrackioTarget::Here(place.clone())), dir.path()), Vec::<String>::new());
    let records = records(&place);
    let of = |kind: &str| records.iter().filter(|record| record["kind"] == kind).collect::<Vec<_>>();
    let metrics = of("metric");
    let steps: Vec<(u64, String)> = metrics
        .iter()
        .map(|it| (it["step"].as_u64().unwrap(), it["metrics"].as_object().unwrap().keys().next().unwrap().clone()))
        .collect();
    let expected = [(1, "train/loss"), (2, "train/loss"), (2, "eval/loss"), (3, "train/loss"), (3, "scores/worst"), (3, "scores/wer")];
    assert_eq!(steps, expected.map(|(step, name)| (step, name.to_owned())), "what the journal held comes first, scores at the last step");
    for record in &records {
        assert_eq!(
            (record["v"].as_u64(), &record["project"], &record["run"]),
            (Some(1), &json!("my project"), &json!("adapter 2026-11-22 10:00:00"))
        );
        assert!(record["timestamp"].as_str().unwrap().ends_with("+00:00"));
    }
    assert_eq!(metrics[0]["config"]["lora"]["r"], 8);
    assert!(metrics[1..].iter().all(|record| record["config"].is_null()), "settings are told once");
    let ids: std::collections::BTreeSet<&str> = metrics.iter().map(|record| record["log_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), metrics.len(), "each has a name of its own");
    let worst = &metrics[4]["metrics"];
    assert_eq!(worst["scores/worst"]["_type"], "trackio.table");
    assert_eq!(worst["scores/worst"]["_value"][0]["heard"], "good hay");
    assert_eq!(worst["scores/worst_01"]["_type"], "trackio.audio");
    assert_eq!(fs::read(place.join("media").join(worst["scores/worst_01"]["file_path"].as_str().unwrap())).unwrap(), b"RIFF");
    assert_eq!((of("alert").len(), of("alert")[0]["level"].as_str()), (1, Some("warn")));
}

#[test]
fn a_server_gets_all_of_it_though_it_was_away_and_the_token_is_in_no_message() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(SECRET, 1, 2);
    let troubles = tell_all(
        &mut reporter(TrackioTarget::Server { address: server.address.clone(), token: Some(TrackioToken::new(SECRET.to_owned())) }),
        dir.path(),
    );
    assert!(troubles.len() == 1 && troubles[0].contains("writes are paused") && troubles[0].contains("retried"), "{troubles:?}");
    let logs: Vec<Value> =
        server.asked("/api/bulk_log").iter().flat_map(|asked| asked.json()["logs"].as_array().unwrap().clone()).collect();
    assert_eq!(logs.iter().map(|log| log["step"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 2, 3, 3, 3]);
    assert!(logs.iter().all(|log| log["log_id"].is_string() && log.get("kind").is_none()));
    let upload = &server.asked("/api/upload")[0];
    assert!(String::from_utf8_lossy(&upload.body).contains("filename=\"00-clip.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n--"));
    let media = server.asked("/api/bulk_upload_media")[0].json();
    assert_eq!(media["uploads"][0]["uploaded_file"]["path"], "/tmp/trackio-upload-1.wav");
    assert_eq!(media["uploads"][0]["step"], 3);
    assert_eq!(server.asked("/api/bulk_alert").len(), 1);
    assert!(upload.token.as_deref() == Some(SECRET));

    let server = Server::start("another", 1, 0);
    let place = TrackioTarget::Server { address: server.address.clone(), token: Some(TrackioToken::new(SECRET.to_owned())) };
    assert!(!format!("{place:?}").contains(SECRET));
    let troubles = tell_all(&mut reporter(place), dir.path()).join("\n");
    assert!(troubles.contains("TRACKIO_WRITE_TOKEN") && troubles.contains("were not sent to Trackio"), "{troubles}");
    assert!(!troubles.contains(SECRET), "{troubles}");
}

#[test]
fn the_real_trackio_imports_what_we_leave_it() {
    let what = "fragments read by Trackio";
    let python = std::env::var("VOXPIPE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if !Command::new(&python).args(["-c", "import trackio.fragments"]).output().is_ok_and(|output| output.status.success()) {
        return skipped(what, "no Python with the trackio package was found (name one in VOXPIPE_TEST_PYTHON)");
    }
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("trackio");
    let code = "import json\nfrom trackio.fragments import import_inbox_dir\nfrom trackio.sqlite_storage import SQLiteStorage as S\n\
                n = import_inbox_dir()\nprint(json.dumps([n, S.get_projects(), S.get_runs('my project'), len(S.get_logs('my project', S.get_runs('my project')[0]))]))";
    // Send everything twice, as a resumed training does: Trackio must not have duplicates.
    for imported in [7, 7] {
        let mut trackio = reporter(TrackioTarget::Here(place.clone()));
        tell_all(&mut trackio, dir.path());
        let output = Command::new(&python).args(["-c", code]).env("TRACKIO_DIR", &place).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let found: Value =
            serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(found[0], imported);
        assert_eq!(found[2], json!(["adapter 2026-11-22 10:00:00"]));
        assert_eq!(found[3], 6, "nothing is there twice");
    }
}

/// Finished runs are sent to Trackio afterwards.
#[test]
fn runs_that_are_over_are_told_again_and_nothing_is_there_twice() {
    let sandbox = Sandbox::new();
    sandbox.pipeline(
        "schema = 1\n[pipeline]\nname = \"p\"\n[params]\nn = 2\n[stage.tuned]\nuses = \"command\"\nwith = { run = [\"sh\", \"steps.sh\", \"${params.n}\"] }\n",
    );
    sandbox.file("steps.sh", "i=0; while [ $i -lt $1 ]; do i=$((i + 1)); echo \"{\\\"metrics\\\": {\\\"loss\\\": 0.$i}}\"; done\n");
    sandbox.run(&["run"]).exits(0);
    sandbox.run(&["run", "--set", "n=3"]).exits(0);
    let sync = |more: &[&str], token: &str| {
        let mut command = sandbox.command(&[&["trackio", "sync"], more].concat());
        Ran::of(command.env("TRACKIO_DIR", sandbox.path("trackio")).env("TRACKIO_WRITE_TOKEN", token).output().unwrap())
    };
    let place = sandbox.path("trackio");
    // Each run has a folder of its own, in no particular order.
    let records = || {
        let mut records = records(&place);
        records.sort_by_key(|record| (record["timestamp"].as_str().unwrap().to_owned(), record["step"].as_u64()));
        records
    };
    let told = sync(&["--all"], "").exits(0).stdout;
    assert_eq!(told, format!("sent 5 records of 2 runs to Trackio: `{}`\n", place.display()));
    let first = records();
    let losses: Vec<_> = first.iter().map(|it| (it["step"].as_u64().unwrap(), it["metrics"]["train/loss"].as_f64().unwrap())).collect();
    assert_eq!(losses, [(1, 0.1), (2, 0.2), (1, 0.1), (2, 0.2), (3, 0.3)]);
    // Records have their original time, and the same ids in each replay.
    let log = sandbox.run(&["logs", "--json", "--run", "previous"]).exits(0).stdout;
    let time: Value = serde_json::from_str(log.lines().find(|line| line.contains("\"event\":\"metrics\"")).unwrap()).unwrap();
    assert_eq!(first[0]["timestamp"], time["time"].as_str().unwrap().replace('Z', "+00:00"));
    fs::remove_dir_all(&place).unwrap();
    sync(&["--all"], "").exits(0);
    assert_eq!(records(), first);

    let server = Server::start(SECRET, 1, 1);
    let ran = sync(&["--to", &server.address], SECRET).exits(0);
    assert!(ran.stdout.starts_with("sent 3 records of 1 run to Trackio") && !format!("{ran:?}").contains(SECRET), "{ran:?}");
    let ids: Vec<Value> = server.asked("/api/bulk_log").iter().flat_map(|it| it.json()["logs"].as_array().unwrap().clone()).collect();
    assert_eq!(ids.iter().map(|log| &log["log_id"]).collect::<Vec<_>>(), first[2..].iter().map(|it| &it["log_id"]).collect::<Vec<_>>());
    sync(&["--to", "somewhere"], "").exits(2).complains("invalid Trackio target `somewhere`");
    sync(&["--run", "2020-01-01-1"], "").exits(2).complains("no run is called");
}

/// Writes two training curves: one as in a result, one as in a metrics log with a partial last line.
fn curves(sandbox: &Sandbox) {
    let mut text = String::from("{\"id\":\"0\",\"pipeline\":\"p\",\"stage\":\"slow\",\"began\":\"2026-11-22T10:00:00.000Z\"}\n");
    let mut rows = String::new();
    for step in 1..=40_u32 {
        let x = f64::from(step);
        let loss = |speed: f64| (1e4 * (0.5 + 6.0 / (1.0 + speed * x))).round() / 1e4;
        rows += &format!(
            "{{\"step\":{step},\"epoch\":{},\"loss\":{},\"learning_rate\":{},\"grad_norm\":1.5}}\n",
            x / 10.0,
            loss(0.3),
            5e-5 * (1.0 - x / 41.0)
        );
        text += &format!("{{\"step\":{step},\"time\":\"2026-11-22T10:00:{step:02}.000Z\",\"loss\":{}}}\n", loss(0.1));
        if step % 10 == 0 {
            text += &format!("{{\"step\":{step},\"eval_loss\":{}}}\n", loss(0.08));
        }
    }
    sandbox.file("loss.jsonl", &rows).file("journal.jsonl", &(text + "{\"step\":41,\"lo"));
}

#[test]
fn curves_are_drawn_as_text_as_svg_and_as_json() {
    let sandbox = Sandbox::new();
    curves(&sandbox);
    golden("plot.txt", &sandbox.run(&["plot", "loss.jsonl", "--width", "72"]).exits(0).stdout);
    golden(
        "plot-two.txt",
        &sandbox
            .run(&["plot", "loss.jsonl", "journal.jsonl", "--metric", "loss", "--metric", "eval_loss", "--width", "60"])
            .exits(0)
            .stdout,
    );
    sandbox.run(&["plot", "loss.jsonl", "journal.jsonl", "--svg", "out.svg"]).exits(0);
    golden("plot.svg", &sandbox.read("out.svg"));
    let found = sandbox.run(&["plot", "journal.jsonl", "--json", "--metric", "eval_loss"]).exits(0).json();
    assert_eq!(found["curves"][0]["steps"], json!([10, 20, 30, 40]));
    assert_eq!(found["curves"][0]["values"][3], 1.9286);
    sandbox.run(&["plot", "loss.jsonl", "--metric", "los"]).exits(2).complains("did you mean `loss`?");
    sandbox.file("loss.jsonl", "{\"step\":1,\"loss\":2}\nnonsense\n");
    sandbox.run(&["plot", "loss.jsonl"]).exits(1).complains("loss.jsonl:2:");
}

#[test]
fn what_is_wrong_with_tracking_and_augmentation_is_said_at_its_place() {
    let sandbox = Sandbox::new();
    let stage = |with: &str| {
        format!(
            "[stage.a]\nuses = \"command\"\nwith = {{ run = [\"true\"] }}\n[stage.t]\nuses = \"train\"\nfrom = {{ data = \"a\" }}\nwith = {{ base = \"b\", {with} }}\n"
        )
    };
    let check = |tracking: &str, with: &str| {
        sandbox.pipeline(&format!("schema = 1\n[pipeline]\nname = \"p\"\n[tracking]\n{tracking}\n{}", stage(with)));
        sandbox.run(&["check"]).stderr
    };
    for (tracking, words) in [
        ("trackio = \"my-server\"", "is not the URL of a server"),
        ("trackio = \"https://host/?write_token=hidden\"", "TRACKIO_WRITE_TOKEN"),
        ("trackio = 3", "trackio"),
        ("trackio = true\nproject = \" \"", "cannot be the name of a project"),
        ("trakio = true", "did you mean `trackio`?"),
    ] {
        let said = check(tracking, "epochs = 1");
        assert!(said.contains(words), "{tracking}: {said}");
    }
    for (augment, words) in [
        ("{ speed = [0.9, 3] }", "`speed` must be two numbers from 0.5 to 2"),
        ("{ gain_db = [6, -6] }", "the lower first"),
        ("{ probability = 0, time_masks = 1 }", "`probability` must be above 0"),
        ("{ probability = 0.5 }", "sets no augmentation"),
        ("{ time_masks = 1, time_mask_frames = 0 }", "`time_mask_frames` must be from 1 to 65536"),
    ] {
        let said = check("trackio = true", &format!("augment = {augment}"));
        assert!(said.contains(words), "{augment}: {said}");
    }
}

const AUGMENT: &str =
    "augment = { speed = [0.8, 1.2], gain_db = [-6, 6], noise_snr_db = [15, 40], time_masks = 2, frequency_masks = 1, probability = 0.8 }";

/// A pipeline that trains the tiny model; `with` adds settings.
fn training(with: &str) -> Sandbox {
    let sandbox = project();
    sandbox.pipeline(&format!(
        r#"
schema = 1
[pipeline]
name = "road"
[tracking]
trackio = true
[stage.uploads]
uses = "uploads"
with = {{ audio = "speech/clips", transcripts = "speech/transcripts.csv", language = "en" }}
[stage.dataset]
uses = "dataset"
from = {{ clips = "uploads" }}
with = {{ split = {{ train = 0.8, test = 0.2 }} }}
[stage.adapter]
uses = "train"
from = {{ data = "dataset" }}
with = {{ base = "models/tiny", lora = {{ r = 4, dropout = 0.1 }}, max_steps = 8, learning_rate = 1e-3, save_steps = 2, {with} }}
"#
    ));
    sandbox
}

/// The bytes of the adapter and of the losses.
fn result(sandbox: &Sandbox) -> [Vec<u8>; 2] {
    ["adapter_model.safetensors", "loss.jsonl"].map(|name| fs::read(sandbox.path(".voxpipe/latest/road/adapter").join(name)).unwrap())
}

fn steps(sandbox: &Sandbox, what: &str) -> Vec<u64> {
    let found = sandbox.run(&["plot", what, "--json", "--metric", "loss"]).exits(0).json();
    found["curves"][0]["steps"].as_array().unwrap().iter().map(|step| step.as_u64().unwrap()).collect()
}

#[test]
fn a_killed_training_with_changed_clips_ends_in_the_same_bytes_and_its_curve_has_each_step_once() {
    let whole = training(&format!("batch_size = 4, gradient_accumulation = 1, {AUGMENT}"));
    whole.run(&["run"]).exits(0);
    assert!(whole.read(".voxpipe/latest/road/adapter/training.json").contains("noise_snr_db"), "what was done to the clips is told");

    let cut = training(&format!("batch_size = 1, gradient_accumulation = 4, {AUGMENT}"));
    let mut child = cut.command(&["run"]).env("RAYON_NUM_THREADS", "1").spawn().unwrap();
    let journal = || {
        let work = fs::read_dir(cut.path(".voxpipe/work")).ok()?;
        work.flatten().map(|entry| entry.path().join("scratch").join(metrics_log::FILE)).find(|path| path.exists())
    };
    let begun = Instant::now();
    while journal().and_then(|path| metrics_log::read(&path).ok()).is_none_or(|(_, rows)| rows.len() < 3) {
        assert!(child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(120), "it should be under way");
        std::thread::sleep(Duration::from_millis(2));
    }
    signal(&child, "KILL");
    child.wait().unwrap();
    let before = steps(&cut, "adapter");
    assert_eq!(before, (1..=before.len() as u64).collect::<Vec<_>>(), "the journal survives");
    cut.run(&["run"]).exits(0);
    assert!(result(&cut) == result(&whole), "other bytes after going on, with a batch cut otherwise, on one core");
    for what in ["adapter", "latest"] {
        assert_eq!(steps(&cut, what), (1..=8).collect::<Vec<_>>(), "{what}");
    }

    let plain = training("batch_size = 4, gradient_accumulation = 1");
    plain.run(&["run"]).exits(0);
    assert!(result(&plain)[1] != result(&whole)[1], "clips that are changed teach something else");
    let told = files(&plain.path("../home/.cache/huggingface/trackio/inbox"));
    assert!(!told.is_empty(), "the run was left to Trackio");
}
