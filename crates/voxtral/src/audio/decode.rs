//! Any audio file as mono samples, or an error that says what is wrong with it.
//!
//! Decoders are written to play on whatever happens; a dataset must not. So everything that a player would pass over is an
//! error here: a packet that cannot be decoded, a checksum that does not match, a container that promises more samples than
//! there are. Memory grows with what was decoded, never with what a header claims.

use std::fs::File;
use std::io::{Cursor, ErrorKind, Read, Seek, SeekFrom};
use std::panic::{UnwindSafe, catch_unwind};
use std::path::Path;

use symphonia::core::codecs::audio::well_known::CODEC_ID_OPUS;
use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as Refusal;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatReader, Track, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream};

use super::resample::{LOUDEST, RATES};
use crate::error::{Error, Result, ResultExt};

/// Longest recording that is taken in; a clip of a dataset is a thousand times shorter.
const LONGEST_HOURS: u64 = 4;
/// Most samples that are held in memory: 4 GiB.
const MOST_SAMPLES: u64 = 1 << 30;

/// The sound of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedAudio {
    /// The mean of all channels, nominally within ±1.
    pub samples: Vec<f32>,
    /// Samples a second.
    pub rate: u32,
    /// Channels the file has.
    pub channels: u16,
}

/// Decodes WAV, FLAC, MP3, OGG (Vorbis) and M4A (AAC, ALAC), whatever the file's name says.
pub fn decode(path: &Path) -> Result<DecodedAudio> {
    let (file, size) = opened(path)?;
    decode_source(path, file, size)
}

/// The same for a file that is in memory already; `name` stands in errors.
pub fn decode_bytes(name: &Path, bytes: Vec<u8>) -> Result<DecodedAudio> {
    if bytes.is_empty() {
        return Err(damaged(name, "is empty (0 bytes)").hint(AGAIN));
    }
    let size = bytes.len() as u64;
    decode_source(name, Cursor::new(bytes), size)
}

fn decode_source<S: MediaSource + UnwindSafe + 'static>(path: &Path, source: S, size: u64) -> Result<DecodedAudio> {
    // The decoders mean well, but some arithmetic of theirs overflows on absurd headers, which is a panic in a debug build.
    catch_unwind(|| decode_trusting(path, source, size))
        .unwrap_or_else(|_| Err(damaged(path, "is damaged: its numbers make no sense to the decoder").hint(AGAIN)))
}

fn decode_trusting<S: MediaSource + 'static>(path: &Path, mut file: S, size: u64) -> Result<DecodedAudio> {
    let reading = || format!("cannot read {}", path.display());
    let mp3_counts_frames = mp3_counts_frames(&mut file).with_context(reading)?;
    let promised = mp4_size(&mut file).with_context(reading)?;
    if promised > size {
        return Err(damaged(path, format!("is truncated: it promises {promised} bytes, {size} are there")).hint(AGAIN));
    }

    let stream = MediaSourceStream::new(Box::new(file), Default::default());
    let mut format = symphonia::default::get_probe()
        .probe(&Hint::new(), stream, Default::default(), Default::default())
        .map_err(|refusal| not_audio(path, refusal))?;
    let mp3 = matches!(format.format_info().short_name, "mp1" | "mp2" | "mp3");
    let (id, mut decoder) = decoder(path, format.as_ref(), mp3)?;

    let mut sound = Mixdown::default();
    loop {
        let packet = match format.next_packet() {
            Ok(Some(packet)) if packet.track_id == id => packet,
            Ok(Some(_)) => continue,
            Ok(None) => break,
            Err(refusal) => return Err(broken(path, refusal, &sound)),
        };
        let buffer = decoder.decode(&packet).map_err(|refusal| broken(path, refusal, &sound))?;
        buffer.copy_to_vec_interleaved(&mut sound.interleaved);
        sound.add(path, buffer.spec().rate(), buffer.spec().channels().count())?;
    }

    if decoder.finalize().verify_ok == Some(false) {
        return Err(damaged(path, "is damaged: its sound does not match its checksum").hint(AGAIN));
    }
    if let Some(track) = format.tracks().iter().find(|track| track.id == id) {
        sound.hold_to(path, track, format.format_info().short_name, mp3.then_some(mp3_counts_frames))?;
    }
    if sound.samples.is_empty() {
        return Err(damaged(path, "holds 0 samples").hint("leave this file out, or record it again"));
    }
    Ok(DecodedAudio { samples: sound.samples, rate: sound.rate, channels: sound.channels })
}

