//! Safetensors checkpoints: the weight files of a model folder (single file, shards, or Mistral's consolidated files) as one tensor table.
//!
//! Lookup order: `model.safetensors`; the shards listed in `model.safetensors.index.json`; Mistral's `consolidated.safetensors` or its
//! parts. File headers are read when the folder is opened, so a tensor's dtype, shape and byte range are known before its data is read.
//! No memory is allocated for a tensor that is missing or has another shape.

use super::values::Values;
use super::{Initializer, init, names};
use crate::error::{Error, Result, ResultExt};
use burn::tensor::{DType, TensorData};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of an unsharded checkpoint file.
pub const SINGLE: &str = "model.safetensors";
/// Name of the index that maps each tensor to its shard.
pub const INDEX: &str = "model.safetensors.index.json";
const CONSOLIDATED: &str = "consolidated";
const POSITIONS: &str = "audio_tower.embed_positions.weight";

/// Layout of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointFormat {
    /// Hugging Face transformers.
    HuggingFace,
    /// Mistral's consolidated files.
    Mistral,
}

/// The weight files of a model folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightFiles {
    /// Checkpoint layout.
    pub form: CheckpointFormat,
    /// Weight files, in order.
    pub files: Vec<PathBuf>,
    /// Tensor name to file according to the index; empty without an index.
    placed: BTreeMap<String, PathBuf>,
    /// Note for the user if a second checkpoint in the folder is ignored.
    pub note: Option<String>,
}

/// An opened checkpoint: its tensors by Hub name.
#[derive(Debug)]
pub struct SafetensorsCheckpoint {
    shards: Vec<Shard>,
    pub(super) tensors: BTreeMap<String, Stored>,
    form: CheckpointFormat,
    /// Head sizes, to reorder interleaved rows.
    heads: RopeHeads,
    /// Note for the user, if any.
    pub(super) note: Option<String>,
}

/// Head widths of the layers whose rows Mistral's files store as interleaved RoPE pairs; other forms do not need them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RopeHeads {
    /// In the audio encoder; 0 without RoPE.
    pub audio: usize,
    /// In the language model.
    pub text: usize,
}

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    /// The memory-mapped file.
    pub(super) bytes: bytes::Bytes,
}

/// Location and type of a stored tensor.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) shard: usize,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Byte range in the file.
    pub(super) range: Range<usize>,
    /// Whether its rows are stored as interleaved RoPE pairs.
    pub(super) interleaved: bool,
}

impl WeightFiles {
    /// Finds the weight files of a model folder.
    pub fn of(folder: &Path) -> Result<Self> {
        let consolidated = consolidated(folder)?;
        let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
        let transformers = if single.exists() {
            Some(Self { form: CheckpointFormat::HuggingFace, files: vec![single], placed: BTreeMap::new(), note: None })
        } else if index.exists() {
            let place = from_index(folder, &index)?;
            let missing: Vec<&PathBuf> = place.files.iter().filter(|file| !file.exists()).collect();
            // A download of Mistral's file and all small files has the index but none of its shards.
            let unused = missing.len() == place.files.len() && !consolidated.is_empty();
            if let (Some(first), false) = (missing.first(), unused) {
                let count = missing.len();
                return Err(Error::new(format!(
                    "{}: {count} of its {} files are missing, such as `{}`",
                    index.display(),
                    place.files.len(),
                    first.display()
                ))
                .hint("download the missing files: every shard is needed"));
            }
            (!unused).then_some(place)
        } else {
            None
        };
        match (transformers, consolidated.is_empty()) {
            (Some(place), true) => Ok(place),
            (Some(place), false) => {
                let note = format!("`{}` contains the weights twice; the transformers files are used, not Mistral's", folder.display());
                Ok(Self { note: Some(note), ..place })
            }
            (None, false) => Ok(Self { form: CheckpointFormat::Mistral, files: consolidated, placed: BTreeMap::new(), note: None }),
            (None, true) => Err(Error::new(format!(
                "`{}` contains no weights: neither {SINGLE}, nor {INDEX}, nor {CONSOLIDATED}.safetensors",
                folder.display()
            ))
            .hint("use the folder of a full model, as on the Hub; pass an adapter folder as the adapter, not as the model")),
        }
    }
}

impl SafetensorsCheckpoint {
    /// Opens the checkpoint of a model folder and reads the file headers.
    pub fn of(folder: &Path, heads: RopeHeads) -> Result<Self> {
        let place = WeightFiles::of(folder)?;
        let mut found = Self { shards: Vec::new(), tensors: BTreeMap::new(), form: place.form, heads, note: place.note };
        for path in &place.files {
            found.add(path)?;
        }
        for (name, path) in &place.placed {
            let hub = names::known(name).map_or_else(|| name.clone(), |known| known.hub);
            let there =
                found.tensors.get(&hub).is_some_and(|stored| found.shards.get(stored.shard).is_some_and(|shard| shard.path == *path));
            if !there {
                return Err(Error::new(format!("{INDEX} lists tensor `{name}` in `{}`, which does not contain it", path.display()))
                    .hint("the index and the shards do not belong together: download the folder again"));
            }
        }
        Ok(found)
    }

