//! `voxpipe sweep` end to end: which stages run, how often, and the state after an early end.

use crate::support::{Sandbox, signal};
use serde_json::{Value, json};

/// A sweep of five combinations with `lr = 2, r = 1` as the best; every stage appends a line to the file `ran` each time it runs.
fn project() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox
        .pipeline(
            r#"
schema = 1
[pipeline]
name = "s"
[params]
lr = 1
[stage.base]
uses = "command"
with = { run = ["sh", "base.sh", "${out}"] }
[stage.train]
uses = "command"
from = { base = "base" }
with = { run = ["sh", "train.sh", "${params.lr}", "7", "${out}"], code = ["train.sh"] }
[stage.scores]
uses = "command"
from = { model = "train" }
with = { run = ["sh", "scores.sh", "${from.model}", "${out}"] }
[stage.card]
uses = "command"
from = { model = "train", scores = "scores" }
with = { run = ["sh", "card.sh", "${from.model}", "${out}"] }
[matrix]
axes = { lr = [1, 2, 3], "stage.train.with.run" = [
  ["sh", "train.sh", "${params.lr}", "1", "${out}"],
  ["sh", "train.sh", "${params.lr}", "2", "${out}"],
] }
exclude = [{ lr = 1, "stage.train.with.run" = ["sh", "train.sh", "${params.lr}", "2", "${out}"] }]
best = { metric = "scores.wer", direction = "min" }
"#,
        )
        .file("base.sh", "echo base >> ran\necho b > $1/b\n")
        .file("train.sh", "echo train $1 $2 >> ran\nif test -e broken && test $1 = 2; then exit 7; fi\necho $1 $2 > $3/model\n")
        .file(
            "scores.sh",
            "echo scores >> ran\nread lr r < $1/model\necho \"{\\\"metrics\\\": {\\\"wer\\\": $(((lr - 2) * (lr - 2) * 10 + r))}}\"\n",
        )
        .file("card.sh", "echo card >> ran\ncp $1/model $2/card\n");
    sandbox
}

fn ran(sandbox: &Sandbox, what: &str) -> usize {
    sandbox.read("ran").lines().filter(|line| line.starts_with(what)).count()
}

fn results(json: &Value) -> Vec<(Value, &str)> {
    let rows = json["combinations"].as_array().unwrap();
    rows.iter().map(|row| (row["metric"].clone(), row["result"].as_str().unwrap())).collect()
}

#[test]
fn every_combination_is_a_run_and_only_the_best_goes_on() {
    let sandbox = project();
    sandbox.run(&["check"]).exits(0);
    let listed = sandbox.run(&["sweep", "--list", "--json"]).exits(0).json();
    assert_eq!(results(&listed), vec![(Value::Null, "not run"); 5]);
    assert!(!sandbox.path("ran").exists() && !sandbox.path(".voxpipe").exists());

    let swept = sandbox.run(&["sweep"]).exits(0).complains("combination 1 of 5: lr=1");
    let lines: Vec<&str> = swept.stdout.lines().collect();
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["lr", "run", "scores.wer", "result", "run"], "{}", swept.stdout);
    assert_eq!(lines.len(), 7, "{}", swept.stdout);
    assert!(lines[6].starts_with("best of 5: lr=2, run=") && lines[6].ends_with("with scores.wer 1"), "{}", swept.stdout);
    // Stages that no axis affects run once; stages that the metric does not depend on run for the best combination only.
    assert_eq!((ran(&sandbox, "base"), ran(&sandbox, "train"), ran(&sandbox, "scores"), ran(&sandbox, "card")), (1, 5, 5, 1));
    assert_eq!(sandbox.read(".voxpipe/latest/s/train/model"), "2 1\n");
    assert_eq!(sandbox.read(".voxpipe/latest/s/card/card"), "2 1\n");
    assert_eq!(sandbox.run(&["runs", "--json"]).exits(0).json()["runs"].as_array().map_or(0, Vec::len), 6, "five, and the best again");
    sandbox.run(&["logs", "--run", "latest"]).exits(0);

    // A second sweep has nothing to do and prints the same table.
    let again = sandbox.run(&["sweep", "--json"]).exits(0).json();
    let expected = [(json!(11.0), "fresh"), (json!(1.0), "fresh"), (json!(2.0), "fresh"), (json!(11.0), "fresh"), (json!(12.0), "fresh")];
    assert_eq!(results(&again), expected);
    assert_eq!(again["combinations"][1]["best"], true);
    assert_eq!(again["combinations"][1]["settings"]["lr"], "2");
    assert_eq!((ran(&sandbox, "train"), ran(&sandbox, "card")), (5, 1));

    // Another direction selects another combination without training again.
    sandbox.pipeline(&sandbox.read("pipeline.toml").replace("direction = \"min\"", "direction = \"max\""));
    assert_eq!(sandbox.run(&["sweep", "--json"]).exits(0).json()["combinations"][4]["best"], true);
    assert_eq!((ran(&sandbox, "train"), ran(&sandbox, "card")), (5, 2));
    assert_eq!(sandbox.read(".voxpipe/latest/s/card/card"), "3 2\n");
}

