//! Says what a run of a pipeline would do, and why, without doing it.
//!
//! `cargo run --example explain_plan -- pipelines/first-run.toml`

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to whoever runs it")]

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

    // A function of the text: every complaint at once, and a pipeline if none of them is an error.
    let parsed = Pipeline::parse(STAGES, &text, &file, &CommandLineOverrides::default(), &|name| std::env::var(name).ok());
    for diagnostic in &parsed.diagnostics {
        eprintln!("{}", diagnostic.render(&file, &text, false));
    }
    let pipeline = parsed.pipeline.ok_or_else(|| Error::new("the file has mistakes"))?;

    // Looking at what is there writes nothing.
    let store = Store::look(&pipeline.root)?;
    for step in Plan::of(&pipeline, &store, &BTreeSet::new())?.steps {
        let (word, sentence) = step.state.words();
        println!("{:10} {word:6} {sentence}", step.stage);
    }
    Ok(())
}
