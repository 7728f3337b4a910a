//! `voxpipe transcribe` end to end: files, folders, patterns and pipes as input; text, JSON and subtitles as output; segmentation of
//! real speech.

use crate::support::{Ran, Sandbox, files, signal};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use voxtral::audio::{load, segmentation, write_wav16k};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn model() -> String {
    repository("tests/voxtral/tiny").to_str().unwrap().to_owned()
}

/// A clip of real speech, by the name of its prompt.
fn clip(name: &str) -> Vec<f32> {
    load(&repository("datasets/first-run/clips").join(format!("{name}.flac"))).unwrap()
}

/// A project with a folder `clips` that has three clips and two files that are not audio.
fn project() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("clips/b")).unwrap();
    for (name, to) in [("calling", "clips/c.wav"), ("agent-pass", "clips/a.wav"), ("conf-enteringno", "clips/b/d.wav")] {
        write_wav16k(&sandbox.path(to), &clip(name)).unwrap();
    }
    sandbox.file("clips/notes.txt", "no audio").file("clips/b/.hidden", "");
    sandbox
}

fn transcribe(sandbox: &Sandbox, args: &[&str]) -> Ran {
    sandbox.run(&[&["transcribe", "--model", &model(), "--max-new-tokens", "4"], args].concat())
}

