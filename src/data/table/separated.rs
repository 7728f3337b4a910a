//! Tables of separated values: the separator, the quoting and the header are found in the content, as every program writes them differently.
//!
//! Quotes in CSV are those of RFC 4180, and a cell may have line breaks. With tabs and `|` a quotation mark is mostly part of the text, but
//! spreadsheets quote there too: that is decided for the whole file. Quotes that make no sense stay in the text; nothing is lost.

use super::header::Header;
use super::{BadRow, Cell, DecodedText, RowSink, TableOptions, TableRow, ending};
use crate::data::ingest::is_audio;
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Separators that are tried.
const SEPARATORS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// Bytes at the beginning of a table that decide the separator and the header.
const SAMPLE: usize = 64 << 10;
/// Rows at the beginning of a table that decide the separator and the header.
const SAMPLE_ROWS: usize = 100;
/// Lines that one cell may span; more is an unclosed quote.
const CELL_LINES: usize = 50;

/// How quotation marks are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quoting {
    /// As in CSV: a quoted cell may have separators and line breaks.
    Csv,
    /// Lines are rows, and cells that are quoted whole are unquoted.
    Cells,
    /// A quotation mark is part of the text.
    None,
}

/// A record with the line it begins on.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    line: usize,
    cells: Vec<String>,
    /// Number of lines.
    lines: usize,
    /// Why it is unusable.
    wrong: Option<&'static str>,
}

const UNCLOSED: &str = "probably an unclosed double quote: close it, or write it twice if it is part of the text";
const LEFT_OVER: &str = "it is the rest of the row above, whose double quote is not closed";

/// The records of a table.
struct Records<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    separator: u8,
    quoting: Quoting,
    /// Whether a text is a file name, which no second line of a cell begins with.
    is_file: &'a dyn Fn(&str) -> bool,
    /// Number of cells in the first row, without empty ones at its end.
    width: usize,
    /// What an unclosed row may have left on the lines after it.
    left_over: LeftOver,
}

/// The rest of a row whose quote is not closed.
#[derive(Clone, Copy, Debug, Default)]
struct LeftOver {
    /// Place of the quotation mark that ends the cell, if it cannot begin one.
    close: Option<usize>,
    /// Number of cells the row has so far, if it has fewer than the first row.
    cells: Option<usize>,
}

impl<'a> Records<'a> {
    /// The records of a text whose first line has the number `line`.
    fn new(text: &'a str, line: usize, separator: u8, quoting: Quoting, is_file: &'a dyn Fn(&str) -> bool) -> Self {
        Self { text, at: 0, line, separator, quoting, is_file, width: 0, left_over: LeftOver::default() }
    }

    /// The end of the line that begins at `from`, and the beginning of the next one.
    fn line_end(&self, from: usize) -> (usize, usize) {
        let rest = self.text.as_bytes().get(from..).unwrap_or_default();
        match rest.iter().position(|byte| *byte == b'\n') {
            Some(length) => (from + length, from + length + 1),
            None => (self.text.len(), self.text.len()),
        }
    }

    fn slice(&self, from: usize, to: usize) -> &str {
        self.text.get(from..to).unwrap_or_default()
    }

    /// The record of one line, without cells that span lines.
    fn of_line(&mut self) -> Record {
        let (end, next) = self.line_end(self.at);
        let line = self.slice(self.at, end).trim_end_matches('\r');
        let cells = line.split(char::from(self.separator)).map(|cell| match self.quoting {
            Quoting::Cells => unquoted(cell).map_or_else(|| cell.to_owned(), Cow::into_owned),
            _ => cell.to_owned(),
        });
        let record = Record { line: self.line, cells: cells.collect(), lines: 1, wrong: None };
        self.at = next;
        self.line += 1;
        record
    }

