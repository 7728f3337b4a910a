//! Rows of tables on their way to clips: read, brought together with their recordings, and compared with each other. `uploads` and `import`
//! share these steps.

use crate::data::columns::{Columns, TableClip};
use crate::data::file_index::{FileIndex, ForeignPrefix};
use crate::data::one_text::{NamedSound, RowVerdict, one_text_each};
use crate::data::split_name::{is_special, split_of};
use crate::data::table::{PickedTable, RowOrBad, TableSource};
use crate::data::time_bounds::UnitVotes;
use crate::error::Result;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A row that is to be a clip.
#[derive(Clone, Debug)]
pub struct ClipItem {
    /// Number of the row among all that were read.
    pub number: usize,
    /// What the row says.
    pub clip: TableClip,
    /// Its file in the index.
    pub file: Option<usize>,
    /// Seconds in one of the units of times without a unit.
    pub unit: f64,
    /// The split of the row, or of its table, as it is written there.
    pub split: Option<String>,
    /// Further fields of the clip's row.
    pub extra: Map<String, Value>,
}

/// A row that is no clip, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftRow {
    /// Table and line.
    pub row: String,
    /// The reason.
    pub reason: String,
}

/// What a row of a table is before its sound is read.
#[derive(Clone, Debug)]
pub enum TableItem {
    /// To be a clip.
    Clip(Box<ClipItem>),
    /// Unusable.
    Bad(LeftRow),
    /// Of a file, named here, that is not there.
    Missing(LeftRow, String),
    /// The same as an earlier row.
    Repeated(LeftRow),
    /// Left out by a setting.
    Filtered(LeftRow),
    /// Of a split that is not asked for.
    OtherSplit(String),
}

/// A part of a recording in milliseconds.
pub type Part = (u64, Option<u64>);

impl ClipItem {
    /// The part of its recording that the row names. A duration alone mostly says how long the recording is.
    pub fn part(&self) -> Option<Part> {
        let bounds = &self.clip.bounds;
        if !bounds.names_part() && bounds.start.is_none() {
            return None;
        }
        let span = bounds.span(self.unit).ok().flatten()?;
        let milliseconds = |seconds: f64| (seconds * 1000.0).round() as u64;
        Some((milliseconds(span.start), span.end.map(milliseconds)))
    }

    /// Whether the row names no part of its recording.
    pub fn is_whole(&self) -> bool {
        !self.clip.bounds.names_part()
    }

    /// The fields `split` (`train`, `validation` or `test`), if the word says more or is no split `split_name`, and further ones of the clip's
    /// row.
    pub fn row_fields(&self) -> Map<String, Value> {
        let mut fields = self.extra.clone();
        if let Some(word) = &self.split {
            let split = split_of(word);
            fields.extend(split.map(|split| ("split".to_owned(), split.into())));
            if split.is_none() || is_special(word) {
                fields.insert("split_name".to_owned(), word.as_str().into());
            }
        }
        fields
    }
}

/// Gives rows whose word is no split that word, where others of the data have a split: `dataset` leaves them out and lists them. Where none
/// has one, the column is not about splits.
pub fn keep_unknown_splits<'a>(rows: impl Iterator<Item = &'a mut Map<String, Value>>) {
    let rows: Vec<&mut Map<String, Value>> = rows.collect();
    if rows.iter().any(|row| row.contains_key("split")) {
        for row in rows {
            if let (None, Some(word)) = (row.get("split"), row.get("split_name").cloned()) {
                row.insert("split".to_owned(), word);
            }
        }
    }
}

impl TableItem {
    /// Reads a row as far as that goes without its sound. Names of columns without a meaning are added to `ignored`.
    pub fn read(row: RowOrBad, columns: &Columns, table: &PickedTable, number: usize, ignored: &mut BTreeSet<String>) -> Self {
        let row = match row {
            Ok(row) => row,
            Err(bad) => return Self::Bad(LeftRow { row: bad.place, reason: bad.reason }),
        };
        let place = if table.source == TableSource::Parquet { format!("{} row {}", row.table, row.line) } else { row.place() };
        for name in row.columns().filter(|name| !columns.is_read(name)) {
            if !ignored.contains(name) {
                ignored.insert(name.to_owned());
            }
        }
        match TableClip::read(&row, columns) {
            Ok(clip) => {
                let of_row = clip.split.clone().filter(|word| split_of(word).is_some());
                let split = of_row.or_else(|| table.split.clone()).or_else(|| clip.split.clone());
                Self::Clip(Box::new(ClipItem {
                    number,
                    clip: TableClip { place, ..clip },
                    file: None,
                    unit: 1.0,
                    split,
                    extra: Map::new(),
                }))
            }
            Err(reason) => Self::Bad(LeftRow { row: place, reason }),
        }
    }

    /// The row, if it is to be a clip.
    pub fn clip(&self) -> Option<&ClipItem> {
        match self {
            Self::Clip(item) => Some(item),
            _ => None,
        }
    }

