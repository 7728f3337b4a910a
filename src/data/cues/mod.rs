//! Files of timed text: what is said from when to when in a long recording.
//!
//! SubRip (`.srt`), WebVTT (`.vtt`), Audacity labels, Praat TextGrid (`.TextGrid`) and ELAN (`.eaf`) all become [`Cue`]s; [`merge`] makes
//! cues of a useful length of them. A cue that cannot be read does not stop the others: it is a [`CueProblem`] with its line.

mod elan;
mod labels;
pub mod merge;
mod srt;
mod textgrid;
mod vtt;

use crate::error::{Error, Result};
use std::path::Path;

/// What is said in a part of a recording.
#[derive(Clone, Debug, PartialEq)]
pub struct Cue {
    /// Start in seconds from the beginning of the recording.
    pub start: f64,
    /// End in seconds from the beginning of the recording; after `start`.
    pub end: f64,
    /// The text, on one line and without markup.
    pub text: String,
    /// Who says it, if the file tells.
    pub speaker: Option<String>,
    /// Line in the file, from 1.
    pub line: usize,
}

/// A cue that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CueProblem {
    /// Line in the file, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// The content of a file of timed text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CueFile {
    /// The cues, by start.
    pub cues: Vec<Cue>,
    /// What cannot be used, by line.
    pub problems: Vec<CueProblem>,
    /// Name of the recording, if the file tells.
    pub audio: Option<String>,
    /// What was decided while reading, in sentences.
    pub notes: Vec<String>,
    /// Parts in seconds that cues take which cannot be used: what is said there is not known, so no clip may reach into them.
    pub gaps: Vec<(f64, f64)>,
}

impl CueFile {
    fn problem(&mut self, line: usize, reason: impl Into<String>) {
        self.problems.push(CueProblem { line, reason: reason.into() });
    }

    /// Adds a cue, or the reason why it is none.
    fn add(&mut self, cue: Cue) {
        let text = cue.text.split_whitespace().collect::<Vec<_>>().join(" ");
        let possible = cue.start.is_finite() && cue.end.is_finite() && cue.start >= 0.0;
        let reason = if text.is_empty() {
            "has no text".to_owned()
        } else if !possible {
            "has times that are not possible".to_owned()
        } else if cue.end <= cue.start {
            format!("ends at {} s, before it starts at {} s", cue.end, cue.start)
        } else if is_sound_mark(&text) {
            format!("`{text}` names a sound, no speech")
        } else {
            self.cues.push(Cue { text, ..cue });
            return;
        };
        self.problem(cue.line, reason);
        if possible {
            self.gaps.push((cue.start.min(cue.end), cue.start.max(cue.end)));
        }
    }
}

/// Finds the parts of cues whose times cannot be read: they lie between their neighbours.
#[derive(Default)]
struct LostParts {
    /// Where the cue before ends.
    ended: f64,
    /// Where a part begins whose end is not known yet.
    from: Option<f64>,
    parts: Vec<(f64, f64)>,
}

impl LostParts {
    /// A cue with these times follows.
    fn cue(&mut self, (start, end): (f64, f64)) {
        if let Some(from) = self.from.take() {
            self.parts.push((from, start.max(from)));
        }
        self.ended = start.max(end);
    }

    /// One without times follows.
    fn unknown(&mut self) {
        self.from = self.from.or(Some(self.ended));
    }

    /// All parts; the last one may have no end.
    fn finish(mut self) -> Vec<(f64, f64)> {
        self.parts.extend(self.from.map(|from| (from, f64::INFINITY)));
        self.parts
    }
}

/// A format of timed text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CueFormat {
    /// SubRip subtitles.
    Srt,
    /// WebVTT subtitles.
    Vtt,
    /// Labels exported by Audacity: start, end and text, separated by tabs.
    Audacity,
    /// Praat annotations, in the long or the short text format.
    TextGrid,
    /// ELAN annotations.
    Elan,
    /// Lines with a time in square brackets in front of the text: song texts (LRC) and transcripts of some programs. They are not read.
    Bracketed,
}

