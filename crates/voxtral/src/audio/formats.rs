//! The one table of audio formats: what is read, by which decoder, and under which file names. The content of a file decides, not its name.

use std::path::Path;

/// A container or file format with sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AudioFormat {
    /// Name in messages.
    pub name: &'static str,
    /// Extensions of its files, in lowercase, the usual one first.
    pub extensions: &'static [&'static str],
    /// Codecs that are decoded without another program; empty if there are none.
    pub built_in: &'static str,
    /// Codecs that need the program `ffmpeg`; empty if there are none.
    pub with_ffmpeg: &'static str,
    /// What else is to be known.
    pub remarks: &'static str,
}

/// All formats.
pub const FORMATS: &[AudioFormat] = &[
    AudioFormat {
        name: "WAV",
        extensions: &["wav", "wave", "rf64", "bwf"],
        built_in: "PCM of 8, 16, 24 and 32 bits, float, A-law, µ-law, IMA and Microsoft ADPCM",
        with_ffmpeg: "GSM and other compressed encodings",
        remarks: "also RF64, BW64 and RIFX. A length that the header does not know (0, 0x7fffffff, 0xffffffff) means up to the end of the file; a file shorter than a plausible length is truncated, which is an error",
    },
    AudioFormat {
        name: "FLAC",
        extensions: &["flac"],
        built_in: "FLAC",
        with_ffmpeg: "",
        remarks: "checksums are verified; ID3 and APE tags around it are skipped",
    },
    AudioFormat {
        name: "MP3",
        extensions: &["mp3", "mp2", "mpga"],
        built_in: "MPEG audio, layer 3",
        with_ffmpeg: "layer 2",
        remarks: "the encoder delay that a LAME or Xing header declares is removed",
    },
    AudioFormat {
        name: "Ogg",
        extensions: &["ogg", "oga", "opus", "spx"],
        built_in: "Opus, Vorbis, FLAC",
        with_ffmpeg: "Speex",
        remarks: "voice messages of WhatsApp and Telegram. One recording per file; a missing page is an error",
    },
    AudioFormat {
        name: "MP4/M4A/MOV",
        extensions: &["m4a", "mp4", "m4b", "m4r", "m4v", "mov", "qt", "3gp", "3gpp", "3g2"],
        built_in: "AAC-LC, ALAC, Opus, FLAC, MP3, PCM",
        with_ffmpeg: "HE-AAC, AMR, IMA ADPCM, A-law, µ-law, AC-3",
        remarks: "the first sound track of a video is read. The edit list is obeyed: what was cut away is not heard",
    },
    AudioFormat {
        name: "Matroska/WebM",
        extensions: &["webm", "mkv", "mka"],
        built_in: "Opus, Vorbis, FLAC, AAC-LC, ALAC, MP3, PCM",
        with_ffmpeg: "HE-AAC, AC-3, WavPack",
        remarks: "recordings of browsers, also those without a length. The first sound track of a video is read",
    },
    AudioFormat {
        name: "AAC",
        extensions: &["aac", "adts"],
        built_in: "AAC-LC",
        with_ffmpeg: "HE-AAC",
        remarks: "raw ADTS, which declares no encoder delay",
    },
    AudioFormat {
        name: "AIFF",
        extensions: &["aiff", "aif", "aifc"],
        built_in: "PCM of 8 to 32 bits in both byte orders, float, A-law, µ-law",
        with_ffmpeg: "other encodings of AIFF-C",
        remarks: "",
    },
    AudioFormat {
        name: "CAF",
        extensions: &["caf"],
        built_in: "PCM, float, A-law, µ-law, ALAC, AAC-LC, IMA ADPCM",
        with_ffmpeg: "HE-AAC and other encodings",
        remarks: "recordings of macOS and iOS",
    },
    AudioFormat {
        name: "AU",
        extensions: &["au", "snd"],
        built_in: "PCM of 8 to 32 bits, float, A-law, µ-law",
        with_ffmpeg: "ADPCM",
        remarks: "an unknown length means up to the end of the file",
    },
    AudioFormat {
        name: "AMR",
        extensions: &["amr", "awb"],
        built_in: "",
        with_ffmpeg: "AMR, wideband AMR",
        remarks: "recordings of phones",
    },
    AudioFormat { name: "WMA", extensions: &["wma", "asf", "wmv"], built_in: "", with_ffmpeg: "Windows Media Audio", remarks: "" },
    AudioFormat { name: "WavPack", extensions: &["wv"], built_in: "", with_ffmpeg: "WavPack", remarks: "" },
    AudioFormat {
        name: "others",
        extensions: &["ape", "tta", "ac3", "mpc", "flv", "avi", "mpg", "w64", "sph", "ra", "rm", "voc"],
        built_in: "",
        with_ffmpeg: "Monkey's Audio, True Audio, AC-3, Musepack, Flash video, AVI, MPEG streams, Sony Wave64, NIST SPHERE, RealAudio, Creative Voice",
        remarks: "",
    },
];

