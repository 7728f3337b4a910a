//! Audio decoding: any supported file to mono samples, or an error that says what is wrong with it.
//!
//! Decoders are built to keep playing; a dataset needs correct data. So everything a player would skip is an error here: a packet that
//! cannot be decoded, a checksum mismatch, a container that declares more samples than it has. Memory grows with the decoded samples, never
//! with what a header declares.

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

use super::resample::{MAX_MAGNITUDE, RATES};
use crate::error::{Error, Result, ResultExt};

/// Longest accepted recording in hours; a dataset clip is a thousand times shorter.
const LONGEST_HOURS: u64 = 4;
/// Most samples held in memory: 4 GiB.
const MOST_SAMPLES: u64 = 1 << 30;

/// Decoded audio of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedAudio {
    /// Mean of all channels, nominally within ±1.
    pub samples: Vec<f32>,
    /// Sample rate in Hz.
    pub rate: u32,
    /// Number of channels in the file.
    pub channels: u16,
}

/// Decodes WAV, FLAC, MP3, OGG (Vorbis) or M4A (AAC, ALAC). The format is detected from the content, not from the file name.
pub fn decode(path: &Path) -> Result<DecodedAudio> {
    let (file, size) = opened(path)?;
    decode_source(path, file, size)
}

/// Decodes a file that is already in memory; `name` is used in errors.
pub fn decode_bytes(name: &Path, bytes: Vec<u8>) -> Result<DecodedAudio> {
    if bytes.is_empty() {
        return Err(damaged(name, "is empty (0 bytes)").hint(AGAIN));
    }
    let size = bytes.len() as u64;
    decode_source(name, Cursor::new(bytes), size)
}

fn decode_source<S: MediaSource + UnwindSafe + 'static>(path: &Path, source: S, size: u64) -> Result<DecodedAudio> {
    // Some decoder arithmetic overflows on absurd headers, which panics in a debug build.
    catch_unwind(|| decode_unguarded(path, source, size))
        .unwrap_or_else(|_| Err(damaged(path, "is damaged: it contains values the decoder cannot handle").hint(AGAIN)))
}

fn decode_unguarded<S: MediaSource + 'static>(path: &Path, mut file: S, size: u64) -> Result<DecodedAudio> {
    let reading = || format!("cannot read {}", path.display());
    let mp3_counts_frames = mp3_counts_frames(&mut file).with_context(reading)?;
    let declared = mp4_size(&mut file).with_context(reading)?;
    if declared > size {
        return Err(damaged(path, format!("is truncated: the header declares {declared} bytes, the file has {size}")).hint(AGAIN));
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
        return Err(damaged(path, "is damaged: the audio does not match its checksum").hint(AGAIN));
    }
    if let Some(track) = format.tracks().iter().find(|track| track.id == id) {
        sound.check_length(path, track, format.format_info().short_name, mp3.then_some(mp3_counts_frames))?;
    }
    if sound.samples.is_empty() {
        return Err(damaged(path, "contains 0 samples").hint("remove this file, or record it again"));
    }
    Ok(DecodedAudio { samples: sound.samples, rate: sound.rate, channels: sound.channels })
}

/// Opens a file and returns it with its size. A folder or an empty file is an error.
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

/// Error about a file: its path, then what is wrong.
pub(super) fn damaged(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(format!("{} {what}", path.display())).at(path)
}

const AGAIN: &str = "copy or export the file again from its source";
const CONVERT: &str = "convert it to WAV or FLAC first, for example: ffmpeg -i FILE -ac 1 -ar 16000 FILE.wav";

/// Mono samples decoded so far.
#[derive(Default)]
struct Mixdown {
    samples: Vec<f32>,
    rate: u32,
    channels: u16,
    interleaved: Vec<f32>,
}

impl Mixdown {
    /// Appends the channel mean of `interleaved`.
    fn add(&mut self, path: &Path, rate: u32, channels: usize) -> Result<()> {
        let Some(count) = u16::try_from(channels).ok().filter(|count| *count > 0) else {
            return Err(damaged(path, format!("declares {channels} channels")));
        };
        if self.channels == 0 {
            if !RATES.contains(&rate) {
                return Err(damaged(path, format!("declares a sample rate of {rate} Hz")).hint(CONVERT));
            }
            (self.rate, self.channels) = (rate, count);
        } else if (rate, count) != (self.rate, self.channels) {
            let from = format!("{} Hz and {} channels to {rate} Hz and {channels}", self.rate, self.channels);
            return Err(damaged(path, format!("changes from {from} after {}", self.time())).hint(CONVERT));
        }

        for frame in self.interleaved.chunks_exact(channels) {
            let mean = frame.iter().sum::<f32>() / f32::from(count);
            if !mean.is_finite() {
                return Err(damaged(path, format!("has a non-finite sample ({mean}) at {}", self.time())).hint(AGAIN));
            }
            if mean.abs() > MAX_MAGNITUDE {
                let too_large = format!("has a sample of {mean:e} at {}, where 1 is full scale", self.time());
                return Err(damaged(path, too_large).hint(AGAIN));
            }
            self.samples.push(mean);
        }
        let length = self.samples.len() as u64;
        if length > LONGEST_HOURS * 3600 * u64::from(rate) || length > MOST_SAMPLES {
            let limit = format!("is longer than {LONGEST_HOURS} hours or {MOST_SAMPLES} samples");
            return Err(damaged(path, limit).hint("split it into clips of at most 30 s, one per line of the transcript"));
        }
        Ok(())
    }

