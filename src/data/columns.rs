//! Columns of tables of clips: their usual names, and what a row says with them.

use crate::data::language::language_code;
use crate::data::table::{Cell, TableRow};
use crate::data::time_bounds::{TimeBounds, WrittenTime, read_time};
use crate::data::transcript::transcript;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Column names, if they are not the usual ones. The usual ones are tried in the given order, in any case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// Column with the audio, embedded or as a file path. Default: `audio_path`, `audio`, `file_name`, `audio_filepath`, `path`, `file`,
    /// `wav_filename` and similar ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<String>,
    /// Column with the transcript. Default: `text`, `transcription`, `sentence`, `transcript`, `normalized_text` and similar ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Column with the language. Default: `language`, `lang`, `locale` or `source_lang`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Column with the speaker. Default: `speaker`, `speaker_id`, `client_id` and similar ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    /// Column with the split. Default: `split`, `set`, `subset` or `partition`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Column with the beginning of the clip in its recording. Default: `start`, `start_time`, `begin`, `offset`, `from` …, in seconds, or
    /// with `_ms` in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// Column with the end of the clip in its recording. Default: `end`, `end_time`, `stop`, `to` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// Another name for `start`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<String>,
    /// Column with the duration of the clip. Default: `duration`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
}

/// What a column is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnRole {
    /// The audio file.
    Audio,
    /// The transcript.
    Text,
    /// The language.
    Language,
    /// The speaker.
    Speaker,
    /// The split.
    Split,
    /// Beginning of the clip.
    Start,
    /// End of the clip.
    End,
    /// Duration of the clip.
    Duration,
}

/// The usual names of each role, the likeliest first.
const USUAL: [(ColumnRole, &[&str]); 8] = [
    (
        ColumnRole::Audio,
        &[
            "audio_path",
            "audio",
            "file_name",
            "audio_filepath",
            "path",
            "file",
            "filename",
            "audio_file",
            "audio_filename",
            "audio_file_path",
            "wav_filename",
            "wav_path",
            "wav_file",
            "wav",
            "filepath",
            "file_path",
            "clip_path",
            "clip",
            "recording",
            "sound",
            "datei",
            "dateiname",
            "fichier",
            "archivo",
        ],
    ),
    (
        ColumnRole::Text,
        &[
            "text",
            "transcription",
            "sentence",
            "transcript",
            "normalized_text",
            "raw_transcription",
            "raw_text",
            "transcripts",
            "utterance",
            "texte",
            "texto",
            "testo",
            "transkript",
            "transkription",
        ],
    ),
    (ColumnRole::Language, &["language", "lang", "locale", "source_lang", "language_code", "lang_code", "sprache"]),
    (ColumnRole::Speaker, &["speaker", "speaker_id", "client_id", "speaker_name", "spk", "spk_id", "sprecher"]),
    (ColumnRole::Split, &["split", "set", "subset", "partition"]),
    (ColumnRole::Start, &["start", "start_time", "begin", "begin_time", "offset", "from", "segment_start", "audio_start", "xmin", "tmin"]),
    (ColumnRole::End, &["end", "end_time", "stop", "stop_time", "to", "segment_end", "audio_end", "xmax", "tmax"]),
    (ColumnRole::Duration, &["duration", "dur", "audio_duration"]),
];

/// A column name as it is compared: lowercase, with `_` for spaces and hyphens.
pub fn plain_name(name: &str) -> String {
    name.trim()
        .trim_start_matches('\u{feff}')
        .to_lowercase()
        .split([' ', '-', '_'])
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("_")
}

/// A name without the unit it ends with, and the seconds in one of that unit: `start_ms`, `duration[ms]`, `end (s)`.
fn unit_of(name: &str) -> (String, Option<f64>) {
    let spaced: String = name.chars().map(|character| if "[]()".contains(character) { '_' } else { character }).collect();
    let name = plain_name(&spaced);
    let parted = name.rsplit_once('_').and_then(|(before, unit)| {
        let seconds = match unit {
            "ms" | "msec" | "msecs" | "millis" | "milliseconds" => 0.001,
            "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
            _ => return None,
        };
        Some((before.to_owned(), Some(seconds)))
    });
    parted.unwrap_or((name, None))
}

