//! `card`, `publish` and `demo`: model cards, publication targets and demo pages.

use super::*;
use voxpipe::error::ErrorKind;
use voxpipe::stages::card::Card;
use voxpipe::stages::demo::Demo;
use voxpipe::stages::publish::Publish;

fn training(method: &str, hub: Option<&str>) -> Value {
    let mut base = json!({"name": "models/small", "init": if hub.is_some() { "checkpoint" } else { "random" }, "digest": "ab12"});
    if let Some(hub) = hub {
        base["hub"] = hub.into();
    }
    json!({
        "method": method, "base": base, "parameters": 1_234_567, "trainable_parameters": 65_536,
        "settings": {"learning_rate": 5e-5, "epochs": 3, "lora": {"r": 8, "dropout": null}, "base": "models/small"},
        "steps": 120, "epochs": 3.0, "examples": 45, "audio_seconds": 130.5, "first_loss": 6.125, "final_loss": 0.0421,
        "device": "cpu", "precision": "f32", "languages": ["en"], "seed": 99,
    })
}

/// A complete safetensors file with one tensor.
fn weights() -> Vec<u8> {
    let header = br#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    [&(header.len() as u64).to_le_bytes()[..], header, &[0; 8]].concat()
}

fn model(bench: &mut Bench, training: &Value) -> PathBuf {
    let folder = bench.folder.path().join("model");
    fs::create_dir_all(folder.join("checkpoint-50")).unwrap();
    let lora = training["method"] == "lora";
    let names = if lora { ["adapter_config.json", "adapter_model.safetensors"] } else { ["config.json", "model.safetensors"] };
    fs::write(folder.join(names[0]), "{}").unwrap();
    fs::write(folder.join(names[1]), weights()).unwrap();
    fs::write(folder.join("training.json"), training.to_string()).unwrap();
    fs::write(folder.join("loss.jsonl"), "{\"step\":1,\"loss\":6.1}\n").unwrap();
    fs::write(folder.join("checkpoint-50/optimizer.bin"), "x").unwrap();
    bench.give("model", artifact(ArtifactKind::Model, &folder));
    folder
}

fn scores(bench: &mut Bench) -> PathBuf {
    let folder = bench.folder.path().join("scores");
    fs::create_dir_all(&folder).unwrap();
    let row = |name: &str, reference: &str, tuned: &str, wer: f64| json!({"audio_path": format!("audio/{name}.wav"), "split": "test", "language": "en", "reference": reference, "base": "uh | <b>", "tuned": tuned, "wer": wer, "cer": wer});
    let rows = [
        row("a", "say *this* | now", "say \"that\" <i>", 1.0),
        row("b", "good morning", "good morning", 0.0),
        row("c", "fine", "fine", 0.0),
    ];
    let score = |wer: f64| json!({"wer": wer, "cer": wer / 2.0, "substitutions": 3, "insertions": 1, "deletions": 2});
    let mut train = score(0.01);
    train["clips"] = 45.into();
    let all = json!({
        "normalisation": "basic-1", "clips": 3, "words": 1500, "characters": 7000, "split": "test",
        "base": score(0.9876), "tuned": score(0.1234), "train": train, "worst": [rows[0]],
    });
    fs::write(folder.join("scores.json"), all.to_string()).unwrap();
    fs::write(folder.join("clips.jsonl"), rows.map(|row| format!("{row}\n")).concat()).unwrap();
    bench.give("scores", artifact(ArtifactKind::Scores, &folder));
    folder
}

fn data(bench: &mut Bench) {
    let folder = bench.folder.path().join("data");
    fs::create_dir_all(&folder).unwrap();
    let row = |name: &str, split: &str| json!({"audio_path": name, "text": name, "language": "en", "duration": 30.0, "speaker": "ana_b", "split": split});
    let rows = [row("a", "train"), row("b", "train"), row("c", "test")].map(|row| format!("{row}\n")).concat();
    fs::write(folder.join("data.jsonl"), rows).unwrap();
    fs::write(folder.join("report.json"), json!({"rejected": [{"clip": "x", "reason": "is silent"}]}).to_string()).unwrap();
    bench.give("data", artifact(ArtifactKind::Dataset, &folder));
}

