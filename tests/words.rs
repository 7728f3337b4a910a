//! What a newcomer is told: one clear message, with what to do, by every command.

use crate::support::{Ran, Sandbox, python, skipped};
use std::fs;
use std::process::Command;

fn project(stages: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.pipeline(&format!("schema = 1\n[pipeline]\nname = \"p\"\n{stages}"));
    sandbox
}

const ONE: &str = "[stage.a]\nuses = \"command\"\nwith = { run = [\"sh\", \"-c\", \"echo 1; touch $0/x\", \"${out}\"] }\n";

#[test]
fn a_stage_that_runs_is_said_to_run() {
    let sandbox = project(
        "[stage.a]\nuses = \"command\"\nwith = { run = [\"sh\", \"-c\", \"touch begun; until test -e go; do sleep 0.05; done\", \"${out}\"] }\n\
         [stage.b]\nuses = \"command\"\nfrom = { i = \"a\" }\nwith = { run = [\"true\", \"${out}\"] }\n",
    );
    let state = |command: &str| sandbox.run(&[command]).exits(0).stdout;
    let child = sandbox.start(&["run"], "begun");
    for command in ["plan", "status"] {
        let text = state(command);
        assert!(text.contains("a  running  it is running"), "{command}:\n{text}");
        assert!(!text.lines().any(|line| line.contains("  b ") && line.contains("running")), "{text}");
    }
    assert_eq!(sandbox.run(&["plan", "--json"]).exits(0).json()["steps"][0]["running"], true);
    assert_eq!(sandbox.run(&["status", "--json"]).exits(0).json()["steps"][0]["status"], "running");
    sandbox.file("go", "");
    Ran::of(child.wait_with_output().unwrap()).exits(0);
    assert!(!state("plan").contains("running") && !state("status").contains("running"));

    // A run that was killed is not said to run.
    fs::remove_file(sandbox.path("go")).unwrap();
    fs::remove_file(sandbox.path("begun")).unwrap();
    let mut child = sandbox.start(&["run", "--force", "a"], "begun");
    child.kill().unwrap();
    child.wait().unwrap();
    sandbox.pipeline(&sandbox.read("pipeline.toml").replace("sleep 0.05", "sleep 0.06"));
    let text = state("status");
    assert!(text.contains("its run was killed; run again to continue") && !text.contains("running"), "{text}");
}

#[test]
fn files_in_another_encoding_get_one_error_that_says_what_to_do() {
    let sandbox = project(ONE);
    let text = sandbox.read("pipeline.toml");
    let utf16 = |mark: &[u8], swap: bool| {
        let unit = |unit: u16| if swap { unit.to_be_bytes() } else { unit.to_le_bytes() };
        mark.iter().copied().chain(text.encode_utf16().flat_map(unit)).collect::<Vec<u8>>()
    };
    let latin1: Vec<u8> = text.replace("name = \"p\"", "name = \"\u{e9}\"").chars().map(|letter| letter as u8).collect();
    let encodings = [
        (utf16(&[0xff, 0xfe], false), "is UTF-16 text"),
        (utf16(&[0xfe, 0xff], true), "is UTF-16 text"),
        (utf16(&[], false), "is UTF-16 text"),
        (latin1, "is not UTF-8 text (line 3)"),
    ];
    for (bytes, message) in encodings {
        fs::write(sandbox.path("other.toml"), &bytes).unwrap();
        for command in ["check", "plan", "run", "status"] {
            let ran = sandbox.run(&[command, "other.toml"]).exits(2).complains(message).complains("save it with the encoding UTF-8");
            assert_eq!(ran.stderr.matches("error").count(), 1, "{}", ran.stderr);
            assert!(!ran.stderr.contains("pass the pipeline file"), "{}", ran.stderr);
        }
        sandbox.file("including.toml", &format!("include = [\"other.toml\"]\n{text}"));
        sandbox.run(&["check", "including.toml"]).exits(2).complains(message);
    }
}

