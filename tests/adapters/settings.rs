//! `lora = { … }` settings of `train`: validation errors, notes and written files.

use crate::model_parity::folder;
use crate::stages::{Bench, artifact, clip, complaints};
use crate::support::files;
use pipeline::artifact::ArtifactKind;
use serde_json::{Value, json};
use std::fs;
use voxpipe::stages::train::Train;

fn with(lora: Value) -> Value {
    json!({ "base": "tiny", "lora": lora, "epochs": 1, "learning_rate": 1e-3, "batch_size": 2, "gradient_accumulation": 1 })
}

#[test]
fn targets_that_cannot_work_are_told_before_anything_runs() {
    for (lora, words) in [
        (json!({ "targets": [] }), "a list of layers"),
        (json!({ "targets": ["q_porj"] }), "no layer `q_porj` | layers: q_proj, k_proj"),
        (
            json!({ "targets": ["q_proj", "fc1"] }),
            "`fc1` is a layer of the audio encoder, which is frozen | write `freeze_audio_tower = false`",
        ),
        (json!({ "targets": ["linear_1"] }), "layer of the projector | leave it out of the list and write `projector = true`"),
        (json!({ "targets": ["lm_head"] }), "adapters on `lm_head` are not supported"),
        (json!({ "targets": ["embed_tokens"] }), "adapters on `embed_tokens` are not supported"),
        (
            json!({ "targets": "q_proj" }),
            "`q_proj` is read as a regular expression for full module names and matches none | write [\"q_proj\"]",
        ),
        (json!({ "targets": ".*(q_proj" }), "`.*(q_proj` is not a regular expression"),
        (json!({ "r": 0 }), "`lora.r`"),
    ] {
        let told = complaints::<Train>(with(lora.clone()));
        assert!(told.len() == 1 && told[0].0.starts_with("lora.") && told[0].1.contains(words), "{lora}: {told:?}");
    }
    for lora in [
        json!({ "targets": ["q_proj", "fc1", "out_proj"], "freeze_audio_tower": false }),
        json!({ "targets": ["self_attn.q_proj", "layers.3.mlp.up_proj"], "projector": true, "rslora": true, "dora": true }),
        json!({ "targets": r".*layers\.(2[0-9])\..*(q|v)_proj" }),
        json!({ "targets": "all-linear" }),
    ] {
        assert_eq!(complaints::<Train>(with(lora)), []);
    }
}

/// A test bench with a dataset of four short clips and the tiny model.
fn bench() -> Bench {
    let mut bench = Bench::new();
    for (name, bytes) in files(&folder("tiny")) {
        bench.file(&format!("tiny/{name}"), bytes);
    }
    let mut rows = String::new();
    for number in 0..4 {
        bench.file(&format!("data/audio/{number}.wav"), clip(number));
        let row = json!({ "audio_path": format!("audio/{number}.wav"), "text": "Hello.", "language": "en", "duration": 1.0 });
        rows.push_str(&format!("{row}\n"));
    }
    bench.file("data/train.jsonl", rows);
    let data = artifact(ArtifactKind::Dataset, &bench.cx.root.join("data"));
    bench.give("data", data);
    bench
}

#[test]
fn every_kind_of_adapter_is_trained_and_told() {
    let mut bench = bench();
    for (lora, told) in [
        (json!({ "r": 2, "rslora": true }), "rank-stabilized LoRA adapters on 8 layers of the language model\n"),
        (
            json!({ "r": 2, "dora": true, "dropout": 0.1, "projector": true }),
            "DoRA adapters on 8 layers of the language model and 2 of the projector\n",
        ),
        (
            json!({ "r": 2, "dora": true, "rslora": true, "freeze_audio_tower": false, "targets": ["fc1"] }),
            "rank-stabilized DoRA adapters on 2 layers of the audio encoder\n",
        ),
    ] {
        bench.made::<Train>(with(lora.clone()));
        assert!(bench.heard().contains(told), "{}", bench.heard());
        let config = bench.json("adapter_config.json");
        let set = |key: &str| lora.get(key).and_then(Value::as_bool).unwrap_or(false);
        assert_eq!((&config["use_dora"], &config["use_rslora"]), (&json!(set("dora")), &json!(set("rslora"))));
        let settings = &bench.json("training.json")["settings"]["lora"];
        assert_eq!((&settings["dora"], &settings["rslora"]), (&json!(set("dora")), &json!(set("rslora"))));
        let stored = voxtral::weights::read_tensors(&bench.cx.out.join("adapter_model.safetensors")).unwrap();
        let moved = stored.iter().filter(|(name, _)| name.contains("lora_B"));
        let still = moved.filter(|(_, data)| data.as_bytes().iter().all(|byte| *byte == 0)).count();
        assert_eq!((still, stored.keys().any(|name| name.contains("magnitude"))), (0, set("dora")));
    }
}

#[test]
fn what_targets_mean_too_and_what_a_warm_up_does_is_told() {
    let mut bench = bench();
    let mut settings = with(json!({ "r": 2, "targets": r".*layers\.1\..*q_proj|.*linear_1" }));
    settings["warmup_steps"] = json!(2);
    bench.made::<Train>(settings.clone());
    let heard = bench.heard();
    assert!(heard.contains("LoRA adapters on 1 layer of the language model\n"), "{heard}");
    assert!(heard.contains("also matches 1 layer of the audio encoder and 1 of the projector, which get no adapter"), "{heard}");
    assert!(heard.contains("warning: `warmup_steps` = 2 is not less than the 2 training steps"), "{heard}");
    settings["warmup_steps"] = json!(1);
    bench.made::<Train>(settings.clone());
    assert!(!bench.heard().contains("warmup_steps"));

    settings["lora"]["targets"] = json!(r".*layers\.7\..*");
    let error = bench.error::<Train>(settings);
    assert!(error.message.contains("`lora.targets`") && error.message.contains(r".*layers\.7\..*"), "{error}");
    let trained: Vec<_> = fs::read_dir(&bench.cx.out).unwrap().collect();
    assert!(trained.is_empty(), "{trained:?}");
}
