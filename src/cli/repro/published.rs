//! `voxpipe repro hf://owner/name`: what somebody published, made again here from the pipeline that lies beside it.

use super::{Repro, Row, run};
use crate::cli::{Changes, Project, note};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::hub::read::RepoReader;
use crate::hub::{Network, RepoRevision};
use pipeline::cache::store::Store;
use pipeline::exit::Exit;
use pipeline::graph::Pipeline;
use pipeline::plan::absolute;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path};
use voxpipe_io::digest::Digest;

/// What such an address begins with.
pub(super) const SCHEME: &str = "hf://";
/// Larger files are no pipeline and no provenance of ours.
const LARGEST: u64 = 16 << 20;

/// What `provenance.json` of a repository says, as far as it is needed here.
#[derive(Deserialize)]
struct Told {
    v: u32,
    voxpipe: String,
    pipeline_digest: Digest,
    /// The digests of what was published, by stage.
    results: BTreeMap<String, Digest>,
}

impl Repro {
    /// Repeats what was published under a name and gives the exit code.
    pub(super) fn published(&self, name: &str) -> Result<u8> {
        let repository = RepoRevision::parse(name).ok_or_else(|| {
            Error::new(format!("`{SCHEME}{name}` is no repository"))
                .kind(ErrorKind::InvalidInput)
                .hint("write hf://OWNER/NAME or hf://datasets/OWNER/NAME")
        })?;
        let reader = RepoReader::open(&repository, Network::unless(false), &|| false)?;
        let text = read(&reader, "pipeline.toml")?;
        let bad = |name: &str, why: String| {
            let message = format!("{name} of `{}` {why}", reader.name());
            Error::new(message).kind(ErrorKind::InvalidInput).hint("it was changed by hand, or published by a later version of voxpipe")
        };
        let told: Told = json(&read(&reader, "provenance.json")?).map_err(|why| bad("provenance.json", why))?;
        if told.v != 1 {
            return Err(bad("provenance.json", format!("is of version {}, and this voxpipe knows 1", told.v)));
        }
        if Digest::of(&text) != told.pipeline_digest {
            return Err(bad("pipeline.toml", "is not the one that provenance.json tells of".to_owned()));
        }
        if told.voxpipe != env!("CARGO_PKG_VERSION") {
            note(&format!("it was made by voxpipe {}, this is {}", told.voxpipe, env!("CARGO_PKG_VERSION")));
        }
        let here = absolute(Path::new("."))?;
        let store = Store::open(&here, "voxpipe repro")?;
        let place = absolute(&store.place_to_repeat(&name.replace(['/', '@'], "-"))?)?;
        let answer = repeat(&here, &place, &text, &told);
        self.answer(&store, &place, &reader.name(), answer)
    }
}

fn repeat(here: &Path, place: &Path, text: &[u8], told: &Told) -> Result<(Exit, Vec<Row>)> {
    let file = place.join("pipeline.toml");
    fs::write(&file, text).with_context(|| format!("cannot write `{}`", file.display()))?;
    let pipeline = Project { file, changes: Changes::default() }.pipeline()?;
    bring(&pipeline, here, place)?;
    let (report, fresh, made) = run(&pipeline, &[])?;
    let row = |(stage, was): (&String, &Digest)| {
        let now = made.get(stage).and_then(|fingerprint| serde_json::from_value(fingerprint.clone().into()).ok());
        let Some(now) = now.and_then(|fingerprint| fresh.record(fingerprint)) else {
            let ending = report.stages.iter().find(|(name, _)| name == stage).map(|(_, ending)| ending);
            return Row { answer: "failed", was: Some(*was), ..Row::without(stage, super::ended(ending)) };
        };
        let same = now.digest == *was;
        let says = if same { now.summary } else { format!("other bytes than were published: {}", now.summary) };
        Row { answer: if same { "same" } else { "differs" }, was: Some(*was), is: Some(now.digest), ..Row::without(stage, says) }
    };
    let rows = told.results.iter().map(row).collect();
    Ok((if report.exit == Exit::Interrupted as u8 { Exit::Interrupted } else { Exit::Done }, rows))
}

/// Puts what the pipeline reads from outside, recordings above all, where it looks for it: from the folder the command is used in.
fn bring(pipeline: &Pipeline, here: &Path, place: &Path) -> Result<()> {
    for step in &pipeline.steps {
        for source in step.stage.sources() {
            let inside = source.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
            let (from, to) = (here.join(&source), place.join(&source));
            if !inside || !from.exists() {
                let message = format!("the stage `{}` reads `{}`, which is not in this folder", step.name, source.display());
                let hint = "what was published names no place on its maker's machine: put the same files here under that name";
                return Err(Error::new(message).kind(ErrorKind::InvalidInput).hint(hint));
            }
            if !to.exists() {
                let linking = || format!("cannot make `{}`", to.display());
                to.parent().map_or(Ok(()), fs::create_dir_all).with_context(linking)?;
                std::os::unix::fs::symlink(&from, &to).with_context(linking)?;
            }
        }
    }
    Ok(())
}

/// A small file of the repository.
fn read(reader: &RepoReader<'_>, name: &str) -> Result<Vec<u8>> {
    let found = reader.list("", false)?.unwrap_or_default().into_iter().find(|entry| entry.path == name && entry.size <= LARGEST);
    let entry = found.ok_or_else(|| {
        Error::new(format!("`{}` has no {name}, so it does not say how it was made", reader.name()))
            .kind(ErrorKind::InvalidInput)
            .hint("only what voxpipe published can be repeated")
    })?;
    reader.part(name, 0, entry.size)
}

fn json<T: DeserializeOwned>(bytes: &[u8]) -> std::result::Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("cannot be read: {error}"))
}
