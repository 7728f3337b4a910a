//! The whole way from one file: sentences out of Granary, recordings, a dataset and a model on the Hub, a Space; read there by the tools
//! that others use, and made again from what was published.

use super::*;
use crate::support::{Ran, Sandbox, files, python, skipped};
use serde_json::{Value, json};
use std::process::Command;

const DATA: &str = "alice/road-data";
const MODEL: &str = "alice/road";

/// The project of the road, with its sentences from Granary and its results on a Hub.
fn project(hub: &Hub) -> Sandbox {
    let sandbox = crate::end_to_end::project();
    // Granary's layout, with the sentences that were recorded among its rows.
    let rows = sandbox.read("speech/phrases.txt").lines().enumerate().fold(String::new(), |rows, (number, text)| {
        let row = json!({ "utt_id": format!("v-{number}"), "text": text, "duration": 3.0, "source_lang": "en", "original_source_id": format!("v-{number}") });
        format!("{rows}{row}\n")
    });
    hub.put("dataset", "nvidia/Granary", [("README.md", "---\nlicense: cc-by-4.0\n---\n"), ("en/voxpopuli/en_asr.jsonl", &*rows)]);
    let changed = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    };
    let mut text = sandbox.read("pipeline.toml");
    text = changed(
        &text,
        "source = \"file\", file = \"speech/phrases.txt\", count = 20",
        "source = \"granary\", count = 20, filters = { min_words = 1, min_chars = 3, min_seconds = 0.1 }",
    );
    text = changed(&text, "{ target = \"published/road\" }", "{ target = \"hub\", repo = \"road\" }");
    text = changed(
        &text,
        "data = \"dataset\" }\n[stage.hub]",
        "data = \"dataset\" }\nwith = { license = \"apache-2.0\", base_model = \"mistralai/Voxtral-Mini-3B-2507\", datasets = [\"alice/road-data\"] }\n[stage.hub]",
    );
    text = changed(
        &text,
        "from = { published = \"hub\" }",
        "from = { published = \"hub\", data = \"dataset\" }\nwith = { target = \"hub\" }\n\
         [stage.data]\nuses = \"publish\"\nfrom = { dataset = \"dataset\" }\n\
         with = { target = \"hub\", repo = \"road-data\", license = \"cc-by-4.0\", consent = \"Given.\", parquet = true }",
    );
    sandbox.pipeline(&text);
    sandbox
}

fn command(sandbox: &Sandbox, hub: &Hub, args: &[&str]) -> Command {
    let mut command = sandbox.command(args);
    command.env("HF_ENDPOINT", &hub.address).env("HF_HOME", sandbox.path("../home/hf")).env("HF_TOKEN", WRITE);
    command
}

#[test]
fn one_file_leads_from_granary_to_a_space_and_back() {
    let hub = Hub::start();
    let sandbox = project(&hub);
    let ran = Ran::of(command(&sandbox, &hub, &["run"]).output().unwrap()).exits(0);
    assert!(!format!("{}{}", ran.stdout, ran.stderr).contains(WRITE));
    for (kind, id) in [("dataset", DATA), ("model", MODEL), ("space", "alice/road-demo")] {
        assert_eq!(hub.commits(kind, id).len(), 2, "{id} is not one commit");
        let needle = WRITE.as_bytes();
        for (name, bytes) in hub.files(kind, id) {
            assert!(!bytes.windows(needle.len()).any(|window| window == needle), "the token is in {name} of {id}");
            assert!(!String::from_utf8_lossy(&bytes).contains(&sandbox.root().display().to_string()), "{name} of {id} names this machine");
        }
    }
    let page = hub.files("space", "alice/road-demo");
    let sounds: Vec<&String> = page.keys().filter(|name| name.starts_with("audio/")).collect();
    let html = String::from_utf8(page["index.html"].clone()).unwrap();
    assert!(!sounds.is_empty() && sounds.iter().all(|name| html.contains(&format!("src=\"{name}\""))), "{sounds:?}");

    read_by_python(&sandbox, &hub);

    // Somebody with the same recordings, and nothing else, gets the same bytes.
    let other = crate::end_to_end::project();
    fs::remove_file(other.path("pipeline.toml")).unwrap();
    let yes = Ran::of(command(&other, &hub, &["repro", &format!("hf://{MODEL}")]).output().unwrap()).exits(0);
    assert!(yes.stdout.contains("adapter  same") && yes.stdout.contains("yes: 2 results"), "{}", yes.stdout);
    fs::copy(other.path("speech/clips/conf-full.flac"), other.path("speech/clips/agent-pass.flac")).unwrap();
    let no = Ran::of(command(&other, &hub, &["repro", "--json", &format!("hf://{MODEL}")]).output().unwrap()).exits(13);
    assert_eq!(no.json()["same"], false);
    let yes = Ran::of(command(&sandbox, &hub, &["repro", &format!("hf://datasets/{DATA}")]).output().unwrap()).exits(0);
    assert!(yes.stdout.contains("yes: 1 result"), "{}", yes.stdout);
    fs::remove_dir_all(other.path("speech/clips")).unwrap();
    let gone = Ran::of(command(&other, &hub, &["repro", &format!("hf://{MODEL}")]).output().unwrap()).exits(2);
    gone.complains("stage `uploads` reads `speech/clips`, which is not in this folder");
    Ran::of(command(&other, &hub, &["repro", "hf://nvidia"]).output().unwrap()).exits(2).complains("is not a repository");
    Ran::of(command(&other, &hub, &["repro", "hf://datasets/nvidia/Granary"]).output().unwrap()).exits(2).complains("has no pipeline.toml");
}

