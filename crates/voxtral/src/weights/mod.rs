//! Weight loading and saving: safetensors checkpoints in three layouts (Hub, transformers 5, Mistral), or random initialization.
//!
//! Module fields have the names of the Hub's tensors, so a tensor's name is its path through the model
//! (`audio_tower.layers.0.self_attn.q_proj.weight`). [`WeightLoader`] returns tensors by that path and collects all problems, so that one
//! error lists every missing, misshapen, non-finite or unexpected tensor.
//!
//! A matrix that is needed exactly as stored is a zero-copy view of the memory-mapped file: loading it takes no time, and its pages belong
//! to the page cache. Everything else is converted directly to its final precision. A file must not be modified while a model uses it;
//! replacing it by renaming another file over it is safe.

mod checkpoint;
pub mod family;
mod finite_check;
mod init;
mod names;
pub mod precision;
mod values;
pub mod visitor;
mod write;

pub use checkpoint::{CheckpointFormat, INDEX, RopeHeads, SINGLE, SafetensorsCheckpoint, WeightFiles};
pub use finite_check::FiniteCheck;
pub use names::{known, mistral, newer};
pub use write::{MAX_SHARD, PendingTensor, save, shapes, tensors, write_outgoing, write_tensors};

use crate::error::{Error, ErrorKind, Result};
use crate::kernels::quantized;
use crate::kernels::quantized::QuantType;
use crate::weights::precision::Precision;
use burn::module::{Param, ParamId};
use burn::tensor::{Bytes, DType, Device, Tensor, TensorData};
use checkpoint::{Shard, Stored};
use half::bf16;
use init::initial;
use rayon::prelude::*;
use safetensors::tensor::Dtype;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use values::Borrowed;

/// Initializer of a randomly initialized tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initializer {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// Normal distribution with mean 0 and this standard deviation.
    Normal(f32),
    /// Uniform distribution on `[-bound, bound]`.
    Uniform(f32),
    /// Whisper's sinusoidal position table.
    Sinusoids,
}

/// Loads tensors by name from a checkpoint or from a random seed, and collects problems for [`WeightLoader::finish`].
pub struct WeightLoader {
    source: Source,
    device: Device,
    precision: Precision,
    /// Whether any matrix was loaded as bf16.
    halved: bool,
    /// Whether any matrix is stored as bf16.
    stored_halved: bool,
    problems: Problems,
    used: BTreeSet<String>,
    borrowed: Vec<Borrowed>,
}

enum Source {
    Files(SafetensorsCheckpoint),
    Seed(u64),
}

/// Result of loading a model's weights.
#[derive(Debug)]
pub struct LoadReport {
    /// Precision of the matrices in memory; never [`Precision::Auto`].
    pub precision: Precision,
    /// Precision in which the matrices are stored: the one that [`Precision::Auto`] gives.
    pub stored: Precision,
    /// Check of the memory-mapped tensors for non-finite values; call [`FiniteCheck::passed`] before returning any result.
    pub audit: FiniteCheck,
    /// Note for the user, if any.
    pub note: Option<String>,
}

impl WeightLoader {
    /// Random weights. Each tensor depends only on the seed and its own name.
    pub fn random(seed: u64, device: &Device) -> Self {
        Self::new(Source::Seed(seed), Precision::F32, device)
    }

    /// The checkpoint of a model folder, in any supported layout; see [`WeightFiles::of`].
    pub fn open(folder: &Path, heads: RopeHeads, precision: Precision, device: &Device) -> Result<Self> {
        if precision.bits().is_some() && *device != Device::flex() {
            return Err(Error::new(format!("precision `{precision}` is supported on the CPU only"))
                .kind(ErrorKind::InvalidInput)
                .hint("set `device = \"cpu\"` or `precision = \"bf16\"`"));
        }
        Ok(Self::new(Source::Files(SafetensorsCheckpoint::of(folder, heads)?), precision, device))
    }

    fn new(source: Source, precision: Precision, device: &Device) -> Self {
        Self {
            source,
            device: device.clone(),
            precision,
            halved: false,
            stored_halved: false,
            problems: Problems::default(),
            used: BTreeSet::new(),
            borrowed: Vec::new(),
        }
    }