impl CueFormat {
    /// The format that a file extension names; labels of Audacity have the ending `.txt`, which others use too.
    pub fn of_extension(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_lowercase().as_str() {
            "srt" => Some(Self::Srt),
            "vtt" | "webvtt" => Some(Self::Vtt),
            "textgrid" => Some(Self::TextGrid),
            "eaf" => Some(Self::Elan),
            _ => None,
        }
    }

    /// The endings of files of cues beside a recording, as people write them.
    pub const ENDINGS: &'static [&'static str] = &["srt", "vtt", "TextGrid", "textgrid", "eaf"];

    /// The format that the content shows.
    pub fn of_content(text: &str) -> Option<Self> {
        let head = text.trim_start_matches('\u{feff}').trim_start();
        if head.contains('\r') && !head.contains('\n') {
            return Self::of_content(&head.replace('\r', "\n"));
        }
        if head.starts_with("WEBVTT") {
            Some(Self::Vtt)
        } else if head.starts_with("File type = \"ooTextFile\"") {
            Some(Self::TextGrid)
        } else if head.starts_with('<') && head.contains("<ANNOTATION_DOCUMENT") {
            Some(Self::Elan)
        } else if srt::is_srt(head) {
            Some(Self::Srt)
        } else if labels::is_labels(head) {
            Some(Self::Audacity)
        } else if labels::is_bracketed(head) {
            Some(Self::Bracketed)
        } else {
            None
        }
    }

    /// Name of the format, for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Srt => "SubRip",
            Self::Vtt => "WebVTT",
            Self::Audacity => "Audacity labels",
            Self::TextGrid => "Praat TextGrid",
            Self::Elan => "ELAN",
            Self::Bracketed => "text with times in square brackets",
        }
    }
}

/// Reads timed text. `shown` is the name of the file in errors; `tiers` chooses among the tiers of a TextGrid or ELAN file, an empty list
/// leaves the choice to the rules of the format.
pub fn parse(format: CueFormat, text: &str, shown: &str, tiers: &[String]) -> Result<CueFile> {
    let text = text.trim_start_matches('\u{feff}');
    // Old programs end a line with a carriage return alone.
    let replaced = (text.contains('\r') && !text.contains('\n')).then(|| text.replace('\r', "\n"));
    let text = replaced.as_deref().unwrap_or(text);
    let mut file = match format {
        CueFormat::Srt => srt::parse(text),
        CueFormat::Vtt => vtt::parse(text),
        CueFormat::Audacity => labels::parse(text),
        CueFormat::TextGrid => textgrid::parse(text, shown, tiers)?,
        CueFormat::Elan => elan::parse(text, shown, tiers)?,
        CueFormat::Bracketed => {
            return Err(Error::new(format!("`{shown}` has times in square brackets in front of its lines, which are not read"))
                .hint("convert it to SubRip (`.srt`), WebVTT (`.vtt`) or Audacity labels, or take the times away if they are not needed"));
        }
    };
    if !tiers.is_empty() && !matches!(format, CueFormat::TextGrid | CueFormat::Elan) {
        return Err(Error::new(format!("`{shown}` is {}, which has no tiers", format.name())).hint("remove `tiers`"));
    }
    file.cues.sort_by(|a, b| a.start.total_cmp(&b.start).then(a.end.total_cmp(&b.end)));
    file.problems.sort_by_key(|problem| problem.line);
    Ok(file)
}

