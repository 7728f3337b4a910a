//! One data set on a Hub of this machine, and what was asked for it.

pub(crate) use crate::hub::peer::{Content, WRITE as TOKEN, What};
use crate::hub::peer::{Fault, Hub, Seen};
use std::collections::BTreeMap;

/// The running server; it ends with the tests.
pub(crate) struct Served {
    /// `http://127.0.0.1:PORT`
    pub(crate) address: String,
    /// The commit that `main` was at first.
    pub(crate) commit: String,
    repository: String,
    hub: Hub,
}

impl Served {
    pub(crate) fn start(repository: &str, files: BTreeMap<String, Content>) -> Self {
        let hub = Hub::start();
        let commit = hub.put("dataset", repository, files);
        hub.page_size(2);
        Self { address: hub.address.clone(), commit, repository: repository.to_owned(), hub }
    }

    /// Moves the branch to another commit.
    pub(crate) fn move_on(&self) -> String {
        self.hub.put("dataset", &self.repository, [("news.txt", "something else")])
    }

    /// Breaks requests whose path contains this, and no others any more.
    pub(crate) fn break_with(&self, path: &str, times: usize, what: What) {
        self.hub.mend();
        self.hub.break_with(Fault::new("GET", path, what).times(times));
    }

    /// What the Hub itself was asked.
    pub(crate) fn asked(&self) -> Vec<Seen> {
        self.hub.seen().into_iter().filter(|seen| seen.hub).collect()
    }

    /// What the store of large files was asked.
    pub(crate) fn fetched(&self) -> Vec<Seen> {
        self.hub.seen().into_iter().filter(|seen| !seen.hub).collect()
    }

    /// Bytes of files that were sent.
    pub(crate) fn sent(&self) -> u64 {
        let files = |seen: &&Seen| !seen.hub || seen.path.contains("/resolve/");
        self.hub.seen().iter().filter(files).map(|seen| seen.sent as u64).sum()
    }

    /// Forgets what was asked.
    pub(crate) fn forget(&self) {
        self.hub.forget();
    }
}
