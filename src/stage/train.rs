//! `train`: a dataset and a base model become an adapter (LoRA) or a new full model.

use super::{Arity, Complaint, Context, Made, Outcome, Port, Stage, is_hub_id};
use crate::artifact::{Artifact, ArtifactKind};
use crate::audio::mel::HOP;
use crate::audio::{LogMel, read_wav16k};
use crate::device;
use crate::error::{Doing, Error, Exit, Result};
use crate::event::Event;
use crate::intake::rounded;
use crate::jsonl;
use crate::record::Record;
use crate::training::adamw::Constants;
use crate::training::batch::{Example, Listen};
use crate::training::{self, LossRow, Recipe, Said, Schedule};
use crate::voxtral::folder;
use crate::voxtral::lora::{self, Adapters};
use crate::voxtral::precision::Precision;
use crate::voxtral::recognizer::{Recognizer, Start};
use crate::voxtral::weights::{self, Weights};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Features of a dataset up to this size stay in memory; beyond it they are computed for each batch.
const FEATURES_IN_MEMORY: u64 = 2 << 30;

/// Fine-tune a Voxtral model on a dataset.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// The base model's folder, laid out as on the Hub, in transformers' form or Mistral's. Left out when `from.base` names a stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<String>,
    /// The base's id on the Hub, where the base in your folder is a copy of it (`mistralai/Voxtral-Mini-3B-2507`): the adapter then names it
    /// instead of your folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base_model: Option<String>,
    /// Where the base model's weights come from: `checkpoint` (its safetensors files) or `random` (the stage's seed, to train from scratch).
    #[serde(default)]
    init: Init,
    /// `lora` trains a small adapter beside frozen weights, `full` trains every weight.
    #[serde(default)]
    method: Method,
    /// The adapter, with `method = "lora"`.
    #[serde(default)]
    lora: Lora,
    /// The highest learning rate.
    #[serde(default = "defaults::learning_rate")]
    learning_rate: f64,
    /// Passes over the training clips; may be a fraction.
    #[serde(default = "defaults::epochs")]
    epochs: f64,
    /// Clips in one forward pass.
    #[serde(default = "defaults::batch_size")]
    batch_size: usize,
    /// Forward passes in one optimizer step; the effective batch is this times `batch_size`.
    #[serde(default = "defaults::gradient_accumulation")]
    gradient_accumulation: usize,
    /// What the learning rate does after the warm-up.
    #[serde(default)]
    schedule: Schedule,
    /// Optimizer steps over which the learning rate rises from zero.
    #[serde(default)]
    warmup_steps: u64,
    /// AdamW's weight decay; norms and biases are exempt.
    #[serde(default)]
    weight_decay: f64,
    /// Decay rate of AdamW's running mean of gradients.
    #[serde(default = "defaults::adam_beta1")]
    adam_beta1: f64,
    /// Decay rate of AdamW's running mean of squared gradients; 0.98 suits short runs from scratch.
    #[serde(default = "defaults::adam_beta2")]
    adam_beta2: f64,
    /// Keeps AdamW's division finite.
    #[serde(default = "defaults::adam_epsilon")]
    adam_epsilon: f64,
    /// Longest gradient, over all trained parameters together; 0 for no limit.
    #[serde(default = "defaults::max_grad_norm")]
    max_grad_norm: f64,
    /// Transcripts with more tokens are left out, and listed.
    #[serde(default = "defaults::max_text_tokens")]
    max_text_tokens: usize,
    /// Optimizer steps from one checkpoint to the next.
    #[serde(default = "defaults::checkpoint_steps")]
    checkpoint_steps: u64,
    /// `auto`, `cpu` or `cuda:N`.
    #[serde(default = "defaults::device")]
    device: String,
    /// How frozen matrices are kept in memory: `auto` (as the base stores them), `f32` or `bf16`. What is trained is always `f32`.
    #[serde(default)]
    precision: Precision,
}

/// Where weights come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Init {
    /// The base model's safetensors files.
    #[default]
    Checkpoint,
    /// The stage's seed.
    Random,
}

/// What is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Method {
    /// An adapter beside frozen weights.
    #[default]
    Lora,
    /// Every weight but the fixed position table.
    Full,
}

/// The adapter's shape.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Lora {
    /// Rank.
    r: usize,
    /// The update is scaled by alpha / r.
    alpha: f64,
    /// Share of the adapter's inputs dropped while training.
    dropout: f64,
    /// Which linear layers get an adapter.
    targets: Vec<String>,
    /// Keep the audio tower as it is: no adapters there.
    freeze_audio_tower: bool,
}