/// A tier of a file with several: its name, and whether it is wanted.
///
/// Without a choice, all tiers are taken that hold utterances: tiers of words or sounds, and those that depend on another tier, repeat what
/// is said. Several tiers are several speakers.
fn choose_tiers<'a>(names: &[&'a str], wanted: &[String], shown: &str) -> Result<Vec<&'a str>> {
    let list = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if let Some(unknown) = wanted.iter().find(|wanted| !names.contains(&wanted.as_str())) {
        return Err(Error::new(format!("`{shown}` has no tier `{unknown}`")).hint(format!("its tiers are {}", list(names))));
    }
    if !wanted.is_empty() {
        return Ok(names.iter().copied().filter(|name| wanted.iter().any(|wanted| wanted == name)).collect());
    }
    // Tiers of forced aligners end in these names, behind the speaker: `anna - words`.
    let part = |name: &str| {
        let last = name.rsplit([' ', '-', '_', '/']).next().unwrap_or(name).to_lowercase();
        ["word", "words", "phone", "phones", "phoneme", "phonemes", "syllable", "syllables", "segments", "mau", "kan", "ort"]
            .contains(&last.as_str())
    };
    let whole: Vec<&str> = names.iter().copied().filter(|name| !part(name)).collect();
    match (whole.is_empty(), names) {
        (false, _) => Ok(whole),
        (true, [one]) => Ok(vec![one]),
        (true, _) => Err(Error::new(format!("`{shown}` has only tiers of words or sounds: {}", list(names)))
            .hint("choose one, and let its words be joined: `cues = { tiers = [\"words\"], merge_seconds = 5 }`")),
    }
}

/// Whether a text only names a sound: `[music]`, `(laughs)`, `<unk>`, `♪`.
fn is_sound_mark(text: &str) -> bool {
    if text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).is_some_and(|inside| !inside.contains(['<', '>'])) {
        return true;
    }
    let mut depth = 0_usize;
    let outside = text.chars().filter(|character| {
        match character {
            '[' | '(' | '{' => depth += 1,
            ']' | ')' | '}' => {
                depth = depth.saturating_sub(1);
                return false;
            }
            _ => {}
        }
        depth == 0
    });
    !outside.into_iter().any(char::is_alphanumeric)
}

/// Seconds of `01:02:03,456`, `02:03.456` or `3.456`; `None` if it is no such time.
fn clock(text: &str) -> Option<f64> {
    let text = text.trim().replace(',', ".");
    let parts: Vec<&str> = text.split(':').collect();
    if parts.len() > 3 || text.starts_with(['-', '+']) {
        return None;
    }
    let mut seconds = 0.0;
    for (index, part) in parts.iter().enumerate() {
        let last = index + 1 == parts.len();
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let valid = match part.split_once('.') {
            Some((whole, fraction)) => last && digits(whole) && digits(fraction),
            None => digits(part),
        };
        if !valid {
            return None;
        }
        seconds = seconds * 60.0 + part.parse::<f64>().ok()?;
    }
    // Rounded, so that sums of sixties do not leave tiny fractions.
    Some((seconds * 1e6).round() / 1e6)
}

/// The text of a line of subtitles without markup, and its speaker: tags such as `<i>` and `{\an8}`, and marks in front of a line that say
/// that or which another person speaks.
fn plain_line(line: &str) -> (Option<String>, String) {
    let mut speaker = None;
    let mut text = String::new();
    let mut rest = line;
    while let Some(at) = rest.find(['<', '{']) {
        let (before, tag) = rest.split_at(at);
        text.push_str(before);
        let close = if tag.starts_with('<') { '>' } else { '}' };
        // `{` is markup only as `{\…}`; a `<` that no `>` follows is text, and so is one before a space (`a < b`).
        let end = tag.find(close).filter(|_| tag.starts_with("{\\") || tag.starts_with('<') && !tag.starts_with("< "));
        let Some(end) = end else {
            let (one, after) = tag.split_at(1);
            text.push_str(one);
            rest = after;
            continue;
        };
        let inside = tag.get(1..end).unwrap_or_default();
        // `<v Anna>` or `<v.loud Anna>` names the speaker.
        if let Some((kind, name)) = inside.split_once(' ')
            && kind.split('.').next() == Some("v")
        {
            speaker = Some(name.trim().to_owned());
        }
        rest = tag.get(end + 1..).unwrap_or_default();
    }
    text.push_str(rest);
    let text = unescaped(&text);
    let text = text.trim().trim_start_matches(">>").trim_start();
    let text = text.strip_prefix("- ").or_else(|| text.strip_prefix("– ")).or_else(|| text.strip_prefix("— ")).unwrap_or(text);
    let text = match text.strip_prefix('-') {
        Some(after) if after.starts_with(char::is_alphabetic) => after,
        _ => text,
    };
    // `ANNA: Good morning.`
    if let Some((name, said)) = text.split_once(": ")
        && is_name_in_capitals(name)
    {
        return (Some(name.to_owned()), said.trim().to_owned());
    }
    (speaker, text.trim().to_owned())
}

