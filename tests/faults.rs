//! Fault injection: results stay intact after SIGKILL at every step of the commit protocol, after power loss, and with a full disk.

mod random;

use crate::support::{Ran, Sandbox, files, signal};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PIPELINE: &str = r#"
schema = 1
[pipeline]
name = "faults"
[stage.one]
uses = "command"
with = { run = ["sh", "one.sh", "${out}"], code = ["one.sh", "data"] }
[stage.two]
uses = "command"
from = { one = "one" }
with = { run = ["sh", "two.sh", "${from.one}", "${out}"] }
[stage.three]
uses = "command"
from = { two = "two", one = "one" }
with = { run = ["sh", "three.sh", "${from.two}", "${out}"] }
"#;

fn project() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox
        .pipeline(PIPELINE)
        .file("data/a", "alpha\n")
        .file("data/b", "beta\n")
        .file("one.sh", "mkdir $1/sub\ncat data/* > $1/sub/all\necho one > $1/name\n")
        .file("two.sh", "tr a-z A-Z < $1/sub/all > $2/upper\n")
        .file("three.sh", "cat $1/upper $1/upper > $2/twice\n");
    sandbox
}

/// The bytes of the results, by stage and file.
fn results(sandbox: &Sandbox, pipeline: &str) -> BTreeMap<String, BTreeMap<String, Vec<u8>>> {
    let latest = sandbox.path(".voxpipe/latest").join(pipeline);
    let names = fs::read_dir(&latest).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| (name.clone(), files(&fs::canonicalize(latest.join(name)).unwrap()))).collect()
}

/// Runs with an injected fault; the finished steps are logged to `steps`.
fn run_with(sandbox: &Sandbox, fault: &str, steps: &Path) -> std::process::Output {
    let mut command = sandbox.command(&["run"]);
    command.env("VOXPIPE_FAULT", fault).env("VOXPIPE_FAULT_LOG", steps).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.output().unwrap()
}

/// The results of a run without faults, and the number of its disk steps.
fn undisturbed() -> (BTreeMap<String, BTreeMap<String, Vec<u8>>>, u64) {
    let sandbox = project();
    let steps = sandbox.path("../steps");
    Ran::of(run_with(&sandbox, "none", &steps)).exits(0);
    let found = results(&sandbox, "faults");
    assert_eq!(found["three"]["twice"], b"ALPHA\nBETA\nALPHA\nBETA\n");
    let count = fs::read_to_string(steps).unwrap().lines().count() as u64;
    assert!(count > 40, "{count} steps");
    (found, count)
}

/// Test a fault at every n-th step only; VOXPIPE_FAULT_STRIDE=1 tests every step.
fn stride() -> usize {
    std::env::var("VOXPIPE_FAULT_STRIDE").ok().and_then(|stride| stride.parse().ok()).unwrap_or(3)
}

/// Checks that the next run recovers with the same bytes, and that the run after it is up to date.
#[track_caller]
fn goes_on(sandbox: &Sandbox, expected: &BTreeMap<String, BTreeMap<String, Vec<u8>>>, when: &str) {
    let ran = sandbox.run(&["run"]);
    assert_eq!(ran.code, Some(0), "{when}: {}", ran.stderr);
    assert_eq!(&results(sandbox, "faults"), expected, "{when}");
    let again = sandbox.run(&["run"]).exits(0);
    assert!(again.stdout.contains("3 fresh in"), "{when}: {}", again.stdout);
    let left: Vec<_> = fs::read_dir(sandbox.path(".voxpipe/work")).unwrap().collect();
    assert!(left.is_empty(), "{when}: {left:?}");
}