fn json_lines(ran: &Ran) -> Vec<Value> {
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn folders_patterns_and_files_are_heard_in_order_as_if_alone() {
    let sandbox = project();
    let ran = transcribe(&sandbox, &["clips", "--json", "--language", "en"]).exits(0);
    let ran = ran
        .complains("skipped 1 file in `clips` without an audio extension, such as `clips/notes.txt`")
        .complains("the transcript is unfinished: it reached the limit of");
    let heard = json_lines(&ran);
    let names: Vec<_> = heard.iter().map(|clip| clip["file"].as_str().unwrap()).collect();
    assert_eq!(names, ["clips/a.wav", "clips/b/d.wav", "clips/c.wav"]);
    for clip in &heard {
        assert_eq!((clip["language"].as_str(), clip["finished"].as_bool(), clip["segments"].is_null()), (Some("en"), Some(false), true));
        let probabilities = clip["log_probabilities"].as_array().unwrap();
        assert!(probabilities.iter().all(|value| value.as_f64().unwrap() < 0.0) && clip["tokens"].as_array().unwrap().len() == 4);
        assert_eq!(probabilities.len(), 4);
        let name = clip["file"].as_str().unwrap();
        let samples = load(&sandbox.path(name)).unwrap();
        assert_eq!(clip["seconds"].as_f64().unwrap(), samples.len() as f64 / 16_000.0);
    }
    let alone = transcribe(&sandbox, &["clips/b/d.wav", "--json", "--language", "en"]).exits(0);
    assert_eq!(json_lines(&alone)[0]["tokens"], heard[1]["tokens"]);

    // Text: several files have their names in front, in the same order however they are passed.
    let text = transcribe(&sandbox, &["clips/**/*.wav"]).exits(0).stdout;
    let starts: Vec<_> = text.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(starts, names);
    assert_eq!(transcribe(&sandbox, &["clips/a.wav", "clips/b/d.wav", "clips/c.wav"]).exits(0).stdout, text);
    let only = transcribe(&sandbox, &["clips/c.wav"]).exits(0).stdout;
    assert_eq!(only.lines().count(), 1);
    assert_eq!(format!("clips/c.wav: {only}"), text.lines().last().unwrap().to_owned() + "\n");
}

#[test]
fn a_file_that_cannot_be_read_does_not_stop_the_others() {
    let sandbox = project();
    sandbox.file("clips/b/broken.wav", "this is not audio");
    let ran = transcribe(&sandbox, &["clips", "nowhere.wav", "--json"]).exits(1);
    let ran =
        ran.complains("error: clips/b/broken.wav is not audio").complains("nowhere.wav").complains("2 of 5 files could not be transcribed");
    assert_eq!(json_lines(&ran).len(), 3);
    let first = transcribe(&sandbox, &["clips", "--fail-fast"]).exits(1).complains("clips/b/broken.wav");
    assert!(first.stdout.starts_with("clips/a.wav: ") && first.stdout.lines().count() == 1, "{}", first.stdout);
}

#[test]
fn what_cannot_be_meant_is_refused_before_the_model_is_opened() {
    let sandbox = project();
    let refused = |args: &[&str], why: &str| drop(sandbox.run(&[&["transcribe"], args].concat()).exits(2).complains(why));
    let model = model();
    refused(&["clips", "--model", &model, "--max-new-tokens", "0"], "--max-new-tokens");
    refused(&["clips", "--model", &model, "--base", &model], "is a full model, not an adapter");
    let adapter = repository("tests/voxtral/peft-adapter").to_str().unwrap().to_owned();
    refused(&["clips", "--model", &adapter, "--adapter", &adapter], "is itself an adapter");
    refused(&["clips", "--model", &model, "--adapter", &model], "is not an adapter: ");
    refused(&["clips", "--model", "nowhere"], "model not found: `nowhere` is neither a folder nor");
    refused(&["clips", "--model", &model, "--revision", "main"], "is a folder, and folders have no revisions");
    refused(&["clips", "--model", &model, "--language", "EN"], "use `en`");
    refused(&["clips/*.mp3", "--model", &model], "no file matches the pattern `clips/*.mp3`");
    refused(&["clips/[", "--model", &model], "invalid pattern `clips/[`");
    refused(&["-", "-", "--model", &model], "standard input can be read only once");
    refused(&["clips", "--model", &model, "--srt", "--json"], "cannot be used with");
    refused(&["clips", "--model", &model, "--max-segment", "0.5"], "it must be from 1 to 2400");
    refused(&["clips", "-", "--model", &model, "--srt"], "standard input has no folder for its subtitles");
    fs::create_dir(sandbox.path("empty")).unwrap();
    refused(&["empty", "--model", &model], "no audio files to transcribe");
    fs::copy(sandbox.path("clips/a.wav"), sandbox.path("clips/a.flac")).unwrap();
    refused(&["clips", "--model", &model, "--vtt"], "would both be written to `clips/a.vtt`");
}

#[test]
fn a_pipe_is_audio_too_even_if_its_header_knows_no_length() {
    let sandbox = project();
    let hear = |bytes: &[u8], more: &[&str]| {
        let model = model();
        let args = [&["transcribe", "-", "--model", &model, "--max-new-tokens", "4"], more].concat();
        let mut child = sandbox.command(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        Ran::of(child.wait_with_output().unwrap())
    };
    let expected = transcribe(&sandbox, &["clips/a.wav"]).exits(0).stdout;
    let mut wav = fs::read(sandbox.path("clips/a.wav")).unwrap();
    assert_eq!(hear(&wav, &[]).exits(0).stdout, expected);
    assert_eq!(hear(&fs::read(repository("datasets/first-run/clips/agent-pass.flac")).unwrap(), &[]).exits(0).stdout, expected);
    // Written to a pipe, so without a length in the header, and cut in the middle of a sample.
    for size in [u32::MAX, 0x7fff_f000] {
        wav[40..44].copy_from_slice(&size.to_le_bytes());
        wav[4..8].copy_from_slice(&size.to_le_bytes());
        assert_eq!(hear(&wav, &[]).exits(0).stdout, expected);
    }
    let odd = [&wav[..], &[7]].concat();
    assert_eq!(hear(&odd, &["--json"]).exits(0).json()["file"], "-");
    hear(b"", &[]).exits(1).complains("standard input is empty");
    hear(&wav[..30], &[]).exits(1).complains("standard input");
    // A file of such a header is read, too; one that is shorter than a plausible length is damaged.
    fs::write(sandbox.path("short.wav"), &wav).unwrap();
    let read = transcribe(&sandbox, &["short.wav"]).exits(0);
    assert_eq!(read.stdout, expected);
    assert!(read.stderr.contains("note: short.wav: its header does not know the length: it is read to its end"), "{}", read.stderr);
    let declared = 2 * wav.len() as u32;
    wav[40..44].copy_from_slice(&declared.to_le_bytes());
    wav[4..8].copy_from_slice(&(declared + 36).to_le_bytes());
    fs::write(sandbox.path("short.wav"), &wav).unwrap();
    transcribe(&sandbox, &["short.wav"]).exits(1).complains("short.wav is truncated");
}

#[test]
fn one_channel_of_a_recording_can_be_transcribed() {
    let sandbox = project();
    let mono = voxtral::audio::load(&sandbox.path("clips/a.wav")).unwrap();
    let spec = hound::WavSpec { channels: 2, sample_rate: 16_000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let write = |name: &str, right: f32| {
        let mut writer = hound::WavWriter::create(sandbox.path(name), spec).unwrap();
        for sample in &mono {
            writer.write_sample((sample * 32_768.0) as i16).unwrap();
            writer.write_sample((sample * right * 32_768.0) as i16).unwrap();
        }
        writer.finalize().unwrap();
    };
    let expected = transcribe(&sandbox, &["clips/a.wav"]).exits(0).stdout;
    write("phases.wav", -1.0);
    let ran = transcribe(&sandbox, &["phases.wav"]).exits(0);
    assert_eq!(ran.stdout, expected);
    assert!(ran.stderr.contains("note: phases.wav: the channels cancel each other"), "{}", ran.stderr);
    write("left.wav", 0.0);
    assert_eq!(transcribe(&sandbox, &["left.wav", "--channel", "left"]).exits(0).stdout, expected);
    assert_eq!(transcribe(&sandbox, &["left.wav", "--channel", "1"]).exits(0).stdout, expected);
    transcribe(&sandbox, &["left.wav", "--channel", "3"]).exits(1).complains("left.wav has 2 channels; `channel = 3` asks for channel 3");
    transcribe(&sandbox, &["left.wav", "--channel", "0"]).exits(2).complains("`0` is no channel: expected \"mix\", \"left\"");
}

/// AMR, WMA and others: decoded by `ffmpeg` if there is one, and otherwise one error that says what to do.
#[test]
fn what_no_decoder_reads_is_left_to_ffmpeg_or_refused_with_both_ways_out() {
    use std::os::unix::fs::PermissionsExt;
    let sandbox = project();
    fs::create_dir(sandbox.path("programs")).unwrap();
    let amr = [b"#!AMR\n".as_slice(), &[0x3c; 64]].concat();
    fs::write(sandbox.path("-odd: name.amr"), &amr).unwrap();
    fs::write(sandbox.path("rec.wma"), [0x30, 0x26, 0xb2, 0x75, 0x8e, 0x66, 0xcf, 0x11, 0xa6, 0xd9]).unwrap();
    let hear = |paths: &str, file: &str| {
        let model = model();
        let mut command = sandbox.command(&["transcribe", "--model", &model, "--max-new-tokens", "4", "--", file]);
        Ran::of(command.env("PATH", paths).output().unwrap())
    };
    let programs = sandbox.path("programs");
    let programs = programs.to_str().unwrap();
    for (file, what) in
        [("-odd: name.amr", "is AMR, which needs the program `ffmpeg`"), ("rec.wma", "is Windows Media, which needs the program `ffmpeg`")]
    {
        let ran = hear(programs, file).exits(1).complains(what);
        assert!(ran.stderr.contains("install ffmpeg, or convert the file: ffmpeg -i FILE -ac 1 -ar 16000 FILE.wav"), "{}", ran.stderr);
    }

    // A program of that name which streams a WAV without a length, as ffmpeg does, and writes down how it was called.
    let mono = voxtral::audio::load(&sandbox.path("clips/a.wav")).unwrap();
    let spec = hound::WavSpec { channels: 1, sample_rate: 16_000, bits_per_sample: 32, sample_format: hound::SampleFormat::Float };
    let mut writer = hound::WavWriter::create(sandbox.path("programs/sound"), spec).unwrap();
    mono.iter().for_each(|sample| writer.write_sample(*sample).unwrap());
    writer.finalize().unwrap();
    let script = |more: &str| {
        let path = sandbox.path("programs/ffmpeg");
        fs::write(&path, format!("#!/bin/sh\nprintf '%s\\n' \"$@\" > \"$0.args\"\n{more}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let expected = transcribe(&sandbox, &["clips/a.wav"]).exits(0).stdout;
    let with_tools = format!("{programs}:/usr/bin:/bin");
    script("exec cat \"$(dirname \"$0\")/sound\"");
    let ran = hear(&with_tools, "-odd: name.amr").exits(0);
    assert_eq!(ran.stdout, expected);
    assert!(ran.stderr.contains("AMR was decoded by the program ffmpeg"), "{}", ran.stderr);
    let called = sandbox.read("programs/ffmpeg.args");
    assert!(called.contains("-protocol_whitelist\nfile,pipe\n-f\namr\n-i\nfile:-odd: name.amr\n"), "{called}");
    // It says that something is wrong, and it fails.
    script("echo 'frame 3 is broken' >&2; exec cat \"$(dirname \"$0\")/sound\"");
    hear(&with_tools, "rec.wma").exits(1).complains("is damaged: ffmpeg says while decoding Windows Media: frame 3 is broken");
    script("echo 'no such codec' >&2; exit 1");
    hear(&with_tools, "rec.wma").exits(1).complains("rec.wma is Windows Media that ffmpeg cannot decode, which says: no such codec");
    script("head -c 9000 \"$(dirname \"$0\")/sound\"; echo 'died' >&2; exit 1");
    hear(&with_tools, "rec.wma").exits(1).complains("which says: died");
}

#[test]
fn subtitles_lie_beside_the_audio_and_nothing_is_written_over() {
    let sandbox = project();
    transcribe(&sandbox, &["clips", "--srt"]).exits(0);
    let subtitles = sandbox.read("clips/b/d.srt");
    assert!(subtitles.starts_with("1\n00:00:0") && subtitles.contains(" --> 00:00:0"), "{subtitles}");
    let before = files(&sandbox.path("clips"));
    transcribe(&sandbox, &["clips", "--srt"]).exits(2).complains("output exists: `clips/a.srt` and 2 more files");
    transcribe(&sandbox, &["clips", "--srt", "--force"]).exits(0);
    assert_eq!(files(&sandbox.path("clips")), before);

    transcribe(&sandbox, &["clips", "--vtt", "--out", "out"]).exits(0);
    assert_eq!(files(&sandbox.path("out")).into_keys().collect::<Vec<_>>(), ["a.vtt", "b/d.vtt", "c.vtt"]);
    assert!(sandbox.read("out/b/d.vtt").starts_with("WEBVTT\n\n00:00:0"));
    transcribe(&sandbox, &["clips/a.wav", "--format", "json", "--out", "out"]).exits(0);
    let one: Value = serde_json::from_str(&sandbox.read("out/a.json")).unwrap();
    assert_eq!(one["file"], "clips/a.wav");
    // Subtitles of a single file are printed.
    assert_eq!(transcribe(&sandbox, &["clips/a.wav", "--vtt"]).exits(0).stdout, sandbox.read("out/a.vtt"));
}

/// Real clips with silence between them, and the sample range of each.
fn conversation() -> (Vec<f32>, Vec<Range<usize>>) {
    let mut state = 9u32;
    let mut hiss = |count: usize| -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 0.001
        };
        (0..count).map(|_| next()).collect()
    };
    let (mut samples, mut places) = (hiss(16_000), Vec::new());
    for (name, pause) in [("agent-pass", 1.5), ("calling", 2.5), ("agent-newlocation", 1.2), ("conf-enteringno", 3.0)] {
        let speech = clip(name);
        places.push(samples.len()..samples.len() + speech.len());
        samples.extend(speech);
        samples.extend(hiss((pause * 16_000.0) as usize));
    }
    (samples, places)
}

#[test]
fn real_speech_is_cut_at_its_pauses() {
    let (samples, places) = conversation();
    let pieces = segmentation::pieces(&samples, 12 * 16_000);
    // Each pause of a second or more ends a segment: no segment overlaps two clips, and every clip is in a segment.
    for (place, number) in places.iter().zip(1..) {
        let inside: Vec<_> = pieces.iter().filter(|piece| piece.start < place.end && place.start < piece.end).collect();
        assert!(!inside.is_empty(), "clip {number} is in no piece of {pieces:?}");
        for piece in inside {
            let others = places.iter().filter(|other| piece.start < other.end && other.start < piece.end).count();
            assert_eq!(others, 1, "{piece:?} reaches into several of {places:?}");
        }
    }
    // Audio outside the segments is quiet: below a tenth of the peak.
    let loud = |range: &[f32]| range.iter().fold(0.0f32, |most, sample| most.max(sample.abs()));
    let mut before = 0;
    for piece in &pieces {
        assert!(loud(&samples[before..piece.start]) < 0.1 * loud(&samples), "speech before {piece:?} is left out");
        before = piece.end;
    }
    // Long audio in chunks of at most 40 s: each cut is in a pause, even though there is speech nearby.
    let long: Vec<f32> = samples.iter().copied().cycle().take(10 * samples.len()).collect();
    let windows = segmentation::windows(&long, 40 * 16_000);
    assert!(windows.len() > 2 && windows.iter().all(|window| window.len() <= 40 * 16_000));
    for window in &windows[1..] {
        let around = &long[window.start - 400..window.start + 400];
        assert!(loud(around) < 0.02, "the cut at {} s is in speech", window.start / 16_000);
    }
}

#[test]
fn a_long_recording_has_segments_with_times() {
    let sandbox = Sandbox::new();
    let (samples, places) = conversation();
    write_wav16k(&sandbox.path("talk.wav"), &samples).unwrap();
    let whole = transcribe(&sandbox, &["talk.wav", "--json"]).exits(0).json();
    assert!(whole["segments"].is_null());
    for (cut, least) in [(&["--max-segment", "12"][..], places.len()), (&["--chunk-length", "5"], 3)] {
        let heard = transcribe(&sandbox, &[&["talk.wav", "--json"], cut].concat()).exits(0).json();
        let segments = heard["segments"].as_array().unwrap();
        assert!(segments.len() >= least, "{segments:?}");
        let mut before = 0.0;
        let mut tokens = Vec::new();
        for segment in segments {
            let (start, end) = (segment["start"].as_f64().unwrap(), segment["end"].as_f64().unwrap());
            assert!(start >= before && end > start && end <= heard["seconds"].as_f64().unwrap());
            before = end;
            tokens.extend(segment["tokens"].as_array().unwrap().clone());
        }
        assert_eq!(heard["tokens"].as_array().unwrap(), &tokens);
    }
    // A segment is transcribed as if it were a file of its own.
    let heard = transcribe(&sandbox, &["talk.wav", "--json", "--pieces", "12"]).exits(0).json();
    let piece = &segmentation::pieces(&load(&sandbox.path("talk.wav")).unwrap(), 12 * 16_000)[1];
    write_wav16k(&sandbox.path("piece.wav"), &load(&sandbox.path("talk.wav")).unwrap()[piece.clone()]).unwrap();
    assert_eq!(transcribe(&sandbox, &["piece.wav", "--json"]).exits(0).json()["tokens"], heard["segments"][1]["tokens"]);
}

#[test]
fn an_interrupted_transcription_keeps_what_is_done() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("clips")).unwrap();
    let speech = clip("agent-pass");
    for number in 0..300 {
        write_wav16k(&sandbox.path(&format!("clips/{number:03}.wav")), &speech).unwrap();
    }
    // The first result shows that transcription has started.
    let child = sandbox
        .start(&["transcribe", "clips", "--model", &model(), "--max-new-tokens", "400", "--format", "text", "--out", "out"], "out/000.txt");
    signal(&child, "INT");
    let ran = Ran::of(child.wait_with_output().unwrap()).exits(75).complains("interrupted: ");
    let done = files(&sandbox.path("out"));
    assert!(!done.is_empty() && done.len() < 300 && done.values().all(|text| text.ends_with(b"\n")), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("{} of 300 files are done", done.len())), "{}", ran.stderr);
}
