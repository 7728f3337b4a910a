//! What a run with nothing to do looked at, so that the next one sees at a glance that there is still nothing to do.
//!
//! A memo is written when every step of a pipeline is fresh. It holds the stamp of everything that decided so: sources and the folders
//! they are in, records, results, links. If the question is the same (program, file, profile, environment) and every stamp is too,
//! the answer is the same, and neither is the file parsed nor anything read. In any doubt there is no memo, and the steps are
//! judged one by one.

use crate::cache::file_stat::{StatKey, WatchedPath};
use crate::cache::store::Store;
use crate::error::Result;
use crate::events::ResultRef;
use crate::graph::Pipeline;
use crate::plan::{Plan, StepState, absolute};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::SystemTime;
use voxpipe_io::digest::Digest;

/// That every step of a pipeline is fresh.
#[derive(Debug, PartialEq)]
pub struct NoopEntry {
    /// The pipeline's name.
    pub pipeline: String,
    /// Its project's root.
    pub root: PathBuf,
    /// Each step with what it had said of its result, and which that is, in order.
    pub stages: Vec<(String, String, ResultRef)>,
}

/// What is asked: everything beside the disk that the answer hangs on.
#[derive(Debug)]
pub struct NoopKey {
    text: String,
    file: PathBuf,
    place: String,
    digest: Digest,
}

impl NoopKey {
    /// The question `run FILE` with profiles; none where the answer hangs on more than is known here.
    pub fn of(text: String, file: &Path, profiles: &[String]) -> Option<Self> {
        if text.lines().any(|line| line.trim_start().starts_with("include")) {
            return None;
        }
        let program = StatKey::at(Path::new("/proc/self/exe"))?;
        let at = absolute(file).ok()?;
        let place = Digest::of(format!("{}\n{profiles:?}", at.display()).as_bytes()).to_string();
        let mut all = Vec::with_capacity(text.len() + 512);
        program.write(&mut all);
        all.extend_from_slice(env!("CARGO_PKG_VERSION").as_bytes());
        all.extend_from_slice(place.as_bytes());
        for (name, value) in variables(&text) {
            // Only a digest is kept: values may be secret.
            all.extend_from_slice(format!("\n{name}={:?}", value.map(|value| Digest::of(value.as_encoded_bytes()))).as_bytes());
        }
        all.extend_from_slice(text.as_bytes());
        Some(Self { digest: Digest::of(&all), file: file.to_owned(), place, text })
    }

    /// The answer, if it was noted and holds.
    pub fn answer(&self) -> Option<NoopEntry> {
        self.roots().into_iter().find_map(|root| {
            let bytes = Store::memo(&root, &self.place)?;
            let body = bytes.strip_prefix(HEAD)?;
            let (sum, body) = body.split_at_checked(32)?;
            (Digest::of(body).0 == sum).then_some(())?;
            self.decode(root, body)
        })
    }

