//! The header of WAV, RF64 and BW64 files, which often tells lies: streams declare placeholders, editors wrong sizes.

use std::io::{self, Read, Seek};
use std::path::Path;

use symphonia::core::io::MediaSource;

use super::pcm::{self, Encoding, PcmFormat};
use super::source::{PatchedSource, read_at};
use super::{AGAIN, Opened, damaged};
use crate::error::{Result, ResultExt};

/// Sizes from here on are placeholders of writers that do not know the length: 0x7fff_ffff, 0xffff_ffff, or a bit less.
const PLACEHOLDER: u64 = 0x7fff_0000;
/// Most chunks in front of the samples.
const MOST_CHUNKS: usize = 10_000;
/// Largest description of a format.
const LARGEST_FORMAT: u64 = 1 << 16;
const OVERRUN: u64 = 1 << 16;

/// What the header says, and where the samples are.
#[derive(Debug, Default)]
struct WavHeader {
    big_endian: bool,
    /// `RIFF`, with a size that fits and nothing in front of the samples that the decoder would read.
    plain: bool,
    format: Vec<u8>,
    /// The chunk of compressed formats that counts the frames.
    fact: Vec<u8>,
    /// Position and size of the samples.
    at: u64,
    declared: u64,
    notes: Vec<String>,
}

/// What to read a WAV file as.
pub(super) enum WavSource {
    /// A file that the decoder understands.
    Riff(Box<dyn MediaSource>, Vec<String>),
    /// Samples that are read here, or an encoding that only others read.
    Other(Opened),
}

/// Whether a file starts as WAV.
pub(super) fn is_wav(head: &[u8]) -> bool {
    [b"RIFF", b"RF64", b"BW64", b"RIFX"].iter().any(|form| head.starts_with(*form)) && head.get(8..12) == Some(b"WAVE")
}

/// Corrects the header of a WAV file.
pub(super) fn corrected(path: &Path, mut source: Box<dyn MediaSource>, size: u64) -> Result<WavSource> {
    let reading = || format!("cannot read {}", path.display());
    let Some(header) = header(&mut source, size).with_context(reading)? else {
        // The decoder says what is wrong.
        source.rewind().with_context(reading)?;
        return Ok(WavSource::Riff(source, Vec::new()));
    };
    let there = size - header.at.min(size);
    let mut notes = header.notes;
    let block = header
        .format
        .get(12..)
        .and_then(|rest| rest.first_chunk())
        .map_or(1, |two| u64::from(if header.big_endian { u16::from_be_bytes(*two) } else { u16::from_le_bytes(*two) }).max(1));
    let open_end = there > 0 && (header.declared == 0 || (header.declared >= PLACEHOLDER && header.declared > there));
    let length = if open_end {
        notes.push("its header does not know the length: it is read to its end".to_owned());
        there - there % block
    } else {
        header.declared
    };
    if header.plain && !open_end {
        source.rewind().with_context(reading)?;
        return Ok(WavSource::Riff(source, notes));
    }
    if length > there {
        let missing = format!("is truncated: the header declares {length} bytes of sound, the file has {there}");
        return Err(damaged(path, missing).hint(AGAIN));
    }
    // 100 bytes for the chunks of a new header.
    if (header.big_endian || length > u64::from(u32::MAX) - LARGEST_FORMAT - 100)
        && let Some(format) = pcm_format(&header.format, header.big_endian)
    {
        return Ok(WavSource::Other(Opened::Decoder(pcm::open(path, source, (header.at, length), format, notes))));
    }
    if header.big_endian {
        return Ok(WavSource::Other(Opened::foreign("big-endian WAV (RIFX) in a compressed encoding", "wav")));
    }
    let chunk = |name: &[u8; 4], body: &[u8]| {
        let padding: &[u8] = if body.len() % 2 == 1 { &[0] } else { &[] };
        [name.as_slice(), &(body.len() as u32).to_le_bytes(), body, padding].concat()
    };
    let fact = if header.fact.is_empty() { Vec::new() } else { chunk(b"fact", &header.fact) };
    let chunks = [b"WAVE".to_vec(), chunk(b"fmt ", &header.format), fact].concat();
    let data_size = u32::try_from(length).unwrap_or(u32::MAX - LARGEST_FORMAT as u32 - 100);
    let riff_size = chunks.len() as u32 + 8 + data_size;
    let head = [b"RIFF".as_slice(), &riff_size.to_le_bytes(), &chunks, b"data", &data_size.to_le_bytes()].concat();
    Ok(WavSource::Riff(Box::new(PatchedSource::new(head, source, header.at, u64::from(data_size))), notes))
}

