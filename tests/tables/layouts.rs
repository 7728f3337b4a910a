//! The layouts of usual programs and corpora, each as it is written by them.

use super::{steps, texts, uploads};
use crate::stages::{Bench, says};
use serde_json::{Value, json};
use std::io::{Cursor, Write};
use voxpipe::data::clip_row::ClipRow;
use voxpipe::stages::import::Import;
use voxpipe::stages::uploads::Uploads;

/// A project with recordings `in/a.wav`, `in/b.wav` and `in/talk.wav`.
fn bench() -> Bench {
    let bench = Bench::new();
    for (name, seconds) in [("a", 1), ("b", 2), ("talk", 9)] {
        bench.file(&format!("in/{name}.wav"), steps(seconds));
    }
    bench
}

/// The texts of clips of `a` and `b`.
fn two(bench: &Bench) -> Vec<(String, String)> {
    texts(bench).into_iter().filter(|(file, _)| !file.contains("talk")).collect()
}

fn expected() -> Vec<(String, String)> {
    [("in/a.wav", "Hi you."), ("in/b.wav", "Yo, ho.")].map(|(file, text)| (file.to_owned(), text.to_owned())).to_vec()
}

#[test]
fn tables_of_speech_programs_are_read() {
    let mut bench = bench();
    for (name, table) in [
        ("metadata.csv", "a|Hi you.|Hi you.\nb|Yo, ho.|Yo ho.\n"),
        ("metadata.csv", "a|ann|Hi you.\nb|bob|Yo, ho.\n"),
        ("filelist.txt", "wavs/a.wav|Hi you.\nwavs/b.wav|Yo, ho.\n"),
        ("filelist.list", "out/a.wav|ann|EN|Hi you.\nout/b.wav|ann|EN|Yo, ho.\n"),
        ("train.csv", "wav_filename,wav_filesize,transcript\na.wav,90250,Hi you.\nb.wav,80480,\"Yo, ho.\"\n"),
        ("text", "a Hi you.\nb Yo, ho.\n"),
        ("t.txt", "id\ttext\tspeaker\tfile\r\na\tHi you.\tann\ta.wav\r\nb\tYo, ho.\tbob\tb.wav\r\n"),
        ("t.txt", "a.wav\tHi you.\tann\nb.wav\tYo, ho.\tbob\n"),
        ("t.txt", "text\tfile\nHi you.\ta.wav\nYo, ho.\tb.wav\n"),
        ("t.csv", "0,a.wav,Hi you.\n1,b.wav,\"Yo, ho.\"\n"),
        ("t.csv", "text;file\nHi you.;a.wav\n\"Yo,\nho.\";b.wav\n"),
        ("84-1.trans.txt", "a Hi you.\nb Yo, ho.\n"),
        ("t.json", "[{\"audio\": \"a.wav\", \"text\": \"Hi you.\"},\n {\"audio\": \"b.wav\", \"text\": \"Yo, ho.\"}]"),
        ("t.json", "{\"a.wav\": \"Hi you.\",\n \"b.wav\": \"Yo, ho.\"}"),
        (
            "swift.jsonl",
            "{\"messages\":[{\"role\":\"user\",\"content\":\"<audio>Transcribe.\"},{\"role\":\"assistant\",\"content\":\"Hi you.\"}],\"audios\":[\"a.wav\"]}\n\
             {\"messages\":[{\"role\":\"user\",\"content\":\"<audio>Transcribe.\"},{\"role\":\"assistant\",\"content\":\"Yo, ho.\"}],\"audios\":[\"b.wav\"]}\n",
        ),
        (
            "axolotl.jsonl",
            "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"audio\",\"path\":\"a.wav\"}]},{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"Hi you.\"}]}]}\n\
             {\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"audio\",\"url\":\"b.wav\"}]},{\"role\":\"assistant\",\"content\":\"Yo, ho.\"}]}\n",
        ),
        (
            "project.json",
            "[{\"id\": 1, \"data\": {\"audio\": \"/data/upload/1/0a1b2c3d-a.wav\"}, \"annotations\": [{\"result\": [{\"type\": \"textarea\", \"value\": {\"text\": [\"Hi you.\"]}}]}]},\n\
             {\"id\": 2, \"data\": {\"audio\": \"/data/upload/1/9f8e7d6c-b.wav\"}, \"annotations\": [{\"result\": [{\"type\": \"textarea\", \"value\": {\"text\": [\"Yo, ho.\"]}}]}]}]",
        ),
        ("t.csv", "Filename,Text,,\na.wav,\"Hi\nyou.\",,\nb.wav,\"Yo, ho.\",,\n"),
        ("t.csv", "sep=;\nfile;text\na.wav;Hi you.\nb.wav;Yo, ho.\n"),
        ("t.csv", "file\ttext\na.wav\tHi you.\nb.wav\tYo, ho.\n"),
    ] {
        bench.file(name, table);
        bench.made::<Uploads>(uploads(name));
        assert_eq!(two(&bench), expected(), "{name}: {table}");
        // The same in a folder, where nobody names the table.
        let folder = format!("tables-{}", blake3::hash(table.as_bytes()).to_hex());
        for sound in ["a.wav", "b.wav"] {
            let bytes = std::fs::read(bench.cx.root.join("in").join(sound)).unwrap();
            bench.file(&format!("{folder}/{sound}"), bytes);
        }
        bench.file(&format!("{folder}/{name}"), table);
        if name == "text" {
            bench.file(&format!("{folder}/utt2spk"), "a ann\nb bob\n");
        }
        bench.made::<Import>(json!({"folder": folder}));
        let found: Vec<String> = texts(&bench).into_iter().map(|(_, text)| text).collect();
        assert_eq!(found, ["Hi you.", "Yo, ho."], "import of {name}");
        bench.made::<Uploads>(json!({"audio": folder, "transcripts": folder}));
        assert_eq!(texts(&bench).len(), 2, "a folder as transcripts: {name}");
    }
}

