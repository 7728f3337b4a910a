//! Streaming Parquet reader: reads only the footer and the pages of the wanted rows and columns, so multi-gigabyte files are cheap.
//!
//! The parquet crate runs in its own thread and requests byte ranges over a channel. The calling thread answers the requests and consumes
//! each row before the next one is decoded.

use crate::data::table::Cell;
use crate::error::{Error, Result};
use bytes::Bytes;
use parquet::basic::Type as Physical;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};
use parquet::record::reader::TreeBuilder;
use parquet::record::{Field, Row};
use parquet::schema::types::{SchemaDescriptor, Type};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::io::Cursor;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Minimum size of a read request in bytes.
const WINDOW: u64 = 256 << 10;
/// Upper limit of the size of a page header in bytes.
const HEAD: u64 = 64 << 10;
/// Number of cached byte ranges: about one for each column that is read.
const WINDOWS: usize = 6;
/// Number of rows decoded ahead.
const AHEAD: usize = 4;

/// The cells of a row by column name.
pub(super) type Cells = Vec<(Arc<str>, Cell)>;

/// Message from the reader thread.
enum Word {
    /// Request for bytes: offset and length.
    Bytes(u64, u64),
    /// A row and its index in the file.
    Row(u64, Box<Cells>),
    /// The thread has ended.
    Ended(Result<(), ParquetError>),
}

/// Passes every row of a file to `each` until that returns `false`. With a seed, row groups are read in a seeded random order. `fetch`
/// reads a byte range of the file, `shown` is its name for messages.
pub(super) fn read(
    shown: &str,
    size: u64,
    columns: &(dyn Fn(&str) -> bool + Sync),
    seed: Option<u64>,
    fetch: &mut dyn FnMut(u64, u64) -> Result<Vec<u8>>,
    each: &mut dyn FnMut(u64, Cells) -> Result<bool>,
) -> Result<()> {
    let damaged = |error: &dyn std::fmt::Display| {
        Error::new(format!("`{shown}` cannot be read as Parquet: {error}")).hint("download the file again, or exclude it with `files`")
    };
    thread::scope(|scope| {
        // A rendezvous channel: the thread waits until its message is received.
        let (words, requests) = sync_channel::<Word>(0);
        let (bytes, answers) = channel::<Bytes>();
        let thread = scope.spawn(move || {
            let source = Source { size, line: Arc::new(Mutex::new((words.clone(), answers, Vec::new()))) };
            let ended = rows(source, columns, seed, &words);
            // The receiver is gone if enough rows were read.
            let _ = words.send(Word::Ended(ended));
        });
        let served = serve(requests, bytes, fetch, each);
        let joined = thread.join();
        match (served, joined) {
            (Err(error), _) => Err(error),
            (Ok(_), Err(panic)) => Err(damaged(&crate::error::panic_message(&*panic))),
            (Ok(Some(Err(error))), _) => Err(damaged(&error)),
            (Ok(_), _) => Ok(()),
        }
    })
}

/// Serves the thread until it ends or enough rows were read. Returns its result if it has ended.
fn serve(
    requests: Receiver<Word>,
    bytes: Sender<Bytes>,
    fetch: &mut dyn FnMut(u64, u64) -> Result<Vec<u8>>,
    each: &mut dyn FnMut(u64, Cells) -> Result<bool>,
) -> Result<Option<Result<(), ParquetError>>> {
    while let Ok(word) = requests.recv() {
        match word {
            Word::Bytes(from, length) => {
                // Sending fails only if the thread has ended.
                let _ = bytes.send(fetch(from, length)?.into());
            }
            Word::Row(number, cells) => {
                if !each(number, *cells)? {
                    return Ok(None);
                }
            }
            Word::Ended(ended) => return Ok(Some(ended)),
        }
    }
    Ok(None)
}

