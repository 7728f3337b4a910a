//! What no decoder here reads is given to the program `ffmpeg`, where it is installed: AMR, WMA, Speex, WavPack, HE-AAC and others.
//!
//! The container was recognized by its first bytes, and `ffmpeg` is told which one it is: nothing in a file makes it open another file.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use super::{AGAIN, Decode, Foreign, Input, Shape, damaged};
use crate::error::{Error, Result, ResultExt};

/// A running decoder.
struct FfmpegTrack {
    path: PathBuf,
    child: Child,
    output: BufReader<ChildStdout>,
    /// What it says on standard error.
    messages: File,
    shape: Shape,
    bytes: Vec<u8>,
    what: String,
    /// Whether it is AMR, of which ffmpeg does not know all frames.
    amr: bool,
    notes: Vec<String>,
    done: bool,
    /// The file it reads, if the recording was in memory.
    _copy: Option<tempfile::NamedTempFile>,
}

/// Starts `ffmpeg` for a recording.
pub(super) fn open(input: &Input, foreign: &Foreign) -> Result<Box<dyn Decode>> {
    let path = &input.name;
    let what = &foreign.what;
    let copy = match &input.bytes {
        Some(bytes) => {
            let copying = || format!("cannot copy {} to a temporary file", path.display());
            let mut copy = tempfile::NamedTempFile::new().with_context(copying)?;
            copy.write_all(bytes).with_context(copying)?;
            Some(copy)
        }
        None => None,
    };
    let read = copy.as_ref().map_or(path.as_path(), |copy| copy.path());
    // `file:` keeps a name with a colon or a dash at its start from being taken for something else.
    let mut named = std::ffi::OsString::from("file:");
    named.push(read);
    let messages = tempfile::tempfile().with_context(|| "cannot make a temporary file")?;
    let writing = messages.try_clone().with_context(|| "cannot make a temporary file")?;
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-hide_banner", "-v", "error", "-protocol_whitelist", "file,pipe", "-f", foreign.demuxer]);
    command.arg("-i").arg(named).args(["-map", "0:a:0", "-vn", "-sn", "-dn", "-c:a", "pcm_f32le", "-f", "wav", "pipe:1"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(writing);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let missing = format!(
                "is {what}, which needs the program `ffmpeg`, and that was not found: install ffmpeg, or convert the file: {CONVERSION}"
            );
            return Err(damaged(path, missing).hint("install ffmpeg and run again, or convert the file where there is one"));
        }
        Err(error) => return Err(Error::from(error).context("cannot run the program `ffmpeg`").environment()),
    };
    let Some(output) = child.stdout.take() else {
        return Err(Error::new("cannot read from the program `ffmpeg`").environment());
    };
    let mut track = FfmpegTrack {
        path: path.clone(),
        child,
        output: BufReader::with_capacity(1 << 16, output),
        messages,
        shape: (0, 0),
        bytes: Vec::new(),
        what: what.clone(),
        amr: what.contains("AMR"),
        notes: vec![format!("{what} was decoded by the program ffmpeg")],
        done: false,
        _copy: copy,
    };
    match track.header() {
        Some(shape) => track.shape = shape,
        None => return Err(track.failed()),
    }
    Ok(Box::new(track))
}

const CONVERSION: &str = "ffmpeg -i FILE -ac 1 -ar 16000 FILE.wav";

/// A message of ffmpeg without the address in memory behind the name of its part, which differs each time.
fn without_address(line: &str) -> String {
    let parts = line.split_once(" @ 0x").and_then(|(name, rest)| Some((name, rest.split_once(']')?.1)));
    parts.filter(|(name, _)| name.starts_with('[')).map_or_else(|| line.to_owned(), |(name, rest)| format!("{name}]{rest}"))
}

/// Whether a message is about no damage: AMR has frames of silence, without speech or with the parameters of the noise behind it, and ffmpeg
/// knows neither.
fn is_harmless(message: &str, amr: bool) -> bool {
    let known = ["Error while decoding stream", "[amrnb] Corrupt bitstream", "[amrwb] Corrupt bitstream", "Last message repeated"];
    let known = known.iter().any(|known| message.starts_with(known));
    // Since version 6 a decoder has its own messages.
    amr && (known || message.contains("Not yet implemented in FFmpeg") || message.contains("Error submitting packet to decoder"))
}

