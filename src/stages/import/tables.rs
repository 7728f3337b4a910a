//! Iterates over the rows of tables, in order or in a seeded random order.

use super::place::Place;
use super::rows::{Cells, Row, is_read};
use super::{Columns, parquet};
use crate::data::table;
use crate::error::{Error, Result};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value};
use std::fs;
use std::path::Path;

/// Block size in bytes for streaming a large table.
const BLOCK: u64 = 1 << 20;
/// JSON Lines manifests larger than this are streamed in blocks.
const SHORT: u64 = 4 << 20;
/// Maximum size of a table for random sampling, which reads the whole table.
const WHOLE: u64 = 64 << 20;

/// Passes the rows of all tables, with the name of their table, to `each` until that returns `false`.
pub(super) fn each_row(
    place: &Place,
    tables: &[String],
    columns: &Columns,
    seed: Option<u64>,
    scratch: &Path,
    each: &mut dyn FnMut(&str, Row) -> Result<bool>,
) -> Result<()> {
    let mut random = seed.map(ChaCha8Rng::seed_from_u64);
    if tables.iter().all(|table| table.ends_with(".parquet")) {
        let mut tables: Vec<&String> = tables.iter().collect();
        if let Some(random) = &mut random {
            tables.shuffle(random);
        }
        for table in tables {
            let mut more = true;
            let shown = format!("{}/{table}", place.name);
            let mut row = |number: u64, cells: Cells| {
                more = each(table, Row::new(format!("{} {table} row {}", place.name, number + 1), cells, columns))?;
                Ok(more)
            };
            let fetch = &mut |from, length| place.part(table, from, length);
            parquet::read(&shown, place.size(table), &|name| is_read(columns, name), seed, fetch, &mut row)?;
            if !more {
                break;
            }
        }
        return Ok(());
    }
    if let Some(random) = &mut random {
        let mut all = Vec::new();
        for table in tables {
            if place.size(table) > WHOLE {
                return Err(Error::new(format!("`{table}` of `{}` is too large for random sampling", place.name))
                    .hint("remove `pick` to take the first rows, or name a smaller table in `files`"));
            }
            all.extend(whole(place, table, columns, scratch)?.into_iter().map(|row| (table, row)));
        }
        all.shuffle(random);
        for (table, row) in all {
            if !each(table, row)? {
                break;
            }
        }
        return Ok(());
    }
    for table in tables {
        let more = if place.size(table) > SHORT && !table.ends_with("csv") && !table.ends_with("tsv") {
            streamed(place, table, columns, each)?
        } else {
            let mut more = true;
            for row in whole(place, table, columns, scratch)? {
                more = each(table, row)?;
                if !more {
                    break;
                }
            }
            more
        };
        if !more {
            break;
        }
    }
    Ok(())
}

/// Reads a whole table.
fn whole(place: &Place, table: &str, columns: &Columns, scratch: &Path) -> Result<Vec<Row>> {
    // NeMo names JSON Lines manifests `.json`.
    let ending = Path::new(table).extension().and_then(|ending| ending.to_str()).unwrap_or_default().replace("ndjson", "jsonl");
    let ending = if ending == "json" { "jsonl" } else { &ending };
    let copy = scratch.join(format!("table.{ending}"));
    fs::write(&copy, place.part(table, 0, place.size(table))?)?;
    let rows = table::read(&copy, &format!("{}/{table}", place.name));
    fs::remove_file(&copy)?;
    Ok(rows?.iter().map(|row| Row::new(format!("{} {table}:{}", place.name, row.line), row.into(), columns)).collect())
}

/// Streams the rows of a large JSON Lines manifest. Returns whether `each` wants more.
fn streamed(place: &Place, table: &str, columns: &Columns, each: &mut dyn FnMut(&str, Row) -> Result<bool>) -> Result<bool> {
    let (size, mut from, mut number) = (place.size(table), 0, 0);
    let mut rest = Vec::new();
    while from < size {
        let length = BLOCK.min(size - from);
        rest.extend(place.part(table, from, length)?);
        from += length;
        let whole = if from == size { rest.len() } else { rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1) };
        let left = rest.split_off(whole);
        for line in rest.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()) {
            number += 1;
            let row: Map<String, Value> = serde_json::from_slice(line).map_err(|error| {
                Error::new(format!("{}/{table}, row {number}: {error}", place.name)).hint("each line must be one JSON object")
            })?;
            let text = |(name, value): (String, Value)| match value {
                Value::Null => None,
                Value::String(text) => Some((name, text)),
                other => Some((name, other.to_string())),
            };
            let cells = Cells { texts: row.into_iter().filter_map(text).collect(), sounds: Vec::new() };
            if !each(table, Row::new(format!("{} {table} row {number}", place.name), cells, columns))? {
                return Ok(false);
            }
        }
        rest = left;
    }
    Ok(true)
}