#[test]
fn kill_9_at_every_step_of_the_protocol() {
    let (expected, count) = undisturbed();
    let (mut killed, mut tried) = (0, 0);
    for step in (0..count).step_by(stride()) {
        let sandbox = project();
        let ended = run_with(&sandbox, &format!("kill@{step}"), &sandbox.path("../steps"));
        tried += 1;
        match ended.status.signal() {
            Some(9) => killed += 1,
            // The grouping of commits depends on timing, and so does the number of steps.
            _ => assert_eq!(ended.status.code(), Some(0), "step {step} of {count}: {ended:?}"),
        }
        goes_on(&sandbox, &expected, &format!("killed at step {step}"));
    }
    assert!(killed * 3 > tried * 2, "only {killed} of {tried} runs were killed");
}

/// Possible disk states after power loss: files that were not synced are empty or missing, and renames may be undone.
struct Loss {
    /// Files written or changed since their last sync.
    dirty: BTreeSet<PathBuf>,
    /// Renames in folders that were not synced since.
    renamed: Vec<(PathBuf, PathBuf)>,
}

impl Loss {
    fn after(steps: &str, root: &Path) -> Self {
        let mut loss = Self { dirty: BTreeSet::new(), renamed: Vec::new() };
        for line in steps.lines() {
            let parts: Vec<&str> = line.split('\t').collect();
            let path = root.join(parts[1]);
            match parts[0] {
                "write" | "protect" => _ = loss.dirty.insert(path),
                "sync" => {
                    loss.dirty.remove(&path);
                    loss.renamed.retain(|(_, to)| to.parent() != Some(&path));
                }
                "sync-everything" => {
                    loss.dirty.clear();
                    loss.renamed.clear();
                }
                "rename" => {
                    let to = root.join(parts[2]);
                    let moved = |file: PathBuf| match file.strip_prefix(&path) {
                        Ok(rest) if rest.as_os_str().is_empty() => to.clone(),
                        Ok(rest) => to.join(rest),
                        Err(_) => file,
                    };
                    loss.dirty = std::mem::take(&mut loss.dirty).into_iter().map(moved).collect();
                    loss.renamed.push((path, to));
                }
                "make" | "remove" | "link" => {}
                other => panic!("step `{other}`"),
            }
        }
        loss
    }

    /// Empties all files that were not synced; renames persist.
    fn empty(&self) {
        for file in self.dirty.iter().filter(|file| file.is_file()) {
            let mode = fs::metadata(file).unwrap().permissions();
            fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
            fs::write(file, "").unwrap();
            fs::set_permissions(file, mode).unwrap();
        }
    }

    /// Removes all files that were not synced, and undoes renames that were not synced.
    fn gone(&self) {
        for file in self.dirty.iter().filter(|file| file.is_file()) {
            fs::remove_file(file).unwrap();
        }
        for (from, to) in self.renamed.iter().rev().filter(|(_, to)| to.symlink_metadata().is_ok()) {
            if from.parent().is_some_and(Path::is_dir) && from.symlink_metadata().is_err() {
                fs::rename(to, from).unwrap();
            } else if to.is_dir() && !to.is_symlink() {
                fs::remove_dir_all(to).unwrap();
            } else {
                fs::remove_file(to).unwrap();
            }
        }
    }
}

#[test]
fn power_loss_at_every_step_of_the_protocol() {
    let (expected, count) = undisturbed();
    let mut lost_of_results = 0;
    for step in (0..=count).step_by(stride()) {
        for how in [Loss::empty, Loss::gone] {
            let sandbox = project();
            let steps = sandbox.path("../steps");
            run_with(&sandbox, &format!("kill@{step}"), &steps);
            let loss = Loss::after(&fs::read_to_string(&steps).unwrap_or_default(), &sandbox.root());
            lost_of_results += loss.dirty.iter().filter(|file| file.starts_with(sandbox.path(".voxpipe/store"))).count();
            how(&loss);
            goes_on(&sandbox, &expected, &format!("the power went at step {step}"));
        }
    }
    assert!(lost_of_results > 0, "the test takes nothing away");
}

