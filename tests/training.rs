//! Training: exact resume after an interruption, validation, early stopping and gradient checkpointing.

use crate::model_parity::{Reference, recipe, tiny};
use burn::tensor::{Device, TensorData};
use pipeline::exit::Exit;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use voxpipe::error::Error;
use voxtral::lora;
use voxtral::lora::LoraConfig;
use voxtral::model::Voxtral;
use voxtral::training::checkpoint::TrainingCheckpoint;
use voxtral::training::{CheckpointConfig, LossRow, Trainer, TrainingConfig, TrainingEvent, TrainingOutput, Validation};
use voxtral::weights::{WeightLoader, tensors};

fn adapters() -> LoraConfig {
    LoraConfig { r: 4, alpha: 8.0, dropout: 0.2, ..crate::adapters::adapters(&["q_proj", "down_proj"]) }
}

fn with_checkpoints(folder: &Path) -> TrainingConfig {
    TrainingConfig {
        epochs: 12.0,
        batch_size: 1,
        checkpoints: Some(CheckpointConfig { folder: folder.to_owned(), every: 4, kept: 2 }),
        ..recipe()
    }
}

/// Trains adapters with dropout and requests a stop after `stop_at` steps. Returns the losses or the exit code, the adapter bytes, and
/// the messages other than step events.
fn train(recipe: &TrainingConfig, stop_at: u64) -> (Result<Vec<LossRow>, Exit>, Vec<u8>, Vec<String>) {
    let mut said = Vec::new();
    match attempt(recipe, stop_at, &mut |what| said.push(what)) {
        Ok((model, losses)) => {
            let adapter = tensors(&model, |name| name.contains(".lora."));
            (Ok(losses), adapter.into_values().flat_map(|data| data.as_bytes().to_vec()).collect(), said)
        }
        Err(error) => (Err(Exit::from(&error)), Vec::new(), said),
    }
}

fn attempt(recipe: &TrainingConfig, stop_at: u64, said: &mut dyn FnMut(String)) -> Result<(Voxtral, Vec<LossRow>), Error> {
    let (device, reference, stop) = (Device::flex(), Reference::read(), AtomicBool::new(false));
    let mut model = tiny();
    assert_eq!(lora::add(&mut model, &adapters(), &mut WeightLoader::random(5, &device)).unwrap().adapted.len(), 4);
    let examples = [reference.example(0), reference.example(1)];
    let mut say = |event: TrainingEvent| match event {
        TrainingEvent::Step(row, _) if row.step == stop_at => stop.store(true, Ordering::Relaxed),
        TrainingEvent::Step(..) | TrainingEvent::Evaluated(_) => (),
        TrainingEvent::Resumed(state) => said(format!("resumed {}", state.step)),
        TrainingEvent::Warning(warning) => said(warning),
    };
    let trained = |name: &str| name.contains(".lora.");
    let training =
        Trainer { examples: &examples, recipe, trained: &trained, device: &device, stop: &stop, say: &mut say, validation: None };
    training.run(model).map(|done| (done.model, done.losses))
}

#[test]
fn an_interrupted_run_ends_in_the_same_bytes() {
    let (straight, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (losses, bytes, _) = train(&with_checkpoints(straight.path()), 0);
    let losses = losses.unwrap();
    assert_eq!(losses.len(), 24);

    assert_eq!(train(&with_checkpoints(cut.path()), 7).0, Err(Exit::Interrupted));
    let (resumed, resumed_bytes, said) = train(&with_checkpoints(cut.path()), 0);
    assert_eq!(said, ["resumed 7"]);
    assert_eq!(resumed.unwrap(), losses);
    assert!(resumed_bytes == bytes, "the adapters differ");
}

#[test]
fn a_damaged_checkpoint_is_skipped_for_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let (_, bytes, _) = train(&with_checkpoints(tempfile::tempdir().unwrap().path()), 0);
    assert_eq!(train(&with_checkpoints(folder.path()), 10).0, Err(Exit::Interrupted));
    let mut kept: Vec<String> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    kept.sort();
    assert_eq!(kept, ["step-000008", "step-000010"], "the previous one is kept, older ones go");

    let weights = folder.path().join("step-000010/weights.safetensors");
    let mut damaged = fs::read(&weights).unwrap();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    fs::write(&weights, damaged).unwrap();
    fs::create_dir(folder.path().join("step-000012.tmp")).unwrap();
    let (_, resumed, said) = train(&with_checkpoints(folder.path()), 0);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("`step-000010` is damaged") && said[0].contains("weights.safetensors"), "{said:?}");
    assert_eq!(said[1], "resumed 8");
    assert!(resumed == bytes, "the adapters differ");
}

