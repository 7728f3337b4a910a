//! What symphonia does not say about an MP4, M4A, MOV or 3GP file: the edit list, what iTunes notes about the encoder, and the size.

use std::io::{self, Read, Seek};
use std::ops::Range;

use super::source::read_at;

/// Largest header that is read; the index of ten hours of video is smaller.
const LARGEST_HEADER: u64 = 1 << 28;

/// What the header says about one track.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mp4Track {
    pub(super) id: u32,
    /// Ticks per second of the track.
    pub(super) timescale: u32,
    /// Four-character codes of what it is (`soun`) and of its codec (`mp4a`).
    pub(super) kind: [u8; 4],
    pub(super) codec: [u8; 4],
    /// Whether the samples of `in24`, `in32`, `fl32` or `fl64` have their most significant byte first.
    pub(super) big_endian: bool,
    /// Parts of the track that are heard, in ticks and in order of play; `None` without an edit list.
    pub(super) edits: Option<Vec<Range<u64>>>,
}

/// What the header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mp4Header {
    pub(super) tracks: Vec<Mp4Track>,
    /// Frames of encoder delay, as iTunes notes them.
    pub(super) itunes_delay: Option<u64>,
    timescale: u32,
    /// Bytes that the top level declares, which may be more than there are.
    pub(super) declared_size: u64,
}

/// Whether a file starts as one of the family does.
pub(super) fn is_mp4(head: &[u8]) -> bool {
    head.get(4..8).is_some_and(|kind| [b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"].iter().any(|known| *known == kind))
}

/// Reads the header; the source is rewound. What cannot be read is left out: the decoder refuses it.
pub(super) fn read<S: Read + Seek + ?Sized>(source: &mut S) -> io::Result<Mp4Header> {
    let mut header = Mp4Header::default();
    let mut end: u64 = 0;
    loop {
        let head = read_at(source, end, 16)?;
        let Some((size, rest)) = head.split_first_chunk::<4>() else { break };
        let Some(kind) = rest.first_chunk::<4>().copied() else { break };
        let (size, header_size) = match (u32::from_be_bytes(*size), rest.get(4..).and_then(|rest| rest.first_chunk::<8>())) {
            (1, Some(long)) => (u64::from_be_bytes(*long), 16),
            (short, _) => (u64::from(short), 8),
        };
        // An atom of size 0 reaches to the end. Atoms smaller than their own header are left to the decoder to reject.
        let Some(next) = end.checked_add(size).filter(|_| size >= 8) else { break };
        if kind == *b"moov" && size <= LARGEST_HEADER {
            let bytes = read_at(source, end + header_size, (size - header_size.min(size)) as usize)?;
            header.movie(&bytes);
        }
        end = next;
    }
    source.rewind()?;
    header.declared_size = end;
    Ok(header)
}

/// The atoms of a container atom.
fn atoms(bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let size = u64::from(u32::from_be_bytes(*rest.first_chunk()?));
        let kind = *rest.get(4..)?.first_chunk()?;
        let (size, header) = match size {
            0 => (rest.len() as u64, 8),
            1 => (u64::from_be_bytes(*rest.get(8..)?.first_chunk()?), 16),
            size => (size, 8),
        };
        let size = usize::try_from(size).ok()?.min(rest.len());
        let body = rest.get(header..size)?;
        rest = rest.get(size..)?;
        Some((kind, body))
    })
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The time scale of `mvhd` and `mdhd`.
fn timescale(body: &[u8]) -> u32 {
    number(body, if body.first() == Some(&1) { 20 } else { 12 }).unwrap_or(0)
}

impl Mp4Header {
    fn movie(&mut self, bytes: &[u8]) {
        self.timescale = atoms(bytes).find(|(kind, _)| kind == b"mvhd").map_or(0, |(_, body)| timescale(body));
        for (kind, body) in atoms(bytes) {
            match &kind {
                b"trak" => {
                    let track = self.track(body);
                    self.tracks.push(track);
                }
                b"udta" => self.itunes_delay = self.itunes_delay.or_else(|| itunes_delay(body)),
                _ => {}
            }
        }
    }

    fn track(&self, bytes: &[u8]) -> Mp4Track {
        let mut track = Mp4Track::default();
        let mut list = None;
        for (kind, body) in atoms(bytes) {
            match &kind {
                b"tkhd" => track.id = number(body, if body.first() == Some(&1) { 20 } else { 12 }).unwrap_or(0),
                b"edts" => list = atoms(body).find(|(kind, _)| kind == b"elst").map(|(_, body)| body),
                b"mdia" => track.media(body),
                _ => {}
            }
        }
        track.edits = list.and_then(|list| self.edits(list, track.timescale));
        track
    }

    /// The parts of an edit list that have sound, in ticks of the track.
    fn edits(&self, list: &[u8], timescale: u32) -> Option<Vec<Range<u64>>> {
        let entry = if list.first()? == &1 { 20 } else { 12 };
        let count = usize::try_from(number(list, 4)?).ok()?;
        let mut edits = Vec::new();
        for bytes in list.get(8..)?.chunks_exact(entry).take(count) {
            let (duration, start) = match entry {
                20 => (long(bytes, 0)?, long(bytes, 8)?.cast_signed()),
                _ => (u64::from(number(bytes, 0)?), i64::from(number(bytes, 4)?.cast_signed())),
            };
            // An entry without a place in the track is a pause.
            let Ok(start) = u64::try_from(start) else { continue };
            let ticks = u128::from(duration) * u128::from(timescale) / u128::from(self.timescale.max(1));
            // A fragmented file does not know its length when the header is written.
            let end = if duration == 0 { u64::MAX } else { start.saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX)) };
            edits.push(start..end);
        }
        (!edits.is_empty()).then_some(edits)
    }
}

