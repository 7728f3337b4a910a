//! Export and import of a run as a `.tar.zst` archive.
//!
//! ```text
//! voxpipe-run.json        the archive manifest; the first entry
//! events.jsonl            the event log
//! provenance.json         the provenance of the run, if it has one
//! trees/DIGEST.json       the file list of each result
//! keys/FINGERPRINT.json   the cache entry of each result
//! store/DIGEST/…          the results
//! ```
//!
//! Archives are deterministic: the same run gives the same bytes. Import trusts nothing: it accepts only these names, only regular files
//! and only the listed sizes, and verifies every digest before anything is committed.

use super::files::Durability;
use super::remote::stays_inside;
use super::{CacheEntry, Store, Workspace, files};
use crate::cache::content::FileTree;
use crate::cache::fingerprint::Fingerprint;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tar::{Archive, Builder, EntryType, Header};
use voxpipe_io::digest::Digest;

/// The version of the archive layout.
const VERSION: u32 = 1;
const ABOUT: &str = "voxpipe-run.json";
/// Size limit in bytes of every entry that is not a result file.
const LARGEST: u64 = 256 << 20;
/// zstd level; results hold model weights, which higher levels barely shrink further.
const LEVEL: i32 = 3;

/// The manifest of an archive.
#[derive(Debug, Serialize, Deserialize)]
pub struct ArchiveManifest {
    v: u32,
    /// The run id.
    pub run: String,
    /// The fingerprints of the run's results.
    pub fingerprints: BTreeSet<Fingerprint>,
    /// The digests of the results whose files are in the archive.
    pub results: BTreeSet<Digest>,
}

/// The outcome of an import.
#[derive(Debug)]
pub struct ImportedRun {
    /// The run id in this project: the original one, or a new one if that was taken.
    pub run: String,
    /// The original run id.
    pub was: String,
    /// The number of results in the archive, and how many of them are new in this project.
    pub results: [usize; 2],
}