impl Default for Lora {
    fn default() -> Self {
        let targets = ["q_proj", "k_proj", "v_proj", "o_proj"].map(str::to_owned).to_vec();
        Self { r: 8, alpha: 32.0, dropout: 0.0, targets, freeze_audio_tower: true }
    }
}

mod defaults {
    use crate::training::adamw::Constants;

    pub(super) fn learning_rate() -> f64 {
        5e-5
    }
    pub(super) fn epochs() -> f64 {
        3.0
    }
    pub(super) fn batch_size() -> usize {
        2
    }
    pub(super) fn gradient_accumulation() -> usize {
        4
    }
    pub(super) fn adam_beta1() -> f64 {
        Constants::default().beta1
    }
    pub(super) fn adam_beta2() -> f64 {
        Constants::default().beta2
    }
    pub(super) fn adam_epsilon() -> f64 {
        Constants::default().epsilon
    }
    pub(super) fn max_grad_norm() -> f64 {
        1.0
    }
    pub(super) fn max_text_tokens() -> usize {
        256
    }
    pub(super) fn checkpoint_steps() -> u64 {
        50
    }
    pub(super) fn device() -> String {
        "auto".to_owned()
    }
}

/// No batch and no rank is larger.
const MOST: usize = 1 << 16;

/// The linear layers of Voxtral's blocks.
const LAYERS: &[&str] = &["q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "gate_proj", "up_proj", "down_proj", "fc1", "fc2"];

impl Stage for Train {
    const KIND: &'static str = "train";
    const ABOUT: &'static str = "fine-tunes a Voxtral model on a dataset, with LoRA or in full";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[
        Port { name: "data", kinds: &[ArtifactKind::Dataset], arity: Arity::One, about: "the dataset; its train split is learned" },
        Port {
            name: "base",
            kinds: &[ArtifactKind::Model],
            arity: Arity::Optional,
            about: "a full model made by another stage, instead of `with.base`",
        },
    ];

    fn output(&self) -> ArtifactKind {
        ArtifactKind::Model
    }

    fn check(&self) -> Vec<Complaint> {
        let positive = |ok: bool, key: &str, what: &str| (!ok).then(|| Complaint::new(key, format!("`{key}` must be {what}")));
        let mut complaints: Vec<Complaint> = [
            positive(self.learning_rate > 0.0 && self.learning_rate.is_finite(), "learning_rate", "a number above 0, such as 5e-5"),
            positive(self.epochs > 0.0 && self.epochs.is_finite(), "epochs", "a number above 0, such as 3"),
            positive((1..=MOST).contains(&self.batch_size), "batch_size", "from 1 to 65536"),
            positive((1..=MOST).contains(&self.gradient_accumulation), "gradient_accumulation", "from 1 to 65536"),
            positive(self.weight_decay >= 0.0 && self.weight_decay.is_finite(), "weight_decay", "0 or more"),
            positive((0.0..1.0).contains(&self.adam_beta1), "adam_beta1", "from 0 to below 1"),
            positive((0.0..1.0).contains(&self.adam_beta2), "adam_beta2", "from 0 to below 1"),
            positive(self.adam_epsilon > 0.0 && self.adam_epsilon.is_finite(), "adam_epsilon", "above 0, such as 1e-8"),
            positive(self.max_grad_norm >= 0.0, "max_grad_norm", "0 or more"),
            positive(self.max_text_tokens > 0, "max_text_tokens", "at least 1"),
            positive(self.checkpoint_steps > 0, "checkpoint_steps", "at least 1"),
            positive((1..=MOST).contains(&self.lora.r), "lora.r", "from 1 to 65536"),
            positive(self.lora.alpha > 0.0 && self.lora.alpha.is_finite(), "lora.alpha", "a number above 0, such as 32"),
            positive((0.0..1.0).contains(&self.lora.dropout), "lora.dropout", "from 0 to below 1"),
            positive(!self.lora.targets.is_empty(), "lora.targets", "a list of layers, such as [\"q_proj\", \"v_proj\"]"),
            positive(device::is_name(&self.device), "device", "`auto`, `cpu` or `cuda:N`"),
        ]
        .into_iter()
        .flatten()
        .collect();
        if self.init == Init::Random && self.method == Method::Lora {
            let message = "an adapter beside random weights is of no use: nothing could load it again";
            complaints.push(Complaint::new("init", message).hint("write `method = \"full\"`, or name a trained base"));
        }
        if self.method == Method::Full && self.precision == Precision::Bf16 {
            let message = "full fine-tuning trains every matrix, and what is trained is kept in 32-bit floats";
            complaints
                .push(Complaint::new("precision", message).hint("leave `precision` out, or train an adapter with `method = \"lora\"`"));
        }
        if let Some(id) = self.base_model.as_deref().filter(|id| !is_hub_id(id)) {
            let message = format!("`{id}` is not the id of a model on the Hub");
            complaints.push(Complaint::new("base_model", message).hint("write `owner/name`, or leave it out"));
        }
        for target in &self.lora.targets {
            if !LAYERS.contains(&target.as_str()) {
                complaints.push(
                    Complaint::new("lora.targets", format!("Voxtral has no layer `{target}`"))
                        .hint(format!("layers: {}", LAYERS.join(", "))),
                );
            }
        }
        complaints
    }

    fn sources(&self) -> Vec<PathBuf> {
        self.base.iter().map(PathBuf::from).collect()
    }

    fn reads(&self, file: &str) -> bool {
        folder::counts(file)
    }

    fn identity(&self) -> Value {
        let mut identity = self.settings();
        if let Some(settings) = identity.as_object_mut() {
            // How a batch is cut into forward passes and how often is saved leaves the result what it is.
            for key in ["batch_size", "gradient_accumulation", "checkpoint_steps", "device"] {
                settings.remove(key);
            }
            settings.insert("effective_batch".to_owned(), json!(self.batch_size.saturating_mul(self.gradient_accumulation)));
        }
        identity
    }

    fn numerics(&self) -> Option<String> {
        Some(format!("{}-{}", device::class(&self.device), self.precision()))
    }

    fn run(&self, cx: &Context) -> Result<Outcome> {
        let chosen = device::choose(&self.device)?;
        cx.note(format!("on {} ({})", chosen.name, chosen.reason));
        let (base_name, base) = self.base_folder(cx)?;
        let start = match self.init {
            Init::Checkpoint => Start::Checkpoint,
            Init::Random => Start::Random(cx.seed),
        };
        // Taken before the weights are read, so that it is theirs.
        let digest = folder::digest(&base)?;
        let mut recognizer = Recognizer::open(&base, start, self.precision(), &chosen.device)?;
        if let Some(note) = &recognizer.loaded.note {
            cx.note(note);
        }
        let data = cx.input("data")?;
        let (records, left_out) = self.short_enough(cx, &recognizer, Record::read_all(&data.path.join("train.jsonl"))?)?;
        let examples = examples(&recognizer, &data.path, &records)?;

        let adapters = (self.method == Method::Lora).then(|| self.adapters());
        if let Some(adapters) = &adapters {
            let mut source = Weights::random(cx.seed, &chosen.device);
            if lora::add(&mut recognizer.model, adapters, &mut source) == 0 {
                return Err(Error::new("no layer of the model matches `lora.targets`")
                    .advice("name layers of the text model, or set freeze_audio_tower = false"));
            }
        }
        let trained = |name: &str| match self.method {
            Method::Lora => name.contains(".lora."),
            Method::Full => name != "audio_tower.embed_positions.weight",
        };
        let recipe = self.recipe(cx, recognizer.special().pad);
        let (total, trainable) = sizes(&recognizer, &trained);
        cx.note(format!(
            "{} of {} parameters are trained, on {} clips, in {} steps",
            trainable,
            total,
            examples.len(),
            recipe.steps(examples.len())
        ));
        let precision = recognizer.loaded.precision;
        recognizer.loaded.audit.passed()?;
        let mut say = |said: Said| tell(cx, said);
        let (model, losses) = training::train(recognizer.model, &examples, &recipe, &trained, &chosen.device, &cx.stop, &mut say)?;

        match &adapters {
            Some(adapters) => lora::save(&model, adapters, &base_name, &cx.out)?,
            None => {
                weights::save(&model, &cx.out, weights::MAX_SHARD)?;
                folder::companions(&base, &cx.out, "float32")?;
            }
        }
        if adapters.is_some() {
            for name in ["tekken.json", "preprocessor_config.json", "processor_config.json"] {
                folder::copy(&base, &cx.out, name)?;
            }
        }
        jsonl::write(&cx.out.join("loss.jsonl"), &losses)?;

        let (first, last) = (losses.first().map_or(f64::NAN, |row| row.loss), final_loss(&losses));
        let languages: BTreeSet<&str> = records.iter().filter_map(|record| record.language.as_deref()).collect();
        let seconds: f64 = records.iter().filter_map(|record| record.duration).sum();
        let seconds = rounded(seconds);
        let mut settings = self.identity();
        if self.base.is_some() {
            // The folder's place is nobody's business but this machine's.
            settings["base"] = json!(base_name);
        }
        let mut base_facts = json!({ "name": base_name, "init": self.init, "digest": digest });
        if let Some(id) = self.hub_id(&base) {
            base_facts["hub"] = json!(id);
        }
        let facts = json!({
            "method": self.method, "parameters": total, "trainable_parameters": trainable, "settings": settings,
            "base": base_facts,
            "steps": losses.len(), "epochs": self.epochs, "examples": examples.len(), "left_out": left_out, "audio_seconds": seconds,
            "first_loss": first, "final_loss": last, "device": chosen.name, "precision": precision, "languages": languages, "seed": cx.seed,
        });
        let path = cx.out.join("training.json");
        fs::write(&path, format!("{}\n", serde_json::to_string_pretty(&facts)?)).doing(|| format!("cannot write `{}`", path.display()))?;
        let made = Made::new(format!("{} steps on {} clips, loss {first:.3} → {last:.3}", losses.len(), examples.len()))
            .metric("first_loss", first)
            .metric("final_loss", last)
            .metric("steps", losses.len() as f64);
        Ok(Outcome::Done(made))
    }
}

