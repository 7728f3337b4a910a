//! Tests of the studio server through its HTTP API: what it accepts and rejects, and that no data is lost when it stops. The pages are
//! tested with a browser in `studio/journey.rs`.

pub(crate) mod client;
mod demo;
mod hostile;
mod journey;

use crate::support::{Sandbox, files};
use client::{Answer, Server};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Path of a file in this repository.
fn own(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Real speech as a 16 kHz WAV file.
fn speech() -> Vec<u8> {
    fs::read(own("tests/audio/speech.wav")).unwrap()
}

/// A silent 16 kHz WAV file.
fn silence(seconds: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let spec = hound::WavSpec { channels: 1, sample_rate: 16_000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    (0..seconds * 16_000).for_each(|_| writer.write_sample(0_i16).unwrap());
    writer.finalize().unwrap();
    bytes.into_inner()
}

/// The speech without its first `skip` × 10 ms, so that each take has different bytes.
fn take(skip: usize) -> Vec<u8> {
    let mut reader = hound::WavReader::new(std::io::Cursor::new(speech())).unwrap();
    let spec = reader.spec();
    let samples: Vec<i16> = reader.samples().map(Result::unwrap).collect();
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    samples[skip * 160..].iter().for_each(|sample| writer.write_sample(*sample).unwrap());
    writer.finalize().unwrap();
    bytes.into_inner()
}

/// A project with the small base model of this repository, created as the first page does, with sentences to read.
fn begun(sentences: usize, minimum: usize) -> (Sandbox, Server) {
    let sandbox = Sandbox::new();
    for (name, bytes) in files(&own("pipelines/models/voxtral-nano")) {
        fs::create_dir_all(sandbox.path("models/nano")).unwrap();
        fs::write(sandbox.path("models/nano").join(name), bytes).unwrap();
    }
    let server = Server::start(&sandbox, &["studio", "--port", "0"]);
    let said = json!({
        "language": "en", "way": "record", "name": "mine", "base": "models/nano", "source": "embedded",
        "settings": {
            "stage.phrases.with.count": sentences, "stage.clips.with.min_clips": minimum, "params.epochs": 1,
            "stage.dataset.with.split": { "train": 0.5, "test": 0.5 }, "stage.dataset.with.checks": { "letters_per_second": "warn" }, "stage.adapter.with.batch_size": 2,
            "stage.adapter.with.gradient_accumulation": 1, "stage.scores.with.max_new_tokens": 8,
        },
    });
    let begun = server.post("/api/begin", &said).is(200);
    assert_eq!(begun["check"]["ok"], true, "{begun}");
    server.run();
    (sandbox, server)
}

fn phrases(server: &Server) -> Vec<Value> {
    server.get("/api/phrases").is(200)["phrases"].as_array().unwrap().clone()
}

/// The studio reads the file as `run` does: stages of included files, parameters filled in, and the project's root.
#[test]
fn included_stages_and_the_project_root_are_known() {
    let sandbox = Sandbox::new();
    sandbox.file("recordings-here/en-0001.wav", "").file("texts.txt", "One sentence here.\nAnother sentence there.\n");
    sandbox.file(
        "conf/parts/voice.toml",
        "[params]\nlanguage = \"en\"\n[stage.sentences]\nuses = \"phrases\"\nwith = { language = \"${params.language}\", source = \"file\", file = \"texts.txt\", \
         count = 2 }\n[stage.voice]\nuses = \"recordings\"\nfrom = { phrases = \"sentences\" }\nwith = { folder = \"my-voice\", min_clips = 2 }\n",
    );
    sandbox.file("conf/mine.toml", "\u{feff}\"include\" = ['parts/*.toml']\nschema = 1\n[pipeline]\nname = \"mine\"\nroot = '..'\n");
    let server = Server::start(&sandbox, &["studio", "conf/mine.toml", "--port", "0"]);
    let settings = server.get("/api/settings").is(200);
    assert_eq!(settings["stage"]["voice"]["with"]["folder"], "my-voice", "{settings}");
    let state = server.get("/api/state").is(200);
    assert_eq!(state["records"], true, "{state}");
    sandbox.run(&["run", "conf/mine.toml"]).exits(10);
    let ids: Vec<String> = phrases(&server).iter().map(|phrase| phrase["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 2);
    server.take(&ids[0], &take(0)).is(200);
    assert!(sandbox.path(&format!("my-voice/{}.wav", ids[0])).is_file(), "the take lies where the pipeline looks for it");
    sandbox.run(&["run", "conf/mine.toml"]).exits(10).complains("1 of 2");
}

/// A setting under its former name is shown under the current one, and replaced when it is set.
#[test]
fn former_names_of_settings_are_shown_and_replaced() {
    let sandbox = Sandbox::new();
    sandbox.pipeline(
        "schema = 1\n[pipeline]\nname = \"old\"\n[stage.clips]\nuses = \"uploads\"\nwith = { audio = \"a\", transcripts = \"t.csv\", language = \"en\" }\n\
         [stage.data]\nuses = \"dataset\"\nfrom = { clips = \"clips\" }\n[stage.model]\nuses = \"train\"\nfrom = { data = \"data\" }\n\
         [stage.model.with]\nbase = \"m\"\nrecompute = true\ncheckpoint_steps = 7   # often\n",
    );
    let server = Server::start(&sandbox, &["studio", "--port", "0"]);
    let with = server.get("/api/settings").is(200)["stage"]["model"]["with"].clone();
    assert_eq!(with, json!({ "base": "m", "gradient_checkpointing": true, "save_steps": 7 }));
    let changed = server.post("/api/settings", &json!({ "set": { "stage.model.with.gradient_checkpointing": false } })).is(200);
    assert_eq!(changed["check"]["ok"], true, "{changed}");
    let text = sandbox.read("pipeline.toml");
    assert!(
        text.contains("gradient_checkpointing = false") && !text.contains("recompute") && text.contains("checkpoint_steps = 7   # often"),
        "{text}"
    );
}

#[test]
fn takes_are_kept_judged_and_never_lost() {
    let (sandbox, server) = begun(5, 3);
    let ids: Vec<String> = phrases(&server).iter().map(|phrase| phrase["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 5);
    let first = server.take(&ids[0], &take(0)).is(200);
    assert!(
        first["verdict"] != "reject" && first["file"] == format!("{}.wav", ids[0]) && first["seconds"].as_f64().unwrap() > 0.3,
        "{first}"
    );
    // A repeated upload, after a lost response, gives the same take.
    assert_eq!(server.take(&ids[0], &take(0)).is(200)["number"], 1);
    let second = server.take(&ids[0], &take(1)).is(200);
    assert_eq!((&second["number"], &second["used"]), (&json!(2), &json!(true)));
    let silent = server.take(&ids[1], &silence(2)).is(200);
    assert_eq!(silent["verdict"], "reject");
    assert!(silent["reasons"][0].as_str().unwrap().starts_with("silent"), "{silent}");
    assert!(phrases(&server)[1]["takes"].as_array().unwrap().is_empty());
    // An older take can be selected, and a take can be removed.
    let chosen = server.post(&format!("/api/takes/{}/use", first["file"].as_str().unwrap()), &json!({})).is(200);
    assert_eq!((&chosen[1]["number"], &chosen[1]["sha256"], &chosen[1]["used"]), (&json!(3), &first["sha256"], &json!(true)));
    let left = server.post(&format!("/api/takes/{}/remove", second["file"].as_str().unwrap()), &json!({})).is(200);
    assert_eq!(left.as_array().unwrap().len(), 1);
    server.post(&format!("/api/phrases/{}/report", ids[4]), &json!({ "reason": "too hard" })).is(204);

    // Killing the server during a session loses no data.
    let before = files(&sandbox.path("recordings"));
    assert_eq!(before.values().filter(|bytes| bytes.starts_with(b"RIFF")).count(), 3, "{:?}", before.keys());
    assert!(String::from_utf8_lossy(&before[".reports.jsonl"]).contains("too hard"));
    server.kill();
    let server = Server::start(&sandbox, &["studio", "--port", "0"]);
    assert_eq!(files(&sandbox.path("recordings")), before);
    assert_eq!(phrases(&server)[0]["takes"][0]["sha256"], first["sha256"]);

    // A run in a shell uses the takes of the studio, without rejected and removed ones.
    server.take(&ids[1], &take(2)).is(200);
    sandbox.run(&["run"]).exits(10).complains("2 of 3");
    server.take(&ids[2], &take(3)).is(200);
    let state = server.get("/api/state").is(200);
    assert_eq!((&state["has"]["phrases"], &state["has"]["clips"], &state["running"]), (&json!(true), &json!(false), &json!(false)));
}

#[test]
fn a_run_outlives_the_server_and_is_told_to_the_next_one() {
    let (sandbox, server) = begun(4, 4);
    for (at, phrase) in phrases(&server).iter().enumerate() {
        server.take(phrase["id"].as_str().unwrap(), &take(at)).is(200);
    }
    server.post("/api/run", &json!({})).is(200);
    server.kill();
    let server = Server::start(&sandbox, &["studio", "--port", "0"]);
    server.idle();
    let state = server.get("/api/state").is(200);
    assert_eq!((&state["has"]["model"], &state["has"]["published"]), (&json!(true), &json!(true)), "{state}");
    // The event stream starts at the beginning of the newest run.
    let told = server.events("run-finished");
    assert!(told.iter().any(|event| event["event"] == "metrics" && event["values"]["loss"].is_number()));
    assert!(server.get("/api/curves.svg?metric=loss").text().contains("<svg"));
    assert!(server.get("/api/graph.svg").text().contains("<svg"));
    assert!(server.get("/api/card").is(200)["text"].as_str().unwrap().starts_with("---"));
    assert!(server.get("/api/scores").is(200)["scores"]["tuned"]["wer"].is_number());
    let run = server.get("/api/runs").is(200)["runs"].as_array().unwrap().last().unwrap()["run"].as_str().unwrap().to_owned();
    assert_eq!(server.get(&format!("/api/scores?run={run}")).is(200), server.get("/api/scores").is(200));
    server.get("/api/scores?run=2020-01-01-1").is(409);
    assert!(server.get(&format!("/api/curves.svg?metric=loss&run={run}&other={run}")).text().contains("<svg"));
    let again = sandbox.run(&["run", "--json"]).exits(0).json();
    assert!(again["stages"].as_array().unwrap().iter().all(|stage| stage[1]["result"] == "fresh"), "{again}");

    // A correction makes the dataset and its dependent stages stale.
    let row = server.get("/api/dataset").is(200)["rows"][0].clone();
    let sound = server.get(&format!("/api/sound/dataset/{}", row["audio_path"].as_str().unwrap()));
    assert!(sound.body.starts_with(b"RIFF"));
    let name = row["source"].as_str().or(row["audio_path"].as_str()).unwrap();
    server.post("/api/edits", &json!({ "clip": name, "text": "Said otherwise." })).is(200);
    server.run();
    let rows = server.get("/api/dataset").is(200)["rows"].clone();
    assert!(rows.to_string().contains("Said otherwise."), "{rows}");
    server.post("/api/edits", &json!({ "clip": name, "exclude": true })).is(200);
    server.run();
    assert_eq!(server.get("/api/dataset").is(200)["rows"].as_array().unwrap().len(), 3);
    assert!(sandbox.read("pipeline.toml").contains("edits = \"edits.jsonl\""));

    // Both models transcribe.
    for model in ["tuned", "base"] {
        assert!(server.send("POST", &format!("/api/transcribe/{model}"), &[], &speech()).is(200)["text"].is_string());
    }
    let begun = Instant::now();
    server.stop();
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn the_file_is_changed_in_place_and_its_mistakes_are_placed() {
    let (sandbox, server) = begun(4, 4);
    let before = sandbox.read("pipeline.toml");
    let told = server.post("/api/settings", &json!({ "set": { "params.learning_rate": 1e-4 } })).is(200);
    assert_eq!(told["text"], before.replace("learning_rate = 5e-5", "learning_rate = 0.0001"));
    let estimate = server.get("/api/estimate").is(200);
    assert_eq!(estimate["fits"], true, "{estimate}");
    let need = |changes: Value| {
        server.post("/api/settings", &json!({ "set": changes })).is(200);
        server.get("/api/estimate").is(200)["need"].as_u64().unwrap()
    };
    let lora = estimate["need"].as_u64().unwrap();
    assert!(need(json!({ "stage.adapter.with.method": "full" })) > lora + 4 * 5 * 1_000_000);
    assert!(need(json!({ "stage.adapter.with.method": "lora", "stage.adapter.with.batch_size": 4 })) > lora);
    server.send("PUT", "/api/pipeline", &[], before.as_bytes()).is(200);
    let broken = before.replace("min_clips", "min_clip");
    let told = server.send("PUT", "/api/pipeline", &[("content-type", "text/plain")], broken.as_bytes()).is(200);
    let mistake = &told["check"]["diagnostics"][0];
    let line = 1 + broken.lines().position(|line| line.contains("min_clip")).unwrap();
    assert_eq!((&told["check"]["ok"], &mistake["place"]["line"]), (&json!(false), &json!(line)), "{mistake}");
    assert_eq!(sandbox.read("pipeline.toml"), broken);
    server.post("/api/begin", &json!({ "language": "xx", "way": "record" })).is(400);
    let own = json!({ "language": "en", "way": "record", "text": "First sentence of mine.\n\n Second one. " });
    server.send("PUT", "/api/pipeline", &[], before.as_bytes()).is(200);
    server.post("/api/begin", &own).is(200);
    assert_eq!(sandbox.read("phrases.txt"), "First sentence of mine.\nSecond one.\n");
    let settings = server.get("/api/settings").is(200);
    assert_eq!(
        (&settings["stage"]["phrases"]["with"]["source"], &settings["stage"]["phrases"]["with"]["count"]),
        (&json!("file"), &json!(2))
    );
}

#[test]
fn uploads_go_the_same_way() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &["studio", "--port", "0"]);
    server.post("/api/begin", &json!({ "language": "en", "way": "recordings", "name": "mine", "base": "nowhere" })).is(200);
    for (name, bytes) in
        [("a.wav", take(0)), ("b.wav", take(1)), ("transcripts.csv", b"file,text\na.wav,One sentence.\nc.wav,Another one.\n".to_vec())]
    {
        server.send("POST", &format!("/api/uploads/{name}"), &[], &bytes).is(200);
    }
    server.send("POST", "/api/uploads/evil.sh", &[], b"rm").is(415);
    server.run();
    let told = server.get("/api/uploads").is(200);
    assert_eq!(told["files"].as_array().unwrap().len(), 3);
    assert_eq!(server.get("/api/uploads/a.wav").body, take(0));
    server.get("/api/uploads/..%2Fpipeline.toml").is(400);
    // The page shows unmatched files by these keys.
    let report = &told["report"];
    assert_eq!(report["files_without_text"], json!(["uploads/b.wav"]), "{report}");
    let unmatched = &report["texts_without_file"][0];
    assert_eq!((&unmatched["name"], &unmatched["place"]), (&json!("c.wav"), &json!("uploads/transcripts.csv:3")), "{report}");
    assert!(unmatched["reason"].is_string(), "{report}");
    server.post("/api/uploads/b.wav/remove", &json!({})).is(200);
    assert!(sandbox.path("uploads/.removed/b.wav").is_file());
}

#[test]
fn the_recorder_alone_serves_the_stage_that_waits() {
    let (sandbox, server) = begun(4, 1);
    drop(server);
    fs::remove_dir_all(sandbox.path(".voxpipe")).unwrap();
    // `voxpipe record` makes the sentences first if they are missing.
    let server = Server::start(&sandbox, &["record", "--port", "0"]);
    let id = phrases(&server)[0]["id"].as_str().unwrap().to_owned();
    server.take(&id, &take(0)).is(200);
    assert!(server.get("/record").text().contains("id=\"recorder\""));
    server.get("/training").is(404);
    let Answer { status, .. } = server.get("/api/pipeline");
    assert_eq!(status, 404);
}
