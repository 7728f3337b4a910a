//! Non-blocking reader of a program's output: splits it into lines of plain text without terminal escapes.

use crate::error::{Result, ResultExt};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Output stream of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Out,
    Err,
}

/// A line printed by a program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) source: Source,
    pub(super) text: String,
    /// Number of bytes of the line that were dropped.
    pub(super) lost: u64,
}

/// Maximum length of a kept line in bytes. Notes are much shorter, but are cut only after secrets are redacted.
const MAX_LINE: usize = 64 * 1024;
/// Size of a read in bytes.
const CHUNK: usize = 16 * 1024;
/// Maximum number of reads from one pipe before the other gets its turn.
const TURN: usize = 16;
/// Maximum time to drain the output of a program that has ended; another process may print into the open pipe forever.
const MAX_DRAIN: Duration = Duration::from_secs(5);

/// Reading end of a pipe from a program.
pub(super) struct PipeReader {
    pipe: Option<File>,
    splitter: Splitter,
}

/// Splits bytes into lines.
struct Splitter {
    source: Source,
    line: Vec<u8>,
    lost: u64,
}

impl PipeReader {
    /// Makes the pipe non-blocking.
    pub(super) fn new(pipe: impl Into<OwnedFd>, source: Source) -> Result<Self> {
        let pipe: OwnedFd = pipe.into();
        let reading = || "cannot read the output of the program";
        let flags = fcntl_getfl(&pipe).map_err(io::Error::from).with_context(reading)?;
        fcntl_setfl(&pipe, flags | OFlags::NONBLOCK).map_err(io::Error::from).with_context(reading)?;
        Ok(Self { pipe: Some(pipe.into()), splitter: Splitter { source, line: Vec::new(), lost: 0 } })
    }

    /// The pipe, until its writing end is closed.
    pub(super) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Passes the available lines to `tell`. Returns whether more may be available.
    pub(super) fn read_lines(&mut self, tell: &mut impl FnMut(Line)) -> bool {
        let mut chunk = [0; CHUNK];
        for _ in 0..TURN {
            let Some(pipe) = &mut self.pipe else { return false };
            match pipe.read(&mut chunk) {
                Ok(length) if length > 0 => self.splitter.take(&chunk[..length], tell),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Ok(_) | Err(_) => {
                    self.close(tell);
                    return false;
                }
            }
        }
        true
    }

    /// Passes the rest to `tell`, including a last line without newline.
    pub(super) fn drain(&mut self, tell: &mut impl FnMut(Line)) {
        let until = Instant::now() + MAX_DRAIN;
        while self.read_lines(tell) && Instant::now() < until {}
        self.close(tell);
    }

    fn close(&mut self, tell: &mut impl FnMut(Line)) {
        self.pipe = None;
        self.splitter.end(tell);
    }
}

impl Splitter {
    fn take(&mut self, bytes: &[u8], tell: &mut impl FnMut(Line)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, complete) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            let room = MAX_LINE.saturating_sub(self.line.len()).min(text.len());
            self.line.extend_from_slice(&text[..room]);
            self.lost += (text.len() - room) as u64;
            if complete {
                self.tell(tell);
            }
        }
    }

    fn end(&mut self, tell: &mut impl FnMut(Line)) {
        if !self.line.is_empty() {
            self.tell(tell);
        }
    }

    fn tell(&mut self, tell: &mut impl FnMut(Line)) {
        // A progress bar rewrites its line with carriage returns: keep only its last state.
        let text = String::from_utf8_lossy(&self.line);
        let text = plain(text.trim_end().rsplit('\r').next().unwrap_or_default());
        let lost = std::mem::take(&mut self.lost);
        self.line.clear();
        tell(Line { source: self.source, text, lost });
    }
}

/// Removes terminal escapes and other control characters.
fn plain(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            if characters.next_if_eq(&'[').is_some() {
                while characters.next().is_some_and(|next| !('@'..='~').contains(&next)) {}
            }
        } else if character == '\t' {
            kept.push(' ');
        } else if !character.is_control() {
            kept.push(character);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_become_plain_text() {
        assert_eq!(plain("\u{1b}[31mred\u{1b}[0m\tand\u{7} rest"), "red and rest");
    }

    #[test]
    fn a_pipe_is_split_into_lines_without_blocking() {
        let (read, mut write) = std::io::pipe().unwrap();
        let mut ear = PipeReader::new(read, Source::Out).unwrap();
        let mut heard = Vec::new();
        let mut read_lines = |ear: &mut PipeReader| {
            ear.read_lines(&mut |line| heard.push((line.text, line.lost)));
            std::mem::take(&mut heard)
        };
        assert_eq!(read_lines(&mut ear), [], "nothing was printed yet");
        write.write_all(b"one\ntw").unwrap();
        assert_eq!(read_lines(&mut ear), [("one".to_owned(), 0)]);
        write.write_all(b"o\r\n 10 %\r 20 %\n\n").unwrap();
        assert_eq!(read_lines(&mut ear), [("two".to_owned(), 0), (" 20 %".to_owned(), 0), (String::new(), 0)]);
        let long = vec![b'x'; MAX_LINE + 7];
        std::thread::scope(|scope| {
            scope.spawn(move || {
                write.write_all(&long).unwrap();
                write.write_all(b"\nlast").unwrap();
            });
            while ear.pipe().is_some() {
                ear.read_lines(&mut |line| heard.push((line.text, line.lost)));
            }
        });
        assert_eq!(heard, [("x".repeat(MAX_LINE), 7), ("last".to_owned(), 0)]);
    }
}
