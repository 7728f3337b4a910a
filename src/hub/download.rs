//! Downloads of models into the cache, with the Hub's own client, which knows Xet.
//!
//! Only the files that a transcriber reads are downloaded. Each must have the size that the Hub lists for it; otherwise it is deleted and
//! downloaded again. The ref of the branch or tag is written last, so an interrupted download is never taken for a complete one. Files
//! that are complete are not downloaded again, so running again continues with the first missing file.
//!
//! The crate hf-hub makes the requests; when they are tried again and how failures are explained follows [`super::http`]. It runs in a
//! thread of its own, so that the caller can cancel, and so that a server that falls silent is noticed.

use super::http::{Action, HttpError, RetryPolicy, Service, Timeouts, USER_AGENT};
use super::token::HubToken;
use super::{DownloadProgress, OnDownload, RepoRevision, cache};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::repository::{RepoTreeEntry, RepoTypeModel};
use hf_hub::{HFClient, HFError, HFRepositorySync};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use std::{fs, thread};

/// How often the caller is told how far the download is, and can cancel it.
const POLL: Duration = Duration::from_millis(200);

/// A file of the repository that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    path: String,
    size: u64,
}

/// What the downloading thread reports.
enum Event<T> {
    Progress(DownloadProgress),
    /// It waits before the next attempt.
    Waiting,
    Ended(Result<T>),
}

/// Downloads what the cache lacks of a repository's revision.
pub(super) fn fetch(cache: &Path, repository: &RepoRevision, on_download: &mut OnDownload) -> Result<()> {
    in_thread(cache, repository, on_download, |download| download.fetch())
}

/// Requests the commit of a revision.
pub(super) fn commit(cache: &Path, repository: &RepoRevision) -> Result<String> {
    in_thread(cache, repository, &mut |_| Ok(()), |download| download.commit())
}

/// Does something in a thread of its own, until it ends, falls silent, or `on_download` cancels it.
fn in_thread<T: Send + 'static>(
    cache: &Path,
    repository: &RepoRevision,
    on_download: &mut OnDownload,
    work: impl FnOnce(&Download<T>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = mpsc::channel();
    let (endpoint, token) = (cache::endpoint(), HubToken::for_reading());
    let download = Download::new(cache, repository, &endpoint, token, RetryPolicy::default(), sender.clone())?;
    let silent = HttpError::Timeout { origin: download.service.endpoint.clone(), limit: Timeouts::default().idle };
    let silent = download.explain(silent, None);
    thread::spawn(move || {
        let ended = work(&download);
        // Nobody receives this if the caller cancelled.
        let _ = sender.send(Event::Ended(ended));
    });
    let mut last = DownloadProgress { repository: repository.clone(), file: String::new(), done: 0, total: 0 };
    let mut moved = Instant::now();
    loop {
        match receiver.recv_timeout(POLL) {
            Ok(Event::Ended(ended)) => return ended,
            Ok(Event::Progress(progress)) => {
                if progress != last {
                    moved = Instant::now();
                }
                last = progress;
                on_download(&last)?;
            }
            Ok(Event::Waiting) => {
                moved = Instant::now();
                on_download(&last)?;
            }
            Err(RecvTimeoutError::Timeout) if moved.elapsed() < Timeouts::default().idle => on_download(&last)?,
            Err(RecvTimeoutError::Timeout) => return Err(silent),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(format!("the download of `{repository}` ended unexpectedly")).environment().hint("run again"));
            }
        }
    }
}

/// A download under way.
struct Download<T> {
    cache: PathBuf,
    repository: RepoRevision,
    hub: HFRepositorySync<RepoTypeModel>,
    service: Service,
    retry: RetryPolicy,
    events: Sender<Event<T>>,
}