    /// Where the project may be: that of the file, and what the file calls `root`. A wrong guess finds nothing.
    fn roots(&self) -> BTreeSet<PathBuf> {
        let folder = self.file.parent().unwrap_or(Path::new(""));
        let named = self.text.lines().filter_map(|line| {
            let value = line.trim_start().strip_prefix("root")?.trim_start().strip_prefix('=')?.trim_start();
            value.strip_prefix(['"', '\''])?.split(['"', '\'']).next()
        });
        let mut roots: BTreeSet<PathBuf> = named.map(|root| folder.join(root)).collect();
        roots.insert(if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() });
        roots
    }

    /// Looks once more whether every step is fresh, and notes the answer if it is. What cannot be trusted is not noted.
    pub fn note(&self, pipeline: &Pipeline, store: &Store, kept: &BTreeMap<String, ResultRef>) -> Result<()> {
        // Which GPU there is takes a look at the driver, which no stamp stands for.
        let on_gpu = pipeline.steps.iter().any(|step| step.stage.numerics().is_some_and(|numerics| !numerics.starts_with("cpu")));
        if pipeline.tracking.is_some() || on_gpu {
            return Ok(());
        }
        let now = SystemTime::now();
        store.index().watch();
        let planned = Plan::of(pipeline, store, &BTreeSet::new());
        store.watch_links(&pipeline.name);
        let mut watched = store.index().watched();
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
        let lock = self.file.with_file_name("pipeline.lock");
        watched.push(WatchedPath { stamp: StatKey::at(&lock), path: absolute(&lock)? });
        let root = absolute(&pipeline.root)?;
        let sure = |watched: &WatchedPath| store.owns(&watched.path) || watched.stamp.is_none_or(|stamp| stamp.settled(now));
        if fresh.len() != plan.steps.len() || !watched.iter().all(sure) {
            return Ok(());
        }
        let Some(body) = self.encode(&pipeline.name, &fresh, &root, watched) else { return Ok(()) };
        store.save_memo(&self.place, &[HEAD, Digest::of(&body).0.as_slice(), &body].concat());
        Ok(())
    }

    fn encode(&self, name: &str, stages: &[(String, String, ResultRef)], root: &Path, watched: Vec<WatchedPath>) -> Option<Vec<u8>> {
        let mut folders: BTreeMap<String, BTreeMap<String, Option<StatKey>>> = BTreeMap::new();
        for WatchedPath { path, stamp } in watched {
            // Looked at twice with two answers: something is moving.
            let path = if path.is_absolute() { path } else { absolute(&path).ok()? };
            let path = path.strip_prefix(root).unwrap_or(&path);
            let (folder, file) = match (path.parent(), path.file_name()) {
                (Some(folder), Some(file)) => (folder.to_str()?, file.to_str()?),
                _ => ("", path.to_str()?),
            };
            let file = if file.is_empty() { "." } else { file };
            if folders.entry(folder.to_owned()).or_default().insert(file.to_owned(), stamp).is_some_and(|before| before != stamp) {
                return None;
            }
        }
        let mut to = self.digest.0.to_vec();
        text(&mut to, name);
        count(&mut to, stages.len());
        for (stage, summary, kept) in stages {
            for part in [stage, summary, &kept.fingerprint, &kept.digest] {
                text(&mut to, part);
            }
        }
        count(&mut to, folders.len());
        for (folder, files) in folders {
            text(&mut to, &folder);
            count(&mut to, files.len());
            for (file, stamp) in files {
                text(&mut to, &file);
                to.push(u8::from(stamp.is_some()));
                if let Some(stamp) = stamp {
                    stamp.write(&mut to);
                }
            }
        }
        Some(to)
    }

    /// The memo, if it answers this question and everything is as it was.
    fn decode(&self, root: PathBuf, body: &[u8]) -> Option<NoopEntry> {
        let mut rest = body.strip_prefix(&self.digest.0)?;
        let pipeline = take_text(&mut rest)?.to_owned();
        let stages = (0..take_count(&mut rest)?)
            .map(|_| {
                let mut next = || take_text(&mut rest).map(str::to_owned);
                Some((next()?, next()?, ResultRef { fingerprint: next()?, digest: next()? }))
            })
            .collect::<Option<Vec<_>>>()?;
        let mut looks = Vec::new();
        for _ in 0..take_count(&mut rest)? {
            let folder = take_text(&mut rest)?;
            let mut names = Vec::new();
            for _ in 0..take_count(&mut rest)? {
                let name = take_text(&mut rest)?;
                let (there, after) = rest.split_first()?;
                rest = after;
                names.push((name, if *there == 0 { None } else { Some(StatKey::read(&mut rest)?) }));
            }
            looks.push((folder, names));
        }
        let top = File::open(&root).ok()?;
        holds(&top, &looks).then_some(NoopEntry { pipeline, root, stages })
    }
}

type FolderStats<'a> = (&'a str, Vec<(&'a str, Option<StatKey>)>);

/// From this many names in a folder on it is opened once, and the names are looked up in it.
const MANY: usize = 8;
/// Below this many names starting threads costs more than it gains.
const WORTH_THREADS: usize = 2000;

fn holds(top: &File, looks: &[FolderStats<'_>]) -> bool {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(8);
    looks.iter().all(|(folder, names)| {
        let open = if names.len() < MANY {
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
        if names.len() < WORTH_THREADS || threads == 1 {
            return names.iter().all(same);
        }
        thread::scope(|scope| {
            let parts: Vec<_> =
                names.chunks(names.len().div_ceil(threads)).map(|part| scope.spawn(move || part.iter().all(same))).collect();
            parts.into_iter().fold(true, |all, part| all & part.join().unwrap_or(false))
        })
    })
}

/// The variables the answer may hang on: those the file names, and those that say where models and devices are.
fn variables(text: &str) -> BTreeMap<String, Option<std::ffi::OsString>> {
    let named = text.split("env.").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        rest[..end].to_owned()
    });
    let mut names: BTreeSet<String> = named.filter(|name| !name.is_empty()).collect();
    names.extend(["HOME", "XDG_CACHE_HOME", "CUDA_VISIBLE_DEVICES"].map(str::to_owned));
    let ours = |name: &String| {
        let told = ["VOXPIPE_LOG", "VOXPIPE_FAULT", "VOXPIPE_FAULT_LOG"].contains(&name.as_str());
        !told && (name.starts_with("VOXPIPE_") || name.starts_with("HF_") && !name.contains("TOKEN"))
    };
    names.extend(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(ours));
    names.into_iter().map(|name| (name.clone(), std::env::var_os(name))).collect()
}

const HEAD: &[u8] = b"voxpipe memo 2\n";

fn count(to: &mut Vec<u8>, count: usize) {
    to.extend_from_slice(&(count as u64).to_le_bytes());
}

fn text(to: &mut Vec<u8>, text: &str) {
    count(to, text.len());
    to.extend_from_slice(text.as_bytes());
}

fn take_count(bytes: &mut &[u8]) -> Option<usize> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    usize::try_from(u64::from_le_bytes(*head)).ok()
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let length = take_count(bytes)?;
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    std::str::from_utf8(head).ok()
}
