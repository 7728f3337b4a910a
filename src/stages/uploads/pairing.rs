//! Brings transcripts and recordings together.

use super::Uploads;
use super::sounds::{Sounds, plain, slashed};
use crate::data::clip_items::{ClipItem, LeftRow, TableItem, compare, resolve};
use crate::data::cues::CueFormat;
use crate::data::table::{
    CueReading, LocalFiles, PickedTable, RowOrBad, TableFiles, TableOptions, TableSource, TableWish, cue_format, decode, ending,
    has_tabbed_cells, pick_tables, read_beside, read_bytes, read_cues, read_kaldi,
};
use crate::error::{Error, Result};
use pipeline::stage::Context;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A transcript without an audio file.
#[derive(Debug, Serialize)]
pub(super) struct Orphan {
    pub(super) place: String,
    pub(super) name: String,
    pub(super) reason: String,
}

/// Matched audio files and transcripts, and what has no match.
#[derive(Default)]
pub(super) struct Paired {
    /// In the order of the files, and within a file of the rows.
    pub(super) clips: Vec<ClipItem>,
    pub(super) bad: Vec<LeftRow>,
    pub(super) missing: Vec<Orphan>,
    pub(super) repeated: Vec<LeftRow>,
    pub(super) files_without_text: Vec<String>,
    /// Table columns that are not used.
    pub(super) ignored: BTreeSet<String>,
    pub(super) notes: Vec<String>,
    /// By table, what its paths have too much.
    pub(super) left_out_of_paths: BTreeMap<String, String>,
}

/// Rows of the tables so far.
#[derive(Default)]
struct Rows {
    items: Vec<TableItem>,
    paired: Paired,
}

impl Uploads {
    /// Matches the transcripts with the audio files.
    pub(super) fn pair(&self, cx: &Context, sounds: &Sounds) -> Result<Paired> {
        let mut rows = Rows::default();
        let written = self.transcripts.as_str();
        let path = cx.path(written);
        if written.is_empty() {
            // All recordings are to be drafts.
        } else if super::is_beside(written) {
            self.beside(&mut rows, sounds)?;
        } else if path.is_dir() {
            let files = LocalFiles::open(&path, written)?;
            let cues: Vec<&str> = files.paths().into_iter().filter(|path| CueFormat::of_extension(Path::new(path)).is_some()).collect();
            if !cues.is_empty() {
                for name in cues {
                    self.cues(&mut rows, sounds, &files.whole(name)?, &format!("{}/{name}", written.trim_end_matches('/')))?;
                }
                return Ok(rows.settle(sounds));
            }
            let (tables, notes) = pick_tables(&files, TableWish::default(), &|name| sounds.index.knows(name))?;
            rows.paired.notes.extend(notes);
            for table in &tables {
                if table.source == TableSource::Parquet {
                    return Err(Error::new(format!("`{written}` holds Parquet files, which hold their own sound"))
                        .hint(format!("use a stage of the kind `import` with `folder = \"{written}\"`")));
                }
                let at =
                    if table.path.is_empty() { written.to_owned() } else { format!("{}/{}", written.trim_end_matches('/'), table.path) };
                self.table(&mut rows, cx, sounds, &files, table, &at)?;
            }
        } else {
            // Kaldi's files are known to each other by their names alone.
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            let mut files = LocalFiles::new(path.parent().map_or(".".into(), |folder| folder.to_string_lossy().into_owned()).as_str());
            for other in [name.as_str()].into_iter().chain(super::KALDI_FILES) {
                let file = path.with_file_name(other);
                if file.is_file() {
                    files.add(other.to_owned(), file);
                }
            }
            if !files.contains(&name) {
                return Err(Error::new(format!("cannot read `{written}`: there is no such file"))
                    .hint("fix `transcripts`; the path is relative to the project root"));
            }
            let bytes = files.whole(&name)?;
            if cue_format(&name, &decode(bytes.get(..4096).unwrap_or(&bytes)).text).is_some() {
                self.cues(&mut rows, sounds, &bytes, written)?;
                return Ok(rows.settle(sounds));
            }
            let source = match ending(&name).as_str() {
                _ if name.ends_with(".trans.txt") => TableSource::Lines,
                "" if !is_separated(&files, &name, &|name| sounds.index.knows(name))? => TableSource::Lines,
                "txt" | "list" | "lst" if !is_separated(&files, &name, &|name| sounds.index.knows(name))? => TableSource::Lines,
                _ => TableSource::Rows,
            };
            self.table(&mut rows, cx, sounds, &files, &PickedTable { path: name, source, split: None }, written)?;
        }
        let mut paired = rows.settle(sounds);
        if super::is_beside(written) {
            paired.missing.sort_by(|a, b| (&a.name, &a.place).cmp(&(&b.name, &b.place)));
        }
        Ok(paired)
    }

