//! Progress bar of a transcription, shown only if standard error is a terminal.

use crate::report::terminal::duration;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::time::Instant;
use voxtral::audio::SAMPLE_RATE;

/// Progress bar with files done, audio transcribed and the real-time factor.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
    /// Number of samples transcribed.
    samples: usize,
}

impl Progress {
    /// A progress bar for this number of files; the clock starts now.
    pub(super) fn new(files: usize) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(files as u64), ProgressDrawTarget::stderr_with_hz(10));
            if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} files  {msg}") {
                bar.set_style(style.progress_chars("━╸─"));
            }
            bar
        });
        Self { bar, begun: Instant::now(), samples: 0 }
    }

    /// Redraws the bar.
    pub(super) fn tick(&self) {
        if let Some(bar) = &self.bar {
            let (audio, time) = (self.samples as f64 / f64::from(SAMPLE_RATE), self.begun.elapsed().as_secs_f64());
            bar.set_message(format!("{} of audio in {}, {:.2}× real time", duration(audio), duration(time), audio / time.max(1e-3)));
        }
    }

    /// Adds transcribed samples.
    pub(super) fn add_samples(&mut self, samples: usize) {
        self.samples += samples;
        self.tick();
    }

    /// Counts a finished file.
    pub(super) fn file(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// Hides the bar while `print` writes to the terminal.
    pub(super) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Prints a line to standard error.
    pub(super) fn print(&self, line: &str) {
        self.suspend(|| {
            // A closed standard error must not stop the transcription.
            let _ = writeln!(io::stderr(), "{line}");
        });
    }

    /// Removes the bar.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
