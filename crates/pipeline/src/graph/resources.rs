//! What steps need of a machine, which machine, and what there is.

use super::limits;
use super::resolver::{Draft, Resolver};
use crate::manifest::diagnostic::{Diagnostic, did_you_mean, list};
use crate::manifest::{ExecutorKind, SlurmTable};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use toml::Spanned;

/// What a step needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResourceRequest {
    /// How much of what, if the file says: `cpu`, `gpu`, and names of its own.
    pub amounts: Option<BTreeMap<String, f64>>,
    /// Where it runs, if the file says.
    pub on: Option<ExecutorKind>,
    /// Further arguments of `sbatch`.
    pub slurm: Vec<String>,
}

/// What there is: `[resources]` and `[slurm]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MachineResources {
    /// How much there is of what, as far as the file says.
    pub capacities: BTreeMap<String, f64>,
    /// How jobs are given to Slurm.
    pub slurm: SlurmSettings,
}

/// `[slurm]`
#[derive(Clone, Debug, PartialEq)]
pub struct SlurmSettings {
    /// Arguments of `sbatch` for every job.
    pub args: Vec<String>,
    /// Shell commands to be run on the node before the stage.
    pub setup: Vec<String>,
    /// The voxpipe to be run on the node; this one if left out.
    pub program: Option<String>,
    /// How many jobs there may be at once.
    pub jobs: u32,
    /// How often Slurm is asked.
    pub poll: Duration,
}

impl Default for SlurmSettings {
    fn default() -> Self {
        Self { args: Vec::new(), setup: Vec::new(), program: None, jobs: 50, poll: Duration::from_secs(5) }
    }
}

/// What every machine has.
pub const CPU: &str = "cpu";
/// What every machine has at least one of, if only in the form of a processor that does its work.
pub const GPU: &str = "gpu";

/// Keys of a stage's `resources` that are no amounts.
const WORDS: [&str; 2] = ["on", "slurm"];

/// Arguments of `sbatch` that the runner gives itself, with the reason.
const OURS: [(&str, &str); 10] = [
    ("--parsable", "the job's number is read with it"),
    ("--job-name", "jobs are found again by it"),
    ("-J", "jobs are found again by it"),
    ("--output", "the job's log is read from there"),
    ("-o", "the job's log is read from there"),
    ("--chdir", "a stage runs in the project's folder"),
    ("-D", "a stage runs in the project's folder"),
    ("--array", "a stage is one job"),
    ("--wrap", "the job's script is ours"),
    ("--wait", "jobs are watched another way"),
];

