//! `uploads`: matching by name, broken tables and broken audio.

use super::*;
use voxpipe::data::clip_row::ClipRow;
use voxpipe::stages::phrases::Phrases;
use voxpipe::stages::uploads::Uploads;

/// A project with three clips.
fn bench() -> Bench {
    let bench = Bench::new();
    for (number, name) in ["a", "b", "sub/c"].iter().enumerate() {
        bench.file(&format!("in/{name}.wav"), clip(number as u32));
    }
    bench
}

fn with(transcripts: &str) -> Value {
    json!({"audio": "in", "transcripts": transcripts, "language": "en"})
}

fn texts(bench: &Bench) -> Vec<(String, String)> {
    bench.rows::<ClipRow>("clips.jsonl").into_iter().map(|record| (record.audio_path, record.text)).collect()
}

fn expected() -> Vec<(String, String)> {
    [("a", "Alpha"), ("b", "Beta, two"), ("c", "Gamma")].map(|(name, text)| (format!("audio/{name}.wav"), text.to_owned())).to_vec()
}

#[test]
fn texts_find_their_files_by_name_in_every_kind_of_table() {
    let mut bench = bench();
    for (name, table) in [
        ("t.csv", "file,text\nsub/c.wav,Gamma\nb,\"Beta, two\"\nin/a.wav,Alpha\n"),
        ("u.csv", "\u{feff}text;path\r\nGamma;c.wav\r\nBeta, two;b.wav\r\n\r\nAlpha;a.wav\r\n"),
        ("t.tsv", "sentence\tpath\nGamma\tc.mp3\nBeta, two\tb\nAlpha\ta\n"),
        (
            "in/t.jsonl",
            "{\"audio_filepath\":\"./sub/c.wav\",\"transcript\":\"Gamma\"}\n\n{\"file_name\":\"b.flac\",\"text\":\"Beta,  two\"}\n{\"audio\":\"..\\\\in\\\\a.wav\",\"text\":\"Alpha\"}\n",
        ),
    ] {
        bench.file(name, table);
        let made = bench.made::<Uploads>(with(name));
        assert_eq!(texts(&bench), expected(), "{name}");
        assert_eq!((made.metrics["clips"], made.metrics["seconds"]), (3.0, 3.03));
        assert_eq!(bench.heard(), "", "{name}");
    }
    for (name, text) in [("a", "Alpha\n"), ("b", "\u{feff}Beta,\n two"), ("sub/c", "Gamma")] {
        bench.file(&format!("in/{name}.txt"), text);
    }
    bench.made::<Uploads>(with("txt"));
    assert_eq!(texts(&bench), expected());
    let first = tree(&bench.cx.out);
    bench.made::<Uploads>(json!({"audio": ["in/*.wav", "in/sub", "in/a.wav"], "transcripts": "txt", "language": "en"}));
    assert_eq!(tree(&bench.cx.out), first, "the same clips give the same bytes");
}

#[test]
fn what_finds_no_partner_is_listed_on_both_sides() {
    let mut bench = bench();
    bench.file("in/other/b.wav", clip(8));
    bench.file("t.csv", "file,text,mood\na,Alpha,good\nb.wav,Beta,\nelsewhere/b.wav,Which,\nz.wav,Omega,\n");
    bench.made::<Uploads>(with("t.csv"));
    let report = bench.json("report.json");
    assert_eq!(report["files_without_text"], json!(["in/other/b.wav", "in/sub/c.wav"]));
    assert_eq!(
        report["texts_without_file"],
        json!([
            {"place": "t.csv:4", "name": "elsewhere/b.wav", "reason": "no file of that name in its folder; `in/b.wav` is in another folder"},
            {"place": "t.csv:5", "name": "z.wav", "reason": "no file of that name"},
        ])
    );
    assert_eq!(report["ignored_columns"], json!(["mood"]));
    let heard = bench.heard();
    assert!(heard.contains("warning: 2 files without a transcript: `in/other/b.wav`, `in/sub/c.wav`\n"), "{heard}");
    assert!(heard.contains("warning: 2 transcripts without an audio file: `elsewhere/b.wav ("), "{heard}");
    let mut strict = with("t.csv");
    strict["strict"] = true.into();
    says(&bench.error::<Uploads>(strict), &["2 files without a transcript", "2 transcripts without an audio file"]);
}

