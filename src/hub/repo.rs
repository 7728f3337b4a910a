//! Names of repositories on the Hub: what they hold, who owns them, and which revision is meant.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The branch used where no revision is given.
const MAIN: &str = "main";
/// Prefix of dataset names.
const DATASETS: &str = RepoType::Dataset.prefix();
/// Longest owner or repository name that the Hub accepts.
const MAX_NAME: usize = 96;
/// Longest revision that is accepted.
const MAX_REVISION: usize = 255;

/// What a repository holds. Model names have no prefix; other names start with their type, as in addresses on the Hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RepoType {
    /// A model or an adapter: `org/name`.
    #[default]
    Model,
    /// A dataset: `datasets/org/name`.
    Dataset,
    /// A Space: `spaces/org/name`.
    Space,
}

impl RepoType {
    /// `model`
    pub const fn word(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
            Self::Space => "space",
        }
    }

    /// The name that the Hub's API and its cache use: `models`.
    pub(crate) const fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
            Self::Space => "spaces",
        }
    }

    /// What comes before `owner/name` in an address.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
            Self::Space => "spaces/",
        }
    }
}

/// A repository on a Hub. Displayed as `owner/name`; see [`RepoId::path`] for the form with its type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoId {
    /// What it holds.
    pub kind: RepoType,
    /// The user or organization.
    pub owner: String,
    /// The name below the owner.
    pub name: String,
}

/// A repository at one of its revisions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoRevision {
    /// The repository.
    pub repo: RepoId,
    /// A branch, a tag, or a commit.
    pub revision: String,
}

impl RepoId {
    /// Reads `owner/name`; `None` if the Hub would not accept the name.
    pub fn parse(kind: RepoType, text: &str) -> Option<Self> {
        let (owner, name) = text.split_once('/')?;
        Self::of(kind, owner, name)
    }

    /// The repository of this owner and name; `None` if the Hub would not accept the name.
    pub fn of(kind: RepoType, owner: &str, name: &str) -> Option<Self> {
        let valid = is_name(owner) && is_name(name);
        valid.then(|| Self { kind, owner: owner.to_owned(), name: name.to_owned() })
    }

    /// `owner/name` after the prefix of its type, as in the addresses of its page and files: `datasets/owner/name`.
    pub fn path(&self) -> String {
        format!("{}{self}", self.kind.prefix())
    }

    /// Its path in the Hub's API: `/api/datasets/owner/name`.
    pub(super) fn api_path(&self) -> String {
        format!("/api/{}/{self}", self.kind.plural())
    }

    /// The name of its folder in caches: `datasets--owner--name`.
    pub(super) fn cache_name(&self) -> String {
        format!("{}--{}--{}", self.kind.plural(), self.owner, self.name)
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

impl RepoRevision {
    /// Reads `org/name` or `org/name@revision`, also after `datasets/`; `None` if the text cannot name a repository (a path, for example).
    pub fn parse(text: &str) -> Option<Self> {
        let (id, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let repo = match id.strip_prefix(DATASETS).filter(|rest| rest.contains('/')) {
            Some(rest) => RepoId::parse(RepoType::Dataset, rest),
            None => RepoId::parse(RepoType::Model, id),
        }?;
        is_revision(revision).then(|| Self { repo, revision: revision.to_owned() })
    }

    /// Reads the name of a dataset, `org/name` or `org/name@revision`; `datasets/` before it is optional.
    pub fn dataset(text: &str) -> Option<Self> {
        let text = text.strip_prefix(DATASETS).filter(|rest| rest.contains('/')).unwrap_or(text);
        let Self { repo, revision } = Self::parse(text)?;
        Some(Self { repo: RepoId { kind: RepoType::Dataset, ..repo }, revision })
    }

    /// `org/name`.
    pub fn id(&self) -> String {
        self.repo.to_string()
    }

    /// `org/name@revision`, with the prefix of its type; the revision is always written.
    pub fn at_revision(&self) -> String {
        format!("{}@{}", self.repo.path(), self.revision)
    }

    /// Whether the revision is a commit, which never changes.
    pub fn is_pinned(&self) -> bool {
        is_commit(&self.revision)
    }
}

impl fmt::Display for RepoRevision {
    /// `org/name@revision` with the prefix of its type; the revision `main` is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo.path())?;
        if self.revision == MAIN { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// Whether this is the full name of a commit.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))
}

/// Whether a text can name a branch, a tag or a commit. It becomes part of a path in the cache.
pub(super) fn is_revision(text: &str) -> bool {
    let valid = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains("..");
    text.len() <= MAX_REVISION
        && text.split('/').all(valid)
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+'))
}

/// Whether the Hub accepts a name for an owner or a repository.
fn is_name(part: &str) -> bool {
    !part.is_empty()
        && part.len() <= MAX_NAME
        && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && !part.starts_with(['-', '.'])
        && !part.ends_with(['-', '.'])
        && !part.contains("--")
        && !part.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_names_are_distinguished_from_paths() {
        let parsed = RepoRevision::parse("mistralai/Voxtral-Mini-3B-2507@refs/pr/1").unwrap();
        assert_eq!((parsed.id().as_str(), parsed.revision.as_str()), ("mistralai/Voxtral-Mini-3B-2507", "refs/pr/1"));
        assert_eq!(RepoRevision::parse("a/b").unwrap().revision, "main");
        let dataset = RepoRevision::parse("datasets/nvidia/Granary").unwrap();
        assert_eq!(
            (dataset.repo.kind, dataset.id().as_str(), dataset.to_string().as_str()),
            (RepoType::Dataset, "nvidia/Granary", "datasets/nvidia/Granary")
        );
        assert_eq!(RepoRevision::dataset("nvidia/Granary").unwrap(), dataset);
        assert_eq!(RepoRevision::parse("datasets/name").unwrap().repo.kind, RepoType::Model);
        let wrong = [
            "",
            "name",
            "/a/b",
            "./a",
            "a/b/c",
            "../b",
            "a/..",
            "a/b@",
            "a/b@x/../y",
            "a/b@.x",
            "a b/c",
            "a/b@a b",
            "a/b--c",
            "-a/b",
            "a/b.",
            "a/b@/x",
            "a/é",
            "C:\\a/b",
        ];
        for text in wrong {
            assert_eq!(RepoRevision::parse(text), None, "{text}");
        }
        assert!(RepoRevision::parse(&format!("a/{}", "b".repeat(97))).is_none());
    }

    #[test]
    fn the_type_is_a_prefix_only_where_the_hub_wants_it() {
        for (kind, path, api, cache) in [
            (RepoType::Model, "ann/voice", "/api/models/ann/voice", "models--ann--voice"),
            (RepoType::Dataset, "datasets/ann/voice", "/api/datasets/ann/voice", "datasets--ann--voice"),
            (RepoType::Space, "spaces/ann/voice", "/api/spaces/ann/voice", "spaces--ann--voice"),
        ] {
            let repo = RepoId::parse(kind, "ann/voice").unwrap();
            assert_eq!(repo.to_string(), "ann/voice");
            assert_eq!((repo.path().as_str(), repo.api_path().as_str(), repo.cache_name().as_str()), (path, api, cache));
        }
        assert_eq!(RepoId::parse(RepoType::Model, "voice"), None);
    }
}
