//! What the cache lacks, downloaded into it: with the HTTP client of the Hub.
//!
//! Only the files a recogniser reads are fetched. Each must have the size the Hub lists for it, or it is thrown away and fetched again;
//! the name of the branch or tag is written down last, so that a download that breaks off is never taken for a whole one. Files that
//! are there already are not fetched again, so running once more goes on from the last whole file.
//!
//! The client runs in a thread of its own, so that whoever waits can stop waiting, and so that a server that falls silent is noticed.

use super::{DownloadProgress, OnDownload, RepoRevision, cache};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::repository::{RepoTreeEntry, RepoTypeModel};
use hf_hub::{HFClient, HFError, HFRepositorySync};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use std::{fs, thread};

/// How often a file is tried.
const TRIES: u32 = 4;
/// What is waited before the second try; doubled before each further one.
const PATIENCE: Duration = Duration::from_millis(300);
/// A server that sends nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(120);
/// How often the one who waits is asked whether to go on.
const BEAT: Duration = Duration::from_millis(200);

/// A file of the repository that we read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    path: String,
    size: u64,
}

/// What the downloading thread says.
enum Word {
    Fetching(DownloadProgress),
    Ended(Result<()>),
}

/// Downloads what is missing of a repository's revision into the cache.
pub(super) fn fetch(cache: &Path, repository: &RepoRevision, say: &mut OnDownload) -> Result<()> {
    let (sender, receiver) = mpsc::channel();
    let download = Download::new(cache, repository, sender.clone());
    thread::spawn(move || {
        let ended = download.and_then(|download| download.go());
        // Nobody listens any more when the one who waited was told to stop.
        let _ = sender.send(Word::Ended(ended));
    });
    let mut last = DownloadProgress { repository: repository.clone(), file: String::new(), done: 0, total: 0 };
    let mut moved = Instant::now();
    loop {
        match receiver.recv_timeout(BEAT) {
            Ok(Word::Ended(ended)) => return ended,
            Ok(Word::Fetching(fetching)) => {
                if fetching != last {
                    moved = Instant::now();
                }
                last = fetching;
                say(&last)?;
            }
            Err(RecvTimeoutError::Timeout) if moved.elapsed() < SILENCE => say(&last)?,
            Err(RecvTimeoutError::Timeout) => return Err(silent()),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(format!("the download of `{repository}` broke off")).environment().hint("run again"));
            }
        }
    }
}

/// Asks which commit a revision is.
pub(super) fn commit(cache: &Path, repository: &RepoRevision) -> Result<String> {
    let (sender, receiver) = mpsc::channel();
    let (words, _) = mpsc::channel();
    let download = Download::new(cache, repository, words);
    thread::spawn(move || drop(sender.send(download.and_then(|download| download.commit()))));
    receiver.recv_timeout(SILENCE).unwrap_or_else(|_| Err(silent()))
}

fn silent() -> Error {
    let silent = format!("`{}` has sent nothing for {} s", cache::endpoint(), SILENCE.as_secs());
    Error::new(silent).environment().hint("check the network, then run again: files that are here stay")
}

/// A download in the making.
struct Download {
    cache: PathBuf,
    repository: RepoRevision,
    hub: HFRepositorySync<RepoTypeModel>,
    endpoint: String,
    token: Option<String>,
    sender: Sender<Word>,
}

impl Download {
    fn new(cache: &Path, repository: &RepoRevision, sender: Sender<Word>) -> Result<Self> {
        let (endpoint, token) = (cache::endpoint(), super::token());
        let agent = concat!("voxpipe/", env!("CARGO_PKG_VERSION"));
        let mut client = HFClient::builder().endpoint(&endpoint).cache_dir(cache).user_agent(agent);
        if let Some(token) = &token {
            client = client.token(token);
        }
        let refused = |error: HFError| {
            Error::new(format!("`{endpoint}` cannot be the Hub's address: {error}"))
                .environment()
                .hint("set HF_ENDPOINT right, or not at all")
        };
        let hub = client.build_sync().map_err(refused)?.model(&repository.repo.owner, &repository.repo.name);
        Ok(Self { cache: cache.to_owned(), repository: repository.clone(), hub, endpoint, token, sender })
    }

    fn go(&self) -> Result<()> {
        let commit = self.commit()?;
        let entries = self.hub.list_tree().revision(&commit).send().map_err(|error| self.explain(error, None))?;
        let wanted = wanted(&entries).map_err(|missing| {
            Error::new(format!("`{}` is no model or adapter we can read: it has no {missing}", self.repository))
                .kind(ErrorKind::InvalidInput)
                .hint("name a repository of a Voxtral model, or of a LoRA adapter for one")
        })?;
        let total = wanted.iter().map(|file| file.size).sum();
        let mut before = 0;
        for file in &wanted {
            self.file(file, &commit, before, total)?;
            before += file.size;
        }
        if self.repository.is_pinned() { Ok(()) } else { cache::remember(&self.cache, &self.repository, &commit) }
    }

