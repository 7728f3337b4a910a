//! Where tensors come from and go to: safetensors files under the Hub's names, or a seed.
//!
//! The fields of our blocks carry the names of the Hub's tensors, so a tensor's name is its path through the model
//! (`audio_tower.layers.0.self_attn.q_proj.weight`). [`Weights`] hands tensors out by that path and remembers every complaint,
//! so that one error names all that is missing, mis-shaped, not finite or left over.

use super::named::{self, Look};
use super::precision::Precision;
use crate::error::{Doing, Error, Result};
use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Device, Tensor, TensorData};
use half::{bf16, f16};
use memmap2::Mmap;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// How a tensor starts when it comes from a seed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// Uniform between minus and plus this bound.
    Uniform(f32),
    /// Whisper's table of sines and cosines.
    Sinusoids,
}

/// A source of tensors that hands them out by name.
pub struct Weights {
    source: Source,
    device: Device,
    precision: Precision,
    /// Whether a matrix was handed out in brain floats.
    halved: bool,
    complaints: Vec<String>,
    used: BTreeSet<String>,
}

enum Source {
    Files { shards: Vec<Shard>, names: BTreeMap<String, usize> },
    Seed(u64),
}

struct Shard {
    path: PathBuf,
    map: Mmap,
}

impl Weights {
    /// Random weights; each tensor depends on the seed and its own name only.
    pub fn random(seed: u64, device: &Device) -> Self {
        Self::new(Source::Seed(seed), Precision::F32, device)
    }

    /// The weights in a model folder: `model.safetensors`, or the shards named by `model.safetensors.index.json`.
    pub fn open(folder: &Path, precision: Precision, device: &Device) -> Result<Self> {
        let index = folder.join("model.safetensors.index.json");
        let files = if index.exists() { shard_files(folder, &index)? } else { vec![folder.join("model.safetensors")] };
        Self::files(files, precision, device)
    }

    fn files(paths: Vec<PathBuf>, precision: Precision, device: &Device) -> Result<Self> {
        let mut shards = Vec::new();
        let mut names = BTreeMap::new();
        for path in paths {
            let map = map_file(&path)?;
            for name in parse(&path, &map)?.names() {
                if names.insert(hub_name(name), shards.len()).is_some() {
                    return Err(Error::new(format!("{}: tensor `{name}` is there twice", path.display())));
                }
            }
            shards.push(Shard { path, map });
        }
        Ok(Self::new(Source::Files { shards, names }, precision, device))
    }

    fn new(source: Source, precision: Precision, device: &Device) -> Self {
        Self { source, device: device.clone(), precision, halved: false, complaints: Vec::new(), used: BTreeSet::new() }
    }

    /// The matrix called `name`, in the precision asked for. A problem is remembered as [`Weights::take`] does.
    pub fn matrix(&mut self, name: &str, shape: [usize; 2], init: Init) -> Param<Tensor<2>> {
        let stored = match &self.source {
            Source::Seed(_) => DType::F32,
            Source::Files { shards, names } => stored_type(shards, names, name),
        };
        let param = self.take(name, shape, init);
        match self.precision.keeps(stored) {
            DType::BF16 => {
                self.halved = true;
                param.map(|values| values.cast(DType::BF16)).set_require_grad(false)
            }
            _ => param,
        }
    }

    /// The tensor called `name` in 32-bit floats. A problem is remembered for [`Weights::finish`] and a zero tensor returned in its place.
    pub fn take<const D: usize>(&mut self, name: &str, shape: [usize; D], init: Init) -> Param<Tensor<D>> {
        self.used.insert(name.to_owned());
        let values = match &self.source {
            Source::Seed(seed) => Ok(initial(*seed, name, &shape, init)),
            Source::Files { shards, names } => read(shards, names, name, &shape),
        };
        let values = values.unwrap_or_else(|complaint| {
            self.complaints.push(complaint);
            vec![0.0; shape.iter().product()]
        });
        // The id is derived from the name: the same tensor has the same id in every process.
        let id = ParamId::from(u64::from_le_bytes(first_eight(blake3::hash(name.as_bytes()).as_bytes())));
        Param::initialized(id, Tensor::from_data(TensorData::new(values, shape), &self.device)).set_require_grad(false)
    }

