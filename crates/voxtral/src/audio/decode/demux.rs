//! Containers and codecs that symphonia reads: packets of a track, decoded one after the other.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use symphonia::core::codecs::audio::well_known::{
    CODEC_ID_AAC, CODEC_ID_OPUS, CODEC_ID_PCM_F32BE, CODEC_ID_PCM_F32LE, CODEC_ID_PCM_F64BE, CODEC_ID_PCM_F64LE, CODEC_ID_PCM_S24BE,
    CODEC_ID_PCM_S24LE, CODEC_ID_PCM_S32BE, CODEC_ID_PCM_S32LE,
};
use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as Refusal;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatReader, Track, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream};
use symphonia::core::packet::Packet;

use super::matroska::{self, MatroskaFile};
use super::mp4::{self, Mp4Header, Mp4Track};
use super::opus::{self, OpusCodec, OpusHead};
use super::trim::Trim;
use super::{AGAIN, CONVERT, Decode, Opened, Shape, aac, damaged, time, wav_header};
use crate::audio::formats;
use crate::error::{Error, Result, ResultExt};

/// A track that symphonia reads.
struct DemuxedTrack {
    path: PathBuf,
    format: Box<dyn FormatReader>,
    decoder: TrackDecoder,
    track: u32,
    /// Packets that were looked at before they are decoded.
    waiting: VecDeque<Packet>,
    /// For MP3: whether the header counts the frames. If not, the decoder estimated a length from the bit rate.
    mp3_counts_frames: Option<bool>,
    /// Frames decoded so far, and their shape.
    frames: u64,
    shape: Shape,
    /// Parts that are heard, once the rate is known.
    edits: Option<Mp4Track>,
    trim: Option<Trim>,
    /// Frames at the start that are encoder delay, not yet removed.
    before: u64,
    /// Frames at the end that may be encoder padding, and the last ones decoded, kept back until it is known.
    after: usize,
    /// Whether it is padding for certain.
    after_is_certain: bool,
    kept: Vec<f32>,
    notes: Vec<String>,
    /// Whether the end of the file is an end of the recording, where no size says so.
    ends_whole: bool,
    done: bool,
}

enum TrackDecoder {
    Symphonia(Box<dyn AudioDecoder>),
    Opus(Box<OpusCodec>),
}

