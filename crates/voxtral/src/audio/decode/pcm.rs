//! Uncompressed samples, read without a library: Sun audio (AU), CAF, and WAV that
//! symphonia cannot hold (RF64 of more than 4 GB, big-endian RIFX).

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use symphonia::core::io::MediaSource;

use super::source::PatchedSource;
use super::{AGAIN, Decode, Opened, Shape, damaged};
use crate::error::{Result, ResultExt};

/// How samples are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    U8,
    S8,
    S16,
    S24,
    S32,
    F32,
    F64,
    Mulaw,
    Alaw,
}

/// Rate, channels and samples of an uncompressed recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PcmFormat {
    pub(super) rate: u32,
    pub(super) channels: u16,
    pub(super) encoding: Encoding,
    pub(super) big_endian: bool,
}

impl Encoding {
    /// Bytes of a sample.
    pub(super) fn size(self) -> usize {
        match self {
            Self::U8 | Self::S8 | Self::Mulaw | Self::Alaw => 1,
            Self::S16 => 2,
            Self::S24 => 3,
            Self::S32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// A sample from its bytes, the most significant one first.
    fn sample(self, bytes: [u8; 8]) -> f32 {
        let [a, b, c, d, ..] = bytes;
        match self {
            Self::U8 => f32::from(i16::from(a) - 128) / 128.0,
            Self::S8 => f32::from(a.cast_signed()) / 128.0,
            Self::S16 => f32::from(i16::from_be_bytes([a, b])) / 32_768.0,
            Self::S24 => (i32::from_be_bytes([a, b, c, 0]) >> 8) as f32 / 8_388_608.0,
            Self::S32 => (f64::from(i32::from_be_bytes([a, b, c, d])) / 2_147_483_648.0) as f32,
            Self::F32 => f32::from_be_bytes([a, b, c, d]),
            Self::F64 => f64::from_be_bytes(bytes) as f32,
            Self::Mulaw => f32::from(mulaw(a)) / 32_768.0,
            Self::Alaw => f32::from(alaw(a)) / 32_768.0,
        }
    }
}

/// G.711 µ-law to 16 bits.
fn mulaw(byte: u8) -> i16 {
    let byte = !byte;
    let magnitude = ((i16::from(byte & 0x0f) << 3) + 0x84) << (byte >> 4 & 7);
    if byte & 0x80 > 0 { 0x84 - magnitude } else { magnitude - 0x84 }
}

/// G.711 A-law to 16 bits.
fn alaw(byte: u8) -> i16 {
    let byte = byte ^ 0x55;
    let mantissa = i16::from(byte & 0x0f) << 4;
    let magnitude = match byte >> 4 & 7 {
        0 => mantissa + 8,
        exponent => (mantissa + 0x108) << (exponent - 1),
    };
    if byte & 0x80 > 0 { magnitude } else { -magnitude }
}

/// A reader of uncompressed samples.
struct PcmTrack {
    path: PathBuf,
    reader: BufReader<PatchedSource>,
    format: PcmFormat,
    bytes: Vec<u8>,
    notes: Vec<String>,
}

/// Reads `length` bytes of samples from a position of the source.
pub(super) fn open(path: &Path, source: Box<dyn MediaSource>, range: (u64, u64), format: PcmFormat, notes: Vec<String>) -> Box<dyn Decode> {
    let reader = BufReader::with_capacity(1 << 16, PatchedSource::new(Vec::new(), source, range.0, range.1));
    Box::new(PcmTrack { path: path.to_owned(), reader, format, bytes: Vec::new(), notes })
}

impl Decode for PcmTrack {
    fn next(&mut self, interleaved: &mut Vec<f32>) -> Result<Option<Shape>> {
        let PcmFormat { rate, channels, encoding, big_endian } = self.format;
        let frame = encoding.size() * usize::from(channels);
        self.bytes.clear();
        let wanted = (frame.max(1) * 4096) as u64;
        self.reader.by_ref().take(wanted).read_to_end(&mut self.bytes).with_context(|| format!("cannot read {}", self.path.display()))?;
        if self.bytes.len() < frame || frame == 0 {
            return Ok(None);
        }
        // An incomplete frame at the end is no sound.
        let whole = self.bytes.len() - self.bytes.len() % frame;
        for stored in self.bytes.get(..whole).unwrap_or_default().chunks_exact(encoding.size()) {
            let mut bytes = [0; 8];
            if big_endian {
                bytes.iter_mut().zip(stored).for_each(|(to, from)| *to = *from);
            } else {
                bytes.iter_mut().zip(stored.iter().rev()).for_each(|(to, from)| *to = *from);
            }
            interleaved.push(encoding.sample(bytes));
        }
        Ok(Some((rate, channels)))
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

/// Reads the header of Sun audio (AU, `.snd`).
pub(super) fn open_au(path: &Path, mut source: Box<dyn MediaSource>, size: u64) -> Result<Opened> {
    let head = super::source::read_at(&mut source, 0, 24).with_context(|| format!("cannot read {}", path.display()))?;
    let number = |at: usize| -> Option<u32> { Some(u32::from_be_bytes(*head.get(at..)?.first_chunk()?)) };
    let (Some(from), Some(length), Some(encoding), Some(rate), Some(channels)) = (number(4), number(8), number(12), number(16), number(20))
    else {
        return Err(damaged(path, "is truncated: it ends within its header").hint(AGAIN));
    };
    let encoding = match encoding {
        1 => Encoding::Mulaw,
        2 => Encoding::S8,
        3 => Encoding::S16,
        4 => Encoding::S24,
        5 => Encoding::S32,
        6 => Encoding::F32,
        7 => Encoding::F64,
        27 => Encoding::Alaw,
        other => return Ok(Opened::foreign(format!("Sun audio in encoding {other}"), "au")),
    };
    let Some(channels) = u16::try_from(channels).ok().filter(|channels| *channels > 0) else {
        return Err(damaged(path, format!("declares {channels} channels")).hint(AGAIN));
    };
    let there = size.saturating_sub(u64::from(from));
    // A stream does not know its length. Some programs declare one too much.
    let length = match u64::from(length) {
        0xffff_ffff => there,
        length if length <= there => length,
        length => {
            return Err(
                damaged(path, format!("is truncated: the header declares {length} bytes of sound, the file has {there}")).hint(AGAIN)
            );
        }
    };
    let format = PcmFormat { rate, channels, encoding, big_endian: true };
    Ok(Opened::Decoder(open(path, source, (u64::from(from), length), format, Vec::new())))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn samples(encoding: Encoding, big_endian: bool, bytes: &[u8]) -> Vec<f32> {
        let format = PcmFormat { rate: 8000, channels: 1, encoding, big_endian };
        let mut found = Vec::new();
        let mut track = open(Path::new("x"), Box::new(Cursor::new(bytes.to_vec())), (0, bytes.len() as u64), format, Vec::new());
        track.next(&mut found).unwrap();
        found
    }

    #[test]
    fn every_encoding_is_read_in_both_byte_orders() {
        assert_eq!(samples(Encoding::U8, false, &[0, 128, 255]), [-1.0, 0.0, 127.0 / 128.0]);
        assert_eq!(samples(Encoding::S8, true, &[0, 0x80, 0x7f]), [0.0, -1.0, 127.0 / 128.0]);
        assert_eq!(samples(Encoding::S16, true, &[0xc0, 0, 0x20, 0, 9]), [-0.5, 0.25]);
        assert_eq!(samples(Encoding::S16, false, &[0, 0xc0, 0, 0x20]), [-0.5, 0.25]);
        assert_eq!(samples(Encoding::S24, true, &[0xff, 0xff, 0xff, 0x40, 0, 0]), [-1.0 / 8_388_608.0, 0.5]);
        assert_eq!(samples(Encoding::S24, false, &[0, 0, 0xc0]), [-0.5]);
        assert_eq!(samples(Encoding::S32, true, &[0x80, 0, 0, 0]), [-1.0]);
        assert_eq!(samples(Encoding::F32, true, &0.375_f32.to_be_bytes()), [0.375]);
        assert_eq!(samples(Encoding::F64, false, &(-0.75_f64).to_le_bytes()), [-0.75]);
        // Table values of ITU-T G.711, scaled to 16 bits.
        assert_eq!([0x00, 0x80, 0xff, 0x7f, 0xf0, 0x9a].map(mulaw), [-32124, 32124, 0, 0, 120, 10_876]);
        assert_eq!([0x2a, 0xaa, 0xd5, 0x55, 0x80].map(alaw), [-32256, 32256, 8, -8, 5504]);
    }
}
