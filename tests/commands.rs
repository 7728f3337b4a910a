//! Each command of the real program: output and exit code.

use crate::support::{Ran, Sandbox, golden};
use std::process::Stdio;

fn project() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox
        .pipeline(
            r#"
schema = 1
[pipeline]
name = "small"
[params]
word = "hello"
[stage.words]
uses = "command"
with = { run = ["sh", "-c", "echo $0 > $1/words", "${params.word}", "${out}"], code = ["list"] }
[stage.loud]
uses = "command"
from = { words = "words" }
with = { run = ["sh", "loud.sh", "${from.words}", "${out}"], code = ["loud.sh"] }
[stage.end]
uses = "command"
from = { loud = "loud" }
after = ["words"]
with = { run = ["true", "${out}"] }
[profile.french]
set = { "params.word" = "bonjour" }
"#,
        )
        .file("list/a", "1\n")
        .file("loud.sh", "tr a-z A-Z < $1/words > $2/loud\n");
    sandbox
}

/// Replaces what varies between runs: run ids and durations.
fn stable(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let stable = words.iter().enumerate().map(|(position, word)| {
            let bare = word.trim_matches(|c: char| "(),:;".contains(c));
            let is_id = bare.len() > 11 && bare.starts_with("20") && bare.matches('-').count() >= 3;
            let is_time = bare.starts_with("20") && bare.ends_with('Z');
            let is_duration =
                bare.parse::<f64>().is_ok() && bare.contains('.') && words.get(position + 1).is_some_and(|next| next.starts_with('s'));
            if is_id || is_time || is_duration {
                word.replace(
                    bare,
                    if is_id {
                        "ID"
                    } else if is_time {
                        "TIME"
                    } else {
                        "N"
                    },
                )
            } else {
                (*word).to_owned()
            }
        });
        out.push_str(&stable.collect::<Vec<_>>().join(" "));
        out.push('\n');
    }
    out
}

#[test]
fn the_story_of_a_small_pipeline() {
    let sandbox = project();
    let mut story = String::new();
    let mut tell = |args: &[&str], code: i32| {
        let ran = sandbox.run(args).exits(code);
        story.push_str(&format!("$ voxpipe {}\n{}{}\n", args.join(" "), stable(&ran.stderr), stable(&ran.stdout)));
    };
    tell(&["check"], 0);
    tell(&["graph"], 0);
    tell(&["plan"], 0);
    tell(&["run"], 0);
    tell(&["run"], 0);
    tell(&["status"], 0);
    tell(&["plan", "-p", "french"], 0);
    tell(&["why", "words", "--set", "params.word=bye"], 0);
    sandbox.file("list/b", "2\n").file("loud.sh", "echo oh no; exit 4\n");
    tell(&["plan"], 0);
    tell(&["why", "words"], 0);
    tell(&["run"], 1);
    tell(&["status"], 0);
    tell(&["runs"], 0);
    tell(&["show"], 0);
    golden("small.txt", &story);
}

#[test]
fn plan_in_json_names_the_reasons() {
    let sandbox = project();
    sandbox.run(&["run"]).exits(0);
    let plan = sandbox.run(&["plan", "--json", "--set", "params.word=bye"]).exits(0).json();
    assert_eq!(plan["pipeline"], "small");
    let steps = plan["steps"].as_array().unwrap();
    assert_eq!(steps[0]["state"], "run");
    assert_eq!(steps[0]["reasons"][0]["why"], "setting");
    assert_eq!(steps[0]["reasons"][0]["key"], "run.3");
    assert_eq!(steps[1]["state"], "waits");
    assert_eq!(steps[1]["for"][0], "words");
}

#[test]
fn looking_writes_nothing() {
    let sandbox = project();
    for args in [&["plan"] as &[&str], &["check"], &["why", "loud"], &["status"], &["runs"], &["graph", "--format", "mermaid"]] {
        sandbox.run(args).exits(0);
    }
    assert!(!sandbox.path(".voxpipe").exists());
}

#[test]
fn graphs_can_be_drawn() {
    let sandbox = project();
    let mermaid = sandbox.run(&["graph", "--format", "mermaid"]).exits(0).stdout;
    assert!(mermaid.starts_with("flowchart TD\n"), "{mermaid}");
    assert!(mermaid.contains("s0 -->|\"words\"| s1") && mermaid.contains("s0 -.-> s2"), "{mermaid}");
    let dot = sandbox.run(&["graph", "--format", "dot"]).exits(0).stdout;
    assert!(dot.starts_with("digraph \"small\"") && dot.contains("\"words\" -> \"loud\""), "{dot}");
}

#[test]
fn mistakes_on_the_command_line_and_in_the_file_end_with_2() {
    let sandbox = project();
    sandbox.run(&["run", "none.toml"]).exits(2).complains("cannot read `none.toml`").complains("  = pass the pipeline file");
    sandbox.run(&["fly"]).exits(2).complains("fly");
    sandbox.run(&["run", "--set", "word"]).exits(2).complains("KEY=VALUE");
    sandbox.run(&["why", "lod"]).exits(2).complains("unknown stage `lod`").complains("did you mean `loud`");
    sandbox.run(&["run", "-p", "frnch"]).exits(2).complains("french");
    sandbox.file("bad.toml", "schema = 1\n[pipeline]\nname = \"x\"\n[stage.a]\nuses = \"comand\"\n[stage.b]\nuses = \"command\"\nfrom = { x = \"c\" }\nwith = { run = [\"true\", \"${out}\"] }\n");
    for command in ["run", "check", "plan"] {
        let told = sandbox.run(&[command, "bad.toml"]).exits(2).complains("bad.toml:5:").complains("bad.toml:8:").complains("2 errors");
        assert_eq!(told.stdout, "");
    }
    let told = sandbox.run(&["check", "bad.toml", "--json"]).exits(2).json();
    assert_eq!((told["ok"].as_bool(), told["diagnostics"].as_array().map(Vec::len)), (Some(false), Some(2)));
    assert!(!sandbox.path(".voxpipe").exists());
}