/// Parses the front matter, for the YAML subset that we write.
fn front_matter(card: &str) -> &str {
    card.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap().0
}

#[test]
fn the_card_is_the_golden_one() {
    let mut bench = Bench::new();
    model(&mut bench, &training("lora", Some("mistralai/Voxtral-Mini-3B-2507")));
    let folder = scores(&mut bench);
    data(&mut bench);
    amend(&folder, "overlap", overlap(0, 0, &["mistralai/Voxtral-Mini-3B-2507"]));
    // The card shows this digest; that of the bench depends on its folder.
    bench.cx.inputs.get_mut("data").unwrap()[0].digest = Digest::of(b"data");
    own(&bench, &folder);
    bench.made::<Card>(json!({"title": "Ana's \"voice\": #1 *best*", "license": "apache-2.0", "author": "Ana <ana@x>"}));
    let card = bench.out("README.md");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model_card.md");
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(golden.parent().unwrap()).unwrap();
        fs::write(&golden, &card).unwrap();
    }
    assert_eq!(card, fs::read_to_string(&golden).unwrap(), "run with UPDATE=1 to accept");
}

#[test]
fn the_card_says_what_kind_of_adapter_it_is() {
    let mut bench = Bench::new();
    for (lora, said) in [
        (json!({"r": 8}), "A LoRA adapter for"),
        (json!({"r": 8, "rslora": true, "dora": false}), "A LoRA adapter (rank-stabilised) for"),
        (json!({"r": 8, "dora": true}), "A LoRA adapter (DoRA) for"),
        (json!({"r": 8, "rslora": true, "dora": true}), "A LoRA adapter (DoRA, rank-stabilised) for"),
    ] {
        let mut facts = training("lora", None);
        facts["settings"]["lora"] = lora.clone();
        bench.cx.inputs.clear();
        model(&mut bench, &facts);
        bench.made::<Card>(json!({}));
        let card = bench.out("README.md");
        assert!(card.contains(said), "{card}");
        assert_eq!(front_matter(&card).lines().any(|line| line == "- dora"), lora["dora"] == true);
    }
}

#[test]
fn nothing_is_said_that_was_not_measured() {
    let mut bench = Bench::new();
    let folder = model(&mut bench, &training("full", None));
    bench.made::<Card>(json!({}));
    let card = bench.out("README.md");
    let front = front_matter(&card);
    assert!(front.contains("library_name: transformers"), "{front}");
    for absent in ["base_model", "license", "model-index", "metrics", "lora"] {
        assert!(!front.contains(absent), "{absent} in {front}");
    }
    for absent in ["WER", "N/A", "None", "none", "undefined", "null", "transformers import"] {
        assert!(!card.contains(absent), "{absent} in {card}");
    }
    assert!(
        card.contains("# bench\n") && card.contains("- The model was not scored.") && card.contains("trained from random weights"),
        "{card}"
    );

    fs::write(folder.join("training.json"), "{\"method\":\"full\"}").unwrap();
    says(&bench.error::<Card>(json!({})), &["`training.json` of stage `the-model`: missing field `base`"]);
    fs::write(folder.join("training.json"), "{").unwrap();
    says(&bench.error::<Card>(json!({})), &["`training.json` of stage `the-model`: EOF"]);
}

#[test]
fn a_template_of_ones_own_is_strict_too() {
    let mut bench = Bench::new();
    model(&mut bench, &training("lora", None));
    bench.file("card.md", "---\ntags: [x]\n---\n{{ title }} {{ training.steps }}\n");
    bench.made::<Card>(json!({"template": "card.md", "title": "T"}));
    assert_eq!(bench.out("README.md"), "---\ntags: [x]\n---\nT 120\n");
    bench.file("card.md", "# {{ title }}\n{{ perplexity }}\n");
    says(&bench.error::<Card>(json!({"template": "card.md"})), &["card.md:2: undefined value", "{{ perplexity }}"]);
    assert_eq!(stage::<Card>(json!({"template": "card.md"})).sources(), [PathBuf::from("card.md")]);
    let found = complaints::<Card>(json!({"license": "Apache 2.0", "base_model": "models/a/b", "title": " "}));
    assert_eq!(found.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["license", "base_model", "title"]);
}