    /// Stored dtype of a tensor, by Hub name.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.tensors.get(name).map(|stored| stored.dtype)
    }

    /// BLAKE3 digest of all tensors: their Hub names, types, shapes and values. It does not depend on how they are spread over files.
    pub fn digest(&self) -> Result<blake3::Hash> {
        let tensors: Vec<(&String, &Stored)> = self.tensors.iter().collect();
        let digest = |(name, stored): &(&String, &Stored)| -> Result<[u8; 32]> {
            let mut hasher = blake3::Hasher::new();
            hasher.update(name.as_bytes());
            hasher.update(format!("\0{} {:?} {}\0", stored.dtype, stored.shape, stored.interleaved).as_bytes());
            let shard = self.shard(stored).map_err(Error::new)?;
            let bytes = shard.bytes.get(stored.range.clone());
            let bytes = bytes.ok_or_else(|| Error::new(format!("{}: tensor `{name}` is outside the file", shard.path.display())))?;
            Ok(*hasher.update_rayon(bytes).finalize().as_bytes())
        };
        let digests = tensors.par_iter().map(digest).collect::<Result<Vec<_>>>()?;
        let mut whole = blake3::Hasher::new();
        for digest in digests {
            whole.update(&digest);
        }
        Ok(whole.finalize())
    }

    /// Reads a tensor as `wanted` (f32 or bf16) and checks that its values are finite.
    pub fn values(&self, name: &str, shape: &[usize], wanted: DType) -> Result<TensorData> {
        self.read(name, shape, wanted, false).map(|values| values.data).map_err(Error::new)
    }

    /// Reads a tensor of this shape, as a view of the mapped file if `borrow` is set and the dtype matches. The error is a one-sentence
    /// message that names the tensor and its file.
    pub(super) fn read(&self, name: &str, shape: &[usize], wanted: DType, borrow: bool) -> Result<Values, String> {
        let Some(stored) = self.tensors.get(name) else {
            // Mistral's files lack the fixed position table; it is computed.
            if self.form == CheckpointFormat::Mistral && name == POSITIONS {
                let table = init::initial(0, name, shape, Initializer::Sinusoids);
                return Ok(Values { data: TensorData::new(table, shape.to_vec()), borrowed: None });
            }
            return Err(format!("tensor `{name}` {shape:?} is missing"));
        };
        let shard = self.shard(stored)?;
        if stored.shape != shape {
            return Err(format!("{}: tensor `{name}` has shape {:?}, the config requires {shape:?}", shard.path.display(), stored.shape));
        }
        let values = shard.read(name, stored, wanted, borrow, self.heads.of(name));
        values.map_err(|problem| format!("{}: tensor `{name}` {problem}", shard.path.display()))
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let (shard, tensors) = Shard::open(path)?;
        for (name, stored) in tensors {
            let known = names::known(&name);
            let interleaved = known.as_ref().is_some_and(|known| known.interleaved);
            let stored = Stored { shard: self.shards.len(), interleaved, ..stored };
            let hub = known.map_or_else(|| name.clone(), |known| known.hub);
            if let Some(other) = self.tensors.insert(hub, stored) {
                let other = self.shards.get(other.shard).map_or(path, |shard| &shard.path);
                return Err(Error::new(format!("tensor `{name}` of `{}` is also in `{}`", path.display(), other.display()))
                    .hint("remove one of them; the files may come from two downloads"));
            }
        }
        self.shards.push(shard);
        Ok(())
    }

    /// Path for messages: the file, or the folder of several files.
    pub(super) fn place(&self) -> String {
        let path = match self.shards.as_slice() {
            [only] => Some(only.path.as_path()),
            several => several.first().and_then(|shard| shard.path.parent()),
        };
        path.map(|path| path.display().to_string()).unwrap_or_default()
    }

    /// The shard that contains a tensor.
    pub(super) fn shard(&self, stored: &Stored) -> Result<&Shard, String> {
        self.shards.get(stored.shard).ok_or_else(|| "is in a file that was not opened".to_owned())
    }
}

impl RopeHeads {
    fn of(self, name: &str) -> usize {
        if name.starts_with("audio_tower.") { self.audio } else { self.text }
    }
}

