//! Runs a pipeline and subscribes to its events, here to draw the training loss as bars.

#![allow(clippy::print_stdout, reason = "an example prints its output")]

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
    let pipeline = parsed.pipeline.ok_or_else(|| Error::new("the pipeline file has errors; `voxpipe check` shows them"))?;

    // Every event is emitted once, as a value; a listener handles those it needs.
    let emitter = Emitter::new(|event| match event {
        Event::StageStarted { stage, why, .. } => println!("{stage}: {why}"),
        Event::Metrics { step, values, .. } => {
            let loss = values.get("loss").copied().unwrap_or_default();
            println!("{step:6} {loss:7.4} {}", "#".repeat((loss * 10.0) as usize));
        }
        Event::StageFailed { message, .. } => println!("failed: {message}"),
        _ => {}
    });

    // The store holds the project lock until it is dropped: one run at a time per project.
    let store = Store::open(&pipeline.root, "watch_events")?;
    let id = store.begin_run()?;
    let report = PipelineRun::new(&pipeline, &store, emitter, id).go();
    println!("exit code {} after {:.1} s", report.exit, report.seconds);
    Ok(())
}
