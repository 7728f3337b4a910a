//! Transcription of clips: batching by length, encoding a few chunks at a time, greedy decoding.

use super::batching;
use super::batching::{BatchBudget, ClipSize};
use super::generate::{DecoderPrompt, Generated, GenerationEvent, greedy};
use super::loop_guard::{LoopGuard, longest, usual_length};
use super::transcriber::Transcriber;
use crate::audio::Features;
use crate::error::{Error, Result};
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

/// Audio chunks encoded per forward pass: enough to keep a device busy, and few enough that long recordings fit in memory.
pub(super) const CHUNKS_AT_ONCE: usize = 4;

/// A clip to transcribe.
#[derive(Clone, Copy, Debug)]
pub struct Utterance<'a> {
    /// 16 kHz mono samples.
    pub samples: &'a [f32],
    /// ISO 639-1 language code; `None` to auto-detect the language.
    pub language: Option<&'a str>,
}

/// Maximum length of a transcript.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenLimit {
    /// This number of tokens, including `</s>`, whatever they are.
    Tokens(usize),
    /// Until the model ends the transcript. The [loop guard](super::loop_guard) ends those that repeat themselves or are longer than any
    /// speech can be.
    #[default]
    Auto,
}

/// A transcript of one clip.
#[derive(Clone, Debug, PartialEq)]
pub struct Transcript {
    /// Decoded text.
    pub text: String,
    /// Generated token ids.
    pub tokens: Vec<u32>,
    /// Log-probability (natural) of each token.
    pub log_probabilities: Vec<f32>,
    /// Whether the model ended the transcript; false if the token limit was reached or the transcript repeats itself.
    pub finished: bool,
    /// Whether the transcript was ended because it repeats itself.
    pub repeats: bool,
}

/// Progress events of transcription.
#[derive(Clone, Debug, PartialEq)]
pub enum TranscribeEvent {
    /// Some audio chunks were encoded, or one decoding step is complete.
    Progress,
    /// The transcript of the clip with this index.
    Transcript(usize, Transcript),
}

impl Transcriber {
    /// Transcribes a clip: 16 kHz mono samples, as [`audio::load`](crate::audio::load()) returns them. The language is auto-detected.
    ///
    /// # Errors
    /// If the logits or the weights are not finite, or the device fails.
    pub fn transcribe(&self, pcm: &[f32]) -> Result<Transcript> {
        let utterance = Utterance { samples: pcm, language: None };
        let transcripts = self.transcribe_batch(&[utterance], TokenLimit::Auto, &mut |_| ())?;
        transcripts.into_iter().next().ok_or_else(|| Error::new("the clip has no transcript"))
    }

    /// Transcribes clips together; `progress` is called with the number of finished clips. Transcripts are in the order of the clips.
    pub fn transcribe_batch(
        &self,
        utterances: &[Utterance],
        limit: TokenLimit,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<Transcript>> {
        let mut transcripts = vec![None; utterances.len()];
        let mut done = 0;
        self.transcribe_each(utterances, limit, &mut |event| {
            if let TranscribeEvent::Transcript(index, transcript) = event {
                transcripts[index] = Some(transcript);
                done += 1;
                progress(done);
            }
            Ok(())
        })?;
        Ok(transcripts.into_iter().flatten().collect())
    }

    /// Transcribes clips and reports each transcript as soon as it is complete, not in the order of the clips. Stops between two tokens if
    /// `on_event` returns an error.
    pub fn transcribe_each(
        &self,
        utterances: &[Utterance],
        limit: TokenLimit,
        on_event: &mut dyn FnMut(TranscribeEvent) -> Result<()>,
    ) -> Result<()> {
        if limit == TokenLimit::Tokens(0) {
            return Err(Error::new("the token limit of a transcript is 0 tokens").hint("allow at least 1 token"));
        }
        let prompt = |(index, utterance): (usize, &Utterance)| {
            let ids = self.prompt(utterance.language, self.chunks(utterance.samples.len()));
            let ids = ids.map_err(|error| error.context(format!("clip {} of {}", index + 1, utterances.len())))?;
            let (samples, context) = (utterance.samples.len(), self.config.text_config.max_position_embeddings);
            Ok(match limit {
                TokenLimit::Tokens(limit) => DecoderPrompt { ids, limit, guard: None },
                TokenLimit::Auto => {
                    DecoderPrompt { limit: longest(samples, ids.len(), context), ids, guard: Some(LoopGuard::new(samples)) }
                }
            })
        };
        let prompts = utterances.iter().enumerate().map(prompt).collect::<Result<Vec<_>>>()?;
        let size = |(prompt, utterance): (&DecoderPrompt, &Utterance)| ClipSize {
            prompt: prompt.ids.len(),
            samples: utterance.samples.len(),
            // A very high limit is not the expected length.
            limit: prompt.limit.min(usual_length(utterance.samples.len())),
        };
        let sizes: Vec<ClipSize> = prompts.iter().zip(utterances).map(size).collect();
        for batch in batching::plan(&sizes, BatchBudget::default(), &self.config) {
            let samples: Vec<&[f32]> = batch.iter().map(|index| utterances[*index].samples).collect();
            let audio = match &self.feature_cache {
                Some(feature_cache) => self.encoder(feature_cache).encode_all(&samples)?,
                None => {
                    let features = samples.par_iter().map(|samples| self.features(samples)).collect::<Result<Vec<_>>>()?;
                    self.embed_audio(&features, &mut || on_event(TranscribeEvent::Progress))?
                }
            };
            on_event(TranscribeEvent::Progress)?;
            let prompts: Vec<DecoderPrompt> = batch.iter().map(|index| prompts[*index].clone()).collect();
            greedy(&self.model, &prompts, audio, self.special(), &mut |step| match step {
                GenerationEvent::Token => on_event(TranscribeEvent::Progress),
                GenerationEvent::Ended(row, generated) => {
                    // Never return a transcript of damaged weights.
                    self.loaded.audit.passed()?;
                    on_event(TranscribeEvent::Transcript(batch[row], self.transcript(generated)))
                }
            })?;
        }
        Ok(())
    }

    /// Audio embeddings of several clips, concatenated in order; computed a few chunks at a time.
    ///
    /// # Shapes
    /// → `[audio tokens, text width]`
    pub(super) fn embed_audio(&self, clips: &[Features], progress: &mut dyn FnMut() -> Result<()>) -> Result<Tensor<2>> {
        let (mels, frames) = (self.config.audio_config.num_mel_bins, self.config.audio_config.chunk_frames());
        let chunks: Vec<&[f32]> = clips.iter().flat_map(|clip| clip.data.chunks(mels * frames)).collect();
        let mut rows = Vec::new();
        for part in chunks.chunks(CHUNKS_AT_ONCE) {
            let features = Tensor::from_data(TensorData::new(part.concat(), [part.len(), mels, frames]), &self.device);
            rows.push(self.model.embed_audio(features));
            progress()?;
        }
        Ok(Tensor::cat(rows, 0))
    }

    fn transcript(&self, generated: Generated) -> Transcript {
        let Generated { tokens, log_probabilities, finished, repeats } = generated;
        Transcript { text: self.tokenizer.decode(&tokens).trim().to_owned(), tokens, log_probabilities, finished, repeats }
    }
}
