//! `voxpipe show RUN`: summarizes one run.

use super::summary::{Summary, find_of, outcome_words, run_and_project, summary_json};
use super::{Project, print, print_json};
use crate::error::Result;
use crate::report::terminal::{duration, left_out_words};
use clap::Args;
use pipeline::cache::store::Store;

/// Options of `voxpipe show`.
#[derive(Args)]
pub(super) struct Show {
    /// Run id, as listed by `voxpipe runs`, `latest` or `previous`; with a pipeline file, the newest run of that pipeline
    #[arg(default_value = "latest")]
    run: String,
    #[command(flatten)]
    project: Project,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Show {
    /// Prints the stages of the run with their results, durations and metrics.
    pub(super) fn print(&self) -> Result<()> {
        let (run, project) = run_and_project(&self.run, &self.project)?;
        let store = Store::open_readonly(&project.root()?)?;
        let summary = Summary::of(&store, &find_of(&store, &run, &project)?)?;
        if self.json {
            return print_json(summary_json(&store, &summary));
        }
        let outcome = outcome_words(&store, &summary);
        let mut text = format!("run {} of {}, started {}: {outcome}", summary.run, summary.pipeline, summary.started);
        if let Some(seconds) = summary.seconds {
            text.push_str(&format!(" after {}", duration(seconds)));
        }
        text.push('\n');
        let width = summary.stages.iter().map(|stage| stage.stage.chars().count()).max().unwrap_or(0);
        for stage in &summary.stages {
            let time = stage.seconds.map(|seconds| format!(" ({})", duration(seconds))).unwrap_or_default();
            text.push_str(format!("  {:<width$}  {:<11}  {}{time}", stage.stage, stage.result, stage.said).trim_end());
            text.push('\n');
            if !stage.why.is_empty() {
                text.push_str(&format!("  {:<width$}  {:<11}  because {}\n", "", "", stage.why));
            }
            for (name, value) in &stage.metrics {
                text.push_str(&format!("  {:<width$}  {:<11}  {name} {}\n", "", "", voxpipe_io::metrics::text(*value)));
            }
        }
        text.extend(left_out_words(&summary.left_out).map(|words| format!("  {words}\n")));
        print(&text)
    }
}