    /// Ends the loading: how the matrices are kept, or an error that names every tensor that was missing, wrong, or that nobody asked for.
    pub fn finish(mut self) -> Result<Precision> {
        let precision = if self.halved { Precision::Bf16 } else { Precision::F32 };
        let Source::Files { shards, names } = &self.source else { return Ok(precision) };
        for (name, shard) in names {
            if !self.used.contains(name) {
                self.complaints.push(format!("{}: tensor `{name}` belongs to no part of the model", shards[*shard].path.display()));
            }
        }
        if self.complaints.is_empty() {
            return Ok(precision);
        }
        let shown = self.complaints.iter().take(10).cloned().collect::<Vec<_>>().join("\n  ");
        let more = self.complaints.len().saturating_sub(10);
        let more = if more > 0 { format!("\n  … and {more} more") } else { String::new() };
        let place = shards.first().map(|shard| shard.path.display().to_string()).unwrap_or_default();
        Err(Error::new(format!("{place} does not fit the model's config:\n  {shown}{more}"))
            .advice("check that config.json and the safetensors file belong together and that the download is whole"))
    }
}

/// Writes every tensor of a model to one safetensors file, under the names of the Hub.
pub fn save<M: Module>(model: &M, path: &Path) -> Result<()> {
    write_tensors(path, &tensors(model, |_| true))
}

/// The values of the tensors of a model whose names `wanted` accepts, by name.
pub fn tensors<M: Module>(model: &M, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, TensorData> {
    struct Collect<F> {
        wanted: F,
        found: BTreeMap<String, TensorData>,
    }
    impl<F: Fn(&str) -> bool> Look for Collect<F> {
        fn look<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
            if (self.wanted)(name) {
                self.found.insert(name.to_owned(), param.val().inner().into_data());
            }
        }
    }
    let mut collect = Collect { wanted, found: BTreeMap::new() };
    named::look(model, &mut collect);
    collect.found
}

/// Writes tensors to a safetensors file; the same tensors give the same bytes.
pub fn write_tensors(path: &Path, tensors: &BTreeMap<String, TensorData>) -> Result<()> {
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, data)| {
            let values = floats(data).map_err(|error| error.context(format!("tensor `{name}`")))?;
            Ok((name.clone(), data.shape().to_vec(), values.iter().flat_map(|value| value.to_le_bytes()).collect()))
        })
        .collect::<Result<_>>()?;
    let views = bytes
        .iter()
        .map(|(name, shape, bytes)| {
            Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(|error| Error::new(error.to_string()))?))
        })
        .collect::<Result<Vec<_>>>()?;
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let file = safetensors::serialize(views, metadata).map_err(|error| Error::new(format!("{}: {error}", path.display())))?;
    fs::write(path, file).doing(|| format!("cannot write `{}`", path.display()))
}

/// The values of a tensor as `f32`.
pub fn floats(data: &TensorData) -> Result<Vec<f32>> {
    let values = match data.dtype() {
        DType::BF16 => return Ok(data.as_bytes().as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()),
        _ => data.try_to_vec::<f32>(),
    };
    values.map_err(|error| Error::new(format!("not floats: {error:?}")))
}

/// Reads all tensors of a safetensors file as `f32`, by name: for adapters and optimizer states.
pub fn read_tensors(path: &Path) -> Result<BTreeMap<String, TensorData>> {
    let map = map_file(path)?;
    let tensors = parse(path, &map)?;
    let mut found = BTreeMap::new();
    for (name, view) in tensors.iter() {
        let values = to_f32(&view).map_err(|error| Error::new(format!("{}: tensor `{name}` {error}", path.display())))?;
        if let Some(place) = values.iter().position(|value| !value.is_finite()) {
            return Err(Error::new(format!("{}: tensor `{name}` holds {} at element {place}", path.display(), values[place])));
        }
        found.insert(name.to_owned(), TensorData::new(values, view.shape().to_vec()));
    }
    Ok(found)
}

/// Names written by newer transformers (`model.audio_tower…`) are read as the Hub's.
pub(super) fn hub_name(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("model.language_model.") {
        return format!("language_model.model.{rest}");
    }
    if name == "lm_head.weight" {
        return format!("language_model.{name}");
    }
    match name.strip_prefix("model.") {
        Some(rest) if rest.starts_with("audio_tower.") || rest.starts_with("multi_modal_projector.") => rest.to_owned(),
        _ => name.to_owned(),
    }
}

