//! Fast path for up-to-date runs: when every stage is up to date, a run records what decided so, and the next run compares that first.
//!
//! A [`NoopEntry`] holds the stat keys of every path that was looked at and the values, as digests, of every environment variable that was read
//! while the pipeline file was resolved and planned, and the texts of the pipeline's files. Whoever reads records what it reads ([`reads`]): there
//! is no list of such names. If all of it is the same, the answer is too, and no stage is checked. Where something cannot be captured this way,
//! no entry is written, and every stage is checked one by one.
//!
//! The files of the pipeline are read by the one reader there is ([`ManifestSources`]), includes and all: what counts as an include, as the
//! project's root or as a variable is never guessed from the text.

use crate::cache::file_stat::{StatKey, WatchedPath};
use crate::cache::reads;
use crate::cache::reads::{Reads, Recording};
use crate::cache::store::Store;
use crate::error::Result;
use crate::events::ResultRef;
use crate::graph::Pipeline;
use crate::manifest::include::ManifestSources;
use crate::plan::{Plan, StepState, absolute};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::SystemTime;
use voxpipe_io::digest::Digest;

/// A run in which every stage was up to date.
#[derive(Debug, PartialEq)]
pub struct NoopEntry {
    /// The pipeline's name.
    pub pipeline: String,
    /// Its project's root.
    pub root: PathBuf,
    /// Each stage with the summary of its result, and which result that is, in order.
    pub stages: Vec<(String, String, ResultRef)>,
}

/// What identifies a no-op run before anything is looked at: this program, the texts of the pipeline's files, and the profiles.
#[derive(Debug)]
pub struct NoopKey {
    /// The file name of the entry: a digest of the pipeline file's path and the profiles.
    name: String,
    digest: Digest,
}

impl NoopKey {
    /// The key of `run FILE` with profiles. None where this program cannot tell which build it is.
    pub fn new(sources: &ManifestSources, file: &Path, profiles: &[String]) -> Option<Self> {
        let program = StatKey::at(Path::new("/proc/self/exe"))?;
        let file = absolute(file).ok()?;
        let name = Digest::of(format!("{}\n{profiles:?}", file.display()).as_bytes()).to_string();
        let mut all = Vec::with_capacity(sources.text().len() + 512);
        program.write(&mut all);
        write_text(&mut all, env!("CARGO_PKG_VERSION"));
        write_text(&mut all, &name);
        for (path, text) in sources.texts() {
            write_text(&mut all, path.to_str()?);
            write_text(&mut all, text);
        }
        Some(Self { name, digest: Digest::of(&all) })
    }

    /// The entry of this key, if there is one and nothing that it depends on has changed.
    pub fn find(&self, sources: &ManifestSources, file: &Path) -> Option<NoopEntry> {
        // Most projects have their state beside the file; only for the others is the text parsed to find it.
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.find_in(folder).or_else(|| {
            let root = sources.project_root(file);
            // The folder just tried is not compared a second time: that would look at every clip again.
            let other = !root.as_os_str().is_empty() && root != folder;
            other.then(|| self.find_in(&root))?
        })
    }

    fn find_in(&self, root: &Path) -> Option<NoopEntry> {
        let bytes = Store::noop_entry(root, &self.name)?;
        let body = bytes.strip_prefix(HEADER)?;
        let (sum, body) = body.split_at_checked(32)?;
        (Digest::of(body).0 == sum).then_some(())?;
        self.decode(root, body)
    }

