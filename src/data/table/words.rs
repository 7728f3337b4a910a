//! Transcripts in plain text files: Kaldi's `text` with `wav.scp` and `segments`, LibriSpeech's `*.trans.txt`, and one text file beside each
//! recording.

use super::{BadRow, Cell, CueReading, DecodedText, RowSink, TableFiles, TableRow, cue_format, decode, read_cues};
use crate::data::file_index::{folded, meant};
use crate::error::Result;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Endings of a text beside a recording. Those with times come first: a program that writes subtitles often writes the text alone as well.
const BESIDE: &[&str] =
    &["srt", "vtt", "TextGrid", "textgrid", "eaf", "txt", "TXT", "lab", "normalized.txt", "transcription", "transcript", "json"];

/// The first word of a line and the rest.
fn first_word(line: &str) -> (&str, &str) {
    let line = line.trim();
    line.split_once(char::is_whitespace).map_or((line, ""), |(first, rest)| (first, rest.trim()))
}

/// A file of a Kaldi folder as a map from its first column to the rest.
fn kaldi_map(files: &dyn TableFiles, path: &str) -> Result<Option<BTreeMap<String, String>>> {
    if !files.contains(path) {
        return Ok(None);
    }
    let text = decode(&files.whole(path)?).text;
    let lines = text.lines().map(first_word).filter(|(first, _)| !first.is_empty());
    Ok(Some(lines.map(|(first, rest)| (first.to_owned(), rest.to_owned())).collect()))
}

/// Reads lines `ID TEXT`, as in LibriSpeech's `*.trans.txt` and in Kaldi's `text`. With `wav.scp`, `segments` and `utt2spk` beside it the id is
/// looked up there; otherwise it is the name of the recording. `prefix` precedes ids: the folder in which they are searched.
pub fn read_kaldi(files: &dyn TableFiles, path: &str, each: &mut RowSink) -> Result<Vec<String>> {
    let folder = path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let beside = |name: &str| if path.ends_with(".trans.txt") { Ok(None) } else { kaldi_map(files, &format!("{folder}{name}")) };
    let (recordings, segments, speakers, languages) = (beside("wav.scp")?, beside("segments")?, beside("utt2spk")?, beside("utt2lang")?);
    let decoded = decode(&files.whole(path)?);
    let table: Arc<str> = path.into();
    let names: Vec<Arc<str>> = ["audio", "text", "speaker", "language", "start", "end"].map(Into::into).to_vec();
    for (index, line) in decoded.text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (id, text) = first_word(line);
        let mut bad = None;
        let (mut recording, mut times) = (id, None);
        if let Some(segments) = &segments {
            let words: Vec<&str> = segments.get(id).map(|segment| segment.split_whitespace().collect()).unwrap_or_default();
            match words.as_slice() {
                [of, start, end, ..] => (recording, times) = (*of, Some((*start, *end))),
                _ => bad = Some(format!("`segments` has no line for `{id}`")),
            }
        }
        let sound = match recordings.as_ref().map(|all| all.get(recording)) {
            None => recording,
            Some(Some(sound)) => sound.as_str(),
            Some(None) => {
                bad = bad.or_else(|| Some(format!("`wav.scp` has no line for `{recording}`")));
                recording
            }
        };
        if sound.ends_with('|') {
            bad = bad.or_else(|| Some(format!("its sound is what a command writes, which is not run: `{sound}`")));
        }
        if decoded.damaged.contains(&(index + 1)) {
            bad = Some("it has bytes that are no UTF-8".to_owned());
        }
        let row = match bad {
            Some(reason) => Err(BadRow::new(path, index + 1, reason)),
            None => {
                let of = |map: &Option<BTreeMap<String, String>>| map.as_ref().and_then(|map| map.get(id)).cloned();
                // Times in `segments` are seconds.
                let time = |time: Option<&str>| time.map(|time| format!("{time}s"));
                let end = times.map(|(_, end)| end).filter(|end| !end.starts_with('-'));
                let cells = [
                    Some(sound.to_owned()),
                    Some(text.to_owned()),
                    of(&speakers),
                    of(&languages),
                    time(times.map(|(start, _)| start)),
                    time(end),
                ];
                let cells = names.iter().zip(cells).filter_map(|(name, cell)| Some((Arc::clone(name), Cell::Text(cell?))));
                Ok(TableRow { table: Arc::clone(&table), line: index + 1, cells: cells.collect() })
            }
        };
        if !each(row)? {
            break;
        }
    }
    Ok(decoded.note.map(|note| format!("`{path}` {note}")).into_iter().collect())
}

/// The text file that belongs to a recording: of the same name, beside it.
pub fn text_beside(files: &dyn TableFiles, sound: &str) -> Option<String> {
    let stem = stem(sound);
    let texts = BESIDE.iter().map(|ending| format!("{stem}.{ending}")).chain([format!("{sound}.txt")]);
    texts.into_iter().find(|text| files.contains(text))
}

/// A path without its ending.
fn stem(path: &str) -> &str {
    let name = path.rfind('/').map_or(0, |slash| slash + 1);
    path.get(name..).and_then(|file| file.rfind('.')).filter(|dot| *dot > 0).and_then(|dot| path.get(..name + dot)).unwrap_or(path)
}

/// The text of a file, the lines joined.
fn whole_text(decoded: &DecodedText) -> String {
    decoded.text.split_whitespace().collect::<Vec<_>>().join(" ")
}

