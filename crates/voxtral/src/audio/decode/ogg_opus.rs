//! Opus in Ogg (RFC 7845): the usual voice message. Pages are checked: none may be missing, damaged or cut short.

use std::collections::{HashMap, VecDeque};
use std::io::{BufReader, ErrorKind, Read, Seek};
use std::path::{Path, PathBuf};

use symphonia::core::io::MediaSource;

use super::opus::{OpusCodec, OpusHead, RATE, packet_frames};
use super::{AGAIN, CONVERT, Decode, Shape, damaged, time};
use crate::error::{Error, Result};

/// Longest packet that is put together from pages.
const LONGEST_PACKET: usize = 1 << 20;

/// One page of an Ogg file.
struct OggPage {
    /// The first packet continues one of the page before.
    continues: bool,
    first: bool,
    last: bool,
    /// Position at the end of the page, in frames of the codec; `None` if no packet ends in it.
    granule: Option<u64>,
    serial: u32,
    sequence: u32,
    /// Pieces of packets, and whether each one is complete.
    pieces: Vec<(Vec<u8>, bool)>,
    /// Bytes of the page.
    size: u64,
}

/// What keeps a page from being read.
enum PageFault {
    /// The file ends within a page.
    Cut,
    /// Something else follows where a page should.
    NoPage,
    Checksum,
    Io(std::io::Error),
}

impl OggPage {
    /// Reads the next page; `None` at the end of the file.
    fn read(reader: &mut impl Read) -> std::result::Result<Option<Self>, PageFault> {
        let mut page = vec![0; 27];
        match read_up_to(reader, &mut page).map_err(PageFault::Io)? {
            0 => return Ok(None),
            27 => {}
            some => return Err(if page.starts_with(&b"OggS"[..some.min(4)]) { PageFault::Cut } else { PageFault::NoPage }),
        }
        if !page.starts_with(b"OggS\0") {
            return Err(PageFault::NoPage);
        }
        let number = |at: usize| page.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |four| u32::from_le_bytes(*four));
        let (granule, flags, count) = (u64::from(number(6)) | u64::from(number(10)) << 32, page[5], usize::from(page[26]));
        let (serial, sequence, checksum) = (number(14), number(18), number(22));
        page[22..26].fill(0);
        append(reader, &mut page, count)?;
        let body = 27 + count;
        let lengths: Vec<u8> = page.get(27..).unwrap_or_default().to_vec();
        append(reader, &mut page, lengths.iter().map(|length| usize::from(*length)).sum())?;
        if crc(&page) != checksum {
            return Err(PageFault::Checksum);
        }
        let mut pieces = Vec::new();
        let (mut from, mut at) = (body, body);
        for length in &lengths {
            at += usize::from(*length);
            if *length < 255 {
                pieces.push((page[from..at].to_vec(), true));
                from = at;
            }
        }
        if lengths.last() == Some(&255) {
            pieces.push((page[from..at].to_vec(), false));
        }
        let granule = Some(granule).filter(|granule| *granule != u64::MAX);
        Ok(Some(Self {
            continues: flags & 1 > 0,
            first: flags & 2 > 0,
            last: flags & 4 > 0,
            granule,
            serial,
            sequence,
            pieces,
            size: at as u64,
        }))
    }
}

/// Appends that many bytes of the reader.
fn append(reader: &mut impl Read, page: &mut Vec<u8>, length: usize) -> std::result::Result<(), PageFault> {
    let from = page.len();
    page.resize(from + length, 0);
    let rest = page.get_mut(from..).unwrap_or_default();
    if read_up_to(reader, rest).map_err(PageFault::Io)? == length { Ok(()) } else { Err(PageFault::Cut) }
}

/// Reads as much of the buffer as there is.
fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(some) => filled += some,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

const CRC: [u32; 256] = {
    let mut table = [0_u32; 256];
    let mut n = 0;
    while n < 256 {
        let mut value = (n as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            value = if value >> 31 > 0 { value << 1 ^ 0x04c1_1db7 } else { value << 1 };
            bit += 1;
        }
        table[n] = value;
        n += 1;
    }
    table
};

fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |crc, byte| crc << 8 ^ CRC[usize::from((crc >> 24) as u8 ^ byte)])
}

/// What the first pages of an Ogg file say about its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OggCodec {
    Opus,
    Speex,
    Other,
}

/// The codec of an Ogg file; the source is rewound.
pub(super) fn codec<S: Read + Seek>(source: &mut S) -> std::io::Result<OggCodec> {
    let mut found = OggCodec::Other;
    while let Ok(Some(page)) = OggPage::read(source) {
        let first = page.pieces.first().map_or(&[][..], |(piece, _)| piece);
        match (page.first, first) {
            (true, head) if head.starts_with(b"OpusHead") => found = OggCodec::Opus,
            (true, head) if head.starts_with(b"Speex   ") && found == OggCodec::Other => found = OggCodec::Speex,
            (true, _) => continue,
            (false, _) => break,
        }
        break;
    }
    source.rewind()?;
    Ok(found)
}