impl<'a> Resolver<'a, '_> {
    /// Reads `[resources]` and `[slurm]`.
    pub(super) fn machines(&mut self, resources: BTreeMap<Spanned<String>, Spanned<f64>>, slurm: Option<SlurmTable>) -> MachineResources {
        let mut machines = MachineResources::default();
        for (name, amount) in resources {
            let written = *amount.get_ref();
            if WORDS.contains(&name.get_ref().as_str()) {
                let taken = Diagnostic::error(name.span(), format!("`{}` cannot be the name of a resource", name.get_ref()));
                self.found.push(taken.hint("it means something else in a stage's `resources`"));
            } else if !(written.is_finite() && written > 0.0) {
                let nothing = Diagnostic::error(amount.span(), format!("there cannot be {written} of `{}`", name.get_ref()));
                self.found.push(nothing.hint("write how much there is, a number above 0"));
            } else if name.get_ref() == GPU && written.fract() != 0.0 {
                self.found.push(Diagnostic::error(amount.span(), format!("there cannot be {written} cards")).hint("write a whole number"));
            } else {
                machines.capacities.insert(name.into_inner(), written);
            }
        }
        if let Some(SlurmTable { args, setup, program, jobs, poll }) = slurm {
            let defaults = SlurmSettings::default();
            if let Some(jobs) = jobs.as_ref().filter(|jobs| *jobs.get_ref() == 0) {
                self.found.push(Diagnostic::error(jobs.span(), "no jobs at once is no way to run").hint("write 1 or more"));
            }
            let asked = poll.as_ref().and_then(|poll| self.duration(poll));
            machines.slurm = SlurmSettings {
                args: self.sbatch(args),
                setup,
                program,
                jobs: jobs.map_or(defaults.jobs, |jobs| *jobs.get_ref()),
                poll: asked.unwrap_or(defaults.poll),
            };
        }
        machines
    }

    /// Reads what a stage needs.
    pub(super) fn needs(&mut self, draft: &mut Draft<'a>, machines: &MachineResources) {
        let Some(needs) = draft.table.resources.take() else { return };
        let needs = needs.into_inner();
        let elsewhere = needs.on == Some(ExecutorKind::Slurm);
        let mut amounts = BTreeMap::new();
        for (name, amount) in needs.amounts {
            let (written, name_of) = (*amount.get_ref(), name.get_ref().as_str());
            let capacity = machines.capacities.get(name_of);
            let own = [CPU, GPU].contains(&name_of);
            let error = |span, message: String, hint: &str| Diagnostic::error(span, message).hint(hint.to_owned());
            if !(written.is_finite() && written >= 0.0) {
                self.found.push(error(amount.span(), format!("a stage cannot need {written} of `{name_of}`"), "write a number, 0 or more"));
            } else if capacity.is_none() && !own {
                let known: BTreeSet<&str> = [CPU, GPU].into_iter().chain(machines.capacities.keys().map(String::as_str)).collect();
                let hint = did_you_mean(name_of, known.iter().copied())
                    .unwrap_or_else(|| format!("say how much of it there is: `[resources] {name_of} = 1`"));
                let unknown = Diagnostic::error(name.span(), format!("no resource is called `{name_of}`")).hint(hint);
                self.found.push(unknown.note(format!("resources: {}", list(known.iter().copied()))));
            } else if name_of == GPU && written > 1.0 && written.fract() != 0.0 {
                self.found.push(error(
                    amount.span(),
                    format!("a stage cannot need {written} cards"),
                    "write a whole number, or less than 1",
                ));
            } else if let Some(capacity) = capacity.filter(|capacity| written > **capacity && name_of != CPU && !(own && elsewhere)) {
                let message = format!("the stage needs {written} of `{name_of}`, and `[resources]` has {capacity}");
                self.found.push(error(amount.span(), message, "ask for less, or raise it there"));
            } else {
                amounts.insert(name.into_inner(), written);
            }
        }
        draft.resources = ResourceRequest { amounts: Some(amounts), on: needs.on, slurm: self.sbatch(needs.slurm) };
    }

    /// Arguments of `sbatch`, without those that are given by us.
    fn sbatch(&mut self, arguments: Vec<Spanned<String>>) -> Vec<String> {
        for argument in &arguments {
            let written = argument.get_ref();
            let name = written.split('=').next().unwrap_or_default();
            if !written.starts_with('-') || written.trim() != written {
                let message = format!("\"{written}\" is not an argument of `sbatch`");
                self.found.push(Diagnostic::error(argument.span(), message).hint("write each with its value, such as \"--mem=32G\""));
            } else if let Some((_, why)) = OURS.iter().find(|(ours, _)| *ours == name) {
                self.found.push(Diagnostic::error(argument.span(), format!("`{name}` is given by voxpipe: {why}")).hint("leave it out"));
            }
        }
        arguments.into_iter().map(Spanned::into_inner).collect()
    }

    /// A duration, or a complaint.
    pub(super) fn duration(&mut self, text: &Spanned<String>) -> Option<Duration> {
        let duration = limits::duration(text.get_ref());
        if duration.is_none() {
            let complaint = Diagnostic::error(text.span(), format!("\"{}\" is not a duration", text.get_ref()));
            self.found.push(complaint.hint("write \"90s\", \"15m\", \"12h\", \"2d\" or \"1h30m\""));
        }
        duration
    }
}
