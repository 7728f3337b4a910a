//! `pipeline.lock`: a branch of the Hub that moves changes nothing until somebody says so.

use super::server::{COMMIT, REPOSITORY, Server};
use super::{NOBODY, served};
use crate::support::{Ran, Sandbox};
use std::fs;

const LATER: &str = "beefed0123456789beefed0123456789beefed01";

fn project() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.pipeline(&format!(
        "schema = 1\n[pipeline]\nname = \"locked\"\n[params]\nbase = \"{REPOSITORY}\"\n\
         [stage.uploads]\nuses = \"uploads\"\nwith = {{ audio = \"clips\", transcripts = \"txt\" }}\n\
         [stage.dataset]\nuses = \"dataset\"\nfrom = {{ clips = \"uploads\" }}\n\
         [stage.adapter]\nuses = \"train\"\nfrom = {{ data = \"dataset\" }}\nwith = {{ base = \"${{params.base}}\" }}\n\
         [stage.scores]\nuses = \"evaluate\"\nfrom = {{ model = \"adapter\", data = \"dataset\" }}\nwith = {{ base = \"${{params.base}}\" }}\n"
    ));
    sandbox
}

fn run(sandbox: &Sandbox, address: &str, args: &[&str]) -> Ran {
    let mut command = sandbox.command(args);
    Ran::of(command.env("HF_ENDPOINT", address).env("HF_HOME", sandbox.path("hf")).output().unwrap())
}

/// What a plan takes the settings of a stage to be, as far as `check` tells where it reads.
fn base_of(sandbox: &Sandbox, stage: &str, args: &[&str]) -> String {
    let told = run(sandbox, NOBODY, &[&["check"], args].concat()).exits(0).stderr;
    told.lines().find(|line| line.contains(&format!("`{stage}`"))).unwrap_or_else(|| panic!("{told}")).to_owned()
}

#[test]
fn a_lock_file_says_which_commit_is_meant_until_it_is_updated() {
    let sandbox = project();
    let hub = Server::start(served(), &[]);
    run(&sandbox, NOBODY, &["plan", "--locked"])
        .exits(2)
        .complains("stage `adapter` reads `acme/tiny-voxtral`, which `pipeline.lock` does not pin");
    assert!(base_of(&sandbox, "adapter", &[]).ends_with("run `voxpipe lock` to pin its commit"));
    run(&sandbox, NOBODY, &["lock"]).exits(4).complains("cannot be reached");
    run(&sandbox, &hub.address, &["lock", "--offline"]).exits(4).complains("is not in the cache");
    assert!(!sandbox.path("pipeline.lock").exists());
    assert!(hub.asked().is_empty());

    let told = run(&sandbox, &hub.address, &["lock"]).exits(0).stdout;
    assert!(told.contains(&format!("{REPOSITORY}  {COMMIT}  new, for `adapter` and `scores`")), "{told}");
    let written = sandbox.read("pipeline.lock");
    assert!(written.contains(&format!("repository = \"{REPOSITORY}\"\nrevision = \"main\"\ncommit = \"{COMMIT}\"\n")), "{written}");
    // Planning reads it and asks nobody, and the commit is a setting like any other.
    run(&sandbox, NOBODY, &["plan", "--locked"]).exits(0);
    assert!(base_of(&sandbox, "scores", &[]).contains(&format!("{REPOSITORY}@{COMMIT}")));
    assert!(!base_of(&sandbox, "adapter", &[]).contains("voxpipe lock"));

    // The branch moves: nothing changes, and nobody is asked, until somebody says so.
    hub.move_to(LATER);
    let asked = hub.asked().len();
    let told = run(&sandbox, &hub.address, &["lock"]).exits(0).stdout;
    assert!(told.contains("  unchanged, for ") && told.contains("` is unchanged"), "{told}");
    assert_eq!((sandbox.read("pipeline.lock"), hub.asked().len()), (written.clone(), asked));
    run(&sandbox, &hub.address, &["lock", "--update", "acme/tiny-voxtrla"]).exits(2).complains("did you mean `acme/tiny-voxtral`?");
    for name in ["adapter", REPOSITORY, "all"] {
        fs::write(sandbox.path("pipeline.lock"), &written).unwrap();
        let told = run(&sandbox, &hub.address, &["lock", "--update", name, "--json"]).exits(0).json();
        assert_eq!((&told["pins"][0]["commit"], &told["changed"]), (&LATER.into(), &true.into()), "{name}");
    }
    assert!(base_of(&sandbox, "scores", &["--locked"]).contains(LATER));

    // What the file pins itself needs no lock, and what this pipeline does not name stays unless it is pruned.
    let pinned = format!("base={REPOSITORY}@{COMMIT}");
    run(&sandbox, NOBODY, &["plan", "--locked", "--set", &pinned]).exits(0);
    assert!(base_of(&sandbox, "scores", &["--set", &pinned]).contains(COMMIT));
    run(&sandbox, NOBODY, &["lock", "--set", &pinned]).exits(0);
    assert!(sandbox.read("pipeline.lock").contains(LATER));
    let told = run(&sandbox, NOBODY, &["lock", "--set", &pinned, "--prune"]).exits(0).stdout;
    assert!(told.contains("acme/tiny-voxtral@main  removed"), "{told}");
    assert!(!sandbox.read("pipeline.lock").contains(REPOSITORY));
}

#[test]
fn a_folder_needs_no_lock_and_a_damaged_lock_is_refused() {
    let sandbox = project();
    fs::create_dir_all(sandbox.path(REPOSITORY)).unwrap();
    run(&sandbox, NOBODY, &["plan", "--locked"]).exits(0);
    run(&sandbox, NOBODY, &["lock"]).exits(0);
    assert!(!sandbox.path("pipeline.lock").exists());
    sandbox.file("pipeline.lock", "version = 1\n[[hub]]\nrepository = \"a/b\"\nrevision = \"main\"\ncommit = \"main\"\n");
    for command in ["plan", "check", "run", "lock"] {
        run(&sandbox, NOBODY, &[command]).exits(2).complains("pipeline.lock:2:1: `main` is not a commit");
    }
    sandbox.file("pipeline.lock", "version = 2\n");
    run(&sandbox, NOBODY, &["plan"]).exits(2).complains("use a newer voxpipe");
}
