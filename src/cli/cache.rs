//! `voxpipe cache`: shows disk usage, verifies results, pins runs.

use super::gc::Usage;
use super::summary::find;
use super::{Project, print, print_json};
use crate::error::{Error, ErrorKind, Result};
use clap::{Args, Subcommand};
use pipeline::cache::store::Store;
use pipeline::exit::Exit;
use pipeline::manifest::byte_size;
use serde_json::json;
use std::collections::BTreeMap;
use voxpipe_io::digest::Digest;

/// Subcommands of `voxpipe cache`.
#[derive(Subcommand)]
pub(super) enum Cache {
    /// Show the disk usage of results, checkpoints and caches
    Du(CacheArgs),
    /// Verify the digest of every result; exit code 1 if one is damaged
    Verify {
        /// Move damaged results out of the cache so that the next run recreates them
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        args: CacheArgs,
    },
    /// Pin a run: its results are kept until it is unpinned
    Pin {
        /// Run id or `latest`
        run: String,
        #[command(flatten)]
        args: CacheArgs,
    },
    /// Unpin a run: its results may be removed
    Unpin {
        /// Run id or `latest`
        run: String,
        #[command(flatten)]
        args: CacheArgs,
    },
}

/// Options common to all subcommands.
#[derive(Args)]
pub(super) struct CacheArgs {
    #[command(flatten)]
    project: Project,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Cache {
    /// Runs the subcommand and returns the exit code.
    pub(super) fn go(&self) -> Result<u8> {
        match self {
            Self::Du(args) => args.du(),
            Self::Verify { repair, args } => return args.verify(*repair),
            Self::Pin { run, args } => args.pin(run, true),
            Self::Unpin { run, args } => args.pin(run, false),
        }
        .map(|()| Exit::Done as u8)
    }
}

impl CacheArgs {
    fn du(&self) -> Result<()> {
        let store = Store::open_readonly(&self.project.root()?)?;
        let (usage, pins) = (store.usage(), store.pins()?);
        let total: u64 = usage.iter().map(|(_, bytes)| bytes).sum();
        let uses = Usage::of(&store, 0)?;
        let mut results: Vec<(u64, Digest)> = store.results()?.into_iter().map(|digest| (store.bytes_of(digest), digest)).collect();
        results.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        if self.json {
            let parts: BTreeMap<_, _> = usage.into_iter().collect();
            let results: Vec<_> =
                results.iter().map(|(size, digest)| json!({ "digest": digest, "bytes": size, "of": uses.description(*digest) })).collect();
            return print_json(json!({ "bytes": total, "parts": parts, "results": results, "pins": pins }));
        }
        let mut text = String::new();
        for (part, bytes) in usage {
            text.push_str(&format!("  {:>9}  {part}\n", byte_size::words(bytes)));
        }
        text.push_str(&format!("  {:>9}  total\n", byte_size::words(total)));
        if !results.is_empty() {
            text.push_str("largest results:\n");
        }
        for (bytes, digest) in results.iter().take(10) {
            text.push_str(&format!("  {:>9}  {}\n", byte_size::words(*bytes), uses.description(*digest)));
        }
        if !pins.is_empty() {
            text.push_str(&format!("pinned: {}\n", pins.into_iter().collect::<Vec<_>>().join(", ")));
        }
        print(&text)
    }

    fn verify(&self, repair: bool) -> Result<u8> {
        let root = self.project.root()?;
        let store = if repair { Store::open(&root, "voxpipe cache verify --repair")? } else { Store::open_readonly(&root)? };
        let uses = Usage::of(&store, 0)?;
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
                .map(|(digest, problem, aside)| {
                    json!({ "digest": digest, "of": uses.description(*digest), "problem": problem, "aside": aside })
                })
                .collect();
            print_json(json!({ "results": results.len(), "damaged": damaged }))?;
            return Ok(exit as u8);
        }
        let mut text = String::new();
        for (digest, problem, aside) in &damaged {
            text.push_str(&format!("{}: {problem}\n", uses.description(*digest)));
            if let Some(aside) = aside {
                text.push_str(&format!("  = moved to `{}`; the next run recreates it\n", aside.display()));
            }
        }
        text.push_str(&format!("{} verified, {} damaged\n", super::project::plural(results.len(), "result"), damaged.len()));
        if !damaged.is_empty() && !repair {
            text.push_str("run `voxpipe cache verify --repair` to move damaged results out of the cache\n");
        }
        print(&text)?;
        Ok(exit as u8)
    }

    fn pin(&self, run: &str, on: bool) -> Result<()> {
        let root = self.project.root()?;
        let run = find(&Store::open_readonly(&root)?, run)?;
        let store = Store::open(&root, if on { "voxpipe cache pin" } else { "voxpipe cache unpin" })?;
        if on {
            store.pin(&run)?;
        } else if !store.unpin(&run)? {
            let pins = store.pins()?.into_iter().collect::<Vec<_>>().join(", ");
            let hint = if pins.is_empty() { "no run is pinned".to_owned() } else { format!("pinned runs: {pins}") };
            return Err(Error::new(format!("run {run} is not pinned")).kind(ErrorKind::InvalidInput).hint(hint));
        }
        if self.json {
            return print_json(json!({ "run": run, "pinned": on }));
        }
        print(&format!("run {run} is {}\n", if on { "pinned: its results are kept" } else { "no longer pinned" }))
    }
}
