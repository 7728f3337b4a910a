//! [Voxtral](https://mistral.ai/news/voxtral) speech recognition in Rust: audio features, inference, LoRA and full fine-tuning, on CPU and GPU.
//!
//! ```
//! use voxtral::{Transcriber, audio};
//!
//! # fn main() -> voxtral::Result<()> {
//! # let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
//! # let (model, clip) = (format!("{root}/pipelines/models/voxtral-nano"), format!("{root}/datasets/words/clips/vm-and.flac"));
//! // A folder with config.json, model.safetensors and tekken.json, as on the Hub.
//! let transcriber = Transcriber::open(&model)?;
//! // WAV, FLAC, MP3, Ogg (Opus, Vorbis), M4A, WebM and others, as 16 kHz mono.
//! let pcm = audio::load(clip.as_ref())?;
//! let transcript = transcriber.transcribe(&pcm)?;
//! assert!(!transcript.text.is_empty() && transcript.finished);
//! # Ok(())
//! # }
//! ```
//!
//! | to … | start at |
//! |---|---|
//! | transcribe recordings | [`Transcriber`]; for any family of Voxtral, [`AnyTranscriber`] |
//! | transcribe a stream | [`realtime`] |
//! | load, train, merge and save LoRA adapters as PEFT does | [`lora`] |
//! | train | [`Trainer`] with a [`TrainingConfig`] |
//! | read and resample audio; log-mel features | [`audio`] |
//! | read weights of any layout | [`weights`] |
//! | word and character error rates | [`metrics`] |
//! | choose a device | [`device`] |
//!
//! The numbers are those of the reference implementations (transformers, PEFT, mistral-common), which tests hold them against. The crate reads
//! folders and downloads nothing. Errors say what kind they are, name the file and carry a hint; nothing here ends the process.

pub mod any_transcriber;
pub mod audio;
pub mod device;
pub mod inference;
pub mod kernels;
pub mod lora;
pub mod metrics;
pub mod model;
pub mod realtime;
pub mod tokenizer;
pub mod training;
pub mod weights;

pub use any_transcriber::AnyTranscriber;
pub use error::{Error, ErrorKind, Result};
pub use inference::transcriber::{TokenLimit, Transcriber, Transcript, Utterance, WeightsFrom};
pub use lora::LoraConfig;
pub use model::Voxtral;
pub use model::config::VoxtralConfig;
pub use realtime::transcriber::RealtimeTranscriber;
pub use tokenizer::Tokenizer;
pub use training::{Trainer, TrainingConfig};
pub use voxpipe_io::error;
pub use weights::precision::Precision;
