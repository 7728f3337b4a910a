//! Tables as people and programs make them: which recording a row means, what part of it, and in which split it is.

mod import;
mod layouts;

use crate::stages::{Bench, says, tone};
use serde_json::{Value, json};
use std::fs;
use voxpipe::data::clip_row::ClipRow;
use voxpipe::stages::import::Import;
use voxpipe::stages::uploads::Uploads;

/// A recording whose second `n` has its own loudness, so that a cut shows where it is from.
fn steps(seconds: u32) -> Vec<u8> {
    let spec = hound::WavSpec { channels: 1, sample_rate: 16_000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    for index in 0..seconds * 16_000 {
        writer.write_sample(i16::try_from(1000 * (index / 16_000 + 1)).unwrap()).unwrap();
    }
    writer.finalize().unwrap();
    bytes.into_inner()
}

/// Loudness of the first and the last sample of a clip in thousands, and its duration.
fn cut(bench: &Bench, record: &ClipRow) -> (i16, i16, f64) {
    let wav = hound::WavReader::open(bench.cx.out.join(&record.audio_path)).unwrap();
    let samples: Vec<i16> = wav.into_samples::<i16>().map(Result::unwrap).collect();
    (samples[0] / 1000, samples[samples.len() - 1] / 1000, record.duration.unwrap())
}

/// The texts of the clips with their files.
pub(crate) fn texts(bench: &Bench) -> Vec<(String, String)> {
    let records = bench.rows::<ClipRow>("clips.jsonl");
    records.into_iter().map(|record| (record.source.unwrap(), record.text)).collect()
}

fn uploads(transcripts: &str) -> Value {
    json!({"audio": "in", "transcripts": transcripts, "language": "en"})
}

/// What both stages make of rows: uploads with the table beside the folder, import with the table in it.
fn both(bench: &mut Bench, name: &str, table: &str) -> Vec<(Vec<ClipRow>, Value)> {
    bench.file(name, table);
    bench.file(&format!("in/{name}"), table);
    let mut found = Vec::new();
    bench.made::<Uploads>(uploads(name));
    found.push((bench.rows("clips.jsonl"), bench.json("report.json")));
    bench.made::<Import>(json!({"folder": "in", "files": name}));
    found.push((bench.rows("clips.jsonl"), bench.json("report.json")));
    fs::remove_file(bench.cx.root.join("in").join(name)).unwrap();
    found
}

#[test]
fn a_row_never_takes_the_sound_of_another_folder() {
    let mut bench = Bench::new();
    bench.file("in/spkA/001.wav", steps(1));
    bench.file("in/spkA/002.wav", steps(2));
    bench.file("in/spkC/003.wav", steps(3));
    let row = |path: &str, text: &str| format!("{path},{text}\n");
    for (rows, used) in [
        ([row("spkA/001.wav", "One."), row("spkB/002.wav", "Two."), row("003.wav", "Three.")].concat(), &["One.", "Three."][..]),
        (
            [row("/data/set/spkA/001.wav", "One."), row("/data/set/spkB/002.wav", "Two."), row("/data/set/spkC/003.wav", "Three.")]
                .concat(),
            &["One.", "Three."],
        ),
        (
            [row("D:\\set\\spkA\\001.mp3", "One."), row("D:\\set\\spkA\\002.mp3", "Two."), row("E:\\old\\spkC\\003.mp3", "Three.")]
                .concat(),
            &["One.", "Two."],
        ),
    ] {
        for (records, report) in both(&mut bench, "t.csv", &format!("file,text\n{rows}")) {
            let found: Vec<&str> = records.iter().map(|record| record.text.as_str()).collect();
            assert_eq!(found, used, "{rows}");
            let listed = format!("{}{}", report["texts_without_file"], report["rejected"]);
            assert!(listed.contains("002.wav` is in another folder") || listed.contains("003.wav` is in another folder"), "{listed}");
        }
    }
}

#[test]
fn no_recording_serves_two_rows_unsaid() {
    let mut bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.file(&format!("in/{name}.wav"), steps(2));
    }
    let table = "file,text\na.wav,One.\nA.WAV,Another.\nb.wav,Same.\nb,same\nc.wav,Last.\n";
    for (records, report) in both(&mut bench, "t.csv", table) {
        let found: Vec<&str> = records.iter().map(|record| record.text.as_str()).collect();
        assert_eq!(found, ["Same.", "Last."]);
        let all = report.to_string();
        for says in ["t.csv:2", "t.csv:3", "one sound with two texts", "it says the same as"] {
            assert!(all.contains(says), "{says}: {all}");
        }
        assert_eq!(report["repeated"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn names_differ_in_unicode_form_and_case_everywhere() {
    for (file, named) in
        [("e\u{301}te\u{301}", "\u{e9}t\u{e9}"), ("\u{e9}t\u{e9}", "e\u{301}te\u{301}"), ("Ete 1", "ete%201"), ("ETE", "ete")]
    {
        let mut bench = Bench::new();
        bench.file(&format!("in/{file}.wav"), steps(1));
        for (records, _) in both(&mut bench, "t.csv", &format!("file,text\n{named}.wav,Summer.\n")) {
            assert_eq!(records.len(), 1, "{named}");
        }
        if !named.contains('%') {
            bench.file(&format!("in/{named}.txt"), "Summer.");
            bench.made::<Uploads>(uploads("txt"));
            assert_eq!(texts(&bench).len(), 1, "{named}.txt");
        }
    }
}

#[test]
fn bounds_are_cut_in_both_stages_however_they_are_written() {
    let mut bench = Bench::new();
    bench.file("in/talk.wav", steps(9));
    bench.file("in/rest.wav", steps(3));
    let rest = |columns: usize| format!("rest.wav{}Other.\n", ",".repeat(columns));
    for (columns, rows, expected) in [
        ("file,start,end,text", "talk.wav,1,2.5,x\ntalk.wav,2.5,4,y\n", &[1.5, 1.5][..]),
        ("file,start_time,end_time,text", "talk.wav,0:01,0:02.5,x\n", &[1.5]),
        ("file,begin,stop,text", "talk.wav,\"00:00:01,0\",\"00:00:02,5\",x\n", &[1.5]),
        ("file,offset,duration,text", "talk.wav,1,1.5,x\n", &[1.5]),
        ("file,offset,text", "talk.wav,6.5,x\n", &[2.5]),
        ("file,duration,text", "talk.wav,2,x\n", &[2.0]),
        ("file,duration,text", "talk.wav,8.95,x\n", &[9.0]),
        ("file,duration,text", "talk.wav,9.1,x\n", &[9.0]),
        ("file,start_ms,end_ms,text", "talk.wav,1000,2500,x\n", &[1.5]),
        ("file,from,to,text", "talk.wav,1000,2500,x\ntalk.wav,0,500,y\n", &[0.5, 1.5]),
        ("file,duration[ms],text", "talk.wav,2000,x\n", &[2.0]),
        ("file,duration,text", "talk.wav,9000,x\n", &[9.0]),
    ] {
        let table = format!("{columns}\n{rows}{}", rest(columns.matches(',').count()));
        for (records, report) in both(&mut bench, "t.csv", &table) {
            let durations: Vec<f64> =
                records.iter().filter(|record| record.text != "Other.").filter_map(|record| record.duration).collect();
            let mut sorted = durations.clone();
            sorted.sort_by(f64::total_cmp);
            assert_eq!(sorted, expected, "{table}: {report}");
            assert_eq!(report["ignored_columns"], json!([]));
        }
    }
}

#[test]
fn the_right_part_of_the_recording_is_in_the_clip() {
    let mut bench = Bench::new();
    bench.file("in/talk.wav", steps(9));
    bench.file("t.csv", "file,from,to,text,mood\ntalk.wav,1000,2500,x,good\ntalk.wav,7000,9000,y,bad\n");
    bench.made::<Uploads>(uploads("t.csv"));
    let records: Vec<ClipRow> = bench.rows("clips.jsonl");
    let cuts: Vec<_> = records.iter().map(|record| cut(&bench, record)).collect();
    assert_eq!(cuts, [(2, 3, 1.5), (8, 9, 2.0)]);
    let sources: Vec<&str> = records.iter().map(|record| record.source.as_deref().unwrap()).collect();
    assert_eq!(sources, ["in/talk.wav#t=1,2.5", "in/talk.wav#t=7,9"]);
    assert_eq!(bench.json("report.json")["ignored_columns"], json!(["mood"]));
    assert!(bench.heard().contains("note: the times in `t.csv` are read as milliseconds"), "{}", bench.heard());
    bench.file("in/metadata.csv", "file,from,to,text,mood\ntalk.wav,1000,2500,x,good\ntalk.wav,7000,9000,y,bad\n");
    bench.made::<Import>(json!({"folder": "in"}));
    let cuts: Vec<_> = bench.rows::<ClipRow>("clips.jsonl").iter().map(|record| cut(&bench, record)).collect();
    assert_eq!(cuts, [(2, 3, 1.5), (8, 9, 2.0)]);
    assert_eq!(bench.json("report.json")["ignored_columns"], json!(["mood"]));
}

#[test]
fn bounds_that_cannot_be_cut_are_refused_with_the_reason() {
    let mut bench = Bench::new();
    bench.file("in/talk.wav", steps(3));
    bench.file("in/good.wav", steps(1));
    for (row, reason) in [
        ("talk.wav,2,1,x", "it ends at 1 s and begins at 2 s"),
        ("talk.wav,2,9.5,x", "talk.wav has 3.00 s, and 2 s to 9.5 s of it are named"),
        ("talk.wav,5.5,,x", "talk.wav has 3.00 s, and 5.5 s to its end of it are named"),
        ("talk.wav,-1,2,x", "`-1` is before the beginning"),
        ("talk.wav,soon,2,x", "`soon` is no time"),
    ] {
        for (records, report) in both(&mut bench, "t.csv", &format!("file,start,end,text\n{row}\ngood.wav,,,Good.\n")) {
            assert_eq!(records.len(), 1, "{row}");
            assert!(report.to_string().contains(reason), "{row}: {report}");
        }
    }
    for (records, report) in both(&mut bench, "t.csv", "file,duration,text\ntalk.wav,4.5,x\ngood.wav,1,Good.\n") {
        assert_eq!(records.len(), 1);
        assert!(report.to_string().contains("talk.wav has 3.00 s, and 0 s to 4.5 s of it are named"), "{report}");
    }
}

#[test]
fn languages_are_mapped_and_unknown_ones_listed() {
    let mut bench = Bench::new();
    for name in ["a", "b", "c", "d", "e"] {
        bench.file(&format!("in/{name}.wav"), steps(1));
    }
    let table = "file,text,language\na,One.,English\nb,Two.,sv-SE\nc,Three.,deu\nd,Four.,Klingon\ne,Five.,und\n";
    for (records, report) in both(&mut bench, "t.csv", table) {
        let found: Vec<&str> = records.iter().map(|record| record.language.as_deref().unwrap_or("-")).collect();
        assert!(found == ["en", "sv", "de", "en"] || found == ["en", "sv", "de", "-"], "{found:?}");
        assert!(report.to_string().contains("`Klingon` is no language that is known"), "{report}");
    }
    bench.file("in/metadata.csv", table);
    bench.made::<Import>(json!({"folder": "in", "language": "de"}));
    assert_eq!(bench.rows::<ClipRow>("clips.jsonl").iter().map(|record| record.text.as_str()).collect::<Vec<_>>(), ["Three.", "Five."]);
    assert!(bench.heard().contains("it is in the language `en`"), "{}", bench.heard());
}

#[test]
fn folders_with_brackets_links_and_litter_are_read_as_people_mean_them() {
    let mut bench = Bench::new();
    bench.file("my clips [final]/a.wav", steps(1));
    bench.file("my clips [final]/._a.wav", "litter");
    bench.file("my clips [final]/.hidden/b.wav", steps(1));
    bench.file("my clips [final]/__MACOSX/a.wav", steps(1));
    bench.file("my clips [final]/Thumbs.db", "litter");
    bench.file("elsewhere/c.wav", steps(1));
    std::os::unix::fs::symlink(bench.cx.root.join("elsewhere"), bench.cx.root.join("my clips [final]/more")).unwrap();
    std::os::unix::fs::symlink(bench.cx.root.join("my clips [final]"), bench.cx.root.join("my clips [final]/again")).unwrap();
    bench.file("t.csv", "file,text\na.wav,One.\nc.wav,Two.\n");
    for audio in ["my clips [final]", "my clips [final]/**/*.wav"] {
        let audio = json!({"audio": audio, "transcripts": "t.csv"});
        bench.made::<Uploads>(audio);
        assert_eq!(texts(&bench)[0], ("my clips [final]/a.wav".to_owned(), "One.".to_owned()));
    }
    bench.made::<Uploads>(json!({"audio": "my clips [final]", "transcripts": "t.csv"}));
    assert_eq!(texts(&bench).len(), 2);
    assert_eq!(bench.json("report.json")["files"], 2);
    bench.file("my clips [final]/metadata.csv", "file,text\na.wav,One.\nmore/c.wav,Two.\n");
    bench.made::<Import>(json!({"folder": "my clips [final]"}));
    assert_eq!(texts(&bench).len(), 2);
    says(&bench.error::<Uploads>(json!({"audio": "no [such]", "transcripts": "t.csv"})), &["`no [such]` in `audio` does not exist"]);
}

#[test]
fn a_channel_is_read_alone() {
    let mut bench = Bench::new();
    bench.file("in/a.wav", tone(1.0, 440.0, 16_000, 2, 16));
    bench.file("in/metadata.csv", "file,text\na.wav,One.\n");
    for channel in [json!("left"), json!(2), json!("mix")] {
        bench.made::<Import>(json!({"folder": "in", "channel": channel}));
        bench.made::<Uploads>(json!({"audio": "in", "transcripts": "in/metadata.csv", "channel": channel}));
    }
    let failed = bench.error::<Uploads>(json!({"audio": "in", "transcripts": "in/metadata.csv", "channel": 3}));
    assert!(failed.message.contains("in/a.wav"), "{}", failed.message);
}
