//! `voxpipe gc`: garbage collection of unused results.
//!
//! Kept are the current results of every pipeline, those of the newest runs and of pinned runs, unfinished stages that a run would
//! continue, folders of cluster jobs that may still be running, and everything that a published result depends on.

use super::summary::Summary;
use super::{Project, note, print, print_json};
use crate::error::Result;
use clap::Args;
use pipeline::artifact::ArtifactKind;
use pipeline::cache::content::{Content, SymlinkPolicy};
use pipeline::cache::fingerprint::Fingerprint;
use pipeline::cache::store::{AttemptEnd, CacheEntry, Store};
use pipeline::executor::RemoteExecutor;
use pipeline::executor::leftover::LeftoverJob;
use pipeline::executor::slurm::SlurmBackend;
use pipeline::manifest::byte_size;
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use voxpipe_io::digest::Digest;

/// Options of `voxpipe gc`.
#[derive(Args)]
pub(super) struct Gc {
    #[command(flatten)]
    project: Project,
    /// Stop when the cache is no larger than this, such as 20GB [default: `max_size` of `[cache]`]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    max_size: Option<u64>,
    /// Keep the results of the newest N runs
    #[arg(long, value_name = "N", default_value_t = 5)]
    keep_runs: usize,
    /// Only show what would be removed
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn bytes(text: &str) -> Result<u64, String> {
    byte_size::parse(text).ok_or_else(|| format!("write a size with a unit, such as {}", byte_size::FORMS))
}

/// Something that is removed.
#[derive(Serialize)]
struct Garbage {
    /// `result`, `unfinished` or `cache`.
    what: &'static str,
    /// The stage and run it belongs to, in words.
    of: String,
    bytes: u64,
}

impl Gc {
    /// Removes garbage, the least recently used results first.
    pub(super) fn go(&self) -> Result<()> {
        let pipeline = self.project.pipeline()?;
        let store = if self.dry_run { Store::open_readonly(&pipeline.root)? } else { Store::open(&pipeline.root, "voxpipe gc")? };
        store.orphans().into_iter().for_each(note);
        if !self.dry_run {
            store.empty_trash()?;
        }
        let limit = self.max_size.or(pipeline.cache.max_size);
        let total = |store: &Store| store.usage().iter().map(|(_, bytes)| bytes).sum::<u64>();
        let before = total(&store);
        let uses = Usage::of(&store, self.keep_runs)?;
        let mut garbage: Vec<Garbage> = Vec::new();
        let mut left = before;
        let enough = |left: u64| limit.is_some_and(|limit| left <= limit);

        let jobs = LeftoverJob::all(&store)?;
        let slurm = RemoteExecutor(SlurmBackend::new(pipeline.machines.slurm.clone(), Path::new("voxpipe")));
        for (fingerprint, bytes) in store.unfinished()? {
            if enough(left) || uses.unfinished.contains(&fingerprint) {
                continue;
            }
            // A job that is still running writes to this folder.
            if let Some(told) = jobs.iter().find(|job| job.fingerprint == fingerprint).and_then(|job| slurm.tell_leftover(job)) {
                note(&format!("{told}; its folder is kept"));
                continue;
            }
            if !self.dry_run {
                store.remove_unfinished(fingerprint)?;
            }
            left = left.saturating_sub(bytes);
            garbage.push(Garbage { what: "unfinished", of: format!("unfinished stage {}", fingerprint.0.short()), bytes });
        }
        for digest in uses.least_recently_used(&store)? {
            if enough(left) {
                break;
            }
            let bytes = store.bytes_of(digest);
            if !self.dry_run {
                store.remove_result(digest)?;
            }
            left = left.saturating_sub(bytes);
            garbage.push(Garbage { what: "result", of: uses.description(digest), bytes });
        }
        // Feature caches go last, and only under a size limit: without them the next training is slower.
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
        let after = if self.dry_run { left } else { total(&store) };
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
        text.push_str(&format!("{verb} {} of {}, {} left\n", byte_size::words(freed), byte_size::words(before), byte_size::words(after)));
        if let Some(limit) = over {
            text.push_str(&format!(
                "still above the limit of {}: the rest is in use by pipelines, the newest {} runs, pinned runs or published results\n",
                byte_size::words(limit),
                self.keep_runs
            ));
        }
        print(&text)
    }
}

/// Which results and unfinished stages are in use, and by what.
pub(super) struct Usage {
    results: BTreeSet<Digest>,
    unfinished: BTreeSet<Fingerprint>,
    /// For each result its description and the position (from 1) of the newest run that used it, 0 if none did.
    known: BTreeMap<Digest, (String, usize)>,
}

impl Usage {
    /// Reads the uses from the store. The newest `keep_runs` runs count as uses.
    pub(super) fn of(store: &Store, keep_runs: usize) -> Result<Self> {
        let records = store.records()?;
        let mut uses = Self { results: BTreeSet::new(), unfinished: BTreeSet::new(), known: BTreeMap::new() };
        for record in records.values() {
            let made = format!("{} of run {}: {}", record.ingredients.kind, record.run, record.summary);
            uses.known.insert(record.digest, (made, 0));
        }
        // The current results of the pipelines, and the unfinished stages that they would continue.
        for last in store.all_history()? {
            let done = last.done.as_ref().and_then(|done| records.get(&done.fingerprint()));
            uses.results.extend(done.map(|record| record.digest));
            if last.tried.end != AttemptEnd::Done {
                uses.unfinished.insert(last.tried.fingerprint);
            }
        }
        let (runs, pins) = (store.runs()?, store.pins()?);
        for (place, run) in runs.iter().enumerate() {
            let kept = place + keep_runs >= runs.len() || pins.contains(run);
            // An unreadable log is an error: its results must not be removed.
            for stage in Summary::of(store, run)?.stages {
                let Some(record) = stage.record(store) else { continue };
                if kept {
                    uses.results.insert(record.digest);
                }
                if let Some((what, used)) = uses.known.get_mut(&record.digest) {
                    *used = place + 1;
                    *what = format!("{} ({}) of run {run}: {}", stage.stage, record.ingredients.kind, record.summary);
                }
            }
        }
        // Published results, with everything they depend on.
        let by_digest: BTreeMap<Digest, &CacheEntry> = records.values().map(|record| (record.digest, record)).collect();
        let mut open: Vec<&CacheEntry> = Vec::new();
        for record in records.values().filter(|record| record.kind == ArtifactKind::Published) {
            if is_published(store, record)? {
                open.push(record);
            }
        }
        let mut seen = BTreeSet::new();
        while let Some(record) = open.pop() {
            uses.results.insert(record.digest);
            let inputs = record.ingredients.inputs.values().flatten().map(|input| input.digest);
            open.extend(inputs.filter(|digest| seen.insert(*digest)).filter_map(|digest| by_digest.get(&digest).copied()));
        }
        Ok(uses)
    }

    /// The results that are not in use, least recently used first.
    fn least_recently_used(&self, store: &Store) -> Result<Vec<Digest>> {
        let mut free: Vec<Digest> = store.results()?.into_iter().filter(|digest| !self.results.contains(digest)).collect();
        free.sort_by_key(|digest| (self.known.get(digest).map_or(0, |(_, used)| *used), *digest));
        Ok(free)
    }

    /// A result in words: its stage, kind, run and summary.
    pub(super) fn description(&self, digest: Digest) -> String {
        self.known.get(&digest).map_or_else(|| format!("{} (no cache entry refers to it)", digest.short()), |(what, _)| what.clone())
    }
}

/// Whether the published files are still there and unchanged.
fn is_published(store: &Store, record: &CacheEntry) -> Result<bool> {
    for (path, promised) in &record.promises {
        if Content::read(&store.root().join(path), store.index(), SymlinkPolicy::Follow)? != *promised {
            return Ok(false);
        }
    }
    Ok(true)
}
