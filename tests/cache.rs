//! Result cache: which changes make which steps stale, and that partial output is never taken for a result.

use crate::support::{Ran, Sandbox, files, signal, skipped};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

const PIPELINE: &str = r#"
schema = 1

[pipeline]
name = "chain"
seed = 7

[stage.gather]
uses = "command"
with = { run = ["sh", "gather.sh", "${out}"], code = ["gather.sh", "data"] }

[stage.head]
uses = "command"
from = { lines = "gather" }
with = { run = ["sh", "head.sh", "${from.lines}", "${out}"], code = ["head.sh"] }

[stage.last]
uses = "command"
from = { head = "head" }
with = { run = ["sh", "last.sh", "${from.head}", "${out}"], code = ["last.sh"] }

[stage.other]
uses = "command"
with = { run = ["sh", "other.sh", "${out}"] }
"#;

/// A chain of three steps and an independent one; each records that it ran.
fn chain() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox
        .pipeline(PIPELINE)
        .file("gather.sh", "echo gather >> ran\ncat data/* > $1/all\n")
        .file("head.sh", "echo head >> ran\nhead -n 1 $1/all > $2/head\n")
        .file("last.sh", "echo last >> ran\ntr a-z A-Z < $1/head > $2/last\n")
        .file("other.sh", "echo other >> ran\necho here > $1/other\n")
        .file("data/a", "one\n")
        .file("data/b", "two\n");
    sandbox
}

/// The steps that ran since the last call: the chain in order, then the independent one, which may run at any time.
fn ran(sandbox: &Sandbox) -> String {
    let ran = fs::read_to_string(sandbox.path("ran")).unwrap_or_default();
    let _ = fs::remove_file(sandbox.path("ran"));
    let (aside, row): (Vec<_>, Vec<_>) = ran.split_whitespace().partition(|step| *step == "other");
    [row, aside].concat().join(" ")
}

fn edit(sandbox: &Sandbox, path: &str, old: &str, new: &str) {
    let text = sandbox.read(path);
    assert!(text.contains(old), "{old} is not in {path}");
    sandbox.file(path, &text.replace(old, new));
}

fn result(sandbox: &Sandbox, stage: &str) -> std::path::PathBuf {
    fs::canonicalize(sandbox.path(&format!(".voxpipe/latest/chain/{stage}"))).unwrap()
}

type Change = fn(&Sandbox);

