//! What `import` and `uploads` would read in a folder, and how: everything but the sound.

use super::place::Place;
use super::tables::{self, Reading, each_row};
use crate::data::clip_items::{ClipItem, LeftRow, TableItem, compare, resolve};
use crate::data::columns::Columns;
use crate::data::cues::merge::CueSettings;
use crate::data::file_index::FileIndex;
use crate::data::ingest;
use crate::data::split_name::split_of;
use crate::data::table::{CueReading, PickedTable, TableFiles, TableWish, pick_tables};
use crate::error::Result;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use voxtral::audio::formats::FORMATS;

/// What a folder holds, as it would be read.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FolderPreview {
    /// The folder as it was named.
    pub folder: String,
    /// Number of recordings by the ending of their names.
    pub recordings: BTreeMap<String, usize>,
    /// Endings among them that only the program ffmpeg reads.
    pub need_ffmpeg: Vec<String>,
    /// The tables that were chosen.
    pub tables: Vec<PreviewTable>,
    /// Why no table can be read, if so, and what to do.
    pub problem: Option<String>,
    /// Number of rows that name a recording and a text.
    pub clips: usize,
    /// Rows that cannot be used, with the reasons.
    pub bad_rows: Vec<LeftRow>,
    /// Rows whose recording is not there.
    pub missing: Vec<LeftRow>,
    /// Rows that say the same as an earlier one.
    pub repeated: Vec<LeftRow>,
    /// Recordings that no row names.
    pub without_text: Vec<String>,
    /// Number of clips by split; `none` for those without one.
    pub splits: BTreeMap<String, usize>,
    /// Number of clips by language; `none` for those without one.
    pub languages: BTreeMap<String, usize>,
    /// Columns that are not used.
    pub ignored_columns: BTreeSet<String>,
    /// What was decided or guessed, in sentences.
    pub notes: Vec<String>,
}

/// A table, as it would be read.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PreviewTable {
    /// Its path in the folder; empty if the texts are beside the recordings.
    pub path: String,
    /// How it is read.
    pub how: &'static str,
    /// The split that its name or the dataset's card gives.
    pub split: Option<String>,
    /// Number of rows.
    pub rows: usize,
    /// Column names by what they are for.
    pub columns: BTreeMap<String, String>,
}

/// Reads the tables of a folder, without any sound. `shown` is the folder as it was named.
///
/// # Errors
/// If the folder cannot be read. Tables that cannot be chosen or read are a [`problem`](FolderPreview::problem).
pub fn preview(folder: &Path, shown: &str) -> Result<FolderPreview> {
    let place = Place::folder(folder, shown)?;
    let sounds: Vec<String> = place.paths().into_iter().filter(|path| ingest::is_audio(Path::new(path))).map(str::to_owned).collect();
    let index = FileIndex::new(sounds.iter().cloned(), folder);
    let mut found = FolderPreview { folder: shown.to_owned(), ..Default::default() };
    for sound in &sounds {
        let ending = Path::new(sound).extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
        *found.recordings.entry(ending).or_default() += 1;
    }
    let foreign = |ending: &&String| FORMATS.iter().any(|one| one.built_in.is_empty() && one.extensions.contains(&ending.as_str()));
    found.need_ffmpeg = found.recordings.keys().filter(foreign).cloned().collect();
    let wish = TableWish::default();
    let (tables, notes) = match pick_tables(&place, wish, &|name| index.knows(name)) {
        Ok(picked) => picked,
        Err(error) => {
            found.problem = Some(said(&error));
            return Ok(found);
        }
    };
    found.notes = notes;
    let mut items: Vec<TableItem> = Vec::new();
    for table in &tables {
        let first = items.len();
        let read = rows(&place, table, &index, &mut items, &mut found.ignored_columns);
        let mut shown =
            PreviewTable { path: table.path.clone(), how: table.source.describe(), split: table.split.clone(), ..Default::default() };
        match read {
            Ok((notes, columns)) => {
                found.notes.extend(notes);
                shown.columns = columns;
            }
            Err(error) => found.problem = found.problem.or_else(|| Some(said(&error))),
        }
        shown.rows = items.len() - first;
        found.tables.push(shown);
        let Some(of_table) = items.get_mut(first..) else { continue };
        let bases = tables::bases(table);
        let mut length = |item: &ClipItem| {
            let path = item.file.map(|file| index.path(file));
            Ok(path.and_then(|path| place.on_disk(path)).and_then(ingest::duration))
        };
        let sense = resolve(of_table, &index, &bases, &|path| place.contains(path), &mut length)?;
        if let Some(prefix) = sense.prefix {
            found.notes.push(format!("`{}` is left out of the paths in `{}`", prefix.shown(), table.path));
        }
        if sense.milliseconds {
            found.notes.push(format!("the times in `{}` are read as milliseconds", table.path));
        }
    }
    compare(&mut items);
    let named: BTreeSet<usize> = items.iter().filter_map(|item| item.clip()?.file).collect();
    found.without_text = (0..sounds.len()).filter(|file| !named.contains(file)).map(|file| index.path(file).to_owned()).collect();
    for item in items {
        match item {
            TableItem::Bad(left) => found.bad_rows.push(left),
            TableItem::Missing(left, _) => found.missing.push(left),
            TableItem::Repeated(left) => found.repeated.push(left),
            // Without settings, no row is left out by one.
            TableItem::Filtered(_) | TableItem::OtherSplit(_) => {}
            TableItem::Clip(item) => {
                found.clips += 1;
                let none = || "none".to_owned();
                let split = item.split.as_deref().map_or_else(none, |word| split_of(word).map_or_else(|| word.to_owned(), str::to_owned));
                *found.splits.entry(split).or_default() += 1;
                *found.languages.entry(item.clip.language.clone().unwrap_or_else(none)).or_default() += 1;
            }
        }
    }
    Ok(found)
}

fn said(error: &crate::error::Error) -> String {
    match &error.hint {
        Some(hint) => format!("{}: {hint}", error.message),
        None => error.message.clone(),
    }
}

/// Notes, and column names by what they are for.
type ReadTable = (Vec<String>, BTreeMap<String, String>);

/// Reads the rows of a table.
fn rows(
    place: &Place,
    table: &PickedTable,
    index: &FileIndex,
    items: &mut Vec<TableItem>,
    ignored: &mut BTreeSet<String>,
) -> Result<ReadTable> {
    let (columns, settings) = (Columns::default(), CueSettings::default());
    let mut used = BTreeMap::new();
    let reading = Reading { cues: CueReading { settings: &settings, longest: f64::INFINITY }, seed: None, only_first_block: false };
    let notes = each_row(place, table, &columns, &|name| index.knows(name), reading, &mut |row| {
        if let Ok(row) = &row {
            for name in row.columns() {
                if let Some((role, ..)) = columns.role(name) {
                    used.entry(format!("{role:?}").to_lowercase()).or_insert_with(|| name.to_owned());
                }
            }
        }
        items.push(TableItem::read(row, &columns, table, items.len() + 1, ignored));
        Ok(true)
    })?;
    Ok((notes, used))
}