/// Changes `scores.json`.
fn amend(scores: &Path, key: &str, value: Value) {
    let path = scores.join("scores.json");
    let mut all: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    all[key] = value;
    fs::write(path, all.to_string()).unwrap();
}

fn overlap(trained_on: u32, same_clip: u32, unknown: &[&str]) -> Value {
    json!({"status": "checked", "scored": 3, "trained_on": trained_on, "same_clip": same_clip, "training_clips": 45, "unknown": unknown})
}

/// Says whose scores these are: those of the model of the bench, on its dataset.
fn own(bench: &Bench, scores: &Path) {
    amend(scores, "model", json!({"digest": bench.cx.inputs["model"][0].digest}));
    if let Some(data) = bench.cx.inputs.get("data") {
        amend(scores, "data", json!({"digest": data[0].digest}));
    }
}

#[test]
fn scored_clips_that_were_trained_on_are_told_and_nothing_unchecked_is_claimed() {
    let mut bench = Bench::new();
    model(&mut bench, &training("full", Some("mistralai/Voxtral-Mini-3B-2507")));
    let folder = scores(&mut bench);
    data(&mut bench);
    let made = |bench: &mut Bench| {
        bench.made::<Card>(json!({}));
        (bench.out("README.md"), bench.heard())
    };
    let clean = "None of these clips and none of their sentences is among the 45 clips";

    let (card, heard) = made(&mut bench);
    assert!(card.contains("Whether these clips were trained on was not checked: the scores do not say it"), "{card}");
    assert!(card.contains("that they are this model's was not checked") && !card.contains(clean), "{card}");
    assert!(front_matter(&card).contains("not compared with the training data") && heard.contains("was not checked"), "{card}{heard}");

    own(&bench, &folder);
    amend(&folder, "overlap", overlap(0, 0, &["models/base"]));
    let (card, heard) = made(&mut bench);
    assert!(card.contains(clean) && card.contains("What models/base was trained on before is not known"), "{card}");
    assert!(front_matter(&card).contains("model-index") && !card.contains("Warning") && !heard.contains("warning: "), "{card}{heard}");
    let mut chosen = overlap(0, 0, &[]);
    chosen["chosen_on"] = 2.into();
    amend(&folder, "overlap", chosen);
    let (card, _) = made(&mut bench);
    assert!(card.contains("Of these clips, 2 chose which step of the training was kept"), "{card}");
    assert!(card.contains("of this model and of its base used") && !card.contains("is not known"), "{card}");

    amend(&folder, "overlap", overlap(1, 0, &[]));
    let (card, heard) = made(&mut bench);
    let warning = "1 of 3 scored clips was trained on in another recording of the same sentence";
    assert!(card.contains(&format!("> **Warning: {warning}.**")) && !card.contains(clean), "{card}");
    assert!(front_matter(&card).contains(warning) && heard.contains(warning), "{card}{heard}");
    amend(&folder, "overlap", overlap(3, 3, &[]));
    let (card, heard) = made(&mut bench);
    assert!(card.contains("> **Warning: all 3 scored clips were trained on.**") && card.contains("They are not listed"), "{card}");
    assert!(!front_matter(&card).contains("model-index") && heard.contains("all 3 scored clips were trained on"), "{card}{heard}");
}

#[test]
fn the_card_tells_the_passes_made_and_no_setting_that_was_overridden() {
    let mut bench = Bench::new();
    let mut facts = training("full", None);
    facts["epochs"] = 1.25.into();
    facts["stopped_early"] = true.into();
    model(&mut bench, &facts);
    bench.made::<Card>(json!({}));
    let card = bench.out("README.md");
    assert!(
        card.contains("120 steps, 1.25 epochs over") && card.contains("at the end, stopped early.") && card.contains("| epochs | 3 |"),
        "{card}"
    );
    facts["settings"]["max_steps"] = 120.into();
    model(&mut bench, &facts);
    bench.made::<Card>(json!({}));
    let card = bench.out("README.md");
    assert!(card.contains("| max\\_steps | 120 |") && !card.contains("| epochs |"), "{card}");
}

