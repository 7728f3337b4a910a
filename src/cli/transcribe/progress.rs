//! How far a transcription is, for people at a terminal; programs that read standard error see nothing of it.

use crate::report::terminal::duration;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::time::Instant;
use voxtral::audio::SAMPLE_RATE;

/// A line that moves.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
    /// Samples that were heard.
    heard: usize,
}

impl Progress {
    /// For so many files; the clock starts now.
    pub(super) fn new(files: usize) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(files as u64), ProgressDrawTarget::stderr_with_hz(10));
            if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} files  {msg}") {
                bar.set_style(style.progress_chars("━╸─"));
            }
            bar
        });
        Self { bar, begun: Instant::now(), heard: 0 }
    }

    /// A little more is done.
    pub(super) fn tick(&self) {
        if let Some(bar) = &self.bar {
            let (audio, time) = (self.heard as f64 / f64::from(SAMPLE_RATE), self.begun.elapsed().as_secs_f64());
            bar.set_message(format!("{} of audio in {}, {:.2}× real time", duration(audio), duration(time), audio / time.max(1e-3)));
        }
    }

    /// So many samples more were heard.
    pub(super) fn heard(&mut self, samples: usize) {
        self.heard += samples;
        self.tick();
    }

    /// A file is done.
    pub(super) fn file(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// Does something that prints, out of the way of the line.
    pub(super) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Says something on standard error.
    pub(super) fn say(&self, line: &str) {
        self.aside(|| {
            // Nobody reading standard error is no reason to stop.
            let _ = writeln!(io::stderr(), "{line}");
        });
    }

    /// Takes the line away.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
