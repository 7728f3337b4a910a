//! The phases of a training, in order: load the model, make the examples, plan the steps, fit, save.

use super::eval::{Evaluator, Keep};
use super::events::TrainingObserver;
use super::examples::{self, Tokenized};
use super::{Init, Method, Train, augment};
use crate::data::clip_row::ClipRow;
use crate::data::ingest::rounded;
use crate::data::trained_on::{ClipDigest, TrainedOn};
use crate::error::{Error, Result, ResultExt};
use crate::hub;
use crate::stages::base_model::check_base;
use crate::stages::context::SpeechContext;
use burn::module::Param;
use burn::tensor::Tensor;
use pipeline::stage::{Context, Stage, StageResult};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use voxpipe_io::jsonl;
use voxtral::device::SelectedDevice;
use voxtral::inference::encoder_cache::FeatureCache;
use voxtral::inference::transcriber::{Transcriber, WeightsFrom};
use voxtral::lora::{AdaptedLayers, LoraConfig, ModelPart};
use voxtral::model::{Voxtral, model_dir};
use voxtral::training::collate::Example;
use voxtral::training::memory_estimate::StepShape;
use voxtral::training::{LossRow, TrainableFilter, Trainer, TrainingConfig, TrainingOutput, Validation};
use voxtral::weights::WeightLoader;
use voxtral::weights::precision::Precision;
use voxtral::weights::visitor::{NamedVisitor, visit_named};
use voxtral::{lora, weights};

/// A base model that is ready to be trained.
pub(super) struct Loaded {
    device: SelectedDevice,
    /// Name of the base model where others read it, and its folder.
    base_name: String,
    base: PathBuf,
    start: WeightsFrom,
    digest: String,
    /// Digest of what the base computes; none for random weights.
    identity: Option<String>,
    transcriber: Transcriber,
    adapters: Option<LoraConfig>,
    /// Whether the encoder or the projector is trained, so that their outputs change and cannot be cached.
    trains_encoder: bool,
    /// All parameters, and the trained ones.
    parameters: (usize, usize),
}

/// What is learned from, and what it is measured on.
pub(super) struct Prepared {
    data: PathBuf,
    records: Vec<Tokenized>,
    held_out: Vec<Tokenized>,
    left_out: Vec<String>,
    /// Clips of the held-out split whose text is too long; they are not in its metrics.
    held_out_left_out: Vec<String>,
    examples: Vec<Example>,
    cache: Option<FeatureCache>,
    trained_on: TrainedOn,
}

impl Train {
    /// Opens the base model and places the adapters.
    pub(super) fn load(&self, cx: &Context) -> Result<Loaded> {
        let device = cx.device(&self.device)?;
        cx.note(format!("device: {} ({})", device.name, device.reason));
        let (base_name, base) = self.base_folder(cx)?;
        let start = match self.init {
            Init::Checkpoint => WeightsFrom::Checkpoint,
            Init::Random => WeightsFrom::Random(cx.seed),
        };
        // Computed before the weights are loaded, so that it describes the files that are read.
        let digest = model_dir::digest(&base)?;
        let identity = matches!(start, WeightsFrom::Checkpoint).then(|| model_dir::identity(&base)).transpose()?;
        let mut transcriber = Transcriber::open_with(&base, start, self.loaded_precision(), &device.device)?;
        if let Some(note) = &transcriber.loaded.note {
            cx.note(note);
        }
        let adapters = (self.method == Method::Lora).then(|| self.lora.adapters()).transpose()?;
        let mut trains_encoder = true;
        if let Some(adapters) = &adapters {
            let placed = self.place(cx, adapters, &mut transcriber.model, &device, &base)?;
            trains_encoder = placed.adapted.iter().any(|layer| ModelPart::of(layer) != ModelPart::Text);
            let (adapted, kept_out) = self.lora.describe(&placed);
            cx.note(adapted);
            if let Some(kept_out) = kept_out {
                cx.note(kept_out);
            }
        }
        transcriber.loaded.audit.passed()?;
        let parameters = count_parameters(&transcriber, &|name| self.trains(name));
        Ok(Loaded { device, base_name, base, start, digest, identity, transcriber, adapters, trains_encoder, parameters })
    }

