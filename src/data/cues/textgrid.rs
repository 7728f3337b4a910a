//! Praat TextGrid files, in the long and the short text format.
//!
//! Both formats are the same sequence of values; the long one has names around them. So only numbers, strings in double quotes and flags in
//! angle brackets are read, as Praat itself does. A double quote inside a string is written twice. See "TextGrid file formats" in Praat's
//! manual.

use super::{Cue, CueFile, choose_tiers};
use crate::error::{Error, Result};

/// A value with its line.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Number(f64),
    Text(String),
    Flag(String),
}

/// The values of a file, one after the other.
struct Values {
    values: std::vec::IntoIter<(usize, Value)>,
    line: usize,
}

impl Values {
    /// Reads all values. What stands between them is for people: names, `=`, indices such as `[1]:`.
    fn read(text: &str) -> Self {
        let mut values = Vec::new();
        let (mut rest, mut line) = (text, 1);
        while let Some(first) = rest.chars().next() {
            let taken = match first {
                '"' => {
                    let mut end = 1;
                    loop {
                        match rest.get(end..).and_then(|after| after.find('"')) {
                            Some(at) if rest.get(end + at + 1..).is_some_and(|after| after.starts_with('"')) => end += at + 2,
                            Some(at) => break end += at + 1,
                            None => break end = rest.len(),
                        }
                    }
                    let inside = rest.get(1..end.saturating_sub(1).max(1)).unwrap_or_default();
                    values.push((line, Value::Text(inside.replace("\"\"", "\""))));
                    end
                }
                '!' => rest.find('\n').unwrap_or(rest.len()),
                _ if first.is_whitespace() => first.len_utf8(),
                _ => {
                    // A word. It is a value only if all of it is: `[1]:` and `intervals` are not.
                    let end = rest.find(|character: char| character.is_whitespace()).unwrap_or(rest.len());
                    let word = rest.get(..end).unwrap_or_default();
                    if let Ok(number) = word.parse::<f64>() {
                        values.push((line, Value::Number(number)));
                    } else if word.starts_with('<') && word.ends_with('>') {
                        values.push((line, Value::Flag(word.to_owned())));
                    }
                    end
                }
            };
            let (seen, after) = rest.split_at(taken);
            line += seen.matches('\n').count();
            rest = after;
        }
        Self { values: values.into_iter(), line: 1 }
    }

    fn next(&mut self) -> Option<Value> {
        let (line, value) = self.values.next()?;
        self.line = line;
        Some(value)
    }

    fn number(&mut self, what: &str) -> std::result::Result<f64, String> {
        match self.next() {
            Some(Value::Number(number)) => Ok(number),
            Some(other) => Err(format!("expected {what}, found {other:?}")),
            None => Err(format!("the file ends where {what} should be")),
        }
    }

    fn text(&mut self, what: &str) -> std::result::Result<String, String> {
        match self.next() {
            Some(Value::Text(text)) => Ok(text),
            Some(other) => Err(format!("expected {what}, found {other:?}")),
            None => Err(format!("the file ends where {what} should be")),
        }
    }
}

/// A tier with its intervals.
struct Tier {
    name: String,
    /// Start, end, text and line. Points have no length, and are not here.
    intervals: Vec<(f64, f64, String, usize)>,
}

/// Reads the intervals of the chosen tiers. The name of a tier is the speaker if there are several.
pub(super) fn parse(text: &str, shown: &str, wanted: &[String]) -> Result<CueFile> {
    let mut values = Values::read(text);
    let tiers = tiers(&mut values).map_err(|what| {
        Error::new(format!("{shown}:{}: not a TextGrid: {what}", values.line)).hint("save it in Praat with \"Save as text file\"")
    })?;
    let with_text = |tier: &&Tier| tier.intervals.iter().any(|(_, _, text, _)| !text.trim().is_empty());
    let names: Vec<&str> = tiers.iter().filter(with_text).map(|tier| tier.name.as_str()).collect();
    let chosen = choose_tiers(&names, wanted, shown)?;
    let mut file = CueFile::default();
    for tier in tiers.iter().filter(|tier| chosen.contains(&tier.name.as_str())) {
        let speaker = (chosen.len() > 1).then(|| tier.name.clone());
        for (start, end, text, line) in tier.intervals.iter().filter(|(_, _, text, _)| !is_silence(text)) {
            file.add(Cue { start: *start, end: *end, text: text.clone(), speaker: speaker.clone(), line: *line });
        }
    }
    let left: Vec<String> = names.iter().filter(|name| !chosen.contains(name)).map(|name| format!("`{name}`")).collect();
    if !left.is_empty() {
        file.notes.push(format!("the tiers {} were not used", left.join(", ")));
    }
    Ok(file)
}

/// Whether an interval is empty or has only a mark of silence, as aligners and annotators write it.
fn is_silence(text: &str) -> bool {
    let text = text.trim().to_lowercase();
    ["", "sil", "sp", "<sil>", "<sp>", "<p:>", "<p>", "#", "silence", "<silence>"].contains(&text.as_str())
}

