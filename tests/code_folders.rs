//! What of a `code` folder is code: the litter of interpreters and editors is not, and a stage that changes its own code is told the reason.

use crate::support::Sandbox;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

fn project(with: &str, script: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox
        .pipeline(&format!(
            "schema = 1\n[pipeline]\nname = \"code\"\n[stage.a]\nuses = \"command\"\nwith = {{ run = [\"sh\", \"src/main.sh\", \"${{out}}\"], \
             code = [\"src\"]{with} }}\n[stage.b]\nuses = \"command\"\nfrom = {{ i = \"a\" }}\nwith = {{ run = [\"sh\", \"-c\", \"cp $1/x \
             $0/y\", \"${{out}}\", \"${{from.i}}\"] }}\n"
        ))
        .file("src/main.sh", script)
        .file("src/deep/lib.sh", "echo lib\n");
    sandbox
}

/// The state of stage `a` in the plan, and what `run` does with it; both must say the same.
#[track_caller]
fn asked(sandbox: &Sandbox, when: &str) -> String {
    let plan = sandbox.run(&["plan", "--json"]).exits(0).json();
    let why = sandbox.run(&["why", "a"]).exits(0).stdout;
    let ran = sandbox.run(&["run", "--json"]).exits(0).json();
    let planned = plan["steps"][0]["state"].as_str().unwrap().to_owned();
    let done = ran["stages"][0][1]["result"].as_str().unwrap();
    assert_eq!(planned == "fresh", done == "fresh", "{when}: {plan} but {ran}");
    assert_eq!(planned == "fresh", why.contains("is fresh"), "{when}: {why}");
    if planned == "fresh" { planned } else { format!("{planned}: {}", plan["steps"][0]["sentence"].as_str().unwrap()) }
}

#[test]
fn what_interpreters_and_editors_leave_in_a_folder_is_no_code() {
    // The first run of the program leaves the litter, as Python does.
    let sandbox = project("", "mkdir -p src/__pycache__\necho $$ > src/__pycache__/lib.cpython-311.pyc\necho x > $1/x\n");
    let told = sandbox.run(&["run"]).exits(0);
    assert!(!told.stderr.contains("changed while"), "{}", told.stderr);
    assert_eq!(asked(&sandbox, "after the first run"), "fresh");
    let litter = [
        "src/deep/__pycache__/lib.cpython-313.opt-1.pyc",
        "src/old.pyc",
        "src/.ipynb_checkpoints/notes-checkpoint.ipynb",
        "src/.git/objects/ab/cdef",
        "src/deep/.git",
        "src/.mypy_cache/3.11/x.json",
        "src/.ruff_cache/x",
        "src/.pytest_cache/v/x",
        "src/.main.sh.swp",
        "src/.main.sh.swx",
        "src/main.sh~",
        "src/#main.sh#",
        "src/.DS_Store",
        "src/.nfs000000001",
    ];
    for path in litter {
        // Old enough for the fast path, so that both ways to answer are tried.
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(asked(&sandbox, path), "fresh");
        sandbox.file(path, "litter");
        assert_eq!(asked(&sandbox, path), "fresh");
        sandbox.file(path, "other litter");
        assert_eq!(asked(&sandbox, path), "fresh");
    }
    // Emacs' lock is a link that leads nowhere.
    symlink("me@host.123:456", sandbox.path("src/.#main.sh")).unwrap();
    assert_eq!(asked(&sandbox, "a lock"), "fresh");
    for path in ["src/.gitignore", "src/notes.py", "src/deep/pycache", "src/.env"] {
        sandbox.file(path, "code");
        assert!(asked(&sandbox, path).starts_with("run: `src`: 1 added"), "{path}");
        assert_eq!(asked(&sandbox, path), "fresh");
    }
}

#[test]
fn ignore_names_further_files_and_is_no_ingredient_itself() {
    let script = "date +%N >> src/log.txt\nmkdir -p src/deep/tmp\ndate +%N > src/deep/tmp/x\necho x > $1/x\n";
    let sandbox = project(", ignore = [\"*.txt\", \"!kept.txt\", \"tmp/\"]", script);
    let told = sandbox.run(&["run"]).exits(0);
    assert!(!told.stderr.contains("changed while"), "{}", told.stderr);
    assert_eq!(asked(&sandbox, "after the first run"), "fresh");
    sandbox.file("src/deep/other.txt", "ignored");
    assert_eq!(asked(&sandbox, "an ignored file"), "fresh");
    sandbox.file("src/kept.txt", "counts");
    assert_eq!(asked(&sandbox, "taken back"), "run: `src`: 1 added (kept.txt)");
    // Other patterns that leave the same files change nothing.
    sandbox.pipeline(&sandbox.read("pipeline.toml").replace("\"*.txt\", \"!kept.txt\"", "\"log.txt\", \"/deep/other.txt\""));
    assert_eq!(asked(&sandbox, "other patterns"), "fresh");
    // Litter that is meant can be taken back.
    sandbox.file("src/only.pyc", "1");
    sandbox.pipeline(&sandbox.read("pipeline.toml").replace("\"log.txt\"", "\"log.txt\", \"!*.pyc\""));
    assert_eq!(asked(&sandbox, "litter that is code"), "run: `src`: 1 added (only.pyc)");
    sandbox.pipeline(&sandbox.read("pipeline.toml").replace("\"log.txt\"", "\"[\""));
    sandbox.run(&["check"]).exits(2).complains("`[` is not a valid pattern");
    sandbox.pipeline(&sandbox.read("pipeline.toml").replace("\"[\"", "\"../x\""));
    sandbox.run(&["check"]).exits(2).complains("matched inside the folders of `code`");
}

#[test]
fn a_stage_that_changes_its_own_code_is_told_once_with_the_reason() {
    let sandbox = project("", "echo made > src/version.txt\necho x > $1/x\n");
    let told = sandbox.run(&["run"]).exits(0).complains("`src` changed (1 added (version.txt)) while the stage ran").complains("`ignore`");
    assert_eq!(told.stderr.matches("while the stage ran").count(), 1, "{}", told.stderr);
    let why = sandbox.run(&["why", "a"]).exits(0).stdout;
    assert!(why.contains("`src` changed (1 added (version.txt)) while it ran last"), "{why}");
    assert_eq!(asked(&sandbox, "the second run"), "run: `src` changed (1 added (version.txt)) while it ran last");
    // What it writes is there already: the second run is the last one.
    assert_eq!(asked(&sandbox, "the third run"), "fresh");
    // An older result does not hide the reason.
    sandbox.file("src/main.sh", "echo again >> src/version.txt\necho x > $1/x\n");
    sandbox.run(&["run"]).exits(0).complains("`src` changed (1 changed (version.txt)) while the stage ran");
    let why = sandbox.run(&["why", "a"]).exits(0).stdout;
    assert!(why.contains("`src` changed (1 changed (version.txt)) while it ran last") && !why.contains("main.sh)"), "{why}");
    fs::write(sandbox.path("src/main.sh"), "echo x > $1/x\n").unwrap();
    sandbox.run(&["run"]).exits(0);
    assert_eq!(asked(&sandbox, "mended"), "fresh");
}
