//! Cues as rows of a table, so that all that holds for tables of times holds for them.

use super::merge::{CueSettings, merged};
use super::{CueFile, CueFormat, parse};
use crate::data::table::{BadRow, Cell, RowSink, TableRow};
use crate::error::Result;
use std::sync::Arc;

/// Passes the cues of a file to `each` as rows, until that returns `false`. `sound` names the recording: it gets the file's content, as that
/// may name it. Returns notes.
pub fn read_cues(
    shown: &str,
    format: CueFormat,
    text: &str,
    settings: &CueSettings,
    sound: &dyn Fn(&CueFile) -> String,
    each: &mut RowSink,
) -> Result<Vec<String>> {
    let file = parse(format, text, shown, &settings.tiers)?;
    let sound = sound(&file);
    let table: Arc<str> = shown.into();
    let [audio, said, speaker, start, end]: [Arc<str>; 5] = ["audio", "text", "speaker", "start", "end"].map(Into::into);
    for problem in &file.problems {
        if !each(Err(BadRow::new(shown, problem.line, problem.reason.clone())))? {
            return Ok(file.notes);
        }
    }
    let cues = merged(&file.cues, settings);
    let mut notes = file.notes;
    if cues.len() < file.cues.len() {
        notes.push(format!("`{shown}`: {} cues were joined to {}", file.cues.len(), cues.len()));
    }
    for cue in cues {
        // With the unit, so that nobody has to guess it.
        let time = |seconds: f64| Cell::Text(format!("{seconds}s"));
        let mut cells = vec![
            (Arc::clone(&audio), Cell::Text(sound.clone())),
            (Arc::clone(&said), Cell::Text(cue.text)),
            (Arc::clone(&start), time(cue.start)),
            (Arc::clone(&end), time(cue.end)),
        ];
        cells.extend(cue.speaker.map(|name| (Arc::clone(&speaker), Cell::Text(name))));
        if !each(Ok(TableRow { table: Arc::clone(&table), line: cue.line, cells }))? {
            break;
        }
    }
    Ok(notes)
}

/// The recording that a file of cues belongs to: the one that it names, or that has its name, also where a language stands between
/// (`talk.en.srt`). `known` says whether there is a recording of that name.
pub fn recording_of(path: &str, file: &CueFile, known: &dyn Fn(&str) -> bool) -> String {
    let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let shorter = stem.rsplit_once('.').map_or(stem, |(shorter, _)| shorter);
    let named = [file.audio.as_deref(), Some(name), Some(stem), Some(shorter)];
    let found = named.into_iter().flatten().find(|name| known(name));
    let name = found.or(file.audio.as_deref()).unwrap_or(stem);
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}
