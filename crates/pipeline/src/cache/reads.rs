//! What decides a question, recorded as it is read: environment variables with their values, and paths with their stat keys.
//!
//! Whoever reads something that an answer depends on reads it through this module or reports it to [`saw`]. While a [`Recording`] is on, the
//! same thread notes what it was told, so that a later process can ask whether all of it is still so ([`crate::plan::noop`]). No list of
//! names has to be kept by hand. Without a recording this costs one look at a flag.

use crate::cache::file_stat::{StatKey, WatchedPath};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::path::Path;
use voxpipe_io::digest::Digest;

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
    static READS: RefCell<Reads> = RefCell::default();
}

/// What was read during a [`Recording`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Environment variables, each with a digest of its value, which may be secret. None where two reads gave two values.
    pub variables: BTreeMap<String, Option<Digest>>,
    /// Paths in the order they were looked at.
    pub paths: Vec<WatchedPath>,
}

impl Reads {
    /// Adds what was read later.
    pub fn extend(&mut self, later: Self) {
        for (name, digest) in later.variables {
            self.variables.entry(name).and_modify(|before| *before = before.filter(|before| Some(*before) == digest)).or_insert(digest);
        }
        self.paths.extend(later.paths);
    }
}

/// Notes what this thread reads until it is finished or dropped. Recordings do not nest.
#[derive(Debug)]
#[must_use = "a recording ends when it is dropped"]
pub struct Recording(());

impl Recording {
    /// Begins to record.
    pub fn start() -> Self {
        READS.take();
        ON.set(true);
        Self(())
    }

    /// Ends the recording and returns what was read.
    pub fn finish(self) -> Reads {
        READS.take()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        ON.set(false);
        READS.take();
    }
}

/// Whether this thread records.
pub fn recording() -> bool {
    ON.get()
}

/// Looks at something that does not decide the answer, such as what a warning needs.
pub fn unrecorded<T>(look: impl FnOnce() -> T) -> T {
    let before = ON.replace(false);
    let seen = look();
    ON.set(before);
    seen
}

/// The value of an environment variable.
pub fn variable(name: &str) -> Option<OsString> {
    let value = std::env::var_os(name);
    if recording() {
        let digest = Some(digest_of(value.as_ref()));
        let now = Reads { variables: BTreeMap::from([(name.to_owned(), digest)]), paths: Vec::new() };
        READS.with_borrow_mut(|reads| reads.extend(now));
    }
    value
}

/// The digest that stands for the value of a variable; one that is not set differs from an empty one.
pub fn digest_of(value: Option<&OsString>) -> Digest {
    match value {
        Some(value) => Digest::of(&[b"=".as_slice(), value.as_encoded_bytes()].concat()),
        None => Digest::of(b""),
    }
}

/// The metadata of a path, with links followed.
pub fn metadata(path: &Path) -> io::Result<Metadata> {
    let meta = fs::metadata(path);
    saw(path, meta.as_ref().ok());
    meta
}

/// The text of a file. It is looked at before it is read: a change in between is seen by whoever compares.
pub fn text(path: &Path) -> io::Result<String> {
    if recording() {
        let _ = metadata(path);
    }
    fs::read_to_string(path)
}

/// Reports a path that was looked at; `meta` is `None` if it does not exist or may not be looked at.
pub fn saw(path: &Path, meta: Option<&Metadata>) {
    if recording() {
        READS.with_borrow_mut(|reads| reads.paths.push(WatchedPath { path: path.to_owned(), stamp: meta.map(StatKey::of) }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_recorded_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (here, gone) = (dir.path().join("here"), dir.path().join("gone"));
        fs::write(&here, "text").unwrap();
        let _ = metadata(&here);
        let recording = Recording::start();
        assert_eq!(text(&here).unwrap(), "text");
        assert!(text(&gone).is_err());
        assert_eq!(variable("VOXPIPE_NO_SUCH_VARIABLE"), None);
        assert_eq!(unrecorded(|| variable("VOXPIPE_NO_SUCH_VARIABLE_EITHER")), None);
        let elsewhere = here.clone();
        std::thread::spawn(move || metadata(&elsewhere).map(drop)).join().unwrap().unwrap();
        let mut reads = recording.finish();
        assert!(!super::recording());
        let _ = (variable("HOME"), metadata(&here));
        assert_eq!(
            reads.paths,
            [(&here, StatKey::at(&here)), (&gone, None)].map(|(path, stamp)| WatchedPath { path: path.clone(), stamp })
        );
        assert_eq!(reads.variables, BTreeMap::from([("VOXPIPE_NO_SUCH_VARIABLE".to_owned(), Some(digest_of(None)))]));
        assert_ne!(digest_of(None), digest_of(Some(&OsString::new())), "an empty variable is not a missing one");
        // Two answers to one question: something is changing, and nothing may be concluded.
        let changed = Some(digest_of(Some(&OsString::new())));
        let later = Reads { variables: BTreeMap::from([("VOXPIPE_NO_SUCH_VARIABLE".to_owned(), changed)]), paths: Vec::new() };
        reads.extend(later);
        assert_eq!(reads.variables["VOXPIPE_NO_SUCH_VARIABLE"], None);
    }
}
