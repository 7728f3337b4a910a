//! Comparing and reproducing runs: plans with times, `diff` and `repro`.

use crate::support::{Sandbox, files};
use serde_json::{Value, json};
use std::fs;

const PIPELINE: &str = r#"
schema = 1
[pipeline]
name = "voice"
[params]
case = "upper"
[stage.clips]
uses = "command"
with = { run = ["sh", "clips.sh", "${out}"], code = ["clips.sh", "speech"], output = "clips" }
[stage.loud]
uses = "command"
from = { clips = "clips" }
with = { run = ["sh", "loud.sh", "${params.case}", "${from.clips}", "${out}"], code = ["loud.sh"] }
[stage.scores]
uses = "command"
from = { loud = "loud" }
with = { run = ["sh", "scores.sh", "${from.loud}", "${out}"], code = ["scores.sh"] }
"#;

/// A project with clips made from text files, a stage that depends on a parameter, and a stage with metrics.
fn project() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox
        .pipeline(PIPELINE)
        .file("speech/a.txt", "hello\n")
        .file("speech/b.txt", "good bye\n")
        .file(
            "clips.sh",
            "mkdir $1/audio\nfor f in speech/*.txt; do n=$(basename $f .txt); cp $f $1/audio/$n.raw\n\
             echo \"{\\\"audio_path\\\": \\\"audio/$n.raw\\\", \\\"text\\\": \\\"$(cat $f)\\\"}\" >> $1/clips.jsonl; done\n",
        )
        .file("loud.sh", "case $1 in upper) tr a-z A-Z;; *) cat;; esac < $2/clips.jsonl > $3/loud\n")
        .file("scores.sh", "echo \"{\\\"metrics\\\": {\\\"letters\\\": $(wc -c < $1/loud)}}\"\ncp $1/loud $2/kept\n");
    sandbox
}

fn id(sandbox: &Sandbox, number: usize) -> String {
    sandbox.run(&["runs", "--json"]).exits(0).json()["runs"][number]["run"].as_str().unwrap().to_owned()
}

#[test]
fn a_plan_tells_times_and_ends_as_it_is_asked_to() {
    let sandbox = project();
    sandbox.file("loud.sh", "sleep 0.3\ntr a-z A-Z < $2/clips.jsonl > $3/loud\n");
    let first = sandbox.run(&["plan", "--exit-code"]).exits(14).stdout;
    assert!(!first.contains("last time") && first.ends_with("3 to run, 0 fresh; nothing was written\n"), "{first}");
    assert_eq!(sandbox.run(&["plan", "--json"]).exits(0).json()["seconds"], json!({ "run": null, "all": null }));
    sandbox.run(&["run"]).exits(0);
    let idle = sandbox.run(&["plan", "--exit-code"]).exits(0).stdout;
    assert!(idle.ends_with("0 to run, 3 fresh; nothing was written\n"), "{idle}");
    let plan = sandbox.run(&["plan", "--exit-code", "--json", "--set", "case=lower"]).exits(14).json();
    assert_eq!(plan["counts"], json!({ "run": 1, "may": 1, "fresh": 1 }));
    let took = |value: &Value| value.as_f64().unwrap();
    assert!(took(&plan["steps"][1]["seconds"]) >= 0.3, "{plan}");
    assert_eq!(plan["steps"][0]["seconds"], Value::Null);
    assert_eq!(took(&plan["seconds"]["run"]), took(&plan["steps"][1]["seconds"]));
    assert_eq!(took(&plan["seconds"]["all"]), took(&plan["steps"][1]["seconds"]) + took(&plan["steps"][2]["seconds"]));
    let words = sandbox.run(&["plan", "--set", "case=lower"]).exits(0).stdout;
    assert!(words.contains(" s last time)\n") && words.contains("1 to run, 1 may run, 1 fresh; about "), "{words}");
    sandbox.pipeline(&PIPELINE.replace("[stage.scores]\n", "[stage.scores]\nrequire = { letters = \"< 3\" }\n"));
    sandbox.run(&["plan", "--exit-code"]).exits(12);
}