impl Train {
    /// The settings that were used, defaults filled in.
    fn settings(&self) -> Value {
        let mut settings = serde_json::to_value(self).unwrap_or(Value::Null);
        if let (Method::Full, Some(settings)) = (self.method, settings.as_object_mut()) {
            settings.remove("lora");
        }
        settings
    }

    /// What is trained is kept in 32-bit floats, so a full run loads everything so.
    fn precision(&self) -> Precision {
        match self.method {
            Method::Lora => self.precision,
            Method::Full => Precision::F32,
        }
    }

    /// The base model's name for people and files, and the folder it is read from.
    fn base_folder(&self, cx: &Context) -> Result<(String, PathBuf)> {
        match (&self.base, cx.optional("base")) {
            (Some(_), Some(_)) => {
                Err(Error::new("both `with.base` and `from.base` name a base model").exit(Exit::Usage).advice("keep one of them"))
            }
            (None, None) => Err(Error::new("no base model is named")
                .exit(Exit::Usage)
                .advice("write `base = \"FOLDER\"` in `with`, or `base = \"STAGE\"` in `from`")),
            (None, Some(Artifact { stage, path, .. })) if !lora::is_adapter(path) => Ok((format!("stage:{stage}"), path.clone())),
            (None, Some(Artifact { stage, .. })) => {
                Err(Error::new(format!("stage `{stage}` made an adapter, which cannot be trained upon"))
                    .advice("give a stage with `method = \"full\"` as `from.base`"))
            }
            (Some(name), None) => {
                let folder = cx.path(name);
                if folder.is_dir() {
                    let name = self.hub_id(&folder).unwrap_or_else(|| folder::portable_name(name, &folder, &cx.root));
                    return Ok((name, folder));
                }
                Err(Error::new(format!("base model `{name}`: there is no folder `{}`", folder.display()))
                    .exit(Exit::Environment)
                    .advice("this version does not download models: fetch the repository into a folder and write that folder's path"))
            }
        }
    }

