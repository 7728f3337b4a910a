//! Writes down what a model hears in a file, beside the ids it was decoded from.
//!
//! `cargo run --release --example transcribe -- published/first-run datasets/first-run/clips/vm-and.flac`

#![allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::path::Path;
use voxpipe::error::{Error, Result};
use voxtral::inference::transcriber::{TokenLimit, Transcriber, Utterance, WeightsFrom};
use voxtral::model::precision::Precision;
use voxtral::{audio, device};

fn main() -> Result<()> {
    let [model, clip] = <[String; 2]>::try_from(std::env::args().skip(1).collect::<Vec<_>>())
        .map_err(|_| Error::new("give a model's folder and a sound file"))?;

    // A folder laid out as on the Hub, on whatever device there is.
    let chosen = device::choose("auto")?;
    let recognizer = Transcriber::open(Path::new(&model), WeightsFrom::Checkpoint, Precision::Auto, &chosen.device)?;

    // Any common format becomes 16 kHz mono. With `None` for the language the model would have to find it out.
    let samples = audio::load(Path::new(&clip))?;
    let utterance = Utterance { samples: &samples, language: Some("en") };
    for transcript in recognizer.transcribe(&[utterance], TokenLimit::Auto, &mut |_| ())? {
        println!("{}\n{:?}", transcript.text, transcript.tokens);
    }
    Ok(())
}