fn shard_files(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = fs::read_to_string(index).doing(|| format!("cannot read `{}`", index.display()))?;
    let index_file: Index = serde_json::from_str(&text).map_err(|error| Error::new(format!("{}: {error}", index.display())))?;
    let files: BTreeSet<String> = index_file.weight_map.into_values().collect();
    for file in &files {
        if Path::new(file).components().count() != 1 || file.starts_with('.') {
            return Err(Error::new(format!("{}: `{file}` is not the name of a file in this folder", index.display())));
        }
    }
    Ok(files.into_iter().map(|file| folder.join(file)).collect())
}

fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).doing(|| format!("cannot open `{}`", path.display()))?;
    // SAFETY: the map is read-only. Like every memory-mapped reader we rely on nobody truncating the file meanwhile.
    #[expect(unsafe_code, reason = "mapping a file is what keeps gigabytes of weights out of memory")]
    unsafe { Mmap::map(&file) }.doing(|| format!("cannot map `{}`", path.display()))
}

fn parse<'a>(path: &Path, map: &'a Mmap) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(map).map_err(|error| {
        Error::new(format!("{} is not a whole safetensors file: {error}", path.display()))
            .advice("fetch or copy the file again; it may be truncated")
    })
}

fn read(shards: &[Shard], names: &BTreeMap<String, usize>, name: &str, shape: &[usize]) -> std::result::Result<Vec<f32>, String> {
    let Some(shard) = names.get(name).map(|index| &shards[*index]) else {
        return Err(format!("tensor `{name}` {shape:?} is missing"));
    };
    let tensors = SafeTensors::deserialize(&shard.map).map_err(|error| error.to_string())?;
    let found = tensors.tensor(name).ok().or_else(|| tensors.iter().find(|(stored, _)| hub_name(stored) == name).map(|(_, view)| view));
    let view = found.ok_or_else(|| format!("tensor `{name}` is missing"))?;
    if view.shape() != shape {
        return Err(format!("tensor `{name}` has shape {:?}, the config asks for {shape:?}", view.shape()));
    }
    let values = to_f32(&view).map_err(|error| format!("tensor `{name}` {error}"))?;
    match values.iter().position(|value| !value.is_finite()) {
        Some(place) => Err(format!("tensor `{name}` holds {} at element {place}", values[place])),
        None => Ok(values),
    }
}

/// How a tensor is stored; whether it can be read is found when it is.
fn stored_type(shards: &[Shard], names: &BTreeMap<String, usize>, name: &str) -> DType {
    let view = names.get(name).and_then(|index| {
        let tensors = SafeTensors::deserialize(&shards[*index].map).ok()?;
        tensors.iter().find(|(stored, _)| hub_name(stored) == name).map(|(_, view)| view.dtype())
    });
    if view == Some(Dtype::BF16) { DType::BF16 } else { DType::F32 }
}

fn to_f32(view: &TensorView<'_>) -> std::result::Result<Vec<f32>, String> {
    let bytes = view.data();
    match view.dtype() {
        Dtype::F32 => Ok(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        Dtype::BF16 => Ok(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()),
        Dtype::F16 => Ok(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()),
        other => Err(format!("is stored as {other:?}; F32, BF16 and F16 are read")),
    }
}

fn initial(seed: u64, name: &str, shape: &[usize], init: Init) -> Vec<f32> {
    let count = shape.iter().product();
    match init {
        Init::Zeros => vec![0.0; count],
        Init::Ones => vec![1.0; count],
        Init::Sinusoids => sinusoids(shape[0], shape[1]),
        Init::Uniform(bound) => {
            let mut rng = generator(seed, name);
            (0..count).map(|_| (2.0 * rng.random::<f32>() - 1.0) * bound).collect()
        }
        Init::Normal(deviation) => {
            let mut rng = generator(seed, name);
            // Box and Muller's transform, written out so that the numbers never depend on a library's choice.
            (0..count)
                .map(|_| {
                    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
                    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32 * deviation
                })
                .collect()
        }
    }
}

fn generator(seed: u64, name: &str) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(name.as_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

/// Whisper's position table: sines in the first half of a row, cosines in the second, computed in `f32` like the reference.
fn sinusoids(positions: usize, width: usize) -> Vec<f32> {
    let half = width / 2;
    let step = (10_000f64.ln() / (half as f64 - 1.0)) as f32;
    let angle = |position: usize, index: usize| position as f32 * (-step * index as f32).exp();
    (0..positions)
        .flat_map(|position| {
            (0..half).map(move |index| angle(position, index).sin()).chain((0..half).map(move |index| angle(position, index).cos()))
        })
        .collect()
}

fn first_eight(bytes: &[u8; 32]) -> [u8; 8] {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[..8]);
    eight
}
