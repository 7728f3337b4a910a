//! Reader of user-supplied tables: CSV, TSV or JSONL. Rows keep their line numbers, so every error names its line.

use crate::error::{Error, Result, ResultExt};
use serde_json::{Map, Value};
use std::fs;
use std::path::Path;

/// A row with its cells in column order.
#[derive(Clone, Debug)]
pub struct TableRow {
    /// Name of the table as the user wrote it.
    pub table: String,
    /// Line number in the file, starting at 1.
    pub line: usize,
    /// Column name and content of each cell.
    cells: Vec<(String, String)>,
}

impl TableRow {
    /// The trimmed cell of a column; `None` if it is empty or missing.
    pub fn get(&self, column: &str) -> Option<&str> {
        self.cells.iter().find(|(name, _)| name == column).map(|(_, cell)| cell.trim()).filter(|cell| !cell.is_empty())
    }

    /// The names of the columns.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.cells.iter().map(|(name, _)| name.as_str())
    }

    /// The first accepted column with a non-empty cell, and the cell. It is an error if there is none.
    pub fn required(&self, accepted: &[&'static str]) -> Result<(&'static str, &str)> {
        let place = format!("{}:{}", self.table, self.line);
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

/// Reads a table. The extension selects the format: `.csv` (`,` or `;`), `.tsv`, `.jsonl` or `.ndjson`. `shown` is its name in messages.
pub fn read(path: &Path, shown: &str) -> Result<Vec<TableRow>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read `{shown}`"))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::new(format!("{shown}:{line}: invalid UTF-8")).hint("save the file as UTF-8")
    })?;
    let text = text.trim_start_matches('\u{feff}');
    match path.extension().and_then(|it| it.to_str()).unwrap_or_default().to_lowercase().as_str() {
        "csv" => separated(text, if first_line(text).contains(';') && !first_line(text).contains(',') { b';' } else { b',' }, shown),
        "tsv" => separated(text, b'\t', shown),
        "jsonl" | "ndjson" => objects(text, shown),
        other => Err(Error::new(format!("`{shown}`: unsupported table format `.{other}`"))
            .hint("use a .csv or .tsv file with a header, or a .jsonl file with keys")),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Parses CSV or TSV.
fn separated(text: &str, delimiter: u8, shown: &str) -> Result<Vec<TableRow>> {
    // TSV has no quoting: a quotation mark is part of the text.
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).quoting(delimiter != b'\t').flexible(true).from_reader(text.as_bytes());
    let place = |line: u64| format!("{shown}:{line}");
    let columns: Vec<String> = reader
        .headers()
        .map_err(|error| Error::new(format!("{}: {error}", place(1))))?
        .iter()
        .map(|name| name.trim().to_lowercase())
        .collect();
    if let Some(name) = columns.iter().enumerate().find(|(index, name)| columns[..*index].contains(name)).map(|(_, name)| name) {
        return Err(Error::new(format!("{}: duplicate column `{name}`", place(1))).hint("give every column a unique name"));
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| {
            let line = error.position().map_or(1, csv::Position::line);
            Error::new(format!("{}: {error}", place(line))).hint("correct the row")
        })?;
        let line = record.position().map_or(1, csv::Position::line);
        if record.iter().all(|cell| cell.trim().is_empty()) {
            continue;
        }
        if record.len() != columns.len() {
            return Err(Error::new(format!("{}: the row has {} columns, the header has {}", place(line), record.len(), columns.len()))
                .hint("put texts that contain the separator in double quotes, or correct the row"));
        }
        if record.iter().any(|cell| cell.contains('\n')) {
            return Err(Error::new(format!("{}: a cell spans several lines", place(line)))
                .hint("probably an unclosed double quote: close it, or write it twice if it is part of the text"));
        }
        let cells = columns.iter().cloned().zip(record.iter().map(str::to_owned)).collect();
        rows.push(TableRow { table: shown.to_owned(), line: line as usize, cells });
    }
    Ok(rows)
}

/// Parses JSONL.
fn objects(text: &str, shown: &str) -> Result<Vec<TableRow>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let object: Map<String, Value> = serde_json::from_str(line).map_err(|error| {
                Error::new(format!("{shown}:{}: {error}", index + 1)).hint("each line must be one JSON object; correct or remove this one")
            })?;
            let mut cells = Vec::new();
            for (name, value) in object {
                cells.push(match value {
                    Value::String(text) => (name, text),
                    Value::Null => (name, String::new()),
                    other => (name, other.to_string()),
                });
            }
            Ok(TableRow { table: shown.to_owned(), line: index + 1, cells })
        })
        .collect()
}
