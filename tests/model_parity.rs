//! Model, gradient and training parity with transformers and PEFT; `tests/voxtral/README.md` describes how the reference was made.

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use voxtral::audio::Features;
use voxtral::inference::transcriber::stack;
use voxtral::model::config::VoxtralConfig;
use voxtral::model::{TokenBatch, Voxtral};
use voxtral::training::collate::{Batch, Example, ExampleAudio};
use voxtral::training::sampler::{Shuffle, ShuffleOrder};
use voxtral::training::{LrScheduler, TrainableFilter, Trainer, TrainingConfig, TrainingEvent, TrainingOutput};
use voxtral::weights::precision::Precision;
use voxtral::weights::{WeightLoader, floats, read_tensors, tensors};
use voxtral::{lora, training};

pub(crate) fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/voxtral").join(name)
}

pub(crate) fn tiny() -> Voxtral {
    let device = Device::flex();
    let config = VoxtralConfig::read(&folder("tiny")).unwrap();
    let mut weights = WeightLoader::open(&folder("tiny"), config.rope_heads(), Precision::Auto, &device).unwrap();
    let model = Voxtral::load(&config, &mut weights);
    weights.finish().unwrap();
    model
}

pub(crate) struct Reference {
    tensors: BTreeMap<String, TensorData>,
    pub(crate) json: Value,
}

impl Reference {
    pub(crate) fn read() -> Self {
        let json = std::fs::read_to_string(folder("expected.json")).unwrap();
        Self { tensors: read_tensors(&folder("expected.safetensors")).unwrap(), json: serde_json::from_str(&json).unwrap() }
    }

    pub(crate) fn features(&self, clip: usize) -> Features {
        let data = &self.tensors[&format!("clip{clip}.features")];
        let shape = data.shape().to_vec();
        Features { chunks: shape[0], mels: shape[1], frames: shape[2], data: floats(data).unwrap() }
    }

    /// The features of a clip as a tensor `[chunks, mels, frames]`.
    pub(crate) fn stacked(&self, clip: usize) -> Tensor<3> {
        stack(std::iter::once(&self.features(clip)), &Device::flex())
    }

    pub(crate) fn ids(&self, clip: usize, key: &str) -> Vec<u32> {
        serde_json::from_value(self.json["clips"][clip][key].clone()).unwrap()
    }

    pub(crate) fn example(&self, clip: usize) -> Example {
        let (prompt, target) = (self.ids(clip, "prompt"), self.ids(clip, "target"));
        let length = prompt.len();
        let features = Arc::new(self.features(clip));
        Example {
            name: format!("clip {clip}"),
            chunks: features.chunks,
            sound: Arc::new(move || Ok(ExampleAudio::Features(features.clone()))),
            ids: [prompt, target].concat(),
            prompt: length,
            anew: None,
        }
    }
}

#[track_caller]
fn close<const D: usize>(what: &str, ours: Tensor<D>, theirs: &TensorData, tolerance: f32) {
    let ours = ours.inner().into_data();
    assert_eq!(ours.shape().num_elements(), theirs.shape().num_elements(), "{what}");
    let difference = floats(&ours).unwrap().iter().zip(floats(theirs).unwrap()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference <= tolerance, "{what}: off by {difference}");
}

#[test]
fn every_stage_of_the_forward_pass_equals_transformers() {
    let (model, reference) = (tiny(), Reference::read());
    for clip in 0..2 {
        let features = stack([&reference.features(clip)].into_iter(), &Device::flex());
        let expected = |name: &str| &reference.tensors[&format!("clip{clip}.{name}")];
        close("encoder", model.audio_tower.forward(features.clone()), expected("encoder"), 1e-4);
        close("projector", model.embed_audio(features.clone()), expected("projector"), 1e-4);
        let ids = reference.example(clip).ids;
        let tokens = TokenBatch { rows: 1, length: ids.len(), ids };
        close("logits", model.forward(&tokens, features).unwrap(), expected("logits"), 1e-4);
    }
}

#[test]
fn an_adapter_written_by_peft_gives_the_same_logits() {
    let (mut model, reference) = (tiny(), Reference::read());
    lora::load(&mut model, &folder("peft-adapter")).unwrap();
    for clip in 0..2 {
        let features = stack([&reference.features(clip)].into_iter(), &Device::flex());
        let ids = reference.example(clip).ids;
        let tokens = TokenBatch { rows: 1, length: ids.len(), ids };
        close("logits", model.forward(&tokens, features).unwrap(), &reference.tensors[&format!("clip{clip}.lora_logits")], 1e-4);
    }
}