/// Checks the pages of an Ogg file whose packets another decoder reads, which skips pages that are damaged or missing; the source is
/// rewound. A file that ends within a page is left to that decoder, unless `whole` asks for its end.
pub(super) fn check_pages<S: Read + Seek + ?Sized>(path: &Path, source: &mut S, whole: bool) -> Result<()> {
    let mut reader = BufReader::with_capacity(1 << 16, &mut *source);
    // The last page of each stream, and whether it marks the end.
    let mut streams: HashMap<u32, (u32, bool)> = HashMap::new();
    let mut at = 0;
    loop {
        let place = format!("at byte {at}");
        let ended = !streams.is_empty() && streams.values().all(|(_, last)| *last);
        let page = match OggPage::read(&mut reader) {
            Ok(Some(page)) => page,
            Ok(None) => break,
            // What follows the end is no part of the recording, such as a tag.
            Err(PageFault::NoPage | PageFault::Cut) if ended => break,
            Err(PageFault::Cut) if !whole => break,
            Err(fault) => return Err(broken(path, &fault, &place)),
        };
        at += page.size;
        let before = streams.insert(page.serial, (page.sequence, page.last));
        let follows = before.is_none_or(|(before, _)| page.sequence == before.wrapping_add(1));
        if !page.first && !follows {
            return Err(damaged(path, format!("is damaged {place}: an Ogg page is missing, or the pages are not in order")).hint(AGAIN));
        }
    }
    drop(reader);
    source.rewind().map_err(|error| broken(path, &PageFault::Io(error), "at its start"))
}

/// An Opus stream of an Ogg file.
struct OggOpus {
    path: PathBuf,
    reader: BufReader<Box<dyn MediaSource>>,
    codec: OpusCodec,
    serial: u32,
    sequence: u32,
    /// Header packets that were not passed yet: the comments.
    headers: usize,
    packets: VecDeque<Vec<u8>>,
    /// The beginning of a packet that the next page continues.
    partial: Vec<u8>,
    /// Position in the stream after the packets decoded so far, and of the end if it is known.
    position: Option<i64>,
    end: Option<i64>,
    /// Frames of pre-skip that are still to be dropped.
    skip: u64,
    frames: u64,
    finished: bool,
    end_is_marked: bool,
}

/// Opens an Ogg file whose [`codec`] is Opus.
pub(super) fn open(path: &Path, source: Box<dyn MediaSource>) -> Result<Box<dyn Decode>> {
    let mut reader = BufReader::with_capacity(1 << 16, source);
    loop {
        let page = match OggPage::read(&mut reader) {
            Ok(Some(page)) => page,
            Ok(None) | Err(PageFault::Cut) => return Err(damaged(path, "is truncated: it ends within its header").hint(AGAIN)),
            Err(fault) => return Err(broken(path, &fault, "at its start")),
        };
        let Some(head) = page.pieces.first().filter(|(piece, _)| piece.starts_with(b"OpusHead")) else { continue };
        let unsupported = || damaged(path, "has an Opus header that is not supported").hint(CONVERT);
        let head = OpusHead::read(&head.0, false).ok_or_else(unsupported)?;
        let codec = OpusCodec::new(&head).map_err(|error| damaged(path, format!("is damaged: {error}")).hint(AGAIN))?;
        return Ok(Box::new(OggOpus {
            path: path.to_owned(),
            reader,
            codec,
            serial: page.serial,
            sequence: page.sequence,
            headers: 1,
            packets: VecDeque::new(),
            partial: Vec::new(),
            position: None,
            end: None,
            skip: u64::from(head.pre_skip),
            frames: 0,
            finished: false,
            end_is_marked: false,
        }));
    }
}

fn broken(path: &Path, fault: &PageFault, place: &str) -> Error {
    match fault {
        PageFault::Cut => damaged(path, format!("is truncated: it ends {place}, in the middle of the audio")).hint(AGAIN),
        PageFault::NoPage => damaged(path, format!("is damaged {place}: there is no Ogg page")).hint(AGAIN),
        PageFault::Checksum => damaged(path, format!("is damaged {place}: an Ogg page does not match its checksum")).hint(AGAIN),
        PageFault::Io(error) => Error::new(format!("cannot read {}: {error}", path.display())).at(path).environment(),
    }
}

impl Decode for OggOpus {
    fn next(&mut self, interleaved: &mut Vec<f32>) -> Result<Option<Shape>> {
        while self.packets.is_empty() {
            if self.finished || !self.read_page()? {
                return Ok(None);
            }
        }
        let Some(packet) = self.packets.pop_front() else { return Ok(None) };
        self.codec
            .decode(&packet, interleaved)
            .map_err(|error| damaged(&self.path, format!("is damaged after {}: {error}", time(self.frames, RATE))).hint(AGAIN))?;
        let width = usize::from(self.codec.channels);
        let mut frames = (interleaved.len() / width) as u64;
        let position = self.position.unwrap_or(0);
        if let Some(end) = self.end {
            frames = frames.min(u64::try_from(end - position).unwrap_or(0));
            interleaved.truncate(frames as usize * width);
        }
        self.position = Some(position.saturating_add_unsigned(frames));
        let dropped = self.skip.min(frames);
        self.skip -= dropped;
        interleaved.drain(..dropped as usize * width);
        self.frames += frames;
        Ok(Some((RATE, self.codec.channels)))
    }

