//! Voxtral Realtime: parity with transformers, and streams against complete recordings. `tests/voxtral/realtime/reference.py` made the
//! reference values.

use crate::model_parity::folder;
use crate::support::{Ran, Sandbox, files, skipped};
use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use voxtral::audio::{LogMel, MelCeiling, write_wav16k};
use voxtral::inference::transcriber::{Transcript, Utterance, WeightsFrom};
use voxtral::model::config::VoxtralConfig;
use voxtral::realtime::stream::TextDelta;
use voxtral::realtime::transcriber::RealtimeTranscriber;
use voxtral::realtime::{CEILING, RealtimeModel, config};
use voxtral::weights::precision::Precision;
use voxtral::weights::{WeightLoader, floats, read_tensors};

fn open(folder: &Path) -> RealtimeTranscriber {
    RealtimeTranscriber::open_with(folder, WeightsFrom::Checkpoint, Precision::F32, &Device::flex()).unwrap()
}

fn tiny() -> RealtimeTranscriber {
    open(&folder("realtime/tiny"))
}

/// The clip of the fixture, with the same integer arithmetic as `waveform` in `make_fixture.py`.
fn clip(seed: i64, samples: i64) -> Vec<f32> {
    let triangle = |phase: i64| (((phase + 16_384) % 65_536) - 32_768).abs() - 16_384;
    let mut state = seed;
    let sample = |n: i64| {
        state = (state * 1_664_525 + 1_013_904_223) % (1 << 32);
        let rising = n * 900 + (n * n) / 16;
        let mut x = triangle(n * (800 + 211 * seed) % 65_536).div_euclid(3)
            + triangle(n * 7001 % 65_536).div_euclid(5)
            + triangle(rising % 65_536).div_euclid(4);
        if (n / 4000) % 4 == 3 {
            x = x.div_euclid(16);
        }
        (x + (state >> 16) / 64 - 512) as f32 / 32_768.0
    };
    (0..samples).map(sample).collect()
}

fn transcribe(transcriber: &RealtimeTranscriber, samples: &[f32]) -> Transcript {
    transcriber.transcribe(&[Utterance { samples, language: None }], &mut |_| ()).unwrap().remove(0)
}

/// Compares up to the first step whose top two logits in transformers are closer than the rounding tolerance.
#[track_caller]
fn agrees(found: &Transcript, expected: &Value) {
    let ids: Vec<u32> = serde_json::from_value(expected["tokens"].clone()).unwrap();
    let leads: Vec<f32> = serde_json::from_value(expected["lead"].clone()).unwrap();
    let log_probabilities: Vec<f32> = serde_json::from_value(expected["log_probabilities"].clone()).unwrap();
    let sure = leads.iter().position(|lead| *lead < 1e-4).unwrap_or(ids.len());
    assert_eq!(found.tokens.get(..sure), Some(&ids[..sure]));
    assert!(sure < ids.len() || found.tokens.len() == ids.len(), "{:?} instead of {ids:?}", found.tokens);
    for (found, expected) in found.log_probabilities.iter().zip(&log_probabilities).take(sure) {
        assert!((found - expected).abs() < 1e-3, "log-probability {found} instead of {expected}");
    }
}

fn expected(folder: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join("expected.json")).unwrap()).unwrap()
}

#[track_caller]
fn close(what: &str, found: &[f32], expected: &TensorData) {
    let expected = floats(expected).unwrap();
    assert_eq!(found.len(), expected.len(), "{what}");
    let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off < 1e-4, "{what}: off by {off}");
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec::<f32>().unwrap()
}

