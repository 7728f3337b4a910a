//! What the other crates of voxpipe share: the [error type](error::Error), atomic writes, content digests, JSON Lines, metrics as JSON, and what counts as
//! a secret.
//!
//! It exists so that the model (`voxtral`) and the runner (`voxpipe-pipeline`), which know nothing of each other, report errors and write files
//! in one way.
//!
//! ```
//! use voxpipe_io::digest::Digest;
//! use voxpipe_io::error::{ErrorKind, Result, ResultExt};
//! use voxpipe_io::write::write_atomic;
//!
//! # fn main() -> Result<()> {
//! # let folder = tempfile::tempdir()?;
//! let path = folder.path().join("result.txt");
//! write_atomic(&path, b"all of it or nothing")?;
//! assert_eq!(Digest::of(&std::fs::read(&path)?), Digest::of(b"all of it or nothing"));
//!
//! let missing = std::fs::read(folder.path().join("missing")).with_context(|| "cannot read `missing`").unwrap_err();
//! assert_eq!(missing.kind, ErrorKind::Other);
//! assert!(missing.to_string().starts_with("cannot read `missing`: "));
//! # Ok(())
//! # }
//! ```

pub mod digest;
pub mod error;
pub mod jsonl;
pub mod metrics;
pub mod secrets;
pub mod write;
