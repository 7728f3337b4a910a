//! Plots of sweeps as SVG: parallel coordinates, and an axis against the metric.

use super::Range;
use super::svg::{escaped, style};
use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 320.0;
/// Labels stay readable where lines cross them.
const HALO: &str = "<style>.halo{paint-order:stroke;stroke:#fff;stroke-width:4px}\
     @media (prefers-color-scheme: dark){.halo{stroke:#0d1117}}</style>\n";

/// An axis: numbers on a scale, or words in their order of appearance.
#[derive(Clone, Debug, PartialEq)]
pub struct ParallelAxis {
    name: String,
    /// The different values as written: numbers ascending, words as they appear.
    values: Vec<String>,
    scale: Option<Range>,
}

/// A combination.
#[derive(Clone, Debug, PartialEq)]
pub struct ParallelLine {
    /// Its value on each axis; none if it has no metric.
    pub values: Vec<Option<String>>,
    /// Whether it is the best one.
    pub best: bool,
    /// Whether it has no metric, because it failed or did not run.
    pub failed: bool,
}

impl ParallelAxis {
    /// An axis for these values.
    pub fn of(name: &str, values: &[Option<String>]) -> Self {
        let mut distinct: Vec<String> = Vec::new();
        for value in values.iter().flatten() {
            if !distinct.contains(value) {
                distinct.push(value.clone());
            }
        }
        let numbers: Option<Vec<f64>> = distinct.iter().map(|value| value.parse().ok().filter(|value: &f64| value.is_finite())).collect();
        let scale = numbers.filter(|numbers| !numbers.is_empty()).map(|numbers| Range::of(numbers.into_iter()));
        if scale.is_some() {
            let number = |text: &String| text.parse().unwrap_or(0.0);
            distinct.sort_by(|a, b| f64::total_cmp(&number(a), &number(b)));
        }
        Self { name: name.to_owned(), values: distinct, scale }
    }

    /// Relative position of a value, from 0 to 1. Few different values are evenly spaced: learning rates differ by powers of ten.
    fn place(&self, value: &str) -> Option<f64> {
        if self.values.len() > 8
            && let Some(scale) = self.scale
        {
            return value.parse().ok().map(|value| scale.place(value));
        }
        let position = self.values.iter().position(|known| known == value)?;
        Some(if self.values.len() == 1 { 0.5 } else { position as f64 / (self.values.len() - 1) as f64 })
    }

    /// Relative position on a true scale, for metrics.
    fn measure(&self, value: &str) -> Option<f64> {
        match self.scale {
            Some(scale) => value.parse().ok().map(|value| scale.place(value)),
            None => self.place(value),
        }
    }

    /// The labels with their positions.
    fn labels(&self, measured: bool) -> Vec<(f64, String)> {
        match self.scale {
            Some(scale) if measured || self.values.len() > 8 => {
                [scale.low, scale.high].into_iter().map(|value| (scale.place(value), super::number(value))).collect()
            }
            _ => self.values.iter().filter_map(|value| Some((self.place(value)?, shortened(value)))).collect(),
        }
    }
}

/// A line for each combination across all axes; the last axis is the metric. The best line is drawn last, above the others.
pub fn parallel(axes: &[ParallelAxis], lines: &[ParallelLine]) -> String {
    let (left, right, top, bottom) = (70.0, 90.0, 50.0, 24.0);
    let (width, height) = (WIDTH - left - right, HEIGHT - top - bottom);
    let mut out = open(HEIGHT);
    let last = axes.len().saturating_sub(1);
    let x = |axis: usize| left + if last == 0 { 0.0 } else { width * axis as f64 / last as f64 };
    let y = |place: f64| top + height * (1.0 - place);
    let place = |axis: usize, value: &str| if axis == last { axes[axis].measure(value) } else { axes[axis].place(value) };
    let mut order: Vec<&ParallelLine> = lines.iter().collect();
    order.sort_by_key(|line| (line.best, !line.failed));
    for line in order {
        let points: Vec<String> = line
            .values
            .iter()
            .take(axes.len())
            .enumerate()
            .filter_map(|(axis, value)| Some(format!("{:.1},{:.1}", x(axis), y(place(axis, value.as_deref()?)?))))
            .collect();
        let look = match (line.best, line.failed) {
            (true, _) => "l1\" style=\"stroke-width:3.5",
            (_, true) => "axis\" stroke-dasharray=\"4 4\" opacity=\"0.7",
            _ => "l0\" opacity=\"0.65",
        };
        let _ = writeln!(out, "<polyline class=\"line {look}\" points=\"{}\"/>", points.join(" "));
    }
    for (index, axis) in axes.iter().enumerate() {
        let at = x(index);
        let _ = writeln!(out, "<path class=\"axis\" d=\"M{at:.1} {top}v{height}\"/>");
        let anchor = if index == 0 {
            "start"
        } else if index == last {
            "end"
        } else {
            "middle"
        };
        let head = if index == 0 {
            8.0
        } else if index == last {
            WIDTH - 8.0
        } else {
            at
        };
        let _ = writeln!(
            out,
            "<text class=\"ink\" x=\"{head:.1}\" y=\"24\" text-anchor=\"{anchor}\" font-weight=\"600\">{}</text>",
            escaped(&shortened(&axis.name))
        );
        for (place, label) in axis.labels(index == last) {
            let (side, anchor) = if index == last { (at + 8.0, "start") } else { (at - 8.0, "end") };
            let _ = writeln!(
                out,
                "<text class=\"faint halo\" x=\"{side:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
                y(place) + 4.5,
                escaped(&label)
            );
        }
    }
    out.push_str("</svg>\n");
    out
}