#[test]
fn why_compares_with_any_run() {
    let sandbox = project();
    sandbox.run(&["run"]).exits(0);
    sandbox.run(&["run", "--set", "case=lower"]).exits(0);
    let (first, second) = (id(&sandbox, 0), id(&sandbox, 1));
    let said = sandbox.run(&["why", "loud", "--vs", &first]).exits(0).stdout;
    assert_eq!(said, format!("`loud` is unchanged since run {first}\n"));
    let said = sandbox.run(&["why", "loud", "--vs", "latest"]).exits(0).stdout;
    assert_eq!(said, format!("`loud` has changed since run {second}:\n  setting `run.2` \"lower\" → \"upper\"\n"));
    sandbox.file("speech/c.txt", "new\n");
    let told = sandbox.run(&["why", "clips", "--vs", "previous", "--json"]).exits(0).json();
    assert_eq!((&told["vs"]["run"], &told["vs"]["reasons"][0]["changes"]["added"]), (&json!(first), &json!(["c.txt"])));
    let told = sandbox.run(&["why", "loud", "--vs", &first]).exits(0).stdout;
    assert!(told.contains("  `clips` runs first\n"), "{told}");
    sandbox.run(&["why", "loud", "--vs", "2020-01-01-1"]).exits(2).complains("no run is called");
    sandbox.file("clips.sh", "exit 1\n").run(&["run"]).exits(1);
    sandbox.run(&["why", "clips", "--vs", "latest"]).exits(2).complains("has no result of `clips` (it was failed)");
}

#[test]
fn two_runs_are_compared_in_settings_clips_and_numbers() {
    let sandbox = project();
    sandbox.run(&["diff"]).exits(2).complains("no runs yet");
    sandbox.run(&["run"]).exits(0);
    sandbox.run(&["diff"]).exits(2).complains("there is only one run");
    fs::remove_file(sandbox.path("speech/b.txt")).unwrap();
    sandbox.file("speech/a.txt", "hullo\n").file("speech/c.txt", "good evening\n");
    sandbox.run(&["run", "--set", "case=lower"]).exits(0);
    let (first, second) = (id(&sandbox, 0), id(&sandbox, 1));
    let told = sandbox.run(&["diff", &first, &second, "--json"]).exits(0).json();
    let stages = told["stages"].as_array().unwrap();
    assert_eq!(
        stages[0]["clips"],
        json!({
            "before": 2, "after": 2, "added": ["audio/c.raw"], "removed": ["audio/b.raw"], "changed": ["audio/a.raw"],
        })
    );
    assert_eq!(stages[0]["sources"][0]["changes"]["added"], json!(["c.txt"]));
    assert_eq!(stages[1]["settings"][0], json!({ "why": "setting", "key": "run.2", "old": "upper", "new": "lower" }));
    assert_eq!(stages[2]["metrics"]["letters"][0].as_f64().unwrap() + 4.0, stages[2]["metrics"]["letters"][1].as_f64().unwrap());
    let words = sandbox.run(&["diff"]).exits(0).stdout;
    for line in [
        &format!("{first} → {second} of voice\n"),
        "settings\n  loud    setting `run.2` \"upper\" → \"lower\"\n",
        "data\n  clips   `speech`: 1 added (c.txt), 1 removed (b.txt), 1 changed (a.txt)\n    + c.txt\n    - b.txt\n    ~ a.txt\n",
        "  clips   2 rows: 1 added (audio/c.raw), 1 removed (audio/b.raw), 1 changed (audio/a.raw)\n",
        "metrics\n  scores  letters ",
        "results\n  clips   different bytes\n  loud    different bytes\n",
    ] {
        assert!(words.contains(line), "no {line:?} in {words}");
    }
    assert!(sandbox.run(&["diff", "latest", "latest"]).exits(0).stdout.ends_with("of voice\nidentical results: clips, loud, scores\n"));
    // Settings, files and metrics are available without the results.
    sandbox.run(&["run"]).exits(0);
    fs::remove_dir_all(sandbox.path(".voxpipe/store")).unwrap();
    let told = sandbox.run(&["diff", &first, &second, "--json"]).exits(0).json();
    assert_eq!(
        (&told["stages"][0]["clips"], &told["stages"][0]["sources"], &told["stages"][2]["metrics"]),
        (&Value::Null, &stages[0]["sources"], &stages[2]["metrics"])
    );
    sandbox.file("clips.sh", "exit 1\n").run(&["run"]).exits(1);
    let words = sandbox.run(&["diff"]).exits(0).stdout;
    assert!(words.contains("results\n  clips   done → failed\n  loud    done → skipped\n") || words.contains("fresh → failed"), "{words}");
}

