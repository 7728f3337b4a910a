//! Choosing stages for one run, on `run` and `plan`; and the pipeline file in a folder above.

use crate::support::{Ran, Sandbox};
use serde_json::Value;
use std::collections::BTreeMap;

/// A diamond with a tail: raw → left, right → joined → report; `notes` stands alone.
const DIAMOND: &str = r#"
schema = 1
[pipeline]
name = "diamond"
[params]
word = "one"
[stage.raw]
uses = "command"
with = { run = ["sh", "-c", "echo ${params.word} > $0/x", "${out}"] }
[stage.left]
uses = "command"
from = { raw = "raw" }
with = { run = ["sh", "-c", "cat $1/x > $0/x", "${out}", "${from.raw}"] }
[stage.right]
uses = "command"
from = { raw = "raw" }
with = { run = ["sh", "-c", "cat $1/x > $0/x; echo right >> $0/x", "${out}", "${from.raw}"] }
[stage.joined]
uses = "command"
from = { parts = ["left", "right"] }
with = { run = ["sh", "-c", "out=$0; for part; do cat $part/x; done > $out/x", "${out}", "${from.parts...}"] }
[stage.report]
uses = "command"
from = { joined = "joined" }
with = { run = ["cp", "${from.joined}/x", "${out}/x"] }
[stage.notes]
uses = "command"
with = { run = ["sh", "-c", "echo note > $0/x", "${out}"] }
"#;

fn diamond() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.pipeline(DIAMOND);
    sandbox
}

