//! What a stage needs of a machine, which machine, and what there is: a stage's `resources`, `[resources]` and `[slurm]`.

use schemars::JsonSchema;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use toml::Spanned;

/// Where a stage runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExecutorKind {
    /// On this machine.
    Local,
    /// As a job of a Slurm cluster that shares the project's folder with this machine.
    Slurm,
}

/// What a stage needs, such as `{ gpu = 1 }`, and where it runs.
#[derive(Debug, Default)]
pub struct ResourceNeeds {
    /// How much of what, with the places of both.
    pub amounts: Vec<(Spanned<String>, Spanned<f64>)>,
    /// Where.
    pub on: Option<ExecutorKind>,
    /// Further arguments of `sbatch`.
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

/// What a stage needs, such as `{ gpu = 1 }`, and where it runs. Names other than these are those of `[resources]`.
#[derive(JsonSchema)]
#[schemars(inline)]
#[expect(dead_code, reason = "stands for the schema of a stage's resources")]
pub(super) struct NeedsTable {
    /// Processor cores; 1 when left out.
    cpu: Option<f64>,
    /// Graphics cards, or a part of one.
    gpu: Option<f64>,
    /// Where the stage runs; on this machine when left out.
    on: Option<ExecutorKind>,
    /// Further arguments of `sbatch`, such as "--mem=32G".
    #[serde(default)]
    slurm: Vec<String>,
    #[serde(flatten)]
    named: BTreeMap<String, f64>,
}

/// `[slurm]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlurmTable {
    /// Arguments of `sbatch` for every job, such as "--partition=gpu".
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub args: Vec<Spanned<String>>,
    /// Shell commands to be run on the node before the stage, such as "module load cuda".
    #[serde(default)]
    pub setup: Vec<String>,
    /// The voxpipe to be run on the node; the one that submits when left out.
    pub program: Option<String>,
    /// How many jobs there may be at once.
    #[schemars(with = "Option<u32>", example = 50)]
    pub jobs: Option<Spanned<u32>>,
    /// How often Slurm is asked how its jobs are.
    #[schemars(with = "Option<String>", example = &"5s")]
    pub poll: Option<Spanned<String>>,
}
