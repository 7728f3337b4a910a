//! Labels as Audacity exports them: one a line, start and end in seconds and the text, separated by tabs.
//!
//! A line that begins with `\` gives the frequencies of the label before it. In some languages the decimal separator is a comma.

use super::{Cue, CueFile, LostParts, clock};

/// Whether at least half of the lines are labels, and there is one. The others are told when the labels are read.
pub(super) fn is_labels(text: &str) -> bool {
    // A table may have two columns of numbers, too; its header says of what.
    let is_table = lines(text).next().is_some_and(|(_, line)| {
        let line = line.to_lowercase();
        line.contains('\t') && label(&line).is_none() && !["start", "begin", "onset", "from", "tmin"].iter().any(|name| line.contains(name))
    });
    let (labels, others) = lines(text).fold((0, 0), |(labels, others), (_, line)| match label(line) {
        // Prose may begin with two numbers, too: `3 4 times he called`.
        Some(label) if label.tabs && !is_table || label.exact && label.start <= label.end => (labels + 1, others),
        Some(label) if label.start <= label.end => (labels, others),
        _ => (labels, others + 1),
    });
    if labels > 0 {
        return labels >= others;
    }
    // Whole seconds and spaces: only if the lines follow each other in time.
    let all: Option<Vec<Label>> = lines(text).map(|(_, line)| label(line)).collect();
    all.is_some_and(|all| all.len() > 1 && all.windows(2).all(|pair| pair[0].start < pair[0].end && pair[0].end <= pair[1].start))
}

/// Whether at least half of the lines have a time in square brackets in front: `[00:01.00] text`, `[00:00:01 - 00:00:03] text`.
pub(super) fn is_bracketed(text: &str) -> bool {
    let is_time = |text: &str| text.contains(':') && clock(text).is_some();
    let timed = |line: &str| -> Option<bool> {
        let inside = line.trim().strip_prefix('[')?.split_once(']')?.0;
        // `[ti:Title]` says something about the song.
        let about = inside.split_once(':').is_some_and(|(name, _)| ["ti", "ar", "al", "by", "offset", "length"].contains(&name));
        let parts = ["-->", "->", " - ", "-", "–"].iter().find_map(|arrow| inside.split_once(arrow));
        Some(about || is_time(inside) || parts.is_some_and(|(start, end)| is_time(start) && is_time(end)))
    };
    let (marked, others) = lines(text).fold((0, 0), |(marked, others), (_, line)| match timed(line) {
        Some(true) => (marked + 1, others),
        _ => (marked, others + 1),
    });
    marked > 0 && marked >= others
}

/// The lines that may be labels, with their numbers from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line)).filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('\\'))
}

/// A line as a label.
struct Label<'a> {
    start: f64,
    end: f64,
    text: &'a str,
    /// The times are separated by a tab.
    tabs: bool,
    /// Both times have a fraction or are a time of day.
    exact: bool,
}

fn label(line: &str) -> Option<Label<'_>> {
    let tabs = line.contains('\t');
    // Some programs write spaces instead of tabs.
    let split = |text: &'_ str| -> Option<(usize, usize)> {
        let at = text.find(|character: char| if tabs { character == '\t' } else { character.is_whitespace() })?;
        Some((at, if tabs { 1 } else { text.len() - at - text.get(at..)?.trim_start().len() }))
    };
    let line = if tabs { line } else { line.trim() };
    let (at, gap) = split(line)?;
    let (first, rest) = (line.get(..at)?, line.get(at + gap..)?);
    let (second, text) = match split(rest) {
        Some((at, gap)) => (rest.get(..at)?, rest.get(at + gap..)?),
        None => (rest, ""),
    };
    let (first, second) = (first.trim(), second.trim());
    let exact = [first, second].iter().all(|time| time.contains([',', '.', ':']));
    Some(Label { start: seconds(first)?, end: seconds(second)?, text, tabs, exact })
}

/// Seconds of `1.5`, `1,5` or `00:00:01.5`.
fn seconds(text: &str) -> Option<f64> {
    if text.contains(':') {
        return clock(text);
    }
    text.replace(',', ".").parse::<f64>().ok().filter(|time| time.is_finite())
}

/// Reads all labels.
pub(super) fn parse(text: &str) -> CueFile {
    let mut file = CueFile::default();
    let mut lost = LostParts::default();
    let mut seen = false;
    for (number, line) in lines(text) {
        let label = label(line);
        match &label {
            Some(label) => lost.cue((label.start, label.end)),
            // What stands in front of all labels is a title.
            None if seen => lost.unknown(),
            None => {}
        }
        seen |= label.is_some();
        match label {
            Some(label) if label.start == label.end => {
                file.problem(number, "marks a point in time, not a part of the recording");
            }
            Some(Label { start, end, text, .. }) => file.add(Cue { start, end, text: text.to_owned(), speaker: None, line: number }),
            None => file.problem(number, format!("`{}` is no label: start, end and text, separated by tabs", line.trim())),
        }
    }
    file.gaps.extend(lost.finish());
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_and_others_told() {
        let file = parse("0.500000\t1.500000\tOne\n\\\t100.0\t4000.0\n2,5\t3,25\tTwo, too\n4\t4\tpoint\n5\t6\t\nprose\n");
        let found: Vec<_> = file.cues.iter().map(|cue| (cue.start, cue.end, cue.text.as_str(), cue.line)).collect();
        assert_eq!(found, [(0.5, 1.5, "One", 1), (2.5, 3.25, "Two, too", 3)]);
        assert_eq!(file.problems.iter().map(|problem| problem.line).collect::<Vec<_>>(), [4, 5, 6]);
    }

    #[test]
    fn odd_lines_do_not_stop_the_labels() {
        let file =
            parse("Start\tEnd\tText\n1.0\t3.0\tHello label\n5.5  7.0 space separated\nsome stray line\n00:00:08.0\t00:01:10\tThird\n");
        let found: Vec<_> = file.cues.iter().map(|cue| (cue.start, cue.end, cue.text.as_str(), cue.line)).collect();
        assert_eq!(found, [(1.0, 3.0, "Hello label", 2), (5.5, 7.0, "space separated", 3), (8.0, 70.0, "Third", 5)]);
        assert_eq!(file.problems.iter().map(|problem| problem.line).collect::<Vec<_>>(), [1, 4]);
        assert_eq!(file.gaps, [(7.0, 8.0)]);
    }
}
