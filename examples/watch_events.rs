//! Runs a pipeline and listens to its events: here only to the losses, drawn as bars.
//!
//! `cargo run --release --example watch_events -- pipelines/first-run.toml`

#![allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use pipeline::cache::store::Store;
use pipeline::events::{Emitter, Event};
use pipeline::graph::Pipeline;
use pipeline::manifest::overrides::CommandLineOverrides;
use pipeline::scheduler::PipelineRun;
use std::path::PathBuf;
use voxpipe::error::{Error, Result};
use voxpipe::stages::STAGES;

fn main() -> Result<()> {
    let file = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "pipelines/first-run.toml".to_owned()));
    let parsed = Pipeline::parse(STAGES, &std::fs::read_to_string(&file)?, &file, &CommandLineOverrides::default(), &|name| {
        std::env::var(name).ok()
    });
    let pipeline = parsed.pipeline.ok_or_else(|| Error::new("the file has mistakes; `voxpipe check` shows them"))?;

    // Everything that happens is said once, as a value; a listener takes what it cares for.
    let emitter = Emitter::new(|event| match event {
        Event::StageStarted { stage, why, .. } => println!("{stage}: {why}"),
        Event::Metrics { step, values, .. } => {
            let loss = values.get("loss").copied().unwrap_or_default();
            println!("{step:6} {loss:7.4} {}", "#".repeat((loss * 10.0) as usize));
        }
        Event::StageFailed { message, .. } => println!("failed: {message}"),
        _ => {}
    });

    // The lock is held as long as the store lives: one run at a time in a project.
    let store = Store::open(&pipeline.root, "watch_events")?;
    let id = store.begin_run()?;
    let report = PipelineRun::new(&pipeline, &store, emitter, id).go();
    println!("exit code {} after {:.1} s", report.exit, report.seconds);
    Ok(())
}