    /// Checks the length against the one the container declares, and removes MP3 encoder delay and padding.
    ///
    /// `mp3` is `None` for other formats; for MP3 it says whether the header counts the frames. If not, the decoder estimated a length from
    /// the bit rate, which must neither reject nor truncate a recording.
    fn check_length(&mut self, path: &Path, track: &Track, format: &str, mp3: Option<bool>) -> Result<()> {
        let claimed_rate = track.codec_params.as_ref().and_then(|params| params.audio()?.sample_rate).unwrap_or(self.rate).max(1);
        let Some(declared) = track.num_frames else { return Ok(()) };
        let tolerance = match (format, mp3) {
            // Missing bytes were noticed while reading; what remains is how the last packet is counted.
            ("isomp4", _) => 2048,
            // Estimated from the size of the first packets.
            ("aac", _) | (_, Some(false)) => return Ok(()),
            _ => 0,
        };
        let (before, after) = match mp3 {
            Some(_) => (track.delay.unwrap_or(0) as usize, track.padding.unwrap_or(0) as usize),
            None => (0, 0),
        };
        // The time base may differ from the sample rate (AAC with spectral band replication).
        let declared = u128::from(declared) * u128::from(self.rate) / u128::from(claimed_rate) + (before + after) as u128;
        let found = self.samples.len() as u128;
        if found + tolerance < declared {
            let missing = format!("is truncated: the header declares {declared} samples, {found} were decoded");
            return Err(damaged(path, missing).hint(AGAIN));
        }
        if found == declared {
            self.samples.truncate(self.samples.len() - after);
        }
        self.samples.drain(..before.min(self.samples.len()));
        Ok(())
    }

    /// Position of the decoder in seconds, as text.
    fn time(&self) -> String {
        format!("{:.2} s", self.samples.len() as f64 / f64::from(self.rate.max(1)))
    }
}

/// Id of the first audio track, and its decoder.
fn decoder(path: &Path, format: &dyn FormatReader, mp3: bool) -> Result<(u32, Box<dyn AudioDecoder>)> {
    let Some(track) = format.default_track(TrackType::Audio) else {
        return Err(damaged(path, "contains no audio track that can be decoded").hint(CONVERT));
    };
    let Some(params) = track.codec_params.as_ref().and_then(|params| params.audio()) else {
        return Err(damaged(path, "does not declare its audio codec").hint(CONVERT));
    };
    if params.codec == CODEC_ID_OPUS {
        return Err(damaged(path, "is encoded with Opus, which is not supported").hint(CONVERT));
    }
    // `Mixdown::check_length` trims an MP3, because it distinguishes a declared length from an estimated one.
    let options = AudioDecoderOptions::default().verify(true).gapless(!mp3);
    let decoder = symphonia::default::get_codecs().make_audio_decoder(params, &options).map_err(|refusal| match refusal {
        Refusal::Unsupported(what) => damaged(path, format!("uses an unsupported encoding ({what})")).hint(CONVERT),
        other => damaged(path, format!("is damaged: {other}")).hint(AGAIN),
    })?;
    Ok((track.id, decoder))
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

/// Error for a file whose decoding stopped early.
fn broken(path: &Path, refusal: Refusal, sound: &Mixdown) -> Error {
    let time = sound.time();
    match refusal {
        Refusal::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            damaged(path, format!("is truncated: it ends after {time}, in the middle of the audio")).hint(AGAIN)
        }
        // The operating system failed, not the file.
        Refusal::IoError(error) if error.raw_os_error().is_some() => {
            Error::from(error).context(format_args!("cannot read {}", path.display())).environment()
        }
        Refusal::ResetRequired => {
            damaged(path, format!("contains several recordings, the next one after {time}")).hint("split it into one file per recording")
        }
        other => damaged(path, format!("is damaged after {time}: {other}")).hint(AGAIN),
    }
}