/// Opens what symphonia recognizes. `head` are the first bytes of the file.
pub(super) fn open(path: &Path, mut file: Box<dyn MediaSource>, size: u64, head: &[u8], notes: Vec<String>) -> Result<Opened> {
    let reading = || format!("cannot read {}", path.display());
    // Most files are WAV or FLAC, and need not be looked at.
    let maybe_mp3 = !wav_header::is_wav(head) && !head.starts_with(b"fLaC");
    let mp3_counts = maybe_mp3 && mp3_counts_frames(&mut file).with_context(reading)?;
    let mp4 = if mp4::is_mp4(head) { mp4::read(&mut file).with_context(reading)? } else { Mp4Header::default() };
    if mp4.declared_size > size && head.get(4..8) == Some(b"ftyp") {
        let declared = mp4.declared_size;
        return Err(damaged(path, format!("is truncated: the header declares {declared} bytes, the file has {size}")).hint(AGAIN));
    }
    let matroska =
        if head.starts_with(&EBML) { MatroskaFile::read(&mut file, size).with_context(reading)? } else { MatroskaFile::default() };
    if matroska.declared_size > size {
        let declared = matroska.declared_size;
        return Err(damaged(path, format!("is truncated: the header declares {declared} bytes, the file has {size}")).hint(AGAIN));
    }

    let stream = MediaSourceStream::new(file, Default::default());
    let mut format = match symphonia::default::get_probe().probe(&Hint::new(), stream, Default::default(), Default::default()) {
        Ok(format) => format,
        Err(Refusal::Unsupported(_)) if mp4::is_mp4(head) => return Ok(Opened::foreign("a QuickTime movie of an old kind", "mov")),
        Err(Refusal::Unsupported(_)) if head.starts_with(b"caff") => {
            return Ok(Opened::foreign("CAF in an encoding that is not built in", "caf"));
        }
        Err(Refusal::Unsupported(_)) if head.starts_with(b"FORM") => {
            return Ok(Opened::foreign("AIFF in an encoding that is not built in", "aiff"));
        }
        Err(Refusal::Unsupported(_)) if wav_header::is_wav(head) => {
            return Ok(Opened::foreign("WAV in an encoding that is not built in", "wav"));
        }
        Err(refusal) => return Err(not_audio(path, refusal)),
    };
    let container = format.format_info().short_name;
    let (name, demuxer) = match container {
        "isomp4" => ("an MP4 or MOV file", "mov"),
        "matroska" => ("a Matroska or WebM file", "matroska"),
        "ogg" => ("an Ogg file", "ogg"),
        "caf" => ("a CAF file", "caf"),
        "aiff" => ("an AIFF file", "aiff"),
        "aac" => ("an AAC file", "aac"),
        _ => ("a WAV file", "wav"),
    };
    let Some(track) = format.default_track(TrackType::Audio) else {
        let codec = mp4.tracks.iter().find(|track| track.kind == *b"soun").map(|track| track.codec);
        return match (container, codec) {
            ("isomp4", Some(codec)) => Ok(Opened::foreign(format!("{name} with sound in {}", mp4_codec(codec)), demuxer)),
            ("matroska", _) if matroska.sound.as_ref().is_none_or(|sound| !sound.is_empty()) => {
                Ok(Opened::foreign(format!("{name} with sound in {}", matroska_codec(&matroska)), demuxer))
            }
            _ => Err(damaged(path, "contains no audio track").hint("export the sound from its source")),
        };
    };
    let id = track.id;
    let Some(mut params) = track.codec_params.as_ref().and_then(|params| params.audio()).cloned() else {
        return Err(damaged(path, "does not declare its audio codec").hint(CONVERT));
    };
    // Symphonia takes these samples of QuickTime for little-endian in any case.
    if container == "isomp4" && mp4.tracks.iter().any(|track| track.id == id && track.big_endian) {
        params.codec = match params.codec {
            CODEC_ID_PCM_S24LE => CODEC_ID_PCM_S24BE,
            CODEC_ID_PCM_S32LE => CODEC_ID_PCM_S32BE,
            CODEC_ID_PCM_F32LE => CODEC_ID_PCM_F32BE,
            CODEC_ID_PCM_F64LE => CODEC_ID_PCM_F64BE,
            other => other,
        };
    }
    let mp3 = matches!(container, "mp1" | "mp2" | "mp3");
    let (mut before, mut after, mut after_is_certain) = match container {
        // An MP3 is trimmed here, because a declared length must be distinguished from an estimated one.
        "caf" | "mp1" | "mp2" | "mp3" => (u64::from(track.delay.unwrap_or(0)), u64::from(track.padding.unwrap_or(0)), false),
        _ => (0, 0, false),
    };
    let edits = mp4.tracks.iter().find(|track| track.id == id && track.edits.is_some()).cloned();
    let rate = params.sample_rate.unwrap_or(0);
    if container == "isomp4" && edits.is_none() {
        before = mp4.itunes_delay.unwrap_or(0);
    }
    let opus = params.codec == CODEC_ID_OPUS;
    if container == "matroska" {
        let padding = matroska.padding(u64::from(id));
        after = u64::try_from(u128::from(padding) * u128::from(if opus { opus::RATE } else { rate }) / 1_000_000_000).unwrap_or(0);
        after_is_certain = after > 0;
    }
    let mut waiting = VecDeque::new();
    if params.codec == CODEC_ID_AAC {
        let declared = params.extra_data.as_ref().is_some_and(|config| aac::declares_sbr(config));
        // The core of HE-AAC has at most half of 48 kHz.
        let suspicious = !declared && rate <= 24_000;
        while suspicious && waiting.len() < aac::LOOKED_AT {
            match format.next_packet() {
                Ok(Some(packet)) if packet.track_id == id => waiting.push_back(packet),
                Ok(Some(_)) => {}
                // What is wrong is told when it is decoded.
                Ok(None) | Err(_) => break,
            }
        }
        let found = waiting.iter().filter(|packet| aac::ends_with_sbr(&packet.data)).count();
        if declared || found * 4 > waiting.len() * 3 {
            return Ok(Opened::foreign("HE-AAC (AAC with spectral band replication)", demuxer));
        }
    }
    let decoder = if opus {
        let channels = params.channels.as_ref().map_or(2, |channels| u8::try_from(channels.count()).unwrap_or(2));
        let head = params.extra_data.as_ref().and_then(|bytes| OpusHead::read(bytes, container == "isomp4"));
        let head = head.unwrap_or_else(|| OpusHead::without_header(channels));
        if edits.is_none() && container != "caf" {
            before = u64::from(head.pre_skip);
        }
        let codec = OpusCodec::new(&head).map_err(|error| damaged(path, format!("is damaged: {error}")).hint(AGAIN))?;
        TrackDecoder::Opus(Box::new(codec))
    } else {
        let options = AudioDecoderOptions::default().verify(true).gapless(!mp3);
        match symphonia::default::get_codecs().make_audio_decoder(&params, &options) {
            Ok(decoder) => TrackDecoder::Symphonia(decoder),
            Err(Refusal::Unsupported(_)) => {
                let codec = mp4.tracks.iter().find(|track| track.id == id).map(|track| mp4_codec(track.codec));
                let encoding = codec.unwrap_or_else(|| matroska_codec(&matroska));
                return Ok(Opened::foreign(format!("{name} with sound in {encoding}"), demuxer));
            }
            Err(other) => return Err(damaged(path, format!("is damaged: {other}")).hint(AGAIN)),
        }
    };

    Ok(Opened::Decoder(Box::new(DemuxedTrack {
        path: path.to_owned(),
        track: id,
        decoder,
        waiting,
        mp3_counts_frames: mp3.then_some(mp3_counts),
        frames: 0,
        shape: (0, 0),
        edits,
        trim: None,
        before,
        after: after as usize,
        after_is_certain,
        kept: Vec::new(),
        notes,
        ends_whole: container == "matroska" && matroska.declared_size == 0 && matroska.is_whole(),
        done: false,
        format,
    })))
}

