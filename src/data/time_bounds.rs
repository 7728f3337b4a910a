//! Times in tables: where a clip begins and ends in its recording, in seconds, milliseconds or as `HH:MM:SS.mmm`.

use crate::data::ingest::{AudioSpan, rounded};

/// A time as it is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WrittenTime {
    /// Its value: seconds if `sure`, otherwise what is written.
    pub value: f64,
    /// Whether the unit is known: from the column, or from `HH:MM:SS` or `1.5s`.
    pub sure: bool,
}

/// Reads a time. `unit` is the number of seconds in one of the column's units, if its name says that.
pub fn read_time(text: &str, unit: Option<f64>) -> Result<WrittenTime, String> {
    let text = text.trim();
    let wrong = || format!("`{text}` is no time");
    let number = |part: &str| part.replace(',', ".").parse::<f64>().ok().filter(|value| value.is_finite());
    let sure = |value: f64| WrittenTime { value, sure: true };
    let read = if text.contains(':') {
        let parts: Vec<&str> = text.split(':').collect();
        let whole = |part: &&str| !part.is_empty() && part.chars().all(|digit| digit.is_ascii_digit());
        let (last, before) = parts.split_last().ok_or_else(wrong)?;
        if before.len() > 2 || !before.iter().all(whole) || !last.starts_with(|first: char| first.is_ascii_digit()) {
            return Err(wrong());
        }
        let minutes = before.iter().try_fold(0.0, |sum: f64, part| Some(sum * 60.0 + part.parse::<f64>().ok()?)).ok_or_else(wrong)?;
        sure(minutes * 60.0 + number(last).ok_or_else(wrong)?)
    } else if let Some(value) = text.strip_suffix("ms").and_then(|text| number(text.trim())) {
        sure(value / 1000.0)
    } else if let Some(value) = text.strip_suffix('s').and_then(|text| number(text.trim())) {
        sure(value)
    } else {
        let value = number(text).ok_or_else(wrong)?;
        unit.map_or(WrittenTime { value, sure: false }, |unit| sure(value * unit))
    };
    if read.value < 0.0 { Err(format!("`{text}` is before the beginning")) } else { Ok(read) }
}

/// The bounds of a row as they are written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TimeBounds {
    /// Where it begins.
    pub start: Option<WrittenTime>,
    /// Where it ends.
    pub end: Option<WrittenTime>,
    /// How long it is.
    pub duration: Option<WrittenTime>,
}

impl TimeBounds {
    /// Whether the row names a part of its file. A duration alone does not: it mostly says how long the file is.
    pub fn names_part(&self) -> bool {
        self.end.is_some() || self.start.is_some_and(|start| start.value > 0.0)
    }

    /// Whether there is no time at all.
    pub fn is_empty(&self) -> bool {
        self.start.is_none() && self.end.is_none() && self.duration.is_none()
    }

    /// The latest time that is written without a unit, if the row could be in milliseconds: all such times are whole numbers.
    pub fn maybe_milliseconds(&self) -> Option<f64> {
        let open = || [self.start, self.end, self.duration].into_iter().flatten().filter(|time| !time.sure).map(|time| time.value);
        if open().any(|value| value.fract() != 0.0) {
            return None;
        }
        let last = self.last(1.0);
        // A clip of less than 40 units is no clip in milliseconds, and more than a minute is seldom a clip in seconds.
        open().next().and(last).filter(|last| *last >= 40.0)
    }

    /// The latest time that the bounds name, where times without a unit are of `unit` seconds.
    pub fn last(&self, unit: f64) -> Option<f64> {
        let seconds = |time: WrittenTime| if time.sure { time.value } else { time.value * unit };
        let start = self.start.map(seconds);
        self.end.map(seconds).or_else(|| Some(start.unwrap_or(0.0) + seconds(self.duration?))).or(start)
    }

    /// The part of the file; `None` is the whole file. Times without a unit are of `unit` seconds.
    ///
    /// # Errors
    /// The reason, if the bounds contradict themselves.
    pub fn span(&self, unit: f64) -> Result<Option<AudioSpan>, String> {
        let seconds = |time: Option<WrittenTime>| time.map(|time| if time.sure { time.value } else { time.value * unit });
        let (start, end, duration) = (seconds(self.start), seconds(self.end), seconds(self.duration));
        let begin = start.unwrap_or(0.0);
        let end = end.or_else(|| duration.map(|duration| begin + duration));
        match end {
            Some(end) if end <= begin => Err(format!("it ends at {} s and begins at {} s", rounded(end), rounded(begin))),
            Some(end) => Ok(Some(AudioSpan { start: begin, end: Some(end) })),
            None => Ok((begin > 0.0).then_some(AudioSpan { start: begin, end: None })),
        }
    }

