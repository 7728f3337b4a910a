//! Event streams: the run log, the terminal output, and the commands that read them.

use crate::support::{Ran, Sandbox, signal};
use serde_json::Value;
use std::fs;

fn project() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox
        .pipeline(
            r#"
schema = 1
[pipeline]
name = "talk"
[stage.one]
uses = "command"
with = { run = ["sh", "one.sh", "${out}"], code = ["one.sh"] }
[stage.two]
uses = "command"
from = { one = "one" }
with = { run = ["sh", "-c", "cp $0/file $1/file", "${from.one}", "${out}"] }
"#,
        )
        .file("one.sh", "echo hello there\necho '{\"progress\": [1, 2]}'\necho '{\"metrics\": {\"loss\": 0.5}}'\necho x > $1/file\n");
    sandbox
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn kinds(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["event"].as_str().unwrap()).collect()
}

#[test]
fn log_file_and_stream_say_the_same() {
    let sandbox = project();
    let told = sandbox.run(&["run", "--events", "-"]).exits(0).complains("one  runs");
    let stream = lines(&told.stdout);
    let kinds = kinds(&stream);
    assert_eq!(kinds.first(), Some(&"run-started"));
    assert_eq!(kinds.last(), Some(&"run-finished"));
    let order: Vec<_> = kinds.iter().filter(|kind| kind.starts_with("stage")).collect();
    assert_eq!(order, [&"stage-started", &"stage-finished", &"stage-started", &"stage-finished"]);
    assert!(kinds.contains(&"note"), "{kinds:?}");
    for line in &stream {
        assert_eq!(line["v"], 1);
        assert!(line["time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(line["run"], stream[0]["run"]);
    }
    let log = sandbox.read(&format!(".voxpipe/runs/{}/events.jsonl", stream[0]["run"].as_str().unwrap()));
    let without_time = |mut lines: Vec<Value>| {
        lines.iter_mut().for_each(|line| drop(line.as_object_mut().unwrap().remove("time")));
        lines
    };
    assert_eq!(without_time(lines(&log)), without_time(stream));

    sandbox.run(&["run", "--events", "events.jsonl"]).exits(0);
    let second = lines(&sandbox.read("events.jsonl"));
    assert_eq!(self::kinds(&second), ["run-started", "stage-fresh", "stage-fresh", "run-finished"]);
}

#[test]
fn runs_have_their_own_ids_and_can_be_looked_up() {
    let sandbox = project();
    sandbox.run(&["runs"]).exits(0);
    sandbox.run(&["show"]).exits(2).complains("no runs yet");
    sandbox.run(&["run"]).exits(0);
    sandbox.file("one.sh", "exit 3\n").run(&["run"]).exits(1);
    let runs = sandbox.run(&["runs", "--json"]).exits(0).json();
    let ids: Vec<_> = runs["runs"].as_array().unwrap().iter().map(|run| run["run"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 2);
    assert!(ids[0].ends_with("-1") && ids[1].ends_with("-2"), "{ids:?}");
    assert_eq!((&runs["runs"][0]["exit"], &runs["runs"][1]["exit"]), (&0.into(), &1.into()));
    let shown = sandbox.run(&["show", &ids[0], "--json"]).exits(0).json();
    assert_eq!(shown["stages"][0]["result"], "done");
    assert_eq!(shown["stages"][0]["why"], "it has not run yet");
    let shown = sandbox.run(&["show"]).exits(0).stdout;
    assert!(shown.contains("one  failed") && shown.contains("`one.sh` changed"), "{shown}");
    sandbox.run(&["show", "2020-01-01-1"]).exits(2).complains("no run is called `2020-01-01-1`").complains(&ids[1]);
}

#[test]
fn logs_can_be_read_by_stage_and_followed() {
    let sandbox = project();
    sandbox.run(&["run"]).exits(0);
    let log = sandbox.run(&["logs", "one"]).exits(0).stdout;
    assert!(log.contains("one  hello there") && !log.contains("two"), "{log}");
    // A killed run leaves an unfinished line.
    let id = sandbox.run(&["runs", "--json"]).json()["runs"][0]["run"].as_str().unwrap().to_owned();
    let path = sandbox.path(&format!(".voxpipe/runs/{id}/events.jsonl"));
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() - 10]).unwrap();
    assert_eq!(sandbox.run(&["show", "--json"]).exits(0).json()["exit"], Value::Null);
    sandbox.run(&["logs"]).exits(0);
    fs::write(&path, text.replacen("{\"v\":1", "{\"v\"1", 1)).unwrap();
    sandbox.run(&["logs"]).exits(1).complains("events.jsonl: line 1:");

    sandbox.file("one.sh", "echo > begun; while [ -e wait ]; do sleep 0.02; done; echo bye; echo x > $1/file\n").file("wait", "");
    let mut child = sandbox.start(&["run"], "begun");
    let follower =
        sandbox.command(&["logs", "-f"]).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    fs::remove_file(sandbox.path("wait")).unwrap();
    assert!(child.wait().unwrap().success());
    let followed = Ran::of(follower.wait_with_output().unwrap()).exits(0).stdout;
    assert!(followed.contains("one  bye") && followed.contains("run  done after"), "{followed}");
}

#[test]
fn an_interrupted_run_says_so_in_its_log() {
    let sandbox = project();
    sandbox.file("one.sh", "echo > begun; sleep 60\n");
    let child = sandbox.start(&["run"], "begun");
    signal(&child, "INT");
    Ran::of(child.wait_with_output().unwrap()).exits(75);
    let shown = sandbox.run(&["show", "--json"]).exits(0).json();
    assert_eq!(shown["exit"], 75);
    assert_eq!(shown["stages"][0]["result"], "interrupted");
    assert_eq!(shown["stages"][1]["result"], "skipped");
}

#[test]
fn a_stream_nobody_reads_does_not_stop_the_run() {
    let sandbox = project();
    let mut child = sandbox
        .command(&["run", "--events", "-"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let told = Ran::of(child.wait_with_output().unwrap()).exits(0);
    assert!(!told.stderr.contains("panicked") && !told.stderr.contains("warning"), "{}", told.stderr);
    assert!(sandbox.run(&["status"]).stdout.contains("two  fresh"));
    let full = sandbox.run(&["run", "--events", "/dev/full"]).exits(0);
    full.complains("cannot write events to `/dev/full`");
}
