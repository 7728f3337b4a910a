//! `voxpipe bench`: how fast a device is at what this program does.

use super::{note, print};
use crate::bench;
use crate::bench::{BenchPart, BenchRow, BenchSize, Benchmark as Measuring};
use crate::error::{Error, ErrorKind, Result};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use voxtral::device;
use voxtral::model::config::VoxtralConfig;
use voxtral::model::precision::Precision;

/// Measure a device: its ceilings, single operations, training steps and transcription, at the sizes of a model
#[derive(Args)]
pub(super) struct Bench {
    /// auto, cpu, or a card: cuda:N, rocm:N, wgpu:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Measure with random weights of this size
    #[arg(long, value_enum, default_value_t = Named::Middle)]
    size: Named,
    /// Measure with the weights in this folder instead
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    /// How frozen matrices are kept: f32 or bf16
    #[arg(long, default_value = "f32")]
    precision: Precision,
    /// Rows at once, each measured
    #[arg(long, value_delimiter = ',', default_value = "1,2,4")]
    batches: Vec<usize>,
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ceilings,operations,steps,transcription")]
    parts: Vec<NamedPart>,
    /// Seconds for each round of each thing
    #[arg(long, default_value_t = 0.5)]
    patience: f64,
    /// Measure nothing: write a random checkpoint of this size to a folder, for measuring other programs with the same
    #[arg(long, value_name = "FOLDER", conflicts_with = "model")]
    write: Option<PathBuf>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Named {
    /// A second or two, to try the command
    Tiny,
    /// 80 million parameters
    Middle,
    /// Voxtral-Mini-3B's
    #[value(name = "mini-3b")]
    Mini3b,
}

#[derive(Clone, Copy, ValueEnum)]
enum NamedPart {
    /// A large copy, large products
    Ceilings,
    /// What a model is made of
    Operations,
    /// Optimizer steps
    Steps,
    /// Writing down half a minute of speech
    Transcription,
}

impl Bench {
    pub(super) fn go(&self) -> Result<()> {
        let wrong = |message: String, hint: &str| Err(Error::new(message).kind(ErrorKind::InvalidInput).hint(hint));
        if !matches!(self.precision, Precision::F32 | Precision::Bf16) {
            return wrong(format!("precision `{}` is not measured", self.precision), "write `f32` or `bf16`");
        }
        if self.batches.is_empty() || self.batches.contains(&0) {
            return wrong("`--batches` needs numbers of rows".to_owned(), "write `--batches 1,2,4`");
        }
        let Some(patience) = Duration::try_from_secs_f64(self.patience).ok().filter(|time| time.as_secs() < 3600) else {
            return wrong(format!("`--patience {}` is no number of seconds", self.patience), "write `--patience 0.5`");
        };
        let size = match self.size {
            Named::Tiny => BenchSize::Tiny,
            Named::Middle => BenchSize::Middle,
            Named::Mini3b => BenchSize::Mini3b,
        };
        if let Some(folder) = &self.write {
            return bench::write_checkpoint(&size.config(), folder);
        }
        let config = self.model.as_deref().map_or_else(|| Ok(size.config()), VoxtralConfig::read)?;
        let device = device::choose(&self.device)?;
        if !self.json {
            note(&format!("on {} ({})", device.name, device.reason));
        }
        let measuring = Measuring {
            device: &device,
            config,
            model: self.model.as_deref(),
            precision: self.precision,
            batches: self.batches.clone(),
            patience,
        };
        let parts: Vec<BenchPart> = self.parts.iter().map(|part| (*part).into()).collect();
        let mut printed = Ok(());
        measuring.run(&parts, &mut |part, row| {
            if printed.is_ok() {
                printed = if self.json { print_line(&device.name, part, row) } else { print(&text(row)) };
            }
        })?;
        printed
    }
}

impl From<NamedPart> for BenchPart {
    fn from(part: NamedPart) -> Self {
        match part {
            NamedPart::Ceilings => Self::Ceilings,
            NamedPart::Operations => Self::Operations,
            NamedPart::Steps => Self::Steps,
            NamedPart::Transcription => Self::Transcription,
        }
    }
}

fn print_line(device: &str, part: BenchPart, row: &BenchRow) -> Result<()> {
    let mut value = json!(row);
    value["part"] = Value::from(format!("{part:?}").to_lowercase());
    value["device"] = Value::from(device);
    print(&format!("{value}\n"))
}

/// What was measured, its two medians, and what follows from the better one.
fn text(row: &BenchRow) -> String {
    let time = match row.seconds.as_slice() {
        [] => "-".to_owned(),
        seconds => seconds.iter().map(|seconds| format!("{:.3}", seconds * 1e3)).collect::<Vec<_>>().join(" / ") + " ms",
    };
    let mut facts = Vec::new();
    facts.extend(row.teraflops.map(|rate| format!("{rate:.3} TFLOP/s")));
    facts.extend(row.of_ceiling.map(|share| format!("{:.0} % of the ceiling", 100.0 * share)));
    facts.extend(row.gigabytes.map(|rate| format!("{rate:.1} GB/s")));
    facts.extend(row.memory.map(|bytes| format!("{} MiB", bytes >> 20)));
    facts.extend((!row.note.is_empty()).then(|| row.note.clone()));
    format!("{:<72} {time:>26}  {}\n", row.what, facts.join(", ")).replace("  \n", "\n")
}
