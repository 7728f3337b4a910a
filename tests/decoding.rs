//! Greedy decoding parity with transformers: batched, one clip at a time, and on random checkpoints.

use crate::model_parity::{Reference, folder, tiny};
use crate::support::{python, skipped};
use burn::module::Param;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use voxpipe::error::{Error, ErrorKind};
use voxtral::audio::read_wav16k;
use voxtral::inference::generate::{DecoderPrompt, Generated, GenerationEvent, SpecialTokens, greedy};
use voxtral::inference::transcriber::{TokenLimit, TranscribeEvent, Transcriber, Transcript, Utterance, WeightsFrom, stack};
use voxtral::model::{TokenBatch, Voxtral};
use voxtral::training::collate::Batch;
use voxtral::training::loss_sum;
use voxtral::weights::precision::Precision;

const PACKAGES: &str = "torch, transformers, peft, mistral_common";
const NO_PYTHON: &str = "no Python with torch, transformers, peft and mistral-common was found (name one in VOXPIPE_TEST_PYTHON)";
const SPECIAL: SpecialTokens = SpecialTokens { eos: 2, pad: 11 };

/// The tokens a model generates for some clips of the reference, decoded as one batch.
fn written(model: &Voxtral, reference: &Reference, clips: &[usize], limit: usize) -> Vec<Generated> {
    let features: Vec<_> = clips.iter().map(|clip| reference.features(*clip)).collect();
    let audio = model.embed_audio(stack(features.iter(), &Device::flex()));
    let prompts: Vec<DecoderPrompt> =
        clips.iter().map(|clip| DecoderPrompt { ids: reference.ids(*clip, "prompt"), limit, guard: None }).collect();
    let mut rows = vec![None; clips.len()];
    let mut say = |step: GenerationEvent| {
        if let GenerationEvent::Ended(row, written) = step {
            assert!(rows[row].replace(written).is_none(), "row {row} ended twice");
        }
        Ok(())
    };
    greedy(model, &prompts, audio, SPECIAL, &mut say).unwrap();
    rows.into_iter().map(Option::unwrap).collect()
}

/// A row of `generate`: the ids before `</s>`, and whether there was one.
fn before_end(ids: &[u32]) -> (&[u32], bool) {
    ids.iter().position(|id| *id == SPECIAL.eos).map_or((ids, false), |end| (&ids[..end], true))
}

#[test]
fn greedy_decoding_writes_the_ids_of_transformers() {
    let (model, reference) = (tiny(), Reference::read());
    for clip in 0..2 {
        let row = &written(&model, &reference, &[clip], 24)[0];
        assert_eq!((row.tokens.as_slice(), row.finished), before_end(&reference.ids(clip, "generated")), "clip {clip}");
    }
}

#[test]
fn clips_of_different_length_and_language_are_decoded_side_by_side() {
    let (model, reference) = (tiny(), Reference::read());
    let expected: Vec<Vec<u32>> = serde_json::from_value(reference.json["batch"]["generated"].clone()).unwrap();
    assert_ne!(reference.ids(0, "prompt").len(), reference.ids(1, "prompt").len(), "a batch of one length proves nothing");
    for (clip, row) in written(&model, &reference, &[0, 1], 24).iter().enumerate() {
        assert_eq!((row.tokens.as_slice(), row.finished), before_end(&expected[clip]), "clip {clip}");
    }
}

#[test]
fn rows_padded_on_the_right_have_the_loss_of_transformers() {
    let (model, reference) = (tiny(), Reference::read());
    let examples = [reference.example(0), reference.example(1)];
    assert_ne!(examples[0].ids.len(), examples[1].ids.len());
    let targets: usize = examples.iter().map(|example| example.targets()).sum();
    let batch = Batch::new(&[&examples[0], &examples[1]], SPECIAL.pad, &Device::flex()).unwrap();
    let loss = f64::from(loss_sum(&model, &batch).unwrap().into_scalar::<f32>()) / targets as f64;
    let theirs = reference.json["batch"]["loss"].as_f64().unwrap();
    assert!((loss - theirs).abs() < 1e-5, "{loss} instead of {theirs}");
}

