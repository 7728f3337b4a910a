//! Containers and codecs that symphonia reads: packets of a track, decoded one after the other.

use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use symphonia::core::codecs::audio::well_known::CODEC_ID_OPUS;
use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as Refusal;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatReader, Track, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream};

use super::{AGAIN, CONVERT, Decode, Shape, damaged, time};
use crate::error::{Error, Result, ResultExt};

/// A track that symphonia decodes.
struct DemuxedTrack {
    path: PathBuf,
    format: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    /// For MP3: whether the header counts the frames. If not, the decoder estimated a length from the bit rate.
    mp3_counts_frames: Option<bool>,
    /// Frames decoded so far, and their rate.
    frames: u64,
    rate: u32,
    /// Frames at the start that are encoder delay, not yet removed.
    before: u64,
    /// Frames at the end that may be encoder padding, and the last ones decoded, kept back until it is known.
    after: usize,
    kept: Vec<f32>,
    done: bool,
}

/// Opens what symphonia recognizes.
pub(super) fn open(path: &Path, mut file: Box<dyn MediaSource>, size: u64) -> Result<Box<dyn Decode>> {
    let reading = || format!("cannot read {}", path.display());
    let counts_frames = mp3_counts_frames(&mut file).with_context(reading)?;
    let declared = mp4_size(&mut file).with_context(reading)?;
    if declared > size {
        return Err(damaged(path, format!("is truncated: the header declares {declared} bytes, the file has {size}")).hint(AGAIN));
    }

    let stream = MediaSourceStream::new(file, Default::default());
    let format = symphonia::default::get_probe()
        .probe(&Hint::new(), stream, Default::default(), Default::default())
        .map_err(|refusal| not_audio(path, refusal))?;
    let mp3 = matches!(format.format_info().short_name, "mp1" | "mp2" | "mp3");
    let Some(track) = format.default_track(TrackType::Audio) else {
        return Err(damaged(path, "contains no audio track that can be decoded").hint(CONVERT));
    };
    let decoder = decoder(path, track, mp3)?;
    // An MP3 is trimmed here, because a declared length must be distinguished from an estimated one.
    let (before, after) = if mp3 { (track.delay.unwrap_or(0), track.padding.unwrap_or(0)) } else { (0, 0) };
    Ok(Box::new(DemuxedTrack {
        path: path.to_owned(),
        track: track.id,
        decoder,
        mp3_counts_frames: mp3.then_some(counts_frames),
        frames: 0,
        rate: 0,
        before: u64::from(before),
        after: after as usize,
        kept: Vec::new(),
        done: false,
        format,
    }))
}

impl Decode for DemuxedTrack {
    fn next(&mut self, interleaved: &mut Vec<f32>) -> Result<Option<Shape>> {
        if self.done {
            return Ok(None);
        }
        let packet = loop {
            match self.format.next_packet() {
                Ok(Some(packet)) if packet.track_id == self.track => break packet,
                Ok(Some(_)) => {}
                Ok(None) => return self.finish(interleaved),
                Err(refusal) => return Err(self.broken(refusal)),
            }
        };
        let buffer = match self.decoder.decode(&packet) {
            Ok(buffer) => buffer,
            Err(refusal) => return Err(self.broken(refusal)),
        };
        let (rate, channels) = (buffer.spec().rate(), buffer.spec().channels().count());
        let Some(channels) = u16::try_from(channels).ok().filter(|count| *count > 0) else {
            return Err(damaged(&self.path, format!("declares {channels} channels")));
        };
        buffer.copy_to_vec_interleaved(interleaved);
        self.rate = rate;
        let width = usize::from(channels);
        let frames = interleaved.len() / width;
        self.frames += frames as u64;

        let dropped = self.before.min(frames as u64);
        self.before -= dropped;
        interleaved.drain(..dropped as usize * width);
        if self.after > 0 {
            self.kept.append(interleaved);
            let ready = self.kept.len().saturating_sub(self.after * width);
            interleaved.extend(self.kept.drain(..ready));
        }
        Ok(Some((rate, channels)))
    }
}

