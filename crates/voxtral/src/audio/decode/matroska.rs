//! What symphonia does not say about a Matroska file: the codecs it does not know, and the padding at the end of a track, which the last
//! block declares.

use std::io::{self, Read, Seek};

use super::source::read_at;

/// Bytes at the end of a file in which the last cluster is looked for.
const TAIL: u64 = 1 << 24;
/// Bytes at the start of a file in which the list of tracks is looked for.
const HEAD: usize = 1 << 16;
const CLUSTER: [u8; 4] = [0x1f, 0x43, 0xb6, 0x75];
/// Longest padding in nanoseconds: two packets of the longest codec.
const LONGEST: u64 = 250_000_000;

/// The header and the end of a Matroska file.
#[derive(Default)]
pub(super) struct MatroskaFile {
    bytes: Vec<u8>,
    /// Size of the file that the header declares; 0 if it does not know it.
    pub(super) declared_size: u64,
    /// Codecs of the sound tracks; `None` if the list of tracks was not found.
    pub(super) sound: Option<Vec<String>>,
}

impl MatroskaFile {
    /// Reads the header and the end of a file; the source is rewound.
    pub(super) fn read<S: Read + Seek + ?Sized>(source: &mut S, size: u64) -> io::Result<Self> {
        let head = read_at(source, 0, HEAD)?;
        let tail = size.min(TAIL);
        let bytes = read_at(source, size - tail, tail as usize)?;
        source.rewind()?;
        Ok(Self { bytes, declared_size: declared_size(&head).unwrap_or(0), sound: sound_codecs(&head) })
    }

    /// Nanoseconds to drop at the end of a track; 0 where nothing is said.
    pub(super) fn padding(&self, track: u64) -> u64 {
        // Clusters from the last one on: the bytes of a name may occur in a packet, too.
        let mut end = self.bytes.len();
        for _ in 0..64 {
            let Some(place) = self.bytes.get(..end).and_then(|bytes| bytes.windows(4).rposition(|name| name == CLUSTER)) else { break };
            if let Some(padding) = self.bytes.get(place + 4..).and_then(|cluster| last_block(cluster, track)) {
                return padding;
            }
            end = place + 3;
        }
        0
    }
}

impl MatroskaFile {
    /// Whether the file ends with a whole element. A browser that records does not know the sizes of what it writes, so nothing else says
    /// that a recording is complete.
    pub(super) fn is_whole(&self) -> bool {
        let mut end = self.bytes.len();
        for _ in 0..64 {
            let Some(place) = self.bytes.get(..end).and_then(|bytes| bytes.windows(4).rposition(|name| name == CLUSTER)) else { break };
            if self.bytes.get(place + 4..).is_some_and(|cluster| {
                let Some((length, body)) = size(cluster, 0) else { return false };
                let mut at = length.map_or(body, |length| body.saturating_add(length));
                while let Some((_, body, length)) = element(cluster, at) {
                    at = body + length;
                }
                at == cluster.len()
            }) {
                return true;
            }
            end = place + 3;
        }
        false
    }
}

/// The codecs of the sound tracks, from the list of tracks.
fn sound_codecs(head: &[u8]) -> Option<Vec<String>> {
    let (_, body, length) = element(head, 0)?;
    // The size of the segment does not matter: its elements follow.
    let (_, mut at) = size(head, body + length + 4)?;
    loop {
        let (id, body, length) = element(head, at)?;
        at = body + length;
        if id != 0x1654_ae6b {
            continue;
        }
        let tracks = head.get(body..at)?;
        let (mut codecs, mut at) = (Vec::new(), 0);
        while let Some((_, body, length)) = element(tracks, at) {
            at = body + length;
            let entry = tracks.get(body..at)?;
            let value = |wanted: u32| {
                let mut at = 0;
                std::iter::from_fn(|| {
                    let (id, body, length) = element(entry, at)?;
                    at = body + length;
                    Some((id, entry.get(body..at)?))
                })
                .find(|(id, _)| *id == wanted)
                .map(|(_, value)| value)
            };
            if value(0x83) == Some(&[2]) {
                codecs.push(String::from_utf8_lossy(value(0x86).unwrap_or_default()).trim_end_matches('\0').to_owned());
            }
        }
        return Some(codecs);
    }
}

