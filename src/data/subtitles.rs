//! Subtitle writers: SubRip (`.srt`) and WebVTT (`.vtt`).
//!
//! A cue has at most two lines of 42 columns. A longer transcript is split into several cues, which divide its time span in proportion to
//! their width. Lines break between words, and between any two characters in scripts without spaces. Times are rounded to milliseconds;
//! a cue never starts before the previous one ends.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Maximum width of a line in columns; an East Asian wide character takes two.
const COLUMNS: usize = 42;

/// A transcript with its time span.
#[derive(Clone, Debug, PartialEq)]
pub struct SubtitleCue {
    /// Start in seconds from the beginning of the recording.
    pub start: f64,
    /// End in seconds from the beginning of the recording.
    pub end: f64,
    /// The transcript; an empty one is not shown.
    pub text: String,
}

/// A cue as displayed: one or two lines.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Screen {
    /// Start in milliseconds.
    start: u64,
    /// End in milliseconds.
    end: u64,
    lines: Vec<String>,
}

/// Formats cues as SubRip.
pub fn srt(cues: &[SubtitleCue]) -> String {
    let mut text = String::new();
    for (index, screen) in screens(cues).iter().enumerate() {
        // SubRip has no escape sequences, and players read `-->` as a time line.
        let lines = screen.lines.join("\n").replace("-->", "->");
        text.push_str(&format!("{}\n{} --> {}\n{lines}\n\n", index + 1, clock(screen.start, ','), clock(screen.end, ',')));
    }
    text
}

/// Formats cues as WebVTT.
pub fn vtt(cues: &[SubtitleCue]) -> String {
    let mut text = "WEBVTT\n".to_owned();
    for screen in screens(cues) {
        let lines = screen.lines.join("\n").replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        text.push_str(&format!("\n{} --> {}\n{lines}\n", clock(screen.start, '.'), clock(screen.end, '.')));
    }
    text
}

