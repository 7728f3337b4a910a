//! Resolves resources: requests of steps, capacities of the machine, and Slurm settings.

use super::limits;
use super::resolver::{Draft, Resolver};
use crate::diagnostics::{Diagnostic, did_you_mean, list};
use crate::manifest::{ExecutorKind, SlurmTable};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use toml::Spanned;

/// The resources that a step requests, and where it runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResourceRequest {
    /// Requested amounts by resource name (`cpu`, `gpu` and names in `[resources]`); `None` without a `resources` table.
    pub amounts: Option<BTreeMap<String, f64>>,
    /// The executor, if the file sets one.
    pub on: Option<ExecutorKind>,
    /// Additional arguments for `sbatch`.
    pub slurm: Vec<String>,
}

/// Available resources: `[resources]` and `[slurm]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MachineResources {
    /// Capacities by resource name, as far as the file sets them.
    pub capacities: BTreeMap<String, f64>,
    /// How jobs are submitted to Slurm.
    pub slurm: SlurmSettings,
}

/// `[slurm]`
#[derive(Clone, Debug, PartialEq)]
pub struct SlurmSettings {
    /// Arguments for `sbatch` of every job.
    pub args: Vec<String>,
    /// Shell commands to run on the node before the stage.
    pub setup: Vec<String>,
    /// Path of the voxpipe program on the node; `None` for the current program.
    pub program: Option<String>,
    /// Maximum number of jobs at a time.
    pub jobs: u32,
    /// Interval between job state queries.
    pub poll: Duration,
}

impl Default for SlurmSettings {
    fn default() -> Self {
        Self { args: Vec::new(), setup: Vec::new(), program: None, jobs: 50, poll: Duration::from_secs(5) }
    }
}

/// Name of the CPU resource, in cores.
pub const CPU: &str = "cpu";
/// Name of the GPU resource. A machine without a GPU has a capacity of one, provided by its CPU.
pub const GPU: &str = "gpu";

/// Keys of a stage's `resources` that are not amounts.
const RESERVED: [&str; 2] = ["on", "slurm"];

/// Arguments of `sbatch` that the runner sets itself, with the reason.
const OWN_ARGUMENTS: [(&str, &str); 10] = [
    ("--parsable", "the job ID is read with it"),
    ("--job-name", "jobs are looked up by name"),
    ("-J", "jobs are looked up by name"),
    ("--output", "the job's log is read from there"),
    ("-o", "the job's log is read from there"),
    ("--chdir", "a stage runs in the project's folder"),
    ("-D", "a stage runs in the project's folder"),
    ("--array", "a stage is a single job"),
    ("--wrap", "voxpipe writes the job script"),
    ("--wait", "voxpipe polls the jobs itself"),
];

