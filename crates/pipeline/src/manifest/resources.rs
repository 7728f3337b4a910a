//! Resource settings: a stage's `resources` (requests), `[resources]` (capacities) and `[slurm]`.

use schemars::JsonSchema;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use toml::Spanned;

/// The executor that runs a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExecutorKind {
    /// On this machine.
    Local,
    /// As a job on a Slurm cluster whose nodes share the project folder with this machine.
    Slurm,
}

/// Resources that a stage requests, such as `{ gpu = 1 }`, and where it runs.
#[derive(Debug, Default)]
pub struct ResourceNeeds {
    /// Resource names and amounts, with their spans.
    pub amounts: Vec<(Spanned<String>, Spanned<f64>)>,
    /// The executor.
    pub on: Option<ExecutorKind>,
    /// Additional arguments for `sbatch`.
    pub slurm: Vec<Spanned<String>>,
}

impl<'de> Deserialize<'de> for ResourceNeeds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = ResourceNeeds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table such as { gpu = 1 }")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<ResourceNeeds, A::Error> {
                let mut needs = ResourceNeeds::default();
                while let Some(name) = entries.next_key::<Spanned<String>>()? {
                    match name.get_ref().as_str() {
                        "on" => needs.on = Some(entries.next_value()?),
                        "slurm" => needs.slurm = entries.next_value()?,
                        _ => needs.amounts.push((name, entries.next_value()?)),
                    }
                }
                Ok(needs)
            }
        }
        deserializer.deserialize_any(Entries)
    }
}

/// Resources that the stage needs, such as `{ gpu = 1 }`, and where it runs. Other names are resources declared in `[resources]`.
#[derive(JsonSchema)]
#[schemars(inline)]
#[expect(dead_code, reason = "stands for the schema of a stage's resources")]
pub(super) struct NeedsTable {
    /// CPU cores. Default: 1; without a `resources` table, compute-heavy stages such as `train` take all cores.
    cpu: Option<f64>,
    /// Number of GPUs; a value below 1 shares one GPU with other stages.
    gpu: Option<f64>,
    /// Where the stage runs: "local" (the default) or "slurm".
    on: Option<ExecutorKind>,
    /// Additional arguments for `sbatch`, such as "--mem=32G".
    #[serde(default)]
    slurm: Vec<String>,
    #[serde(flatten)]
    named: BTreeMap<String, f64>,
}

/// `[slurm]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlurmTable {
    /// Arguments for `sbatch` of every job, such as "--partition=gpu".
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub args: Vec<Spanned<String>>,
    /// Shell commands to run on the node before the stage, such as "module load cuda".
    #[serde(default)]
    pub setup: Vec<String>,
    /// Path of the voxpipe program on the node. Default: the program that submits the job.
    pub program: Option<String>,
    /// Maximum number of jobs at a time (default 50).
    #[schemars(with = "Option<u32>", example = 50)]
    pub jobs: Option<Spanned<u32>>,
    /// Interval between queries for the state of the jobs (default "5s").
    #[schemars(with = "Option<String>", example = &"5s")]
    pub poll: Option<Spanned<String>>,
}
