//! Where tensors come from and go to: safetensors files in any layout, or a seed; and to files.
//!
//! The fields of our blocks carry the names of the Hub's tensors, so a tensor's name is its path through the model
//! (`audio_tower.layers.0.self_attn.q_proj.weight`). [`WeightLoader`] hands tensors out by that path and remembers every complaint,
//! so that one error names all that is missing, mis-shaped, not finite or left over.
//!
//! Big matrices that are wanted as they are stored are views of the mapped file: they cost nothing until they are used, and nothing
//! then but the file's own pages, which the system may take back. Everything else is converted straight into its final precision. Files
//! must therefore stay as they are while a model made of them lives; replacing one under its name is harmless, writing into it is not.

mod checkpoint;
mod finite_check;
mod init;
pub mod model_dir;
mod names;
mod values;
mod write;

pub use checkpoint::{CheckpointFormat, INDEX, SINGLE, SafetensorsCheckpoint, WeightFiles};
pub use finite_check::FiniteCheck;
pub use names::{known, mistral, newer};
pub use write::{MAX_SHARD, PendingTensor, save, shapes, tensors, write_outgoing, write_tensors};

use super::model::precision::Precision;
use crate::error::{Error, ErrorKind, Result};
use crate::kernels::quantized;
use crate::kernels::quantized::QuantType;
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

/// How a tensor starts when it comes from a seed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initializer {
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
pub struct WeightLoader {
    source: Source,
    device: Device,
    precision: Precision,
    /// Whether a matrix was handed out in brain floats.
    halved: bool,
    complaints: Complaints,
    used: BTreeSet<String>,
    borrowed: Vec<Borrowed>,
}

enum Source {
    Files(SafetensorsCheckpoint),
    Seed(u64),
}

/// What loading came to.
#[derive(Debug)]
pub struct LoadReport {
    /// How the matrices are kept; never [`Precision::Auto`].
    pub precision: Precision,
    /// Says whether what was borrowed from the files can be trusted; to be asked before a result leaves.
    pub audit: FiniteCheck,
    /// What a person should know.
    pub note: Option<String>,
}

impl WeightLoader {
    /// Random weights; each tensor depends on the seed and its own name only.
    pub fn random(seed: u64, device: &Device) -> Self {
        Self::new(Source::Seed(seed), Precision::F32, device)
    }

    /// The weights in a model folder, in whichever form they lie there; see [`WeightFiles::of`].
    pub fn open(folder: &Path, precision: Precision, device: &Device) -> Result<Self> {
        if precision.bits().is_some() && *device != Device::flex() {
            return Err(Error::new(format!("matrices of precision `{precision}` can be used on the processor only"))
                .kind(ErrorKind::InvalidInput)
                .hint("write `device = \"cpu\"`, or `precision = \"bf16\"`"));
        }
        Ok(Self::new(Source::Files(SafetensorsCheckpoint::of(folder)?), precision, device))
    }

    fn new(source: Source, precision: Precision, device: &Device) -> Self {
        Self {
            source,
            device: device.clone(),
            precision,
            halved: false,
            complaints: Complaints::default(),
            used: BTreeSet::new(),
            borrowed: Vec::new(),
        }
    }

    /// How many bits the weights of linear layers have, if they are quantised; 0 if not.
    pub(super) fn bits(&self) -> usize {
        match self.precision.bits() {
            Some(QuantType::Eight) => 8,
            Some(QuantType::Four) => 4,
            None => 0,
        }
    }

    /// The same with matrices in another precision.
    pub fn precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The matrix called `name`, in the precision asked for and borrowed from the file where that holds it so. A problem is remembered
    /// as by [`WeightLoader::take`].
    pub fn matrix(&mut self, name: &str, shape: [usize; 2], init: Initializer) -> Param<Tensor<2>> {
        let stored = match &self.source {
            Source::Files(checkpoint) => checkpoint.dtype(name),
            Source::Seed(_) => None,
        };
        let wanted = self.precision.keeps(if stored == Some(Dtype::BF16) { DType::BF16 } else { DType::F32 });
        self.halved |= wanted == DType::BF16;
        self.hand_out(name, shape, init, wanted, true)
    }

    /// The matrix of a linear layer, as [`WeightLoader::matrix`] gives it or, if the precision says so, of few bits: then its shape is
    /// `[outputs, bytes of a row / 2]`, and what its numbers are called they are not.
    pub fn linear(&mut self, name: &str, shape: [usize; 2], init: Initializer) -> Param<Tensor<2>> {
        let Some(bits) = self.precision.bits() else { return self.matrix(name, shape, init) };
        self.used.insert(name.to_owned());
        let packed = self.data(name, &shape, init, DType::F32, false).and_then(|data| {
            let numbers = floats(&data).map_err(|error| error.message)?;
            let (inputs, bytes) = (shape[1], bits.row(shape[1]));
            let mut packed = vec![0u8; shape[0] * bytes];
            let rows = packed.par_chunks_mut(bytes.max(1)).zip(numbers.par_chunks(inputs.max(1)));
            rows.for_each(|(packed, row)| quantized::quantise(row, bits, packed));
            Ok(TensorData::from_bytes(Bytes::from_bytes_vec(packed), vec![shape[0], bytes / 2], DType::BF16))
        });
        let data = packed.unwrap_or_else(|complaint| {
            self.complaints.add(complaint);
            TensorData::from_bytes(Bytes::from_bytes_vec(vec![0; 2]), vec![1, 1], DType::BF16)
        });
        Param::initialized(id(name), Tensor::from_data(data, (&self.device, DType::BF16))).set_require_grad(false)
    }

