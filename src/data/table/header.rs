//! The header of a table of separated values or of a spreadsheet, or the meaning of its columns if it has none.

use super::TableOptions;
use crate::data::columns::{ColumnRole, Columns, plain_name};
use crate::data::ingest::is_audio;
use crate::data::language::language_code;
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Columns of a table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Name of each column; one without a name is called `column N`.
    pub(super) names: Vec<String>,
    /// Whether the first row is the header.
    pub(super) is_row: bool,
    /// The number of cells a row must have.
    pub(super) least: usize,
    /// What was guessed.
    pub(super) note: Option<String>,
}

impl Header {
    /// Number of columns, for messages.
    pub(super) fn count(&self) -> usize {
        self.least.max(self.names.iter().rposition(|name| !name.starts_with("column ")).map_or(0, |last| last + 1))
    }

    /// Finds the columns in the first rows of a table; `None` if it has no rows.
    ///
    /// # Errors
    /// If there is no file or no text column, or two of one name. The error has no place yet.
    pub(super) fn find(rows: &[&[String]], options: &TableOptions) -> Result<Option<Self>> {
        let Some(first) = rows.first() else { return Ok(None) };
        let names: Vec<String> = first
            .iter()
            .enumerate()
            .map(|(index, name)| match name.trim().trim_start_matches('\u{feff}').trim_matches('"').trim() {
                "" => format!("column {}", index + 1),
                name => name.to_lowercase(),
            })
            .collect();
        let role = |name: &String| options.columns.role(name).map(|(role, ..)| role);
        let is_file = |cell: &String| is_file(cell, options);
        // Recordings may be called `file.wav` and `text.wav`: a row with both columns is a header, whatever files there are.
        let is_header = [ColumnRole::Audio, ColumnRole::Text].iter().all(|wanted| names.iter().any(|name| role(name) == Some(*wanted)));
        if options.clips && !is_header && (first.iter().any(is_file) || !names.iter().any(|name| role(name).is_some())) {
            match Self::by_content(rows, options)? {
                Some(found) => return Ok(Some(found)),
                None if first.iter().any(is_file) => return Err(missing("text", "text", &names)),
                None => {}
            }
        }
        let mut seen = BTreeSet::new();
        for name in names.iter().filter(|name| role(name).is_some() || !options.clips) {
            if !seen.insert(plain_name(name)) {
                return Err(Error::new(format!("duplicate column `{name}`")).hint("give every column a unique name"));
            }
        }
        let least = names.iter().rposition(|name| !name.starts_with("column ")).map_or(1, |last| last + 1);
        let mut header = Self { names, is_row: true, least, note: None };
        if options.clips {
            header.without_false_times(rows.get(1..).unwrap_or_default(), options);
            let has = |wanted: ColumnRole| header.names.iter().any(|name| role(name) == Some(wanted));
            if !has(ColumnRole::Text) {
                let missed = if has(ColumnRole::Audio) { "text" } else { "audio" };
                return Err(missing(if missed == "text" { "text" } else { "audio file" }, missed, &header.names));
            }
            if !has(ColumnRole::Audio) {
                let free = |index: &usize| header.names.get(*index).is_some_and(|name| role(name).is_none());
                let found = file_column(rows.get(1..).unwrap_or_default(), (0..header.names.len()).filter(free).collect(), options)?;
                let Some(index) = found else { return Err(missing("audio file", "audio", &header.names)) };
                if let Some(name) = header.names.get_mut(index) {
                    header.note = Some(format!("has the names of recordings in the column `{name}`"));
                    *name = options.columns.audio.clone().unwrap_or_else(|| "audio".to_owned());
                }
            }
        }
        Ok(Some(header))
    }

