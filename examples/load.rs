//! Loads a model's folder and says how long it took, how much memory that needed, and whether every value is a number.
//!
//! `cargo run --release --example load -- FOLDER [auto|f32|bf16]`
//!
//! `loaded` is when the model could begin to compute; what it borrowed from the files was not read by then. `checked` is when every value
//! had been looked at, which is when a first result may leave. Seconds, and MiB of resident memory: `anonymous` is what the program
//! itself needs, `mapped` are pages of the files, which the system may take back.

#![allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use serde_json::json;
use std::path::Path;
use std::time::Instant;
use voxpipe::error::{Error, Result};
use voxtral::device;
use voxtral::model::Voxtral;
use voxtral::model::config::VoxtralConfig;
use voxtral::model::precision::Precision;
use voxtral::weights::WeightLoader;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or_else(|| Error::new("give a model's folder"))?;
    let precision: Precision = arguments.next().map_or(Ok(Precision::Auto), |name| name.parse()).map_err(Error::new)?;
    let chosen = device::choose("auto")?;

    let begun = Instant::now();
    let folder = Path::new(&folder);
    let config = VoxtralConfig::read(folder)?;
    let mut weights = WeightLoader::open(folder, precision, &chosen.device)?;
    let model = Voxtral::load(&config, &mut weights);
    let finished = weights.finish()?;
    let loaded = begun.elapsed().as_secs_f64();
    finished.audit.passed()?;
    let checked = begun.elapsed().as_secs_f64();

    let memory = ["VmHWM", "RssAnon", "RssFile"].map(resident);
    let [peak, anonymous, mapped] = memory;
    let line = json!({
        "precision": finished.precision, "loaded": loaded, "checked": checked, "peak": peak, "anonymous": anonymous, "mapped": mapped,
    });
    println!("{line}");
    drop(model);
    Ok(())
}

/// A line of this process's memory, in MiB; none where the system does not tell.
fn resident(what: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib / 1024)
}