#[test]
fn sound_that_cannot_be_used_is_listed_and_left_out() {
    let mut bench = Bench::new();
    let whole = clip(1);
    bench.file("in/good.wav", tone(1.5, 440.0, 96_000, 2, 24));
    bench.file("in/truncated.wav", &whole[..1000]);
    bench.file("in/empty.wav", "");
    bench.file("in/text.mp3", "certainly not an MP3 file, but long enough to look for one in it");
    bench.file("in/nothing.wav", tone(0.0, 1.0, 16_000, 1, 16));
    bench.file("in/short.wav", tone(0.1, 440.0, 16_000, 1, 16));
    bench.file("in/long.wav", tone(30.5, 440.0, 8_000, 1, 16));
    for name in ["good", "truncated", "empty", "text", "nothing", "short", "long"] {
        bench.file(&format!("in/{name}.txt"), name);
    }
    bench.made::<Uploads>(with("txt"));
    assert_eq!(texts(&bench), [("audio/good.wav".to_owned(), "good".to_owned())]);
    let report = bench.json("report.json");
    let rejected = report["rejected"].as_array().unwrap();
    let files: Vec<_> = rejected.iter().map(|it| it["file"].as_str().unwrap()).collect();
    assert_eq!(files, ["in/empty.wav", "in/long.wav", "in/nothing.wav", "in/short.wav", "in/text.mp3", "in/truncated.wav"]);
    for it in rejected {
        let (file, reason) = (it["file"].as_str().unwrap(), it["reason"].as_str().unwrap());
        assert!(reason.starts_with(file) && reason.len() > file.len() + 5, "{reason}");
    }
    assert!(rejected[1]["reason"].as_str().unwrap().contains("too long: 30.50 s, at most 30 s"), "{}", rejected[1]);
    assert!(!bench.out("report.json").contains(bench.folder.path().to_str().unwrap()), "no absolute path");
    assert!(bench.heard().contains("warning: 6 files unusable: "), "{}", bench.heard());
    let wav = hound::WavReader::open(bench.cx.out.join("audio/good.wav")).unwrap();
    assert_eq!((wav.spec().channels, wav.spec().sample_rate, wav.spec().bits_per_sample, wav.len()), (1, 16_000, 16, 24_000));
    let mut strict = with("txt");
    strict["strict"] = true.into();
    says(&bench.error::<Uploads>(strict), &["`strict` is set and some files cannot be used: 6 files unusable: `in/empty.wav"]);
    fs::remove_file(bench.cx.root.join("in/good.wav")).unwrap();
    says(&bench.error::<Uploads>(with("txt")), &["none of 6 files gave a usable clip", "in/empty.wav"]);
}

