//! Parquet files with embedded audio, for the Hub's dataset viewer and for `datasets`: a struct column `audio` (`bytes`, `path`), one
//! column per other field, and the `features` of `datasets` in the file metadata.

use crate::error::{Error, Result, ResultExt};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Map, Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Approximate bytes of audio per file; the default shard size of `datasets`.
const SHARD: u64 = 500 << 20;
/// Limits of a row group: approximate bytes of audio (bounds memory use), and rows (keeps page loads in the viewer small).
const GROUP: (u64, usize) = (32 << 20, 100);
/// String columns.
const TEXTS: [&str; 4] = ["text", "language", "speaker", "source"];

/// One row of a split.
pub(super) struct Row {
    /// File name of the audio in the repository.
    pub(super) name: String,
    /// Path of the audio file and its size in bytes.
    pub(super) audio: (PathBuf, u64),
    /// Values of the other columns.
    pub(super) facts: Map<String, Value>,
}

/// Writes the Parquet files of a split to a folder. Returns their names.
pub(super) fn write(folder: &Path, split: &str, rows: &[Row]) -> Result<Vec<String>> {
    let shards = cut(rows, SHARD, usize::MAX);
    let name = |at: usize| format!("{split}-{at:05}-of-{:05}.parquet", shards.len());
    for (at, shard) in shards.iter().enumerate() {
        shard_to(&folder.join(name(at)), shard)?;
    }
    Ok((0..shards.len()).map(name).collect())
}

/// Splits rows into consecutive parts of at most `bytes` of audio (more only for a single large row) and at most `most` rows.
fn cut(rows: &[Row], bytes: u64, most: usize) -> Vec<&[Row]> {
    let mut parts = Vec::new();
    let (mut from, mut size) = (0, 0);
    for (at, row) in rows.iter().enumerate() {
        if at > from && (size + row.audio.1 > bytes || at - from == most) {
            parts.push(&rows[from..at]);
            (from, size) = (at, 0);
        }
        size += row.audio.1;
    }
    parts.push(&rows[from..]);
    parts
}

/// Writes one Parquet file.
fn shard_to(path: &Path, rows: &[Row]) -> Result<()> {
    let doing = || format!("cannot write `{}`", path.display());
    let file = fs::File::create(path).with_context(doing)?;
    let wrong = |error: ParquetError| Error::new(format!("{}: {error}", doing()));
    let texts: String = TEXTS.iter().map(|name| format!("optional binary {name} (UTF8); ")).collect();
    let schema = format!(
        "message schema {{ optional group audio {{ optional binary bytes; optional binary path (UTF8); }} {texts}optional double duration; }}"
    );
    let schema = parse_message_type(&schema).map_err(wrong)?;
    let mut features = Map::from_iter([("audio".to_owned(), json!({ "sampling_rate": 16_000, "_type": "Audio" }))]);
    features.extend(TEXTS.map(|name| (name.to_owned(), json!({ "dtype": "string", "_type": "Value" }))));
    features.insert("duration".to_owned(), json!({ "dtype": "float64", "_type": "Value" }));
    let metadata = KeyValue::new("huggingface".to_owned(), json!({ "info": { "features": features } }).to_string());
    // Compression and dictionaries gain little: audio dominates the size.
    let properties = WriterProperties::builder().set_compression(Compression::UNCOMPRESSED).set_dictionary_enabled(false);
    let properties = properties.set_created_by("voxpipe".to_owned()).set_key_value_metadata(Some(vec![metadata])).build();
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)).map_err(wrong)?;
    for group in cut(rows, GROUP.0, GROUP.1) {
        group_to(&mut writer, group, &wrong)?;
    }
    writer.close().map_err(wrong)?;
    Ok(())
}

/// Writes one row group, column by column.
fn group_to<W: Write + Send>(writer: &mut SerializedFileWriter<W>, rows: &[Row], wrong: &dyn Fn(ParquetError) -> Error) -> Result<()> {
    let mut group = writer.next_row_group().map_err(wrong)?;
    let mut bytes = |values: Vec<Option<ByteArray>>, defined: i16| {
        // Definition level: `defined` for a value, 0 for null.
        let levels: Vec<i16> = values.iter().map(|value| if value.is_some() { defined } else { 0 }).collect();
        let values: Vec<ByteArray> = values.into_iter().flatten().collect();
        let mut column = group.next_column()?.ok_or_else(|| ParquetError::General("missing column".to_owned()))?;
        column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None)?;
        column.close()
    };
    let audio = rows.iter().map(|row| {
        let read = fs::read(&row.audio.0).with_context(|| format!("cannot read `{}`", row.audio.0.display()));
        read.map(|bytes| Some(ByteArray::from(bytes)))
    });
    bytes(audio.collect::<Result<_>>()?, 2).map_err(wrong)?;
    bytes(rows.iter().map(|row| Some(ByteArray::from(row.name.as_str()))).collect(), 2).map_err(wrong)?;
    for name in TEXTS {
        bytes(rows.iter().map(|row| row.facts.get(name)?.as_str().map(ByteArray::from)).collect(), 1).map_err(wrong)?;
    }
    let durations: Vec<Option<f64>> = rows.iter().map(|row| row.facts.get("duration").and_then(Value::as_f64)).collect();
    let levels: Vec<i16> = durations.iter().map(|value| i16::from(value.is_some())).collect();
    let durations: Vec<f64> = durations.into_iter().flatten().collect();
    let last = || ParquetError::General("missing column".to_owned());
    let mut column = group.next_column().and_then(|column| column.ok_or_else(last)).map_err(wrong)?;
    column.typed::<DoubleType>().write_batch(&durations, Some(&levels), None).map_err(wrong)?;
    column.close().map_err(wrong)?;
    group.close().map_err(wrong)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_split_by_size_and_count() {
        let row = |size| Row { name: String::new(), audio: (PathBuf::new(), size), facts: Map::new() };
        let rows: Vec<Row> = [5, 5, 5, 20, 1].map(row).into_iter().collect();
        let sizes = |bytes, most| -> Vec<usize> { cut(&rows, bytes, most).iter().map(|part| part.len()).collect() };
        assert_eq!(sizes(10, 9), [2, 1, 1, 1]);
        assert_eq!(sizes(1000, 2), [2, 2, 1]);
        assert_eq!(sizes(1000, 9), [5]);
    }
}
