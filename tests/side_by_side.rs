//! Several pipelines of one project: they run at the same time, share what they have in common, wait where asked, and keep apart what is theirs.

use crate::support::{Ran, Sandbox, signal};
use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A pipeline whose stages are each one program that notes that it ran, says that it began, and waits while the file `block-NAME` is there.
fn pipeline(name: &str, stages: &[&str]) -> String {
    let mut text = format!("schema = 1\n[pipeline]\nname = \"{name}\"\n");
    for stage in stages {
        text.push_str(&format!(
            "[stage.{stage}]\nuses = \"command\"\nwith = {{ run = [\"sh\", \"stage.sh\", \"{stage}\", \"${{out}}\"], code = [\"stage.sh\"] }}\n"
        ));
    }
    text
}

const STAGE: &str = "echo $1 >> ran-$1\n: > begun-$1\nwhile [ -e block-$1 ]; do sleep 0.02; done\necho $1 > $2/x\n";

fn project() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox
        .file("stage.sh", STAGE)
        .file("one.toml", &pipeline("one", &["a", "shared"]))
        .file("two.toml", &pipeline("two", &["b", "shared"]));
    sandbox
}

fn ran(sandbox: &Sandbox, stage: &str) -> usize {
    fs::read_to_string(sandbox.path(&format!("ran-{stage}"))).unwrap_or_default().lines().count()
}

fn spawn(sandbox: &Sandbox, args: &[&str]) -> Child {
    sandbox.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The standard error of a child, line by line, until a line contains `text`.
fn says(child: &mut Child, text: &str) -> String {
    use std::io::Read;
    let (mut found, mut byte) = (String::new(), [0]);
    let errors = child.stderr.as_mut().unwrap();
    while !found.contains(text) {
        assert!(errors.read(&mut byte).unwrap() == 1, "ended before `{text}`:\n{found}");
        found.push(char::from(byte[0]));
    }
    found
}

#[test]
fn pipelines_that_share_nothing_run_at_the_same_time() {
    let sandbox = project();
    sandbox.file("one.toml", &pipeline("one", &["a"])).file("two.toml", &pipeline("two", &["b"])).file("block-a", "");
    let one = sandbox.start(&["run", "one.toml"], "begun-a");
    for _ in 0..2 {
        sandbox.run(&["run", "two.toml"]).exits(0);
    }
    assert_eq!(ran(&sandbox, "b"), 1, "the second time from the fast path");
    fs::remove_file(sandbox.path("block-a")).unwrap();
    Ran::of(one.wait_with_output().unwrap()).exits(0);
    assert_eq!(ran(&sandbox, "a"), 1, "its programs were left alone");
    for file in ["one.toml", "two.toml"] {
        let again = sandbox.run(&["run", file]).exits(0);
        assert!(again.stdout.contains("1 fresh"), "{}", again.stdout);
    }
    let runs: Vec<_> = fs::read_dir(sandbox.path(".voxpipe/runs")).unwrap().collect();
    assert_eq!(runs.len(), 5, "each run has its own folder");
    sandbox.run(&["cache", "verify", "one.toml"]).exits(0);
}

#[test]
fn a_stage_that_two_pipelines_share_is_made_once() {
    let sandbox = project();
    sandbox.file("block-shared", "");
    let one = sandbox.start(&["run", "one.toml"], "begun-shared");
    let mut two = spawn(&sandbox, &["run", "two.toml"]);
    let name = format!("waits for process {} (`voxpipe run one.toml`), which is making the same result", one.id());
    says(&mut two, &name);
    fs::remove_file(sandbox.path("block-shared")).unwrap();
    Ran::of(one.wait_with_output().unwrap()).exits(0);
    let two = Ran::of(two.wait_with_output().unwrap()).exits(0);
    assert!(two.stdout.contains("1 fresh, 1 done"), "{}", two.stdout);
    assert!(!two.stderr.contains("waits for"), "told once: {}", two.stderr);
    assert_eq!((ran(&sandbox, "shared"), ran(&sandbox, "a"), ran(&sandbox, "b")), (1, 1, 1));
    let left: Vec<_> = fs::read_dir(sandbox.path(".voxpipe/locks")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name.len() < 64), "claims go with their runs: {left:?}");
}