fn is_name_in_capitals(name: &str) -> bool {
    let letters: Vec<char> = name.chars().filter(|character| character.is_alphabetic()).collect();
    letters.len() >= 2
        && name.chars().count() <= 30
        && letters.iter().all(|letter| letter.is_uppercase())
        && name.chars().all(|character| character.is_alphanumeric() || matches!(character, ' ' | '.' | '-' | '\''))
}

/// Replaces the character references of subtitles.
fn unescaped(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    let named =
        [("&lt;", "<"), ("&gt;", ">"), ("&nbsp;", " "), ("&lrm;", ""), ("&rlm;", ""), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    named.iter().fold(text.to_owned(), |text, (reference, character)| text.replace(reference, character))
}

/// Joins the lines of a cue of subtitles; the speaker is the first one that a line names.
fn joined<'a>(lines: impl IntoIterator<Item = &'a str>) -> (Option<String>, String) {
    let mut speaker = None;
    let mut texts = Vec::new();
    for line in lines {
        let (named, text) = plain_line(line);
        speaker = speaker.or(named);
        texts.push(text);
    }
    (speaker, texts.join(" "))
}

/// Leaves out what captions that roll repeat: a cue that begins with the last line of the cue before it.
///
/// Automatic captions of video sites show each line twice, first as the lower and then as the upper one. Returns how many lines were left
/// out. `lines` holds the lines of each cue.
fn unrolled(lines: &mut [Vec<String>]) -> usize {
    let repeats = |pair: &[Vec<String>]| match pair {
        [before, after] => before.last().is_some_and(|last| !last.trim().is_empty() && after.first() == Some(last)),
        _ => false,
    };
    let number = lines.windows(2).filter(|pair| repeats(pair)).count();
    // One repeated line is a speaker who repeats a sentence; captions that roll repeat every line.
    if number < 3 || number * 3 < lines.len() {
        return 0;
    }
    let shown: Vec<bool> = std::iter::once(false).chain(lines.windows(2).map(repeats)).collect();
    for (cue, repeated) in lines.iter_mut().zip(shown) {
        if repeated && !cue.is_empty() {
            cue.remove(0);
        }
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_notation() {
        let table = [
            ("00:00:02,819", Some(2.819)),
            ("1:02:03.5", Some(3723.5)),
            ("02:03.456", Some(123.456)),
            ("5", Some(5.0)),
            ("5.25", Some(5.25)),
            ("100:00:00", Some(360_000.0)),
            ("-1:00", None),
            ("1:2:3:4", None),
            ("1.5:00", None),
            ("", None),
            ("x", None),
            ("1..2", None),
            ("inf", None),
        ];
        for (text, seconds) in table {
            assert_eq!(clock(text), seconds, "{text}");
        }
    }

    #[test]
    fn markup_is_no_text() {
        let table = [
            ("<i>Hello</i> there", None, "Hello there"),
            ("{\\an8}Up here", None, "Up here"),
            ("<v Anna Berg>Good day</v>", Some("Anna Berg"), "Good day"),
            ("<v.loud Anna>Ah!", Some("Anna"), "Ah!"),
            ("2 < 3 and a<b", None, "2 < 3 and a<b"),
            ("<00:00:01.000><c>two</c> words", None, "two words"),
            ("- Who is there?", None, "Who is there?"),
            ("-Me.", None, "Me."),
            ("-5 degrees", None, "-5 degrees"),
            (">> Next one", None, "Next one"),
            ("MR. SMITH: Come in.", Some("MR. SMITH"), "Come in."),
            ("Note: this is text", None, "Note: this is text"),
            ("I: me", None, "I: me"),
            ("Tom &amp; Jerry &lt;3 &amp;lt;", None, "Tom & Jerry <3 &lt;"),
            ("set {x}", None, "set {x}"),
        ];
        for (line, speaker, text) in table {
            assert_eq!(plain_line(line), (speaker.map(str::to_owned), text.to_owned()), "{line}");
        }
    }

    #[test]
    fn marks_of_sounds_are_no_speech() {
        for (text, mark) in [
            ("[music]", true),
            ("(laughs) (door)", true),
            ("♪ ♪", true),
            ("...", true),
            ("<unk>", true),
            ("<b>yes</b>", false),
            ("(softly) yes", false),
            ("3", false),
        ] {
            assert_eq!(is_sound_mark(text), mark, "{text}");
        }
    }

    #[test]
    fn a_carriage_return_ends_a_line() {
        let text = "1\r00:00:01,000 --> 00:00:03,000\rOld mac\r\r2\r00:00:04,000 --> 00:00:06,000\rSecond one\r";
        let file = parse(CueFormat::Srt, text, "a.srt", &[]).unwrap();
        let found: Vec<_> = file.cues.iter().map(|cue| (cue.start, cue.end, cue.text.as_str(), cue.line)).collect();
        assert_eq!((found.as_slice(), file.problems.len()), ([(1.0, 3.0, "Old mac", 2), (4.0, 6.0, "Second one", 6)].as_slice(), 0));
    }

    #[test]
    fn times_in_square_brackets_are_told() {
        let error = parse(CueFormat::Bracketed, "[00:01.00]Hello\n", "a.txt", &[]).unwrap_err();
        assert_eq!(error.message, "`a.txt` has times in square brackets in front of its lines, which are not read");
    }

    #[test]
    fn the_content_shows_the_format() {
        let table = [
            ("WEBVTT\n\n00:01.000 --> 00:02.000\nA\n", Some(CueFormat::Vtt)),
            ("\u{feff}1\n00:00:01,000 --> 00:00:02,000\nA\n", Some(CueFormat::Srt)),
            ("00:00:01,000 --> 00:00:02,000\nA\n", Some(CueFormat::Srt)),
            ("0.5\t1.5\tA\n", Some(CueFormat::Audacity)),
            ("File type = \"ooTextFile\"\nObject class = \"TextGrid\"\n", Some(CueFormat::TextGrid)),
            ("<?xml version=\"1.0\"?>\n<ANNOTATION_DOCUMENT/>", Some(CueFormat::Elan)),
            ("Just a sentence.\n", None),
            ("1\n2\n3\n", None),
            ("0.5\t1.5\tA\nand a line of prose\n", Some(CueFormat::Audacity)),
            ("0.5\t1.5\tA\nand two lines\nof prose\n", None),
            ("Start\tEnd\tText\n1.0\t3.0\tA\n8.0\t10.0\tB\n", Some(CueFormat::Audacity)),
            ("nr\tspeaker\tsentence\n1\t3\tA\n2\t3\tB\n", None),
            ("1.0 3.0 Hello label\n8 10 Third\n", Some(CueFormat::Audacity)),
            ("00:00:01.0\t00:00:03.0\tA\n", Some(CueFormat::Audacity)),
            ("3 4 times he called\n", None),
            ("20 10 is no time\n", None),
            ("10 12 14 16\n", None),
            ("[00:01.00]Hello\n[00:03.00]Second\n", Some(CueFormat::Bracketed)),
            ("[ti:Song]\n[00:01.00] Hello\n", Some(CueFormat::Bracketed)),
            ("[00:00:01 - 00:00:03] Hello\n[00:00:04 --> 00:00:06] you\n", Some(CueFormat::Bracketed)),
            ("[music] Hello\n", None),
            ("1\r00:00:01,000 --> 00:00:02,000\rA\r", Some(CueFormat::Srt)),
            ("", None),
        ];
        for (text, format) in table {
            assert_eq!(CueFormat::of_content(text), format, "{text}");
        }
    }
}
