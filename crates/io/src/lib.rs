//! What the other crates of voxpipe share: [`Error`](error::Error), content digests and JSON Lines files.
//!
//! It exists so that `crates/voxtral` and `crates/pipeline`, which know nothing of each other, report errors and write files in one way.

pub mod digest;
pub mod error;
pub mod jsonl;
