//! Core Audio Format: uncompressed samples are read here, and a length that is not known is filled in for symphonia.

use std::io::{self, Read, Seek};
use std::path::Path;

use symphonia::core::io::MediaSource;

use super::pcm::{self, Encoding, PcmFormat};
use super::source::{PatchedSource, read_at};
use super::{AGAIN, Decode, damaged};
use crate::error::{Result, ResultExt};

/// Most chunks in front of the samples.
const MOST_CHUNKS: usize = 10_000;

/// The description of the samples, and where they are.
struct CafHeader {
    description: Vec<u8>,
    /// Position of the size of the data chunk, and that size; -1 if it is not known.
    data_at: u64,
    data_size: i64,
}

/// What to read a CAF file as.
pub(super) enum CafSource {
    Compressed(Box<dyn MediaSource>),
    Pcm(Box<dyn Decode>),
}

/// Opens a CAF file.
pub(super) fn open(path: &Path, mut source: Box<dyn MediaSource>, size: u64) -> Result<CafSource> {
    let reading = || format!("cannot read {}", path.display());
    let header = header(&mut source).with_context(reading)?;
    source.rewind().with_context(reading)?;
    // The decoder says what is wrong.
    let Some(header) = header else { return Ok(CafSource::Compressed(source)) };
    // Behind name and size, an edit count of four bytes comes first.
    let from = header.data_at + 16;
    let there = size.saturating_sub(from);
    let unknown = header.data_size < 0;
    let length = if unknown { there } else { u64::try_from(header.data_size - 4).unwrap_or(0) };
    if length > there {
        let missing = format!("is truncated: the header declares {length} bytes of sound, the file has {there}");
        return Err(damaged(path, missing).hint(AGAIN));
    }
    if let Some(format) = pcm_format(&header.description) {
        return Ok(CafSource::Pcm(pcm::open(path, source, (from, length), format, Vec::new())));
    }
    if unknown {
        // The size, with the edit count, replaces the eight bytes behind the name.
        let mut head = read_at(&mut source, 0, usize::try_from(header.data_at + 4).unwrap_or(0)).with_context(reading)?;
        head.extend((there + 4).to_be_bytes());
        return Ok(CafSource::Compressed(Box::new(PatchedSource::new(head, source, header.data_at + 12, there + 4))));
    }
    Ok(CafSource::Compressed(source))
}

/// Reads the chunks up to the samples.
fn header<S: Read + Seek + ?Sized>(source: &mut S) -> io::Result<Option<CafHeader>> {
    let mut at = 8_u64;
    let mut description = Vec::new();
    for _ in 0..MOST_CHUNKS {
        let chunk = read_at(source, at, 12)?;
        let Some(size) = chunk.get(4..).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
        let size = i64::from_be_bytes(*size);
        match chunk.get(..4).unwrap_or_default() {
            b"data" if description.is_empty() => return Ok(None),
            b"data" => return Ok(Some(CafHeader { description, data_at: at, data_size: size })),
            b"desc" => description = read_at(source, at + 12, 32)?,
            _ => {}
        }
        let Some(next) = u64::try_from(size).ok().and_then(|size| at.checked_add(12)?.checked_add(size)) else { return Ok(None) };
        at = next;
    }
    Ok(None)
}

/// The format of uncompressed samples.
fn pcm_format(description: &[u8]) -> Option<PcmFormat> {
    let number = |at: usize| Some(u32::from_be_bytes(*description.get(at..)?.first_chunk()?));
    let rate = f64::from_be_bytes(*description.first_chunk()?);
    let (flags, channels, bits) = (number(12)?, u16::try_from(number(24)?).ok()?, number(28)?);
    let encoding = match (description.get(8..12)?, flags & 1, bits) {
        (b"ulaw", ..) => Encoding::Mulaw,
        (b"alaw", ..) => Encoding::Alaw,
        (b"lpcm", 0, 8) => Encoding::S8,
        (b"lpcm", 0, 16) => Encoding::S16,
        (b"lpcm", 0, 24) => Encoding::S24,
        (b"lpcm", 0, 32) => Encoding::S32,
        (b"lpcm", 1, 32) => Encoding::F32,
        (b"lpcm", 1, 64) => Encoding::F64,
        _ => return None,
    };
    let packed = number(16)? == u32::from(channels) * encoding.size() as u32;
    (packed && channels > 0).then_some(PcmFormat { rate: rate as u32, channels, encoding, big_endian: flags & 2 == 0 })
}
