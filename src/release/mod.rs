//! What goes into a repository that others read: a model with its card, or a dataset with its own.
//!
//! A [`Release`] is a list of paths in the repository and where each file lies now. What is made for it (metadata, cards, provenance) is
//! written into a folder of the caller's. Equal results give equal bytes: no clock, no run, no place on this machine.

mod dataset;
mod model;
mod parquet;
mod provenance;

pub use dataset::{DatasetInfo, DatasetRelease};
pub use provenance::ReleaseProvenance;

use crate::hub::RepoType;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The content of a repository.
#[derive(Debug)]
pub struct Release {
    /// What kind of repository it is.
    pub repository: RepoType,
    /// `adapter`, `model` or `dataset`.
    pub kind: &'static str,
    /// Path in the repository → the file on disk.
    pub files: BTreeMap<String, PathBuf>,
    /// Files of the result that are for nobody else.
    pub left_out: Vec<String>,
}