/// Compares every stage of the forward pass, with the recording as one block.
fn is_as_transformers_computes_it(model: &RealtimeModel) {
    let theirs = read_tensors(&folder("realtime/expected.safetensors")).unwrap();
    let (transcriber, device) = (tiny(), Device::flex());
    let sound = clip(3, 20_007);
    let step = transcriber.step_samples();
    let steps = 4 + sound.len().div_ceil(step) + transcriber.delay() + 11;
    let mut padded = vec![0.0; 4 * step];
    padded.extend(&sound);
    padded.resize(steps * step, 0.0);
    let mels = transcriber.config.audio_config.num_mel_bins;
    let mel = LogMel::new(mels).with_ceiling(MelCeiling::Fixed(CEILING)).features(&padded, 8 * steps).unwrap();
    let mel = Tensor::<3>::from_data(TensorData::new(mel.data, [1, mels, 8 * steps]), &device);
    close("features", &values(mel.clone().narrow(2, 20, 24)), &theirs["mel"]);

    let encoder = model.audio_tower.forward(mel.clone(), &mut model.audio_tower.silent(&device));
    close("encoder", &values(encoder.narrow(1, 4 * steps - 12, 12)), &theirs["encoder"]);
    let mut state = model.memory(transcriber.delay(), &device);
    let rows = model.encode(mel, &mut state);
    close("projector", &values(rows.clone()), &theirs["projector"]);

    let tokens: Vec<u32> = serde_json::from_value(expected(&folder("realtime/tiny"))[0]["tokens"].clone()).unwrap();
    let ids = [transcriber.prompt(), tokens].concat();
    let read = ids.len() - 1;
    let hidden = model.read(&ids[..read], rows.narrow(1, 0, read), &mut state);
    close("logits", &values(model.language_model.model.head(hidden).narrow(1, read - 6, 6)), &theirs["logits"]);
}

#[test]
fn every_stage_of_the_forward_pass_equals_transformers() {
    is_as_transformers_computes_it(&tiny().model);
}

#[test]
fn mistrals_form_is_the_same_model() {
    let mistral = folder("realtime/mistral");
    let config = config::RealtimeConfig::read(&mistral).unwrap();
    let ours = config::RealtimeConfig::read(&folder("realtime/tiny")).unwrap();
    assert_eq!((config.audio_config.head_dim, config.text_config.sliding_window), (ours.audio_config.head_dim, Some(17)));
    let mut weights = WeightLoader::open(&mistral, config.rope_heads(), Precision::F32, &Device::flex()).unwrap();
    let model = RealtimeModel::load(&config, &mut weights);
    weights.finish().unwrap();
    is_as_transformers_computes_it(&model);
}

#[test]
fn a_transcript_is_what_transformers_generates() {
    let transcriber = tiny();
    let found = transcribe(&transcriber, &clip(3, 20_007));
    let expected = expected(&folder("realtime/tiny"));
    assert_eq!(serde_json::to_value(transcriber.prompt()).unwrap(), expected[0]["prompt"]);
    agrees(&found, &expected[0]);
    assert!(found.text.len() > 3, "{found:?}");
}

#[test]
fn a_stream_writes_the_same_whatever_the_pieces() {
    let transcriber = tiny();
    let sound = clip(5, 40_000);
    let whole = transcribe(&transcriber, &sound);
    assert!(whole.tokens.iter().collect::<std::collections::BTreeSet<_>>().len() > 3, "{:?}", whole.tokens);
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for longest in [1usize, 100, 1280, 3000, 20_000] {
        let (mut stream, mut said) = (transcriber.stream(), TextDelta::default());
        let mut rest = if longest == 1 { &sound[..3000] } else { &sound[..] };
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(rng.random_range(0..=longest).min(rest.len()));
            said.extend(stream.push(piece).unwrap());
            rest = later;
        }
        let before = said.tokens.len();
        said.extend(stream.finish().unwrap());
        assert!(before < said.tokens.len());
        let alone = if longest == 1 { transcribe(&transcriber, &sound[..3000]) } else { whole.clone() };
        assert_eq!(said.tokens, alone.tokens, "pieces of at most {longest}");
        assert_eq!(said.text.trim(), alone.text);
        assert!(said.log_probabilities.iter().zip(&alone.log_probabilities).all(|(a, b)| (a - b).abs() < 1e-3));
    }
}

#[test]
fn text_follows_its_sound_by_no_more_than_a_step() {
    let transcriber = tiny();
    let mut stream = transcriber.stream();
    let (step, prompt) = (transcriber.step_samples(), transcriber.prompt().len());
    let mut written = 0;
    for (heard, piece) in clip(5, 30_000).chunks(step).enumerate() {
        written += stream.push(piece).unwrap().tokens.len();
        // A step is complete once two milliseconds after it have arrived; the silence in front counts.
        let steps = heard + 4;
        assert!(written == (steps + 1).saturating_sub(prompt), "{written} tokens after {steps} steps and a prompt of {prompt}");
    }
    assert!(stream.push(&[f32::NAN]).unwrap_err().message.contains("sample 30000"));
}

