//! From the bytes of a file to the values of a tensor: converted piece by piece on all cores, or borrowed from the mapped file.
//!
//! What is converted is read with plain reads into a small buffer of each thread, so the file's pages never count as ours and the peak is
//! the tensor itself. What is kept as it is stored costs nothing until it is used: the tensor is a view of the map. Every value is
//! checked to be finite, by its exponent's bits: while it is converted, or afterwards by the [audit](super::finite_check).

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

/// Values converted at a time.
const PIECE: usize = 1 << 18;

/// A tensor that was read.
pub(super) struct Values {
    pub(super) data: TensorData,
    /// What is behind it, if that is the file itself and nobody looked at it yet.
    pub(super) borrowed: Option<Borrowed>,
}

/// A tensor that is a view of a file.
#[derive(Clone, Debug)]
pub(super) struct Borrowed {
    pub(super) path: PathBuf,
    pub(super) name: String,
    dtype: Dtype,
    pub(super) range: Range<usize>,
    file: Arc<File>,
}

impl Shard {
    /// Reads a tensor as `wanted`, 32-bit or brain floats. `head` is the width of an attention head, for interleaved rows.
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
                fill(self, stored, head, &mut values, &|bytes, values| to_brain(stored.dtype, bytes, values))?;
                Bytes::from_elems(values)
            }
            _ => {
                let mut values = vec![0f32; count];
                fill(self, stored, head, &mut values, &|bytes, values| to_floats(stored.dtype, bytes, values))?;
                Bytes::from_elems(values)
            }
        };
        Ok(Values { data: TensorData::from_bytes(bytes, stored.shape.clone(), wanted), borrowed: None })
    }
}

impl Borrowed {
    /// Looks at every value until `stop`: what is wrong is one clause. Plain reads, so the map gains no pages by it.
    pub(super) fn look(&self, stop: &AtomicBool) -> Result<(), String> {
        let size = width(self.dtype);
        let look = |buffer: &mut Vec<u8>, piece: usize| -> Result<Option<(usize, f32)>, String> {
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
        match (0..pieces).into_par_iter().map_init(Vec::new, look).try_reduce(|| None, |a, b| Ok(first(a, b)))? {
            Some((place, value)) => Err(format!("holds {value} at element {place}")),
            None => Ok(()),
        }
    }
}

/// The first value that is not finite, of bytes as a file holds them.
fn first_not_finite(dtype: Dtype, bytes: &[u8]) -> Option<usize> {
    let odd = match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().fold(false, |odd, b| odd | not_finite_f32(u32::from_le_bytes(*b))),
        _ => bytes.as_chunks().0.iter().fold(false, |odd, b| odd | not_finite_brain(u16::from_le_bytes(*b))),
    };
    odd.then(|| position(dtype, bytes, |value| !value.is_finite()).unwrap_or(0))
}

/// The one that comes first.
fn first(a: Option<(usize, f32)>, b: Option<(usize, f32)>) -> Option<(usize, f32)> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if a.0 <= b.0 { a } else { b }),
        (a, b) => a.or(b),
    }
}

/// What stands at a place of the bytes of a file.
fn value_at(dtype: Dtype, bytes: &[u8], place: usize) -> f32 {
    let size = width(dtype);
    bytes.get(place * size..(place + 1) * size).map_or(f32::NAN, |bytes| value(dtype, bytes))
}

fn readable(dtype: Dtype) -> Result<(), String> {
    match dtype {
        Dtype::F32 | Dtype::BF16 | Dtype::F16 => Ok(()),
        other => Err(format!("is stored as {other:?}; F32, BF16 and F16 are read")),
    }
}

/// Bytes of a value.
fn width(dtype: Dtype) -> usize {
    if dtype == Dtype::F32 { 4 } else { 2 }
}