    /// What the base is called on the Hub, if the setting or the folder's place tells.
    fn hub_id(&self, folder: &Path) -> Option<String> {
        self.base_model.clone().or_else(|| folder::hub_id(folder)).filter(|_| self.init == Init::Checkpoint)
    }

    fn adapters(&self) -> Adapters {
        let lora = &self.lora;
        Adapters {
            r: lora.r,
            alpha: lora.alpha,
            dropout: lora.dropout,
            targets: lora.targets.clone(),
            audio_tower: !lora.freeze_audio_tower,
        }
    }

    fn recipe(&self, cx: &Context, pad: u32) -> Recipe {
        Recipe {
            learning_rate: self.learning_rate,
            warmup_steps: self.warmup_steps,
            schedule: self.schedule,
            epochs: self.epochs,
            batch_size: self.batch_size,
            gradient_accumulation: self.gradient_accumulation,
            adamw: Constants {
                beta1: self.adam_beta1,
                beta2: self.adam_beta2,
                epsilon: self.adam_epsilon,
                weight_decay: self.weight_decay,
            },
            max_grad_norm: self.max_grad_norm,
            seed: cx.seed,
            pad,
            checkpoints: Some((cx.scratch.clone(), self.checkpoint_steps)),
        }
    }

    /// The records whose texts are within the limit, and what is left out.
    fn short_enough(&self, cx: &Context, recognizer: &Recognizer, records: Vec<Record>) -> Result<(Vec<Record>, Vec<String>)> {
        let (mut used, mut left_out) = (Vec::new(), Vec::new());
        for record in records {
            let tokens = recognizer.tokenizer.encode(&record.text).len();
            if tokens <= self.max_text_tokens {
                used.push(record);
            } else {
                left_out.push(format!(
                    "{}: its text has {tokens} tokens, more than max_text_tokens = {}",
                    record.audio_path, self.max_text_tokens
                ));
            }
        }
        for clip in &left_out {
            cx.warn(format!("left out: {clip}"));
        }
        if used.is_empty() {
            return Err(Error::new("there is no clip to train on").advice("raise max_text_tokens, or give the dataset more clips"));
        }
        Ok((used, left_out))
    }
}

