//! `target = "hub"` of a demo: a Space that runs what it says, or an error that says why it does not.

use super::*;
use crate::support::{Ran, Sandbox};
use serde_json::{Value, json};

const SPACE: &str = "alice/voice-demo";

/// A pipeline that publishes an adapter and shows it; `demo` is the settings of the demo.
fn project(demo: &str) -> Sandbox {
    let sandbox = program::project();
    let text = sandbox.read("pipeline.toml");
    let target = "with = { target = \"hub\", repo = \"voice\" }";
    assert!(text.contains(target));
    sandbox.pipeline(&format!(
        "{text}\n[stage.demo]\nuses = \"demo\"\nfrom = {{ published = \"publish\" }}\nwith = {{ target = \"hub\", {demo} }}\n"
    ));
    sandbox
}

fn run(sandbox: &Sandbox, hub: &Hub, more: &[(&str, &str)], args: &[&str]) -> Ran {
    let mut command = program::command(sandbox, &hub.address, ("HF_TOKEN", WRITE), args);
    Ran::of(command.envs(more.iter().copied()).output().unwrap())
}

#[test]
fn a_gradio_space_is_made_with_what_it_needs_and_waited_for() {
    let (sandbox, hub) = (project("sdk = \"gradio\""), Hub::start());
    let said = run(&sandbox, &hub, &[], &["run"]).exits(0);
    let [variables, secrets] = hub.space_settings(SPACE);
    let revision = hub.commits("model", REPO)[0].clone();
    assert_eq!(variables["HF_MODEL_ID"], REPO);
    assert_eq!(variables["MODEL_REVISION"], revision);
    assert_eq!(variables["BASE_MODEL_ID"], "mistralai/Voxtral-Mini-3B-2507");
    assert!(secrets.is_empty(), "a public model needs no secret");
    let there = hub.files("space", SPACE);
    for name in ["README.md", "app.py", "model.json", "requirements.txt"] {
        assert!(there.contains_key(name), "{name}");
    }
    assert!(!there.contains_key("space.json") && hub.commits("space", SPACE).len() == 2);
    assert!(said.stderr.contains(&format!("{}/spaces/{SPACE} (running)", hub.address)), "{}", said.stderr);
    let seen = hub.seen();
    let at = |part: &str| seen.iter().position(|seen| seen.path.ends_with(part) && seen.path.contains("voice-demo")).unwrap();
    assert!(at("/variables") < at("/commit/main"), "the first build lacks its variables");
    assert!(at("/commit/main") < at("/runtime"), "nobody waited");

    // Again: nothing to do; forced: nothing is changed, but it is looked at.
    hub.forget();
    run(&sandbox, &hub, &[], &["run"]).exits(0).complains("demo     fresh");
    assert!(hub.seen().iter().all(|seen| seen.method == "GET") && hub.seen().iter().any(|seen| seen.path.contains("voice-demo/tree")));
    run(&sandbox, &hub, &[], &["run", "--force", "demo"]).exits(0);
    assert_eq!(hub.commits("space", SPACE).len(), 2);
    // A page that somebody deleted is made again.
    hub.remove("space", SPACE);
    let plan = run(&sandbox, &hub, &[], &["plan", "--check-remote"]).exits(0).stdout;
    assert!(plan.contains("`alice/voice-demo` does not exist any more"), "{plan}");
    run(&sandbox, &hub, &[], &["run"]).exits(0);
    assert!(hub.has("space", SPACE));
    let space: Value = serde_json::from_str(&sandbox.read(".voxpipe/latest/voices/demo/space.json")).unwrap();
    assert_eq!((&space["repo"], &space["revision"]), (&json!(SPACE), &json!(hub.commits("space", SPACE)[0])));
}