    /// Bits per linear-layer weight if quantized (8 or 4), otherwise 0.
    pub(super) fn bits(&self) -> usize {
        match self.precision.bits() {
            Some(QuantType::Q8_0) => 8,
            Some(QuantType::Q4_1) => 4,
            None => 0,
        }
    }

    /// Sets the precision of the matrices.
    pub fn precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Loads a matrix in the requested precision; memory-mapped if the file stores it in that precision. Problems are collected as in
    /// [`WeightLoader::take`].
    pub fn matrix(&mut self, name: &str, shape: [usize; 2], init: Initializer) -> Param<Tensor<2>> {
        let wanted = self.precision.keeps(self.stored(name));
        self.halved |= wanted == DType::BF16;
        self.load(name, shape, init, wanted, true)
    }

    /// The type in which a matrix is stored, as far as a precision depends on it.
    fn stored(&mut self, name: &str) -> DType {
        let halved = matches!(&self.source, Source::Files(checkpoint) if checkpoint.dtype(name) == Some(Dtype::BF16));
        self.stored_halved |= halved;
        if halved { DType::BF16 } else { DType::F32 }
    }

    /// Loads the weight of a linear layer, like [`WeightLoader::matrix`], and quantizes it if the precision requires that. A quantized
    /// weight has shape `[outputs, bytes per row / 2]` and dtype bf16, but its elements are packed bytes, not numbers.
    pub fn linear(&mut self, name: &str, shape: [usize; 2], init: Initializer) -> Param<Tensor<2>> {
        let Some(bits) = self.precision.bits() else { return self.matrix(name, shape, init) };
        self.used.insert(name.to_owned());
        self.stored(name);
        let packed = self.data(name, &shape, init, DType::F32, false).and_then(|data| {
            let numbers = floats(&data).map_err(|error| error.message)?;
            let (inputs, bytes) = (shape[1], bits.row(shape[1]));
            let mut packed = vec![0u8; shape[0] * bytes];
            let rows = packed.par_chunks_mut(bytes.max(1)).zip(numbers.par_chunks(inputs.max(1)));
            rows.for_each(|(packed, row)| quantized::quantize(row, bits, packed));
            Ok(TensorData::from_bytes(Bytes::from_bytes_vec(packed), vec![shape[0], bytes / 2], DType::BF16))
        });
        let data = packed.unwrap_or_else(|problem| {
            self.problems.add(problem);
            TensorData::from_bytes(Bytes::from_bytes_vec(vec![0; 2]), vec![1, 1], DType::BF16)
        });
        Param::initialized(id(name), Tensor::from_data(data, (&self.device, DType::BF16))).set_require_grad(false)
    }

    /// Loads a tensor as f32. On failure, the problem is collected for [`WeightLoader::finish`] and a one-element zero tensor is returned,
    /// whatever the requested shape.
    pub fn take<const D: usize>(&mut self, name: &str, shape: [usize; D], init: Initializer) -> Param<Tensor<D>> {
        self.load(name, shape, init, DType::F32, false)
    }

    fn load<const D: usize>(&mut self, name: &str, shape: [usize; D], init: Initializer, wanted: DType, borrow: bool) -> Param<Tensor<D>> {
        self.used.insert(name.to_owned());
        let data = match self.data(name, &shape, init, wanted, borrow) {
            Ok(data) => data,
            Err(problem) => {
                self.problems.add(problem);
                TensorData::new(vec![0f32], [1; D])
            }
        };
        let dtype = data.dtype();
        let tensor: Tensor<D> = Tensor::from_data(data, (&self.device, dtype));
        Param::initialized(id(name), if dtype == wanted { tensor } else { tensor.cast(wanted) }).set_require_grad(false)
    }

