//! Safetensors writer: streams one tensor at a time, so at most one tensor is in memory twice.
//!
//! A file is written under a temporary name and renamed, so a model can be saved over the file it is mapped from. Output is deterministic
//! and has the layout of the safetensors library: wider dtypes first, then by name. A large model is split into shards with an index,
//! as in transformers.

use super::checkpoint::{INDEX, SINGLE};
use crate::error::{Error, Result, ResultExt};
use crate::weights::visitor::{NamedVisitor, visit_named};
use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor, TensorData};
use half::{bf16, f16};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;
use voxpipe_io::write::{Durability, write_atomic_with};

/// Default maximum shard size in bytes, as in transformers.
pub const MAX_SHARD: u64 = 5_000_000_000;

/// A tensor to be written: its shape and dtype, and a closure that produces its values when needed.
pub struct PendingTensor<'a> {
    shape: Vec<usize>,
    dtype: Dtype,
    values: Box<dyn FnOnce() -> Result<TensorData> + 'a>,
}

impl<'a> PendingTensor<'a> {
    /// A tensor to be stored as `dtype` (F32, BF16 or F16); its values are converted if necessary.
    pub fn new(shape: &[usize], dtype: Dtype, values: impl FnOnce() -> Result<TensorData> + 'a) -> Self {
        Self { shape: shape.to_vec(), dtype, values: Box::new(values) }
    }

    fn size(&self) -> u64 {
        let width = if self.dtype == Dtype::F32 { 4 } else { 2 };
        self.shape.iter().product::<usize>() as u64 * width
    }
}

/// Saves a model to `model.safetensors`, or to shards of up to `max_shard` bytes with an index. Tensors keep their Hub names and dtypes.
pub fn save<M: Module>(model: &M, folder: &Path, max_shard: u64) -> Result<()> {
    struct Collect(Vec<(String, PendingTensor<'static>)>);
    impl NamedVisitor for Collect {
        fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
            let tensor = param.val().inner();
            let dtype = if tensor.dtype() == DType::BF16 { Dtype::BF16 } else { Dtype::F32 };
            let shape = tensor.dims();
            self.0.push((name.to_owned(), PendingTensor::new(&shape, dtype, move || Ok(tensor.into_data()))));
        }
    }
    let mut collect = Collect(Vec::new());
    visit_named(model, &mut collect);
    write_outgoing(collect.0, folder, max_shard)
}

/// Names and shapes of a model's tensors, in module order.
pub fn shapes<M: Module>(model: &M) -> Vec<(String, Vec<usize>)> {
    struct Collect(Vec<(String, Vec<usize>)>);
    impl NamedVisitor for Collect {
        fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
            self.0.push((name.to_owned(), param.shape().to_vec()));
        }
    }
    let mut collect = Collect(Vec::new());
    visit_named(model, &mut collect);
    collect.0
}

/// The tensors of a model whose names `wanted` accepts, by name.
pub fn tensors<M: Module>(model: &M, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, TensorData> {
    struct Collect<F> {
        wanted: F,
        found: BTreeMap<String, TensorData>,
    }
    impl<F: Fn(&str) -> bool> NamedVisitor for Collect<F> {
        fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
            if (self.wanted)(name) {
                self.found.insert(name.to_owned(), param.val().inner().into_data());
            }
        }
    }
    let mut collect = Collect { wanted, found: BTreeMap::new() };
    visit_named(model, &mut collect);
    collect.found
}

/// Writes tensors to a model folder, in one file or in shards of up to `max_shard` bytes. Consecutive tensors share a shard.
pub fn write_outgoing(tensors: Vec<(String, PendingTensor)>, folder: &Path, max_shard: u64) -> Result<()> {
    let (mut shards, mut filled, mut total) = (vec![Vec::new()], 0, 0);
    for (name, tensor) in tensors {
        let size = tensor.size();
        if filled > 0 && filled + size > max_shard {
            shards.push(Vec::new());
            filled = 0;
        }
        (filled, total) = (filled + size, total + size);
        if let Some(shard) = shards.last_mut() {
            shard.push((name, tensor));
        }
    }
    if shards.len() == 1 {
        return shards.into_iter().try_for_each(|shard| write(&folder.join(SINGLE), shard));
    }
    let count = shards.len();
    let mut map = BTreeMap::new();
    for (number, shard) in (1..).zip(shards) {
        let file = format!("model-{number:05}-of-{count:05}.safetensors");
        map.extend(shard.iter().map(|(name, _)| (name.clone(), file.clone())));
        write(&folder.join(file), shard)?;
    }
    let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
    let path = folder.join(INDEX);
    fs::write(&path, format!("{}\n", serde_json::to_string_pretty(&index)?)).with_context(|| format!("cannot write `{}`", path.display()))
}

