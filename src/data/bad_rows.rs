//! How many bad rows a stage goes on with: one bad row never stops it, and nonsense does.

use crate::data::text::{count, first_few};
use crate::error::{Error, ErrorKind, Result};

/// The limit if none is set.
pub const DEFAULT_MAX_BAD: f64 = 0.2;
/// Rows from which the limit counts if none is set: two broken rows of five are no sign of a wrong file.
const ENOUGH: usize = 20;

/// Refuses a table of which too many rows are bad. What settings leave out (by language, length …) and rows of missing files are not bad.
///
/// # Errors
/// With the first reasons, if the share of bad rows is above `max_bad`; without that setting above 0.2, from 20 rows on.
pub fn check_bad_rows(bad: &[String], rows: usize, max_bad: Option<f64>) -> Result<()> {
    let limit = max_bad.unwrap_or(DEFAULT_MAX_BAD);
    let share = bad.len() as f64 / rows.max(1) as f64;
    if share <= limit || max_bad.is_none() && rows < ENOUGH {
        return Ok(());
    }
    let message = format!("{} of {} cannot be used, and `max_bad` is {limit}: {}", bad.len(), count(rows, "row"), first_few(bad, 5));
    Err(Error::new(message).kind(ErrorKind::InvalidInput).hint("check that this is the right table, mend it, or raise `max_bad`"))
}

/// Whether a recording was left out by a setting, and not because it is damaged.
pub fn is_limit(reason: &str) -> bool {
    reason.contains(" is too short: ") || reason.contains(" is too long: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_tables_may_have_bad_rows_and_nonsense_is_refused() {
        let bad = |number: usize| vec!["t.csv:2: broken".to_owned(); number];
        for (number, rows, max_bad, passes) in [
            (2, 3, None, true),
            (4, 20, None, true),
            (5, 20, None, false),
            (1, 3, Some(0.2), false),
            (1, 3, Some(0.5), true),
            (1, 100, Some(0.0), false),
            (0, 0, None, true),
        ] {
            assert_eq!(check_bad_rows(&bad(number), rows, max_bad).is_ok(), passes, "{number} of {rows}, {max_bad:?}");
        }
    }
}
