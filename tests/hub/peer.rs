//! A whole Hub on this machine, in the test binary: repositories of all three types, read and written as on the real one, with large
//! files behind another host name, a log of every request, and faults on demand.
//!
//! What it knows of the protocol is what the official client sends and expects, and that client is run against it.

mod api;
mod faults;
mod http;
mod large;
mod reading;
mod repos;
mod spaces;
mod viewer;
mod writing;

pub(crate) use faults::{Fault, What};
pub(crate) use repos::Content;

use repos::Repo;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

/// Alice's token, which may write.
pub(crate) const WRITE: &str = "hf_aliceMayWriteAndNobodyMayKnowIt";
/// Alice's token, which may only read.
pub(crate) const READ: &str = "hf_aliceMayReadAndNobodyMayKnowIt";
/// Bob's token, which may write, though not where Alice is at home.
pub(crate) const BOB: &str = "hf_bobMayWriteAndNobodyMayKnowIt";
/// Alice's token of the fine-grained kind: it may write to `alice/allowed` and nowhere else.
pub(crate) const FINE: &str = "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";

/// Branch of every repository.
const MAIN: &str = "main";

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Whether the Hub itself was asked, and not the store of large files, which has another name.
    pub(crate) hub: bool,
    pub(crate) method: String,
    /// As it was sent, without the query.
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) authorization: Option<String>,
    /// Bytes of the request's body.
    pub(crate) received: usize,
    /// Bytes of the answer's body that were sent.
    pub(crate) sent: usize,
    pub(crate) status: u16,
}

/// The running server; it ends with the tests.
pub(crate) struct Hub {
    /// `http://127.0.0.1:PORT`
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
}

/// What the server knows.
struct State {
    address: String,
    store: String,
    repos: BTreeMap<(String, String), Repo>,
    blobs: BTreeMap<String, Content>,
    lfs: BTreeMap<String, Content>,
    parts: BTreeMap<(String, usize), Vec<u8>>,
    seen: Vec<Seen>,
    faults: Vec<Fault>,
    /// Size of a part, and from which size on parts are asked for.
    part: usize,
    /// Bytes from which on a file is a large one, whatever its name.
    lfs_from: u64,
    /// Entries of a page of a listing.
    page: usize,
    /// Whether gradio and docker Spaces need a paid account.
    free_user: bool,
}

impl Hub {
    pub(crate) fn start() -> Self {
        let (hub, store) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = format!("http://127.0.0.1:{}", hub.local_addr().unwrap().port());
        let away = format!("http://localhost:{}", store.local_addr().unwrap().port());
        let state = State {
            address: address.clone(),
            store: away,
            repos: BTreeMap::new(),
            blobs: BTreeMap::new(),
            lfs: BTreeMap::new(),
            parts: BTreeMap::new(),
            seen: Vec::new(),
            faults: Vec::new(),
            part: 5 << 20,
            lfs_from: 10 << 20,
            page: 1000,
            free_user: false,
        };
        let state = Arc::new(Mutex::new(state));
        for (listener, is_hub) in [(hub, true), (store, false)] {
            let state = Arc::clone(&state);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    // A client that goes away in the middle is part of what is tested.
                    thread::spawn(move || drop(faults::serve(&state, stream, is_hub)));
                }
            });
        }
        Self { address, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Puts files into the `main` of a repository, which is made if it is not there; `kind` is `model`, `dataset` or `space`.
    /// Returns the commit.
    pub(crate) fn put<P: Into<String>, B: Into<Content>>(&self, kind: &str, id: &str, files: impl IntoIterator<Item = (P, B)>) -> String {
        let mut state = self.state();
        state.repos.entry((kind.to_owned(), id.to_owned())).or_insert_with(|| Repo::new(kind, id, false, None, BTreeMap::new()));
        let mut tree = state.repo(kind, id).tree(MAIN);
        for (path, content) in files {
            let path = path.into();
            let entry = state.store(&path, content.into());
            tree.insert(path, entry);
        }
        state.repo(kind, id).commit(MAIN, tree, "put by a test")
    }

    /// Whether a repository is there.
    pub(crate) fn has(&self, kind: &str, id: &str) -> bool {
        self.state().repos.contains_key(&(kind.to_owned(), id.to_owned()))
    }

    /// Deletes a repository.
    pub(crate) fn remove(&self, kind: &str, id: &str) {
        self.state().repos.remove(&(kind.to_owned(), id.to_owned())).unwrap();
    }

    /// What is in the `main` of a repository now.
    pub(crate) fn files(&self, kind: &str, id: &str) -> BTreeMap<String, Vec<u8>> {
        let mut state = self.state();
        let tree = state.repo(kind, id).tree(MAIN);
        tree.into_iter().map(|(path, entry)| (path, state.content(&entry).all())).collect()
    }

    /// The commits of `main`, newest first; the first one of all, which every repository is made with, is among them.
    pub(crate) fn commits(&self, kind: &str, id: &str) -> Vec<String> {
        self.state().repos.get(&(kind.to_owned(), id.to_owned())).map_or_else(Vec::new, Repo::history)
    }

    /// What was asked, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// Forgets what was asked.
    pub(crate) fn forget(&self) {
        self.state().seen.clear();
    }

    pub(crate) fn break_with(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    pub(crate) fn mend(&self) {
        self.state().faults.clear();
    }

    /// Large files in parts of so many bytes.
    pub(crate) fn part_size(&self, bytes: usize) {
        self.state().part = bytes;
    }

    /// Listings in pages of so many entries.
    pub(crate) fn page_size(&self, entries: usize) {
        self.state().page = entries;
    }

    /// Whether gradio and docker Spaces need a paid account.
    pub(crate) fn free_user(&self, free: bool) {
        self.state().free_user = free;
    }

    /// The stages a Space goes through after it was changed, one for every time it is asked; the last one stays.
    pub(crate) fn space_stages(&self, id: &str, stages: &[&str]) {
        self.state().repo("space", id).stages = stages.iter().map(|&stage| stage.to_owned()).collect();
    }

    /// Variables and secrets of a Space.
    pub(crate) fn space_settings(&self, id: &str) -> [BTreeMap<String, String>; 2] {
        let mut state = self.state();
        let repo = state.repo("space", id);
        [repo.variables.clone(), repo.secrets.clone()]
    }
}

/// The git name of a file's content.
pub(crate) fn git_oid(bytes: &[u8]) -> String {
    use sha1::Digest as _;
    let mut digest = sha1::Sha1::new();
    digest.update(format!("blob {}\0", bytes.len()));
    digest.update(bytes);
    hex(&digest.finalize())
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