#[test]
fn kaldi_segments_and_label_studio_regions_are_cut() {
    let mut bench = bench();
    bench.file("kaldi/text", "u1 HI YOU\nu2 YO HO\nu3 FROM A PIPE\nu4 NOWHERE\n");
    bench.file("kaldi/segments", "u1 rec 1.0 2.5\nu2 rec 2.5 4.0\nu3 pipe 0 1\n");
    bench.file("kaldi/wav.scp", "rec /mnt/corpus/in/talk.wav\npipe sox x.wav -t wav - |\n");
    bench.file("kaldi/utt2spk", "u1 ann\nu2 bob\nu3 bob\n");
    for transcripts in ["kaldi/text", "kaldi"] {
        bench.made::<Uploads>(uploads(transcripts));
        let records: Vec<ClipRow> = bench.rows("clips.jsonl");
        let found: Vec<_> = records.iter().map(|record| (record.text.as_str(), record.speaker.as_deref(), record.duration)).collect();
        assert_eq!(found, [("HI YOU", Some("ann"), Some(1.5)), ("YO HO", Some("bob"), Some(1.5))], "{transcripts}");
        let report = bench.json("report.json").to_string();
        assert!(
            report.contains("what a command writes, which is not run") && report.contains("`segments` has no line for `u4`"),
            "{report}"
        );
    }
    let region = |id: &str, start: f64, end: f64, text: &str| {
        json!([
            {"id": id, "type": "labels", "value": {"start": start, "end": end, "labels": ["Speaker 1"]}},
            {"id": id, "type": "textarea", "value": {"start": start, "end": end, "text": [text]}},
        ])
    };
    let results: Vec<Value> =
        [region("x", 1.0, 2.5, "Hi."), region("y", 7.0, 9.0, "Yo.")].iter().flat_map(|pair| pair.as_array().unwrap().clone()).collect();
    let task = json!([{"data": {"audio": "s3://bucket/talk.wav"}, "annotations": [{"result": results}]}]);
    bench.file("export.json", task.to_string());
    bench.made::<Uploads>(uploads("export.json"));
    let records: Vec<ClipRow> = bench.rows("clips.jsonl");
    let found: Vec<_> = records.iter().map(|record| (record.text.as_str(), record.speaker.as_deref(), record.duration)).collect();
    assert_eq!(found, [("Hi.", Some("Speaker 1"), Some(1.5)), ("Yo.", Some("Speaker 1"), Some(2.0))]);
}

