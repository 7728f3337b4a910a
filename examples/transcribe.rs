//! Transcribes a file, and prints the text and its token ids.

#![allow(clippy::print_stdout, reason = "an example prints its output")]

use std::path::Path;
use voxpipe::error::{Error, Result};
use voxtral::inference::transcriber::{TokenLimit, Transcriber, Utterance, WeightsFrom};
use voxtral::weights::precision::Precision;
use voxtral::{audio, device};

fn main() -> Result<()> {
    let [model, clip] =
        <[String; 2]>::try_from(std::env::args().skip(1).collect::<Vec<_>>()).map_err(|_| Error::new("usage: transcribe MODEL AUDIO"))?;

    // A model folder with the layout of the Hub, on the best available device.
    let chosen = device::choose("auto")?;
    let recognizer = Transcriber::open(Path::new(&model), WeightsFrom::Checkpoint, Precision::Auto, &chosen.device)?;

    // Decodes any common format to 16 kHz mono. With `None`, the model would detect the language.
    let samples = audio::load(Path::new(&clip))?;
    let utterance = Utterance { samples: &samples, language: Some("en") };
    for transcript in recognizer.transcribe(&[utterance], TokenLimit::Auto, &mut |_| ())? {
        println!("{}\n{:?}", transcript.text, transcript.tokens);
    }
    Ok(())
}
