//! Device benchmarks: roofline (peak rates), single operations, training steps, transcription.
//!
//! Shapes are those of a model; inputs are random. Each row is measured in two rounds: the difference between the two medians shows the
//! noise of the measurement.

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
use voxtral::weights;
use voxtral::weights::WeightLoader;
use voxtral::weights::precision::Precision;
pub use work::OperationCount;

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchPart {
    /// Peak rates of the device (roofline): a large copy and large matrix products.
    Ceilings,
    /// Single operations of the model, forward and backward.
    Operations,
    /// Optimizer steps.
    Steps,
    /// Transcription of 30 seconds of speech.
    Transcription,
}

/// Model dimensions to measure with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchSize {
    /// For tests of the benchmark itself: takes a second or two.
    Tiny,
    /// 80 million parameters, for CPUs.
    Middle,
    /// Voxtral-Mini-3B.
    Mini3b,
}

impl BenchSize {
    /// The model configuration.
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

/// One measurement.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BenchRow {
    /// Name of the measurement.
    pub what: String,
    /// Medians of the two rounds in seconds. Empty if the measurement failed.
    pub seconds: Vec<f64>,
    /// TFLOP/s, for compute-bound operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teraflops: Option<f64>,
    /// GB/s, for memory-bound operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gigabytes: Option<f64>,
    /// Fraction of the peak rate measured for matrix products of the same type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of_ceiling: Option<f64>,
    /// Device memory in use at the end, in bytes; on the CPU the peak resident memory of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Further information, or why there is no measurement.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Benchmark settings.
#[derive(Debug)]
pub struct Benchmark<'a> {
    /// Device to measure.
    pub device: &'a SelectedDevice,
    /// Model dimensions.
    pub config: VoxtralConfig,
    /// Folder of the weights; random weights if none.
    pub model: Option<&'a Path>,
    /// Precision of frozen weight matrices.
    pub precision: Precision,
    /// Batch sizes, one measurement each.
    pub batches: Vec<usize>,
    /// Time to measure each row, per round.
    pub patience: Duration,
}

impl Benchmark<'_> {
    /// Measures the parts in order and passes each row to `report` as soon as it is measured.
    pub fn run(&self, parts: &[BenchPart], report: &mut dyn FnMut(BenchPart, &BenchRow)) -> Result<()> {
        let mut ceiling = None;
        for part in parts {
            let mut report = |row: BenchRow| report(*part, &row);
            match part {
                BenchPart::Ceilings => ceiling = Some(roofline::measure(self, &mut report)?),
                BenchPart::Operations => operations::measure(self, ceiling, &mut report)?,
                BenchPart::Steps => steps::measure(self, ceiling, &mut report)?,
                BenchPart::Transcription => steps::transcribe(self, &mut report)?,
            }
        }
        Ok(())
    }

    /// Loads the model; returns it with the load time in seconds.
    fn load(&self) -> Result<(Voxtral, f64)> {
        self.load_as(self.precision)
    }

    fn load_as(&self, precision: Precision) -> Result<(Voxtral, f64)> {
        let start = Instant::now();
        let mut source = match self.model {
            Some(folder) => WeightLoader::open(folder, self.config.rope_heads(), precision, &self.device.device)?,
            None => WeightLoader::random(0, &self.device.device).precision(precision),
        };
        let model = Voxtral::load(&self.config, &mut source);
        source.finish()?.audit.passed()?;
        self.synchronize()?;
        Ok((model, start.elapsed().as_secs_f64()))
    }

    /// Waits until all queued work of the device is done.
    fn synchronize(&self) -> Result<()> {
        self.device.device.sync().map_err(|error| Error::new(format!("{}: {error:?}", self.device.name)).kind(ErrorKind::LostDevice))
    }

    /// Measures two rounds after one warm-up call. A panic becomes the note of the row.
    fn time(&self, what: impl Into<String>, mut once: impl FnMut()) -> Result<BenchRow> {
        let mut row = BenchRow { what: what.into(), ..BenchRow::default() };
        let rounds = catch_unwind(AssertUnwindSafe(|| -> Result<Vec<f64>> {
            once();
            self.synchronize()?;
            (0..2).map(|_| self.median(&mut once)).collect()
        }));
        match rounds {
            Ok(seconds) => row.seconds = seconds?,
            Err(panic) => row.note = panic_message(panic.as_ref()).to_owned(),
        }
        Ok(row)
    }

    /// Median time of repeated calls: at least 3, at most 200, until `patience` is over.
    fn median(&self, once: &mut dyn FnMut()) -> Result<f64> {
        let (start, mut times) = (Instant::now(), Vec::new());
        while times.len() < 3 || (start.elapsed() < self.patience && times.len() < 200) {
            let begun = Instant::now();
            once();
            self.synchronize()?;
            times.push(begun.elapsed().as_secs_f64());
        }
        Ok(median(&mut times))
    }
}

impl BenchRow {
    /// Adds the rate for this number of operations, and its fraction of the peak rate in FLOP/s.
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

/// Writes a random checkpoint to a folder, with bf16 weights as on the Hub: for benchmarks of loading and of other programs.
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
