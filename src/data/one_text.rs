//! One sound has one text: what several rows of a table say about one recording.

use crate::data::text::normalized;
use std::collections::BTreeMap;

/// A row that names a recording.
#[derive(Clone, Debug)]
pub struct NamedSound<'a> {
    /// Number of the recording.
    pub file: usize,
    /// The part that the row names, in milliseconds; `None` is the whole recording.
    pub part: Option<(u64, Option<u64>)>,
    /// The transcript.
    pub text: &'a str,
    /// Table and line.
    pub place: &'a str,
}

/// What becomes of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowVerdict {
    /// It is used.
    Used,
    /// An earlier row says the same.
    Repeated(String),
    /// Another row says something else; none of them is used.
    Contradicted(String),
}

/// Compares the rows of each recording. Rows of different parts of a recording do not contradict each other; one of the whole recording
/// contradicts those of its parts.
pub fn one_text_each(rows: &[NamedSound]) -> Vec<RowVerdict> {
    let mut verdicts = vec![RowVerdict::Used; rows.len()];
    let mut of_file: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        of_file.entry(row.file).or_default().push(index);
    }
    let several = of_file.into_values().filter(|indices| indices.len() > 1);
    for indices in several {
        let mut of_part: BTreeMap<Option<(u64, Option<u64>)>, Vec<usize>> = BTreeMap::new();
        for index in &indices {
            of_part.entry(rows[*index].part).or_default().push(*index);
        }
        // Without an end, or without a start, rows of one recording overlap: a column was not understood.
        let open: Vec<(u64, Option<u64>)> = of_part.keys().copied().flatten().collect();
        let overlaps = |(start, end): (u64, Option<u64>)| {
            open.iter().any(|(from, to)| (*from, *to) != (start, end) && (end.is_none() && *from > start || *from == start && start == 0))
        };
        let parts = of_part.iter().find(|(part, _)| part.is_some()).map(|(_, same)| rows[same[0]].place.to_owned());
        for (part, same) in of_part {
            let first = &rows[same[0]];
            let words = normalized(first.text);
            if let (None, Some(other)) = (part, &parts) {
                for index in same {
                    verdicts[index] =
                        RowVerdict::Contradicted(format!("it has the text of a whole recording, of which {other} names a part"));
                }
            } else if part.is_some_and(overlaps) {
                for index in same {
                    let reason = "its part of the recording overlaps those of other rows, as an end or a start is missing";
                    verdicts[index] = RowVerdict::Contradicted(format!("{reason}: name their columns in `columns`"));
                }
            } else if same.iter().all(|index| normalized(rows[*index].text) == words) {
                for index in &same[1..] {
                    verdicts[*index] = RowVerdict::Repeated(format!("it says the same as {}", first.place));
                }
            } else {
                for index in &same {
                    let text = normalized(rows[*index].text);
                    let other = same.iter().find(|other| normalized(rows[**other].text) != text).map_or(first, |other| &rows[*other]);
                    verdicts[*index] =
                        RowVerdict::Contradicted(format!("one sound with two texts: {} has `{}`", other.place, shortened(other.text)));
                }
            }
        }
    }
    verdicts
}

fn shortened(text: &str) -> String {
    let start: String = text.chars().take(40).collect();
    if start.len() < text.len() { format!("{start}…") } else { start }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_sound_repeat_or_contradict_each_other() {
        let row = |file, part, text, place| NamedSound { file, part, text, place };
        let (first, second) = (Some((0, Some(1500))), Some((1500, None)));
        let rows = [
            row(0, None, "Hi you.", "t:2"),
            row(0, None, "hi, you", "t:3"),
            row(1, None, "One.", "t:4"),
            row(1, None, "Two.", "t:5"),
            row(2, first, "One.", "t:6"),
            row(2, second, "Two.", "t:7"),
            row(2, second, "Two.", "t:8"),
            row(3, None, "One. Two.", "t:9"),
            row(3, first, "One.", "t:10"),
            row(4, first, "One.", "t:11"),
            row(4, first, "Two.", "t:12"),
        ];
        let verdicts: Vec<String> = one_text_each(&rows).into_iter().map(|verdict| format!("{verdict:?}")).collect();
        assert_eq!(
            verdicts,
            [
                "Used",
                "Repeated(\"it says the same as t:2\")",
                "Contradicted(\"one sound with two texts: t:5 has `Two.`\")",
                "Contradicted(\"one sound with two texts: t:4 has `One.`\")",
                "Used",
                "Used",
                "Repeated(\"it says the same as t:7\")",
                "Contradicted(\"it has the text of a whole recording, of which t:10 names a part\")",
                "Used",
                "Contradicted(\"one sound with two texts: t:12 has `Two.`\")",
                "Contradicted(\"one sound with two texts: t:11 has `One.`\")",
            ]
        );
    }
}