fn tiers(values: &mut Values) -> std::result::Result<Vec<Tier>, String> {
    let kind = values.text("the file type")?;
    let class = values.text("the object class")?;
    if kind != "ooTextFile" || class != "TextGrid" {
        return Err(format!("it is a `{class}` in a `{kind}`"));
    }
    values.number("its start")?;
    values.number("its end")?;
    if !matches!(values.next(), Some(Value::Flag(flag)) if flag == "<exists>") {
        return Err("it has no tiers".to_owned());
    }
    let number = values.number("the number of tiers")?;
    let mut tiers = Vec::new();
    for _ in 0..number as u64 {
        let class = values.text("the class of a tier")?;
        let name = values.text("the name of a tier")?;
        values.number("the start of a tier")?;
        values.number("the end of a tier")?;
        let size = values.number("the number of intervals")?;
        let mut intervals = Vec::new();
        for _ in 0..size as u64 {
            let start = values.number("a time")?;
            // Points (`TextTier`) have one time.
            let end = if class == "IntervalTier" { Some(values.number("the end of an interval")?) } else { None };
            let text = values.text("the text of an interval")?;
            if let Some(end) = end {
                intervals.push((start, end, text, values.line));
            }
        }
        tiers.push(Tier { name, intervals });
    }
    Ok(tiers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str = "File type = \"ooTextFile\"\nObject class = \"TextGrid\"\n\nxmin = 0 \nxmax = 5 \ntiers? <exists> \nsize = 3 \nitem []: \n    \
        item [1]:\n        class = \"IntervalTier\" \n        name = \"anna\" \n        xmin = 0 \n        xmax = 5 \n        intervals: size = 2 \n        \
        intervals [1]:\n            xmin = 0 \n            xmax = 1.5 \n            text = \"\" \n        intervals [2]:\n            xmin = 1.5 \n            \
        xmax = 5 \n            text = \"say \"\"yes\"\"\ntwice\" \n    item [2]:\n        class = \"TextTier\" \n        name = \"clicks\" \n        xmin = 0 \n        \
        xmax = 5 \n        points: size = 1 \n        points [1]:\n            number = 2 \n            mark = \"x\" \n    item [3]:\n        \
        class = \"IntervalTier\" \n        name = \"ben\" \n        xmin = 0 \n        xmax = 5 \n        intervals: size = 1 \n        intervals [1]:\n            \
        xmin = 0 \n            xmax = 1 \n            text = \"hello\" \n";
    const SHORT: &str = "File type = \"ooTextFile\"\n\"TextGrid\"\n\n0\n3\n<exists>\n2\n\"IntervalTier\"\n\"words\"\n0\n3\n2\n0\n1\n\"one\"\n1\n2\n\"two\"\n\
        \"IntervalTier\"\n\"phones\"\n0\n3\n1\n0\n1\n\"w\"\n";

    #[test]
    fn both_formats_are_read_with_their_tiers() {
        let file = parse(LONG, "a.TextGrid", &[]).unwrap();
        let found: Vec<_> = file.cues.iter().map(|cue| (cue.start, cue.end, cue.text.as_str(), cue.speaker.as_deref())).collect();
        assert_eq!(found, [(1.5, 5.0, "say \"yes\" twice", Some("anna")), (0.0, 1.0, "hello", Some("ben"))]);
        let file = parse(LONG, "a.TextGrid", &["anna".to_owned()]).unwrap();
        assert_eq!((file.cues.len(), file.cues[0].speaker.clone(), file.notes.len()), (1, None, 1));

        let error = parse(SHORT, "b.TextGrid", &[]).unwrap_err();
        assert_eq!(error.message, "`b.TextGrid` has only tiers of words or sounds: `words`, `phones`");
        let file = parse(SHORT, "b.TextGrid", &["words".to_owned()]).unwrap();
        assert_eq!(file.cues.iter().map(|cue| cue.text.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    }

    #[test]
    fn marks_of_silence_are_no_text() {
        for mark in ["sil", "SIL", "<sil>", "sp", "<p:>", "#", " "] {
            let file = parse(&SHORT.replace("\"one\"", &format!("\"{mark}\"")), "b.TextGrid", &["words".to_owned()]).unwrap();
            assert_eq!((file.cues.len(), file.cues[0].text.as_str(), file.problems.len()), (1, "two", 0), "{mark}");
        }
        // What was said and not understood is no silence.
        let file = parse(&SHORT.replace("\"one\"", "\"<unk>\""), "b.TextGrid", &["words".to_owned()]).unwrap();
        assert_eq!((file.cues.len(), file.problems.len(), file.gaps.as_slice()), (1, 1, [(0.0, 1.0)].as_slice()));
    }

    #[test]
    fn a_damaged_file_names_its_line() {
        for (text, message) in [
            (&LONG[..300], "a.TextGrid:16: not a TextGrid: the file ends where the end of an interval should be"),
            (
                "File type = \"ooTextFile\"\nObject class = \"Pitch 1\"\n",
                "a.TextGrid:2: not a TextGrid: it is a `Pitch 1` in a `ooTextFile`",
            ),
            ("", "a.TextGrid:1: not a TextGrid: the file ends where the file type should be"),
        ] {
            assert_eq!(parse(text, "a.TextGrid", &[]).unwrap_err().message, message);
        }
        let error = parse(LONG, "a.TextGrid", &["carl".to_owned()]).unwrap_err();
        assert_eq!(
            (error.message.as_str(), error.hint.as_deref()),
            ("`a.TextGrid` has no tier `carl`", Some("its tiers are `anna`, `ben`"))
        );
        // A number of intervals that nobody could store must not be reserved.
        let huge = SHORT.replace("\n3\n2\n0\n1\n\"one\"", "\n3\n1e300\n0\n1\n\"one\"");
        assert!(parse(&huge, "a.TextGrid", &[]).is_err());
    }
}
