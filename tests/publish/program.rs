//! `target = "hub"` in a pipeline, by the real program.

use super::*;
use crate::support::{Ran, Sandbox, files, python, skipped};
use serde_json::{Value, json};
use std::process::{Command, Stdio};

const PIPELINE: &str = r#"schema = 1
[pipeline]
name = "voices"
[stage.model]
uses = "command"
with = { run = ["sh", "make.sh", "${out}"], code = ["make.sh", "made"], output = "model" }
[stage.card]
uses = "card"
from = { model = "model" }
[stage.publish]
uses = "publish"
from = { model = "model", card = "card" }
with = { target = "hub", repo = "voice" }
"#;

/// Weights of one tensor of so many bytes.
fn weights(size: usize) -> Vec<u8> {
    let header = format!(r#"{{"x":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}}}"#);
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &noise(7, size)].concat()
}

pub(super) fn project() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.pipeline(PIPELINE).file("make.sh", "cp made/* \"$1\"\n").file("made/adapter_config.json", "{}");
    let training = json!({
        "method": "lora", "base": { "name": "mistralai/Voxtral-Mini-3B-2507", "hub": "mistralai/Voxtral-Mini-3B-2507", "init": "checkpoint", "digest": "ab" },
        "parameters": 10, "trainable_parameters": 5, "settings": { "learning_rate": 5e-5, "lora": { "r": 8 } }, "steps": 1, "epochs": 1.0,
        "examples": 1, "audio_seconds": 1.0, "first_loss": 2.0, "final_loss": 1.0, "device": "cpu", "precision": "f32", "languages": ["en"], "seed": 1,
    });
    sandbox.file("made/training.json", &training.to_string());
    fs::write(sandbox.path("made/adapter_model.safetensors"), weights(2 * MIB)).unwrap();
    sandbox
}

pub(super) fn command(sandbox: &Sandbox, address: &str, token: (&str, &str), args: &[&str]) -> Command {
    let mut command = sandbox.command(args);
    command.env("HF_ENDPOINT", address).env("HF_HOME", sandbox.path("../home/hf")).env(token.0, token.1);
    command
}

fn run(sandbox: &Sandbox, hub: &Hub, token: (&str, &str), args: &[&str]) -> Ran {
    Ran::of(command(sandbox, &hub.address, token, args).output().unwrap())
}

fn published(sandbox: &Sandbox) -> Value {
    serde_json::from_str(&sandbox.read(".voxpipe/latest/voices/publish/published.json")).unwrap()
}

#[test]
fn a_pipeline_publishes_once_and_again_only_when_something_changed() {
    let (sandbox, hub) = (project(), Hub::start());
    // Only the variable that is for writing is set.
    let token = ("HF_WRITE_TOKEN", WRITE);
    run(&sandbox, &hub, token, &["run"]).exits(0);
    let told = published(&sandbox);
    let commits = hub.commits("model", REPO);
    assert_eq!((&told["repo"], &told["revision"], commits.len()), (&json!(REPO), &json!(commits[0]), 2));
    assert_eq!(told["url"], format!("{}/{REPO}", hub.address));
    let there = hub.files("model", REPO);
    assert_eq!(there["adapter_model.safetensors"], weights(2 * MIB));
    assert_eq!(there.keys().filter(|path| *path != MARKER).count(), told["files"].as_array().unwrap().len());

    // Nothing is stale: it is only looked at. Forced: nothing is sent. Changed: one more commit.
    hub.forget();
    assert!(run(&sandbox, &hub, token, &["run"]).exits(0).stdout.contains("3 fresh"));
    assert!(!hub.seen().is_empty() && hub.seen().iter().all(|seen| seen.method == "GET") && hub.commits("model", REPO) == commits);
    run(&sandbox, &hub, token, &["run", "--force", "publish"]).exits(0);
    assert!(hub.seen().iter().all(|seen| seen.method == "GET") && hub.commits("model", REPO) == commits);
    sandbox.file("made/adapter_config.json", "{ }");
    run(&sandbox, &hub, token, &["run"]).exits(0);
    assert_eq!(hub.commits("model", REPO).len(), 3);
    assert_eq!(published(&sandbox)["revision"], json!(hub.commits("model", REPO)[0]));
}

/// The state of the publication, in the words of `plan --json` with these arguments.
fn planned(ran: &Ran) -> (String, String) {
    let plan = ran.json();
    let step = plan["steps"].as_array().unwrap().iter().find(|step| step["stage"] == "publish").unwrap().clone();
    (step["state"].as_str().unwrap().to_owned(), step["sentence"].as_str().unwrap().to_owned())
}