impl DemuxedTrack {
    /// Checks what was decoded, and hands out what was kept back.
    fn finish(&mut self, interleaved: &mut Vec<f32>) -> Result<Option<Shape>> {
        self.done = true;
        if self.decoder.finalize().verify_ok == Some(false) {
            return Err(damaged(&self.path, "is damaged: the audio does not match its checksum").hint(AGAIN));
        }
        let padded = match self.format.tracks().iter().find(|track| track.id == self.track) {
            Some(track) => self.check_length(track)?,
            None => false,
        };
        if padded || self.kept.is_empty() {
            return Ok(None);
        }
        interleaved.append(&mut self.kept);
        Ok(self.decoder.codec_params().channels.as_ref().map(|channels| (self.rate, channels.count() as u16)))
    }

    /// Checks the length against the one the container declares. Returns whether the end is encoder padding.
    fn check_length(&self, track: &Track) -> Result<bool> {
        let claimed_rate = track.codec_params.as_ref().and_then(|params| params.audio()?.sample_rate).unwrap_or(self.rate).max(1);
        let Some(declared) = track.num_frames else { return Ok(false) };
        let tolerance = match (self.format.format_info().short_name, self.mp3_counts_frames) {
            // Missing bytes were noticed while reading; what remains is how the last packet is counted.
            ("isomp4", _) => 2048,
            // Estimated from the size of the first packets.
            ("aac", _) | (_, Some(false)) => return Ok(false),
            _ => 0,
        };
        let around = match self.mp3_counts_frames {
            Some(_) => u64::from(track.delay.unwrap_or(0)) + u64::from(track.padding.unwrap_or(0)),
            None => 0,
        };
        // The time base may differ from the sample rate (AAC with spectral band replication).
        let declared = u128::from(declared) * u128::from(self.rate) / u128::from(claimed_rate) + u128::from(around);
        let found = u128::from(self.frames);
        if found + tolerance < declared {
            let missing = format!("is truncated: the header declares {declared} samples, {found} were decoded");
            return Err(damaged(&self.path, missing).hint(AGAIN));
        }
        Ok(found == declared)
    }

    /// Error for a file whose decoding stopped early.
    fn broken(&self, refusal: Refusal) -> Error {
        let (path, time) = (&self.path, time(self.frames, self.rate));
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

/// The decoder of a track.
fn decoder(path: &Path, track: &Track, mp3: bool) -> Result<Box<dyn AudioDecoder>> {
    let Some(params) = track.codec_params.as_ref().and_then(|params| params.audio()) else {
        return Err(damaged(path, "does not declare its audio codec").hint(CONVERT));
    };
    if params.codec == CODEC_ID_OPUS {
        return Err(damaged(path, "is encoded with Opus, which is not supported").hint(CONVERT));
    }
    let options = AudioDecoderOptions::default().verify(true).gapless(!mp3);
    symphonia::default::get_codecs().make_audio_decoder(params, &options).map_err(|refusal| match refusal {
        Refusal::Unsupported(what) => damaged(path, format!("uses an unsupported encoding ({what})")).hint(CONVERT),
        other => damaged(path, format!("is damaged: {other}")).hint(AGAIN),
    })
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

/// Bytes declared by the atoms of an MP4 or M4A file; 0 for any other file.
fn mp4_size<S: Read + Seek>(file: &mut S) -> std::io::Result<u64> {
    let mut end: u64 = 0;
    loop {
        let mut head = Vec::new();
        file.seek(SeekFrom::Start(end))?;
        file.by_ref().take(16).read_to_end(&mut head)?;
        let Some((size, rest)) = head.split_first_chunk::<4>() else { break };
        if end == 0 && !rest.starts_with(b"ftyp") {
            break;
        }
        let size = match (u32::from_be_bytes(*size), rest.get(4..).and_then(|rest| rest.first_chunk::<8>())) {
            (1, Some(long)) => u64::from_be_bytes(*long),
            (short, _) => u64::from(short),
        };
        // An atom of size 0 reaches to the end. Atoms smaller than their own header are left to the decoder to reject.
        let Some(next) = end.checked_add(size).filter(|_| size >= 8) else { break };
        end = next;
    }
    file.rewind()?;
    Ok(end)
}

/// Error for a file whose format was not recognized.
fn not_audio(path: &Path, refusal: Refusal) -> Error {
    match refusal {
        Refusal::Unsupported(_) => damaged(path, "is not audio in a supported format (WAV, FLAC, MP3, OGG/Vorbis, M4A/AAC)").hint(CONVERT),
        Refusal::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            damaged(path, "is truncated: it ends within its header").hint(AGAIN)
        }
        Refusal::IoError(error) => Error::from(error).context(format_args!("cannot read {}", path.display())),
        other => damaged(path, format!("has a damaged header: {other}")).hint(AGAIN),
    }
}
