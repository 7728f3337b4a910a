//! Metrics that are no finite numbers: a gate fails on them, a sweep never chooses them, and all output stays JSON.

use crate::support::{Sandbox, files};
use serde_json::{Value, json};

/// A stage that prints lines, with a gate, and one that depends on it.
fn gated(lines: &[&str], bound: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.file("lines", &lines.iter().map(|line| format!("{line}\n")).collect::<String>()).pipeline(&format!(
        "schema = 1\n[pipeline]\nname = \"p\"\n[stage.a]\nuses = \"command\"\nrequire = {{ loss = \"{bound}\" }}\n\
         with = {{ run = [\"cat\", \"lines\"] }}\n[stage.b]\nuses = \"command\"\nfrom = {{ i = \"a\" }}\n\
         with = {{ run = [\"sh\", \"-c\", \"echo published > $0/x\", \"${{out}}\"] }}\n"
    ));
    sandbox
}

#[test]
fn a_gate_never_passes_on_an_older_value() {
    let older = r#"{"metrics": {"loss": 0.5}}"#;
    for (newest, shown) in [
        (r#"{"metrics": {"loss": NaN}}"#, "NaN"),
        (r#"{"metrics": {"loss": -Infinity}}"#, "-Infinity"),
        (r#"{"metrics": {"loss": nan, "x": {"y": [NaN]}}}"#, "NaN"),
        (r#"{"metrics": {"loss": "nan"}}"#, "NaN"),
        (r#"{"metrics": {"loss": null}}"#, "NaN"),
        (r#"{"metrics": {"loss": "high"}}"#, "NaN"),
        (r#"{"metrics": {"loss": -1e999}}"#, "-Infinity"),
        (r#"{"step": NaN, "config": {"a": Infinity}, "metrics": {"loss": NaN}}"#, "NaN"),
    ] {
        let sandbox = gated(&[older, newest], "< 1");
        sandbox.run(&["run"]).exits(12).complains(&format!("loss is {shown}, which passes no gate"));
        assert!(!sandbox.path(".voxpipe/latest/p/b").exists(), "{newest}");
        // The result is kept, and says the same again.
        sandbox.run(&["run"]).exits(12).complains(&format!("loss is {shown}"));
    }
    let sandbox = gated(&[older, r#"{"metrics": {"loss": Infinity}}"#], "> 0");
    sandbox.run(&["run"]).exits(12).complains("loss is Infinity, which passes no gate; its bound is > 0");
    // A finite newest value counts, whatever stands elsewhere in its line.
    let sandbox = gated(&[r#"{"metrics": {"loss": NaN}}"#, r#"{"config": [NaN], "metrics": {"loss": .25, "other": 1.}}"#], "< 1");
    sandbox.run(&["run"]).exits(0);
    assert_eq!(sandbox.run(&["status", "--json"]).exits(0).json()["steps"][0]["metrics"], json!({"loss": 0.25, "other": 1.0}));
}

#[test]
fn all_output_stays_json() {
    let lines = [r#"{"metrics": {"loss": 0.5, "acc": Infinity}}"#, r#"{"metrics": {"loss": NaN, "acc": 0.5}}"#];
    let sandbox = gated(&lines, "< 1");
    sandbox.run(&["run", "--events", "events.jsonl"]).exits(12);
    for line in sandbox.read("events.jsonl").lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    assert!(sandbox.read("events.jsonl").contains(r#""values":{"acc":"Infinity","loss":0.5}"#));
    for args in [
        &["status", "--json"][..],
        &["plan", "--json"],
        &["show", "--json"],
        &["runs", "--json"],
        &["plot", "--json", "latest"],
        &["why", "a", "--json"],
    ] {
        sandbox.run(args).exits(0).json();
    }
    assert_eq!(sandbox.run(&["status", "--json"]).json()["steps"][0]["metrics"]["loss"], "NaN");
    let curves = sandbox.run(&["plot", "--json", "latest", "--metric", "loss"]).json();
    assert_eq!(curves["curves"][0]["values"], json!([0.5, "NaN"]));
    sandbox.run(&["plot", "latest"]).exits(0);
    sandbox.run(&["plot", "latest", "--svg", "curves.svg"]).exits(0);
    assert!(!sandbox.read("curves.svg").contains("NaN"));
    sandbox.run(&["logs"]).exits(0);
    for (name, bytes) in files(&sandbox.path(".voxpipe")).iter().filter(|(name, _)| name.ends_with(".json")) {
        serde_json::from_slice::<Value>(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    // Equal values are no difference, although NaN equals nothing.
    sandbox.run(&["run", "--force", "a"]).exits(12);
    let diff = sandbox.run(&["diff", "previous", "latest", "--json"]).exits(0).json();
    assert_eq!(diff["stages"][0]["metrics"], json!({}), "{diff}");
}

fn sweep(values: &str, script: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.file("score.sh", script).pipeline(&format!(
        "schema = 1\n[pipeline]\nname = \"s\"\n[params]\nx = \"0\"\nunused = 1\n[stage.train]\nuses = \"command\"\n\
         with = {{ run = [\"sh\", \"score.sh\", \"${{params.x}}\", \"${{out}}\"], code = [\"score.sh\"] }}\n\
         [stage.pub]\nuses = \"command\"\nfrom = {{ i = \"train\" }}\nwith = {{ run = [\"touch\", \"${{out}}/p\"] }}\n\
         [matrix]\naxes = {{ x = {values} }}\nbest = {{ metric = \"train.wer\" }}\n"
    ));
    sandbox
}

const SCORE: &str =
    "echo $1 >> ran\ntest $1 = fail && { echo no such thing >&2; exit 5; }\necho \"{\\\"metrics\\\": {\\\"wer\\\": $1}}\"\n";

#[test]
fn a_sweep_never_chooses_what_is_not_finite() {
    let sandbox = sweep("[\"NaN\", \"-Infinity\", \"3\", \"2\"]", SCORE);
    let swept = sandbox.run(&["sweep", "--json"]).exits(0).json();
    let rows = swept["combinations"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["best"].as_bool().unwrap()).collect::<Vec<_>>(), [false, false, false, true]);
    assert_eq!(
        rows.iter().map(|row| row["metric"].clone()).collect::<Vec<_>>(),
        [json!("NaN"), json!("-Infinity"), json!(3.0), json!(2.0)]
    );
    assert!(sandbox.path(".voxpipe/latest/s/pub/p").exists());
}

#[test]
fn a_sweep_without_a_best_combination_says_so_by_its_exit_code() {
    let sandbox = sweep("[\"NaN\", \"Infinity\"]", SCORE);
    let swept = sandbox.run(&["sweep"]).exits(12);
    assert!(swept.stdout.contains("no combination has a finite value of train.wer"), "{}", swept.stdout);
    assert!(!sandbox.path(".voxpipe/latest/s/pub").exists());
    let sandbox = sweep("[\"1\", \"2\"]", "echo $1 > $2/x\n");
    let swept = sandbox.run(&["sweep"]).exits(12);
    assert!(swept.stdout.contains("no combination has the metric train.wer"), "{}", swept.stdout);
    assert_eq!(sandbox.run(&["sweep", "--json"]).exits(12).json()["exit"], 12);
}

#[test]
fn a_failed_combination_is_listed_with_its_error() {
    let sandbox = sweep("[\"1\", \"fail\", \"2\"]", SCORE);
    sandbox.run(&["sweep", "--keep-going"]).exits(1);
    let listed = sandbox.run(&["sweep", "--list"]).exits(0).stdout;
    assert!(listed.contains("failed") && listed.contains("stage `train`: `sh` failed with exit code 5"), "{listed}");
    let json = sandbox.run(&["sweep", "--list", "--json"]).exits(0).json();
    assert_eq!(json["combinations"][1]["result"], "failed");
    assert!(json["combinations"][1]["error"].as_str().unwrap().contains("exit code 5") && json["combinations"][1]["run"].is_string());
    assert_eq!(json["combinations"][0]["error"], Value::Null);
    // It is mended: nothing is said of the old failure once there is a result.
    sandbox.file("score.sh", "echo '{\"metrics\": {\"wer\": 1}}'\n");
    sandbox.run(&["sweep"]).exits(0);
    assert!(!sandbox.run(&["sweep", "--list"]).exits(0).stdout.contains("failed"));
}

#[test]
fn an_axis_that_changes_nothing_is_told_before_anything_runs() {
    let sandbox = sweep("[\"1\", \"2\"]", SCORE);
    for (axes, axis) in [
        ("x = [\"1\", \"2\"], unused = [1, 2]", "unused"),
        ("unused = [1, 2]", "unused"),
        ("\"stage.pub.with.run\" = [[\"touch\", \"${out}/p\"], [\"touch\", \"${out}/q\"]]", "stage.pub.with.run"),
    ] {
        let text = sandbox.read("pipeline.toml");
        let (before, after) = text.split_once("axes = {").unwrap();
        let after = &after[after.find("}\nbest").unwrap()..];
        sandbox.pipeline(&format!("{before}axes = {{ {axes} {after}"));
        for command in ["sweep", "check"] {
            sandbox.run(&[command]).exits(2).complains(&format!("the axis `{axis}` changes nothing that `train.wer` depends on"));
        }
        assert!(!sandbox.path("ran").exists());
    }
    let text = sandbox.read("pipeline.toml").replace("best = { metric = \"train.wer\" }\n", "");
    sandbox.pipeline(&text);
    sandbox.run(&["check"]).exits(0);
}