#[test]
fn a_checkpoint_that_does_not_fit_the_run_names_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(train(&with_checkpoints(folder.path()), 5).0, Err(Exit::Interrupted));
    let layer = "language_model.model.layers.0.self_attn.q_proj.lora";
    type Edit<'a> = &'a dyn Fn(&mut TrainingCheckpoint);
    let edits: [(Edit, String); 6] = [
        (&|it| drop(it.weights.remove(&format!("{layer}.a"))), format!("has no `{layer}.a`")),
        (&|it| drop(it.weights.insert("x".into(), TensorData::new(vec![1f32], [1]))), "has `x`".to_owned()),
        (
            &|it| drop(it.weights.insert(format!("{layer}.a"), TensorData::new(vec![1f32], [1, 1]))),
            format!("`{layer}.a` with shape [1, 1]"),
        ),
        (&|it| drop(it.optimizer.remove(&format!("mean.{layer}.b"))), format!("has no `mean.{layer}.b`")),
        (&|it| drop(it.optimizer.remove(&format!("square.{layer}.b"))), format!("has no `square.{layer}.b`")),
        (&|it| drop(it.optimizer.insert("mean.x".into(), TensorData::new(vec![1f32], [1]))), "has `mean.x`".to_owned()),
    ];
    for (edit, words) in edits {
        let mut checkpoint = TrainingCheckpoint::newest(folder.path(), |skipped| panic!("{skipped}")).unwrap();
        edit(&mut checkpoint);
        let other = tempfile::tempdir().unwrap();
        checkpoint.write(other.path(), 2).unwrap();
        let error = attempt(&with_checkpoints(other.path()), 0, &mut |_| ()).unwrap_err();
        assert!(error.message.contains(&words) && error.message.contains("step-000005"), "{error}");
        assert!(error.hint.unwrap().contains(other.path().to_str().unwrap()));
    }
}

#[test]
fn a_loss_that_is_no_number_names_its_clips() {
    let recipe = TrainingConfig { learning_rate: 1e30, max_grad_norm: 0.0, ..recipe() };
    let (device, reference) = (Device::flex(), Reference::read());
    let examples = [reference.example(0), reference.example(1)];
    let trained = |name: &str| name != "audio_tower.embed_positions.weight";
    let stop = AtomicBool::new(false);
    let training = Trainer {
        examples: &examples,
        recipe: &recipe,
        trained: &trained,
        device: &device,
        stop: &stop,
        say: &mut |_| (),
        validation: None,
    };
    let error = training.run(tiny()).unwrap_err();
    assert!(
        error.message.contains("diverged at step 2") && error.message.contains("clip 0") && error.message.contains("clip 1"),
        "{}",
        error.message
    );
}

/// Trains with a validation metric that is best at step 6, and requests a stop after `stop_at` steps.
fn validated(folder: &Path, patience: Option<u64>, stop_at: u64) -> Result<TrainingOutput, Error> {
    validated_by(&|step| step.abs_diff(6) as f64, folder, patience, stop_at)
}

fn validated_by(distance: &dyn Fn(u64) -> f64, folder: &Path, patience: Option<u64>, stop_at: u64) -> Result<TrainingOutput, Error> {
    let (device, reference, stop, step) = (Device::flex(), Reference::read(), AtomicBool::new(false), AtomicU64::new(0));
    let mut model = tiny();
    lora::add(&mut model, &adapters(), &mut WeightLoader::random(5, &device)).unwrap();
    let mut look = |_: &Voxtral| Ok(BTreeMap::from([("distance".to_owned(), distance(step.load(Ordering::Relaxed)))]));
    let validation = Validation { every: 3, look: &mut look, metric: "distance".to_owned(), keep_best: true, patience };
    let training = Trainer {
        examples: &[reference.example(0), reference.example(1)],
        recipe: &with_checkpoints(folder),
        trained: &|name| name.contains(".lora."),
        device: &device,
        stop: &stop,
        say: &mut |said| {
            if let TrainingEvent::Step(row, _) = said {
                step.store(row.step, Ordering::Relaxed);
                stop.store(row.step == stop_at, Ordering::Relaxed);
            }
        },
        validation: Some(validation),
    };
    training.run(model)
}

fn adapter_bytes(model: &Voxtral) -> Vec<u8> {
    tensors(model, |name| name.contains(".lora.")).into_values().flat_map(|data| data.as_bytes().to_vec()).collect()
}

#[test]
fn a_validation_that_is_no_number_is_never_the_best_and_survives_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let distance = |step: u64| if step == 3 { f64::NAN } else { step.abs_diff(6) as f64 };
    assert_eq!(validated_by(&distance, folder.path(), None, 8).unwrap_err().kind, voxtral::error::ErrorKind::Interrupted);
    let kept = TrainingCheckpoint::newest(folder.path(), |skipped| panic!("{skipped}")).unwrap();
    assert!(kept.state.evaluations[0].metrics["distance"].is_nan());
    let whole = validated_by(&distance, folder.path(), None, 0).unwrap();
    assert_eq!((whole.kept, whole.evaluations.len()), (6, 8));
    assert!(whole.evaluations[0].metrics["distance"].is_nan(), "what was measured is told");
}