impl Mp4Track {
    fn media(&mut self, bytes: &[u8]) {
        for (kind, body) in atoms(bytes) {
            match &kind {
                b"mdhd" => self.timescale = timescale(body),
                b"hdlr" => self.kind = body.get(8..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default(),
                b"minf" => {
                    let table = atoms(body).find(|(kind, _)| kind == b"stbl").map_or(&[][..], |(_, body)| body);
                    let entry = atoms(table).find(|(kind, _)| kind == b"stsd").map_or(&[][..], |(_, body)| body);
                    self.codec = entry.get(12..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
                    self.big_endian = matches!(&self.codec, b"in24" | b"in32" | b"fl32" | b"fl64") && !is_little_endian(entry);
                }
                _ => {}
            }
        }
    }

    /// The parts that are heard, in frames; `None` if they are not in order.
    pub(super) fn frames(&self, rate: u32) -> Option<Vec<Range<u64>>> {
        let frames = |ticks: u64| match ticks {
            u64::MAX => u64::MAX,
            ticks => u64::try_from(u128::from(ticks) * u128::from(rate) / u128::from(self.timescale.max(1))).unwrap_or(u64::MAX),
        };
        let edits: Vec<Range<u64>> = self.edits.iter().flatten().map(|edit| frames(edit.start)..frames(edit.end)).collect();
        edits.windows(2).all(|pair| pair[0].end <= pair[1].start).then_some(edits)
    }
}

/// Whether an atom `enda` in a sample description of QuickTime says that the least significant byte comes first. Without one it is the last.
fn is_little_endian(description: &[u8]) -> bool {
    // The fields of a sound description are longer in its later versions; atoms follow them.
    let fields = match description.get(24..26) {
        Some([0, 1]) => 52,
        Some([0, 2]) => 72,
        _ => 36,
    };
    let size = number(description, 8).and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
    let end = size.saturating_add(8).min(description.len());
    let inside = description.get(8 + fields..end).unwrap_or_default();
    let wave = atoms(inside).find(|(kind, _)| kind == b"wave").map_or(&[][..], |(_, body)| body);
    let order = atoms(inside).chain(atoms(wave)).find(|(kind, _)| kind == b"enda");
    order.is_some_and(|(_, body)| body.get(..2).is_some_and(|flag| flag != [0, 0]))
}

/// The encoder delay in ` 00000000 DELAY PADDING LENGTH …`, which iTunes notes under the name `iTunSMPB`.
fn itunes_delay(user_data: &[u8]) -> Option<u64> {
    let (_, meta) = atoms(user_data).find(|(kind, _)| kind == b"meta")?;
    let (_, list) = atoms(meta.get(4..)?).find(|(kind, _)| kind == b"ilst")?;
    for (_, item) in atoms(list).filter(|(kind, _)| kind == b"----") {
        let named = atoms(item).any(|(kind, body)| kind == *b"name" && body.get(4..) == Some(b"iTunSMPB"));
        let Some((_, data)) = atoms(item).find(|(kind, _)| named && kind == b"data") else { continue };
        let text = String::from_utf8_lossy(data.get(8..)?);
        let delay = u64::from_str_radix(text.split_whitespace().nth(1)?, 16).ok()?;
        return (1..16_384).contains(&delay).then_some(delay);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn atom(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
        [&(8 + body.len() as u32).to_be_bytes(), kind.as_slice(), body].concat()
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    fn movie(edits: &[(u32, i32)], tags: &[u8]) -> Vec<u8> {
        let list: Vec<u8> = edits.iter().flat_map(|(duration, start)| words(&[*duration, start.cast_unsigned(), 0x10000])).collect();
        let list = atom(b"edts", &atom(b"elst", &[words(&[0, edits.len() as u32]), list].concat()));
        let stsd = atom(b"stsd", &[words(&[0, 1, 36]), b"mp4a".to_vec(), vec![0; 28]].concat());
        let minf = atom(b"minf", &atom(b"stbl", &stsd));
        let media = [atom(b"mdhd", &words(&[0, 0, 0, 48_000, 0, 0])), atom(b"hdlr", b"\0\0\0\0\0\0\0\0soun"), minf].concat();
        let track =
            [atom(b"tkhd", &words(&[0, 0, 0, 7])), if edits.is_empty() { Vec::new() } else { list }, atom(b"mdia", &media)].concat();
        let moov = [atom(b"mvhd", &words(&[0, 0, 0, 1000, 0])), atom(b"trak", &track), tags.to_vec()].concat();
        [atom(b"ftyp", b"M4A "), atom(b"moov", &moov), atom(b"mdat", &[0; 16])].concat()
    }

    #[test]
    fn edit_lists_become_frames() {
        let edited = |edits: &[(u32, i32)]| {
            let bytes = movie(edits, &[]);
            let header = read(&mut Cursor::new(&bytes)).unwrap();
            assert_eq!(header.declared_size, bytes.len() as u64);
            let track = &header.tracks[0];
            assert_eq!((track.id, track.timescale, &track.kind, &track.codec), (7, 48_000, b"soun", b"mp4a"));
            track.frames(24_000).map(|ranges| ranges.iter().map(|range| (range.start, range.end)).collect::<Vec<_>>())
        };
        assert_eq!(edited(&[]), Some(vec![]));
        assert_eq!(edited(&[(2000, 1024)]), Some(vec![(512, 48_512)]));
        assert_eq!(edited(&[(14, -1), (2000, 0)]), Some(vec![(0, 48_000)]), "a pause at the start is no sound");
        assert_eq!(edited(&[(0, 1024)]), Some(vec![(512, u64::MAX)]));
        assert_eq!(edited(&[(1000, 0), (1000, 96_000)]), Some(vec![(0, 24_000), (48_000, 72_000)]));
        assert_eq!(edited(&[(1000, 96_000), (1000, 0)]), None, "what plays out of order is not cut here");
        // Cut anywhere, it is read as far as it goes.
        let whole = movie(&[(2000, 1024)], &[]);
        for length in 0..whole.len() {
            assert!(read(&mut Cursor::new(&whole[..length])).unwrap().tracks.len() <= 1);
        }
    }

    #[test]
    fn the_byte_order_of_samples_is_read() {
        let order = |codec: &[u8; 4], version: u16, fields: usize, inside: &[u8]| {
            let mut entry = [words(&[0, 1, (fields + inside.len()) as u32]), codec.to_vec(), vec![0; fields - 8]].concat();
            entry[24..26].copy_from_slice(&version.to_be_bytes());
            entry.extend_from_slice(inside);
            let mut track = Mp4Track::default();
            track.media(&atom(b"minf", &atom(b"stbl", &atom(b"stsd", &entry))));
            track.big_endian
        };
        let enda = |flag: u8| atom(b"enda", &[0, flag]);
        let wave = |flag: u8| atom(b"wave", &[atom(b"frma", b"in24"), enda(flag), vec![0; 8]].concat());
        assert!(order(b"in24", 0, 36, &[]) && order(b"fl64", 1, 52, &[]) && order(b"in24", 1, 52, &wave(0)));
        assert!(!order(b"in24", 1, 52, &wave(1)) && !order(b"fl32", 1, 52, &enda(1)) && !order(b"in32", 2, 72, &wave(1)));
        // What has its order in its name needs no such atom.
        assert!(!order(b"sowt", 0, 36, &[]) && !order(b"lpcm", 2, 72, &[]));
    }

    #[test]
    fn the_encoder_delay_of_itunes_is_read() {
        let smpb = b" 00000000 00000840 000001CA 00000000003F31F6 00000000";
        let item = [
            atom(b"mean", b"\0\0\0\0com.apple.iTunes"),
            atom(b"name", b"\0\0\0\0iTunSMPB"),
            atom(b"data", &[&[0, 0, 0, 1, 0, 0, 0, 0], smpb.as_slice()].concat()),
        ];
        let list = atom(b"ilst", &atom(b"----", &item.concat()));
        let tags = atom(b"udta", &atom(b"meta", &[vec![0; 4], list].concat()));
        assert_eq!(read(&mut Cursor::new(movie(&[], &tags))).unwrap().itunes_delay, Some(0x840));
    }
}
