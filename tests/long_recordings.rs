//! Long recordings: cut by subtitles and annotations, by their text alone, or at pauses into drafts.

use crate::support::Sandbox;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use voxtral::audio;
use voxtral::inference::transcriber::{TokenLimit, Transcriber, Utterance};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Twelve seconds of noise, no part of which is like another, so that a clip shows where it was cut.
fn noise() -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from((state >> 16) as i16) / 32_768.0
    };
    (0..12 * 16_000).map(|_| next()).collect()
}

/// A project with the recording `clips/talk.wav`, and a stage that takes it in with `with`.
fn project(with: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("clips")).unwrap();
    audio::write_wav16k(&sandbox.path("clips/talk.wav"), &noise()).unwrap();
    let comma = if with.is_empty() { "" } else { ", " };
    sandbox.pipeline(&format!(
        "schema = 1\n[pipeline]\nname = \"t\"\n[stage.up]\nuses = \"uploads\"\nwith = {{ audio = \"clips\", language = \"en\"{comma}{with} }}\n"
    ));
    sandbox
}

/// What a stage made last.
fn out(sandbox: &Sandbox, stage: &str) -> PathBuf {
    sandbox.path(".voxpipe/latest/t").join(stage)
}

fn rows(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("clips.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Text and speaker of each clip, with its first sample and its length, as heard in the recording.
fn cut(folder: &Path) -> Vec<(String, Option<String>, usize, usize)> {
    let noise = noise();
    let clip = |row: Value| {
        let samples = audio::read_wav16k(&folder.join(row["audio_path"].as_str().unwrap())).unwrap();
        let first = noise.windows(samples.len()).position(|part| part == samples).expect("a part of the recording");
        (row["text"].as_str().unwrap().to_owned(), row["speaker"].as_str().map(str::to_owned), first, samples.len())
    };
    rows(folder).into_iter().map(clip).collect()
}

const SRT: &str = "1\n00:00:00,500 --> 00:00:02,000\nGood <i>morning</i>.\n\n2\n00:00:02,000 --> 00:00:03,250\nHow are you?\n\n3\n00:00:08,000 --> 00:00:10,500\nFine.\n";
const VTT: &str = "WEBVTT\n\n00:00.500 --> 00:02.000\nGood morning.\n\n00:02.000 --> 00:03.250 align:start\nHow are you?\n\n00:08.000 --> 00:10.500\nFine.\n";
const LABELS: &str = "0.500000\t2.000000\tGood morning.\n2.000000\t3.250000\tHow are you?\n8.000000\t10.500000\tFine.\n";
const TEXTGRID: &str = "File type = \"ooTextFile\"\n\"TextGrid\"\n0\n12\n<exists>\n1\n\"IntervalTier\"\n\"sentence\"\n0\n12\n5\n0\n0.5\n\"\"\n0.5\n2\n\"Good morning.\"\n\
    2\n3.25\n\"How are you?\"\n3.25\n8\n\"\"\n8\n10.5\n\"Fine.\"\n";
const EAF: &str = "<?xml version=\"1.0\"?><ANNOTATION_DOCUMENT><HEADER><MEDIA_DESCRIPTOR MEDIA_URL=\"file:///x/talk.wav\"/></HEADER><TIME_ORDER>\
    <TIME_SLOT TIME_SLOT_ID=\"a\" TIME_VALUE=\"500\"/><TIME_SLOT TIME_SLOT_ID=\"b\" TIME_VALUE=\"2000\"/><TIME_SLOT TIME_SLOT_ID=\"c\" TIME_VALUE=\"3250\"/>\
    <TIME_SLOT TIME_SLOT_ID=\"d\" TIME_VALUE=\"8000\"/><TIME_SLOT TIME_SLOT_ID=\"e\" TIME_VALUE=\"10500\"/></TIME_ORDER><TIER TIER_ID=\"t\">\
    <ANNOTATION><ALIGNABLE_ANNOTATION TIME_SLOT_REF1=\"a\" TIME_SLOT_REF2=\"b\"><ANNOTATION_VALUE>Good morning.</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>\
    <ANNOTATION><ALIGNABLE_ANNOTATION TIME_SLOT_REF1=\"b\" TIME_SLOT_REF2=\"c\"><ANNOTATION_VALUE>How are you?</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>\
    <ANNOTATION><ALIGNABLE_ANNOTATION TIME_SLOT_REF1=\"d\" TIME_SLOT_REF2=\"e\"><ANNOTATION_VALUE>Fine.</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>\
    </TIER></ANNOTATION_DOCUMENT>";

#[test]
fn every_format_of_timed_text_gives_one_clip_for_each_cue() {
    let wide: Vec<u8> = [0xff, 0xfe].into_iter().chain(TEXTGRID.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    let files: [(&str, &str, &[u8]); 9] = [
        ("talk.srt", "talk.srt", SRT.as_bytes()),
        ("talk.en.srt", "talk.en.srt", SRT.as_bytes()),
        ("subtitles/talk.vtt", "subtitles/talk.vtt", VTT.as_bytes()),
        ("clips/talk.vtt", "vtt", VTT.as_bytes()),
        ("clips/talk.txt", "txt", LABELS.as_bytes()),
        ("talk.txt", "talk.txt", LABELS.as_bytes()),
        ("talk.TextGrid", "talk.TextGrid", &wide),
        ("clips/talk.TextGrid", "txt", TEXTGRID.as_bytes()),
        ("session 1.eaf", "session 1.eaf", EAF.as_bytes()),
    ];
    for (file, transcripts, bytes) in files {
        let sandbox = project(&format!("transcripts = \"{transcripts}\""));
        sandbox.file(file, "");
        fs::write(sandbox.path(file), bytes).unwrap();
        sandbox.run(&["run"]).exits(0);
        let found: Vec<_> = cut(&out(&sandbox, "up")).into_iter().map(|(text, _, first, length)| (text, first, length)).collect();
        let wanted = [("Good morning.", 8_000, 24_000), ("How are you?", 32_000, 20_000), ("Fine.", 128_000, 40_000)];
        assert_eq!(found, wanted.map(|(text, first, length)| (text.to_owned(), first, length)), "{file}");
    }
    // `import` reads the same files.
    let sandbox = project("transcripts = \"talk.srt\"");
    sandbox.file("clips/talk.srt", SRT);
    sandbox.pipeline("schema = 1\n[pipeline]\nname = \"t\"\n[stage.im]\nuses = \"import\"\nwith = { folder = \"clips\" }\n");
    sandbox.run(&["run"]).exits(0);
    assert_eq!(cut(&out(&sandbox, "im")).len(), 3);
}

#[test]
fn a_cue_that_cannot_be_used_is_listed_with_its_line() {
    let sandbox = project("transcripts = \"talk.srt\", max_bad = 0.9");
    let more = "4\n00:00:10,500 --> 00:00:10,400\nbackwards\n\n5\n00:00:10,600 --> 00:00:11,000\n[applause]\n\n6\n00:00:11,000 --> 00:00:14,000\nafter the end\n";
    sandbox.file("talk.srt", &format!("{SRT}\n{more}"));
    sandbox.run(&["run"]).exits(0).complains("2 rows unusable").complains("1 file unusable");
    let folder = out(&sandbox, "up");
    assert_eq!(rows(&folder).len(), 3);
    let report: Value = serde_json::from_slice(&fs::read(folder.join("report.json")).unwrap()).unwrap();
    assert_eq!(report["bad_rows"][0], json!({"row": "talk.srt:14", "reason": "ends at 10.4 s, before it starts at 10.5 s"}));
    assert_eq!(report["bad_rows"][1], json!({"row": "talk.srt:18", "reason": "`[applause]` names a sound, no speech"}));
    assert_eq!(report["rejected"][0]["reason"], "clips/talk.wav has 12.00 s, and 11 s to 14 s of it are named");
    sandbox.pipeline(&sandbox.read("pipeline.toml").replace("max_bad = 0.9", "strict = true"));
    sandbox.run(&["run"]).exits(1).complains("`strict` is set").complains("talk.srt:14");
}

#[test]
fn cues_are_joined_widened_and_chosen_by_tier() {
    let sandbox = project("transcripts = \"talk.srt\", cues = { merge_seconds = 2, padding = 0.25 }");
    sandbox.file("talk.srt", SRT);
    sandbox.run(&["run"]).exits(0);
    let found: Vec<_> = cut(&out(&sandbox, "up")).into_iter().map(|(text, _, first, length)| (text, first, length)).collect();
    let wanted = [("Good morning. How are you?", 4_000, 52_000), ("Fine.", 124_000, 48_000)];
    assert_eq!(found, wanted.map(|(text, first, length)| (text.to_owned(), first, length)));

    let two = TEXTGRID.replace("<exists>\n1\n", "<exists>\n2\n").replace("sentence", "anna")
        + "\"IntervalTier\"\n\"ben\"\n0\n12\n1\n4\n5\n\"Well.\"\n";
    let sandbox = project("transcripts = \"talk.TextGrid\"");
    sandbox.file("talk.TextGrid", &two);
    sandbox.run(&["run"]).exits(0);
    let speakers: Vec<_> = cut(&out(&sandbox, "up")).into_iter().map(|(text, speaker, ..)| (text, speaker.unwrap())).collect();
    let of = |text: &str, speaker: &str| (text.to_owned(), speaker.to_owned());
    assert_eq!(speakers, [of("Good morning.", "anna"), of("How are you?", "anna"), of("Well.", "ben"), of("Fine.", "anna")]);
    sandbox.pipeline(&sandbox.read("pipeline.toml").replace("talk.TextGrid\"", "talk.TextGrid\", cues = { tiers = [\"ben\"] }"));
    sandbox.run(&["run"]).exits(0);
    assert_eq!(cut(&out(&sandbox, "up")).len(), 1);
    sandbox.pipeline(&sandbox.read("pipeline.toml").replace("ben", "carl"));
    sandbox.run(&["run"]).exits(1).complains("has no tier `carl`").complains("its tiers are `anna`, `ben`");
}

/// The words of `datasets/words`, joined with pauses: the samples, and where each word is, in seconds.
fn joined(words: std::ops::Range<usize>) -> (Vec<f32>, Vec<(f64, f64, String)>) {
    let mut table = csv::Reader::from_path(repository("datasets/words/transcripts.csv")).unwrap();
    let rows: Vec<csv::StringRecord> = table.records().map(Result::unwrap).collect();
    let (mut samples, mut places) = (Vec::new(), Vec::new());
    for row in &rows[words] {
        let word = audio::load(&repository("datasets/words/clips").join(&row[0])).unwrap();
        let start = samples.len();
        samples.extend(word);
        places.push((start as f64 / 16_000.0, samples.len() as f64 / 16_000.0, row[1].to_owned()));
        samples.extend(std::iter::repeat_n(0.0, 8_000));
    }
    (samples, places)
}

#[test]
fn texts_are_scored_as_the_model_would_write_them() {
    let model = Transcriber::open(repository("pipelines/models/voxtral-nano")).unwrap();
    for word in 20..26 {
        let (samples, _) = joined(word..word + 1);
        let utterance = Utterance { samples: &samples, language: Some("en") };
        let own = model.transcribe_batch(&[utterance], TokenLimit::Auto, &mut |_| ()).unwrap().remove(0);
        let wrong = "A completely different sentence of many words";
        let together = model.score_texts(&utterance, &[wrong, &own.text]).unwrap();
        let alone = model.score_texts(&utterance, &[&own.text]).unwrap();
        // The score has the end of the text as well, which the model was nearly certain of.
        let written: f64 = own.log_probabilities.iter().map(|value| f64::from(*value)).sum();
        assert!((alone[0].log_probability - written).abs() < 0.7 && alone[0].log_probability < written + 0.01, "{own:?} {alone:?}");
        assert!((together[1].log_probability - alone[0].log_probability).abs() < 1e-3, "{together:?} {alone:?}");
        assert_eq!(alone[0].tokens, own.tokens.len() + 1);
        assert!(together[0].log_probability < alone[0].log_probability - 20.0);
    }
}

/// A pipeline that tunes the nano model to the voice of the words, and then listens to `clips/talk.wav` with it.
fn listening(with: &str, text: Option<&str>, samples: &[f32]) -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("clips")).unwrap();
    audio::write_wav16k(&sandbox.path("clips/talk.wav"), samples).unwrap();
    if let Some(text) = text {
        sandbox.file("clips/talk.txt", text);
    }
    let words = repository("datasets/words");
    let base = repository("pipelines/models/voxtral-nano");
    sandbox.pipeline(&format!(
        "schema = 1\n[pipeline]\nname = \"t\"\nseed = 1\n\
         [stage.up]\nuses = \"uploads\"\nfrom = {{ model = \"model\" }}\nwith = {{ audio = \"clips\", language = \"en\", {with} }}\n\
         [stage.words]\nuses = \"uploads\"\nwith = {{ audio = '{}/clips', transcripts = '{}/transcripts.csv', max_seconds = 2 }}\n\
         [stage.data]\nuses = \"dataset\"\nfrom = {{ clips = \"words\" }}\nwith = {{ split = {{ train = 1.0, test = 0.0 }} }}\n\
         [stage.model]\nuses = \"train\"\nfrom = {{ data = \"data\" }}\n[stage.model.with]\nbase = '{}'\nepochs = 10\nlearning_rate = 2e-3\nwarmup_steps = 20\n\
         batch_size = 4\ngradient_accumulation = 1\nsave_steps = 1000\n[stage.model.with.lora]\nr = 16\nalpha = 32\ntargets = [\"out_proj\", \"fc1\", \"fc2\"]\n\
         freeze_audio_tower = false\nprojector = true\n",
        words.display(),
        words.display(),
        base.display(),
    ));
    sandbox
}

/// At least 95 % of the words land in clips whose text is right. Of sentences that the recording does not have, none does.
#[test]
fn a_long_recording_is_cut_by_its_text() {
    let (samples, places) = joined(0..120);
    // Between word 40 and 41 the text has a sentence that nobody says, words 60 to 62 are missing in it, and word 80 is another one.
    let mut text: Vec<&str> = places.iter().map(|(_, _, word)| word.as_str()).collect();
    text[80] = "Chrysanthemum.";
    text.drain(60..63);
    text.insert(41, "Nobody ever says this sentence here.");
    let with = "transcripts = \"txt\", align = true, transcriber = { segment_seconds = 2 }";
    let sandbox = listening(with, Some(&text.join(" ")), &samples);
    let ran = sandbox.run(&["run"]).exits(0);
    let folder = out(&sandbox, "up");
    let (mut right, mut wrong) = (0, Vec::new());
    for row in rows(&folder) {
        let source = row["source"].as_str().unwrap();
        let (start, end) = source.split_once("#t=").and_then(|(_, part)| part.split_once(',')).unwrap();
        let (start, end): (f64, f64) = (start.parse().unwrap(), end.parse().unwrap());
        let said: Vec<&str> =
            places.iter().filter(|(from, to, _)| *to > start + 0.1 && *from < end - 0.1).map(|(.., word)| word.as_str()).collect();
        if said.join(" ") == row["text"] {
            right += said.len();
        } else {
            wrong.push(row);
        }
    }
    assert!(right as f64 >= 0.95 * 116.0, "{right} of 116 words: {}", ran.stderr);
    assert!(wrong.is_empty(), "{wrong:#?}");
    let report: Value = serde_json::from_slice(&fs::read(folder.join("report.json")).unwrap()).unwrap();
    let told = format!("{}{}", report["align"]["left_over"], report["align"]["uncertain"]);
    assert!(told.contains("Nobody ever says") && told.contains("Chrysanthemum"), "{told}");
    assert!(ran.stderr.contains("left out, as the text is not certain"), "{}", ran.stderr);
}

#[test]
fn drafts_wait_until_a_person_has_confirmed_them() {
    let (samples, places) = joined(0..6);
    let sandbox = project("draft = true, transcriber = { base = 'MODEL', segment_seconds = 2 }");
    audio::write_wav16k(&sandbox.path("clips/talk.wav"), &samples).unwrap();
    let model = repository("pipelines/models/voxtral-nano").display().to_string();
    let dataset = "[stage.data]\nuses = \"dataset\"\nfrom = { clips = \"up\" }\nwith = { edits = \"edits.jsonl\", split = { train = 1.0, test = 0.0 } }\n";
    sandbox.pipeline(&format!("{}{dataset}", sandbox.read("pipeline.toml").replace("MODEL", &model)));
    let ran = sandbox.run(&["run"]).exits(10);
    assert!(format!("{}{}", ran.stdout, ran.stderr).contains("6 clips are still drafts that a model wrote"), "{ran:?}");
    let drafts = fs::read_to_string(out(&sandbox, "up").join("drafts.jsonl")).unwrap();
    assert_eq!(drafts.lines().count(), places.len());
    let found = rows(&out(&sandbox, "up"));
    assert!(found.iter().all(|row| row["draft"] == true && row["text"].as_str().is_some_and(|text| !text.is_empty())), "{found:?}");

    // One is confirmed, one corrected, one excluded; the others wait.
    let names: Vec<&str> = found.iter().map(|row| row["source"].as_str().unwrap()).collect();
    let edits = [
        json!({"clip": names[0], "text": found[0]["text"]}),
        json!({"clip": names[1], "text": "Added."}),
        json!({"clip": names[2], "exclude": true}),
    ];
    sandbox.file("edits.jsonl", &edits.map(|edit| edit.to_string() + "\n").concat());
    sandbox.run(&["run"]).exits(0).complains("is a draft: nobody has confirmed its text");
    let data = fs::read_to_string(out(&sandbox, "data").join("data.jsonl")).unwrap();
    let texts: Vec<Value> = data.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
    assert_eq!(texts.len(), 2);
    assert!(texts[1]["text"] == "Added." && texts.iter().all(|row| row.get("draft").is_none()), "{texts:?}");
}

#[test]
fn what_a_model_is_needed_for_is_said() {
    let sandbox = project("transcripts = \"txt\", align = true");
    sandbox.file("clips/talk.txt", "Some words");
    sandbox.run(&["run"]).exits(2).complains("`align` and `draft` need a model");
    let sandbox = project("transcripts = \"txt\", transcriber = { confidence = 0.9 }");
    sandbox.run(&["check"]).exits(2).complains("`transcriber` has no effect without `align` or `draft`");
    let sandbox = project("draft = true, transcriber = { segment_seconds = 90 }");
    sandbox.run(&["check"]).exits(2).complains("`segment_seconds` is 90, `max_seconds` is 30");
    let sandbox = project("");
    sandbox.run(&["check"]).exits(2).complains("is neither a table nor `txt`");
}

#[test]
fn check_says_what_a_folder_holds() {
    let sandbox = project("transcripts = \"t.csv\"");
    sandbox.file("clips/metadata.csv", "file_name;text;locale;mood\ntalk.wav;Hello there;de-DE;good\nlost.wav;Where;de;\ntalk.wav;;de;\n");
    sandbox.file("clips/phone.amr", "#!AMR\n");
    let ran = sandbox.run(&["check", "clips"]).exits(0);
    for line in [
        "clips: 2 recordings (1 amr, 1 wav)",
        "metadata.csv: a table, 3 rows",
        "audio from `file_name`",
        "would give 1 clip",
        "languages: 1 de",
        "1 row cannot be used: `clips metadata.csv:4",
        "1 row without their recording",
        "1 recording without a text: `phone.amr`",
        "columns that are not used: `mood`",
        "the program ffmpeg is needed for: amr",
        "uses = \"import\"",
    ] {
        assert!(ran.stdout.contains(line), "no `{line}` in:\n{}", ran.stdout);
    }
    let json = sandbox.run(&["check", "clips", "--json"]).exits(0).json();
    assert_eq!(
        (json["clips"].as_u64(), json["tables"][0]["rows"].as_u64(), json["missing"].as_array().unwrap().len()),
        (Some(1), Some(3), 1)
    );
    fs::create_dir(sandbox.path("empty")).unwrap();
    let ran = sandbox.run(&["check", "empty"]).exits(2);
    assert!(ran.stdout.contains("not readable as it is"), "{}", ran.stdout);
}
