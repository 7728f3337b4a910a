//! Models by the name of a repository: downloaded from a Hub on this machine, kept as other tools keep them, and nothing half taken
//! for whole.

mod locking;
mod official;
pub(crate) mod peer;
mod server;

use crate::support::{Ran, Sandbox, files, skipped};
use server::{COMMIT, Fault, REPOSITORY, Server, What, etag};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TOKEN: &str = "hf_thisIsASecretThatNobodyShouldEverSee";
const CACHE: &str = "hf/hub/models--acme--tiny-voxtral";

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn clip() -> String {
    repository("tests/audio/speech.wav").to_str().unwrap().to_owned()
}

/// The tiny model among things that are not to be downloaded.
fn served() -> BTreeMap<String, Vec<u8>> {
    let mut served = files(&repository("tests/voxtral/tiny"));
    for other in ["README.md", "consolidated.safetensors", "params.json", "onnx/model.safetensors", "pytorch_model.bin"] {
        served.insert(other.to_owned(), b"not for us".to_vec());
    }
    served
}

/// Transcribes two tokens with the repository's model.
fn transcribe(sandbox: &Sandbox, address: &str, more: &[&str]) -> Ran {
    let clip = clip();
    let mut command = sandbox.command(&["transcribe", &clip, "--model", REPOSITORY, "--max-new-tokens", "2", "--json"]);
    command.args(more).env("HF_ENDPOINT", address).env("HF_HOME", sandbox.path("hf"));
    Ran::of(command.output().unwrap())
}

fn with_token(sandbox: &Sandbox, address: &str) -> Ran {
    let clip = clip();
    let mut command = sandbox.command(&["transcribe", &clip, "--model", REPOSITORY, "--max-new-tokens", "2", "--json"]);
    command.env("HF_ENDPOINT", address).env("HF_HOME", sandbox.path("hf")).env("HF_TOKEN", TOKEN);
    Ran::of(command.output().unwrap())
}

/// An address where nobody listens.
const NOBODY: &str = "http://127.0.0.1:9";

#[test]
fn a_repository_is_downloaded_once_and_the_token_stays_with_the_hub() {
    let sandbox = Sandbox::new();
    let hub = Server::start(served(), &[]);
    let ran = with_token(&sandbox, &hub.address).exits(0).complains("downloading acme/tiny-voxtral");
    let folder = repository("tests/voxtral/tiny");
    let local = sandbox.run(&["transcribe", &clip(), "--model", folder.to_str().unwrap(), "--max-new-tokens", "2", "--json"]).exits(0);
    assert_eq!(ran.stdout, local.stdout);
    assert!(!format!("{}{}", ran.stdout, ran.stderr).contains(TOKEN));

    // Only what is read came, under the names that other tools look for.
    let snapshot = sandbox.path(CACHE).join("snapshots").join(COMMIT);
    let kept: Vec<String> = files(&snapshot).into_keys().collect();
    assert_eq!(kept, files(&folder).into_keys().collect::<Vec<_>>());
    assert_eq!(sandbox.read(&format!("{CACHE}/refs/main")), COMMIT);
    for (name, bytes) in files(&folder) {
        assert!(fs::read_link(snapshot.join(&name)).unwrap().ends_with(etag(&name, &bytes)), "{name} leads to no blob of its name");
        assert!(fs::read(snapshot.join(&name)).unwrap() == bytes, "{name}");
    }
    let (asked, fetched) = (hub.asked(), hub.fetched());
    assert!(asked.iter().all(|seen| seen.authorization.as_deref() == Some(&format!("Bearer {TOKEN}"))), "{asked:?}");
    assert!(fetched.len() == 1 && fetched[0].authorization.is_none(), "the token went elsewhere: {fetched:?}");
    let all: String = asked.iter().map(|seen| format!("{} {}\n", seen.method, seen.path)).collect();
    assert!(!["README", "consolidated", "params.json", "onnx", "bin"].iter().any(|other| all.contains(other)), "{all}");

    // From now on nobody is asked: by branch, by commit, and when the network is forbidden.
    for more in [&[][..], &["--revision", COMMIT], &["--offline"]] {
        assert_eq!(transcribe(&sandbox, NOBODY, more).exits(0).stdout, local.stdout);
    }
    let pinned = format!("{REPOSITORY}@{COMMIT}");
    let ran =
        sandbox.command(&["transcribe", &clip(), "--model", &pinned, "--offline"]).env("HF_HUB_CACHE", sandbox.path("hf/hub")).output();
    Ran::of(ran.unwrap()).exits(0);
    assert_eq!(hub.asked().len(), asked.len());
}