/// Where the segment ends, if its size is known.
fn declared_size(head: &[u8]) -> Option<u64> {
    let (_, body, length) = element(head, 0)?;
    let segment = body + length;
    if head.get(segment..segment + 4)? != [0x18, 0x53, 0x80, 0x67] {
        return None;
    }
    let (length, body) = size(head, segment + 4)?;
    Some(body as u64 + length? as u64)
}

/// The padding of the last block of a track in a cluster, from its size on; `None` if it has no block of the track.
fn last_block(cluster: &[u8], track: u64) -> Option<u64> {
    let (size, start) = size(cluster, 0)?;
    let mut found = None;
    let body = cluster.get(start..start + size.unwrap_or(usize::MAX).min(cluster.len() - start))?;
    let mut at = 0;
    while let Some((id, body_at, length)) = element(body, at) {
        let inner = body.get(body_at..body_at + length)?;
        match id {
            0xa3 if number(inner)? == track => found = Some(0),
            0xa0 => {
                let mut at = 0;
                let (mut ours, mut padding) = (false, 0);
                while let Some((id, body_at, length)) = element(inner, at) {
                    let value = inner.get(body_at..body_at + length)?;
                    match id {
                        0xa1 => ours = number(value)? == track,
                        0x75a2 => padding = value.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
                        _ => {}
                    }
                    at = body_at + length;
                }
                if ours {
                    found = Some(if padding <= LONGEST { padding } else { 0 });
                }
            }
            // The next element of the segment ends a cluster of unknown size.
            0x1f43_b675 | 0x1c53_bb6b | 0x1254_c367 | 0x1549_a966 | 0x1654_ae6b | 0x114d_9b74 => break,
            _ => {}
        }
        at = body_at + length;
    }
    found
}

/// Name, place and length of an element that is whole.
fn element(bytes: &[u8], at: usize) -> Option<(u32, usize, usize)> {
    let first = *bytes.get(at)?;
    let width = first.leading_zeros() as usize + 1;
    if width > 4 {
        return None;
    }
    let id = bytes.get(at..at + width)?.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
    let (length, body) = size(bytes, at + width)?;
    let length = length?;
    bytes.get(body..body.checked_add(length)?)?;
    Some((id, body, length))
}

/// A size of variable length, `None` inside for an unknown one, and what follows it.
fn size(bytes: &[u8], at: usize) -> Option<(Option<usize>, usize)> {
    let first = *bytes.get(at)?;
    let width = first.leading_zeros() as usize + 1;
    if width > 8 {
        return None;
    }
    let mask = 0xff_u64 >> width;
    let value = bytes.get(at + 1..at + width)?.iter().fold(u64::from(first) & mask, |sum, byte| sum << 8 | u64::from(*byte));
    let unknown = value == (1_u64 << (7 * width)) - 1;
    Some((if unknown { None } else { usize::try_from(value).ok() }, at + width))
}

/// The track number at the start of a block.
fn number(block: &[u8]) -> Option<u64> {
    size(block, 0)?.0.map(|number| number as u64)
}