#[test]
fn a_publication_is_fresh_only_while_it_lies_there_as_it_was_published() {
    let (sandbox, hub) = (project(), Hub::start());
    let token = ("HF_TOKEN", WRITE);
    let asked = ["plan", "--json", "--check-remote"];
    run(&sandbox, &hub, token, &["run"]).exits(0);

    // A plan opens no connection, and says so; asked to, it looks, and downloads nothing.
    hub.forget();
    let (state, sentence) = planned(&run(&sandbox, &hub, token, &["plan", "--json"]).exits(0));
    assert!(state == "fresh" && sentence.contains("published; not checked") && hub.seen().is_empty(), "{state} {sentence}");
    for command in ["status", "why"] {
        let args: &[&str] = if command == "why" { &["why", "publish"] } else { &["status"] };
        assert!(run(&sandbox, &hub, token, args).exits(0).stdout.contains("not checked"), "{command}");
        let looked = run(&sandbox, &hub, token, &[args, &["--check-remote"]].concat()).exits(0).stdout;
        assert!(!looked.contains("not checked"), "{looked}");
    }
    let (state, sentence) = planned(&run(&sandbox, &hub, token, &asked).exits(0));
    assert!(state == "fresh" && !sentence.contains("not checked"), "{sentence}");
    assert!(hub.seen().iter().all(|seen| seen.method == "GET" && !seen.path.contains("/resolve/")));

    // Changed by somebody else: it is told, and not overwritten.
    let card = hub.files("model", REPO)["README.md"].clone();
    hub.put("model", REPO, [("README.md", "somebody else's words")]);
    let (state, sentence) = planned(&run(&sandbox, &hub, token, &asked).exits(0));
    assert!(state == "run" && sentence.contains("`README.md` of `alice/voice` is missing or changed"), "{state} {sentence}");
    run(&sandbox, &hub, token, &["run"]).exits(4).complains("`README.md` in `alice/voice` changed since voxpipe published it");
    hub.put("model", REPO, [("README.md", card)]);
    assert!(run(&sandbox, &hub, token, &["run"]).exits(0).stdout.contains("3 fresh"));

    // Deleted: it is published again.
    hub.remove("model", REPO);
    assert_eq!(planned(&run(&sandbox, &hub, token, &asked).exits(0)).0, "run");
    run(&sandbox, &hub, token, &["run"]).exits(0).complains("`alice/voice` does not exist any more");
    assert!(hub.has("model", REPO));

    // Another Hub: nothing lies there. This is known without asking.
    let other = Hub::start();
    let (state, sentence) = planned(&run(&sandbox, &other, token, &["plan", "--json"]).exits(0));
    assert!(state == "run" && sentence.contains("and the Hub is now") && other.seen().is_empty(), "{state} {sentence}");
    run(&sandbox, &other, token, &["run"]).exits(0);
    assert!(other.has("model", REPO));
    run(&sandbox, &hub, token, &["run"]).exits(0);

    // Another user's token: it is published as theirs.
    let (state, sentence) = planned(&run(&sandbox, &hub, ("HF_TOKEN", BOB), &asked).exits(0));
    assert!(state == "run" && sentence.contains("`alice` published it, and the token is now of `bob`"), "{state} {sentence}");
    run(&sandbox, &hub, ("HF_TOKEN", BOB), &["run"]).exits(0);
    assert!(hub.has("model", "bob/voice"));
}

#[test]
fn a_publication_that_cannot_be_checked_is_told_and_no_failure() {
    let (sandbox, hub) = (project(), Hub::start());
    let token = ("HF_TOKEN", WRITE);
    run(&sandbox, &hub, token, &["run"]).exits(0);
    hub.forget();
    let offline = Ran::of(command(&sandbox, &hub.address, token, &["run"]).env("HF_HUB_OFFLINE", "1").output().unwrap()).exits(0);
    offline.complains("not checked: the network is not to be used");
    run(&sandbox, &hub, ("NO_TOKEN", "x"), &["run"]).exits(0).complains("not checked: there is no token");
    assert!(hub.seen().is_empty());
    // A Hub that fails, whatever it fails with.
    for what in [What::Status(503, ""), What::CutBefore] {
        hub.break_with(Fault::new("GET", "/api/", what).always());
        run(&sandbox, &hub, token, &["run"]).exits(0).complains("not checked: ");
        hub.mend();
    }
    assert!(!run(&sandbox, &hub, token, &["run"]).exits(0).stderr.contains("not checked"));
}

#[test]
fn a_colleagues_publication_is_not_taken_from_the_shared_cache() {
    let (alice, bob, hub) = (project(), project(), Hub::start());
    let shared = alice.path("../shared");
    fs::create_dir(&shared).unwrap();
    let run = |sandbox: &Sandbox, token: &str| {
        let mut command = command(sandbox, &hub.address, ("HF_TOKEN", token), &["run"]);
        Ran::of(command.env("VOXPIPE_SHARED_CACHE", &shared).output().unwrap()).exits(0)
    };
    run(&alice, WRITE);
    let ran = run(&bob, BOB);
    assert_eq!(ran.stderr.matches("pulled from the shared cache").count(), 2, "model and card: {}", ran.stderr);
    assert!(hub.has("model", "bob/voice"), "{}", ran.stderr);
}