#[test]
fn a_download_that_breaks_off_is_tried_again_and_never_taken_for_whole() {
    let sandbox = Sandbox::new();
    let cut = |times| Fault { path: "/store/model.safetensors", times, what: What::Cut };
    let hub = Server::start(served(), &[cut(1)]);
    transcribe(&sandbox, &hub.address, &[]).exits(0);

    let sandbox = Sandbox::new();
    hub.break_with(cut(usize::MAX));
    transcribe(&sandbox, &hub.address, &[])
        .exits(4)
        .complains("cannot read model.safetensors of `acme/tiny-voxtral`: the connection was lost");
    assert!(!sandbox.path(CACHE).join("refs/main").exists());
    transcribe(&sandbox, &hub.address, &["--offline"]).exits(4).complains("is not in the cache");
    transcribe(&sandbox, &hub.address, &["--offline", "--revision", COMMIT]).exits(4).complains("missing: model.safetensors");

    // An error page instead of the file is no file either; and what came before is not asked for again.
    hub.mend();
    hub.break_with(Fault { path: "/store/model.safetensors", times: usize::MAX, what: What::Status(403, "") });
    let before = hub.asked().len();
    transcribe(&sandbox, &hub.address, &[]).exits(4).complains("of 659680 bytes arrived");
    assert!(!hub.asked()[before..].iter().any(|seen| seen.path.contains("resolve") && seen.path.ends_with("tekken.json")));
    transcribe(&sandbox, &hub.address, &["--offline", "--revision", COMMIT]).exits(4).complains("missing: model.safetensors");
    hub.mend();
    transcribe(&sandbox, &hub.address, &[]).exits(0);
}

#[test]
fn what_the_hub_refuses_is_said_with_what_to_do() {
    let sandbox = Sandbox::new();
    let hub = Server::start(served(), &[]);
    let refuse = |status, code| {
        hub.mend();
        hub.break_with(Fault { path: "/api/models", times: usize::MAX, what: What::Status(status, code) });
    };
    refuse(401, "RepoNotFound");
    transcribe(&sandbox, &hub.address, &[]).exits(4).complains("it is private or gated, or it does not exist").complains("HF_TOKEN");
    with_token(&sandbox, &hub.address).exits(4).complains("does not accept the token");
    refuse(403, "GatedRepo");
    let gated = with_token(&sandbox, &hub.address).exits(4).complains("gated").complains("accept its conditions");
    assert!(!gated.stderr.contains(TOKEN));
    refuse(404, "RepoNotFound");
    transcribe(&sandbox, &hub.address, &[]).exits(2).complains("`acme/tiny-voxtral` is neither a folder nor a Hub repository");
    hub.mend();
    transcribe(&sandbox, &hub.address, &["--revision", "nonesuch"]).exits(2).complains("with the revision `nonesuch`");
    transcribe(&sandbox, &hub.address, &["--revision", "../main"]).exits(2).complains("cannot be a revision");
    transcribe(&sandbox, "no address", &[]).exits(4).complains("HF_ENDPOINT");
    transcribe(&sandbox, NOBODY, &[]).exits(4).complains("`http://127.0.0.1:9` cannot be reached");

    // Forbidden by either name, nobody is asked, and what is missing is named.
    let before = hub.asked().len();
    transcribe(&sandbox, &hub.address, &["--offline"]).exits(4).complains("`acme/tiny-voxtral` is not in the cache");
    let told = sandbox
        .command(&["transcribe", &clip(), "--model", REPOSITORY])
        .env("HF_ENDPOINT", &hub.address)
        .env("HF_HUB_OFFLINE", "1")
        .output();
    Ran::of(told.unwrap()).exits(4).complains("(missing: all files)");
    assert_eq!(hub.asked().len(), before);

    // A repository of something else is told from a model before anything of it is downloaded.
    let other = Server::start(BTreeMap::from([("config.json".to_owned(), b"{}".to_vec())]), &[]);
    transcribe(&sandbox, &other.address, &[]).exits(2).complains("it has no tekken.json");
    assert!(other.asked().iter().all(|seen| !seen.path.contains("resolve")));
}

#[test]
fn a_cache_that_others_filled_is_used_as_it_is() {
    let sandbox = Sandbox::new();
    let home = sandbox.path(CACHE);
    let snapshot = home.join("snapshots").join(COMMIT);
    for folder in [home.join("refs"), home.join("blobs"), snapshot.clone()] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(home.join("refs/main"), COMMIT).unwrap();
    for (name, bytes) in files(&repository("tests/voxtral/tiny")) {
        let blob = etag(&name, &bytes);
        fs::write(home.join("blobs").join(&blob), bytes).unwrap();
        std::os::unix::fs::symlink(Path::new("../../blobs").join(&blob), snapshot.join(&name)).unwrap();
    }
    transcribe(&sandbox, NOBODY, &["--offline"]).exits(0);
    // A link that leads nowhere is not there.
    fs::remove_file(fs::canonicalize(snapshot.join("tekken.json")).unwrap()).unwrap();
    transcribe(&sandbox, NOBODY, &["--offline"]).exits(4).complains("missing: tekken.json");
}

