//! Which frames of a track are heard: an edit list, and delay and padding of an encoder.

use std::ops::Range;

/// Keeps some ranges of the frames of a track, which come packet by packet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Trim {
    /// In order, without overlap.
    ranges: Vec<Range<u64>>,
    /// Whether the packet in which a range ends is kept to its end, as players do with compressed audio: the end of a range is rounded, in
    /// milliseconds or worse.
    whole_packets: bool,
    next: usize,
    at: u64,
}

impl Trim {
    pub(super) fn new(ranges: Vec<Range<u64>>, whole_packets: bool) -> Self {
        Self { ranges, whole_packets, next: 0, at: 0 }
    }

    /// Removes what is not kept from the interleaved samples of the next packet.
    pub(super) fn apply(&mut self, interleaved: &mut Vec<f32>, width: usize) {
        let frames = (interleaved.len() / width.max(1)) as u64;
        let (begin, end) = (self.at, self.at + frames);
        self.at = end;
        let mut kept = 0;
        while let Some(range) = self.ranges.get(self.next) {
            let from = range.start.max(begin);
            let to = if self.whole_packets && range.end > begin { end } else { range.end.min(end) };
            if from < to {
                let (first, last) = ((from - begin) as usize * width, (to - begin) as usize * width);
                interleaved.copy_within(first..last, kept);
                kept += last - first;
            }
            if range.end > end {
                break;
            }
            self.next += 1;
            if self.whole_packets && from < to {
                break;
            }
        }
        interleaved.truncate(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(ranges: &[(u64, u64)], whole_packets: bool, packet: usize) -> Vec<u32> {
        let mut trim = Trim::new(ranges.iter().map(|(start, end)| *start..*end).collect(), whole_packets);
        let mut found = Vec::new();
        for first in (0..40).step_by(packet) {
            let mut block: Vec<f32> = (first..(first + packet).min(40)).flat_map(|n| [n as f32, n as f32]).collect();
            trim.apply(&mut block, 2);
            found.extend(block.chunks(2).map(|frame| frame[0] as u32));
        }
        found
    }

    #[test]
    fn ranges_are_kept_whatever_the_packets() {
        for packet in [1, 3, 7, 10, 40] {
            assert_eq!(kept(&[(5, 9)], false, packet), (5..9).collect::<Vec<_>>());
            assert_eq!(kept(&[(0, 2), (4, 6), (30, 100)], false, packet), (0..2).chain(4..6).chain(30..40).collect::<Vec<_>>());
            assert_eq!(kept(&[(50, 60)], false, packet), Vec::<u32>::new());
            assert_eq!(kept(&[(12, u64::MAX)], true, packet), (12..40).collect::<Vec<_>>());
        }
        assert_eq!(kept(&[(12, 25)], true, 10), (12..30).collect::<Vec<_>>());
        assert_eq!(kept(&[(12, 20)], true, 10), (12..20).collect::<Vec<_>>());
    }
}
