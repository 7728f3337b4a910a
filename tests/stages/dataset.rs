//! `dataset`: quality checks, duplicates, splits, and the user's copy of the dataset.

use super::*;
use voxpipe::data::clip_row::ClipRow;
use voxpipe::stages::dataset::Dataset;

/// Clips of a stage, each with its audio and transcript.
fn clips(bench: &mut Bench, name: &str, rows: &[(&str, Vec<u8>, &str)]) {
    let folder = bench.folder.path().join(name);
    fs::create_dir_all(folder.join("audio")).unwrap();
    let mut lines = String::new();
    for (stem, bytes, text) in rows {
        fs::write(folder.join(format!("audio/{stem}.wav")), bytes).unwrap();
        lines += &format!("{}\n", json!({"audio_path": format!("audio/{stem}.wav"), "text": text, "language": "en", "phrase": stem}));
    }
    fs::write(folder.join("clips.jsonl"), lines).unwrap();
    let mut clips = artifact(ArtifactKind::Clips, &folder);
    clips.stage = name.to_owned();
    bench.give("clips", clips);
}

fn twenty() -> Bench {
    let mut bench = Bench::new();
    let rows: Vec<(String, Vec<u8>, String)> = (0..20).map(|n| (format!("c{n:02}"), clip(n), format!("this is sentence {n}"))).collect();
    let rows: Vec<(&str, Vec<u8>, &str)> = rows.iter().map(|(stem, bytes, text)| (stem.as_str(), bytes.clone(), text.as_str())).collect();
    clips(&mut bench, "uploads", &rows);
    bench
}

#[test]
fn clips_become_a_split_dataset() {
    let mut bench = twenty();
    let made = bench.made::<Dataset>(json!({"split": {"train": 0.8, "test": 0.1, "validation": 0.1}}));
    let metrics = |name: &str| made.metrics[name];
    assert_eq!([metrics("clips"), metrics("train_clips"), metrics("test_clips"), metrics("validation_clips")], [20.0, 16.0, 2.0, 2.0]);
    assert_eq!(metrics("seconds"), 21.9);
    let all: Vec<ClipRow> = bench.rows("data.jsonl");
    for name in ["train", "test", "validation"] {
        let part: Vec<ClipRow> = bench.rows(&format!("{name}.jsonl"));
        assert_eq!(part, all.iter().filter(|record| record.rest["split"] == name).cloned().collect::<Vec<_>>());
    }
    assert_eq!((all[3].audio_path.as_str(), all[3].duration), ("audio/c03.wav", Some(1.03)));
    assert_eq!(all[3].rest["phrase"], "c03");
    assert_eq!(fs::read(bench.cx.out.join("audio/c03.wav")).unwrap(), clip(3));
    let first = tree(&bench.cx.out);
    bench.made::<Dataset>(json!({"split": {"train": 0.8, "test": 0.1, "validation": 0.1}}));
    assert_eq!(tree(&bench.cx.out), first, "the same clips give the same bytes");
    bench.made::<Dataset>(json!({}));
    assert!(!bench.cx.out.join("validation.jsonl").exists());
    assert_eq!(bench.json("report.json")["splits"], json!({"train": 18, "test": 2}));
}

#[test]
fn clips_that_cannot_be_used_are_listed() {
    let mut bench = Bench::new();
    let silence = tone(1.0, 0.0, 16_000, 1, 16);
    let loud = {
        let mut loud = clip(5);
        loud[44..].as_chunks_mut::<2>().0.iter_mut().step_by(50).for_each(|sample| *sample = i16::MAX.to_le_bytes());
        loud
    };
    let rows = [
        ("a", clip(0), "first sentence"),
        ("b", clip(1), "second sentence"),
        ("silent", silence, "not to be heard"),
        ("loud", loud, "loud sentence"),
        ("long", tone(31.0, 200.0, 16_000, 1, 16), "much too long"),
        ("brief", tone(0.1, 200.0, 16_000, 1, 16), "much too brief"),
        ("slow", tone(20.0, 210.0, 16_000, 1, 16), "slow"),
        ("rate", tone(1.0, 210.0, 8_000, 1, 16), "of another rate"),
        ("cut", clip(7)[..400].to_vec(), "cut off"),
    ];
    clips(&mut bench, "one", &rows);
    clips(&mut bench, "two", &[("a", clip(9), "third sentence"), ("again", clip(0), "first sentence")]);
    bench.made::<Dataset>(json!({}));
    let report = bench.json("report.json");
    let list = |key: &str| -> Vec<String> {
        let entries = report[key].as_array().unwrap().iter();
        entries.map(|it| format!("{} {}", it["clip"].as_str().unwrap(), it["reason"].as_str().unwrap())).collect()
    };
    let rejected = list("rejected");
    for (found, expected) in rejected.iter().zip([
        "one/audio/silent.wav is silent (-120 dBFS)",
        "one/audio/long.wav is too long: 31.00 s",
        "one/audio/brief.wav is too short: 0.10 s",
        "one/audio/rate.wav is not a dataset clip",
        "one/audio/cut.wav is truncated",
        "two/audio/again.wav sounds exactly like one/audio/a.wav",
    ]) {
        assert!(found.starts_with(expected), "{found}");
    }
    assert_eq!(rejected.len(), 6, "{rejected:?}");
    let odd = list("odd");
    assert!(odd[0].starts_with("one/audio/loud.wav is clipped (2.0 %"), "{odd:?}");
    assert_eq!(odd[1..], ["one/audio/slow.wav has 0.2 letters a second: text and sound may not belong together"]);
    let heard = bench.heard();
    assert!(heard.contains("warning: 6 clips rejected: ") && heard.contains("warning: suspicious audio: "), "{heard}");
    let paths: Vec<String> = bench.rows::<ClipRow>("data.jsonl").into_iter().map(|record| record.audio_path).collect();
    assert!(paths[0].starts_with("audio/a-") && paths[4].starts_with("audio/a-") && paths[0] != paths[4], "{paths:?}");
    assert!(!bench.out("report.json").contains(bench.folder.path().to_str().unwrap()), "no absolute path");
}