/// Opens a file that is worth looking into; also returns its size.
pub(super) fn opened(path: &Path) -> Result<(File, u64)> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let about = file.metadata().with_context(|| format!("cannot read {}", path.display()))?;
    if about.is_dir() {
        return Err(damaged(path, "is a folder, not an audio file"));
    }
    if about.len() == 0 {
        return Err(damaged(path, "is empty (0 bytes)").hint(AGAIN));
    }
    Ok((file, about.len()))
}

/// An error about a file: its name, then what is wrong.
pub(super) fn damaged(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(format!("{} {what}", path.display()))
}

const AGAIN: &str = "copy or export the file again from where it came from";
const CONVERT: &str = "convert it to WAV or FLAC first, for example: ffmpeg -i FILE -ac 1 -ar 16000 FILE.wav";

/// What has been decoded so far.
#[derive(Default)]
struct Mixdown {
    samples: Vec<f32>,
    rate: u32,
    channels: u16,
    interleaved: Vec<f32>,
}

impl Mixdown {
    /// Appends the mean of the channels in `interleaved`.
    fn add(&mut self, path: &Path, rate: u32, channels: usize) -> Result<()> {
        let Some(count) = u16::try_from(channels).ok().filter(|count| *count > 0) else {
            return Err(damaged(path, format!("claims {channels} channels")));
        };
        if self.channels == 0 {
            if !RATES.contains(&rate) {
                return Err(damaged(path, format!("claims {rate} samples a second")).hint(CONVERT));
            }
            (self.rate, self.channels) = (rate, count);
        } else if (rate, count) != (self.rate, self.channels) {
            let from = format!("{} Hz and {} channels to {rate} Hz and {channels}", self.rate, self.channels);
            return Err(damaged(path, format!("changes from {from} after {}", self.time())).hint(CONVERT));
        }

        for frame in self.interleaved.chunks_exact(channels) {
            let mean = frame.iter().sum::<f32>() / f32::from(count);
            if !mean.is_finite() {
                return Err(damaged(path, format!("has a sample that is not a number ({mean}) at {}", self.time())).hint(AGAIN));
            }
            if mean.abs() > LOUDEST {
                let where_one_is_full = format!("has a sample of {mean:e} at {}, where 1 is full scale", self.time());
                return Err(damaged(path, where_one_is_full).hint(AGAIN));
            }
            self.samples.push(mean);
        }
        let length = self.samples.len() as u64;
        if length > LONGEST_HOURS * 3600 * u64::from(rate) || length > MOST_SAMPLES {
            let limit = format!("is longer than {LONGEST_HOURS} hours or {MOST_SAMPLES} samples");
            return Err(damaged(path, limit).hint("cut it into clips of at most half a minute, one for each line of the transcript"));
        }
        Ok(())
    }

    /// Compares with what the container promised, and cuts off what an MP3 encoder added before and after the sound.
    ///
    /// `mp3` is nothing for other formats, and for MP3 whether its header counts its frames: if not, the decoder merely
    /// guessed a length from the bit rate, which must neither refuse nor cut a recording.
    fn hold_to(&mut self, path: &Path, track: &Track, format: &str, mp3: Option<bool>) -> Result<()> {
        let claimed_rate = track.codec_params.as_ref().and_then(|params| params.audio()?.sample_rate).unwrap_or(self.rate).max(1);
        let Some(promised) = track.num_frames else { return Ok(()) };
        let tolerance = match (format, mp3) {
            // Bytes that are missing have been noticed when they were read; what is left is how the last packet is counted.
            ("isomp4", _) => 2048,
            // Estimated from the size of the first packets.
            ("aac", _) | (_, Some(false)) => return Ok(()),
            _ => 0,
        };
        let (before, after) = match mp3 {
            Some(_) => (track.delay.unwrap_or(0) as usize, track.padding.unwrap_or(0) as usize),
            None => (0, 0),
        };
        // The time base may be another than the sound's (AAC with spectral band replication).
        let promised = u128::from(promised) * u128::from(self.rate) / u128::from(claimed_rate) + (before + after) as u128;
        let found = self.samples.len() as u128;
        if found + tolerance < promised {
            let missing = format!("is truncated: it promises {promised} samples, {found} are there");
            return Err(damaged(path, missing).hint(AGAIN));
        }
        if found == promised {
            self.samples.truncate(self.samples.len() - after);
        }
        self.samples.drain(..before.min(self.samples.len()));
        Ok(())
    }