/// Writes tensors to one safetensors file; dtypes are kept.
pub fn write_tensors(path: &Path, tensors: &BTreeMap<String, TensorData>) -> Result<()> {
    let mut lines = Vec::new();
    for (name, data) in tensors {
        let dtype = match data.dtype() {
            DType::F32 => Dtype::F32,
            DType::BF16 => Dtype::BF16,
            DType::F16 => Dtype::F16,
            other => return Err(Error::new(format!("tensor `{name}` is {other:?}; only F32, BF16 and F16 are supported"))),
        };
        lines.push((name.as_str(), dtype, data.shape().to_vec()));
    }
    stream(path, lines, &mut |name, _| Ok(Cow::Borrowed(tensors.get(name).map_or(&[], |data| data.as_bytes()))))
}

fn write(path: &Path, tensors: Vec<(String, PendingTensor)>) -> Result<()> {
    let names: Vec<(String, Dtype, Vec<usize>)> = tensors.iter().map(|(name, t)| (name.clone(), t.dtype, t.shape.clone())).collect();
    let header = names.iter().map(|(name, dtype, shape)| (name.as_str(), *dtype, shape.clone())).collect();
    let mut values: BTreeMap<String, PendingTensor> = tensors.into_iter().collect();
    stream(path, header, &mut |name, dtype| {
        let tensor = values.remove(name).ok_or_else(|| Error::new(format!("tensor `{name}` is listed twice")))?;
        let data = (tensor.values)()?;
        if data.shape().to_vec() != tensor.shape {
            return Err(Error::new(format!("tensor `{name}` has shape {:?}, expected {:?}", data.shape().to_vec(), tensor.shape)));
        }
        Ok(Cow::Owned(bytes(data, dtype)?))
    })
}

/// Header entry of a tensor: name, dtype, shape.
type Line<'a> = (&'a str, Dtype, Vec<usize>);

/// Returns the bytes of a tensor in a dtype.
type Values<'a, 'v> = dyn FnMut(&str, Dtype) -> Result<Cow<'v, [u8]>> + 'a;

/// Writes the header, then the bytes of each tensor as returned by `values`.
fn stream<'v>(path: &Path, mut lines: Vec<Line>, values: &mut Values<'_, 'v>) -> Result<()> {
    lines.sort_by(|(a, a_type, _), (b, b_type, _)| b_type.cmp(a_type).then_with(|| a.cmp(b)));
    let mut header = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    let mut end = 0;
    for (name, dtype, shape) in &lines {
        let start = end;
        end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let shape = Value::from(shape.clone());
        header += &format!(r#",{}:{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#, Value::from(*name));
    }
    header.push('}');
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let writing = || format!("cannot write `{}`", path.display());
    write_atomic_with(path, Durability::ProcessEnd, |draft| {
        let mut file = BufWriter::with_capacity(1 << 20, draft);
        file.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| file.write_all(header.as_bytes())).with_context(writing)?;
        for (name, dtype, shape) in &lines {
            let bytes = values(name, *dtype).map_err(|error| error.context(path.display()))?;
            let size = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            if bytes.len() != size {
                return Err(Error::new(format!("{}: tensor `{name}` has {} bytes, expected {size}", path.display(), bytes.len())));
            }
            file.write_all(&bytes).with_context(writing)?;
        }
        file.flush().with_context(writing)
    })
}

/// The bytes of a tensor converted to a dtype.
fn bytes(data: TensorData, dtype: Dtype) -> Result<Vec<u8>> {
    match (data.dtype(), dtype) {
        (DType::F32, Dtype::F32) | (DType::BF16, Dtype::BF16) | (DType::F16, Dtype::F16) => Ok(data.as_bytes().to_vec()),
        (_, Dtype::F32 | Dtype::BF16 | Dtype::F16) => {
            let values = super::floats(&data)?;
            Ok(match dtype {
                Dtype::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
                Dtype::BF16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
            })
        }
        (_, other) => Err(Error::new(format!("dtype {other:?} is not supported; use F32, BF16 or F16"))),
    }
}