    /// Renames columns that are called like times but have none, so that they are ignored: `from` may be a town.
    fn without_false_times(&mut self, rows: &[&[String]], options: &TableOptions) {
        for (index, name) in self.names.iter_mut().enumerate() {
            let is_time = matches!(options.columns.role(name), Some((ColumnRole::Start | ColumnRole::End | ColumnRole::Duration, ..)));
            let Columns { start, end, offset, duration, .. } = options.columns;
            let of_user = [start, end, offset, duration].into_iter().flatten().any(|own| plain_name(own) == plain_name(name));
            if !is_time || of_user {
                continue;
            }
            let has_no_value = |cell: &&str| matches!(cell.to_lowercase().as_str(), "" | "nan" | "none" | "null" | "n/a");
            let values: Vec<&str> =
                rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.trim()).filter(|cell| !has_no_value(cell)).collect();
            // One word alone may be a mistake, which is told for its row.
            if values.len() > 1 && values.iter().all(|cell| !cell.contains(|character: char| character.is_ascii_digit())) {
                name.push_str(" (no times)");
            }
        }
    }

    /// The columns of a table without a header: which one names files, and which one has the most words.
    ///
    /// # Errors
    /// If several columns may name files.
    fn by_content(rows: &[&[String]], options: &TableOptions) -> Result<Option<Self>> {
        let mut widths: BTreeMap<usize, usize> = BTreeMap::new();
        for row in rows {
            *widths.entry(row.len()).or_default() += 1;
        }
        let Some((width, _)) = widths.into_iter().max_by_key(|(_, number)| *number) else { return Ok(None) };
        if looks_like_header(rows, options) {
            return Ok(None);
        }
        let rows: Vec<&[String]> = rows.iter().filter(|row| row.len() == width).copied().collect();
        let column = |index: usize| rows.iter().filter_map(move |row| row.get(index)).map(|cell| cell.trim());
        let all = |index: usize, is: &dyn Fn(&str) -> bool| column(index).all(is);
        let number_of = |own: &Option<String>| {
            let number = plain_name(own.as_deref()?).strip_prefix("column_")?.parse::<usize>().ok()?;
            number.checked_sub(1).filter(|index| *index < width)
        };
        let audio = match number_of(&options.columns.audio) {
            Some(named) => Some(named),
            None => file_column(&rows, (0..width).collect(), options)?,
        };
        let Some(audio) = audio else { return Ok(None) };
        let words = |index: usize| column(index).map(|cell| cell.split_whitespace().count()).sum::<usize>();
        let number = |cell: &str| cell.replace(',', ".").parse::<f64>().is_ok_and(f64::is_finite);
        let open: Vec<usize> = (0..width).filter(|index| *index != audio && !all(*index, &str::is_empty)).collect();
        let Some(most) = open.iter().filter(|index| !all(**index, &number)).map(|index| words(*index)).max() else { return Ok(None) };
        let texts: Vec<usize> =
            open.iter().copied().filter(|index| !all(*index, &number) && words(*index) * 2 > most && words(*index) > 0).collect();
        // With one word in each cell the last column is the text: `id|speaker|text`.
        let is_normalized = |index: usize| open.iter().any(|other| *other < index && alike(&rows, *other, index));
        let text = if let Some(named) = number_of(&options.columns.text) {
            Some(named)
        } else if most > rows.len() || texts.len() == 1 {
            texts.first().copied()
        } else {
            texts.iter().rev().copied().find(|index| !is_normalized(*index))
        };
        let Some(text) = text else { return Ok(None) };
        let mut names: Vec<String> = (1..=width).map(|number| format!("column {number}")).collect();
        let mut set = |index: usize, name: &str| {
            if let Some(slot) = names.get_mut(index) {
                name.clone_into(slot);
            }
        };
        set(audio, options.columns.audio.as_deref().unwrap_or("audio"));
        set(text, options.columns.text.as_deref().unwrap_or("text"));
        let rest: Vec<usize> = open.iter().copied().filter(|index| *index != text).collect();
        let growing = |pair: &[usize]| {
            let values = |index: usize| column(index).map(|cell| cell.replace(',', ".").parse::<f64>().unwrap_or(0.0));
            pair[0] + 1 == pair[1]
                && all(pair[0], &number)
                && all(pair[1], &number)
                && values(pair[0]).zip(values(pair[1])).all(|(a, b)| a < b)
        };
        let times = rest.windows(2).find(|pair| growing(pair)).map(<[usize]>::to_vec).unwrap_or_default();
        for (index, name) in times.iter().zip(["start", "end"]) {
            set(*index, name);
        }
        let mut has_speaker = false;
        for index in rest.into_iter().filter(|index| !times.contains(index)) {
            let code = |cell: &str| cell.len() == 2 && language_code(cell).is_ok_and(|code| code.is_some());
            if texts.contains(&index) && index > text {
                set(index, "normalized_text");
            } else if all(index, &code) {
                set(index, "language");
            } else if !has_speaker && !is_running(&rows, index) && all(index, &|cell| is_speaker(cell)) {
                set(index, "speaker");
                has_speaker = true;
            }
        }
        let note = format!("has no header: column {} was read as the file, column {} as the text", audio + 1, text + 1);
        Ok(Some(Self { names, is_row: false, least: audio.max(text) + 1, note: Some(note) }))
    }
}

