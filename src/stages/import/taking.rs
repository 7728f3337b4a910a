//! Turns rows into clips: checks them, finds their sound, and decodes it in batches.

use super::place::Place;
use super::tables::Reading;
use super::{Import, tables};
use crate::data::bad_rows::{check_bad_rows, is_limit};
use crate::data::clip_items::{ClipItem, LeftRow, Part, TableItem, compare, gather_parts, keep_unknown_splits, resolve, unit_votes};
use crate::data::clip_row::ClipRow;
use crate::data::file_index::FileIndex;
use crate::data::ingest::{self, AudioCandidate, IngestLimits, IngestedClip, ingest_audio, is_audio, rounded};
use crate::data::table::{CueReading, PickedTable, TableFiles, TableSource, is_split};
use crate::data::text::{count, first_few, safe_name};
use crate::data::time_bounds::UnitVotes;
use crate::data::transcript::is_digits;
use crate::error::{Error, ErrorKind, Result};
use pipeline::stage::{Context, StageOutcome, StageResult};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use voxpipe_io::jsonl;

/// Number of clips that are downloaded and decoded in parallel.
const BATCH: usize = 16;
/// Maximum size of an audio file (512 MiB) that is downloaded or in a table; larger ones are rejected.
const LARGEST: u64 = 512 << 20;
/// Rows of a streamed table that decide what its paths begin with.
const SAMPLE: usize = 2000;

/// Rows of a table with its sound whose length is asked to learn the unit of the times.
const UNIT_ROWS: usize = 20;

/// State of an import.
pub(super) struct Taking<'a> {
    import: &'a Import,
    cx: &'a Context,
    /// Where the audio files are.
    audio: &'a Place<'a>,
    /// Whether that is another place than the one with the tables.
    audio_is_apart: bool,
    index: FileIndex,
    into: PathBuf,
    seen: usize,
    waiting: Vec<ClipItem>,
    records: Vec<(usize, ClipRow)>,
    rejected: Vec<LeftRow>,
    /// Reasons of rows that are bad, not left out by a setting.
    bad: Vec<String>,
    repeated: Vec<LeftRow>,
    /// Number of rows of splits that are not asked for.
    other_splits: BTreeMap<String, usize>,
    ignored: BTreeSet<String>,
    /// For streamed tables: the text and the row of each file so far.
    texts: BTreeMap<(usize, Option<Part>), (String, String)>,
    notes: Vec<String>,
    /// What was done with files beyond decoding them.
    sound_notes: BTreeSet<(String, String)>,
    prefixes: BTreeMap<String, String>,
    digits: usize,
}

impl<'a> Taking<'a> {
    pub(super) fn new(import: &'a Import, cx: &'a Context, place: &'a Place<'a>, audio: &'a Place<'a>, into: PathBuf) -> Self {
        let root = import.audio.as_ref().or(import.folder.as_ref()).map(|folder| cx.path(folder)).unwrap_or_default();
        let sounds = audio.paths().into_iter().filter(|path| is_audio(Path::new(path))).map(str::to_owned).collect::<Vec<_>>();
        Self {
            import,
            cx,
            audio,
            audio_is_apart: !std::ptr::eq(place, audio),
            index: FileIndex::new(sounds, &root),
            into,
            seen: 0,
            waiting: Vec::new(),
            records: Vec::new(),
            rejected: Vec::new(),
            bad: Vec::new(),
            repeated: Vec::new(),
            other_splits: BTreeMap::new(),
            ignored: BTreeSet::new(),
            texts: BTreeMap::new(),
            notes: Vec::new(),
            sound_notes: BTreeSet::new(),
            prefixes: BTreeMap::new(),
            digits: 0,
        }
    }

