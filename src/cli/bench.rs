//! `voxpipe bench`: benchmarks a device.

use super::{note, print};
use crate::bench;
use crate::bench::{BenchPart, BenchRow, BenchSize, Benchmark};
use crate::error::{Error, ErrorKind, Result};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use voxtral::device;
use voxtral::model::config::VoxtralConfig;
use voxtral::weights::precision::Precision;

/// Options of `voxpipe bench`.
#[derive(Args)]
pub(super) struct Bench {
    /// Device to measure: auto, cpu, cuda:N, rocm:N or wgpu:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Model size, with random weights
    #[arg(long, value_enum, default_value_t = Size::Middle)]
    size: Size,
    /// Model folder to measure instead of random weights
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    /// Precision of frozen weights: f32 or bf16
    #[arg(long, default_value = "f32")]
    precision: Precision,
    /// Batch sizes to measure
    #[arg(long, value_delimiter = ',', default_value = "1,2,4")]
    batches: Vec<usize>,
    /// Parts to measure
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ceilings,operations,steps,transcription")]
    parts: Vec<Part>,
    /// Seconds to measure each row, per round
    #[arg(long, default_value_t = 0.5)]
    patience: f64,
    /// Only write a random checkpoint of this size to a folder, for benchmarks of other programs
    #[arg(long, value_name = "FOLDER", conflicts_with = "model")]
    write: Option<PathBuf>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Size {
    /// Takes a second or two, to try the command
    Tiny,
    /// 80 million parameters
    Middle,
    /// Voxtral-Mini-3B
    #[value(name = "mini-3b")]
    Mini3b,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    /// Peak rates: a large copy and large matrix products
    Ceilings,
    /// Single operations of the model
    Operations,
    /// Optimizer steps
    Steps,
    /// Transcription of 30 seconds of speech
    Transcription,
}

impl Bench {
    pub(super) fn go(&self) -> Result<()> {
        let wrong = |message: String, hint: &str| Err(Error::new(message).kind(ErrorKind::InvalidInput).hint(hint));
        if !matches!(self.precision, Precision::F32 | Precision::Bf16) {
            return wrong(format!("precision `{}` is not supported by `bench`", self.precision), "write `f32` or `bf16`");
        }
        if self.batches.is_empty() || self.batches.contains(&0) {
            return wrong("`--batches` needs batch sizes of at least 1".to_owned(), "write `--batches 1,2,4`");
        }
        let Some(patience) = Duration::try_from_secs_f64(self.patience).ok().filter(|time| time.as_secs() < 3600) else {
            return wrong(format!("`--patience {}` is not a number of seconds from 0 to 3600", self.patience), "write `--patience 0.5`");
        };
        let size = match self.size {
            Size::Tiny => BenchSize::Tiny,
            Size::Middle => BenchSize::Middle,
            Size::Mini3b => BenchSize::Mini3b,
        };
        if let Some(folder) = &self.write {
            return bench::write_checkpoint(&size.config(), folder);
        }
        let config = self.model.as_deref().map_or_else(|| Ok(size.config()), VoxtralConfig::read)?;
        let device = device::choose(&self.device)?;
        if !self.json {
            note(&format!("device {} ({})", device.name, device.reason));
        }
        let benchmark = Benchmark {
            device: &device,
            config,
            model: self.model.as_deref(),
            precision: self.precision,
            batches: self.batches.clone(),
            patience,
        };
        let parts: Vec<BenchPart> = self.parts.iter().map(|part| (*part).into()).collect();
        let mut printed = Ok(());
        benchmark.run(&parts, &mut |part, row| {
            if printed.is_ok() {
                printed = if self.json { print_line(&device.name, part, row) } else { print(&text(row)) };
            }
        })?;
        printed
    }
}

impl From<Part> for BenchPart {
    fn from(part: Part) -> Self {
        match part {
            Part::Ceilings => Self::Ceilings,
            Part::Operations => Self::Operations,
            Part::Steps => Self::Steps,
            Part::Transcription => Self::Transcription,
        }
    }
}

/// Prints a row as one line of JSON.
fn print_line(device: &str, part: BenchPart, row: &BenchRow) -> Result<()> {
    let mut value = json!(row);
    value["part"] = Value::from(format!("{part:?}").to_lowercase());
    value["device"] = Value::from(device);
    print(&format!("{value}\n"))
}

/// One line of the table: name, the two medians, and the rates of the better one.
fn text(row: &BenchRow) -> String {
    let time = match row.seconds.as_slice() {
        [] => "-".to_owned(),
        seconds => seconds.iter().map(|seconds| format!("{:.3}", seconds * 1e3)).collect::<Vec<_>>().join(" / ") + " ms",
    };
    let mut facts = Vec::new();
    facts.extend(row.teraflops.map(|rate| format!("{rate:.3} TFLOP/s")));
    facts.extend(row.of_ceiling.map(|share| format!("{:.0} % of peak", 100.0 * share)));
    facts.extend(row.gigabytes.map(|rate| format!("{rate:.1} GB/s")));
    facts.extend(row.memory.map(|bytes| format!("{} MiB", bytes >> 20)));
    facts.extend((!row.note.is_empty()).then(|| row.note.clone()));
    format!("{:<72} {time:>26}  {}\n", row.what, facts.join(", ")).replace("  \n", "\n")
}
