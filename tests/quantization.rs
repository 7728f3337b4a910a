//! Quantized models (8 and 4 bits): loading from every file format, accuracy, and training adapters on them.

use crate::adapters::{adapters, logits};
use crate::model_parity::{Reference, folder, recipe};
use crate::support::Sandbox;
use burn::module::Param;
use burn::tensor::Device;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use voxtral::lora;
use voxtral::model::Voxtral;
use voxtral::model::config::VoxtralConfig;
use voxtral::training::{Trainer, TrainingConfig};
use voxtral::weights::precision::Precision;
use voxtral::weights::{WeightLoader, tensors};

fn open(folder: &Path, precision: Precision) -> Voxtral {
    let mut weights = WeightLoader::open(folder, VoxtralConfig::read(folder).unwrap().rope_heads(), precision, &Device::flex()).unwrap();
    let model = Voxtral::load(&VoxtralConfig::read(folder).unwrap(), &mut weights);
    let loaded = weights.finish().unwrap();
    assert_eq!(loaded.precision, precision);
    loaded.audit.passed().unwrap();
    model
}

/// The same model with dequantized f32 matrices, rounded to bf16 in products like the quantized ones.
fn to_f32(mut model: Voxtral) -> Voxtral {
    for (_, layer) in model.linears() {
        let lora = layer.lora.clone();
        let bias = layer.bias.clone();
        let dense = Param::from_tensor(layer.dense()).set_require_grad(false);
        *layer = voxtral::model::linear::Linear::of(dense);
        (layer.lora, layer.bias, layer.rounded) = (lora, bias, true);
    }
    model
}

#[test]
fn few_bits_are_near_the_exact_model() {
    let reference = Reference::read();
    let exact = logits(&open(&folder("tiny"), Precision::F32), &reference, 0);
    let size = (exact.iter().map(|x| x * x).sum::<f32>() / exact.len() as f32).sqrt();
    for (precision, within) in [(Precision::Q8, 0.02), (Precision::Q4, 0.3)] {
        let found = logits(&open(&folder("tiny"), precision), &reference, 0);
        let off = (found.iter().zip(&exact).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / exact.len() as f32).sqrt() / size;
        assert!(off < within && off > within / 30.0, "{precision}: off by {off}");
    }
}

#[test]
fn every_form_of_files_gives_the_same_few_bits() {
    let forms: Vec<_> = std::fs::read_dir(folder("forms")).unwrap().map(|form| form.unwrap().path()).filter(|form| form.is_dir()).collect();
    let mut compared = 0;
    for form in forms {
        let exact = {
            let mut weights =
                WeightLoader::open(&form, VoxtralConfig::read(&form).unwrap().rope_heads(), Precision::F32, &Device::flex()).unwrap();
            let model = Voxtral::load(&VoxtralConfig::read(&form).unwrap(), &mut weights);
            weights.finish().map(|_| model)
        };
        let Ok(mut exact) = exact else { continue };
        let mut few = open(&form, Precision::Q8);
        for ((name, exact), (_, few)) in exact.linears().into_iter().zip(few.linears()) {
            let values = |layer: &voxtral::model::linear::Linear| layer.dense().into_data().try_to_vec::<f32>().unwrap();
            let (exact, few) = (values(exact), values(few));
            let most = exact.iter().fold(0f32, |most, x| most.max(x.abs()));
            let off = exact.iter().zip(&few).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(off <= most / 250.0, "{}: {name} is off by {off} of {most}", form.display());
        }
        compared += 1;
    }
    assert!(compared >= 2, "{compared}");
}

#[test]
fn adapters_learn_on_few_bits_as_on_the_matrices_these_stand_for() {
    let (device, reference, stop) = (Device::flex(), Reference::read(), AtomicBool::new(false));
    let examples = [reference.example(0), reference.example(1)];
    for (precision, dora) in [(Precision::Q8, false), (Precision::Q4, false), (Precision::Q4, true)] {
        let run = |mut model: Voxtral| {
            let adapters = lora::LoraConfig { dora, audio_tower: true, ..adapters(&["q_proj", "v_proj", "down_proj"]) };
            lora::add(&mut model, &adapters, &mut WeightLoader::random(5, &device)).unwrap();
            let training = Trainer {
                examples: &examples,
                recipe: &TrainingConfig { epochs: 4.0, ..recipe() },
                trained: &|name| name.contains(".lora."),
                device: &device,
                stop: &stop,
                say: &mut |_| (),
                validation: None,
            };
            let done = training.run(model).unwrap();
            assert!(tensors(&done.model, |name| name.contains(".lora.")).len() >= 12);
            done.losses
        };
        let few = open(&folder("tiny"), precision);
        let (found, expected) = (run(few.clone()), run(to_f32(few)));
        assert!(found.last().unwrap().loss < found[0].loss, "{precision}");
        for (found, expected) in found.iter().zip(&expected) {
            let norms = (found.grad_norm - expected.grad_norm).abs() / expected.grad_norm;
            assert!((found.loss - expected.loss).abs() < 2e-3 && norms < 2e-2, "{precision}: {found:?} instead of {expected:?}");
        }
    }
}

#[test]
fn few_bits_are_asked_for_by_name() {
    let sandbox = Sandbox::new();
    let clip = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/audio/speech.wav");
    let model = folder("tiny");
    let transcribe = ["transcribe", clip, "--model", model.to_str().unwrap(), "--language", "en", "--max-new-tokens", "4", "--json"];
    for precision in ["q8", "q4"] {
        let heard = sandbox.run(&[&transcribe[..], &["--precision", precision]].concat()).exits(0).json();
        assert_eq!(heard["tokens"].as_array().unwrap().len(), 4);
    }
    sandbox.run(&[&transcribe[..], &["--precision", "q5"]].concat()).exits(2).complains("unknown precision `q5`");
}