#[test]
fn the_best_model_is_kept_and_found_again() {
    let folders: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let whole = validated(folders[0].path(), None, 0).unwrap();
    assert_eq!((whole.kept, whole.stopped_early, whole.losses.len(), whole.evaluations.len()), (6, false, 24, 8));
    let impatient = validated(folders[1].path(), Some(2), 0).unwrap();
    assert_eq!((impatient.kept, impatient.stopped_early, impatient.losses.len(), impatient.evaluations.len()), (6, true, 12, 4));

    // The best model is that of step 6: a run stopped there has the same weights in its checkpoint.
    assert_eq!(validated(folders[2].path(), None, 6).unwrap_err().kind, voxtral::error::ErrorKind::Interrupted);
    let stopped = TrainingCheckpoint::newest(folders[2].path(), |skipped| panic!("{skipped}")).unwrap();
    let stopped: Vec<u8> = stopped.weights.into_values().flat_map(|data| data.as_bytes().to_vec()).collect();
    assert!(adapter_bytes(&whole.model) == stopped && adapter_bytes(&impatient.model) == stopped);

    // A run interrupted between two evaluations resumes with the same result; a lost best model is an error.
    let cut = folders[3].path();
    assert_eq!(validated(cut, None, 14).unwrap_err().kind, voxtral::error::ErrorKind::Interrupted);
    assert!(cut.join("best-000006").is_dir());
    let resumed = validated(cut, None, 0).unwrap();
    assert_eq!((resumed.kept, &resumed.evaluations), (6, &whole.evaluations));
    assert!(adapter_bytes(&resumed.model) == stopped);
    fs::write(cut.join("best-000006/weights.safetensors"), b"").unwrap();
    let error = validated(cut, None, 0).unwrap_err();
    assert!(error.message.contains("best-000006") && error.hint.unwrap().contains("remove"), "{}", error.message);
}

#[test]
fn computing_layers_twice_changes_no_byte() {
    let (device, reference, stop) = (Device::flex(), Reference::read(), AtomicBool::new(false));
    let examples = [reference.example(0), reference.example(1)];
    type Trained = fn(&str) -> bool;
    let kinds: [(&str, LoraConfig, Trained); 4] = [
        ("text", adapters(), |name| name.contains(".lora.")),
        ("upper layer", adapters(), |name| name.contains("layers.1.") && name.contains(".lora.")),
        ("tower and projector", LoraConfig { audio_tower: true, projector: true, ..adapters() }, |name| name.contains(".lora.")),
        ("full", adapters(), |name| name != "audio_tower.embed_positions.weight"),
    ];
    for (what, adapters, trained) in kinds {
        let run = |gradient_checkpointing: bool| {
            let recipe = TrainingConfig { gradient_checkpointing, epochs: 3.0, ..recipe() };
            let mut model = tiny();
            if what != "full" {
                lora::add(&mut model, &adapters, &mut WeightLoader::random(5, &device)).unwrap();
            }
            let training = Trainer {
                examples: &examples,
                recipe: &recipe,
                trained: &trained,
                device: &device,
                stop: &stop,
                say: &mut |_| (),
                validation: None,
            };
            let done = training.run(model).unwrap();
            (done.losses, tensors(&done.model, trained).into_values().map(|data| data.as_bytes().to_vec()).collect::<Vec<_>>())
        };
        let (plain, twice) = (run(false), run(true));
        assert!(plain.0.iter().all(|row| row.grad_norm > 0.0), "{what}");
        assert_eq!(plain.0, twice.0, "{what}");
        assert!(plain.1 == twice.1, "{what}");
    }
}

#[test]
fn a_full_training_in_brain_floats_stays_near_that_in_32_bits() {
    let (device, reference, stop) = (Device::flex(), Reference::read(), AtomicBool::new(false));
    let examples = [reference.example(0), reference.example(1)];
    let trained = |name: &str| name != "audio_tower.embed_positions.weight";
    let run = |rounded: bool| {
        let mut model = tiny();
        if rounded {
            model.compute_in_bf16();
        }
        let training = Trainer {
            examples: &examples,
            recipe: &TrainingConfig { epochs: 10.0, ..recipe() },
            trained: &trained,
            device: &device,
            stop: &stop,
            say: &mut |_| (),
            validation: None,
        };
        training.run(model).unwrap().losses
    };
    let (exact, rounded) = (run(false), run(true));
    assert!(exact.last().unwrap().loss < 0.9 * exact[0].loss);
    assert_ne!(exact, rounded);
    for (exact, rounded) in exact.iter().zip(&rounded) {
        assert!((exact.loss - rounded.loss).abs() < 0.02 * exact.loss, "step {}: {} and {}", exact.step, exact.loss, rounded.loss);
    }
}