    /// Length in seconds, if the bounds say it.
    pub fn seconds(&self, unit: f64) -> Option<f64> {
        let span = self.span(unit).ok().flatten()?;
        Some(span.end? - span.start)
    }
}

/// What the rows of a table say about the unit of its times: most of them decide, as one may have a typing error.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnitVotes {
    /// Rows that are seconds whatever their file is.
    sure: usize,
    /// Rows that would be outside of their file in seconds, and are inside in milliseconds.
    milliseconds: usize,
    /// Rows that are inside of their file in seconds.
    seconds: usize,
}

impl UnitVotes {
    /// Counts a row without its file, if that says enough.
    pub fn add(&mut self, bounds: &TimeBounds) {
        let is_open = [bounds.start, bounds.end, bounds.duration].into_iter().flatten().any(|time| !time.sure && time.value > 0.0);
        self.sure += usize::from(is_open && bounds.maybe_milliseconds().is_none());
    }

    /// Counts a row with times up to `last`, which its file of `length` seconds decides.
    pub fn add_length(&mut self, last: f64, length: f64) {
        let slack = (length * 0.02).max(0.1);
        if last <= length + slack {
            self.seconds += 1;
        } else if last / 1000.0 <= length + slack {
            self.milliseconds += 1;
        }
    }

    /// Whether `rows` that a file decides are more than those that need none.
    pub fn outnumbered_by(&self, rows: usize) -> bool {
        rows > self.sure
    }

    /// Whether the times are milliseconds, by the rows so far.
    pub fn are_milliseconds(&self) -> bool {
        self.milliseconds > self.seconds + self.sure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str, unit: Option<f64>) -> (f64, bool) {
        let read = read_time(text, unit).unwrap();
        (read.value, read.sure)
    }

    #[test]
    fn times_are_read_as_people_and_programs_write_them() {
        for (text, unit, value, sure) in [
            ("2.819", None, 2.819, false),
            ("2,819", None, 2.819, false),
            ("2819", Some(0.001), 2.819, true),
            ("2.819", Some(1.0), 2.819, true),
            ("00:01:02.500", None, 62.5, true),
            ("1:02", None, 62.0, true),
            ("00:00:02,819", Some(0.001), 2.819, true),
            ("1.5s", None, 1.5, true),
            ("800 ms", None, 0.8, true),
            ("1e2", None, 100.0, false),
        ] {
            assert_eq!(time(text, unit), (value, sure), "{text}");
        }
        for text in ["", "x", "-1", "inf", "nan", "1:2:3:4", ":", "a:1", "1:-2"] {
            assert!(read_time(text, None).is_err(), "{text}");
        }
    }

    #[test]
    fn bounds_name_a_part_of_the_file() {
        let bounds = |start: &str, end: &str, duration: &str| {
            let read = |text: &str| (!text.is_empty()).then(|| read_time(text, None).unwrap());
            TimeBounds { start: read(start), end: read(end), duration: read(duration) }
        };
        let part = |start, end| Ok(Some(AudioSpan { start, end }));
        assert_eq!(bounds("1", "2.5", "").span(1.0), part(1.0, Some(2.5)));
        assert_eq!(bounds("1", "", "2.5").span(1.0), part(1.0, Some(3.5)));
        assert_eq!(bounds("1", "", "").span(1.0), part(1.0, None));
        assert_eq!(bounds("", "", "2.5").span(1.0), part(0.0, Some(2.5)));
        assert_eq!(bounds("1000", "2500", "").span(0.001), part(1.0, Some(2.5)));
        assert_eq!(bounds("0", "", "").span(1.0), Ok(None));
        assert_eq!(bounds("", "", "").span(1.0), Ok(None));
        assert!(bounds("2", "1", "").span(1.0).is_err() && bounds("1", "1", "").span(1.0).is_err());
        assert!(bounds("1", "", "").names_part() && !bounds("0", "", "3").names_part() && bounds("", "3", "").names_part());
        assert_eq!(bounds("0", "2819", "").maybe_milliseconds(), Some(2819.0));
        assert_eq!(bounds("0.5", "2819", "").maybe_milliseconds(), None);
    }

    #[test]
    fn most_rows_decide_the_unit() {
        for (lasts, expected) in [
            (&[2819.0][..], true),
            (&[30.0], false),
            (&[90_000.0], false),
            (&[2819.0, 30.0], false),
            (&[2819.0, 30.0, 12_000.0], true),
            (&[2819.0, 30.0, 20.0], false),
        ] {
            let mut votes = UnitVotes::default();
            lasts.iter().for_each(|last| votes.add_length(*last, 31.2));
            assert_eq!(votes.are_milliseconds(), expected, "{lasts:?}");
        }
    }
}
