//! Digests that change only on purpose, with a line in CHANGELOG: what stages depend on, what they make, and what is published.
//!
//! Everything before the training is the same on every machine. What is trained is the same on every CPU with the same SIMD level, so those rows
//! are compared where the level is that of the recorded file. `UPDATE=1` records them anew.

use crate::support::{Sandbox, golden, skipped};
use serde_json::Value;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Copies a folder of the repository into the sandbox.
fn copy(sandbox: &Sandbox, folder: &str) {
    for (name, bytes) in crate::support::files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)) {
        let path = sandbox.path(&format!("{folder}/{name}"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Stages with the fingerprint and the digest of their results, as the log of a run has them.
fn stages(sandbox: &Sandbox, file: &str) -> Vec<(String, String, String)> {
    let events = sandbox.path("events.jsonl");
    let _ = fs::remove_file(&events);
    sandbox.run(&["run", file, "--events", events.to_str().unwrap()]).exits(0);
    let text = fs::read_to_string(events).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let word = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    lines
        .filter(|event| ["stage-finished", "stage-fresh"].contains(&event["event"].as_str().unwrap()))
        .map(|event| (word(&event, "stage"), word(&event, "fingerprint"), word(&event, "digest")))
        .collect()
}

#[test]
fn digests_of_the_shipped_pipelines_have_not_changed() {
    let sandbox = Sandbox::new();
    for folder in ["pipelines", "datasets/words", "datasets/first-run-es"] {
        copy(&sandbox, folder);
    }
    let (mut portable, mut trained) = (String::new(), String::new());
    for file in ["pipelines/first-run.toml", "pipelines/second-language.toml"] {
        for (stage, fingerprint, digest) in stages(&sandbox, file) {
            let before = ["phrases", "uploads", "dataset"].iter().any(|kind| stage.starts_with(kind));
            let to = if before { &mut portable } else { &mut trained };
            writeln!(to, "{file} {stage} {fingerprint} {digest}").unwrap();
        }
    }
    for (name, bytes) in crate::support::files(&sandbox.path("published")) {
        writeln!(trained, "published/{name} {}", blake3::hash(&bytes).to_hex()).unwrap();
    }
    golden("digests.txt", &portable);
    let level = voxtral::kernels::cpu::kind();
    let recorded = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/digests-trained.txt")).unwrap_or_default();
    if recorded.lines().next().is_some_and(|first| first != level) && std::env::var_os("UPDATE").is_none() {
        return skipped("digests of trained models", &format!("this CPU computes as {level}, the recorded one did not"));
    }
    golden("digests-trained.txt", &format!("{level}\n{trained}"));
}