    /// Checks once more that every stage is up to date, and records what decided so. `resolved` is what was read to make the pipeline of its
    /// file. Nothing is recorded if something changed a moment ago, so that an edit that follows at once is seen.
    pub fn record(&self, pipeline: &Pipeline, store: &Store, kept: &BTreeMap<String, ResultRef>, resolved: Reads) -> Result<()> {
        // Which GPU there is takes a look at the driver, which no stat key stands for.
        let on_gpu = pipeline.steps.iter().any(|step| step.stage.numerics().is_some_and(|numerics| !numerics.starts_with("cpu")));
        // Nor does one stand for what lies on a remote service.
        let published = pipeline.steps.iter().any(|step| step.stage.publishes());
        if pipeline.tracking.is_some() || on_gpu || published {
            return Ok(());
        }
        let now = SystemTime::now();
        let recording = Recording::start();
        store.check_format()?;
        let planned = Plan::of(pipeline, store, &BTreeSet::new());
        store.watch_links(&pipeline.name);
        let mut reads = resolved;
        reads.extend(recording.finish());
        let plan = planned?;
        let fresh: Vec<(String, String, ResultRef)> = plan
            .steps
            .iter()
            .filter_map(|step| match &step.state {
                StepState::Fresh(artifact) => {
                    let kept = kept.get(&step.stage).filter(|kept| kept.digest == artifact.digest.to_string())?;
                    Some((step.stage.clone(), artifact.summary.clone(), kept.clone()))
                }
                _ => None,
            })
            .collect();
        let root = absolute(&pipeline.root)?;
        let sure = |watched: &WatchedPath| store.owns(&watched.path) || watched.stamp.is_none_or(|stamp| stamp.settled(now));
        if fresh.len() != plan.steps.len() || !reads.paths.iter().all(sure) {
            return Ok(());
        }
        let now = variables(reads.variables.keys());
        // Read twice with two values, or changed since: none of this is certain.
        let same = reads.variables.iter().all(|(name, value)| value.as_ref() == now.get(name));
        let Some(body) = self.encode(&pipeline.name, &fresh, &now, &root, reads.paths).filter(|_| same) else { return Ok(()) };
        store.save_noop_entry(&self.name, &[HEADER, Digest::of(&body).0.as_slice(), &body].concat());
        Ok(())
    }

    fn encode(
        &self,
        name: &str,
        stages: &[(String, String, ResultRef)],
        variables: &BTreeMap<String, Digest>,
        root: &Path,
        watched: Vec<WatchedPath>,
    ) -> Option<Vec<u8>> {
        let mut folders: BTreeMap<String, BTreeMap<String, Option<StatKey>>> = BTreeMap::new();
        for WatchedPath { path, stamp } in watched {
            let path = if path.is_absolute() { path } else { absolute(&path).ok()? };
            let path = path.strip_prefix(root).unwrap_or(&path);
            let (folder, file) = match (path.parent(), path.file_name()) {
                (Some(folder), Some(file)) => (folder.to_str()?, file.to_str()?),
                _ => ("", path.to_str()?),
            };
            let file = if file.is_empty() { "." } else { file };
            // Looked at twice with two answers: something is changing.
            if folders.entry(folder.to_owned()).or_default().insert(file.to_owned(), stamp).is_some_and(|before| before != stamp) {
                return None;
            }
        }
        let mut to = self.digest.0.to_vec();
        write_text(&mut to, name);
        write_count(&mut to, stages.len());
        for (stage, summary, kept) in stages {
            for part in [stage, summary, &kept.fingerprint, &kept.digest] {
                write_text(&mut to, part);
            }
        }
        write_count(&mut to, variables.len());
        for (name, digest) in variables {
            write_text(&mut to, name);
            to.extend_from_slice(&digest.0);
        }
        write_count(&mut to, folders.len());
        for (folder, files) in folders {
            write_text(&mut to, &folder);
            write_count(&mut to, files.len());
            for (file, stamp) in files {
                write_text(&mut to, &file);
                to.push(u8::from(stamp.is_some()));
                if let Some(stamp) = stamp {
                    stamp.write(&mut to);
                }
            }
        }
        Some(to)
    }

