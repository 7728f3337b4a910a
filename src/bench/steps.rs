//! Benchmarks of whole optimizer steps and of transcription at several batch sizes.

use super::operations::{AROUND, TARGETS};
use super::roofline::{Roofline, random};
use super::{BenchRow, Benchmark, OperationCount, median};
use crate::error::{Error, Result, panic_message};
use burn::module::Param;
use burn::tensor::{DType, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use voxtral::audio::Features;
use voxtral::inference::generate::{DecoderPrompt, SpecialTokens, greedy};
use voxtral::inference::transcriber::stack;
use voxtral::lora::{LoraConfig, TargetModules};
use voxtral::model::{TokenBatch, Voxtral};
use voxtral::training::adamw::AdamWConfig;
use voxtral::training::collate::{Example, ExampleAudio};
use voxtral::training::memory_estimate::StepShape;
use voxtral::training::sampler::{Shuffle, ShuffleOrder};
use voxtral::training::{LossRow, LrScheduler, Trainer, TrainingConfig, TrainingEvent};
use voxtral::weights::precision::Precision;
use voxtral::weights::visitor::NamedVisitor;
use voxtral::weights::{WeightLoader, visitor};
use voxtral::{lora, weights};

/// Which parameters are trained, and whether the encoder outputs are cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// LoRA adapters in the text model; outputs of the frozen audio encoder are cached.
    Remembered,
    /// LoRA adapters in the text model; the frozen audio encoder runs in every step.
    Text,
    /// LoRA adapters in the audio encoder too.
    Everywhere,
    /// Every weight.
    Full,
}

impl Case {
    const ALL: [Self; 4] = [Self::Remembered, Self::Text, Self::Everywhere, Self::Full];

    fn name(self) -> &'static str {
        match self {
            Self::Remembered => "LoRA on the text model, audio remembered",
            Self::Text => "LoRA on the text model, audio heard",
            Self::Everywhere => "LoRA everywhere",
            Self::Full => "full",
        }
    }

    /// FLOPs of a step with batch size 1. The backward pass of a product costs one forward pass for x, and another for a trained weight.
    fn flops(self, work: OperationCount) -> f64 {
        let text = work.reading + work.writing;
        match self {
            Self::Remembered => 2.0 * text,
            Self::Text => work.hearing + 2.0 * text,
            Self::Everywhere => 2.0 * (work.hearing + text),
            Self::Full => 3.0 * (work.hearing + text),
        }
    }
}

/// Padding token id.
const PAD: u32 = 11;

/// Number of steps measured, after one warm-up step.
const STEPS: u64 = 6;

/// Measures loading, then each training case with each batch size.
pub(super) fn measure(bench: &Benchmark, ceiling: Option<Roofline>, report: &mut dyn FnMut(BenchRow)) -> Result<()> {
    let free = bench.device.free_memory();
    let (model, seconds) = bench.load()?;
    let size = bytes(&model);
    report(BenchRow {
        what: format!("{} the model in {}", if bench.model.is_some() { "loading" } else { "drawing" }, bench.precision),
        seconds: vec![seconds],
        gigabytes: Some(size as f64 / seconds / 1e9),
        memory: memory(bench, free),
        ..BenchRow::default()
    });
    let peak = ceiling.map(|ceiling| ceiling.of(bench.matrices()));
    let mut model = Some(model);
    for case in Case::ALL {
        let whole = match model.take() {
            Some(model) => model,
            None => bench.load()?.0,
        };
        if case != Case::Full {
            model = Some(whole.clone());
        }
        let (adapted, trained) = prepared(bench, whole, case)?;
        for batch in &bench.batches {
            let length = bench.config.audio_config.chunk_tokens() + AROUND;
            let shape = StepShape {
                length,
                chunks: 1,
                tower: matches!(case, Case::Everywhere | Case::Full),
                feed_forward: case == Case::Full,
                gradient_checkpointing: false,
                model: bytes(&adapted),
                trained,
            };
            let what = format!("{}, batch {batch}", case.name());
            let needed = shape.step(&bench.config, *batch);
            if free.is_some_and(|free| needed > free) {
                let note = format!("skipped: needs an estimated {} MiB, which is more than the free memory", needed >> 20);
                report(BenchRow { what, note, ..BenchRow::default() });
                continue;
            }
            let flops = *batch as f64 * case.flops(OperationCount::of(&bench.config, 1, length, TARGETS));
            let mut row = steps(bench, adapted.clone(), case, *batch)?.rated(flops, peak);
            row.what = what;
            row.memory = memory(bench, free);
            report(row);
        }
    }
    Ok(())
}

