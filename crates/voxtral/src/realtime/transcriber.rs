//! Speech recognizer for Voxtral Realtime: model, tokenizer, feature extraction and prompt.

use super::config::{MAX_DELAY, RealtimeConfig, StreamPadding};
use super::frames::MelFrameStream;
use super::stream::{TextDelta, TranscriptionStream};
use super::{MODEL_NAME, RealtimeModel};
use crate::audio::log_mel::HOP;
use crate::audio::{LogMel, SAMPLE_RATE};
use crate::error::{Error, ErrorKind, Result};
use crate::inference::transcriber::{TokenLimit, TranscribeEvent, Transcript, Utterance, WeightsFrom};
use crate::tokenizer::Tokenizer;
use crate::tokenizer::prompt::{BOS, EOS};
use crate::weights::precision::Precision;
use crate::weights::{LoadReport, WeightLoader};
use burn::tensor::Device;
use std::path::Path;

/// The token of a step without text.
pub const STREAMING_PAD: &str = "[STREAMING_PAD]";

/// A streaming speech recognizer.
#[derive(Debug)]
pub struct RealtimeTranscriber {
    /// Model configuration.
    pub config: RealtimeConfig,
    /// Tokenizer.
    pub tokenizer: Tokenizer,
    /// Model.
    pub model: RealtimeModel,
    /// Device of the weights.
    pub device: Device,
    /// Precision of the weights, their finite check, and a note for the user.
    pub loaded: LoadReport,
    mel: LogMel,
    delay: usize,
    left: usize,
    bos: u32,
    pad: u32,
    eos: u32,
}

impl RealtimeTranscriber {
    /// Opens a model folder laid out as on the Hub (`config.json`, `model.safetensors`, `tekken.json`).
    pub fn open_with(folder: &Path, start: WeightsFrom, precision: Precision, device: &Device) -> Result<Self> {
        let config = RealtimeConfig::read(folder)?;
        let tekken = folder.join("tekken.json");
        let tokenizer = Tokenizer::read(&tekken)?;
        let padding = StreamPadding::read(&tekken)?;
        let known = config.text_config.vocab_size;
        let id = |token: &str| {
            let id = tokenizer.special(token)?;
            match id as usize {
                id_in_table if id_in_table < known => Ok(id),
                _ => Err(Error::new(format!("{}: `{token}` is {id}, outside the config's vocabulary of {known}", tekken.display()))),
            }
        };
        if tokenizer.vocab_size() > known {
            return Err(Error::new(format!(
                "`{}`: tekken.json has {} tokens, config.json says {known}",
                folder.display(),
                tokenizer.vocab_size()
            ))
            .hint("config.json and tekken.json do not belong together"));
        }
        let (bos, pad, eos) = (id(BOS)?, id(STREAMING_PAD)?, id(EOS)?);
        let mut weights = match start {
            WeightsFrom::Checkpoint => WeightLoader::open(folder, config.rope_heads(), precision, device)?,
            WeightsFrom::Random(seed) => WeightLoader::random(seed, device).precision(precision),
        };
        let model = RealtimeModel::load(&config, &mut weights);
        let loaded = weights.finish()?;
        let mel = LogMel::new(config.audio_config.num_mel_bins);
        let delay = padding.delay.unwrap_or(config.default_num_delay_tokens);
        Ok(Self { config, tokenizer, model, device: device.clone(), loaded, mel, delay, left: padding.left, bos, pad, eos })
    }

    /// Sets the delay between audio and text in steps of 80 ms. A short delay gives text sooner, a long delay is more accurate.
    pub fn with_delay(self, steps: usize) -> Result<Self> {
        if steps == 0 || steps > MAX_DELAY {
            return Err(Error::new(format!("a delay of {steps} steps of 80 ms is out of range"))
                .hint(format!("use 1 to {MAX_DELAY}; the usual value is 6"))
                .kind(ErrorKind::InvalidInput));
        }
        Ok(Self { delay: steps, ..self })
    }

    /// Delay between audio and text, in steps of 80 ms.
    pub fn delay(&self) -> usize {
        self.delay
    }

    /// Starts a stream.
    pub fn stream(&self) -> TranscriptionStream<'_> {
        TranscriptionStream::new(self)
    }

    /// Transcribes clips one after the other; `progress` is called with the number of finished clips.
    pub fn transcribe(&self, utterances: &[Utterance], progress: &mut dyn FnMut(usize)) -> Result<Vec<Transcript>> {
        let mut transcripts = Vec::with_capacity(utterances.len());
        self.transcribe_each(utterances, TokenLimit::Auto, &mut |event| {
            if let TranscribeEvent::Transcript(_, transcript) = event {
                transcripts.push(transcript);
                progress(transcripts.len());
            }
            Ok(())
        })?;
        Ok(transcripts)
    }

    /// Transcribes clips in order and reports each transcript as soon as it is complete. If `on_event` returns an error, stops within a
    /// second of audio.
    ///
    /// The model detects the language itself and generates one token per 80 ms, so a language or a token limit is an error.
    pub fn transcribe_each(
        &self,
        utterances: &[Utterance],
        limit: TokenLimit,
        on_event: &mut dyn FnMut(TranscribeEvent) -> Result<()>,
    ) -> Result<()> {
        if limit != TokenLimit::Auto {
            return Err(Error::new(format!("{MODEL_NAME} generates one token per 80 ms and does not support a token limit"))
                .hint("omit the token limit"));
        }
        if let Some(language) = utterances.iter().find_map(|utterance| utterance.language) {
            return Err(Error::new(format!("{MODEL_NAME} does not support setting the language, such as `{language}`"))
                .hint("omit the language; it is auto-detected"));
        }
        if let Some(index) = utterances.iter().position(|utterance| utterance.samples.is_empty()) {
            return Err(Error::new(format!("clip {} of {}: there is no audio to transcribe", index + 1, utterances.len()))
                .hint("exclude recordings without samples"));
        }
        for (index, utterance) in utterances.iter().enumerate() {
            let (mut stream, mut output) = (self.stream(), TextDelta::default());
            for piece in utterance.samples.chunks(SAMPLE_RATE as usize) {
                output.extend(stream.push(piece)?);
                on_event(TranscribeEvent::Progress)?;
            }
            output.extend(stream.finish()?);
            let TextDelta { text, tokens, log_probabilities } = output;
            let finished = self.is_complete(&tokens);
            let transcript = Transcript { text: text.trim().to_owned(), tokens, log_probabilities, finished, repeats: false };
            on_event(TranscribeEvent::Transcript(index, transcript))?;
        }
        Ok(())
    }

    /// Whether a transcript is complete at the end of its recording. The model generates one token per 80 ms and has a second of silence
    /// after the last word, so one that is still writing then lags behind its recording.
    pub fn is_complete(&self, tokens: &[u32]) -> bool {
        tokens.last().is_none_or(|last| [self.eos, self.pad].contains(last))
    }

    /// Samples per step.
    pub fn step_samples(&self) -> usize {
        self.model.step_frames() * HOP
    }

    /// Prompt token ids: `<s>` and padding.
    pub fn prompt(&self) -> Vec<u32> {
        std::iter::once(self.bos).chain(std::iter::repeat_n(self.pad, self.left + self.delay)).collect()
    }

    pub(super) fn frames(&self) -> MelFrameStream {
        MelFrameStream::new(self.mel.clone(), self.config.audio_config.num_mel_bins)
    }

    pub(super) fn left(&self) -> usize {
        self.left
    }

    pub(super) fn eos(&self) -> u32 {
        self.eos
    }
}