#[test]
fn what_cannot_be_heard_or_told_is_said() {
    let transcriber = tiny();
    let said = |samples: &[f32], language| {
        let error = transcriber.transcribe(&[Utterance { samples, language }], &mut |_| ()).unwrap_err();
        format!("{} {}", error.message, error.hint.unwrap_or_default())
    };
    assert!(said(&[], None).contains("no audio"));
    assert!(said(&[0.0; 100], Some("en")).contains("`en`"));
    assert!(tiny().with_delay(0).is_err() && tiny().with_delay(31).is_err());
    assert_eq!(tiny().with_delay(10).unwrap().prompt().len(), 1 + 4 + 10);
    // The config loader of trainable models explains why this one cannot be trained.
    for name in ["realtime/tiny", "realtime/mistral"] {
        let error = VoxtralConfig::read(&folder(name)).unwrap_err();
        assert!(error.message.contains("Voxtral Realtime") && error.hint.unwrap().contains("Voxtral-Mini-3B-2507"), "{}", error.message);
    }
    assert!(!config::is_realtime(&folder("tiny")));
}

#[test]
fn the_program_transcribes_files_and_streams_alike() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("model")).unwrap();
    for (name, bytes) in files(&folder("realtime/tiny")) {
        fs::write(sandbox.path("model").join(name), bytes).unwrap();
    }
    let samples = clip(5, 40_000);
    write_wav16k(&sandbox.path("clip.wav"), &samples).unwrap();
    let wav = fs::read(sandbox.path("clip.wav")).unwrap();
    let pcm: Vec<u8> = samples.iter().flat_map(|x| ((x * 32_768.0) as i16).to_le_bytes()).collect();

    let program = ["transcribe", "--offline", "--device", "cpu", "--model", "model"];
    let run = |more: &[&str]| sandbox.run(&[&program, more].concat());
    let piped = |bytes: &[u8], more: &[&str]| {
        let mut command = sandbox.command(&[&program, more].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        bytes.chunks(3001).for_each(|piece| drop(input.write_all(piece)));
        drop(input);
        Ran::of(child.wait_with_output().unwrap())
    };
    let whole = run(&["clip.wav"]).exits(0).stdout;
    assert!(whole.trim().len() > 3, "{whole:?}");
    assert_eq!(run(&["--stream", "clip.wav"]).exits(0).stdout.trim(), whole.trim());
    assert_eq!(piped(&wav, &["--stream", "-"]).exits(0).stdout.trim(), whole.trim());
    assert_eq!(piped(&pcm, &["--stream", "-"]).exits(0).stdout.trim(), whole.trim());
    assert_ne!(run(&["--delay", "9", "clip.wav"]).exits(0).stdout, whole, "another delay changes nothing");

    run(&["--delay", "31", "clip.wav"]).exits(2).complains("31 steps");
    run(&["--language", "en", "clip.wav"]).complains("does not support setting the language, such as `en`");
    piped(b"fLaC, or so it says", &["--stream", "-"]).exits(2).complains("compressed");
}

#[test]
fn random_checkpoints_are_transcribed_as_transformers_does() {
    let python = std::env::var("VOXPIPE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let import = "import torch, mistral_common; from transformers import VoxtralRealtimeForConditionalGeneration";
    if !Command::new(&python).args(["-c", import]).output().is_ok_and(|ran| ran.status.success()) {
        skipped("random checkpoints against transformers", "no Python with its Voxtral Realtime (name one in VOXPIPE_TEST_PYTHON)");
        return;
    }
    let seeds = std::env::var("VOXPIPE_TEST_SEEDS").unwrap_or_else(|_| "0..1".to_owned());
    let out = tempfile::tempdir().unwrap();
    let script = folder("realtime/reference.py");
    let ran = Command::new(&python).arg("-B").arg(script).arg("many").arg(out.path()).arg(&seeds).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let mut checkpoints: Vec<_> = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    checkpoints.sort();
    assert!(!checkpoints.is_empty());
    for checkpoint in checkpoints {
        let transcriber = open(&checkpoint);
        for (number, expected) in expected(&checkpoint).as_array().unwrap().iter().enumerate() {
            let bytes = fs::read(checkpoint.join(format!("clip{number}.pcm"))).unwrap();
            let samples: Vec<f32> = bytes.as_chunks().0.iter().map(|pair| f32::from(i16::from_le_bytes(*pair)) / 32_768.0).collect();
            assert_eq!(serde_json::to_value(transcriber.prompt()).unwrap(), expected["prompt"]);
            agrees(&transcribe(&transcriber, &samples), expected);
        }
    }
}