/// Adds the adapters of a case to a model. Returns it with the number of trained parameters.
fn prepared(bench: &Benchmark, mut model: Voxtral, case: Case) -> Result<(Voxtral, u64)> {
    if case == Case::Full && bench.matrices() == DType::BF16 {
        // Trained weights stay in f32; only the matrix products use bf16.
        drop(model);
        model = bench.load_as(Precision::F32)?.0;
        model.compute_in_bf16();
    }
    if case != Case::Full {
        let everywhere = case == Case::Everywhere;
        let names = ["q_proj", "k_proj", "v_proj", "o_proj", "out_proj"].into_iter().filter(|name| everywhere || *name != "out_proj");
        let adapters = LoraConfig {
            r: 8,
            alpha: 32.0,
            dropout: 0.0,
            targets: TargetModules::Names(names.map(str::to_owned).collect()),
            audio_tower: everywhere,
            projector: false,
            rslora: false,
            dora: false,
        };
        lora::add(&mut model, &adapters, &mut WeightLoader::random(1, &bench.device.device))?;
    }
    let trained = trains(case);
    let shapes = weights::shapes(&model).into_iter().filter(|(name, _)| trained(name));
    let count = shapes.map(|(_, shape)| shape.iter().product::<usize>() as u64).sum();
    Ok((model, count))
}

/// Whether a case trains the parameter of a name.
fn trains(case: Case) -> fn(&str) -> bool {
    match case {
        Case::Full => |name| name != "audio_tower.embed_positions.weight",
        _ => |name| name.contains(".lora."),
    }
}

/// Times a warm-up step and then the measured steps, in two rounds.
fn steps(bench: &Benchmark, model: Voxtral, case: Case, batch: usize) -> Result<BenchRow> {
    let (mut times, mut row) = (Vec::new(), BenchRow::default());
    let mut last = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        train(bench, model, case, batch, 1 + STEPS, 1e-5, &mut |_| {
            times.push(last.elapsed().as_secs_f64());
            last = Instant::now();
        })
    }));
    match outcome {
        Ok(done) => done?,
        Err(panic) => row.note = panic_message(panic.as_ref()).to_owned(),
    }
    if let Some((first, steady)) = times.split_first_mut().filter(|(_, steady)| steady.len() > 1) {
        let half = steady.len() / 2;
        row.seconds = vec![median(&mut steady[..half]), median(&mut steady[half..])];
        row.note = format!("first step {first:.3} s");
    }
    Ok(row)
}

/// Trains for a number of steps and reports the loss of each.
fn train(bench: &Benchmark, model: Voxtral, case: Case, batch: usize, steps: u64, lr: f64, report: &mut dyn FnMut(&LossRow)) -> Result<()> {
    let examples = examples(bench, &model, case, batch);
    let recipe = TrainingConfig {
        learning_rate: lr,
        warmup_steps: 0,
        lr_scheduler: LrScheduler::Constant,
        epochs: 1.0,
        max_steps: Some(steps),
        batch_size: batch,
        gradient_accumulation: 1,
        gradient_checkpointing: false,
        adamw: AdamWConfig::default(),
        max_grad_norm: 1.0,
        order: ShuffleOrder { shuffle: Shuffle::default(), seed: 0 },
        seed: 0,
        pad: PAD,
        checkpoints: None,
    };
    let training = Trainer {
        examples: &examples,
        recipe: &recipe,
        trained: &trains(case),
        device: &bench.device.device,
        stop: &AtomicBool::new(false),
        say: &mut |event| {
            if let TrainingEvent::Step(row, _) = event {
                report(row);
            }
        },
        validation: None,
    };
    training.run(model).map(drop)
}

/// The losses of a short training.
pub(super) fn losses(bench: &Benchmark, case: Case, steps: u64) -> Result<Vec<f64>> {
    let mut losses = Vec::new();
    let model = prepared(bench, bench.load()?.0, case)?.0;
    train(bench, model, case, 2, steps, 1e-3, &mut |row| losses.push(row.loss))?;
    Ok(losses)
}

/// The logits of every position of a row.
pub(super) fn scores(bench: &Benchmark) -> Result<Vec<f64>> {
    let model = bench.load()?.0;
    let ids = prompt(bench);
    let tokens = TokenBatch { rows: 1, length: ids.len(), ids };
    let features = stack([&features(bench, 0)].into_iter(), &bench.device.device);
    let scores = model.forward(&tokens, features)?.into_data().convert::<f64>();
    scores.try_to_vec::<f64>().map_err(|error| Error::new(format!("cannot read the logits: {error:?}")))
}

