//! Loads a model, and prints how long it took, how much memory it needed, and whether all values are finite.
//!
//! `cargo run --release -p voxtral --example load -- FOLDER [auto|f32|bf16]`
//!
//! `loaded` is the time until the model is ready to compute; memory-mapped weights have not been read by then. `checked` is the time until
//! every value has been checked, which must happen before the first result is returned. Times are in seconds. Resident memory is in MiB:
//! `anonymous` is memory of the process itself, `mapped` are pages of the files, which the system can reclaim.

#![allow(clippy::print_stdout, reason = "an example prints its output")]

use serde_json::json;
use std::path::Path;
use std::time::Instant;
use voxtral::device;
use voxtral::error::{Error, Result};
use voxtral::model::Voxtral;
use voxtral::model::config::VoxtralConfig;
use voxtral::weights::WeightLoader;
use voxtral::weights::precision::Precision;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or_else(|| Error::new("usage: load FOLDER [auto|f32|bf16]"))?;
    let precision: Precision = arguments.next().map_or(Ok(Precision::Auto), |name| name.parse()).map_err(Error::new)?;
    let chosen = device::choose("auto")?;

    let begun = Instant::now();
    let folder = Path::new(&folder);
    let config = VoxtralConfig::read(folder)?;
    let mut weights = WeightLoader::open(folder, config.rope_heads(), precision, &chosen.device)?;
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

/// A memory value of this process from `/proc`, in MiB; `None` if not available.
fn resident(what: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib / 1024)
}