/// Decodes the wanted columns of all rows and sends them.
fn rows(source: Source, wanted: &dyn Fn(&str) -> bool, seed: Option<u64>, words: &SyncSender<Word>) -> Result<(), ParquetError> {
    let file = SerializedFileReader::new(source)?;
    let schema = file.metadata().file_metadata().schema_descr_ptr();
    let root = schema.root_schema();
    let fields: Vec<_> = root.get_fields().iter().filter(|field| wanted(field.name())).cloned().collect();
    if fields.is_empty() {
        let names = root.get_fields().iter().map(|field| field.name()).collect::<Vec<_>>().join(", ");
        return Err(ParquetError::General(format!("it has no known column ({names})")));
    }
    let binary: Vec<String> = fields.iter().filter(|field| is_binary(field)).map(|field| field.name().to_owned()).collect();
    let projection = Type::group_type_builder(root.name()).with_fields(fields).build()?;
    let descriptor = Arc::new(SchemaDescriptor::new(Arc::new(projection)));
    let sizes: Vec<u64> = file.metadata().row_groups().iter().map(|group| group.num_rows().unsigned_abs()).collect();
    let mut groups: Vec<usize> = (0..sizes.len()).collect();
    if let Some(seed) = seed {
        groups.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    }
    for group in groups {
        let first: u64 = sizes[..group].iter().sum();
        let reader = file.get_row_group(group)?;
        let rows = TreeBuilder::new().with_batch_size(AHEAD).as_iter(Arc::clone(&descriptor), &*reader)?;
        for (index, row) in rows.enumerate() {
            let cells = cells(row?, &binary);
            if words.send(Word::Row(first + index as u64, Box::new(cells))).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Whether a column holds plain bytes: audio without a file name.
fn is_binary(field: &Type) -> bool {
    field.is_primitive() && field.get_physical_type() == Physical::BYTE_ARRAY && {
        let info = field.get_basic_info();
        info.logical_type_ref().is_none() && info.converted_type() == parquet::basic::ConvertedType::NONE
    }
}

fn cells(row: Row, binary: &[String]) -> Cells {
    let mut cells = Cells::default();
    for (name, field) in row.into_columns() {
        let cell = match field {
            Field::Null => continue,
            Field::Str(text) => Cell::Text(text),
            Field::Bytes(bytes) if binary.contains(&name) => Cell::Sound { bytes: Some(bytes.data().to_vec()), path: None },
            Field::Bytes(bytes) => Cell::Text(String::from_utf8_lossy(bytes.data()).into_owned()),
            Field::Group(row) => {
                let (mut bytes, mut path) = (None, None);
                let mut others = 0;
                for (part, field) in row.into_columns() {
                    match (part.as_str(), field) {
                        ("bytes", Field::Bytes(found)) => bytes = Some(found.data().to_vec()),
                        ("path", Field::Str(found)) => path = Some(found),
                        ("bytes" | "path", Field::Null) => {}
                        _ => others += 1,
                    }
                }
                if others > 0 && bytes.is_none() && path.is_none() {
                    Cell::Json(serde_json::json!({}))
                } else {
                    Cell::Sound { bytes, path }
                }
            }
            list @ (Field::ListInternal(_) | Field::MapInternal(_)) => Cell::Json(serde_json::json!([list.to_string()])),
            Field::Bool(truth) => Cell::Json(truth.into()),
            // Numbers of other columns are speakers and times.
            other => other
                .to_string()
                .parse::<serde_json::Number>()
                .map_or_else(|_| Cell::Text(other.to_string()), |number| Cell::Json(number.into())),
        };
        cells.push((name.to_lowercase().into(), cell));
    }
    cells
}

/// The file as a [`ChunkReader`].
struct Source {
    size: u64,
    line: Arc<Mutex<Line>>,
}

/// Request channel, response channel, and the cached byte ranges with their offsets, most recently used last.
type Line = (SyncSender<Word>, Receiver<Bytes>, Vec<(u64, Bytes)>);

impl Source {
    /// At least `length` bytes from offset `start`, or an error if the file is shorter.
    fn window(&self, start: u64, length: u64) -> Result<Bytes, ParquetError> {
        let end = start.saturating_add(length);
        if end > self.size {
            return Err(ParquetError::EOF(format!("bytes {start} to {end} are outside the file of {} bytes", self.size)));
        }
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let (words, answers, windows) = &mut *line;
        let holds = |(from, bytes): &(u64, Bytes)| *from <= start && end <= from + bytes.len() as u64;
        if let Some(place) = windows.iter().position(holds) {
            let window = windows.remove(place);
            windows.push(window.clone());
            return Ok(window.1.slice((start - window.0) as usize..));
        }
        let wanted = length.max(WINDOW).min(self.size - start);
        let gone = || ParquetError::General("the reader was stopped".to_owned());
        words.send(Word::Bytes(start, wanted)).map_err(|_| gone())?;
        let bytes = answers.recv().map_err(|_| gone())?;
        if windows.len() == WINDOWS {
            windows.remove(0);
        }
        windows.push((start, bytes.clone()));
        Ok(bytes)
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Source {
    type T = Cursor<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(Cursor::new(self.window(start, HEAD.min(self.size.saturating_sub(start)))?))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        Ok(self.window(start, length as u64)?.slice(..length))
    }
}