/// Name, change, steps that run afterwards, stage to ask `why` about, and the expected answer.
const ROWS: &[(&str, Change, &str, &str, &str)] = &[
    ("nothing", |_| (), "", "gather", "`gather` is fresh"),
    (
        "a setting",
        |s| edit(s, "pipeline.toml", r#""last.sh", "${from.head}""#, r#""-e", "last.sh", "${from.head}""#),
        "last",
        "last",
        "setting `run`",
    ),
    ("a source", |s| edit(s, "data/a", "one", "uno"), "gather head last", "gather", "`data`: 1 changed (a)"),
    ("a file added", |s| _ = s.file("data/c", "three\n"), "gather head", "gather", "`data`: 1 added (c)"),
    ("a file removed", |s| fs::remove_file(s.path("data/b")).unwrap(), "gather head", "gather", "`data`: 1 removed (b)"),
    ("a file renamed", |s| fs::rename(s.path("data/b"), s.path("data/z")).unwrap(), "gather", "gather", "1 added (z), 1 removed (b)"),
    ("a source file gone", |s| fs::write(s.path("last.sh"), "echo last >> ran\n").unwrap(), "last", "last", "`last.sh` changed"),
    ("only touched", |s| _ = s.file("data/a", "one\n"), "", "gather", "`gather` is fresh"),
    (
        "order and comments of the file",
        |s| {
            let text = s
                .read("pipeline.toml")
                .replace("uses = \"command\"\nfrom = { lines = \"gather\" }", "from = { lines = \"gather\" } # in\nuses = \"command\"");
            s.pipeline(&format!("# hello\n{text}"));
        },
        "",
        "head",
        "`head` is fresh",
    ),
    ("the seed", |s| edit(s, "pipeline.toml", "seed = 7", "seed = 8"), "gather head last other", "other", "the seed changed"),
    (
        "what comes first, with the same bytes",
        |s| edit(s, "gather.sh", "cat data/*", "cat data/a data/b"),
        "gather",
        "gather",
        "`gather.sh` changed",
    ),
    (
        "a kept result damaged",
        |s| {
            let kept = result(s, "head").join("head");
            fs::set_permissions(&kept, fs::Permissions::from_mode(0o644)).unwrap();
            fs::write(kept, "ONE\n").unwrap();
        },
        "head",
        "head",
        "its stored result is damaged: 1 changed (head)",
    ),
    ("a kept result gone", |s| fs::remove_dir_all(result(s, "last")).unwrap(), "last", "last", "its stored result is missing"),
    ("the index of files gone", |s| fs::remove_file(s.path(".voxpipe/stat.idx")).unwrap(), "", "last", "`last` is fresh"),
    ("the index of files damaged", |s| fs::write(s.path(".voxpipe/stat.idx"), "nonsense").unwrap(), "", "last", "`last` is fresh"),
    ("a timeout", |s| edit(s, "pipeline.toml", "[stage.head]\n", "[stage.head]\ntimeout = \"60s\"\n"), "", "head", "`head` is fresh"),
    (
        "the project moved elsewhere",
        |s| {
            fs::rename(s.root(), s.root().with_file_name("moved")).unwrap();
            std::os::unix::fs::symlink("moved", s.root()).unwrap();
        },
        "",
        "last",
        "`last` is fresh",
    ),
];

#[test]
fn each_change_runs_what_it_must_and_nothing_else() {
    for (what, change, expected, stage, why) in ROWS {
        let sandbox = chain();
        sandbox.run(&["run"]).exits(0);
        assert_eq!(ran(&sandbox), "gather head last other", "{what}: the first time");
        change(&sandbox);
        let said = sandbox.run(&["why", stage]).exits(0).stdout;
        assert!(said.contains(why), "{what}: no `{why}` in {said}");
        sandbox.run(&["run"]).exits(0);
        assert_eq!(ran(&sandbox), *expected, "{what}");
        sandbox.run(&["run"]).exits(0);
        assert_eq!(ran(&sandbox), "", "{what}: once is enough");
    }
}

#[test]
fn a_setting_changed_back_finds_its_old_result() {
    let sandbox = chain();
    sandbox.run(&["run"]).exits(0);
    edit(&sandbox, "data/a", "one", "uno");
    sandbox.run(&["run"]).exits(0);
    edit(&sandbox, "data/a", "uno", "one");
    ran(&sandbox);
    sandbox.run(&["run"]).exits(0);
    assert_eq!(ran(&sandbox), "");
    assert_eq!(fs::read_to_string(result(&sandbox, "last").join("last")).unwrap(), "ONE\n", "the link shows the result of now");
}

#[test]
fn an_edit_that_keeps_size_and_time_is_seen() {
    let sandbox = chain();
    sandbox.run(&["run"]).exits(0);
    // By the next run the file is settled, so its digest is cached.
    std::thread::sleep(std::time::Duration::from_millis(100));
    sandbox.run(&["run"]).exits(0);
    ran(&sandbox);
    let path = sandbox.path("data/a");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "eno\n").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    sandbox.run(&["run"]).exits(0);
    assert_eq!(ran(&sandbox), "gather head last");
}

#[test]
fn results_are_the_same_bytes_in_another_place() {
    let (one, two) = (chain(), chain());
    one.run(&["run"]).exits(0);
    two.run(&["run"]).exits(0);
    for folder in ["keys", "store"] {
        let names = |sandbox: &Sandbox| files(&sandbox.path(".voxpipe").join(folder)).into_keys().collect::<Vec<_>>();
        assert_eq!(names(&one), names(&two), "{folder}");
    }
    let keys = files(&one.path(".voxpipe/keys"));
    let place = one.root().display().to_string();
    assert!(keys.values().all(|bytes| !String::from_utf8_lossy(bytes).contains(&place)), "a record names the place");
}

