//! A stream: samples in as they come, text out as soon as the model writes it.
//!
//! A whole recording is a stream that comes in one piece; there is no second way to decode one.

use super::RealtimeState;
use super::frames::MelFrameStream;
use super::transcriber::RealtimeTranscriber;
use crate::audio::log_mel::HOP;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use burn::tensor::{Tensor, TensorData};

/// Steps that are heard side by side when many are there: enough to keep a device busy, few enough for their scores to stay small.
const STEPS_AT_ONCE: usize = 64;
/// Steps of silence after a recording, besides those of the delay and one for `<s>`: the longest word.
const LONGEST_WORD: usize = 10;

/// Something being said.
#[derive(Debug)]
pub struct TranscriptionStream<'a> {
    recognizer: &'a RealtimeTranscriber,
    frames: MelFrameStream,
    memory: RealtimeState,
    /// Rows of audio that wait until there are as many as the prompt is long.
    waiting: Vec<Tensor<3>>,
    /// What is read next: the prompt, and after it the token written last.
    next: Vec<u32>,
    samples: usize,
    ended: bool,
    text: Text,
}

/// What was written since the last time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextDelta {
    /// The text; whole characters.
    pub text: String,
    /// A token for every 80 ms, `</s>` and those without text included.
    pub tokens: Vec<u32>,
    /// For each of them the natural logarithm of the probability the model gave it.
    pub log_probabilities: Vec<f32>,
}

impl TextDelta {
    /// Appends what was written after it.
    pub fn extend(&mut self, later: Self) {
        self.text.push_str(&later.text);
        self.tokens.extend(later.tokens);
        self.log_probabilities.extend(later.log_probabilities);
    }
}

impl<'a> TranscriptionStream<'a> {
    /// A stream that begins now.
    pub fn new(recognizer: &'a RealtimeTranscriber) -> Self {
        let mut frames = recognizer.frames();
        frames.push_silence(recognizer.left() * recognizer.step_samples());
        let memory = recognizer.model.memory(recognizer.delay(), &recognizer.device);
        let next = recognizer.prompt();
        Self { recognizer, frames, memory, waiting: Vec::new(), next, samples: 0, ended: false, text: Text::default() }
    }

    /// Hears 16 kHz mono samples, any number of them, and writes what they let it write.
    pub fn push(&mut self, samples: &[f32]) -> Result<TextDelta> {
        if let Some(place) = samples.iter().position(|sample| !sample.is_finite()) {
            return Err(Error::new(format!("sample {} of the stream is not a number", self.samples + place)));
        }
        self.samples += samples.len();
        let mut delta = TextDelta::default();
        // In pieces, so that the memory of a long recording is not that of its spectrogram.
        for piece in samples.chunks(STEPS_AT_ONCE * self.recognizer.step_samples()) {
            self.frames.push(piece);
            delta.extend(self.advance()?);
        }
        Ok(delta)
    }

    /// Whether the model has closed the transcript with `</s>`: nothing that is heard afterwards adds to it.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Ends the stream: hears silence until the last word must have been written.
    pub fn finish(mut self) -> Result<TextDelta> {
        let step = self.recognizer.step_samples();
        let rest = (step - self.samples % step) % step;
        // The reference writes no token after the last step, so that step is not heard.
        let steps = self.recognizer.delay() + LONGEST_WORD;
        // Whole steps end before the last frame sees its last sample.
        self.frames.push_silence(rest + steps * step + HOP);
        let mut delta = self.advance()?;
        delta.text.push_str(&self.text.rest());
        self.recognizer.loaded.audit.passed()?;
        Ok(delta)
    }

    /// Hears all whole steps that are there.
    fn advance(&mut self) -> Result<TextDelta> {
        let mut delta = TextDelta::default();
        let model = &self.recognizer.model;
        let (step, mels) = (model.step_frames(), self.recognizer.config.audio_config.num_mel_bins);
        while !self.ended && self.frames.ready() >= step {
            let frames = (self.frames.ready() / step).min(STEPS_AT_ONCE) * step;
            let data = TensorData::new(self.frames.take(frames)?, [1, mels, frames]);
            self.waiting.push(model.encode(Tensor::from_data(data, &self.recognizer.device), &mut self.memory));
            let rows = Tensor::cat(std::mem::take(&mut self.waiting), 1);
            let (mut from, there) = (0, rows.dims()[1]);
            while !self.ended && there - from >= self.next.len() {
                let now = rows.clone().narrow(1, from, self.next.len());
                from += self.next.len();
                self.write(now, &mut delta)?;
            }
            if from < there && !self.ended {
                self.waiting.push(rows.narrow(1, from, there - from));
            }
        }
        Ok(delta)
    }