#[test]
fn check_names_files_that_are_not_there() {
    let sandbox = project();
    std::fs::remove_file(sandbox.path("loud.sh")).unwrap();
    sandbox.run(&["check"]).exits(0).complains("warning: stage `loud` reads `loud.sh`, which does not exist");
}

#[test]
fn state_of_a_newer_version_is_left_alone() {
    let sandbox = project();
    sandbox.file(".voxpipe/format", "2\n");
    for command in ["run", "plan"] {
        sandbox.run(&[command]).exits(2).complains("has format 2");
    }
    assert_eq!(sandbox.read(".voxpipe/format"), "2\n");
}

#[test]
fn results_nobody_reads_are_no_fault() {
    let sandbox = project();
    for args in [&["plan"] as &[&str], &["run"], &["schema"], &["status", "--json"], &["--help"]] {
        let mut child = sandbox.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let told = Ran::of(child.wait_with_output().unwrap()).exits(0);
        assert!(!told.stderr.contains("panicked") && !told.stderr.contains("error"), "{args:?}: {}", told.stderr);
    }
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    Ran::of(sandbox.command(&["plan"]).stdout(full).output().unwrap()).exits(4).complains("cannot write to standard output");
}

#[test]
fn a_run_can_be_told_as_json() {
    let sandbox = project();
    let told = sandbox.run(&["run", "--json"]).exits(0).json();
    assert_eq!((&told["exit"], &told["stages"][0][0], &told["stages"][0][1]["result"]), (&0.into(), &"words".into(), &"done".into()));
}

#[test]
fn the_state_folder_keeps_out_of_the_way() {
    let sandbox = project();
    sandbox.run(&["run"]).exits(0);
    assert_eq!(sandbox.read(".voxpipe/.gitignore"), "*\n");
    assert!(sandbox.read(".voxpipe/CACHEDIR.TAG").starts_with("Signature: 8a477f597d28d172789f06886806bc55"));
    let kept = std::fs::canonicalize(sandbox.path(".voxpipe/latest/small/loud/loud")).unwrap();
    assert!(std::fs::metadata(kept).unwrap().permissions().readonly());
}

#[test]
fn completions_are_printed() {
    let script = project().run(&["completions", "bash"]).exits(0).stdout;
    assert!(script.contains("voxpipe"));
}

#[test]
fn what_a_command_needs_of_this_machine_is_told_before_anything_runs() {
    let sandbox = Sandbox::new();
    let needs = |last: &str| {
        sandbox.pipeline(&format!(
            "schema = 1\n[pipeline]\nname = \"p\"\n[stage.a]\nuses = \"command\"\nwith = {{ run = [\"touch\", \"ran\", \"${{out}}/x\"] }}\n\
             [stage.b]\nuses = \"command\"\nfrom = {{ i = \"a\" }}\n{last}\n"
        ));
    };
    for (last, told) in [
        (
            "with = { run = [\"true\", \"${out}\"], env = [\"SERVICE_TOKEN\"] }",
            "environment variable `SERVICE_TOKEN`, listed in `env`, is not set",
        ),
        ("with = { run = [\"true\", \"${out}\"], tools = [\"no-such\"] }", "program `no-such`, listed in `tools`, not found"),
        ("with = { run = [\"true\", \"${out}\"] }\nresources = { on = \"slurm\" }", "cannot start `sbatch`"),
    ] {
        needs(last);
        sandbox.run(&["check"]).exits(0).complains(told);
        sandbox.run(&["plan"]).exits(0).complains(told);
        sandbox.run(&["run"]).exits(4).complains(told);
        assert!(!sandbox.path("ran").exists(), "{told}");
    }
    needs("with = { run = [\"true\", \"${out}\"], env = [\"SERVICE_TOKEN\"], tools = [\"sh\"] }");
    let ran = sandbox.command(&["run"]).env("SERVICE_TOKEN", "x").output().unwrap();
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
}

#[test]
fn a_reference_to_inputs_with_too_many_dots_is_unknown() {
    let sandbox = Sandbox::new();
    for reference in ["from.i....", "from.i.....", "from.i.0...", "from.i.", "from.i.00", "from.i.01"] {
        sandbox.pipeline(&format!(
            "schema = 1\n[pipeline]\nname = \"p\"\n[stage.a]\nuses = \"command\"\nwith = {{ run = [\"touch\", \"${{out}}/x\"] }}\n\
             [stage.b]\nuses = \"command\"\nfrom = {{ i = [\"a\"] }}\nwith = {{ run = [\"ls\", \"${{{reference}}}\", \"${{out}}\"] }}\n"
        ));
        sandbox.run(&["check"]).exits(2).complains(&format!("unknown reference `${{{reference}}}`"));
    }
}
