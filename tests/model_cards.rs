//! Published datasets and models, as read by the tools of the Hub.

use crate::end_to_end::project;
use crate::support::{Sandbox, files, python, skipped};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const DATASET: &str = r#"
[stage.data-hub]
uses = "publish"
from = { dataset = "dataset" }
with = { target = "published/data", title = "Road", license = "cc-by-4.0", consent = "Given in writing.", author = "A. Voice" }
"#;

/// A project that only publishes its dataset.
fn curated() -> Sandbox {
    let sandbox = project();
    let text = sandbox.read("pipeline.toml");
    let until = text.find("[stage.adapter]").unwrap();
    sandbox.pipeline(&format!("{}{DATASET}", &text[..until]));
    sandbox
}

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs a Python script with the packages it needs; prints a SKIPPED line and returns `None` if they are missing.
fn peer(packages: &str, script: &str, arguments: &[&Path], what: &str) -> Option<String> {
    let Some(python) = python(packages) else {
        skipped(what, &format!("no Python with {packages}"));
        return None;
    };
    let home = tempfile::tempdir().unwrap();
    let ran =
        Command::new(python).args(["-c", script]).args(arguments).env("HF_HUB_OFFLINE", "1").env("HF_HOME", home.path()).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    Some(String::from_utf8(ran.stdout).unwrap())
}

