//! Transcribes an audio file: `cargo run --release -p voxtral --example transcribe -- MODEL_FOLDER AUDIO_FILE`.

#![allow(clippy::print_stdout, reason = "an example prints its output")]

use voxtral::{Error, Result, Transcriber, audio};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, clip] = arguments.as_slice() else { return Err(Error::new("usage: transcribe MODEL_FOLDER AUDIO_FILE")) };
    let transcriber = Transcriber::open(model)?;
    let pcm = audio::load(clip.as_ref())?;
    println!("{}", transcriber.transcribe(&pcm)?.text);
    Ok(())
}