/// What `snapshot_download`, `load_dataset`, `ModelCard` and `PeftModel` find.
const READ: &str = r#"
import json, os, sys
import huggingface_hub as h
from datasets import load_dataset
from peft import PeftModel
from transformers import VoxtralForConditionalGeneration
data, model, tiny, to = sys.argv[1:5]
h.snapshot_download(model, local_dir=to + "/model")
h.snapshot_download(data, repo_type="dataset", local_dir=to + "/data")
card = h.ModelCard.load(model)
card.validate()
h.DatasetCard.load(data).validate()
rows = load_dataset(data)
audio = rows["train"][0]["audio"].get_all_samples()
before = VoxtralForConditionalGeneration.from_pretrained(tiny)
tuned = PeftModel.from_pretrained(before, model)
moved = sum(float(weight.detach().abs().max()) > 0 for name, weight in tuned.named_parameters() if "lora_B" in name)
print(json.dumps({
    "rows": {split: [row["text"] for row in part] for split, part in rows.items()},
    "rate": audio.sample_rate, "seconds": audio.duration_seconds, "features": list(rows["train"].features),
    "base": card.data.base_model, "datasets": card.data.datasets, "moved": moved,
}))
"#;

fn read_by_python(sandbox: &Sandbox, hub: &Hub) {
    let packages = "huggingface_hub,datasets,torchcodec,transformers,peft";
    let Some(python) = python(packages) else {
        return skipped("what is published and the tools of the Hub", &format!("no Python with {packages}"));
    };
    let to = sandbox.path("../theirs");
    let mut command = Command::new(python);
    command.args(["-c", READ, DATA, MODEL]).arg(sandbox.path("models/tiny")).arg(&to).env("HF_ENDPOINT", &hub.address);
    command.env("HF_HOME", sandbox.path("../theirs-home")).env("HF_HUB_DISABLE_XET", "1").env("HF_HUB_DISABLE_TELEMETRY", "1");
    let ran = command.env_remove("HF_TOKEN").output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    for (kind, id, folder) in [("model", MODEL, "model"), ("dataset", DATA, "data")] {
        let mut theirs = files(&to.join(folder));
        theirs.retain(|path, _| !path.starts_with(".cache"));
        assert!(theirs == hub.files(kind, id), "{id} differs: {:?}", theirs.keys());
    }
    let said = String::from_utf8(ran.stdout).unwrap();
    let said: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let mut read: Vec<&str> =
        said["rows"].as_object().unwrap().values().flat_map(|rows| rows.as_array().unwrap()).map(|text| text.as_str().unwrap()).collect();
    let phrases = sandbox.read("speech/phrases.txt");
    let mut spoken: Vec<&str> = phrases.lines().collect();
    read.sort_unstable();
    spoken.sort_unstable();
    assert_eq!(read, spoken);
    assert!(said["rate"] == 16_000 && said["seconds"].as_f64().unwrap() > 0.2 && said["moved"].as_u64().unwrap() > 0, "{said}");
    assert_eq!((&said["base"], &said["datasets"]), (&json!("mistralai/Voxtral-Mini-3B-2507"), &json!(["alice/road-data"])));
}