/// A codec of Matroska in words.
pub(super) fn codec(id: &str) -> String {
    let known = match id {
        "A_AC3" => "AC-3",
        "A_EAC3" => "E-AC-3",
        "A_DTS" => "DTS",
        "A_WAVPACK4" => "WavPack",
        "A_TTA1" => "True Audio",
        "A_MPEG/L2" => "MPEG audio of layer 2",
        "A_PCM/INT/LIT" | "A_PCM/INT/BIG" | "A_PCM/FLOAT/IEEE" => "PCM of an unusual size",
        _ => return format!("the encoding `{}`", id.escape_default()),
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn tag(id: &[u8], body: &[u8]) -> Vec<u8> {
        [id, &[0x40 | (body.len() >> 8) as u8, body.len() as u8], body].concat()
    }

    #[test]
    fn the_codecs_of_sound_tracks_are_named() {
        let track =
            |kind: u8, codec: &str| tag(&[0xae], &[tag(&[0xd7], &[1]), tag(&[0x83], &[kind]), tag(&[0x86], codec.as_bytes())].concat());
        let file = |tracks: &[Vec<u8>]| {
            let body = [tag(&[0xec], &[0; 300]), tag(&[0x16, 0x54, 0xae, 0x6b], &tracks.concat())].concat();
            [tag(&[0x1a, 0x45, 0xdf, 0xa3], &[7; 5]), tag(&[0x18, 0x53, 0x80, 0x67], &body)].concat()
        };
        let sound = |bytes: &[u8]| MatroskaFile::read(&mut Cursor::new(bytes), bytes.len() as u64).unwrap().sound;
        let whole = file(&[track(1, "V_VP8"), track(2, "A_AC3"), track(2, "A_X\0")]);
        assert_eq!(sound(&whole), Some(vec!["A_AC3".to_owned(), "A_X".to_owned()]));
        assert_eq!(sound(&file(&[track(1, "V_VP8")])), Some(Vec::new()));
        assert_eq!((codec("A_AC3").as_str(), codec("A_X").as_str()), ("AC-3", "the encoding `A_X`"));
        for length in 0..whole.len() {
            assert_eq!(sound(&whole[..length]), None);
        }
    }

    #[test]
    fn the_padding_of_the_last_block_counts() {
        let simple = |track: u8| tag(&[0xa3], &[0x80 | track, 0, 0, 0x80, 1, 2, 3]);
        let group =
            |track: u8, padding: &[u8]| tag(&[0xa0], &[tag(&[0xa1], &[0x80 | track, 0, 0, 0, 9, 9]), tag(&[0x75, 0xa2], padding)].concat());
        let cluster = |blocks: &[Vec<u8>]| tag(&CLUSTER, &[tag(&[0xe7], &[0]), blocks.concat()].concat());
        let live = |blocks: &[Vec<u8>]| [CLUSTER.as_slice(), &[0x01, 255, 255, 255, 255, 255, 255, 255], &blocks.concat()].concat();
        let padding = |bytes: &[u8], track| MatroskaFile::read(&mut Cursor::new(bytes), bytes.len() as u64).unwrap().padding(track);
        let ms = [0xcd, 0xfe, 0x60];
        let file = [cluster(&[simple(1), simple(2)]), cluster(&[simple(2), group(1, &ms)])].concat();
        assert_eq!((padding(&file, 1), padding(&file, 2), padding(&file, 3)), (13_500_000, 0, 0));
        assert_eq!(padding(&[cluster(&[group(1, &ms)]), cluster(&[simple(1)])].concat(), 1), 0, "not the last one");
        assert_eq!(padding(&[cluster(&[group(1, &ms)]), cluster(&[simple(2)])].concat(), 1), 13_500_000);
        assert_eq!(padding(&[live(&[simple(1)]), live(&[group(1, &ms)])].concat(), 1), 13_500_000);
        assert_eq!(padding(&cluster(&[group(1, &[0xff; 8])]), 1), 0, "longer than any packet");
        for length in 0..file.len() {
            padding(&file[..length], 1);
        }
        let whole = |bytes: &[u8]| MatroskaFile::read(&mut Cursor::new(bytes), bytes.len() as u64).unwrap().is_whole();
        for file in [file, [live(&[simple(1)]), live(&[simple(1), group(1, &ms)]), tag(&[0x1c, 0x53, 0xbb, 0x6b], &[1; 9])].concat()] {
            assert!(whole(&file) && !whole(&file[..file.len() - 1]) && !whole(&file[..file.len() - 12]));
        }
    }
}