#[test]
fn files_in_other_encodings_are_read_and_the_guess_said() {
    let mut bench = bench();
    let table = "file;text\r\na.wav;Émile est né à Paris\r\nb.wav;Où est-il passé ?\r\n";
    let wide = |bytes: fn(u16) -> [u8; 2], mark: &[u8]| [mark, &table.encode_utf16().flat_map(bytes).collect::<Vec<u8>>()].concat();
    for (bytes, guess) in [
        (wide(u16::to_le_bytes, b"\xff\xfe"), None),
        (wide(u16::to_be_bytes, b"\xfe\xff"), None),
        (wide(u16::to_le_bytes, b""), Some("UTF-16LE")),
        (table.chars().map(|character| character as u8).collect(), Some("windows-1252")),
    ] {
        bench.file("t.csv", bytes);
        bench.made::<Uploads>(uploads("t.csv"));
        let found: Vec<String> = two(&bench).into_iter().map(|(_, text)| text).collect();
        assert_eq!(found, ["Émile est né à Paris", "Où est-il passé ?"]);
        match guess {
            Some(guess) => {
                assert!(bench.heard().contains(&format!("note: `t.csv` was read as {guess}, which is a guess")), "{}", bench.heard())
            }
            None => assert!(!bench.heard().contains("guess"), "{}", bench.heard()),
        }
    }
    bench.file("in/a.txt", b"caf\xe9".as_slice());
    bench.file("in/b.txt", "Naïve.");
    bench.made::<Uploads>(uploads("txt"));
    assert_eq!(two(&bench).into_iter().map(|(_, text)| text).collect::<Vec<_>>(), ["café", "Naïve."]);
    assert!(bench.heard().contains("`in/a.txt` was read as windows-1252"), "{}", bench.heard());
}

