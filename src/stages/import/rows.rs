//! Maps table rows with varying column names to clips.

use super::Columns;
use crate::data::table;

/// Audio of a row: embedded bytes, a file path, or both.
#[derive(Clone, Debug)]
pub(super) struct Sound {
    pub(super) bytes: Option<Vec<u8>>,
    pub(super) path: Option<String>,
}

/// The cells of a row by column name.
#[derive(Clone, Debug, Default)]
pub(super) struct Cells {
    pub(super) texts: Vec<(String, String)>,
    pub(super) sounds: Vec<(String, Sound)>,
}

/// A row as a candidate clip.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Table and line or row, for results and messages.
    pub(super) place: String,
    pub(super) sound: Sound,
    pub(super) text: Option<String>,
    pub(super) language: Option<String>,
    pub(super) speaker: Option<String>,
    /// Duration of the clip in seconds, according to the row.
    pub(super) seconds: Option<f64>,
    /// Start of the clip in its audio file, in seconds.
    pub(super) offset: Option<f64>,
}

const AUDIO: &[&str] = &["audio_path", "audio", "file_name", "audio_filepath", "path", "file"];
const TEXT: &[&str] = &["text", "transcription", "sentence", "transcript", "normalized_text"];
const LANGUAGE: &[&str] = &["language", "lang", "locale", "source_lang"];
const SPEAKER: &[&str] = &["speaker", "speaker_id", "client_id"];
const SECONDS: &[&str] = &["duration"];
const OFFSET: &[&str] = &["offset"];

/// Whether a column is read.
pub(super) fn is_read(columns: &Columns, name: &str) -> bool {
    let one = |own: &Option<String>, accepted: &[&str]| match own {
        Some(own) => own == name,
        None => accepted.contains(&name),
    };
    one(&columns.audio, AUDIO)
        || one(&columns.text, TEXT)
        || one(&columns.language, LANGUAGE)
        || one(&columns.speaker, SPEAKER)
        || SECONDS.contains(&name)
        || OFFSET.contains(&name)
}

impl Row {
    /// Reads a row; `columns` overrides the usual column names.
    pub(super) fn new(place: String, cells: Cells, columns: &Columns) -> Self {
        let text = |own: &Option<String>, accepted: &[&str]| {
            let get = |wanted: &str| {
                // `table` lowercases column names.
                let named = |(name, _): &&(String, String)| name == wanted || *name == wanted.to_lowercase();
                cells.texts.iter().find(named).map(|(_, text)| text.trim().to_owned()).filter(|text| !text.is_empty())
            };
            match own {
                Some(own) => get(own),
                None => accepted.iter().find_map(|name| get(name)),
            }
        };
        let number = |accepted: &[&str]| text(&None, accepted).and_then(|text| text.parse().ok()).filter(|value: &f64| value.is_finite());
        let wanted = |name: &str| columns.audio.as_deref().map_or(AUDIO.contains(&name), |own| own == name);
        let sound = cells.sounds.iter().find(|(name, _)| wanted(name)).map(|(_, sound)| sound.clone());
        Self {
            sound: sound.unwrap_or_else(|| Sound { bytes: None, path: text(&columns.audio, AUDIO) }),
            text: text(&columns.text, TEXT).map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")),
            language: text(&columns.language, LANGUAGE),
            speaker: text(&columns.speaker, SPEAKER),
            seconds: number(SECONDS),
            offset: number(OFFSET),
            place,
        }
    }
}

impl From<&table::TableRow> for Cells {
    fn from(row: &table::TableRow) -> Self {
        let texts = row.columns().filter_map(|name| Some((name.to_owned(), row.get(name)?.to_owned()))).collect();
        Self { texts, sounds: Vec::new() }
    }
}
