//! Which tables of a dataset are meant, and the splits they come with.

use super::{steps, texts};
use crate::stages::{Bench, says};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use voxpipe::data::clip_row::ClipRow;
use voxpipe::stages::dataset::Dataset;
use voxpipe::stages::import::Import;
use voxpipe::stages::publish::Publish;

/// Text and split of each clip.
fn splits(bench: &Bench) -> Vec<(String, String)> {
    let records = bench.rows::<ClipRow>("clips.jsonl");
    let split = |record: &ClipRow| record.rest.get("split").and_then(Value::as_str).unwrap_or("-").to_owned();
    records.iter().map(|record| (record.text.clone(), split(record))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(text, split)| ((*text).to_owned(), (*split).to_owned())).collect()
}

/// A dataset with recordings `a.wav` to `e.wav`.
fn bench(files: &[(&str, &str)]) -> Bench {
    let bench = Bench::new();
    for name in ["a", "b", "c", "d", "e"] {
        bench.file(&format!("set/clips/{name}.wav"), steps(1));
    }
    for (name, content) in files {
        bench.file(&format!("set/{name}"), content);
    }
    bench
}

const A: &str = "file_name,text\nclips/a.wav,One.\n";
const B: &str = "file_name,text\nclips/b.wav,Two.\n";
const C: &str = "file_name,text\nclips/c.wav,Three.\n";

#[test]
fn splits_that_come_with_the_data_are_carried() {
    let card = |yaml: &str| format!("---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files:\n{yaml}---\n# Set\n");
    for (files, expected) in [
        (
            &[("train/metadata.csv", A), ("test/metadata.csv", B), ("dev/metadata.csv", C)][..],
            &[("One.", "train"), ("Three.", "validation"), ("Two.", "test")][..],
        ),
        (&[("train.csv", A), ("valid.csv", B), ("eval.csv", C)], &[("One.", "train"), ("Two.", "validation"), ("Three.", "test")]),
        (
            &[(
                "metadata.csv",
                "file_name,text,split\nclips/a.wav,One.,train\nclips/b.wav,Two.,dev\nclips/c.wav,Three.,held-out\nclips/d.wav,Four.,\n",
            )],
            &[("One.", "train"), ("Two.", "validation"), ("Three.", "test"), ("Four.", "-")],
        ),
        (
            &[
                ("train_manifest.json", "{\"audio_filepath\": \"/x/clips/a.wav\", \"text\": \"One.\"}\n"),
                ("test_manifest.json", "{\"audio_filepath\": \"/x/clips/b.wav\", \"text\": \"Two.\"}\n"),
            ],
            &[("One.", "train"), ("Two.", "test")],
        ),
        // The card says which file is which split, and which ones are none.
        (
            &[
                ("one.csv", A),
                ("two.csv", B),
                ("old.csv", C),
                ("README.md", &card("  - split: train\n    path: one.csv\n  - split: test\n    path: two.csv\n")),
            ],
            &[("One.", "train"), ("Two.", "test")],
        ),
        (
            &[("x/one.csv", A), ("y/one.csv", B), ("README.md", &card("    test: x/*.csv\n    validation: [y/one.csv]\n"))],
            &[("Two.", "validation"), ("One.", "test")],
        ),
        (&[("one.csv", A), ("test.csv", B), ("README.md", &card("  - one.csv\n"))], &[("One.", "train")]),
    ] {
        let mut bench = bench(files);
        bench.made::<Import>(json!({"folder": "set"}));
        assert_eq!(splits(&bench), pairs(expected), "{files:?}");
        let counted: BTreeMap<String, u64> = serde_json::from_value(bench.json("report.json")["splits"].clone()).unwrap();
        assert_eq!(counted.values().sum::<u64>() as usize, expected.iter().filter(|(_, split)| *split != "-").count());
    }
}

#[test]
fn splits_are_chosen_by_any_of_their_names() {
    let table = "file_name,text,subset\nclips/a.wav,One.,train\nclips/b.wav,Two.,dev\nclips/c.wav,Three.,test-clean\n";
    let mut bench = bench(&[("metadata.csv", table)]);
    for (split, expected) in [
        (json!("test"), &[("Three.", "test")][..]),
        (json!("test-clean"), &[("Three.", "test")]),
        (json!("validation"), &[("Two.", "validation")]),
        (json!(["train", "dev"]), &[("One.", "train"), ("Two.", "validation")]),
    ] {
        bench.made::<Import>(json!({"folder": "set", "split": split}));
        assert_eq!(splits(&bench), pairs(expected), "{split}");
    }
    bench.made::<Import>(json!({"folder": "set"}));
    assert_eq!(bench.rows::<ClipRow>("clips.jsonl")[2].rest["split_name"], json!("test-clean"));
    let error = bench.error::<Import>(json!({"folder": "set", "split": "other"}));
    says(&error, &["no split `other` in `set`"]);
    assert_eq!(error.hint.as_deref(), Some("available: dev, test-clean, train"));
    bench.file("set/metadata.csv", A);
    let error = bench.error::<Import>(json!({"folder": "set", "split": "train"}));
    assert_eq!(error.hint.as_deref(), Some("its rows have no split: remove `split`"));
}