/// A timestamp `01:02:03,456`; `point` is the decimal separator.
fn clock(milliseconds: u64, point: char) -> String {
    let (seconds, rest) = (milliseconds / 1000, milliseconds % 1000);
    format!("{:02}:{:02}:{:02}{point}{rest:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Splits cues into screens and assigns their times.
fn screens(cues: &[SubtitleCue]) -> Vec<Screen> {
    let mut screens: Vec<Screen> = Vec::new();
    for cue in cues {
        let parts = parts(&cue.text);
        let total: usize = parts.iter().map(|lines| size(lines)).sum();
        let mut before = 0;
        for lines in parts {
            let at = |share: usize| cue.start + (cue.end - cue.start) * share as f64 / total.max(1) as f64;
            let (start, end) = (milliseconds(at(before)), milliseconds(at(before + size(&lines))));
            before += size(&lines);
            let start = start.max(screens.last().map_or(0, |last| last.end));
            screens.push(Screen { start, end: end.max(start + 1), lines });
        }
    }
    screens
}

/// Rounds seconds to milliseconds.
fn milliseconds(seconds: f64) -> u64 {
    // Float casts saturate: negative values and NaN become 0.
    (seconds * 1000.0).round() as u64
}

/// Total width of lines in columns.
fn size(lines: &[String]) -> usize {
    lines.iter().map(|line| line.width().max(1)).sum()
}

/// Splits a text into screens of one or two lines.
fn parts(text: &str) -> Vec<Vec<String>> {
    let words = words(text);
    if words.is_empty() {
        return Vec::new();
    }
    // Use the fewest screens that fit, of similar width, so that no single word is left over at the end.
    let least = line(&words).width().div_ceil(2 * COLUMNS).max(1);
    (least..=words.len())
        .find_map(|count| share(&words, count))
        .unwrap_or_else(|| words.iter().map(|word| vec![word.text.clone()]).collect())
}

/// Distributes words over `count` screens of similar width; `None` if they do not fit.
fn share(words: &[Word], count: usize) -> Option<Vec<Vec<String>>> {
    let total = line(words).width();
    let mut screens = Vec::with_capacity(count);
    let mut rest = words;
    let mut shown = 0;
    for screen in 0..count {
        let until = total * (screen + 1) / count;
        let mut taken = 1;
        let mut width = shown + rest.first()?.width();
        while let Some(word) = rest.get(taken) {
            // Fill up to the target width, or at most half a word beyond it. Leave at least one word for each later screen.
            let beyond = width + word.width();
            if (screen + 1 < count && beyond > until + word.width() / 2) || rest.len() - taken < count - screen {
                break;
            }
            width = beyond;
            taken += 1;
        }
        shown = width;
        let (now, later) = rest.split_at(taken);
        screens.push(fold(now)?);
        rest = later;
    }
    rest.is_empty().then_some(screens)
}

/// Lays out words as one line, or two lines of similar width; `None` if they do not fit.
fn fold(words: &[Word]) -> Option<Vec<String>> {
    let whole = line(words);
    if whole.width() <= COLUMNS {
        return Some(vec![whole]);
    }
    let split = |at: usize| {
        let (first, second) = words.split_at(at);
        let (first, second) = (line(first), line(second));
        let widest = first.width().max(second.width());
        (widest <= COLUMNS).then_some((widest, vec![first, second]))
    };
    (1..words.len()).filter_map(split).min_by_key(|(widest, _)| *widest).map(|(_, lines)| lines)
}

/// An unbreakable unit of text.
#[derive(Clone, Debug)]
struct Word {
    text: String,
    /// Whether there is a space before it.
    spaced: bool,
}

impl Word {
    fn width(&self) -> usize {
        self.text.width() + usize::from(self.spaced)
    }
}

/// Joins words to a line.
fn line(words: &[Word]) -> String {
    let mut line = String::new();
    for word in words {
        if word.spaced && !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word.text);
    }
    line
}

/// Splits a text into unbreakable units. Wide characters are separate units, punctuation stays with the preceding character, and no unit
/// is wider than a line.
fn words(text: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    for part in text.split_whitespace() {
        let mut spaced = true;
        let mut last: Option<char> = None;
        for c in part.chars() {
            let wide = |c: char| c.width().unwrap_or(0) > 1;
            let breaks = last.is_none_or(|last| (wide(c) || wide(last)) && c.is_alphanumeric());
            match words.last_mut() {
                Some(word) if !breaks && word.text.width() + c.width().unwrap_or(0) <= COLUMNS => word.text.push(c),
                _ => {
                    words.push(Word { text: c.to_string(), spaced });
                    spaced = false;
                }
            }
            last = Some(c);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cue(start: f64, end: f64, text: &str) -> SubtitleCue {
        SubtitleCue { start, end, text: text.to_owned() }
    }

    fn widths(text: &str) -> Vec<Vec<usize>> {
        parts(text).iter().map(|lines| lines.iter().map(|line| line.width()).collect()).collect()
    }

    #[test]
    fn times_are_whole_milliseconds_and_never_overlap() {
        let table = [
            (0.0, "00:00:00,000"),
            (1.0005, "00:00:01,001"),
            (59.9996, "00:01:00,000"),
            (3661.25, "01:01:01,250"),
            (360_000.0, "100:00:00,000"),
        ];
        for (seconds, text) in table {
            assert_eq!(clock(milliseconds(seconds), ','), text);
        }
        let shown = screens(&[cue(1.0, 2.0004, "a"), cue(2.0, 3.0, "b"), cue(3.0, 3.0, "c"), cue(2.5, 2.6, "d")]);
        let times: Vec<_> = shown.iter().map(|screen| (screen.start, screen.end)).collect();
        assert_eq!(times, [(1000, 2000), (2000, 3000), (3000, 3001), (3001, 3002)]);
        let odd = screens(&[cue(f64::NAN, -1.0, "a")]);
        assert_eq!((odd[0].start, odd[0].end), (0, 1));
    }

    #[test]
    fn special_characters_are_escaped() {
        let cues = [cue(0.0, 1.0, "1 < 2 & 3 --> 4"), cue(1.0, 2.0, ""), cue(1.0, 2.0, "two\n\nlines")];
        assert_eq!(
            vtt(&cues),
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n1 &lt; 2 &amp; 3 --&gt; 4\n\n00:00:01.000 --> 00:00:02.000\ntwo lines\n"
        );
        assert_eq!(srt(&cues), "1\n00:00:00,000 --> 00:00:01,000\n1 < 2 & 3 -> 4\n\n2\n00:00:01,000 --> 00:00:02,000\ntwo lines\n\n");
        assert_eq!((srt(&[]), vtt(&[])), (String::new(), "WEBVTT\n".to_owned()));
    }

    #[test]
    fn lines_break_between_words_and_have_similar_lengths() {
        assert_eq!(parts("  short  "), [["short"]]);
        let two = "this text is a little too long for one line of a screen";
        assert_eq!(parts(two), [["this text is a little too", "long for one line of a screen"]]);
        let long = "one two three four five six seven eight nine ten ".repeat(6);
        let found = widths(&long);
        assert!(found.len() == 4 && found.iter().flatten().all(|width| (20..=COLUMNS).contains(width)), "{found:?}");
        let words: Vec<String> = parts(&long).concat().join(" ").split(' ').map(str::to_owned).collect();
        assert_eq!(words, long.split_whitespace().collect::<Vec<_>>());
        assert_eq!(widths(&"x".repeat(100)), [vec![COLUMNS], vec![COLUMNS, 16]]);
        assert!(parts(" \n ").is_empty());
    }

    #[test]
    fn scripts_without_spaces_break_anywhere_but_before_punctuation() {
        let text = "今天天气很好,我们去公园散步吧。".repeat(4);
        let found = parts(&text);
        assert!(found.iter().flatten().all(|line| line.width() <= COLUMNS && !line.starts_with([',', '。'])), "{found:?}");
        assert_eq!(found.concat().concat(), text);
        assert_eq!(parts("voxpipe 转写 works"), [["voxpipe 转写 works"]]);
    }

    #[test]
    fn a_long_cue_is_split_and_its_time_divided() {
        let shown = screens(&[cue(10.0, 22.0, &"speech ".repeat(30))]);
        assert_eq!((shown.first().map(|first| first.start), shown.last().map(|last| last.end)), (Some(10_000), Some(22_000)));
        assert!(shown.len() == 3 && shown.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert!(shown.iter().all(|screen| (3_000..5_000).contains(&(screen.end - screen.start))), "{shown:?}");
    }
}