    /// How far decoding has come.
    fn time(&self) -> String {
        format!("{:.2} s", self.samples.len() as f64 / f64::from(self.rate.max(1)))
    }
}

/// The first track of sound, and who decodes it.
fn decoder(path: &Path, format: &dyn FormatReader, mp3: bool) -> Result<(u32, Box<dyn AudioDecoder>)> {
    let Some(track) = format.default_track(TrackType::Audio) else {
        return Err(damaged(path, "holds no sound that can be decoded").hint(CONVERT));
    };
    let Some(params) = track.codec_params.as_ref().and_then(|params| params.audio()) else {
        return Err(damaged(path, "does not say how its sound is encoded").hint(CONVERT));
    };
    if params.codec == CODEC_ID_OPUS {
        return Err(damaged(path, "is encoded with Opus, which cannot be decoded here").hint(CONVERT));
    }
    // An MP3's ends are cut in `Mixdown::hold_to`, where a guessed length is told from a promised one.
    let options = AudioDecoderOptions::default().verify(true).gapless(!mp3);
    let decoder = symphonia::default::get_codecs().make_audio_decoder(params, &options).map_err(|refusal| match refusal {
        Refusal::Unsupported(what) => damaged(path, format!("has an encoding that cannot be decoded here ({what})")).hint(CONVERT),
        other => damaged(path, format!("is damaged: {other}")).hint(AGAIN),
    })?;
    Ok((track.id, decoder))
}

/// Whether an MP3 begins with a frame that counts the frames to come (Xing, Info or VBRI). False for any other file.
fn mp3_counts_frames<S: Read + Seek>(file: &mut S) -> std::io::Result<bool> {
    let mut head = Vec::new();
    file.by_ref().take(10).read_to_end(&mut head)?;
    // The text of an ID3 tag, whose length is written in four groups of seven bits, is not the sound.
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

/// Bytes that the atoms of an MP4 or M4A file say they fill; 0 for any other file.
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
        // An atom of size 0 reaches to the end; smaller ones than their own head are the decoder's to refuse.
        let Some(next) = end.checked_add(size).filter(|_| size >= 8) else { break };
        end = next;
    }
    file.rewind()?;
    Ok(end)
}

/// Why no reader took the file.
fn not_audio(path: &Path, refusal: Refusal) -> Error {
    match refusal {
        Refusal::Unsupported(_) => damaged(path, "is not audio of a known format (WAV, FLAC, MP3, OGG/Vorbis, M4A/AAC)").hint(CONVERT),
        Refusal::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            damaged(path, "is truncated: it ends within its header").hint(AGAIN)
        }
        Refusal::IoError(error) => Error::from(error).context(format_args!("cannot read {}", path.display())),
        other => damaged(path, format!("is damaged in its header: {other}")).hint(AGAIN),
    }
}

/// Why decoding stopped.
fn broken(path: &Path, refusal: Refusal, sound: &Mixdown) -> Error {
    let time = sound.time();
    match refusal {
        Refusal::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            damaged(path, format!("is truncated: it ends after {time}, in the middle of its sound")).hint(AGAIN)
        }
        // The operating system failed, not the file.
        Refusal::IoError(error) if error.raw_os_error().is_some() => {
            Error::from(error).context(format_args!("cannot read {}", path.display())).environment()
        }
        Refusal::ResetRequired => {
            damaged(path, format!("holds several recordings in a row, a new one after {time}")).hint("split it, one recording a file")
        }
        other => damaged(path, format!("is damaged after {time}: {other}")).hint(AGAIN),
    }
}
