//! Our own clips: 16 kHz, mono, 16-bit WAV, read and written exactly; and [`load`], which brings any file to the same samples.
//!
//! A sample `x` is written as ⌊x · 32768⌋, held within 16 bits, and read as `value / 32768`: what was read is written
//! unchanged, and a recording sounds to this program as it does to the reference implementation.

use std::fs;
use std::path::Path;

use hound::{SampleFormat, WavReader, WavSpec, WavWriter};

use super::decode::{damaged, opened};
use super::{DecodedAudio, SAMPLE_RATE, decode, decode_bytes, resample};
use crate::error::{Error, Result};

const SPEC: WavSpec = WavSpec { channels: 1, sample_rate: SAMPLE_RATE, bits_per_sample: 16, sample_format: SampleFormat::Int };

/// Any audio file as 16 kHz mono samples.
pub fn load(path: &Path) -> Result<Vec<f32>> {
    at_16k(path, decode(path)?)
}

/// What came through a pipe, any audio file, as 16 kHz mono samples; `name` stands in errors.
///
/// A program that writes WAV into a pipe cannot know yet how long it will be, and says it is as long as can be: such a header is taken
/// to mean what is there.
pub fn load_stream(name: &Path, mut bytes: Vec<u8>) -> Result<Vec<f32>> {
    settle(&mut bytes);
    at_16k(name, decode_bytes(name, bytes)?)
}

/// Writes the sizes of a WAV file that was too early to know them into its header. Any other file stays as it is.
fn settle(bytes: &mut [u8]) -> Option<()> {
    let u32_at = |bytes: &[u8], at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    if !bytes.starts_with(b"RIFF") || bytes.get(8..12)? != b"WAVE" {
        return None;
    }
    let (mut at, mut frame) = (12usize, 1u32);
    while bytes.get(at..at + 4)? != b"data" {
        if bytes.get(at..at + 4)? == b"fmt " {
            frame = u32::from(u16::from_le_bytes(*bytes.get(at + 20..)?.first_chunk()?)).max(1);
        }
        // Chunks begin at even places.
        at = at.checked_add(8)?.checked_add(u32_at(bytes, at + 4)?.checked_next_multiple_of(2)? as usize)?;
    }
    // Programs write 0xffff_ffff, or the largest size that is still a whole number of something.
    if u32_at(bytes, at + 4)? < 0x7fff_0000 {
        return None;
    }
    let there = u32::try_from(bytes.len() - at - 8).ok()?;
    let whole = u32::try_from(bytes.len() - 8).ok()?;
    bytes.get_mut(at + 4..at + 8)?.copy_from_slice(&(there - there % frame).to_le_bytes());
    bytes.get_mut(4..8)?.copy_from_slice(&whole.to_le_bytes());
    Some(())
}

fn at_16k(path: &Path, decoded: DecodedAudio) -> Result<Vec<f32>> {
    let samples = resample(decoded.samples, decoded.rate).map_err(|error| error.context(path.display()))?;
    if samples.is_empty() {
        return Err(damaged(path, "holds less than one sample of sound"));
    }
    Ok(samples)
}

/// A clip that [`write_wav16k`] wrote; any other kind of file is an error.
pub fn read_wav16k(path: &Path) -> Result<Vec<f32>> {
    let (file, size) = opened(path)?;
    let mut reader = WavReader::new(std::io::BufReader::new(file))
        .map_err(|error| damaged(path, format!("is not a WAV file: {error}")).hint(CONVERT))?;
    let spec = reader.spec();
    if spec != SPEC {
        let WavSpec { channels, sample_rate, bits_per_sample, .. } = spec;
        let found = format!("{channels} channels, {sample_rate} Hz, {bits_per_sample} bits");
        return Err(damaged(path, format!("is not a clip of a dataset (16 kHz, mono, 16 bits) but has {found}")).hint(CONVERT));
    }
    let promised = u64::from(reader.len());
    if promised == 0 {
        return Err(damaged(path, "holds 0 samples"));
    }
    if promised * 2 > size {
        return Err(damaged(path, format!("is truncated: it promises {promised} samples, {} bytes are there", size)));
    }
    let samples: std::result::Result<Vec<f32>, _> =
        reader.samples::<i16>().map(|value| value.map(|value| f32::from(value) / 32_768.0)).collect();
    let samples = samples.map_err(|error| damaged(path, format!("is truncated: {error}")))?;
    match samples.len() as u64 == promised {
        true => Ok(samples),
        false => Err(damaged(path, format!("is truncated: it promises {promised} samples, {} are there", samples.len()))),
    }
}