#[test]
fn force_runs_a_stage_and_stops_at_equal_results() {
    let sandbox = chain();
    sandbox.run(&["run"]).exits(0);
    ran(&sandbox);
    sandbox.run(&["run", "--force", "head"]).exits(0);
    assert_eq!(ran(&sandbox), "head");
    sandbox.run(&["run", "--force", "haed"]).exits(2).complains("unknown stage `haed`").complains("did you mean `head`");
}

#[test]
fn a_failed_stage_stops_what_hangs_on_it_and_goes_on_when_mended() {
    let sandbox = chain();
    sandbox.file("head.sh", "echo head >> ran\nexit 9\n");
    let failed = sandbox.run(&["run"]).exits(1).complains("error: stage `head`").complains("exit code 9");
    assert!(failed.stdout.contains("skipped      `head` failed"), "{}", failed.stdout);
    assert_eq!(ran(&sandbox), "gather head other", "the branch aside goes on");
    assert!(!sandbox.path(".voxpipe/latest/chain/head").exists());
    let said = sandbox.run(&["why", "head"]).exits(0).stdout;
    assert!(said.contains("it failed last time: `sh` failed with exit code 9"), "{said}");
    let status = sandbox.run(&["status"]).exits(0).stdout;
    assert!(status.contains("head    failed"), "{status}");
    sandbox.file("head.sh", "echo head >> ran\nhead -n 1 $1/all > $2/head\n");
    sandbox.run(&["run"]).exits(0);
    assert_eq!(ran(&sandbox), "head last");
}

#[test]
fn retries_are_counted() {
    let sandbox = chain();
    sandbox.file("other.sh", "echo other >> ran\n[ $(grep -c other ran) = 3 ] || exit 1\necho here > $1/other\n");
    edit(&sandbox, "pipeline.toml", "[stage.other]\n", "[stage.other]\nretry = { times = 2 }\n");
    sandbox.run(&["run"]).exits(0).complains("attempt 1 of 3 failed");
    assert_eq!(ran(&sandbox), "gather head last other other other");
    sandbox.file("other.sh", "echo other >> ran\nexit 1\n");
    edit(&sandbox, "pipeline.toml", "\"other.sh\"", "\"-e\", \"other.sh\"");
    sandbox.run(&["run"]).exits(1).complains("attempt 2 of 3 failed").complains("error: stage `other`");
    assert_eq!(ran(&sandbox), "other other other");
}

#[test]
fn a_timeout_ends_the_stage() {
    let sandbox = chain();
    sandbox.file("other.sh", "sleep 60\n");
    edit(&sandbox, "pipeline.toml", "[stage.other]\n", "[stage.other]\ntimeout = \"1s\"\n");
    sandbox.run(&["run"]).exits(11).complains("it exceeded its timeout of 1 s");
    assert_eq!(ran(&sandbox), "gather head last", "other stages are not affected");
}

#[test]
fn a_gate_keeps_the_result_and_stops_what_hangs_on_it() {
    let sandbox = chain();
    sandbox.file("head.sh", "echo head >> ran\necho '{\"metrics\": {\"wer\": 0.3}}'\nhead -n 1 $1/all > $2/head\n");
    edit(&sandbox, "pipeline.toml", "[stage.head]\n", "[stage.head]\nrequire = { wer = \"< 0.15\" }\n");
    for time in 0..2 {
        sandbox.run(&["run"]).exits(12).complains("does not pass its gate: wer is 0.3, which is not < 0.15");
        assert_eq!(ran(&sandbox), if time == 0 { "gather head other" } else { "" });
    }
    let plan = sandbox.run(&["plan"]).exits(0).stdout;
    assert!(plan.contains("head    gate") && plan.contains("last    blocked"), "{plan}");
    edit(&sandbox, "pipeline.toml", "< 0.15", "< 0.35");
    sandbox.run(&["run"]).exits(0);
    assert_eq!(ran(&sandbox), "last", "another bound does not run the stage again");
}

