//! SVG rendering: stages as boxes in columns, each to the right of its dependencies; supports light and dark mode.

use super::edges;
use crate::graph::{Pipeline, Step};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Width and height of a box, in pixels.
const BOX: [f64; 2] = [168.0, 48.0];
/// Horizontal and vertical gap between boxes, in pixels.
const GAP: [f64; 2] = [76.0, 34.0];
const MARGIN: f64 = 20.0;
const LINE: f64 = 16.0;

const STYLE: &str = "<style>\n\
.paper { fill: #ffffff } .box { fill: #f6f8fa; stroke: #57606a } text { fill: #1f2328 } .kind { fill: #57606a }\n\
.flow { fill: none; stroke: #57606a; stroke-width: 1.4 } .order { stroke-dasharray: 5 4 } .tip { fill: #57606a } .port { fill: #57606a; font-size: 11px }\n\
@media (prefers-color-scheme: dark) {\n\
.paper { fill: #0d1117 } .box { fill: #161b22; stroke: #8b949e } text { fill: #e6edf3 } .kind, .port { fill: #8b949e }\n\
.flow { stroke: #8b949e } .tip { fill: #8b949e }\n\
}\n</style>\n";

/// Renders the pipeline as SVG.
pub fn svg(pipeline: &Pipeline) -> String {
    let places = places(pipeline);
    let tallest = pipeline.steps.iter().map(height).fold(BOX[1], f64::max);
    let corner = |name: &str| -> (f64, f64) {
        let (column, row) = places.get(name).copied().unwrap_or_default();
        (MARGIN + column as f64 * (BOX[0] + GAP[0]), MARGIN + row as f64 * (tallest + GAP[1]))
    };
    let count = |of: fn(&(usize, usize)) -> usize| places.values().map(of).max().map_or(1, |last| last + 1) as f64;
    let width = 2.0 * MARGIN + count(|place| place.0) * (BOX[0] + GAP[0]) - GAP[0];
    let height_in_all = 2.0 * MARGIN + count(|place| place.1) * (tallest + GAP[1]) - GAP[1];
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height_in_all}\" viewBox=\"0 0 {width} {height_in_all}\" role=\"img\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n<title>{}</title>\n{STYLE}\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\">\
         <path class=\"tip\" d=\"M0 0L8 4L0 8z\"/></marker></defs>\n<rect class=\"paper\" width=\"{width}\" height=\"{height_in_all}\"/>\n",
        escaped(&pipeline.name)
    );
    for (upstream, step, port) in edges(pipeline) {
        let ((x, y), (to_x, to_y)) = (corner(upstream), corner(&step.name));
        let (x, y, to_y) = (x + BOX[0], y + BOX[1] / 2.0, to_y + BOX[1] / 2.0);
        let middle = to_x - GAP[0] / 2.0;
        let class = if port.is_some() { "flow" } else { "flow order" };
        let _ =
            writeln!(out, "<path class=\"{class}\" marker-end=\"url(#tip)\" d=\"M{x} {y}C{middle} {y} {middle} {to_y} {to_x} {to_y}\"/>");
        if let Some(port) = port {
            let (x, y) = (to_x - 10.0, to_y - 5.0);
            let _ = writeln!(out, "<text class=\"port\" text-anchor=\"end\" x=\"{x}\" y=\"{y}\">{}</text>", escaped(port));
        }
    }
    for step in &pipeline.steps {
        let (x, y) = corner(&step.name);
        let _ = writeln!(out, "<rect class=\"box\" rx=\"6\" x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\"/>", BOX[0], height(step));
        let gates = step.require.iter().map(|(metric, bound)| ("kind", format!("{metric} {bound}")));
        let lines = [("name", step.name.clone()), ("kind", step.stage.kind().to_owned())].into_iter().chain(gates);
        for (line, (class, text)) in lines.enumerate() {
            let (x, y) = (x + BOX[0] / 2.0, y + 20.0 + line as f64 * LINE);
            let _ = writeln!(out, "<text class=\"{class}\" text-anchor=\"middle\" x=\"{x}\" y=\"{y}\">{}</text>", escaped(&short(&text)));
        }
    }
    out.push_str("</svg>\n");
    out
}

/// Column and row of each stage: one column right of its last dependency, rows in pipeline order.
fn places(pipeline: &Pipeline) -> BTreeMap<&str, (usize, usize)> {
    let mut places: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut rows: Vec<usize> = Vec::new();
    for step in &pipeline.steps {
        let column = step.needs().iter().filter_map(|name| places.get(name)).map(|place| place.0 + 1).max().unwrap_or(0);
        rows.resize(rows.len().max(column + 1), 0);
        places.insert(&step.name, (column, rows[column]));
        rows[column] += 1;
    }
    places
}

fn height(step: &Step) -> f64 {
    BOX[1] + step.require.len() as f64 * LINE
}

/// Truncates text to the width of a box.
fn short(text: &str) -> String {
    if text.chars().count() <= 22 { text.to_owned() } else { format!("{}…", text.chars().take(21).collect::<String>()) }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
