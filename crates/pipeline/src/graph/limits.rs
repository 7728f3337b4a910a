//! Limits of a stage: durations (`timeout`, `stall_timeout`) and metric bounds (`require`).

use std::fmt;
use std::time::Duration;

/// The bound that a gate sets for a metric, as in `require = { wer = "< 0.15" }`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MetricBound {
    /// The comparison.
    pub comparison: Comparison,
    /// The limit on its right-hand side.
    pub limit: f64,
}

/// Comparison operator of a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl MetricBound {
    /// Whether a value satisfies the bound; NaN and the infinities never do: they are signs of a failed measurement.
    pub fn holds(&self, value: f64) -> bool {
        value.is_finite()
            && match self.comparison {
                Comparison::Less => value < self.limit,
                Comparison::LessOrEqual => value <= self.limit,
                Comparison::Greater => value > self.limit,
                Comparison::GreaterOrEqual => value >= self.limit,
            }
    }
}

impl fmt::Display for MetricBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.comparison {
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
        };
        write!(f, "{sign} {}", self.limit)
    }
}

/// Parses a duration such as "90s", "15m", "12h", "2d" or "1h30m": units in descending order, more than zero in total.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut seconds = 0u64;
    let mut last_unit = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = match rest[digits..].chars().next()? {
            's' => 1,
            'm' => 60,
            'h' => 60 * 60,
            'd' => 24 * 60 * 60,
            _ => return None,
        };
        if unit >= last_unit {
            return None;
        }
        last_unit = unit;
        seconds = seconds.checked_add(number.checked_mul(unit)?)?;
        rest = rest[digits + 1..].trim_start();
    }
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Parses a bound such as "< 0.15"; the limit must be finite.
pub(super) fn bound(text: &str) -> Option<MetricBound> {
    let text = text.trim();
    let (comparison, limit) =
        [("<=", Comparison::LessOrEqual), (">=", Comparison::GreaterOrEqual), ("<", Comparison::Less), (">", Comparison::Greater)]
            .into_iter()
            .find_map(|(sign, comparison)| Some((comparison, text.strip_prefix(sign)?.trim())))?;
    let limit: f64 = limit.parse().ok()?;
    limit.is_finite().then_some(MetricBound { comparison, limit })
}
