//! `voxpipe runs`: lists the runs of a project.

use super::summary::{Summary, outcome_words, summary_json};
use super::{Project, print, print_json};
use crate::error::Result;
use crate::report::terminal::duration;
use clap::Args;
use pipeline::cache::store::Store;
use serde_json::json;

/// Options of `voxpipe runs`.
#[derive(Args)]
pub(super) struct Runs {
    #[command(flatten)]
    project: Project,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Runs {
    /// Prints one line for each run, oldest first.
    pub(super) fn print(&self) -> Result<()> {
        let store = Store::open_readonly(&self.project.root()?)?;
        let summaries: Vec<_> = store.runs()?.iter().map(|run| Summary::of(&store, run)).collect::<Result<_>>()?;
        if self.json {
            return print_json(json!({ "runs": summaries.iter().map(|summary| summary_json(&store, summary)).collect::<Vec<_>>() }));
        }
        let mut text = String::new();
        for summary in &summaries {
            let count = |result: &str| summary.stages.iter().filter(|stage| stage.result == result).count();
            let time = summary.seconds.map(duration).unwrap_or_default();
            let counts = format!("{} fresh, {} done of {}", count("fresh"), count("done"), summary.stages.len());
            text.push_str(&format!("{}  {:<12}  {}  {counts}  {time}\n", summary.run, outcome_words(&store, summary), summary.pipeline));
        }
        print(if text.is_empty() { "no runs yet\n" } else { &text })
    }
}