#[test]
fn what_limits_the_scores_is_told_on_the_card_in_its_metadata_and_on_the_demo_page() {
    let mut bench = Bench::new();
    model(&mut bench, &training("full", Some("mistralai/Voxtral-Mini-3B-2507")));
    let folder = scores(&mut bench);
    let shown = |bench: &mut Bench| {
        let card = bench.artifact::<Card>(json!({}));
        let text = fs::read_to_string(card.path.join("README.md")).unwrap();
        bench.give("card", card);
        let published = bench.artifact::<Publish>(json!({"target": "published/voice"}));
        bench.give("published", published);
        bench.made::<Demo>(json!({}));
        for port in ["card", "published"] {
            bench.cx.inputs.remove(port);
        }
        (text, bench.out("index.html"))
    };
    let (_, page) = shown(&mut bench);
    assert!(page.contains("Whether these clips were trained on was not checked: the scores do not say it"), "{page}");

    own(&bench, &folder);
    amend(&folder, "overlap", overlap(0, 0, &["base <1>"]));
    amend(&folder, "precision", "bf16".into());
    amend(&folder, "stored_precision", "bf16".into());
    let (card, page) = shown(&mut bench);
    assert!(page.contains("What base &lt;1&gt; was trained on before is not known") && page.contains("Computed in bf16.</p>"), "{page}");
    assert!(card.contains("Computed in bf16.\n") && !front_matter(&card).contains("; "), "{card}");

    let mut chosen = overlap(0, 0, &[]);
    chosen["chosen_on"] = 2.into();
    amend(&folder, "overlap", chosen);
    amend(&folder, "precision", "q4".into());
    let tuned = json!({"wer": 0.1, "cer": 0.1, "substitutions": 3, "insertions": 1, "deletions": 2, "unfinished": 1});
    amend(&folder, "tuned", tuned);
    let (card, page) = shown(&mut bench);
    for text in
        ["2 of 3 scored clips chose which step", "1 of 3 transcripts unfinished", "computed in q4, while the model is stored in bf16"]
    {
        assert!(front_matter(&card).contains(text) && page.contains(text), "no {text} in\n{card}{page}");
    }
    let limits = card.split("## Limits").nth(1).unwrap();
    for text in ["2 of 3 chose which step", "computed in q4", "1 of 3 transcripts unfinished"] {
        assert!(limits.contains(text), "no {text} in\n{limits}");
    }
}

#[test]
fn a_card_names_the_dataset_that_was_scored_and_lists_this_model_only() {
    let mut bench = Bench::new();
    model(&mut bench, &training("lora", None));
    let folder = scores(&mut bench);
    data(&mut bench);
    own(&bench, &folder);
    let front = |bench: &mut Bench, with: Value| {
        bench.made::<Card>(with);
        front_matter(&bench.out("README.md")).to_owned()
    };
    let stages = |clips: Value| {
        BTreeMap::from([
            ("the-scores".to_owned(), json!({"uses": "evaluate", "from": {"data": ["held-out"], "model": ["m"]}})),
            ("held-out".to_owned(), json!({"uses": "dataset", "from": {"clips": ["in"]}})),
            ("in".to_owned(), clips),
        ])
    };
    bench.cx.upstream = stages(json!({"uses": "uploads", "from": {}}));
    let found = front(&mut bench, json!({}));
    assert!(found.contains("type: \"held-out\"") && found.contains("held-out, test split, 3 clips of bench (not on the Hub)"), "{found}");
    assert!(!found.contains("of the base") && found.matches("type: wer").count() == 1, "{found}");
    bench.cx.upstream = stages(json!({"uses": "import", "from": {}, "with": {"repo": "google/fleurs", "config": "de_de"}}));
    let found = front(&mut bench, json!({}));
    assert!(
        found.contains("type: \"google/fleurs\"") && found.contains("config: \"de_de\"") && !found.contains("\n      split:"),
        "{found}"
    );
}

