//! Streaming transcription: samples in as they arrive, text out as soon as it is generated.
//!
//! A recording is transcribed as a stream too; there is no separate code path.

use super::RealtimeState;
use super::frames::MelFrameStream;
use super::transcriber::RealtimeTranscriber;
use crate::audio::log_mel::HOP;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use burn::tensor::{Tensor, TensorData};

/// Steps encoded per forward pass when many are available: enough to keep a device busy, and few enough to limit memory.
const STEPS_AT_ONCE: usize = 64;
/// Steps of silence after a recording, in addition to the delay and one step for `<s>`; enough to complete the longest word.
const LONGEST_WORD: usize = 10;

/// A stream being transcribed.
#[derive(Debug)]
pub struct TranscriptionStream<'a> {
    transcriber: &'a RealtimeTranscriber,
    frames: MelFrameStream,
    state: RealtimeState,
    /// Audio embeddings not yet decoded; the first decoding step needs as many as the prompt has tokens.
    waiting: Vec<Tensor<3>>,
    /// Next input tokens: the prompt, then the previous token.
    next: Vec<u32>,
    samples: usize,
    ended: bool,
    text: Text,
}

/// Output generated since the previous call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextDelta {
    /// Text, in complete characters.
    pub text: String,
    /// One token per 80 ms, including `</s>` and tokens without text.
    pub tokens: Vec<u32>,
    /// Log-probability (natural) of each token.
    pub log_probabilities: Vec<f32>,
}

impl TextDelta {
    /// Appends later output.
    pub fn extend(&mut self, later: Self) {
        self.text.push_str(&later.text);
        self.tokens.extend(later.tokens);
        self.log_probabilities.extend(later.log_probabilities);
    }
}

impl<'a> TranscriptionStream<'a> {
    /// Starts a stream.
    pub fn new(transcriber: &'a RealtimeTranscriber) -> Self {
        let mut frames = transcriber.frames();
        frames.push_silence(transcriber.left() * transcriber.step_samples());
        let state = transcriber.model.memory(transcriber.delay(), &transcriber.device);
        let next = transcriber.prompt();
        Self { transcriber, frames, state, waiting: Vec::new(), next, samples: 0, ended: false, text: Text::default() }
    }

    /// Feeds any number of 16 kHz mono samples and returns the output they complete.
    pub fn push(&mut self, samples: &[f32]) -> Result<TextDelta> {
        if let Some(place) = samples.iter().position(|sample| !sample.is_finite()) {
            return Err(Error::new(format!("sample {} of the stream is not a number", self.samples + place)));
        }
        self.samples += samples.len();
        let mut delta = TextDelta::default();
        // Process long input in pieces, so that its full spectrogram is never in memory.
        for piece in samples.chunks(STEPS_AT_ONCE * self.transcriber.step_samples()) {
            self.frames.push(piece);
            delta.extend(self.advance()?);
        }
        Ok(delta)
    }

    /// Whether the model has generated `</s>`; later audio is ignored.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Ends the stream: feeds silence until the last word is complete, and returns the remaining output.
    pub fn finish(mut self) -> Result<TextDelta> {
        let step = self.transcriber.step_samples();
        let rest = (step - self.samples % step) % step;
        // The reference implementation generates no token after the last step, so that step is not fed.
        let steps = self.transcriber.delay() + LONGEST_WORD;
        // The last frame needs samples beyond the last step, so one more hop is fed.
        self.frames.push_silence(rest + steps * step + HOP);
        let mut delta = self.advance()?;
        delta.text.push_str(&self.text.rest());
        self.transcriber.loaded.audit.passed()?;
        Ok(delta)
    }