    /// The commit that the revision is now.
    fn commit(&self) -> Result<String> {
        if self.repository.is_pinned() {
            return Ok(self.repository.revision.clone());
        }
        let info = self.hub.info().revision(&self.repository.revision).send().map_err(|error| self.explain(error, None))?;
        info.sha
            .filter(|sha| super::is_commit(sha))
            .ok_or_else(|| Error::new(format!("`{}` does not say which commit `{}` is", self.endpoint, self.repository)).environment())
    }

    /// One file, tried a few times.
    fn file(&self, file: &Wanted, commit: &str, before: u64, total: u64) -> Result<()> {
        let mut wait = PATIENCE;
        for attempt in 1.. {
            let voice = Voice { sender: self.sender.clone(), repository: self.repository.clone(), file: file.clone(), before, total };
            voice.say(0);
            let sent = self.hub.download_file().filename(&file.path).revision(commit).progress(voice).send();
            let failed = match sent {
                Ok(path) => match self.keep_if_whole(file, &path)? {
                    None => return Ok(()),
                    Some(wrong) => wrong,
                },
                Err(error) if attempt < TRIES && is_passing(&error) => self.explain(error, Some(&file.path)),
                Err(error) => return Err(self.explain(error, Some(&file.path))),
            };
            if attempt == TRIES {
                return Err(failed);
            }
            tracing::debug!("{}: try {attempt} failed: {}", file.path, failed.message);
            thread::sleep(wait);
            wait *= 2;
        }
        Ok(())
    }

    /// Throws a file away that has not the size it should have, and says so.
    fn keep_if_whole(&self, file: &Wanted, path: &Path) -> Result<Option<Error>> {
        let reading = || format!("cannot read `{}`", path.display());
        let size = fs::metadata(path).with_context(reading)?.len();
        if size == file.size {
            return Ok(None);
        }
        // The link and what it leads to: the blob would be taken as it is the next time.
        let blob = fs::canonicalize(path).with_context(reading)?;
        fs::remove_file(path).with_context(|| format!("cannot remove `{}`", path.display()))?;
        if blob.exists() {
            fs::remove_file(&blob).with_context(|| format!("cannot remove `{}`", blob.display()))?;
        }
        let wrong = format!("{} of `{}` should have {} bytes, {size} came", file.path, self.repository, file.size);
        Ok(Some(Error::new(wrong).environment().hint("run again: files that are whole stay")))
    }

    /// What a failure means for the one who asked. The token is in no message, whatever the server says.
    fn explain(&self, error: HFError, file: Option<&str>) -> Error {
        let repository = &self.repository;
        let what = file.map_or_else(|| format!("`{repository}`"), |file| format!("{file} of `{repository}`"));
        let page = format!("{}/{}", self.endpoint, repository.id());
        let environment = |message: String| Error::new(message).environment();
        let access = format!("open {page} and accept its conditions, then set HF_TOKEN to a token that may read it");
        let found = match &error {
            HFError::AuthRequired { .. } if self.token.is_none() => {
                environment(format!("{what} is private or gated, or there is no such repository, and there is no token to ask with"))
                    .hint(format!("check the name; if it is right, {access}"))
            }
            HFError::AuthRequired { .. } => environment(format!("the Hub does not accept the token for {what}"))
                .hint(format!("check that HF_TOKEN, or the file `hf auth login` wrote, is still valid; {access}")),
            HFError::Forbidden { .. } => {
                environment(format!("the token may not read {what}: the repository is gated or private")).hint(access)
            }
            HFError::RepoNotFound { .. } | HFError::RevisionNotFound { .. } => {
                let message =
                    format!("there is no folder and no repository `{}` with the revision `{}`", repository.id(), repository.revision);
                Error::new(message).kind(ErrorKind::InvalidInput).hint(format!("check the name and the revision at {page}"))
            }
            HFError::EntryNotFound { .. } => environment(format!("{what} is listed, but not there")).hint("run again"),
            HFError::RateLimited { .. } => environment(format!("the Hub asks for a pause before it gives {what}"))
                .hint("wait some minutes, then run again; a token (HF_TOKEN) raises the limit"),
            HFError::Io(io) => {
                let failed = Error::from(std::io::Error::new(io.kind(), io.to_string()));
                failed.context(format_args!("cannot store {what} in `{}`", self.cache.display())).environment()
            }
            HFError::Request { source, .. } if source.is_connect() => environment(format!("`{}` cannot be reached", self.endpoint))
                .hint("check the network and HF_ENDPOINT; or fetch the model elsewhere, and give its folder"),
            HFError::Request { .. } => environment(format!("{what} broke off")).hint("run again: files that are whole stay"),
            HFError::Http { context } => environment(format!("the Hub answers {} for {what}", context.status)).hint("run again later"),
            other => environment(format!("{what} could not be fetched: {other}")),
        };
        match &self.token {
            Some(token) => found.redacted(token),
            None => found,
        }
    }
}