    /// Whether a text is the name of a recording.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.index.knows(name)
    }

    fn wanted(&self) -> usize {
        self.import.count.unwrap_or(usize::MAX)
    }

    /// Reads the tables until there are enough clips; with a seed, rows in a random order.
    pub(super) fn read(&mut self, picked: &[PickedTable], seed: Option<u64>, place: &Place) -> Result<()> {
        let (streamed, whole): (Vec<&PickedTable>, Vec<&PickedTable>) = picked.iter().partition(|table| tables::is_streamed(place, table));
        let mut items = Vec::new();
        for table in whole {
            let first = items.len();
            self.collect(place, table, usize::MAX, &mut items)?;
            self.resolve(table, &mut items[first..])?;
        }
        // Rows that settings leave out contradict nobody: a table may have a translation of each sentence.
        items = items.into_iter().map(|item| self.filtered(item)).collect();
        compare(&mut items);
        if let Some(seed) = seed {
            items.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        }
        gather_parts(&mut items);
        for item in items {
            if !self.offer(item)? {
                return Ok(());
            }
        }
        for table in tables::shuffled(streamed.into_iter(), seed) {
            if !self.stream(place, table, seed)? {
                break;
            }
        }
        self.take()
    }

    /// Reads the first rows of a table, without their sound.
    fn collect(&mut self, place: &Place, table: &PickedTable, most: usize, items: &mut Vec<TableItem>) -> Result<()> {
        let (index, import) = (&self.index, self.import);
        let cues = CueReading { settings: &import.cues, longest: import.max_seconds };
        let mut ignored = std::mem::take(&mut self.ignored);
        let (mut number, from) = (self.seen + items.len(), items.len());
        let notes = tables::each_row(
            place,
            table,
            &import.columns,
            &|name| index.knows(name),
            Reading { cues, seed: None, only_first_block: most < usize::MAX },
            &mut |row| {
                number += 1;
                items.push(TableItem::read(row, &import.columns, table, number, &mut ignored));
                Ok(items.len() - from < most)
            },
        )?;
        self.ignored = ignored;
        self.notes.extend(notes);
        Ok(())
    }

    /// The folders that paths in a table may be relative to.
    fn bases(&self, table: &PickedTable) -> Vec<Vec<String>> {
        let mut bases = tables::bases(table);
        if self.audio_is_apart {
            bases.swap(0, 1);
        }
        bases
    }

    /// Finds the file of each row of a table, and the unit of its times.
    fn resolve(&mut self, table: &PickedTable, items: &mut [TableItem]) -> Result<()> {
        let bases = self.bases(table);
        let sense = resolve(items, &self.index, &bases, &|path| self.audio.contains(path), &mut |item| self.length(item))?;
        if let Some(prefix) = &sense.prefix {
            self.prefixes.insert(table.path.clone(), prefix.shown());
        }
        if sense.milliseconds {
            self.notes.push(format!("the times in `{}` are read as milliseconds", table.path));
        }
        Ok(())
    }

    /// Why a row without its file is left out.
    fn missing(&self, left: LeftRow, named: &str) -> LeftRow {
        let reason = match left.reason.strip_prefix("no file of that name") {
            Some("") => format!("its file `{named}` is not in `{}`", self.audio.name()),
            Some(more) => format!("its file `{named}` is not in `{}`; {}", self.audio.name(), more.trim_start_matches(" in its folder; ")),
            None => format!("its file `{named}` {}", left.reason),
        };
        LeftRow { reason, ..left }
    }

    /// Seconds of the sound of a row, if it can be decoded.
    fn length(&self, waiting: &ClipItem) -> Result<Option<f64>> {
        let Ok(candidate) = self.fetch(waiting, &mut BTreeMap::new())? else { return Ok(None) };
        let seconds = ingest::duration(&candidate.path);
        self.tidy(&candidate)?;
        Ok(seconds)
    }

    /// Removes the file of a candidate if it was made for it.
    fn tidy(&self, candidate: &AudioCandidate) -> Result<()> {
        if candidate.path.starts_with(&self.cx.scratch) && candidate.path.exists() {
            fs::remove_file(&candidate.path)?;
        }
        Ok(())
    }

    /// Reads a table whose rows are passed on as they are read.
    fn stream(&mut self, place: &Place, table: &PickedTable, seed: Option<u64>) -> Result<bool> {
        let bases = self.bases(table);
        let mut prefix = None;
        let mut votes = UnitVotes::default();
        if table.source != TableSource::Parquet {
            let mut first = Vec::new();
            let (notes, ignored) = (self.notes.len(), self.ignored.clone());
            self.collect(place, table, SAMPLE, &mut first)?;
            self.notes.truncate(notes);
            self.ignored = ignored;
            let paths: Vec<String> = first.iter().filter_map(|item: &TableItem| item.clip()?.clip.path.clone()).collect();
            prefix = self.index.foreign_prefix(paths.iter().map(String::as_str), &bases);
            self.prefixes.extend(prefix.iter().map(|prefix| (table.path.clone(), prefix.shown())));
            for item in &mut first {
                item.find(&self.index, &bases, prefix.as_ref(), &|path| self.audio.contains(path));
            }
            votes = unit_votes(&first, &mut |item| self.length(item))?;
        }
        // The first rows decide; sound within a table is seen row by row.
        let decided = table.source != TableSource::Parquet;
        let mut asked = 0;
        let cues = CueReading { settings: &self.import.cues, longest: self.import.max_seconds };
        let mut more = true;
        let (mut ignored, import) = (std::mem::take(&mut self.ignored), self.import);
        tables::each_row(place, table, &import.columns, &|_| false, Reading { cues, seed, only_first_block: false }, &mut |row| {
            let mut next = TableItem::read(row, &import.columns, table, self.seen + 1, &mut ignored);
            next.find(&self.index, &bases, prefix.as_ref(), &|path| self.audio.contains(path));
            if let TableItem::Clip(item) = &mut next {
                if !decided && asked < UNIT_ROWS {
                    votes.add(&item.clip.bounds);
                    if let Some(last) = item.clip.bounds.maybe_milliseconds()
                        && let Some(length) = self.length(item)?
                    {
                        asked += 1;
                        votes.add_length(last, length);
                    }
                }
                item.unit = if votes.are_milliseconds() { 0.001 } else { 1.0 };
            }
            next = self.filtered(next);
            if let TableItem::Clip(item) = &next
                && let Some(verdict) = self.same_file(item)
            {
                next = verdict;
            }
            more = self.offer(next)?;
            Ok(more)
        })?;
        self.ignored = ignored;
        Ok(more)
    }

    /// What an earlier row of a streamed table says of the same file.
    fn same_file(&mut self, waiting: &ClipItem) -> Option<TableItem> {
        let key = (waiting.file?, waiting.part());
        let row = waiting.clip.place.clone();
        let Some((text, place)) = self.texts.get(&key) else {
            self.texts.insert(key, (waiting.clip.text.clone(), row));
            return None;
        };
        if *text == waiting.clip.text {
            return Some(TableItem::Repeated(LeftRow { row, reason: format!("it says the same as {place}") }));
        }
        let reason = format!("one sound with two texts: {place} has `{text}`");
        // The earlier row may be a clip already.
        let first = place.clone();
        let contradicted = LeftRow { row: first.clone(), reason: format!("one sound with two texts: {row} has `{}`", waiting.clip.text) };
        self.waiting.retain(|waiting| waiting.clip.place != first);
        self.records.retain(|(_, record)| {
            let keep = record.source.as_ref() != Some(&first);
            if !keep {
                // A file that is not named by any row is no clip, even if it stays.
                let _ = fs::remove_file(self.cx.out.join(&record.audio_path));
            }
            keep
        });
        if !self.rejected.iter().any(|rejected| rejected.row == first) {
            self.reject(contradicted, true);
        }
        Some(TableItem::Bad(LeftRow { row, reason }))
    }

    fn reject(&mut self, rejected: LeftRow, is_bad: bool) {
        if is_bad {
            self.bad.push(format!("{}: {}", rejected.row, rejected.reason));
        }
        self.rejected.push(rejected);
    }

    /// Queues a row or rejects it. Returns whether more rows are wanted.
    fn offer(&mut self, item: TableItem) -> Result<bool> {
        if self.cx.stopping() {
            return Err(Error::new("import interrupted").kind(ErrorKind::Interrupted).hint("run again to continue"));
        }
        self.seen += 1;
        match item {
            TableItem::Bad(left) => self.reject(left, true),
            TableItem::Missing(left, named) => {
                let left = self.missing(left, &named);
                self.reject(left, false);
            }
            TableItem::Repeated(left) => self.repeated.push(left),
            TableItem::Filtered(left) => self.reject(left, false),
            TableItem::OtherSplit(split) => {
                *self.other_splits.entry(split).or_default() += 1;
                return Ok(true);
            }
            TableItem::Clip(waiting) => {
                // All parts of one recording are cut in one go.
                let same = self.waiting.last().is_some_and(|last| last.file.is_some() && last.file == waiting.file);
                if self.waiting.len() >= BATCH && !same {
                    self.take()?;
                }
                self.waiting.push(*waiting);
            }
        }
        if self.waiting.len() >= self.wanted().saturating_sub(self.records.len()) {
            self.take()?;
        }
        Ok(self.records.len() < self.wanted())
    }

    /// A row, or that a setting leaves it out.
    fn filtered(&self, item: TableItem) -> TableItem {
        let TableItem::Clip(waiting) = item else { return item };
        let asked = self.import.split.as_ref().map_or(&[][..], |splits| splits.as_slice());
        let has = waiting.split.as_deref().unwrap_or_default();
        if !asked.is_empty() && !asked.iter().any(|asked| is_split(asked, has)) {
            return TableItem::OtherSplit(has.to_owned());
        }
        match self.rejection(&waiting) {
            Some(reason) => TableItem::Filtered(LeftRow { row: waiting.clip.place, reason }),
            None => TableItem::Clip(waiting),
        }
    }

    /// The reason to reject a row before its audio is read, if any.
    fn rejection(&self, waiting: &ClipItem) -> Option<String> {
        let (import, clip) = (self.import, &waiting.clip);
        if let (Some(wanted), Some(language)) = (&import.language, &clip.language)
            && wanted != language
        {
            return Some(format!("it is in the language `{language}`"));
        }
        let words = clip.text.split_whitespace().count();
        if words < import.min_words || import.max_words.is_some_and(|most| words > most) {
            return Some(format!("its text has {}", count(words, "word")));
        }
        // Allow for rounding; the decoded audio is measured again.
        let seconds = clip.bounds.seconds(waiting.unit);
        let outside = seconds.filter(|seconds| *seconds < import.min_seconds - 0.01 || *seconds > import.max_seconds + 0.01);
        outside.map(|seconds| {
            format!("it says to have {} s, between {} and {} s are asked for", rounded(seconds), import.min_seconds, import.max_seconds)
        })
    }

    /// Fetches and decodes the queued rows.
    fn take(&mut self) -> Result<()> {
        let mut ready = Vec::new();
        let mut fetched = BTreeMap::new();
        for waiting in std::mem::take(&mut self.waiting) {
            let span = waiting.clip.bounds.span(waiting.unit);
            match span.and_then(|span| Ok((span, self.fetch(&waiting, &mut fetched).map_err(|error| error.to_string())?))) {
                Ok((span, Ok(candidate))) => ready.push((waiting, AudioCandidate { span, ..candidate })),
                Ok((_, Err(reason))) | Err(reason) => self.reject(LeftRow { row: waiting.clip.place, reason }, true),
            }
        }
        let limits = IngestLimits { min: self.import.min_seconds, max: self.import.max_seconds };
        let candidates: Vec<AudioCandidate> = ready.iter().map(|(_, candidate)| candidate.clone()).collect();
        let taken = ingest_audio(&candidates, &self.into, limits, |_| !self.cx.stopping())?;
        for candidate in &candidates {
            self.tidy(candidate)?;
        }
        for ((waiting, candidate), taken) in ready.into_iter().zip(taken) {
            match taken {
                Ok(made) => self.keep(waiting, &candidate, made),
                Err(reason) => {
                    let is_bad = !is_limit(&reason);
                    self.reject(LeftRow { row: waiting.clip.place, reason }, is_bad);
                }
            }
        }
        let total = self.import.count.unwrap_or(self.seen);
        self.cx.progress(self.records.len() as u64, total as u64, "clips", format!("{} seen", count(self.seen, "row")));
        Ok(())
    }

    fn keep(&mut self, waiting: ClipItem, candidate: &AudioCandidate, made: IngestedClip) {
        let rest = waiting.row_fields();
        self.sound_notes.extend(made.notes.into_iter().map(|note| (candidate.shown.clone(), note)));
        let clip = waiting.clip;
        self.digits += usize::from(is_digits(&clip.text));
        let record = ClipRow {
            audio_path: format!("audio/{}.wav", candidate.stem),
            text: clip.text,
            language: self.import.language.clone().or(clip.language),
            duration: Some(made.seconds),
            speaker: clip.speaker,
            source: Some(clip.place),
            rest,
        };
        self.records.push((waiting.number, record));
    }

    /// The local audio file of a row, downloaded if necessary; or the reason why there is none. `fetched` are the files of this batch.
    fn fetch(&self, waiting: &ClipItem, fetched: &mut BTreeMap<String, PathBuf>) -> Result<Result<AudioCandidate, String>> {
        let (number, clip) = (waiting.number, &waiting.clip);
        let named = clip.path.clone().unwrap_or_default();
        let plain = named.replace('\\', "/");
        let name = Path::new(&plain);
        let stem = name.file_stem().and_then(|stem| stem.to_str()).map_or_else(|| "clip".to_owned(), safe_name);
        let ending = name.extension().and_then(|ending| ending.to_str()).map_or_else(|| "wav".to_owned(), safe_name);
        let stem = format!("{number:06}-{}", stem.chars().take(40).collect::<String>());
        let kept = self.cx.scratch.join(format!("import-{number:06}.{ending}"));
        let (path, shown) = match &clip.bytes {
            Some(bytes) => {
                fs::write(&kept, bytes)?;
                (kept, if named.is_empty() { clip.place.clone() } else { named })
            }
            None => {
                let found = waiting.file.map_or(named, |file| self.index.path(file).to_owned());
                if self.audio.size(&found) > LARGEST && self.audio.on_disk(&found).is_none() {
                    return Ok(Err(format!("its file `{found}` has more than {} MiB", LARGEST >> 20)));
                }
                let path = match fetched.get(&found) {
                    Some(path) => path.clone(),
                    None => self.audio.local(&found, &kept)?,
                };
                fetched.insert(found.clone(), path.clone());
                (path, found)
            }
        };
        Ok(Ok(AudioCandidate { path, shown, stem, span: None, channel: self.import.channel }))
    }

    /// Writes the clips and the report.
    pub(super) fn finish(mut self, tables: &[PickedTable], place: &Place) -> Result<StageOutcome> {
        let (cx, import) = (self.cx, self.import);
        let reasons: Vec<String> = self.rejected.iter().map(|rejected| format!("{}: {}", rejected.row, rejected.reason)).collect();
        if !reasons.is_empty() {
            let message = format!("{} rejected: {}", count(reasons.len(), "row"), first_few(&reasons, 5));
            if import.strict {
                return Err(Error::new(message).hint("fix these, or set `strict = false` to continue without them"));
            }
            cx.warn(message);
        }
        if self.records.is_empty() {
            if let Some(asked) = import.split.as_ref().filter(|_| !self.other_splits.is_empty()) {
                let known: Vec<&str> = self.other_splits.keys().map(String::as_str).filter(|split| !split.is_empty()).collect();
                let hint = if known.is_empty() {
                    "its rows have no split: remove `split`".to_owned()
                } else {
                    format!("available: {}", known.join(", "))
                };
                return Err(Error::new(format!("no split {} in `{}`", first_few(asked.as_slice(), 3), place.name())).hint(hint));
            }
            let why = if reasons.is_empty() { "the tables have no rows".to_owned() } else { first_few(&reasons, 3) };
            return Err(Error::new(format!("none of {} of `{}` gave a usable clip; {why}", count(self.seen, "row"), place.name()))
                .hint("check the column names (`columns`), and whether `language`, `min_words` and `max_seconds` reject every row"));
        }
        check_bad_rows(&self.bad, self.seen, import.max_bad)?;
        self.notes.sort();
        self.notes.dedup();
        if self.digits > 0 {
            self.notes.push(format!("{} with a text of digits alone; check that it is the transcript", count(self.digits, "clip")));
        }
        if !self.repeated.is_empty() {
            let rows: Vec<String> = self.repeated.iter().map(|row| format!("{}: {}", row.row, row.reason)).collect();
            self.notes.push(format!("{} repeated and used once: {}", count(rows.len(), "row"), first_few(&rows, 3)));
        }
        self.notes.extend(ingest::summarized(&self.sound_notes));
        self.notes.iter().for_each(|note| cx.note(note));
        if let Some(wanted) = import.count.filter(|wanted| *wanted > self.records.len()) {
            cx.note(format!("`count` is {wanted}, but only {} were found: using all of them", self.records.len()));
        }
        self.records.sort_by_key(|(number, _)| *number);
        keep_unknown_splits(self.records.iter_mut().map(|(_, record)| &mut record.rest));
        let records: Vec<ClipRow> = self.records.into_iter().map(|(_, record)| record).collect();
        let seconds = rounded(records.iter().filter_map(|record| record.duration).sum());
        let mut languages: BTreeMap<&str, usize> = BTreeMap::new();
        let mut splits: BTreeMap<&str, usize> = BTreeMap::new();
        for record in &records {
            *languages.entry(record.language.as_deref().unwrap_or("unknown")).or_default() += 1;
            if let Some(split) = record.rest.get("split").and_then(Value::as_str) {
                *splits.entry(split).or_default() += 1;
            }
        }
        let mut report = json!({
            "source": place.name(),
            "tables": tables.iter().map(|table| table.path.as_str()).collect::<Vec<_>>(),
            "rows": self.seen,
            "clips": records.len(),
            "seconds": seconds,
            "languages": languages,
            "splits": splits,
            "rejected": self.rejected,
            "repeated": self.repeated,
            "ignored_columns": self.ignored,
            "left_out_of_paths": self.prefixes,
            "other_splits": self.other_splits,
            "notes": self.notes,
            "sound_notes": self.sound_notes.iter().map(|(file, note)| json!({"file": file, "note": note})).collect::<Vec<_>>(),
        });
        let in_splits = splits.iter().map(|(split, number)| format!("{number} {split}")).collect::<Vec<_>>().join(", ");
        let in_splits = if splits.is_empty() { String::new() } else { format!("; {in_splits}") };
        let mut made =
            StageResult::new(format!("{} of `{}`, {seconds:.0} s in all{in_splits}", count(records.len(), "clip"), place.name()));
        if let Some(reader) = place.reader() {
            let license = reader.license()?;
            report["repository"] = import.repo.clone().into();
            report["commit"] = reader.commit().into();
            report["licence"] = license.clone().into();
            made = made.fact("repository", import.repo.clone()).fact("commit", reader.commit()).fact("licence", Value::from(license));
        }
        jsonl::write(&cx.out.join("clips.jsonl"), &records)?;
        fs::write(cx.out.join("report.json"), serde_json::to_vec_pretty(&report)?)?;
        Ok(StageOutcome::Done(made.metric("clips", records.len() as f64).metric("seconds", seconds)))
    }
}
