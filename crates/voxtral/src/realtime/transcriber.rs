//! A Realtime model with all it needs to turn samples into text.

use super::config::{MAX_DELAY, RealtimeConfig, StreamPadding};
use super::frames::MelFrameStream;
use super::stream::{TextDelta, TranscriptionStream};
use super::{MODEL_NAME, RealtimeModel};
use crate::audio::log_mel::HOP;
use crate::audio::{LogMel, SAMPLE_RATE};
use crate::error::{Error, ErrorKind, Result};
use crate::inference::transcriber::{TokenLimit, TranscribeEvent, Transcript, Utterance, WeightsFrom};
use crate::model::precision::Precision;
use crate::tokenizer::Tokenizer;
use crate::tokenizer::prompt::{BOS, EOS};
use crate::weights::{LoadReport, WeightLoader};
use burn::tensor::Device;
use std::path::Path;

/// The token of a step at which there is nothing to write.
pub const STREAMING_PAD: &str = "[STREAMING_PAD]";

/// A speech recogniser that can listen to a stream.
#[derive(Debug)]
pub struct RealtimeTranscriber {
    /// The dimensions.
    pub config: RealtimeConfig,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// The network.
    pub model: RealtimeModel,
    /// Where it lives.
    pub device: Device,
    /// How the matrices are kept, and whether the files behind them can be trusted.
    pub loaded: LoadReport,
    mel: LogMel,
    delay: usize,
    left: usize,
    begin: u32,
    pad: u32,
    end: u32,
}

impl RealtimeTranscriber {
    /// Opens a model folder as on the Hub (`config.json`, `model.safetensors`, `tekken.json`).
    pub fn open(folder: &Path, start: WeightsFrom, precision: Precision, device: &Device) -> Result<Self> {
        let config = RealtimeConfig::read(folder)?;
        let tekken = folder.join("tekken.json");
        let tokenizer = Tokenizer::read(&tekken)?;
        let listening = StreamPadding::read(&tekken)?;
        let known = config.text_config.vocab_size;
        let id = |token: &str| {
            let id = tokenizer.special(token)?;
            match id as usize {
                id_in_table if id_in_table < known => Ok(id),
                _ => Err(Error::new(format!("{}: `{token}` is {id}, beyond the config's vocabulary of {known}", tekken.display()))),
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
        let (begin, pad, end) = (id(BOS)?, id(STREAMING_PAD)?, id(EOS)?);
        let mut weights = match start {
            WeightsFrom::Checkpoint => WeightLoader::open(folder, precision, device)?,
            WeightsFrom::Random(seed) => WeightLoader::random(seed, device).precision(precision),
        };
        let model = RealtimeModel::load(&config, &mut weights);
        let loaded = weights.finish()?;
        let mel = LogMel::new(config.audio_config.num_mel_bins);
        let delay = listening.delay.unwrap_or(config.default_num_delay_tokens);
        Ok(Self { config, tokenizer, model, device: device.clone(), loaded, mel, delay, left: listening.left, begin, pad, end })
    }

    /// The same with text that lags so many steps of 80 ms behind the sound: less is sooner, more is surer.
    pub fn with_delay(self, steps: usize) -> Result<Self> {
        if steps == 0 || steps > MAX_DELAY {
            return Err(Error::new(format!("a delay of {steps} steps of 80 ms is none the model knows"))
                .hint(format!("use 1 to {MAX_DELAY}; 6 is usual"))
                .kind(ErrorKind::InvalidInput));
        }
        Ok(Self { delay: steps, ..self })
    }

    /// Steps between a sound and its text.
    pub fn delay(&self) -> usize {
        self.delay
    }

    /// Begins to listen.
    pub fn stream(&self) -> TranscriptionStream<'_> {
        TranscriptionStream::new(self)
    }

    /// Transcribes clips, one after the other; `progress` hears how many are done.
    pub fn transcribe(&self, utterances: &[Utterance], progress: &mut dyn FnMut(usize)) -> Result<Vec<Transcript>> {
        let mut transcripts = Vec::with_capacity(utterances.len());
        self.transcribe_each(utterances, TokenLimit::Auto, &mut |heard| {
            if let TranscribeEvent::Clip(_, transcript) = heard {
                transcripts.push(transcript);
                progress(transcripts.len());
            }
            Ok(())
        })?;
        Ok(transcripts)
    }

    /// Transcribes clips in their order and hands each transcript out as soon as it is known. An error that `say` returns ends the work,
    /// after a second of audio at the latest.
    ///
    /// The model finds out by itself what language is spoken and writes a token for every 80 ms; who names a language or a number of
    /// tokens is told so.
    pub fn transcribe_each(
        &self,
        utterances: &[Utterance],
        limit: TokenLimit,
        say: &mut dyn FnMut(TranscribeEvent) -> Result<()>,
    ) -> Result<()> {
        if limit != TokenLimit::Auto {
            return Err(Error::new(format!("{MODEL_NAME} writes a token for every 80 ms and cannot be told how many"))
                .hint("leave the number of tokens out"));
        }
        if let Some(language) = utterances.iter().find_map(|utterance| utterance.language) {
            return Err(Error::new(format!("{MODEL_NAME} cannot be told that `{language}` is spoken"))
                .hint("leave the language out; the model finds out by itself"));
        }
        if let Some(index) = utterances.iter().position(|utterance| utterance.samples.is_empty()) {
            return Err(Error::new(format!("clip {} of {}: there is no audio to transcribe", index + 1, utterances.len()))
                .hint("leave out recordings without samples"));
        }
        for (index, utterance) in utterances.iter().enumerate() {
            let (mut stream, mut heard) = (self.stream(), TextDelta::default());
            for piece in utterance.samples.chunks(SAMPLE_RATE as usize) {
                heard.extend(stream.push(piece)?);
                say(TranscribeEvent::More)?;
            }
            heard.extend(stream.finish()?);
            let TextDelta { text, tokens, log_probabilities } = heard;
            // Only the end of its recording ever cuts a transcript.
            let transcript = Transcript { text: text.trim().to_owned(), tokens, log_probabilities, finished: true };
            say(TranscribeEvent::Clip(index, transcript))?;
        }
        Ok(())
    }

    /// Samples of one step.
    pub fn step_samples(&self) -> usize {
        self.model.step_frames() * HOP
    }

    /// What is read before the first token is written.
    pub fn prompt(&self) -> Vec<u32> {
        std::iter::once(self.begin).chain(std::iter::repeat_n(self.pad, self.left + self.delay)).collect()
    }

    pub(super) fn frames(&self) -> MelFrameStream {
        MelFrameStream::new(self.mel.clone(), self.config.audio_config.num_mel_bins)
    }

    pub(super) fn left(&self) -> usize {
        self.left
    }

    pub(super) fn end(&self) -> u32 {
        self.end
    }
}