/// 30-second clips of noise with random transcript tokens.
fn examples(bench: &Benchmark, model: &Voxtral, case: Case, count: usize) -> Vec<Example> {
    let vocabulary = bench.config.text_config.vocab_size as u32;
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let example = |clip: usize| {
        let prompt = prompt(bench);
        let ids: Vec<u32> = prompt.iter().copied().chain((0..TARGETS).map(|_| rng.random_range(100..vocabulary))).collect();
        let features = features(bench, clip as u64);
        let sound = match case {
            Case::Remembered => {
                let features = stack([&features].into_iter(), &bench.device.device);
                ExampleAudio::Rows(model.embed_audio(features))
            }
            _ => ExampleAudio::Features(Arc::new(features)),
        };
        Example {
            name: format!("clip {clip}"),
            sound: Arc::new(move || Ok(sound.clone())),
            chunks: 1,
            prompt: prompt.len(),
            ids,
            anew: None,
        }
    };
    (0..count).map(example).collect()
}

/// The prompt: `<s> [INST] [BEGIN_AUDIO]`, the audio tokens, and the instruction.
fn prompt(bench: &Benchmark) -> Vec<u32> {
    let audio = std::iter::repeat_n(bench.config.audio_token_id, bench.config.audio_config.chunk_tokens());
    [1, 3, 25].into_iter().chain(audio).chain([4, 9, 10, 12, 34]).collect()
}

fn features(bench: &Benchmark, seed: u64) -> Features {
    let (mels, frames) = (bench.config.audio_config.num_mel_bins, 2 * bench.config.audio_config.max_source_positions);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Features { mels, frames, chunks: 1, data: (0..mels * frames).map(|_| rng.random_range(-1.0..1.5)).collect() }
}

/// Memory in use on a GPU, or the peak resident memory of this process, in bytes.
fn memory(bench: &Benchmark, free: Option<u64>) -> Option<u64> {
    match bench.device.name.as_str() {
        "cpu" => {
            let status = std::fs::read_to_string("/proc/self/status").ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
        }
        _ => Some(free?.saturating_sub(bench.device.free_memory()?)),
    }
}

/// Measures transcription of 30-second clips with a fixed number of tokens.
pub(super) fn transcribe(bench: &Benchmark, report: &mut dyn FnMut(BenchRow)) -> Result<()> {
    let (model, _) = bench.load()?;
    let seconds = bench.config.audio_config.max_source_positions as f64 / 50.0;
    let tokens = TARGETS;
    for batch in &bench.batches {
        let audio = random(
            [*batch, bench.config.audio_config.num_mel_bins, 2 * bench.config.audio_config.max_source_positions],
            &bench.device.device,
        );
        let prompts: Vec<DecoderPrompt> = (0..*batch).map(|_| DecoderPrompt { ids: prompt(bench), limit: tokens, guard: None }).collect();
        // No end-of-sequence token, so that every transcript has the same length.
        let special = SpecialTokens { eos: u32::MAX, pad: PAD };
        let mut failed = None;
        let mut row = bench.time(format!("transcription, batch {batch}"), || {
            if let Err(error) = greedy(&model, &prompts, model.embed_audio(audio.clone()), special, &mut |_| Ok(())) {
                failed = Some(error);
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if let Some(best) = row.seconds.iter().copied().reduce(f64::min) {
            let faster = seconds * *batch as f64 / best;
            row.note = format!("{faster:.1}× real time, {tokens} tokens per {seconds:.0} s of audio");
        }
        report(row);
    }
    Ok(())
}

impl Benchmark<'_> {
    /// Data type of the weight matrices.
    pub(super) fn matrices(&self) -> DType {
        if self.precision == Precision::F32 { DType::F32 } else { DType::BF16 }
    }
}

/// Size of a model's weights in bytes.
fn bytes(model: &Voxtral) -> u64 {
    struct Sum(u64);
    impl NamedVisitor for Sum {
        fn visit<const D: usize>(&mut self, _: &str, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            self.0 += tensor.shape().num_elements() as u64 * if tensor.dtype() == DType::BF16 { 2 } else { 4 };
        }
    }
    let mut sum = Sum(0);
    visitor::visit_named(model, &mut sum);
    sum.0
}
