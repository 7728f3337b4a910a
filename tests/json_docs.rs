//! Checks `docs/reference/json.md`: it documents every printed JSON field with its type, and every documented field is printed.

use crate::support::Sandbox;
use pipeline::cache::content::ContentDiff;
use pipeline::events::{Event, ResultRef};
use pipeline::plan::why::Why;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/json.md")).unwrap()
}

/// The rows of the tables below a heading, with trimmed cells and without backticks around them.
fn table(page: &str, heading: &str) -> Vec<Vec<String>> {
    let section = page.split("\n## ").find(|section| section.starts_with(heading)).unwrap_or_else(|| panic!("no section {heading}"));
    let rows = section.lines().filter(|line| line.starts_with("| `") && !line.starts_with("| `why` |") && !line.starts_with("| `event` |"));
    rows.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()).collect()
}

/// Collects the path and type of every value. Free-form keys become NAME, as in the documentation.
fn walk(path: &str, value: &Value, seen: &mut BTreeSet<(String, &'static str)>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(items) => {
            items.iter().for_each(|item| walk(&format!("{path}[]"), item, seen));
            return;
        }
        Value::Object(fields) if fields.contains_key("why") && !fields.contains_key("stage") && !fields.contains_key("result") => "reason",
        Value::Object(fields) if fields.get("why").is_some_and(|why| ["upstream-will-run", "input"].iter().any(|name| why == name)) => {
            "reason"
        }
        Value::Object(_) if path.ends_with("related[].place") => "object",
        Value::Object(fields) => {
            for (name, value) in fields {
                let any =
                    path.ends_with("metrics") || path.ends_with("metrics.NAME") || ["parts", "combinations[].settings"].contains(&path);
                let name = if any { "NAME" } else { name };
                walk(&if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }, value, seen);
            }
            return;
        }
    };
    seen.insert((path.to_owned(), kind));
}

const PIPELINE: &str = r#"
schema = 1
[pipeline]
name = "shapes"
[params]
word = "one"
[stage.clips]
uses = "command"
with = { run = ["sh", "clips.sh", "${params.word}", "${out}"], code = ["clips.sh", "speech"], output = "clips" }
[stage.count]
uses = "command"
from = { clips = "clips" }
require = { lines = "< 9" }
with = { run = ["sh", "-c", "echo \"{\\\"metrics\\\": {\\\"lines\\\": $(wc -l < $0/clips.jsonl)}}\"; date +%N > $1/x", "${from.clips}", "${out}"] }
[stage.end]
uses = "command"
from = { count = "count" }
after = ["clips"]
resources = { cpu = 100000 }
with = { run = ["true"] }
"#;

const CLIPS: &str = "mkdir $2/audio\nfor f in speech/*; do n=$(basename $f); cp $f $2/audio/$n.raw\n\
    echo \"{\\\"audio_path\\\": \\\"audio/$n.raw\\\", \\\"text\\\": \\\"$1 $(cat $f)\\\"}\" >> $2/clips.jsonl; done\n";

/// Documented fields that this test does not produce.
const NOT_TOLD: [&str; 6] = [
    "lock removed[]",
    "check diagnostics[].notes[]",
    "check diagnostics[].related[].message",
    "check diagnostics[].related[].place",
    "repro stages[].changes.added[]",
    "repro stages[].changes.removed[]",
];

