//! Every audio format against what ffmpeg 5.1 makes of the same file, headers that tell lies, edit lists, tags, and damage.

use std::fs;
use std::path::{Path, PathBuf};

use voxtral::audio::{LoadOptions, Loaded, decode, decode_built_in, decode_bytes, load, load_blocks, load_with, read_wav16k};

/// File, rate, channels, and seconds and level (root mean square) after ffmpeg decoded it; of several channels, the mean.
/// Made by `tests/audio/make.sh`. The level of `speech-six.opus` is that of its channels with sound; the end of `speech.ogg` is where it
/// declares it (ffmpeg decodes 28 ms more).
const EXPECTED: [(&str, u32, u16, f64, f64); 24] = [
    ("speech.wav", 16_000, 1, 0.7475, 0.0967),
    ("speech-stereo.wav", 48_000, 2, 0.1, 0.1594),
    ("speech.flac", 16_000, 1, 0.7475, 0.0967),
    ("speech.mp3", 16_000, 1, 0.7475, 0.0919),
    ("speech-no-count.mp3", 16_000, 1, 0.8280, 0.0873),
    ("speech.ogg", 16_000, 1, 0.7475, 0.0969),
    ("speech.m4a", 16_000, 1, 0.7680, 0.0955),
    ("speech-alac.m4a", 16_000, 1, 0.7475, 0.0967),
    ("speech.opus", 48_000, 1, 0.7475, 0.0951),
    ("speech-hybrid.opus", 48_000, 1, 0.7475, 0.0960),
    ("speech-stereo.opus", 48_000, 2, 0.1, 0.1580),
    ("speech-six.opus", 48_000, 6, 0.1, 0.1574),
    ("speech.webm", 48_000, 1, 0.7475, 0.0960),
    ("speech-live.webm", 48_000, 1, 0.7475, 0.0960),
    ("speech-opus.mp4", 48_000, 1, 0.7535, 0.0957),
    ("speech-video.mp4", 16_000, 1, 0.7680, 0.0955),
    ("speech-video.mov", 16_000, 1, 0.7475, 0.0967),
    ("speech-vorbis.mkv", 16_000, 1, 0.7760, 0.0950),
    ("speech-flac.mka", 16_000, 1, 0.7475, 0.0967),
    ("speech-pcm.mka", 48_000, 2, 0.1, 0.1594),
    ("speech-alac.caf", 16_000, 1, 0.7475, 0.0967),
    ("speech.aiff", 16_000, 1, 0.2, 0.1310),
    ("speech-little.aifc", 16_000, 1, 0.2, 0.1310),
    ("speech.aac", 16_000, 1, 0.8320, 0.0948),
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/audio").join(name)
}

fn bytes_of(name: &str) -> Vec<u8> {
    fs::read(fixture(name)).unwrap()
}

fn rms(samples: &[f32]) -> f64 {
    (samples.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / samples.len() as f64).sqrt()
}