#[test]
fn a_bad_row_is_listed_with_its_line_and_the_others_are_used() {
    let mut bench = bench();
    for (name, table, place, reason) in [
        ("t.jsonl", "{\"file\":\"a\",\"text\":\"x\"}\n{\"file\":\"b\",\n", "t.jsonl:2", "no JSON object: "),
        ("t.jsonl", "{\"file\":\"a\",\"text\":\"x\"}\n\n[1]\n", "t.jsonl:3", "each row must be a JSON object"),
        ("t.jsonl", "{\"file\":\"b\"}\n{\"file\":\"a\",\"text\":\"x\"}\n", "t.jsonl:1", "it has no text; the row has: file"),
        ("t.jsonl", "{\"text\":\"b\"}\n{\"file\":\"a\",\"text\":\"x\"}\n", "t.jsonl:1", "it names no sound; the row has: text"),
        (
            "t.jsonl",
            "{\"file\":\"b\",\"sentence\":\" \"}\n{\"file\":\"a\",\"text\":\"x\"}\n",
            "t.jsonl:1",
            "it has no text: `sentence` is empty",
        ),
        ("t.jsonl", "{\"file\":\"b\",\"text\":null}\n{\"file\":\"a\",\"text\":\"x\"}\n", "t.jsonl:1", "it has no text: `text` is empty"),
        ("t.jsonl", "{\"file\":\"b\",\"text\":[\"x\"]}\n{\"file\":\"a\",\"text\":\"x\"}\n", "t.jsonl:1", "its text is a list, not a text"),
        ("t.csv", "file,text\na,x\nb,y,z\n", "t.csv:3", "the row has 3 columns, the header has 2"),
        ("t.csv", "file,text\na,\"x\ny\"\nb,\n", "t.csv:4", "it has no text: `text` is empty"),
        ("t.csv", "file,text,language\nb,x,Klingon\na,x,English\n", "t.csv:2", "`Klingon` is no language that is known"),
        ("t.csv", "file,text,start\nb,x,soon\na,x,0\n", "t.csv:2", "`soon` is no time"),
        ("t.csv", "file,text\na,x\nb,nan\n", "t.csv:3", "its text is what stands for no value"),
    ] {
        bench.file(name, table);
        bench.made::<Uploads>(with(name));
        let bad = &bench.json("report.json")["bad_rows"];
        assert_eq!((bad[0]["row"].as_str(), bad.as_array().unwrap().len()), (Some(place), 1), "{table}: {bad}");
        assert!(bad[0]["reason"].as_str().unwrap().starts_with(reason), "{table}: {bad}");
        assert!(bench.heard().contains(&format!("warning: 1 row unusable: `{place}: {reason}")), "{}", bench.heard());
        let mut strict = with(name);
        strict["strict"] = true.into();
        says(&bench.error::<Uploads>(strict), &["`strict` is set and some files cannot be used: 1 row unusable", place]);
    }
    bench.file("in/a.txt", " \n");
    bench.file("in/b.txt", "Beta");
    bench.made::<Uploads>(with("txt"));
    assert_eq!(bench.json("report.json")["bad_rows"][0]["row"], json!("in/a.txt:1"));
}

#[test]
fn a_table_that_cannot_be_meant_is_an_error() {
    let mut bench = bench();
    for (name, table, message) in [
        ("t.csv", "file,text,text\na,x,y\n", "t.csv:1: duplicate column `text`"),
        ("t.csv", "file,mood\na,x\n", "t.csv:1: no column with the text; the columns are: file, mood"),
        ("t.csv", "mood,text\nx,y\n", "t.csv:1: no column with the audio file; the columns are: mood, text"),
        ("t.srx", "a", "`t.srx`: unsupported table format `.srx`"),
        ("t.parquet", "PAR1", "`t.parquet` is a Parquet file"),
        ("t.xlsx", "PK\u{3}\u{4}", "`t.xlsx` cannot be read as a spreadsheet"),
    ] {
        bench.file(name, table);
        says(&bench.error::<Uploads>(with(name)), &[message]);
    }
    // A few bad rows of many are no sign of a wrong table; many are, and every limit can be set.
    let table = |bad: usize| format!("file,text\na,Alpha\n{}", "b,nan\n".repeat(bad));
    bench.file("t.csv", table(3));
    bench.made::<Uploads>(with("t.csv"));
    let mut exact = with("t.csv");
    exact["max_bad"] = 0.5.into();
    says(&bench.error::<Uploads>(exact), &["3 of 4 rows cannot be used, and `max_bad` is 0.5: `t.csv:3: "]);
    bench.file("t.csv", table(30));
    says(&bench.error::<Uploads>(with("t.csv")), &["30 of 31 rows cannot be used, and `max_bad` is 0.2"]);
    fs::remove_file(bench.cx.root.join("t.csv")).unwrap();
    assert!(bench.error::<Uploads>(with("none.csv")).message.contains("cannot read `none.csv`"));
    for (audio, message) in
        [("none", "`none` in `audio` does not exist"), ("in/*.flac", "no audio file matches `in/*.flac`"), (".hidden", "does not exist")]
    {
        says(&bench.error::<Uploads>(json!({"audio": audio, "transcripts": "txt"})), &[message]);
    }
    bench.file("empty/x.md", "");
    says(&bench.error::<Uploads>(json!({"audio": "empty", "transcripts": "txt"})), &["no audio files in `empty`"]);
}

