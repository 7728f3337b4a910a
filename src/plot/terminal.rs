//! Terminal renderer: braille characters with 2 × 4 dots each.

use super::{PlotPanel, Range, number};

/// Rows of a panel.
const HEIGHT: usize = 12;
/// Columns of the axis labels.
const MARGIN: usize = 10;
/// Minimum width in columns.
const MIN_WIDTH: usize = 30;
/// ANSI colors of the curves.
const COLORS: [u8; 6] = [36, 33, 35, 32, 34, 31];
/// Bits of the dots of a braille character, by row and column.
const DOTS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];

#[derive(Clone, Copy, Default)]
struct Cell {
    dots: u8,
    /// Index of the last curve drawn in this cell.
    curve: usize,
}

/// Renders panels one below the other at a width in columns. Several curves differ by color, or by letter without color.
pub fn terminal(panels: &[PlotPanel], width: usize, color: bool) -> String {
    panels.iter().map(|panel| draw(panel, width.max(MIN_WIDTH), color)).collect::<Vec<_>>().join("\n")
}

fn draw(panel: &PlotPanel, width: usize, color: bool) -> String {
    let columns = width - MARGIN - 1;
    let (steps, values) = (panel.steps(), panel.values().rounded(4));
    let mut cells = vec![vec![Cell::default(); columns]; HEIGHT];
    for (index, curve) in panel.curves.iter().enumerate() {
        let at = |point: &(f64, f64)| {
            let x = steps.place(point.0) * (2 * columns - 1) as f64;
            let y = (1.0 - values.place(point.1)) * (4 * HEIGHT - 1) as f64;
            (x, y)
        };
        let mut before = None;
        for point in curve.points.iter().filter(|point| point.1.is_finite()) {
            let here = at(point);
            line(before.unwrap_or(here), here, |x, y| {
                if let Some(cell) = cells.get_mut(y / 4).and_then(|row| row.get_mut(x / 2)) {
                    *cell = Cell { dots: cell.dots | DOTS[y % 4][x % 2], curve: index };
                }
            });
            before = Some(here);
        }
    }
    let several = panel.curves.len() > 1;
    let labels = labels(values);
    let mut text = format!("{}\n", panel.title);
    for (row, cells) in cells.iter().enumerate() {
        let label = labels.iter().find(|(at, _)| *at == row).map_or("", |(_, label)| label);
        let edge = if label.is_empty() { '│' } else { '┤' };
        let mut line = format!("{label:>MARGIN$}{edge}");
        for cell in cells {
            line.push_str(&match (cell.dots, several, color) {
                (0, ..) => " ".to_owned(),
                (_, true, false) => letter(cell.curve).to_string(),
                (dots, true, true) => painted(cell.curve, &braille(dots).to_string()),
                (dots, ..) => braille(dots).to_string(),
            });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let (first, last) = (number(steps.low.max(0.0)), number(steps.high));
    text.push_str(&format!("{:MARGIN$}└{}\n", "", "─".repeat(columns)));
    let gap = columns.saturating_sub(first.len() + last.len());
    text.push_str(&format!("{:width$}{first}{:^gap$}{last}\n", "", "step", width = MARGIN + 1));
    for (index, curve) in panel.curves.iter().enumerate() {
        let mark = match (several, color) {
            (false, _) => "⠤".to_owned(),
            (true, true) => painted(index, "⠤"),
            (true, false) => letter(index).to_string(),
        };
        text.push_str(&format!("{:MARGIN$} {mark} {}\n", "", curve_summary(curve)));
    }
    text
}

/// First, last and lowest value of a curve, in words.
fn curve_summary(curve: &super::PlotCurve) -> String {
    let finite = || curve.points.iter().filter(|point| point.1.is_finite());
    let Some((first, last)) = finite().next().zip(finite().next_back()) else { return format!("{}: no values yet", curve.name) };
    let least = finite().fold(*first, |least, point| if point.1 < least.1 { *point } else { least });
    let lowest = if least.0 < last.0 { format!(", lowest {} at step {}", number(least.1), number(least.0)) } else { String::new() };
    format!("{}: {} → {} at step {}{lowest}", curve.name, number(first.1), number(last.1), number(last.0))
}

/// Tick labels with their rows.
fn labels(values: Range) -> Vec<(usize, String)> {
    let row = |tick: f64| (((1.0 - values.place(tick)) * (4 * HEIGHT - 1) as f64) / 4.0) as usize;
    values.ticks(4).into_iter().map(|tick| (row(tick), format!("{} ", number(tick)))).collect()
}

fn letter(curve: usize) -> char {
    char::from(b'a' + (curve % 26) as u8)
}

fn painted(curve: usize, text: &str) -> String {
    format!("\u{1b}[{}m{text}\u{1b}[0m", COLORS[curve % COLORS.len()])
}

fn braille(dots: u8) -> char {
    char::from_u32(0x2800 + u32::from(dots)).unwrap_or(' ')
}

/// Calls `dot` for every dot of a line.
fn line(from: (f64, f64), to: (f64, f64), mut dot: impl FnMut(usize, usize)) {
    let length = (to.0 - from.0).abs().max((to.1 - from.1).abs()).ceil().max(1.0);
    for part in 0..=length as usize {
        let share = part as f64 / length;
        dot((from.0 + share * (to.0 - from.0)).round() as usize, (from.1 + share * (to.1 - from.1)).round() as usize);
    }
}