impl Store {
    /// Writes a run to an archive, with its results or only with their cache entries.
    ///
    /// # Errors
    /// If `results` is set and a result is missing or damaged, or if the file cannot be written.
    pub fn export(
        &self,
        run: &str,
        manifest: Option<&[u8]>,
        records: &BTreeMap<Fingerprint, CacheEntry>,
        results: bool,
        to: &Path,
    ) -> Result<ArchiveManifest> {
        for record in records.values() {
            if let Some(problem) = self.problem(record.digest).filter(|_| results) {
                return Err(Error::new(format!("cannot export run {run} with all results, {problem}: {}", record.summary))
                    .hint("run again to recreate the result, or export without results"));
            }
        }
        let digests: BTreeSet<Digest> = records.values().map(|record| record.digest).collect();
        let about = ArchiveManifest {
            v: VERSION,
            run: run.to_owned(),
            fingerprints: records.keys().copied().collect(),
            results: if results { digests.clone() } else { BTreeSet::new() },
        };
        let writing = || format!("cannot write `{}`", to.display());
        let folder = to.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        let unfinished = Unfinished(folder.join(format!(".tmp-{}-{}", std::process::id(), self.file_of(to))));
        let file = File::create(&unfinished.0).with_context(writing)?;
        let mut tar = Builder::new(zstd::Encoder::new(BufWriter::new(file), LEVEL).with_context(writing)?);
        self.pack(&mut tar, &about, manifest, records, &digests).map_err(|error| error.context(writing()))?;
        let file = tar.into_inner().and_then(zstd::Encoder::finish).with_context(writing)?;
        file.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all()).with_context(writing)?;
        fs::rename(&unfinished.0, to).with_context(writing)?;
        Ok(about)
    }

    fn file_of(&self, path: &Path) -> String {
        path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn pack(
        &self,
        tar: &mut Builder<impl Write>,
        about: &ArchiveManifest,
        manifest: Option<&[u8]>,
        records: &BTreeMap<Fingerprint, CacheEntry>,
        digests: &BTreeSet<Digest>,
    ) -> Result<()> {
        put(tar, ABOUT, 0o644, &serde_json::to_vec(about)?)?;
        let log = self.log(&about.run);
        put(tar, "events.jsonl", 0o644, &fs::read(&log).with_context(|| format!("cannot read `{}`", log.display()))?)?;
        if let Some(manifest) = manifest {
            put(tar, "provenance.json", 0o644, manifest)?;
        }
        let trees: BTreeMap<Digest, FileTree> = digests.iter().filter_map(|digest| Some((*digest, self.tree(*digest)?))).collect();
        for (digest, tree) in &trees {
            put(tar, &format!("trees/{digest}.json"), 0o644, &serde_json::to_vec(tree)?)?;
        }
        for (fingerprint, record) in records {
            put(tar, &format!("keys/{fingerprint}.json"), 0o644, &serde_json::to_vec(record)?)?;
        }
        for digest in &about.results {
            for (name, leaf) in trees.get(digest).iter().flat_map(|tree| &tree.0) {
                let path = self.result(*digest).join(name);
                let reading = || format!("cannot read `{}`", path.display());
                let file = File::open(&path).with_context(reading)?;
                let runs = file.metadata().with_context(reading)?.permissions().mode() & 0o100 != 0;
                let mut header = header(if runs { 0o755 } else { 0o644 }, leaf.size);
                tar.append_data(&mut header, format!("store/{digest}/{name}"), file.take(leaf.size)).with_context(reading)?;
            }
        }
        Ok(())
    }

    /// Imports a run from an archive. Commits nothing until every file matches its digest.
    pub fn import(&self, from: &Path) -> Result<ImportedRun> {
        let space = Workspace { out: self.dir.join("work").join("import"), scratch: self.dir.join("work").join("import") };
        files::remove_folder(&space.out)?;
        let imported = self.unpack(from, &space.out).map_err(|error| {
            let kind = if error.kind == ErrorKind::Other { ErrorKind::InvalidInput } else { error.kind };
            error.context(format!("cannot import `{}`", from.display())).kind(kind)
        });
        files::remove_folder(&space.out)?;
        imported
    }

    fn unpack(&self, from: &Path, space: &Path) -> Result<ImportedRun> {
        let file = File::open(from).map_err(|error| Error::from(error).kind(ErrorKind::InvalidInput))?;
        let mut archive = Archive::new(zstd::Decoder::new(BufReader::new(file))?);
        let mut incoming = ArchiveReader::new(space);
        for entry in archive.entries().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            let name = String::from_utf8(entry.path_bytes().into_owned())
                .map_err(|error| Error::new(format!("it has an entry name that is not valid UTF-8: {error}")))?;
            if entry.header().entry_type() != EntryType::Regular {
                return Err(refused(&name, "is not a regular file"));
            }
            let (size, mode) = (entry.header().entry_size().map_err(damaged)?, entry.header().mode().unwrap_or(0o644));
            incoming.take(&name, size, mode & 0o100 != 0, &mut entry)?;
        }
        incoming.check_complete()?;
        self.admit(incoming)
    }

    /// Commits a complete, verified archive.
    fn admit(&self, incoming: ArchiveReader) -> Result<ImportedRun> {
        let ArchiveReader { about, log, manifest, keys, trees, folder, .. } = incoming;
        let Some(about) = about else { return Err(Error::new("it is not an exported run")) };
        let new: Vec<Digest> = about.results.iter().copied().filter(|digest| self.problem(*digest).is_some()).collect();
        for digest in &new {
            let out = folder.join(digest.to_string());
            fs::create_dir_all(&out).with_context(|| format!("cannot create `{}`", out.display()))?;
            let space = Workspace { scratch: out.clone(), out };
            let found = self.keep(&space)?;
            if found != *digest {
                files::remove_folder(&self.result(found))?;
                let _ = fs::remove_file(self.listing(found));
                return Err(refused(&format!("store/{digest}"), "does not match its digest"));
            }
        }
        for (digest, tree) in &trees {
            files::replace(&self.listing(*digest), &serde_json::to_vec(tree)?, Durability::Durable)?;
        }
        for (fingerprint, record) in &keys {
            // A result made in this project takes precedence over an imported one with other bytes.
            if self.record(*fingerprint).is_some_and(|own| self.keeps(own.digest)) {
                continue;
            }
            if self.keeps(record.digest) {
                self.commit(record)?;
            } else {
                files::replace(&self.key(*fingerprint), &serde_json::to_vec(record)?, Durability::Durable)?;
            }
        }
        // Results must be on disk before the run is visible.
        self.flush()?;
        let run = self.admit_run(&about.run, &log)?;
        files::replace(&self.log(&run), &log, Durability::Durable)?;
        if let Some(manifest) = manifest {
            self.keep_provenance(&run, &manifest)?;
        }
        Ok(ImportedRun { run, was: about.run, results: [about.results.len(), new.len()] })
    }

    /// The id of an imported run in this project: the original one unless another run has it.
    fn admit_run(&self, run: &str, log: &[u8]) -> Result<String> {
        let runs = self.runs()?;
        if !runs.iter().any(|taken| taken == run) || fs::read(self.log(run)).is_ok_and(|here| here == log) {
            return Ok(run.to_owned());
        }
        let day = run.rsplit_once('-').map_or(run, |(day, _)| day);
        let same = |taken: &&String| fs::read(self.log(taken)).is_ok_and(|here| here == log);
        if let Some(taken) = runs.iter().filter(|taken| taken.starts_with(day)).find(same) {
            return Ok(taken.clone());
        }
        let newest = runs.iter().filter_map(|run| run.strip_prefix(day)?.strip_prefix('-')?.parse::<u64>().ok()).max();
        Ok(format!("{day}-{}", newest.unwrap_or(0) + 1))
    }
}