    /// The tensor called `name` in 32-bit floats. A problem is remembered for [`WeightLoader::finish`] and a single zero returned in its
    /// place, whatever size was asked for.
    pub fn take<const D: usize>(&mut self, name: &str, shape: [usize; D], init: Initializer) -> Param<Tensor<D>> {
        self.hand_out(name, shape, init, DType::F32, false)
    }

    fn hand_out<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        init: Initializer,
        wanted: DType,
        borrow: bool,
    ) -> Param<Tensor<D>> {
        self.used.insert(name.to_owned());
        let data = match self.data(name, &shape, init, wanted, borrow) {
            Ok(data) => data,
            Err(complaint) => {
                self.complaints.add(complaint);
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
            // A table that no file holds is made only for a model that fits so far: its width is that of others.
            Source::Files(checkpoint) if checkpoint.dtype(name).is_none() && self.complaints.count > 0 => {
                Err(format!("tensor `{name}` {shape:?} is missing"))
            }
            Source::Files(checkpoint) => {
                let values = checkpoint.read(name, shape, wanted, borrow)?;
                self.borrowed.extend(values.borrowed);
                Ok(values.data)
            }
        }
    }

    /// Ends the loading: how it went, or an error that names every tensor that was missing, wrong, or that nobody asked for.
    pub fn finish(mut self) -> Result<LoadReport> {
        let precision = match (self.precision.bits(), self.halved) {
            (Some(_), _) => self.precision,
            (None, true) => Precision::Bf16,
            (None, false) => Precision::F32,
        };
        let (mut place, mut note) = (String::new(), None);
        if let Source::Files(checkpoint) = &mut self.source {
            (place, note) = (checkpoint.place(), checkpoint.note.take());
            for (name, stored) in checkpoint.tensors.iter().filter(|(name, _)| !self.used.contains(*name)) {
                let path = checkpoint.shard(stored).map_or_else(|_| String::new(), |shard| shard.path.display().to_string());
                self.complaints.add(format!("{path}: tensor `{name}` belongs to no part of the model"));
            }
        }
        let audit = match FiniteCheck::begin(self.borrowed) {
            Ok(audit) if self.complaints.count == 0 => return Ok(LoadReport { precision, audit, note }),
            Ok(_) => Vec::new(),
            Err(wrong) => wrong,
        };
        audit.into_iter().for_each(|complaint| self.complaints.add(complaint));
        Err(Error::new(format!("{place} does not fit the model's config:\n  {}", self.complaints.text()))
            .hint("check that the config and the safetensors files belong together and that the download is whole"))
    }
}

/// What went wrong, of which only the first are kept.
#[derive(Default)]
struct Complaints {
    first: Vec<String>,
    count: usize,
}

impl Complaints {
    const SHOWN: usize = 10;

    fn add(&mut self, complaint: String) {
        self.count += 1;
        if self.first.len() < Self::SHOWN {
            self.first.push(complaint);
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
        _ => data.try_to_vec::<f32>().map_err(|error| Error::new(format!("not floats: {error:?}"))),
    }
}

/// Reads all tensors of a safetensors file as `f32`, by the names they have there: for adapters and optimizer states.
pub fn read_tensors(path: &Path) -> Result<BTreeMap<String, TensorData>> {
    let (shard, tensors) = Shard::open(path)?;
    let read = |(name, stored): (String, Stored)| {
        let values = shard.read(&name, &stored, DType::F32, false, 0);
        let values = values.map_err(|problem| Error::new(format!("{}: tensor `{name}` {problem}", path.display())))?;
        Ok((name, values.data))
    };
    tensors.into_iter().map(read).collect()
}

/// What we call a tensor, whichever layout its name is of; a name of no layout stays as it is.
pub(super) fn hub_name(name: &str) -> String {
    known(name).map_or_else(|| name.to_owned(), |known| known.hub)
}

/// Derived from the name: the same tensor has the same id in every process.
fn id(name: &str) -> ParamId {
    ParamId::from(u64::from_le_bytes(first_eight(blake3::hash(name.as_bytes()).as_bytes())))
}

fn first_eight(bytes: &[u8; 32]) -> [u8; 8] {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[..8]);
    eight
}