impl Columns {
    /// Whether no name is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn own(&self, role: ColumnRole) -> Option<&str> {
        let name = match role {
            ColumnRole::Audio => &self.audio,
            ColumnRole::Text => &self.text,
            ColumnRole::Language => &self.language,
            ColumnRole::Speaker => &self.speaker,
            ColumnRole::Split => &self.split,
            ColumnRole::Start if self.start.is_none() => &self.offset,
            ColumnRole::Start => &self.start,
            ColumnRole::End => &self.end,
            ColumnRole::Duration => &self.duration,
        };
        name.as_deref()
    }

    /// What a column is for, how good its name is for that (0 is best), and the seconds in one of its units if its name says that.
    pub fn role(&self, name: &str) -> Option<(ColumnRole, usize, Option<f64>)> {
        let plain = plain_name(name);
        let timed = unit_of(name);
        USUAL.iter().find_map(|(role, usual)| {
            let is_time = matches!(role, ColumnRole::Start | ColumnRole::End | ColumnRole::Duration);
            let (looked, unit) = if is_time { (&timed.0, timed.1) } else { (&plain, None) };
            match self.own(*role) {
                Some(own) => (plain_name(own) == plain).then_some((*role, 0, unit)),
                // A name that the user gave to another role has that role alone.
                None if self.is_own(&plain) => None,
                None => usual.iter().position(|usual| usual == looked).map(|place| (*role, place, unit)),
            }
        })
    }

    fn is_own(&self, plain: &str) -> bool {
        USUAL.iter().any(|(role, _)| self.own(*role).is_some_and(|own| plain_name(own) == plain))
    }

    /// Whether a column has a role.
    pub fn is_read(&self, name: &str) -> bool {
        self.role(name).is_some()
    }
}

/// A row of a table as a clip.
#[derive(Clone, Debug, PartialEq)]
pub struct TableClip {
    /// Table and line, for results and messages.
    pub place: String,
    /// Sound within the table.
    pub bytes: Option<Vec<u8>>,
    /// Name of the audio file, as the row has it.
    pub path: Option<String>,
    /// The transcript.
    pub text: String,
    /// ISO 639-1 code.
    pub language: Option<String>,
    /// The speaker.
    pub speaker: Option<String>,
    /// Where the clip is in its file.
    pub bounds: TimeBounds,
    /// The split, as the row names it.
    pub split: Option<String>,
}

impl TableClip {
    /// Reads a row.
    ///
    /// # Errors
    /// The reason why the row is no clip.
    pub fn read(row: &TableRow, columns: &Columns) -> Result<Self, String> {
        let mut best: [Option<(usize, Option<f64>, &Cell)>; 8] = [None; 8];
        let mut empty_text = None;
        for (name, cell) in &row.cells {
            let Some((role, rank, unit)) = columns.role(name) else { continue };
            let is_empty = match cell {
                Cell::Text(text) => text.trim().is_empty(),
                Cell::Json(_) => false,
                Cell::Sound { bytes, path } => bytes.is_none() && path.is_none(),
            };
            if is_empty {
                if role == ColumnRole::Text {
                    empty_text = Some(name);
                }
                continue;
            }
            if let Some(slot) = best.get_mut(role as usize)
                && slot.is_none_or(|(other, ..)| rank < other)
            {
                *slot = Some((rank, unit, cell));
            }
        }
        let cell = |role: ColumnRole| best.get(role as usize).copied().flatten();
        let word = |role: ColumnRole| cell(role).map(|(_, _, cell)| cell.text());
        let language = match word(ColumnRole::Language) {
            Some(named) => language_code(&named).map_err(|named| format!("`{named}` is no language that is known"))?,
            None => None,
        };
        let Some((_, _, text)) = cell(ColumnRole::Text) else {
            let names = row.columns().collect::<Vec<_>>().join(", ");
            return Err(match empty_text {
                Some(name) => format!("it has no text: `{name}` is empty"),
                None => format!("it has no text; the row has: {names}"),
            });
        };
        let text = transcript(text, language.as_deref())?;
        let time = |role: ColumnRole| -> Result<Option<WrittenTime>, String> {
            let Some((_, unit, cell)) = cell(role) else { return Ok(None) };
            // A word for no value is no time.
            let text = cell.text();
            if matches!(text.to_lowercase().as_str(), "nan" | "none" | "null" | "n/a") {
                return Ok(None);
            }
            read_time(&text, unit).map(Some)
        };
        let bounds = TimeBounds { start: time(ColumnRole::Start)?, end: time(ColumnRole::End)?, duration: time(ColumnRole::Duration)? };
        bounds.span(1.0)?;
        let (bytes, path) = match cell(ColumnRole::Audio) {
            Some((_, _, Cell::Sound { bytes, path })) => (bytes.clone(), path.clone()),
            Some((_, _, Cell::Text(text))) => (None, Some(text.trim().to_owned())),
            // What `datasets` writes for audio as JSON.
            Some((_, _, Cell::Json(value))) => match value.get("path").and_then(|path| path.as_str()) {
                Some(path) => (None, Some(path.to_owned())),
                None if value.is_number() => (None, Some(value.to_string())),
                None => return Err("its sound is no file name".to_owned()),
            },
            None => return Err(format!("it names no sound; the row has: {}", row.columns().collect::<Vec<_>>().join(", "))),
        };
        let (speaker, split) = (word(ColumnRole::Speaker), word(ColumnRole::Split));
        Ok(Self { place: row.place(), bytes, path, text, language, speaker, bounds, split })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[(&str, &str)]) -> TableRow {
        let cells = cells.iter().map(|(name, text)| ((*name).into(), Cell::Text((*text).to_owned()))).collect();
        TableRow { table: "t.csv".into(), line: 2, cells }
    }

