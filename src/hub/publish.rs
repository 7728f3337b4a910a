//! Publishing: files are put into a repository by one commit, which is then verified.
//!
//! Large files are uploaded first, where they are not visible; the commit is the only visible step. It names its parent commit, so a lost
//! response cannot lead to a second commit: the repository is checked before the commit is tried again. A hidden file ([`MARKER`]) lists
//! what was published, and by which pipeline; only those files are ever replaced, unless the settings allow more.
use super::client::{HubClient, RemoteFile};
use super::http::{Body, HttpError, Method, Progress, Request};
use super::{RepoId, RepoType};
use crate::data::text::first_few;
use crate::error::{Error, Result, ResultExt};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// The file in a repository that lists what was published.
pub const MARKER: &str = ".voxpipe-published";
/// Files in one `preupload` request.
const PREUPLOAD_BATCH: usize = 256;
/// Bytes of a file that the Hub looks at to find its type.
const SAMPLE: usize = 512;

/// What is to be published, and how.
#[derive(Debug)]
pub struct Publication<'a> {
    /// What the repository holds.
    pub kind: RepoType,
    /// `owner/name`, or `name` for the token's user.
    pub repo: &'a str,
    /// Path in the repository → local file.
    pub files: &'a BTreeMap<String, PathBuf>,
    /// Whether a new repository is private.
    pub private: bool,
    /// Whether to replace files that voxpipe did not publish.
    pub overwrite: bool,
    /// The message of the commit.
    pub message: &'a str,
    /// The pipeline and the stage that publish.
    pub by: [&'a str; 2],
    /// A folder for temporary files that outlives an attempt.
    pub scratch: &'a Path,
}

/// What was published.
#[derive(Clone, Debug, Serialize)]
pub struct Published {
    /// `owner/name`
    pub repo: String,
    /// The commit that holds it.
    pub revision: String,
    /// The address of its page.
    pub url: String,
    /// The address of the Hub.
    pub endpoint: String,
    /// The user whose token published it.
    pub user: String,
    /// The published files.
    pub files: Vec<LocalFile>,
    /// Whether a commit had to be made.
    #[serde(skip)]
    pub changed: bool,
    /// Bytes of large files that were sent.
    #[serde(skip)]
    pub sent: u64,
}

/// A file to publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalFile {
    /// Its path in the repository.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// SHA-256 of its content.
    pub sha256: String,
    /// The hash that git has for it.
    pub oid: String,
    /// The local file.
    #[serde(skip)]
    pub from: PathBuf,
}

/// What [`MARKER`] holds.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    made_by: String,
    pipeline: String,
    stage: String,
    files: Vec<LocalFile>,
}

impl LocalFile {
    fn read(path: &str, from: &Path) -> Result<Self> {
        let doing = || format!("cannot read `{}`", from.display());
        let mut file = fs::File::open(from).with_context(doing)?;
        let size = file.metadata().with_context(doing)?.len();
        let (mut whole, mut git) = (sha2::Sha256::new(), sha1::Sha1::new());
        git.update(format!("blob {size}\0"));
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = file.read(&mut buffer).with_context(doing)?;
            if count == 0 {
                break;
            }
            whole.update(&buffer[..count]);
            git.update(&buffer[..count]);
        }
        Ok(Self { path: path.to_owned(), size, sha256: hex(&whole.finalize()), oid: hex(&git.finalize()), from: from.to_owned() })
    }

    /// Whether a file of the repository has this content.
    pub(super) fn matches(&self, remote: &RemoteFile) -> bool {
        self.size == remote.size && remote.sha256.as_ref().map_or(self.oid == remote.oid, |sha256| *sha256 == self.sha256)
    }
}