#[test]
fn what_is_recorded_is_on_the_disk() {
    let sandbox = project();
    let steps = sandbox.path("../steps");
    Ran::of(run_with(&sandbox, "none", &steps)).exits(0);
    let loss = Loss::after(&fs::read_to_string(&steps).unwrap(), &sandbox.root());
    loss.empty();
    loss.gone();
    let plan = sandbox.run(&["plan"]).exits(0);
    assert!(plan.stdout.contains("0 to run, 3 fresh"), "a run that ended well lost something: {}\n{:?}", plan.stdout, loss.dirty);
}

#[test]
fn a_disk_that_is_full_from_any_step_on() {
    let (expected, count) = undisturbed();
    let mut failed = 0;
    for step in (0..count).step_by(stride()) {
        let sandbox = project();
        let ran = Ran::of(run_with(&sandbox, &format!("full@{step}"), &sandbox.path("../steps")));
        assert!(ran.code.is_some() && !ran.stderr.contains("panicked"), "full at step {step}: {ran:?}");
        if ran.code != Some(0) {
            failed += 1;
            assert!(ran.stderr.contains("No space left on device"), "full at step {step}: {}", ran.stderr);
        }
        goes_on(&sandbox, &expected, &format!("the disk was full at step {step}"));
    }
    assert!(failed * 2 * stride() as u64 > count, "only {failed} of {count} runs failed");
}