    fn cue_reading(&self) -> CueReading<'_> {
        CueReading { settings: &self.cues, longest: self.max_seconds }
    }

    /// The cues of one file. Its recording is the one of its name, the only one, or the one it names.
    fn cues(&self, rows: &mut Rows, sounds: &Sounds, bytes: &[u8], written: &str) -> Result<()> {
        let text = decode(bytes);
        let Some(format) = cue_format(written, &text.text) else { return Ok(()) };
        rows.paired.notes.extend(text.note.iter().map(|note| format!("`{written}` {note}")));
        let stem = Path::new(written).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let sound = match sounds.paths.as_slice() {
            _ if sounds.index.knows(stem) => stem.to_owned(),
            [only] => only.clone(),
            _ => String::new(),
        };
        let table = PickedTable { path: written.to_owned(), source: TableSource::Rows, split: None };
        let first = rows.items.len();
        let notes = read_cues(written, &text.text, format, &sound, self.cue_reading(), &mut |row| rows.add(self, &table, row))?;
        rows.paired.notes.extend(notes);
        let folder = written.rsplit_once('/').map_or("", |(folder, _)| folder);
        rows.resolve(sounds, &[vec![String::new(), folder.to_owned()], sounds.folders.clone()], first, written)
    }

    /// The texts beside the recordings, and those of LibriSpeech in their folders.
    fn beside(&self, rows: &mut Rows, sounds: &Sounds) -> Result<()> {
        let all: Vec<&str> = sounds.paths.iter().map(String::as_str).collect();
        let table = |path: &str, source| PickedTable { path: path.to_owned(), source, split: None };
        let texts: Vec<String> = sounds.files.paths().into_iter().filter(|path| path.ends_with(".trans.txt")).map(str::to_owned).collect();
        for path in &texts {
            let table = table(path, TableSource::Lines);
            let first = rows.items.len();
            let notes = read_kaldi(&sounds.files, path, &mut |row| rows.add(self, &table, row))?;
            rows.paired.notes.extend(notes);
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            rows.resolve(sounds, &[vec![folder.to_owned()]], first, path)?;
        }
        let beside = table("", TableSource::Beside);
        let first = rows.items.len();
        let mut seen = BTreeSet::new();
        let notes = read_beside(&sounds.files, &all, self.cue_reading(), &mut |row| {
            seen.extend(row.as_ref().ok().map(|row| row.table.to_string()));
            seen.extend(row.as_ref().err().and_then(|bad| Some(bad.place.rsplit_once(':')?.0.to_owned())));
            rows.add(self, &beside, row)
        })?;
        rows.paired.notes.extend(notes);
        rows.resolve(sounds, &[vec![String::new()]], first, "")?;
        let orphans = sounds
            .files
            .paths()
            .into_iter()
            .filter(|path| path.ends_with(".txt") && !seen.contains(*path) && !texts.contains(&(*path).to_owned()));
        for path in orphans {
            let name = path.rsplit('/').next().unwrap_or(path).to_owned();
            rows.paired.missing.push(Orphan { place: name.clone(), name, reason: "no sound beside it".to_owned() });
        }
        Ok(())
    }

    /// The rows of a table; `written` is its path relative to the project.
    fn table(&self, rows: &mut Rows, cx: &Context, sounds: &Sounds, files: &LocalFiles, table: &PickedTable, written: &str) -> Result<()> {
        let first = rows.items.len();
        let known = |name: &str| sounds.index.knows(name);
        let notes = match table.source {
            TableSource::Lines => read_kaldi(files, &table.path, &mut |row| rows.add(self, table, row)),
            TableSource::Beside => {
                let all = files.paths();
                let all: Vec<&str> = all.into_iter().filter(|path| crate::data::ingest::is_audio(Path::new(path))).collect();
                read_beside(files, &all, self.cue_reading(), &mut |row| rows.add(self, table, row))
            }
            TableSource::Rows | TableSource::Parquet => {
                let options = TableOptions { columns: &self.columns, clips: true, known_file: &known };
                read_bytes(written, &files.whole(&table.path)?, &options, &mut |row| rows.add(self, table, row))
            }
        }?;
        rows.paired.notes.extend(notes);
        let root = plain(&cx.root);
        let folder = plain(&cx.path(written));
        let folder = if table.source == TableSource::Beside { Some(folder.as_path()) } else { folder.parent() }.unwrap_or(Path::new(""));
        let folder = slashed(folder.strip_prefix(&root).unwrap_or(folder));
        let bases = [vec![folder], vec![String::new()], sounds.folders.clone()];
        rows.resolve(sounds, &bases, first, written)
    }
}

