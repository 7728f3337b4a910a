//! Programs in `PATH`, found as the system finds them.

use crate::cache::reads;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The file of a program: with a slash a path in the project, otherwise the first file in `PATH` that may be executed.
///
/// Relative folders in `PATH` start at `root`, where the programs of a project are started. Every place that was tried is [recorded](reads):
/// a program that appears earlier in `PATH` is another one.
pub fn find(name: &str, root: &Path) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(name.into());
    }
    let folders = reads::variable("PATH").unwrap_or_default();
    std::env::split_paths(&folders).map(|folder| root.join(folder).join(name)).find(|file| is_program(file))
}

/// Whether a path is a file that may be executed; what may not be is passed over.
fn is_program(file: &Path) -> bool {
    reads::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
