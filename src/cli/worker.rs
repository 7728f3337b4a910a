//! `voxpipe work` (hidden): runs one stage of a run as a cluster job. `voxpipe run` submits jobs that call it.

use super::signals::listen;
use crate::error::Result;
use crate::stages::STAGES;
use pipeline::executor::job_dir::{JobDir, run_task};
use pipeline::exit::Exit;
use std::path::PathBuf;

/// Runs the stage that a job folder describes and writes the outcome to that folder.
pub(super) fn work(folder: PathBuf) -> Result<u8> {
    let stop = listen()?;
    run_task(&JobDir(folder), STAGES, stop.asked)?;
    Ok(Exit::Done as u8)
}