/// First bytes of formats that only ffmpeg reads: their place, the bytes, what it is, and the name of the container in ffmpeg.
const FOREIGN: &[(usize, &[u8], &str, &str)] = &[
    (0, b"#!AMR", "AMR", "amr"),
    (0, &[0x30, 0x26, 0xb2, 0x75, 0x8e, 0x66, 0xcf, 0x11], "Windows Media", "asf"),
    (0, b"wvpk", "WavPack", "wv"),
    (0, b"MAC ", "Monkey's Audio", "ape"),
    (0, b"TTA1", "True Audio", "tta"),
    (0, b"MPCK", "Musepack", "mpc8"),
    (0, b"MP+", "Musepack", "mpc"),
    (0, b".RMF", "RealMedia", "rm"),
    (0, b".ra\xfd", "RealAudio", "rm"),
    (0, &[0x0b, 0x77], "AC-3", "ac3"),
    (0, b"FLV\x01", "Flash video", "flv"),
    (0, &[0, 0, 1, 0xba], "an MPEG program stream", "mpeg"),
    (8, b"AVI ", "AVI", "avi"),
    (0, b"riff\x2e\x91\xcf\x11", "Sony Wave64", "w64"),
    (0, b"NIST_1A", "NIST SPHERE", "nistsphere"),
    (0, b"Creative Voice File", "Creative Voice", "voc"),
];

/// What a file is that only ffmpeg reads, and the name of its container in ffmpeg.
pub(super) fn foreign(head: &[u8]) -> Option<(&'static str, &'static str)> {
    // Packets of an MPEG transport stream have 188 bytes and start with a `G`.
    if [0, 188, 376].iter().all(|at| head.get(*at) == Some(&b'G')) {
        return Some(("an MPEG transport stream", "mpegts"));
    }
    let found = FOREIGN.iter().find(|(at, bytes, ..)| head.get(*at..).is_some_and(|rest| rest.starts_with(bytes)));
    found.map(|(_, _, what, demuxer)| (*what, *demuxer))
}

/// Whether the file extension is one of audio, or of video whose sound can be read.
pub fn is_audio(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_lowercase);
    extension.is_some_and(|extension| FORMATS.iter().any(|format| format.extensions.contains(&extension.as_str())))
}

/// The names of all formats, for messages.
pub fn names() -> String {
    let names: Vec<&str> = FORMATS.iter().map(|format| format.name).filter(|name| *name != "others").collect();
    names.join(", ")
}

/// The extensions of all formats that are decoded without another program, for messages.
pub fn extensions() -> String {
    let built_in = FORMATS.iter().filter(|format| !format.built_in.is_empty());
    built_in.flat_map(|format| format.extensions.iter().copied()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_extension_belongs_to_one_format() {
        let mut all: Vec<&str> = FORMATS.iter().flat_map(|format| format.extensions.iter().copied()).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(is_audio("a/b.OPUS".as_ref()) && is_audio("x.Wav".as_ref()) && !is_audio("x.txt".as_ref()) && !is_audio("wav".as_ref()));
        let mut stream = vec![0; 400];
        [0, 188, 376].into_iter().for_each(|at| stream[at] = b'G');
        assert_eq!(foreign(&stream), Some(("an MPEG transport stream", "mpegts")));
        assert_eq!(
            (foreign(b"#!AMR-WB\n"), foreign(b"RIFF\0\0\0\0AVI "), foreign(b"G")),
            (Some(("AMR", "amr")), Some(("AVI", "avi")), None)
        );
        assert!(FORMATS.iter().all(|format| !format.built_in.is_empty() || !format.with_ffmpeg.is_empty()));
    }
}
