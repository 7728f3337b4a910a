//! Renders the stage graph as text, Mermaid, Graphviz DOT, SVG or JSON.
//!
//! All formats show the stages in execution order, their gates, and the input port of each edge. `after` edges are dashed.

mod svg;

pub use svg::svg;

use crate::graph::{Pipeline, Step};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// One line per stage, with its output and inputs.
pub fn text(pipeline: &Pipeline) -> String {
    let width = pipeline.steps.iter().map(|step| step.name.chars().count()).max().unwrap_or(0);
    let kind_width = pipeline.steps.iter().map(|step| step.stage.kind().len()).max().unwrap_or(0);
    let mut out = format!("{}\n", pipeline.name);
    for step in &pipeline.steps {
        let mut comes_from: Vec<String> = step.from.iter().map(|(port, names)| format!("{port} = {}", names.join(" + "))).collect();
        if !step.after.is_empty() {
            comes_from.push(format!("after {}", step.after.join(" + ")));
        }
        let arrow = if comes_from.is_empty() { String::new() } else { format!("  ← {}", comes_from.join(", ")) };
        let line = format!("  {:width$}  {:kind_width$}  → {}{arrow}", step.name, step.stage.kind(), step.stage.output());
        let _ = writeln!(out, "{}", line.trim_end());
        for (metric, bound) in &step.require {
            let _ = writeln!(out, "  {:width$}  {:kind_width$}  only if {metric} {bound}", "", "");
        }
    }
    let leaves = leaves(pipeline);
    if !leaves.is_empty() {
        let _ = writeln!(out, "results: {}", leaves.into_iter().collect::<Vec<_>>().join(", "));
    }
    out
}

/// A Mermaid flowchart.
pub fn mermaid(pipeline: &Pipeline) -> String {
    let mut out = "flowchart TD\n".to_owned();
    let id = |name: &str| pipeline.steps.iter().position(|step| step.name == name).map_or_else(String::new, |index| format!("s{index}"));
    for step in &pipeline.steps {
        let gates: String =
            step.require.iter().map(|(metric, bound)| format!("<br/>{} {}", escaped(metric), escaped(&bound.to_string()))).collect();
        let _ = writeln!(out, "  {}[\"{}<br/>{}{gates}\"]", id(&step.name), escaped(&step.name), escaped(step.stage.kind()));
    }
    for (upstream, step, port) in edges(pipeline) {
        let arrow = port.map_or_else(|| "-.->".to_owned(), |port| format!("-->|\"{}\"|", escaped(port)));
        let _ = writeln!(out, "  {} {arrow} {}", id(upstream), id(&step.name));
    }
    out
}

/// A Graphviz digraph.
pub fn dot(pipeline: &Pipeline) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " "));
    let mut out = format!("digraph {} {{\n  node [shape=box];\n", quoted(&pipeline.name));
    for step in &pipeline.steps {
        let gates: String = step.require.iter().map(|(metric, bound)| format!("\\n{metric} {bound}")).collect();
        let label = quoted(&format!("{} ({})", step.name, step.stage.kind()));
        let label = format!("{}{}\"", label.trim_end_matches('"'), gates.replace('"', "\\\""));
        let _ = writeln!(out, "  {} [label={label}];", quoted(&step.name));
    }
    for (upstream, step, port) in edges(pipeline) {
        let style = port.map_or_else(|| "style=dashed".to_owned(), |port| format!("label={}", quoted(port)));
        let _ = writeln!(out, "  {} -> {} [{style}];", quoted(upstream), quoted(&step.name));
    }
    out.push_str("}\n");
    out
}

/// Stages and edges as JSON.
pub fn json(pipeline: &Pipeline) -> Value {
    let stages: Vec<_> = pipeline
        .steps
        .iter()
        .map(|step| {
            let gates: Vec<_> = step.require.iter().map(|(metric, bound)| format!("{metric} {bound}")).collect();
            json!({ "stage": step.name, "kind": step.stage.kind(), "makes": step.stage.output(), "require": gates })
        })
        .collect();
    let edges: Vec<_> =
        edges(pipeline).into_iter().map(|(upstream, step, port)| json!({ "from": upstream, "to": step.name, "port": port })).collect();
    json!({ "pipeline": pipeline.name, "stages": stages, "edges": edges })
}

/// Edges as (upstream, step, port); the port is `None` for `after`.
fn edges(pipeline: &Pipeline) -> Vec<(&str, &Step, Option<&str>)> {
    let mut edges = Vec::new();
    for step in &pipeline.steps {
        for (port, upstreams) in &step.from {
            edges.extend(upstreams.iter().map(|upstream| (upstream.as_str(), step, Some(port.as_str()))));
        }
        edges.extend(step.after.iter().map(|upstream| (upstream.as_str(), step, None)));
    }
    edges
}

/// Stages without dependents.
fn leaves(pipeline: &Pipeline) -> BTreeSet<&str> {
    let needed: BTreeSet<&str> = pipeline.steps.iter().flat_map(Step::needs).collect();
    pipeline.steps.iter().map(|step| step.name.as_str()).filter(|name| !needed.contains(name)).collect()
}

/// Escapes text for a quoted Mermaid label.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;")
}
