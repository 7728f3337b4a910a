//! SVG renderer: supports light and dark color schemes and keeps text as text.

use super::{PlotPanel, number};
use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 320.0;
/// Margins of a panel: left, right, top, bottom.
const FRAME: [f64; 4] = [72.0, 20.0, 62.0, 48.0];

/// Curve colors for light and dark backgrounds, chosen for color-vision deficiencies.
const COLORS: [(&str, &str); 6] = [
    ("#0969da", "#58a6ff"),
    ("#bc4c00", "#f0883e"),
    ("#1a7f37", "#56d364"),
    ("#8250df", "#bc8cff"),
    ("#bf3989", "#ff7bc0"),
    ("#57606a", "#adbac7"),
];

/// Renders panels one below the other.
pub fn svg(panels: &[PlotPanel]) -> String {
    let height = HEIGHT * panels.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n{}",
        style()
    );
    let _ = writeln!(out, "<rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>");
    for (index, panel) in panels.iter().enumerate() {
        let _ = writeln!(out, "<g transform=\"translate(0 {})\">", HEIGHT * index as f64);
        draw(&mut out, panel);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

pub(super) fn style() -> String {
    let colors = |dark: bool| -> String {
        let of = |(index, (on_light, on_dark)): (usize, &(&str, &str))| {
            let color = if dark { on_dark } else { on_light };
            format!(".l{index}{{stroke:{color}}}.k{index}{{fill:{color}}}")
        };
        COLORS.iter().enumerate().map(of).collect()
    };
    format!(
        "<style>.paper{{fill:#fff}}.ink{{fill:#1f2328}}.faint{{fill:#59636e}}.grid{{stroke:#d1d9e0}}.axis{{stroke:#59636e}}\
         .line{{fill:none;stroke-width:1.8;stroke-linejoin:round}}{}\n\
         @media (prefers-color-scheme: dark){{.paper{{fill:#0d1117}}.ink{{fill:#f0f6fc}}.faint{{fill:#9198a1}}.grid{{stroke:#3d444d}}\
         .axis{{stroke:#9198a1}}{}}}</style>\n",
        colors(false),
        colors(true)
    )
}

fn draw(out: &mut String, panel: &PlotPanel) {
    let [left, right, top, bottom] = FRAME;
    let (width, height) = (WIDTH - left - right, HEIGHT - top - bottom);
    let (steps, values) = (panel.steps(), panel.values().rounded(5));
    let x = |step: f64| left + width * steps.place(step);
    let y = |value: f64| top + height * (1.0 - values.place(value));
    let _ =
        writeln!(out, "<text class=\"ink\" x=\"{left}\" y=\"24\" font-size=\"16\" font-weight=\"600\">{}</text>", escaped(&panel.title));
    for tick in values.ticks(5) {
        let at = y(tick);
        let _ = writeln!(out, "<path class=\"grid\" d=\"M{left} {at:.1}H{:.1}\"/>", left + width);
        let _ = writeln!(
            out,
            "<text class=\"faint\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 8.0,
            at + 4.5,
            number(tick)
        );
    }
    let _ = writeln!(out, "<path class=\"axis\" d=\"M{left} {:.1}H{:.1}\"/>", top + height, left + width);
    for tick in steps.ticks(8) {
        let at = x(tick);
        let _ = writeln!(out, "<path class=\"axis\" d=\"M{at:.1} {:.1}v5\"/>", top + height);
        let place = top + height + 19.0;
        let _ = writeln!(out, "<text class=\"faint\" x=\"{at:.1}\" y=\"{place:.1}\" text-anchor=\"middle\">{}</text>", number(tick));
    }
    let middle = left + width / 2.0;
    let _ = writeln!(out, "<text class=\"faint\" x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">step</text>", HEIGHT - 9.0);
    let mut at = left;
    for (index, curve) in panel.curves.iter().enumerate() {
        let color = index % COLORS.len();
        let mut points = curve.points.iter().filter(|point| point.1.is_finite()).peekable();
        let single = curve.points.len() == 1;
        if let (true, Some(point)) = (single, points.peek()) {
            let _ = writeln!(out, "<circle class=\"k{color}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>", x(point.0), y(point.1));
        } else {
            let places: Vec<String> = points.map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
            let _ = writeln!(out, "<polyline class=\"line l{color}\" points=\"{}\"/>", places.join(" "));
        }
        let _ = writeln!(out, "<rect class=\"k{color}\" x=\"{at:.1}\" y=\"38\" width=\"14\" height=\"4\" rx=\"2\"/>");
        let _ = writeln!(out, "<text class=\"ink\" x=\"{:.1}\" y=\"44\">{}</text>", at + 20.0, escaped(&curve.name));
        // There are no font metrics: assume seven units per character.
        at += 44.0 + 7.0 * curve.name.chars().count() as f64;
    }
}

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
