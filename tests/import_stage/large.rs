//! Streaming of a large Parquet file: only the needed parts are downloaded.

use super::{clips, run, serve};
use crate::hub_server::TOKEN;
use crate::stages::tone;
use crate::support::Sandbox;
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::collections::BTreeMap;
use std::sync::Arc;

const GROUPS: usize = 30;
const ROWS: usize = 10;

/// 300 clips of 100 kB each.
fn large() -> Vec<u8> {
    let schema = "message schema { optional group audio { optional binary bytes; optional binary path (UTF8); } \
                  optional binary text (UTF8); optional binary other (UTF8); }";
    let properties = WriterProperties::builder().set_compression(Compression::UNCOMPRESSED).set_dictionary_enabled(false);
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties.build())).unwrap();
    for group in 0..GROUPS {
        let all = |make: &dyn Fn(usize) -> Vec<u8>| -> Vec<ByteArray> { (0..ROWS).map(|row| make(group * ROWS + row).into()).collect() };
        let columns = [
            (all(&|row| tone(3.2, 100.0 + row as f64, 16_000, 1, 16)), 2),
            (all(&|row| format!("{row}.wav").into_bytes()), 2),
            (all(&|row| format!("Sentence number {row}.").into_bytes()), 1),
            (all(&|_| vec![b'x'; 50_000]), 1),
        ];
        let mut rows = writer.next_row_group().unwrap();
        for (values, level) in columns {
            let mut column = rows.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&[level; ROWS]), None).unwrap();
            column.close().unwrap();
        }
        rows.close().unwrap();
    }
    writer.into_inner().unwrap()
}

#[test]
fn few_rows_of_a_large_parquet_file_cost_little() {
    let bytes = large();
    let size = bytes.len() as u64;
    assert!(size > 40 << 20, "{size}");
    let (hub, sandbox) = (serve(BTreeMap::from([("data/train-00000-of-00001.parquet".to_owned(), bytes)])), Sandbox::new());
    run(&sandbox, &hub, "repo = \"ann/voice\", count = 5").exits(0);
    let first: Vec<String> = clips(&sandbox.path(".voxpipe/latest/p/it")).into_iter().map(|(text, _)| text).collect();
    assert_eq!(first, (0..5).map(|row| format!("Sentence number {row}.")).collect::<Vec<_>>());
    assert!(hub.sent() < 4 << 20, "{} of {size} bytes", hub.sent());
    assert!(hub.asked().iter().all(|seen| seen.authorization.as_deref() == Some(&format!("Bearer {TOKEN}"))));

    hub.forget();
    run(&sandbox, &hub, "repo = \"ann/voice\", count = 5, pick = \"sample\"").exits(0);
    let sample: Vec<String> = clips(&sandbox.path(".voxpipe/latest/p/it")).into_iter().map(|(text, _)| text).collect();
    assert!(sample.len() == 5 && sample != first, "{sample:?}");
    assert!(hub.sent() < 4 << 20, "{} of {size} bytes", hub.sent());
}
