//! From clips to transcripts: batches of like length, audio a few chunks at a time, greedy decoding.

use super::batching;
use super::batching::{BatchBudget, ClipSize};
use super::generate::{DecoderPrompt, Generated, GenerationEvent, greedy};
use super::transcriber::Transcriber;
use crate::audio::{Features, SAMPLE_RATE};
use crate::error::{Error, Result};
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

/// Chunks of audio that are encoded side by side: enough to keep a device busy, and half an hour of audio does not fill its memory.
pub(super) const CHUNKS_AT_ONCE: usize = 4;

/// Something said.
#[derive(Clone, Copy, Debug)]
pub struct Utterance<'a> {
    /// 16 kHz mono.
    pub samples: &'a [f32],
    /// ISO 639-1, or none to let the model find out.
    pub language: Option<&'a str>,
}

/// How long a transcript may get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenLimit {
    /// So many tokens, `</s>` included.
    Tokens(usize),
    /// 64 and 16 for each second of audio: several times what the fastest speaker says.
    #[default]
    Auto,
}

/// What the model heard.
#[derive(Clone, Debug, PartialEq)]
pub struct Transcript {
    /// The text.
    pub text: String,
    /// The ids it was decoded from.
    pub tokens: Vec<u32>,
    /// For each of them the natural logarithm of the probability the model gave it.
    pub log_probabilities: Vec<f32>,
    /// Whether the model ended the transcript itself; if not, the limit cut it.
    pub finished: bool,
}

/// What is said while clips are transcribed.
#[derive(Clone, Debug, PartialEq)]
pub enum TranscribeEvent {
    /// A little more is done: some chunks of audio, or a token.
    More,
    /// The transcript of the utterance with this index.
    Clip(usize, Transcript),
}

impl TokenLimit {
    /// The limit for a clip of so many samples, in tokens.
    pub fn tokens(self, samples: usize) -> usize {
        match self {
            Self::Tokens(tokens) => tokens,
            Self::Auto => 64 + (16 * samples).div_ceil(SAMPLE_RATE as usize),
        }
    }
}

impl Transcriber {
    /// Transcribes clips; `progress` hears how many are done.
    pub fn transcribe(&self, utterances: &[Utterance], limit: TokenLimit, progress: &mut dyn FnMut(usize)) -> Result<Vec<Transcript>> {
        let mut transcripts = vec![None; utterances.len()];
        let mut done = 0;
        self.transcribe_each(utterances, limit, &mut |heard| {
            if let TranscribeEvent::Clip(index, transcript) = heard {
                transcripts[index] = Some(transcript);
                done += 1;
                progress(done);
            }
            Ok(())
        })?;
        Ok(transcripts.into_iter().flatten().collect())
    }

    /// Transcribes clips and hands each transcript out as soon as it is known; their order is not that of the utterances. An error that
    /// `say` returns ends the work, between two tokens at the latest.
    pub fn transcribe_each(
        &self,
        utterances: &[Utterance],
        limit: TokenLimit,
        say: &mut dyn FnMut(TranscribeEvent) -> Result<()>,
    ) -> Result<()> {
        if limit == TokenLimit::Tokens(0) {
            return Err(Error::new("a transcript of at most 0 tokens says nothing").hint("allow at least 1 token"));
        }
        let prompt = |(index, utterance): (usize, &Utterance)| {
            let ids = self.prompt(utterance.language, self.chunks(utterance.samples.len()));
            let ids = ids.map_err(|error| error.context(format!("clip {} of {}", index + 1, utterances.len())))?;
            Ok(DecoderPrompt { ids, limit: limit.tokens(utterance.samples.len()) })
        };
        let prompts = utterances.iter().enumerate().map(prompt).collect::<Result<Vec<_>>>()?;
        let size = |(prompt, utterance): (&DecoderPrompt, &Utterance)| ClipSize {
            prompt: prompt.ids.len(),
            samples: utterance.samples.len(),
            // Who allows a thousand tokens for a word does not expect them.
            limit: prompt.limit.min(TokenLimit::Auto.tokens(utterance.samples.len())),
        };
        let sizes: Vec<ClipSize> = prompts.iter().zip(utterances).map(size).collect();
        for batch in batching::plan(&sizes, BatchBudget::default(), &self.config) {
            let samples: Vec<&[f32]> = batch.iter().map(|index| utterances[*index].samples).collect();
            let audio = match &self.memory {
                Some(memory) => self.ears(memory).encode_all(&samples)?,
                None => {
                    let features = samples.par_iter().map(|samples| self.features(samples)).collect::<Result<Vec<_>>>()?;
                    self.embed_audio(&features, &mut || say(TranscribeEvent::More))?
                }
            };
            say(TranscribeEvent::More)?;
            let prompts: Vec<DecoderPrompt> = batch.iter().map(|index| prompts[*index].clone()).collect();
            greedy(&self.model, &prompts, audio, self.special(), &mut |step| match step {
                GenerationEvent::Token => say(TranscribeEvent::More),
                GenerationEvent::Ended(row, written) => {
                    // Nothing that damaged weights said leaves.
                    self.loaded.audit.passed()?;
                    say(TranscribeEvent::Clip(batch[row], self.transcript(written)))
                }
            })?;
        }
        Ok(())
    }

    /// What stands in the places of the `[AUDIO]` tokens of several clips in order, computed a few chunks at a time.
    ///
    /// # Shapes
    /// → `[audio tokens, text width]`
    fn embed_audio(&self, clips: &[Features], more: &mut dyn FnMut() -> Result<()>) -> Result<Tensor<2>> {
        let (mels, frames) = (self.config.audio_config.num_mel_bins, self.config.audio_config.chunk_frames());
        let chunks: Vec<&[f32]> = clips.iter().flat_map(|clip| clip.data.chunks(mels * frames)).collect();
        let mut rows = Vec::new();
        for part in chunks.chunks(CHUNKS_AT_ONCE) {
            let features = Tensor::from_data(TensorData::new(part.concat(), [part.len(), mels, frames]), &self.device);
            rows.push(self.model.embed_audio(features));
            more()?;
        }
        Ok(Tensor::cat(rows, 0))
    }

    fn transcript(&self, written: Generated) -> Transcript {
        let Generated { tokens, log_probabilities, finished } = written;
        Transcript { text: self.tokenizer.decode(&tokens).trim().to_owned(), tokens, log_probabilities, finished }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_automatic_limit_grows_with_the_clip() {
        assert_eq!(TokenLimit::Auto.tokens(16_000 * 30), 64 + 16 * 30);
        assert_eq!(TokenLimit::Auto.tokens(1), 65);
        assert_eq!(TokenLimit::Tokens(7).tokens(1 << 30), 7);
    }
}