/// A training script that ends only after three trainings have started: it requires concurrent combinations.
const MEETS: &str = "echo train $1 $2 >> ran\ntouch here.$1.$2; n=0\nwhile [ $(ls here.* | wc -l) -lt 3 ]; do sleep 0.02; n=$((n + 1)); [ $n -lt 3000 ] || exit 9; done\n\
    echo $1 $2 > $3/model\n";

#[test]
fn combinations_run_side_by_side_and_share_what_they_have_in_common() {
    let sandbox = project();
    sandbox.pipeline(&sandbox.read("pipeline.toml").replace("[params]", "[resources]\ncpu = 5\n[params]")).file("train.sh", MEETS);
    let swept = sandbox.run(&["sweep", "--jobs", "3", "--json"]).exits(0).complains("combination 3: done");
    let alone = project();
    let expected = alone.run(&["sweep", "--json"]).exits(0).json();
    assert_eq!(results(&swept.json()), results(&expected));
    assert_eq!(swept.json()["combinations"][1]["best"], true);
    assert_eq!((ran(&sandbox, "base"), ran(&sandbox, "train"), ran(&sandbox, "scores"), ran(&sandbox, "card")), (1, 5, 5, 1));
    assert_eq!(sandbox.read(".voxpipe/latest/s/card/card"), "2 1\n");
    assert_eq!(sandbox.read(".voxpipe/latest/s/train/model"), "2 1\n");
    let runs = sandbox.run(&["runs", "--json"]).exits(0).json();
    let ids: std::collections::BTreeSet<&str> = runs["runs"].as_array().unwrap().iter().map(|run| run["run"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 6, "each has an id of its own");
    let again = sandbox.run(&["sweep", "--jobs", "5", "--json"]).exits(0).json();
    assert!(results(&again).iter().all(|(_, word)| *word == "fresh"));

    let broken = project();
    broken.file("broken", "");
    let told = broken.run(&["sweep", "--at-once", "2", "--keep-going", "--json"]).exits(1).complains("`train` failed").json();
    let words: Vec<&str> = results(&told).into_iter().map(|(_, word)| word).collect();
    assert_eq!(words, ["done", "failed", "failed", "done", "done"]);
}

#[test]
fn a_combination_that_fails_ends_the_sweep_or_is_left_behind() {
    let sandbox = project();
    sandbox.file("broken", "");
    let stopped = sandbox.run(&["sweep", "--json"]).exits(1).json();
    let words: Vec<&str> = results(&stopped).into_iter().map(|(_, word)| word).collect();
    assert_eq!(words, ["done", "failed", "not run", "not run", "not run"]);
    assert_eq!(ran(&sandbox, "card"), 0);

    let went_on = sandbox.run(&["sweep", "--keep-going", "--json"]).exits(1).json();
    let words: Vec<&str> = results(&went_on).into_iter().map(|(_, word)| word).collect();
    assert_eq!(words, ["fresh", "failed", "failed", "done", "done"]);
    assert_eq!(went_on["combinations"][0]["best"], true, "the first of equals among those that are done");
    assert_eq!(ran(&sandbox, "card"), 1);

    std::fs::remove_file(sandbox.path("broken")).unwrap();
    let before = ran(&sandbox, "train");
    let mended = sandbox.run(&["sweep", "--json"]).exits(0).json();
    assert_eq!(mended["combinations"][1]["best"], true);
    assert_eq!(ran(&sandbox, "train"), before + 2, "only what had failed");
}

#[test]
fn a_killed_sweep_goes_on_where_it_was() {
    let sandbox = project();
    sandbox.file(
        "train.sh",
        "echo train $1 $2 >> ran\nif test $1 = 3 && ! test -e go; then touch waits; sleep 60; fi\necho $1 $2 > $3/model\n",
    );
    let mut child = sandbox.start(&["sweep"], "waits");
    signal(&child, "KILL");
    child.wait().unwrap();
    assert_eq!(ran(&sandbox, "train"), 4);
    sandbox.file("go", "");
    let words = sandbox.run(&["sweep", "--json"]).exits(0).json();
    let words: Vec<&str> = results(&words).into_iter().map(|(_, word)| word).collect();
    assert_eq!(words, ["fresh", "fresh", "fresh", "done", "done"]);
    assert_eq!((ran(&sandbox, "train 1"), ran(&sandbox, "train 2"), ran(&sandbox, "train 3")), (1, 2, 3));
}

#[test]
fn a_gate_takes_a_combination_out_of_the_choice() {
    let sandbox = project();
    let gated = |bound: &str| {
        let text = sandbox.read("pipeline.toml");
        let kept: String = text.lines().filter(|line| !line.starts_with("require")).map(|line| format!("{line}\n")).collect();
        sandbox.pipeline(
            &kept
                .replace("from = { model = \"train\" }\n", &format!("from = {{ model = \"train\" }}\nrequire = {{ wer = \"{bound}\" }}\n")),
        );
    };
    gated("> 1");
    let swept = sandbox.run(&["sweep", "--json"]).exits(0).json();
    assert_eq!((&swept["combinations"][1]["result"], &swept["combinations"][2]["best"]), (&json!("gate"), &json!(true)));
    gated("> 100");
    let none = sandbox.run(&["sweep", "--json"]).exits(12).json();
    assert!(none["combinations"].as_array().unwrap().iter().all(|row| row["best"] == false && row["result"] == "gate"));
    assert_eq!(ran(&sandbox, "train"), 5);
}

#[test]
fn mistakes_are_told_before_anything_runs() {
    let sandbox = project();
    sandbox.run(&["sweep", "--set", "lr=5"]).exits(2).complains("`--set lr` conflicts with the matrix axis");
    let text = sandbox.read("pipeline.toml");
    sandbox.pipeline(&text.replace("lr = [1, 2, 3]", "lr = [1, 2, 3], \"stage.card.with.env\" = [[], \"HF_TOKEN\", 5]"));
    for command in [&["check"][..], &["sweep"]] {
        let told = sandbox.run(command).exits(2);
        assert_eq!(told.stderr.matches("`with.env` must be an array").count(), 2, "{}", told.stderr);
        assert!(told.stderr.contains("^^^^^^^^^^"), "{}", told.stderr);
    }
    assert!(!sandbox.path("ran").exists());
    sandbox.pipeline(text.split("[matrix]").next().unwrap());
    sandbox.run(&["sweep"]).exits(2).complains("`pipeline.toml` has no [matrix]");

    sandbox.pipeline(
        "schema = 1\n[pipeline]\nname = \"s\"\n[stage.u]\nuses = \"uploads\"\nwith = { audio = \"clips\", transcripts = \"txt\" }\n[stage.d]\nuses = \"dataset\"\nfrom = { clips = \"u\" }\n\
         [stage.t]\nuses = \"train\"\nfrom = { data = \"d\" }\nwith = { base = \"models/x\" }\n\
         [stage.c]\nuses = \"card\"\nfrom = { model = \"t\" }\n\
         [stage.p]\nuses = \"publish\"\nfrom = { model = \"t\", card = \"c\" }\nwith = { target = \"published\" }\n[matrix]\naxes = { \"stage.t.with.epochs\" = [1, 2] }\n",
    );
    sandbox.run(&["sweep"]).exits(2).complains("every combination would publish to the target of stage `p`");
}

/// A sweep over one number, quick to run.
const QUICK: &str = r#"schema = 1
[pipeline]
name = "q"
[params]
x = 1
on = true
list = ["sc.sh"]
m = 1
[stage.sc]
uses = "command"
with = { run = ["sh", "sc.sh", "${params.x}", "${params.on}", "${params.m}"], code = "${params.list}" }
[matrix]
axes = { x = [1, 2] }
best = { metric = "sc.w" }
"#;

fn quick() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.pipeline(QUICK).file("sc.sh", "echo \"{\\\"metrics\\\": {\\\"w\\\": $3$1}}\"\n");
    sandbox
}

