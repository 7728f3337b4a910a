//! How fast a device is at what this program does: its ceilings, single operations, whole training steps, transcription.
//!
//! Everything is measured at the sizes of a model, on random numbers, and twice: where the two medians differ, so may any two numbers
//! that are compared. What belongs to another program, such as the same steps with transformers, is not measured here.

mod operations;
mod roofline;
pub mod selftest;
mod steps;
mod work;

use crate::error::{Error, ErrorKind, Result, panic_message};
use serde::Serialize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};
use voxtral::device::SelectedDevice;
use voxtral::model::Voxtral;
use voxtral::model::config::{AudioConfig, TextConfig, VoxtralConfig};
use voxtral::model::precision::Precision;
use voxtral::weights;
use voxtral::weights::WeightLoader;
pub use work::OperationCount;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchPart {
    /// A large copy and large products: what the device can do at most.
    Ceilings,
    /// The operations a model is made of, forwards and backwards.
    Operations,
    /// Optimizer steps.
    Steps,
    /// Writing down half a minute of speech.
    Transcription,
}

/// The dimensions of a model to measure with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchSize {
    /// For tests of the measuring itself: a second or two.
    Tiny,
    /// Eighty million parameters, for processors.
    Middle,
    /// Those of Voxtral-Mini-3B.
    Mini3b,
}

impl BenchSize {
    /// The model's configuration.
    pub fn config(self) -> VoxtralConfig {
        let (audio_config, text_config) = (AudioConfig::default(), TextConfig::default());
        let (audio_config, text_config) = match self {
            Self::Mini3b => (audio_config, text_config),
            Self::Middle => (
                AudioConfig { hidden_size: 512, num_hidden_layers: 6, num_attention_heads: 8, intermediate_size: 2048, ..audio_config },
                TextConfig {
                    vocab_size: 32_768,
                    hidden_size: 512,
                    num_hidden_layers: 8,
                    num_attention_heads: 8,
                    num_key_value_heads: 2,
                    head_dim: 64,
                    intermediate_size: 1536,
                    ..text_config
                },
            ),
            Self::Tiny => (
                AudioConfig {
                    num_mel_bins: 16,
                    hidden_size: 32,
                    num_hidden_layers: 2,
                    num_attention_heads: 4,
                    intermediate_size: 128,
                    max_source_positions: 100,
                },
                TextConfig {
                    vocab_size: 512,
                    hidden_size: 48,
                    num_hidden_layers: 2,
                    num_attention_heads: 4,
                    num_key_value_heads: 2,
                    head_dim: 16,
                    intermediate_size: 96,
                    ..text_config
                },
            ),
        };
        VoxtralConfig { audio_config, text_config, audio_token_id: 24 }
    }
}

/// What was measured of one thing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BenchRow {
    /// What it is.
    pub what: String,
    /// Seconds: the medians of two rounds. Empty if it could not be done.
    pub seconds: Vec<f64>,
    /// 10¹² multiplications and additions a second, where that says something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teraflops: Option<f64>,
    /// 10⁹ bytes a second, where that says something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gigabytes: Option<f64>,
    /// The share of the ceiling that was measured for products of the same kind, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of_ceiling: Option<f64>,
    /// Bytes of the device's memory in use at the end: of the processor's, the most that ever were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Anything else that is worth knowing, or why there is no number.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// What to measure, and with what.
#[derive(Debug)]
pub struct Benchmark<'a> {
    /// On this device.
    pub device: &'a SelectedDevice,
    /// With this model's dimensions.
    pub config: VoxtralConfig,
    /// With these weights, instead of random ones.
    pub model: Option<&'a Path>,
    /// How frozen matrices are kept.
    pub precision: Precision,
    /// Rows at once, one measurement each.
    pub batches: Vec<usize>,
    /// How long one thing is measured.
    pub patience: Duration,
}