#[test]
fn scores_and_cards_of_another_model_are_refused() {
    let mut bench = Bench::new();
    model(&mut bench, &training("lora", None));
    let folder = scores(&mut bench);
    amend(&folder, "model", json!({"digest": Digest::of(b"another"), "weights": "beef", "base": "cafe"}));
    says(&bench.error::<Card>(json!({})), &["the scores of stage `the-scores` are of another model than stage `the-model` made"]);
    own(&bench, &folder);
    let card = bench.artifact::<Card>(json!({}));
    bench.give("card", card);
    bench.made::<Publish>(json!({"target": "published/x"}));

    bench.cx.inputs.remove("model");
    let other = bench.folder.path().join("other");
    fs::create_dir(&other).unwrap();
    for (name, bytes) in tree(&bench.folder.path().join("model")) {
        if !name.contains('/') {
            fs::write(other.join(name), bytes).unwrap();
        }
    }
    fs::write(other.join("adapter_config.json"), "{\"r\": 1}").unwrap();
    bench.give("model", artifact(ArtifactKind::Model, &other));
    let error = bench.error::<Publish>(json!({"target": "published/x"}));
    says(&error, &["the card of stage `the-card` describes another model than stage `the-model` made"]);
}

/// A bench with the card of a scored model.
fn carded(method: &str) -> (Bench, PathBuf) {
    let mut bench = Bench::new();
    let folder = model(&mut bench, &training(method, Some("mistralai/Voxtral-Mini-3B-2507")));
    scores(&mut bench);
    let card = bench.artifact::<Card>(json!({"title": "Ana's </title><script>", "license": "mit"}));
    bench.give("card", card);
    (bench, folder)
}

#[test]
fn a_folder_is_published_as_a_model_repository() {
    let (mut bench, folder) = carded("lora");
    let with = json!({"repo": "ana/voice", "target": "published/voice"});
    assert_eq!(stage::<Publish>(with.clone()).external_outputs(), [PathBuf::from("published/voice")]);
    bench.made::<Publish>(with.clone());
    let there = tree(&bench.cx.root.join("published/voice"));
    let names: Vec<_> = there.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            ".voxpipe-published",
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
            "loss.jsonl",
            "pipeline.toml",
            "provenance.json",
            "training.json"
        ]
    );
    let published = bench.json("published.json");
    assert_eq!((&published["location"], &published["kind"]), (&json!("published/voice"), &json!("adapter")));
    assert_eq!(published["left_out"], json!(["checkpoint-50/optimizer.bin"]));
    for file in published["files"].as_array().unwrap() {
        let bytes = &there[file["path"].as_str().unwrap()];
        assert_eq!((file["size"].as_u64(), &file["digest"]), (Some(bytes.len() as u64), &json!(Digest::of(bytes))));
    }
    // Again, with another model: replaced atomically.
    fs::remove_file(folder.join("loss.jsonl")).unwrap();
    bench.made::<Publish>(with.clone());
    assert!(!bench.cx.root.join("published/voice/loss.jsonl").exists());
    // A file in it was edited.
    bench.file("published/voice/README.md", "my words");
    let before = tree(&bench.cx.root);
    let error = bench.error::<Publish>(with.clone());
    says(&error, &["files in `published/voice` were changed or added after voxpipe wrote the folder: `README.md`"]);
    assert_eq!((Exit::from(&error), tree(&bench.cx.root)), (Exit::Environment, before));
    bench.made::<Publish>(json!({"target": "published/voice", "overwrite": true}));
    assert_ne!(fs::read_to_string(bench.cx.root.join("published/voice/README.md")).unwrap(), "my words");
}

