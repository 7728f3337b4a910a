//! LoRA, rsLoRA and DoRA adapters: parity with PEFT, the saved PEFT layout, and error messages for invalid adapters.
//!
//! `tests/voxtral/make_adapters.py` made the reference values. If the Python packages are installed, `peft_roundtrip.py` compares with PEFT
//! directly.

mod files;
mod peft;
mod settings;

use crate::model_parity::{Reference, folder, recipe, tiny};
use burn::module::Param;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::AtomicBool;
use voxtral::inference::transcriber::{Transcriber, WeightsFrom};
use voxtral::lora::merge::{MergeDtype, merge};
use voxtral::lora::{LoraConfig, TargetModules};
use voxtral::model::{TokenBatch, Voxtral};
use voxtral::training::collate::Batch;
use voxtral::training::{Trainer, TrainingEvent, TrainingOutput};
use voxtral::weights::precision::Precision;
use voxtral::weights::{WeightLoader, floats, read_tensors, tensors};
use voxtral::{lora, training};

/// Every 64th logit is compared, as in the reference script.
const EVERY: usize = 64;

pub(crate) fn adapters(targets: &[&str]) -> LoraConfig {
    let targets = TargetModules::Names(targets.iter().map(|target| (*target).to_owned()).collect());
    LoraConfig { r: 2, alpha: 4.0, dropout: 0.0, targets, audio_tower: false, projector: false, rslora: false, dora: false }
}

/// The logits of a clip, all positions concatenated.
pub(crate) fn logits(model: &Voxtral, reference: &Reference, clip: usize) -> Vec<f32> {
    let example = reference.example(clip);
    let tokens = TokenBatch { rows: 1, length: example.ids.len(), ids: example.ids.clone() };
    floats(&model.forward(&tokens, reference.stacked(clip)).unwrap().inner().into_data()).unwrap()
}

pub(crate) fn distance(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn read(tensor: &TensorData) -> Vec<f32> {
    floats(tensor).unwrap()
}

fn expected() -> BTreeMap<String, TensorData> {
    read_tensors(&folder("adapters/expected.safetensors")).unwrap()
}

#[test]
fn adapters_written_by_peft_give_the_same_logits() {
    let (reference, expected) = (Reference::read(), expected());
    for kind in ["dora", "rslora"] {
        let mut model = tiny();
        lora::load(&mut model, &folder("adapters").join(kind)).unwrap();
        for clip in 0..2 {
            let ours: Vec<f32> = logits(&model, &reference, clip).into_iter().step_by(EVERY).collect();
            let off = distance(&ours, &read(&expected[&format!("{kind}.clip{clip}.logits")]));
            assert!(off < 1e-4, "{kind}, clip {clip}: off by {off}");
        }
    }
}

#[test]
fn five_steps_of_training_follow_peft() {
    let (reference, expected) = (Reference::read(), expected());
    let facts: Value = serde_json::from_str(&fs::read_to_string(folder("adapters/expected.json")).unwrap()).unwrap();
    for kind in ["dora", "rslora"] {
        let mut model = tiny();
        let base = tensors(&model, |_| true);
        lora::load(&mut model, &folder("adapters").join(kind)).unwrap();
        let (examples, stop) = ([reference.example(0), reference.example(1)], AtomicBool::new(false));
        let trained = |name: &str| name.contains(".lora.");
        let training = Trainer {
            examples: &examples,
            recipe: &recipe(),
            trained: &trained,
            device: &Device::flex(),
            stop: &stop,
            say: &mut |_: TrainingEvent| (),
            validation: None,
        };
        let TrainingOutput { model, losses, .. } = training.run(model).unwrap();
        let steps = facts[format!("{kind}_training")]["steps"].as_array().unwrap();
        assert_eq!(losses.len(), steps.len());
        for (ours, theirs) in losses.iter().zip(steps) {
            let off = |ours: f64, key: &str| (ours - theirs[key].as_f64().unwrap()).abs();
            assert!(off(ours.loss, "loss") < 1e-5, "{kind}, step {}: loss {}, not {}", ours.step, ours.loss, theirs["loss"]);
            assert!(off(ours.grad_norm, "grad_norm") < 1e-4, "{kind}, step {}: {} {}", ours.step, ours.grad_norm, theirs["grad_norm"]);
        }
        // The DoRA norms of the returned model must be those of its last step.
        let targets: usize = examples.iter().map(training::collate::Example::targets).sum();
        let batch = Batch::new(&examples.iter().collect::<Vec<_>>(), 11, &Device::flex()).unwrap();
        let after = f64::from(training::loss_sum(&model, &batch).unwrap().into_scalar::<f32>()) / targets as f64;
        let theirs = facts[format!("{kind}_training")]["loss_after"].as_f64().unwrap();
        assert!((after - theirs).abs() < 1e-5, "{kind}: {after}, not {theirs}");

        let now = tensors(&model, |_| true);
        let mut seen = 0;
        for (key, theirs) in expected.iter().filter_map(|(key, data)| Some((key.strip_prefix(&format!("{kind}.final."))?, data))) {
            let name = key.replace("base_model.model.model.", "").replace("language_model.layers", "language_model.model.layers");
            let name = name.replace(".lora_A.weight", ".lora.a").replace(".lora_B.weight", ".lora.b");
            let off = distance(&read(&now[&name.replace(".lora_magnitude_vector", ".lora.dora.magnitude")]), &read(theirs));
            assert!(off < 1e-5, "{kind}, {key}: off by {off}");
            seen += 1;
        }
        assert_eq!(seen, now.keys().filter(|name| trained(name)).count());
        assert!(base.iter().all(|(name, data)| now[name] == *data), "the base has moved");
    }
}

#[test]
fn a_fresh_adapter_of_any_kind_changes_nothing() {
    let reference = Reference::read();
    let plain = logits(&tiny(), &reference, 0);
    for (rslora, dora) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut model = tiny();
        let adapters = LoraConfig { audio_tower: true, projector: true, rslora, dora, ..adapters(&["q_proj", "fc2", "down_proj"]) };
        let placed = lora::add(&mut model, &adapters, &mut WeightLoader::random(1, &Device::flex())).unwrap();
        assert_eq!((placed.adapted.len(), placed.kept_out.len()), (10, 0));
        let off = distance(&logits(&model, &reference, 0), &plain);
        assert!(off < 2e-5, "rslora {rslora}, dora {dora}: off by {off}");
    }
}