#[test]
fn check_finds_what_only_a_run_would() {
    let sandbox = project(ONE);
    // The root folder.
    let text = sandbox.read("pipeline.toml");
    sandbox.pipeline(&text.replace("name = \"p\"", "name = \"p\"\nroot = \"nosuch\""));
    let ran = sandbox.run(&["check"]).exits(2).complains("the project root `nosuch` is not a folder").complains("pipeline.toml:4:8");
    assert_eq!(ran.stderr.matches("error:").count(), 1, "{}", ran.stderr);
    // A mistake in a profile that is not chosen.
    sandbox.pipeline(&format!("{text}[profile.x]\nset = {{ \"stage.a.with.code\" = 5 }}\n"));
    sandbox.run(&["check"]).exits(2).complains("`with.code` must be an array");
    sandbox.pipeline(&format!("{text}[profile.x]\nset = {{ \"stage.a.with.code\" = [] }}\n"));
    sandbox.run(&["check"]).exits(0);
    // A list that is none is one mistake, although the other file might have more.
    sandbox.pipeline("schema = 1\ninclude = \"x\"\n[stage.a]\nuses = \"command\"\nwith = { run = [\"true\", \"${out}\"] }\n");
    let ran = sandbox.run(&["check"]).exits(2).complains("`include` must be an array");
    assert!(ran.stderr.ends_with("1 error\n"), "{}", ran.stderr);
    // A program without a place for its result.
    sandbox.pipeline(
        "schema = 1\n[pipeline]\nname = \"p\"\n[stage.a]\nuses = \"command\"\nwith = { run = [\"sh\", \"-c\", \"echo x > made.txt\"] }\n",
    );
    sandbox.run(&["check"]).exits(0).complains("warning: the program gets no `${out}`").complains("pipeline.toml:6:");
    let text = sandbox.read("pipeline.toml");
    sandbox.pipeline(&text.replace("with = {", "with = { variables = { OUT = \"${out}\" },"));
    assert!(!sandbox.run(&["check"]).exits(0).stderr.contains("warning"));
    sandbox.pipeline(&text.replace("with = {", "require = { wer = \"< 1\" }\nwith = {"));
    assert!(!sandbox.run(&["check"]).exits(0).stderr.contains("warning"), "a gate needs a metric only");
    sandbox.pipeline(&text.replace("with = {", "with = { output = \"clips\","));
    sandbox.run(&["check"]).exits(2).complains("cannot make the `output` of kind `clips`");
}

#[test]
fn what_the_machine_lacks_is_found_before_anything_runs() {
    let stages = |second: &str| format!("{ONE}[stage.b]\nuses = \"command\"\nfrom = {{ i = \"a\" }}\n{second}\n");
    let command = "with = { run = [\"touch\", \"${out}/y\"] }";
    let sandbox = project(&stages(&format!("resources = {{ gpu = 64 }}\n{command}")));
    for looking in ["check", "plan"] {
        sandbox.run(&[looking]).exits(0).complains("stage `b` on this machine: it needs 64 of `gpu`").complains("on = \"slurm\"");
    }
    assert_eq!(sandbox.run(&["check", "--json"]).exits(0).json()["machine"][0]["fatal"], true);
    let ran = sandbox.run(&["run"]).exits(4).complains("it needs 64 of `gpu`");
    assert!(!sandbox.path(".voxpipe/latest/p/a").exists(), "the stage before did not run: {}", ran.stderr);
    // A stage of a cluster is another machine's matter, and so is one whose result is there.
    sandbox.pipeline(&sandbox.read("pipeline.toml").replace("gpu = 64", "on = \"slurm\", gpu = 64"));
    assert!(!sandbox.run(&["check"]).exits(0).stderr.contains("gpu"));
    sandbox.pipeline(&sandbox.read("pipeline.toml").replace("on = \"slurm\", gpu = 64", "cpu = 100000"));
    sandbox.run(&["plan"]).exits(0).complains("it needs 100000 of `cpu`").complains("it gets all of them");
    sandbox.run(&["run"]).exits(0);
    sandbox.pipeline(&sandbox.read("pipeline.toml").replace("cpu = 100000", "gpu = 64"));
    assert!(!sandbox.run(&["plan"]).exits(0).stderr.contains("gpu"));
    sandbox.run(&["run"]).exits(0);
    // A device for which this program was not built, or that is not there.
    let made = |kind: &str| {
        format!("[stage.{kind}]\nuses = \"command\"\nwith = {{ run = [\"touch\", \"ran\", \"${{out}}\"], output = \"{kind}\" }}\n")
    };
    let sandbox = project(&format!(
        "{}{}[stage.c]\nuses = \"evaluate\"\nfrom = {{ model = \"model\", data = \"dataset\" }}\nwith = {{ device = \"rocm:63\" }}\n",
        made("model"),
        made("dataset")
    ));
    sandbox
        .run(&["check"])
        .exits(0)
        .complains("stage `c` on this machine: device `rocm:63` is not available")
        .complains("device = \"auto\"");
    sandbox.run(&["run"]).exits(4).complains("device `rocm:63` is not available");
    assert!(!sandbox.path("ran").exists());
}