#[test]
fn names_become_safe_and_stay_apart() {
    let mut bench = Bench::new();
    for (number, name) in ["x/Été 1", "y/ete-1", "y/Ete 1"].iter().enumerate() {
        bench.file(&format!("in/{name}.wav"), clip(number as u32));
        bench.file(&format!("in/{name}.txt"), format!("text {number}"));
    }
    bench.made::<Uploads>(with("txt"));
    let records: Vec<ClipRow> = bench.rows("clips.jsonl");
    let mut paths: Vec<_> = records.iter().map(|record| record.audio_path.to_lowercase()).collect();
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), 3);
    assert!(records.iter().all(|record| record.audio_path.is_ascii() && record.audio_path.to_lowercase().starts_with("audio/ete-1-")));
    assert_eq!(records[0].source.as_deref(), Some("in/x/Été 1.wav"));
}

#[test]
fn coverage_of_the_phrases_is_told() {
    let mut bench = bench();
    bench.file("phrases.txt", "alpha!\nBeta two\nNever read aloud\n");
    let phrases = bench.artifact::<Phrases>(json!({"language": "en", "source": "file", "file": "phrases.txt"}));
    bench.give("phrases", phrases);
    bench.file("t.csv", "file,text\na,Alpha\nb,\"Beta, two\"\nc,Gamma\n");
    let made = bench.made::<Uploads>(json!({"audio": "in", "transcripts": "t.csv"}));
    assert!(made.summary.ends_with("2 of 3 phrases have a clip"), "{}", made.summary);
    let records: Vec<ClipRow> = bench.rows("clips.jsonl");
    assert_eq!(records[1].rest["phrase"], json!("en-0002"));
    assert_eq!((records[1].language.as_deref(), records[2].language.as_deref()), (Some("en"), None));
    assert_eq!(
        bench.json("report.json")["phrases"],
        json!({"total": 3, "covered": 2, "missing": ["en-0003"], "clips_without_phrase": ["in/sub/c.wav"]})
    );
    assert!(bench.heard().contains("2 of 3 phrases have a clip; missing: `en-0003`"));
}

#[test]
fn settings_that_cannot_work_are_complained_about() {
    let found =
        complaints::<Uploads>(json!({"audio": [], "transcripts": "a.docx", "language": "english", "min_seconds": 3, "max_seconds": 2}));
    let paths: Vec<_> = found.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["audio", "transcripts", "language", "max_seconds"], "{found:?}");
    let error = serde_json::from_value::<Uploads>(json!({"audio": 3, "transcripts": "txt"})).unwrap_err();
    assert!(error.to_string().contains("expected a string or a list of strings"), "{error}");
    let sources = stage::<Uploads>(json!({"audio": ["in/*.wav", "x/y.wav", "*.mp3"], "transcripts": "txt"})).sources();
    assert_eq!(
        sources,
        [".", "in", "x/y.TextGrid", "x/y.eaf", "x/y.srt", "x/y.textgrid", "x/y.txt", "x/y.vtt", "x/y.wav"].map(PathBuf::from)
    );
}
