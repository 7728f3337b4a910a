//! Commands about what is kept: `gc` and `cache`.

use super::summary::{Summary, find};
use super::{Project, print, print_json};
use crate::error::{Error, ErrorKind, Result};
use clap::{Args, Subcommand};
use pipeline::artifact::ArtifactKind;
use pipeline::cache::content::{Content, SymlinkPolicy};
use pipeline::cache::fingerprint::Fingerprint;
use pipeline::cache::store::{AttemptEnd, CacheEntry, Store};
use pipeline::exit::Exit;
use pipeline::manifest::byte_size;
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use voxpipe_io::digest::Digest;

/// What to remove.
#[derive(Args)]
pub(super) struct Gc {
    #[command(flatten)]
    project: Project,
    /// Stop removing when no more than this is left, such as 20GB; `[cache] max_size` if left out
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    max_size: Option<u64>,
    /// Keep the results of this many of the newest runs
    #[arg(long, value_name = "N", default_value_t = 5)]
    keep_runs: usize,
    /// Only say what would be removed
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn bytes(text: &str) -> Result<u64, String> {
    byte_size::parse(text).ok_or_else(|| format!("write a size with its unit, like {}", byte_size::FORMS))
}

/// What to do with what is kept.
#[derive(Subcommand)]
pub(super) enum Cache {
    /// Say how much room results, checkpoints and caches take
    Du(Look),
    /// Read every result again and compare it with its digest; exit code 1 if one is damaged
    Verify {
        /// Move damaged results aside, so that the next run makes them again
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        look: Look,
    },
    /// Keep the results of a run until it is unpinned
    Pin {
        /// Its id, or `latest`
        run: String,
        #[command(flatten)]
        look: Look,
    },
    /// Let the results of a run go again
    Unpin {
        /// Its id, or `latest`
        run: String,
        #[command(flatten)]
        look: Look,
    },
}

/// Which project, and how to tell.
#[derive(Args)]
pub(super) struct Look {
    #[command(flatten)]
    project: Project,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Something that is not needed.
#[derive(Serialize)]
struct Garbage {
    /// `result`, `unfinished` or `cache`.
    what: &'static str,
    /// Whose result it is, or what it belongs to.
    of: String,
    bytes: u64,
}

impl Gc {
    /// `voxpipe gc`.
    pub(super) fn go(&self) -> Result<()> {
        let pipeline = self.project.pipeline()?;
        let store = if self.dry_run { Store::look(&pipeline.root)? } else { Store::open(&pipeline.root, "voxpipe gc")? };
        if !self.dry_run {
            store.empty_trash()?;
        }
        let limit = self.max_size.or(pipeline.cache.max_size);
        let in_all = |store: &Store| store.usage().iter().map(|(_, bytes)| bytes).sum::<u64>();
        let before = in_all(&store);
        let needed = Needed::of(&store, self.keep_runs)?;
        let mut garbage: Vec<Garbage> = Vec::new();
        let mut left = before;
        let enough = |left: u64| limit.is_some_and(|limit| left <= limit);

        for (fingerprint, bytes) in store.unfinished()? {
            if enough(left) || needed.unfinished.contains(&fingerprint) {
                continue;
            }
            if !self.dry_run {
                store.remove_unfinished(fingerprint)?;
            }
            left = left.saturating_sub(bytes);
            garbage.push(Garbage { what: "unfinished", of: format!("a stage under way for {}", fingerprint.0.short()), bytes });
        }
        for digest in needed.longest_unused(&store)? {
            if enough(left) {
                break;
            }
            let bytes = store.bytes_of(digest);
            if !self.dry_run {
                store.remove_result(digest)?;
            }
            left = left.saturating_sub(bytes);
            garbage.push(Garbage { what: "result", of: needed.told(digest), bytes });
        }
        // What is computed again goes last, and only where room is wanted: the next training would be slower for it.
        let mut cached = Garbage { what: "cache", of: String::new(), bytes: 0 };
        let mut files = 0;
        for file in store.cache_files().iter().take_while(|_| limit.is_some()) {
            if enough(left) {
                break;
            }
            if !self.dry_run {
                store.remove_cached(file)?;
            }
            left = left.saturating_sub(file.bytes);
            cached.bytes += file.bytes;
            files += 1;
        }
        if files > 0 {
            cached.of = super::project::plural(files, "file");
            garbage.push(cached);
        }
        let after = if self.dry_run { left } else { in_all(&store) };
        let over = limit.filter(|limit| after > *limit);
        if self.json {
            return print_json(json!({
                "dry_run": self.dry_run, "before": before, "after": after, "limit": limit, "over_limit": over.is_some(), "removed": garbage,
            }));
        }
        let mut text = String::new();
        for Garbage { what, of, bytes } in &garbage {
            text.push_str(&format!("  {:>9}  {what:<10}  {of}\n", byte_size::words(*bytes)));
        }
        let freed: u64 = garbage.iter().map(|garbage| garbage.bytes).sum();
        let verb = if self.dry_run { "would free" } else { "freed" };
        text.push_str(&format!(
            "{verb} {} of {}, {} are left\n",
            byte_size::words(freed),
            byte_size::words(before),
            byte_size::words(after)
        ));
        if let Some(limit) = over {
            text.push_str(&format!(
                "that is more than {}: the rest is needed by pipelines as they stand, by the newest {} runs, by pinned runs, or published\n",
                byte_size::words(limit),
                self.keep_runs
            ));
        }
        print(&text)
    }
}

/// What has to stay.
struct Needed {
    results: BTreeSet<Digest>,
    unfinished: BTreeSet<Fingerprint>,
    /// What each result was, and the place of the newest run that used it.
    known: BTreeMap<Digest, (String, usize)>,
}

impl Needed {
    fn of(store: &Store, keep_runs: usize) -> Result<Self> {
        let records = store.records()?;
        let mut needed = Self { results: BTreeSet::new(), unfinished: BTreeSet::new(), known: BTreeMap::new() };
        for record in records.values() {
            let made = format!("{} made in run {}: {}", record.ingredients.kind, record.run, record.summary);
            needed.known.insert(record.digest, (made, 0));
        }
        // What pipelines stand at now, and what they would go on with.
        for last in store.lasts()? {
            let done = last.done.as_ref().and_then(|done| records.get(&done.fingerprint()));
            needed.results.extend(done.map(|record| record.digest));
            if last.tried.end != AttemptEnd::Done {
                needed.unfinished.insert(last.tried.fingerprint);
            }
        }
        let (runs, pins) = (store.runs()?, store.pins()?);
        for (place, run) in runs.iter().enumerate() {
            let kept = place + keep_runs >= runs.len() || pins.contains(run);
            // A log that cannot be read must not cost what it speaks of.
            for stage in Summary::of(store, run)?.stages {
                let Some(record) = stage.record(store) else { continue };
                if kept {
                    needed.results.insert(record.digest);
                }
                if let Some((what, used)) = needed.known.get_mut(&record.digest) {
                    *used = place + 1;
                    *what = format!("{} ({}) of run {run}: {}", stage.stage, record.ingredients.kind, record.summary);
                }
            }
        }
        // What is published, with everything it was made of.
        let by_digest: BTreeMap<Digest, &CacheEntry> = records.values().map(|record| (record.digest, record)).collect();
        let mut open: Vec<&CacheEntry> = Vec::new();
        for record in records.values().filter(|record| record.kind == ArtifactKind::Published) {
            if is_out(store, record)? {
                open.push(record);
            }
        }
        let mut seen = BTreeSet::new();
        while let Some(record) = open.pop() {
            needed.results.insert(record.digest);
            let inputs = record.ingredients.inputs.values().flatten().map(|input| input.digest);
            open.extend(inputs.filter(|digest| seen.insert(*digest)).filter_map(|digest| by_digest.get(&digest).copied()));
        }
        Ok(needed)
    }