    /// The entry, if it is one of this key and everything is as it was.
    fn decode(&self, root: &Path, body: &[u8]) -> Option<NoopEntry> {
        let mut rest = body.strip_prefix(&self.digest.0)?;
        let pipeline = read_text(&mut rest)?.to_owned();
        let stages = (0..read_count(&mut rest)?)
            .map(|_| {
                let mut next = || read_text(&mut rest).map(str::to_owned);
                Some((next()?, next()?, ResultRef { fingerprint: next()?, digest: next()? }))
            })
            .collect::<Option<Vec<_>>>()?;
        let mut recorded = BTreeMap::new();
        for _ in 0..read_count(&mut rest)? {
            let name = read_text(&mut rest)?.to_owned();
            let (digest, after) = rest.split_first_chunk::<32>()?;
            rest = after;
            recorded.insert(name, Digest(*digest));
        }
        // Variables that are always looked at may have come in since.
        (variables(recorded.keys()) == recorded).then_some(())?;
        let mut folders = Vec::new();
        for _ in 0..read_count(&mut rest)? {
            let folder = read_text(&mut rest)?;
            let mut names = Vec::new();
            for _ in 0..read_count(&mut rest)? {
                let name = read_text(&mut rest)?;
                let (there, after) = rest.split_first()?;
                rest = after;
                names.push((name, if *there == 0 { None } else { Some(StatKey::read(&mut rest)?) }));
            }
            folders.push((folder, names));
        }
        let top = File::open(root).ok()?;
        unchanged(&top, &folders).then(|| NoopEntry { pipeline, root: root.to_owned(), stages })
    }
}

/// Names in a folder with their stat keys; without one there is no such name.
type FolderStats<'a> = (&'a str, Vec<(&'a str, Option<StatKey>)>);

/// From this many names in a folder on it is opened once, and the names are looked up in it.
const OPEN_FOLDER_FROM: usize = 8;
/// Below this many names starting threads costs more than it gains.
const PARALLEL_FROM: usize = 2000;

fn unchanged(top: &File, folders: &[FolderStats<'_>]) -> bool {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(8);
    folders.iter().all(|(folder, names)| {
        let open = if names.len() < OPEN_FOLDER_FROM {
            None
        } else {
            use rustix::fs::{Mode, OFlags};
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(top, if folder.is_empty() { "." } else { *folder }, flags, Mode::empty()).ok()
        };
        let same = |(name, stamp): &(&str, Option<StatKey>)| match &open {
            Some(open) => StatKey::below(open, name) == *stamp,
            None if folder.is_empty() => StatKey::below(top, name) == *stamp,
            None => StatKey::below(top, &format!("{folder}/{name}")) == *stamp,
        };
        if names.len() < PARALLEL_FROM || threads == 1 {
            return names.iter().all(same);
        }
        thread::scope(|scope| {
            let parts: Vec<_> =
                names.chunks(names.len().div_ceil(threads)).map(|part| scope.spawn(move || part.iter().all(same))).collect();
            parts.into_iter().fold(true, |all, part| all & part.join().unwrap_or(false))
        })
    })
}

/// The values, as digests because they may be secret, of the variables that were read and of those that say where models, caches and devices
/// are: libraries read these by themselves.
fn variables<'a>(asked: impl IntoIterator<Item = &'a String>) -> BTreeMap<String, Digest> {
    let mut names: BTreeSet<String> = asked.into_iter().cloned().collect();
    names.extend(["HOME", "XDG_CACHE_HOME", "CUDA_VISIBLE_DEVICES"].map(str::to_owned));
    let ours = |name: &String| {
        let diagnostic_only = ["VOXPIPE_LOG", "VOXPIPE_FAULT", "VOXPIPE_FAULT_LOG"].contains(&name.as_str());
        !diagnostic_only && (name.starts_with("VOXPIPE_") || name.starts_with("HF_") && !name.contains("TOKEN"))
    };
    names.extend(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(ours));
    names.into_iter().map(|name| (name.clone(), reads::digest_of(std::env::var_os(name).as_ref()))).collect()
}

const HEADER: &[u8] = b"voxpipe noop 4\n";

fn write_count(to: &mut Vec<u8>, count: usize) {
    to.extend_from_slice(&(count as u64).to_le_bytes());
}

fn write_text(to: &mut Vec<u8>, text: &str) {
    write_count(to, text.len());
    to.extend_from_slice(text.as_bytes());
}

fn read_count(bytes: &mut &[u8]) -> Option<usize> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    usize::try_from(u64::from_le_bytes(*head)).ok()
}

fn read_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let length = read_count(bytes)?;
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    std::str::from_utf8(head).ok()
}