#[test]
fn each_run_is_compared_by_the_bytes_it_had() {
    let sandbox = project();
    sandbox.file("scores.sh", "echo \"{\\\"metrics\\\": {\\\"letters\\\": $(cat n)}}\"\ncp n $2/kept\n").file("n", "1\n");
    sandbox.run(&["run"]).exits(0);
    // No fingerprint input changed, but the result has other bytes.
    sandbox.file("n", "2\n").run(&["run", "--force", "scores"]).exits(0);
    let told = sandbox.run(&["diff", "--json"]).exits(0).json();
    let scores = &told["stages"][2];
    assert_eq!((&scores["same"], &scores["settings"], &scores["metrics"]), (&json!(false), &json!([]), &json!({ "letters": [1.0, 2.0] })));
    sandbox.run(&["export", "previous", "old.tar.zst"]).exits(0);
    sandbox.run(&["gc", "--keep-runs", "2"]).exits(0);
    assert_eq!(files(&sandbox.path(".voxpipe/store")).keys().filter(|name| name.ends_with("/kept")).count(), 2);
}

#[test]
fn a_repeated_run_ends_in_yes() {
    let sandbox = project();
    sandbox.run(&["repro"]).exits(2).complains("no runs yet");
    sandbox.run(&["run", "--set", "case=lower"]).exits(0);
    // The current pipeline file does not matter.
    sandbox.pipeline(&PIPELINE.replace("upper", "other").replace("[stage.scores]", "# nothing\n[stage.scores]"));
    let before = files(&sandbox.path(".voxpipe"));
    let told = sandbox.run(&["repro"]).exits(0);
    assert!(told.stderr.contains("loud") && told.stderr.contains("runs"), "it really runs: {}", told.stderr);
    assert!(told.stdout.ends_with(&format!("yes: 3 results of run {} reproduced byte for byte\n", id(&sandbox, 0))), "{}", told.stdout);
    assert_eq!(files(&sandbox.path(".voxpipe")).keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "nothing is left behind");
    let told = sandbox.run(&["repro", "latest", "--keep", "--json"]).exits(0).json();
    assert_eq!((&told["same"], &told["stages"][1]["answer"]), (&json!(true), &json!("same")));
    assert_eq!(fs::read_to_string(format!("{}/pipeline.toml", told["place"].as_str().unwrap())).unwrap(), PIPELINE);
}

#[test]
fn a_run_with_nothing_to_do_can_be_repeated_too() {
    let sandbox = project();
    sandbox.run(&["run"]).exits(0);
    for _ in 0..3 {
        std::thread::sleep(std::time::Duration::from_millis(60));
        sandbox.run(&["run"]).exits(0);
    }
    let told = sandbox.run(&["repro"]).exits(0).stdout;
    assert!(told.ends_with(&format!("yes: 3 results of run {} reproduced byte for byte\n", id(&sandbox, 3))), "{told}");
}

