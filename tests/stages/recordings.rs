//! `recordings`: parking until there are enough clips, several takes, and unusable files.

use super::*;
use voxpipe::data::clip_row::ClipRow;
use voxpipe::stages::phrases::Phrases;
use voxpipe::stages::recordings::Recordings;

fn bench() -> Bench {
    let mut bench = Bench::new();
    let phrases = bench.artifact::<Phrases>(json!({"language": "en", "count": 15}));
    bench.give("phrases", phrases);
    bench
}

fn ids(bench: &Bench) -> Vec<String> {
    let text = fs::read_to_string(bench.cx.inputs["phrases"][0].path.join("phrases.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_run_parks_until_enough_clips_are_there() {
    let mut bench = bench();
    let ids = ids(&bench);
    let with = json!({"folder": "mine", "min_clips": 12, "speaker": "ana"});
    let Ok(StageOutcome::Parked { have: 0, need: 12, .. }) = bench.outcome::<Recordings>(with.clone()) else { panic!("not parked") };
    for (number, id) in ids.iter().take(7).enumerate() {
        bench.file(&format!("mine/{id}.wav"), clip(number as u32));
    }
    bench.file(&format!("mine/{}.wav", ids[7]), "this is not audio");
    let before = tree(&bench.cx.root);
    let Ok(StageOutcome::Parked { have: 7, need: 12, message }) = bench.outcome::<Recordings>(with.clone()) else { panic!("not parked") };
    let missing = format!("Missing: `{}`, `{}`", ids[7], ids[8]);
    assert!(message.starts_with("`mine` has 7 of 12 clips (1 file not usable: `") && message.contains(&missing), "{message}");
    assert!(bench.heard().contains(&format!("warning: not usable: {}.wav", ids[7])), "{}", bench.heard());
    assert_eq!(tree(&bench.cx.root), before, "the folder belongs to the person");

    for (number, id) in ids.iter().enumerate().skip(7).take(5) {
        bench.file(&format!("mine/{id}.wav"), clip(number as u32));
    }
    let made = bench.made::<Recordings>(with);
    assert_eq!(made.metrics["clips"], 12.0);
    let records: Vec<ClipRow> = bench.rows("clips.jsonl");
    assert_eq!(records.len(), 12);
    assert_eq!(records[0].audio_path, format!("audio/{}.wav", ids[0]));
    assert_eq!((records[0].duration, records[0].language.as_deref(), records[0].speaker.as_deref()), (Some(1.0), Some("en"), Some("ana")));
    assert_eq!(records[0].rest["phrase"], json!(ids[0]));
    assert!(bench.cx.out.join(&records[11].audio_path).is_file());
    assert_eq!(bench.json("report.json")["missing"], json!(ids[12..]));
}

#[test]
fn the_newest_usable_take_counts_and_the_rest_is_listed() {
    let mut bench = bench();
    let ids = ids(&bench);
    bench.file(&format!("recordings/{}.wav", ids[0]), clip(1));
    bench.file(&format!("recordings/{}.2.wav", ids[0]), clip(2));
    bench.file(&format!("recordings/{}.10.wav", ids[0]), clip(3));
    bench.file(&format!("recordings/{}.wav", ids[1]), tone(2.0, 300.0, 44_100, 2, 24));
    let whole = clip(9);
    bench.file(&format!("recordings/{}.2.wav", ids[1]), &whole[..whole.len() / 2]);
    bench.file(&format!("recordings/{}.wav", ids[2]), tone(0.0, 1.0, 16_000, 1, 16));
    bench.file(&format!("recordings/{}.wav", ids[3]), "");
    bench.file("recordings/who.wav", clip(4));
    bench.file("recordings/notes.md", "x");
    bench.file("recordings/.DS_Store", "x");
    bench.made::<Recordings>(json!({"min_clips": 2}));
    let records: Vec<ClipRow> = bench.rows("clips.jsonl");
    let used: Vec<_> = records.iter().map(|record| (record.source.clone().unwrap(), record.duration.unwrap())).collect();
    assert_eq!(used, [(format!("{}.10.wav", ids[0]), 1.03), (format!("{}.wav", ids[1]), 2.0)]);
    let report = bench.json("report.json");
    assert_eq!(report["older_takes"], json!([format!("{}.2.wav", ids[0]), format!("{}.wav", ids[0])]));
    assert_eq!(report["unmatched"], json!(["who.wav"]));
    assert_eq!(report["other_files"], json!(["notes.md"]));
    let rejected: Vec<_> = report["rejected"].as_array().unwrap().iter().map(|it| it["file"].as_str().unwrap()).collect();
    assert_eq!(rejected, [format!("{}.2.wav", ids[1]), format!("{}.wav", ids[2]), format!("{}.wav", ids[3])]);
    assert!(!bench.out("report.json").contains(bench.folder.path().to_str().unwrap()), "no absolute path");
    assert!(bench.heard().contains("warning: 1 clip in `recordings` not named after a phrase: `who.wav`"));
}

#[test]
fn a_take_is_found_whatever_the_file_system_makes_of_its_name() {
    let mut bench = Bench::new();
    bench.file("phrases.csv", "id,text\nMorgen-1,Good morning.\nmorgen-2,Good night.\n");
    let phrases = bench.artifact::<Phrases>(json!({"language": "en", "source": "file", "file": "phrases.csv"}));
    bench.give("phrases", phrases);
    for name in ["MORGEN-1.WAV", "Morgen-2.2.wav", "~$Morgen-2.wav", "Thumbs.db"] {
        bench.file(&format!("recordings/{name}"), clip(1));
    }
    bench.made::<Recordings>(json!({"min_clips": 2}));
    assert_eq!(bench.rows::<ClipRow>("clips.jsonl").len(), 2);
    assert_eq!((&bench.json("report.json")["unmatched"], &bench.json("report.json")["other_files"]), (&json!([]), &json!([])));
}

#[test]
fn more_clips_than_phrases_can_never_come() {
    says(&bench().error::<Recordings>(json!({"min_clips": 16})), &["`min_clips` is 16, but there are only 15 phrases"]);
    assert_eq!(complaints::<Recordings>(json!({"min_clips": 0, "folder": ""})).len(), 2);
}
