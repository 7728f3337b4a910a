//! Shared code of the voxpipe crates: the [`Error`](error::Error) type, content digests and JSON Lines files.
//!
//! `crates/voxtral` and `crates/pipeline` do not depend on each other; both use this crate for errors and files.

pub mod digest;
pub mod error;
pub mod jsonl;