/// Each stage of a report of `run --json` with how it ended, and the stages left out.
fn ended(ran: &Ran) -> (BTreeMap<String, String>, Vec<String>) {
    let report = ran.json();
    let stages = report["stages"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let left_out = report["left_out"].as_array().into_iter().flatten().map(text).collect();
    (stages.map(|stage| (text(&stage[0]), text(&stage[1]["result"]))).collect(), left_out)
}

/// The stages that ran, and those left out.
fn done(ran: &Ran) -> (Vec<String>, Vec<String>) {
    let (stages, left_out) = ended(ran);
    (stages.into_iter().filter(|(_, result)| result == "done").map(|(stage, _)| stage).collect(), left_out)
}

fn names(names: &str) -> Vec<String> {
    names.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_run_may_be_of_some_stages_and_tells_what_it_left_out() {
    for (arguments, runs, left_out) in [
        (&["left"][..], "left raw", "right joined report notes"),
        (&["left", "notes"], "left notes raw", "right joined report"),
        (&["--until", "joined"], "joined left raw right", "report notes"),
        (&["--until", "left", "--until", "right"], "left raw right", "joined report notes"),
        (&["--except", "left"], "notes raw right", "left joined report"),
        (&["--except", "left", "notes"], "raw right", "left joined report notes"),
        (&["joined", "--except", "right"], "left raw", "right joined report notes"),
        (&["--from", "raw"], "joined left raw report right", "notes"),
        (&["--from", "raw", "--until", "left"], "left raw", "right joined report notes"),
        (&["--only", "raw", "notes"], "notes raw", "left right joined report"),
    ] {
        let sandbox = diamond();
        let with = |command: &'static str, more: &[&'static str]| [&[command], arguments, more].concat();
        let planned = sandbox.run(&with("plan", &["--json"])).exits(0).json();
        let steps: Vec<_> = planned["steps"].as_array().unwrap().iter().map(|step| step["stage"].as_str().unwrap().to_owned()).collect();
        let ran = sandbox.run(&with("run", &["--json"])).exits(0);
        let (ran, out) = done(&ran);
        assert_eq!((ran.as_slice(), &out), (&names(runs)[..], &order(left_out)), "{arguments:?}");
        assert_eq!(planned["left_out"], serde_json::json!(out), "{arguments:?}: plan and run leave out the same");
        assert!(ran.iter().all(|stage| steps.contains(stage)), "{arguments:?}: {steps:?}");
        // The same again has nothing to do, and the whole run does the rest.
        assert_eq!(done(&sandbox.run(&with("run", &["--json"])).exits(0)).0, names(""), "{arguments:?}");
        let rest = done(&sandbox.run(&["run", "--json"]).exits(0));
        assert_eq!((rest.0.len() + ran.len(), rest.1.len()), (6, 0), "{arguments:?}");
        let told = sandbox.run(&with("run", &[])).exits(0).stdout;
        assert!(told.contains(&format!("left out: {}", out.join(", "))), "{told}");
    }
}

/// Names in the order of the pipeline.
fn order(of: &str) -> Vec<String> {
    names("raw left right joined report notes").into_iter().filter(|name| names(of).contains(name)).collect()
}

#[test]
fn what_is_left_out_but_needed_must_be_up_to_date() {
    let sandbox = diamond();
    for arguments in [&["--only", "joined"][..], &["--from", "joined"], &["--only", "left", "joined"]] {
        for command in ["run", "plan"] {
            let ran = sandbox.run(&[&[command], arguments].concat()).exits(2);
            let ran = ran.complains("stage `raw` is left out, but its result is needed and not up to date: it has not run yet");
            ran.complains("run it first: `voxpipe run raw`");
        }
    }
    assert!(!sandbox.path(".voxpipe/runs").exists() || sandbox.run(&["runs"]).stdout.contains("no runs yet"), "no run has begun");
    sandbox.run(&["run"]).exits(0);
    let forced = sandbox.run(&["run", "--only", "joined", "--force", "joined", "--json"]).exits(0);
    let (stages, left_out) = ended(&forced);
    let expected = [("joined", "done"), ("left", "fresh"), ("raw", "fresh"), ("right", "fresh")];
    assert_eq!(stages, expected.map(|(stage, result)| (stage.to_owned(), result.to_owned())).into());
    assert_eq!(left_out, names("report notes"));
    // A change upstream is told, and is not run.
    let ran = sandbox.run(&["run", "--from", "joined", "--set", "word=two"]).exits(2);
    ran.complains("stage `raw` is left out").complains("(and 2 more stages)");
    sandbox.run(&["run", "--only", "joined", "--force", "raw"]).exits(2).complains("`--force raw`: this stage is left out of the run");
}

#[test]
fn a_selection_neither_makes_nor_uses_the_record_of_a_run_with_nothing_to_do() {
    let sandbox = diamond();
    let pause = || std::thread::sleep(std::time::Duration::from_millis(70));
    let word = |word: &str| sandbox.pipeline(&DIAMOND.replace("\"one\"", &format!("\"{word}\"")));
    sandbox.run(&["run", "raw"]).exits(0);
    pause();
    sandbox.run(&["run", "raw"]).exits(0);
    assert_eq!(done(&sandbox.run(&["run", "--json"]).exits(0)).0.len(), 5, "what was selected before says nothing of the rest");
    pause();
    sandbox.run(&["run"]).exits(0);
    assert_eq!(ended(&sandbox.run(&["run", "--json", "notes"]).exits(0)).0.len(), 1, "the record of the whole run is not used for a part");
    word("two");
    assert_eq!(done(&sandbox.run(&["run", "--json", "raw"]).exits(0)).0, names("raw"));
    pause();
    sandbox.run(&["run", "raw"]).exits(0);
    assert_eq!(done(&sandbox.run(&["run", "--json"]).exits(0)).0, names("joined left report right"));
}

#[test]
fn wrong_names_of_stages_and_files_are_explained() {
    let sandbox = diamond();
    for (arguments, complaint) in [
        (&["lefd"][..], "did you mean `left`?"),
        (&["--until", "joint"], "did you mean `joined`?"),
        (&["--from", "xyz"], "stages are: `joined`, `left`, `notes`, `raw`, `report` and `right`"),
        (&["--only", "raws"], "did you mean `raw`?"),
        (&["--except", "note"], "did you mean `notes`?"),
        (&["left[de]"], "`left` has no `foreach`: write `left`"),
        (&["left", "--only", "raw"], "`left` and `--only` cannot be used together"),
        (&["a.toml", "b.toml"], "two pipeline files are named: `a.toml` and `b.toml`"),
        (&["--until", "left", "--from", "right"], "no stage is left to run with --until left --from right"),
        (&["--only", "pipeline.toml"], "`--only` names no stage"),
        (&["other.toml", "left"], "cannot read `other.toml`"),
    ] {
        for command in ["run", "plan"] {
            sandbox.run(&[&[command], arguments].concat()).exits(2).complains(complaint);
        }
    }
    // A file without a dot in its name is written with a slash.
    sandbox.file("mine", DIAMOND);
    sandbox.run(&["plan", "mine"]).exits(2).complains("if you mean the pipeline file, write `./mine`");
    sandbox.run(&["plan", "./mine", "left"]).exits(0);
    for arguments in [&["left", "pipeline.toml"][..], &["pipeline.toml", "left"], &["--only", "raw", "pipeline.toml"]] {
        sandbox.run(&[&["plan"], arguments].concat()).exits(0);
    }
}

#[test]
fn a_dry_run_is_a_plan() {
    let sandbox = diamond();
    for arguments in [&[][..], &["--json"], &["--until", "left"], &["--force", "notes"], &["--set", "word=two", "--json"]] {
        let plan = sandbox.run(&[&["plan"], arguments].concat()).exits(0).stdout;
        assert_eq!(sandbox.run(&[&["run", "--dry-run"], arguments].concat()).exits(0).stdout, plan, "{arguments:?}");
    }
    assert!(!sandbox.path(".voxpipe").exists());
}

#[test]
fn a_partial_run_is_shown_compared_and_repeated_as_what_it_was() {
    let sandbox = diamond();
    sandbox.run(&["run", "joined", "--except", "left"]).exits(0);
    sandbox.run(&["run", "left"]).exits(0);
    let shown = sandbox.run(&["show"]).exits(0).stdout;
    assert!(shown.contains("left out: right, joined, report, notes") && !shown.contains("not reached"), "{shown}");
    assert_eq!(sandbox.run(&["show", "--json"]).exits(0).json()["left_out"], serde_json::json!(["right", "joined", "report", "notes"]));
    let log = sandbox.run(&["logs"]).exits(0).stdout;
    assert!(log.contains("raw, left; left out: right, joined, report, notes"), "{log}");
    let repeated = sandbox.run(&["repro", "--json"]).exits(0).json();
    assert_eq!((repeated["same"].as_bool(), repeated["stages"].as_array().map(Vec::len)), (Some(true), Some(2)), "{repeated}");
}

#[test]
fn the_pipeline_file_is_looked_for_in_folders_above() {
    let sandbox = diamond();
    std::fs::create_dir_all(sandbox.path("recordings/day 1")).unwrap();
    let file = std::fs::canonicalize(sandbox.path("pipeline.toml")).unwrap();
    let below = |arguments: &[&str]| Ran::of(sandbox.command(arguments).current_dir(sandbox.path("recordings/day 1")).output().unwrap());
    let ran = below(&["run", "--json"]).exits(0).complains(&format!("note: no `pipeline.toml` in this folder: using `{}`", file.display()));
    assert_eq!(done(&ran).0.len(), 6);
    assert_eq!(ran.stderr.matches("note: no `pipeline.toml`").count(), 1, "said once:\n{}", ran.stderr);
    assert!(sandbox.path(".voxpipe").is_dir() && !sandbox.path("recordings/day 1/.voxpipe").exists());
    for command in ["plan", "check", "status", "graph", "runs", "show", "logs", "lock"] {
        below(&[command]).exits(0).complains(&format!("using `{}`", file.display()));
    }
    below(&["why", "raw"]).exits(0).complains(&format!("using `{}`", file.display()));
    assert_eq!(done(&sandbox.run(&["run", "--json"]).exits(0)).0, names(""), "it is the same project");
    // A file that is named is not looked for elsewhere.
    below(&["run", "pipeline.toml"]).exits(2).complains("cannot read `pipeline.toml`");
    // Mistakes name the file by a path that leads there.
    sandbox.pipeline("[stage.a]\nuses = \"comand\"\n");
    below(&["check"]).exits(2).complains(&format!("{}:2:8", file.display()));
}

/// A publication records the settings of everything before it, also of what was only waited for and is left out now.
#[test]
fn what_a_publication_records_does_not_depend_on_the_selection() {
    let sandbox = Sandbox::new();
    let own = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/first-run-es");
    for (name, bytes) in crate::support::files(&own) {
        let path = sandbox.path("speech").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    sandbox.pipeline(
        "schema = 1\n[pipeline]\nname = \"p\"\n[stage.notes]\nuses = \"command\"\nwith = { run = [\"touch\", \"${out}/x\"] }\n\
         [stage.clips]\nuses = \"uploads\"\nwith = { audio = \"speech/clips\", transcripts = \"speech/transcripts.csv\" }\n\
         [stage.data]\nuses = \"dataset\"\nfrom = { clips = \"clips\" }\n\
         [stage.hub]\nuses = \"publish\"\nfrom = { dataset = \"data\" }\nafter = [\"notes\"]\n\
         with = { target = \"published\", license = \"cc-by-sa-3.0\", consent = \"released by the speaker\" }\n",
    );
    let ran = sandbox.run(&["run", "--only", "clips", "data", "hub", "--json"]).exits(0);
    assert_eq!(done(&ran), (names("clips data hub"), names("notes")));
    let repeated = sandbox.run(&["repro", "--json"]).exits(0).json();
    assert_eq!((repeated["same"].as_bool(), repeated["stages"].as_array().map(Vec::len)), (Some(true), Some(3)), "{repeated}");
    assert_eq!(done(&sandbox.run(&["run", "--json"]).exits(0)), (names("notes"), names("")));
    assert_eq!(done(&sandbox.run(&["run", "--only", "hub", "--json"]).exits(0)).0, names(""));
}
