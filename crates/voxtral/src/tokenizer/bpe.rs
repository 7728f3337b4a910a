//! Byte-pair encoding (BPE): the vocabulary of byte pieces, and the merge loop.
//!
//! All pieces are stored in one contiguous byte buffer, with a hash table of their ranks. This takes a third of the memory of a map of
//! vectors, and loads 130,000 pieces in less time than allocating such a map takes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{BuildHasher, RandomState};

/// Vocabulary: pieces by rank, and ranks by piece.
pub(super) struct Vocabulary {
    bytes: Vec<u8>,
    /// End offset of each piece in `bytes`, by rank.
    ends: Vec<usize>,
    /// Open-addressing hash table: rank + 1, or 0 for an empty slot. At least half of the slots are empty.
    table: Vec<u32>,
    /// Random hash seed, so that no file can force all its pieces into one slot.
    seed: u64,
}

impl Vocabulary {
    /// Creates an empty vocabulary with capacity for `count` pieces.
    pub(super) fn with_capacity(count: usize) -> Self {
        let table = vec![0; (2 * count).next_power_of_two().max(2)];
        Self { bytes: Vec::with_capacity(8 * count), ends: Vec::with_capacity(count), table, seed: RandomState::new().hash_one(()) }
    }

    /// Adds the piece of the next rank. `Err` is the rank of an equal piece that is already present.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), u32> {
        if 2 * self.len() >= self.table.len() {
            let mut larger = Self { table: vec![0; 2 * self.table.len()], ..Self::with_capacity(0) };
            for rank in 0..self.len() {
                larger.push(self.get(rank).unwrap_or_default())?;
            }
            *self = larger;
        }
        let place = self.place(piece);
        match self.table[place] {
            0 => {
                self.bytes.extend_from_slice(piece);
                self.ends.push(self.bytes.len());
                self.table[place] = self.ends.len() as u32;
                Ok(())
            }
            taken => Err(taken - 1),
        }
    }

    /// Number of pieces.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The piece of a rank.
    pub(super) fn get(&self, rank: usize) -> Option<&[u8]> {
        let start = rank.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied())?;
        self.bytes.get(start..*self.ends.get(rank)?)
    }

    /// The rank of a piece.
    pub(super) fn rank(&self, piece: &[u8]) -> Option<u32> {
        self.table[self.place(piece)].checked_sub(1)
    }

    /// Slot of a piece in the table, or the slot where it would be inserted.
    fn place(&self, piece: &[u8]) -> usize {
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let mix = |hash: u64, word: u64| {
            let product = u128::from(hash ^ word) * u128::from(FACTOR);
            product as u64 ^ (product >> 64) as u64
        };
        let (words, rest) = piece.as_chunks();
        let hash = words.iter().fold(mix(self.seed, piece.len() as u64), |hash, word| mix(hash, u64::from_le_bytes(*word)));
        let hash = mix(hash, rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        let mask = self.table.len() - 1;
        let mut place = hash as usize & mask;
        loop {
            match self.table[place].checked_sub(1) {
                Some(rank) if self.get(rank as usize) != Some(piece) => place = (place + 1) & mask,
                _ => return place,
            }
        }
    }

    /// Appends the ranks of a text. A text that is a piece is one rank. Otherwise it starts as single bytes, and the adjacent pair whose
    /// piece has the lowest rank (the leftmost of equals) is merged repeatedly, until no pair forms a piece. The first 256 pieces must be
    /// the bytes.
    pub(super) fn encode(&self, text: &[u8], ranks: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        if let Some(rank) = self.rank(text) {
            ranks.push(rank);
            return;
        }
        let mut parts: Vec<Part> =
            (0..text.len()).map(|at| Part { before: at.wrapping_sub(1), end: at + 1, rank: u32::from(text[at]) }).collect();
        let mut pairs = BinaryHeap::with_capacity(text.len());
        let pair = |parts: &[Part], start: usize| {
            let end = parts.get(parts[start].end)?.end;
            Some(Reverse((self.rank(&text[start..end])?, start, end)))
        };
        pairs.extend((0..text.len()).filter_map(|start| pair(&parts, start)));
        while let Some(Reverse((rank, start, end))) = pairs.pop() {
            // Stale entry: one of the two parts has been merged since.
            let middle = parts[start].end;
            if middle == MERGED || parts.get(middle).is_none_or(|part| part.end != end) {
                continue;
            }
            parts[middle].end = MERGED;
            (parts[start].end, parts[start].rank) = (end, rank);
            if let Some(after) = parts.get_mut(end) {
                after.before = start;
            }
            pairs.extend(pair(&parts, start));
            if start > 0 {
                pairs.extend(pair(&parts, parts[start].before));
            }
        }
        let mut at = 0;
        while at < text.len() {
            ranks.push(parts[at].rank);
            at = parts[at].end;
        }
    }
}

/// A part of a text, stored at the index of its first byte.
struct Part {
    /// Start of the previous part.
    before: usize,
    /// Start of the next part.
    end: usize,
    rank: u32,
}

/// Value of `end` for a byte that no longer starts a part.
const MERGED: usize = usize::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(words: &[&str]) -> Vocabulary {
        let mut pieces = Vocabulary::with_capacity(0);
        for byte in 0..=255 {
            pieces.push(&[byte]).unwrap();
        }
        words.iter().for_each(|word| pieces.push(word.as_bytes()).unwrap());
        pieces
    }

    #[test]
    fn pieces_are_found_by_rank_and_by_bytes() {
        let mut pieces = pieces(&["ab", "abcdefgh", "abcdefghi", "abcdefgh\0"]);
        assert_eq!((pieces.len(), pieces.get(257), pieces.get(260)), (260, Some("abcdefgh".as_bytes()), None));
        for rank in 0..260 {
            assert_eq!(pieces.rank(pieces.get(rank).unwrap()), Some(rank as u32));
        }
        assert_eq!((pieces.rank(b"abc"), pieces.rank(b"")), (None, None));
        assert_eq!(pieces.push(b"ab"), Err(256));
    }

    #[test]
    fn lower_ranks_go_first_and_of_one_rank_the_left() {
        let pieces = pieces(&["bc", "ab", "aa", "abcd", "aaa"]);
        let encode = |text: &str| {
            let mut ranks = Vec::new();
            pieces.encode(text.as_bytes(), &mut ranks);
            ranks
        };
        let byte = |byte: u8| u32::from(byte);
        assert!(encode("").is_empty());
        assert_eq!(encode("abcd"), [259], "a whole piece is one token, however its bytes would be merged");
        assert_eq!(encode("xabc"), [byte(b'x'), byte(b'a'), 256], "bc before ab");
        assert_eq!(encode("aaaaa"), [258, 260], "aa aa a, then aa with a");
        assert_eq!(encode(&"a".repeat(10_001)).len(), 5000);
    }
}