#[test]
fn who_waits_for_a_stage_makes_it_when_the_other_is_killed() {
    let sandbox = project();
    sandbox.file("block-shared", "");
    let mut one = sandbox.start(&["run", "one.toml"], "begun-shared");
    let two = spawn(&sandbox, &["run", "two.toml"]);
    until("b runs", || ran(&sandbox, "b") == 1);
    one.kill().unwrap();
    one.wait().unwrap();
    until("shared runs again", || ran(&sandbox, "shared") == 2);
    fs::remove_file(sandbox.path("block-shared")).unwrap();
    Ran::of(two.wait_with_output().unwrap()).exits(0);
    sandbox.run(&["run", "one.toml"]).exits(0);
    assert_eq!(ran(&sandbox, "shared"), 2);
    sandbox.run(&["cache", "verify", "one.toml"]).exits(0);
}

#[test]
fn a_pipeline_runs_once_at_a_time_or_waits() {
    let sandbox = project();
    sandbox.file("block-a", "");
    let one = sandbox.start(&["run", "one.toml"], "begun-a");
    let who = format!("process {} (`voxpipe run one.toml`) holds the lock", one.id());
    sandbox.run(&["run", "one.toml"]).exits(3).complains(&who).complains("--wait");
    let mut waiting = spawn(&sandbox, &["run", "--wait", "one.toml"]);
    says(&mut waiting, &who);
    // Ctrl-C ends the waiting, and only that.
    signal(&waiting, "INT");
    Ran::of(waiting.wait_with_output().unwrap()).exits(75).complains("interrupted while waiting");
    let mut waiting = spawn(&sandbox, &["run", "--wait", "one.toml"]);
    says(&mut waiting, &who);
    // What is edited meanwhile counts.
    let text = sandbox.read("one.toml");
    sandbox.file(
        "one.toml",
        &format!("{text}{}", pipeline("one", &["late"]).split_once("[stage").map(|(_, rest)| format!("[stage{rest}")).unwrap()),
    );
    fs::remove_file(sandbox.path("block-a")).unwrap();
    Ran::of(one.wait_with_output().unwrap()).exits(0);
    Ran::of(waiting.wait_with_output().unwrap()).exits(0);
    assert_eq!((ran(&sandbox, "a"), ran(&sandbox, "shared"), ran(&sandbox, "late")), (1, 1, 1));
}

#[test]
fn what_removes_results_needs_the_project_for_itself() {
    let sandbox = project();
    sandbox.file("block-a", "").file("block-b", "");
    let one = sandbox.start(&["run", "one.toml"], "begun-a");
    let two = sandbox.start(&["run", "two.toml"], "begun-b");
    let told = sandbox.run(&["gc", "one.toml"]).exits(3);
    for (child, file) in [(&one, "one.toml"), (&two, "two.toml")] {
        assert!(told.stderr.contains(&format!("process {} (`voxpipe run {file}`)", child.id())), "{}", told.stderr);
    }
    for block in ["block-a", "block-b"] {
        fs::remove_file(sandbox.path(block)).unwrap();
    }
    for child in [one, two] {
        Ran::of(child.wait_with_output().unwrap()).exits(0);
    }
    sandbox.run(&["gc", "one.toml"]).exits(0);
}