    /// The record at the current place by the rules of CSV.
    fn quoted(&mut self) -> Record {
        if let Some(rest) = self.rest_of_unclosed() {
            return rest;
        }
        let (begin, line) = (self.at, self.line);
        let bytes = self.text.as_bytes();
        let mut cells = Vec::new();
        let mut at = begin;
        // A row within a cell shows that its quote was never closed. What follows the quote on its line is of the same row.
        let is_row = |line: &str| {
            line.contains(char::from(self.separator)) && line.split(char::from(self.separator)).any(|cell| (self.is_file)(cell))
        };
        loop {
            let start = at;
            while bytes.get(at).is_some_and(|byte| *byte == b' ') {
                at += 1;
            }
            let is_end = |at: usize| bytes.get(at).is_none_or(|byte| *byte == self.separator || matches!(byte, b'\n' | b'\r'));
            if bytes.get(at) == Some(&b'"') {
                let Some(close) = closing(bytes, at + 1) else { return self.unclosed(begin, line, None) };
                let inner = self.slice(at + 1, close);
                let mut after = close + 1;
                while bytes.get(after).is_some_and(|byte| *byte == b' ') {
                    after += 1;
                }
                let spans = inner.contains('\n');
                if spans && (!is_end(after) || inner.matches('\n').count() >= CELL_LINES || inner.lines().any(is_row)) {
                    return self.unclosed(begin, line, Some(close));
                } else if is_end(after) {
                    cells.push(inner.replace("\"\"", "\""));
                    at = after;
                } else {
                    // Quotes around the first words: they are part of the text.
                    at = after;
                    while !is_end(at) {
                        at += 1;
                    }
                    cells.push(self.slice(start, at).to_owned());
                }
            } else {
                while !is_end(at) {
                    at += 1;
                }
                cells.push(self.slice(start, at).to_owned());
            }
            if bytes.get(at) == Some(&self.separator) {
                at += 1;
                continue;
            }
            let (end, next) = self.line_end(at);
            let lines = self.slice(begin, end).matches('\n').count() + 1;
            self.at = next;
            self.line = line + lines;
            return Record { line, cells, lines, wrong: None };
        }
    }

    /// A record with a quote that is not closed where it should be; the next record begins on the next line. `close` is the next
    /// quotation mark.
    fn unclosed(&mut self, begin: usize, line: usize, close: Option<usize>) -> Record {
        let (end, next) = self.line_end(begin);
        let cells: Vec<String> = self.slice(begin, end).split(char::from(self.separator)).map(str::to_owned).collect();
        let begins_cell = |close: &usize| {
            let before = self.slice(begin, *close).trim_end_matches(' ');
            before.ends_with(['\n', '\r', char::from(self.separator)])
        };
        let close = close.filter(|close| *close >= next && !begins_cell(close));
        self.left_over = LeftOver { close, cells: Some(cells.len()).filter(|cells| *cells < self.width) };
        self.at = next;
        self.line = line + 1;
        Record { line, cells, lines: 1, wrong: Some(UNCLOSED) }
    }

    /// The line at the current place, if it is the rest of an unclosed row: it must not pass for a row with half a text.
    fn rest_of_unclosed(&mut self) -> Option<Record> {
        let LeftOver { close, cells: before } = self.left_over;
        if close.is_none() && before.is_none() {
            return None;
        }
        let (end, next) = self.line_end(self.at);
        let cells: Vec<String> = self.slice(self.at, end).split(char::from(self.separator)).map(str::to_owned).collect();
        let starts_row = cells.first().is_some_and(|cell| (self.is_file)(cell));
        let closes = close.is_some_and(|close| (self.at..end).contains(&close));
        let together = before.map(|before| before + cells.len() - 1).filter(|cells| *cells <= self.width && !starts_row);
        self.left_over =
            LeftOver { close: close.filter(|close| *close >= next), cells: together.filter(|cells| *cells < self.width && !closes) };
        if !closes && together.is_none() {
            return None;
        }
        let record = Record { line: self.line, cells, lines: 1, wrong: Some(LEFT_OVER) };
        self.at = next;
        self.line += 1;
        Some(record)
    }
}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        while self.at < self.text.len() {
            let record = if self.quoting == Quoting::Csv { self.quoted() } else { self.of_line() };
            if record.wrong.is_some() || record.cells.iter().any(|cell| !cell.trim().is_empty()) {
                if self.width == 0 && record.wrong.is_none() {
                    self.width = record.cells.iter().rposition(|cell| !cell.trim().is_empty()).map_or(0, |last| last + 1);
                }
                return Some(record);
            }
        }
        None
    }
}