#[test]
fn loss_and_every_gradient_equal_transformers() {
    let (model, reference) = (tiny(), Reference::read());
    let trained = |name: &str| name != "audio_tower.embed_positions.weight";
    let model = training::mark_trained(model, &trained);
    let example = reference.example(0);
    let loss = training::loss_sum(&model, &Batch::new(&[&example], 11, &Device::flex()).unwrap()).unwrap() / example.targets() as f64;
    let theirs = reference.json["clips"][0]["loss"].as_f64().unwrap();
    assert!((f64::from(loss.clone().into_scalar::<f32>()) - theirs).abs() < 1e-5);

    let mut gradient = training::adamw::GradientMap::default();
    gradient.add(&model, loss.backward());
    let mut seen = 0;
    for (name, expected) in reference.tensors.iter().filter_map(|(name, data)| Some((name.strip_prefix("gradient.")?, data))) {
        let largest = floats(expected).unwrap().iter().fold(0f32, |largest, value| largest.max(value.abs()));
        let ours = gradient.get(name).unwrap_or_else(|| panic!("no gradient for {name}"));
        close(name, ours, expected, 5e-5 * largest);
        seen += 1;
    }
    assert_eq!(seen, gradient.len(), "a gradient the reference does not have");
}

pub(crate) fn recipe() -> TrainingConfig {
    TrainingConfig {
        learning_rate: 1e-3,
        warmup_steps: 0,
        lr_scheduler: LrScheduler::Linear,
        epochs: 5.0,
        max_steps: None,
        order: ShuffleOrder { shuffle: Shuffle::Seeded, seed: 0 },
        batch_size: 2,
        gradient_accumulation: 1,
        gradient_checkpointing: false,
        adamw: training::adamw::AdamWConfig::default(),
        max_grad_norm: 1.0,
        seed: 0,
        pad: 11,
        checkpoints: None,
    }
}

fn run(model: Voxtral, trained: &TrainableFilter, recipe: &TrainingConfig, reference: &Reference, expected: &str) -> Voxtral {
    let examples = [reference.example(0), reference.example(1)];
    let mut say = |_: TrainingEvent| ();
    let (device, stop) = (Device::flex(), AtomicBool::new(false));
    let training = Trainer { examples: &examples, recipe, trained, device: &device, stop: &stop, say: &mut say, validation: None };
    let TrainingOutput { model, losses, .. } = training.run(model).unwrap();
    let steps = reference.json[expected]["steps"].as_array().unwrap();
    assert_eq!(losses.len(), steps.len());
    for (ours, theirs) in losses.iter().zip(steps) {
        let off = |ours: f64, key: &str| (ours - theirs[key].as_f64().unwrap()).abs();
        assert!(off(ours.loss, "loss") < 1e-5, "{expected}, step {}: loss {} and {}", ours.step, ours.loss, theirs["loss"]);
        assert!(
            off(ours.grad_norm, "grad_norm") < 1e-4,
            "{expected}, step {}: norm {} and {}",
            ours.step,
            ours.grad_norm,
            theirs["grad_norm"]
        );
        assert!(off(ours.learning_rate, "learning_rate") < 1e-12, "{expected}, step {}: rate", ours.step);
    }
    model
}

#[test]
fn five_steps_of_full_training_follow_the_reference() {
    run(tiny(), &|name| name != "audio_tower.embed_positions.weight", &recipe(), &Reference::read(), "full_training");
}

#[test]
fn five_steps_of_lora_end_in_the_reference_adapter_and_the_base_stays() {
    let (mut model, reference) = (tiny(), Reference::read());
    let before = tensors(&model, |name| !name.contains(".lora."));
    lora::load(&mut model, &folder("peft-adapter")).unwrap();
    let model = run(model, &|name| name.contains(".lora."), &recipe(), &reference, "lora_training");
    let after = tensors(&model, |_| true);
    let mut seen = 0;
    for (key, expected) in reference.tensors.iter().filter_map(|(name, data)| Some((name.strip_prefix("lora_final.")?, data))) {
        let name = key.replace("base_model.model.model.language_model.", "language_model.model.");
        let name = name.replace(".lora_A.weight", ".lora.a").replace(".lora_B.weight", ".lora.b");
        let ours = Tensor::<2>::from_data(after[&name].clone(), &Device::flex());
        close(key, ours, expected, 1e-5);
        seen += 1;
    }
    assert_eq!(seen, after.keys().filter(|name| name.contains(".lora.")).count());
    for (name, data) in before {
        assert_eq!(data, after[&name], "{name} is frozen but moved");
    }
}

#[test]
fn accumulation_changes_nothing_but_rounding() {
    let reference = Reference::read();
    let recipe = TrainingConfig { batch_size: 1, gradient_accumulation: 2, ..recipe() };
    run(tiny(), &|name| name != "audio_tower.embed_positions.weight", &recipe, &reference, "full_training");
}
