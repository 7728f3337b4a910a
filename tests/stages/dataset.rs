//! `dataset`: quality checks, duplicates, splits, and the user's copy of the dataset.

use super::*;
use voxpipe::data::clip_row::ClipRow;
use voxpipe::stages::dataset::Dataset;

use super::speech_like::speech_like;

/// Clips of a stage, each with its audio and transcript.
fn clips(bench: &mut Bench, name: &str, rows: &[(&str, Vec<u8>, &str)]) {
    let rows: Vec<(&str, Vec<u8>, Value)> =
        rows.iter().map(|(stem, bytes, text)| (*stem, bytes.clone(), json!({"text": text, "language": "en", "phrase": stem}))).collect();
    clips_with(bench, name, &rows);
}

/// Clips of a stage, each with its audio and the fields of its row.
fn clips_with(bench: &mut Bench, name: &str, rows: &[(&str, Vec<u8>, Value)]) {
    let folder = bench.folder.path().join(name);
    fs::create_dir_all(folder.join("audio")).unwrap();
    let mut lines = String::new();
    for (stem, bytes, fields) in rows {
        fs::write(folder.join(format!("audio/{stem}.wav")), bytes).unwrap();
        let mut row = json!({"audio_path": format!("audio/{stem}.wav")});
        row.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        lines += &format!("{row}\n");
    }
    fs::write(folder.join("clips.jsonl"), lines).unwrap();
    let mut clips = artifact(ArtifactKind::Clips, &folder);
    clips.stage = name.to_owned();
    bench.give("clips", clips);
}

/// A clip of a little more than one second in which someone speaks.
fn clip(number: u32) -> Vec<u8> {
    spoken(1.0 + f64::from(number) / 100.0, u64::from(number))
}

/// The entries of a list in the report, each as one line.
fn listed(report: &Value, key: &str) -> Vec<String> {
    let entries = report[key].as_array().unwrap().iter();
    entries.map(|it| format!("{} {}", it["clip"].as_str().unwrap(), it["reason"].as_str().unwrap())).collect()
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
    let loud = wav(&speech_like(1.0, 5).iter().map(|sample| (6.0 * sample).clamp(-0.7, 0.7)).collect::<Vec<_>>());
    let rows = [
        ("a", clip(0), "first sentence"),
        ("b", clip(1), "second sentence"),
        ("silent", silence, "not to be heard"),
        ("loud", loud, "loud sentence"),
        ("long", spoken(31.0, 30), "much too long"),
        ("brief", spoken(0.1, 31), "much too brief"),
        ("slow", spoken(2.0, 1), "x"),
        ("rate", tone(1.0, 210.0, 8_000, 1, 16), "of another rate"),
        ("cut", clip(7)[..400].to_vec(), "cut off"),
    ];
    clips(&mut bench, "one", &rows);
    clips(&mut bench, "two", &[("a", clip(9), "third sentence"), ("again", clip(0), "first sentence")]);
    bench.made::<Dataset>(json!({}));
    let report = bench.json("report.json");
    let rejected = listed(&report, "rejected");
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
    let odd = listed(&report, "odd");
    assert!(odd[0].starts_with("one/audio/loud.wav is clipped ("), "{odd:?}");
    assert!(odd.contains(&"one/audio/slow.wav has 0.5 letters a second: text and sound may not belong together".to_owned()), "{odd:?}");
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

#[test]
fn a_clip_in_which_no_one_speaks_is_left_out() {
    let mut state = 1_u32;
    let noise: Vec<f32> = (0..40_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            0.05 * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
        })
        .collect();
    let noise = wav(&noise);
    let hum = tone(2.0, 50.0, 16_000, 1, 16);
    let word = fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/audio/speech.flac")).unwrap();
    let mut bench = Bench::new();
    let speech = bench.folder.path().join("speech.flac");
    fs::write(&speech, word).unwrap();
    let word = wav(&voxtral::audio::load(&speech).unwrap());
    let rows = [
        ("noise", noise, "the harvest moon rose slowly"),
        ("dc", wav(&vec![0.2; 32_000]), "please bring me a glass"),
        ("hum", hum, "nobody was awake to see"),
        ("synthetic", clip(1), "she paints the fence"),
        ("word", word, "a word"),
    ];
    clips(&mut bench, "one", &rows);
    let all = json!({"train": 1.0, "test": 0.0});
    bench.made::<Dataset>(json!({"split": all}));
    let rejected = listed(&bench.json("report.json"), "rejected");
    assert_eq!(
        rejected,
        [
            "one/audio/noise.wav has no speech (noise of -30 dBFS)",
            "one/audio/dc.wav has no speech (only a constant value, DC offset)",
            "one/audio/hum.wav has no speech (hum of -13 dBFS)",
        ]
        .map(|line| line.replace("one/", ""))
    );
    bench.made::<Dataset>(json!({"split": all, "no_speech": "warn"}));
    let report = bench.json("report.json");
    assert!(listed(&report, "rejected").is_empty());
    assert!(listed(&report, "odd").contains(&"audio/hum.wav has no speech (hum of -13 dBFS)".to_owned()));
    bench.made::<Dataset>(json!({"split": all, "no_speech": "keep"}));
    assert!(!listed(&bench.json("report.json"), "odd").iter().any(|line| line.contains("no speech")));
    assert_eq!(complaints::<Dataset>(json!({"no_speech": "fix"}))[0].0, "no_speech");
}