/// The position of the quotation mark that closes a cell whose content begins at `from`.
fn closing(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == b'"')?;
        if bytes.get(at + 1) != Some(&b'"') {
            return Some(at);
        }
        at += 2;
    }
}

/// A cell that is quoted whole, without its quotes: it begins and ends with one, and those between are doubled.
fn unquoted(cell: &str) -> Option<Cow<'_, str>> {
    let inner = cell.trim().strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('"') {
        return Some(Cow::Borrowed(inner));
    }
    let single = inner.replace("\"\"", "");
    (!single.contains('"')).then(|| Cow::Owned(inner.replace("\"\"", "\"")))
}

/// Reads a table; see [`super::read_bytes`].
pub(super) fn read(shown: &str, decoded: &DecodedText, options: &TableOptions, each: &mut RowSink) -> Result<Vec<String>> {
    let text = normalized(&decoded.text);
    let is_file = |cell: &str| {
        let cell = cell.trim().trim_matches('"');
        !cell.is_empty()
            && !cell.contains(['\t', '|'])
            && (is_audio(Path::new(cell)) || options.clips && cell.len() > 2 && (options.known_file)(cell))
    };
    let first = text.lines().next().unwrap_or_default().trim();
    let (named, skipped) = match first.to_lowercase().trim_matches('"').strip_prefix("sep=").map(str::as_bytes) {
        Some([separator]) => (Some(*separator), first.len()),
        _ => (None, 0),
    };
    let body = text.get(skipped..).map_or("", |rest| rest.trim_start_matches([' ', '\r']));
    let (body, line) = if skipped > 0 { (body.strip_prefix('\n').unwrap_or(body), 2) } else { (text.as_ref(), 1) };
    let separator = named.unwrap_or_else(|| separator(body, &ending(shown), options, &is_file));
    let quoting = quoting(body, separator, &is_file);
    let records = || Records::new(body, line, separator, quoting, &is_file);

    let sample: Vec<Record> = records().take(SAMPLE_ROWS).collect();
    let rows: Vec<&[String]> = sample.iter().filter(|record| record.wrong.is_none()).map(|record| record.cells.as_slice()).collect();
    let place = sample.first().map_or(1, |record| record.line);
    let Some(header) = Header::find(&rows, options).map_err(|error| place_error(error, shown, place))? else { return Ok(Vec::new()) };
    let names: Vec<Arc<str>> = header.names.iter().map(|name| name.as_str().into()).collect();

    for record in records().skip(usize::from(header.is_row)) {
        let row = if let Some(wrong) = record.wrong {
            Err(BadRow::new(shown, record.line, wrong))
        } else if (record.line..record.line + record.lines).any(|line| decoded.damaged.contains(&line)) {
            Err(BadRow::new(shown, record.line, "it has bytes that are no UTF-8"))
        } else if record.cells.len() < header.least || record.cells.iter().skip(names.len()).any(|cell| !cell.trim().is_empty()) {
            let what = if header.is_row { "the header has" } else { "the others have" };
            Err(BadRow::new(shown, record.line, format!("the row has {} columns, {what} {}", record.cells.len(), header.count())))
        } else {
            let named = names.iter().zip(record.cells).filter(|(name, cell)| !name.starts_with("column ") || !cell.trim().is_empty());
            let cells = named.map(|(name, cell)| (Arc::clone(name), Cell::Text(cell))).collect();
            Ok(TableRow { table: shown.into(), line: record.line, cells })
        };
        if !each(row)? {
            break;
        }
    }
    Ok(header.note.map(|note| format!("`{shown}` {note}")).into_iter().collect())
}

