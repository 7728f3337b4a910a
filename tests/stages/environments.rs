//! `container` and `uv` of a `command`, with stand-ins for the container engines and for uv.

use crate::support::{Ran, Sandbox, signal};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Says what it was called with, and runs the command after the image on this machine.
const ENGINE: &str = r#"#!/bin/sh
echo "$(basename "$0") $*" >> calls
printf '%s\n' "$@" > "arguments.$(basename "$0").$1"
env > "environment.$1"
[ "$1" = rm ] && exit 0
while :; do case "$1" in *@sha256:*) shift; break ;; esac; shift; done
exec "$@"
"#;

/// Says what it was called with, and runs the command after `--`.
const UV: &str = r#"#!/bin/sh
printf '%s\n' "$@" > arguments.uv
echo "$UV_PROJECT_ENVIRONMENT" > uv.environment
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"#;

fn project(settings: &str, run: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let run = serde_json::to_string(run).unwrap();
    sandbox.pipeline(&format!(
        "schema = 1\n[pipeline]\nname = \"p\"\n[stage.first]\nuses = \"command\"\nwith = {{ run = [\"sh\", \"-c\", \"echo a > $0/a\", \"${{out}}\"] }}\n\
         [stage.s]\nuses = \"command\"\nfrom = {{ first = \"first\" }}\n\
         with = {{ run = [\"sh\", \"-c\", {run}, \"${{out}}\", \"${{from.first}}\"], {settings} }}\n"
    ));
    sandbox
}

fn stand_in(sandbox: &Sandbox, program: &str, script: &str) {
    sandbox.file(&format!("../bin/{program}"), script);
    fs::set_permissions(sandbox.path(&format!("../bin/{program}")), fs::Permissions::from_mode(0o755)).unwrap();
}

/// The program, with nothing in PATH but the stand-ins and what they need: this machine may have an engine.
fn command(sandbox: &Sandbox, args: &[&str]) -> Command {
    let bin = sandbox.path("../bin");
    fs::create_dir_all(&bin).unwrap();
    for tool in ["sh", "cat", "touch", "env", "basename", "sleep"] {
        let from = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(tool)).into_iter().find(|file| file.exists()).unwrap();
        // It is there from the second call on.
        let _ = std::os::unix::fs::symlink(from, bin.join(tool));
    }
    let mut command = sandbox.command(args);
    command.env("PATH", bin);
    command
}

fn run(sandbox: &Sandbox, args: &[&str]) -> Ran {
    Ran::of(command(sandbox, args).output().unwrap())
}

#[test]
fn a_command_runs_in_the_container_that_its_digest_names() {
    for engine in ["docker", "podman", "apptainer"] {
        let settings = format!("container = \"python:3.12@{DIGEST}\", env = [\"MY_TOKEN\"], variables = {{ PLAIN = \"seen\" }}");
        let sandbox = project(&settings, "cat $1/a > $0/x");
        stand_in(&sandbox, engine, ENGINE);
        let ran = Ran::of(command(&sandbox, &["run"]).env("MY_TOKEN", "s3cret-value").output().unwrap()).exits(0);
        assert_eq!(sandbox.read(".voxpipe/latest/p/s/x"), "a\n", "{engine}: {}", ran.stderr);
        let verb = if engine == "apptainer" { "exec" } else { "run" };
        let arguments = sandbox.read(&format!("arguments.{engine}.{verb}"));
        let root = sandbox.root().canonicalize().unwrap().display().to_string();
        let has = |argument: &str| assert!(arguments.lines().any(|line| line == argument), "{engine}: `{argument}` in\n{arguments}");
        if engine == "apptainer" {
            has(&format!("docker://python@{DIGEST}"));
            has(&format!("{root}:{root}:ro"));
            assert!(arguments.lines().any(|line| line.contains("/.voxpipe/work/out-") && line.ends_with(":rw")), "{arguments}");
            let environment = sandbox.read("environment.exec");
            assert!(
                environment.contains("APPTAINERENV_PLAIN=seen") && environment.contains("APPTAINERENV_MY_TOKEN=s3cret"),
                "{environment}"
            );
        } else {
            has(&format!("python@{DIGEST}"));
            has(&format!("type=bind,source={root},target={root},readonly"));
            assert!(arguments.lines().any(|line| line.contains("/.voxpipe/work/out-") && !line.ends_with("readonly")), "{arguments}");
            let id = |flag: &str| String::from_utf8(Command::new("id").arg(flag).output().unwrap().stdout).unwrap().trim().to_owned();
            has(&format!("--user={}:{}", id("-u"), id("-g")));
            has("PLAIN=seen");
            has("MY_TOKEN");
        }
        assert!(!arguments.contains("s3cret"), "a secret is in an argument: {arguments}");
        // The digest is part of the fingerprint; the engine is not.
        assert!(Ran::of(command(&sandbox, &["run"]).env("MY_TOKEN", "s3cret-value").output().unwrap()).exits(0).stdout.contains("2 fresh"));
        let other = format!("stage.s.with.container=python@{}0", &DIGEST[..DIGEST.len() - 1]);
        assert!(run(&sandbox, &["plan", "--set", &other]).exits(0).stdout.contains("setting `container`"));
    }
}

