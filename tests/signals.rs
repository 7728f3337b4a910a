//! What a closed terminal and Ctrl-Z do to a run, and to the programs that its stages run.

use crate::support::{Ran, Sandbox, signal};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A project with one stage, and a matrix, so that it can be swept as well.
fn project(script: &str, more: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let script = serde_json::to_string(script).unwrap();
    sandbox.pipeline(&format!(
        "schema = 1\n[pipeline]\nname = \"p\"\n[params]\nn = 1\n[stage.s]\nuses = \"command\"\n\
         with = {{ run = [\"sh\", \"-c\", {script}, \"${{out}}\", \"${{scratch}}\", \"${{params.n}}\"] }}\n{more}\n[matrix]\naxes = {{ n = [1] }}\n"
    ));
    sandbox
}

/// Waits until `done`.
fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        sleep(Duration::from_millis(10));
    }
}

/// The state letter of a process: `T` is stopped; `None` if there is none.
fn state(pid: &str) -> Option<char> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// A stage that leaves something to go on from when it is asked to stop.
const KEEPS: &str = "[ -e $1/kept ] && touch $0/x && exit; trap 'touch $1/kept; exit 1' TERM; echo $$ > pid; touch begun.sign; \
                     while :; do sleep 0.05; done";

#[test]
fn a_closed_terminal_stops_a_run_in_good_order() {
    for command in ["run", "sweep"] {
        let sandbox = project(KEEPS, "");
        let child = sandbox.start(&[command], "begun.sign");
        // The kernel and the shell both send it.
        signal(&child, "HUP");
        signal(&child, "HUP");
        Ran::of(child.wait_with_output().unwrap()).exits(75);
        assert_eq!(state(&sandbox.read("pid")), None, "{command}: the program runs on");
        sandbox.run(&[command]).exits(0);
    }
    // What systemd sends at the end of a session: SIGHUP right after SIGTERM is not the second signal that ends a run at once.
    let sandbox = project(KEEPS, "");
    let child = sandbox.start(&["run"], "begun.sign");
    signal(&child, "TERM");
    signal(&child, "HUP");
    Ran::of(child.wait_with_output().unwrap()).exits(75);
    sandbox.run(&["run"]).exits(0);
}

#[test]
fn nohup_keeps_a_run_from_being_stopped() {
    let sandbox = project("touch begun.sign; until [ -e go ]; do sleep 0.05; done; touch $0/x", "");
    let run = sandbox.command(&["run"]);
    let mut nohup = Command::new("sh");
    nohup.args(["-c", "trap '' HUP; exec \"$0\" run"]).arg(run.get_program()).current_dir(sandbox.root());
    nohup.env_clear().envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let child = nohup.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("the stage did not begin", || sandbox.path("begun.sign").exists());
    signal(&child, "HUP");
    sleep(Duration::from_millis(200));
    sandbox.file("go", "");
    Ran::of(child.wait_with_output().unwrap()).exits(0);
}

#[test]
fn ctrl_z_stops_the_programs_too_and_counts_for_no_time_limit() {
    let script = "echo $$ > pid; touch begun.sign; until [ -e go ]; do sleep 0.05; done; touch $0/x";
    let limits = "timeout = \"4s\"\nstall_timeout = \"4s\"";
    let sandbox = project(script, limits);
    let child: Child = sandbox.start(&["run"], "begun.sign");
    let (run, program) = (child.id().to_string(), sandbox.read("pid"));
    signal(&child, "TSTP");
    until("the run is not stopped", || state(&run) == Some('T'));
    until("the program runs on", || state(&program) == Some('T'));
    sleep(Duration::from_millis(4500));
    sandbox.file("go", "");
    signal(&child, "CONT");
    Ran::of(child.wait_with_output().unwrap()).exits(0);
}