#[test]
fn nothing_usable_and_too_few_sentences_are_errors() {
    let mut bench = Bench::new();
    clips(&mut bench, "one", &[("silent", tone(1.0, 0.0, 16_000, 1, 16), "x")]);
    says(&bench.error::<Dataset>(json!({})), &["none of 1 clip can be used: `audio/silent.wav is silent"]);
    let mut bench = Bench::new();
    clips(&mut bench, "one", &[("a", clip(0), "The same."), ("b", clip(1), "the same")]);
    says(&bench.error::<Dataset>(json!({})), &["1 different sentence cannot fill 2 splits: test, train"]);
    let mut bench = Bench::new();
    clips(&mut bench, "one", &[]);
    says(&bench.error::<Dataset>(json!({})), &["no clips to build a dataset from"]);
    fs::write(bench.folder.path().join("one/clips.jsonl"), "{\"audio_path\":\"a\"}\n").unwrap();
    says(&bench.error::<Dataset>(json!({})), &["from stage `one`", "clips.jsonl:1: missing field `text`"]);
    fs::write(bench.folder.path().join("one/clips.jsonl"), "{\"audio_path\":\"../a\",\"text\":\"x\"}\n").unwrap();
    says(&bench.error::<Dataset>(json!({})), &["one/../a is outside the folder"]);
}

#[test]
fn the_users_folder_is_filled_and_respected() {
    let mut bench = twenty();
    let with = json!({"folder": "datasets/mine"});
    assert_eq!(stage::<Dataset>(with.clone()).external_outputs(), [PathBuf::from("datasets/mine")]);
    bench.made::<Dataset>(with.clone());
    let mut placed = tree(&bench.cx.root.join("datasets/mine"));
    assert!(placed.remove(".voxpipe-dataset").is_some());
    assert_eq!(placed, tree(&bench.cx.out));

    bench.cx.seed += 1;
    bench.made::<Dataset>(with.clone());
    assert_ne!(tree(&bench.cx.root.join("datasets/mine"))["test.jsonl"], placed["test.jsonl"]);

    bench.file("datasets/mine/notes.txt", "mine");
    let before = tree(&bench.cx.root);
    bench.cx.seed += 1;
    let error = bench.error::<Dataset>(with);
    says(&error, &["files in `datasets/mine` were changed or added after voxpipe wrote the folder: `notes.txt`"]);
    assert_eq!((Exit::from(&error), tree(&bench.cx.root)), (Exit::Environment, before));

    bench.file("theirs/data.jsonl", "");
    let error = bench.error::<Dataset>(json!({"folder": "theirs"}));
    says(&error, &["`theirs` exists and was not made by voxpipe"]);
    assert_eq!(fs::read_dir(bench.cx.root.join("theirs")).unwrap().count(), 1);
}

#[test]
fn settings_that_cannot_work_are_complained_about() {
    for (with, path, says) in [
        (json!({"split": {"train": 0.9, "test": 0.2}}), "split", "the split fractions add up to 1.1, not 1"),
        (json!({"split": {"test": 0.2}}), "split", "omitted ones have their defaults"),
        (json!({"split": {"test": -0.1}}), "split.test", "-0.1 is not a fraction"),
        (json!({"max_seconds": 0.1}), "max_seconds", "exclude every clip"),
    ] {
        let found = complaints::<Dataset>(with.clone());
        assert_eq!(found.len(), 1, "{with}: {found:?}");
        assert!(found[0].0 == path && found[0].1.contains(says), "{with}: {found:?}");
    }
    assert!(complaints::<Dataset>(json!({})).is_empty());
}