const TIMED_LABELS: &str =
    "it has labels with times (`BEGIN END LABEL`, as HTK and TIMIT write them), not a transcript: save it as a TextGrid or as plain text";

/// Whether a text is labels with times, as HTK and TIMIT write them: lines `BEGIN END LABEL`, one behind the other. Their units are samples or
/// 100 ns, so the numbers tell them from a sentence that begins with two numbers.
fn is_timed_labels(text: &str) -> bool {
    let (mut last, mut number_of_lines) = (0_u64, 0_u64);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    // As seconds a label would have many minutes on average.
    let ordered = lines.all(|line| {
        let mut words = line.split_whitespace();
        let mut number = || words.next().filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()))?.parse::<u64>().ok();
        let (Some(begin), Some(end)) = (number(), number()) else { return false };
        let follows = begin >= last && end > begin && words.next().is_some();
        (last, number_of_lines) = (end, number_of_lines + 1);
        follows
    });
    ordered && number_of_lines > 0 && last / number_of_lines >= 400
}

/// Reads the text or the cues beside each of `sounds`. A JSON file of that name (WebDataset) adds its fields. Rows are named after the text file.
pub fn read_beside(files: &dyn TableFiles, sounds: &[&str], how: CueReading, each: &mut RowSink) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let mut guessed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let [audio, text_column]: [Arc<str>; 2] = ["audio".into(), "text".into()];
    // File systems differ in the form of letters with accents, and some in case.
    let mut others: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for path in files.paths() {
        if BESIDE.iter().any(|ending| path.ends_with(&format!(".{ending}"))) {
            others.entry(folded(path)).or_default().push(path);
        }
    }
    let alike = |sound: &str| {
        let names = BESIDE.iter().map(|ending| format!("{}.{ending}", stem(sound)));
        names.into_iter().find_map(|name| meant(&name, others.get(&folded(&name))?.iter().map(|path| (*path, *path)))).map(str::to_owned)
    };
    for sound in sounds {
        let Some(path) = text_beside(files, sound).or_else(|| alike(sound)) else { continue };
        let decoded = decode(&files.whole(&path)?);
        if let Some(note) = &decoded.note {
            guessed.entry(note.clone()).or_default().push(path.clone());
        }
        if is_timed_labels(&decoded.text) {
            if !each(Err(BadRow::new(&path, 1, TIMED_LABELS)))? {
                break;
            }
            continue;
        }
        if let Some(format) = cue_format(&path, &decoded.text) {
            // A file of cues that cannot be read at all is a bad row like any other.
            match read_cues(&path, &decoded.text, format, sound, how, each) {
                Ok(found) => notes.extend(found),
                Err(error) => drop(each(Err(BadRow::new(&path, 1, error.message)))?),
            }
            continue;
        }
        let mut cells: Vec<(Arc<str>, Cell)> = vec![(Arc::clone(&audio), Cell::Text((*sound).to_owned()))];
        let mut bad = (!decoded.damaged.is_empty()).then(|| "it has bytes that are no UTF-8".to_owned());
        let json = if path.ends_with(".json") {
            Some(path.clone())
        } else {
            Some(format!("{}.json", stem(sound))).filter(|json| files.contains(json))
        };
        if !path.ends_with(".json") {
            cells.push((Arc::clone(&text_column), Cell::Text(whole_text(&decoded))));
        }
        if let Some(json) = json {
            match serde_json::from_str::<Map<String, Value>>(&decode(&files.whole(&json)?).text) {
                Ok(object) => {
                    let known: BTreeSet<Arc<str>> = cells.iter().map(|(name, _)| Arc::clone(name)).collect();
                    let fields = object.into_iter().filter(|(name, _)| !known.contains(name.as_str()) && !is_sound(name));
                    cells.extend(fields.map(|(name, value)| (name.to_lowercase().into(), Cell::of_json(value))));
                }
                Err(error) => bad = bad.or_else(|| Some(format!("`{json}` is no JSON object: {error}"))),
            }
        }
        let row = match bad {
            Some(reason) => Err(BadRow::new(&path, 1, reason)),
            None => Ok(TableRow { table: path.as_str().into(), line: 1, cells }),
        };
        if !each(row)? {
            break;
        }
    }
    let note = |(note, paths): (String, Vec<String>)| format!("{} {note}", crate::data::text::first_few(&paths, 3));
    notes.extend(guessed.into_iter().map(note));
    Ok(notes)
}

/// Whether a field of a JSON file beside a recording names a recording: the one beside it is meant.
fn is_sound(name: &str) -> bool {
    use crate::data::columns::{ColumnRole, Columns};
    Columns::default().role(name).is_some_and(|found| found.0 == ColumnRole::Audio)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_with_times_are_no_transcript() {
        for text in ["0 5000000 sil\n5000000 9000000 hello\n", "0 46797 She had your dark suit.\n", "0 2260 h#\r\n2260 4149 sh\r\n"] {
            assert!(is_timed_labels(text), "{text}");
        }
        for text in [
            "",
            "Hello there",
            "10 20 people came",
            "0 5000",
            "1 2 three four",
            "5000 400 people",
            "0 5000 one\ntwo",
            "0 500 a\n500 510 b\n",
        ] {
            assert!(!is_timed_labels(text), "{text}");
        }
    }
}