const CONVERT: &str = "let the `uploads` stage take it in: it reads WAV, FLAC, MP3, OGG and M4A of any rate";

/// Writes a clip; the same samples give the same bytes.
pub fn write_wav16k(path: &Path, samples: &[f32]) -> Result<()> {
    let failed = |error: hound::Error| {
        match error {
            hound::Error::IoError(error) => Error::from(error),
            other => Error::new(other.to_string()),
        }
        .context(format_args!("cannot write {}", path.display()))
    };
    if samples.is_empty() {
        return Err(Error::new(format!("cannot write {}: a clip of 0 samples", path.display())));
    }
    if let Some(n) = samples.iter().position(|sample| !sample.is_finite()) {
        return Err(Error::new(format!("cannot write {}: sample {n} is {}", path.display(), samples[n])));
    }
    let file = fs::File::create(path).map_err(|error| failed(error.into()))?;
    let mut writer = WavWriter::new(std::io::BufWriter::new(file), SPEC).map_err(failed)?;
    for sample in samples {
        // The cast holds the value within 16 bits.
        writer.write_sample((f64::from(*sample) * 32_768.0).floor() as i16).map_err(failed)?;
    }
    writer.finalize().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_survives_the_round_trip_and_others_are_floored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clip.wav");
        let every: Vec<f32> = (i16::MIN..=i16::MAX).map(|value| f32::from(value) / 32_768.0).collect();
        write_wav16k(&path, &every).unwrap();
        assert_eq!(read_wav16k(&path).unwrap(), every);
        assert_eq!(load(&path).unwrap(), every, "the decoder reads the same values");
        let bytes = fs::read(&path).unwrap();
        write_wav16k(&path, &every).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);

        let loud = [1.0, -1.0, 2.0, -2.0, 0.9999, 1e-6, -1e-6, 0.5 / 32_768.0, -0.5 / 32_768.0];
        write_wav16k(&path, &loud).unwrap();
        let values: Vec<i16> = read_wav16k(&path).unwrap().iter().map(|x| (x * 32_768.0) as i16).collect();
        assert_eq!(values, [32767, -32768, 32767, -32768, 32764, 0, -1, 0, -1]);
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clip.wav");
        assert!(write_wav16k(&path, &[]).unwrap_err().message.contains("0 samples"));
        let error = write_wav16k(&path, &[0.0, f32::NAN]).unwrap_err();
        assert!(error.message.contains("clip.wav") && error.message.contains("sample 1 is NaN"), "{error}");
        assert!(!path.exists());
        let nowhere = write_wav16k(&folder.path().join("none/clip.wav"), &[0.0]).unwrap_err();
        assert!(nowhere.message.contains("none/clip.wav"), "{nowhere}");
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clip.wav");
        write_wav16k(&path, &[0.25; 100]).unwrap();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let error = read_wav16k(&path).unwrap_err();
            assert!(error.message.contains("clip.wav"), "{length} bytes: {error}");
        }
        let mut writer = WavWriter::create(&path, WavSpec { channels: 2, sample_rate: 44_100, ..SPEC }).unwrap();
        writer.write_sample(0_i16).unwrap();
        writer.write_sample(0_i16).unwrap();
        writer.finalize().unwrap();
        let error = read_wav16k(&path).unwrap_err();
        assert!(error.message.contains("2 channels, 44100 Hz, 16 bits"), "{error}");
    }
}
