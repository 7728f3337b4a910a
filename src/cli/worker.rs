//! `voxpipe work`: one stage of a run that goes on elsewhere. `voxpipe run` has it started where a job runs; people need not know it.

use super::run::listen;
use crate::error::Result;
use crate::stages::STAGES;
use pipeline::executor::job_dir::{JobDir, carry_out};
use pipeline::exit::Exit;
use std::path::PathBuf;

/// Carries out what a job's folder describes. How it ended is told there.
pub(super) fn work(folder: PathBuf) -> Result<u8> {
    let stop = listen()?;
    carry_out(&JobDir(folder), STAGES, stop.asked)?;
    Ok(Exit::Done as u8)
}