impl Benchmark<'_> {
    /// Measures parts in their order; each row is told as soon as it is there.
    pub fn run(&self, parts: &[BenchPart], tell: &mut dyn FnMut(BenchPart, &BenchRow)) -> Result<()> {
        let mut ceiling = None;
        for part in parts {
            let mut told = |row: BenchRow| tell(*part, &row);
            match part {
                BenchPart::Ceilings => ceiling = Some(roofline::measure(self, &mut told)?),
                BenchPart::Operations => operations::measure(self, ceiling, &mut told)?,
                BenchPart::Steps => steps::measure(self, ceiling, &mut told)?,
                BenchPart::Transcription => steps::transcribe(self, &mut told)?,
            }
        }
        Ok(())
    }

    /// The model, and how long it took to load.
    fn load(&self) -> Result<(Voxtral, f64)> {
        self.load_as(self.precision)
    }

    fn load_as(&self, precision: Precision) -> Result<(Voxtral, f64)> {
        let start = Instant::now();
        let mut source = match self.model {
            Some(folder) => WeightLoader::open(folder, precision, &self.device.device)?,
            None => WeightLoader::random(0, &self.device.device).precision(precision),
        };
        let model = Voxtral::load(&self.config, &mut source);
        source.finish()?.audit.passed()?;
        self.settle()?;
        Ok((model, start.elapsed().as_secs_f64()))
    }

    /// Waits until the device has done all it was told.
    fn settle(&self) -> Result<()> {
        self.device.device.sync().map_err(|error| Error::new(format!("{}: {error:?}", self.device.name)).kind(ErrorKind::LostDevice))
    }

    /// How long a thing takes; whatever stops it becomes a note.
    fn time(&self, what: impl Into<String>, mut once: impl FnMut()) -> Result<BenchRow> {
        let mut row = BenchRow { what: what.into(), ..BenchRow::default() };
        let rounds = catch_unwind(AssertUnwindSafe(|| -> Result<Vec<f64>> {
            once();
            self.settle()?;
            (0..2).map(|_| self.median(&mut once)).collect()
        }));
        match rounds {
            Ok(seconds) => row.seconds = seconds?,
            Err(panic) => row.note = panic_message(panic.as_ref()).to_owned(),
        }
        Ok(row)
    }

    fn median(&self, once: &mut dyn FnMut()) -> Result<f64> {
        let (start, mut times) = (Instant::now(), Vec::new());
        while times.len() < 3 || (start.elapsed() < self.patience && times.len() < 200) {
            let begun = Instant::now();
            once();
            self.settle()?;
            times.push(begun.elapsed().as_secs_f64());
        }
        Ok(median(&mut times))
    }
}

impl BenchRow {
    /// Says how fast so much work was done, and compares it with a ceiling in operations a second.
    fn rated(mut self, flops: f64, ceiling: Option<f64>) -> Self {
        if let Some(seconds) = self.seconds.iter().copied().reduce(f64::min) {
            self.teraflops = Some(flops / seconds / 1e12);
            self.of_ceiling = ceiling.map(|ceiling| flops / seconds / ceiling);
        }
        self
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Writes a random checkpoint of a size to a folder, weights in brain floats as the Hub has them: for measuring how fast one is read, and
/// for measuring other programs with the same.
pub fn write_checkpoint(config: &VoxtralConfig, folder: &Path) -> Result<()> {
    let mut source = WeightLoader::random(0, &burn::tensor::Device::flex()).precision(Precision::Bf16);
    let model = Voxtral::load(config, &mut source);
    source.finish()?;
    std::fs::create_dir_all(folder).map_err(|error| Error::from(error).context(folder.display()))?;
    weights::save(&model, folder, weights::MAX_SHARD)?;
    let mut description = config.to_json();
    description["torch_dtype"] = serde_json::json!("bfloat16");
    let path = folder.join("config.json");
    std::fs::write(&path, format!("{description:#}\n")).map_err(|error| Error::from(error).context(path.display()))
}
