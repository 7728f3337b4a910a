//! Adapter folders: save and load round trips, and error messages for unsupported or inconsistent folders.

use super::{adapters, distance, logits};
use crate::model_parity::{Reference, folder, tiny};
use crate::support::files;
use burn::tensor::{Device, TensorData};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use voxtral::lora;
use voxtral::lora::{LoraConfig, TargetModules};
use voxtral::weights::{WeightLoader, read_tensors, tensors, write_tensors};

/// A folder with new adapters, and the model they were saved from.
fn written(adapters: &LoraConfig) -> (tempfile::TempDir, voxtral::model::Voxtral) {
    let (folder, mut model) = (tempfile::tempdir().unwrap(), tiny());
    lora::add(&mut model, adapters, &mut WeightLoader::random(1, &Device::flex())).unwrap();
    lora::save(&model, adapters, "tests/tiny", folder.path()).unwrap();
    (folder, model)
}

fn config(folder: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join("adapter_config.json")).unwrap()).unwrap()
}

fn set(folder: &Path, key: &str, value: Value) {
    let mut config = config(folder);
    config[key] = value;
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
}

fn change(folder: &Path, change: impl FnOnce(&mut BTreeMap<String, TensorData>)) {
    let file = folder.join("adapter_model.safetensors");
    let mut stored = read_tensors(&file).unwrap();
    change(&mut stored);
    write_tensors(&file, &stored).unwrap();
}

fn copy(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for (name, bytes) in files(&folder(name)) {
        fs::write(copy.path().join(name), bytes).unwrap();
    }
    copy
}