#[test]
fn the_official_client_finds_what_we_downloaded_and_we_what_it_did() {
    let what = "the cache shared with the official client";
    let python = std::env::var("VOXPIPE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = "import sys, huggingface_hub as h\nprint(h.snapshot_download(sys.argv[1], local_files_only=sys.argv[2] == 'local'))";
    let snapshot = |sandbox: &Sandbox, address: &str, how: &str| {
        let mut command = Command::new(&python);
        command.args(["-c", script, REPOSITORY, how]).env("HF_ENDPOINT", address).env("HF_HOME", sandbox.path("hf"));
        let ran = command.env("HF_HUB_DISABLE_XET", "1").env("HF_HUB_DISABLE_TELEMETRY", "1").env_remove("HF_TOKEN").output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        PathBuf::from(String::from_utf8(ran.stdout).unwrap().trim())
    };
    if !Command::new(&python).args(["-c", "import huggingface_hub"]).output().is_ok_and(|ran| ran.status.success()) {
        return skipped(what, "no Python with the huggingface_hub package was found (name one in VOXPIPE_TEST_PYTHON)");
    }
    let hub = Server::start(served(), &[]);
    let ours = Sandbox::new();
    let heard = transcribe(&ours, &hub.address, &[]).exits(0).stdout;
    let found = snapshot(&ours, NOBODY, "local");
    assert!(files(&found).keys().eq(files(&repository("tests/voxtral/tiny")).keys()), "{found:?}");

    let theirs = Sandbox::new();
    let found = snapshot(&theirs, &hub.address, "download");
    assert!(files(&found).contains_key("README.md"));
    assert_eq!(transcribe(&theirs, NOBODY, &["--offline"]).exits(0).stdout, heard);
}

#[test]
fn a_base_model_may_be_a_repository() {
    let sandbox = Sandbox::new();
    let hub = Server::start(served(), &[]);
    sandbox.pipeline(&format!(
        "schema = 1\n[pipeline]\nname = \"fetched\"\n\
         [stage.uploads]\nuses = \"uploads\"\nwith = {{ audio = \"clips\", transcripts = \"clips.csv\" }}\n\
         [stage.dataset]\nuses = \"dataset\"\nfrom = {{ clips = \"uploads\" }}\nwith = {{ split = {{ train = 0.5, test = 0.5 }} }}\n\
         [stage.adapter]\nuses = \"train\"\nfrom = {{ data = \"dataset\" }}\nwith = {{ base = \"{REPOSITORY}\", epochs = 1 }}\n\
         [stage.scores]\nuses = \"evaluate\"\nfrom = {{ model = \"adapter\", data = \"dataset\" }}\nwith = {{ max_new_tokens = 2 }}\n"
    ));
    let table = fs::read_to_string(repository("datasets/first-run/transcripts.csv")).unwrap();
    let rows: Vec<&str> = table.lines().take(7).collect();
    sandbox.file("clips.csv", &(rows.join("\n") + "\n"));
    fs::create_dir_all(sandbox.path("clips")).unwrap();
    for row in &rows[1..] {
        let name = row.split(',').next().unwrap();
        fs::copy(repository("datasets/first-run/clips").join(name), sandbox.path("clips").join(name)).unwrap();
    }
    let run = |address: &str, args: &[&str]| {
        let mut command = sandbox.command(args);
        Ran::of(command.env("HF_ENDPOINT", address).env("HF_HOME", sandbox.path("hf")).output().unwrap())
    };
    // Planning asks nobody.
    run(&hub.address, &["plan"]).exits(0);
    run(&hub.address, &["check"]).exits(0).complains("from the Hub (no folder has that name)");
    assert!(hub.asked().is_empty());
    run(&hub.address, &["run"]).exits(0).complains(COMMIT);
    let training: serde_json::Value = serde_json::from_str(&sandbox.read(".voxpipe/latest/fetched/adapter/training.json")).unwrap();
    assert_eq!((&training["base"]["name"], &training["base"]["revision"]), (&REPOSITORY.into(), &COMMIT.into()));
    let config: serde_json::Value = serde_json::from_str(&sandbox.read(".voxpipe/latest/fetched/adapter/adapter_config.json")).unwrap();
    assert_eq!(config["base_model_name_or_path"], REPOSITORY);
    // The second time nothing runs; the base is scored from the cache, by its commit.
    let again = run(NOBODY, &["run", "--json"]).exits(0).json();
    assert!(again["stages"].as_array().unwrap().iter().all(|stage| stage[1]["result"] == "fresh"), "{again}");
    run(NOBODY, &["run", "--force", "scores"]).exits(0);

    // The adapter finds its base by the name it carries.
    let adapter = sandbox.path(".voxpipe/latest/fetched/adapter");
    run(NOBODY, &["transcribe", &clip(), "--model", adapter.to_str().unwrap(), "--max-new-tokens", "2", "--offline"]).exits(0);
    // A commit is part of what a result depends on; a revision without a repository is a mistake of the file.
    let pinned = format!("stage.adapter.with.revision={COMMIT}");
    assert!(run(NOBODY, &["plan", "--set", &pinned]).exits(0).stdout.contains("`revision`"));
    let folder = "stage.adapter.with.base=models/tiny/here";
    run(NOBODY, &["check", "--set", &pinned, "--set", folder]).exits(2).complains("`revision` needs a `base` that is a Hub repository");
}