/// Reads the chunks up to the samples; `None` if there is no format or no samples in front of the end of the file.
fn header<S: Read + Seek + ?Sized>(source: &mut S, size: u64) -> io::Result<Option<WavHeader>> {
    let head = read_at(source, 0, 12)?;
    let mut header = WavHeader { big_endian: head.starts_with(b"RIFX"), plain: head.starts_with(b"RIFF"), ..WavHeader::default() };
    let number = |bytes: &[u8], at: usize| -> u64 {
        let Some(four) = bytes.get(at..).and_then(|rest| rest.first_chunk()) else { return 0 };
        u64::from(if head.starts_with(b"RIFX") { u32::from_be_bytes(*four) } else { u32::from_le_bytes(*four) })
    };
    let long = |bytes: &[u8], at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |eight| u64::from_le_bytes(*eight));
    let riff_size = number(&head, 4);
    let mut long_size = None;
    let mut at = 12;
    for _ in 0..MOST_CHUNKS {
        let chunk = read_at(source, at, 8)?;
        if chunk.len() < 8 {
            return Ok(None);
        }
        let length = number(&chunk, 4);
        match chunk.get(..4).unwrap_or_default() {
            b"data" => {
                if header.format.is_empty() {
                    return Ok(None);
                }
                header.at = at + 8;
                header.declared = long_size.filter(|_| length == 0xffff_ffff).unwrap_or(length);
                let end = header.at.saturating_add(header.declared);
                if header.plain && riff_size + 8 < end && header.declared > 0 && header.declared < PLACEHOLDER {
                    header.plain = false;
                    header.notes.push("the size in its header is wrong: it is read as far as its sound goes".to_owned());
                } else if header.plain && (riff_size == 0 || riff_size + 8 > size.max(end) + 1) {
                    // The decoder compares them; a RIFF size beyond the end does not matter.
                    header.plain = false;
                }
                // An empty recording in front of other chunks.
                let rest_is_known = header.declared == 0 && riff_size > 0 && riff_size + 8 == size && size - header.at >= 8 && {
                    let next = read_at(source, header.at, 8)?;
                    is_chunk_name(&next) && header.at + 8 + number(&next, 4) <= size
                };
                if rest_is_known {
                    return Ok(None);
                }
                return Ok(Some(header));
            }
            b"fmt " if length <= LARGEST_FORMAT => header.format = read_at(source, at + 8, length as usize)?,
            b"fact" if length <= LARGEST_FORMAT => header.fact = read_at(source, at + 8, length as usize)?,
            b"ds64" => long_size = Some(long(&read_at(source, at + 16, 8)?, 0)).filter(|size| *size > 0 && *size < u64::MAX >> 1),
            // The decoder reads these, and gives up if anything in them is wrong.
            b"LIST" | b"id3 " | b"ID3 " => header.plain = false,
            _ => {}
        }
        let end = at + 8 + length;
        let next = end + length % 2;
        if next + 8 > size {
            // The chunk overruns: its size is wrong.
            let Some(found) = find_data(source, at + 8)? else { return Ok(None) };
            header.plain = false;
            header.notes.push("a chunk of its header has a wrong size: its sound was looked for behind it".to_owned());
            at = found;
            continue;
        }
        at = next;
        // Some writers leave out the byte that fills up a chunk of odd size.
        if length % 2 == 1 && !is_chunk_name(&read_at(source, next, 4)?) && is_chunk_name(&read_at(source, end, 4)?) {
            header.plain = false;
            at = end;
        }
    }
    Ok(None)
}

/// Whether bytes start with the name of a chunk.
fn is_chunk_name(bytes: &[u8]) -> bool {
    bytes.get(..4).is_some_and(|name| name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b' ' | b'_' | b'-')))
}

/// The next chunk of samples after a chunk with a wrong size.
fn find_data<S: Read + Seek + ?Sized>(source: &mut S, from: u64) -> io::Result<Option<u64>> {
    let bytes = read_at(source, from, OVERRUN as usize)?;
    Ok(bytes.windows(4).position(|name| name == b"data").map(|place| from + place as u64))
}

/// The format of uncompressed samples.
fn pcm_format(format: &[u8], big_endian: bool) -> Option<PcmFormat> {
    let short = |at: usize| -> Option<u16> {
        let two = *format.get(at..)?.first_chunk()?;
        Some(if big_endian { u16::from_be_bytes(two) } else { u16::from_le_bytes(two) })
    };
    let rate = *format.get(4..)?.first_chunk()?;
    let rate = if big_endian { u32::from_be_bytes(rate) } else { u32::from_le_bytes(rate) };
    // The extensible format has its tag at the start of a GUID.
    let tag = match short(0)? {
        0xfffe => short(24)?,
        tag => tag,
    };
    let encoding = match (tag, short(14)?) {
        (1, 8) => Encoding::U8,
        (1, 16) => Encoding::S16,
        (1, 24) => Encoding::S24,
        (1, 32) => Encoding::S32,
        (3, 32) => Encoding::F32,
        (3, 64) => Encoding::F64,
        (6, 8) => Encoding::Alaw,
        (7, 8) => Encoding::Mulaw,
        _ => return None,
    };
    Some(PcmFormat { rate, channels: short(2)?, encoding, big_endian })
}