#[test]
fn the_first_steps_are_explained() {
    let sandbox = Sandbox::new();
    let made = sandbox.run(&["init", "voice", "--template", "recordings", "--name", "v", "--language", "en"]).exits(0);
    assert!(made.stdout.contains("put the recordings into the folder `voice/recordings`"), "{}", made.stdout);
    let checked = sandbox.run(&["check", "voice/pipeline.toml"]).exits(0);
    assert_eq!(checked.stderr.matches("does not exist yet").count(), 1, "{}", checked.stderr);
    // A stage that a run does not have.
    let sandbox = project(ONE);
    sandbox.run(&["run"]).exits(0);
    sandbox.run(&["logs", "b"]).exits(2).complains("has no stage `b`").complains("its stages are `a`");
    assert!(sandbox.run(&["logs", "a"]).exits(0).stdout.contains("note") || sandbox.run(&["logs", "a"]).stdout.contains(" 1"));
    // One line is no lines.
    let sandbox = project(&ONE.replace("touch $0/x", "exit 3"));
    let ran = sandbox.run(&["run"]).exits(1).complains("failed with exit code 3; its last line:\n  1");
    assert!(!ran.stderr.contains("last 1 lines"), "{}", ran.stderr);
}

#[test]
fn plot_takes_the_pipeline_file_and_the_metrics_of_any_stage() {
    let sandbox = project(
        "[stage.a]\nuses = \"command\"\nwith = { run = [\"sh\", \"-c\", \"for i in 3 2 1; do echo \\\"{\\\\\\\"metrics\\\\\\\": {\\\\\\\"loss\\\\\\\": $i}}\\\"; done\", \"${out}\"] }\n",
    );
    sandbox.run(&["plot", "a"]).exits(2).complains("stage `a` has no metrics yet").complains("once its program prints some");
    sandbox.run(&["run"]).exits(0);
    for args in [&["plot", "a", "--json"][..], &["plot", "pipeline.toml", "a", "--json"], &["plot", "pipeline.toml", "--json"]] {
        let json = sandbox.run(args).exits(0).json();
        assert_eq!(json["curves"][0]["values"], serde_json::json!([3.0, 2.0, 1.0]), "{args:?}");
    }
    sandbox.run(&["plot", "pipeline.toml", "nosuch"]).exits(2).complains("no stage, run or file is called `nosuch`");
    sandbox.file("loss.jsonl", "{\"step\": 1, \"loss\": 2}\n");
    assert_eq!(sandbox.run(&["plot", "loss.jsonl", "a", "--json"]).exits(0).json()["curves"].as_array().unwrap().len(), 2);
    sandbox.pipeline("schema = 1\n[pipeline]\nname = \"p\"\n[stage.a]\nuses = \"nosuch\"\n");
    sandbox.run(&["plot", "a"]).exits(2).complains("has errors, so its stages are not known");
}

#[test]
fn on_a_terminal_nothing_is_printed_twice() {
    let Some(python) = python("pty") else { return skipped("words::on_a_terminal_nothing_is_printed_twice", "no python") };
    let sandbox = project(ONE);
    let script = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)";
    let run = || {
        let mut command = Command::new(&python);
        command.args(["-c", script, env!("CARGO_BIN_EXE_voxpipe"), "run"]).current_dir(sandbox.root());
        command.env("TERM", "xterm").env("HOME", sandbox.root()).env("NO_COLOR", "1");
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    };
    let printed = run();
    assert_eq!(printed.matches("`sh` made").count(), 1, "{printed}");
    assert!(printed.contains("1 done in"), "{printed}");
    let printed = run();
    assert_eq!(printed.matches("fresh  ").count(), 1, "{printed}");
}