#[test]
fn every_field_is_described_and_every_description_is_true() {
    let sandbox = Sandbox::new();
    sandbox.pipeline(PIPELINE).file("clips.sh", CLIPS).file("speech/a", "a\n").file("speech/b", "b\n");
    let mut seen: BTreeMap<String, BTreeSet<(String, &'static str)>> = BTreeMap::new();
    let mut tell = |heading: &str, args: &[&str]| {
        let ran = sandbox.run(&[args, &["--json"]].concat());
        let value = ran.json();
        assert_eq!(value["v"], 1, "{args:?}");
        let prefixed = if heading == "runs" && args[0] == "show" {
            let mut run = value.clone();
            run.as_object_mut().unwrap().remove("v");
            json!({ "v": 1, "runs": [run] })
        } else {
            value.clone()
        };
        walk("", &prefixed, seen.entry(heading.to_owned()).or_default());
        value
    };
    tell("plan", &["plan"]);
    tell("status", &["status"]);
    tell("graph", &["graph"]);
    tell("run", &["run"]);
    let first = tell("runs", &["show"])["run"].as_str().unwrap().to_owned();
    for (command, more) in [("plan", &[] as &[&str]), ("status", &[]), ("why", &["count"])] {
        tell(command, &[&[command], more].concat());
    }
    tell("plan", &["plan", "--set", "word=two"]);
    tell("status", &["status", "--set", "word=two"]);
    tell("why", &["why", "clips", "--set", "word=two"]);
    tell("why", &["why", "count", "--set", "word=two"]);
    tell("repro", &["repro"]);
    fs::remove_file(sandbox.path("speech/b")).unwrap();
    sandbox.file("speech/c", "c\n").file("speech/e", "e\n");
    tell("run", &["run", "--set", "word=two"]);
    tell("why", &["why", "clips", "--set", "word=two", "--vs", &first]);
    tell("diff", &["diff"]);
    sandbox.file("speech/d", "d\n");
    tell("repro", &["repro", &first]);
    tell("cache pin", &["cache", "pin", &first]);
    tell("export", &["export", "latest", "run.tar.zst"]);
    tell("import", &["import", "run.tar.zst"]);
    tell("cache du", &["cache", "du"]);
    tell("cache pin", &["cache", "unpin", &first]);
    tell("trackio sync", &["trackio", "sync", "--to", "here"]);
    tell("gc", &["gc", "--keep-runs", "1", "--max-size", "1kB"]);
    tell("gc", &["gc"]);
    let damaged = fs::canonicalize(sandbox.path(".voxpipe/latest/shapes/count/x")).unwrap();
    fs::remove_file(&damaged).unwrap();
    fs::write(&damaged, "other").unwrap();
    tell("cache verify", &["cache", "verify"]);
    tell("cache verify", &["cache", "verify", "--repair"]);
    sandbox.pipeline(&PIPELINE.replace("< 9", "< 1"));
    tell("run", &["run"]);
    tell("status", &["status"]);
    sandbox.file("clips.sh", "exit 3\n").pipeline(PIPELINE);
    tell("run", &["run"]);
    tell("runs", &["runs"]);
    tell("repro", &["repro", "previous"]);
    tell("status", &["status"]);
    tell("diff", &["diff"]);
    sandbox.pipeline(&PIPELINE.replace("[stage.end]", "[stage.new]\nuses = \"command\"\nwith = { run = [\"true\"] }\n[stage.end]"));
    tell("run", &["run"]);
    tell("diff", &["diff"]);
    let log = sandbox.path(&format!(".voxpipe/runs/{first}/events.jsonl"));
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, text.lines().take(2).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    tell("runs", &["runs"]);
    tell("diff", &["diff", &first, "latest"]);
    tell("check", &["check"]);
    fs::remove_file(sandbox.path("clips.sh")).unwrap();
    tell("check", &["check"]);
    tell("check", &["check", "--set", "stage.clips.withh=1"]);
    sandbox.pipeline(&PIPELINE.replace("uses = \"command\"", "uses = \"comand\""));
    tell("check", &["check"]);

    sandbox.pipeline(
        "schema = 1\n[pipeline]\nname = \"s\"\n[params]\nn = 1\n[stage.scores]\nuses = \"command\"\n\
         with = { run = [\"sh\", \"-c\", \"test $0 != 3 || exit 1; echo \\\"{\\\\\\\"metrics\\\\\\\": {\\\\\\\"wer\\\\\\\": $0}}\\\"\", \"${params.n}\"] }\n\
         [matrix]\naxes = { n = [1, 2, 3] }\nbest = { metric = \"scores.wer\", direction = \"min\" }\n",
    );
    tell("sweep", &["sweep", "--list"]);
    tell("sweep", &["sweep"]);
    tell("migrate", &["migrate", "--check"]);
    tell("lock", &["lock"]);
    fs::remove_file(sandbox.path("pipeline.toml")).unwrap();
    tell("init", &["init"]);

    let page = page();
    let mut wrong = Vec::new();
    let mut told = BTreeSet::new();
    for (heading, seen) in &seen {
        let described: BTreeMap<String, String> =
            table(&page, &format!("`{heading}`")).into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
        for (path, kind) in seen {
            match described.get(path) {
                Some(types) if types.split(" or ").any(|one| one == *kind) => {}
                Some(types) => wrong.push(format!("{heading}: `{path}` is {kind}, described as {types}")),
                None => wrong.push(format!("{heading}: `{path}` ({kind}) is not described")),
            }
            told.insert(format!("{heading} {path}"));
        }
        for path in described.keys().map(|path| format!("{heading} {path}")) {
            if !told.contains(&path) && !NOT_TOLD.contains(&path.as_str()) {
                wrong.push(format!("{path} is described and was never printed"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn fields(value: &Value, but: &[&str]) -> BTreeSet<String> {
    value.as_object().unwrap().keys().filter(|name| !but.contains(&name.as_str())).cloned().collect()
}

/// The names in the second column of a table, by the first column.
fn described(heading: &str) -> BTreeMap<String, BTreeSet<String>> {
    let names = |cell: &str| cell.split(',').map(|name| name.trim().trim_matches('`').to_owned()).filter(|name| !name.is_empty()).collect();
    table(&page(), heading).into_iter().map(|row| (row[0].clone(), names(&row[1]))).collect()
}

#[test]
fn every_reason_and_every_event_is_described() {
    let text = || "x".to_owned();
    let changes = ContentDiff::default;
    let reasons = [
        Why::NeverRun,
        Why::KindVersion { old: text(), new: text() },
        Why::Setting { key: text(), old: None, new: None },
        Why::Source { path: text(), changes: changes() },
        Why::Input { port: text(), stage: text(), changes: changes() },
        Why::Seed { old: 1, new: 2 },
        Why::Numerics { old: None, new: None },
        Why::Renamed { old: None, new: None },
        Why::UpstreamWillRun { stage: text() },
        Why::OutputMissing { problem: text() },
        Why::PromiseChanged { path: text(), changes: changes() },
        Why::PublicationChanged { problem: text() },
        Why::SourceMoved { path: text(), changes: changes() },
        Why::Parked { have: 1, need: 2 },
        Why::Interrupted,
        Why::PreviousFailed { message: text() },
        Why::Forced,
    ];
    let told: BTreeMap<_, _> = reasons
        .iter()
        .map(|reason| serde_json::to_value(reason).unwrap())
        .map(|value| (value["why"].as_str().unwrap().to_owned(), fields(&value, &["why"])))
        .collect();
    assert_eq!(told, described("Reasons"));

    let kept = || ResultRef { fingerprint: text(), digest: text() };
    let stage = text;
    let events = [
        Event::RunStarted { pipeline: text(), run: text(), stages: Vec::new(), left_out: vec![text()] },
        Event::StageFresh { stage: stage(), summary: text(), kept: kept() },
        Event::StageStarted { stage: stage(), kind: text(), why: text(), attempt: 1 },
        Event::Progress { stage: stage(), done: 1, total: 2, unit: text(), detail: text() },
        Event::Metrics { stage: stage(), step: 1, values: BTreeMap::new() },
        Event::Journal { stage: stage(), id: text(), began: text(), path: text(), step: 1, settings: json!({}) },
        Event::WorstClips { stage: stage(), clips: Vec::new() },
        Event::Note { stage: stage(), message: text() },
        Event::Warning { stage: stage(), message: text() },
        Event::PeakMemory { stage: stage(), process: text(), bytes: 1 },
        Event::StageFinished { stage: stage(), seconds: 1.0, summary: text(), metrics: BTreeMap::new(), kept: kept() },
        Event::StageParked { stage: stage(), have: 1, need: 2, message: text() },
        Event::StageFailed { stage: stage(), message: text(), hint: None },
        Event::GateFailed { stage: stage(), message: text() },
        Event::StageInterrupted { stage: stage() },
        Event::StageSkipped { stage: stage(), because: text() },
        Event::RunFinished { exit: 0, seconds: 1.0 },
    ];
    let told: BTreeMap<_, _> = events
        .iter()
        .map(|event| serde_json::to_value(event).unwrap())
        .map(|value| (value["event"].as_str().unwrap().to_owned(), fields(&value, &["event", "run"])))
        .collect();
    assert_eq!(told, described("Events"));
}