#[test]
fn permission_is_asked_before_anything_begins() {
    let (sandbox, hub) = (project(), Hub::start());
    sandbox.file("make.sh", "touch begun; cp made/* \"$1\"\n");
    let refused = |token: (&str, &str), words: &[&str]| {
        let ran = run(&sandbox, &hub, token, &["run"]).exits(4);
        let doctor = run(&sandbox, &hub, token, &["doctor", "--device", "cpu", "pipeline.toml"]).exits(4);
        for word in words {
            assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
            assert!(doctor.stderr.contains(word), "{word}: {}", doctor.stderr);
        }
        assert!(!sandbox.path("begun").exists() && !hub.has("model", REPO));
        assert!(!format!("{}{}{}{}", ran.stdout, ran.stderr, doctor.stdout, doctor.stderr).contains(token.1));
    };
    refused(("HF_TOKEN", READ), &["from HF_TOKEN", "role read", "`alice/voice`"]);
    refused(("HF_WRITE_TOKEN", FINE), &["from HF_WRITE_TOKEN", "role fineGrained", "`alice/voice`"]);
    refused(("NO_TOKEN", "nothing-secret-at-all"), &["this needs a token, and none is set", "HF_WRITE_TOKEN"]);
    run(&sandbox, &hub, ("HF_TOKEN", WRITE), &["doctor", "--device", "cpu", "pipeline.toml"])
        .exits(0)
        .stdout
        .find(&format!("publish: `alice` may write to {}/{REPO}", hub.address))
        .unwrap();
    assert!(!hub.has("model", REPO));

    // Where the network is not to be used nobody is asked, and what needs it fails in its turn.
    hub.forget();
    let mut offline = command(&sandbox, &hub.address, ("HF_TOKEN", WRITE), &["run"]);
    Ran::of(offline.env("HF_HUB_OFFLINE", "1").output().unwrap()).exits(4).complains("network access is disabled");
    assert!(sandbox.path("begun").exists() && hub.seen().is_empty());
    run(&sandbox, &hub, ("HF_TOKEN", FINE), &["run", "--set", "stage.publish.with.repo=alice/allowed"]).exits(0);
}

#[test]
fn the_token_is_in_no_file_no_output_and_no_argument_and_goes_to_no_other_host() {
    let (sandbox, hub) = (project(), Hub::start());
    hub.part_size(MIB);
    hub.break_with(Fault::new("GET", "whoami", What::Slow(Duration::from_millis(60))).always());
    hub.break_with(Fault::new("PUT", "/part/", What::CutBefore).after(1));
    let mut child =
        command(&sandbox, &hub.address, ("HF_TOKEN", WRITE), &["run"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut looks = 0;
    while child.try_wait().unwrap().is_none() {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments).into_owned();
            looks += usize::from(arguments.contains("voxpipe\0run"));
            assert!(!arguments.contains(WRITE), "{arguments}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let ran = Ran::of(child.wait_with_output().unwrap()).exits(0);
    assert!(looks > 0, "the process list was not looked at");
    assert!(!format!("{}{}", ran.stdout, ran.stderr).contains(WRITE));
    let needle = WRITE.as_bytes();
    for (name, bytes) in files(sandbox.root().parent().unwrap()) {
        assert!(!bytes.windows(needle.len()).any(|window| window == needle), "the token is in {name}");
    }
    for (name, bytes) in hub.files("model", REPO) {
        assert!(!bytes.windows(needle.len()).any(|window| window == needle), "the token is in the published {name}");
    }
    let seen = hub.seen();
    assert!(seen.iter().any(|seen| !seen.hub) && seen.iter().filter(|seen| !seen.hub).all(|seen| seen.authorization.is_none()));
    assert!(seen.iter().any(|seen| seen.hub && seen.authorization.is_some()));
}

#[test]
fn the_official_client_reads_what_we_published_byte_for_byte() {
    let Some(python) = python("huggingface_hub") else {
        return skipped("what we publish and the official client", "no Python with the huggingface_hub package was found");
    };
    for kind in [RepoType::Model, RepoType::Dataset] {
        let bench = Bench { kind, ..Bench::new() };
        let published = bench.publish().unwrap();
        let script = "import sys, huggingface_hub as h\nh.snapshot_download(sys.argv[1], repo_type=sys.argv[2], revision=sys.argv[3], local_dir=sys.argv[4])";
        let to = bench.dir.path().join("theirs");
        let mut command = Command::new(&python);
        command.args(["-c", script, REPO, kind.word(), &published.revision]).arg(&to).env("HF_ENDPOINT", &bench.hub.address);
        command.env("HF_HOME", bench.dir.path().join("home")).env("HF_HUB_DISABLE_XET", "1").env("HF_HUB_DISABLE_TELEMETRY", "1");
        let ran = command.env_remove("HF_TOKEN").output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let mut there = files(&to);
        there.retain(|path, _| !path.starts_with(".cache") && path != MARKER);
        assert!(there == bench.files, "{:?}", there.keys());
    }
}
