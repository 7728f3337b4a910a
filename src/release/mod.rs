//! Contents of published repositories: a model with its model card, or a dataset with its dataset card.
//!
//! A [`Release`] maps paths in the repository to files on disk. Generated files (metadata, cards, provenance) are written to a folder of
//! the caller. Releases are reproducible: equal results give equal bytes, without timestamps, run ids or local paths.

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
    /// Type of the repository.
    pub repository: RepoType,
    /// `adapter`, `model` or `dataset`.
    pub kind: &'static str,
    /// Path in the repository → file on disk.
    pub files: BTreeMap<String, PathBuf>,
    /// Private files of the result that are not published.
    pub left_out: Vec<String>,
}
