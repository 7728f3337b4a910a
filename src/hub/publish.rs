//! A publication: files put into a repository by one commit, and read back.
//!
//! Everything large is uploaded first, where nobody sees it; the commit is the only visible step. It names the commit it is made on top
//! of, so a lost answer cannot lead to a second one: what is there is looked at before anything is tried again. A hidden file lists what
//! we put there, for which pipeline: only that is ever replaced, unless the settings ask for more.
use super::client::{HubClient, RemoteFile};
use super::wire::{Ask, Body, Method, OnProgress, Trouble};
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

/// Lists what we put into a repository.
pub const MARKER: &str = ".voxpipe-published";
/// Files in one question about how to upload them.
const AT_ONCE: usize = 256;
/// As much of a file as the Hub looks at to see what it is.
const SAMPLE: usize = 512;
/// How often a commit is tried.
const TRIES: u32 = 4;

/// What is to be published, and how.
#[derive(Debug)]
pub struct Publication<'a> {
    /// What kind of repository.
    pub kind: RepoType,
    /// `owner/name`, or `name` for the token's user.
    pub repo: &'a str,
    /// Path in the repository → file here.
    pub files: &'a BTreeMap<String, PathBuf>,
    /// Whether a repository that is made is private.
    pub private: bool,
    /// Whether to replace what we did not put there.
    pub overwrite: bool,
    /// What the commit is called.
    pub message: &'a str,
    /// Whose work this is: the pipeline's name and the stage's.
    pub by: [&'a str; 2],
    /// A folder of ours that outlives an attempt.
    pub scratch: &'a Path,
}

/// What was published.
#[derive(Clone, Debug, Serialize)]
pub struct Published {
    /// `owner/name`
    pub repo: String,
    /// The commit that holds it.
    pub revision: String,
    /// Where to look at it.
    pub url: String,
    /// What was put there.
    pub files: Vec<LocalFile>,
    /// Whether a commit had to be made.
    #[serde(skip)]
    pub changed: bool,
    /// Bytes of large files that were sent.
    #[serde(skip)]
    pub sent: u64,
}

/// A file of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalFile {
    /// In the repository.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// Of its content.
    pub sha256: String,
    /// The name git gives the content.
    pub oid: String,
    /// Where it lies here.
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
    fn is(&self, remote: &RemoteFile) -> bool {
        self.size == remote.size && remote.sha256.as_ref().map_or(self.oid == remote.oid, |sha256| *sha256 == self.sha256)
    }
}

/// Publishes; what is there already is left as it is.
pub fn publish(client: &HubClient, what: &Publication<'_>, voice: &OnProgress<'_>) -> Result<Published> {
    let user = client.whoami(voice)?;
    let place = client.repo(what.kind, what.repo, &user)?;
    client.may_write(&place, &user, voice)?;
    let work = what.scratch.join("hub");
    fs::create_dir_all(&work).with_context(|| format!("cannot make `{}`", work.display()))?;
    let mut files = what.files.iter().map(|(path, from)| LocalFile::read(path, from)).collect::<Result<Vec<_>>>()?;
    let marker = Marker { made_by: "voxpipe".into(), pipeline: what.by[0].into(), stage: what.by[1].into(), files: files.clone() };
    let marker_path = work.join("marker.json");
    fs::write(&marker_path, serde_json::to_vec_pretty(&marker)?).with_context(|| format!("cannot write `{}`", marker_path.display()))?;
    files.push(LocalFile::read(MARKER, &marker_path)?);

    let mut head = client.head(&place, voice)?;
    if head.is_none() {
        client.create(&place, what.private, voice)?;
        head = client.head(&place, voice)?;
    }
    let head = head.ok_or_else(|| {
        Error::new(format!("the repository `{}` was made, and yet is not there", place)).environment().hint("run again in a moment")
    })?;
    let there = client.tree(&place, &head, voice)?;
    let job = Job { client, what, place: &place, files: &files, work: &work, voice };
    let finished = |revision: String, changed: bool, sent: u64| {
        let mut files = files.clone();
        files.retain(|file| file.path != MARKER);
        Published { repo: place.to_string(), url: client.page(&place), revision, files, changed, sent }
    };
    let gone = job.may_replace(&head, &there, &marker)?;
    if gone.is_empty() && job.wrong(&there).is_empty() {
        return Ok(finished(head, false, 0));
    }
    let (commit, sent) = job.change(&head, &there, &gone)?;
    let now = client.tree(&place, &commit, voice)?;
    let wrong = job.wrong(&now);
    if !wrong.is_empty() {
        return Err(Error::new(format!("`{}` at {commit} does not hold what was published: {} differ", place, first_few(&wrong, 3)))
            .environment()
            .hint("run again: only what differs is sent"));
    }
    Ok(finished(commit, true, sent))
}