/// The metric of each combination over one axis.
pub fn scatter(axis: &ParallelAxis, metric: &ParallelAxis, place: usize, lines: &[ParallelLine]) -> String {
    let (left, right, top, bottom) = (76.0, 40.0, 44.0, 52.0);
    let (width, height) = (WIDTH - left - right, HEIGHT - top - bottom);
    let mut out = open(HEIGHT);
    let range = metric.scale.unwrap_or(Range { low: 0.0, high: 1.0 }).rounded(5);
    let x = |place: f64| left + width * (0.04 + 0.92 * place);
    let y = |value: f64| top + height * (1.0 - range.place(value));
    let title = format!("{} by {}", metric.name, axis.name);
    let _ = writeln!(out, "<text class=\"ink\" x=\"{left}\" y=\"24\" font-size=\"16\" font-weight=\"600\">{}</text>", escaped(&title));
    for tick in range.ticks(5) {
        let at = y(tick);
        let _ = writeln!(out, "<path class=\"grid\" d=\"M{left} {at:.1}h{width}\"/>");
        let _ = writeln!(
            out,
            "<text class=\"faint\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 8.0,
            at + 4.5,
            super::number(tick)
        );
    }
    for (place, label) in axis.labels(false) {
        let _ = writeln!(
            out,
            "<text class=\"faint\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x(place),
            top + height + 20.0,
            escaped(&label)
        );
    }
    for line in lines {
        let value = |place: usize| line.values.get(place).and_then(Option::as_deref);
        let at = value(place).and_then(|value| axis.place(value));
        let measured = line.values.last().and_then(Option::as_deref).and_then(|value| value.parse::<f64>().ok());
        if let (Some(at), Some(measured)) = (at, measured) {
            let (color, size) = if line.best { ("k1", 7.0) } else { ("k0", 5.0) };
            let _ =
                writeln!(out, "<circle class=\"{color}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{size}\" opacity=\"0.85\"/>", x(at), y(measured));
        }
    }
    out.push_str("</svg>\n");
    out
}

fn open(height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n{}{HALO}<rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\n",
        style()
    )
}

/// A label that fits: long ones keep their end, which tells settings apart.
fn shortened(text: &str) -> String {
    let count = text.chars().count();
    if count <= 24 { text.to_owned() } else { format!("…{}", text.chars().skip(count - 23).collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(values: &[&str]) -> Vec<Option<String>> {
        values.iter().map(|value| Some((*value).to_owned())).collect()
    }

    #[test]
    fn numbers_are_in_order_and_words_as_they_appear() {
        let numbers = ParallelAxis::of("lr", &some(&["1e-3", "1e-4", "1e-3", "2e-2"]));
        assert_eq!(numbers.values, ["1e-4", "1e-3", "2e-2"]);
        assert_eq!(numbers.place("1e-3"), Some(0.5));
        let words = ParallelAxis::of("method", &some(&["lora", "full"]));
        assert_eq!((words.place("lora"), words.place("full"), words.place("other")), (Some(0.0), Some(1.0), None));
        assert_eq!(ParallelAxis::of("wer", &[None, None]).labels(true), []);
    }

    #[test]
    fn names_are_escaped_and_a_line_without_a_metric_ends_before_it() {
        let axes = [ParallelAxis::of("<b>", &some(&["1", "2"])), ParallelAxis::of("wer", &some(&["0.5"]))];
        let line = |value: &str, metric: Option<&str>| ParallelLine {
            values: vec![Some(value.to_owned()), metric.map(str::to_owned)],
            best: metric.is_some(),
            failed: metric.is_none(),
        };
        let lines = [line("1", Some("0.5")), line("2", None)];
        let svg = parallel(&axes, &lines);
        assert!(svg.contains("&lt;b&gt;") && !svg.contains("<b>"), "{svg}");
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.contains("stroke-dasharray"), "{svg}");
        assert_eq!(scatter(&axes[0], &axes[1], 0, &lines).matches("<circle").count(), 1);
    }
}