/// A zip file of texts and bytes.
fn zipped(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A workbook with one sheet of rows of texts, numbers written as such.
fn xlsx(rows: &[&[&str]]) -> Vec<u8> {
    let cell = |text: &&str| match text.parse::<f64>() {
        Ok(number) => format!("<c><v>{number}</v></c>"),
        Err(_) => format!("<c t=\"inlineStr\"><is><t>{text}</t></is></c>"),
    };
    let rows: String = rows.iter().map(|row| format!("<row>{}</row>", row.iter().map(cell).collect::<String>())).collect();
    let main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main";
    let links = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
    let package = "http://schemas.openxmlformats.org/package/2006";
    let files = [
        ("[Content_Types].xml", format!("<Types xmlns=\"{package}/content-types\"/>")),
        (
            "_rels/.rels",
            format!(
                "<Relationships xmlns=\"{package}/relationships\"><Relationship Id=\"r\" Type=\"{links}/officeDocument\" Target=\"xl/workbook.xml\"/></Relationships>"
            ),
        ),
        (
            "xl/workbook.xml",
            format!(
                "<workbook xmlns=\"{main}\" xmlns:r=\"{links}\"><sheets><sheet name=\"Notes\" sheetId=\"1\" r:id=\"n\"/><sheet name=\"Clips\" sheetId=\"2\" r:id=\"s\"/></sheets></workbook>"
            ),
        ),
        (
            "xl/_rels/workbook.xml.rels",
            format!(
                "<Relationships xmlns=\"{package}/relationships\"><Relationship Id=\"n\" Type=\"{links}/worksheet\" Target=\"worksheets/sheet1.xml\"/><Relationship Id=\"s\" Type=\"{links}/worksheet\" Target=\"worksheets/sheet2.xml\"/></Relationships>"
            ),
        ),
        (
            "xl/worksheets/sheet1.xml",
            format!(
                "<worksheet xmlns=\"{main}\"><sheetData><row><c t=\"inlineStr\"><is><t>Only a note</t></is></c></row></sheetData></worksheet>"
            ),
        ),
        ("xl/worksheets/sheet2.xml", format!("<worksheet xmlns=\"{main}\"><sheetData>{rows}</sheetData></worksheet>")),
    ];
    zipped(&files.map(|(name, text)| (name, text.into_bytes())))
}

/// An OpenDocument spreadsheet.
fn ods(rows: &[&[&str]]) -> Vec<u8> {
    let cell = |text: &&str| format!("<table:table-cell office:value-type=\"string\"><text:p>{text}</text:p></table:table-cell>");
    let rows: String =
        rows.iter().map(|row| format!("<table:table-row>{}</table:table-row>", row.iter().map(cell).collect::<String>())).collect();
    let name = "urn:oasis:names:tc:opendocument:xmlns";
    let content = format!(
        "<office:document-content xmlns:office=\"{name}:office:1.0\" xmlns:table=\"{name}:table:1.0\" xmlns:text=\"{name}:text:1.0\"><office:body>\
         <office:spreadsheet><table:table table:name=\"Clips\">{rows}</table:table></office:spreadsheet></office:body></office:document-content>"
    );
    let manifest = "<manifest:manifest xmlns:manifest=\"urn:oasis:names:tc:opendocument:xmlns:manifest:1.0\"/>".to_owned();
    let mimetype = "application/vnd.oasis.opendocument.spreadsheet".to_owned();
    let files = [("mimetype", mimetype), ("META-INF/manifest.xml", manifest), ("content.xml", content)];
    zipped(&files.map(|(name, text)| (name, text.into_bytes())))
}

#[test]
fn spreadsheets_are_read() {
    let mut bench = bench();
    let rows: &[&[&str]] =
        &[&["File Name", "Text", "Start", "End"], &["a.wav", "Hi you."], &["b.wav", "Yo, ho."], &["talk.wav", "Three.", "1", "2.5"]];
    for (name, bytes) in [("t.xlsx", xlsx(rows)), ("t.ods", ods(rows)), ("named.csv", xlsx(rows))] {
        bench.file(name, bytes);
        bench.made::<Uploads>(uploads(name));
        assert_eq!(two(&bench), expected(), "{name}");
        assert_eq!(texts(&bench).last().unwrap().0, "in/talk.wav#t=1,2.5", "{name}");
    }
    bench.file("t.xlsx", &xlsx(rows)[..300]);
    says(&bench.error::<Uploads>(uploads("t.xlsx")), &["`t.xlsx` cannot be read as a spreadsheet"]);
    bench.file("t.xlsx", xlsx(&[&["x", "y"], &["1", "2"]]));
    says(&bench.error::<Uploads>(uploads("t.xlsx")), &["t.xlsx:1: no column with the audio file"]);
}

#[test]
fn archives_are_read_without_being_unpacked_by_hand() {
    let mut bench = Bench::new();
    let table = "file,text\nclips/a.wav,Hi you.\nclips/b.wav,\"Yo, ho.\"\n".as_bytes().to_vec();
    let zip = zipped(&[("clips/a.wav", steps(1)), ("clips/b.wav", steps(2)), ("__MACOSX/clips/._a.wav", vec![1]), ("metadata.csv", table)]);
    bench.file("set.zip", zip.clone());
    bench.file("folder/set.zip", zip);
    let mut tar = tar::Builder::new(Vec::new());
    let members = [
        ("k1.wav", steps(1)),
        ("k1.txt", b"Hi you.".to_vec()),
        ("k2.wav", steps(2)),
        ("k2.json", br#"{"text": "Yo, ho.", "speaker": "bob"}"#.to_vec()),
    ];
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    bench.file("shards/train-000000.tar", &tar);
    bench.file("one.tar", &tar);
    for folder in ["set.zip", "folder", "shards", "one.tar"] {
        bench.made::<Import>(json!({"folder": folder}));
        let records: Vec<ClipRow> = bench.rows("clips.jsonl");
        let found: Vec<_> = records.iter().map(|record| (record.text.as_str(), record.duration)).collect();
        assert_eq!(found, [("Hi you.", Some(1.0)), ("Yo, ho.", Some(2.0))], "{folder}");
    }
    let records: Vec<ClipRow> = bench.rows("clips.jsonl");
    assert_eq!(records[1].speaker.as_deref(), Some("bob"));
    bench.file("t.csv", "file,text\na.wav,Hi you.\n");
    bench.made::<Uploads>(json!({"audio": "set.zip", "transcripts": "t.csv"}));
    assert_eq!(texts(&bench), [("set.zip/clips/a.wav".to_owned(), "Hi you.".to_owned())]);
    bench.file("broken.zip", "PK");
    says(&bench.error::<Import>(json!({"folder": "broken.zip"})), &["`broken.zip` cannot be read as an archive"]);
    bench.file("cut.tar", &tar[..700]);
    says(&bench.error::<Import>(json!({"folder": "cut.tar"})), &["`cut.tar` cannot be read as an archive"]);
}

#[test]
fn texts_beside_the_recordings_are_found_in_all_their_forms() {
    let mut bench = Bench::new();
    bench.file("in/84/84-1-0000.wav", steps(1));
    bench.file("in/84/84-1-0001.wav", steps(2));
    bench.file("in/84/84-1.trans.txt", "84-1-0000 HI YOU\n84-1-0001 YO HO\n84-1-0002 NO SOUND\n");
    bench.file("in/c.wav", steps(1));
    bench.file("in/c.lab", "Three.");
    bench.file("in/d.wav", steps(1));
    bench.file("in/d.normalized.txt", "Four.");
    bench.file("in/notes.txt", "Nothing of a recording.");
    bench.made::<Uploads>(uploads("txt"));
    let found: Vec<String> = texts(&bench).into_iter().map(|(_, text)| text).collect();
    assert_eq!(found, ["HI YOU", "YO HO", "Three.", "Four."]);
    let report = bench.json("report.json");
    let missing: Vec<&str> = report["texts_without_file"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(missing, ["84-1-0002", "notes.txt"]);
    // The same folder without a word about its form.
    bench.made::<Import>(json!({"folder": "in/84"}));
    assert_eq!(texts(&bench).len(), 2);
}

#[test]
fn columns_may_have_any_name() {
    let mut bench = bench();
    bench.file("t.csv", "Clip No,Said,Who,Part,von,bis\na,Hi you.,ann,dev,,\nb,\"Yo, ho.\",bob,train,,\ntalk,Long.,bob,train,1,2.5\n");
    let columns = json!({"audio": "Clip No", "text": "said", "speaker": "who", "split": "part", "start": "von", "end": "bis"});
    bench.made::<Uploads>(json!({"audio": "in", "transcripts": "t.csv", "columns": columns}));
    let records: Vec<ClipRow> = bench.rows("clips.jsonl");
    assert_eq!(two(&bench), expected());
    assert_eq!(
        (records[0].speaker.as_deref(), &records[0].rest["split"], records[2].duration),
        (Some("ann"), &json!("validation"), Some(1.5))
    );
    assert_eq!(bench.json("report.json")["ignored_columns"], json!([]));
}

#[test]
fn cues_of_long_recordings_are_clips() {
    let mut bench = bench();
    let srt = "1\n00:00:01,000 --> 00:00:02,500\nHi you.\n\n2\n00:00:07,000 --> 00:00:09,000\nYo, ho.\n";
    let found = |bench: &Bench| texts(bench).into_iter().filter(|(file, _)| file.contains("talk")).collect::<Vec<_>>();
    let expected = [("in/talk.wav#t=1,2.5", "Hi you."), ("in/talk.wav#t=7,9", "Yo, ho.")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    for (name, text) in [
        ("talk.srt", srt.to_owned()),
        ("talk.vtt", format!("WEBVTT\n\n{}", srt.replace(',', ".").replace("Yo.", "Yo,"))),
        ("talk.txt", "1.0\t2.5\tHi you.\n7.0\t9.0\tYo, ho.\n".to_owned()),
    ] {
        bench.file(name, &text);
        bench.made::<Uploads>(uploads(name));
        assert_eq!(found(&bench), expected, "{name}");
        bench.file(&format!("cues/{name}"), &text);
        bench.made::<Uploads>(uploads(if name == "talk.txt" { "cues/talk.txt" } else { "cues" }));
        assert_eq!(found(&bench), expected, "cues/{name}");
        std::fs::remove_dir_all(bench.cx.root.join("cues")).unwrap();
        bench.file(&format!("in/{name}"), &text);
        bench.made::<Uploads>(uploads("txt"));
        assert_eq!(found(&bench), expected, "in/{name}");
        bench.made::<Import>(json!({"folder": "in"}));
        assert_eq!(bench.rows::<ClipRow>("clips.jsonl").len(), 2, "import of {name}");
        std::fs::remove_file(bench.cx.root.join("in").join(name)).unwrap();
    }
}