/// The codec of the first sound track, in words.
fn matroska_codec(file: &MatroskaFile) -> String {
    let first = file.sound.as_ref().and_then(|sound| sound.first());
    first.map_or_else(|| "an encoding that is not built in".to_owned(), |id| matroska::codec(id))
}

/// The first bytes of Matroska.
pub(super) const EBML: [u8; 4] = [0x1a, 0x45, 0xdf, 0xa3];

/// A codec of MP4 or MOV in words.
fn mp4_codec(code: [u8; 4]) -> String {
    let known = match &code {
        b"samr" => "AMR",
        b"sawb" => "wideband AMR",
        b"ima4" => "IMA ADPCM",
        b"ac-3" => "AC-3",
        b"ec-3" => "E-AC-3",
        b"QDM2" => "QDesign Music",
        b".mp3" => "MP3",
        b"mp4a" => "MPEG-4 audio that is not AAC-LC",
        _ => return format!("the encoding `{}`", String::from_utf8_lossy(&code).escape_default()),
    };
    known.to_owned()
}

impl Decode for DemuxedTrack {
    fn next(&mut self, interleaved: &mut Vec<f32>) -> Result<Option<Shape>> {
        if self.done {
            return Ok(None);
        }
        let packet = match self.waiting.pop_front() {
            Some(packet) => packet,
            None => loop {
                match self.format.next_packet() {
                    Ok(Some(packet)) if packet.track_id == self.track => break packet,
                    Ok(Some(_)) => {}
                    Ok(None) => return self.finish(interleaved),
                    Err(Refusal::IoError(error)) if self.ends_whole && error.kind() == ErrorKind::UnexpectedEof => {
                        return self.finish(interleaved);
                    }
                    Err(refusal) => return Err(self.broken(refusal)),
                }
            },
        };
        let (rate, channels) = match &mut self.decoder {
            TrackDecoder::Opus(codec) => {
                if let Err(error) = codec.decode(&packet.data, interleaved) {
                    let place = time(self.frames, opus::RATE);
                    return Err(damaged(&self.path, format!("is damaged after {place}: {error}")).hint(AGAIN));
                }
                (opus::RATE, codec.channels)
            }
            TrackDecoder::Symphonia(decoder) => match decoder.decode(&packet) {
                Ok(buffer) => {
                    let (rate, channels) = (buffer.spec().rate(), buffer.spec().channels().count());
                    let Some(channels) = u16::try_from(channels).ok().filter(|count| *count > 0) else {
                        return Err(damaged(&self.path, format!("declares {channels} channels")));
                    };
                    buffer.copy_to_vec_interleaved(interleaved);
                    (rate, channels)
                }
                Err(refusal) => return Err(self.broken(refusal)),
            },
        };
        self.shape = (rate, channels);
        if let Some(edits) = self.edits.take() {
            let Some(ranges) = edits.frames(rate) else {
                let order = "has an edit list that plays its parts out of order, which is not supported";
                return Err(damaged(&self.path, order).hint(CONVERT));
            };
            let length = ranges.iter().map(|range| range.end.saturating_sub(range.start)).fold(0, u64::saturating_add);
            let whole = ranges.len() == 1 && ranges[0].start <= LONGEST_DELAY && length.saturating_add(LONGEST_DELAY) >= self.length(rate);
            if !whole {
                self.notes.push(format!("its edit list is obeyed: {} of it are heard", time(length, rate)));
            }
            self.trim = Some(Trim::new(ranges, matches!(&edits.codec, b"mp4a" | b"Opus" | b".mp3")));
        }
        let width = usize::from(channels);
        let frames = interleaved.len() / width;
        self.frames += frames as u64;
        if let Some(trim) = &mut self.trim {
            trim.apply(interleaved, width);
        }
        let dropped = self.before.min((interleaved.len() / width) as u64);
        self.before -= dropped;
        interleaved.drain(..dropped as usize * width);
        if self.after > 0 {
            self.kept.append(interleaved);
            let ready = self.kept.len().saturating_sub(self.after * width);
            interleaved.extend(self.kept.drain(..ready));
        }
        Ok(Some((rate, channels)))
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

/// Most frames that an encoder puts in front.
const LONGEST_DELAY: u64 = 4096;

impl DemuxedTrack {
    /// Checks what was decoded, and hands out what was kept back.
    fn finish(&mut self, interleaved: &mut Vec<f32>) -> Result<Option<Shape>> {
        self.done = true;
        if let TrackDecoder::Symphonia(decoder) = &mut self.decoder
            && decoder.finalize().verify_ok == Some(false)
        {
            return Err(damaged(&self.path, "is damaged: the audio does not match its checksum").hint(AGAIN));
        }
        let padded = match self.format.tracks().iter().find(|track| track.id == self.track) {
            Some(track) => self.check_length(track)?,
            None => false,
        };
        if padded || self.after_is_certain || self.kept.is_empty() {
            return Ok(None);
        }
        interleaved.append(&mut self.kept);
        Ok(Some(self.shape))
    }

    /// Frames of the track, as the container declares them.
    fn length(&self, rate: u32) -> u64 {
        let track = self.format.tracks().iter().find(|track| track.id == self.track);
        let declared = track.and_then(|track| Some((track.num_frames?, track.codec_params.as_ref()?.audio()?.sample_rate?)));
        declared.map_or(0, |(frames, claimed)| (u128::from(frames) * u128::from(rate) / u128::from(claimed.max(1))) as u64)
    }

    /// Checks the length against the one the container declares. Returns whether the end is encoder padding.
    fn check_length(&self, track: &Track) -> Result<bool> {
        let claimed_rate = track.codec_params.as_ref().and_then(|params| params.audio()?.sample_rate).unwrap_or(self.shape.0).max(1);
        let Some(declared) = track.num_frames else { return Ok(false) };
        let tolerance = match (self.format.format_info().short_name, self.mp3_counts_frames) {
            // Missing bytes were noticed while reading; what remains is how the last packet is counted.
            ("isomp4", _) => 2048,
            // Whole packets are declared, of which the last one may hold less.
            ("caf", _) => 4096,
            // Estimated from the size of the first packets.
            ("aac", _) | (_, Some(false)) => return Ok(false),
            _ => 0,
        };
        let around = match self.format.format_info().short_name {
            "caf" | "mp1" | "mp2" | "mp3" => u64::from(track.delay.unwrap_or(0)) + u64::from(track.padding.unwrap_or(0)),
            _ => 0,
        };
        // The time base may differ from the sample rate (AAC with spectral band replication).
        let declared = u128::from(declared) * u128::from(self.shape.0) / u128::from(claimed_rate) + u128::from(around);
        let found = u128::from(self.frames);
        if found + tolerance < declared {
            let missing = format!("is truncated: the header declares {declared} samples, {found} were decoded");
            return Err(damaged(&self.path, missing).hint(AGAIN));
        }
        Ok(found == declared)
    }

    /// Error for a file whose decoding stopped early.
    fn broken(&self, refusal: Refusal) -> Error {
        let (path, time) = (&self.path, time(self.frames, self.shape.0));
        match refusal {
            Refusal::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
                damaged(path, format!("is truncated: it ends after {time}, in the middle of the audio")).hint(AGAIN)
            }
            // The operating system failed, not the file.
            Refusal::IoError(error) if error.raw_os_error().is_some() => {
                Error::from(error).context(format_args!("cannot read {}", path.display())).environment()
            }
            Refusal::ResetRequired => damaged(path, format!("contains several recordings, the next one after {time}"))
                .hint("split it into one file per recording"),
            other => damaged(path, format!("is damaged after {time}: {other}")).hint(AGAIN),
        }
    }
}

/// Whether an MP3 starts with a header frame that counts the frames (Xing, Info or VBRI). False for any other file.
fn mp3_counts_frames<S: Read + Seek>(file: &mut S) -> std::io::Result<bool> {
    let mut head = Vec::new();
    file.by_ref().take(10).read_to_end(&mut head)?;
    // Skip an ID3 tag; its length is stored as four groups of seven bits.
    let tag = match head.as_slice() {
        [b'I', b'D', b'3', _, _, _, length @ ..] => 10 + length.iter().fold(0, |sum, byte| sum << 7 | u64::from(byte & 0x7f)),
        _ => 0,
    };
    head.clear();
    file.seek(SeekFrom::Start(tag))?;
    file.by_ref().take(4096).read_to_end(&mut head)?;
    file.rewind()?;
    Ok(head.windows(4).any(|word| [b"Xing", b"Info", b"VBRI"].into_iter().any(|mark| mark == word)))
}

/// Error for a file whose format was not recognized.
fn not_audio(path: &Path, refusal: Refusal) -> Error {
    match refusal {
        Refusal::Unsupported(_) => damaged(path, format!("is not audio in a supported format ({})", formats::names())).hint(CONVERT),
        Refusal::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            damaged(path, "is truncated: it ends within its header").hint(AGAIN)
        }
        Refusal::IoError(error) => Error::from(error).context(format_args!("cannot read {}", path.display())),
        other => damaged(path, format!("has a damaged header: {other}")).hint(AGAIN),
    }
}