#[test]
fn splits_that_come_with_the_clips_are_kept() {
    let rows = |splits: &[Value]| -> Vec<(String, Vec<u8>, Value)> {
        let row = |(at, split): (usize, &Value)| (format!("c{at}"), clip(at as u32), json!({"text": format!("sentence {at}"), "split": split}));
        splits.iter().enumerate().map(row).collect()
    };
    let given = |splits: &[Value]| {
        let mut bench = Bench::new();
        let rows = rows(splits);
        let rows: Vec<(&str, Vec<u8>, Value)> = rows.iter().map(|(stem, bytes, row)| (stem.as_str(), bytes.clone(), row.clone())).collect();
        clips_with(&mut bench, "import", &rows);
        bench
    };
    let texts = |bench: &Bench, name: &str| -> Vec<String> {
        bench.rows::<ClipRow>(&format!("{name}.jsonl")).into_iter().map(|row| row.text.replace("sentence ", "")).collect()
    };
    let words = ["train", "test", "dev"].map(Value::from);
    let mut bench = given(&(0..9).map(|at| words[at % 3].clone()).collect::<Vec<_>>());
    for with in [json!({}), json!({"split": {"train": 1.0, "test": 0.0}}), json!({"split": {"train": 0.0, "test": 1.0}})] {
        let made = bench.made::<Dataset>(with.clone());
        assert_eq!(texts(&bench, "train"), ["0", "3", "6"], "{with}");
        assert_eq!(texts(&bench, "test"), ["1", "4", "7"], "{with}");
        assert_eq!(texts(&bench, "validation"), ["2", "5", "8"], "{with}");
        assert!(made.summary.ends_with("(as they came)"), "{}", made.summary);
    }
    bench.made::<Dataset>(json!({"split": {"train": 0.5, "test": 0.5, "given": "ignore"}}));
    assert!(!bench.cx.out.join("validation.jsonl").exists());
    assert_eq!(bench.json("report.json")["given_splits"], 0);

    // Only train came: the test split is taken from it, and told.
    let mut bench = given(&vec![json!("train"); 10]);
    bench.made::<Dataset>(json!({"split": {"train": 0.8, "test": 0.2}}));
    assert_eq!((texts(&bench, "train").len(), texts(&bench, "test").len()), (8, 2));
    assert!(bench.heard().contains("the clips bring no `test`: 2 clips of their `train` became it"), "{}", bench.heard());

    // A word that is no split is no training clip.
    let mut bench = given(&[json!("train"), json!("test"), json!("other"), json!(null), json!("train")]);
    bench.made::<Dataset>(json!({"split": {"train": 0.5, "test": 0.5}}));
    let rejected = listed(&bench.json("report.json"), "rejected");
    assert_eq!(rejected, ["audio/c2.wav has the split `other`, which is none of `train`, `validation` and `test`"]);
}

#[test]
fn leakage_between_splits_is_told_and_can_be_dropped() {
    let quieter = |number: u32, gain: f32| {
        let clip = speech_like(1.0 + f64::from(number) / 100.0, u64::from(number));
        wav(&[vec![0.0; 2_345], clip.iter().map(|sample| gain * sample).collect()].concat())
    };
    let mut bench = Bench::new();
    let row = |text: &str, speaker: &str, split: &str| json!({"text": text, "speaker": speaker, "split": split});
    let rows = [
        ("a", clip(1), row("the first sentence", "ann", "train")),
        ("b", clip(2), row("the second sentence", "ann", "train")),
        ("c", clip(3), row("the third sentence", "bob", "train")),
        ("again", clip(4), row("The first sentence!", "ann", "test")),
        ("quieter", quieter(2, 0.3), row("the second one", "cat", "test")),
        ("other", clip(6), row("another sentence", "cat", "test")),
        ("copy", quieter(3, 0.5), row("the third sentence", "bob", "train")),
    ];
    clips_with(&mut bench, "import", &rows);
    bench.made::<Dataset>(json!({}));
    let leakage = bench.json("report.json")["leakage"].clone();
    let pairs = |kind: &str| -> Vec<[String; 2]> {
        let name = |clip: &Value| clip["clip"].as_str().unwrap().replace("audio/", "").replace(".wav", "");
        leakage[kind]["pairs"].as_array().unwrap().iter().map(|pair| [name(&pair[0]), name(&pair[1])]).collect()
    };
    let pair = |one: &str, other: &str| [[one.to_owned(), other.to_owned()]];
    assert_eq!(pairs("texts"), pair("a", "again"));
    assert_eq!(pairs("near_duplicates"), pair("b", "quieter"));
    assert_eq!(pairs("near_duplicates_within_a_split"), pair("c", "copy"));
    assert_eq!(pairs("near_duplicates_with_two_texts"), pair("b", "quieter"));
    assert_eq!((&leakage["speakers"]["count"], &leakage["speakers"]["names"][0]["speaker"]), (&json!(1), &json!("ann")));
    let heard = bench.heard();
    for part in [
        "warning: 1 training clip with a sentence that is held out as well: `audio/a.wav and audio/again.wav`",
        "warning: 1 training clip with a recording that is held out as well: `audio/b.wav and audio/quieter.wav`",
        "1 of 3 speakers are in `train` and held out: `ann`",
    ] {
        assert!(heard.contains(part), "{part}: {heard}");
    }
    bench.made::<Dataset>(json!({"leakage": "drop"}));
    let train: Vec<String> = bench.rows::<ClipRow>("train.jsonl").into_iter().map(|row| row.text).collect();
    assert_eq!(train, ["the third sentence", "the third sentence"]);
    let rejected = listed(&bench.json("report.json"), "rejected");
    assert_eq!(rejected[0], "audio/a.wav is left out of `train`: its sentence is that of audio/again.wav in `test`");
    assert_eq!(rejected[1], "audio/b.wav is left out of `train`: its recording is that of audio/quieter.wav in `test`");

    // By speaker, without the splits that came, no speaker is on both sides.
    bench.made::<Dataset>(json!({"split": {"train": 0.6, "test": 0.4, "by": "speaker", "given": "ignore"}}));
    assert_eq!(bench.json("report.json")["leakage"]["speakers"]["count"], 0);
}

