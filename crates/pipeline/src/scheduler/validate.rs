//! Output validation: checks a stage's result before it is committed.

use crate::artifact::ArtifactKind;
use crate::error::{Error, Result, ResultExt};
use rayon::prelude::*;
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use voxpipe_io::jsonl;

/// Checks that a result has the main file of its kind, that its JSON files parse, and that no audio or weight file is truncated.
pub(super) fn check(kind: ArtifactKind, out: &Path) -> Result<()> {
    let names: &[&str] = match kind {
        ArtifactKind::Phrases => &["phrases.jsonl"],
        ArtifactKind::Clips => &["clips.jsonl"],
        ArtifactKind::Dataset => &["data.jsonl"],
        ArtifactKind::Model => &["model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"],
        ArtifactKind::Scores => &["scores.json"],
        ArtifactKind::Card => &["README.md"],
        ArtifactKind::Published => &["published.json"],
        ArtifactKind::Demo | ArtifactKind::Files => return Ok(()),
    };
    if !names.iter().any(|name| out.join(name).is_file()) {
        let names = names.join("` or `");
        return Err(Error::new(format!("the stage succeeded but its result has no `{names}`, so it is not of kind `{kind}`")));
    }
    let mut files = below(out)?;
    if kind == ArtifactKind::Clips || kind == ArtifactKind::Dataset {
        files.extend(below(&out.join("audio"))?);
    }
    files.par_iter().try_for_each(|file| check_file(file)).map_err(|error| error.context("the stage's result is damaged"))
}

fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let reading = || format!("cannot read folder `{}`", folder.display());
    let mut files =
        fs::read_dir(folder).with_context(reading)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>().with_context(reading)?;
    files.retain(|path| path.is_file());
    files.sort();
    Ok(files)
}

/// Checks that a file is complete, by its extension.
fn check_file(path: &Path) -> Result<()> {
    let in_file = || path.display().to_string();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("jsonl") => jsonl::read::<Map<_, _>>(path).map(drop),
        Some("json") => serde_json::from_slice::<Value>(&fs::read(path).with_context(in_file)?).map(drop).with_context(in_file),
        Some("safetensors") => safetensors(path).with_context(in_file),
        Some("wav") => wav(path).with_context(in_file),
        _ => Ok(()),
    }
}

/// Checks that the header parses and the file has the length it declares.
fn safetensors(path: &Path) -> Result<()> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut number = [0; 8];
    file.read_exact(&mut number).with_context(|| "the file is too short to be safetensors")?;
    let header = u64::from_le_bytes(number);
    if header > length.saturating_sub(8) {
        return Err(Error::new(format!("the header length is {header} bytes, but the file has {length}")));
    }
    let mut text = Vec::new();
    file.take(header).read_to_end(&mut text)?;
    let tensors: Map<String, Value> = serde_json::from_slice(&text).with_context(|| "invalid header")?;
    let ends = tensors.values().filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64());
    let expected = 8 + header + ends.max().unwrap_or(0);
    if length == expected { Ok(()) } else { Err(Error::new(format!("the header declares {expected} bytes, but the file has {length}"))) }
}

/// Checks that the file has a RIFF/WAVE header and at least the length it declares.
fn wav(path: &Path) -> Result<()> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut head = [0; 12];
    file.read_exact(&mut head).with_context(|| "the file is too short to be WAV")?;
    let [b'R', b'I', b'F', b'F', a, b, c, d, b'W', b'A', b'V', b'E'] = head else {
        return Err(Error::new("the file has no RIFF/WAVE header"));
    };
    let expected = u64::from(u32::from_le_bytes([a, b, c, d])) + 8;
    if length >= expected { Ok(()) } else { Err(Error::new(format!("the header declares {expected} bytes, but the file has {length}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_short_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let header = br#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
        let weights = [&(header.len() as u64).to_le_bytes()[..], header, b"1234"].concat();
        let sound = [&b"RIFF"[..], &40_u32.to_le_bytes(), b"WAVEfmt ", &[0; 32]].concat();
        for (name, bytes) in
            [("a.safetensors", weights), ("b.wav", sound), ("c.json", b"{\"a\":1}".to_vec()), ("d.jsonl", b"{}\n{}".to_vec())]
        {
            let path = dir.path().join(name);
            fs::write(&path, &bytes).unwrap();
            check_file(&path).unwrap();
            for cut in [0, 5, bytes.len() - 1] {
                fs::write(&path, &bytes[..cut]).unwrap();
                // An empty JSON Lines file is valid.
                assert_eq!(check_file(&path).is_err(), !(name == "d.jsonl" && cut != bytes.len() - 1), "{name} cut at {cut}");
            }
        }
    }
}