#[test]
fn the_engine_is_chosen_and_its_absence_is_told_before_anything_runs() {
    let sandbox = project(&format!("container = \"python@{DIGEST}\""), "touch $0/x");
    run(&sandbox, &["check"])
        .exits(0)
        .complains("stage `s`")
        .complains("none of `apptainer`, `singularity`, `podman`, `docker` is in PATH");
    run(&sandbox, &["run"]).exits(4).complains("none of `apptainer`").complains("install one of them");
    assert!(!sandbox.path(".voxpipe/latest/p/first").exists(), "a stage ran before it was told");
    for engine in ["docker", "podman"] {
        stand_in(&sandbox, engine, ENGINE);
    }
    let chosen = |name: &str| Ran::of(command(&sandbox, &["run", "--force", "s"]).env("VOXPIPE_CONTAINER_ENGINE", name).output().unwrap());
    chosen("docker").exits(0);
    assert!(sandbox.path("arguments.docker.run").exists() && !sandbox.path("arguments.podman.run").exists());
    chosen("lxc").exits(4).complains("VOXPIPE_CONTAINER_ENGINE is `lxc`");
    chosen("apptainer").exits(4).complains("none of `apptainer` is in PATH");
}

#[test]
fn an_engine_that_cannot_start_a_container_is_told_from_a_program_that_fails() {
    let sandbox = project(&format!("container = \"python@{DIGEST}\""), "exit 3");
    stand_in(&sandbox, "docker", "#!/bin/sh\necho cannot connect to the daemon >&2\nexit 125\n");
    run(&sandbox, &["run"])
        .exits(4)
        .complains("`docker` failed with exit code 125")
        .complains("cannot connect")
        .complains("was not started");
    stand_in(&sandbox, "docker", ENGINE);
    run(&sandbox, &["run"]).exits(1).complains("`sh` failed with exit code 3");
}

#[test]
fn an_image_without_a_digest_is_refused_with_what_to_write() {
    let sandbox = project("container = \"python:3.12\"", "touch $0/x");
    let ran = run(&sandbox, &["check"]).exits(2);
    ran.complains("`python:3.12` is not pinned by a digest").complains("skopeo inspect docker://python:3.12");
    let both = format!("container = \"python@{DIGEST}\", uv = \"uv.lock\", tools = [\"sh\"]");
    run(&project(&both, "true"), &["check"])
        .exits(2)
        .complains("two environments for one program")
        .complains("`tools` are programs of this machine");
    run(&project("uv = \"requirements.txt\"", "true"), &["check"]).exits(2).complains("is not a lockfile of uv");
}

#[test]
fn a_stopped_container_is_removed() {
    let sandbox = project(&format!("container = \"python@{DIGEST}\""), "touch begun.sign; exec sleep 60");
    // The client does not pass the signal on, as one does whose program handles none.
    stand_in(&sandbox, "docker", &ENGINE.replace("exec \"$@\"", "trap '' TERM\n\"$@\""));
    let child = command(&sandbox, &["run"]).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while !sandbox.path("begun.sign").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(10));
    }
    let before = sandbox.read("calls").matches("docker rm --force voxpipe-").count();
    signal(&child, "TERM");
    Ran::of(child.wait_with_output().unwrap()).exits(75);
    assert_eq!(sandbox.read("calls").matches("docker rm --force voxpipe-").count(), before + 1, "{}", sandbox.read("calls"));
}

#[test]
fn a_command_runs_with_the_packages_of_a_lockfile() {
    let sandbox = project("uv = \"tool/uv.lock\"", "cat $1/a > $0/x");
    sandbox.file("tool/uv.lock", "version = 1\n").file("tool/pyproject.toml", "[project]\nname = \"tool\"\n");
    run(&sandbox, &["check"]).exits(0).complains("`uv`, which is not in PATH");
    run(&sandbox, &["run"]).exits(4).complains("an environment made by `uv`, which is not in PATH").complains("install it");
    stand_in(&sandbox, "uv", UV);
    run(&sandbox, &["run"]).exits(0);
    assert_eq!(sandbox.read(".voxpipe/latest/p/s/x"), "a\n");
    let arguments = sandbox.read("arguments.uv");
    assert!(arguments.starts_with("run\n--locked\n--project\n") && arguments.contains("/tool\n--\nsh\n-c\n"), "{arguments}");
    let environment = sandbox.read("uv.environment");
    assert!(environment.contains("/.voxpipe/work/"), "not the person's own `.venv`: {environment}");
    assert!(run(&sandbox, &["run"]).exits(0).stdout.contains("2 fresh"));
    for (file, text) in [("uv.lock", "version = 2\n"), ("pyproject.toml", "[project]\nname = \"other\"\n"), (".python-version", "3.12\n")] {
        sandbox.file(&format!("tool/{file}"), text);
        let plan = run(&sandbox, &["plan"]).exits(0).stdout;
        assert!(plan.contains(&format!("`tool/{file}`")), "{file}: {plan}");
        run(&sandbox, &["run"]).exits(0);
    }
    fs::remove_file(sandbox.path("tool/uv.lock")).unwrap();
    run(&sandbox, &["run"]).exits(4).complains("uv.lock` not found").complains("`uv lock`");
}