#[test]
fn a_dataset_is_laid_out_with_texts_and_splits() {
    let sandbox = curated();
    sandbox.run(&["run"]).exits(0);
    let published = sandbox.path("published/data");
    let there = files(&published);
    let all = rows(&sandbox.read("published/data/data.jsonl"));
    assert_eq!(all.len(), 20);
    let names: BTreeSet<&str> = all.iter().map(|row| row["audio_path"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 20);
    for row in &all {
        let name = row["audio_path"].as_str().unwrap();
        let digest = blake3::hash(&there[name]).to_hex().to_string();
        assert_eq!(name, format!("data/{}/{}.wav", row["split"].as_str().unwrap(), &digest[..32]));
        assert!(!row["text"].as_str().unwrap().is_empty());
    }
    let mut split_rows = 0;
    for split in ["train", "test"] {
        for row in rows(&sandbox.read(&format!("published/data/data/{split}/metadata.jsonl"))) {
            let whole = format!("data/{split}/{}", row["file_name"].as_str().unwrap());
            let same = all.iter().find(|other| other["audio_path"] == whole.as_str()).unwrap();
            assert_eq!((&row["text"], &row["language"]), (&same["text"], &same["language"]));
            split_rows += 1;
        }
    }
    assert_eq!(split_rows, 20);
    let card = sandbox.read("published/data/README.md");
    for text in ["license: \"cc-by-4.0\"", "path: data/train/**", "n<1K", "Given in writing.", "A. Voice", "no sentence is in two splits"] {
        assert!(card.contains(text), "no {text} in\n{card}");
    }
    // Published files contain no local paths.
    let root = sandbox.root().display().to_string();
    for (name, bytes) in &there {
        assert!(!String::from_utf8_lossy(bytes).contains(&root), "{name} names a folder of this machine");
    }
    // A second run has nothing to do; a forced one gives identical bytes.
    sandbox.run(&["run", "--force", "data-hub"]).exits(0);
    assert_eq!(files(&published), there);
}

#[test]
fn parquet_files_hold_the_same_rows_with_their_sounds() {
    let sandbox = curated();
    let text = sandbox.read("pipeline.toml").replace("author = \"A. Voice\"", "author = \"A. Voice\", parquet = true");
    sandbox.pipeline(&text).run(&["run"]).exits(0);
    let names: Vec<String> = files(&sandbox.path("published/data/parquet")).into_keys().collect();
    assert_eq!(names, ["test-00000-of-00001.parquet", "train-00000-of-00001.parquet"]);
    let card = sandbox.read("published/data/README.md");
    assert!(card.contains("path: parquet/train-*.parquet"), "{card}");
    // The `import` stage reads the published files.
    let import = |files: &str| {
        format!(
            "schema = 1\n[pipeline]\nname = \"again\"\n[stage.in]\nuses = \"import\"\nwith = {{ folder = \"published/data\", files = \"{files}\", language = \"en\" }}\n"
        )
    };
    let read = |pattern: &str| -> BTreeSet<(String, String)> {
        sandbox.file("again.toml", &import(pattern)).run(&["run", "again.toml"]).exits(0);
        let rows = rows(&sandbox.read(".voxpipe/latest/again/in/clips.jsonl"));
        let sound = |row: &Value| {
            blake3::hash(&fs::read(sandbox.path(".voxpipe/latest/again/in").join(row["audio_path"].as_str().unwrap())).unwrap())
                .to_hex()
                .to_string()
        };
        rows.iter().map(|row| (row["text"].as_str().unwrap().to_owned(), sound(row))).collect()
    };
    let inside = read("parquet/*.parquet");
    assert_eq!(inside.len(), 20);
    assert_eq!(inside, read("data/*/metadata.jsonl"));
    sandbox.pipeline(&text.replace("from = { dataset = \"dataset\" }", "from = { model = \"dataset\" }")).run(&["check"]).exits(2);
}

#[test]
fn what_travels_are_the_settings_before_and_not_the_text() {
    let sandbox = curated();
    let ran = || -> Vec<String> {
        let report = sandbox.run(&["run", "--json"]).exits(0).json();
        let done = report["stages"].as_array().unwrap().iter().filter(|stage| stage[1]["result"] == "done");
        done.map(|stage| stage[0].as_str().unwrap().to_owned()).collect()
    };
    ran();
    let text = sandbox.read("pipeline.toml");
    sandbox.pipeline(&format!("# A comment.\n{text}"));
    assert_eq!(ran(), Vec::<String>::new());
    // A setting that changes no clip still changes the published provenance.
    sandbox.pipeline(&text.replace("split = { train = 0.8, test = 0.2 }", "min_seconds = 0.21, split = { train = 0.8, test = 0.2 }"));
    assert_eq!(ran(), ["dataset", "data-hub"]);
    let provenance: Value = serde_json::from_str(&sandbox.read("published/data/provenance.json")).unwrap();
    assert_eq!(provenance["stages"]["dataset"]["with"]["min_seconds"], 0.21);
    assert_eq!(provenance["voxpipe"], env!("CARGO_PKG_VERSION"));

    // The published pipeline file runs and gives the same clips.
    let before = sandbox.read("published/data/data.jsonl");
    sandbox.pipeline(&format!("{}{DATASET}", sandbox.read("published/data/pipeline.toml")).replace("published/data", "published/again"));
    sandbox.run(&["run"]).exits(0);
    assert_eq!(sandbox.read("published/again/data.jsonl"), before);
}

#[test]
fn what_is_published_has_to_fit_together() {
    let sandbox = curated();
    let text = sandbox.read("pipeline.toml");
    let with = |from: &str, to: &str| sandbox.pipeline(&text.replace(from, to)).run(&["check"]);
    with("from = { dataset = \"dataset\" }", "from = { card = \"dataset\" }").exits(2).complains("has nothing to publish");
    with("license = \"cc-by-4.0\"", "license = \"CC BY\"").exits(2).complains("is not a Hub license identifier");
    with("license = \"cc-by-4.0\", ", "").exits(0).complains("without a license");
    with("title = \"Road\", license = \"cc-by-4.0\", ", "").exits(0);
    sandbox.run(&["run"]).exits(0);
    assert!(sandbox.read("published/data/README.md").contains("No licence was given"));
}

#[test]
fn the_dataset_is_read_by_datasets() {
    let sandbox = curated();
    sandbox.run(&["run"]).exits(0);
    let script = "import sys, json, datasets\n\
                  found = datasets.load_dataset(sys.argv[1], cache_dir=sys.argv[2])\n\
                  print(json.dumps({split: [[row['text'], row['language'], int(row['audio'].get_all_samples().sample_rate)] for row in rows] for split, rows in found.items()}))";
    let arguments = [&*sandbox.path("published/data"), &*sandbox.path("cache")];
    let Some(said) = peer("datasets,torchcodec", script, &arguments, "load_dataset of a published dataset") else { return };
    let found: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let read: BTreeSet<&str> =
        ["train", "test"].iter().flat_map(|split| found[split].as_array().unwrap()).map(|row| row[0].as_str().unwrap()).collect();
    let published = rows(&sandbox.read("published/data/data.jsonl"));
    assert_eq!(read, published.iter().map(|row| row["text"].as_str().unwrap()).collect());
    assert_eq!(found["train"][0][2], 16_000);
}

#[test]
fn cards_and_adapters_are_read_by_the_tools_of_the_hub() {
    let sandbox = project();
    let text = sandbox.read("pipeline.toml");
    sandbox.pipeline(&format!("{text}{DATASET}").replace(
        "from = { model = \"adapter\", scores = \"scores\", data = \"dataset\" }",
        "from = { model = \"adapter\", scores = \"scores\", data = \"dataset\" }\n\
         with = { title = \"Road: a 'test'\", license = \"apache-2.0\", base_model = \"mistralai/Voxtral-Mini-3B-2507\", datasets = [\"me/road\"] }",
    ));
    sandbox.run(&["run"]).exits(0);
    for name in ["provenance.json", "pipeline.toml", "tekken.json", "preprocessor_config.json"] {
        assert!(sandbox.path("published/road").join(name).is_file(), "{name}");
    }
    let script = "import sys, json\n\
                  from huggingface_hub import ModelCard, DatasetCard\n\
                  card = ModelCard(open(sys.argv[1]).read(), ignore_metadata_errors=False)\n\
                  again = ModelCard(str(card), ignore_metadata_errors=False)\n\
                  assert again.data.to_dict() == card.data.to_dict()\n\
                  data = DatasetCard(open(sys.argv[2]).read(), ignore_metadata_errors=False).data.to_dict()\n\
                  print(json.dumps([card.data.to_dict(), data], default=str))";
    let cards = [&*sandbox.path("published/road/README.md"), &*sandbox.path("published/data/README.md")];
    if let Some(said) = peer("huggingface_hub", script, &cards, "cards read by huggingface_hub") {
        let said: Value = serde_json::from_str(&said).unwrap();
        let (model, data) = (&said[0], &said[1]);
        assert_eq!((&model["base_model_relation"], &model["datasets"][0]), (&"adapter".into(), &"me/road".into()));
        assert_eq!(model["pipeline_tag"], "automatic-speech-recognition");
        let metrics = model["model-index"].to_string();
        assert!(metrics.contains("of the base") && metrics.contains("\"wer\""), "{metrics}");
        assert_eq!((&data["license"], &data["size_categories"][0]), (&"cc-by-4.0".into(), &"n<1K".into()));
        assert_eq!(data["configs"][0]["data_files"].as_array().unwrap().len(), 2);
    }
    // The code snippet of the card, except for the base model, which is a tiny one here.
    let card = sandbox.read("published/road/README.md");
    let snippet = card.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    let packages = "transformers,peft,accelerate,mistral_common,soundfile";
    let Some(wide) = wide_base(&sandbox, packages, "the snippet of a model card") else { return };
    let snippet = snippet
        .replace("base = \"mistralai/Voxtral-Mini-3B-2507\"", &format!("base = {:?}", wide.display().to_string()))
        .replace("folder = \".\"", &format!("folder = {:?}", sandbox.path("published/road").display().to_string()))
        .replace("\"recording.wav\"", &format!("{:?}", speech().display().to_string()));
    let said = peer(packages, &snippet, &[], "the snippet of a model card").unwrap();
    assert!(said.ends_with('\n'), "it printed no line: {said:?}");
}

fn speech() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/audio/speech.wav")
}