#[test]
fn values_from_the_command_line_are_shown_as_they_are() {
    let sandbox = quick();
    let listed = |file: &str, set: &str| {
        sandbox.pipeline(file);
        let told = sandbox.run(&["sweep", "--list", "--json", "--set", set]).exits(0).json();
        let rows = told["combinations"].as_array().unwrap().clone();
        rows.iter()
            .map(|row| row["settings"].as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(listed(QUICK, "axes.x=7,8"), ["7", "8"]);
    assert_eq!(listed(QUICK, "axes.x=[0x10, 1e1]"), ["0x10", "1e1"]);
    assert_eq!(listed(&QUICK.replace("x = [1, 2]", "on = [true]"), "axes.on=true,false"), ["true", "false"]);
    assert_eq!(listed(&QUICK.replace("x = [1, 2]", "list = [[]]"), r#"axes.list=[["sc.sh", "a b"], []]"#), [r#"["sc.sh", "a b"]"#, "[]"]);
    sandbox.pipeline(QUICK);
    sandbox.run(&["sweep", "--list", "--set", "axes.x=7,7"]).exits(2).complains("lists 7 twice");
    let swept = sandbox.run(&["sweep", "--set", "axes.x=7,8"]).exits(0).complains("combination 2 of 2: x=8");
    assert!(swept.stdout.contains("x=7 with sc.w 17"), "{}", swept.stdout);
}

#[test]
fn an_axis_that_no_result_depends_on_is_told_with_its_whole_name() {
    let sandbox = quick();
    for (axis, values) in [
        ("stage.sc.timeout", "[\"10s\", \"20s\"]"),
        ("stage.sc.stall_timeout", "[\"10s\", \"20s\"]"),
        ("stage.sc.resources.cpu", "[1, 2]"),
        ("stage.sc.retry.times", "[1, 2]"),
        ("stage.sc.require.w", "[\"< 100\", \"< 200\"]"),
        ("pipeline.name", "[\"a\", \"b\"]"),
    ] {
        sandbox.pipeline(&QUICK.replace("x = [1, 2]", &format!("\"{axis}\" = {values}")));
        for command in ["check", "sweep"] {
            let told = sandbox.run(&[command]).exits(2);
            told.complains(&format!("the axis `{axis}` changes nothing")).complains("it never changes a result");
        }
    }
}

#[test]
fn a_combination_that_runs_now_is_not_one_that_was_killed() {
    let sandbox = quick();
    sandbox.file("sc.sh", "touch begun.$1; while ! test -e go; do sleep 0.02; done; echo \"{\\\"metrics\\\": {\\\"w\\\": $1}}\"\n");
    let results_now = || {
        let told = sandbox.run(&["sweep", "--list", "--json"]).exits(0).json();
        results(&told).into_iter().map(|(_, word)| word.to_owned()).collect::<Vec<_>>()
    };
    let mut killed = sandbox.start(&["sweep"], "begun.1");
    assert_eq!(results_now(), ["running", "not run"]);
    signal(&killed, "KILL");
    killed.wait().unwrap();
    assert_eq!(results_now(), ["interrupted", "not run"]);
    std::fs::remove_file(sandbox.path("begun.1")).unwrap();
    let mut child = sandbox.start(&["sweep", "--jobs", "2"], "begun.2");
    while !sandbox.path("begun.1").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(results_now(), ["running", "running"]);
    let runs = sandbox.run(&["runs"]).exits(0).stdout;
    let words: Vec<&str> = runs.lines().map(|line| line.split("  ").nth(1).unwrap()).collect();
    assert_eq!(words, ["not finished", "running", "running"], "{runs}");
    assert!(sandbox.run(&["show"]).exits(0).stdout.lines().next().unwrap().ends_with(": running"));
    sandbox.file("go", "");
    assert!(child.wait().unwrap().success());
    assert_eq!(results_now(), ["fresh", "fresh"]);
}

#[test]
fn a_report_names_the_run_that_made_the_value() {
    let sandbox = quick();
    let report = || sandbox.run(&["report", "sweep", "--json"]).exits(0).json()["combinations"].clone();
    sandbox.run(&["sweep"]).exits(0);
    let before = report();
    // The same combinations with another value elsewhere, which makes the same files and measures something else.
    sandbox.run(&["sweep", "--set", "m=5"]).exits(0);
    assert_eq!(report(), before);
    for (position, row) in before.as_array().unwrap().iter().enumerate() {
        let run = row["run"].as_str().unwrap();
        let shown = sandbox.run(&["show", run, "--json"]).exits(0).json();
        assert_eq!(shown["stages"][0]["metrics"]["w"], row["metric"], "combination {position}");
        assert_eq!(shown["seconds"], row["seconds"]);
    }
    // How a sweep with other settings failed says nothing of this one.
    sandbox.file("sc.sh", "test $3 = 1 || exit 7\necho \"{\\\"metrics\\\": {\\\"w\\\": $3$1}}\"\n");
    sandbox.run(&["sweep", "--keep-going", "--set", "m=5"]).exits(1);
    let rows = report();
    assert!(rows.as_array().unwrap().iter().all(|row| row["result"] == "not run" && row["error"].is_null()), "{rows}");
}
