//! `train`: fine-tunes a Voxtral model on a dataset, with LoRA (Hu 2021) or in full.
//!
//! Input: a dataset and a base model. Output: a PEFT adapter or a full model in the layout of the Hub, with `training.json`,
//! `trained-on.json`, `loss.jsonl` and, with validation, `eval.jsonl`.

mod adapter;
mod augment;
mod base;
mod batches;
mod defaults;
mod eval;
mod events;
mod examples;
mod phases;

use super::is_hub_id;
use crate::error::{Error, Result};
use crate::hub;
use crate::hub::RepoRevision;
use batches::{BatchSize, Batches, Cut};
use pipeline::artifact::ArtifactKind;
use pipeline::stage::{Arity, Context, Failure, Port, ResolveRevision, SettingError, Stage, StageOutcome, SuggestedSettings};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;
use voxtral::model::model_dir;
use voxtral::training::adamw::AdamWConfig;
use voxtral::training::sampler::{Shuffle, ShuffleOrder};
use voxtral::training::{CheckpointConfig, LrScheduler, TrainingConfig};
use voxtral::weights::precision::Precision;
use voxtral::{device, lora};

/// Fine-tune a Voxtral model on a dataset.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// The base model: a model folder in transformers' or Mistral's layout, or a repository id on the Hub such as
    /// `mistralai/Voxtral-Mini-3B-2507`. Leave it out when `from.base` names a stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<String>,
    /// Branch, tag or commit of the base model's repository. Default: the main branch. Name a commit for a reproducible result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    /// Hub id of the base model (`mistralai/Voxtral-Mini-3B-2507`) when `base` is a local copy of it: the adapter then names this id as its
    /// base instead of your folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base_model: Option<String>,
    /// Initial weights of the base model: `checkpoint` (its safetensors files, the default) or `random` (initialized from the stage's seed,
    /// to train from scratch).
    #[serde(default)]
    init: Init,
    /// Training method: `lora` (the default) trains a small adapter and freezes the base weights, `full` trains every weight.
    #[serde(default)]
    method: Method,
    /// LoRA adapter settings; used with `method = "lora"`.
    #[serde(default)]
    lora: adapter::Lora,
    /// Peak learning rate, reached after the warmup.
    #[serde(default = "defaults::learning_rate")]
    learning_rate: f64,
    /// Folder of an existing adapter, written by PEFT or voxpipe, to continue training from instead of a new one. Its layers and rank must
    /// match `lora`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    adapter: Option<String>,
    /// Continue from `adapter` even if it was trained on another base model than this one. Default: refuse.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    adapter_on_any_base: bool,
    /// Number of passes over the training clips; may be fractional.
    #[serde(default = "defaults::epochs")]
    epochs: f64,
    /// Total number of optimizer steps; overrides `epochs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_steps: Option<u64>,
    /// Order of the clips: `seeded` (the default) shuffles them anew in each epoch, `torch` does so in the order of transformers' Trainer
    /// (for comparison), `none` keeps the order of the dataset.
    #[serde(default, skip_serializing_if = "is_default")]
    shuffle: Shuffle,
    /// Seed of the shuffle. Default: the stage's seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shuffle_seed: Option<u64>,
    /// Clips per forward pass, or `auto` for as many as fit into the free memory of the device.
    #[serde(default = "defaults::batch_size")]
    batch_size: BatchSize,
    /// Forward passes per optimizer step; the effective batch size is this times `batch_size`. Ignored with `batch_size = "auto"`, which
    /// sets it.
    #[serde(default = "defaults::gradient_accumulation")]
    gradient_accumulation: usize,
    /// Effective batch size, in clips per optimizer step, with `batch_size = "auto"`. Default: 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    effective_batch: Option<usize>,
    /// Gradient checkpointing: store layer inputs only and recompute activations in the backward pass. Uses less memory, takes about a
    /// third more time, and gives the same result.
    #[serde(default)]
    #[schemars(extend("x-formerly" = "recompute"))]
    gradient_checkpointing: bool,
    /// Learning-rate scheduler after the warmup.
    #[serde(default)]
    #[schemars(extend("x-formerly" = "schedule"))]
    lr_scheduler: LrScheduler,
    /// Optimizer steps over which the learning rate rises linearly from zero to `learning_rate`.
    #[serde(default)]
    warmup_steps: u64,
    /// AdamW weight decay; not applied to norms and biases.
    #[serde(default)]
    weight_decay: f64,
    /// AdamW beta1: decay rate of the running mean of the gradients.
    #[serde(default = "defaults::adam_beta1")]
    adam_beta1: f64,
    /// AdamW beta2: decay rate of the running mean of the squared gradients; 0.98 suits short runs from scratch.
    #[serde(default = "defaults::adam_beta2")]
    adam_beta2: f64,
    /// AdamW epsilon, added to the denominator for numerical stability.
    #[serde(default = "defaults::adam_epsilon")]
    adam_epsilon: f64,
    /// Gradient clipping: maximum L2 norm of the gradient over all trained parameters; 0 disables clipping.
    #[serde(default = "defaults::max_grad_norm")]
    max_grad_norm: f64,
    /// Maximum transcript length in tokens; clips with longer transcripts are excluded from training, with a warning for each.
    #[serde(default = "defaults::max_text_tokens")]
    max_text_tokens: usize,
    /// Data augmentation: apply random changes to each clip in every epoch, against overfitting. The audio encoder then runs on every clip
    /// in every epoch. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    augment: Option<augment::Augment>,
    /// Validation during training: evaluate held-out clips at intervals, keep the best model, and optionally stop early. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    eval: Option<eval::Eval>,
    /// Number of checkpoints to keep; an older one is used if the newest is damaged.
    #[serde(default = "defaults::save_total_limit")]
    #[schemars(extend("x-formerly" = "keep_checkpoints"))]
    save_total_limit: usize,
    /// Optimizer steps between two checkpoints.
    #[serde(default = "defaults::save_steps")]
    #[schemars(extend("x-formerly" = "checkpoint_steps"))]
    save_steps: u64,
    /// Feature cache: store the output of a frozen audio encoder on disk and reuse it in later epochs, runs and evaluations.
    #[serde(default = "defaults::audio_cache")]
    audio_cache: bool,
    /// Device: `auto` (a GPU if there is one, otherwise the CPU), `cpu`, or one GPU: `cuda:N`, `rocm:N`, `wgpu:N`.
    #[serde(default = "defaults::device")]
    device: String,
    /// Data type of frozen weight matrices in memory: `auto` (as stored by the base model), `f32`, `bf16`, `q8` or `q4` (8 or 4 bits).
    /// Trained weights are always kept in `f32`; full fine-tuning with `bf16` rounds them to bf16 for the matrix products of the forward
    /// and backward passes, which is faster.
    #[serde(default)]
    precision: Precision,
}

