//! `voxpipe report`: a run or a sweep on one page that needs nothing else.

use crate::support::Sandbox;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs;

/// Two clips, their scores, and texts that a page has to escape.
const PIPELINE: &str = r#"
schema = 1
[pipeline]
name = "a <b>page</b>"
[params]
rate = "0.1"
[stage.data]
uses = "command"
with = { run = ["sh", "data.sh", "${out}"], code = ["data.sh", "a.wav"], output = "dataset" }
[stage.train]
uses = "command"
from = { data = "data" }
with = { run = ["sh", "train.sh", "${params.rate}", "${out}"], code = ["train.sh"], env = ["NOTE"] }
[stage.scores]
uses = "command"
from = { model = "train", data = "data" }
with = { run = ["sh", "scores.sh", "${out}"], code = ["scores.sh"], output = "scores" }
"#;

const SCORES: &str = r#"{"split":"test","clips":2,"words":4,"characters":20,"normalisation":"basic-1",
"tuned":{"wer":0.5,"cer":0.25,"substitutions":2,"insertions":0,"deletions":0,"unfinished":1},"base":null,"train":null,
"worst":[{"audio_path":"audio/a.wav","reference":"<script>alert(\"1\")</script> & co","base":null,"tuned":"\u05e9\u05dc\u05d5\u05dd 'x'","wer":1.0,"finished":false},
{"audio_path":"../../secret.wav","reference":"two","base":"to","tuned":"too","wer":0.5}]}"#;

