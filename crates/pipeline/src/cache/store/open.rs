//! Opening a store: which locks are taken, and what an earlier run that was killed left behind.
//!
//! Several pipelines of one project may run at the same time, each once. What a killed run left is cleaned up by the next one that is alone;
//! orphaned programs of a pipeline that is not running are ended by whoever comes next.

use super::files::Durability;
use super::lock::{Conflict, FileLock, ResultClaim, held, holder, process};
use super::{Store, disk, files, names, state_folder};
use crate::cache::file_stat::StatKey;
use crate::cache::fingerprint::Fingerprint;
use crate::cache::reads;
use crate::cache::stat_cache::StatCache;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::process::liveness_lock;
use crate::process::liveness_lock::LivenessLock;
use rustix::process::Pid;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

/// The version of the folder layout.
const FORMAT: &str = "1";

/// The folders that every store has.
const FOLDERS: [&str; 5] = ["store", "trees", "keys", "work", "runs"];

/// The answer to the wish to make a result.
#[derive(Debug)]
pub enum ClaimAnswer {
    /// It may be made now; no other run makes it until the claim is released.
    Ours(ResultClaim),
    /// This process has made it already.
    Made,
    /// Another run is making it: who, such as ``process 12 (`voxpipe run other.toml`)``.
    Busy(String),
}

/// The locks that a process holds while it writes to a store. Fields are released in this order.
#[derive(Debug)]
pub(super) struct HeldLocks {
    /// The lock of a pipeline that runs.
    run: Option<FileLock>,
    project: FileLock,
    /// The command line, for the signature of further locks.
    command: String,
    /// The liveness lock that the programs of this process inherit.
    alive: PathBuf,
}

impl Store {
    /// Opens the state of the project at `root` read-only; it need not exist yet.
    pub fn open_readonly(root: &Path) -> Result<Self> {
        let mut store = Self::at(state_folder(root), Arc::default());
        check_folders(&store.dir)?;
        store.check_format()?;
        store.read_index();
        Ok(store)
    }

    /// Checks that this program can read the state.
    pub fn check_format(&self) -> Result<()> {
        let found = match reads::text(&self.dir.join("format")) {
            Ok(format) => format,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => FORMAT.to_owned(),
            Err(error) => {
                let error = Error::from(error).environment();
                return Err(error).with_context(|| format!("cannot read `{}`", self.dir.join("format").display()));
            }
        };
        // A crash during the very first start can leave an empty file.
        if !found.trim().is_empty() && found.trim() != FORMAT {
            return Err(Error::new(format!("`{}` has format {}, but this voxpipe supports {FORMAT}", self.dir.display(), found.trim()))
                .kind(ErrorKind::InvalidInput)
                .hint("use the version of voxpipe that wrote it, or move the folder away to start over"));
        }
        Ok(())
    }

    fn read_index(&mut self) {
        self.index = Arc::new(fs::read(self.dir.join("stat.idx")).map(|bytes| StatCache::load(&bytes)).unwrap_or_default());
    }

    /// Opens the state for writing, alone: creates it if needed, takes the project lock for itself, and cleans up after a killed run.
    pub fn open(root: &Path, command: &str) -> Result<Self> {
        Self::locked(root, None, command)
    }

    /// Opens the state for a run of a pipeline. Other pipelines of the project may run meanwhile; this one may not.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Locked`], naming who holds the lock.
    pub fn open_run(root: &Path, pipeline: &str, command: &str) -> Result<Self> {
        Self::locked(root, Some(pipeline), command)
    }

