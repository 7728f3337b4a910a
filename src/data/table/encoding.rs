//! Text files in any encoding: UTF-8 and UTF-16 with and without a byte order mark, and what Windows programs write, which is guessed.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};
use std::collections::BTreeSet;

/// A text file, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DecodedText {
    /// The text, without a byte order mark.
    pub text: String,
    /// How it was read, if that was a guess: "was read as windows-1252 …".
    pub note: Option<String>,
    /// Lines, starting at 1, with bytes that are no text in an otherwise good file.
    pub damaged: BTreeSet<usize>,
}

/// Decodes a text file.
pub fn decode(bytes: &[u8]) -> DecodedText {
    let plain = |text: String| DecodedText { text, ..DecodedText::default() };
    if let Some((encoding, mark)) = Encoding::for_bom(bytes) {
        let rest = bytes.get(mark..).unwrap_or_default();
        return if encoding == UTF_8 { utf8(rest) } else { plain(encoding.decode_without_bom_handling(rest).0.into_owned()) };
    }
    if let Some(encoding) = utf16(bytes) {
        let (text, _) = encoding.decode_without_bom_handling(bytes);
        return DecodedText { note: Some(guessed(encoding)), ..plain(text.into_owned()) };
    }
    utf8(bytes)
}

fn guessed(encoding: &'static Encoding) -> String {
    format!("was read as {}, which is a guess: save it as UTF-8 if letters are wrong", encoding.name())
}

fn utf8(bytes: &[u8]) -> DecodedText {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return DecodedText { text: text.to_owned(), ..DecodedText::default() };
    }
    let (mut good, mut bad) = (0_usize, 0_usize);
    for chunk in bytes.utf8_chunks() {
        good += chunk.valid().chars().filter(|character| !character.is_ascii()).count();
        bad += usize::from(!chunk.invalid().is_empty());
    }
    if good > bad {
        // A UTF-8 file with a few broken lines, not a file in another encoding.
        let damaged = bytes.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| std::str::from_utf8(line).is_err());
        let damaged = damaged.map(|(index, _)| index + 1).collect();
        return DecodedText { text: String::from_utf8_lossy(bytes).into_owned(), note: None, damaged };
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    detector.feed(bytes, true);
    let encoding = detector.guess(None, Utf8Detection::Deny);
    let (text, _) = encoding.decode_without_bom_handling(bytes);
    DecodedText { text: text.into_owned(), note: Some(guessed(encoding)), damaged: BTreeSet::new() }
}

/// UTF-16 without a byte order mark: every other byte of its first part is zero, as tables have ASCII separators and line breaks.
fn utf16(bytes: &[u8]) -> Option<&'static Encoding> {
    let start = bytes.get(..bytes.len().min(4096) & !1)?;
    let zeros = |from: usize| start.iter().skip(from).step_by(2).filter(|byte| **byte == 0).count();
    let (even, odd, half) = (zeros(0), zeros(1), start.len() / 2);
    match () {
        () if half == 0 => None,
        () if odd * 4 > half && even * 20 < odd => Some(UTF_16LE),
        () if even * 4 > half && odd * 20 < even => Some(UTF_16BE),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_encoding_is_read() {
        let text = "file_name\ttext\na.wav\tÉté à Paris\n";
        let wide = |bytes: fn(u16) -> [u8; 2], mark: &[u8]| [mark, &text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>()].concat();
        for (bytes, guess) in [
            (text.as_bytes().to_vec(), None),
            ([b"\xef\xbb\xbf", text.as_bytes()].concat(), None),
            (wide(u16::to_le_bytes, b"\xff\xfe"), None),
            (wide(u16::to_be_bytes, b"\xfe\xff"), None),
            (wide(u16::to_le_bytes, b""), Some("UTF-16LE")),
            (wide(u16::to_be_bytes, b""), Some("UTF-16BE")),
            (encoding_rs::WINDOWS_1252.encode(text).0.into_owned(), Some("windows-1252")),
        ] {
            let read = decode(&bytes);
            assert_eq!((read.text.as_str(), read.note.is_some()), (text, guess.is_some()), "{guess:?}");
            assert!(guess.is_none_or(|guess| read.note.unwrap().contains(guess)));
        }
        let text = "имя;текст\nа.wav;Съешь ещё этих мягких французских булок\n";
        assert_eq!(decode(&encoding_rs::WINDOWS_1251.encode(text).0).text, text);
        let text = "plik;tekst\na.wav;Zażółć gęślą jaźń, proszę państwa\n";
        assert_eq!(decode(&encoding_rs::WINDOWS_1250.encode(text).0).text, text);
        assert_eq!(decode(b""), DecodedText::default());
    }

    #[test]
    fn one_broken_line_does_not_change_the_encoding_of_the_others() {
        let bytes = [b"a;\xc3\xa4\xc3\xb6\n".as_slice(), b"b;caf\xe9\n", b"c;\xc3\xbc\n"].concat();
        let read = decode(&bytes);
        assert_eq!(read.damaged, BTreeSet::from([2]));
        assert_eq!((read.text.as_str(), read.note), ("a;äö\nb;caf\u{fffd}\nc;ü\n", None));
    }
}