impl FfmpegTrack {
    /// Rate and channels, from the header of the WAV that is streamed.
    fn header(&mut self) -> Option<Shape> {
        let mut head = [0; 12];
        self.output.read_exact(&mut head).ok()?;
        let mut shape = None;
        loop {
            let mut chunk = [0; 8];
            self.output.read_exact(&mut chunk).ok()?;
            let [name @ .., a, b, c, d] = chunk;
            if name == *b"data" {
                return shape;
            }
            let mut body = Vec::new();
            let length = u64::from(u32::from_le_bytes([a, b, c, d])).next_multiple_of(2);
            self.output.by_ref().take(length).read_to_end(&mut body).ok()?;
            if name == *b"fmt " {
                let channels = u16::from_le_bytes(*body.get(2..)?.first_chunk()?);
                shape = Some((u32::from_le_bytes(*body.get(4..)?.first_chunk()?), channels)).filter(|_| channels > 0);
            }
        }
    }

    /// The lines that ffmpeg wrote, without addresses in memory, which differ each time.
    fn messages(&mut self) -> Vec<String> {
        let mut text = Vec::new();
        let read = self.messages.rewind().and_then(|()| Read::by_ref(&mut self.messages).take(1 << 16).read_to_end(&mut text));
        let text = String::from_utf8_lossy(if read.is_ok() { &text } else { b"" }).into_owned();
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(without_address).collect()
    }

    fn failed(&mut self) -> Error {
        self.done = true;
        let _ = self.child.wait();
        // The name stands in front already, and a message is one line.
        let said = match self.messages().as_slice() {
            [] => "without saying why".to_owned(),
            [first] => format!("which says: {first}"),
            [first, second, ..] => format!("which says: {first}; {second}"),
        };
        damaged(&self.path, format!("is {} that ffmpeg cannot decode, {said}", self.what)).hint(AGAIN)
    }
}

impl Decode for FfmpegTrack {
    fn next(&mut self, interleaved: &mut Vec<f32>) -> Result<Option<Shape>> {
        if self.done {
            return Ok(None);
        }
        let frame = usize::from(self.shape.1) * 4;
        self.bytes.clear();
        let wanted = (frame * 4096) as u64;
        self.output.by_ref().take(wanted).read_to_end(&mut self.bytes).with_context(|| "cannot read from the program `ffmpeg`")?;
        if self.bytes.len() >= frame {
            let whole = self.bytes.len() - self.bytes.len() % frame;
            let samples = self.bytes.get(..whole).unwrap_or_default().chunks_exact(4);
            interleaved.extend(samples.map(|four| four.first_chunk().map_or(0.0, |four| f32::from_le_bytes(*four))));
            return Ok(Some(self.shape));
        }
        let status = self.child.wait().with_context(|| "cannot wait for the program `ffmpeg`")?;
        if !status.success() {
            return Err(self.failed());
        }
        self.done = true;
        let messages = self.messages();
        let faults: Vec<&String> = messages.iter().filter(|line| !is_harmless(line, self.amr)).collect();
        if let Some(first) = faults.first() {
            let more = if faults.len() > 1 { format!(" (and {} more)", faults.len() - 1) } else { String::new() };
            return Err(damaged(&self.path, format!("is damaged: ffmpeg says while decoding {}: {first}{more}", self.what)).hint(AGAIN));
        }
        if !messages.is_empty() {
            let some = if messages.len() == 1 { "an error".to_owned() } else { format!("{} errors", messages.len()) };
            self.notes.push(format!("ffmpeg told {some} of frames without speech, which some recorders write: {}", messages[0]));
        }
        Ok(None)
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

impl Drop for FfmpegTrack {
    fn drop(&mut self) {
        if !self.done {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_frames_of_silence_are_no_damage() {
        assert_eq!(without_address("[amrnb @ 0x55af9a4e4780] Corrupt bitstream"), "[amrnb] Corrupt bitstream");
        assert_eq!(without_address("see x @ 0x12]"), "see x @ 0x12]");
        let table = [
            ("[amrnb] Corrupt bitstream", true),
            ("Error while decoding stream #0:0: Not yet implemented in FFmpeg, patches welcome", true),
            ("[ogg] CRC mismatch!", false),
            ("[mov,mp4] stream 0, offset 0x99: partial file", false),
        ];
        for (message, harmless) in table {
            assert_eq!(is_harmless(message, true), harmless, "{message}");
            assert!(!is_harmless(message, false), "{message}");
        }
    }
}