#[test]
fn log_probabilities_are_those_of_the_whole_forward_pass() {
    let (model, reference) = (tiny(), Reference::read());
    for (clip, row) in written(&model, &reference, &[0, 1], 24).into_iter().enumerate() {
        let prompt = reference.ids(clip, "prompt");
        let ids = [prompt.clone(), row.tokens.clone()].concat();
        let tokens = TokenBatch { rows: 1, length: ids.len(), ids };
        let logits = model.forward(&tokens, stack([&reference.features(clip)].into_iter(), &Device::flex())).unwrap();
        let all = log_softmax(logits, 2).into_data().try_to_vec::<f32>().unwrap();
        let vocabulary = all.len() / tokens.length;
        assert_eq!(row.tokens.len(), row.log_probabilities.len());
        for (place, (id, ours)) in row.tokens.iter().zip(row.log_probabilities).enumerate() {
            let expected = all[(prompt.len() + place - 1) * vocabulary + *id as usize];
            assert!((ours - expected).abs() < 1e-4, "clip {clip}, token {place}: {ours} instead of {expected}");
        }
    }
}

/// Replaces the output head; `change` edits its rows.
fn with_head(model: &mut Voxtral, change: impl Fn(&mut [f32], usize)) {
    let head = &mut model.language_model.lm_head.weight;
    let [vocabulary, width] = head.dims();
    let mut rows = head.val().into_data().try_to_vec::<f32>().unwrap();
    change(&mut rows, width);
    *head = Param::from_tensor(Tensor::from_data(TensorData::new(rows, [vocabulary, width]), &Device::flex()));
}

#[test]
fn a_model_may_write_the_audio_token_itself() {
    let (mut model, reference) = (tiny(), Reference::read());
    // A head with the highest logit for id 24, whatever the hidden state.
    with_head(&mut model, |rows, width| {
        rows.fill(0.0);
        rows[24 * width..25 * width].fill(1.0);
    });
    let row = &written(&model, &reference, &[0], 8)[0];
    assert_eq!(row.tokens.len(), 8);
    assert!(row.tokens.contains(&24), "{row:?}");
}

#[test]
fn scores_that_are_no_numbers_are_an_error() {
    let mut transcriber = transcriber();
    with_head(&mut transcriber.model, |rows, _| rows[100] = f32::NAN);
    let sound = sound(3, 20_000);
    let error = transcriber.transcribe_batch(&[Utterance { samples: &sound, language: None }], TokenLimit::Auto, &mut |_| ()).unwrap_err();
    assert!(error.message.contains("logits are not finite"), "{error}");
}

fn transcriber() -> Transcriber {
    Transcriber::open_with(&folder("tiny"), WeightsFrom::Checkpoint, Precision::Auto, &Device::flex()).unwrap()
}

/// Two tones with noise, from integer arithmetic.
fn sound(seed: usize, samples: usize) -> Vec<f32> {
    let mut state = seed as u32;
    let tone = |n: usize, step: usize| ((n * step) % 400) as f32 / 400.0 - 0.5;
    (0..samples)
        .map(|n| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            0.3 * tone(n, 3 + seed % 7) + 0.2 * tone(n, 17 + seed) + 0.1 * ((state >> 16) as f32 / 65_536.0 - 0.5)
        })
        .collect()
}

/// Clips of one to five chunks, with and without language.
fn mixed() -> Vec<(Vec<f32>, Option<&'static str>)> {
    let lengths = [50_000, 9_000, 31_000, 150_000, 64_000, 1, 33_000, 100_000];
    lengths.iter().enumerate().map(|(i, samples)| (sound(i, *samples), [Some("en"), None, Some("fr")][i % 3])).collect()
}

