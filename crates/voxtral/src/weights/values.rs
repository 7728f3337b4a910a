//! Tensor data from safetensors bytes: converted in parallel, or borrowed zero-copy from the mapped file.
//!
//! A converted tensor is read with ordinary reads into a small buffer per thread, so peak memory is the tensor itself. A tensor kept as
//! stored is a view of the memory map. Every value is checked to be finite by its exponent bits: during conversion, or later by the
//! [finite check](super::finite_check).

use super::checkpoint::{Shard, Stored};
use burn::tensor::{AllocationProperty, Bytes, DType, TensorData};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::Dtype;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Values converted per read.
const PIECE: usize = 1 << 18;

/// A loaded tensor.
pub(super) struct Values {
    pub(super) data: TensorData,
    /// The mapped file region behind it, if its values are not checked yet.
    pub(super) borrowed: Option<Borrowed>,
}

/// A tensor that is a view of a mapped file.
#[derive(Clone, Debug)]
pub(super) struct Borrowed {
    pub(super) path: PathBuf,
    pub(super) name: String,
    dtype: Dtype,
    pub(super) range: Range<usize>,
    file: Arc<File>,
}

impl Shard {
    /// Reads a tensor as `wanted` (f32 or bf16). `head` is the attention head size, for interleaved rows.
    pub(super) fn read(&self, name: &str, stored: &Stored, wanted: DType, borrow: bool, head: usize) -> Result<Values, String> {
        readable(stored.dtype)?;
        if borrow && let Some(bytes) = borrowed(self, stored, wanted) {
            let data = TensorData::from_bytes(Bytes::from_shared(bytes, AllocationProperty::File), stored.shape.clone(), wanted);
            let (path, file) = (self.path.clone(), Arc::clone(&self.file));
            let borrowed = Borrowed { path, name: name.to_owned(), dtype: stored.dtype, range: stored.range.clone(), file };
            return Ok(Values { data, borrowed: Some(borrowed) });
        }
        let count = stored.shape.iter().product();
        let bytes = match wanted {
            DType::BF16 => {
                let mut values = vec![0u16; count];
                fill(self, stored, head, &mut values, &|bytes, values| to_bf16(stored.dtype, bytes, values))?;
                Bytes::from_elems(values)
            }
            _ => {
                let mut values = vec![0f32; count];
                fill(self, stored, head, &mut values, &|bytes, values| to_f32(stored.dtype, bytes, values))?;
                Bytes::from_elems(values)
            }
        };
        Ok(Values { data: TensorData::from_bytes(bytes, stored.shape.clone(), wanted), borrowed: None })
    }
}

impl Borrowed {
    /// Checks that every value is finite, until `stop` is set. Uses ordinary reads, so that no pages are mapped. The error is a clause such
    /// as `holds NaN at element 5`.
    pub(super) fn check_finite(&self, stop: &AtomicBool) -> Result<(), String> {
        let size = width(self.dtype);
        let check = |buffer: &mut Vec<u8>, piece: usize| -> Result<Option<(usize, f32)>, String> {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let start = self.range.start + piece * PIECE * size;
            buffer.resize((self.range.end - start).min(PIECE * size), 0u8);
            self.file.read_exact_at(buffer, start as u64).map_err(|error| format!("cannot be read: {error}"))?;
            let place = first_not_finite(self.dtype, buffer);
            Ok(place.map(|place| (piece * PIECE + place, value_at(self.dtype, buffer, place))))
        };
        let pieces = self.range.len().div_ceil(PIECE * size);
        match (0..pieces).into_par_iter().map_init(Vec::new, check).try_reduce(|| None, |a, b| Ok(first(a, b)))? {
            Some((place, value)) => Err(format!("holds {value} at element {place}")),
            None => Ok(()),
        }
    }
}

/// Index of the first non-finite value in stored bytes.
fn first_not_finite(dtype: Dtype, bytes: &[u8]) -> Option<usize> {
    let odd = match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().fold(false, |odd, b| odd | not_finite_f32(u32::from_le_bytes(*b))),
        _ => bytes.as_chunks().0.iter().fold(false, |odd, b| odd | not_finite_bf16(u16::from_le_bytes(*b))),
    };
    odd.then(|| position(dtype, bytes, |value| !value.is_finite()).unwrap_or(0))
}

/// The hit with the smaller index.
fn first(a: Option<(usize, f32)>, b: Option<(usize, f32)>) -> Option<(usize, f32)> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if a.0 <= b.0 { a } else { b }),
        (a, b) => a.or(b),
    }
}