/// Source of the initial weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Init {
    /// The base model's safetensors files.
    #[default]
    Checkpoint,
    /// Random initialization from the stage's seed.
    Random,
}

/// Training method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Method {
    /// A LoRA adapter on frozen weights.
    #[default]
    Lora,
    /// Every weight except the fixed position embeddings of the audio encoder.
    Full,
}

fn is_default(shuffle: &Shuffle) -> bool {
    *shuffle == Shuffle::default()
}

/// Upper limit for batch sizes, ranks and mask widths.
const MOST: usize = 1 << 16;

impl Stage for Train {
    const KIND: &'static str = "train";
    const ABOUT: &'static str = "fine-tunes a Voxtral model on a dataset, with LoRA or in full";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[
        Port { name: "data", kinds: &[ArtifactKind::Dataset], arity: Arity::One, about: "the dataset; training uses its train split" },
        Port {
            name: "base",
            kinds: &[ArtifactKind::Model],
            arity: Arity::Optional,
            about: "the base model: a full model from another stage, instead of `with.base`",
        },
    ];

    fn output(&self) -> ArtifactKind {
        ArtifactKind::Model
    }

    fn check(&self) -> Vec<SettingError> {
        let positive = |ok: bool, key: &str, what: &str| (!ok).then(|| SettingError::new(key, format!("`{key}` must be {what}")));
        let mut complaints: Vec<SettingError> = [
            positive(self.learning_rate > 0.0 && self.learning_rate.is_finite(), "learning_rate", "a number above 0, such as 5e-5"),
            positive(self.epochs > 0.0 && self.epochs.is_finite(), "epochs", "a number above 0, such as 3"),
            positive(self.weight_decay >= 0.0 && self.weight_decay.is_finite(), "weight_decay", "0 or more"),
            positive((0.0..1.0).contains(&self.adam_beta1), "adam_beta1", "from 0 to below 1"),
            positive((0.0..1.0).contains(&self.adam_beta2), "adam_beta2", "from 0 to below 1"),
            positive(self.adam_epsilon > 0.0 && self.adam_epsilon.is_finite(), "adam_epsilon", "above 0, such as 1e-8"),
            positive(self.max_grad_norm >= 0.0, "max_grad_norm", "0 or more"),
            positive(self.max_text_tokens > 0, "max_text_tokens", "at least 1"),
            positive(self.save_steps > 0, "save_steps", "at least 1"),
            positive(self.save_total_limit > 0, "save_total_limit", "at least 1"),
            positive(self.max_steps != Some(0), "max_steps", "at least 1"),
            positive(device::is_name(&self.device), "device", device::NAMES),
        ]
        .into_iter()
        .flatten()
        .collect();
        if self.init == Init::Random && self.method == Method::Lora {
            let message = "a LoRA adapter needs a trained base model: no base with these random weights could be loaded again";
            complaints.push(SettingError::new("init", message).hint("write `method = \"full\"`, or leave `init` out"));
        }
        if self.method == Method::Full && self.precision.bits().is_some() {
            let message = "full fine-tuning trains every weight matrix, and trained weights are kept in f32";
            complaints.push(
                SettingError::new("precision", message)
                    .hint("leave `precision` out or write \"bf16\", or train a LoRA adapter with `method = \"lora\"`"),
            );
        }
        if let Some(id) = self.base_model.as_deref().filter(|id| !is_hub_id(id)) {
            let message = format!("`{id}` is not a Hub model id");
            complaints.push(SettingError::new("base_model", message).hint("write `owner/name`, or leave it out"));
        }
        if self.revision.is_some() && self.base.as_deref().and_then(RepoRevision::parse).is_none() {
            let message = "`revision` needs a `base` that is a Hub repository such as `org/name`";
            complaints.push(SettingError::new("revision", message).hint("leave `revision` out, or name a repository in `base`"));
        }
        if self.method == Method::Lora {
            complaints.extend(self.lora.check());
        } else if self.adapter.is_some() {
            let message = "full fine-tuning cannot continue from an adapter";
            complaints
                .push(SettingError::new("adapter", message).hint("write `method = \"lora\"`, or merge the adapter into its base first"));
        }
        if self.adapter_on_any_base && self.adapter.is_none() {
            complaints.push(
                SettingError::new("adapter_on_any_base", "`adapter_on_any_base` has no effect without `adapter`").hint("leave it out"),
            );
        }
        complaints.extend(self.batches().check());
        complaints.extend(self.eval.iter().flat_map(eval::Eval::check));
        complaints.extend(self.augment.iter().flat_map(augment::Augment::check));
        if self.shuffle_seed.is_some() && self.shuffle == Shuffle::None {
            complaints
                .push(SettingError::new("shuffle_seed", "`shuffle_seed` has no effect with `shuffle = \"none\"`").hint("leave it out"));
        }
        complaints
    }

    fn sources(&self) -> Vec<PathBuf> {
        self.base.iter().chain(&self.adapter).map(PathBuf::from).collect()
    }

    fn pin(&mut self, pin: &mut ResolveRevision<'_>) {
        if let Some(base) = &mut self.base {
            hub::pin(base, Some(&mut self.revision), pin);
        }
    }

    fn reads(&self, file: &str) -> bool {
        // What the base and the adapter were trained on goes into the result.
        let facts = ["training.json", model_dir::TRAINED_ON].contains(&file);
        model_dir::counts(file) || lora::is_adapter_file(file) || facts
    }

    fn identity(&self) -> Value {
        let mut identity = self.settings();
        if let Some(settings) = identity.as_object_mut() {
            // How a batch is split into forward passes and how often checkpoints are saved do not change the result.
            let cuts = ["batch_size", "gradient_accumulation", "gradient_checkpointing"];
            for key in cuts.into_iter().chain(["save_steps", "save_total_limit", "audio_cache", "device"]) {
                settings.remove(key);
            }
            // Its former name, which the fingerprints of earlier results contain.
            if let Some(scheduler) = settings.remove("lr_scheduler") {
                settings.insert("schedule".to_owned(), scheduler);
            }
            settings.insert("effective_batch".to_owned(), json!(self.batches().effective()));
        }
        identity
    }

    fn portable_settings(&self) -> Value {
        let mut recipe = self.identity();
        // The machine that reproduces the result chooses its own batch size.
        recipe["batch_size"] = json!("auto");
        recipe
    }

    fn missing_on_machine(&self) -> Option<Error> {
        device::missing(&self.device)
    }

    fn numerics(&self) -> Option<String> {
        Some(format!("{}-{}", device::class(&self.device), self.precision()))
    }

    fn recovery_suggestions(&self, failure: Failure) -> Vec<SuggestedSettings> {
        let remedy = |about: &'static str, set: Value| serde_json::from_value(set).ok().map(|set| SuggestedSettings { set, about });
        let remedies = match failure {
            Failure::OutOfMemory => vec![
                remedy("smaller batches, same effective batch size", json!({ "batch_size": "/2", "gradient_accumulation": "*2" })),
                remedy("recompute activations instead of storing them", json!({ "gradient_checkpointing": true })),
                remedy("half the memory for frozen weights", json!({ "precision": "bf16" })).filter(|_| self.method == Method::Lora),
            ],
            Failure::Diverged => vec![
                remedy("lower learning rate", json!({ "learning_rate": "/4" })),
                remedy("stricter gradient clipping", json!({ "max_grad_norm": 0.3 })),
            ],
            Failure::LostDevice => vec![remedy("train on the CPU", json!({ "device": "cpu" }))],
            Failure::Crash | Failure::Timeout | Failure::Stalled | Failure::DiskFull | Failure::BadSample | Failure::Cancelled => {
                Vec::new()
            }
        };
        remedies.into_iter().flatten().collect()
    }

    fn uses_all_cores(&self) -> bool {
        true
    }

    fn run(&self, cx: &Context) -> Result<StageOutcome> {
        let mut loaded = self.load(cx)?;
        let prepared = self.prepare(cx, &loaded)?;
        let config = self.plan(cx, &loaded, &prepared)?;
        let output = self.fit(cx, &mut loaded, &prepared, &config)?;
        Ok(StageOutcome::Done(self.save(cx, &loaded, &prepared, &output)?))
    }
}