    /// Tokenizes the clips and makes examples of them.
    pub(super) fn prepare(&self, cx: &Context, loaded: &Loaded) -> Result<Prepared> {
        let data = cx.input("data")?.path.clone();
        let transcriber = &loaded.transcriber;
        let (records, left_out) = self.short_enough(cx, transcriber, ClipRow::read_all(&data.join("train.jsonl"))?)?;
        let (held_out, held_out_left_out) = match &self.eval {
            Some(eval) => self.short_enough(cx, transcriber, eval.records(&data)?)?,
            None => Default::default(),
        };
        let cache = (!loaded.trains_encoder).then(|| {
            // Augmented audio differs in every epoch, so only the held-out clips would be cached.
            let cached = [&records, &held_out].into_iter().skip(usize::from(self.augment.is_some()));
            let chunks = cached.map(|records| examples::chunks(transcriber, &data, records)).sum();
            cx.memory(transcriber, &loaded.start.identity(&loaded.digest), &loaded.device, chunks, self.audio_cache)
        });
        let mut examples = examples::examples(transcriber, &data, &records, self.training_cache(cache.as_ref()))?;
        if let Some(augment) = &self.augment {
            examples = examples::augmented(transcriber, &data, &records, examples, augment, cx.seed)?;
            cx.note("augmentation is on: encoder features are recomputed in every epoch");
        }
        let mut trained_on = self.trained_on(cx, loaded, &data, &records)?;
        if self.eval.as_ref().is_some_and(|eval| eval.keep == Keep::Best || eval.patience.is_some()) {
            trained_on.add_choice(&ClipDigest::of_all(&data, held_out.iter().map(|(record, _)| record))?);
        }
        Ok(Prepared { data, records, held_out, left_out, held_out_left_out, examples, cache, trained_on })
    }

    /// The clips of this training and of all that went into the weights it starts from.
    fn trained_on(&self, cx: &Context, loaded: &Loaded, data: &Path, records: &[Tokenized]) -> Result<TrainedOn> {
        let mut trained_on = TrainedOn::of(&ClipDigest::of_all(data, records.iter().map(|(record, _)| record))?);
        if matches!(loaded.start, WeightsFrom::Checkpoint) {
            trained_on.add_model(&loaded.base, loaded.identity.as_deref(), &loaded.base_name)?;
        }
        if let Some(adapter) = &self.adapter {
            let path = cx.path(adapter);
            let weights = lora::identity(&path).ok();
            trained_on.add_model(&path, weights.as_deref(), &model_dir::portable_name(adapter, &path, &cx.root))?;
        }
        Ok(trained_on)
    }

    /// Decides on batches and steps.
    pub(super) fn plan(&self, cx: &Context, loaded: &Loaded, prepared: &Prepared) -> Result<TrainingConfig> {
        let (total, trainable) = loaded.parameters;
        let examples = &prepared.examples;
        let longest = |of: fn(&Example) -> usize| examples.iter().map(of).max().unwrap_or(0);
        let stretch = self.augment.as_ref().map_or(1.0, augment::Augment::longest);
        let chunks = (longest(|example| example.chunks) as f64 * stretch).ceil() as usize;
        let chunk_tokens = loaded.transcriber.config.audio_config.chunk_tokens();
        let shape = StepShape {
            length: longest(|example| example.ids.len()) + (chunks - longest(|example| example.chunks)) * chunk_tokens,
            chunks,
            tower: self.training_cache(prepared.cache.as_ref()).is_none(),
            feed_forward: self.method == Method::Full || self.lora.on_feed_forward(),
            gradient_checkpointing: self.gradient_checkpointing,
            model: (total as f64 * loaded.transcriber.loaded.precision.bytes()) as u64,
            trained: trainable as u64,
        };
        let (cut, why) = self.batches().cut(&shape, &loaded.transcriber.config, &loaded.device)?;
        if let Some(why) = why {
            cx.note(why);
        }
        let config = self.config(cx, loaded.transcriber.special().pad, cut);
        let steps = config.steps(examples.len());
        if self.warmup_steps > 0 && self.warmup_steps >= steps {
            let message = format!("`warmup_steps` = {} is not less than the {steps} training steps", self.warmup_steps);
            cx.warn(format!("{message}: the learning rate never reaches `learning_rate` = {}", self.learning_rate));
        }
        cx.note(format!("training {trainable} of {total} parameters on {} clips for {steps} steps", examples.len()));
        Ok(config)
    }

    /// Runs the training loop.
    pub(super) fn fit(&self, cx: &Context, loaded: &mut Loaded, prepared: &Prepared, config: &TrainingConfig) -> Result<TrainingOutput> {
        if self.computes_in_bf16() {
            loaded.transcriber.model.compute_in_bf16();
        }
        let model = loaded.transcriber.model.clone();
        let cache = prepared.cache.as_ref();
        let mut look = match &self.eval {
            Some(eval) => Some(Evaluator::new(eval, &mut loaded.transcriber, &prepared.data, &prepared.held_out, cache)?),
            None => None,
        };
        let mut look = look.as_mut().map(|look| |model: &Voxtral| look.look(model));
        let validation = self.eval.as_ref().zip(look.as_mut()).map(|(eval, look)| Validation {
            every: eval.steps,
            look,
            metric: eval.metric.name().to_owned(),
            keep_best: eval.keep == Keep::Best,
            patience: eval.patience,
        });
        let mut settings = self.settings();
        if self.base.is_some() {
            settings["base"] = json!(loaded.base_name);
        }
        let mut voice = TrainingObserver::new(cx, settings);
        let trainer = Trainer {
            examples: &prepared.examples,
            recipe: config,
            trained: &|name| self.trains(name),
            device: &loaded.device.device,
            stop: &cx.stop,
            say: &mut |event| voice.say(event),
            validation,
        };
        let output = trainer.run(model)?;
        if output.stopped_early {
            let (done, steps) = (output.losses.len(), config.steps(prepared.examples.len()));
            cx.note(format!("early stopping after {done} of {steps} steps: no further improvement on the held-out clips"));
        }
        if output.kept != output.losses.len() as u64 {
            cx.note(format!("keeping the model of step {}, the best on the held-out clips", output.kept));
        }
        if let Some(cache) = cache {
            cx.warn_about_cache(cache);
        }
        Ok(output)
    }