fn place_error(error: Error, shown: &str, line: usize) -> Error {
    let mut placed = Error::new(format!("{shown}:{line}: {}", error.message));
    placed.hint = error.hint;
    placed
}

/// A text with line feeds alone. Old programs of the Macintosh end lines with a carriage return.
fn normalized(text: &str) -> Cow<'_, str> {
    if text.contains('\r') && !text.contains('\n') { Cow::Owned(text.replace('\r', "\n")) } else { Cow::Borrowed(text) }
}

/// The beginning of a text, in whole lines.
fn beginning(text: &str) -> &str {
    let mut end = text.len().min(SAMPLE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let start = text.get(..end).unwrap_or(text);
    if end == text.len() { start } else { start.rsplit_once('\n').map_or(start, |(lines, _)| lines) }
}

/// The separator: the one under which the header has known names, or a cell is a file, or the rows have the same number of cells.
fn separator(text: &str, ending: &str, options: &TableOptions, is_file: &dyn Fn(&str) -> bool) -> u8 {
    let sample = beginning(text);
    let usual = match ending {
        "tsv" | "tab" => b'\t',
        "csv" => b',',
        _ => b'|',
    };
    let score = |separator: u8| {
        let quoting = if matches!(separator, b'\t' | b'|') { Quoting::None } else { Quoting::Csv };
        let records = Records::new(sample, 1, separator, quoting, is_file);
        let records: Vec<Record> = records.take(SAMPLE_ROWS).collect();
        let head = records.first().map_or(&[][..], |record| &record.cells);
        let known = if head.len() > 1 { head.iter().filter(|cell| options.columns.is_read(cell.trim_matches('"'))).count() } else { 0 };
        let file = usize::from(head.len() > 1 && head.iter().any(|cell| is_file(cell)));
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for record in &records {
            *counts.entry(record.cells.len()).or_default() += 1;
        }
        let even = counts.iter().filter(|(cells, _)| **cells > 1).map(|(_, number)| number * 100 / records.len().max(1)).max().unwrap_or(0);
        (known, file, even, usize::from(separator == usual))
    };
    // The last of equals is the maximum, so the comma is the last one.
    SEPARATORS.iter().rev().copied().max_by_key(|separator| score(*separator)).unwrap_or(b',')
}

/// How quotation marks are meant in a file.
fn quoting(text: &str, separator: u8, is_file: &dyn Fn(&str) -> bool) -> Quoting {
    if matches!(separator, b',' | b';') {
        return Quoting::Csv;
    }
    if !text.contains('"') {
        return Quoting::None;
    }
    let lines = || text.lines().filter(|line| !line.trim().is_empty());
    let cells = |line: &str| line.split(char::from(separator)).count();
    let width = lines().next().map_or(0, cells);
    let uneven = lines().filter(|line| cells(line) != width).count();
    if uneven > 0 {
        let records = Records::new(text, 1, separator, Quoting::Csv, is_file);
        let wrong = records.filter(|record| record.wrong.is_some() || record.cells.len() != width).count();
        if wrong < uneven {
            return Quoting::Csv;
        }
    }
    // Spreadsheets quote every cell that has a quotation mark or a comma. Where a cell with one of these is bare, nobody quoted.
    let all = || lines().flat_map(|line| line.split(char::from(separator))).map(str::trim).filter(|cell| !cell.is_empty());
    let doubled = all().any(|cell| unquoted(cell).is_some_and(|inner| inner.contains('"')));
    let commas = || all().filter(|cell| cell.contains(','));
    let quoted_commas = commas().next().is_some() && commas().all(|cell| unquoted(cell).is_some());
    let every = all().all(|cell| unquoted(cell).is_some());
    if doubled || quoted_commas || every { Quoting::Cells } else { Quoting::None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::columns::Columns;

    /// Rows as `line column=cell …`, bad ones as `line! reason`.
    fn rows(name: &str, text: &str, known: &[&str]) -> Result<Vec<String>> {
        let columns = Columns::default();
        let options = TableOptions { columns: &columns, clips: true, known_file: &|file| known.contains(&file) };
        let mut found = Vec::new();
        read(name, &super::super::decode(text.as_bytes()), &options, &mut |row| {
            found.push(match row {
                Ok(row) => {
                    let cells: Vec<String> = row.cells.iter().map(|(name, cell)| format!("{name}={}", cell.text())).collect();
                    format!("{} {}", row.line, cells.join(" "))
                }
                Err(bad) => format!("{}! {}", bad.place, bad.reason),
            });
            Ok(true)
        })?;
        Ok(found)
    }

    #[test]
    fn what_spreadsheets_and_programs_write_is_read() {
        for (name, text, expected) in [
            ("t.csv", "file,text\na.wav,\"Hi, you\"\n", &["2 file=a.wav text=Hi, you"][..]),
            ("t.csv", "sep=;\nfile;text\na.wav;\"Hi\"\n", &["3 file=a.wav text=Hi"]),
            ("t.csv", "file;text;\"note, free\"\na.wav;Hi, you;\n", &["2 file=a.wav text=Hi, you note, free="]),
            ("t.csv", "file\ttext\na.wav\tHi\n", &["2 file=a.wav text=Hi"]),
            ("t.csv", "file,text,,\na.wav,Hi,,\nb.wav,Yo\n", &["2 file=a.wav text=Hi", "3 file=b.wav text=Yo"]),
            ("t.csv", "file,text\r\na.wav,\"Hi\r\nyou\"\r\nb.wav,Yo\r\n", &["2 file=a.wav text=Hi\r\nyou", "4 file=b.wav text=Yo"]),
            // The broken text before the file, so that its second line names the file.
            ("t.csv", "text;file\r\nHi;a.wav\r\n\"Yo\r\nho\";b.wav\r\n", &["2 text=Hi file=a.wav", "3 text=Yo\r\nho file=b.wav"]),
            (
                "t.csv",
                "text;file\n\"Yo\nho\";\"b.wav\"\n\"Hi\n\nyou\";\"a.wav\"\n",
                &["2 text=Yo\nho file=b.wav", "4 text=Hi\n\nyou file=a.wav"],
            ),
            (
                "t.csv",
                "\"text\"|\"file\"\n\"Hi, you\"|\"a.wav\"\n\"Yo\nho\"|\"b.wav\"\n",
                &["2 text=Hi, you file=a.wav", "3 text=Yo\nho file=b.wav"],
            ),
            ("t.csv", "file,text\ra.wav,Hi\rb.wav,Yo\r", &["2 file=a.wav text=Hi", "3 file=b.wav text=Yo"]),
            ("t.csv", "file , Text\na.wav, \"Hi, \"\"you\"\"\"\n", &["2 file=a.wav text=Hi, \"you\""]),
            (
                "t.csv",
                "file,text\na.wav,\"Hi,\" he said\nb.wav,5\" long\n",
                &["2 file=a.wav text=\"Hi,\" he said", "3 file=b.wav text=5\" long"],
            ),
            (
                "t.csv",
                "file;text;from\na.wav;Hi;Berlin\nb.wav;Yo;Bonn\n",
                &["2 file=a.wav text=Hi from (no times)=Berlin", "3 file=b.wav text=Yo from (no times)=Bonn"],
            ),
            ("t.csv", "file;text;start;end\na.wav;Hi;0.5;n/a\n", &["2 file=a.wav text=Hi start=0.5 end=n/a"]),
            ("t.csv", "file|text\na.wav|Hi, you; and\n", &["2 file=a.wav text=Hi, you; and"]),
            ("t.tsv", "file,text\na.wav,Hi\n", &["2 file=a.wav text=Hi"]),
            (
                "t.tsv",
                "file\ttext\na.wav\t\"Please, you.\"\nb.wav\t\"He said \"\"no\"\".\"\n",
                &["2 file=a.wav text=Please, you.", "3 file=b.wav text=He said \"no\"."],
            ),
            (
                "t.tsv",
                "file\ttext\na.wav\t\"Yes,\" he said.\nb.wav\t\"No.\"\n",
                &["2 file=a.wav text=\"Yes,\" he said.", "3 file=b.wav text=\"No.\""],
            ),
            ("t.tsv", "file\ttext\na.wav\t\"Hi\nyou\"\nb.wav\tYo\n", &["2 file=a.wav text=Hi\nyou", "4 file=b.wav text=Yo"]),
            ("t.tsv", "file\ttext\na.wav\tHi \"you\"\nb.wav\t5\"\n", &["2 file=a.wav text=Hi \"you\"", "3 file=b.wav text=5\""]),
        ] {
            assert_eq!(rows(name, text, &[]).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn bad_rows_are_passed_on_and_the_others_read() {
        let unclosed = format!("t.csv:2! {UNCLOSED}");
        let [rest, later] = [3, 4].map(|line| format!("t.csv:{line}! {LEFT_OVER}"));
        for (text, expected) in [
            ("file,text\na,x,y\nb.wav,Yo\n", &["t.csv:2! the row has 3 columns, the header has 2", "3 file=b.wav text=Yo"][..]),
            ("file,text,mood\na.wav,x\nb.wav,Yo,\n", &["t.csv:2! the row has 2 columns, the header has 3", "3 file=b.wav text=Yo mood="]),
            ("file,text\na.wav,\"Hi\nb.wav,Yo\nc.wav,\"Ho\"\n", &[&unclosed, "3 file=b.wav text=Yo", "4 file=c.wav text=Ho"]),
            ("file,text\na.wav,\"Hi\nb.wav,Yo\nc.wav,Ho\n", &[&unclosed, "3 file=b.wav text=Yo", "4 file=c.wav text=Ho"]),
            // The rest of an unclosed row is no row, although it has a file.
            ("text,file\n\"Hi\nyou,a.wav\nYo,b.wav\n", &[&unclosed, &rest, "4 text=Yo file=b.wav"]),
            ("text,file\n\"Hi\nyou\" he,a.wav\nYo,b.wav\n", &[&unclosed, &rest, "4 text=Yo file=b.wav"]),
            ("text,file\n\"Hi,a.wav\nYo,b.wav\nHo\",c.wav\n", &[&unclosed, "3 text=Yo file=b.wav", &later]),
            ("file,text,mood\na.wav,\"Hi\nyou,x\nb.wav,Yo,x\n", &[&unclosed, &rest, "4 file=b.wav text=Yo mood=x"]),
        ] {
            assert_eq!(rows("t.csv", text, &[]).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn tables_without_a_header_are_known_by_their_content() {
        for (text, known, expected) in [
            (
                "a|Hi you.|Hi you.\nb|No 5.|No five.\n",
                &["a", "b"][..],
                &["1 audio=a text=Hi you. normalized_text=Hi you.", "2 audio=b text=No 5. normalized_text=No five."][..],
            ),
            (
                "a|ann|Hi you there.\nb|bob|Yo ho.\n",
                &["a", "b"],
                &["1 audio=a speaker=ann text=Hi you there.", "2 audio=b speaker=bob text=Yo ho."],
            ),
            ("a.wav|Hi you.\n", &[], &["1 audio=a.wav text=Hi you."]),
            ("file,text\nfile,Hi you.\n", &["file", "text"], &["2 file=file text=Hi you."]),
            ("Hi, you.\ta.wav\n", &[], &["1 text=Hi, you. audio=a.wav"]),
            ("wavs/a.wav|ann|EN|Hi you.\n", &[], &["1 audio=wavs/a.wav speaker=ann language=EN text=Hi you."]),
            (
                "a.wav,0.0,1.5,Hi you.\na.wav,1.5,2.5,Yo ho.\n",
                &[],
                &["1 audio=a.wav start=0.0 end=1.5 text=Hi you.", "2 audio=a.wav start=1.5 end=2.5 text=Yo ho."],
            ),
        ] {
            assert_eq!(rows("t.csv", text, known).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn running_numbers_are_neither_files_nor_speakers() {
        let known = &["0", "1", "2"];
        for (text, expected) in [
            (
                "0,1.wav,Hi you there.\n1,2.wav,Yo ho.\n",
                &["1 column 1=0 audio=1.wav text=Hi you there.", "2 column 1=1 audio=2.wav text=Yo ho."][..],
            ),
            (
                "1.wav,0,Hi you there.\n2.wav,1,Yo ho.\n",
                &["1 audio=1.wav column 2=0 text=Hi you there.", "2 audio=2.wav column 2=1 text=Yo ho."],
            ),
            (
                "Take,No,text\n1.wav,0,Hi you there.\n2.wav,1,Yo ho.\n",
                &["2 audio=1.wav no=0 text=Hi you there.", "3 audio=2.wav no=1 text=Yo ho."],
            ),
        ] {
            assert_eq!(rows("t.csv", text, known).unwrap(), expected, "{text}");
        }
        for (text, says) in [
            ("0,2,Hi you there.\n1,0,Yo ho.\n", "t.csv:1: columns 1 and 2 both name recordings"),
            ("1.wav,Hi you there.,2.wav\n2.wav,Yo ho.,0.wav\n", "t.csv:1: columns 1 and 3 both name recordings"),
            (
                "Nr,Aufnahme,Satz\n0,1.wav,Hi you there.\n1,2.wav,Yo ho.\n",
                "t.csv:1: no column with the audio file; the columns are: nr, aufnahme, satz",
            ),
            ("Aufnahme;Satz\n0;Hi you there.\n1;Yo ho.\n", "t.csv:1: no column with the audio file; the columns are: aufnahme, satz"),
        ] {
            let error = rows("t.csv", text, known).unwrap_err();
            assert_eq!((error.message.as_str(), error.hint.is_some()), (says, true));
        }
        let columns = Columns { audio: Some("column 2".to_owned()), ..Columns::default() };
        let options = TableOptions { columns: &columns, clips: true, known_file: &|file| known.contains(&file) };
        let rows = [["0", "2", "Hi you there."], ["1", "0", "Yo ho."]].map(|row| row.map(str::to_owned));
        let rows: Vec<&[String]> = rows.iter().map(|row| row.as_slice()).collect();
        assert_eq!(Header::find(&rows, &options).unwrap().unwrap().names, ["column 1", "column 2", "text"]);
    }

    #[test]
    fn a_table_without_the_needed_columns_is_an_error() {
        for (text, says) in [
            ("text,mood\nHi,x\n", "t.csv:1: no column with the audio file; the columns are: text, mood"),
            ("file,mood\na.wav,x\n", "t.csv:1: no column with the text; the columns are: file, mood"),
            ("file,text,text\na,x,y\n", "t.csv:1: duplicate column `text`"),
            ("x,y\n1,2\n", "t.csv:1: no column with the audio file; the columns are: x, y"),
        ] {
            let error = rows("t.csv", text, &[]).unwrap_err();
            assert_eq!((error.message.as_str(), error.hint.is_some()), (says, true));
        }
        assert_eq!(rows("t.csv", "", &[]).unwrap(), Vec::<String>::new());
    }
}