fn utterances<'a>(clips: &'a [(Vec<f32>, Option<&'static str>)]) -> Vec<Utterance<'a>> {
    clips.iter().map(|(samples, language)| Utterance { samples, language: *language }).collect()
}

fn same(one: &Transcript, other: &Transcript) -> bool {
    let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4;
    (&one.tokens, one.finished, &one.text) == (&other.tokens, other.finished, &other.text)
        && one.log_probabilities.iter().zip(&other.log_probabilities).all(close)
}

/// The token whose first occurrence varies the most between transcripts.
fn most_scattered(transcripts: &[Transcript]) -> u32 {
    let places = |id: u32| -> BTreeSet<Option<usize>> {
        transcripts.iter().map(|transcript| transcript.tokens.iter().position(|token| *token == id)).collect()
    };
    let ids: BTreeSet<u32> = transcripts.iter().flat_map(|transcript| transcript.tokens.clone()).collect();
    ids.into_iter().max_by_key(|id| places(*id).len()).unwrap()
}

#[test]
fn a_batch_writes_what_each_clip_alone_would_and_rows_leave_it_as_they_end() {
    let mut transcriber = transcriber();
    let clips = mixed();
    let utterances = utterances(&clips);
    let limit = TokenLimit::Tokens(24);
    let endless = transcriber.transcribe_batch(&utterances, limit, &mut |_| ()).unwrap();
    assert!(endless.iter().all(|transcript| transcript.tokens.len() == 24 && !transcript.finished));
    // Generate `</s>` wherever the head generated a certain token: rows end at different positions, and rows without it do not end.
    let stop = most_scattered(&endless);
    with_head(&mut transcriber.model, |rows, width| {
        let row: Vec<f32> = rows[stop as usize * width..][..width].iter().map(|value| 1.001 * value).collect();
        rows[2 * width..3 * width].copy_from_slice(&row);
    });
    let together = transcriber.transcribe_batch(&utterances, limit, &mut |_| ()).unwrap();
    let mut lengths = BTreeSet::new();
    for ((utterance, endless), together) in utterances.iter().zip(&endless).zip(&together) {
        let end = endless.tokens.iter().position(|id| *id == stop);
        assert_eq!((together.finished, together.tokens.as_slice()), (end.is_some(), &endless.tokens[..end.unwrap_or(24)]));
        let alone = &transcriber.transcribe_batch(&[*utterance], limit, &mut |_| ()).unwrap()[0];
        assert!(same(alone, together), "{alone:?}\n{together:?}");
        lengths.insert(together.tokens.len());
    }
    assert!(lengths.len() >= 4, "the rows ended together: {lengths:?}");
}

#[test]
fn transcripts_are_handed_out_one_by_one_and_the_listener_may_stop() {
    let transcriber = transcriber();
    let clips = mixed();
    let utterances = utterances(&clips);
    let mut done = Vec::new();
    let transcripts = transcriber.transcribe_batch(&utterances, TokenLimit::Tokens(3), &mut |count| done.push(count)).unwrap();
    assert_eq!((transcripts.len(), done), (8, (1..=8).collect()));

    let mut heard = 0;
    let stop = transcriber.transcribe_each(&utterances, TokenLimit::Tokens(3), &mut |what| {
        heard += usize::from(matches!(what, TranscribeEvent::Transcript(..)));
        if heard < 2 { Ok(()) } else { Err(Error::new("enough").kind(ErrorKind::Interrupted)) }
    });
    assert_eq!((stop.unwrap_err().kind, heard), (voxtral::error::ErrorKind::Interrupted, 2));
    // Transcription can also be stopped between two tokens.
    let stop = transcriber.transcribe_each(&utterances, TokenLimit::Tokens(1000), &mut |_| Err(Error::new("enough")));
    assert_eq!(stop.unwrap_err().message, "enough");
}

#[test]
fn what_cannot_be_transcribed_is_named() {
    let transcriber = transcriber();
    let sound = sound(1, 16_000);
    let good = Utterance { samples: &sound, language: None };
    let message = |utterances: &[Utterance], limit| transcriber.transcribe_batch(utterances, limit, &mut |_| ()).unwrap_err().message;
    assert!(message(&[good], TokenLimit::Tokens(0)).contains("0 tokens"));
    assert!(message(&[good, Utterance { samples: &[], language: None }], TokenLimit::Auto).starts_with("clip 2 of 2: there is no audio"));
    assert!(message(&[Utterance { language: Some("xx"), ..good }, good], TokenLimit::Auto).starts_with("clip 1 of 2: `xx`"));
    assert_eq!(transcriber.transcribe_batch(&[], TokenLimit::Auto, &mut |_| ()).unwrap(), []);
}

/// Output of `generate_many.py` for a checkpoint.
#[derive(Deserialize)]
struct Expected {
    config: String,
    max_new_tokens: usize,
    clips: Vec<Clip>,
}

#[derive(Deserialize)]
struct Clip {
    wav: String,
    language: Option<String>,
    /// The ids that `generate` returned for this row of the batch.
    generated: Vec<u32>,
    /// Margin of the highest logit over the second, for each id.
    leads: Vec<f32>,
}

#[test]
fn random_checkpoints_are_decoded_as_transformers_does() {
    let what = "greedy ids of 20 random checkpoints against transformers";
    let Some(python) = python(PACKAGES) else {
        return skipped(what, NO_PYTHON);
    };
    let out = tempfile::tempdir().unwrap();
    let script = folder("generate_many.py");
    let made =
        Command::new(python).arg(&script).args(["--seeds", "0..19", "--out"]).arg(out.path()).env("OMP_NUM_THREADS", "1").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (mut steps, mut ties, mut clips) = (0, 0, 0);
    for seed in 0..20 {
        let (compared, unsure, rows) = compare(&out.path().join(format!("seed-{seed}")));
        (steps, ties, clips) = (steps + compared, ties + unsure, clips + rows);
    }
    assert!(clips >= 60 && steps > 1000, "{steps} ids of {clips} clips are too few to say much");
    assert!(ties * 50 <= steps, "{ties} of {steps} steps were too close to call");
}

/// Transcribes the clips of a folder as a batch. Returns the number of compared ids, of skipped ids after a near tie, and of clips.
fn compare(folder: &Path) -> (usize, usize, usize) {
    let expected: Expected = serde_json::from_str(&std::fs::read_to_string(folder.join("expected.json")).unwrap()).unwrap();
    let transcriber = Transcriber::open_with(&folder.join("model"), WeightsFrom::Checkpoint, Precision::Auto, &Device::flex()).unwrap();
    let samples: Vec<Vec<f32>> = expected.clips.iter().map(|clip| read_wav16k(&folder.join(&clip.wav)).unwrap()).collect();
    let utterances: Vec<Utterance> =
        expected.clips.iter().zip(&samples).map(|(clip, samples)| Utterance { samples, language: clip.language.as_deref() }).collect();
    let heard = transcriber.transcribe_batch(&utterances, TokenLimit::Tokens(expected.max_new_tokens), &mut |_| ()).unwrap();
    let (mut steps, mut ties) = (0, 0);
    for (clip, heard) in expected.clips.iter().zip(heard) {
        let mut ours = heard.tokens;
        ours.extend(heard.finished.then_some(SPECIAL.eos));
        // After a near tie, the outputs may differ.
        let sure = clip.leads.iter().position(|lead| *lead < 1e-4).unwrap_or(clip.leads.len());
        ties += clip.leads.len() - sure;
        let theirs = &clip.generated[..clip.leads.len()];
        assert_eq!(ours.get(..sure), Some(&theirs[..sure]), "{}, {}: {}", folder.display(), clip.wav, expected.config);
        assert!(sure < theirs.len() || ours.len() == theirs.len());
        steps += sure;
    }
    (steps, ties, expected.clips.len())
}

#[test]
fn every_number_of_two_random_checkpoints_is_that_of_transformers() {
    let what = "activations, gradients and ids of two random checkpoints against transformers (tests/voxtral/parity.py)";
    let Some(python) = python(PACKAGES) else {
        return skipped(what, NO_PYTHON);
    };
    let script = folder("parity.py");
    // `cargo test` builds the example; if only this test was built, the script builds it with cargo.
    let program = Path::new(env!("CARGO_BIN_EXE_voxpipe")).with_file_name("examples").join("activations");
    let program = program.exists().then(|| [Path::new("--program"), &program].map(Path::to_owned));
    let mut parity = Command::new(python);
    parity.arg(&script).args(["--seeds", "0,3"]).args(program.iter().flatten()).env("OMP_NUM_THREADS", "1");
    let ran = parity.output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(said.matches(" ok").count(), 2, "{said}");
}
