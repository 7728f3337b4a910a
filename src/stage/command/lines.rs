//! The lines a program prints, read as they come and made plain text.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::SyncSender;
use std::thread;

/// Where a line was printed.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Source {
    Out,
    Err,
}

/// A line a program printed.
pub(super) struct Line {
    pub(super) source: Source,
    pub(super) text: String,
    /// Bytes of the line that were not kept.
    pub(super) lost: u64,
}

/// The longest line we read; what is told is cut much shorter, but only after secrets were blacked out.
const LONGEST: u64 = 64 * 1024;

/// Reads lines until the pipe is closed or nobody takes them any more.
pub(super) fn listen(pipe: impl Read + Send + 'static, source: Source, sender: SyncSender<Line>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            match reader.by_ref().take(LONGEST).read_until(b'\n', &mut bytes) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let lost = if bytes.ends_with(b"\n") { 0 } else { skip_line(&mut reader) };
            // A progress bar rewrites its line with carriage returns: only its last state counts.
            let text = String::from_utf8_lossy(&bytes);
            let text = text.trim_end().rsplit('\r').next().unwrap_or_default();
            if sender.send(Line { source, text: plain(text), lost }).is_err() {
                return;
            }
        }
    })
}

/// Reads up to the end of the line and says how much that was.
fn skip_line(reader: &mut impl BufRead) -> u64 {
    let mut skipped = 0;
    loop {
        let (used, end) = match reader.fill_buf() {
            Ok([]) | Err(_) => return skipped,
            Ok(buffer) => match buffer.iter().position(|byte| *byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (buffer.len(), false),
            },
        };
        reader.consume(used);
        if end {
            return skipped + used as u64 - 1;
        }
        skipped += used as u64;
    }
}

/// The text without terminal escapes and other control characters.
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

    #[test]
    fn lines_become_plain_text() {
        assert_eq!(plain("\u{1b}[31mred\u{1b}[0m\tand\u{7} rest"), "red and rest");
    }
}
