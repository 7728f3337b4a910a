//! `voxpipe repro hf://owner/name`: reproduces a published repository from its pipeline.toml and provenance.json.

use super::{Repro, Row, run};
use crate::cli::{Project, note};
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

/// Prefix of a published repository.
pub(super) const SCHEME: &str = "hf://";
/// Maximum size of pipeline.toml and provenance.json in bytes.
const MAX_SIZE: u64 = 16 << 20;

/// The fields of a repository's `provenance.json` that are needed here.
#[derive(Deserialize)]
struct PublishedProvenance {
    v: u32,
    voxpipe: String,
    pipeline_digest: Digest,
    /// Digest of each published result, by stage.
    results: BTreeMap<String, Digest>,
}

impl Repro {
    /// Reproduces a published repository and returns the exit code.
    pub(super) fn published(&self, name: &str) -> Result<u8> {
        let repository = RepoRevision::parse(name).ok_or_else(|| {
            Error::new(format!("`{SCHEME}{name}` is not a repository"))
                .kind(ErrorKind::InvalidInput)
                .hint("write hf://OWNER/NAME or hf://datasets/OWNER/NAME")
        })?;
        let reader = RepoReader::open(&repository, Network::unless(false), &|| false)?;
        let text = read(&reader, "pipeline.toml")?;
        let bad = |name: &str, why: String| {
            let message = format!("{name} of `{}` {why}", reader.name());
            Error::new(message).kind(ErrorKind::InvalidInput).hint("it was edited, or published by a newer version of voxpipe")
        };
        let provenance: PublishedProvenance = json(&read(&reader, "provenance.json")?).map_err(|why| bad("provenance.json", why))?;
        if provenance.v != 1 {
            return Err(bad("provenance.json", format!("has version {}; this voxpipe reads version 1", provenance.v)));
        }
        if Digest::of(&text) != provenance.pipeline_digest {
            return Err(bad("pipeline.toml", "does not match the digest in provenance.json".to_owned()));
        }
        if provenance.voxpipe != env!("CARGO_PKG_VERSION") {
            note(&format!("it was made by voxpipe {}; this is {}", provenance.voxpipe, env!("CARGO_PKG_VERSION")));
        }
        let here = absolute(Path::new("."))?;
        let store = Store::open(&here, "voxpipe repro")?;
        let place = absolute(&store.place_to_repeat(&name.replace(['/', '@'], "-"))?)?;
        let answer = repeat(&here, &place, &text, &provenance);
        self.answer(&store, &place, &reader.name(), answer)
    }
}

fn repeat(here: &Path, place: &Path, text: &[u8], provenance: &PublishedProvenance) -> Result<(Exit, Vec<Row>)> {
    let file = place.join("pipeline.toml");
    fs::write(&file, text).with_context(|| format!("cannot write `{}`", file.display()))?;
    let pipeline = Project::of(file).pipeline()?;
    link_sources(&pipeline, here, place)?;
    let (report, fresh, made) = run(&pipeline, &[])?;
    let row = |(stage, was): (&String, &Digest)| {
        let now = made.get(stage).and_then(|fingerprint| serde_json::from_value(fingerprint.clone().into()).ok());
        let Some(now) = now.and_then(|fingerprint| fresh.record(fingerprint)) else {
            let ending = report.stages.iter().find(|(name, _)| name == stage).map(|(_, ending)| ending);
            return Row { answer: "failed", was: Some(*was), ..Row::without(stage, super::ended(ending)) };
        };
        let same = now.digest == *was;
        let says = if same { now.summary } else { format!("differs from the published result: {}", now.summary) };
        Row { answer: if same { "same" } else { "differs" }, was: Some(*was), is: Some(now.digest), ..Row::without(stage, says) }
    };
    let rows = provenance.results.iter().map(row).collect();
    Ok((if report.exit == Exit::Interrupted as u8 { Exit::Interrupted } else { Exit::Done }, rows))
}

/// Links the sources of the pipeline, such as recordings, from the current folder.
fn link_sources(pipeline: &Pipeline, here: &Path, place: &Path) -> Result<()> {
    for step in &pipeline.steps {
        let programs = step.stage.programs().into_iter().filter(|program| program.contains('/')).map(Into::into);
        for source in step.stage.sources().into_iter().chain(programs) {
            let inside = source.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
            let (from, to) = (here.join(&source), place.join(&source));
            if !inside || !from.exists() {
                let message = format!("stage `{}` reads `{}`, which is not in this folder", step.name, source.display());
                let hint = "put the same files here under that name: a published pipeline has no paths outside its folder";
                return Err(Error::new(message).kind(ErrorKind::InvalidInput).hint(hint));
            }
            if !to.exists() {
                let linking = || format!("cannot create `{}`", to.display());
                to.parent().map_or(Ok(()), fs::create_dir_all).with_context(linking)?;
                std::os::unix::fs::symlink(&from, &to).with_context(linking)?;
            }
        }
    }
    Ok(())
}

/// Reads a small file of the repository.
fn read(reader: &RepoReader<'_>, name: &str) -> Result<Vec<u8>> {
    let found = reader.list("", false)?.unwrap_or_default().into_iter().find(|entry| entry.path == name && entry.size <= MAX_SIZE);
    let entry = found.ok_or_else(|| {
        Error::new(format!("`{}` has no {name}, so it cannot be reproduced", reader.name()))
            .kind(ErrorKind::InvalidInput)
            .hint("only repositories published by voxpipe can be reproduced")
    })?;
    reader.part(name, 0, entry.size)
}

fn json<T: DeserializeOwned>(bytes: &[u8]) -> std::result::Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("cannot be read: {error}"))
}