#[test]
fn a_repeated_run_ends_in_no_and_says_what_is_different() {
    let sandbox = project();
    // One stage depends on the time, and another on an undeclared file.
    sandbox.file("loud.sh", "date +%s%N > $3/loud\n").file("scores.sh", "cp secret $2/kept\n").file("secret", "1\n");
    sandbox.run(&["run"]).exits(0);
    let told = sandbox.run(&["repro", "--json"]).exits(13).json();
    assert_eq!(told["same"], false);
    let answers: Vec<_> = told["stages"].as_array().unwrap().iter().map(|row| row["answer"].as_str().unwrap()).collect();
    assert_eq!(answers, ["same", "differs", "failed"]);
    assert_eq!(told["stages"][1]["changes"]["changed"], json!(["loud"]));
    let place = told["place"].as_str().unwrap();
    assert!(fs::metadata(place).unwrap().is_dir(), "it can be looked at");
    assert!(!fs::exists(format!("{place}/secret")).unwrap());
    let words = sandbox.run(&["repro"]).exits(13).stdout;
    assert!(words.contains("  loud    differs       1 changed (loud)\n") && words.contains("no: 2 of 3 results"), "{words}");

    let sandbox = project();
    sandbox.run(&["run"]).exits(0);
    sandbox.file("speech/a.txt", "hullo\n");
    let told = sandbox.run(&["repro"]).exits(13);
    assert!(told.stdout.contains("    `speech`: 1 changed (a.txt)\n"), "{}", told.stdout);
    assert!(!told.stderr.contains("runs"), "the answer is known before: {}", told.stderr);
}

#[test]
fn a_run_leaves_a_manifest_without_values_of_the_environment() {
    let sandbox = project();
    sandbox.pipeline(&PIPELINE.replace("\"${params.case}\"", "\"${env.CASE}\"").replace("[params]\ncase = \"upper\"\n", ""));
    let mut command = sandbox.command(&["run", "--force", "clips"]);
    assert!(command.env("CASE", "very-secret-value").output().unwrap().status.success());
    let run = id(&sandbox, 0);
    let text = sandbox.read(&format!(".voxpipe/runs/{run}/provenance.json"));
    assert!(!text.contains("very-secret-value"));
    let manifest: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&manifest["v"], &manifest["run"], &manifest["env"]), (&json!(1), &json!(run), &json!(["CASE"])));
    assert_eq!((&manifest["file"], &manifest["root"], &manifest["force"]), (&json!("pipeline.toml"), &json!(""), &json!(["clips"])));
    for stage in manifest["stages"].as_array().unwrap() {
        let record = sandbox.read(&format!(".voxpipe/keys/{}.json", stage["fingerprint"].as_str().unwrap()));
        let record: Value = serde_json::from_str(&record).unwrap();
        assert_eq!(record["digest"], stage["digest"]);
    }
    sandbox.run(&["repro"]).exits(2).complains("is no longer valid").complains("CASE");
}

#[test]
fn following_the_log_of_a_killed_run_ends() {
    let sandbox = project();
    sandbox.file("clips.sh", "echo > begun; sleep 60\n");
    let mut child = sandbox.start(&["run"], "begun");
    child.kill().unwrap();
    child.wait().unwrap();
    let told = sandbox.run(&["logs", "-f"]).exits(0).complains("the run was killed; `voxpipe run` continues it");
    assert!(told.stdout.contains("command starts (attempt 1)"), "{}", told.stdout);
}

#[test]
fn a_pipeline_is_drawn_as_a_picture_and_as_json() {
    let sandbox = project();
    sandbox.pipeline(&PIPELINE.replace("[stage.scores]\n", "[stage.scores]\nafter = [\"clips\"]\nrequire = { letters = \"< 300\" }\n"));
    let svg = sandbox.run(&["graph", "--format", "svg"]).exits(0).stdout;
    crate::support::golden("graph.svg", &svg);
    let graph = sandbox.run(&["graph", "--json"]).exits(0).json();
    assert_eq!(graph["stages"][2], json!({ "stage": "scores", "kind": "command", "makes": "files", "require": ["letters < 300"] }));
    assert_eq!(
        graph["edges"],
        json!([
            { "from": "clips", "to": "loud", "port": "clips" },
            { "from": "loud", "to": "scores", "port": "loud" },
            { "from": "clips", "to": "scores", "port": null },
        ])
    );
}