/// The value at an index of stored bytes.
fn value_at(dtype: Dtype, bytes: &[u8], place: usize) -> f32 {
    let size = width(dtype);
    bytes.get(place * size..(place + 1) * size).map_or(f32::NAN, |bytes| value(dtype, bytes))
}

fn readable(dtype: Dtype) -> Result<(), String> {
    match dtype {
        Dtype::F32 | Dtype::BF16 | Dtype::F16 => Ok(()),
        other => Err(format!("is stored as {other:?}; only F32, BF16 and F16 are supported")),
    }
}

/// Bytes per value.
fn width(dtype: Dtype) -> usize {
    if dtype == Dtype::F32 { 4 } else { 2 }
}

/// The mapped bytes, if they can be used as stored.
fn borrowed(shard: &Shard, stored: &Stored, wanted: DType) -> Option<bytes::Bytes> {
    let same = matches!((stored.dtype, wanted), (Dtype::F32, DType::F32) | (Dtype::BF16, DType::BF16));
    if !same || stored.interleaved || cfg!(target_endian = "big") || stored.range.is_empty() || stored.range.end > shard.bytes.len() {
        return None;
    }
    let bytes = shard.bytes.slice(stored.range.clone());
    bytes.as_ptr().addr().is_multiple_of(width(stored.dtype)).then_some(bytes)
}

/// Reads and converts a tensor in parallel. `convert` returns whether all values of a piece are finite.
fn fill<T: Send>(
    shard: &Shard,
    stored: &Stored,
    head: usize,
    values: &mut [T],
    convert: &(dyn Fn(&[u8], &mut [T]) -> bool + Sync),
) -> Result<(), String> {
    let size = width(stored.dtype);
    // Interleaved rows are reordered, so one piece is one row.
    let piece = match stored.shape.as_slice() {
        [rows, columns @ ..] if stored.interleaved => {
            if head < 2 || !head.is_multiple_of(2) || !rows.is_multiple_of(head) {
                return Err(format!("has {rows} rows, which do not divide into heads of {head}"));
            }
            columns.iter().product()
        }
        _ => PIECE,
    };
    let source = |piece: usize| if stored.interleaved { interleaved_row(piece, head) } else { piece };
    let convert_piece = |buffer: &mut Vec<u8>, (number, values): (usize, &mut [T])| -> Result<Option<(usize, f32)>, String> {
        let place = source(number) * piece;
        buffer.resize(values.len() * size, 0u8);
        let offset = (stored.range.start + place * size) as u64;
        shard.file.read_exact_at(buffer, offset).map_err(|error| format!("cannot be read: {error}"))?;
        if convert(buffer, values) {
            return Ok(None);
        }
        let beyond = |value: f32| !bf16::from_f32(value).is_finite();
        let within = position(stored.dtype, buffer, beyond).unwrap_or(0);
        Ok(Some((place + within, value_at(stored.dtype, buffer, within))))
    };
    let non_finite = values.par_chunks_mut(piece.max(1)).enumerate().map_init(Vec::new, convert_piece);
    match non_finite.try_reduce(|| None, |a, b| Ok(first(a, b)))? {
        Some((place, value)) if value.is_finite() => Err(format!("holds {value} at element {place}, which is too large for bf16")),
        Some((place, value)) => Err(format!("holds {value} at element {place}")),
        None => Ok(()),
    }
}

/// The stored row of row `ours`. RoPE pair i of a head is rows i and i + head / 2 here, but rows 2i and 2i + 1 in Mistral's file.
pub(super) fn interleaved_row(ours: usize, head: usize) -> usize {
    let (start, row) = (ours / head * head, ours % head);
    start + 2 * (row % (head / 2)) + row / (head / 2)
}

fn to_f32(dtype: Dtype, bytes: &[u8], values: &mut [f32]) -> bool {
    let mut odd = false;
    match dtype {
        Dtype::F32 => {
            for (bytes, value) in bytes.as_chunks().0.iter().zip(values) {
                let bits = u32::from_le_bytes(*bytes);
                odd |= not_finite_f32(bits);
                *value = f32::from_bits(bits);
            }
        }
        Dtype::BF16 => {
            for (bytes, value) in bytes.as_chunks().0.iter().zip(values) {
                let bits = u16::from_le_bytes(*bytes);
                odd |= not_finite_bf16(bits);
                *value = f32::from_bits(u32::from(bits) << 16);
            }
        }
        _ => {
            for (bytes, place) in bytes.as_chunks().0.iter().zip(values) {
                *place = f16::from_le_bytes(*bytes).to_f32();
                odd |= not_finite_f32(place.to_bits());
            }
        }
    }
    !odd
}

