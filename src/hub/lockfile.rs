//! `pipeline.lock`: the commit of each Hub repository, so that a branch that moves changes no result.
//!
//! The file is next to the pipeline's file and belongs under version control with it. The commits are written into the settings of the
//! stages, so results depend on them, as on a commit named in the pipeline itself.

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::hub;
use crate::hub::RepoRevision;
use pipeline::cache::reads;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use toml::Spanned;
use voxpipe_io::write::write_atomic;

/// The version of the file's format.
const VERSION: u64 = 1;

const HEAD: &str = "# The commit of each Hub repository. Written by `voxpipe lock`; keep it next to the pipeline, under version control.\n";

/// The contents of a lock file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lockfile(BTreeMap<Named, String>);

/// A repository and the branch or tag that is pinned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    id: String,
    revision: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: Spanned<u64>,
    #[serde(default)]
    hub: Vec<Spanned<LockedRevision>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LockedRevision {
    repository: String,
    revision: String,
    commit: String,
}

impl Lockfile {
    /// The path of a pipeline's lock file: `pipeline.lock` for `pipeline.toml`.
    pub fn beside(pipeline: &Path) -> PathBuf {
        pipeline.with_extension("lock")
    }

    /// Reads a lock file; one that does not exist is empty.
    pub fn read(path: &Path) -> Result<Self> {
        match reads::text(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => {
                Err(error).with_context(|| format!("cannot read `{}`", path.display())).map_err(|error| error.kind(ErrorKind::InvalidInput))
            }
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        let wrong = |at: usize, message: String| {
            let before = text.get(..at).unwrap_or(text);
            let line = before.matches('\n').count() + 1;
            let column = before.rfind('\n').map_or(before, |newline| &before[newline + 1..]).chars().count() + 1;
            Error::new(format!("{}:{line}:{column}: {message}", path.display()))
                .kind(ErrorKind::InvalidInput)
                .hint("remove the file and run `voxpipe lock` to write it again")
        };
        // The version first: the rest of a newer file may be unknown.
        let version = text.parse::<toml::Table>().ok().and_then(|table| table.get("version")?.as_integer());
        if let Some(version) = version.filter(|version| *version > VERSION as i64) {
            let message = format!("the lock file has version {version}, but this voxpipe supports only {VERSION}");
            return Err(wrong(text.find("version").unwrap_or(0), message).hint("use a newer voxpipe, such as the one that wrote it"));
        }
        let written: Written = toml::from_str(text)
            .map_err(|error| wrong(error.span().map_or(0, |span| span.start), error.message().lines().collect::<Vec<_>>().join(", ")))?;
        if *written.version.get_ref() != VERSION {
            return Err(wrong(written.version.span().start, format!("the version of a lock file must be {VERSION}")));
        }
        let mut pins = BTreeMap::new();
        for pin in written.hub {
            let at = pin.span().start;
            let LockedRevision { repository, revision, commit } = pin.into_inner();
            if !hub::is_commit(&commit) {
                return Err(wrong(at, format!("`{commit}` is not a commit: it must have 40 digits of 0-9 and a-f")));
            }
            let whole = format!("{repository}@{revision}");
            if RepoRevision::parse(&whole).is_none() || repository.contains('@') {
                return Err(wrong(at, format!("`{whole}` is not a repository and revision")));
            }
            if pins.insert(Named { id: repository, revision }, commit).is_some() {
                return Err(wrong(at, format!("`{whole}` is listed twice")));
            }
        }
        Ok(Self(pins))
    }

    /// The commit to which a repository's revision is pinned.
    pub fn commit(&self, repository: &RepoRevision) -> Option<&str> {
        self.0.get(&Named::of(repository)).map(String::as_str)
    }

    /// Pins a repository's revision; returns the previous commit.
    pub fn set(&mut self, repository: &RepoRevision, commit: String) -> Option<String> {
        self.0.insert(Named::of(repository), commit)
    }

    /// Removes pins that are not among these; returns what was removed.
    pub fn keep_only(&mut self, wanted: &[RepoRevision]) -> Vec<String> {
        let wanted: Vec<Named> = wanted.iter().map(Named::of).collect();
        let out: Vec<Named> = self.0.keys().filter(|named| !wanted.contains(named)).cloned().collect();
        self.0.retain(|named, _| wanted.contains(named));
        out.into_iter().map(|named| format!("{}@{}", named.id, named.revision)).collect()
    }

    /// All pins, sorted: repository, revision, commit.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.0.iter().map(|(named, commit)| (named.id.as_str(), named.revision.as_str(), commit.as_str()))
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        let mut text = format!("{HEAD}version = {VERSION}\n");
        for (repository, revision, commit) in self.all() {
            // Names of repositories and revisions have no characters that need escaping.
            text.push_str(&format!("\n[[hub]]\nrepository = \"{repository}\"\nrevision = \"{revision}\"\ncommit = \"{commit}\"\n"));
        }
        text
    }

    /// Writes the file atomically.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomic(path, self.text().as_bytes()).map_err(Error::environment)
    }
}

impl Named {
    fn of(repository: &RepoRevision) -> Self {
        Self { id: repository.repo.path(), revision: repository.revision.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_written_file_is_read_back() {
        let mut pins = Lockfile::default();
        for name in ["b/model", "a/model@refs/pr/1", "a/model"] {
            assert_eq!(pins.set(&RepoRevision::parse(name).unwrap(), COMMIT.to_owned()), None);
        }
        assert_eq!(Lockfile::parse(&pins.text(), Path::new("p.lock")).unwrap(), pins);
        assert_eq!(
            pins.all().map(|(id, revision, _)| format!("{id}@{revision}")).collect::<Vec<_>>(),
            ["a/model@main", "a/model@refs/pr/1", "b/model@main"]
        );
        assert_eq!(pins.keep_only(&[RepoRevision::parse("b/model").unwrap()]), ["a/model@main", "a/model@refs/pr/1"]);
        assert_eq!(pins.commit(&RepoRevision::parse("a/model").unwrap()), None);
    }

    #[test]
    fn a_damaged_file_is_one_error_at_its_line() {
        let entry = |commit: &str| format!("version = 1\n[[hub]]\nrepository = \"a/b\"\nrevision = \"main\"\ncommit = \"{commit}\"\n");
        for (text, message) in [
            ("version = 1\nhub = 3\n".to_owned(), "p.lock:2:7:"),
            ("version = 9\nnew = \"things\"\n".to_owned(), "p.lock:1:1: the lock file has version 9, but this voxpipe supports only 1"),
            ("version = 1\nnew = 2\n".to_owned(), "p.lock:2:1: unknown field `new`"),
            ("version = ".to_owned(), "p.lock:1:"),
            (entry("main"), "p.lock:2:1: `main` is not a commit"),
            (entry(COMMIT) + &entry(COMMIT).replace("version = 1\n", ""), "`a/b@main` is listed twice"),
            (entry(COMMIT).replace("a/b", "../b"), "`../b@main` is not a repository"),
        ] {
            let error = Lockfile::parse(&text, Path::new("p.lock")).unwrap_err();
            assert!(error.message.contains(message), "{}", error.message);
            assert_eq!(error.kind, ErrorKind::InvalidInput);
        }
    }
}
