//! The byte pieces of a vocabulary, and how bytes are merged into them.
//!
//! All pieces lie one after the other in one row of bytes; a hash table of their ranks finds them. That is a third of the memory of a map
//! of vectors, and 130,000 pieces are in it before such a map has been allocated.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{BuildHasher, RandomState};

/// Pieces by rank, and ranks by piece.
pub(super) struct Vocabulary {
    bytes: Vec<u8>,
    /// Where the piece of each rank ends in `bytes`.
    ends: Vec<usize>,
    /// Open addressing: a rank plus one, or 0 for an empty place. Half of the places are empty.
    table: Vec<u32>,
    /// Of the hash: a file cannot be made so that all its pieces fall into one place.
    seed: u64,
}

impl Vocabulary {
    /// Room for so many pieces.
    pub(super) fn with_capacity(count: usize) -> Self {
        let table = vec![0; (2 * count).next_power_of_two().max(2)];
        Self { bytes: Vec::with_capacity(8 * count), ends: Vec::with_capacity(count), table, seed: RandomState::new().hash_one(()) }
    }

    /// Adds the piece of the next rank; `Err` is the rank of the same piece if there is one.
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

    /// How many pieces there are.
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

    /// Where a piece is in the table, or where it would be put.
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

    /// Appends the ranks of a text: its own if it is a piece; else neighbouring parts are joined, at first bytes, always the pair whose
    /// piece has the lowest rank and of several the leftmost, until no two are a piece. The first 256 pieces have to be the bytes.
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
            // One of the two may have been joined to another part since.
            let middle = parts[start].end;
            if middle == JOINED || parts.get(middle).is_none_or(|part| part.end != end) {
                continue;
            }
            parts[middle].end = JOINED;
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

/// A part of a text, kept at the index of its first byte.
struct Part {
    /// Where the part before begins.
    before: usize,
    /// Where the next one begins.
    end: usize,
    rank: u32,
}

/// In the place of an end: this byte begins no part any more.
const JOINED: usize = usize::MAX;

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
