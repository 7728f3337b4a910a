//! Files of timed text as tables: each cue is a row with its part of the recording.

use super::{BadRow, Cell, RowSink, TableRow};
use crate::data::cues;
use crate::data::cues::CueFormat;
use crate::data::cues::merge::{CueSettings, merged};
use crate::error::Result;
use std::path::Path;
use std::sync::Arc;

/// How cues become rows.
#[derive(Clone, Copy)]
pub struct CueReading<'a> {
    /// Settings of the user.
    pub settings: &'a CueSettings,
    /// Seconds of the longest clip that joined cues may make.
    pub longest: f64,
}

/// The format of timed text that a file has, by its ending or by its content.
pub fn cue_format(path: &str, text: &str) -> Option<CueFormat> {
    CueFormat::of_extension(Path::new(path)).or_else(|| CueFormat::of_content(text))
}

/// Passes on the cues of a file as rows of the recording `sound`, or, if that is empty, of the one that
/// the file names or that has its name. Returns what people should know.
pub fn read_cues(shown: &str, text: &str, format: CueFormat, sound: &str, how: CueReading, each: &mut RowSink) -> Result<Vec<String>> {
    let file = cues::parse(format, text, shown, &how.settings.tiers)?;
    let table: Arc<str> = shown.into();
    let own = Path::new(shown).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
    let sound = if sound.is_empty() { file.audio.clone().unwrap_or(own) } else { sound.to_owned() };
    let names: [Arc<str>; 5] = ["audio", "text", "start", "end", "speaker"].map(Into::into);
    for problem in file.problems {
        if !each(Err(BadRow::new(shown, problem.line, problem.reason)))? {
            return Ok(Vec::new());
        }
    }
    for cue in merged(&file.cues, &file.gaps, how.settings, how.longest) {
        let cells = [Some(sound.clone()), Some(cue.text), Some(format!("{}s", cue.start)), Some(format!("{}s", cue.end)), cue.speaker];
        let cells = names.iter().zip(cells).filter_map(|(name, cell)| Some((Arc::clone(name), Cell::Text(cell?)))).collect();
        if !each(Ok(TableRow { table: Arc::clone(&table), line: cue.line, cells }))? {
            break;
        }
    }
    Ok(file.notes.into_iter().map(|note| format!("`{shown}`: {note}")).collect())
}