impl<T: Send + 'static> Download<T> {
    fn new(
        cache: &Path,
        repository: &RepoRevision,
        endpoint: &str,
        token: Option<HubToken>,
        retry: RetryPolicy,
        events: Sender<Event<T>>,
    ) -> Result<Self> {
        let service = Service::hub(endpoint, token.clone());
        service.url()?;
        // Attempts are counted here, not there.
        let mut client = HFClient::builder().endpoint(&service.endpoint).cache_dir(cache).user_agent(USER_AGENT).retry_max_attempts(0);
        if let Some(token) = &token {
            client = client.token(token.secret());
        }
        let failed = |error: HFError| service.redact(Error::new(format!("cannot create an HTTP client: {error}")).environment());
        let hub = client.build_sync().map_err(failed)?.model(&repository.repo.owner, &repository.repo.name);
        let (cache, repository) = (cache.to_owned(), repository.clone());
        Ok(Self { cache, repository, hub, service, retry, events })
    }

    fn fetch(&self) -> Result<()> {
        let commit = self.commit()?;
        let entries = self.retried(|| self.hub.list_tree().revision(&commit).send().map_err(|error| self.http_error(error)));
        let wanted = wanted(&entries.map_err(|error| self.explain(error, None))?).map_err(|missing| {
            Error::new(format!("`{}` is not a supported model or adapter: it has no {missing}", self.repository))
                .kind(ErrorKind::InvalidInput)
                .hint("name the repository of a Voxtral model, or of a LoRA adapter for one")
        })?;
        let total = wanted.iter().map(|file| file.size).sum();
        let mut before = 0;
        for file in &wanted {
            self.retried(|| self.download(file, &commit, before, total)).map_err(|error| self.explain(error, Some(&file.path)))?;
            before += file.size;
        }
        if self.repository.is_pinned() { Ok(()) } else { cache::remember(&self.cache, &self.repository, &commit) }
    }

    /// The commit of the revision now.
    fn commit(&self) -> Result<String> {
        if self.repository.is_pinned() {
            return Ok(self.repository.revision.clone());
        }
        let info = self.retried(|| self.hub.info().revision(&self.repository.revision).send().map_err(|error| self.http_error(error)));
        let info = info.map_err(|error| self.explain(error, None))?;
        info.sha.filter(|sha| super::is_commit(sha)).ok_or_else(|| {
            Error::new(format!("`{}` does not name the commit of `{}`", self.service.endpoint, self.repository)).environment()
        })
    }

    /// Tries as often as the retry policy says.
    fn retried<R>(&self, mut attempt: impl FnMut() -> Result<R, HttpError>) -> Result<R, HttpError> {
        for count in 1.. {
            let error = match attempt() {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let Some(delay) = self.retry.next_delay(count, &error) else { return Err(error) };
            tracing::debug!("{}: attempt {count} failed, the next one is in {delay:?}: {error:?}", self.repository);
            let begun = Instant::now();
            while let Some(left) = delay.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
                self.send(Event::Waiting)?;
                thread::sleep(left.min(POLL));
            }
        }
        Err(HttpError::Cancelled)
    }

    /// One attempt for one file.
    fn download(&self, file: &Wanted, commit: &str, before: u64, total: u64) -> Result<(), HttpError> {
        let events = FileEvents { events: self.events.clone(), repository: self.repository.clone(), file: file.clone(), before, total };
        self.send(Event::Progress(events.at(0)))?;
        let sent = self.hub.download_file().filename(&file.path).revision(commit).progress(events).send();
        let path = sent.map_err(|error| self.http_error(error))?;
        match delete_unless_complete(file, &path).map_err(HttpError::Local)? {
            None => Ok(()),
            Some(size) => Err(HttpError::Transfer(format!("{size} of {} bytes arrived", file.size))),
        }
    }

    /// Reports to the caller, unless it is gone.
    fn send(&self, event: Event<T>) -> Result<(), HttpError> {
        self.events.send(event).map_err(|_| HttpError::Cancelled)
    }

    /// The error of hf-hub as one of ours, for the retry policy and for messages.
    fn http_error(&self, error: HFError) -> HttpError {
        let pause = if let HFError::RateLimited { retry_after, .. } = &error { *retry_after } else { None };
        let not_found = |code: &str| HttpError::status(404, "").coded(code);
        match error {
            HFError::Http { context }
            | HFError::AuthRequired { context }
            | HFError::Forbidden { context }
            | HFError::Conflict { context }
            | HFError::RateLimited { context, .. } => {
                let error = HttpError::status(context.status.as_u16(), context.server_message.unwrap_or_default());
                error.coded(context.error_code.as_deref().unwrap_or_default()).asking_for(pause)
            }
            HFError::RepoNotFound { .. } => not_found("RepoNotFound"),
            HFError::RevisionNotFound { .. } => not_found("RevisionNotFound"),
            HFError::EntryNotFound { .. } => not_found("EntryNotFound"),
            HFError::Request { source, .. } if source.is_connect() => HttpError::Connect { origin: self.service.endpoint.clone() },
            HFError::Request { source, .. } if !source.is_builder() => HttpError::Disconnected,
            HFError::Xet { .. } | HFError::MalformedResponse { .. } => HttpError::Transfer(error.to_string()),
            HFError::Io(io) => {
                let failed = Error::from(std::io::Error::new(io.kind(), io.to_string()));
                let what = format!("cannot store files of `{}` in `{}`", self.repository, self.cache.display());
                HttpError::Local(failed.context(what).environment())
            }
            other => HttpError::InvalidResponse(other.to_string()),
        }
    }

    /// What a failure means, for the repository or one of its files.
    fn explain(&self, error: HttpError, file: Option<&str>) -> Error {
        let repository = &self.repository;
        if file.is_none() && matches!(error, HttpError::Status { status: 404, .. }) {
            let RepoRevision { repo, revision } = repository;
            return Error::new(format!(
                "model not found: `{repo}` is neither a folder nor a Hub repository with the revision `{revision}`"
            ))
            .kind(ErrorKind::InvalidInput)
            .hint(format!("check the name and the revision at {}/{}", self.service.endpoint, repo.path()));
        }
        let what = file.map_or_else(|| format!("`{repository}`"), |file| format!("{file} of `{repository}`"));
        error.explain(Action::Read(&what), &self.service)
    }
}

