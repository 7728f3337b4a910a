//! WebVTT subtitles (`.vtt`).
//!
//! Blocks are separated by blank lines. A block with a line of times is a cue; `NOTE`, `STYLE` and `REGION` blocks are none. See the W3C
//! recommendation "WebVTT: The Web Video Text Tracks Format".

use super::srt::{collect, times};
use super::{CueFile, CueProblem, LostParts};

/// Reads all cues.
pub(super) fn parse(text: &str) -> CueFile {
    let mut file = CueFile::default();
    let (mut spans, mut texts) = (Vec::new(), Vec::<Vec<String>>::new());
    // The lines of the current block, with their numbers.
    let mut block: Vec<(usize, &str)> = Vec::new();
    let mut lost = LostParts::default();
    let mut close = |block: &mut Vec<(usize, &str)>, problems: &mut Vec<CueProblem>| {
        let lines = std::mem::take(block);
        let Some((line, first)) = lines.first().copied() else { return };
        let Some(at) = lines.iter().position(|(_, line)| line.contains("-->")) else {
            let is_known = ["WEBVTT", "NOTE", "STYLE", "REGION", "X-TIMESTAMP-MAP"].iter().any(|known| first.starts_with(known));
            if !is_known {
                lost.unknown();
                problems.push(CueProblem { line, reason: format!("`{first}` belongs to no cue") });
            }
            return;
        };
        let (line, timing) = lines[at];
        match times(timing) {
            Some(times) => {
                lost.cue(times);
                spans.push((line, times));
                texts.push(lines.iter().skip(at + 1).map(|(_, line)| (*line).to_owned()).collect());
            }
            None => {
                lost.unknown();
                problems.push(CueProblem { line, reason: format!("`{timing}` is no line of times") });
            }
        }
    };
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        // A line of times begins a new cue even where the blank line before it was forgotten; the line before it may be its name.
        let again = line.contains("-->") && block.iter().any(|(_, line)| line.contains("-->"));
        if line.is_empty() || again {
            close(&mut block, &mut file.problems);
        }
        if !line.is_empty() {
            block.push((index + 1, line));
        }
    }
    close(&mut block, &mut file.problems);
    file.gaps = lost.finish();
    collect(&mut file, &spans, texts);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cues_are_read_and_other_blocks_are_not() {
        let text = "WEBVTT - a title\nKind: captions\n\nNOTE\na remark --\n\nSTYLE\n::cue { color: red }\n\nintro\n00:01.000 --> 00:02.500 align:start\n\
                    <v Ben>Good &amp; bad</v>\n\n01:00:00.000 --> 01:00:01.000\ntwo\nlines\n01:00:02.000 --> 01:00:03.000\nno blank line\n\nstray words\n";
        let file = parse(text);
        let found: Vec<_> = file.cues.iter().map(|cue| (cue.start, cue.end, cue.text.as_str(), cue.speaker.as_deref())).collect();
        let wanted = [(1.0, 2.5, "Good & bad", Some("Ben")), (3600.0, 3601.0, "two lines", None), (3602.0, 3603.0, "no blank line", None)];
        assert_eq!(found, wanted);
        assert_eq!(file.gaps, [(3603.0, f64::INFINITY)], "nobody knows when the stray words are said");
        assert_eq!(file.problems, [CueProblem { line: 20, reason: "`stray words` belongs to no cue".to_owned() }]);
    }
}