    /// Finds the file of the row. `has` says whether there is a file of exactly this path that the index does not know.
    pub fn find(&mut self, index: &FileIndex, bases: &[Vec<String>], prefix: Option<&ForeignPrefix>, has: &dyn Fn(&str) -> bool) {
        let Self::Clip(item) = self else { return };
        if item.clip.bytes.is_some() {
            return;
        }
        let named = item.clip.path.clone().unwrap_or_default();
        match index.find(&named, bases, prefix) {
            Ok(file) => item.file = Some(file),
            Err(_) if has(&named) => {}
            Err(reason) => *self = Self::Missing(LeftRow { row: item.clip.place.clone(), reason }, named),
        }
    }
}

/// How a whole table was understood.
#[derive(Clone, Debug, Default)]
pub struct TableSense {
    /// The beginning of its paths that was left out.
    pub prefix: Option<ForeignPrefix>,
    /// Whether its times are milliseconds.
    pub milliseconds: bool,
}

/// Finds the files of the rows of one table, and the unit of its times. `length` tells the seconds of a row's file.
pub fn resolve(
    items: &mut [TableItem],
    index: &FileIndex,
    bases: &[Vec<String>],
    has: &dyn Fn(&str) -> bool,
    length: &mut dyn FnMut(&ClipItem) -> Result<Option<f64>>,
) -> Result<TableSense> {
    let paths: Vec<&str> = items.iter().filter_map(|item| item.clip()?.clip.path.as_deref()).collect();
    let prefix = index.foreign_prefix(paths.iter().copied(), bases);
    for item in &mut *items {
        item.find(index, bases, prefix.as_ref(), has);
    }
    let milliseconds = unit_votes(items, length)?.are_milliseconds();
    if milliseconds {
        for item in items {
            if let TableItem::Clip(item) = item {
                item.unit = 0.001;
            }
        }
    }
    Ok(TableSense { prefix, milliseconds })
}

/// Number of files of a table that are read to learn the unit of its times.
const UNIT_FILES: usize = 5;

/// What the rows of one table say about the unit of their times. `length` tells the seconds of a row's file.
pub fn unit_votes(items: &[TableItem], length: &mut dyn FnMut(&ClipItem) -> Result<Option<f64>>) -> Result<UnitVotes> {
    let mut votes = UnitVotes::default();
    let mut open: BTreeMap<usize, Vec<(f64, &ClipItem)>> = BTreeMap::new();
    let mut rows = 0;
    for item in items.iter().filter_map(TableItem::clip).filter(|item| !item.clip.bounds.is_empty()) {
        votes.add(&item.clip.bounds);
        if let (Some(file), Some(last)) = (item.file, item.clip.bounds.maybe_milliseconds()) {
            open.entry(file).or_default().push((last, item));
            rows += 1;
        }
    }
    if votes.outnumbered_by(rows) {
        // Of these rows only some are asked, so the others do not count.
        votes = UnitVotes::default();
        let step = open.len().div_ceil(UNIT_FILES).max(1);
        for of_file in open.into_values().step_by(step) {
            let Some((_, first)) = of_file.first() else { continue };
            if let Some(length) = length(first)? {
                of_file.iter().for_each(|(last, _)| votes.add_length(*last, length));
            }
        }
    }
    Ok(votes)
}

/// Finds rows that repeat or contradict each other.
pub fn compare(items: &mut [TableItem]) {
    let rows: Vec<(usize, &ClipItem)> =
        items.iter().enumerate().filter_map(|(at, item)| item.clip().filter(|row| row.file.is_some()).map(|row| (at, row))).collect();
    let named = rows.iter().map(|(_, row)| NamedSound {
        file: row.file.unwrap_or_default(),
        part: row.part(),
        text: &row.clip.text,
        place: &row.clip.place,
    });
    let verdicts = one_text_each(&named.collect::<Vec<_>>());
    let changed: Vec<(usize, TableItem)> = rows
        .iter()
        .zip(verdicts)
        .filter_map(|((at, row), verdict)| {
            let left = |reason| LeftRow { row: row.clip.place.clone(), reason };
            match verdict {
                RowVerdict::Used => None,
                RowVerdict::Repeated(reason) => Some((*at, TableItem::Repeated(left(reason)))),
                RowVerdict::Contradicted(reason) => Some((*at, TableItem::Bad(left(reason)))),
            }
        })
        .collect();
    for (at, item) in changed {
        if let Some(slot) = items.get_mut(at) {
            *slot = item;
        }
    }
}

/// Puts the rows of one recording behind each other, where the first of them is.
pub fn gather_parts(items: &mut Vec<TableItem>) {
    let mut first: BTreeMap<usize, usize> = BTreeMap::new();
    for (at, item) in items.iter().enumerate() {
        if let Some(file) = item.clip().and_then(|item| item.file) {
            first.entry(file).or_insert(at);
        }
    }
    let place = |at: usize, item: &TableItem| item.clip().and_then(|item| first.get(&item.file?).copied()).unwrap_or(at);
    let mut keyed: Vec<(usize, TableItem)> =
        std::mem::take(items).into_iter().enumerate().map(|(at, item)| (place(at, &item), item)).collect();
    keyed.sort_by_key(|(at, _)| *at);
    items.extend(keyed.into_iter().map(|(_, item)| item));
}