/// Whether two columns have the same words in most rows.
fn alike(rows: &[&[String]], one: usize, other: usize) -> bool {
    let same = rows.iter().filter(|row| match (row.get(one), row.get(other)) {
        (Some(one), Some(other)) => crate::data::text::normalized(one) == crate::data::text::normalized(other),
        _ => false,
    });
    same.count() * 2 > rows.len()
}

/// The column that names the files in at least half of the rows. Endings of audio files say more than names that a recording has too: a
/// column of running numbers may have such names by chance.
///
/// # Errors
/// If several columns do.
fn file_column(rows: &[&[String]], columns: Vec<usize>, options: &TableOptions) -> Result<Option<usize>> {
    let has_ending = |cell: &String| is_audio(Path::new(cell.trim().trim_matches('"')));
    let known = |cell: &String| is_file(cell, options);
    for is in [&has_ending as &dyn Fn(&String) -> bool, &known] {
        let mut found: Vec<usize> = Vec::new();
        for index in columns.iter().copied().filter(|index| share(rows, *index, 0, is) >= 50) {
            // The same names twice are one answer.
            if !found.iter().any(|other| alike(rows, *other, index)) {
                found.push(index);
            }
        }
        if let [one, other, ..] = found[..] {
            return Err(Error::new(format!("columns {} and {} both name recordings", one + 1, other + 1))
                .hint(format!("say which one is meant: `columns = {{ audio = \"column {}\" }}`, or the name in the header", one + 1)));
        }
        if let Some(only) = found.first() {
            return Ok(Some(*only));
        }
    }
    Ok(None)
}

/// Whether a column counts the rows.
fn is_running(rows: &[&[String]], index: usize) -> bool {
    let numbers: Option<Vec<u64>> = rows.iter().map(|row| row.get(index)?.trim().parse().ok()).collect();
    numbers.is_some_and(|numbers| numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]))
}

fn is_speaker(cell: &str) -> bool {
    cell.split_whitespace().count() <= 2 && !is_audio(Path::new(cell))
}

/// Whether the first row is the header of a table, though its words are no usual names: it is short words without a file or a number, and
/// the rows after it are otherwise.
fn looks_like_header(rows: &[&[String]], options: &TableOptions) -> bool {
    let Some((first, rest)) = rows.split_first() else { return false };
    let is_name = |cell: &String| {
        cell.split_whitespace().count() <= 3 && !cell.contains(|character: char| character.is_numeric() || ".?!,:".contains(character))
    };
    if rest.is_empty() || !first.iter().all(is_name) || first.iter().any(|cell| is_file(cell, options)) {
        return false;
    }
    let words = |cell: &String| cell.split_whitespace().count();
    let all = |index: usize, is: &dyn Fn(&String) -> bool| share(rest, index, 0, is) == 100;
    let names_files = (0..first.len()).any(|index| all(index, &|cell| is_file(cell, options)));
    let endings_or_numbers = (0..first.len()).any(|index| {
        all(index, &|cell| is_audio(Path::new(cell.trim()))) || all(index, &|cell| cell.contains(|character: char| character.is_numeric()))
    });
    let longer = (0..first.len())
        .any(|index| first.get(index).is_some_and(|name| words(name) == 1) && share(rest, index, 0, &|cell| words(cell) >= 3) >= 50);
    endings_or_numbers || names_files && longer
}

fn is_file(cell: &str, options: &TableOptions) -> bool {
    let cell = cell.trim().trim_matches('"');
    !cell.is_empty() && (is_audio(Path::new(cell)) || (options.known_file)(cell))
}

/// Percentage of the rows after the first `skip` whose cell in a column `is` something.
fn share(rows: &[&[String]], index: usize, skip: usize, is: &dyn Fn(&String) -> bool) -> usize {
    let rows = rows.get(skip..).unwrap_or_default();
    rows.iter().filter(|row| row.get(index).is_some_and(is)).count() * 100 / rows.len().max(1)
}

fn missing(what: &str, setting: &str, names: &[String]) -> Error {
    let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| !name.starts_with("column ")).collect();
    Error::new(format!("no column with the {what}; the columns are: {}", names.join(", ")))
        .hint(format!("name the column in the settings: `columns = {{ {setting} = \"…\" }}`"))
}