    /// Writes the model, the losses and `training.json` to the output folder.
    pub(super) fn save(&self, cx: &Context, loaded: &Loaded, prepared: &Prepared, output: &TrainingOutput) -> Result<StageResult> {
        let TrainingOutput { model, losses, evaluations, kept, .. } = output;
        match &loaded.adapters {
            Some(adapters) => {
                lora::save(model, adapters, &loaded.base_name, &cx.out)?;
                for name in ["tekken.json", "preprocessor_config.json", "processor_config.json"] {
                    model_dir::copy(&loaded.base, &cx.out, name)?;
                }
            }
            None => {
                weights::save(model, &cx.out, weights::MAX_SHARD)?;
                model_dir::companions(&loaded.base, &cx.out, "float32")?;
            }
        }
        jsonl::write(&cx.out.join("loss.jsonl"), losses)?;
        if self.eval.is_some() {
            jsonl::write(&cx.out.join("eval.jsonl"), evaluations)?;
        }
        let evaluated = evaluations.iter().find(|evaluation| evaluation.step == *kept).map(|evaluation| &evaluation.metrics);
        let mut facts = self.facts(cx, loaded, prepared, losses)?;
        if let Some(metrics) = evaluated {
            facts["kept_step"] = json!(kept);
            facts["eval"] = voxpipe_io::metrics::object(metrics).into();
        }
        if output.stopped_early {
            facts["stopped_early"] = json!(true);
        }
        facts["trained_on"] = json!(prepared.trained_on.write(&cx.out)?);
        // What is recorded counts only for these weights.
        facts["weights"] = json!(if loaded.adapters.is_some() { lora::identity(&cx.out)? } else { model_dir::identity(&cx.out)? });
        let path = cx.out.join("training.json");
        fs::write(&path, format!("{}\n", serde_json::to_string_pretty(&facts)?))
            .with_context(|| format!("cannot write `{}`", path.display()))?;
        let (first, last) = (first_loss(losses), final_loss(losses));
        let mut summary = format!("{} steps on {} clips, loss {first:.3} → {last:.3}", losses.len(), prepared.examples.len());
        let (train, held_out) = (prepared.left_out.len(), prepared.held_out_left_out.len());
        if train + held_out > 0 {
            let of_them = if held_out > 0 { format!(", {held_out} of them held-out") } else { String::new() };
            summary +=
                &format!(" ({} clips left out: texts longer than `max_text_tokens` = {}{of_them})", train + held_out, self.max_text_tokens);
        }
        let mut result =
            StageResult::new(summary).metric("first_loss", first).metric("final_loss", last).metric("steps", losses.len() as f64);
        for (name, value) in evaluated.into_iter().flatten() {
            result = result.metric(name, *value);
        }
        Ok(result)
    }

    /// What `training.json` says of how the model was made.
    fn facts(&self, cx: &Context, loaded: &Loaded, prepared: &Prepared, losses: &[LossRow]) -> Result<Value> {
        let mut settings = Stage::identity(self);
        if self.base.is_some() {
            // Do not publish the local path of the folder.
            settings["base"] = json!(loaded.base_name);
        }
        let mut base = json!({ "name": loaded.base_name, "init": self.init, "digest": loaded.digest });
        if let Some(identity) = &loaded.identity {
            base["weights"] = json!(identity);
        }
        if let Some(id) = self.hub_id(&loaded.base) {
            base["hub"] = json!(id);
        }
        if let Some(commit) = hub::commit_of(&loaded.base) {
            base["revision"] = json!(commit);
        }
        let records = &prepared.records;
        let languages: BTreeSet<&str> = records.iter().filter_map(|(record, _)| record.language.as_deref()).collect();
        let seconds: f64 = records.iter().filter_map(|(record, _)| record.duration).sum();
        let precision = if self.computes_in_bf16() { Precision::Bf16 } else { loaded.transcriber.loaded.precision };
        let (total, trainable) = loaded.parameters;
        let mut facts = json!({
            "method": self.method, "parameters": total, "trainable_parameters": trainable, "settings": settings, "base": base,
            // The passes made: `max_steps` and early stopping end a training sooner or later than the setting `epochs` says.
            "steps": losses.len(), "epochs": losses.last().map_or(0.0, |row| row.epoch), "examples": prepared.examples.len(),
            "left_out": prepared.left_out,
            "audio_seconds": rounded(seconds), "first_loss": first_loss(losses), "final_loss": final_loss(losses),
            "device": loaded.device.name, "precision": precision, "languages": languages, "seed": cx.seed,
            "data": { "digest": cx.input("data")?.digest },
        });
        if !prepared.held_out_left_out.is_empty() {
            facts["eval_left_out"] = json!(prepared.held_out_left_out);
        }
        Ok(facts)
    }

