//! A Realtime model with all it needs to turn samples into text.

use super::config::{Config, Listening, MAX_DELAY};
use super::frames::Frames;
use super::stream::{Delta, Stream};
use super::{MODEL_NAME, Realtime};
use crate::audio::log_mel::HOP;
use crate::audio::{LogMel, SAMPLE_RATE};
use crate::error::{Error, Exit, Result};
use crate::inference::transcriber::{Heard, Limit, Start, Transcript, Utterance};
use crate::model::precision::Precision;
use crate::tokenizer::Tokenizer;
use crate::tokenizer::prompt::{BOS, EOS};
use crate::weights::{Loaded, Weights};
use burn::tensor::Device;
use std::path::Path;

/// The token of a step at which there is nothing to write.
pub const STREAMING_PAD: &str = "[STREAMING_PAD]";

/// A speech recogniser that can listen to a stream.
#[derive(Debug)]
pub struct RealtimeRecognizer {
    /// The dimensions.
    pub config: Config,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// The network.
    pub model: Realtime,
    /// Where it lives.
    pub device: Device,
    /// How the matrices are kept, and whether the files behind them can be trusted.
    pub loaded: Loaded,
    mel: LogMel,
    delay: usize,
    left: usize,
    begin: u32,
    pad: u32,
    end: u32,
}

impl RealtimeRecognizer {
    /// Opens a model folder as on the Hub (`config.json`, `model.safetensors`, `tekken.json`).
    pub fn open(folder: &Path, start: Start, precision: Precision, device: &Device) -> Result<Self> {
        let config = Config::read(folder)?;
        let tekken = folder.join("tekken.json");
        let tokenizer = Tokenizer::read(&tekken)?;
        let listening = Listening::read(&tekken)?;
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
            .advice("config.json and tekken.json do not belong together"));
        }
        let (begin, pad, end) = (id(BOS)?, id(STREAMING_PAD)?, id(EOS)?);
        let mut weights = match start {
            Start::Checkpoint => Weights::open(folder, precision, device)?,
            Start::Random(seed) => Weights::random(seed, device).precision(precision),
        };
        let model = Realtime::load(&config, &mut weights);
        let loaded = weights.finish()?;
        let mel = LogMel::new(config.audio_config.num_mel_bins);
        let delay = listening.delay.unwrap_or(config.default_num_delay_tokens);
        Ok(Self { config, tokenizer, model, device: device.clone(), loaded, mel, delay, left: listening.left, begin, pad, end })
    }

    /// The same with text that lags so many steps of 80 ms behind the sound: less is sooner, more is surer.
    pub fn with_delay(self, steps: usize) -> Result<Self> {
        if steps == 0 || steps > MAX_DELAY {
            return Err(Error::new(format!("a delay of {steps} steps of 80 ms is none the model knows"))
                .advice(format!("use 1 to {MAX_DELAY}; 6 is usual"))
                .exit(Exit::Usage));
        }
        Ok(Self { delay: steps, ..self })
    }

    /// Steps between a sound and its text.
    pub fn delay(&self) -> usize {
        self.delay
    }

    /// Begins to listen.
    pub fn stream(&self) -> Stream<'_> {
        Stream::new(self)
    }

    /// Transcribes clips, one after the other; `progress` hears how many are done.
    pub fn transcribe(&self, utterances: &[Utterance], progress: &mut dyn FnMut(usize)) -> Result<Vec<Transcript>> {
        let mut transcripts = Vec::with_capacity(utterances.len());
        self.transcribe_each(utterances, Limit::Auto, &mut |heard| {
            if let Heard::Clip(_, transcript) = heard {
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
    pub fn transcribe_each(&self, utterances: &[Utterance], limit: Limit, say: &mut dyn FnMut(Heard) -> Result<()>) -> Result<()> {
        if limit != Limit::Auto {
            return Err(Error::new(format!("{MODEL_NAME} writes a token for every 80 ms and cannot be told how many"))
                .advice("leave the number of tokens out"));
        }
        if let Some(language) = utterances.iter().find_map(|utterance| utterance.language) {
            return Err(Error::new(format!("{MODEL_NAME} cannot be told that `{language}` is spoken"))
                .advice("leave the language out; the model finds out by itself"));
        }
        if let Some(index) = utterances.iter().position(|utterance| utterance.samples.is_empty()) {
            return Err(Error::new(format!("clip {} of {}: there is no audio to transcribe", index + 1, utterances.len()))
                .advice("leave out recordings without samples"));
        }
        for (index, utterance) in utterances.iter().enumerate() {
            let (mut stream, mut heard) = (self.stream(), Delta::default());
            for piece in utterance.samples.chunks(SAMPLE_RATE as usize) {
                heard.extend(stream.push(piece)?);
                say(Heard::More)?;
            }
            heard.extend(stream.finish()?);
            let Delta { text, tokens, log_probabilities } = heard;
            // Only the end of its recording ever cuts a transcript.
            let transcript = Transcript { text: text.trim().to_owned(), tokens, log_probabilities, finished: true };
            say(Heard::Clip(index, transcript))?;
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

    pub(super) fn frames(&self) -> Frames {
        Frames::new(self.mel.clone(), self.config.audio_config.num_mel_bins)
    }

    pub(super) fn left(&self) -> usize {
        self.left
    }

    pub(super) fn end(&self) -> u32 {
        self.end
    }
}