/// The tiny model with a trained adapter of this kind.
fn moved(kind: &str) -> Voxtral {
    let mut model = tiny();
    lora::load(&mut model, &folder("adapters").join(kind)).unwrap();
    model
}

#[test]
fn a_merged_weight_computes_what_weight_and_adapter_do() {
    let reference = Reference::read();
    for kind in ["dora", "rslora"] {
        let mut model = moved(kind);
        let with = logits(&model, &reference, 1);
        for (_, layer) in model.linears() {
            if let Some(lora) = layer.lora.take() {
                layer.weight = Param::from_tensor(lora.merged(layer.weight.val()));
            }
        }
        let off = distance(&logits(&model, &reference, 1), &with);
        assert!(off < 2e-5, "{kind}: off by {off}");

        // The same for merging files.
        let out = tempfile::tempdir().unwrap();
        merge(&folder("tiny"), &folder("adapters").join(kind), out.path(), MergeDtype::F32, 1 << 30).unwrap();
        let merged = Transcriber::open_with(out.path(), WeightsFrom::Checkpoint, Precision::Auto, &Device::flex()).unwrap();
        let off = distance(&logits(&merged.model, &reference, 1), &with);
        assert!(off < 2e-5, "{kind}, in files: off by {off}");
    }
}

#[test]
fn a_base_in_bf16_takes_adapters() {
    let reference = Reference::read();
    let rounded = |keep: bool| {
        let mut model = tiny();
        for (_, layer) in model.linears() {
            let bf16 = layer.weight.val().cast(FloatDType::BF16);
            layer.weight = Param::from_tensor(if keep { bf16 } else { bf16.cast(FloatDType::F32) });
        }
        lora::load(&mut model, &folder("adapters/dora")).unwrap();
        model
    };
    let (mut narrow, mut wide) = (rounded(true), rounded(false));
    // Matrix products with bf16 weights may round the activations to bf16 too.
    let off = distance(&logits(&narrow, &reference, 0), &logits(&wide, &reference, 0));
    assert!(off < 5e-2, "off by {off}");
    let merged = |model: &mut Voxtral| -> Vec<Vec<f32>> {
        let layers = model.linears().into_iter();
        layers.filter_map(|(_, layer)| Some(read(&layer.lora.as_ref()?.merged(layer.weight.val()).into_data()))).collect()
    };
    assert_eq!(merged(&mut narrow), merged(&mut wide));

    // Training on a bf16 base: magnitudes, A and B get gradients.
    let model = training::mark_trained(narrow, &|name| name.contains(".lora."));
    let example = reference.example(0);
    let loss = training::loss_sum(&model, &Batch::new(&[&example], 11, &Device::flex()).unwrap()).unwrap();
    let mut gradient = training::adamw::GradientMap::default();
    gradient.add(&model, loss.backward());
    assert_eq!(gradient.len(), 3 * 7);
}