#[test]
fn what_stands_in_the_way_is_left_alone() {
    let (mut bench, folder) = carded("full");
    bench.file("theirs/model.safetensors", "precious");
    bench.file("file", "x");
    let before = tree(&bench.cx.root);
    for (target, message) in [
        ("theirs", "the folder `theirs` exists and was not made by voxpipe"),
        ("file", "`file` exists and is not a folder"),
        ("file/below", "`file/below`"),
        // Not even root can create a folder there.
        ("/sys/voxpipe/model", "cannot write the folder `/sys/voxpipe/model`"),
    ] {
        let error = bench.error::<Publish>(json!({"target": target, "overwrite": true}));
        says(&error, &[message]);
        assert_eq!(Exit::from(&error), Exit::Environment, "{target}");
        assert_eq!(tree(&bench.cx.root), before, "{target}");
        assert!(tree(&bench.cx.out).is_empty());
    }
    let whole = fs::read(folder.join("model.safetensors")).unwrap();
    for (bytes, message) in [
        (&whole[..whole.len() - 1], "wrong size: expected"),
        (&whole[..20], "truncated: the header"),
        (&whole[..3], "3 bytes are too short"),
    ] {
        fs::write(folder.join("model.safetensors"), bytes).unwrap();
        says(&bench.error::<Publish>(json!({"target": "new"})), &["`model.safetensors` of the model: ", message]);
    }
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    says(&bench.error::<Publish>(json!({"target": "new"})), &["the model has no `model.safetensors`"]);
    assert_eq!(tree(&bench.cx.root), before);
    assert_eq!(complaints::<Publish>(json!({"target": "hub"}))[0].0, "target");
    let found = complaints::<Publish>(json!({"target": ".", "repo": "a b/c/d"}));
    assert_eq!(found.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["target", "repo"]);
}

#[test]
fn a_full_disk_leaves_nothing_half_written() {
    // A file system of 64 kB, if the sandbox allows mounting one; the error path is also tested in `managed_dir`.
    let (mut bench, folder) = carded("full");
    let disk = bench.folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mount =
        |arguments: &[&str]| std::process::Command::new("mount").args(arguments).arg(&disk).output().is_ok_and(|it| it.status.success());
    if !mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs"]) {
        return;
    }
    fs::write(folder.join("tokens.bin"), vec![1; 200_000]).unwrap();
    let error = bench.outcome::<Publish>(json!({"target": disk.join("voice")}));
    let left = tree(&disk);
    assert!(std::process::Command::new("umount").arg(&disk).status().unwrap().success());
    let error = error.unwrap_err();
    says(&error, &["cannot write the folder", "No space left"]);
    assert_eq!(error.kind, ErrorKind::DiskFull);
    assert!(left.is_empty(), "{:?}", left.keys());
}

#[test]
fn the_demo_shows_what_was_published() {
    let (mut bench, _) = carded("lora");
    let published = bench.artifact::<Publish>(json!({"repo": "ana/voice", "target": "published/voice"}));
    bench.give("published", published);
    bench.made::<Demo>(json!({"target": "published/demo"}));
    let page = bench.out("index.html");
    assert!(page.contains("<title>Ana&#x27;s &lt;&#x2f;title&gt;&lt;script&gt;</title>") && !page.contains("<script"), "{page}");
    assert!(
        page.contains("12.34") && page.contains("98.76") && page.contains("say *this* | now") && page.contains("good morning"),
        "{page}"
    );
    assert!(!page.contains("http"), "the page needs nothing from anywhere");
    let front = bench.out("README.md");
    let front = front_matter(&front);
    assert!(front.contains("sdk: static\napp_file: index.html\nmodels:\n- \"ana/voice\"\nlicense: \"mit\""), "{front}");
    assert!(
        front.starts_with("title: \"Ana's </title><script>\"\n")
            && front.contains("short_description: \"Speech recognition tuned with voxpipe (en)\"")
    );
    let mut placed = tree(&bench.cx.root.join("published/demo"));
    assert!(placed.remove(".voxpipe-demo").is_some());
    assert_eq!(placed, tree(&bench.cx.out));

    bench.made::<Demo>(json!({"sdk": "gradio", "title": "T"}));
    assert_eq!(
        bench.json("model.json"),
        json!({"title": "T", "model_id": "ana/voice", "method": "lora", "base_model": "mistralai/Voxtral-Mini-3B-2507", "languages": ["en"]})
    );
    assert!(bench.out("README.md").contains("sdk: gradio\nsdk_version: \"6.31.0\""));
    assert!(bench.out("requirements.txt").lines().all(|line| line.contains("==")));
    assert!(bench.out("app.py").contains("model.json"));

    fs::write(bench.cx.inputs["published"][0].path.join("published.json"), "{\"location\":\"x\"}").unwrap();
    says(&bench.error::<Demo>(json!({})), &["`published.json` of stage `the-published` has no card facts"]);
}
