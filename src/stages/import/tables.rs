//! Iterates over the rows of tables, in order or in a seeded random order.

use super::parquet;
use super::place::Place;
use crate::data::columns::Columns;
use crate::data::ingest::is_audio;
use crate::data::table::{
    BadRow, CueReading, JsonLines, PickedTable, RowOrBad, TableFiles, TableOptions, TableRow, TableSource, read_beside, read_bytes,
    read_kaldi,
};
use crate::error::Result;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::path::Path;

/// Block size in bytes for streaming a large table.
const BLOCK: u64 = 1 << 20;
/// JSON Lines manifests larger than this are streamed in blocks.
const SHORT: u64 = 4 << 20;
/// The same for manifests on this machine, which cost nothing to read.
const SHORT_LOCAL: u64 = 64 << 20;

/// Takes the rows of a table; returns whether it wants more.
type Each<'a> = dyn FnMut(RowOrBad) -> Result<bool> + 'a;

/// How the rows of a table are read.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    /// How cues beside recordings become rows.
    pub(super) cues: CueReading<'a>,
    /// Seed of a random order.
    pub(super) seed: Option<u64>,
    /// Whether the first block of a large manifest is enough.
    pub(super) only_first_block: bool,
}

/// Whether a table is passed on row by row as it is read, because it is large or holds its sound.
pub(super) fn is_streamed(place: &Place, table: &PickedTable) -> bool {
    let short = if place.reader().is_some() { SHORT } else { SHORT_LOCAL };
    let lines = [".jsonl", ".ndjson", ".json"].iter().any(|ending| table.path.ends_with(ending));
    table.source == TableSource::Parquet || table.source == TableSource::Rows && lines && place.size(&table.path) > short
}

/// Parquet files in a seeded random order.
pub(super) fn shuffled<'a>(tables: impl Iterator<Item = &'a PickedTable>, seed: Option<u64>) -> Vec<&'a PickedTable> {
    let mut tables: Vec<&PickedTable> = tables.collect();
    if let Some(seed) = seed {
        tables.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    }
    tables
}

/// The folders that paths in a table may be relative to, the likeliest first: its own, that of the dataset, and those with the sound.
pub(super) fn bases(table: &PickedTable) -> Vec<Vec<String>> {
    let folder = if table.source == TableSource::Beside { "" } else { table.path.rsplit_once('/').map_or("", |(folder, _)| folder) };
    let below = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    vec![vec![folder.to_owned()], vec![String::new()], ["clips", "wavs", "wav", "audio"].map(below).to_vec()]
}

/// Passes the rows of a table to `each` until that returns `false`. Returns how the table was read, for people.
pub(super) fn each_row(
    place: &Place,
    table: &PickedTable,
    columns: &Columns,
    known_file: &dyn Fn(&str) -> bool,
    how: Reading,
    each: &mut Each,
) -> Result<Vec<String>> {
    let shown = format!("{}/{}", place.name(), table.path);
    let in_results = |path: &str| format!("{} {path}", place.name());
    match table.source {
        TableSource::Parquet => {
            let name = in_results(&table.path);
            let mut row = |number: u64, cells| each(Ok(TableRow { table: name.as_str().into(), line: number as usize + 1, cells }));
            let fetch = &mut |from, length| place.part(&table.path, from, length);
            parquet::read(&shown, place.size(&table.path), &|name| columns.is_read(name), how.seed, fetch, &mut row)?;
            Ok(Vec::new())
        }
        TableSource::Rows if is_streamed(place, table) => {
            streamed(place, &table.path, &in_results(&table.path), how, each)?;
            Ok(Vec::new())
        }
        TableSource::Rows => {
            let options = TableOptions { columns, clips: true, known_file };
            let name: std::sync::Arc<str> = in_results(&table.path).into();
            read_bytes(&shown, &place.whole(&table.path)?, &options, &mut |row| {
                each(match row {
                    Ok(row) => Ok(TableRow { table: std::sync::Arc::clone(&name), ..row }),
                    Err(bad) => Err(BadRow { place: bad.place.replacen(&shown, &name, 1), ..bad }),
                })
            })
        }
        TableSource::Lines => read_kaldi(place, &table.path, &mut |row| each(renamed(row, &in_results))),
        TableSource::Beside => {
            let all = place.paths();
            let sounds: Vec<&str> = all.into_iter().filter(|path| is_audio(Path::new(path))).collect();
            read_beside(place, &sounds, how.cues, &mut |row| each(renamed(row, &in_results)))
        }
    }
}

fn renamed(row: RowOrBad, in_results: &dyn Fn(&str) -> String) -> RowOrBad {
    match row {
        Ok(row) => Ok(TableRow { table: in_results(&row.table).into(), ..row }),
        Err(bad) => Err(BadRow { place: in_results(&bad.place), ..bad }),
    }
}

/// Streams the rows of a large JSON Lines manifest. Returns whether `each` wants more.
fn streamed(place: &Place, table: &str, name: &str, how: Reading, each: &mut Each) -> Result<bool> {
    let (size, mut from, mut number) = (place.size(table), 0, 0);
    let mut reader = JsonLines::new(name);
    let mut rest = Vec::new();
    while from < size {
        let length = BLOCK.min(size - from);
        rest.extend(place.part(table, from, length)?);
        from += length;
        let whole = if from == size { rest.len() } else { rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1) };
        let left = rest.split_off(whole);
        let text = String::from_utf8_lossy(&rest);
        for line in text.trim_start_matches('\u{feff}').split('\n') {
            number += 1;
            if line.trim().is_empty() {
                continue;
            }
            for row in reader.rows(number, line) {
                if !each(row)? {
                    return Ok(false);
                }
            }
        }
        // The piece after the last line break is empty, and no line.
        number -= usize::from(text.ends_with('\n'));
        rest = left;
        if how.only_first_block {
            break;
        }
    }
    Ok(true)
}