#[test]
fn many_runs_at_once_are_one_run_and_refusals() {
    let sandbox = project();
    sandbox.file("one.sh", "echo ran >> ran\nsleep 0.3\nmkdir $1/sub\ncat data/* > $1/sub/all\n");
    let start = || sandbox.command(&["run"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let runs: Vec<_> = (0..6).map(|_| start()).collect();
    let ended: Vec<Ran> = runs.into_iter().map(|run| Ran::of(run.wait_with_output().unwrap())).collect();
    for ran in &ended {
        assert!(matches!(ran.code, Some(0 | 3)), "{ran:?}");
        assert!(ran.code != Some(3) || ran.stderr.contains("holds the lock"), "{}", ran.stderr);
    }
    assert!(ended.iter().any(|ran| ran.code == Some(0)));
    assert_eq!(sandbox.read("ran"), "ran\n", "the stage ran once");
}

#[test]
fn what_outlived_its_run_is_ended_before_the_next_one_begins() {
    let sandbox = Sandbox::new();
    sandbox
        .pipeline("schema = 1\n[pipeline]\nname = \"p\"\n[stage.s]\nuses = \"command\"\nwith = { run = [\"sh\", \"s.sh\", \"${out}\", \"${scratch}\"] }\n")
        // The child process leaves the process group, so the reaper does not reach it.
        .file(
            "s.sh",
            "if [ ! -e first ]; then touch first; setsid sh left.sh $2 & sleep 60; fi\nsleep 0.3\ncp $2/grows $1/grew\ncp $2/grows $1/still\n",
        )
        .file("left.sh", "while :; do echo x >> $1/grows; touch began; sleep 0.02; done\n");
    let mut run = sandbox.start(&["run"], "began");
    signal(&run, "KILL");
    run.wait().unwrap();
    let grows = fs::read_dir(sandbox.path(".voxpipe/work")).unwrap().next().unwrap().unwrap().path().join("scratch/grows");
    let length = || fs::metadata(&grows).unwrap().len();
    let (before, begun) = (length(), Instant::now());
    while length() == before {
        assert!(begun.elapsed() < Duration::from_secs(20), "the program did not outlive its run: the test shows nothing");
        std::thread::sleep(Duration::from_millis(20));
    }
    let ran = sandbox.run(&["run"]).exits(0).complains("of an earlier run was still running and was terminated");
    assert!(!ran.stderr.contains("holds `"), "{}", ran.stderr);
    let found = results(&sandbox, "p");
    assert_eq!(found["s"]["grew"], found["s"]["still"], "nobody else wrote meanwhile");
}

#[test]
fn what_outlived_its_run_is_ended_by_a_run_with_nothing_to_do_and_by_gc() {
    for first in [&["run", "idle.toml"] as &[&str], &["run", "busy.toml"], &["gc", "idle.toml"]] {
        let sandbox = Sandbox::new();
        let file = |name: &str, program: &str| {
            format!("schema = 1\n[pipeline]\nname = \"{name}\"\n[stage.s]\nuses = \"command\"\nwith = {{ run = [{program}] }}\n")
        };
        sandbox
            .file("idle.toml", &file("idle", "\"touch\", \"${out}/x\""))
            .file("busy.toml", &file("busy", "\"sh\", \"s.sh\", \"${out}\""));
        sandbox.file("s.sh", "true\n");
        std::thread::sleep(Duration::from_millis(80));
        sandbox.run(&["run", "idle.toml"]).exits(0);
        sandbox.run(&["run", "busy.toml"]).exits(0);
        // What is killed is a run of another text; the first one has nothing to do again afterwards.
        sandbox.file("left.sh", "touch began; sleep 300\n");
        let text = sandbox.read("busy.toml");
        sandbox.file("busy.toml", &text.replace("\"sh\", \"s.sh\"", "\"sh\", \"-c\", \"setsid sh left.sh & sleep 300\""));
        let mut run = sandbox.start(&["run", "busy.toml"], "began");
        signal(&run, "KILL");
        run.wait().unwrap();
        sandbox.file("busy.toml", &text);
        sandbox.run(first).exits(0).complains("of an earlier run was still running and was terminated");
        let again = sandbox.run(&["run", "idle.toml"]).exits(0);
        assert!(!again.stderr.contains("earlier run"), "it is told once: {}", again.stderr);
    }
}

#[test]
fn a_run_with_nothing_to_do_makes_the_folder_of_runs_again() {
    let sandbox = project();
    std::thread::sleep(Duration::from_millis(80));
    sandbox.run(&["run"]).exits(0);
    fs::remove_dir_all(sandbox.path(".voxpipe/runs")).unwrap();
    sandbox.run(&["run"]).exits(0);
    assert!(sandbox.path(".voxpipe/runs").is_dir());
    assert_eq!(decided(&sandbox), 0, "nothing is to be done");
}

#[test]
fn a_file_in_the_place_of_a_folder_of_the_state_is_named() {
    for (place, is_folder) in [("runs", true), ("latest", true), ("locks", true), ("keys", true), ("format", false)] {
        let sandbox = project();
        sandbox.run(&["run"]).exits(0);
        let path = sandbox.path(".voxpipe").join(place);
        if is_folder {
            fs::remove_dir_all(&path).unwrap();
            fs::write(&path, "").unwrap();
        } else {
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
        }
        // A changed file, so that the run has something to do.
        sandbox.file("data/new", "");
        for command in ["plan", "run"] {
            sandbox.run(&[command]).exits(4).complains(&format!(".voxpipe/{place}`"));
        }
    }
}

#[test]
fn programs_end_with_a_run_that_is_killed() {
    let sandbox = Sandbox::new();
    sandbox
        .pipeline("schema = 1\n[pipeline]\nname = \"p\"\n[stage.s]\nuses = \"command\"\nwith = { run = [\"sh\", \"s.sh\"] }\n")
        .file("s.sh", "sleep 300 &\necho $$ $! > began.tmp\nmv began.tmp began\nwait\n");
    let mut run = sandbox.start(&["run"], "began");
    let alive = |number: &str| Command::new("kill").args(["-0", number]).stderr(Stdio::null()).status().unwrap().success();
    let numbers = sandbox.read("began");
    assert!(numbers.split_whitespace().count() == 2 && numbers.split_whitespace().all(alive), "{numbers}");
    signal(&run, "KILL");
    run.wait().unwrap();
    let begun = Instant::now();
    while let Some(number) = numbers.split_whitespace().find(|number| alive(number)) {
        assert!(begun.elapsed() < Duration::from_secs(20), "process {number} outlived its run");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_stage_that_changes_what_it_reads_is_found_out() {
    let sandbox = project();
    sandbox.file("two.sh", "chmod u+w $1/name\necho changed > $1/name\ntr a-z A-Z < $1/sub/all > $2/upper\n");
    sandbox
        .run(&["run"])
        .exits(1)
        .complains("the result of `one` was changed while this stage read it: its stored result is damaged: 1 changed (name)");
    sandbox.file("two.sh", "tr a-z A-Z < $1/sub/all > $2/upper\n");
    let ran = sandbox.run(&["run"]).exits(0);
    assert!(ran.stdout.contains("3 done"), "the damaged result is made again: {}", ran.stdout);
    assert_eq!(results(&sandbox, "faults"), undisturbed().0);
}

#[test]
fn a_run_with_nothing_to_do_sees_every_change() {
    type Change = fn(&Sandbox);
    let result = |sandbox: &Sandbox, file: &str| sandbox.path(".voxpipe/latest/faults").join(file);
    let changes: [(&str, Change, bool); 12] = [
        ("nothing", |_| {}, false),
        ("a file with the same size and the old time", edit_and_put_the_time_back, true),
        ("a new file", |s| _ = s.file("data/c", "gamma\n"), true),
        ("a file less", |s| fs::remove_file(s.path("data/b")).unwrap(), true),
        ("the code", |s| _ = s.file("one.sh", "mkdir $1/sub\ncat data/a > $1/sub/all\n"), true),
        ("the pipeline", |s| _ = s.pipeline(&PIPELINE.replace("\"three.sh\"", "\"./three.sh\"")), true),
        ("a comment in the pipeline", |s| _ = s.pipeline(&format!("{PIPELINE}# more\n")), false),
        ("a damaged result", |s| rewrite(&s.path(".voxpipe/latest/faults/two/upper")), true),
        ("a result with more in it", |s| _ = s.file(".voxpipe/latest/faults/one/sub/more", ""), true),
        ("a record that is gone", |s| empty(&s.path(".voxpipe/keys")), true),
        ("a list of files that is gone", |s| empty(&s.path(".voxpipe/trees")), true),
        ("a link that is gone", |s| fs::remove_file(s.path(".voxpipe/latest/faults/two")).unwrap(), false),
    ];
    for (what, change, runs) in changes {
        let sandbox = project();
        // Recently modified files are not settled, so they are always hashed again.
        std::thread::sleep(Duration::from_millis(80));
        sandbox.run(&["run"]).exits(0);
        assert_eq!(decided(&sandbox), 0, "no step is checked when nothing changed");
        change(&sandbox);
        assert_eq!(decided(&sandbox) > 0, what != "nothing", "{what}");
        let log = sandbox.run(&["logs"]).exits(0).stdout;
        assert_eq!(log.contains(" starts (attempt "), runs, "{what}: {log}");
        assert!(result(&sandbox, "two/upper").is_file(), "{what}");
    }
}

/// How many steps the next run checks one by one, as opposed to the no-op fast path.
fn decided(sandbox: &Sandbox) -> usize {
    let ran = Ran::of(sandbox.command(&["run"]).env("VOXPIPE_LOG", "voxpipe=debug").output().unwrap()).exits(0);
    ran.stderr.matches("decided: ").count()
}

fn edit_and_put_the_time_back(sandbox: &Sandbox) {
    let path = sandbox.path("data/a");
    let before = fs::metadata(&path).unwrap();
    fs::write(&path, "ALPHA\n").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(before.modified().unwrap()).unwrap();
    let after = fs::metadata(&path).unwrap();
    assert_eq!((after.len(), after.modified().unwrap()), (before.len(), before.modified().unwrap()));
}

fn rewrite(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, "alpha\nbeta\n").unwrap();
}

fn empty(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
}