/// A file in a folder of its own.
struct Made {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn made(name: &str, bytes: &[u8]) -> Made {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    Made { _folder: folder, path }
}

fn loaded(name: &str, bytes: &[u8]) -> Loaded {
    load_with(&made(name, bytes).path, &LoadOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(name: &str, bytes: &[u8], what: &str) {
    let error = load(&made(name, bytes).path).unwrap_err();
    assert!(error.message.contains(name) && error.message.contains(what), "{error}");
    assert!(error.hint.is_some(), "{error}: no hint");
}

#[test]
fn every_format_has_the_length_and_the_level_that_ffmpeg_gives() {
    for (name, rate, channels, seconds, level) in EXPECTED {
        let found = load_with(&fixture(name), &LoadOptions::default()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((found.rate, found.channels), (rate, channels), "{name}");
        let length = found.samples.len() as f64 / 16_000.0;
        assert!((length - seconds).abs() < 0.001, "{name}: {length} s instead of {seconds} s");
        assert!((rms(&found.samples) / level - 1.0).abs() < 0.01, "{name}: {} instead of {level}", rms(&found.samples));
        // The same from memory, in blocks, and under another name.
        assert_eq!(decode_bytes("row 7".as_ref(), bytes_of(name)).unwrap(), decode(&fixture(name)).unwrap());
        let mut blocks = Vec::new();
        let info = load_blocks(&fixture(name), &LoadOptions::default(), &mut |block| {
            blocks.extend_from_slice(block);
            Ok(true)
        });
        assert_eq!(info.unwrap().notes, found.notes, "{name}");
        assert!(blocks == found.samples, "{name}");
        for other in ["voice.mp3", "voice.wav", "voice"] {
            assert!(loaded(other, &bytes_of(name)).samples == found.samples, "{name} as {other}");
        }
    }
    let notes = load_with(&fixture("speech-six.opus"), &LoadOptions::default()).unwrap().notes;
    assert_eq!(notes, ["channel 5, channel 6 are silent and were left out of the mix"]);
}

#[test]
fn sound_starts_when_it_was_spoken() {
    let expected = load(&fixture("speech.wav")).unwrap();
    // How far a file is shifted against the original, in samples of 16 kHz: nowhere but where a file does not declare its encoder delay.
    for (name, delay) in [
        ("speech.mp3", 0),
        ("speech.m4a", 0),
        ("speech-video.mp4", 0),
        ("speech.ogg", 0),
        ("speech.opus", 0),
        ("speech-hybrid.opus", 0),
        ("speech.webm", 0),
        ("speech-live.webm", 0),
        ("speech-opus.mp4", 0),
        ("speech-vorbis.mkv", 0),
        ("speech.aac", 1024),
    ] {
        let found = load(&fixture(name)).unwrap();
        let like = |shift: i64| -> f64 {
            let pair = |(n, x): (usize, &f32)| f64::from(*x) * f64::from(*found.get((n as i64 + delay + shift) as usize).unwrap_or(&0.0));
            expected.iter().enumerate().skip(200).map(pair).sum()
        };
        let best = (-100..100).max_by(|a, b| like(*a).total_cmp(&like(*b))).unwrap();
        assert!(best.abs() <= 16, "{name} is shifted by {best} samples");
    }
}

/// A WAV header around samples of 16 bits.
fn wav(form: &[u8], riff_size: u32, chunks: &[u8], data_size: u32, data: &[u8]) -> Vec<u8> {
    let format = [&16_u32.to_le_bytes()[..], &[1, 0, 1, 0], &16_000_u32.to_le_bytes(), &32_000_u32.to_le_bytes(), &[2, 0, 16, 0]].concat();
    [form, &riff_size.to_le_bytes(), b"WAVE", chunks, b"fmt ", &format, b"data", &data_size.to_le_bytes(), data].concat()
}

#[test]
fn headers_that_tell_lies_are_read_as_far_as_the_sound_goes() {
    let sound = read_wav16k(&fixture("speech.wav")).unwrap();
    let data: Vec<u8> = sound.iter().flat_map(|sample| ((sample * 32_768.0) as i16).to_le_bytes()).collect();
    let size = data.len() as u32;
    let riff = size + 36;
    let long =
        |riff: u64, data: u64| [b"ds64".as_slice(), &28_u32.to_le_bytes(), &riff.to_le_bytes(), &data.to_le_bytes(), &[0; 12]].concat();
    let list = |size: u32, body: &[u8]| [b"LIST", size.to_le_bytes().as_slice(), body].concat();
    let open = "does not know the length";
    let wrong = "the size in its header is wrong";
    let chunk = "a chunk of its header has a wrong size";
    let big = u32::MAX;
    let cases: [(&str, Vec<u8>, &str); 21] = [
        ("as it should be", wav(b"RIFF", riff, &[], size, &data), ""),
        ("no size", wav(b"RIFF", 0, &[], 0, &data), open),
        ("no size of the data", wav(b"RIFF", riff, &[], 0, &data), open),
        ("a stream", wav(b"RIFF", big, &[], big, &data), open),
        ("a stream of sox", wav(b"RIFF", 0x7fff_f024, &[], 0x7fff_f000, &data), open),
        ("a stream of others", wav(b"RIFF", 0x7fff_ffff, &[], 0x7fff_ffff, &data), open),
        ("a RIFF size of zero", wav(b"RIFF", 0, &[], size, &data), wrong),
        ("a RIFF size of the header", wav(b"RIFF", 36, &[], size, &data), wrong),
        ("a RIFF size without eight bytes", wav(b"RIFF", riff - 8, &[], size, &data), wrong),
        ("a RIFF size of the whole file", wav(b"RIFF", riff + 8, &[], size, &data), ""),
        ("a RIFF size beyond the end", wav(b"RIFF", riff + 5000, &[], size, &data), ""),
        ("RF64", wav(b"RF64", big, &long(u64::from(riff) + 36, u64::from(size)), big, &data), ""),
        ("BW64", wav(b"BW64", big, &long(u64::from(riff) + 36, u64::from(size)), big, &data), ""),
        ("RF64 of a stream", wav(b"RF64", big, &long(0, 0), big, &data), open),
        ("RF64 with short sizes", wav(b"RF64", riff, &long(0, 0), size, &data), ""),
        ("an overrun inside of a list", wav(b"RIFF", riff + 20, &list(12, b"INFOISFT\xc8\0\0\0"), size, &data), ""),
        ("a list of odd size", wav(b"RIFF", riff + 14, &list(5, b"INFO!\0"), size, &data), ""),
        ("a list of odd size that is not filled up", wav(b"RIFF", riff + 13, &list(5, b"INFO!"), size, &data), ""),
        ("an unknown chunk", wav(b"RIFF", riff + 12, b"junk\x04\0\0\0abcd", size, &data), ""),
        ("chunks behind", [wav(b"RIFF", riff + 108, &[], size, &data), list(100, &[0x70; 100])].concat(), ""),
        ("a tag behind", [wav(b"RIFF", riff, &[], size, &data), b"TAG".to_vec(), vec![0x70; 125]].concat(), ""),
    ];
    for (what, bytes, note) in cases {
        let found = loaded("voice.wav", &bytes);
        assert!(found.samples == sound, "{what}: {} samples instead of {}", found.samples.len(), sound.len());
        assert_eq!(found.notes.is_empty(), note.is_empty(), "{what}: {:?}", found.notes);
        assert!(found.notes.iter().all(|found| found.contains(note)), "{what}: {:?}", found.notes);
        assert!(voxtral::audio::load_stream("standard input".as_ref(), bytes).unwrap() == sound, "{what}");
    }
    // A list in front of the samples that reaches beyond the end of the file.
    let mut overrun = wav(b"RIFF", riff + 12, &[], size, &data);
    overrun.splice(36..36, list(size + 4000, b"INFO"));
    let found = loaded("voice.wav", &overrun);
    assert!(found.samples == sound && found.notes[0].contains(chunk), "{:?}", found.notes);
    // Big-endian, and 8 bytes that are half a sample too much.
    let swapped: Vec<u8> = data.chunks(2).flat_map(|two| [two[1], two[0]]).collect();
    let format = [&16_u32.to_be_bytes()[..], &[0, 1, 0, 1], &16_000_u32.to_be_bytes(), &32_000_u32.to_be_bytes(), &[0, 2, 0, 16]].concat();
    let rifx = [b"RIFX".as_slice(), &riff.to_be_bytes(), b"WAVEfmt ", &format, b"data", &size.to_be_bytes(), &swapped].concat();
    assert!(loaded("voice.wav", &rifx).samples == sound);
    let odd = [wav(b"RIFF", 0, &[], 0, &data), vec![1]].concat();
    assert!(loaded("voice.wav", &odd).samples == sound);

    // What is plausible and more than there is was cut short.
    refused("cut.wav", &wav(b"RIFF", riff, &[], size, &data[..9000]), "is truncated");
    refused("cut.wav", &wav(b"RIFF", 0, &[], size, &data[..9000]), "is truncated");
    refused("cut.wav", &wav(b"RF64", big, &long(0, u64::from(size)), big, &data[..9000]), "is truncated");
    refused("empty.wav", &wav(b"RIFF", 36, &[], 0, &[]), "contains 0 samples");
    refused("empty.wav", &[wav(b"RIFF", 48, &[], 0, &[]), list(4, b"INFO")].concat(), "contains 0 samples");
}

#[test]
fn tags_around_the_audio_are_no_sound() {
    let id3v1 = [b"TAG".as_slice(), &[b'x'; 125]].concat();
    let ape = [b"APETAGEX".as_slice(), &2000_u32.to_le_bytes(), &42_u32.to_le_bytes(), &[1, 0, 0, 0], &[0; 12], &[7; 10]].concat();
    // The footer counts itself and the items.
    let ape = [&ape[32..], &ape[..32]].concat();
    let id3v2 = [b"ID3\x04\0\0\0\0\x01\x02".as_slice(), &[0; 130]].concat();
    for name in ["speech.flac", "speech.mp3", "speech-no-count.mp3", "speech.wav", "speech.aac"] {
        let (sound, bytes) = (load(&fixture(name)).unwrap(), bytes_of(name));
        for back in [&id3v1, &ape, &[ape.clone(), id3v1.clone()].concat()] {
            assert!(loaded("voice", &[bytes.as_slice(), back].concat()).samples == sound, "{name} with {} bytes behind", back.len());
        }
        if !matches!(name, "speech.wav" | "speech.mp3") {
            assert!(loaded("voice", &[id3v2.as_slice(), &bytes, &id3v1].concat()).samples == sound, "{name} with ID3v2");
        }
    }
}

/// An M4A whose edit list is another one.
fn edited(duration: u32, start: i32) -> Vec<u8> {
    let mut bytes = bytes_of("speech.m4a");
    let list = bytes.windows(4).position(|kind| kind == b"elst").unwrap() + 12;
    bytes[list..list + 4].copy_from_slice(&duration.to_be_bytes());
    bytes[list + 4..list + 8].copy_from_slice(&start.to_be_bytes());
    bytes
}

#[test]
fn what_was_cut_away_is_not_heard() {
    let whole = load(&fixture("speech.m4a")).unwrap();
    // Up to the end of the packet in which the part ends, as ffmpeg does.
    for (duration, start, from, length) in
        [(748, 1024, 0, 12_288), (300, 1024 + 3200, 3200, 5 * 1024 - 128), (100, 1024, 0, 2048), (128, 1024, 0, 2048)]
    {
        let found = loaded("cut.m4a", &edited(duration, start));
        assert_eq!(found.samples.len(), length, "{duration} ms from {start}");
        assert!(found.samples == whole[from..from + length], "{duration} ms from {start}");
        let told = found.notes.iter().any(|note| note.contains("edit list"));
        assert_eq!(told, duration < 700, "{:?}", found.notes);
    }
    assert_eq!(loaded("cut.m4a", &edited(0, 1024)).samples, whole, "a fragmented file does not know its length");
    refused("cut.m4a", &edited(100, 60_000), "0 samples");
}

#[test]
fn opus_pages_are_all_there() {
    let bytes = bytes_of("speech-hybrid.opus");
    let pages: Vec<usize> = bytes.windows(4).enumerate().filter(|(_, name)| name == b"OggS").map(|(at, _)| at).collect();
    assert!(pages.len() >= 3, "{pages:?}");
    for cut in [bytes.len() - 1, bytes.len() - 500, pages[2] + 10] {
        refused("cut.opus", &bytes[..cut], "is truncated: it ends after 0.");
    }
    refused("head.opus", &bytes[..pages[2]], "contains 0 samples");
    refused("head.opus", &bytes[..pages[1] - 4], "is truncated");
    let mut damaged = bytes.clone();
    damaged[pages[2] + 200] ^= 1;
    refused("damaged.opus", &damaged, "does not match its checksum");
    let doubled = [&bytes[..], &bytes[..]].concat();
    refused("two.opus", &doubled, "contains several recordings, the next one after 0.75 s");
    // Something behind the end is no sound.
    let sound = load(&fixture("speech-hybrid.opus")).unwrap();
    assert!(loaded("tag.opus", &[bytes.as_slice(), &[b'x'; 128]].concat()).samples == sound);
}

#[test]
fn uncompressed_files_need_no_library() {
    let sound = read_wav16k(&fixture("speech.wav")).unwrap();
    let ints: Vec<i32> = sound.iter().map(|sample| (sample * 32_768.0) as i32).collect();
    let s16: Vec<u8> = ints.iter().flat_map(|value| (*value as i16).to_be_bytes()).collect();
    let s24: Vec<u8> = ints.iter().flat_map(|value| (value << 16).to_be_bytes()[..3].to_vec()).collect();
    let s32: Vec<u8> = ints.iter().flat_map(|value| (value << 16).to_be_bytes()).collect();
    let f32s: Vec<u8> = sound.iter().flat_map(|sample| sample.to_be_bytes()).collect();
    let f64s: Vec<u8> = sound.iter().flat_map(|sample| f64::from(*sample).to_be_bytes()).collect();
    let au = |encoding: u32, size: u32, data: &[u8]| {
        let head: Vec<u8> = [28, size, encoding, 16_000, 1].iter().flat_map(|word: &u32| word.to_be_bytes()).collect();
        [b".snd".as_slice(), &head, b"note", data].concat()
    };
    for (encoding, data) in [(3, &s16), (4, &s24), (5, &s32), (6, &f32s), (7, &f64s)] {
        for size in [data.len() as u32, u32::MAX] {
            assert!(loaded("voice.au", &au(encoding, size, data)).samples == sound, "encoding {encoding}");
        }
        refused("cut.au", &au(encoding, data.len() as u32, &data[..1000]), "is truncated");
    }
    let caf = |flags: u32, bits: u32, size: i64, data: &[u8]| {
        let head: Vec<u8> = [flags, bits / 8, 1, 1, bits].iter().flat_map(|word: &u32| word.to_be_bytes()).collect();
        let desc = [16_000_f64.to_be_bytes().as_slice(), b"lpcm", &head].concat();
        [b"caff\0\x01\0\0desc".as_slice(), &32_i64.to_be_bytes(), &desc, b"data", &size.to_be_bytes(), &[0; 4], data].concat()
    };
    let little: Vec<u8> = s16.chunks(2).flat_map(|two| [two[1], two[0]]).collect();
    for (flags, bits, data) in [(0, 16, &s16), (2, 16, &little), (0, 24, &s24), (1, 32, &f32s), (1, 64, &f64s)] {
        for size in [data.len() as i64 + 4, -1] {
            assert!(loaded("voice.caf", &caf(flags, bits, size, data)).samples == sound, "{bits} bits, flags {flags}");
        }
    }
    refused("cut.caf", &caf(0, 16, s16.len() as i64 + 4, &s16[..1000]), "is truncated");
}

/// A QuickTime movie with samples of one channel and 16 kHz in its own encodings, which have the byte order in an atom of their own.
fn movie(codec: &[u8; 4], order: Option<u8>, width: u32, data: &[u8]) -> Vec<u8> {
    let atom = |kind: &[u8; 4], parts: &[&[u8]]| {
        let body = parts.concat();
        [&(8 + body.len() as u32).to_be_bytes(), kind.as_slice(), &body].concat()
    };
    let words = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|word| word.to_be_bytes()).collect() };
    let frames = data.len() as u32 / width;
    let matrix = words(&[0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x4000_0000]);
    let wave = order.map(|flag| atom(b"wave", &[&atom(b"frma", &[codec]), &atom(b"enda", &[&[0, flag]]), &words(&[8, 0])]));
    let sizes = words(&[0x0001_0000, 0, 0x0001_0010, 0, 16_000 << 16, 1, width, width, 2]);
    let entry = atom(codec, &[&[0, 0, 0, 0, 0, 0, 0, 1], &sizes, &wave.unwrap_or_default()]);
    let table = [
        atom(b"stsd", &[&words(&[0, 1]), &entry]),
        atom(b"stts", &[&words(&[0, 1, frames, 1])]),
        atom(b"stsc", &[&words(&[0, 1, 1, frames, 1])]),
        atom(b"stsz", &[&words(&[0, width, frames])]),
        atom(b"stco", &[&words(&[0, 1, 28])]),
    ];
    let data_place = atom(b"dinf", &[&atom(b"dref", &[&words(&[0, 1]), &atom(b"url ", &[&words(&[1])])])]);
    let info = atom(b"minf", &[&atom(b"smhd", &[&words(&[0, 0])]), &data_place, &atom(b"stbl", &[&table.concat()])]);
    let header = atom(b"mdhd", &[&words(&[0, 0, 0, 16_000, frames, 0x7fff_0000])]);
    let media = atom(b"mdia", &[&header, &atom(b"hdlr", &[&words(&[0]), b"mhlrsoun", &[0; 13]]), &info]);
    let track = atom(b"tkhd", &[&words(&[3, 0, 0, 1, 0, frames, 0, 0, 0, 0x0100_0000]), &matrix, &words(&[0, 0])]);
    let movie = atom(b"mvhd", &[&words(&[0, 0, 0, 16_000, frames, 0x10000, 0x0100_0000, 0, 0]), &matrix, &words(&[0, 0, 0, 0, 0, 0, 2])]);
    let moov = atom(b"moov", &[&movie, &atom(b"trak", &[&track, &media])]);
    [atom(b"ftyp", &[b"qt  \0\0\x02\0qt  "]), atom(b"mdat", &[data]), moov].concat()
}

#[test]
fn samples_of_quicktime_are_read_in_their_byte_order() {
    let sound = read_wav16k(&fixture("speech.wav")).unwrap();
    let ints: Vec<i32> = sound.iter().map(|sample| (sample * 32_768.0) as i32).collect();
    let s24: Vec<u8> = ints.iter().flat_map(|value| (value << 16).to_be_bytes()[..3].to_vec()).collect();
    let s32: Vec<u8> = ints.iter().flat_map(|value| (value << 16).to_be_bytes()).collect();
    let f32s: Vec<u8> = sound.iter().flat_map(|sample| sample.to_be_bytes()).collect();
    let f64s: Vec<u8> = sound.iter().flat_map(|sample| f64::from(*sample).to_be_bytes()).collect();
    for (codec, width, data) in [(b"in24", 3, &s24), (b"in32", 4, &s32), (b"fl32", 4, &f32s), (b"fl64", 8, &f64s)] {
        let little: Vec<u8> = data.chunks(width).flat_map(|bytes| bytes.iter().rev().copied()).collect();
        for (order, data) in [(None, data), (Some(0), data), (Some(1), &little)] {
            let found = loaded("voice.mov", &movie(codec, order, width as u32, data));
            assert!(found.samples == sound, "{} {order:?}", String::from_utf8_lossy(codec));
        }
    }
}

/// A player skips what is damaged, and nobody hears that words are missing.
#[test]
fn pages_of_vorbis_are_all_there() {
    let bytes = bytes_of("speech.ogg");
    let pages: Vec<usize> = bytes.windows(4).enumerate().filter(|(_, name)| name == b"OggS").map(|(at, _)| at).collect();
    let mut damaged = bytes.clone();
    damaged[pages[2] + 500] ^= 1;
    refused("damaged.ogg", &damaged, "does not match its checksum");
    let twice = [&bytes[..pages[2]], &bytes[pages[1]..]].concat();
    refused("twice.ogg", &twice, "an Ogg page is missing, or the pages are not in order");
    let missing = [&bytes[..pages[1]], &bytes[pages[2]..]].concat();
    refused("missing.ogg", &missing, "an Ogg page is missing, or the pages are not in order");
    let sound = load(&fixture("speech.ogg")).unwrap();
    assert!(loaded("tag.ogg", &[bytes.as_slice(), &[b'x'; 128]].concat()).samples == sound);
}

/// HE-AAC decoded as AAC has half its bandwidth, and nobody hears that it is wrong.
#[test]
fn spectral_band_replication_is_noticed() {
    let noticed = |bytes: &[u8]| {
        let error = decode_built_in(&made("voice.m4a", bytes).path).err();
        error
            .is_some_and(|error| error.message.contains("is HE-AAC (AAC with spectral band replication), for which no decoder is built in"))
    };
    // The object type in the configuration: 2 is AAC-LC, 5 is HE-AAC.
    let mut declared = bytes_of("speech.m4a");
    let config = declared.windows(4).position(|kind| kind == b"esds").unwrap();
    let place = config + declared[config..].windows(2).position(|bytes| bytes == [0x14, 0x08]).unwrap();
    assert!(!noticed(&declared));
    declared[place] = 0x2c;
    assert!(noticed(&declared));
    // Nothing declares it: a fill element at the end of every block of ADTS.
    let bytes = bytes_of("speech.aac");
    assert!(!noticed(&bytes));
    let mut implicit = Vec::new();
    let mut rest = bytes.as_slice();
    while rest.len() > 7 {
        let length = usize::from(rest[3] & 3) << 11 | usize::from(rest[4]) << 3 | usize::from(rest[5]) >> 5;
        let (frame, after) = rest.split_at(length);
        rest = after;
        let mut bits: Vec<bool> = frame[7..].iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 > 0)).collect();
        while bits.pop() == Some(false) {}
        bits.truncate(bits.len() - 2);
        // A fill element of three bytes: the extension 13, and the end of the block.
        for (value, count) in [(6, 3), (3, 4), (0xd5, 8), (0x12, 8), (0x34, 8), (7, 3)] {
            bits.extend((0..count).rev().map(|bit| value >> bit & 1 > 0));
        }
        let block: Vec<u8> =
            bits.chunks(8).map(|byte| byte.iter().enumerate().fold(0, |sum, (n, bit)| sum | u8::from(*bit) << (7 - n))).collect();
        let mut head = frame[..7].to_vec();
        let length = block.len() + 7;
        head[3] = head[3] & 0xfc | (length >> 11) as u8;
        head[4] = (length >> 3) as u8;
        head[5] = head[5] & 0x1f | (length << 5) as u8;
        implicit.extend_from_slice(&head);
        implicit.extend_from_slice(&block);
    }
    assert!(noticed(&implicit));
}

#[test]
fn what_was_cut_short_or_is_no_sound_is_refused() {
    let stream = bytes_of("speech-live.webm");
    refused("cut.webm", &stream[..stream.len() - 7], "is truncated");
    let file = bytes_of("speech.webm");
    refused("cut.webm", &file[..file.len() - 7], "is truncated");
    let names = ["WAV", "FLAC", "MP3", "Ogg", "MP4/M4A/MOV", "Matroska/WebM", "CAF", "AIFF", "AU"];
    let error = load(&made("letter.mp3", b"Dear reader, this is not a recording.").path).unwrap_err();
    assert!(names.iter().all(|name| error.message.contains(name)), "{error}");
}