/// The state of reading an archive.
struct ArchiveReader {
    about: Option<ArchiveManifest>,
    log: Vec<u8>,
    manifest: Option<Vec<u8>>,
    trees: BTreeMap<Digest, FileTree>,
    keys: BTreeMap<Fingerprint, CacheEntry>,
    names: BTreeSet<String>,
    folder: PathBuf,
}

impl ArchiveReader {
    fn new(folder: &Path) -> Self {
        Self {
            about: None,
            log: Vec::new(),
            manifest: None,
            trees: BTreeMap::new(),
            keys: BTreeMap::new(),
            names: BTreeSet::new(),
            folder: folder.to_owned(),
        }
    }

    fn take(&mut self, name: &str, size: u64, runs: bool, bytes: &mut impl Read) -> Result<()> {
        let Some(about) = &self.about else {
            if name != ABOUT {
                return Err(Error::new("it is not an exported run").hint("create one with `voxpipe export RUN FILE`"));
            }
            let about: ArchiveManifest = json(name, size, bytes)?;
            if about.v > VERSION {
                return Err(Error::new(format!("it has format version {}, but this voxpipe supports {VERSION}", about.v))
                    .hint("use a newer voxpipe"));
            }
            if !is_run(&about.run) {
                return Err(refused(name, "does not name a run"));
            }
            self.about = Some(about);
            return Ok(());
        };
        if !self.names.insert(name.to_owned()) {
            return Err(refused(name, "occurs twice"));
        }
        match name.split_once('/') {
            None if name == "events.jsonl" => self.log = small(name, size, bytes)?,
            None if name == "provenance.json" => self.manifest = Some(small(name, size, bytes)?),
            Some(("trees", rest)) => {
                let digest = named(name, rest.strip_suffix(".json"))?;
                let tree: FileTree = json(name, size, bytes)?;
                if tree.digest() != digest || !tree.0.keys().all(|name| stays_inside(name)) {
                    return Err(refused(name, "does not match its digest"));
                }
                self.trees.insert(digest, tree);
            }
            Some(("keys", rest)) => {
                let fingerprint = Fingerprint(named(name, rest.strip_suffix(".json"))?);
                let record: CacheEntry = json(name, size, bytes)?;
                if record.ingredients.fingerprint() != fingerprint {
                    return Err(refused(name, "does not match its fingerprint"));
                }
                self.keys.insert(fingerprint, record);
            }
            Some(("store", rest)) => {
                let (digest, path) = rest.split_once('/').unwrap_or((rest, ""));
                let digest = named(name, Some(digest))?;
                let listed = self.trees.get(&digest).and_then(|tree| tree.0.get(path)).filter(|_| about.results.contains(&digest));
                match listed {
                    Some(leaf) if leaf.size == size => {
                        if self.write(digest, path, size, runs, bytes)? != leaf.digest {
                            return Err(refused(name, "does not match its digest"));
                        }
                    }
                    Some(_) => return Err(refused(name, "has a different size than listed")),
                    None => return Err(refused(name, "is not listed in any result")),
                }
            }
            _ => return Err(refused(name, "does not belong in an exported run")),
        }
        Ok(())
    }

