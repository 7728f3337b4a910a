//! A pipeline with a stage kind of its own, run twice: the second run finds everything up to date.
//!
//! `cargo run -p voxpipe-pipeline --example own_stage`

#![allow(clippy::print_stdout, reason = "an example prints its output")]

use pipeline::artifact::ArtifactKind;
use pipeline::cache::store::Store;
use pipeline::error::{Error, Result, ResultExt};
use pipeline::events::{Emitter, Event};
use pipeline::graph::Pipeline;
use pipeline::manifest::overrides::CommandLineOverrides;
use pipeline::scheduler::PipelineRun;
use pipeline::stage::{Arity, Context, FactoryOf, Port, Stage, StageFactory, StageOutcome, StageResult};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Runs a shell command; what it writes to `$OUT` is the result.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Shell {
    /// The command, for `sh -c`. `$OUT` is the output folder, `$IN` the folder of the input, if there is one.
    command: String,
    /// Files that the command reads: a change runs it again.
    #[serde(default)]
    files: Vec<PathBuf>,
}

impl Stage for Shell {
    const KIND: &'static str = "shell";
    const ABOUT: &'static str = "runs a shell command";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] =
        &[Port { name: "input", kinds: &[ArtifactKind::Files], arity: Arity::Optional, about: "the result of another command" }];

    fn output(&self) -> ArtifactKind {
        ArtifactKind::Files
    }

    fn sources(&self) -> Vec<PathBuf> {
        self.files.clone()
    }

    fn run(&self, cx: &Context) -> Result<StageOutcome> {
        let mut command = Command::new("sh");
        command.args(["-c", &self.command]).current_dir(&cx.root).env("OUT", &cx.out);
        if let Some(input) = cx.optional("input") {
            command.env("IN", &input.path);
        }
        let status = command.status().with_context(|| "cannot start sh")?;
        match status.success() {
            true => Ok(StageOutcome::Done(StageResult::new(format!("`{}`", self.command)))),
            false => Err(Error::new(format!("`{}` ended with {status}", self.command)).hint("correct the command and run again")),
        }
    }
}

const KINDS: &[&dyn StageFactory] = &[&FactoryOf::<Shell>::NEW];

const PIPELINE: &str = r#"
schema = 1
[pipeline]
name = "words"
[stage.sorted]
uses = "shell"
with = { command = "sort words.txt > $OUT/sorted.txt", files = ["words.txt"] }
[stage.count]
uses = "shell"
from = { input = "sorted" }
with = { command = "wc -l < $IN/sorted.txt > $OUT/count.txt" }
"#;

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("words.txt"), "pear\napple\nfig\n")?;
    let file = folder.path().join("pipeline.toml");
    let parsed = Pipeline::parse(KINDS, PIPELINE, &file, &CommandLineOverrides::default(), &|_| None);
    let pipeline = parsed.pipeline.ok_or_else(|| Error::new("the pipeline has mistakes"))?;
    for round in ["first", "second"] {
        println!("{round} run");
        let store = Store::open(&pipeline.root, "example")?;
        let emitter = Emitter::new(|event| match event {
            Event::StageStarted { stage, why, .. } => println!("  {stage} runs: {why}"),
            Event::StageFresh { stage, .. } => println!("  {stage} is up to date"),
            Event::StageFailed { stage, message, .. } => println!("  {stage} failed: {message}"),
            _ => {}
        });
        let report = PipelineRun::new(&pipeline, &store, emitter, store.begin_run()?).go();
        if report.exit != 0 {
            return Err(Error::new("the run failed"));
        }
    }
    Ok(())
}
