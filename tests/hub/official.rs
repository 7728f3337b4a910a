//! The official Python client reads from and writes to our test hub: what it accepts, ours may rely on.

use super::peer::{Content, Hub, READ, WRITE, sha256};
use crate::support::{python, skipped};
use std::process::Command;

const SCRIPT: &str = r#"
import hashlib, os, pathlib, sys
import huggingface_hub as h
from huggingface_hub import HfApi, CommitOperationAdd, errors
root, write, read = pathlib.Path(sys.argv[1]), os.environ["W"], os.environ["R"]
end = os.environ["HF_ENDPOINT"]
api = HfApi(endpoint=end, token=write)
up = root / "up"; (up / "audio").mkdir(parents=True)
(up / "README.md").write_text("---\nlicense: apache-2.0\n---\n# x\n"); (up / "config.json").write_text("{}"); (up / "empty.txt").write_text("")
(up / "model.safetensors").write_bytes(bytes(range(256)) * 10000)
for i in range(5): (up / "audio" / f"r {i} é#.wav").write_bytes(bytes([i]) * 5000)
assert api.whoami()["name"] == "alice"
def status(what):
    try: what()
    except errors.HfHubHTTPError as e: return e.response.status_code
for t in ("model", "dataset", "space"):
    more = {"space_sdk": "static"} if t == "space" else {}
    api.create_repo("alice/r", repo_type=t, exist_ok=True, **more); api.create_repo("alice/r", repo_type=t, exist_ok=True, **more)
    assert status(lambda: api.create_repo("alice/r", repo_type=t, **more)) == 409
for t in ("model", "dataset"):
    a = api.upload_folder(folder_path=up, repo_id="alice/r", repo_type=t, commit_message="up")
    b = api.upload_folder(folder_path=up, repo_id="alice/r", repo_type=t, commit_message="again")
    assert a.oid == b.oid
    want = {str(f.relative_to(up)): f.read_bytes() for f in up.rglob("*") if f.is_file()}
    assert set(api.list_repo_files("alice/r", repo_type=t)) == set(want)
    p = pathlib.Path(h.snapshot_download("alice/r", repo_type=t, endpoint=end, token=write, local_dir=root / t))
    for name, bytes_ in want.items(): assert (p / name).read_bytes() == bytes_, name
info = {i.path: i for i in api.get_paths_info("alice/r", ["model.safetensors", "audio"])}
assert info["model.safetensors"].lfs.sha256 == hashlib.sha256((up / "model.safetensors").read_bytes()).hexdigest()
api.create_branch("alice/r", branch="dev"); api.create_tag("alice/r", tag="v1")
assert sorted(b.name for b in api.list_repo_refs("alice/r").branches) == ["dev", "main"]
assert status(lambda: api.create_commit("alice/r", [CommitOperationAdd("y.txt", b"hi")], commit_message="x", parent_commit="0" * 40)) == 412
assert status(lambda: HfApi(endpoint=end, token=read).create_repo("alice/zz")) == 403
assert status(lambda: HfApi(endpoint=end, token="nope").whoami()) == 401
for repo, file, kind in (("alice/none", "config.json", errors.RepositoryNotFoundError), ("alice/r", "none.json", errors.EntryNotFoundError)):
    try: api.hf_hub_download(repo, file); assert False
    except kind: pass
s = "alice/r"
api.upload_folder(folder_path=up, repo_id=s, repo_type="space", allow_patterns=["config.json"])
api.add_space_variable(s, "HF_MODEL_ID", "alice/r"); api.add_space_secret(s, "HF_TOKEN", "x")
assert list(api.get_space_variables(s)) == ["HF_MODEL_ID"]
api.get_space_runtime(s); assert api.get_space_runtime(s).stage == "RUNNING"
assert status(lambda: api.request_space_hardware(s, "t4-small")) == 402
api.restart_space(s); api.pause_space(s)
api.delete_repo("alice/r", repo_type="dataset")
"#;

#[test]
fn the_official_client_takes_the_test_hub_for_a_hub() {
    let Some(python) = python("huggingface_hub") else {
        return skipped("the test hub and the official client", "no Python with the huggingface_hub package was found");
    };
    let hub = Hub::start();
    hub.part_size(1 << 20);
    hub.page_size(3);
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT]).arg(folder.path()).env("HF_ENDPOINT", &hub.address).env("HF_HOME", folder.path().join("home"));
    command.env("W", WRITE).env("R", READ).env("HF_HUB_DISABLE_XET", "1").env("HF_HUB_DISABLE_TELEMETRY", "1").env_remove("HF_TOKEN");
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(hub.has("model", "alice/r") && !hub.has("dataset", "alice/r"));
    assert_eq!(hub.commits("model", "alice/r").len(), 2);
    let seen = hub.seen();
    assert!(seen.iter().filter(|seen| !seen.hub).all(|seen| seen.authorization.is_none()));
    assert!(seen.iter().any(|seen| seen.path.contains("/part/")) && seen.iter().any(|seen| seen.query.contains("cursor=3")));
}

#[test]
fn a_range_of_a_file_nobody_could_keep_is_read_without_the_rest() {
    let hub = Hub::start();
    let line = b"{\"text\":\"seven\"}\n";
    let content = Content::made(5 << 30, move |range| range.map(|at| line[(at % line.len() as u64) as usize]).collect());
    let commit = hub.put("dataset", "nvidia/Granary", [("de/yodas/de_asr.jsonl", content)]);
    let url = format!("{}/datasets/nvidia/Granary/resolve/{commit}/de/yodas/de_asr.jsonl", hub.address);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let body = runtime.block_on(async {
        let answer = reqwest::Client::new().get(url).header("Range", "bytes=17-33").send().await.unwrap();
        assert_eq!(answer.status(), 206);
        answer.bytes().await.unwrap()
    });
    assert_eq!(&body[..], line);
    assert_eq!(hub.seen().iter().map(|seen| seen.sent).sum::<usize>(), line.len());
    assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}