#[test]
fn a_space_of_a_private_model_gets_a_token_that_only_reads() {
    let (sandbox, hub) = (project("sdk = \"gradio\""), Hub::start());
    let text = sandbox.read("pipeline.toml");
    sandbox.pipeline(&text.replace("repo = \"voice\" }", "repo = \"voice\", private = true }"));
    run(&sandbox, &hub, &[], &["run"]).exits(4).complains("set HF_READ_TOKEN to it");
    run(&sandbox, &hub, &[("HF_READ_TOKEN", WRITE)], &["run"]).exits(4).complains("HF_READ_TOKEN may write everything");
    assert!(hub.space_settings(SPACE)[1].is_empty());
    run(&sandbox, &hub, &[("HF_READ_TOKEN", READ)], &["run"]).exits(0);
    assert_eq!(hub.space_settings(SPACE)[1]["HF_TOKEN"], READ);
}

#[test]
fn what_has_to_be_paid_for_is_said_with_what_is_free() {
    let (sandbox, hub) = (project("sdk = \"gradio\""), Hub::start());
    hub.free_user(true);
    run(&sandbox, &hub, &[], &["run"]).exits(4).complains("the Hub asks for payment").complains("sdk = \"static\"");
    assert!(!hub.has("space", SPACE));
    sandbox.pipeline(&sandbox.read("pipeline.toml").replace("sdk = \"gradio\"", "sdk = \"static\""));
    run(&sandbox, &hub, &[], &["run"]).exits(0);
    assert!(hub.files("space", SPACE).contains_key("index.html"));
    assert!(hub.space_settings(SPACE).iter().all(BTreeMap::is_empty));

    // Hardware is asked for after the Space is there: its files stay.
    hub.free_user(false);
    let other = project("sdk = \"gradio\", repo = \"alice/other\"");
    run(&other, &hub, &[], &["run"]).exits(0);
    other.pipeline(&other.read("pipeline.toml").replace("repo = \"alice/other\"", "repo = \"alice/other\", hardware = \"l4x1\""));
    run(&other, &hub, &[], &["run"]).exits(4).complains("cannot run `alice/other` on l4x1").complains("/settings/billing");
    assert!(hub.files("space", "alice/other").contains_key("app.py"));
}

#[test]
fn a_space_that_does_not_run_says_why() {
    let (sandbox, hub) = (project("sdk = \"gradio\""), Hub::start());
    run(&sandbox, &hub, &[], &["run"]).exits(0);
    for stage in ["BUILD_ERROR", "RUNTIME_ERROR"] {
        hub.space_stages(SPACE, &["BUILDING", stage]);
        let ran = run(&sandbox, &hub, &[], &["run", "--force", "demo"]).exits(4);
        for words in [stage, "built by the test hub", "when it is fixed, run again"] {
            assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
        }
    }
    hub.space_stages(SPACE, &["PAUSED"]);
    run(&sandbox, &hub, &[], &["run", "--force", "demo"]).exits(4).complains("is PAUSED");
    // One that never gets there is not waited for without end, and not at all if that is not wanted.
    hub.space_stages(SPACE, &["BUILDING"]);
    let pipeline = sandbox.read("pipeline.toml");
    let with = |wait: &str| sandbox.pipeline(&pipeline.replace("sdk = \"gradio\"", &format!("sdk = \"gradio\", wait_seconds = {wait}")));
    with("1");
    run(&sandbox, &hub, &[], &["run"]).exits(4).complains("is not running after 1 s; it is BUILDING");
    with("0");
    run(&sandbox, &hub, &[], &["run"]).exits(0);
    hub.space_stages(SPACE, &["RUNNING"]);
    with("60");
    run(&sandbox, &hub, &[], &["run"]).exits(0);
}

#[test]
fn a_space_of_somebody_is_left_alone() {
    let (sandbox, hub) = (project("sdk = \"static\""), Hub::start());
    hub.put("space", SPACE, [("README.md", "---\nsdk: static\n---\nMine."), ("index.html", "Mine.")]);
    run(&sandbox, &hub, &[], &["run"]).exits(4).complains("was not published by voxpipe");
    assert_eq!(hub.files("space", SPACE)["index.html"], b"Mine.");
}