impl Shard {
    /// Opens a safetensors file and reads its header. Tensors are in file order.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<(String, Stored)>)> {
        let file = File::open(path).with_context(|| format!("cannot open `{}`", path.display()))?;
        let map = map_file(path, &file)?;
        let broken = |what: String| {
            Error::new(format!("{} is not a complete safetensors file: {what}", path.display()))
                .hint("download or copy the file again; it may be truncated")
        };
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|error| broken(error.to_string()))?;
        let mut tensors = Vec::new();
        for name in metadata.offset_keys() {
            let Some(info) = metadata.info(&name) else { continue };
            let range = 8 + header + info.data_offsets.0..8 + header + info.data_offsets.1;
            if map.get(range.clone()).is_none() {
                return Err(broken(format!("the data of tensor `{name}` is outside the file")));
            }
            tensors.push((name, Stored { shard: 0, dtype: info.dtype, shape: info.shape.clone(), range, interleaved: false }));
        }
        Ok((Self { path: path.to_owned(), file: Arc::new(file), bytes: bytes::Bytes::from_owner(map) }, tensors))
    }
}

/// Mistral's consolidated file, or its parts in order; empty if there is none.
fn consolidated(folder: &Path) -> Result<Vec<PathBuf>> {
    let whole = folder.join(format!("{CONSOLIDATED}.safetensors"));
    if whole.exists() {
        return Ok(vec![whole]);
    }
    let mut parts = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read folder `{}`", folder.display()))? {
        let entry = entry.with_context(|| format!("cannot read folder `{}`", folder.display()))?;
        if let Some(place) = entry.file_name().to_str().and_then(part_of) {
            parts.insert(place, entry.path());
        }
    }
    let Some((_, count)) = parts.keys().next().copied() else { return Ok(Vec::new()) };
    for number in 1..=count {
        if !parts.contains_key(&(number, count)) {
            return Err(Error::new(format!("`{}` has no {CONSOLIDATED}-{number:05}-of-{count:05}.safetensors", folder.display()))
                .hint("download that file: every part is needed"));
        }
    }
    if parts.len() != count {
        return Err(Error::new(format!("`{}` contains parts of several {CONSOLIDATED} files", folder.display()))
            .hint("keep the parts of one download"));
    }
    Ok(parts.into_values().collect())
}

/// Parses `consolidated-00001-of-00002.safetensors` into the part number and the number of parts.
fn part_of(name: &str) -> Option<(usize, usize)> {
    let (number, count) = name.strip_prefix(CONSOLIDATED)?.strip_prefix('-')?.strip_suffix(".safetensors")?.split_once("-of-")?;
    let (number, count) = (number.parse().ok()?, count.parse().ok()?);
    (1..=count).contains(&number).then_some((number, count)).filter(|_| count < 100_000)
}

/// `weight_map` of the index. Unlike plain JSON parsing, rejects a tensor that is listed twice.
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = WeightMap;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a file name for each tensor")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<WeightMap, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((name, file)) = entries.next_entry::<String, String>()? {
                    if map.insert(name.clone(), file).is_some() {
                        return Err(serde::de::Error::custom(format!("tensor `{name}` is listed twice")));
                    }
                }
                Ok(WeightMap(map))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

fn from_index(folder: &Path, index: &Path) -> Result<WeightFiles> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: WeightMap,
    }
    let wrong = |what: String| Error::new(format!("{}: {what}", index.display())).hint("download or copy the model folder again");
    let text = fs::read_to_string(index).with_context(|| format!("cannot read `{}`", index.display()))?;
    let Index { weight_map: WeightMap(map) } = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if map.is_empty() {
        return Err(wrong("`weight_map` is empty".to_owned()));
    }
    let files: BTreeSet<&String> = map.values().collect();
    for file in &files {
        let plain = Path::new(file.as_str()).file_name().is_some_and(|name| name == file.as_str());
        if !plain || file.starts_with('.') || !file.ends_with(".safetensors") {
            return Err(wrong(format!("`{file}` is not the name of a safetensors file in this folder")));
        }
    }
    let files = files.into_iter().map(|file| folder.join(file)).collect();
    let placed = map.iter().map(|(name, file)| (name.clone(), folder.join(file))).collect();
    Ok(WeightFiles { form: CheckpointFormat::HuggingFace, files, placed, note: None })
}

fn map_file(path: &Path, file: &File) -> Result<Mmap> {
    // SAFETY: the map is read-only. Like every memory-mapped reader, this relies on nobody truncating the file meanwhile.
    #[expect(unsafe_code, reason = "memory mapping keeps gigabytes of weights out of the heap")]
    unsafe { Mmap::map(file) }.with_context(|| format!("cannot map `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_consolidated_files() {
        assert_eq!(part_of("consolidated-00002-of-00003.safetensors"), Some((2, 3)));
        for name in [
            "consolidated.safetensors",
            "consolidated-00004-of-00003.safetensors",
            "consolidated-0-of-1.safetensors",
            "consolidated-a-of-1.safetensors",
        ] {
            assert_eq!(part_of(name), None, "{name}");
        }
    }
}