/// DoRA with dropout against a scalar reference: dropout also affects DoRA's change of the base output.
#[test]
fn dora_with_dropout_is_computed_as_peft_does() {
    let (inputs, outputs, r, rows, dropout) = (96, 48, 2, 5, 0.4);
    let mut model = tiny();
    let only = LoraConfig { alpha: 3.0, dropout, dora: true, ..adapters(&["layers.1.self_attn.o_proj"]) };
    assert_eq!(lora::add(&mut model, &only, &mut WeightLoader::random(1, &Device::flex())).unwrap().adapted.len(), 1);
    let name = "language_model.model.layers.1.self_attn.o_proj";
    let draw =
        |seed: usize, count: usize| -> Vec<f32> { (0..count).map(|i| (((i * 37 + seed * 101) % 97) as f32 - 48.0) / 50.0).collect() };
    let tensor = |values: Vec<f32>, shape: [usize; 2]| Tensor::<2>::from_data(TensorData::new(values, shape), &Device::flex());
    let (a, b, m) = (draw(1, r * inputs), draw(2, outputs * r), draw(3, outputs));
    {
        let lora = model.language_model.model.layers[1].self_attn.o_proj.lora.as_mut().unwrap();
        lora.a = Param::from_tensor(tensor(a.clone(), [r, inputs]));
        lora.b = Param::from_tensor(tensor(b.clone(), [outputs, r]));
        let m = Tensor::from_data(TensorData::new(m.clone(), [outputs]), &Device::flex());
        lora.dora.as_mut().unwrap().magnitude = Param::from_tensor(m);
    }
    model.measure();
    let mut model = training::mark_trained(model, &|path| path.starts_with(name) && path.contains(".lora."));
    model.reseed_dropout(9, &[3], &[1]);
    let x = draw(4, rows * inputs);
    let layer = &model.language_model.model.layers[1].self_attn.o_proj;
    let ours = layer.forward(tensor(x.clone(), [rows, inputs])).inner().into_data();

    let mask = voxtral::model::dropout::SeededDropout::new(9, name, [3].into());
    let mask: Vec<f32> = read(&mask.mask(dropout, [rows, inputs], &Device::flex()).into_data());
    assert!(mask.contains(&0.0) && mask.iter().any(|kept| *kept > 1.0));
    let weight = read(&layer.weight.val().into_data());
    let f = |value: f32| f64::from(value);
    let scale = 3.0 / r as f64;
    let mut by_hand = Vec::new();
    for row in 0..rows {
        for out in 0..outputs {
            let (mut whole, mut dropped, mut update, mut norm) = (0.0, 0.0, 0.0, 0.0);
            for i in 0..inputs {
                let (w, x) = (f(weight[out * inputs + i]), f(x[row * inputs + i]));
                let kept = x * f(mask[row * inputs + i]);
                let ba: f64 = (0..r).map(|k| f(b[out * r + k]) * f(a[k * inputs + i])).sum();
                whole += w * x;
                dropped += w * kept;
                update += ba * kept;
                norm += (w + scale * ba).powi(2);
            }
            let factor = f(m[out]) / norm.sqrt();
            by_hand.push((whole + (factor - 1.0) * dropped + factor * scale * update) as f32);
        }
    }
    let off = distance(&read(&ours), &by_hand);
    assert!(off < 2e-5, "off by {off}");
}

#[test]
fn dropout_is_the_same_however_a_step_is_cut() {
    let reference = Reference::read();
    let mut model = tiny();
    let adapters = LoraConfig { dropout: 0.3, audio_tower: true, projector: true, ..adapters(&["q_proj", "fc1", "down_proj"]) };
    lora::add(&mut model, &adapters, &mut WeightLoader::random(1, &Device::flex())).unwrap();
    // B is initialized to zero, which would hide dropout.
    for (_, layer) in model.linears() {
        if let Some(lora) = &mut layer.lora {
            let shape = lora.b.dims();
            let values = (0..shape[0] * shape[1]).map(|i| ((i * 29 % 17) as f32 - 8.0) / 20.0).collect::<Vec<_>>();
            lora.b = Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), &Device::flex()));
        }
    }
    let examples = [reference.example(0), reference.example(1), reference.example(0)];
    let loss = |cuts: &[&[usize]], seed: u64| -> f64 {
        let mut sum = 0.0;
        for rows in cuts {
            let mut model = training::mark_trained(model.clone(), &|name| name.contains(".lora."));
            let batch = Batch::new(&rows.iter().map(|row| &examples[*row]).collect::<Vec<_>>(), 11, &Device::flex()).unwrap();
            model.reseed_dropout(seed, rows, &batch.chunks);
            sum += f64::from(training::loss_sum(&model, &batch).unwrap().into_scalar::<f32>());
        }
        sum
    };
    let whole = loss(&[&[0, 1, 2]], 5);
    for cuts in [&[&[0][..], &[1], &[2]][..], &[&[0, 1], &[2]], &[&[0], &[1, 2]]] {
        let cut = loss(cuts, 5);
        assert!((cut - whole).abs() < 1e-3, "{cuts:?}: {cut}, not {whole}");
    }
    assert!((loss(&[&[0, 1, 2]], 6) - whole).abs() > 0.1, "another seed drops something else");
}
