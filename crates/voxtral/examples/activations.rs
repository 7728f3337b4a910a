//! Writes activations, logits, loss and gradients of a checkpoint to a safetensors file, for comparison with another implementation.
//!
//! `cargo run -p voxtral --example activations -- MODEL CASE.json OUT.safetensors f32`
//!
//! The last argument is the precision of the matrices. Gradients are written for `f32` only.
//!
//! The case: `{"max_new_tokens": 24, "clips": [{"wav": "clip0.wav", "language": "en", "target": [300, 301, 2]}]}`, with paths relative to
//! the case file. The output has `features.I` of clip I; `encoder` and `projector` of all clips; `prompt.I`, and `logits.I` of its prompt
//! and target; `loss`, the mean over all targets, and its flat `gradient.NAME`; `generated.I` and `log_probabilities.I`, decoded in one
//! batch. `tests/voxtral/parity.py` compares them with transformers.

use burn::tensor::{Tensor, TensorData};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use voxtral::audio::read_wav16k;
use voxtral::device;
use voxtral::error::{Error, Result, ResultExt};
use voxtral::inference::transcriber::{TokenLimit, Transcriber, Utterance, WeightsFrom, stack};
use voxtral::training::adamw::GradientMap;
use voxtral::training::collate::{Batch, Example, ExampleAudio};
use voxtral::training::{loss_sum, mark_trained};
use voxtral::weights::precision::Precision;
use voxtral::weights::{tensors, write_tensors};

#[derive(Deserialize)]
struct Case {
    max_new_tokens: usize,
    clips: Vec<Clip>,
}

#[derive(Deserialize)]
struct Clip {
    wav: String,
    language: Option<String>,
    target: Vec<u32>,
}

fn main() -> Result<()> {
    let [model, case, out, precision] = <[String; 4]>::try_from(std::env::args().skip(1).collect::<Vec<_>>())
        .map_err(|_| Error::new("usage: activations MODEL CASE.json OUT.safetensors PRECISION"))?;
    let precision: Precision = precision.parse().map_err(|message: String| Error::new(message))?;
    let path = Path::new(&case);
    let case: Case = serde_json::from_str(&std::fs::read_to_string(path)?).with_context(|| path.display().to_string())?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let recognizer = Transcriber::open_with(Path::new(&model), WeightsFrom::Checkpoint, precision, &device::choose("auto")?.device)?;
    let mut found = BTreeMap::new();

    // Features, encoder and projector.
    let samples = case.clips.iter().map(|clip| read_wav16k(&folder.join(&clip.wav))).collect::<Result<Vec<_>>>()?;
    let features = samples.iter().map(|samples| recognizer.features(samples)).collect::<Result<Vec<_>>>()?;
    for (i, clip) in features.iter().enumerate() {
        found.insert(format!("features.{i}"), TensorData::new(clip.data.clone(), [clip.chunks, clip.mels, clip.frames]));
    }
    let stacked = stack(features.iter(), &recognizer.device);
    found.insert("encoder".to_owned(), recognizer.model.audio_tower.forward(stacked.clone()).into_data());
    found.insert("projector".to_owned(), recognizer.model.embed_audio(stacked.clone()).into_data());

    // Prompts and logits: rows of different lengths, padded on the right.
    let mut examples = Vec::new();
    for (i, (clip, features)) in case.clips.iter().zip(features).enumerate() {
        let prompt = recognizer.prompt(clip.language.as_deref(), features.chunks)?;
        found.insert(format!("prompt.{i}"), floats(&prompt));
        let features = Arc::new(features);
        examples.push(Example {
            name: clip.wav.clone(),
            chunks: features.chunks,
            anew: None,
            sound: Arc::new(move || Ok(ExampleAudio::Features(features.clone()))),
            prompt: prompt.len(),
            ids: [prompt, clip.target.clone()].concat(),
        });
    }
    let batch = Batch::new(&examples.iter().collect::<Vec<_>>(), recognizer.special().pad, &recognizer.device)?;
    let logits = recognizer.model.forward(&batch.tokens, stacked)?;
    for (i, example) in examples.iter().enumerate() {
        let vocabulary = logits.dims()[2];
        let row: Tensor<3> = logits.clone().slice([i..i + 1, 0..example.ids.len(), 0..vocabulary]);
        found.insert(format!("logits.{i}"), row.into_data());
    }

    // Generated tokens.
    let utterances: Vec<Utterance> =
        case.clips.iter().zip(&samples).map(|(clip, samples)| Utterance { samples, language: clip.language.as_deref() }).collect();
    for (i, heard) in
        recognizer.transcribe_batch(&utterances, TokenLimit::Tokens(case.max_new_tokens), &mut |_| ())?.into_iter().enumerate()
    {
        let end = heard.finished.then_some(recognizer.special().eos);
        found.insert(format!("generated.{i}"), floats(&heard.tokens.into_iter().chain(end).collect::<Vec<_>>()));
        let count = heard.log_probabilities.len();
        found.insert(format!("log_probabilities.{i}"), TensorData::new(heard.log_probabilities, [count]));
    }

    // Loss and gradients.
    let targets: usize = examples.iter().map(Example::targets).sum();
    let learns = |name: &str| precision == Precision::F32 && name != "audio_tower.embed_positions.weight";
    let model = mark_trained(recognizer.model, &learns);
    let loss = loss_sum(&model, &batch)? / targets as f64;
    found.insert("loss".to_owned(), loss.clone().inner().into_data());
    if precision == Precision::F32 {
        let mut gradient = GradientMap::default();
        gradient.add(&model, loss.backward());
        for name in tensors(&model, |_| true).into_keys() {
            if let Some(values) = gradient.get(&name) {
                found.insert(format!("gradient.{name}"), values.inner().into_data());
            }
        }
    }
    write_tensors(Path::new(&out), &found)
}

/// Token ids as f32, which is exact up to 24 bits.
fn floats(ids: &[u32]) -> TensorData {
    TensorData::new(ids.iter().map(|id| *id as f32).collect::<Vec<_>>(), [ids.len()])
}
