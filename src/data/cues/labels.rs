//! Labels as Audacity exports them: one a line, start and end in seconds and the text, separated by tabs.
//!
//! A line that begins with `\` gives the frequencies of the label before it. In some languages the decimal separator is a comma.

use super::{Cue, CueFile};

/// Whether every line is a label, and there is one.
pub(super) fn is_labels(text: &str) -> bool {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('\\')).peekable();
    lines.peek().is_some() && lines.all(|line| label(line).is_some())
}

fn label(line: &str) -> Option<(f64, f64, &str)> {
    let mut parts = line.splitn(3, '\t');
    let mut time = || parts.next()?.trim().replace(',', ".").parse::<f64>().ok().filter(|time| time.is_finite());
    Some((time()?, time()?, parts.next().unwrap_or_default()))
}

/// Reads all labels.
pub(super) fn parse(text: &str) -> CueFile {
    let mut file = CueFile::default();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('\\') {
            continue;
        }
        match label(line) {
            Some((start, end, _)) if start == end => file.problem(index + 1, "marks a point in time, not a part of the recording"),
            Some((start, end, text)) => file.add(Cue { start, end, text: text.to_owned(), speaker: None, line: index + 1 }),
            None => file.problem(index + 1, format!("`{}` is no label: start, end and text, separated by tabs", line.trim())),
        }
    }
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
}
