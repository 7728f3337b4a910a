//! The pipeline as a drawing: each function gives a text from a pipeline and looks at nothing else.

use crate::pipeline::{Pipeline, Step};

/// One line a step, with what goes into it.
pub(super) fn text(pipeline: &Pipeline) -> String {
    let width = |of: fn(&Step) -> usize| pipeline.steps.iter().map(of).max().unwrap_or(0);
    let (names, kinds) = (width(|step| step.name.chars().count()), width(|step| step.stage.kind().len()));
    let mut lines = String::new();
    for step in &pipeline.steps {
        let mut needs: Vec<_> =
            edges(step).map(|(from, port)| if from == port { from.to_owned() } else { format!("{from} as {port}") }).collect();
        needs.extend(step.after.iter().map(|name| format!("after {name}")));
        let arrow = if needs.is_empty() { String::new() } else { format!("← {}", needs.join(", ")) };
        lines.push_str(format!("{:<names$}  {:<kinds$}  {arrow}", step.name, step.stage.kind()).trim_end());
        lines.push('\n');
    }
    lines
}

/// A Mermaid flowchart.
pub(super) fn mermaid(pipeline: &Pipeline) -> String {
    let mut lines = "flowchart TD\n".to_owned();
    for (number, step) in pipeline.steps.iter().enumerate() {
        lines.push_str(&format!("  s{number}[\"{} ({})\"]\n", step.name.replace('"', "'"), step.stage.kind()));
    }
    for (number, step) in pipeline.steps.iter().enumerate() {
        for (from, port) in edges(step) {
            lines.push_str(&format!("  s{} -->|{port}| s{number}\n", position(pipeline, from)));
        }
        for from in &step.after {
            lines.push_str(&format!("  s{} -.-> s{number}\n", position(pipeline, from)));
        }
    }
    lines
}

/// A Graphviz digraph.
pub(super) fn dot(pipeline: &Pipeline) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut lines = format!("digraph {} {{\n", quoted(&pipeline.name));
    for step in &pipeline.steps {
        lines.push_str(&format!("  {} [label={}];\n", quoted(&step.name), quoted(&format!("{} ({})", step.name, step.stage.kind()))));
        for (from, port) in edges(step) {
            lines.push_str(&format!("  {} -> {} [label={}];\n", quoted(from), quoted(&step.name), quoted(port)));
        }
        for from in &step.after {
            lines.push_str(&format!("  {} -> {} [style=dashed];\n", quoted(from), quoted(&step.name)));
        }
    }
    lines.push_str("}\n");
    lines
}

fn edges(step: &Step) -> impl Iterator<Item = (&str, &str)> {
    step.from.iter().flat_map(|(port, names)| names.iter().map(|name| (name.as_str(), port.as_str())))
}

fn position(pipeline: &Pipeline, name: &str) -> usize {
    pipeline.steps.iter().position(|step| step.name == name).unwrap_or_default()
}