/// A project whose step `head` blocks in the middle of its work while the file `block` exists.
fn blocked() -> Sandbox {
    let sandbox = chain();
    sandbox.file("block", "");
    sandbox.file(
        "head.sh",
        "echo head >> ran\necho half > $2/half\nif [ -e block ]; then echo > begun; sleep 60; fi\nrm $2/half; head -n 1 $1/all > $2/head\n",
    );
    sandbox
}

#[test]
fn kill_9_leaves_nothing_half_made() {
    let sandbox = blocked();
    let mut child = sandbox.start(&["run"], "begun");
    // Short stages are committed in groups, shortly after they end.
    std::thread::sleep(Duration::from_millis(500));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!sandbox.path(".voxpipe/latest/chain/head").exists());
    let said = sandbox.run(&["why", "head"]).exits(0).stdout;
    assert!(said.contains("it was interrupted"), "{said}");
    fs::remove_file(sandbox.path("block")).unwrap();
    ran(&sandbox);
    sandbox.run(&["run"]).exits(0);
    assert!(ran(&sandbox).starts_with("head last"), "what was finished is kept");
    assert_eq!(files(&result(&sandbox, "head")).into_keys().collect::<Vec<_>>(), ["head"]);
    assert_eq!(fs::read_dir(sandbox.path(".voxpipe/work")).unwrap().count(), 0, "leftovers are cleared");
}

#[test]
fn scratch_survives_kill_9_for_the_same_fingerprint() {
    let sandbox = chain();
    edit(&sandbox, "pipeline.toml", r#""other.sh", "${out}""#, r#""other.sh", "${out}", "${scratch}""#);
    sandbox.file("other.sh", "if [ -e $2/step ]; then cp $2/step $1/other; exit 0; fi\necho 400 > $2/step\necho > begun\nsleep 60\n");
    let mut child = sandbox.start(&["run"], "begun");
    child.kill().unwrap();
    child.wait().unwrap();
    sandbox.run(&["run"]).exits(0);
    assert_eq!(fs::read_to_string(result(&sandbox, "other").join("other")).unwrap(), "400\n");
}

#[test]
fn kill_9_at_any_moment_is_as_if_it_had_not_run() {
    let whole = chain();
    whole.run(&["run"]).exits(0);
    let expected: Vec<_> = files(&whole.path(".voxpipe/store")).into_iter().collect();
    for pause in [1, 3, 6, 10, 15, 22, 30, 45] {
        let sandbox = chain();
        let mut child = sandbox.command(&["run"]).output_to_nowhere().spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(pause));
        let _ = child.kill();
        child.wait().unwrap();
        let again = sandbox.run(&["run"]).exits(0);
        assert_eq!(files(&sandbox.path(".voxpipe/store")).into_iter().collect::<Vec<_>>(), expected, "after {pause} ms: {again:?}");
    }
}

trait Quiet {
    fn output_to_nowhere(&mut self) -> &mut Self;
}

impl Quiet for Command {
    fn output_to_nowhere(&mut self) -> &mut Self {
        self.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null())
    }
}

#[test]
fn one_run_at_a_time() {
    let sandbox = blocked();
    let mut child = sandbox.start(&["run"], "begun");
    let who = format!("this pipeline runs already: process {} (`voxpipe run pipeline.toml`) holds the lock", child.id());
    sandbox.run(&["run"]).exits(3).complains(&who).complains("`--wait` does");
    sandbox.run(&["plan"]).exits(0);
    let status = sandbox.run(&["status"]).exits(0).stdout;
    assert!(status.contains("head    running"), "{status}");
    child.kill().unwrap();
    child.wait().unwrap();
    fs::remove_file(sandbox.path("block")).unwrap();
    sandbox.run(&["run"]).exits(0);
}

#[test]
fn signals_interrupt_and_the_next_run_goes_on() {
    for name in ["INT", "TERM"] {
        let sandbox = blocked();
        let child = sandbox.start(&["run"], "begun");
        signal(&child, name);
        let told = Ran::of(child.wait_with_output().unwrap()).exits(75).complains("interrupted");
        assert!(told.stdout.contains("run again to resume"), "{}", told.stdout);
        let status = sandbox.run(&["status"]).exits(0).stdout;
        assert!(status.contains("head    interrupted"), "{status}");
        fs::remove_file(sandbox.path("block")).unwrap();
        ran(&sandbox);
        sandbox.run(&["resume"]).exits(0);
        assert!(ran(&sandbox).starts_with("head last"));
    }
}