#[test]
fn odd_texts_are_corrected_told_or_left_out() {
    let mut bench = Bench::new();
    let row = |text: &str| json!({"text": text, "language": "en", "speaker": "ann"});
    let rows = [
        ("good", clip(1), row("a good sentence")),
        ("bell", clip(2), row("a\u{7}nother sentence")),
        ("zero", clip(3), row("hello\u{200b}world again")),
        ("html", clip(4), row("<p>Hello &nbsp;</p>")),
        ("lost", clip(5), row("caf\u{fffd} is open")),
        ("dots", clip(6), row("?!...")),
        ("long", clip(7), row(&"word ".repeat(1000))),
        ("cyrillic", clip(8), row("Привет, мир")),
        ("one", clip(9), row("one text of two")),
        ("two", clip(9), row("the other text of two")),
        ("three", clip(11), row("A good sentence!")),
    ];
    clips_with(&mut bench, "uploads", &rows);
    bench.made::<Dataset>(json!({"split": {"train": 0.5, "test": 0.5}}));
    let report = bench.json("report.json");
    let rejected = listed(&report, "rejected");
    let left_out = |name: &str| rejected.iter().find(|line| line.starts_with(&format!("audio/{name}.wav"))).cloned().unwrap_or_default();
    for (name, reason) in [
        ("html", "has a text with HTML: `<p>`"),
        ("lost", "has a text with a lost letter (U+FFFD)"),
        ("dots", "has a text without a letter: `?!...`"),
        ("long", "letters a second: text and sound do not belong together"),
        ("one", "has the same sound as audio/two.wav, which has another text: `the other text of two`"),
        ("two", "has the same sound as audio/one.wav, which has another text: `one text of two`"),
    ] {
        assert!(left_out(name).contains(reason), "{name}: {rejected:?}");
    }
    assert_eq!(rejected.len(), 6, "{rejected:?}");
    let texts: Vec<String> = bench.rows::<ClipRow>("data.jsonl").into_iter().map(|row| row.text).collect();
    assert_eq!(texts, ["a good sentence", "another sentence", "helloworld again", "Привет, мир", "A good sentence!"]);
    for (check, number) in [("control_characters", 1), ("invisible_characters", 1), ("script", 1), ("repeats", 1), ("two_texts", 2)] {
        assert_eq!(report["checks"][check]["count"], number, "{check}: {}", report["checks"]);
    }
    let heard = bench.heard();
    for part in [
        "1 clip with control characters in the text, corrected: audio/bell.wav (with control characters: U+0007)",
        "1 clip with a text in a script that its language is not written in: audio/cyrillic.wav",
        "2 clips with the same sound and different texts, left out: ",
        "1 clip with a text that its speaker has already said: audio/three.wav (`A good sentence!`, as audio/good.wav)",
    ] {
        assert!(heard.contains(part), "{part}: {heard}");
    }
    let kept: Vec<&str> = vec!["html", "replacement_characters", "letters_per_second", "two_texts"];
    let checks: serde_json::Map<String, Value> = kept.iter().map(|name| ((*name).to_owned(), json!("warn"))).collect();
    bench.made::<Dataset>(json!({"split": {"train": 0.5, "test": 0.5}, "checks": checks}));
    assert_eq!(listed(&bench.json("report.json"), "rejected").len(), 1);
    assert_eq!(complaints::<Dataset>(json!({"checks": {"two_texts": "fix"}}))[0].0, "checks.two_texts");
}
