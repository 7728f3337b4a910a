//! Spreadsheets: the first sheet of an Excel or OpenDocument file that has the columns.

use super::header::Header;
use super::{BadRow, Cell, RowSink, TableOptions, TableRow};
use crate::data::ingest::rounded;
use crate::error::{Error, Result};
use calamine::{Data, Ods, Reader, Xlsx};
use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;
use zip::ZipArchive;

/// Rows that are looked at for the columns.
const SAMPLE_ROWS: usize = 100;

/// Largest content of one file inside a spreadsheet, unpacked.
const LARGEST: u64 = 512 << 20;
/// Columns after this one are not looked at.
const COLUMNS: u32 = 512;

/// The filled rows of a sheet with their line numbers. Memory is that of the cells there are, whatever size the sheet claims.
type Rows = Vec<(usize, Vec<Data>)>;

/// A workbook of either kind.
enum Book<'a> {
    Excel(Box<Xlsx<Cursor<&'a [u8]>>>),
    OpenDocument(Box<Ods<Cursor<&'a [u8]>>>),
}

impl<'a> Book<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, String> {
        let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| error.to_string())?;
        for index in 0..archive.len() {
            let file = archive.by_index(index).map_err(|error| error.to_string())?;
            if file.size() > LARGEST {
                return Err(format!("it has {} MiB of content, at most {} are read", file.size() >> 20, LARGEST >> 20));
            }
        }
        if archive.index_for_name("xl/workbook.xml").is_some() {
            return Xlsx::new(Cursor::new(bytes)).map(|book| Self::Excel(Box::new(book))).map_err(|error| error.to_string());
        }
        Ods::new(Cursor::new(bytes)).map(|book| Self::OpenDocument(Box::new(book))).map_err(|error| error.to_string())
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::Excel(book) => book.sheet_names(),
            Self::OpenDocument(book) => book.sheet_names(),
        }
    }

    fn rows(&mut self, name: &str) -> Result<Rows, String> {
        let mut rows: BTreeMap<u32, Vec<Data>> = BTreeMap::new();
        let mut add = |row: u32, column: u32, cell: Data| {
            if column < COLUMNS && cell != Data::Empty {
                let cells = rows.entry(row).or_default();
                if cells.len() <= column as usize {
                    cells.resize(column as usize + 1, Data::Empty);
                }
                if let Some(slot) = cells.get_mut(column as usize) {
                    *slot = cell;
                }
            }
        };
        match self {
            Self::Excel(book) => {
                let mut cells = book.worksheet_cells_reader(name).map_err(|error| error.to_string())?;
                while let Some(cell) = cells.next_cell().map_err(|error| error.to_string())? {
                    let (row, column) = cell.get_position();
                    add(row, column, cell.get_value().clone().into());
                }
            }
            Self::OpenDocument(book) => {
                let range = book.worksheet_range(name).map_err(|error| error.to_string())?;
                let (top, left) = range.start().unwrap_or_default();
                for (row, column, cell) in range.used_cells() {
                    add(top + row as u32, left + column as u32, cell.clone());
                }
            }
        }
        Ok(rows.into_iter().map(|(row, cells)| (row as usize + 1, cells)).collect())
    }
}

/// Reads a table; see [`super::read_bytes`].
pub(super) fn read(shown: &str, bytes: &[u8], options: &TableOptions, each: &mut RowSink) -> Result<Vec<String>> {
    let damaged = |why: String| {
        Error::new(format!("`{shown}` cannot be read as a spreadsheet: {why}"))
            .hint("save it again as .xlsx, .ods or .csv, without a password")
    };
    let mut book = Book::open(bytes).map_err(damaged)?;
    let mut first = None;
    let mut notes = Vec::new();
    let sheets = book.names();
    for name in &sheets {
        let rows = book.rows(name).map_err(damaged)?;
        match find(&rows, options) {
            Ok(Some((header, skipped))) => {
                if sheets.len() > 1 {
                    notes.push(format!("`{shown}`: the sheet `{name}` was read"));
                }
                pass(shown, &rows[skipped..], &header, each)?;
                notes.extend(header.note.map(|note| format!("`{shown}` {note}")));
                return Ok(notes);
            }
            Ok(None) => {}
            Err(error) => first = first.or(Some(error)),
        }
    }
    match first {
        Some(error) => {
            let mut placed = Error::new(format!("{shown}:1: {}", error.message));
            placed.hint = error.hint;
            Err(placed)
        }
        None => Ok(notes),
    }
}

/// The header, and the rows before it, which a title may take.
fn find(rows: &Rows, options: &TableOptions) -> Result<Option<(Header, usize)>> {
    let texts: Vec<Vec<String>> = rows.iter().take(SAMPLE_ROWS).map(|(_, row)| row.iter().map(text).collect()).collect();
    let width = texts.iter().map(Vec::len).max().unwrap_or(0);
    let even = |mut row: Vec<String>| {
        row.resize(width, String::new());
        row
    };
    let texts: Vec<Vec<String>> = texts.into_iter().map(even).collect();
    let least = usize::from(options.clips);
    let filled = |row: &[String]| row.iter().filter(|cell| !cell.trim().is_empty()).count() > least;
    let mut first = None;
    for (skipped, _) in texts.iter().enumerate().filter(|(_, row)| filled(row)).take(5) {
        let below: Vec<&[String]> = texts.iter().skip(skipped).map(Vec::as_slice).filter(|row| filled(row)).collect();
        match Header::find(&below, options) {
            Ok(Some(header)) => return Ok(Some((header, skipped))),
            Ok(None) => {}
            Err(error) => first = first.or(Some(error)),
        }
    }
    first.map_or(Ok(None), Err)
}

/// Passes on the rows of a sheet.
fn pass(shown: &str, rows: &[(usize, Vec<Data>)], header: &Header, each: &mut RowSink) -> Result<()> {
    let names: Vec<Arc<str>> = header.names.iter().map(|name| name.as_str().into()).collect();
    for (line, row) in rows.iter().skip(usize::from(header.is_row)) {
        if row.iter().all(|cell| text(cell).trim().is_empty() && !matches!(cell, Data::Error(_))) {
            continue;
        }
        let broken = row.iter().zip(&names).find_map(|(cell, name)| match cell {
            Data::Error(error) if !name.starts_with("column ") => Some(format!("`{name}` has the error {error}")),
            _ => None,
        });
        let row = match broken {
            Some(reason) => Err(BadRow::new(shown, *line, reason)),
            None => {
                // Rows end with their last filled cell.
                let cells = row.iter().map(text).chain(std::iter::repeat(String::new()));
                let named = names.iter().zip(cells).filter(|(name, cell)| !name.starts_with("column ") || !cell.trim().is_empty());
                let cells = named.map(|(name, cell)| (Arc::clone(name), Cell::Text(cell))).collect();
                Ok(TableRow { table: shown.into(), line: *line, cells })
            }
        };
        if !each(row)? {
            break;
        }
    }
    Ok(())
}

/// A cell as it is shown.
fn text(cell: &Data) -> String {
    match cell {
        Data::Empty | Data::Error(_) => String::new(),
        Data::String(text) => text.clone(),
        Data::Bool(truth) => truth.to_string(),
        // A time of day: Excel shows a part of a day as hours and minutes.
        Data::DateTime(time) if time.as_f64().abs() < 10.0 => {
            let seconds = rounded(time.as_f64() * 86_400.0);
            format!("{:02}:{:02}:{:06.3}", (seconds / 3600.0).floor(), (seconds / 60.0).floor() % 60.0, seconds % 60.0)
        }
        other => other.to_string(),
    }
}
