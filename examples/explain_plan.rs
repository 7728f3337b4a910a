//! Prints what a run of a pipeline would do, and why, without running it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints its output")]

use pipeline::cache::store::Store;
use pipeline::graph::Pipeline;
use pipeline::manifest::overrides::CommandLineOverrides;
use pipeline::plan::Plan;
use std::collections::BTreeSet;
use std::path::PathBuf;
use voxpipe::error::{Error, Result};
use voxpipe::stages::STAGES;

fn main() -> Result<()> {
    let file = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "pipelines/first-run.toml".to_owned()));
    let text = std::fs::read_to_string(&file)?;

    // Parsing is a function of the text: it returns all diagnostics, and a pipeline if none of them is an error.
    let parsed = Pipeline::parse(STAGES, &text, &file, &CommandLineOverrides::default(), &|name| std::env::var(name).ok());
    for diagnostic in &parsed.diagnostics {
        eprintln!("{}", diagnostic.render(&file, &text, false));
    }
    let pipeline = parsed.pipeline.ok_or_else(|| Error::new("the pipeline file has errors"))?;

    // Planning is read-only.
    let store = Store::open_readonly(&pipeline.root)?;
    for step in Plan::of(&pipeline, &store, &BTreeSet::new())?.steps {
        let (word, sentence) = step.state.words();
        println!("{:10} {word:6} {sentence}", step.stage);
    }
    Ok(())
}