    fn notes(&self) -> Vec<String> {
        let unmarked = "its Ogg stream has no end mark: it may have been cut short".to_owned();
        if self.finished && !self.end_is_marked { vec![unmarked] } else { Vec::new() }
    }
}

impl OggOpus {
    /// Reads the next page of the stream into `packets`. Returns false at the end of the stream.
    fn read_page(&mut self) -> Result<bool> {
        let place = format!("after {}", time(self.frames, RATE));
        let truncated = || broken(&self.path, &PageFault::Cut, &place);
        let page = match OggPage::read(&mut self.reader) {
            Ok(Some(page)) => page,
            Ok(None) if self.end_is_marked || (self.partial.is_empty() && self.headers == 0) => {
                self.finished = true;
                return Ok(false);
            }
            Ok(None) => return Err(truncated()),
            // What follows the end is no part of the recording, such as a tag.
            Err(PageFault::NoPage | PageFault::Cut) if self.end_is_marked => {
                self.finished = true;
                return Ok(false);
            }
            Err(fault) => return Err(broken(&self.path, &fault, &place)),
        };
        if page.first && self.frames > 0 {
            let several = format!("contains several recordings, the next one {place}");
            return Err(damaged(&self.path, several).hint("split it into one file per recording"));
        }
        if page.serial != self.serial || self.end_is_marked {
            return Ok(true);
        }
        if page.sequence != self.sequence.wrapping_add(1) || page.continues == self.partial.is_empty() {
            return Err(damaged(&self.path, format!("is damaged {place}: an Ogg page is missing")).hint(AGAIN));
        }
        self.sequence = page.sequence;
        for (piece, complete) in page.pieces {
            self.partial.extend_from_slice(&piece);
            if self.partial.len() > LONGEST_PACKET && self.headers == 0 {
                return Err(damaged(&self.path, format!("is damaged {place}: a packet is too long")).hint(AGAIN));
            }
            if complete {
                let packet = std::mem::take(&mut self.partial);
                if self.headers > 0 {
                    self.headers -= 1;
                } else {
                    self.packets.push_back(packet);
                }
            }
        }
        self.end_is_marked = page.last;
        if page.last && !self.partial.is_empty() {
            return Err(truncated());
        }
        let Some(granule) = page.granule.and_then(|granule| i64::try_from(granule).ok()) else { return Ok(true) };
        if self.position.is_none() && !self.packets.is_empty() {
            let frames: u64 = self.packets.iter().map(|packet| packet_frames(packet)).sum();
            // A stream may begin later than at 0. If the first page is the last one too, what is too much is at its end.
            let start = granule.saturating_sub_unsigned(frames);
            self.position = Some(if page.last { start.max(0) } else { start });
        }
        if page.last {
            self.end = Some(granule);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn page(flags: u8, serial: u32, sequence: u32) -> Vec<u8> {
        let mut page =
            [b"OggS\0", [flags].as_slice(), &[0; 8], &serial.to_le_bytes(), &sequence.to_le_bytes(), &[0; 4], &[1, 2], b"ab"].concat();
        let checksum = crc(&page);
        page[22..26].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    #[test]
    fn pages_are_whole_and_in_order() {
        let (first, middle, last) = (page(2, 7, 0), page(0, 7, 1), page(4, 7, 2));
        let check = |pages: &[&[u8]]| check_pages(Path::new("x"), &mut Cursor::new(pages.concat()), true).err().map(|error| error.message);
        assert_eq!(check(&[&first, &middle, &last]), None);
        assert_eq!(check(&[&first, &page(2, 8, 5), &middle, &page(0, 8, 6), &last]), None, "two streams");
        assert_eq!(check(&[&first, &middle, &last, b"TAG and more"]), None, "a tag behind the end");
        assert_eq!(check(&[&first, &middle, &last, &first]), None, "a second recording is told by the decoder");
        let order = |at: u32| Some(format!("x is damaged at byte {at}: an Ogg page is missing, or the pages are not in order"));
        assert_eq!(check(&[&first, &last]), order(30));
        assert_eq!(check(&[&first, &middle, &middle, &last]), order(60));
        assert_eq!(check(&[&first, &last, &middle]), order(30));
        let mut bad = middle.clone();
        bad[28] ^= 1;
        assert_eq!(check(&[&first, &bad, &last]), Some("x is damaged at byte 30: an Ogg page does not match its checksum".to_owned()));
        assert_eq!(
            check(&[&first, b"junk that is longer than a page of it", &last]),
            Some("x is damaged at byte 30: there is no Ogg page".to_owned())
        );
        assert_eq!(check(&[&first, &middle[..20]]), Some("x is truncated: it ends at byte 30, in the middle of the audio".to_owned()));
    }
}