/// Turns records into prompts with targets; the spectrograms are computed now if all of them fit in memory.
fn examples(recognizer: &Recognizer, folder: &Path, records: &[Record]) -> Result<Vec<Example>> {
    let audio = &recognizer.config.audio_config;
    let (frames, mel) = (audio.chunk_frames(), Arc::new(LogMel::new(audio.num_mel_bins)));
    let chunks = records
        .par_iter()
        .map(|record| Ok(read_wav16k(&folder.join(&record.audio_path))?.len().div_ceil(frames * HOP)))
        .collect::<Result<Vec<usize>>>()?;
    let bytes = (chunks.iter().sum::<usize>() * frames * audio.num_mel_bins * size_of::<f32>()) as u64;
    let example = |(record, chunks): (&Record, usize)| {
        let mut ids = recognizer.prompt(record.language.as_deref(), chunks).map_err(|error| error.context(&record.audio_path))?;
        let prompt = ids.len();
        ids.extend(recognizer.tokenizer.encode(&record.text));
        ids.push(recognizer.special().end);
        let (mel, path) = (mel.clone(), folder.join(&record.audio_path));
        let listen = move || Ok(Arc::new(mel.features(&read_wav16k(&path)?, frames)?));
        let features: Listen = if bytes <= FEATURES_IN_MEMORY {
            let ready = listen()?;
            Arc::new(move || Ok(ready.clone()))
        } else {
            Arc::new(listen)
        };
        Ok(Example { name: record.audio_path.clone(), features, ids, prompt })
    };
    records.par_iter().zip(chunks).map(example).collect()
}

fn tell(cx: &Context, said: Said) {
    match said {
        Said::Step(row, steps) => {
            cx.progress(row.step, steps, "steps", format!("epoch {:.1}, loss {:.3}", row.epoch, row.loss));
            let values = BTreeMap::from([
                ("loss".to_owned(), row.loss),
                ("learning_rate".to_owned(), row.learning_rate),
                ("grad_norm".to_owned(), row.grad_norm),
                ("epoch".to_owned(), row.epoch),
            ]);
            cx.emitter.emit(Event::Metrics { stage: cx.stage.clone(), step: row.step, values });
        }
        Said::Resumed(step) => cx.note(format!("goes on from the checkpoint at step {step}")),
        Said::Warning(message) => cx.warn(message),
    }
}

/// Parameters in all, and those that are trained.
fn sizes(recognizer: &Recognizer, trained: &training::Trained) -> (usize, usize) {
    use crate::voxtral::named::{self, Look};
    use burn::module::Param;
    use burn::tensor::Tensor;
    struct Count<'a>(&'a training::Trained<'a>, usize, usize);
    impl Look for Count<'_> {
        fn look<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
            let size = param.shape().num_elements();
            self.1 += size;
            self.2 += if (self.0)(name) { size } else { 0 };
        }
    }
    let mut count = Count(trained, 0, 0);
    named::look(&recognizer.model, &mut count);
    (count.1, count.2)
}

/// The mean loss of the last ten steps, so that one odd batch says little.
fn final_loss(losses: &[LossRow]) -> f64 {
    let last = &losses[losses.len().saturating_sub(10)..];
    last.iter().map(|row| row.loss).sum::<f64>() / last.len().max(1) as f64
}