    /// The results nobody needs, the one used longest ago first.
    fn longest_unused(&self, store: &Store) -> Result<Vec<Digest>> {
        let mut free: Vec<Digest> = store.results()?.into_iter().filter(|digest| !self.results.contains(digest)).collect();
        free.sort_by_key(|digest| (self.known.get(digest).map_or(0, |(_, used)| *used), *digest));
        Ok(free)
    }

    fn told(&self, digest: Digest) -> String {
        self.known.get(&digest).map_or_else(|| format!("{}, which nothing speaks of", digest.short()), |(what, _)| what.clone())
    }
}

/// Whether what a stage published is still what lies there.
fn is_out(store: &Store, record: &CacheEntry) -> Result<bool> {
    for (path, promised) in &record.promises {
        if Content::read(&store.root().join(path), store.index(), SymlinkPolicy::Follow)? != *promised {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Cache {
    /// `voxpipe cache …`: gives the exit code.
    pub(super) fn go(&self) -> Result<u8> {
        match self {
            Self::Du(look) => look.du(),
            Self::Verify { repair, look } => return look.verify(*repair),
            Self::Pin { run, look } => look.pin(run, true),
            Self::Unpin { run, look } => look.pin(run, false),
        }
        .map(|()| Exit::Done as u8)
    }
}

impl Look {
    fn du(&self) -> Result<()> {
        let store = Store::look(&self.project.root()?)?;
        let (usage, pins) = (store.usage(), store.pins()?);
        let in_all: u64 = usage.iter().map(|(_, bytes)| bytes).sum();
        let needed = Needed::of(&store, 0)?;
        let mut results: Vec<(u64, Digest)> = store.results()?.into_iter().map(|digest| (store.bytes_of(digest), digest)).collect();
        results.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        if self.json {
            let parts: BTreeMap<_, _> = usage.into_iter().collect();
            let results: Vec<_> =
                results.iter().map(|(bytes, digest)| json!({ "digest": digest, "bytes": bytes, "of": needed.told(*digest) })).collect();
            return print_json(json!({ "bytes": in_all, "parts": parts, "results": results, "pins": pins }));
        }
        let mut text = String::new();
        for (part, bytes) in usage {
            text.push_str(&format!("  {:>9}  {part}\n", byte_size::words(bytes)));
        }
        text.push_str(&format!("  {:>9}  in all\n", byte_size::words(in_all)));
        if !results.is_empty() {
            text.push_str("the largest results:\n");
        }
        for (bytes, digest) in results.iter().take(10) {
            text.push_str(&format!("  {:>9}  {}\n", byte_size::words(*bytes), needed.told(*digest)));
        }
        if !pins.is_empty() {
            text.push_str(&format!("pinned: {}\n", pins.into_iter().collect::<Vec<_>>().join(", ")));
        }
        print(&text)
    }

    fn verify(&self, repair: bool) -> Result<u8> {
        let root = self.project.root()?;
        let store = if repair { Store::open(&root, "voxpipe cache verify --repair")? } else { Store::look(&root)? };
        let needed = Needed::of(&store, 0)?;
        let results = store.results()?;
        let mut damaged = Vec::new();
        for digest in &results {
            if let Some(problem) = store.verify(*digest) {
                let aside = if repair { Some(store.set_aside(*digest)?) } else { None };
                damaged.push((*digest, problem, aside));
            }
        }
        let exit = if damaged.is_empty() { Exit::Done } else { Exit::Failed };
        if self.json {
            let damaged: Vec<_> = damaged
                .iter()
                .map(|(digest, problem, aside)| json!({ "digest": digest, "of": needed.told(*digest), "problem": problem, "aside": aside }))
                .collect();
            print_json(json!({ "results": results.len(), "damaged": damaged }))?;
            return Ok(exit as u8);
        }
        let mut text = String::new();
        for (digest, problem, aside) in &damaged {
            text.push_str(&format!("{}: {problem}\n", needed.told(*digest)));
            if let Some(aside) = aside {
                text.push_str(&format!("  = it is in `{}` now, and the next run makes it again\n", aside.display()));
            }
        }
        text.push_str(&format!("{} read, {} damaged\n", super::project::plural(results.len(), "result"), damaged.len()));
        if !damaged.is_empty() && !repair {
            text.push_str("`voxpipe cache verify --repair` moves what is damaged aside\n");
        }
        print(&text)?;
        Ok(exit as u8)
    }

    fn pin(&self, run: &str, on: bool) -> Result<()> {
        let root = self.project.root()?;
        let run = find(&Store::look(&root)?, run)?;
        let store = Store::open(&root, if on { "voxpipe cache pin" } else { "voxpipe cache unpin" })?;
        if on {
            store.pin(&run)?;
        } else if !store.unpin(&run)? {
            let pins = store.pins()?.into_iter().collect::<Vec<_>>().join(", ");
            let hint = if pins.is_empty() { "no run is".to_owned() } else { format!("these are: {pins}") };
            return Err(Error::new(format!("run {run} is not pinned")).kind(ErrorKind::InvalidInput).hint(hint));
        }
        if self.json {
            return print_json(json!({ "run": run, "pinned": on }));
        }
        print(&format!("run {run} is {}\n", if on { "pinned: its results stay" } else { "not pinned any more" }))
    }
}
