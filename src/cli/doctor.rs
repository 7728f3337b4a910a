//! `voxpipe doctor`: what this machine has for voxpipe, and whether it computes right.

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

/// Look at this machine: devices, memory, Hub; and train a very small model on the device, to see that it computes right
#[derive(Args)]
pub(super) struct Doctor {
    /// A pipeline file: whether what it publishes may be published is looked at too
    pipeline: Option<PathBuf>,
    /// auto, cpu, or a card: cuda:N, rocm:N, wgpu:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn go(&self) -> Result<()> {
        let chosen = device::choose(&self.device)?;
        let outside = self.outside()?;
        let devices: Vec<Value> = device::all()
            .iter()
            .map(|found| json!({ "name": found.name, "what": found.reason, "free_memory": found.free_memory() }))
            .collect();
        let trials = agree(&chosen)?;
        let well = trials.iter().all(SelfTestResult::holds);
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "threads": std::thread::available_parallelism().map(usize::from).ok(),
            "processor": cpu::kind(),
            "devices": devices,
            "device": { "name": chosen.name, "reason": chosen.reason },
            "hub": { "home": hub::home()?, "token": hub::token().is_some() },
            "stages": outside,
            "trials": trials,
            "well": well,
        });
        if self.json {
            print_json(report)?
        } else {
            print(&text(&report, &trials))?
        }
        if let Some(refused) = outside.iter().find(|stage| stage["well"] == false) {
            let said = |key: &str| refused[key].as_str().unwrap_or_default().to_owned();
            let error = Error::new(format!("stage `{}`: {}", said("stage"), said("what"))).environment();
            return Err(error.hint(said("advice")));
        }
        if well {
            return Ok(());
        }
        Err(Error::new(format!("{} does not compute what the processor computes", chosen.name))
            .environment()
            .hint("use `device = \"cpu\"`, and report this with the lines above"))
    }
}

impl Doctor {
    /// What every stage of the pipeline that needs something outside this machine finds there.
    fn outside(&self) -> Result<Vec<Value>> {
        let Some(file) = &self.pipeline else { return Ok(Vec::new()) };
        let pipeline = Project::of(file.clone()).pipeline()?;
        let stop = AtomicBool::new(false);
        let asked = pipeline.steps.iter().filter(|step| step.stage.reaches_out());
        let told = asked.map(|step| {
            let (well, what, hint) = match step.stage.preflight(&step.ports(), &stop) {
                Ok(found) => (true, found.unwrap_or_else(|| "not looked at: the network is not to be used".to_owned()), None),
                Err(error) => (false, error.message, error.hint),
            };
            json!({ "stage": step.name, "well": well, "what": what, "advice": hint })
        });
        Ok(told.collect())
    }
}

fn text(report: &Value, trials: &[SelfTestResult]) -> String {
    let said = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = vec![
        format!("voxpipe    {}", said(&report["version"])),
        format!("processor  {} threads, {}", report["threads"], said(&report["processor"])),
    ];
    for device in report["devices"].as_array().into_iter().flatten() {
        let free =
            device["free_memory"].as_u64().map_or(String::new(), |bytes| format!(", {:.1} GiB free", bytes as f64 / (1u64 << 30) as f64));
        lines.push(format!("device     {}: {}{free}", said(&device["name"]), said(&device["what"])));
    }
    lines.push(format!("chosen     {} ({})", said(&report["device"]["name"]), said(&report["device"]["reason"])));
    let token = if report["hub"]["token"] == true { "a token is set" } else { "no token is set, so only public repositories can be read" };
    let cache = said(&report["hub"]["home"]);
    let there = if Path::new(&cache).is_dir() { "" } else { " (made when something is downloaded)" };
    lines.push(format!("Hub        {token}; downloads lie below {cache}{there}"));
    for stage in report["stages"].as_array().into_iter().flatten() {
        let verdict = if stage["well"] == true { "well" } else { "REFUSED" };
        lines.push(format!("stage      {verdict:5}  {}: {}", said(&stage["stage"]), said(&stage["what"])));
    }
    for trial in trials {
        let verdict = if trial.holds() { "well" } else { "WRONG" };
        let difference = match trial.difference {
            Some(difference) => format!("{difference:.1e} from the processor in f32, allowed {:.0e}", trial.allowed),
            None => trial.note.clone(),
        };
        lines.push(format!("trial      {verdict:5}  {}: {difference}, {:.2} s", trial.what, trial.seconds));
    }
    lines.join("\n") + "\n"
}
