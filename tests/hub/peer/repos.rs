//! What a repository is: commits of trees of files, and what a Space has beside them.

use super::{MAIN, State, git_oid, hex, sha256};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// The content of a file, which may be larger than anything anybody would keep in memory.
#[derive(Clone)]
pub(crate) enum Content {
    Bytes(Arc<Vec<u8>>),
    /// So many bytes, made when they are asked for.
    Made(u64, Arc<dyn Fn(Range<u64>) -> Vec<u8> + Send + Sync>),
}

impl Content {
    pub(crate) fn made(size: u64, make: impl Fn(Range<u64>) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::Made(size, Arc::new(make))
    }

    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Made(size, _) => *size,
        }
    }

    pub(super) fn slice(&self, range: Range<u64>) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes[range.start as usize..range.end as usize].to_vec(),
            Self::Made(_, make) => make(range),
        }
    }

    pub(super) fn all(&self) -> Vec<u8> {
        self.slice(0..self.size())
    }
}

impl<B: Into<Vec<u8>>> From<B> for Content {
    fn from(bytes: B) -> Self {
        Self::Bytes(Arc::new(bytes.into()))
    }
}

/// A file of a tree.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) oid: String,
    pub(super) size: u64,
    pub(super) lfs: Option<String>,
}

pub(super) type Tree = BTreeMap<String, Entry>;

pub(super) struct Commit {
    pub(super) tree: Tree,
    pub(super) parent: Option<String>,
    pub(super) message: String,
}

pub(super) struct Repo {
    pub(super) kind: String,
    pub(super) id: String,
    pub(super) private: bool,
    pub(super) sdk: Option<String>,
    pub(super) commits: BTreeMap<String, Commit>,
    pub(super) branches: BTreeMap<String, String>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) secrets: BTreeMap<String, String>,
    pub(super) hardware: String,
    pub(super) stages: Vec<String>,
}

impl Repo {
    pub(super) fn new(kind: &str, id: &str, private: bool, sdk: Option<String>, tree: Tree) -> Self {
        let mut repo = Self {
            kind: kind.to_owned(),
            id: id.to_owned(),
            private,
            sdk,
            commits: BTreeMap::new(),
            branches: BTreeMap::new(),
            tags: BTreeMap::new(),
            variables: BTreeMap::new(),
            secrets: BTreeMap::new(),
            hardware: "cpu-basic".to_owned(),
            stages: vec!["NO_APP_FILE".to_owned()],
        };
        repo.commit(MAIN, tree, "initial commit");
        repo
    }

    /// `models/alice/x`, as paths of the API begin.
    pub(super) fn url(&self, address: &str) -> String {
        match self.kind.as_str() {
            "model" => format!("{address}/{}", self.id),
            kind => format!("{address}/{kind}s/{}", self.id),
        }
    }

    pub(super) fn revision(&self, revision: &str) -> Option<String> {
        let named = self.branches.get(revision).or_else(|| self.tags.get(revision)).cloned();
        named.or_else(|| self.commits.contains_key(revision).then(|| revision.to_owned()))
    }

    pub(super) fn tree(&self, revision: &str) -> Tree {
        self.revision(revision).map_or_else(Tree::new, |commit| self.commits[&commit].tree.clone())
    }

    pub(super) fn commit(&mut self, branch: &str, tree: Tree, message: &str) -> String {
        let parent = self.branches.get(branch).cloned();
        let names: String = tree.iter().map(|(path, entry)| format!("{path} {} {:?}\n", entry.oid, entry.lfs)).collect();
        let sha = hex(&Sha1::digest(format!("{}/{}/{parent:?}/{message}/{names}", self.kind, self.id)));
        self.commits.insert(sha.clone(), Commit { tree, parent, message: message.to_owned() });
        self.branches.insert(branch.to_owned(), sha.clone());
        sha
    }

    /// The commits of `main`, newest first.
    pub(super) fn history(&self) -> Vec<String> {
        let next = |sha: &String| self.commits[sha].parent.clone();
        std::iter::successors(self.branches.get(MAIN).cloned(), next).collect()
    }
}

/// What the Hub says of a file.
pub(super) fn told(path: &str, entry: &Entry) -> Value {
    let mut told = json!({ "type": "file", "oid": entry.oid, "size": entry.size, "path": path });
    if let Some(lfs) = &entry.lfs {
        told["lfs"] = json!({ "oid": lfs, "size": entry.size, "pointerSize": pointer(lfs, entry.size).len() });
    }
    told
}

/// What git keeps instead of a large file.
pub(super) fn pointer(lfs: &str, size: u64) -> String {
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{lfs}\nsize {size}\n")
}

/// Whether a file is a large one by its name, as `.gitattributes` has it.
pub(super) fn is_large(path: &str) -> bool {
    let known = ["safetensors", "bin", "wav", "flac", "mp3", "ogg", "parquet", "pt", "gz", "zip", "png", "jpg", "onnx", "gguf", "arrow"];
    path.rsplit_once('.').is_some_and(|(_, ending)| known.contains(&ending.to_ascii_lowercase().as_str()))
}

impl State {
    /// A repository that a test knows is there.
    pub(super) fn repo(&mut self, kind: &str, id: &str) -> &mut Repo {
        let key = (kind.to_owned(), id.to_owned());
        self.repos.get_mut(&key).unwrap_or_else(|| panic!("no {kind} {id}"))
    }

    /// Keeps a file's content as git or LFS would.
    pub(super) fn store(&mut self, path: &str, content: Content) -> Entry {
        let size = content.size();
        let made = match &content {
            Content::Made(..) => Some(sha256(path.as_bytes())),
            Content::Bytes(bytes) => (is_large(path) || size > self.lfs_from).then(|| sha256(bytes)),
        };
        match made {
            Some(lfs) => {
                self.lfs.insert(lfs.clone(), content);
                Entry { oid: git_oid(pointer(&lfs, size).as_bytes()), size, lfs: Some(lfs) }
            }
            None => {
                let oid = git_oid(&content.all());
                self.blobs.insert(oid.clone(), content);
                Entry { oid, size, lfs: None }
            }
        }
    }

    pub(super) fn content(&self, entry: &Entry) -> Content {
        entry.lfs.as_ref().map_or_else(|| self.blobs[&entry.oid].clone(), |lfs| self.lfs[lfs].clone())
    }
}