/// Publishes files. If the repository holds them already, nothing is changed.
pub fn publish(client: &HubClient, what: &Publication<'_>, progress: &Progress<'_>) -> Result<Published> {
    let user = client.whoami(progress)?;
    let repo = client.repo(what.kind, what.repo, &user)?;
    client.may_write(&repo, &user, progress)?;
    let work = what.scratch.join("hub");
    fs::create_dir_all(&work).with_context(|| format!("cannot create `{}`", work.display()))?;
    let mut files = what.files.iter().map(|(path, from)| LocalFile::read(path, from)).collect::<Result<Vec<_>>>()?;
    let marker = Marker { made_by: "voxpipe".into(), pipeline: what.by[0].into(), stage: what.by[1].into(), files: files.clone() };
    let marker_path = work.join("marker.json");
    fs::write(&marker_path, serde_json::to_vec_pretty(&marker)?).with_context(|| format!("cannot write `{}`", marker_path.display()))?;
    files.push(LocalFile::read(MARKER, &marker_path)?);

    let mut head = client.head(&repo, progress)?;
    if head.is_none() {
        client.create(&repo, what.private, progress)?;
        head = client.head(&repo, progress)?;
    }
    let head = head.ok_or_else(|| {
        Error::new(format!("the repository `{repo}` was created but cannot be found")).environment().hint("run again in a moment")
    })?;
    let remote = client.tree(&repo, &head, progress)?;
    let job = Job { client, what, repo: &repo, files: &files, work: &work, progress };
    let finished = |revision: String, changed: bool, sent: u64| {
        let mut files = files.clone();
        files.retain(|file| file.path != MARKER);
        Published {
            repo: repo.to_string(),
            url: client.page(&repo),
            endpoint: client.endpoint().to_owned(),
            user: user.name.clone(),
            revision,
            files,
            changed,
            sent,
        }
    };
    let gone = job.obsolete(&head, &remote, &marker)?;
    if gone.is_empty() && job.differing(&remote).is_empty() {
        return Ok(finished(head, false, 0));
    }
    let (commit, sent) = job.change(&head, &remote, &gone)?;
    let now = client.tree(&repo, &commit, progress)?;
    let wrong = job.differing(&now);
    if !wrong.is_empty() {
        return Err(Error::new(format!("`{repo}` at {commit} does not hold what was published: {} differ", first_few(&wrong, 3)))
            .environment()
            .hint("run again: only what differs is sent"));
    }
    Ok(finished(commit, true, sent))
}

struct Job<'a> {
    client: &'a HubClient,
    what: &'a Publication<'a>,
    repo: &'a RepoId,
    files: &'a [LocalFile],
    work: &'a Path,
    progress: &'a Progress<'a>,
}