fn to_bf16(dtype: Dtype, bytes: &[u8], values: &mut [u16]) -> bool {
    let mut odd = false;
    match dtype {
        Dtype::F32 => {
            for (bytes, value) in bytes.as_chunks().0.iter().zip(values) {
                *value = rounded(u32::from_le_bytes(*bytes));
                odd |= not_finite_bf16(*value);
            }
        }
        Dtype::BF16 => {
            for (bytes, value) in bytes.as_chunks().0.iter().zip(values) {
                *value = u16::from_le_bytes(*bytes);
                odd |= not_finite_bf16(*value);
            }
        }
        _ => {
            for (bytes, value) in bytes.as_chunks().0.iter().zip(values) {
                *value = rounded(f16::from_le_bytes(*bytes).to_f32().to_bits());
                odd |= not_finite_bf16(*value);
            }
        }
    }
    !odd
}

/// f32 bits rounded to bf16, to nearest even. NaN becomes NaN or infinity; both are rejected.
fn rounded(bits: u32) -> u16 {
    (bits.saturating_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

fn not_finite_f32(bits: u32) -> bool {
    bits & 0x7f80_0000 == 0x7f80_0000
}

fn not_finite_bf16(bits: u16) -> bool {
    bits & 0x7f80 == 0x7f80
}

fn value(dtype: Dtype, bytes: &[u8]) -> f32 {
    match (dtype, bytes) {
        (Dtype::F32, [a, b, c, d]) => f32::from_le_bytes([*a, *b, *c, *d]),
        (Dtype::BF16, [a, b]) => bf16::from_le_bytes([*a, *b]).to_f32(),
        (_, [a, b]) => f16::from_le_bytes([*a, *b]).to_f32(),
        _ => f32::NAN,
    }
}

fn position(dtype: Dtype, bytes: &[u8], odd: impl Fn(f32) -> bool) -> Option<usize> {
    bytes.chunks_exact(width(dtype)).position(|bytes| odd(value(dtype, bytes)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An f32 tensor in its own temporary file.
    pub(crate) fn borrowed(name: &str, values: &[f32]) -> Borrowed {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        in_file(name, Dtype::F32, &bytes)
    }

    fn in_file(name: &str, dtype: Dtype, bytes: &[u8]) -> Borrowed {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &[&[0xff; 8], bytes].concat()).unwrap();
        let range = 8..8 + bytes.len();
        Borrowed { path: PathBuf::from("x.safetensors"), name: name.to_owned(), dtype, range, file: Arc::new(file) }
    }

    #[test]
    fn rounding_is_to_the_nearest_and_ties_to_even() {
        for value in [0.0f32, -0.0, 1.0, -1.0, 1.003_906_2, 1.011_718_8, 3.0e38, f32::MIN_POSITIVE, 1e-40, 0.1, -123.456] {
            assert_eq!(rounded(value.to_bits()), bf16::from_f32(value).to_bits(), "{value}");
        }
        for odd in [f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
            assert!(not_finite_bf16(rounded(odd.to_bits())), "{odd}");
        }
    }

    #[test]
    fn interleaved_rows_go_where_the_reference_puts_them() {
        // view(heads, width / 2, 2) with the last two axes swapped.
        let order: Vec<usize> = (0..8).map(|row| interleaved_row(row, 4)).collect();
        assert_eq!(order, [0, 2, 1, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn the_first_odd_value_is_found_wherever_it_is() {
        let mut values = vec![1f32; 2 * PIECE + 10];
        let check = |dtype, bytes: &[u8]| in_file("x", dtype, bytes).check_finite(&AtomicBool::new(false));
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
        assert_eq!(check(Dtype::F32, &bytes(&values)), Ok(()));
        values[2 * PIECE + 3] = f32::NAN;
        values[2 * PIECE + 4] = f32::INFINITY;
        assert_eq!(check(Dtype::F32, &bytes(&values)), Err(format!("holds NaN at element {}", 2 * PIECE + 3)));
        values[7] = f32::NEG_INFINITY;
        assert_eq!(check(Dtype::F32, &bytes(&values)), Err("holds -inf at element 7".to_owned()));
        let narrow: Vec<u8> = [1.0, f32::NAN].iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
        assert_eq!(check(Dtype::BF16, &narrow), Err("holds NaN at element 1".to_owned()));
    }
}