#[test]
fn programs_that_outlived_another_pipeline_are_ended_and_those_of_a_living_one_are_not() {
    let sandbox = project();
    // A program that leaves its process group, so that only the liveness lock finds it.
    sandbox.file(
        "escape.sh",
        "setsid sh -c 'echo $$ > escaped; sleep 600' > /dev/null 2>&1 &\nuntil [ -s escaped ]; do sleep 0.02; done\n: > gone\nsleep 600\n",
    );
    sandbox.file(
        "three.toml",
        "schema = 1\n[pipeline]\nname = \"three\"\n[stage.c]\nuses = \"command\"\nwith = { run = [\"sh\", \"escape.sh\", \"${out}\"] }\n",
    );
    sandbox.file("block-a", "");
    let one = sandbox.start(&["run", "one.toml"], "begun-a");
    let mut three = sandbox.start(&["run", "three.toml"], "gone");
    three.kill().unwrap();
    three.wait().unwrap();
    let escaped = sandbox.read("escaped").trim().to_owned();
    sandbox.run(&["run", "two.toml"]).exits(0).complains("of an earlier run was still running and was terminated").complains(&escaped);
    let state = fs::read_to_string(format!("/proc/{escaped}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
    fs::remove_file(sandbox.path("block-a")).unwrap();
    Ran::of(one.wait_with_output().unwrap()).exits(0);
    assert_eq!(ran(&sandbox, "a"), 1);
}

#[test]
fn two_files_of_one_name_are_told_and_keep_their_results_apart() {
    let sandbox = Sandbox::new();
    let text = |word: &str| {
        format!(
            "schema = 1\n[pipeline]\nname = \"same\"\n[stage.a]\nuses = \"command\"\nwith = {{ run = [\"sh\", \"-c\", \"echo {word} >> ran; echo \
             {word} > $0/x\", \"${{out}}\"] }}\n"
        )
    };
    sandbox.pipeline(&text("one"));
    for command in ["check", "plan", "run"] {
        assert!(!sandbox.run(&[command]).exits(0).stderr.contains("of the name"), "{command}: nothing to tell yet");
    }
    // A name that ends up at the same place, in a file with another project, and one that is no pipeline.
    sandbox.file("elsewhere/pipeline.toml", &text("else")).file("pyproject.toml", "[pipeline]\nname = \"same\"\n");
    assert!(!sandbox.run(&["check"]).exits(0).stderr.contains("of the name"));
    sandbox.file("other.toml", &text("two"));
    for (file, other) in [("other.toml", "pipeline.toml"), ("pipeline.toml", "other.toml")] {
        for command in ["check", "plan", "run"] {
            sandbox.run(&[command, file]).exits(0).complains(&format!("two pipelines of the name `same`: the other one is `{other}`"));
        }
        let json = sandbox.run(&["check", file, "--json"]).exits(0).json();
        assert_eq!(json["diagnostics"][0]["severity"], "warning", "{json}");
    }
    // Each stands at its own result: cleaning up for one leaves the other fresh.
    for file in ["pipeline.toml", "other.toml"] {
        sandbox.run(&["gc", file, "--keep-runs", "0"]).exits(0);
        for file in ["pipeline.toml", "other.toml"] {
            let plan = sandbox.run(&["plan", file, "--json"]).exits(0).json();
            assert_eq!(plan["steps"][0]["state"], "fresh", "{file}: {plan}");
        }
    }
    assert_eq!(sandbox.read("ran"), "one\ntwo\n");
    // The reason is told against the file's own past.
    sandbox.pipeline(&text("three"));
    let why = sandbox.run(&["why", "a"]).exits(0).stdout;
    assert!(why.contains("one >> ran") && !why.contains("echo two"), "{why}");
    // A file that was renamed goes on with its history, and what it no longer needs may go.
    fs::remove_file(sandbox.path("other.toml")).unwrap();
    fs::rename(sandbox.path("pipeline.toml"), sandbox.path("renamed.toml")).unwrap();
    sandbox.run(&["run", "renamed.toml"]).exits(0);
    let freed = sandbox.run(&["gc", "renamed.toml", "--keep-runs", "0", "--json"]).exits(0).json();
    assert_eq!(freed["removed"].as_array().map(Vec::len), Some(2), "{freed}");
}