    fn data(&mut self, name: &str, shape: &[usize], init: Initializer, wanted: DType, borrow: bool) -> Result<TensorData, String> {
        match &self.source {
            Source::Seed(seed) => Ok(TensorData::new(initial(*seed, name, shape, init), shape.to_vec())),
            // Mistral's missing position table is computed only while no tensor had a wrong shape: its size comes from the config, which
            // may be absurd.
            Source::Files(checkpoint) if checkpoint.dtype(name).is_none() && self.problems.count > 0 => {
                Err(format!("tensor `{name}` {shape:?} is missing"))
            }
            Source::Files(checkpoint) => {
                let values = checkpoint.read(name, shape, wanted, borrow)?;
                self.borrowed.extend(values.borrowed);
                Ok(values.data)
            }
        }
    }

    /// Finishes loading. The error lists every missing, wrong or unexpected tensor (the first ten in full).
    pub fn finish(mut self) -> Result<LoadReport> {
        let precision = match (self.precision.bits(), self.halved) {
            (Some(_), _) => self.precision,
            (None, true) => Precision::Bf16,
            (None, false) => Precision::F32,
        };
        let stored = if self.stored_halved { Precision::Bf16 } else { Precision::F32 };
        let (mut place, mut note) = (String::new(), None);
        if let Source::Files(checkpoint) = &mut self.source {
            (place, note) = (checkpoint.place(), checkpoint.note.take());
            for (name, stored) in checkpoint.tensors.iter().filter(|(name, _)| !self.used.contains(*name)) {
                let path = checkpoint.shard(stored).map_or_else(|_| String::new(), |shard| shard.path.display().to_string());
                self.problems.add(format!("{path}: tensor `{name}` is not part of the model"));
            }
        }
        let audit = match FiniteCheck::begin(self.borrowed) {
            Ok(audit) if self.problems.count == 0 => return Ok(LoadReport { precision, stored, audit, note }),
            Ok(_) => Vec::new(),
            Err(wrong) => wrong,
        };
        audit.into_iter().for_each(|problem| self.problems.add(problem));
        Err(Error::new(format!("{place} does not fit the model's config:\n  {}", self.problems.text()))
            .hint("check that the config and the safetensors files belong together and that the download is complete"))
    }
}

/// Problems found while loading; only the first are kept, all are counted.
#[derive(Default)]
struct Problems {
    first: Vec<String>,
    count: usize,
}

impl Problems {
    const SHOWN: usize = 10;

    fn add(&mut self, problem: String) {
        self.count += 1;
        if self.first.len() < Self::SHOWN {
            self.first.push(problem);
        }
    }

    fn text(&self) -> String {
        let more = self.count.saturating_sub(Self::SHOWN);
        let more = if more > 0 { format!("\n  … and {more} more") } else { String::new() };
        format!("{}{more}", self.first.join("\n  "))
    }
}

/// The values of a tensor as `f32`.
pub fn floats(data: &TensorData) -> Result<Vec<f32>> {
    match data.dtype() {
        DType::BF16 => Ok(data.as_bytes().as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()),
        _ => data.try_to_vec::<f32>().map_err(|error| Error::new(format!("tensor is not f32 or bf16: {error:?}"))),
    }
}

/// Reads all tensors of a safetensors file as `f32`, under their stored names; used for adapters and optimizer states.
pub fn read_tensors(path: &Path) -> Result<BTreeMap<String, TensorData>> {
    let (shard, tensors) = Shard::open(path)?;
    let read = |(name, stored): (String, Stored)| {
        let values = shard.read(&name, &stored, DType::F32, false, 0);
        let values = values.map_err(|problem| Error::new(format!("{}: tensor `{name}` {problem}", path.display())))?;
        Ok((name, values.data))
    };
    tensors.into_iter().map(read).collect()
}

/// The Hub name of a tensor from any layout; an unknown name is returned unchanged.
pub(super) fn hub_name(name: &str) -> String {
    known(name).map_or_else(|| name.to_owned(), |known| known.hub)
}

/// A parameter id derived from the name, so that it is the same in every process.
fn id(name: &str) -> ParamId {
    ParamId::from(u64::from_le_bytes(first_eight(blake3::hash(name.as_bytes()).as_bytes())))
}

fn first_eight(bytes: &[u8; 32]) -> [u8; 8] {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[..8]);
    eight
}
