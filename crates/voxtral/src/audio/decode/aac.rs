//! Spectral band replication (HE-AAC): the decoder knows only the core of it, which has half the bandwidth. So it has to be noticed.

/// Packets that are looked at.
pub(super) const LOOKED_AT: usize = 32;

/// Whether an AudioSpecificConfig declares spectral band replication or parametric stereo.
pub(super) fn declares_sbr(config: &[u8]) -> bool {
    let mut bits = Bits { bytes: config, at: 0 };
    let Some(object) = bits.object_type() else { return false };
    if matches!(object, 5 | 29) {
        return true;
    }
    // Behind the configuration, a compatible extension may follow its mark.
    let last = (config.len() * 8).saturating_sub(16);
    (bits.at..=last).any(|at| {
        let mut extension = Bits { bytes: config, at };
        extension.take(11) == Some(0x2b7) && extension.object_type() == Some(5) && extension.take(1) == Some(1)
    })
}

/// Whether a block of AAC ends with a fill element that holds spectral band replication: nothing else declares it in many files.
///
/// The length of the last fill element, and so its place, follows from the end of the block. By chance, one block in fifty looks so.
pub(super) fn ends_with_sbr(block: &[u8]) -> bool {
    let Some(last) = block.last().filter(|last| **last > 0) else { return false };
    // A block ends with three ones and zeros up to the byte.
    let end = block.len() * 8 - last.trailing_zeros() as usize;
    let Some(terms) = end.checked_sub(3) else { return false };
    if (Bits { bytes: block, at: terms }).take(3) != Some(7) {
        return false;
    }
    (1..270_usize).any(|count| {
        let escape = if count >= 15 { 8 } else { 0 };
        let Some(start) = terms.checked_sub(3 + 4 + escape + 8 * count) else { return false };
        let mut element = Bits { bytes: block, at: start };
        if element.take(3) != Some(6) {
            return false;
        }
        let declared = match element.take(4) {
            Some(15) => element.take(8).map(|more| 14 + more as usize),
            short => short.map(|short| short as usize),
        };
        declared == Some(count) && matches!(element.take(4), Some(13 | 14))
    })
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    fn object_type(&mut self) -> Option<u32> {
        match self.take(5)? {
            31 => Some(32 + self.take(6)?),
            object => Some(object),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_that_declare_it_are_known() {
        for (config, sbr) in [
            (&[0x12, 0x10][..], false),              // AAC-LC, 44.1 kHz
            (&[0x11, 0x88, 0x56, 0xe5, 0], false),   // AAC-LC with the mark and a zero: none
            (&[0x13, 0x90, 0x56, 0xe5, 0xa0], true), // AAC-LC with the compatible extension
            (&[0x2b, 0x11, 0x88, 0], true),          // HE-AAC
            (&[0xeb, 0x09, 0x88, 0], true),          // HE-AAC v2
            (&[], false),
        ] {
            assert_eq!(declares_sbr(config), sbr, "{config:x?}");
        }
    }

    /// A block of some bits, a fill element and the end.
    fn block(before: &[bool], payload: &[u8]) -> Vec<u8> {
        let mut bits = before.to_vec();
        let mut push = |value: u32, count: u32| bits.extend((0..count).rev().map(|bit| value >> bit & 1 > 0));
        push(6, 3);
        if payload.len() < 15 {
            push(payload.len() as u32, 4);
        } else {
            push(15, 4);
            push(payload.len() as u32 - 14, 8);
        }
        payload.iter().for_each(|byte| push(u32::from(*byte), 8));
        push(7, 3);
        bits.chunks(8).map(|byte| byte.iter().enumerate().fold(0, |sum, (n, bit)| sum | u8::from(*bit) << (7 - n))).collect()
    }

    #[test]
    fn it_is_found_at_the_end_of_a_block() {
        for length in [1, 5, 14, 15, 40, 200] {
            for shift in 0..8 {
                let before: Vec<bool> = (0..300 + shift).map(|n| n % 3 == 0).collect();
                let mut payload = vec![0x5a; length];
                payload[0] = 0xd1;
                assert!(ends_with_sbr(&block(&before, &payload)), "{length} bytes, {shift} bits");
                payload[0] = 0x11;
                assert!(!ends_with_sbr(&block(&before, &payload)), "{length} bytes, {shift} bits: another extension");
            }
        }
        assert!(!ends_with_sbr(&[]) && !ends_with_sbr(&[0]) && !ends_with_sbr(&[0xe0]));
    }
}
