//! `pipeline.lock`: which commit each repository of the Hub is, so that a branch that moves changes no result.
//!
//! The file lies beside the pipeline's and belongs under version control with it. What it pins is written into the settings of the stages,
//! so the commit is part of what a result depends on, like one that is named in the pipeline itself.

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::hub;
use crate::hub::RepoRevision;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use toml::Spanned;

/// The version of the file's format.
const VERSION: u64 = 1;

const HEAD: &str =
    "# Which commit each repository of the Hub is. Written by `voxpipe lock`; keep it beside the pipeline, under version control.\n";

/// What a lock file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lockfile(BTreeMap<Named, String>);

/// A repository and the branch or tag that is meant.
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
    /// Where the lock file of a pipeline is: `pipeline.lock` for `pipeline.toml`.
    pub fn beside(pipeline: &Path) -> PathBuf {
        pipeline.with_extension("lock")
    }

    /// Reads a lock file. None is an empty one.
    pub fn read(path: &Path) -> Result<Self> {
        match fs::read_to_string(path) {
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
                .hint("`voxpipe lock` writes the file; remove it to have it written anew")
        };
        // The version first: of a newer file nothing else need be understood.
        let version = text.parse::<toml::Table>().ok().and_then(|table| table.get("version")?.as_integer());
        if let Some(version) = version.filter(|version| *version > VERSION as i64) {
            let message = format!("the lock file has version {version}, and this voxpipe knows {VERSION}");
            return Err(wrong(text.find("version").unwrap_or(0), message).hint("use a newer voxpipe, the one it was written with"));
        }
        let written: Written = toml::from_str(text)
            .map_err(|error| wrong(error.span().map_or(0, |span| span.start), error.message().lines().collect::<Vec<_>>().join(", ")))?;
        if *written.version.get_ref() != VERSION {
            return Err(wrong(written.version.span().start, format!("the version of a lock file is {VERSION}")));
        }
        let mut pins = BTreeMap::new();
        for pin in written.hub {
            let at = pin.span().start;
            let LockedRevision { repository, revision, commit } = pin.into_inner();
            if !hub::is_commit(&commit) {
                return Err(wrong(at, format!("`{commit}` is no commit: 40 digits of 0-9 and a-f")));
            }
            let whole = format!("{repository}@{revision}");
            if RepoRevision::parse(&whole).is_none() || repository.contains('@') {
                return Err(wrong(at, format!("`{whole}` is no repository and revision")));
            }
            if pins.insert(Named { id: repository, revision }, commit).is_some() {
                return Err(wrong(at, format!("`{whole}` is here twice")));
            }
        }
        Ok(Self(pins))
    }

    /// The commit that a repository's revision is pinned to.
    pub fn commit(&self, repository: &RepoRevision) -> Option<&str> {
        self.0.get(&Named::of(repository)).map(String::as_str)
    }

    /// Pins a repository's revision; gives the commit it had.
    pub fn set(&mut self, repository: &RepoRevision, commit: String) -> Option<String> {
        self.0.insert(Named::of(repository), commit)
    }

    /// Leaves out what is not among these; gives what that was.
    pub fn keep_only(&mut self, wanted: &[RepoRevision]) -> Vec<String> {
        let wanted: Vec<Named> = wanted.iter().map(Named::of).collect();
        let out: Vec<Named> = self.0.keys().filter(|named| !wanted.contains(named)).cloned().collect();
        self.0.retain(|named, _| wanted.contains(named));
        out.into_iter().map(|named| format!("{}@{}", named.id, named.revision)).collect()
    }

    /// Every pin: repository, revision, commit; sorted.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.0.iter().map(|(named, commit)| (named.id.as_str(), named.revision.as_str(), commit.as_str()))
    }

    /// As it stands in the file.
    pub fn text(&self) -> String {
        let mut text = format!("{HEAD}version = {VERSION}\n");
        for (repository, revision, commit) in self.all() {
            // Names of repositories and revisions have no character that would have to be quoted.
            text.push_str(&format!("\n[[hub]]\nrepository = \"{repository}\"\nrevision = \"{revision}\"\ncommit = \"{commit}\"\n"));
        }
        text
    }

    /// Writes the file, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        let part = path.with_added_extension("part");
        let write = || -> io::Result<()> {
            let mut file = File::create(&part)?;
            file.write_all(self.text().as_bytes())?;
            file.sync_all()?;
            fs::rename(&part, path)
        };
        write().with_context(|| format!("cannot write `{}`", path.display())).map_err(|error| error.environment())
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
    fn what_is_written_is_read_again() {
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
            ("version = 9\nnew = \"things\"\n".to_owned(), "p.lock:1:1: the lock file has version 9, and this voxpipe knows 1"),
            ("version = 1\nnew = 2\n".to_owned(), "p.lock:2:1: unknown field `new`"),
            ("version = ".to_owned(), "p.lock:1:"),
            (entry("main"), "p.lock:2:1: `main` is no commit"),
            (entry(COMMIT) + &entry(COMMIT).replace("version = 1\n", ""), "`a/b@main` is here twice"),
            (entry(COMMIT).replace("a/b", "../b"), "`../b@main` is no repository"),
        ] {
            let error = Lockfile::parse(&text, Path::new("p.lock")).unwrap_err();
            assert!(error.message.contains(message), "{}", error.message);
            assert_eq!(error.kind, ErrorKind::InvalidInput);
        }
    }
}
