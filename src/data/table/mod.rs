//! Reader of user-supplied tables: CSV and its relatives, JSON and JSON Lines, spreadsheets, and the text files of usual speech datasets.
//!
//! Rows keep their line numbers, so every message names its line. A row that cannot be read is passed on as a [`BadRow`], and the rows
//! after it are read. Only a table that cannot be read at all is an error.

mod encoding;
mod files;
mod header;
mod json;
mod label_studio;
mod select;
mod separated;
mod spreadsheet;
mod timed;
mod words;

pub use encoding::{DecodedText, decode};
pub use files::{LocalFiles, TableFiles, is_archive};
pub use json::JsonLines;
pub use select::{PickedTable, TableSource, TableWish, has_tabbed_cells, is_split, pick_tables};
pub use timed::{CueReading, cue_format, read_cues};
pub use words::{read_beside, read_kaldi, text_beside};

use crate::data::columns::Columns;
use crate::error::{Error, Result, ResultExt};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// The content of a cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// A text. Cells of tables that know no types are texts.
    Text(String),
    /// A JSON value that is not a text.
    Json(Value),
    /// Sound within the table, its file name, or both.
    Sound {
        /// An audio file.
        bytes: Option<Vec<u8>>,
        /// Its name.
        path: Option<String>,
    },
}

/// A row with its cells in column order.
#[derive(Clone, Debug)]
pub struct TableRow {
    /// Name of the table as the user wrote it.
    pub table: Arc<str>,
    /// Line number in the file, starting at 1.
    pub line: usize,
    /// Column name and content of each cell.
    pub cells: Vec<(Arc<str>, Cell)>,
}

/// A row that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Table and line.
    pub place: String,
    /// The reason.
    pub reason: String,
}

/// A row, or what is wrong with it.
pub type RowOrBad = Result<TableRow, BadRow>;

/// Takes the rows of a table; returns whether it wants more.
pub type RowSink<'a> = dyn FnMut(RowOrBad) -> Result<bool> + 'a;

/// How a table is read.
pub struct TableOptions<'a> {
    /// Column names of the user.
    pub columns: &'a Columns,
    /// Whether the rows are clips: their file and text columns are looked for, and a table without a header is recognized by its content.
    pub clips: bool,
    /// Whether a text is the name of a recording that is there.
    pub known_file: &'a dyn Fn(&str) -> bool,
}

impl TableRow {
    /// The trimmed text of a column; `None` if it is empty or missing. Values that are no texts are given as JSON.
    pub fn get(&self, column: &str) -> Option<String> {
        let (_, cell) = self.cells.iter().find(|(name, _)| **name == *column)?;
        let text = cell.text();
        (!text.is_empty()).then_some(text)
    }

