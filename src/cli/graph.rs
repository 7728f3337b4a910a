//! `voxpipe graph`: draws the stages and their connections.

use super::{Project, print, print_json};
use crate::error::Result;
use clap::{Args, ValueEnum};
use pipeline::graph::draw;

/// Options of `voxpipe graph`.
#[derive(Args)]
pub(super) struct Graph {
    #[command(flatten)]
    project: Project,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Same as `--format json`
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Plain text
    Text,
    /// Mermaid flowchart
    Mermaid,
    /// Graphviz
    Dot,
    /// SVG image
    Svg,
    /// JSON
    Json,
}

impl Graph {
    /// Prints the graph in the chosen format.
    pub(super) fn print(&self) -> Result<()> {
        let pipeline = self.project.pipeline()?;
        match if self.json { Format::Json } else { self.format } {
            Format::Json => print_json(draw::json(&pipeline)),
            Format::Text => print(&draw::text(&pipeline)),
            Format::Mermaid => print(&draw::mermaid(&pipeline)),
            Format::Dot => print(&draw::dot(&pipeline)),
            Format::Svg => print(&draw::svg(&pipeline)),
        }
    }
}
