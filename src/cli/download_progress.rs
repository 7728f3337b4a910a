//! Download progress on standard error.

use crate::error::Result;
use crate::hub::DownloadProgress;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};

/// A progress bar on a terminal; elsewhere one line for each download, so that no large download starts unannounced.
#[derive(Default)]
pub(super) struct Fetch {
    bar: Option<ProgressBar>,
    announced: bool,
}

impl Fetch {
    /// Updates the progress.
    pub(super) fn say(&mut self, fetching: &DownloadProgress) -> Result<()> {
        if fetching.total == 0 {
            return Ok(());
        }
        if !self.announced {
            self.announced = true;
            let _ = writeln!(io::stderr(), "downloading {} ({})", fetching.repository, HumanBytes(fetching.total));
            self.bar = io::stderr().is_terminal().then(|| bar(fetching.total));
        }
        if let Some(bar) = &self.bar {
            bar.set_message(fetching.file.clone());
            bar.set_position(fetching.done);
        }
        Ok(())
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {bytes}/{total_bytes}  {bytes_per_sec}  eta {eta}  {msg}") {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar
}