    /// The names of the columns.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.cells.iter().map(|(name, _)| &**name)
    }

    /// Table and line, for messages.
    pub fn place(&self) -> String {
        format!("{}:{}", self.table, self.line)
    }

    /// The first accepted column with a non-empty cell, and the cell. It is an error if there is none.
    pub fn required(&self, accepted: &[&'static str]) -> Result<(&'static str, String)> {
        let place = self.place();
        if let Some(found) = accepted.iter().find_map(|column| Some((*column, self.get(column)?))) {
            return Ok(found);
        }
        if let Some(empty) = accepted.iter().find(|column| self.columns().any(|name| name == **column)) {
            return Err(Error::new(format!("{place}: `{empty}` is empty")).hint("fill it in or remove the row"));
        }
        let columns = self.columns().collect::<Vec<_>>().join(", ");
        Err(Error::new(format!("{place}: `{}` is missing; the row has: {columns}", accepted[0]))
            .hint(format!("name the column {}", accepted.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or "))))
    }
}

impl Cell {
    /// The cell as a trimmed text; empty for `null` and for sound without a name.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.trim().to_owned(),
            Self::Json(value) => value.to_string(),
            Self::Sound { path, .. } => path.clone().unwrap_or_default(),
        }
    }

    /// The cell of a JSON value; `null` is an empty text.
    pub fn of_json(value: Value) -> Self {
        match value {
            Value::String(text) => Self::Text(text),
            Value::Null => Self::Text(String::new()),
            other => Self::Json(other),
        }
    }
}

impl BadRow {
    /// A row of a table that cannot be used.
    pub fn new(table: &str, line: usize, reason: impl Into<String>) -> Self {
        Self { place: format!("{table}:{line}"), reason: reason.into() }
    }
}

/// File endings of tables that [`read_bytes`] takes.
pub const TABLE_ENDINGS: &[&str] = &["csv", "tsv", "tab", "psv", "jsonl", "ndjson", "json", "xlsx", "xlsm", "ods"];

/// The file endings of tables, for messages.
pub fn table_endings() -> String {
    let shown: Vec<String> = ["csv", "tsv", "jsonl", "json", "xlsx", "ods", "txt"].iter().map(|ending| format!(".{ending}")).collect();
    shown.join(", ")
}

/// The lowercase file ending of a path; empty if it has none.
pub fn ending(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').map_or_else(String::new, |(_, ending)| ending.to_lowercase())
}

/// Reads a table and passes its rows to `each` until that returns `false`. The ending of its name `shown` selects the format, and content
/// decides where the ending says little. Returns what people should know about how it was read.
pub fn read_bytes(shown: &str, bytes: &[u8], options: &TableOptions, each: &mut RowSink) -> Result<Vec<String>> {
    let ending = ending(shown);
    match ending.as_str() {
        "xlsx" | "xlsm" | "ods" => return spreadsheet::read(shown, bytes, options, each),
        "parquet" => {
            return Err(Error::new(format!("`{shown}` is a Parquet file, which holds its own sound"))
                .hint("read its folder with a stage of the kind `import`"));
        }
        "srt" | "vtt" | "textgrid" | "eaf" => {
            return Err(Error::new(format!("`{shown}` is a file of cues, not a table"))
                .hint("put it beside its recording, or name it in `transcripts` of an `uploads` stage"));
        }
        _ => {}
    }
    if bytes.starts_with(b"\xd0\xcf\x11\xe0") {
        return Err(Error::new(format!("`{shown}` is a spreadsheet of an old form")).hint("save it as .xlsx, .ods or .csv"));
    }
    if bytes.starts_with(b"PK\x03\x04") {
        return spreadsheet::read(shown, bytes, options, each);
    }
    let text = decode(bytes);
    let mut notes: Vec<String> = text.note.iter().map(|note| format!("`{shown}` {note}")).collect();
    let starts = text.text.trim_start().chars().next();
    match ending.as_str() {
        "jsonl" | "ndjson" | "json" => json::read(shown, &text, &ending, each)?,
        "csv" | "tsv" | "tab" | "psv" | "txt" | "list" | "lst" | "tsb" | "" if !(options.clips && matches!(starts, Some('{'))) => {
            notes.extend(separated::read(shown, &text, options, each)?);
        }
        "txt" | "list" | "lst" | "" => json::read(shown, &text, "jsonl", each)?,
        "csv" | "tsv" | "tab" | "psv" => notes.extend(separated::read(shown, &text, options, each)?),
        other => {
            return Err(Error::new(format!("`{shown}`: unsupported table format `.{other}`"))
                .hint(format!("tables are {}; save it as one of these", table_endings())));
        }
    }
    Ok(notes)
}

/// Reads a table whole. `shown` is its name in messages; the first bad row is an error.
pub fn read(path: &Path, shown: &str) -> Result<Vec<TableRow>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read `{shown}`"))?;
    let options = TableOptions { columns: &Columns::default(), clips: false, known_file: &|_| false };
    let mut rows = Vec::new();
    read_bytes(shown, &bytes, &options, &mut |row| {
        rows.push(row.map_err(|bad| Error::new(format!("{}: {}", bad.place, bad.reason)).hint("correct or remove the row"))?);
        Ok(true)
    })?;
    Ok(rows)
}
