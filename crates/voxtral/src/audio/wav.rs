//! WAV dataset clips: 16 kHz, mono, 16-bit PCM, read and written losslessly. [`load`](super::load()) reads any other audio file to the same samples.
//!
//! A sample `x` is written as ⌊x · 32768⌋, clamped to 16 bits, and read as `value / 32768`, the scaling of the reference implementation.
//! Writing what was read gives the same bytes.

use std::fs;
use std::io::Read;
use std::path::Path;

use hound::{SampleFormat, WavReader, WavSpec, WavWriter};

use super::SAMPLE_RATE;
use super::decode::{damaged, opened};
use crate::error::{Error, Result};

/// Format of a dataset clip.
const SPEC: WavSpec = WavSpec { channels: 1, sample_rate: SAMPLE_RATE, bits_per_sample: 16, sample_format: SampleFormat::Int };

/// Reads a clip written by [`write_wav16k`]. Any other kind of file is an error.
pub fn read_wav16k(path: &Path) -> Result<Vec<f32>> {
    let (mut file, size) = opened(path)?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0).min(MOST_RESERVED));
    file.read_to_end(&mut bytes).map_err(|error| Error::from(error).context(format_args!("cannot read {}", path.display())))?;
    if let Some(samples) = own_samples(&bytes) {
        return Ok(samples);
    }
    let mut reader =
        WavReader::new(std::io::Cursor::new(&bytes)).map_err(|error| damaged(path, format!("is not a WAV file: {error}")).hint(CONVERT))?;
    let spec = reader.spec();
    if spec != SPEC {
        let WavSpec { channels, sample_rate, bits_per_sample, .. } = spec;
        let found = format!("{channels} channels, {sample_rate} Hz, {bits_per_sample} bits");
        return Err(damaged(path, format!("is not a dataset clip (16 kHz, mono, 16-bit): it has {found}")).hint(CONVERT));
    }
    let declared = u64::from(reader.len());
    if declared == 0 {
        return Err(damaged(path, "contains 0 samples"));
    }
    if declared * 2 > size {
        return Err(damaged(path, format!("is truncated: the header declares {declared} samples, the file has {} bytes", size)));
    }
    let samples: std::result::Result<Vec<f32>, _> =
        reader.samples::<i16>().map(|value| value.map(|value| f32::from(value) / 32_768.0)).collect();
    let samples = samples.map_err(|error| damaged(path, format!("is truncated: {error}")))?;
    match samples.len() as u64 == declared {
        true => Ok(samples),
        false => Err(damaged(path, format!("is truncated: the header declares {declared} samples, the file has {}", samples.len()))),
    }
}

/// Most bytes reserved before a clip is read: a minute. What is longer grows as it is read.
const MOST_RESERVED: usize = 60 * 2 * SAMPLE_RATE as usize;

/// The samples of a file with exactly the header that [`write_wav16k`] writes; `None` for any other. Reading sample by sample would take most of
/// the time of going through a dataset.
fn own_samples(bytes: &[u8]) -> Option<Vec<f32>> {
    let (header, data) = bytes.split_first_chunk::<44>()?;
    let length = u32::try_from(data.len()).ok().filter(|length| *length > 0 && length.is_multiple_of(2))?;
    let mut wanted = [0; 44];
    let mut at = 0;
    let rate = SAMPLE_RATE;
    let parts: [&[u8]; 8] = [
        b"RIFF",
        &(length + 36).to_le_bytes(),
        b"WAVEfmt ",
        // 16 bytes follow: PCM, one channel.
        &[16, 0, 0, 0, 1, 0, 1, 0],
        &rate.to_le_bytes(),
        &(2 * rate).to_le_bytes(),
        // 2 bytes and 16 bits a sample.
        &[2, 0, 16, 0, b'd', b'a', b't', b'a'],
        &length.to_le_bytes(),
    ];
    for part in parts {
        wanted.get_mut(at..at + part.len())?.copy_from_slice(part);
        at += part.len();
    }
    if *header != wanted {
        return None;
    }
    Some(data.as_chunks::<2>().0.iter().map(|pair| f32::from(i16::from_le_bytes(*pair)) / 32_768.0).collect())
}

const CONVERT: &str = "import it with the `uploads` stage: it reads WAV, FLAC, MP3, Ogg, M4A, WebM and others at any sample rate";

/// Writes 16 kHz mono samples as a clip. Equal samples give equal bytes.
pub fn write_wav16k(path: &Path, samples: &[f32]) -> Result<()> {
    let failed = |error: hound::Error| {
        match error {
            hound::Error::IoError(error) => Error::from(error),
            other => Error::new(other.to_string()),
        }
        .context(format_args!("cannot write {}", path.display()))
    };
    if samples.is_empty() {
        return Err(Error::new(format!("cannot write {}: the clip has 0 samples", path.display())));
    }
    if let Some(n) = samples.iter().position(|sample| !sample.is_finite()) {
        return Err(Error::new(format!("cannot write {}: sample {n} is {}", path.display(), samples[n])));
    }
    let file = fs::File::create(path).map_err(|error| failed(error.into()))?;
    let mut writer = WavWriter::new(std::io::BufWriter::new(file), SPEC).map_err(failed)?;
    for sample in samples {
        // The cast saturates to 16 bits.
        writer.write_sample((f64::from(*sample) * 32_768.0).floor() as i16).map_err(failed)?;
    }
    writer.finalize().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::super::load;
    use super::*;

    #[test]
    fn every_value_survives_the_round_trip_and_others_are_floored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clip.wav");
        let every: Vec<f32> = (i16::MIN..=i16::MAX).map(|value| f32::from(value) / 32_768.0).collect();
        write_wav16k(&path, &every).unwrap();
        assert_eq!(read_wav16k(&path).unwrap(), every);
        assert!(own_samples(&fs::read(&path).unwrap()).is_some(), "the header is the one that is read fast");
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
