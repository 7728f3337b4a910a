//! Pieces of a long recording between pauses, cut while it streams.

use crate::error::Result;
use std::ops::Range;
use std::path::Path;
use voxtral::audio::{self, Channel, LoadInfo, LoadOptions, SAMPLE_RATE, segmentation};

/// Takes a piece: its place in samples, and the samples.
type EachPiece<'a> = dyn FnMut(Range<usize>, &[f32]) -> Result<()> + 'a;

/// Samples that are looked at together: ten minutes, 38 MB. Pauses are found by levels, which need some minutes to be told apart.
const TOGETHER: usize = 600 * SAMPLE_RATE as usize;

/// Passes the pieces of a recording to `each`, in order, with their place in samples. A piece has at most `longest` samples, and lies
/// around speech; silence is in none of them.
pub(super) fn between_pauses(path: &Path, channel: Channel, longest: usize, each: &mut EachPiece) -> Result<LoadInfo> {
    let (mut held, mut from): (Vec<f32>, usize) = (Vec::new(), 0);
    let mut failed = None;
    let info = audio::load_blocks(path, &LoadOptions { channel }, &mut |block| {
        held.extend_from_slice(block);
        if held.len() >= TOGETHER {
            match pass(&held, from, longest, false, each) {
                Ok(used) => {
                    held.drain(..used);
                    from += used;
                }
                Err(error) => failed = Some(error),
            }
        }
        Ok(failed.is_none())
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let info = info?;
    pass(&held, from, longest, true, each)?;
    Ok(info)
}

/// Passes on the pieces of some samples that begin at `from`. Returns how many samples are done: unless it is the end of the recording, the
/// last piece may go on and is left.
fn pass(samples: &[f32], from: usize, longest: usize, is_end: bool, each: &mut EachPiece) -> Result<usize> {
    let mut pieces = segmentation::pieces(samples, longest);
    let left = if is_end || pieces.len() < 2 { None } else { pieces.pop() };
    for piece in pieces {
        each(from + piece.start..from + piece.end, samples.get(piece.clone()).unwrap_or_default())?;
    }
    Ok(left.map_or(samples.len(), |piece| piece.start))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bursts of a hum of 1 to 3 s with pauses of 0.5 s, for `seconds`.
    fn talk(seconds: usize) -> Vec<f32> {
        let mut samples = Vec::new();
        let mut turn = 0;
        while samples.len() < seconds * SAMPLE_RATE as usize {
            let length = (1 + turn % 3) * SAMPLE_RATE as usize;
            samples.extend((0..length).map(|n| 0.3 * (n as f32 * 0.08).sin()));
            samples.extend(std::iter::repeat_n(0.0, SAMPLE_RATE as usize / 2));
            turn += 1;
        }
        samples
    }

    #[test]
    fn a_stream_gives_all_speech_once_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.wav");
        let samples = talk(25 * 60);
        audio::write_wav16k(&path, &samples).unwrap();
        let samples = audio::read_wav16k(&path).unwrap();
        let (mut end, mut spoken) = (0, 0);
        between_pauses(&path, Channel::Mix, 4 * SAMPLE_RATE as usize, &mut |place, piece| {
            assert!(place.start >= end && place.len() == piece.len() && place.len() <= 4 * SAMPLE_RATE as usize, "{place:?} after {end}");
            if let Some(lost) = samples.get(end..place.start).and_then(|gap| gap.iter().position(|sample| sample.abs() > 0.01)) {
                panic!("sample {} is in no piece: {place:?} follows {end}", end + lost);
            }
            end = place.end;
            spoken += piece.iter().filter(|sample| sample.abs() > 0.01).count();
            Ok(())
        })
        .unwrap();
        assert_eq!(spoken, samples.iter().filter(|sample| sample.abs() > 0.01).count());
    }
}