impl Train {
    /// The effective settings, with defaults filled in.
    fn settings(&self) -> Value {
        let mut settings = serde_json::to_value(self).unwrap_or(Value::Null);
        if let (Method::Full, Some(settings)) = (self.method, settings.as_object_mut()) {
            settings.remove("lora");
        }
        settings
    }

    /// The compute precision. Full fine-tuning computes in f32 unless `precision` says otherwise.
    fn precision(&self) -> Precision {
        match (self.method, self.precision) {
            (Method::Full, Precision::Auto) => Precision::F32,
            (_, precision) => precision,
        }
    }

    /// The precision to load weights in. Trained weights are kept in f32, so full fine-tuning loads everything in f32.
    fn loaded_precision(&self) -> Precision {
        match self.method {
            Method::Lora => self.precision,
            Method::Full => Precision::F32,
        }
    }

    fn batches(&self) -> Batches {
        Batches { size: self.batch_size, accumulation: self.gradient_accumulation, effective: self.effective_batch }
    }

    fn config(&self, cx: &Context, pad: u32, cut: Cut) -> TrainingConfig {
        TrainingConfig {
            learning_rate: self.learning_rate,
            warmup_steps: self.warmup_steps,
            lr_scheduler: self.lr_scheduler,
            epochs: self.epochs,
            max_steps: self.max_steps,
            order: ShuffleOrder { shuffle: self.shuffle, seed: self.shuffle_seed.unwrap_or(cx.seed) },
            batch_size: cut.rows,
            gradient_accumulation: cut.passes,
            gradient_checkpointing: self.gradient_checkpointing,
            adamw: AdamWConfig {
                beta1: self.adam_beta1,
                beta2: self.adam_beta2,
                epsilon: self.adam_epsilon,
                weight_decay: self.weight_decay,
            },
            max_grad_norm: self.max_grad_norm,
            seed: cx.seed,
            pad,
            checkpoints: Some(CheckpointConfig { folder: cx.scratch.clone(), every: self.save_steps, kept: self.save_total_limit }),
        }
    }
}
