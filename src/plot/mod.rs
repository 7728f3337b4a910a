//! Line plots in the terminal and as SVG.
//!
//! A [`PlotPanel`] is one plot with one scale and any number of curves. Both renderers draw axes with rounded ticks, a legend and the
//! curves.

pub mod parallel;
mod svg;
mod terminal;

pub use svg::svg;
pub use terminal::terminal;

/// One plot.
#[derive(Clone, Debug, PartialEq)]
pub struct PlotPanel {
    /// Title: the name of the metric.
    pub title: String,
    /// The curves.
    pub curves: Vec<PlotCurve>,
}

/// One curve.
#[derive(Clone, Debug, PartialEq)]
pub struct PlotCurve {
    /// Name in the legend.
    pub name: String,
    /// Points (step, value), ordered by step.
    pub points: Vec<(f64, f64)>,
}

/// Range of an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    low: f64,
    high: f64,
}

impl Range {
    /// The range of the finite values; never empty.
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        match high - low {
            gap if gap > 0.0 => Self { low, high },
            _ if low.is_finite() => Self { low: low - 0.5 * low.abs().max(1e-9), high: high + 0.5 * high.abs().max(1e-9) },
            _ => Self { low: 0.0, high: 1.0 },
        }
    }

    /// Relative position of a value in the range, from 0 to 1.
    fn place(self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// About `count` round numbers within the range.
    fn ticks(self, count: usize) -> Vec<f64> {
        let rough = (self.high - self.low) / count.max(1) as f64;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough * 0.999).unwrap_or(rough);
        let first = (self.low / step - 1e-9).ceil();
        (0..=2 * count).map(|index| (first + index as f64) * step).filter(|tick| *tick <= self.high + 1e-9 * step).collect()
    }

    /// The range extended to round numbers.
    fn rounded(self, count: usize) -> Self {
        let ticks = self.ticks(count);
        let (Some(first), Some(second), Some(last)) = (ticks.first(), ticks.get(1), ticks.last()) else { return self };
        let step = second - first;
        let slack = 1e-9 * step;
        Self {
            low: if self.low < first - slack { first - step } else { *first },
            high: if self.high > last + slack { last + step } else { *last },
        }
    }
}

impl PlotPanel {
    fn steps(&self) -> Range {
        Range::of(self.curves.iter().flat_map(|curve| &curve.points).map(|point| point.0))
    }

    fn values(&self) -> Range {
        Range::of(self.curves.iter().flat_map(|curve| &curve.points).map(|point| point.1))
    }
}

/// A number with four significant digits, without trailing zeros.
fn number(value: f64) -> String {
    let size = value.abs();
    if size < 1e-12 {
        return "0".to_owned();
    }
    if !(1e-3..1e6).contains(&size) {
        let text = format!("{value:.3e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{power}", trimmed(digits));
    }
    let places = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
    trimmed(&format!("{value:.places$}")).to_owned()
}

fn trimmed(digits: &str) -> &str {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_numbers() {
        let range = Range::of([0.13, 2.9, f64::NAN].into_iter());
        assert_eq!(range, Range { low: 0.13, high: 2.9 });
        let rounded = range.rounded(4);
        assert_eq!((number(rounded.low), number(rounded.high)), ("0".to_owned(), "3".to_owned()));
        assert_eq!(rounded.ticks(4).into_iter().map(number).collect::<Vec<_>>(), ["0", "1", "2", "3"]);
        for (low, high) in [(0.0, 1e-9), (-3.0, 5.0), (1.0, 1e7), (0.999, 1.001), (5e-5, 1e-4)] {
            for count in [2, 5, 8] {
                let ticks = Range { low, high }.rounded(count).ticks(count);
                assert!((2..=2 * count + 1).contains(&ticks.len()), "{low} {high} {count}: {ticks:?}");
            }
        }
    }

    #[test]
    fn a_level_line_and_no_line_have_a_range_too() {
        for values in [vec![2.0, 2.0], vec![0.0], vec![], vec![f64::NAN]] {
            let range = Range::of(values.iter().copied());
            assert!(range.high > range.low && range.low.is_finite() && range.high.is_finite(), "{values:?}: {range:?}");
        }
    }

    #[test]
    fn numbers_are_short() {
        let expected =
            [(0.0, "0"), (5e-5, "5e-5"), (0.25, "0.25"), (2.0, "2"), (1234.5678, "1235"), (-0.0123456, "-0.01235"), (3.25e7, "3.25e7")];
        for (value, text) in expected {
            assert_eq!(number(value), text);
        }
    }
}