impl<'a> Resolver<'a, '_> {
    /// Resolves `[resources]` and `[slurm]`.
    pub(super) fn machines(&mut self, resources: BTreeMap<Spanned<String>, Spanned<f64>>, slurm: Option<SlurmTable>) -> MachineResources {
        let mut machines = MachineResources::default();
        for (name, amount) in resources {
            let written = *amount.get_ref();
            if RESERVED.contains(&name.get_ref().as_str()) {
                let taken = Diagnostic::error(name.span(), format!("`{}` cannot be the name of a resource", name.get_ref()));
                self.found.push(taken.hint("it is a reserved key of a stage's `resources`"));
            } else if !(written.is_finite() && written > 0.0) {
                let invalid = Diagnostic::error(amount.span(), format!("{written} is not a valid capacity of `{}`", name.get_ref()));
                self.found.push(invalid.hint("write a number above 0"));
            } else if name.get_ref() == GPU && written.fract() != 0.0 {
                let invalid = Diagnostic::error(amount.span(), format!("{written} is not a valid number of GPUs"));
                self.found.push(invalid.hint("write a whole number"));
            } else {
                machines.capacities.insert(name.into_inner(), written);
            }
        }
        if let Some(SlurmTable { args, setup, program, jobs, poll }) = slurm {
            let defaults = SlurmSettings::default();
            if let Some(jobs) = jobs.as_ref().filter(|jobs| *jobs.get_ref() == 0) {
                self.found.push(Diagnostic::error(jobs.span(), "`jobs` must be at least 1, not 0").hint("write 1 or more"));
            }
            let interval = poll.as_ref().and_then(|poll| self.duration(poll));
            machines.slurm = SlurmSettings {
                args: self.sbatch(args),
                setup,
                program,
                jobs: jobs.map_or(defaults.jobs, |jobs| *jobs.get_ref()),
                poll: interval.unwrap_or(defaults.poll),
            };
        }
        machines
    }

    /// Resolves a stage's `resources`.
    pub(super) fn needs(&mut self, draft: &mut Draft<'a>, machines: &MachineResources) {
        let Some(needs) = draft.table.resources.take() else { return };
        let needs = needs.into_inner();
        let on_cluster = needs.on == Some(ExecutorKind::Slurm);
        let mut amounts = BTreeMap::new();
        for (name, amount) in needs.amounts {
            let (written, name_of) = (*amount.get_ref(), name.get_ref().as_str());
            let capacity = machines.capacities.get(name_of);
            let built_in = [CPU, GPU].contains(&name_of);
            let error = |span, message: String, hint: &str| Diagnostic::error(span, message).hint(hint.to_owned());
            if !(written.is_finite() && written >= 0.0) {
                let message = format!("{written} is not a valid amount of `{name_of}`");
                self.found.push(error(amount.span(), message, "write a number of at least 0"));
            } else if capacity.is_none() && !built_in {
                let known: BTreeSet<&str> = [CPU, GPU].into_iter().chain(machines.capacities.keys().map(String::as_str)).collect();
                let hint = did_you_mean(name_of, known.iter().copied())
                    .unwrap_or_else(|| format!("declare its capacity: `[resources] {name_of} = 1`"));
                let unknown = Diagnostic::error(name.span(), format!("unknown resource `{name_of}`")).hint(hint);
                self.found.push(unknown.note(format!("resources: {}", list(known.iter().copied()))));
            } else if name_of == GPU && written > 1.0 && written.fract() != 0.0 {
                self.found.push(error(
                    amount.span(),
                    format!("{written} is not a valid number of GPUs"),
                    "write a whole number, or a fraction below 1",
                ));
            } else if let Some(capacity) = capacity.filter(|capacity| written > **capacity && name_of != CPU && !(built_in && on_cluster)) {
                let message = format!("the stage requests {written} of `{name_of}`, but `[resources]` has {capacity}");
                self.found.push(error(amount.span(), message, "request less, or raise the capacity there"));
            } else {
                amounts.insert(name.into_inner(), written);
            }
        }
        draft.resources = ResourceRequest { amounts: Some(amounts), on: needs.on, slurm: self.sbatch(needs.slurm) };
    }

    /// Checks arguments for `sbatch`: reports malformed ones and those that voxpipe sets itself.
    fn sbatch(&mut self, arguments: Vec<Spanned<String>>) -> Vec<String> {
        for argument in &arguments {
            let written = argument.get_ref();
            let name = written.split('=').next().unwrap_or_default();
            if !written.starts_with('-') || written.trim() != written {
                let message = format!("\"{written}\" is not an argument of `sbatch`");
                let malformed = Diagnostic::error(argument.span(), message);
                self.found.push(malformed.hint("write each argument with its value, such as \"--mem=32G\""));
            } else if let Some((_, why)) = OWN_ARGUMENTS.iter().find(|(own, _)| *own == name) {
                self.found.push(Diagnostic::error(argument.span(), format!("`{name}` is set by voxpipe: {why}")).hint("remove it"));
            }
        }
        arguments.into_iter().map(Spanned::into_inner).collect()
    }

    /// Parses a duration, or reports an error.
    pub(super) fn duration(&mut self, text: &Spanned<String>) -> Option<Duration> {
        let duration = limits::duration(text.get_ref());
        if duration.is_none() {
            let complaint = Diagnostic::error(text.span(), format!("\"{}\" is not a duration", text.get_ref()));
            self.found.push(complaint.hint("write \"90s\", \"15m\", \"12h\", \"2d\" or \"1h30m\""));
        }
        duration
    }
}
