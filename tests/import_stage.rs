//! `import`: every dataset format, from folders and from a Hub, compared down to the audio samples.

mod large;

use crate::hub_server::{Served, TOKEN, What};
use crate::stages::{Bench, clip, complaints, says, tone, tree};
use crate::support::{Ran, Sandbox, files, python, skipped};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use voxpipe::data::clip_row::ClipRow;
use voxpipe::stages::dataset::Dataset;
use voxpipe::stages::import::Import;

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import_stage").join(name)).unwrap()
}

/// The samples of a plain WAV file.
fn samples(wav: &[u8]) -> Vec<i16> {
    hound::WavReader::new(wav).unwrap().samples::<i16>().map(Result::unwrap).collect()
}

/// Transcript and samples of every imported clip.
fn clips(out: &Path) -> Vec<(String, Vec<i16>)> {
    let rows = fs::read_to_string(out.join("clips.jsonl")).unwrap();
    let records = rows.lines().map(|line| serde_json::from_str::<ClipRow>(line).unwrap());
    records.map(|record| (record.text, samples(&fs::read(out.join(record.audio_path)).unwrap()))).collect()
}

fn expected(numbers: &[u32]) -> Vec<(String, Vec<i16>)> {
    numbers.iter().map(|number| (text(*number), samples(&clip(*number)))).collect()
}

fn text(number: u32) -> String {
    ["Alpha, first.", "Beta second.", "Gamma third.", "Delta the fourth of them."][number as usize].to_owned()
}

/// The files of a dataset: audio and a table in a given format.
fn audio_folder(table: &str, content: &str) -> BTreeMap<String, Vec<u8>> {
    let mut files: BTreeMap<String, Vec<u8>> = (0..4).map(|number| (format!("clips/c {number}.wav"), clip(number))).collect();
    files.insert(table.to_owned(), content.as_bytes().to_vec());
    files.insert("README.md".to_owned(), b"---\nlicense: cc-by-4.0\n---\n# Mine\n".to_vec());
    files
}