struct Job<'a> {
    client: &'a HubClient,
    what: &'a Publication<'a>,
    place: &'a RepoId,
    files: &'a [LocalFile],
    work: &'a Path,
    voice: &'a OnProgress<'a>,
}

impl Job<'_> {
    /// The files that a commit lacks or has otherwise.
    fn wrong(&self, there: &BTreeMap<String, RemoteFile>) -> Vec<String> {
        let right = |file: &&LocalFile| there.get(&file.path).is_some_and(|remote| file.is(remote));
        self.files.iter().filter(|file| !right(file)).map(|file| file.path.clone()).collect()
    }

    /// What we put there before and do not any more; an error if something of somebody else's would be replaced.
    fn may_replace(&self, head: &str, there: &BTreeMap<String, RemoteFile>, now: &Marker) -> Result<Vec<String>> {
        let id = self.place;
        let old: Option<Marker> = match there.get(MARKER) {
            Some(_) => serde_json::from_slice(&self.client.read(self.place, head, MARKER, self.voice)?).ok(),
            None => None,
        };
        let refuse = |message: String| {
            Error::new(message)
                .environment()
                .hint("choose another `repo`, or write `overwrite = true` to replace what is there; nothing in it was touched")
        };
        let ours = old.as_ref().filter(|old| old.pipeline == now.pipeline && old.stage == now.stage);
        if !self.what.overwrite && ours.is_none() {
            if let Some(old) = &old {
                return Err(refuse(format!("`{id}` was published by the stage `{}` of the pipeline `{}`", old.stage, old.pipeline)));
            }
            // What the Hub itself puts into every new repository is nobody's work.
            let foreign: Vec<&str> = there.keys().map(String::as_str).filter(|path| *path != ".gitattributes").collect();
            // A Space is made with a page that says how to fill it.
            let welcome = || Ok::<_, Error>(self.place.kind == RepoType::Space && self.client.is_new(self.place, self.voice)?);
            if !foreign.is_empty() && !welcome()? {
                return Err(refuse(format!("`{id}` is there already and was not made by voxpipe; it has {}", first_few(&foreign, 3))));
            }
        }
        let was: BTreeMap<&str, &LocalFile> = ours.iter().flat_map(|old| &old.files).map(|file| (file.path.as_str(), file)).collect();
        let new: BTreeSet<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        let touched = |path: &str| there.get(path).is_some_and(|remote| !was.get(path).is_some_and(|file| file.is(remote)));
        let wrong = self.wrong(there);
        let changed: Vec<&String> = wrong.iter().filter(|path| *path != MARKER && *path != ".gitattributes" && touched(path)).collect();
        if !self.what.overwrite && ours.is_some() && !changed.is_empty() {
            return Err(refuse(format!("somebody changed {} in `{id}` after it was published", first_few(&changed, 3))));
        }
        let gone = was.keys().filter(|path| !new.contains(*path) && there.contains_key(**path) && !touched(path));
        Ok(gone.map(|path| (*path).to_owned()).collect())
    }

    /// Uploads what is missing and makes the commit.
    fn change(&self, head: &str, there: &BTreeMap<String, RemoteFile>, gone: &[String]) -> Result<(String, u64)> {
        let missing: Vec<&LocalFile> =
            self.files.iter().filter(|file| !there.get(&file.path).is_some_and(|remote| file.is(remote))).collect();
        let (large, small) = self.sort(head, &missing)?;
        let sent = self.client.upload(self.place, &large, self.work, self.voice)?;
        let body = self.work.join("commit.ndjson");
        self.write(&body, head, &large, &small, gone).with_context(|| format!("cannot write `{}`", body.display()))?;
        let commit = self.commit(head, &body)?;
        let _ = fs::remove_file(body);
        Ok((commit, sent))
    }

    /// Which files go to the LFS server, and which into the commit itself, as the Hub wants it.
    fn sort<'f>(&self, head: &str, files: &[&'f LocalFile]) -> Result<(Vec<&'f LocalFile>, Vec<&'f LocalFile>)> {
        let what = || format!("prepare the upload to `{}`", self.place);
        let mut modes = BTreeMap::new();
        for chunk in files.chunks(AT_ONCE) {
            let mut asked = Vec::new();
            for file in chunk {
                let mut sample = Vec::new();
                let open = fs::File::open(&file.from).and_then(|from| from.take(SAMPLE as u64).read_to_end(&mut sample));
                open.with_context(|| format!("cannot read `{}`", file.from.display()))?;
                asked.push(json!({ "path": file.path, "size": file.size, "sample": STANDARD.encode(sample) }));
            }
            let path = format!("{}/preupload/{head}", self.place.api_path());
            let told = self.client.json(Method::POST, &path, Some(json!({ "files": asked })), self.voice);
            let told = told.map_err(|trouble| self.client.wire.explain(trouble, &what()))?;
            for file in told["files"].as_array().into_iter().flatten() {
                modes.insert(file["path"].as_str().unwrap_or_default().to_owned(), file["uploadMode"] == "lfs");
            }
        }
        let silent =
            |file: &LocalFile| Error::new(format!("cannot {}: the Hub does not say how to send {}", what(), file.path)).environment();
        let (mut large, mut small) = (Vec::new(), Vec::new());
        for file in files {
            if *modes.get(&file.path).ok_or_else(|| silent(file))? { large.push(*file) } else { small.push(*file) }
        }
        Ok((large, small))
    }

    /// What the commit says, one JSON object a line, on the disk: the files in it may be many.
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
        let what = format!("publish to `{}`", self.place);
        let url = format!("{}{}/commit/main", self.client.wire.endpoint, self.place.api_path());
        let mut pause = self.client.wire.patience;
        for attempt in 1.. {
            let ask = Ask { method: Method::POST, url: url.clone(), body: Body::File(body, 0..size, "application/x-ndjson") };
            let trouble = match self.client.wire.once(&ask, self.voice) {
                Ok(answer) => {
                    let told: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                    if let Some(commit) = told["commitOid"].as_str().filter(|commit| super::is_commit(commit)) {
                        return Ok(commit.to_owned());
                    }
                    Trouble::Broken("the answer cannot be read".to_owned())
                }
                Err(trouble) => trouble,
            };
            let wait = match &trouble {
                Trouble::Refused(408 | 412 | 429 | 500..=599, _, wait) => wait.unwrap_or(pause),
                Trouble::Broken(_) | Trouble::Unreachable(_) => pause,
                _ => return Err(self.client.wire.explain(trouble, &what)),
            };
            if wait > super::wire::LONGEST_PAUSE || attempt == TRIES && !matches!(trouble, Trouble::Broken(_)) {
                return Err(self.client.wire.explain(trouble, &what));
            }
            self.client.wire.wait(wait, self.voice).map_err(|stopped| self.client.wire.explain(stopped, &what))?;
            pause *= 2;
            // It may have been done although no answer came.
            let now = self.client.head(self.place, self.voice)?.unwrap_or_default();
            if now != head {
                let there = self.client.tree(self.place, &now, self.voice)?;
                return if self.wrong(&there).is_empty() {
                    Ok(now)
                } else {
                    Err(self.client.wire.explain(Trouble::Refused(412, String::new(), None), &what))
                };
            }
            if attempt == TRIES || matches!(trouble, Trouble::Refused(412, ..)) {
                return Err(self.client.wire.explain(trouble, &what));
            }
        }
        Err(self.client.wire.explain(Trouble::Stopped, &what))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