fn project() -> Sandbox {
    let sandbox = Sandbox::new();
    let spec = hound::WavSpec { channels: 1, sample_rate: 16_000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut wav = hound::WavWriter::create(sandbox.path("a.wav"), spec).unwrap();
    (0..1600_i16).for_each(|sample| wav.write_sample(sample).unwrap());
    wav.finalize().unwrap();
    sandbox
        .pipeline(PIPELINE)
        .file("scores.json", SCORES)
        .file(
            "data.sh",
            "mkdir $1/audio\ncp a.wav $1/audio\necho '{\"audio_path\":\"audio/a.wav\",\"text\":\"one\",\"language\":\"de\",\"duration\":0.1}' > $1/test.jsonl\n\
             cp $1/test.jsonl $1/data.jsonl\n: > $1/train.jsonl\necho '{\"rejected\":[{\"clip\":\"b<i>\",\"reason\":\"too loud\"}],\"odd\":[]}' > $1/report.json\n",
        )
        .file("train.sh", "echo '{\"metrics\": {\"loss\": 2}, \"step\": 1}'\necho '{\"metrics\": {\"loss\": 1}, \"step\": 2}'\necho x > $2/model\n")
        .file("scores.sh", "cp scores.json $1/scores.json\necho '{}' > $1/clips.jsonl\n");
    sandbox
}

fn run(sandbox: &Sandbox, args: &[&str]) -> crate::support::Ran {
    let output = sandbox.command(args).env("NOTE", "plain").env("REPORT_TOKEN", "geheim-4711").output().unwrap();
    crate::support::Ran::of(output)
}

/// What a page would load from elsewhere, or run.
fn is_alone(page: &str) {
    for way in ["<script", "src=\"http", "href=\"http", "url(http", "@import", "<link", "<iframe", "onerror="] {
        assert!(!page.contains(way), "the page has {way}");
    }
    let addresses = page.matches("http").count();
    // Of the namespaces of pictures, and of nothing else.
    assert_eq!(addresses, page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count() + page.matches("http-equiv").count(), "{page}");
}

#[test]
fn a_run_is_one_page_that_needs_nothing_else() {
    let sandbox = project();
    run(&sandbox, &["run"]).exits(0);
    let told = run(&sandbox, &["report", "--html", "out.html"]).exits(0);
    assert!(told.stdout.is_empty(), "{}", told.stdout);
    let page = sandbox.read("out.html");
    is_alone(&page);
    assert!(page.contains("a &lt;b&gt;page&lt;") && !page.contains("<b>page"), "the name is escaped");
    assert!(page.contains("&lt;script&gt;alert(") && page.contains("&amp; co"), "texts are escaped");
    assert!(page.contains("<dd dir=\"auto\">\u{5e9}\u{5dc}\u{5d5}\u{5dd} &#x27;x&#x27;</dd>"), "texts have the direction of their script");
    assert!(page.contains("b&lt;i&gt;") && page.contains("too loud"), "clips that were left out are listed");
    assert!(page.contains("50.00 %") && page.contains(">unfinished</span>"), "scores, and what is unfinished");
    let sound = STANDARD.encode(fs::read(sandbox.path("a.wav")).unwrap());
    assert!(page.contains(&format!("src=\"data:audio/wav;base64,{sound}\"")), "the worst clip can be heard");
    assert!(page.contains("1 are no longer in the store"), "a path that leads out of the dataset is not followed");
    assert!(page.contains("Whether they were trained on was not checked"), "nothing is claimed of scores that do not say it");
    assert!(page.contains("<polyline"), "curves");
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("width=device-width"));
    // The same run gives the same page.
    run(&sandbox, &["report", "latest", "--html", "again.html"]).exits(0);
    assert_eq!(page, sandbox.read("again.html"));

    let data = run(&sandbox, &["report", "--json"]).exits(0).json();
    assert_eq!(data["outcome"], "done");
    let stage = |name: &str| data["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == name).unwrap().clone();
    let train = stage("train");
    let origin = |name: &str| train["settings"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap()["origin"].clone();
    assert_eq!((origin("run"), origin("output")), (json!("pipeline.toml"), json!("default")));
    assert_eq!(data["curves"][0], json!({ "stage": "train", "metric": "loss", "steps": [1, 2], "values": [2.0, 1.0] }));
    assert_eq!(data["data"][0]["languages"], json!({ "de": 1 }));
    // A program that ends at once is not seen, but the memory of voxpipe itself always is.
    let log = sandbox.read(&format!(".voxpipe/runs/{}/events.jsonl", data["run"].as_str().unwrap()));
    let told = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).filter(|event| event["event"] == "peak-memory");
    let own: Vec<u64> = told.filter(|event| event["process"] == "voxpipe").filter_map(|event| event["bytes"].as_u64()).collect();
    assert!(cfg!(not(target_os = "linux")) || (own.len() == 3 && own.iter().all(|bytes| *bytes > 1_000_000)), "{own:?}");
    let text = run(&sandbox, &["report"]).exits(0).stdout;
    assert!(text.contains("WER 50.00 %") && text.contains("1 unfinished") && text.contains("NOTE"), "{text}");
}

#[test]
fn a_report_tells_what_failed_and_keeps_secrets() {
    let sandbox = project();
    let file = sandbox.read("pipeline.toml").replace("rate = \"0.1\"", "rate = \"geheim-4711\"");
    sandbox.pipeline(&file);
    sandbox.file("train.sh", "echo looking at the data\necho 'it <i>broke</i>' >&2\nexit 3\n");
    run(&sandbox, &["run"]).exits(1);
    for args in [&["report"][..], &["report", "--json"], &["report", "--html", "out.html"]] {
        let told = run(&sandbox, args).exits(0).stdout;
        assert!(!told.contains("geheim"), "{told}");
    }
    let page = sandbox.read("out.html");
    is_alone(&page);
    assert!(!page.contains("geheim") && page.contains("[redacted]"));
    assert!(page.contains("failed with exit code 3") && page.contains("it &lt;i&gt;broke"), "the error");
    assert!(page.contains("looking at the data"), "the last lines of its log");
    let data = run(&sandbox, &["report", "--json"]).exits(0).json();
    let results: Vec<&Value> = data["stages"].as_array().unwrap().iter().map(|stage| &stage["result"]).collect();
    assert_eq!(results, ["done", "failed", "skipped"]);
    // A run that is not there is told as everywhere.
    run(&sandbox, &["report", "2020-01-01-1"]).exits(2).complains("no run is called `2020-01-01-1`");
}

#[test]
fn a_sweep_is_a_table_with_pictures_and_names_what_failed() {
    let sandbox = Sandbox::new();
    sandbox
        .pipeline(
            r#"
schema = 1
[pipeline]
name = "s"
[params]
lr = 1
way = "a"
[stage.train]
uses = "command"
with = { run = ["sh", "train.sh", "${params.lr}", "${params.way}", "${out}"], code = ["train.sh"] }
[matrix]
axes = { lr = [1, 2], way = ["a", "<b>"] }
best = { metric = "train.wer", direction = "min" }
"#,
        )
        .file(
            "train.sh",
            "test $1$2 = 2a && { echo 'too <hot>' >&2; exit 1; }\necho x > $3/x\necho \"{\\\"metrics\\\": {\\\"wer\\\": 0.$1}}\"\n",
        );
    sandbox.run(&["sweep", "--keep-going"]).exits(1);
    sandbox.run(&["report", "sweep", "--html", "sweep.html"]).exits(0);
    let page = sandbox.read("sweep.html");
    is_alone(&page);
    assert_eq!(page.matches("<polyline").count(), 4, "a line for each combination");
    assert_eq!(page.matches("<circle").count(), 6, "a point for each that has the metric, for each axis");
    assert!(page.contains("too &lt;hot&gt;") && page.contains("&lt;b&gt;") && !page.contains("<hot>"), "{page}");
    assert_eq!(page.matches("<tr class=\"best\">").count(), 1);
    let data = sandbox.run(&["report", "sweep", "--json"]).exits(0).json();
    let rows: Vec<_> = data["combinations"].as_array().unwrap().iter().map(|row| (row["result"].clone(), row["best"].clone())).collect();
    assert_eq!(rows.iter().filter(|row| row.0 == "failed").count(), 1, "{rows:?}");
    assert_eq!(rows.iter().filter(|row| row.1 == true).count(), 1, "{rows:?}");
    let text = sandbox.run(&["report", "sweep"]).exits(0).stdout;
    assert!(text.lines().count() >= 5 && text.contains("best"), "{text}");
}

#[test]
fn a_page_replaces_an_older_page_and_nothing_else() {
    let sandbox = Sandbox::new();
    let file = "schema = 1\n[pipeline]\nname = \"p\"\n[stage.a]\nuses = \"command\"\nwith = { run = [\"sh\", \"-c\", \"echo x > $0/x\", \"${out}\"] }\n";
    sandbox.pipeline(file).file("notes.html", "<!DOCTYPE html>\nmine").file("empty.html", "");
    sandbox.run(&["run"]).exits(0);
    for (target, complaint) in [
        ("pipeline.toml", "`pipeline.toml` is not a page of `voxpipe report`"),
        ("notes.html", "`notes.html` is not a page of `voxpipe report`"),
        (".", "`.` is not a file"),
    ] {
        sandbox.run(&["report", "--html", target]).exits(2).complains(complaint).complains("name another file");
    }
    assert_eq!((sandbox.read("pipeline.toml").as_str(), sandbox.read("notes.html").as_str()), (file, "<!DOCTYPE html>\nmine"));
    for _ in 0..2 {
        sandbox.run(&["report", "--html", "new.html"]).exits(0);
    }
    sandbox.run(&["report", "--html", "empty.html"]).exits(0);
    let page = sandbox.run(&["report", "--html", "-"]).exits(0).stdout;
    assert_eq!((&page, &page), (&sandbox.read("new.html"), &sandbox.read("empty.html")));
    assert!(!sandbox.path("-").exists());
}

#[test]
fn the_newest_run_is_that_of_the_pipeline_that_was_named() {
    let sandbox = Sandbox::new();
    let file = |name: &str| {
        format!(
            "schema = 1\n[pipeline]\nname = \"{name}\"\n[stage.a]\nuses = \"command\"\nwith = {{ run = [\"sh\", \"-c\", \"echo {name} > $0/x\", \"${{out}}\"] }}\n"
        )
    };
    sandbox.pipeline(&file("one")).file("two.toml", &file("two")).file("three.toml", &file("three"));
    sandbox.run(&["run"]).exits(0);
    sandbox.run(&["run", "two.toml"]).exits(0);
    for command in ["show", "report"] {
        let of = |args: &[&str]| {
            let told = sandbox.run(&[&[command, "--json"], args].concat()).exits(0).json();
            told["pipeline"].as_str().unwrap().to_owned()
        };
        assert_eq!(of(&["latest", "pipeline.toml"]), "one");
        assert_eq!(of(&["latest", "two.toml"]), "two");
        assert_eq!(of(&[]), "two", "without a file, of the project");
        // The file alone, and the two in the other order.
        assert_eq!(of(&["pipeline.toml"]), "one");
        assert_eq!(of(&["pipeline.toml", "latest"]), "one");
        sandbox.run(&[command, "previous", "two.toml"]).exits(2).complains("there is no run before the newest one of pipeline `two`");
        sandbox.run(&[command, "three.toml"]).exits(2).complains("there is no run of pipeline `three`");
        sandbox.run(&[command, "two.toml", "three.toml"]).exits(2).complains("two pipeline files are named");
    }
    sandbox.run(&["why", "a", "--vs", "latest"]).exits(0);
    sandbox.run(&["why", "a", "pipeline.toml", "--vs", "latest"]).exits(0);
}