fn tables() -> [(&'static str, String); 3] {
    let json = |number| {
        format!("{{\"file_name\":\"clips/c {number}.wav\",\"text\":\"{}\",\"lang\":\"en-GB\",\"speaker\":\"ann\"}}\n", text(number))
    };
    let csv = |number| format!("clips/c {number}.wav,\"{}\",en,ann\n", text(number));
    let nemo = |number| {
        format!(
            "{{\"audio_filepath\":\"/data/set/clips/c {number}.wav\",\"text\":\"{}\",\"lang\":\"en\",\"speaker\":\"ann\"}}\n",
            text(number)
        )
    };
    [
        ("metadata.jsonl", (0..4).map(json).collect()),
        ("metadata.csv", format!("file_name,transcription,language,client_id\n{}", (0..4).map(csv).collect::<String>())),
        ("train_manifest.json", (0..4).map(nemo).collect()),
    ]
}

fn bench(files: &BTreeMap<String, Vec<u8>>) -> Bench {
    let bench = Bench::new();
    for (name, bytes) in files {
        bench.file(&format!("set/{name}"), bytes);
    }
    bench
}

fn serve(files: BTreeMap<String, Vec<u8>>) -> Served {
    Served::start("ann/voice", files.into_iter().map(|(name, bytes)| (name, bytes.into())).collect())
}

/// Runs a pipeline with an `import` stage with the given settings.
fn run(sandbox: &Sandbox, hub: &Served, with: &str) -> Ran {
    sandbox.pipeline(&format!("schema = 1\n[pipeline]\nname = \"p\"\n[stage.it]\nuses = \"import\"\nwith = {{ {with} }}\n"));
    let mut command = sandbox.command(&["run"]);
    command.env("HF_ENDPOINT", &hub.address).env("HF_HOME", sandbox.path("hf")).env("HF_TOKEN", TOKEN);
    Ran::of(command.output().unwrap())
}

#[test]
fn an_audio_folder_and_a_manifest_come_as_they_are_from_a_folder_and_from_the_hub() {
    for (table, content) in tables() {
        let set = audio_folder(table, &content);
        let mut bench = bench(&set);
        let made = bench.made::<Import>(json!({"folder": "set"}));
        assert_eq!(clips(&bench.cx.out), expected(&[0, 1, 2, 3]), "{table}");
        assert_eq!((made.metrics["clips"], bench.heard()), (4.0, String::new()), "{table}");
        let records: Vec<ClipRow> = bench.rows("clips.jsonl");
        assert_eq!((records[0].language.as_deref(), records[0].speaker.as_deref()), (Some("en"), Some("ann")), "{table}");
        assert_eq!(records[1].audio_path, "audio/000002-c-1.wav");
        assert!(records[1].source.as_ref().unwrap().starts_with(&format!("set {table}:")), "{:?}", records[1].source);

        let (hub, sandbox) = (serve(set), Sandbox::new());
        run(&sandbox, &hub, "repo = \"ann/voice\", count = 3").exits(0);
        let out = sandbox.path(".voxpipe/latest/p/it");
        assert_eq!(clips(&out), expected(&[0, 1, 2]), "{table}");
        let report: Value = serde_json::from_str(&sandbox.read(".voxpipe/latest/p/it/report.json")).unwrap();
        assert_eq!((&report["commit"], &report["licence"], &report["rows"]), (&json!(hub.commit), &json!("cc-by-4.0"), &json!(3)));
        // Only the imported clips are downloaded, and the token is sent to the Hub only.
        let fetched: Vec<String> = hub.fetched().into_iter().filter(|seen| seen.path.contains(".wav")).map(|seen| seen.path).collect();
        assert_eq!(fetched.len(), 3, "{fetched:?}");
        assert!(hub.fetched().iter().all(|seen| seen.authorization.is_none()));
        assert!(files(&sandbox.root()).values().all(|bytes| !bytes.windows(TOKEN.len()).any(|part| part == TOKEN.as_bytes())));
    }
}

#[test]
fn what_is_imported_is_a_dataset_s_clips() {
    let (table, content) = &tables()[0];
    let mut bench = bench(&audio_folder(table, content));
    let imported = bench.artifact::<Import>(json!({"folder": "set"}));
    bench.give("clips", imported);
    // The clips are tones.
    let made = bench.made::<Dataset>(json!({"split": {"train": 0.5, "test": 0.5}, "no_speech": "keep"}));
    assert_eq!(made.metrics["clips"], 4.0, "{made:?}");
}

#[test]
fn rows_are_left_out_with_their_reasons_and_chosen_as_asked() {
    let mut set = audio_folder("metadata.jsonl", "");
    set.insert("clips/broken.wav".into(), b"RIFF".to_vec());
    set.insert("clips/short.wav".into(), tone(0.1, 300.0, 8_000, 1, 16));
    let row = |file: &str, text: &str, more: &str| format!("{{\"file_name\":\"clips/{file}\",\"text\":\"{text}\"{more}}}\n");
    let content = [
        row("c 0.wav", &text(0), ",\"language\":\"en\""),
        row("none.wav", "Not there.", ""),
        row("broken.wav", "No sound.", ""),
        row("short.wav", "Too short.", ""),
        row("c 1.wav", " ", ""),
        row("c 1.wav", "Auf Deutsch gesagt.", ",\"language\":\"de\""),
        row("c 1.wav", "Word.", ""),
        row("c 1.wav", "It says too much.", ",\"duration\":99.5"),
        row("../../secret.wav", "Leads out.", ""),
        row("c 2.wav", &text(2), ""),
        row("c 3.wav", &text(3), ""),
    ]
    .concat();
    set.insert("metadata.jsonl".into(), content.into_bytes());
    let mut bench = bench(&set);
    bench.file("secret.wav", clip(1));
    let with = json!({"folder": "set", "language": "en", "min_words": 2, "max_words": 4});
    bench.made::<Import>(with.clone());
    assert_eq!(clips(&bench.cx.out), expected(&[0, 2]));
    let report = bench.json("report.json");
    let reasons: Vec<(&str, &str)> =
        report["rejected"].as_array().unwrap().iter().map(|row| (row["row"].as_str().unwrap(), row["reason"].as_str().unwrap())).collect();
    let reason = |line: usize| reasons.iter().find(|(row, _)| *row == format!("set metadata.jsonl:{line}")).unwrap().1;
    for (line, says) in [
        (2, "its file `clips/none.wav` is not in `set`"),
        (3, "clips/broken.wav"),
        (4, "too short: 0.10 s"),
        (5, "it has no text"),
        (6, "in the language `de`"),
        (7, "its text has 1 word"),
        (8, "it says to have 99.5 s"),
        (9, "its file `clips/../../secret.wav` is not in `set`"),
        (11, "its text has 5 words"),
    ] {
        assert!(reason(line).contains(says), "{line}: {}", reason(line));
    }
    assert_eq!((reasons.len(), &report["rows"]), (9, &json!(11)));
    assert!(bench.heard().contains("warning: 9 rows rejected"), "{}", bench.heard());
    let mut strict = with.clone();
    strict["strict"] = true.into();
    says(&bench.error::<Import>(strict), &["9 rows rejected"]);
    says(&bench.error::<Import>(json!({"folder": "set", "min_words": 9})), &["none of 11 rows of `set` gave a usable clip"]);

    // A sample depends on the seed and has the requested size.
    let sample = json!({"folder": "set", "count": 2, "pick": "sample"});
    bench.made::<Import>(sample.clone());
    let first = tree(&bench.cx.out);
    assert_eq!(clips(&bench.cx.out).len(), 2);
    bench.made::<Import>(sample.clone());
    assert_eq!(tree(&bench.cx.out), first);
    let others = (0..8).any(|seed| {
        bench.cx.seed = seed;
        bench.made::<Import>(sample.clone());
        tree(&bench.cx.out) != first
    });
    assert!(others, "every seed chooses the same");
}

#[test]
fn parts_of_long_files_are_cut_out_as_a_manifest_says() {
    let long = tone(9.0, 220.0, 16_000, 1, 16);
    let row = |offset: f64, duration: f64| {
        format!("{{\"audio_filepath\":\"long.wav\",\"text\":\"From {offset}.\",\"offset\":{offset},\"duration\":{duration}}}\n")
    };
    let content = [row(0.0, 1.5), row(2.25, 3.0), row(8.0, 4.0)].concat();
    let mut bench = bench(&BTreeMap::from([("manifest.json".to_owned(), content.into_bytes()), ("long.wav".to_owned(), long.clone())]));
    bench.made::<Import>(json!({"folder": "set"}));
    let all = samples(&long);
    let part = |from: f64, to: f64| all[(from * 16_000.0) as usize..(to * 16_000.0) as usize].to_vec();
    assert_eq!(clips(&bench.cx.out), [("From 0.".to_owned(), part(0.0, 1.5)), ("From 2.25.".to_owned(), part(2.25, 5.25))]);
    assert!(
        bench.json("report.json")["rejected"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("long.wav has 9.00 s, and 8 s to 12 s of it are named")
    );
}

#[test]
fn a_manifest_on_the_hub_finds_its_sounds_in_a_folder_of_ones_own() {
    let row = |number| {
        format!(
            "{{\"utt_id\":\"{number}\",\"audio_filepath\":\"de/voxpopuli/c {number}.wav\",\"text\":\"{}\",\"source_lang\":\"de\"}}\n",
            text(number)
        )
    };
    // Larger than a streaming block, and broken in a part that is not read.
    let mut manifest: String = (0..4).map(row).collect();
    manifest.push_str(&format!("{{\"text\":\"no sound\",\"padding\":\"{}\"}}\n", "x".repeat(5 << 20)));
    let files = BTreeMap::from([("de/voxpopuli/de_asr.jsonl".to_owned(), manifest.into_bytes())]);
    let (hub, sandbox) = (serve(files), Sandbox::new());
    for number in 0..4 {
        fs::create_dir_all(sandbox.path("sounds")).unwrap();
        fs::write(sandbox.path(&format!("sounds/c {number}.wav")), clip(number)).unwrap();
    }
    run(&sandbox, &hub, "repo = \"ann/voice\", audio = \"sounds\", files = \"de/*/de_asr*.jsonl\", language = \"de\", count = 3").exits(0);
    assert_eq!(clips(&sandbox.path(".voxpipe/latest/p/it")), expected(&[0, 1, 2]));
    assert!(hub.sent() <= 3 << 20, "{}", hub.sent());
}

#[test]
fn parquet_with_sounds_inside_is_read_as_python_wrote_it() {
    let mut sets = vec![("committed", fixture("clips.parquet")), ("committed", fixture("clips-zstd.parquet"))];
    match python("pyarrow") {
        None => skipped("Parquet files of this machine's Python", "no Python with pyarrow"),
        Some(python) => {
            let folder = tempfile::tempdir().unwrap();
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import_stage/make_parquet.py");
            assert!(Command::new(python).arg(script).arg(folder.path()).status().unwrap().success());
            sets.extend(["clips.parquet", "clips-zstd.parquet"].map(|name| ("fresh", fs::read(folder.path().join(name)).unwrap())));
        }
    }
    // The same as in the script, in numbers.
    let tone =
        |number: i64| -> Vec<i16> { (0..16_000_i64 / 3).map(|index| ((index * (number + 3) * 7 % 200 - 100) * 60) as i16).collect() };
    for (which, bytes) in sets {
        let mut bench = bench(&BTreeMap::from([("data/train-00000-of-00001.parquet".to_owned(), bytes.clone())]));
        bench.made::<Import>(json!({"folder": "set", "language": "en"}));
        let made = clips(&bench.cx.out);
        assert_eq!(made.len(), 10, "{which}");
        assert_eq!((made[0].0.as_str(), &made[0].1), ("Alpha one.", &tone(0)));
        assert_eq!((made[9].0.as_str(), &made[9].1), ("Mu twelve.", &tone(11)));
        let records: Vec<ClipRow> = bench.rows("clips.jsonl");
        assert_eq!(
            (records[3].speaker.as_deref(), records[3].source.as_deref()),
            (Some("1"), Some("set data/train-00000-of-00001.parquet row 4"))
        );
        let rejected = &bench.json("report.json")["rejected"];
        assert!(
            rejected[0]["reason"] == "it is in the language `de`" && rejected[1]["reason"].as_str().unwrap().contains("broken.wav"),
            "{rejected}"
        );

        let (hub, sandbox) = (serve(BTreeMap::from([("data/train-00000-of-00001.parquet".to_owned(), bytes)])), Sandbox::new());
        run(&sandbox, &hub, "repo = \"ann/voice\", split = \"train\", language = \"en\"").exits(0);
        assert_eq!(clips(&sandbox.path(".voxpipe/latest/p/it")), made);
    }
}

#[test]
fn splits_configurations_and_columns_are_found_or_asked_for() {
    let row = |number| format!("{{\"file_name\":\"c{number}.wav\",\"said\":\"{}\"}}\n", text(number));
    let mut set = BTreeMap::new();
    for (number, split) in ["train", "test"].iter().enumerate() {
        set.insert(format!("data/{split}/metadata.jsonl"), row(number as u32).into_bytes());
        set.insert(format!("data/{split}/c{number}.wav"), clip(number as u32));
    }
    let mut bench = bench(&set);
    says(&bench.error::<Import>(json!({"folder": "set"})), &["it has no text"]);
    let columns = json!({"text": "said"});
    bench.made::<Import>(json!({"folder": "set", "columns": columns}));
    assert_eq!(clips(&bench.cx.out), expected(&[0, 1]), "all splits, what is for training first");
    bench.made::<Import>(json!({"folder": "set", "columns": columns, "split": "train"}));
    assert_eq!(clips(&bench.cx.out), expected(&[0]));
    bench.made::<Import>(json!({"folder": "set", "columns": columns, "split": "test"}));
    assert_eq!(clips(&bench.cx.out), expected(&[1]));
    let error = bench.error::<Import>(json!({"folder": "set", "columns": columns, "split": "dev"}));
    says(&error, &["no split `dev` in `set`"]);
    assert_eq!(error.hint.as_deref(), Some("available: train, test"));

    let several = ["de", "fr"].map(|config| (format!("{config}/train-0.parquet"), fixture("clips.parquet")));
    let (hub, sandbox) = (serve(BTreeMap::from(several)), Sandbox::new());
    let ran = run(&sandbox, &hub, "repo = \"ann/voice\"");
    assert_ne!(ran.code, Some(0));
    ran.complains("several configurations in `ann/voice@").complains("`de`, `fr`");
    run(&sandbox, &hub, "repo = \"ann/voice\", config = \"fr\", count = 2").exits(0);
    assert!(hub.fetched().iter().all(|seen| seen.path.contains("/fr/")), "{:?}", hub.fetched());
}

#[test]
fn what_is_damaged_or_not_there_is_said() {
    let mut bench = bench(&BTreeMap::from([("notes.txt".to_owned(), b"x".to_vec())]));
    says(&bench.error::<Import>(json!({"folder": "nowhere"})), &["folder `nowhere` not found"]);
    says(&bench.error::<Import>(json!({"folder": "set"})), &["no table of clips among 1 files in `set`"]);
    bench.file("set/metadata.jsonl", "{\"file_name\":\"a.wav\",\"text\":\n");
    says(&bench.error::<Import>(json!({"folder": "set"})), &["set metadata.jsonl:1: no JSON object"]);
    fs::remove_file(bench.cx.root.join("set/metadata.jsonl")).unwrap();
    let whole = fixture("clips.parquet");
    for (what, bytes) in [("no Parquet", b"not Parquet at all".to_vec()), ("cut", whole[..whole.len() / 2].to_vec()), ("empty", Vec::new())]
    {
        bench.file("set/clips.parquet", bytes);
        let error = bench.error::<Import>(json!({"folder": "set"}));
        assert!(error.message.contains("`set/clips.parquet` cannot be read as Parquet"), "{what}: {}", error.message);
    }
    // Corrupted bytes end in an error or in rejected rows, never in a panic.
    for place in (0..whole.len()).step_by(whole.len() / 40) {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x55;
        bench.file("set/clips.parquet", bytes);
        let _ = bench.outcome::<Import>(json!({"folder": "set"}));
    }

    let (hub, sandbox) = (serve(BTreeMap::from([("clips.parquet".to_owned(), whole)])), Sandbox::new());
    let fails = |with: &str, says: &str| {
        let ran = run(&sandbox, &hub, with);
        assert_ne!(ran.code, Some(0), "{with}");
        ran.complains(says);
    };
    fails("repo = \"ann/other\"", "there is no such repository");
    fails("repo = \"ann/voice\", revision = \"nonesuch\"", "the repository has no such revision");
    hub.break_with("clips.parquet", 99, What::Status(403, ""));
    fails("repo = \"ann/voice\"", "cannot read clips.parquet of `ann/voice@");
    hub.break_with("cdn", 99, What::NoRange);
    fails("repo = \"ann/voice\"", "not the requested part of the file");
    hub.break_with("clips.parquet", 2, What::CutHalf);
    run(&sandbox, &hub, "repo = \"ann/voice\", count = 2").exits(0);
}

#[test]
fn settings_that_cannot_work_are_complained_about() {
    for (with, path, says) in [
        (json!({}), "", "nothing to import"),
        (json!({"repo": "a/b", "folder": "c"}), "folder", "both set"),
        (json!({"folder": "c", "revision": "main"}), "revision", "`revision` has no effect on a folder"),
        (json!({"repo": "a b"}), "repo", "not a valid name for a dataset"),
        (json!({"repo": "a/b", "revision": "a b"}), "revision", "cannot be a revision"),
        (json!({"folder": "c", "files": "a["}), "files", "is not a valid glob pattern"),
        (json!({"folder": "c", "language": "english"}), "language", "is not an ISO 639-1 language code"),
        (json!({"folder": "c", "count": 0}), "count", "`count` must be at least 1"),
        (json!({"folder": "c", "pick": "sample"}), "pick", "needs a `count` | set `count` to the size"),
        (json!({"folder": "c", "min_words": 3, "max_words": 2}), "max_words", "`max_words` must be at least 3"),
        (json!({"folder": "c", "min_seconds": 3, "max_seconds": 2}), "max_seconds", "`max_seconds` 2 exclude every clip"),
    ] {
        let found = complaints::<Import>(with.clone());
        assert_eq!(found.len(), 1, "{with}: {found:?}");
        assert!(found[0].0 == path && found[0].1.contains(says), "{with}: {found:?}");
    }
}