    /// Writes a file of a result and returns the digest of the bytes written.
    fn write(&self, digest: Digest, path: &str, size: u64, runs: bool, bytes: &mut impl Read) -> Result<Digest> {
        // `path` is a key of a file list whose names were all checked to stay inside the folder.
        let path = self.folder.join(digest.to_string()).join(path);
        let writing = || format!("cannot write `{}`", path.display());
        path.parent().map_or(Ok(()), fs::create_dir_all).with_context(writing)?;
        let mut file = File::create_new(&path).with_context(writing)?;
        let mut hasher = blake3::Hasher::new();
        let (mut block, mut left) = (vec![0; 1 << 16], size);
        while left > 0 {
            let most = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = bytes.read(&mut block[..most]).map_err(damaged)?;
            if read == 0 {
                return Err(damaged(io::ErrorKind::UnexpectedEof.into()));
            }
            hasher.update(&block[..read]);
            file.write_all(&block[..read]).with_context(writing)?;
            left -= read as u64;
        }
        file.set_permissions(fs::Permissions::from_mode(if runs { 0o755 } else { 0o644 })).with_context(writing)?;
        Ok(Digest(*hasher.finalize().as_bytes()))
    }

    /// Fails if anything is missing.
    fn check_complete(&self) -> Result<()> {
        let Some(about) = &self.about else { return Err(Error::new("it is not an exported run")) };
        if self.log.is_empty() {
            return Err(Error::new("the log of the run is missing"));
        }
        if let Some(missing) = about.fingerprints.iter().find(|fingerprint| !self.keys.contains_key(fingerprint)) {
            return Err(Error::new(format!("the cache entry {missing} is missing")));
        }
        let known: BTreeSet<_> = self.keys.values().map(|record| record.digest).collect();
        if let Some(missing) = known.iter().chain(&about.results).find(|digest| !self.trees.contains_key(digest)) {
            return Err(Error::new(format!("the file list of {missing} is missing")));
        }
        if let Some(extra) = self.keys.keys().find(|fingerprint| !about.fingerprints.contains(fingerprint)) {
            return Err(refused(&format!("keys/{extra}.json"), "does not belong to the run"));
        }
        let files = |digest: &Digest| self.trees.get(digest).into_iter().flat_map(|tree| tree.0.keys());
        let missing = about
            .results
            .iter()
            .flat_map(|digest| files(digest).map(move |name| format!("store/{digest}/{name}")))
            .find(|name| !self.names.contains(name));
        missing.map_or(Ok(()), |missing| Err(Error::new(format!("`{missing}` is missing"))))
    }
}

/// Whether a name is a valid run id: a date and a number.
fn is_run(name: &str) -> bool {
    let parts: Vec<_> = name.split('-').collect();
    parts.len() == 4 && parts.iter().all(|part| !part.is_empty() && part.len() <= 9 && part.bytes().all(|byte| byte.is_ascii_digit()))
}

fn named(name: &str, digest: Option<&str>) -> Result<Digest> {
    digest.and_then(|digest| serde_json::from_value(digest.into()).ok()).ok_or_else(|| refused(name, "is not named after a digest"))
}

fn json<T: DeserializeOwned>(name: &str, size: u64, bytes: &mut impl Read) -> Result<T> {
    serde_json::from_slice(&small(name, size, bytes)?).map_err(|error| refused(name, &format!("cannot be read: {error}")))
}

fn small(name: &str, size: u64, bytes: &mut impl Read) -> Result<Vec<u8>> {
    if size > LARGEST {
        return Err(refused(name, "exceeds the size limit"));
    }
    let mut read = Vec::new();
    bytes.take(size).read_to_end(&mut read).map_err(damaged)?;
    if read.len() as u64 == size { Ok(read) } else { Err(damaged(io::ErrorKind::UnexpectedEof.into())) }
}

fn refused(name: &str, why: &str) -> Error {
    Error::new(format!("its entry `{}` {why}", name.escape_debug())).hint("nothing was imported; get a new export of the run")
}

fn damaged(error: io::Error) -> Error {
    Error::new(format!("it is damaged or truncated ({error})")).hint("nothing was imported; copy the file again")
}

fn put(tar: &mut Builder<impl Write>, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    tar.append_data(&mut header(mode, bytes.len() as u64), name, bytes).with_context(|| format!("cannot add `{name}`"))
}

/// A header with owner 0 and time 0, so that archives are deterministic.
fn header(mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Removes a temporary file on drop, unless it was renamed.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
