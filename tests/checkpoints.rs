//! Errors of damaged checkpoints: messages name the file and the tensor, hints say what to do.

use crate::model_parity::{folder, tiny};
use crate::support::files;
use burn::tensor::{Device, TensorData};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use voxpipe::error::Error;
use voxtral::inference::transcriber::{Transcriber, WeightsFrom};
use voxtral::model::Voxtral;
use voxtral::model::config::VoxtralConfig;
use voxtral::weights;
use voxtral::weights::precision::Precision;
use voxtral::weights::{read_tensors, tensors, write_tensors};

/// A copy of the tiny model with changed tensors.
fn changed(change: impl FnOnce(&mut BTreeMap<String, TensorData>)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for (name, bytes) in files(&folder("tiny")) {
        fs::write(copy.path().join(name), bytes).unwrap();
    }
    let mut tensors = read_tensors(&folder("tiny").join("model.safetensors")).unwrap();
    change(&mut tensors);
    write_tensors(&copy.path().join("model.safetensors"), &tensors).unwrap();
    copy
}

fn open(folder: &Path) -> Result<Transcriber, Error> {
    Transcriber::open_with(folder, WeightsFrom::Checkpoint, Precision::Auto, &Device::flex())
}

#[track_caller]
fn complains(folder: &Path, words: &[&str]) {
    let error = open(folder).expect_err("it should not load");
    let said = format!("{} = {}", error.message, error.hint.unwrap_or_default());
    for word in words {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
}

const NORM: &str = "language_model.model.norm.weight";

#[test]
fn an_untouched_copy_loads() {
    open(changed(|_| ()).path()).unwrap();
}

#[test]
fn missing_surplus_mis_shaped_and_not_finite_tensors_are_all_named_at_once() {
    let copy = changed(|tensors| {
        tensors.remove(NORM);
        tensors.insert("language_model.model.extra".into(), TensorData::new(vec![1f32], [1]));
        tensors.insert("audio_tower.conv1.bias".into(), TensorData::new(vec![0f32; 31], [31]));
        tensors.insert("audio_tower.conv2.bias".into(), TensorData::new([vec![0f32; 5], vec![f32::NAN], vec![0f32; 26]].concat(), [32]));
    });
    let words = [
        &format!("`{NORM}` [48] is missing"),
        "`language_model.model.extra` is not part of the model",
        "`audio_tower.conv1.bias` has shape [31], the config requires [32]",
        "`audio_tower.conv2.bias` holds NaN at element 5",
        "model.safetensors",
        "belong together",
    ];
    complains(copy.path(), &words);
}

#[test]
fn a_truncated_file_is_named() {
    let copy = changed(|_| ());
    let path = copy.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for length in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        complains(copy.path(), &["model.safetensors", "truncated"]);
    }
}

#[test]
fn a_missing_or_broken_file_of_the_folder_is_named() {
    for (name, words) in [("config.json", "config.json"), ("tekken.json", "tekken.json"), ("model.safetensors", "model.safetensors")] {
        let copy = changed(|_| ());
        fs::remove_file(copy.path().join(name)).unwrap();
        complains(copy.path(), &[words]);
        if name != "model.safetensors" {
            fs::write(copy.path().join(name), "{ \"audio_config\": ").unwrap();
            complains(copy.path(), &[words]);
        }
    }
}

#[test]
fn names_of_newer_transformers_and_shards_are_read() {
    let newer = changed(|tensors| {
        let renamed = std::mem::take(tensors).into_iter().map(|(name, data)| {
            let name = match name.strip_prefix("language_model.") {
                Some("lm_head.weight") => "lm_head.weight".to_owned(),
                Some(rest) => format!("model.language_model.{}", rest.strip_prefix("model.").unwrap()),
                None => format!("model.{name}"),
            };
            (name, data)
        });
        *tensors = renamed.collect();
    });
    let values = |model: &Voxtral| tensors(model, |_| true);
    assert!(values(&open(newer.path()).unwrap().model) == values(&tiny()));

    let sharded = changed(|_| ());
    let all = read_tensors(&sharded.path().join("model.safetensors")).unwrap();
    fs::remove_file(sharded.path().join("model.safetensors")).unwrap();
    let mut map = BTreeMap::new();
    let half = all.len() / 2;
    for (shard, part) in [all.iter().take(half).collect::<Vec<_>>(), all.iter().skip(half).collect()].into_iter().enumerate() {
        let file = format!("model-0000{}-of-00002.safetensors", shard + 1);
        map.extend(part.iter().map(|(name, _)| ((*name).clone(), file.clone())));
        write_tensors(&sharded.path().join(file), &part.into_iter().map(|(name, data)| (name.clone(), data.clone())).collect()).unwrap();
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    fs::write(sharded.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    assert!(values(&open(sharded.path()).unwrap().model) == values(&tiny()));
}

#[test]
fn what_is_saved_loads_again_with_the_same_names_and_bytes() {
    let copy = changed(|_| ());
    let path = copy.path().join("model.safetensors");
    weights::save(&tiny(), copy.path(), weights::MAX_SHARD).unwrap();
    let names = |path: &Path| read_tensors(path).unwrap().into_keys().collect::<Vec<_>>();
    assert_eq!(names(&path), names(&folder("tiny").join("model.safetensors")), "nothing is left over on either side");
    let first = fs::read(&path).unwrap();
    weights::save(&open(copy.path()).unwrap().model, copy.path(), weights::MAX_SHARD).unwrap();
    assert!(fs::read(&path).unwrap() == first);
}

#[test]
fn a_config_that_is_no_voxtral_is_refused() {
    let copy = changed(|_| ());
    let path = copy.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config["text_config"]["num_key_value_heads"] = 4.into();
    fs::write(&path, config.to_string()).unwrap();
    assert!(VoxtralConfig::read(copy.path()).unwrap_err().message.contains("num_key_value_heads"));
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let copy = changed(|_| ());
    let path = copy.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config["audio_token_id"] = 25.into();
    fs::write(&path, config.to_string()).unwrap();
    complains(copy.path(), &["[AUDIO] = 24", "25", "do not belong together"]);
}