    /// Processes all complete steps.
    fn advance(&mut self) -> Result<TextDelta> {
        let mut delta = TextDelta::default();
        let model = &self.transcriber.model;
        let (step, mels) = (model.step_frames(), self.transcriber.config.audio_config.num_mel_bins);
        while !self.ended && self.frames.ready() >= step {
            let frames = (self.frames.ready() / step).min(STEPS_AT_ONCE) * step;
            let data = TensorData::new(self.frames.take(frames)?, [1, mels, frames]);
            self.waiting.push(model.encode(Tensor::from_data(data, &self.transcriber.device), &mut self.state));
            let rows = Tensor::cat(std::mem::take(&mut self.waiting), 1);
            let (mut from, available) = (0, rows.dims()[1]);
            while !self.ended && available - from >= self.next.len() {
                let now = rows.clone().narrow(1, from, self.next.len());
                from += self.next.len();
                self.decode(now, &mut delta)?;
            }
            if from < available && !self.ended {
                self.waiting.push(rows.narrow(1, from, available - from));
            }
        }
        Ok(delta)
    }

    /// One decoding step: feeds the next tokens with their audio embeddings and takes the most probable token.
    fn decode(&mut self, audio: Tensor<3>, delta: &mut TextDelta) -> Result<()> {
        let model = &self.transcriber.model;
        let hidden = model.read(&self.next, audio, &mut self.state);
        let [_, steps, width] = hidden.dims();
        let logits = model.language_model.model.head(hidden.narrow(1, steps - 1, 1).reshape([1, width]));
        let logits = logits.into_data().try_to_vec::<f32>().map_err(|error| Error::new(format!("{error:?}")))?;
        let (id, log_probability) = argmax(&logits)?;
        delta.tokens.push(id);
        delta.log_probabilities.push(log_probability);
        self.ended = id == self.transcriber.eos();
        delta.text.push_str(&self.text.add(id, &self.transcriber.tokenizer));
        self.next = vec![id];
        Ok(())
    }
}

/// The first index with the highest logit, and its log-probability.
fn argmax(logits: &[f32]) -> Result<(u32, f32)> {
    let best = logits.iter().enumerate().fold(None, |best: Option<(usize, f32)>, (id, logit)| match best {
        Some((_, highest)) if highest >= *logit => best,
        _ => Some((id, *logit)),
    });
    let (id, highest) = best
        .filter(|(_, highest)| highest.is_finite())
        .ok_or_else(|| Error::new("the logits are not finite").hint("use `--precision f32`, or download the weights again"))?;
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - highest).exp()).sum();
    let id = u32::try_from(id).map_err(|_| Error::new("the vocabulary is too large"))?;
    Ok((id, -sum.ln() as f32))
}

/// Assembles UTF-8 text from token bytes.
#[derive(Debug, Default)]
struct Text {
    /// Bytes of an incomplete character.
    incomplete: Vec<u8>,
}

impl Text {
    /// Appends a token and returns the text up to the last complete character. A special token flushes an incomplete character, as in
    /// [`Tokenizer::decode`].
    fn add(&mut self, id: u32, tokenizer: &Tokenizer) -> String {
        let Some(piece) = tokenizer.piece(id) else {
            let beyond = if id as usize >= tokenizer.vocab_size() { "\u{fffd}" } else { "" };
            return self.rest() + beyond;
        };
        self.incomplete.extend_from_slice(piece);
        let mut whole = self.incomplete.len();
        if let Some(last) = self.incomplete.utf8_chunks().last().filter(|last| !last.invalid().is_empty()) {
            // Invalid bytes at the end may be the start of a character that later bytes complete.
            let invalid = last.invalid();
            if std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none()) {
                whole -= invalid.len();
            }
        }
        let rest = self.incomplete.split_off(whole);
        let text = String::from_utf8_lossy(&self.incomplete).into_owned();
        self.incomplete = rest;
        text
    }

    /// Flushes an incomplete character as U+FFFD.
    fn rest(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.incomplete)).into_owned()
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
        let mut joined = String::new();
        for id in &ids {
            let delta = text.add(*id, &tokenizer);
            joined.push_str(&delta);
            assert!(joined.is_empty() || "Straße, 日本 🎈!".starts_with(&joined) || joined.starts_with("Straße, 日本 🎈!"), "{joined}");
        }
        joined.push_str(&text.rest());
        assert_eq!(joined, tokenizer.decode(&ids));
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