/// Whether trying again may help.
fn is_passing(error: &HFError) -> bool {
    match error {
        HFError::Request { source, .. } => !source.is_builder(),
        HFError::Http { context } => context.status.is_server_error(),
        HFError::Xet { .. } | HFError::RateLimited { .. } | HFError::MalformedResponse { .. } => true,
        _ => false,
    }
}

/// The files of a listing that we read, small ones first; what is needed and not there otherwise.
fn wanted(entries: &[RepoTreeEntry]) -> Result<Vec<Wanted>, &'static str> {
    let files = || {
        entries.iter().filter_map(|entry| match entry {
            RepoTreeEntry::File { path, size, .. } if !path.contains('/') => Some((path.as_str(), *size)),
            _ => None,
        })
    };
    let has = |name: &str| files().any(|(path, _)| path == name);
    let weights =
        |stem: &str, path: &str| path.starts_with(stem) && (path.ends_with(".safetensors") || path.ends_with(".safetensors.index.json"));
    let stem = if files().any(|(path, _)| weights("model", path)) { "model" } else { "consolidated" };
    let adapter = has("adapter_config.json");
    let read = |path: &str| match path {
        "adapter_config.json" | "adapter_model.safetensors" => true,
        "config.json" | "tekken.json" | "generation_config.json" | "preprocessor_config.json" | "processor_config.json" => true,
        "params.json" => !has("config.json"),
        path => !adapter && weights(stem, path),
    };
    let missing = if adapter {
        (!has("adapter_model.safetensors")).then_some("adapter_model.safetensors")
    } else if !has("config.json") && !has("params.json") {
        Some("config.json")
    } else if !has("tekken.json") {
        Some("tekken.json")
    } else {
        (!files().any(|(path, _)| weights(stem, path))).then_some("model.safetensors")
    };
    if let Some(missing) = missing {
        return Err(missing);
    }
    let mut wanted: Vec<Wanted> =
        files().filter(|(path, _)| read(path)).map(|(path, size)| Wanted { path: path.to_owned(), size }).collect();
    // What is wrong with a config should not come to light after nine gigabytes.
    wanted.sort_by(|a, b| (a.size, &a.path).cmp(&(b.size, &b.path)));
    Ok(wanted)
}

/// Passes on how far one file is.
struct Voice {
    sender: Sender<Word>,
    repository: RepoRevision,
    file: Wanted,
    /// Bytes of the files before this one.
    before: u64,
    total: u64,
}

impl Voice {
    fn say(&self, done: u64) {
        let done = self.before + done.min(self.file.size);
        let fetching = DownloadProgress { repository: self.repository.clone(), file: self.file.path.clone(), done, total: self.total };
        let _ = self.sender.send(Word::Fetching(fetching));
    }
}

impl ProgressHandler for Voice {
    fn on_progress(&self, event: &ProgressEvent) {
        match event {
            ProgressEvent::Download(DownloadEvent::Progress { files }) => {
                if let Some(file) = files.last() {
                    self.say(file.bytes_completed);
                }
            }
            ProgressEvent::Download(DownloadEvent::AggregateProgress { bytes_completed, .. }) => self.say(*bytes_completed),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Result<Vec<String>, &'static str> {
        let entry = |name: &&str| RepoTreeEntry::File {
            oid: String::new(),
            size: name.len() as u64,
            path: (*name).to_owned(),
            lfs: None,
            last_commit: None,
            xet_hash: None,
            security: None,
        };
        let entries: Vec<RepoTreeEntry> = names.iter().map(entry).collect();
        let mut names: Vec<String> = wanted(&entries)?.into_iter().map(|file| file.path).collect();
        names.sort();
        Ok(names)
    }

    #[test]
    fn only_what_is_read_is_wanted() {
        let both =
            ["README.md", "config.json", "params.json", "tekken.json", "consolidated.safetensors", "model-1.safetensors", "img/a.png"];
        let index = "model.safetensors.index.json";
        assert_eq!(files(&[&both[..], &[index]].concat()).unwrap(), ["config.json", "model-1.safetensors", index, "tekken.json"]);
        let native = ["params.json", "tekken.json", "consolidated.safetensors", ".gitattributes"];
        assert_eq!(files(&native).unwrap(), ["consolidated.safetensors", "params.json", "tekken.json"]);
        let adapter = ["adapter_config.json", "adapter_model.safetensors", "tekken.json", "model.safetensors", "optimizer.pt"];
        assert_eq!(files(&adapter).unwrap(), ["adapter_config.json", "adapter_model.safetensors", "tekken.json"]);
    }

    #[test]
    fn what_is_needed_and_not_there_is_named() {
        assert_eq!(files(&["tekken.json", "model.safetensors"]), Err("config.json"));
        assert_eq!(files(&["config.json", "model.safetensors"]), Err("tekken.json"));
        assert_eq!(files(&["config.json", "tekken.json", "pytorch_model.bin"]), Err("model.safetensors"));
        assert_eq!(files(&["adapter_config.json"]), Err("adapter_model.safetensors"));
    }
}