#[track_caller]
fn refused(folder: &Path, words: &[&str]) {
    let error = lora::load(&mut tiny(), folder).expect_err("it should not load");
    let said = format!("{} = {}", error.message, error.hint.unwrap_or_default());
    for word in words {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
}

#[test]
fn adapters_of_every_part_and_kind_come_back() {
    let text = r".*language_model.*\.(q_proj|down_proj)";
    let tower = format!(r".*audio_tower.*\.(q_proj)|{text}");
    let projector = format!(r".*multi_modal_projector.*\.(linear_1|linear_2)|{text}");
    for (audio_tower, with_projector, pattern) in [(false, false, text), (true, false, &tower), (false, true, &projector)] {
        for (rslora, dora) in [(false, false), (true, false), (false, true), (true, true)] {
            let adapters = LoraConfig { audio_tower, projector: with_projector, rslora, dora, ..adapters(&["q_proj", "down_proj"]) };
            let (folder, model) = written(&adapters);
            let config = config(folder.path());
            assert_eq!((&config["use_rslora"], &config["use_dora"], &config["lora_alpha"]), (&json!(rslora), &json!(dora), &json!(4)));
            assert_eq!(config["target_modules"], pattern);
            let names = read_tensors(&folder.path().join("adapter_model.safetensors")).unwrap();
            let style =
                if audio_tower || with_projector { "base_model.model.model." } else { "base_model.model.language_model.model.layers." };
            let ends = [".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector.weight"];
            assert!(names.keys().all(|name| name.starts_with(style) && ends.iter().any(|end| name.ends_with(end))), "{:?}", names.keys());
            assert_eq!(lora::base_of(folder.path()).unwrap().as_deref(), Some("tests/tiny"));
            let mut again = tiny();
            lora::load(&mut again, folder.path()).unwrap();
            assert!(tensors(&again, |_| true) == tensors(&model, |_| true));
        }
    }
}

#[test]
fn a_pattern_is_written_as_exactly_the_layers_it_meant() {
    for (text, layers) in [
        (r".*layers\.1\..*(q_proj|fc2)", 3),
        (r"language_model\.model\.layers\.0\.mlp\..*", 3),
        (r"model\.language_model\.layers\.[01]\.self_attn\.(?!k).*_proj", 6),
        ("all-linear", 12 + 2 + 14),
        (r"audio_tower\.layers\.1\.fc1|.*mlp\.gate_proj", 3),
    ] {
        let adapters =
            LoraConfig { targets: TargetModules::text(text).unwrap(), audio_tower: true, projector: text == "all-linear", ..adapters(&[]) };
        let (folder, model) = written(&adapters);
        assert_eq!(model.clone().linears().iter().filter(|(_, layer)| layer.lora.is_some()).count(), layers, "{text}");
        // Loading fails if the pattern matches a layer too many or too few.
        lora::load(&mut tiny(), folder.path()).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}

#[test]
fn targets_that_end_up_nowhere_are_an_error() {
    let error = |adapters: &LoraConfig| {
        let error = lora::add(&mut tiny(), adapters, &mut WeightLoader::random(1, &Device::flex())).unwrap_err();
        format!("{} = {}", error.message, error.hint.unwrap_or_default())
    };
    let said = error(&adapters(&["q_proj", "fc1"]));
    assert!(
        said.contains("target `fc1`")
            && said.contains("audio_tower.layers.0.fc1")
            && said.contains("audio encoder, which gets no adapters"),
        "{said}"
    );
    let said = error(&adapters(&["linear_1"]));
    assert!(said.contains("target `linear_1`") && said.contains("projector"), "{said}");
    let said = error(&adapters(&["q_porj"]));
    assert!(said.contains("target `q_porj` matches no layer") && said.contains("language_model.model.layers.0.self_attn.q_proj"), "{said}");
    for (pattern, word) in
        [("q_proj", "matches no layer"), (r".*fc\d", "audio encoder"), (".*", "`lm_head`"), (".*embed_tokens|.*q_proj", "`embed_tokens`")]
    {
        let said = error(&LoraConfig { targets: TargetModules::text(pattern).unwrap(), ..adapters(&[]) });
        assert!(said.contains(pattern) && said.contains(word), "{said}");
    }
    assert!(error(&adapters(&["lm_head"])).contains("not supported"));
    assert!(TargetModules::text("q_proj(").unwrap_err().message.contains("`q_proj(` is not a regular expression"));

    let placed = lora::add(&mut tiny(), &adapters(&["q_proj"]), &mut WeightLoader::random(1, &Device::flex())).unwrap();
    assert_eq!(placed.kept_out, ["audio_tower.layers.0.self_attn.q_proj", "audio_tower.layers.1.self_attn.q_proj"]);
}

#[test]
fn a_row_of_zeros_and_dora_do_not_go_together() {
    let mut model = tiny();
    let layer = &mut model.language_model.model.layers[1].self_attn.v_proj;
    layer.weight = layer.weight.clone().map(|weight| weight.slice_fill([3..4, 0..48], 0.0));
    let dora = LoraConfig { dora: true, ..adapters(&["v_proj"]) };
    let error = lora::add(&mut model, &dora, &mut WeightLoader::random(1, &Device::flex())).unwrap_err();
    assert!(error.message.contains("layers.1.self_attn.v_proj.weight`: row 3 has norm 0"), "{error}");
}

#[test]
fn tensors_and_layers_that_do_not_meet_are_named() {
    let both = LoraConfig { audio_tower: true, dora: true, ..adapters(&["q_proj", "fc1"]) };
    let key = "base_model.model.model.audio_tower.layers.0.fc1.lora_A.weight";
    let broken = |edit: &dyn Fn(&mut BTreeMap<String, TensorData>), words: &[&str]| {
        let (folder, _) = written(&both);
        change(folder.path(), |stored| edit(stored));
        refused(folder.path(), &[&["adapter_model.safetensors"], words].concat());
    };
    let layer = "`audio_tower.layers.0.fc1`";
    broken(&|stored| drop(stored.remove(key)), &[layer, "only one of lora_A and lora_B"]);
    broken(&|stored| stored.retain(|name, _| !name.contains("layers.0.fc1")), &["no tensors for", layer, "target_modules"]);
    broken(
        &|stored| drop(stored.remove(&key.replace("lora_A", "lora_magnitude_vector"))),
        &[layer, "no lora_magnitude_vector", "use_dora"],
    );
    broken(
        &|stored| drop(stored.insert(key.replace("layers.0", "layers.9"), stored[key].clone())),
        &["no layer `audio_tower.layers.9.fc1`"],
    );
    broken(
        &|stored| drop(stored.insert(key.replace("fc1", "fc2"), stored[key].clone())),
        &["tensors for `audio_tower.layers.0.fc2`", "does not adapt"],
    );
    broken(&|stored| drop(stored.insert(key.replace("lora_A", "lora_C"), stored[key].clone())), &["lora_C", "not part of a LoRA adapter"]);
    broken(
        &|stored| drop(stored.insert(key.replace("model.model.audio", "model.audio"), stored[key].clone())),
        &["twice", "audio_tower.layers.0.fc1"],
    );
    let magnitude = key.replace("lora_A", "lora_magnitude_vector");
    let short = TensorData::new(vec![1f32; 5], [5]);
    broken(&|stored| drop(stored.insert(magnitude.clone(), short.clone())), &["fc1.lora_magnitude_vector` has shape [5], expected [128]"]);
    broken(&|stored| drop(stored.insert(key.to_owned(), short.clone())), &["fc1.lora_A` has shape [5], expected [2, 32]"]);
    broken(&|stored| stored.clear(), &["no adapter tensors"]);
    let infinite = TensorData::new([vec![0f32; 3], vec![f32::INFINITY], vec![0f32; 60]].concat(), [2, 32]);
    broken(&|stored| drop(stored.insert(key.to_owned(), infinite.clone())), &[key, "inf at element 3"]);

    let (folder, _) = written(&both);
    set(folder.path(), "use_dora", json!(false));
    refused(folder.path(), &["has a lora_magnitude_vector", "use_dora"]);
}

#[test]
fn a_config_that_would_be_read_wrongly_is_refused_by_its_key() {
    for (key, value, words) in [
        ("peft_type", json!("LOHA"), "LOHA"),
        ("modules_to_save", json!(["multi_modal_projector"]), "`modules_to_save`"),
        ("fan_in_fan_out", json!(true), "`fan_in_fan_out`"),
        ("lora_bias", json!(true), "`lora_bias`"),
        ("bias", json!("all"), "`bias` is `all`"),
        ("init_lora_weights", json!("pissa_niter_4"), "`pissa_niter_4`, which also changes the base"),
        ("init_lora_weights", json!("olora"), "`olora`"),
        ("layer_replication", json!([[0, 1]]), "`layer_replication`"),
        ("trainable_token_indices", json!([7]), "`trainable_token_indices`"),
        ("target_parameters", json!(["x"]), "`target_parameters`"),
        ("alora_invocation_tokens", json!([1]), "`alora_invocation_tokens`"),
        ("use_qalora", json!(true), "`use_qalora`"),
        ("of_a_later_version", json!(0.5), "`of_a_later_version`"),
        ("target_modules", Value::Null, "`target_modules`"),
        ("target_modules", json!("q_proj("), "`q_proj(` is not a regular expression"),
        ("target_modules", json!(["q_proj", "lm_head"]), "`lm_head`"),
        ("target_modules", json!(["q_proj"]), "tower"),
        ("exclude_modules", json!(["k_proj"]), "k_proj"),
        ("layers_to_transform", json!([0]), "`layers_to_transform`"),
        ("rank_pattern", json!({ "k_proj": 3 }), "expected [3, 48]"),
        ("rank_pattern", json!({ "k_proj": 0 }), "`rank_pattern`"),
        ("alpha_pattern", json!({ "k_proj(": 3 }), "k_proj("),
        ("r", json!(0), "`r`"),
        ("lora_dropout", json!(1.0), "`lora_dropout`"),
        ("use_dora", json!(true), "use_dora"),
    ] {
        let copy = copy("peft-adapter");
        set(copy.path(), key, value);
        refused(copy.path(), &[words]);
    }
    // Settings without an effect are accepted.
    for (key, value) in [
        ("lora_bias", json!(false)),
        ("modules_to_save", json!([])),
        ("of_a_later_version", json!({})),
        ("megatron_config", json!({ "a": 1 })),
        ("init_lora_weights", json!("gaussian")),
        ("peft_version", json!("9.0")),
        ("task_type", json!("SEQ_2_SEQ_LM")),
    ] {
        let copy = copy("peft-adapter");
        set(copy.path(), key, value);
        lora::load(&mut tiny(), copy.path()).unwrap_or_else(|error| panic!("{key}: {error}"));
    }
}

#[test]
fn ways_to_name_layers_are_read_as_peft_reads_them() {
    let adapters = LoraConfig { targets: TargetModules::text(r".*language_model.*layers\.1\..*(q|v)_proj").unwrap(), ..adapters(&[]) };
    let (folder, _) = written(&adapters);
    for (keys, loads) in [
        (json!({ "target_modules": ["language_model.model.layers.1.self_attn.q_proj", "layers.1.self_attn.v_proj"] }), false),
        (json!({ "target_modules": ["model.language_model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"] }), true),
        (json!({ "target_modules": ["q_proj", "v_proj"], "layers_to_transform": 1, "exclude_modules": ".*audio_tower.*" }), true),
        (json!({ "target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1], "layers_pattern": ["model.layers"] }), true),
        (json!({ "target_modules": ["q_proj", "v_proj"], "layers_to_transform": [0, 1], "exclude_modules": ".*audio_tower.*" }), false),
        (json!({ "target_modules": ["q_proj", "v_proj"], "layers_to_transform": 1 }), false),
        (json!({ "target_modules": ["self_attn.q_proj", "v_proj"], "exclude_modules": ".*layers.0.*|audio_tower.*" }), true),
        (json!({ "target_modules": "all-linear", "exclude_modules": r".*(audio|multi|layers\.0|mlp|k_proj|o_proj).*" }), true),
    ] {
        for (key, default) in [("exclude_modules", Value::Null), ("layers_to_transform", Value::Null), ("layers_pattern", Value::Null)] {
            set(folder.path(), key, keys.get(key).cloned().unwrap_or(default));
        }
        set(folder.path(), "target_modules", keys["target_modules"].clone());
        assert_eq!(lora::load(&mut tiny(), folder.path()).is_ok(), loads, "{keys}");
    }
}

#[test]
fn of_patterns_the_first_that_matches_counts() {
    let reference = Reference::read();
    let computed = |alphas: &str| {
        let copy = copy("peft-adapter");
        let file = copy.path().join("adapter_config.json");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("\"alpha_pattern\": {}"));
        fs::write(&file, text.replace("\"alpha_pattern\": {}", &format!("\"alpha_pattern\": {{{alphas}}}"))).unwrap();
        let mut model = tiny();
        lora::load(&mut model, copy.path()).unwrap();
        logits(&model, &reference, 0)
    };
    // File order applies, not alphabetical order. `r.q_proj` matches no layer: a suffix must start after a dot.
    let first = computed(r#""self_attn.q_proj": 3, "q_proj": 9, "r.q_proj": 40"#);
    assert_eq!(distance(&first, &computed(r#""q_proj": 3"#)), 0.0);
    assert_eq!(distance(&computed(r#""q_proj": 9, ".*k_proj|self_attn.q_proj": 3"#), &computed(r#""q_proj": 9, "k_proj": 3"#)), 0.0);
    assert!(distance(&first, &computed(r#""q_proj": 9"#)) > 0.1);
    assert_eq!(distance(&computed(r#""oj": 9"#), &computed("")), 0.0);
}
