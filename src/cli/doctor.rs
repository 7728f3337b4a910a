//! `voxpipe doctor`: lists devices and Hub access, and runs a numerical self-test of the device against the CPU.

use super::{Project, print, print_json};
use crate::bench::selftest::{SelfTestResult, agree};
use crate::error::{Error, Result};
use crate::hub;
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use voxtral::device;
use voxtral::kernels::cpu;

/// Options of `voxpipe doctor`.
#[derive(Args)]
pub(super) struct Doctor {
    /// Pipeline file: also check the Hub access and permissions that its stages need
    pipeline: Option<PathBuf>,
    /// Device to test: auto, cpu, cuda:N, rocm:N or wgpu:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn go(&self) -> Result<()> {
        let chosen = device::choose(&self.device)?;
        let preflights = self.preflights()?;
        let devices: Vec<Value> = device::all()
            .iter()
            .map(|found| json!({ "name": found.name, "what": found.reason, "free_memory": found.free_memory() }))
            .collect();
        let trials = agree(&chosen)?;
        let well = trials.iter().all(SelfTestResult::passed);
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "threads": std::thread::available_parallelism().map(usize::from).ok(),
            "processor": cpu::kind(),
            "devices": devices,
            "device": { "name": chosen.name, "reason": chosen.reason },
            "hub": { "home": hub::home()?, "token": hub::token().is_some() },
            "stages": preflights,
            "trials": trials,
            "well": well,
        });
        if self.json {
            print_json(report)?
        } else {
            print(&text(&report, &trials))?
        }
        if let Some(failed) = preflights.iter().find(|stage| stage["well"] == false) {
            let text = |key: &str| failed[key].as_str().unwrap_or_default().to_owned();
            let error = Error::new(format!("stage `{}`: {}", text("stage"), text("what"))).environment();
            return Err(error.hint(text("advice")));
        }
        if well {
            return Ok(());
        }
        Err(Error::new(format!("self-test failed: the results of {} differ from those of the CPU", chosen.name))
            .environment()
            .hint("use `device = \"cpu\"`, and report this with the output above"))
    }
}

impl Doctor {
    /// Preflight checks of the stages that use remote services.
    fn preflights(&self) -> Result<Vec<Value>> {
        let Some(file) = &self.pipeline else { return Ok(Vec::new()) };
        let pipeline = Project::of(file.clone()).pipeline()?;
        let stop = AtomicBool::new(false);
        let remote = pipeline.steps.iter().filter(|step| step.stage.uses_network());
        let checks = remote.map(|step| {
            let (well, what, hint) = match step.stage.preflight(&step.ports(), &stop) {
                Ok(found) => (true, found.unwrap_or_else(|| "not checked: offline".to_owned()), None),
                Err(error) => (false, error.message, error.hint),
            };
            json!({ "stage": step.name, "well": well, "what": what, "advice": hint })
        });
        Ok(checks.collect())
    }
}

fn text(report: &Value, trials: &[SelfTestResult]) -> String {
    let string = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = vec![
        format!("voxpipe    {}", string(&report["version"])),
        format!("CPU        {} threads, {}", report["threads"], string(&report["processor"])),
    ];
    for device in report["devices"].as_array().into_iter().flatten() {
        let free =
            device["free_memory"].as_u64().map_or(String::new(), |bytes| format!(", {:.1} GiB free", bytes as f64 / (1u64 << 30) as f64));
        lines.push(format!("device     {}: {}{free}", string(&device["name"]), string(&device["what"])));
    }
    lines.push(format!("chosen     {} ({})", string(&report["device"]["name"]), string(&report["device"]["reason"])));
    let token = if report["hub"]["token"] == true { "a token is set" } else { "no token is set: only public repositories are readable" };
    let cache = string(&report["hub"]["home"]);
    let there = if Path::new(&cache).is_dir() { "" } else { " (created by the first download)" };
    lines.push(format!("Hub        {token}; download cache: {cache}{there}"));
    for stage in report["stages"].as_array().into_iter().flatten() {
        let verdict = if stage["well"] == true { "ok" } else { "FAILED" };
        lines.push(format!("stage      {verdict:6}  {}: {}", string(&stage["stage"]), string(&stage["what"])));
    }
    for trial in trials {
        let verdict = if trial.passed() { "ok" } else { "FAILED" };
        let difference = match trial.difference {
            Some(difference) => format!("difference from CPU f32 {difference:.1e}, tolerance {:.0e}", trial.allowed),
            None => trial.note.clone(),
        };
        lines.push(format!("self-test  {verdict:6}  {}: {difference}, {:.2} s", trial.what, trial.seconds));
    }
    lines.join("\n") + "\n"
}