/// The base model of [`project`] in a form that transformers can load.
fn wide_base(sandbox: &Sandbox, packages: &str, what: &str) -> Option<PathBuf> {
    let wide = sandbox.path("models/wide");
    peer(packages, include_str!("model_cards/wide_window.py"), &[&sandbox.path("models/tiny"), &wide], what)?;
    Some(wide)
}

/// Starts the published app and transcribes a clip through it, like a browser.
const VISIT: &str = r#"
import os, runpy, sys, threading
from pathlib import Path
app, clip = sys.argv[1:3]
sys.path.insert(0, str(Path(app).parent))
names = runpy.run_path(app)
demo = names["demo"]
_, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
from gradio_client import Client, handle_file
said = Client(address, verbose=False).predict(handle_file(clip), "en", api_name="/transcribe")
assert isinstance(said, str), said
print("WEIGHTS", names["WEIGHTS"])
print("SAID", repr(said))
sys.stdout.flush()
os._exit(0)
"#;

#[test]
fn the_gradio_app_transcribes_with_the_weights_it_names_or_does_not_start() {
    let what = "the gradio app of a demo";
    let packages = "gradio,gradio_client,transformers,peft,accelerate,mistral_common,soundfile";
    let sandbox = project();
    let text = sandbox.read("pipeline.toml").replace(
        "from = { published = \"hub\" }",
        "from = { published = \"hub\" }\nwith = { sdk = \"gradio\", target = \"published/demo\" }",
    );
    sandbox.pipeline(&text);
    let Some(wide) = wide_base(&sandbox, packages, what) else { return };
    sandbox.run(&["run"]).exits(0);
    let app = sandbox.path("published/demo/app.py");
    let visit = |model: &str| {
        let home = tempfile::tempdir().unwrap();
        let mut command = Command::new(python(packages).unwrap());
        command.args(["-c", VISIT]).arg(&app).arg(speech()).env("HF_HUB_OFFLINE", "1").env("HF_HOME", home.path());
        command.env("GRADIO_ANALYTICS_ENABLED", "False").env("GRADIO_TEMP_DIR", home.path()).env("MPLCONFIGDIR", home.path());
        command.env("HF_MODEL_ID", sandbox.path(model)).env("BASE_MODEL_ID", &wide).env_remove("HF_ENDPOINT").output().unwrap()
    };
    let ran = visit("published/road");
    let (said, wrong) = (String::from_utf8_lossy(&ran.stdout).into_owned(), String::from_utf8_lossy(&ran.stderr).into_owned());
    assert!(ran.status.success() && said.contains("SAID '"), "{said}\n{wrong}");
    assert!(said.contains("with the adapter") && said.contains("published/road") && said.contains("adapted layers"), "{said}");

    // An adapter without effect is refused.
    fs::create_dir_all(sandbox.path("published/none")).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(sandbox.path("published/road").join(name), sandbox.path("published/none").join(name)).unwrap();
    }
    let weights = sandbox.path("published/none/adapter_model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[header..].fill(0);
    fs::write(&weights, bytes).unwrap();
    let ran = visit("published/none");
    let wrong = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(!ran.status.success() && wrong.contains("changed nothing in"), "{wrong}");
}

