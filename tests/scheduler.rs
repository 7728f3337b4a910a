//! Scheduling: parallel stages, resources, failures and retries, and that parallelism does not affect results.

use crate::support::{Ran, Sandbox, files, signal};
use pipeline::cache::store::Store;
use pipeline::events::Emitter;
use pipeline::graph::Pipeline;
use pipeline::manifest::overrides::CommandLineOverrides;
use pipeline::scheduler::{PipelineRun, ResourcePool, SchedulerOptions};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::{fs, thread};
use voxpipe::stages::STAGES;

const HEAD: &str = "schema = 1\n[pipeline]\nname = \"side-by-side\"\n";

/// A stage that runs a shell script with the output folder as `$0`; `more` is added to its table.
fn stage(name: &str, script: &str, more: &str) -> String {
    let script = serde_json::to_string(script).unwrap();
    format!("[stage.{name}]\nuses = \"command\"\nwith = {{ run = [\"sh\", \"-c\", {script}, \"${{out}}\"] }}\n{more}\n")
}

/// A script that waits for a file, and fails if it does not appear.
fn awaits(file: &str) -> String {
    format!("n=0; until [ -e {file} ]; do n=$((n+1)); [ $n -lt 500 ] || exit 7; sleep 0.02; done")
}

/// Two stages that succeed only if they run at the same time.
fn rendezvous() -> String {
    let meet = |own: &str, other: &str| format!("touch {own}.sign; {}; echo {own} > $0/name", awaits(&format!("{other}.sign")));
    stage("a", &meet("a", "b"), "") + &stage("b", &meet("b", "a"), "")
}

/// A stage that fails if another such stage runs at the same time.
fn alone(name: &str, more: &str) -> String {
    let script = "mkdir held || exit 9; sleep 0.1; rmdir held; echo \"$CUDA_VISIBLE_DEVICES\" > $0/cards";
    stage(name, script, more)
}