/// The file's own bytes, where they already are what is wanted.
fn borrowed(shard: &Shard, stored: &Stored, wanted: DType) -> Option<bytes::Bytes> {
    let same = matches!((stored.dtype, wanted), (Dtype::F32, DType::F32) | (Dtype::BF16, DType::BF16));
    if !same || stored.interleaved || cfg!(target_endian = "big") || stored.range.is_empty() || stored.range.end > shard.bytes.len() {
        return None;
    }
    let bytes = shard.bytes.slice(stored.range.clone());
    bytes.as_ptr().addr().is_multiple_of(width(stored.dtype)).then_some(bytes)
}

/// Fills a tensor piece by piece; `convert` says whether all values of a piece are finite.
fn fill<T: Send>(
    shard: &Shard,
    stored: &Stored,
    head: usize,
    values: &mut [T],
    convert: &(dyn Fn(&[u8], &mut [T]) -> bool + Sync),
) -> Result<(), String> {
    let size = width(stored.dtype);
    // Interleaved rows change places, so a piece is a row.
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
    let look = |buffer: &mut Vec<u8>, (number, values): (usize, &mut [T])| -> Result<Option<(usize, f32)>, String> {
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
    let odd = values.par_chunks_mut(piece.max(1)).enumerate().map_init(Vec::new, look);
    match odd.try_reduce(|| None, |a, b| Ok(first(a, b)))? {
        Some((place, value)) if value.is_finite() => Err(format!("holds {value} at element {place}, which is too large for bf16")),
        Some((place, value)) => Err(format!("holds {value} at element {place}")),
        None => Ok(()),
    }
}

/// The row of a file in which row `ours` is stored: pair i of a head is rows i and i + head / 2 here, rows 2i and 2i + 1 there.
pub(super) fn interleaved_row(ours: usize, head: usize) -> usize {
    let (start, row) = (ours / head * head, ours % head);
    start + 2 * (row % (head / 2)) + row / (head / 2)
}

fn to_floats(dtype: Dtype, bytes: &[u8], values: &mut [f32]) -> bool {
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
                odd |= not_finite_brain(bits);
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

fn to_brain(dtype: Dtype, bytes: &[u8], values: &mut [u16]) -> bool {
    let mut odd = false;
    match dtype {
        Dtype::F32 => {
            for (bytes, value) in bytes.as_chunks().0.iter().zip(values) {
                *value = rounded(u32::from_le_bytes(*bytes));
                odd |= not_finite_brain(*value);
            }
        }
        Dtype::BF16 => {
            for (bytes, value) in bytes.as_chunks().0.iter().zip(values) {
                *value = u16::from_le_bytes(*bytes);
                odd |= not_finite_brain(*value);
            }
        }
        _ => {
            for (bytes, value) in bytes.as_chunks().0.iter().zip(values) {
                *value = rounded(f16::from_le_bytes(*bytes).to_f32().to_bits());
                odd |= not_finite_brain(*value);
            }
        }
    }
    !odd
}

/// The nearest brain float, ties to even. A NaN stays one or becomes infinite: either is refused.
fn rounded(bits: u32) -> u16 {
    (bits.saturating_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

fn not_finite_f32(bits: u32) -> bool {
    bits & 0x7f80_0000 == 0x7f80_0000
}

fn not_finite_brain(bits: u16) -> bool {
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

    /// A tensor of 32-bit floats in a file of its own.
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
            assert!(not_finite_brain(rounded(odd.to_bits())), "{odd}");
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
        let look = |dtype, bytes: &[u8]| in_file("x", dtype, bytes).look(&AtomicBool::new(false));
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
        assert_eq!(look(Dtype::F32, &bytes(&values)), Ok(()));
        values[2 * PIECE + 3] = f32::NAN;
        values[2 * PIECE + 4] = f32::INFINITY;
        assert_eq!(look(Dtype::F32, &bytes(&values)), Err(format!("holds NaN at element {}", 2 * PIECE + 3)));
        values[7] = f32::NEG_INFINITY;
        assert_eq!(look(Dtype::F32, &bytes(&values)), Err("holds -inf at element 7".to_owned()));
        let brain: Vec<u8> = [1.0, f32::NAN].iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
        assert_eq!(look(Dtype::BF16, &brain), Err("holds NaN at element 1".to_owned()));
    }
}