    /// Whether a parameter is trained.
    fn trains(&self, name: &str) -> bool {
        match self.method {
            Method::Lora => name.contains(".lora."),
            Method::Full => name != "audio_tower.embed_positions.weight",
        }
    }

    /// Whether a full fine-tuning rounds matrix products to bf16.
    fn computes_in_bf16(&self) -> bool {
        self.method == Method::Full && self.precision == Precision::Bf16
    }

    /// The feature cache of the training clips: none with augmentation, whose audio differs in every epoch.
    fn training_cache<'c>(&self, cache: Option<&'c FeatureCache>) -> Option<&'c FeatureCache> {
        cache.filter(|_| self.augment.is_none())
    }

    /// Adds LoRA adapters to a model: newly initialized, or loaded from the folder `adapter`, which must have been trained on this base.
    fn place(
        &self,
        cx: &Context,
        adapters: &LoraConfig,
        model: &mut Voxtral,
        device: &SelectedDevice,
        base: &Path,
    ) -> Result<AdaptedLayers> {
        let mut source = WeightLoader::random(cx.seed, &device.device);
        let placed = lora::add(model, adapters, &mut source).map_err(|error| error.context("`lora.targets`"))?;
        if let Some(folder) = &self.adapter {
            let hint = "set `base` to the model that the adapter was trained on, or, if this is meant, `adapter_on_any_base = true`";
            let path = cx.path(folder);
            if let Some(note) = check_base(&path, base, self.adapter_on_any_base, hint).map_err(|error| error.context("`adapter`"))? {
                cx.warn(note);
            }
            lora::go_on_from(model, adapters, &path).map_err(|error| error.context("`adapter`"))?;
            cx.note(format!("continuing from the adapter `{folder}`"));
        }
        Ok(placed)
    }

    /// Tokenizes the transcripts. Returns the clips within `max_text_tokens` and descriptions of the excluded ones.
    fn short_enough(&self, cx: &Context, transcriber: &Transcriber, records: Vec<ClipRow>) -> Result<(Vec<Tokenized>, Vec<String>)> {
        let (mut used, mut left_out) = (Vec::new(), Vec::new());
        for record in records {
            let tokens = transcriber.tokenizer.encode(&record.text);
            if tokens.len() <= self.max_text_tokens {
                used.push((record, tokens));
            } else {
                left_out.push(format!(
                    "{}: its text has {} tokens, more than max_text_tokens = {}",
                    record.audio_path,
                    tokens.len(),
                    self.max_text_tokens
                ));
            }
        }
        for clip in &left_out {
            cx.warn(format!("left out: {clip}"));
        }
        if used.is_empty() {
            return Err(Error::new("no clips to train on").hint("raise `max_text_tokens`, or add clips to the dataset"));
        }
        Ok((used, left_out))
    }
}

/// Counts all parameters and the trained ones.
fn count_parameters(transcriber: &Transcriber, trained: &TrainableFilter) -> (usize, usize) {
    struct Count<'a>(&'a TrainableFilter<'a>, usize, usize);
    impl NamedVisitor for Count<'_> {
        fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
            let size = param.shape().num_elements();
            self.1 += size;
            self.2 += if (self.0)(name) { size } else { 0 };
        }
    }
    let mut count = Count(trained, 0, 0);
    visit_named(&transcriber.model, &mut count);
    // Quantized matrices store fewer numbers than they have parameters.
    let beyond: usize = transcriber.model.clone().linears().iter().map(|(_, layer)| layer.beyond()).sum();
    (count.1 + beyond, count.2)
}

fn first_loss(losses: &[LossRow]) -> f64 {
    losses.first().map_or(f64::NAN, |row| row.loss)
}

/// Mean loss of the last ten steps, to smooth out single batches.
fn final_loss(losses: &[LossRow]) -> f64 {
    let last = &losses[losses.len().saturating_sub(10)..];
    last.iter().map(|row| row.loss).sum::<f64>() / last.len().max(1) as f64
}