    fn locked(root: &Path, pipeline: Option<&str>, command: &str) -> Result<Self> {
        let dir = state_folder(root);
        check_folders(&dir)?;
        let making = || format!("cannot create the state folder `{}`", dir.display());
        for folder in [&dir, &dir.join("locks")] {
            disk::make_folder(folder).with_context(making)?;
        }
        let start = FileLock::soon(&dir.join("locks/start"))?;
        let path = dir.join("lock");
        let (mut project, alone) = match (FileLock::exclusive(&path)?, pipeline) {
            (Some(lock), _) => (lock, true),
            (None, None) => return Err(held(Conflict::Run, &active(&dir))),
            (None, Some(_)) => (FileLock::shared(&path)?.ok_or_else(|| held(Conflict::Project, &active(&dir)))?, false),
        };
        let run = match pipeline.map(|pipeline| run_lock(&dir, pipeline)) {
            None => None,
            Some(path) => {
                let taken = FileLock::exclusive(&path)?;
                Some(taken.ok_or_else(|| held(Conflict::SamePipeline, &holder(&path).into_iter().collect::<Vec<_>>()))?)
            }
        };
        if alone {
            project.sign(command)?;
        }
        let alive = pipeline.map_or_else(|| dir.join(liveness_lock::NAME), |pipeline| run_lock(&dir, pipeline).with_extension("alive"));
        let mut locks = HeldLocks { run, project, command: command.to_owned(), alive };
        if let Some(run) = &mut locks.run {
            run.sign(command)?;
        }
        let mut store = Self::open_readonly(root)?;
        let greeting = [
            (".gitignore", "*\n", Durability::Whole),
            (
                "CACHEDIR.TAG",
                "Signature: 8a477f597d28d172789f06886806bc55\n# Results and checkpoints of voxpipe; they can be made again.\n",
                Durability::Whole,
            ),
            ("format", FORMAT, Durability::Durable),
        ];
        for (name, text, safety) in greeting {
            if fs::read_to_string(dir.join(name)).unwrap_or_default().trim().is_empty() {
                files::replace(&dir.join(name), text.as_bytes(), safety)?;
            }
        }
        for folder in FOLDERS {
            disk::make_folder(&dir.join(folder)).with_context(making)?;
        }
        let own = liveness_lock::reap_orphans(&locks.alive, &dir)?;
        store.orphans = joined(own.into_iter().chain(reap_others(&dir, &locks.alive, alone)?));
        store.liveness = Some(Arc::new(LivenessLock::take(&locks.alive)?));
        if alone {
            store.tidy()?;
            if locks.run.is_some() {
                locks.project.share()?;
            }
        }
        drop(start);
        store.locks = Some(locks);
        Ok(store)
    }

    /// Takes only the locks of a run, for the no-op fast path; reads nothing else.
    pub fn enter(root: &Path, pipeline: &str, command: &str) -> Result<Self> {
        let dir = state_folder(root);
        // Others take these locks for a moment to see whether they are alone: who loses against them waits in line.
        let quick = || -> Result<Option<HeldLocks>> {
            let Some(project) = FileLock::shared(&dir.join("lock"))? else { return Ok(None) };
            let Some(mut run) = FileLock::exclusive(&run_lock(&dir, pipeline))? else { return Ok(None) };
            run.sign(command)?;
            let alive = run_lock(&dir, pipeline).with_extension("alive");
            Ok(Some(HeldLocks { run: Some(run), project, command: command.to_owned(), alive }))
        };
        match quick() {
            Ok(Some(locks)) => {
                let mut store = Self::at(dir, Arc::default());
                store.orphans = store.reap_quickly(&locks.alive)?;
                store.locks = Some(locks);
                Ok(store)
            }
            _ => Self::open_run(root, pipeline, command),
        }
    }

    /// Ends the programs that outlived their run, for a run that starts none itself: one attempt at each liveness lock, and no more unless
    /// somebody holds one. `own` is that of the caller's pipeline.
    fn reap_quickly(&self, own: &Path) -> Result<Option<String>> {
        // Whoever tries a liveness lock counts as its holder meanwhile.
        let _start = FileLock::soon(&self.dir.join("locks/start"))?;
        let others = run_locks(&self.dir).into_iter().map(|path| path.with_extension("alive"));
        if !others.chain([self.dir.join(liveness_lock::NAME)]).any(|path| liveness_lock::is_held(&path)) {
            return Ok(None);
        }
        let of_own = liveness_lock::reap_orphans(own, &self.dir)?;
        Ok(joined(of_own.into_iter().chain(reap_others(&self.dir, own, false)?)))
    }

    /// Claims the making of a result.
    pub fn claim(&self, fingerprint: Fingerprint) -> Result<ClaimAnswer> {
        // A claim of this process is kept until the entry is on disk.
        if self.group.record(fingerprint).is_some() {
            return Ok(ClaimAnswer::Made);
        }
        let Some(locks) = &self.locks else { return Ok(ClaimAnswer::Made) };
        let path = self.dir.join("locks").join(fingerprint.to_string());
        let Some(claim) = ResultClaim::take(&path, &locks.command)? else {
            return Ok(ClaimAnswer::Busy(holder(&path).unwrap_or_else(|| "another process".to_owned())));
        };
        if claim.abandoned {
            // Programs of the run that was killed may still write to the scratch folder.
            let _start = FileLock::soon(&self.dir.join("locks/start"))?;
            reap_others(&self.dir, &locks.alive, false)?;
        }
        Ok(ClaimAnswer::Ours(claim))
    }

    /// The stat key of a cache entry on disk: another run may write one at any time.
    pub fn entry_stamp(&self, fingerprint: Fingerprint) -> Option<StatKey> {
        StatKey::at(&self.key(fingerprint))
    }

    /// Keeps a claim until the cache entry of its result is on disk, where the next process sees it.
    pub fn release(&self, fingerprint: Fingerprint, claim: Option<ResultClaim>) {
        if let Some(claim) = claim {
            self.group.hold(fingerprint, claim);
        }
    }