/// Whether the lines of a file are cells with a separator, not an id and a text.
fn is_separated(files: &LocalFiles, name: &str, known_file: &dyn Fn(&str) -> bool) -> Result<bool> {
    let text = crate::data::table::decode(&files.part(name, 0, files.size(name).min(1 << 16))?).text;
    let mut lines = text.lines().filter(|line| !line.trim().is_empty()).take(50).peekable();
    let separated = ['|', '\t', ';', ','];
    let Some(first) = lines.peek().map(|line| (*line).to_owned()) else { return Ok(false) };
    if first.starts_with(['{', '[']) {
        return Ok(true);
    }
    if has_tabbed_cells(&text, ["wav.scp", "segments"].iter().any(|name| files.contains(name)), known_file) {
        return Ok(true);
    }
    // A text may have commas and tabs; an id has none.
    let one_word = |line: &str| line.split_whitespace().next().is_some_and(|word| !word.contains(['|', ';', ',']));
    Ok(separated.iter().any(|separator| first.contains(*separator)) && !lines.all(one_word))
}

impl Rows {
    fn add(&mut self, uploads: &Uploads, table: &PickedTable, row: RowOrBad) -> Result<bool> {
        let number = self.items.len() + 1;
        self.items.push(TableItem::read(row, &uploads.columns, table, number, &mut self.paired.ignored));
        Ok(true)
    }

    fn resolve(&mut self, sounds: &Sounds, bases: &[Vec<String>], first: usize, shown: &str) -> Result<()> {
        let Some(items) = self.items.get_mut(first..) else { return Ok(()) };
        let mut length = |item: &ClipItem| {
            let Some(file) = item.file.and_then(|file| sounds.files.on_disk(sounds.index.path(file))) else { return Ok(None) };
            Ok(crate::data::ingest::duration(file))
        };
        let sense = resolve(items, &sounds.index, bases, &|_| false, &mut length)?;
        if let Some(prefix) = sense.prefix {
            self.paired.left_out_of_paths.insert(shown.to_owned(), prefix.shown());
        }
        if sense.milliseconds {
            self.paired.notes.push(format!("the times in `{shown}` are read as milliseconds"));
        }
        Ok(())
    }

    /// Compares all rows, and lists what has no match.
    fn settle(mut self, sounds: &Sounds) -> Paired {
        // Files that only bad or repeated rows name have a text, if no good one.
        let named: BTreeSet<usize> = self.items.iter().filter_map(|item| item.clip()?.file).collect();
        compare(&mut self.items);
        let mut paired = self.paired;
        for item in self.items {
            match item {
                TableItem::Clip(item) => paired.clips.push(*item),
                TableItem::Bad(left) => paired.bad.push(left),
                TableItem::Repeated(left) => paired.repeated.push(left),
                TableItem::Filtered(_) | TableItem::OtherSplit(_) => {}
                TableItem::Missing(left, name) => paired.missing.push(Orphan { place: left.row, name, reason: left.reason }),
            }
        }
        paired.clips.sort_by_key(|item| (item.file, item.number));
        let without = (0..sounds.len()).filter(|number| !named.contains(number));
        paired.files_without_text = without.map(|number| sounds.shown(number)).collect();
        paired
    }
}