#[test]
fn the_shipped_pipeline_of_a_dataset_runs() {
    let sandbox = Sandbox::new();
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["datasets/words", "pipelines"] {
        for (name, bytes) in files(&own.join(folder)).into_iter().filter(|(name, _)| !name.starts_with("models/")) {
            let path = sandbox.path(folder).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
    sandbox.run(&["run", "pipelines/dataset-only.toml"]).exits(0);
    assert_eq!(rows(&sandbox.read("published/dataset-only/data.jsonl")).len(), 175);
}

#[test]
fn a_space_says_what_it_needs() {
    let sandbox = project();
    let text = sandbox.read("pipeline.toml");
    let from = "from = { published = \"hub\" }";
    let gradio = format!("{from}\nwith = {{ sdk = \"gradio\", hardware = \"l4x1\", private = true, target = \"published/demo\" }}");
    sandbox
        .pipeline(&text.replace("target = \"published/road\"", "target = \"published/road\", repo = \"me/road\"").replace(from, &gradio));
    sandbox.run(&["run"]).exits(0);
    let space: Value = serde_json::from_str(&sandbox.read("published/demo/space.json")).unwrap();
    assert_eq!((&space["hardware"], &space["private"]), (&"l4x1".into(), &true.into()));
    assert_eq!((&space["variables"]["HF_MODEL_ID"], &space["variables"]["LANGUAGE"]), (&"me/road".into(), &"en".into()));
    assert!(sandbox.read("published/demo/README.md").contains("suggested_hardware: l4x1\n"));
    sandbox.pipeline(&text.replace(from, &format!("{from}\nwith = {{ hardware = \"l4x1\" }}")));
    sandbox.run(&["check"]).exits(2).complains("a static Space needs no hardware");
    let docker = format!("{from}\nwith = {{ sdk = \"docker\", target = \"published/docker\" }}");
    sandbox
        .pipeline(&text.replace("target = \"published/road\"", "target = \"published/road\", repo = \"me/road\"").replace(from, &docker));
    sandbox.run(&["run"]).exits(0);
    let recipe = sandbox.read("published/docker/Dockerfile");
    assert!(sandbox.read("published/docker/README.md").contains("sdk: docker\napp_port: 7860\n"));
    // Runs the program of the container with the arguments of the Dockerfile, except for the model path and a free port.
    let line = recipe.lines().find_map(|line| line.strip_prefix("CMD ")).unwrap();
    let mut arguments: Vec<String> = serde_json::from_str(line).unwrap();
    assert_eq!(arguments[arguments.len() - 1], "me/road");
    *arguments.last_mut().unwrap() = sandbox.path("published/road").display().to_string();
    arguments.extend(["--base".to_owned(), sandbox.path("models/tiny").display().to_string()]);
    let port = arguments.iter().position(|argument| argument == "7860").unwrap();
    arguments[port] = "0".to_owned();
    let program = sandbox.path("published/docker").join(&arguments[0]);
    // Like `COPY --chmod` in the Dockerfile.
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(program);
    command.args(&arguments[1..]).env("HF_HUB_OFFLINE", "1");
    let server = crate::studio::client::Server::of(command);
    let visitor = [("host", "me-road.hf.space"), ("origin", "https://me-road.hf.space")];
    assert_eq!(server.send("GET", "/v1/models", &visitor, b"").is(200)["data"][0]["id"], "road");
}
