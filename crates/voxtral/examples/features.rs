//! Writes the log-mel features of a clip as little-endian f32, `[chunks, mels, frames]`.
//!
//!     cargo run --release -p voxtral --example features -- clip.wav features.bin [TIMES]
//!
//! TIMES repeats the computation, for measurements with `benches/features.py`.

use std::path::Path;
use std::{env, fs};
use voxtral::audio::{LogMel, load};
use voxtral::error::{Error, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [clip, out, times @ ..] = arguments.as_slice() else { return Err(Error::new("usage: features CLIP OUT [TIMES]")) };
    let times: usize = times.first().map_or(Ok(1), |times| times.parse()).map_err(|_| Error::new("TIMES must be a number"))?;
    let (samples, log_mel) = (load(Path::new(clip))?, LogMel::new(128));
    for _ in 1..times {
        std::hint::black_box(log_mel.features(&samples, 3000)?);
    }
    let features = log_mel.features(&samples, 3000)?;
    let bytes: Vec<u8> = features.data.iter().flat_map(|value| value.to_le_bytes()).collect();
    fs::write(out, bytes)?;
    Ok(())
}