#[test]
fn a_source_that_changes_meanwhile_is_not_trusted() {
    let sandbox = chain();
    sandbox.file("gather.sh", "echo gather >> ran\ncat data/* > $1/all\n[ -e data/late ] || echo late > data/late\n");
    sandbox.run(&["run"]).exits(0).complains("`data` changed (1 added (late)) while the stage ran");
    assert_eq!(ran(&sandbox), "gather head last other");
    sandbox.run(&["run"]).exits(0);
    assert_eq!(ran(&sandbox), "gather head", "what comes after them has the same input as before");
    sandbox.run(&["run"]).exits(0);
    assert_eq!(ran(&sandbox), "");
}

#[test]
fn a_link_in_a_result_is_refused() {
    let sandbox = chain();
    sandbox.file("other.sh", "ln -s /etc/passwd $1/other\n");
    sandbox.run(&["run"]).exits(1).complains("`other` in the result is a symbolic link");
}

#[test]
fn a_state_folder_we_may_not_write_is_a_matter_of_the_environment() {
    let sandbox = chain();
    let mut command = sandbox.command(&["run"]);
    // Root may write anywhere, so run the program as another user.
    for folder in [sandbox.root().parent().unwrap(), &sandbox.root()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o555)).unwrap();
    }
    if fs::write(sandbox.path("probe"), "").is_ok() {
        command.uid(65534).gid(65534);
    }
    let told = Ran::of(command.output().unwrap());
    for folder in [sandbox.root().parent().unwrap(), &sandbox.root()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    told.exits(4).complains("cannot create the state folder").complains("  = choose a folder you may write to");
    assert_eq!(ran(&sandbox), "", "nothing ran");
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing_half_made() {
    let sandbox = chain();
    sandbox.file("other.sh", "if [ -e room ]; then echo small > $1/other; else head -c 400000 /dev/zero > $1/other; fi\n");
    // Fills the disk after the other steps are done.
    edit(&sandbox, "pipeline.toml", "[stage.other]\n", "[stage.other]\nafter = [\"last\"]\n");
    let state = sandbox.path(".voxpipe");
    fs::create_dir(&state).unwrap();
    let mount =
        |args: &[&str]| Command::new("mount").args(args).arg(&state).output_to_nowhere().status().is_ok_and(|status| status.success());
    if mount(&["-t", "tmpfs", "-o", "size=256k", "none"]) {
        let told = sandbox.run(&["run"]);
        let unharmed = files(&state.join("keys")).len();
        sandbox.file("room", "");
        let again = sandbox.run(&["run"]);
        assert!(Command::new("umount").arg(&state).status().unwrap().success());
        told.exits(1).complains("No space left on device");
        assert_eq!(unharmed, 3, "the other steps are kept");
        again.exits(0);
    } else {
        skipped("a full disk", "no small file system can be mounted here; a limit on the size of files stands in for it");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("trap '' XFSZ; ulimit -f 1; exec {} run", env!("CARGO_BIN_EXE_voxpipe"))]).current_dir(sandbox.root());
        let told = Ran::of(command.output().unwrap());
        assert!(matches!(told.code, Some(1 | 4)), "{told:?}");
        assert!(told.stderr.contains("File too large"), "{told:?}");
        sandbox.file("room", "").run(&["run"]).exits(0);
    }
}

#[test]
fn a_second_run_is_fast_and_hashes_nothing() {
    let sandbox = chain();
    sandbox.run(&["run"]).exits(0);
    std::thread::sleep(std::time::Duration::from_millis(100));
    sandbox.run(&["run"]).exits(0);
    let quick = (0..5).map(|_| {
        let begun = std::time::Instant::now();
        sandbox.run(&["run"]).exits(0);
        begun.elapsed()
    });
    let best = quick.min().unwrap();
    assert!(best < std::time::Duration::from_millis(200), "a run with nothing to do took {best:?}");
}