/// Deletes a file that has not the size it should have, and returns its size.
fn delete_unless_complete(file: &Wanted, path: &Path) -> Result<Option<u64>> {
    let reading = || format!("cannot read `{}`", path.display());
    let size = fs::metadata(path).with_context(reading)?.len();
    if size == file.size {
        return Ok(None);
    }
    // The link and the blob: the blob would be used as it is the next time.
    let blob = fs::canonicalize(path).with_context(reading)?;
    fs::remove_file(path).with_context(|| format!("cannot remove `{}`", path.display()))?;
    if blob.exists() {
        fs::remove_file(&blob).with_context(|| format!("cannot remove `{}`", blob.display()))?;
    }
    Ok(Some(size))
}

/// The files of a listing that are needed, small ones first; the error is a file that is missing.
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
        // What voxpipe trained says what it was trained on.
        "training.json" | "trained-on.json" => true,
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
    // A wrong config should be found before gigabytes are downloaded.
    wanted.sort_by(|a, b| (a.size, &a.path).cmp(&(b.size, &b.path)));
    Ok(wanted)
}

/// Reports the progress of one file.
struct FileEvents<T> {
    events: Sender<Event<T>>,
    repository: RepoRevision,
    file: Wanted,
    /// Bytes of the files before this one.
    before: u64,
    total: u64,
}

impl<T> FileEvents<T> {
    fn at(&self, done: u64) -> DownloadProgress {
        let done = self.before + done.min(self.file.size);
        DownloadProgress { repository: self.repository.clone(), file: self.file.path.clone(), done, total: self.total }
    }
}

impl<T: Send + 'static> ProgressHandler for FileEvents<T> {
    fn on_progress(&self, event: &ProgressEvent) {
        let done = match event {
            ProgressEvent::Download(DownloadEvent::Progress { files }) => files.last().map(|file| file.bytes_completed),
            ProgressEvent::Download(DownloadEvent::AggregateProgress { bytes_completed, .. }) => Some(*bytes_completed),
            _ => None,
        };
        if let Some(done) = done {
            let _ = self.events.send(Event::Progress(self.at(done)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::http::testing::{STATUSES, Server, reply};

    #[test]
    fn downloads_follow_the_retry_policy() {
        let (dir, repository) = (tempfile::tempdir().unwrap(), RepoRevision::parse("a/b").unwrap());
        let retry = RetryPolicy { max_attempts: 3, base_delay: Duration::from_millis(1), ..RetryPolicy::default() };
        for (status, transient) in STATUSES.iter().copied() {
            let server = Server::start(move |_| reply(status, &[("X-Error-Message", "hf_secret")], b""));
            let token = Some(HubToken::new("hf_secret", "a test"));
            let (events, _events) = mpsc::channel();
            let download = Download::<()>::new(dir.path(), &repository, &server.address, token, retry, events).unwrap();
            let error = download.commit().unwrap_err();
            assert_eq!(server.seen().len(), if transient { 3 } else { 1 }, "{status}: {error}");
            let kind = if status == 404 { ErrorKind::InvalidInput } else { ErrorKind::Environment };
            assert!(error.kind == kind && !format!("{error:?}").contains("hf_secret"), "{status}: {error:?}");
        }
    }

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
        let own = ["config.json", "loss.jsonl", "model.safetensors", "tekken.json", "trained-on.json", "training.json"];
        assert_eq!(files(&own).unwrap(), ["config.json", "model.safetensors", "tekken.json", "trained-on.json", "training.json"]);
    }

    #[test]
    fn what_is_needed_and_not_there_is_named() {
        assert_eq!(files(&["tekken.json", "model.safetensors"]), Err("config.json"));
        assert_eq!(files(&["config.json", "model.safetensors"]), Err("tekken.json"));
        assert_eq!(files(&["config.json", "tekken.json", "pytorch_model.bin"]), Err("model.safetensors"));
        assert_eq!(files(&["adapter_config.json"]), Err("adapter_model.safetensors"));
    }
}
