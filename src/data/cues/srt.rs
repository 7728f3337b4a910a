//! SubRip subtitles (`.srt`): blocks of a number, a line of times and lines of text.
//!
//! Read generously, as players do: numbers may be missing or wrong, the decimal separator may be a point, the hours may be left out, and
//! blank lines inside a text do not end it, because the next cue begins with its own line of times.

use super::{Cue, CueFile, LostParts, clock, joined, unrolled};

/// Whether a text begins with a cue: an optional number and a line of times.
pub(super) fn is_srt(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    times(first).is_some() || first.parse::<u32>().is_ok() && lines.next().is_some_and(|line| times(line).is_some())
}

/// Start and end of a line `00:00:01,000 --> 00:00:02,000`, which settings may follow.
pub(super) fn times(line: &str) -> Option<(f64, f64)> {
    let (start, rest) = line.split_once("-->")?;
    Some((clock(start)?, clock(rest.split_whitespace().next()?)?))
}

/// Whether a line that is no line of times was meant as one: `00:00:03,000 -> 00:00:05,000`, behind a line with only a number.
fn begins_like_times(line: &str) -> bool {
    let first = line.split_whitespace().next().unwrap_or_default();
    let (mut digits, mut colons) = (0, 0);
    for character in first.chars() {
        match character {
            ':' => colons += 1,
            _ if character.is_ascii_digit() => digits += 1,
            _ => {}
        }
    }
    first.starts_with(|character: char| character.is_ascii_digit()) && digits >= 3 && colons >= 1
}

fn is_number(line: &str) -> bool {
    line.parse::<u32>().is_ok()
}

/// Reads all cues.
pub(super) fn parse(text: &str) -> CueFile {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut file = CueFile::default();
    let numbered = |index: usize| index.checked_sub(1).and_then(|before| lines.get(before)).is_some_and(|line| is_number(line));
    let is_start = |index: &usize| lines[*index].contains("-->") || numbered(*index) && begins_like_times(lines[*index]);
    let starts: Vec<usize> = (0..lines.len()).filter(is_start).collect();
    let mut spans = Vec::new();
    let mut texts: Vec<Vec<String>> = Vec::new();
    let mut lost = LostParts::default();
    for (turn, start) in starts.iter().enumerate() {
        let until = starts.get(turn + 1).copied().unwrap_or(lines.len());
        let mut body = lines.get(start + 1..until).unwrap_or_default();
        // The number of the next cue is no text of this one.
        if turn + 1 < starts.len() && body.last().is_some_and(|line| is_number(line)) {
            body = &body[..body.len() - 1];
        }
        match times(lines[*start]) {
            Some(times) => {
                lost.cue(times);
                spans.push((start + 1, times));
                texts.push(body.iter().filter(|line| !line.is_empty()).map(|line| (*line).to_owned()).collect());
            }
            None => {
                lost.unknown();
                file.problem(start + 1, format!("`{}` is no line of times", lines[*start]));
            }
        }
    }
    file.gaps = lost.finish();
    let before = starts.first().copied().unwrap_or(lines.len());
    if lines.iter().take(before).any(|line| !line.is_empty() && !is_number(line)) {
        file.problem(1, "there is text before the first line of times");
    }
    collect(&mut file, &spans, texts);
    file
}

/// Adds cues from their times and lines.
pub(super) fn collect(file: &mut CueFile, spans: &[(usize, (f64, f64))], mut texts: Vec<Vec<String>>) {
    let repeated = unrolled(&mut texts);
    if repeated > 0 {
        file.notes.push(format!("the captions roll: {repeated} repeated lines were left out"));
    }
    for ((line, (start, end)), lines) in spans.iter().zip(&texts) {
        // A cue that only repeated the line before it has nothing left; that is no fault.
        if repeated > 0 && lines.iter().all(|line| line.trim().is_empty()) {
            continue;
        }
        let (speaker, text) = joined(lines.iter().map(String::as_str));
        file.add(Cue { start: *start, end: *end, text, speaker, line: *line });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cues_are_read_however_they_were_written() {
        let text = "1\r\n00:00:01,000 --> 00:00:02,500\r\n<i>Good</i>\r\nmorning.\r\n\r\n00:00:03.000-->00:00:04.000 X1:40\nNo number.\n\n\
                    7\n00:05,000 --> 00:06,000\nA text\n\nwith a blank line\n\n4\n00:00:08,000 --> oops\nlost\n\n\
                    5\n00:00:09,000 --> 00:00:08,000\nbackwards\n\n6\n00:00:10,000 --> 00:00:11,000\n\n";
        let file = parse(text);
        let found: Vec<_> = file.cues.iter().map(|cue| (cue.start, cue.end, cue.text.as_str(), cue.line)).collect();
        let wanted = [(1.0, 2.5, "Good morning.", 2), (3.0, 4.0, "No number.", 6), (5.0, 6.0, "A text with a blank line", 10)];
        assert_eq!(found, wanted);
        let problems: Vec<_> = file.problems.iter().map(|problem| (problem.line, problem.reason.as_str())).collect();
        assert_eq!(
            problems,
            [(16, "`00:00:08,000 --> oops` is no line of times"), (20, "ends at 8 s, before it starts at 9 s"), (24, "has no text"),]
        );
        assert_eq!(file.gaps, [(6.0, 9.0), (8.0, 9.0), (10.0, 11.0)]);
    }

    #[test]
    fn a_broken_line_of_times_is_no_text_of_the_cue_before() {
        for broken in ["00:00:0x,000 -> 00:00:05,000", "00:00:04,000 - 00:00:05,000", "00:00:04,000", "00:00:04,000 --> x"] {
            let text = format!(
                "1\n00:00:01,000 --> 00:00:03,000\nHello\n\n2\n{broken}\nBroken arrow\n\n3\n00:00:06,000 --> 00:00:08,000\nThird\n"
            );
            let file = parse(&text);
            assert_eq!(file.cues.iter().map(|cue| cue.text.as_str()).collect::<Vec<_>>(), ["Hello", "Third"], "{broken}");
            let problem = (file.problems[0].line, file.problems[0].reason.clone());
            assert_eq!((file.problems.len(), problem), (1, (6, format!("`{broken}` is no line of times"))));
            assert_eq!(file.gaps, [(3.0, 6.0)]);
        }
        // A count and a time of day are text.
        let file = parse("1\n00:00:01,000 --> 00:00:03,000\n12\nat 10:30 sharp\n");
        assert_eq!((file.cues[0].text.as_str(), file.problems.len()), ("12 at 10:30 sharp", 0));
    }

    #[test]
    fn captions_that_roll_are_read_once() {
        let text = "1\n00:00:00,000 --> 00:00:02,000\n\none two\n\n2\n00:00:02,000 --> 00:00:02,010\none two\n\n\
                    3\n00:00:02,010 --> 00:00:04,000\none two\nthree four\n\n4\n00:00:04,000 --> 00:00:04,010\nthree four\n\n\
                    5\n00:00:04,010 --> 00:00:06,000\nthree four\nfive six\n";
        let file = parse(text);
        let found: Vec<_> = file.cues.iter().map(|cue| (cue.start, cue.text.as_str())).collect();
        assert_eq!(found, [(0.0, "one two"), (2.01, "three four"), (4.01, "five six")]);
        assert!(file.problems.is_empty() && file.notes.len() == 1, "{file:?}");
        // A person who says a sentence twice says it twice.
        let file = parse("1\n00:00:00,000 --> 00:00:01,000\nno\n\n2\n00:00:01,000 --> 00:00:02,000\nno\n");
        assert_eq!(file.cues.len(), 2);
    }
}