    #[test]
    fn columns_are_known_by_usual_names_or_by_those_of_the_user() {
        let usual = Columns::default();
        for (name, role, unit) in [
            ("File Name", ColumnRole::Audio, None),
            ("\u{feff}AUDIO", ColumnRole::Audio, None),
            ("wav_filename", ColumnRole::Audio, None),
            ("Sentence", ColumnRole::Text, None),
            ("Start (s)", ColumnRole::Start, Some(1.0)),
            ("offset", ColumnRole::Start, None),
            ("start_time_ms", ColumnRole::Start, Some(0.001)),
            ("duration[ms]", ColumnRole::Duration, Some(0.001)),
            ("end-time", ColumnRole::End, None),
            ("subset", ColumnRole::Split, None),
        ] {
            let found = usual.role(name).unwrap();
            assert_eq!((found.0, found.2), (role, unit), "{name}");
        }
        assert!(usual.role("mood").is_none() && usual.role("wav_filesize").is_none());
        let own = Columns { text: Some("Said".to_owned()), audio: Some("text".to_owned()), ..Columns::default() };
        assert_eq!(own.role("said").map(|found| found.0), Some(ColumnRole::Text));
        assert_eq!(own.role("text").map(|found| found.0), Some(ColumnRole::Audio));
        assert_eq!(own.role("sentence"), None);
    }

    #[test]
    fn a_row_is_a_clip_or_says_why_not() {
        let clip = TableClip::read(
            &row(&[
                ("mood", "x"),
                ("path", "a.wav"),
                ("text", ""),
                ("sentence", " Hello,\nyou "),
                ("lang", "sv-SE"),
                ("start", "1.5"),
                ("split", "dev"),
            ]),
            &Columns::default(),
        )
        .unwrap();
        assert_eq!((clip.place.as_str(), clip.text.as_str(), clip.path.as_deref()), ("t.csv:2", "Hello, you", Some("a.wav")));
        assert_eq!((clip.language.as_deref(), clip.split.as_deref()), (Some("sv"), Some("dev")));
        assert!(clip.bounds.names_part());
        for (cells, reason) in [
            (&[("path", "a.wav")][..], "it has no text; the row has: path"),
            (&[("path", "a.wav"), ("text", " ")], "it has no text: `text` is empty"),
            (&[("text", "Hello")], "it names no sound; the row has: text"),
            (&[("path", "a.wav"), ("text", "Hello"), ("lang", "Klingon")], "`Klingon` is no language that is known"),
            (&[("path", "a.wav"), ("text", "Hello"), ("start", "soon")], "`soon` is no time"),
            (&[("path", "a.wav"), ("text", "Hello"), ("start", "2"), ("end", "1")], "it ends at 1 s and begins at 2 s"),
            (&[("path", "a.wav"), ("text", "nan")], "its text is what stands for no value: `nan`"),
        ] {
            assert_eq!(TableClip::read(&row(cells), &Columns::default()), Err(reason.to_owned()));
        }
    }
}