#[test]
fn of_common_voice_the_validated_clips_are_taken() {
    let table = |name: &str, text: &str| format!("client_id\tpath\tsentence\tlocale\nx\t{name}.wav\t{text}\ten\n");
    let (a, b, c) = (table("a", "One."), table("b", "Two."), table("c", "Three."));
    let all = format!("{a}x\tb.wav\tTwo.\ten\nx\td.wav\tFour.\ten\n");
    let others = [
        ("invalidated.tsv", c.as_str()),
        ("other.tsv", &c),
        ("reported.tsv", "sentence_id\tsentence\tlocale\treason\n1\tBad\ten\toffensive\n"),
        ("validated_sentences.tsv", "sentence_id\tsentence\n1\tx\n"),
        ("unvalidated_sentences.tsv", "sentence_id\tsentence\n1\tx\n"),
        ("clip_durations.tsv", "clip\tduration[ms]\na.wav\t1000\n"),
        ("times.txt", "x"),
    ];
    let mut whole = bench(&others);
    says(&whole.error::<Import>(json!({"folder": "set"})), &["no table of validated clips in `set`"]);
    whole.file("set/validated.tsv", &all);
    whole.made::<Import>(json!({"folder": "set"}));
    assert_eq!(splits(&whole), pairs(&[("One.", "-"), ("Two.", "-"), ("Four.", "-")]));
    whole.file("set/train.tsv", &a);
    whole.file("set/dev.tsv", &b);
    whole.file("set/test.tsv", table("e", "Five."));
    whole.made::<Import>(json!({"folder": "set"}));
    assert_eq!(splits(&whole), pairs(&[("One.", "train"), ("Two.", "validation"), ("Five.", "test")]));
    whole.made::<Import>(json!({"folder": "set", "files": "invalidated.tsv"}));
    assert_eq!(splits(&whole), pairs(&[("Three.", "-")]));
}

#[test]
fn tables_of_the_same_clips_are_never_concatenated() {
    let json = "{\"file_name\": \"clips/a.wav\", \"text\": \"One.\"}\n";
    let mut same = bench(&[("metadata.csv", A), ("metadata.jsonl", json)]);
    same.made::<Import>(json!({"folder": "set"}));
    assert_eq!(texts(&same), [("set metadata.jsonl:1".to_owned(), "One.".to_owned())]);
    assert!(same.heard().contains("`metadata.csv` of `set` has clips that `metadata.jsonl` has too"), "{}", same.heard());

    let mut different = bench(&[("mine.csv", A), ("corrected.csv", "file_name,text\nclips/a.wav,Won.\n")]);
    let error = different.error::<Import>(json!({"folder": "set"}));
    says(&error, &["several tables of the same clips in `set`: `corrected.csv`, `mine.csv`"]);
    assert!(error.hint.unwrap().contains("files = "));
    different.made::<Import>(json!({"folder": "set", "files": "mine.csv"}));
    assert_eq!(splits(&different), pairs(&[("One.", "-")]));

    let mut parts = bench(&[("part-1.csv", A), ("part-2.csv", B), ("speakers.csv", "speaker,age\nann,30\n")]);
    parts.made::<Import>(json!({"folder": "set"}));
    assert_eq!(splits(&parts), pairs(&[("One.", "-"), ("Two.", "-")]));
}

#[test]
fn configurations_of_a_card_are_asked_for() {
    let card = "---\nconfigs:\n- config_name: one\n  data_files: one.csv\n- config_name: two\n  data_files: two.csv\n---\n";
    let mut bench = bench(&[("one.csv", A), ("two.csv", B), ("README.md", card)]);
    let error = bench.error::<Import>(json!({"folder": "set"}));
    says(&error, &["several configurations in `set`"]);
    assert_eq!(error.hint.as_deref(), Some("set `config` to one of: `one`, `two`"));
    bench.made::<Import>(json!({"folder": "set", "config": "two"}));
    assert_eq!(splits(&bench), pairs(&[("Two.", "train")]));
    says(&bench.error::<Import>(json!({"folder": "set", "config": "three"})), &["no configuration `three` in the card of `set`"]);
    bench.file("set/README.md", card.replace("config_name: two\n", "config_name: two\n  default: true\n"));
    bench.made::<Import>(json!({"folder": "set"}));
    assert_eq!(splits(&bench), pairs(&[("Two.", "train")]));
}

#[test]
fn a_dataset_that_was_published_here_comes_back_as_it_was() {
    let mut bench = Bench::new();
    let mut table = "file,text\n".to_owned();
    for number in 0..12 {
        bench.file(&format!("in/{number}.wav"), crate::stages::tone(1.0 + f64::from(number) / 10.0, 300.0, 16_000, 1, 16));
        table.push_str(&format!("{number}.wav,Sentence of number {}.\n", (b'a' + number) as char));
    }
    bench.file("in/metadata.csv", table);
    let clips = bench.artifact::<Import>(json!({"folder": "in", "language": "en"}));
    bench.give("clips", clips);
    let dataset = bench.artifact::<Dataset>(json!({"split": {"train": 0.6, "test": 0.4}, "no_speech": "keep"}));
    let count = |bench: &Bench, name: &str| bench.out(name).lines().count();
    let (train, test) = (count(&bench, "train.jsonl"), count(&bench, "test.jsonl"));
    bench.give("dataset", dataset);
    for parquet in [false, true] {
        bench.made::<Publish>(json!({"target": "published", "overwrite": true, "parquet": parquet}));
        bench.made::<Import>(json!({"folder": "published"}));
        let found = splits(&bench);
        let of = |split: &str| found.iter().filter(|(_, has)| has == split).count();
        assert_eq!((of("train"), of("test"), found.len()), (train, test, train + test), "parquet: {parquet}");
    }
}