impl Job<'_> {
    /// The files that a commit lacks, or holds with other content.
    fn differing(&self, remote: &BTreeMap<String, RemoteFile>) -> Vec<String> {
        let same = |file: &&LocalFile| remote.get(&file.path).is_some_and(|found| file.matches(found));
        self.files.iter().filter(|file| !same(file)).map(|file| file.path.clone()).collect()
    }

    /// The files published earlier that are no longer part of it; an error if files of someone else would be replaced.
    fn obsolete(&self, head: &str, remote: &BTreeMap<String, RemoteFile>, now: &Marker) -> Result<Vec<String>> {
        let id = self.repo;
        let old: Option<Marker> = match remote.get(MARKER) {
            Some(_) => serde_json::from_slice(&self.client.read(self.repo, head, MARKER, self.progress)?).ok(),
            None => None,
        };
        let refuse = |message: String| {
            Error::new(message)
                .environment()
                .hint("choose another `repo`, or set `overwrite = true` to replace its files; nothing was changed")
        };
        let ours = old.as_ref().filter(|old| old.pipeline == now.pipeline && old.stage == now.stage);
        if !self.what.overwrite && ours.is_none() {
            if let Some(old) = &old {
                return Err(refuse(format!("`{id}` was published by the stage `{}` of the pipeline `{}`", old.stage, old.pipeline)));
            }
            // The Hub itself puts this file into every new repository.
            let foreign: Vec<&str> = remote.keys().map(String::as_str).filter(|path| *path != ".gitattributes").collect();
            // A new Space holds a page that says how to fill it.
            let placeholder = || Ok::<_, Error>(self.repo.kind == RepoType::Space && self.client.is_new(self.repo, self.progress)?);
            if !foreign.is_empty() && !placeholder()? {
                return Err(refuse(format!("`{id}` exists and was not published by voxpipe; it has {}", first_few(&foreign, 3))));
            }
        }
        let was: BTreeMap<&str, &LocalFile> = ours.iter().flat_map(|old| &old.files).map(|file| (file.path.as_str(), file)).collect();
        let new: BTreeSet<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        let touched = |path: &str| remote.get(path).is_some_and(|found| !was.get(path).is_some_and(|file| file.matches(found)));
        let wrong = self.differing(remote);
        let changed: Vec<&String> = wrong.iter().filter(|path| *path != MARKER && *path != ".gitattributes" && touched(path)).collect();
        if !self.what.overwrite && ours.is_some() && !changed.is_empty() {
            return Err(refuse(format!("{} in `{id}` changed since voxpipe published it", first_few(&changed, 3))));
        }
        let gone = was.keys().filter(|path| !new.contains(*path) && remote.contains_key(**path) && !touched(path));
        Ok(gone.map(|path| (*path).to_owned()).collect())
    }

    /// Uploads missing files and makes the commit.
    fn change(&self, head: &str, remote: &BTreeMap<String, RemoteFile>, gone: &[String]) -> Result<(String, u64)> {
        let missing: Vec<&LocalFile> =
            self.files.iter().filter(|file| !remote.get(&file.path).is_some_and(|found| file.matches(found))).collect();
        let (large, small) = self.split(head, &missing)?;
        let sent = self.client.upload(self.repo, &large, self.work, self.progress)?;
        let body = self.work.join("commit.ndjson");
        self.write(&body, head, &large, &small, gone).with_context(|| format!("cannot write `{}`", body.display()))?;
        let commit = self.commit(head, &body)?;
        let _ = fs::remove_file(body);
        Ok((commit, sent))
    }

    /// Which files go to the LFS server, and which into the commit itself: the Hub decides.
    fn split<'f>(&self, head: &str, files: &[&'f LocalFile]) -> Result<(Vec<&'f LocalFile>, Vec<&'f LocalFile>)> {
        let what = || format!("prepare the upload to `{}`", self.repo);
        let mut modes = BTreeMap::new();
        for chunk in files.chunks(PREUPLOAD_BATCH) {
            let mut asked = Vec::new();
            for file in chunk {
                let mut sample = Vec::new();
                let open = fs::File::open(&file.from).and_then(|from| from.take(SAMPLE as u64).read_to_end(&mut sample));
                open.with_context(|| format!("cannot read `{}`", file.from.display()))?;
                asked.push(json!({ "path": file.path, "size": file.size, "sample": STANDARD.encode(sample) }));
            }
            let path = format!("{}/preupload/{head}", self.repo.api_path());
            let response = self.client.post(&path, json!({ "files": asked }), self.progress);
            let response = response.map_err(|error| self.client.cannot(&what(), error))?;
            for file in response["files"].as_array().into_iter().flatten() {
                modes.insert(file["path"].as_str().unwrap_or_default().to_owned(), file["uploadMode"] == "lfs");
            }
        }
        let silent =
            |file: &LocalFile| Error::new(format!("cannot {}: the Hub does not say how to upload {}", what(), file.path)).environment();
        let (mut large, mut small) = (Vec::new(), Vec::new());
        for file in files {
            if *modes.get(&file.path).ok_or_else(|| silent(file))? { large.push(*file) } else { small.push(*file) }
        }
        Ok((large, small))
    }

    /// Writes the body of the commit, one JSON object per line, to a file: it may be large.
    fn write(&self, path: &Path, head: &str, large: &[&LocalFile], small: &[&LocalFile], gone: &[String]) -> Result<()> {
        let mut out = BufWriter::new(fs::File::create(path)?);
        let mut line = |key: &str, value: Value| writeln!(out, "{}", json!({ "key": key, "value": value }));
        line("header", json!({ "summary": self.what.message, "description": "", "parentCommit": head }))?;
        for file in small {
            let bytes = fs::read(&file.from)?;
            line("file", json!({ "path": file.path, "content": STANDARD.encode(bytes), "encoding": "base64" }))?;
        }
        for file in large {
            line("lfsFile", json!({ "path": file.path, "algo": "sha256", "oid": file.sha256, "size": file.size }))?;
        }
        for path in gone {
            line("deletedFile", json!({ "path": path }))?;
        }
        Ok(out.flush()?)
    }

    /// Makes the commit on top of `head`, or finds that it was made.
    fn commit(&self, head: &str, body: &Path) -> Result<String> {
        let size = fs::metadata(body)?.len();
        let http = &self.client.http;
        let cannot = |error| self.client.cannot(&format!("publish to `{}`", self.repo), error);
        let url = format!("{}{}/commit/main", self.client.endpoint(), self.repo.api_path());
        for attempt in 1.. {
            let request = Request::new(Method::POST, &url, Body::File(body, 0..size, "application/x-ndjson"));
            let error = match http.send_once(&request, self.progress).and_then(|response| response.json()) {
                Ok(response) => match response["commitOid"].as_str().filter(|commit| super::is_commit(commit)) {
                    Some(commit) => return Ok(commit.to_owned()),
                    None => HttpError::InvalidResponse("it does not name the commit".to_owned()),
                },
                Err(error) => error,
            };
            // It may have been made although no response says so: 412 is also what a second attempt gets.
            let (delay, is_last) = match http.retry.next_delay(attempt, &error) {
                Some(delay) => (delay, false),
                None if may_have_committed(&error) => (http.retry.base_delay, true),
                None => return Err(cannot(error)),
            };
            http.wait(delay, self.progress).map_err(cannot)?;
            let now = self.client.head(self.repo, self.progress)?.unwrap_or_default();
            if now != head {
                let remote = self.client.tree(self.repo, &now, self.progress)?;
                return if self.differing(&remote).is_empty() { Ok(now) } else { Err(cannot(HttpError::status(412, ""))) };
            }
            if is_last {
                return Err(cannot(error));
            }
        }
        Err(cannot(HttpError::Cancelled))
    }
}

/// Whether a commit may have been made although this came in place of a response.
fn may_have_committed(error: &HttpError) -> bool {
    match error {
        HttpError::Status { status, .. } => *status == 412 || error.is_transient(),
        HttpError::Timeout { .. } | HttpError::Disconnected | HttpError::Transfer(_) | HttpError::InvalidResponse(_) => true,
        HttpError::Connect { .. } | HttpError::Cancelled | HttpError::Local(_) => false,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
