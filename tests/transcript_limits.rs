//! How long a transcript may be: scripts that take several tokens per character are not cut, loops are ended, and both are told.

use crate::model_parity::folder;
use crate::support::Sandbox;
use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::Value;
use std::fs;
use voxtral::inference::transcriber::{TokenLimit, Transcriber, Transcript, Utterance, WeightsFrom};
use voxtral::weights::precision::Precision;

/// A sentence in Amharic. Few vocabularies know its script, so a character takes two or three tokens.
const AMHARIC: &str = "ዛሬ ጠዋት ወደ ገበያ ሄጄ ትኩስ አትክልትና ፍራፍሬ ገዝቼ ወደ ቤት ተመለስኩ።";

/// A tone with noise, from integer arithmetic, as a WAV file.
fn sound(sandbox: &Sandbox, name: &str, seconds: f64, step: usize) {
    let path = sandbox.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let spec = hound::WavSpec { channels: 1, sample_rate: 16_000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut wav = hound::WavWriter::create(path, spec).unwrap();
    let mut state = 7_u32;
    for n in 0..(16_000.0 * seconds) as usize {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let loud = if (n / 4000) % 3 == 2 { 1 } else { 3 };
        let tone = i32::try_from((n * step) % 400).unwrap() - 200;
        wav.write_sample(i16::try_from(loud * tone * 15 + (state >> 22) as i32 - 512).unwrap()).unwrap();
    }
    wav.finalize().unwrap();
}

#[test]
fn scripts_with_several_tokens_per_character_are_not_cut_and_what_is_cut_is_told() {
    let sandbox = Sandbox::new();
    let base = sandbox.path("base");
    fs::create_dir_all(&base).unwrap();
    for (name, bytes) in crate::support::files(&folder("tiny")) {
        fs::write(base.join(name), bytes).unwrap();
    }
    sound(&sandbox, "clips/c0.wav", 1.5, 3);
    sound(&sandbox, "clips/c1.wav", 8.0, 11);
    let text = [AMHARIC; 3].join(" ");
    sandbox.file("t.csv", &format!("file,text,language\nc0.wav,yes,\nc1.wav,{text},\n"));
    let pipeline = |steps: usize| {
        format!(
            r#"
schema = 1
[pipeline]
name = "limits"
seed = 1
[stage.up]
uses = "uploads"
with = {{ audio = "clips", transcripts = "t.csv" }}
[stage.learn]
uses = "dataset"
from = {{ clips = "up" }}
with = {{ split = {{ train = 1.0, test = 0.0, validation = 0.0 }}, no_speech = "keep" }}
[stage.test]
uses = "dataset"
from = {{ clips = "up" }}
with = {{ split = {{ train = 0.0, test = 1.0, validation = 0.0 }}, no_speech = "keep" }}
[stage.model]
uses = "train"
from = {{ data = "learn" }}
with = {{ base = "base", method = "full", max_steps = {steps}, learning_rate = 3e-3, batch_size = 2, gradient_accumulation = 1, device = "cpu", max_text_tokens = 2000, warmup_steps = 10 }}
[stage.short]
uses = "train"
from = {{ data = "learn" }}
with = {{ base = "base", method = "full", max_steps = 1, batch_size = 2, gradient_accumulation = 1, device = "cpu", max_text_tokens = 50 }}
[stage.scores]
uses = "evaluate"
from = {{ model = "model", data = "test" }}
with = {{ compare_base = false }}
[stage.limited]
uses = "evaluate"
from = {{ model = "model", data = "test" }}
with = {{ compare_base = false, max_new_tokens = 40 }}
[stage.card]
uses = "card"
from = {{ model = "model", scores = "limited" }}
"#
        )
    };
    sandbox.pipeline(&pipeline(160));
    let ran = sandbox.run(&["run"]).exits(0);
    let latest = |path: &str| sandbox.read(&format!(".voxpipe/latest/limits/{path}"));
    let json = |path: &str| serde_json::from_str::<Value>(&latest(path)).unwrap();
    let rows = |path: &str| latest(path).lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>();

    let tokens = Transcriber::open(&base).unwrap().tokenizer.encode(&text).len();
    assert!(tokens > 256, "a text of {tokens} tokens proves nothing");
    let scores = json("scores/scores.json");
    assert_eq!((&scores["tuned"]["wer"], &scores["tuned"]["unfinished"]), (&Value::from(0.0), &Value::from(0)), "{scores}");
    assert!(rows("scores/clips.jsonl").iter().all(|row| row["finished"] == true));

    // A limit of one's own is kept, and told in rows, scores, on the terminal and on the card.
    let limited = json("limited/scores.json");
    assert_eq!(limited["tuned"]["unfinished"], 1, "{limited}");
    let finished: Vec<bool> = rows("limited/clips.jsonl").iter().map(|row| row["finished"].as_bool().unwrap()).collect();
    assert_eq!(finished.iter().filter(|finished| !**finished).count(), 1);
    assert!(limited["worst"][0]["finished"] == false, "{limited}");
    let ran = ran.complains("1 of 2 transcripts are unfinished (cut at `max_new_tokens` = 40").complains("1 unfinished");
    assert!(latest("card/README.md").contains("1 of 2 by this model"), "{}", latest("card/README.md"));

    // A text that is too long to train on is counted where the result is told.
    ran.complains("(1 clips left out: texts longer than `max_text_tokens` = 50");
    assert_eq!(json("short/training.json")["left_out"].as_array().unwrap().len(), 1);

    // `transcribe` has the same rule.
    let model = sandbox.path(".voxpipe/latest/limits/model");
    let heard = sandbox.run(&["transcribe", "--model", model.to_str().unwrap(), "clips", "--json"]).exits(0).stdout;
    let heard: Vec<Value> = heard.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(heard[1]["text"], text.as_str());
    assert!(heard.iter().all(|clip| clip["finished"] == true), "{heard:?}");
}

/// The transcripts of the tiny model whose head prefers one token, whatever it has heard.
fn looping(seconds: &[usize], limit: TokenLimit) -> Vec<Transcript> {
    let mut transcriber = Transcriber::open_with(&folder("tiny"), WeightsFrom::Checkpoint, Precision::Auto, &Device::flex()).unwrap();
    let head = &mut transcriber.model.language_model.lm_head.weight;
    let [vocabulary, width] = head.dims();
    *head = Param::from_tensor(Tensor::from_data(TensorData::new(vec![0.0_f32; vocabulary * width], [vocabulary, width]), &Device::flex()));
    let samples: Vec<Vec<f32>> =
        seconds.iter().map(|seconds| (0..seconds * 16_000).map(|n| (n % 50) as f32 / 100.0 - 0.25).collect()).collect();
    let utterances: Vec<Utterance> = samples.iter().map(|samples| Utterance { samples, language: None }).collect();
    transcriber.transcribe_batch(&utterances, limit, &mut |_| ()).unwrap()
}

#[test]
fn a_model_that_repeats_itself_is_ended_and_does_not_hold_its_batch() {
    let ended = looping(&[1, 3, 1], TokenLimit::Auto);
    // As soon as a transcript is longer than most are: 64 tokens, plus 16 per second.
    assert_eq!(ended.iter().map(|one| one.tokens.len()).collect::<Vec<_>>(), [80, 112, 80]);
    assert!(ended.iter().all(|one| one.repeats && !one.finished), "{ended:?}");
    // A limit of one's own stands, whatever is written.
    let limited = looping(&[1], TokenLimit::Tokens(150));
    assert_eq!((limited[0].tokens.len(), limited[0].finished, limited[0].repeats), (150, false, false));
}