    /// The lock under which results are moved into the store: two runs may make equal ones.
    pub(super) fn keep_lock(&self) -> Result<FileLock> {
        FileLock::soon(&self.dir.join("locks/keep"))
    }

    /// Whether a process that took a lock of this project is still alive; true if unknown.
    pub fn held(&self) -> bool {
        let alive = |path: &Path| match fs::read_to_string(path) {
            Err(_) => false,
            Ok(who) if who.trim().is_empty() => false,
            Ok(who) => {
                process(&who).is_none_or(|process| !matches!(rustix::process::test_kill_process(process), Err(rustix::io::Errno::SRCH)))
            }
        };
        alive(&self.dir.join("lock")) || run_locks(&self.dir).iter().any(|path| alive(path))
    }

    /// The process of the active run of a pipeline, if there is one.
    pub fn runner(&self, pipeline: &str) -> Option<Pid> {
        let alone = || if run_locks(&self.dir).is_empty() { holder(&self.dir.join("lock")) } else { None };
        process(&holder(&run_lock(&self.dir, pipeline)).or_else(alone)?)
    }

    fn tidy(&self) -> Result<()> {
        for name in names(&self.dir.join("work"))? {
            let work = self.dir.join("work").join(&name);
            if name.starts_with("out-") {
                files::remove_folder(&work)?;
                continue;
            }
            // Removes only empty folders: a scratch folder may hold days of training.
            let _ = fs::remove_dir(work.join("scratch"));
            let _ = fs::remove_dir(&work);
        }
        let locks = self.dir.join("locks");
        // Claims of runs that were killed; no other process is here.
        for name in names(&locks)?.iter().filter(|name| !name.contains('.') && !["start", "keep"].contains(&name.as_str())) {
            let _ = fs::remove_file(locks.join(name));
        }
        let mut folders: Vec<PathBuf> = ["", "keys", "last", "memo", "trees"].map(|folder| self.dir.join(folder)).into();
        let latest = self.dir.join("latest");
        folders.extend(names(&latest)?.iter().map(|pipeline| latest.join(pipeline)));
        for folder in folders {
            for name in names(&folder)?.iter().filter(|name| name.starts_with(".tmp-")) {
                let _ = disk::remove_file(&folder.join(name));
            }
        }
        Ok(())
    }
}

/// Checks that nothing else lies where the folders of the state belong: later errors would name what should have been in them.
fn check_folders(dir: &Path) -> Result<()> {
    let all = FOLDERS.iter().chain(&["locks", "last", "latest"]).map(|folder| dir.join(folder));
    match all.into_iter().find(|folder| fs::metadata(folder).is_ok_and(|found| !found.is_dir())) {
        Some(found) => Err(Error::new(format!("`{}` is not a folder", found.display()))
            .environment()
            .hint("move it away; voxpipe makes the folder again")),
        None => Ok(()),
    }
}

/// The lock file of a pipeline's run.
fn run_lock(dir: &Path, pipeline: &str) -> PathBuf {
    dir.join("locks").join(format!("{}.run", super::file_name(pipeline)))
}

/// The lock files of all pipelines that ever ran here.
fn run_locks(dir: &Path) -> Vec<PathBuf> {
    let locks = dir.join("locks");
    names(&locks).unwrap_or_default().iter().filter(|name| name.ends_with(".run")).map(|name| locks.join(name)).collect()
}

/// Who is active in a project.
fn active(dir: &Path) -> Vec<String> {
    let runs: Vec<String> = run_locks(dir).iter().filter_map(|path| holder(path)).collect();
    if runs.is_empty() { holder(&dir.join("lock")).into_iter().collect() } else { runs }
}

/// Ends the orphaned programs of runs that are over, except of those whose liveness lock is `own`, and describes them. The caller holds
/// `locks/start`, so that no run begins meanwhile.
fn reap_others(dir: &Path, own: &Path, alone: bool) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let older = dir.join(liveness_lock::NAME);
    // The run that had the project for itself is over: otherwise this one would not be here.
    if older != own {
        found.extend(liveness_lock::reap_orphans(&older, dir)?);
    }
    for path in run_locks(dir) {
        let alive = path.with_extension("alive");
        // The programs of a pipeline that runs now are no orphans.
        if alive != own && (alone || FileLock::exclusive(&path)?.is_some()) {
            found.extend(liveness_lock::reap_orphans(&alive, dir)?);
        }
    }
    Ok(found)
}

fn joined(sentences: impl Iterator<Item = String>) -> Option<String> {
    let sentences: Vec<String> = sentences.collect();
    (!sentences.is_empty()).then(|| sentences.join("; "))
}
