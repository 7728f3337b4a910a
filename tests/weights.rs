//! Checkpoints in every layout: precision, error messages, and merged adapters. `tests/voxtral/make_forms.py` made the checkpoints and the
//! logits of transformers.

use crate::model_parity::{Reference, folder, tiny};
use crate::support::{files, skipped};
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use voxpipe::error::{Error, Result};
use voxtral::inference::transcriber::{Transcriber, WeightsFrom};
use voxtral::lora::merge;
use voxtral::lora::merge::MergeDtype;
use voxtral::model::config::VoxtralConfig;
use voxtral::model::{TokenBatch, Voxtral};
use voxtral::weights::precision::Precision;
use voxtral::weights::{MAX_SHARD, WeightFiles, WeightLoader, floats, read_tensors, tensors, write_tensors};
use voxtral::{lora, weights};

fn open(folder: &Path, precision: Precision) -> Result<(Voxtral, weights::LoadReport)> {
    let mut source = WeightLoader::open(folder, VoxtralConfig::read(folder)?.rope_heads(), precision, &Device::flex())?;
    let model = Voxtral::load(&VoxtralConfig::read(folder)?, &mut source);
    let loaded = source.finish()?;
    loaded.audit.passed()?;
    Ok((model, loaded))
}

/// A copy of a fixture.
fn copy(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for (name, bytes) in files(&folder(name)) {
        fs::write(copy.path().join(name), bytes).unwrap();
    }
    copy
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[track_caller]
fn says<T>(result: Result<T>, words: &[&str]) {
    let Error { message, hint, .. } = result.err().expect("it should not work");
    let said = format!("{message} = {}", hint.expect("hint"));
    for word in words {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
}

fn logits(model: &Voxtral, expected: &BTreeMap<String, TensorData>) -> Vec<f32> {
    let ids: Vec<u32> = floats(&expected["ids"]).unwrap().into_iter().map(|id| id as u32).collect();
    let features: Tensor<3> = Tensor::from_data(expected["features"].clone(), &Device::flex());
    let tokens = TokenBatch { rows: 1, length: ids.len(), ids };
    floats(&model.forward(&tokens, features).unwrap().into_data()).unwrap()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Tolerance for logits of order one, relative to f32. With bf16 weights, CPUs with bf16 instructions round the activations to bf16, as
/// transformers does in bfloat16 with a similar error.
fn tolerance(precision: Precision) -> f32 {
    if precision == Precision::F32 { 1e-4 } else { 5e-2 }
}

#[test]
fn every_form_is_the_model_that_transformers_computes_with() {
    let expected = read_tensors(&folder("forms/expected.safetensors")).unwrap();
    let theirs = floats(&expected["logits"]).unwrap();
    let mut models = BTreeMap::new();
    for form in ["hub", "mistral"] {
        for precision in [Precision::F32, Precision::Auto] {
            let (model, loaded) = open(&folder("forms").join(form), precision).unwrap();
            assert_eq!(loaded.precision, if precision == Precision::F32 { Precision::F32 } else { Precision::Bf16 });
            let difference = apart(&logits(&model, &expected), &theirs);
            assert!(difference <= tolerance(loaded.precision), "{form} {precision}: off by {difference}");
            models.insert((form, precision.name()), tensors(&model, |_| true));
        }
    }
    // The layouts contain the same tensors under one set of names; only the position table is computed.
    let (hub, mistral) = (&models[&("hub", "f32")], &models[&("mistral", "f32")]);
    assert!(hub.keys().eq(mistral.keys()));
    for (name, data) in hub {
        let tolerance = if name == "audio_tower.embed_positions.weight" { 1e-6 } else { 0.0 };
        let difference = apart(&floats(data).unwrap(), &floats(&mistral[name]).unwrap());
        assert!(difference <= tolerance, "{name}: off by {difference}");
        assert_eq!(floats(data).unwrap(), floats(&models[&("hub", "auto")][name]).unwrap(), "{name}");
    }
    assert!(hub.values().all(|data| data.dtype() == DType::F32));
    let halved = |name: &str| models[&("mistral", "auto")][name].dtype() == DType::BF16;
    assert!(
        halved("language_model.lm_head.weight")
            && halved("language_model.model.embed_tokens.weight")
            && halved("audio_tower.layers.0.fc1.weight")
    );
    assert!(!halved("audio_tower.conv1.weight") && !halved("audio_tower.layers.0.fc1.bias") && !halved("language_model.model.norm.weight"));
}

#[test]
fn precision_is_rounding_and_nothing_else() {
    let (halved, loaded) = open(&folder("tiny"), Precision::Bf16).unwrap();
    assert_eq!(loaded.precision, Precision::Bf16);
    let (halved, whole) = (tensors(&halved, |_| true), tensors(&tiny(), |_| true));
    for (name, data) in &halved {
        let (ours, exact) = (floats(data).unwrap(), floats(&whole[name]).unwrap());
        match data.dtype() {
            DType::BF16 => assert!(ours.iter().zip(&exact).all(|(a, b)| (a - b).abs() <= b.abs() / 256.0), "{name}"),
            _ => assert_eq!(ours, exact, "{name}"),
        }
    }
    assert_eq!(halved.values().filter(|data| data.dtype() == DType::BF16).count(), 2 * 6 + 2 + 2 * 7 + 2);
    // The same for random weights.
    let random = |precision| {
        let mut source = WeightLoader::random(1, &Device::flex()).precision(precision);
        let model = Voxtral::load(&VoxtralConfig::read(&folder("tiny")).unwrap(), &mut source);
        (source.finish().unwrap().precision, tensors(&model, |name| name.ends_with("lm_head.weight")))
    };
    let ((f32, exact), (bf16, rounded)) = (random(Precision::Auto), random(Precision::Bf16));
    assert_eq!((f32, bf16), (Precision::F32, Precision::Bf16));
    let pair = exact.values().zip(rounded.values()).next().unwrap();
    assert!(apart(&floats(pair.0).unwrap(), &floats(pair.1).unwrap()) > 0.0);
}

#[test]
fn of_two_forms_transformers_is_read_and_a_person_is_told() {
    let both = copy("forms/hub");
    assert_eq!(WeightFiles::of(both.path()).unwrap().note, None);
    fs::copy(folder("forms/mistral/consolidated.safetensors"), both.path().join("consolidated.safetensors")).unwrap();
    let (_, loaded) = open(both.path(), Precision::Auto).unwrap();
    assert!(loaded.note.unwrap().contains("not Mistral's"));
    // A download of Mistral's file and all small files has an index but no shards.
    fs::remove_file(both.path().join("model.safetensors")).unwrap();
    let index = json!({ "weight_map": { "lm_head.weight": "model-00001-of-00001.safetensors" } });
    fs::write(both.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let (_, loaded) = open(both.path(), Precision::Auto).unwrap();
    assert_eq!(loaded.note, None);
    fs::remove_file(both.path().join("consolidated.safetensors")).unwrap();
    says(open(both.path(), Precision::Auto), &["model.safetensors.index.json", "1 of its 1 files", "model-00001-of-00001.safetensors"]);
    fs::remove_file(both.path().join("model.safetensors.index.json")).unwrap();
    says(open(both.path(), Precision::Auto), &["contains no weights", "model.safetensors", "consolidated.safetensors"]);
}

#[test]
fn mistral_in_parts_is_read_whole_or_not_at_all() {
    let parts = copy("forms/mistral");
    let whole = parts.path().join("consolidated.safetensors");
    let all = read_tensors(&whole).unwrap();
    fs::remove_file(&whole).unwrap();
    let half: Vec<_> = all.keys().take(all.len() / 2).cloned().collect();
    let (first, second): (BTreeMap<_, _>, _) = all.into_iter().partition(|(name, _)| half.contains(name));
    let path = |number: usize| parts.path().join(format!("consolidated-0000{number}-of-00002.safetensors"));
    write_tensors(&path(1), &first).unwrap();
    says(open(parts.path(), Precision::Auto), &["has no consolidated-00002-of-00002.safetensors"]);
    write_tensors(&path(2), &second).unwrap();
    let (model, _) = open(parts.path(), Precision::F32).unwrap();
    let (same, _) = open(&folder("forms/mistral"), Precision::F32).unwrap();
    assert!(tensors(&model, |_| true) == tensors(&same, |_| true));
}

#[test]
fn what_is_wrong_with_an_index_names_it_and_the_shard() {
    let large = copy("forms/hub");
    let (model, _) = open(large.path(), Precision::F32).unwrap();
    fs::remove_file(large.path().join("model.safetensors")).unwrap();
    weights::save(&model, large.path(), 30_000).unwrap();
    let index = large.path().join("model.safetensors.index.json");
    let whole = fs::read_to_string(&index).unwrap();
    let value: Value = serde_json::from_str(&whole).unwrap();
    let shards: std::collections::BTreeSet<&str> = value["weight_map"].as_object().unwrap().values().filter_map(Value::as_str).collect();
    assert!(shards.len() >= 3, "{shards:?}");
    let (again, _) = open(large.path(), Precision::F32).unwrap();
    assert!(tensors(&again, |_| true) == tensors(&model, |_| true));

    let first = "model-00001-of-0000";
    type Wrong<'a> = (&'a dyn Fn(&mut Value), &'a [&'a str]);
    let wrong: [Wrong; 5] = [
        (&|index| index["weight_map"] = json!({}), &["index.json", "`weight_map` is empty"]),
        (&|index| index["weight_map"]["x"] = json!("../x.safetensors"), &["index.json", "`../x.safetensors`"]),
        (&|index| index["weight_map"]["x"] = json!("x.bin"), &["index.json", "`x.bin`"]),
        (&|index| index["weight_map"]["x"] = json!("other.safetensors"), &["index.json", "other.safetensors", "missing"]),
        (&|index| index["weight_map"]["x"] = json!(shards.first()), &["index.json", "tensor `x`", first, "does not contain it"]),
    ];
    for (change, words) in wrong {
        fs::write(&index, &whole).unwrap();
        edit(&index, change);
        says(open(large.path(), Precision::Auto), words);
    }
    fs::write(&index, "{\"weight_map\":{\"x\":\"a.safetensors\",\"x\":\"b.safetensors\"}}").unwrap();
    says(open(large.path(), Precision::Auto), &["index.json", "`x` is listed twice"]);
    fs::write(&index, &whole).unwrap();
    let (one, two) = (large.path().join(shards.iter().next().unwrap()), large.path().join(shards.iter().nth(1).unwrap()));
    let double = read_tensors(&one).unwrap().into_iter().chain(read_tensors(&two).unwrap()).collect();
    write_tensors(&two, &double).unwrap();
    says(open(large.path(), Precision::Auto), &["is also in", first]);
}

#[test]
fn absurd_shapes_cost_nothing() {
    let copy = copy("forms/hub");
    let absurd = [
        ("text_config", "vocab_size", 1 << 24),
        ("text_config", "intermediate_size", 1 << 24),
        ("audio_config", "max_source_positions", 60_000),
    ];
    for (part, key, size) in absurd {
        edit(&copy.path().join("config.json"), |config| config[part][key] = json!(size));
    }
    says(open(copy.path(), Precision::Auto), &["has shape [64, 24], the config requires [16777216, 24]", "belong together"]);
    edit(&copy.path().join("config.json"), |config| config["text_config"]["num_hidden_layers"] = json!(1 << 22));
    assert!(VoxtralConfig::read(copy.path()).unwrap_err().message.contains("num_hidden_layers"));
}

#[test]
fn matrices_of_the_wrong_type_or_that_are_not_finite_are_named() {
    let copy = copy("forms/hub");
    let path = copy.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    // Change the file in place: the head is memory-mapped, so only the finite check reads it.
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let lines: Value = serde_json::from_slice(&whole[8..8 + header]).unwrap();
    let start = 8 + header + lines["language_model.lm_head.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    let mut damaged = whole.clone();
    damaged[start + 2 * 70..start + 2 * 70 + 2].copy_from_slice(&0x7fc0u16.to_le_bytes());
    fs::write(&path, &damaged).unwrap();
    for precision in [Precision::Auto, Precision::F32] {
        says(open(copy.path(), precision), &["model.safetensors: tensor `language_model.lm_head.weight` holds NaN at element 70"]);
    }
    let text = String::from_utf8(whole[8..8 + header].to_vec()).unwrap();
    let strange = text.replacen("\"BF16\"", "\"I16\" ", 1);
    fs::write(&path, [&whole[..8], strange.as_bytes(), &whole[8 + header..]].concat()).unwrap();
    says(open(copy.path(), Precision::Auto), &["is stored as I16; only F32, BF16 and F16 are supported"]);
}

#[test]
fn features_and_tokens_of_another_kind_are_refused() {
    let open = |folder: &Path| Transcriber::open_with(folder, WeightsFrom::Checkpoint, Precision::Auto, &Device::flex());
    let plain = copy("tiny");
    let file = plain.path().join("preprocessor_config.json");
    let right = fs::read_to_string(&file).unwrap();
    for (key, value) in [
        ("sampling_rate", json!(8000)),
        ("n_fft", json!(512)),
        ("hop_length", json!(80)),
        ("feature_size", json!(80)),
        ("chunk_length", json!(30)),
        ("nb_max_frames", json!(3000)),
    ] {
        edit(&file, |settings| settings[key] = value.clone());
        says(open(plain.path()), &["preprocessor_config.json", &format!("`{key}` is {value}")]);
        fs::write(&file, &right).unwrap();
    }
    // transformers 5 writes the same settings to another file.
    fs::remove_file(&file).unwrap();
    open(plain.path()).unwrap();
    let file = plain.path().join("processor_config.json");
    let mut settings = json!({ "feature_extractor": serde_json::from_str::<Value>(&right).unwrap() });
    fs::write(&file, settings.to_string()).unwrap();
    open(plain.path()).unwrap();
    settings["feature_extractor"]["dither"] = json!(0.5);
    fs::write(&file, settings.to_string()).unwrap();
    says(open(plain.path()), &["processor_config.json", "`dither` is 0.5"]);
    fs::remove_file(&file).unwrap();

    let file = plain.path().join("generation_config.json");
    edit(&file, |settings| settings["eos_token_id"] = json!([7]));
    assert_eq!(open(plain.path()).unwrap().special().eos, 7);
    for wrong in [json!([2, 7]), json!(512), json!(-1), json!("</s>")] {
        edit(&file, |settings| settings["eos_token_id"] = wrong);
        says(open(plain.path()), &["generation_config.json", "`eos_token_id`"]);
    }
}

#[test]
fn files_are_written_as_the_reference_writes_them() {
    use safetensors::tensor::{Dtype, TensorView};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let values = [("a \"quoted\"", vec![1f32, 2.0], 2), ("b", vec![3f32], 1), ("ä", vec![], 0)];
    let mut ours: BTreeMap<String, TensorData> =
        values.iter().map(|(name, values, count)| ((*name).to_owned(), TensorData::new(values.clone(), [*count]))).collect();
    let half = [0x3f80u16, 0x4000, 0x4040];
    ours.insert("Z".into(), TensorData::from_bytes_vec(half.iter().flat_map(|bits| bits.to_le_bytes()).collect(), [3], DType::BF16));
    write_tensors(&path, &ours).unwrap();
    let views = ours.iter().map(|(name, data)| {
        let dtype = if data.dtype() == DType::BF16 { Dtype::BF16 } else { Dtype::F32 };
        (name.as_str(), TensorView::new(dtype, data.shape().to_vec(), data.as_bytes()).unwrap())
    });
    let theirs = safetensors::serialize(views, Some([("format".to_owned(), "pt".to_owned())].into())).unwrap();
    assert!(fs::read(&path).unwrap() == theirs);
    assert_eq!(files(dir.path()).len(), 1, "no draft is left");
}

/// The adapter fixture with the `training.json` of a training stage.
fn adapter() -> tempfile::TempDir {
    let adapter = copy("peft-adapter");
    fs::write(adapter.path().join("training.json"), r#"{"method":"lora","seed":1}"#).unwrap();
    adapter
}

#[test]
fn a_merged_model_says_what_base_and_adapter_say() {
    let (adapter, out) = (adapter(), tempfile::tempdir().unwrap());
    let merged = merge::merge(&folder("tiny"), adapter.path(), out.path(), MergeDtype::AsBase, 200_000).unwrap();
    assert_eq!(merged.layers, 8);
    let (model, _) = open(out.path(), Precision::Auto).unwrap();
    let mut adapted = tiny();
    lora::load(&mut adapted, &folder("peft-adapter")).unwrap();
    let (reference, plain) = (Reference::read(), tiny());
    for clip in 0..2 {
        let example = reference.example(clip);
        let tokens = TokenBatch { rows: 1, length: example.ids.len(), ids: example.ids.clone() };
        let run = |model: &Voxtral| floats(&model.forward(&tokens, reference.stacked(clip)).unwrap().into_data()).unwrap();
        let (ours, theirs, base) = (run(&model), run(&adapted), run(&plain));
        let scale = theirs.iter().fold(1f32, |most, value| most.max(value.abs()));
        assert!(apart(&ours, &theirs) <= 1e-5 * scale, "off by {}", apart(&ours, &theirs));
        assert!(apart(&ours, &base) > 1e-2 * scale, "the adapter changes nothing");
    }
    let (ours, before) = (tensors(&model, |_| true), tensors(&plain, |_| true));
    assert!(ours.keys().eq(before.keys()));
    let changed: Vec<&String> = ours.iter().filter(|(name, data)| **data != before[*name]).map(|(name, _)| name).collect();
    assert_eq!(changed.len(), 8, "{changed:?}");
    let facts: Value = serde_json::from_str(&fs::read_to_string(out.path().join("training.json")).unwrap()).unwrap();
    assert_eq!((&facts["method"], &facts["merged"]), (&json!("lora"), &json!(true)));
    Transcriber::open_with(out.path(), WeightsFrom::Checkpoint, Precision::Auto, &Device::flex()).unwrap();
}

#[test]
fn a_merged_model_is_stored_as_asked() {
    let adapter = adapter();
    for (stored, dtype, size) in [(MergeDtype::Bf16, "bfloat16", 2), (MergeDtype::F32, "float32", 4)] {
        let out = tempfile::tempdir().unwrap();
        merge::merge(&folder("tiny"), adapter.path(), out.path(), stored, MAX_SHARD).unwrap();
        let config: Value = serde_json::from_str(&fs::read_to_string(out.path().join("config.json")).unwrap()).unwrap();
        assert_eq!(config["dtype"], dtype);
        let bytes = fs::metadata(out.path().join("model.safetensors")).unwrap().len();
        let values: usize = tensors(&tiny(), |_| true).values().map(|data| data.shape().num_elements()).sum();
        assert!(bytes.abs_diff((values * size) as u64) < 30_000, "{bytes} bytes");
    }
    // A base in Mistral's layout becomes a model in transformers' layout.
    let out = tempfile::tempdir().unwrap();
    let base = copy("forms/mistral");
    fs::copy(folder("tiny/tekken.json"), base.path().join("tekken.json")).unwrap();
    let (mut model, _) = open(base.path(), Precision::F32).unwrap();
    let small = tempfile::tempdir().unwrap();
    let adapters = crate::adapters::adapters(&["q_proj"]);
    lora::add(&mut model, &adapters, &mut WeightLoader::random(1, &Device::flex())).unwrap();
    lora::save(&model, &adapters, "x", small.path()).unwrap();
    merge::merge(base.path(), small.path(), out.path(), MergeDtype::AsBase, MAX_SHARD).unwrap();
    let (same, loaded) = open(out.path(), Precision::Auto).unwrap();
    assert_eq!(loaded.precision, Precision::Bf16);
    let expected = read_tensors(&folder("forms/expected.safetensors")).unwrap();
    let off = apart(&logits(&same, &expected), &floats(&expected["logits"]).unwrap());
    assert!(off <= tolerance(loaded.precision), "B is zero, so it is the base, but it is off by {off}");
    for name in ["generation_config.json", "preprocessor_config.json"] {
        assert!(out.path().join(name).exists(), "{name}");
    }
}

/// Loads a merged folder in transformers, and base with adapter in PEFT. Prints the maximum difference and magnitude of their logits.
const PEER: &str = r#"
import sys, json
try:
    import torch, transformers, peft
    from transformers import VoxtralForConditionalGeneration as V
except Exception as error:
    print(error, file=sys.stderr); sys.exit(77)
base, adapter, merged = sys.argv[1:]
load = lambda path: V.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
one = load(merged)
two = peft.PeftModel.from_pretrained(load(base), adapter).eval()
ids = torch.tensor([[1, 3, 25] + [24] * 25 + [4, 40, 41, 34, 50, 51, 52, 2]])
features = torch.randn(1, 128, 200, generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    a, b = (m(input_ids=ids, input_features=features, attention_mask=torch.ones_like(ids)).logits for m in (one, two))
print(json.dumps([(a - b).abs().max().item(), b.abs().max().item()]))
"#;

#[test]
fn transformers_loads_a_merged_model_and_agrees_with_peft() {
    let (adapter, out) = (adapter(), tempfile::tempdir().unwrap());
    merge::merge(&folder("tiny"), adapter.path(), out.path(), MergeDtype::AsBase, 200_000).unwrap();
    let python = std::env::var("VOXPIPE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let run = Command::new(python).args(["-c", PEER]).args([&folder("tiny"), &folder("peft-adapter")]).arg(out.path()).output();
    let output = match run {
        Ok(output) if output.status.code() != Some(77) => output,
        _ => {
            return skipped(
                "a merged model in transformers",
                "no Python with torch, transformers and peft (name one in VOXPIPE_TEST_PYTHON)",
            );
        }
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let [difference, scale]: [f64; 2] = serde_json::from_slice(&output.stdout).unwrap();
    assert!(difference <= 1e-5 * scale.max(1.0), "off by {difference} of {scale}");
    assert!(!errors.contains("newly initialized") && !errors.contains("MISSING"), "{errors}");
}