/// The events of the newest run.
fn events(sandbox: &Sandbox) -> Vec<Value> {
    let said = sandbox.run(&["logs", "--json"]).exits(0).stdout;
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn heard(sandbox: &Sandbox, event: &str, stage: &str) -> usize {
    events(sandbox).iter().filter(|line| line["event"] == event && line["stage"] == stage).count()
}

fn result(sandbox: &Sandbox, stage: &str, file: &str) -> String {
    sandbox.read(&format!(".voxpipe/latest/side-by-side/{stage}/{file}"))
}

#[test]
fn stages_that_do_not_need_each_other_run_at_once() {
    let sandbox = Sandbox::new();
    sandbox.pipeline(&format!("{HEAD}[resources]\ncpu = 2\n{}", rendezvous()));
    sandbox.run(&["run", "--jobs", "2"]).exits(0);
    assert_eq!((result(&sandbox, "a", "name"), result(&sandbox, "b", "name")), ("a\n".into(), "b\n".into()));
}

#[test]
fn jobs_and_cores_are_limits() {
    let meets = |args: &[&str], cores: u32| {
        let sandbox = Sandbox::new();
        // Without the other stage it soon gives up.
        sandbox.pipeline(&format!("{HEAD}[resources]\ncpu = {cores}\n{}", rendezvous().replace("500", "10")));
        sandbox.run(args).code
    };
    assert_eq!(meets(&["run", "--jobs", "1"], 4), Some(1));
    assert_eq!(meets(&["run", "--jobs", "4"], 1), Some(1));
}

#[test]
fn there_is_one_gpu_unless_there_are_more() {
    let sandbox = Sandbox::new();
    let names = ["a", "b", "c"];
    let stages: String = names.iter().map(|name| alone(name, "resources = { gpu = 1 }")).collect();
    sandbox.pipeline(&format!("{HEAD}[resources]\ncpu = 8\n{stages}"));
    Ran::of(sandbox.command(&["run", "--jobs", "8"]).env("CUDA_VISIBLE_DEVICES", "7").output().unwrap()).exits(0);
    for name in names {
        assert_eq!(result(&sandbox, name, "cards"), "7\n");
    }
}

#[test]
fn a_stage_sees_the_cards_it_was_given() {
    let sandbox = Sandbox::new();
    let meet =
        |own: &str, other: &str| format!("touch {own}.sign; {}; echo $CUDA_VISIBLE_DEVICES > $0/cards", awaits(&format!("{other}.sign")));
    sandbox.pipeline(&format!(
        "{HEAD}[resources]\ncpu = 8\n{}{}{}{}",
        stage("a", &meet("a", "b"), "resources = { gpu = 1 }"),
        stage("b", &meet("b", "a"), "resources = { gpu = 1 }"),
        stage("both", "echo $CUDA_VISIBLE_DEVICES > $0/cards", "resources = { gpu = 2 }\nafter = [\"a\", \"b\"]"),
        stage("none", "echo $CUDA_VISIBLE_DEVICES > $0/cards", "after = [\"both\"]"),
    ));
    Ran::of(sandbox.command(&["run", "--jobs", "8"]).env("CUDA_VISIBLE_DEVICES", "3,GPU-5").output().unwrap()).exits(0);
    let cards: BTreeSet<String> = ["a", "b"].iter().map(|name| result(&sandbox, name, "cards")).collect();
    assert_eq!(cards, ["3\n".to_owned(), "GPU-5\n".to_owned()].into());
    assert_eq!(result(&sandbox, "both", "cards"), "3,GPU-5\n");
    assert_eq!(result(&sandbox, "none", "cards"), "3,GPU-5\n", "what asks for no card is left as it is");

    // Two stages with half a GPU each run at the same time.
    let halves: String = ["a", "b"]
        .iter()
        .map(|name| stage(name, &format!("{} # half", meet(name, if *name == "a" { "b" } else { "a" })), "resources = { gpu = 0.5 }"))
        .collect();
    sandbox.pipeline(&format!("{HEAD}[resources]\ncpu = 8\n{halves}"));
    for name in ["a.sign", "b.sign"] {
        fs::remove_file(sandbox.path(name)).unwrap();
    }
    Ran::of(sandbox.command(&["run", "--jobs", "8"]).env("CUDA_VISIBLE_DEVICES", "4").output().unwrap()).exits(0);
    assert_eq!((result(&sandbox, "a", "cards"), result(&sandbox, "b", "cards")), ("4\n".into(), "4\n".into()));
}

#[test]
fn what_a_machine_does_not_have_is_said_before_the_stage_begins() {
    let sandbox = Sandbox::new();
    sandbox.pipeline(&format!("{HEAD}{}{}", stage("big", "touch $0/x", "resources = { gpu = 3 }"), stage("aside", "touch $0/x", "")));
    let ran = Ran::of(sandbox.command(&["run"]).env("CUDA_VISIBLE_DEVICES", "0,1").output().unwrap()).exits(4);
    ran.complains("stage `big`: it needs 3 of `gpu`, but the machine has 2").complains("[resources] gpu = 3");
    assert_eq!(heard(&sandbox, "stage-started", "big"), 0);
    assert_eq!(heard(&sandbox, "stage-finished", "aside"), 0, "nothing runs before it is known that all can");
    // Requesting more cores than exist is not an error: the stage gets all of them.
    sandbox.pipeline(&format!("{HEAD}{}", stage("wide", "touch $0/x", "resources = { cpu = 4096 }")));
    sandbox.run(&["run"]).exits(0);
}

#[test]
fn resources_of_your_own_are_counted() {
    let sandbox = Sandbox::new();
    let stages: String = ["a", "b", "c"].iter().map(|name| alone(name, "resources = { licence = 1 }")).collect();
    sandbox.pipeline(&format!("{HEAD}[resources]\ncpu = 8\nlicence = 1\n{stages}"));
    sandbox.run(&["run", "--jobs", "8"]).exits(0);
    sandbox.pipeline(&format!("{HEAD}[resources]\nlicence = 1\n{}", alone("a", "resources = { license = 1 }")));
    sandbox.run(&["check"]).exits(2).complains("unknown resource `license`").complains("did you mean `licence`?");
}

#[test]
fn a_large_stage_is_not_held_up_by_small_ones_behind_it() {
    let sandbox = Sandbox::new();
    let mut text = format!("{HEAD}[resources]\ncpu = 2\n{}", stage("first", "sleep 0.2; touch $0/x", ""));
    text += &stage("large", "echo large >> order; touch $0/x", "resources = { cpu = 2 }");
    for name in ["s1", "s2", "s3"] {
        text += &stage(name, "echo small >> order; touch $0/x", "");
    }
    sandbox.pipeline(&text).run(&["run", "--jobs", "8"]).exits(0);
    assert!(sandbox.read("order").starts_with("large\n"), "{}", sandbox.read("order"));
}

#[test]
fn order_and_company_change_no_result() {
    let made = |args: &[&str]| {
        let sandbox = Sandbox::new();
        let mut text = format!("{HEAD}[resources]\ncpu = 4\n");
        for layer in 0..4 {
            for place in 0..3 {
                let from = match layer {
                    0 => String::new(),
                    _ => format!("from = {{ one = \"s{0}_{place}\", other = \"s{0}_{1}\" }}", layer - 1, (place + 1) % 3),
                };
                // Two of them may make the same bytes at the same time.
                let word = if place < 2 { "same".to_owned() } else { format!("{layer}") };
                text += &stage(&format!("s{layer}_{place}"), &format!("sleep 0.0$(($$ % 5)); echo {word} > $0/word"), &from);
            }
        }
        sandbox.pipeline(&text).run(args).exits(0);
        let names =
            |folder: &str| fs::read_dir(sandbox.path(folder)).unwrap().map(|entry| entry.unwrap().file_name()).collect::<BTreeSet<_>>();
        let links: Vec<_> = (0..4).flat_map(|layer| (0..3).map(move |place| format!("s{layer}_{place}"))).collect();
        let links: Vec<_> =
            links.iter().map(|name| fs::read_link(sandbox.path(".voxpipe/latest/side-by-side").join(name)).unwrap()).collect();
        let results = files(&sandbox.path(".voxpipe/store"));
        assert_eq!(names(".voxpipe/work").len(), 0);
        sandbox.run(&["run"]).exits(0);
        assert_eq!(heard(&sandbox, "stage-fresh", "s3_2"), 1);
        (names(".voxpipe/keys"), names(".voxpipe/trees"), links, results)
    };
    let alone = made(&["run", "--jobs", "1"]);
    assert_eq!(alone.0.len(), 12);
    for _ in 0..3 {
        assert_eq!(made(&["run", "--jobs", "4"]), alone);
    }
}

#[test]
fn a_failure_leaves_the_others_their_results() {
    let text = |sandbox: &Sandbox| {
        let slow = format!("{}; sleep 1; echo kept > $0/x", awaits("failed.sign"));
        let stages = [
            stage("bad", "touch failed.sign; exit 3", ""),
            stage("slow", &slow, ""),
            stage("later", "touch $0/x", "resources = { cpu = 2 }"),
        ];
        sandbox.pipeline(&format!("{HEAD}[resources]\ncpu = 2\n{}", stages.concat()));
    };
    let sandbox = Sandbox::new();
    text(&sandbox);
    sandbox.run(&["run", "--jobs", "2", "--fail-fast"]).exits(1).complains("skipped");
    assert_eq!(result(&sandbox, "slow", "x"), "kept\n", "what runs is finished");
    let skipped = events(&sandbox).into_iter().find(|line| line["event"] == "stage-skipped").unwrap();
    assert_eq!(skipped["stage"].as_str(), Some("later"));
    assert_eq!(skipped["because"].as_str(), Some("`bad` failed, and no more stages are started"));
    // `--keep-going` is the default and overrides `--fail-fast`.
    sandbox.run(&["run", "--fail-fast", "--keep-going"]).exits(1);
    assert_eq!(heard(&sandbox, "stage-fresh", "slow"), 1);
    assert_eq!(heard(&sandbox, "stage-finished", "later"), 1);
}

#[test]
fn a_stage_that_says_nothing_is_stuck() {
    let sandbox = Sandbox::new();
    // The first attempt prints for longer than the stall timeout and then hangs; the second one succeeds.
    let script = "echo try >> tries; for i in 1 2 3 4 5; do echo $i; sleep 0.3; done; [ $(wc -l < tries) -gt 1 ] || sleep 60; touch $0/x";
    sandbox.pipeline(&format!("{HEAD}{}", stage("s", script, "stall = \"1s\"")));
    sandbox.run(&["run"]).exits(11).complains("it reported no progress for 1 s").complains("raise `stall_timeout`");
    fs::remove_file(sandbox.path("tries")).unwrap();
    sandbox.pipeline(&format!("{HEAD}{}", stage("s", script, "stall_timeout = \"1s\"\nretry = { times = 1, on = [\"stalled\"] }")));
    sandbox.run(&["run"]).exits(0).complains("retrying");
}

#[test]
fn between_tries_there_is_time() {
    let sandbox = Sandbox::new();
    let script = "echo try >> tries; [ $(wc -l < tries) -gt 2 ] || exit 5; touch $0/x";
    sandbox.pipeline(&format!("{HEAD}{}", stage("s", script, "retry = { times = 2, backoff = \"1s\" }")));
    sandbox.run(&["run"]).exits(0).complains("retrying in 1 s").complains("retrying in 2 s");
    assert_eq!(sandbox.read("tries").lines().count(), 3);

    // During the retry delay other stages run, and the run can be interrupted.
    let waits = stage("s", "touch tried.sign; exit 5", "retry = { times = 2, backoff = \"1h\" }");
    sandbox.pipeline(&format!("{HEAD}[resources]\ncpu = 1\n{waits}{}", stage("other", "touch other.sign; touch $0/x", "")));
    let child = sandbox.start(&["run", "--jobs", "1"], "other.sign");
    signal(&child, "INT");
    Ran::of(child.wait_with_output().unwrap()).exits(75);
    assert_eq!(heard(&sandbox, "stage-interrupted", "s"), 1);
}

#[test]
fn a_signal_reaches_every_stage() {
    for name in ["INT", "TERM"] {
        let sandbox = Sandbox::new();
        let script = |own: &str, other: &str| {
            format!("echo $$ > {own}.pid; touch {own}.sign; {}; touch both.sign; sleep 60", awaits(&format!("{other}.sign")))
        };
        let stages = [stage("a", &script("a", "b"), ""), stage("b", &script("b", "a"), ""), stage("c", "touch $0/x", "after = [\"a\"]")];
        sandbox.pipeline(&format!("{HEAD}[resources]\ncpu = 2\n{}", stages.concat()));
        let child = sandbox.start(&["run", "--jobs", "2"], "both.sign");
        signal(&child, name);
        Ran::of(child.wait_with_output().unwrap()).exits(75);
        for stage in ["a", "b"] {
            assert_eq!(heard(&sandbox, "stage-interrupted", stage), 1);
            let pid = sandbox.read(&format!("{stage}.pid"));
            assert!(!Path::new("/proc").join(pid.trim()).exists(), "{stage} goes on as process {pid}");
        }
        assert_eq!(heard(&sandbox, "stage-skipped", "c"), 1);
    }
}

#[test]
fn what_is_said_at_once_can_be_told_apart() {
    let sandbox = Sandbox::new();
    let noisy = |own: &str, other: &str| {
        let meet = format!("touch {own}.sign; {}", awaits(&format!("{other}.sign")));
        format!(
            "{meet}; for i in 1 2 3 4 5 6 7 8 9; do echo {own}-$i; echo '{{\"progress\":{{\"done\":'$i',\"total\":9}}}}'; done; touch $0/x"
        )
    };
    sandbox.pipeline(&format!(
        "{HEAD}[resources]\ncpu = 2\n{}{}",
        stage("left", &noisy("left", "right"), ""),
        stage("right", &noisy("right", "left"), "")
    ));
    let ran = sandbox.run(&["run", "--jobs", "2"]).exits(0);
    for line in ran.stderr.lines() {
        let (stage, other) = if line.starts_with("left ") { ("left", "right") } else { ("right", "left") };
        assert!(line.starts_with(&format!("{stage:<5}  ")), "{line}");
        assert!(!line.contains(&format!("{other}-")), "{line}");
    }
    for stage in ["left", "right"] {
        let lines: Vec<_> = ran.stderr.lines().filter_map(|line| line.split_once(&format!("{stage}-"))).map(|(_, number)| number).collect();
        assert_eq!(lines, ["1", "2", "3", "4", "5", "6", "7", "8", "9"], "each in its order");
        assert!(ran.stderr.contains(&format!("{stage:<5}  progress     9/9")), "{}", ran.stderr);
    }
}

#[test]
fn runs_side_by_side_share_the_machine_and_make_nothing_twice() {
    let sandbox = Sandbox::new();
    let same = stage("same", "echo made >> made; sleep 0.2; echo x > $0/x", "");
    let own = |number: u32| {
        stage(
            "own",
            &format!("mkdir held || exit 9; sleep 0.1; rmdir held; echo {number} > $0/x"),
            "from = { same = \"same\" }\nresources = { gpu = 1 }",
        )
    };
    let pipelines: Vec<Pipeline> = (0..3)
        .map(|number| {
            let text =
                format!("{HEAD}[resources]\ncpu = 8\ngpu = 1\n{same}{}", own(number)).replace("side-by-side", &format!("variant-{number}"));
            Pipeline::parse(STAGES, &text, &sandbox.path("pipeline.toml"), &CommandLineOverrides::default(), &|_| None).pipeline.unwrap()
        })
        .collect();
    let store = Store::open(&sandbox.root(), "a test").unwrap();
    let pool = Arc::new(ResourcePool::new(&pipelines[0].machines, Some(8)));
    thread::scope(|scope| {
        for pipeline in &pipelines {
            let (store, pool) = (&store, Arc::clone(&pool));
            scope.spawn(move || {
                let mut run = PipelineRun::new(pipeline, store, Emitter::silent(), pipeline.name.clone());
                run.scheduling = SchedulerOptions { pool: Some(pool), ..SchedulerOptions::default() };
                assert_eq!(run.go().exit, 0);
            });
        }
    });
    assert_eq!(sandbox.read("made"), "made\n");
    for number in 0..3 {
        assert_eq!(sandbox.read(&format!(".voxpipe/latest/variant-{number}/own/x")), format!("{number}\n"));
    }
}

#[test]
fn nobody_reading_holds_up_nobody() {
    let sandbox = Sandbox::new();
    sandbox.pipeline(&format!("{HEAD}[resources]\ncpu = 2\n{}", rendezvous()));
    let status = sandbox.command(&["run", "--jobs", "2"]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success());
}
