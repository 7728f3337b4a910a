//! A part of a file with other bytes in front of it: a file whose header had to be corrected, or one without its tags.

use std::io::{self, Read, Seek, SeekFrom};

use symphonia::core::io::MediaSource;

/// `head`, then the bytes `from..from + length` of `inner`.
pub(super) struct PatchedSource {
    head: Vec<u8>,
    inner: Box<dyn MediaSource>,
    from: u64,
    length: u64,
    at: u64,
}

impl PatchedSource {
    pub(super) fn new(head: Vec<u8>, inner: Box<dyn MediaSource>, from: u64, length: u64) -> Self {
        Self { head, inner, from, length, at: 0 }
    }

    /// Size in bytes.
    pub(super) fn size(&self) -> u64 {
        self.head.len() as u64 + self.length
    }
}

impl Read for PatchedSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let head = self.head.len() as u64;
        let some = if self.at < head {
            let rest = self.head.get(self.at as usize..).unwrap_or_default();
            let some = rest.len().min(buffer.len());
            if let (Some(to), Some(from)) = (buffer.get_mut(..some), rest.get(..some)) {
                to.copy_from_slice(from);
            }
            some
        } else {
            let within = self.at - head;
            let left = usize::try_from(self.length.saturating_sub(within)).unwrap_or(usize::MAX);
            if left == 0 || buffer.is_empty() {
                return Ok(0);
            }
            if within == 0 || self.inner.stream_position()? != self.from + within {
                self.inner.seek(SeekFrom::Start(self.from + within))?;
            }
            let room = left.min(buffer.len());
            self.inner.read(buffer.get_mut(..room).unwrap_or_default())?
        };
        self.at += some as u64;
        Ok(some)
    }
}

impl Seek for PatchedSource {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(offset) => self.size().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.at.checked_add_signed(offset),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

impl MediaSource for PatchedSource {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.size())
    }
}

/// Reads `length` bytes at a position, or as many as there are.
pub(super) fn read_at<S: Read + Seek + ?Sized>(source: &mut S, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.seek(SeekFrom::Start(at))?;
    source.take(length as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Sizes of the tags in front of and behind the audio: ID3v2; and ID3v1, Lyrics3 and APE. The source is rewound.
pub(super) fn tags<S: Read + Seek + ?Sized>(source: &mut S, size: u64) -> io::Result<(u64, u64)> {
    let mut front = 0;
    // Some programs write several ID3v2 tags.
    for _ in 0..4 {
        let head = read_at(source, front, 10)?;
        let [b'I', b'D', b'3', _, _, flags, length @ ..] = head.as_slice() else { break };
        // The length is stored as four groups of seven bits.
        let length = length.iter().fold(0, |sum, byte| sum << 7 | u64::from(byte & 0x7f));
        front += 10 + length + if flags & 0x10 > 0 { 10 } else { 0 };
        if front >= size {
            front = 0;
            break;
        }
    }
    let mut end = size;
    let before = |source: &mut S, end: u64, length: u64| -> io::Result<Vec<u8>> {
        if end < front + length { Ok(Vec::new()) } else { read_at(source, end - length, length as usize) }
    };
    if before(source, end, 128)?.starts_with(b"TAG") {
        end -= 128;
    }
    if let Some(footer) = before(source, end, 32)?.strip_prefix(b"APETAGEX") {
        let number = |at: usize| footer.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |four| u32::from_le_bytes(*four));
        // The length counts the footer, but not the header.
        let length = u64::from(number(4)) + if number(12) >> 31 > 0 { 32 } else { 0 };
        end = end.checked_sub(length).filter(|end| *end >= front).unwrap_or(end);
    }
    source.rewind()?;
    Ok((front, size - end))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn a_patched_source_is_one_file() {
        let inner: Vec<u8> = (0..100).collect();
        let mut source = PatchedSource::new(vec![200, 201, 202], Box::new(Cursor::new(inner)), 10, 20);
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).unwrap();
        let expected: Vec<u8> = [200, 201, 202].into_iter().chain(10..30).collect();
        assert_eq!(bytes, expected);
        for at in 0..=23 {
            source.seek(SeekFrom::End(-at)).unwrap();
            let mut rest = Vec::new();
            source.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, expected[23 - at as usize..]);
        }
        assert_eq!(read_at(&mut source, 21, 10).unwrap(), [28, 29]);
        assert!(source.seek(SeekFrom::Start(50)).is_ok() && source.read(&mut [0; 4]).unwrap() == 0);
        assert!(source.seek(SeekFrom::Current(-51)).is_err());
    }

    #[test]
    fn tags_around_the_audio_are_measured() {
        let id3v2 = [b"ID3\x04\0\0\0\0\x01\x02".as_slice(), &[0; 130]].concat();
        let id3v1 = [b"TAG".as_slice(), &[b' '; 125]].concat();
        let footer = |flags: u32| {
            [b"APETAGEX".as_slice(), &2000_u32.to_le_bytes(), &42_u32.to_le_bytes(), &1_u32.to_le_bytes(), &flags.to_le_bytes(), &[0; 8]]
                .concat()
        };
        let ape = [footer(0xa000_0000), vec![7; 10], footer(0x8000_0000)].concat();
        let sound = vec![0x55; 300];
        for (front, back) in
            [(&[][..], &[][..]), (&id3v2, &[]), (&[], &id3v1), (&id3v2, &ape), (&[], &[ape.clone(), id3v1.clone()].concat())]
        {
            let file = [front, &sound, back].concat();
            let size = file.len() as u64;
            assert_eq!(tags(&mut Cursor::new(file), size).unwrap(), (front.len() as u64, back.len() as u64));
        }
        assert_eq!(tags(&mut Cursor::new(id3v2[..50].to_vec()), 50).unwrap(), (0, 0));
    }
}