    /// Reads the next tokens with their sound and writes the likeliest one after them.
    fn write(&mut self, audio: Tensor<3>, delta: &mut TextDelta) -> Result<()> {
        let model = &self.recognizer.model;
        let hidden = model.read(&self.next, audio, &mut self.memory);
        let [_, steps, width] = hidden.dims();
        let scores = model.language_model.model.head(hidden.narrow(1, steps - 1, 1).reshape([1, width]));
        let scores = scores.into_data().try_to_vec::<f32>().map_err(|error| Error::new(format!("{error:?}")))?;
        let (id, log_probability) = argmax(&scores)?;
        delta.tokens.push(id);
        delta.log_probabilities.push(log_probability);
        self.ended = id == self.recognizer.end();
        delta.text.push_str(&self.text.add(id, &self.recognizer.tokenizer));
        self.next = vec![id];
        Ok(())
    }
}

/// The first of the highest scores, and the natural logarithm of its probability.
fn argmax(scores: &[f32]) -> Result<(u32, f32)> {
    let best = scores.iter().enumerate().fold(None, |best: Option<(usize, f32)>, (id, score)| match best {
        Some((_, highest)) if highest >= *score => best,
        _ => Some((id, *score)),
    });
    let (id, highest) = best.filter(|(_, highest)| highest.is_finite()).ok_or_else(|| {
        Error::new("the model's scores are not numbers").hint("compute with `--precision f32`, or fetch the weights again")
    })?;
    let sum: f64 = scores.iter().map(|score| f64::from(score - highest).exp()).sum();
    let id = u32::try_from(id).map_err(|_| Error::new("the vocabulary is too large"))?;
    Ok((id, -sum.ln() as f32))
}

/// Bytes on their way to being characters.
#[derive(Debug, Default)]
struct Text {
    /// The beginning of a character.
    begun: Vec<u8>,
}

impl Text {
    /// Adds a token; what comes back ends with a whole character. A special token ends whatever was begun, as it does in
    /// [`Tokenizer::decode`].
    fn add(&mut self, id: u32, tokenizer: &Tokenizer) -> String {
        let Some(piece) = tokenizer.piece(id) else {
            let beyond = if id as usize >= tokenizer.vocab_size() { "\u{fffd}" } else { "" };
            return self.rest() + beyond;
        };
        self.begun.extend_from_slice(piece);
        let mut whole = self.begun.len();
        if let Some(last) = self.begun.utf8_chunks().last().filter(|last| !last.invalid().is_empty()) {
            // Invalid at the very end may be the beginning of a character: then more bytes could still make it one.
            let invalid = last.invalid();
            if std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none()) {
                whole -= invalid.len();
            }
        }
        let rest = self.begun.split_off(whole);
        let text = String::from_utf8_lossy(&self.begun).into_owned();
        self.begun = rest;
        text
    }

    /// What was begun and will not be completed.
    fn rest(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.begun)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn text_comes_in_whole_characters_and_is_that_of_the_tokenizer() {
        let tokenizer = Tokenizer::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/voxtral/tiny/tekken.json")).unwrap();
        // The first 256 pieces are the bytes; ids below 100 are special.
        let byte = |byte: u8| 100 + u32::from(byte);
        let mut ids: Vec<u32> = "Straße, 日本 🎈!".bytes().map(byte).collect();
        ids.extend([byte(0xe6), 32, byte(0x97), byte(b'a'), byte(0xff), byte(0xe6), byte(0x97), byte(0xa5), 9999, byte(0xf0), byte(0x9f)]);
        let mut text = Text::default();
        let mut said = String::new();
        for id in &ids {
            let delta = text.add(*id, &tokenizer);
            said.push_str(&delta);
            assert!(said.is_empty() || "Straße, 日本 🎈!".starts_with(&said) || said.starts_with("Straße, 日本 🎈!"), "{said}");
        }
        said.push_str(&text.rest());
        assert_eq!(said, tokenizer.decode(&ids));
    }

    #[test]
    fn the_first_of_equal_scores_is_the_likeliest() {
        let (id, log_probability) = argmax(&[0.0, 1.0, 1.0, f32::NEG_INFINITY]).unwrap();
        let expected = -(1f64 + 1.0 + (-1f64).exp()).ln();
        assert!(id == 1 && (f64::from(log_probability) - expected).abs() < 1e-6);
        for scores in [&[f32::NAN, f32::NAN][..], &[], &[f32::NEG_INFINITY], &[f32::INFINITY, 0.0]] {
            assert!(argmax(scores).is_err());
        }
    }
}
