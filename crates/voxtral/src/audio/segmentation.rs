//! Silence-based segmentation: cuts a recording at pauses or, where no pause is in reach, at the quietest point.
//!
//! Loudness is measured in frames of 10 ms. The silence threshold adapts to the recording: the noise level is the 10th percentile of the
//! frame levels (or a lower one, if the recording hardly pauses), the speech level is the 99th, and the threshold lies a third of the way
//! up, in dB. A recording of nearly constant loudness has no pauses, so none of it counts as silence. Only audio inside pauses between
//! segments is left out.

use super::SAMPLE_RATE;
use std::ops::Range;

/// Frame length in samples: 10 ms.
const FRAME: usize = SAMPLE_RATE as usize / 100;
/// Shortest silence that counts as a pause, in frames. Stop consonants within words ("t", "k") are shorter.
const PAUSE: usize = 30;
/// Shortest silence that always ends a segment, in frames: two sentences a second apart become two subtitles.
const LONG_PAUSE: usize = 100;
/// Silence that a segment keeps on either side, in samples: 0.2 s.
const MARGIN: usize = SAMPLE_RATE as usize / 5;
/// Lowest noise level in dBFS: quieter frames are silence in any recording.
const SILENT: f64 = -70.0;
/// Quantiles of the frame levels tried as the noise level, in order. The next one is tried if speech does not stand out: someone who reads
/// aloud pauses little.
const NOISE: [f64; 3] = [0.1, 0.03, 0.01];
/// Quantile of the frame levels that is the speech level.
const VOICE: f64 = 0.99;
/// Smallest difference between speech and noise level, in dB, at which they can be told apart.
const CONTRAST: f64 = 10.0;
/// Frames averaged in the search for the quietest point: a gap between words, not a zero crossing.
const LULL: usize = 10;

/// Splits a recording into segments of at most `longest` samples, each around audio that is loud enough to be speech.
///
/// Segments are in order and do not overlap. They keep up to 0.2 s of the adjacent pauses; the rest of a pause is left out. A segment
/// without a pause in reach ends at its quietest point. If speech does not stand out from noise, the whole recording is split by
/// [`windows`].
pub fn pieces(samples: &[f32], longest: usize) -> Vec<Range<usize>> {
    let loudness = loudness(samples);
    let voices = voices(&loudness);
    if voices.is_empty() {
        return windows(samples, longest);
    }
    let longest = longest.max(4 * MARGIN);
    let room = longest - 2 * MARGIN;
    let joined = join(&voices, room);
    let mut pieces: Vec<Range<usize>> = Vec::new();
    for (index, voice) in joined.iter().enumerate() {
        // Neighboring segments split the audio between them.
        let start = match index.checked_sub(1).and_then(|before| joined.get(before)) {
            Some(before) => (voice.start * FRAME).saturating_sub(MARGIN).max((before.end + voice.start) * FRAME / 2),
            None => (voice.start * FRAME).saturating_sub(MARGIN),
        };
        let end = match joined.get(index + 1) {
            Some(after) => (voice.end * FRAME + MARGIN).min((voice.end + after.start) * FRAME / 2),
            None => (voice.end * FRAME + MARGIN).min(samples.len()),
        };
        pieces.extend(cut(&loudness, start..end.min(samples.len()), longest));
    }
    pieces
}

/// Splits a recording into consecutive windows of at most `longest` samples without gaps. Each ends at the quietest point of its last
/// quarter, or of its last 30 s if that is shorter.
pub fn windows(samples: &[f32], longest: usize) -> Vec<Range<usize>> {
    let loudness = if samples.len() > longest { loudness(samples) } else { Vec::new() };
    let mut windows = Vec::new();
    let mut start = 0;
    while start < samples.len() {
        let limit = start + longest.max(FRAME);
        let reach = (longest / 4).min(30 * SAMPLE_RATE as usize);
        let end = if limit >= samples.len() { samples.len() } else { quietest(&loudness, limit - reach, limit) };
        windows.push(start..end);
        start = end;
    }
    windows
}

/// Level of each frame in dB, averaged with its neighbors so that a click does not raise it much.
fn loudness(samples: &[f32]) -> Vec<f64> {
    let power: Vec<f64> = samples
        .chunks(FRAME)
        .map(|frame| frame.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / frame.len() as f64)
        .collect();
    let around = |index: usize| {
        let near = power.get(index.saturating_sub(1)..(index + 2).min(power.len())).unwrap_or(&[]);
        near.iter().sum::<f64>() / near.len().max(1) as f64
    };
    (0..power.len()).map(|index| 10.0 * around(index).max(1e-12).log10()).collect()
}

/// Ranges of frames with speech, separated by pauses; empty if speech does not stand out from noise.
fn voices(loudness: &[f64]) -> Vec<Range<usize>> {
    let mut sorted = loudness.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted.get(((sorted.len() as f64 - 1.0) * share).round() as usize).copied();
    let Some(voice) = at(VOICE) else { return Vec::new() };
    let stands_out = |noise: &f64| voice - noise >= CONTRAST;
    let Some(noise) = NOISE.into_iter().filter_map(at).map(|noise| noise.max(SILENT)).find(stands_out) else { return Vec::new() };
    let border = noise + (voice - noise) / 3.0;
    let mut voices: Vec<Range<usize>> = Vec::new();
    for (index, _) in loudness.iter().enumerate().filter(|(_, loudness)| **loudness > border) {
        match voices.last_mut() {
            Some(last) if index - last.end < PAUSE => last.end = index + 1,
            _ => voices.push(index..index + 1),
        }
    }
    voices
}

/// Merges speech ranges across short pauses while the result fits into `room` samples.
fn join(voices: &[Range<usize>], room: usize) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::new();
    for voice in voices {
        match joined.last_mut() {
            Some(last) if voice.start - last.end < LONG_PAUSE && (voice.end - last.start) * FRAME <= room => last.end = voice.end,
            _ => joined.push(voice.clone()),
        }
    }
    joined
}

/// Splits a segment longer than `longest` at the quietest points in the second half of the allowed length.
fn cut(loudness: &[f64], piece: Range<usize>, longest: usize) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut start = piece.start;
    while piece.end - start > longest {
        // Avoid a tiny remainder: where two segments are enough, each gets at least a quarter.
        let limit = (start + longest).min(piece.end - longest.min(piece.end - start - longest).min(longest / 4));
        let end = quietest(loudness, start + longest / 2, limit);
        pieces.push(start..end);
        start = end;
    }
    pieces.push(start..piece.end);
    pieces
}

/// Frame boundary between samples `from` and `to` with the lowest level around it; the later one of equals.
fn quietest(loudness: &[f64], from: usize, to: usize) -> usize {
    let (first, last) = (from.div_ceil(FRAME), to / FRAME);
    let around = |frame: usize| {
        let near = loudness.get(frame.saturating_sub(LULL / 2)..(frame + LULL / 2).min(loudness.len())).unwrap_or(&[]);
        // Mean power, so that one loud frame outweighs several silent ones.
        near.iter().map(|decibels| 10f64.powf(decibels / 10.0)).sum::<f64>() / near.len().max(1) as f64
    };
    let best = (first..=last).rev().min_by(|a, b| around(*a).total_cmp(&around(*b)));
    best.map_or(to, |frame| (frame * FRAME).clamp(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: usize = SAMPLE_RATE as usize;

    /// A hum with noise on it: parts given as seconds and peak amplitude.
    fn recording(parts: &[(f64, f32)]) -> Vec<f32> {
        let mut state = 1u32;
        let mut samples = Vec::new();
        for (seconds, peak) in parts {
            for n in 0..(seconds * SECOND as f64) as usize {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let noise = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
                samples.push(peak * (0.8 * (n as f32 * 0.08).sin() + 0.2 * noise));
            }
        }
        samples
    }

    fn seconds(pieces: &[Range<usize>]) -> Vec<(f64, f64)> {
        let round = |samples: usize| (samples as f64 / SECOND as f64 * 100.0).round() / 100.0;
        pieces.iter().map(|piece| (round(piece.start), round(piece.end))).collect()
    }

    #[test]
    fn pieces_lie_around_speech_with_a_margin() {
        let samples = recording(&[(1.0, 0.001), (2.0, 0.3), (1.5, 0.001), (1.0, 0.3), (0.5, 0.001)]);
        let found = seconds(&pieces(&samples, 12 * SECOND));
        let expected = [(0.8, 3.2), (4.3, 5.7)];
        assert_eq!(found.len(), 2, "{found:?}");
        for ((start, end), (from, to)) in found.iter().zip(expected) {
            assert!((start - from).abs() < 0.03 && (end - to).abs() < 0.03, "{found:?}");
        }
    }

    #[test]
    fn short_pauses_join_and_stops_are_no_pauses() {
        let samples = recording(&[(2.0, 0.3), (0.5, 0.001), (2.0, 0.3), (0.15, 0.001), (2.0, 0.3), (0.5, 0.001), (4.0, 0.3)]);
        assert_eq!(pieces(&samples, 12 * SECOND).len(), 1);
        // The two parts of two seconds around the stop consonant stay together; the cuts are at the pauses.
        let found = seconds(&pieces(&samples, 5 * SECOND));
        assert_eq!(found.len(), 3, "{found:?}");
        assert!((found[0].1 - 2.2).abs() < 0.03 && (found[1].0 - 2.3).abs() < 0.03 && (found[1].1 - 6.85).abs() < 0.03, "{found:?}");
        // Neighbors with less silence than two margins between them split it.
        let near = recording(&[(2.0, 0.3), (0.32, 0.001), (2.0, 0.3)]);
        let found = seconds(&pieces(&near, 3 * SECOND));
        assert!(found.len() == 2 && found[0].1 == found[1].0 && (found[0].1 - 2.16).abs() < 0.02, "{found:?}");
    }

    #[test]
    fn speech_without_a_pause_is_cut_where_it_is_quietest() {
        // A dip of 0.12 s is too short for a pause, but is the quietest point.
        let samples = recording(&[(0.5, 0.001), (7.0, 0.3), (0.12, 0.03), (9.0, 0.3), (0.5, 0.001)]);
        let found = seconds(&pieces(&samples, 10 * SECOND));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!((found[0].1 - 7.56).abs() < 0.06 && found[0].1 == found[1].0, "{found:?}");
    }

    #[test]
    fn whatever_comes_pieces_are_short_in_order_and_leave_no_voice_out() {
        let cases = [
            recording(&[(40.0, 0.3)]),
            recording(&[(40.0, 0.0)]),
            recording(&[(0.004, 0.3)]),
            recording(&[(30.0, 0.0), (0.4, 0.3), (30.0, 0.0)]),
            recording(&[(3.0, 0.3), (0.4, 0.0), (25.0, 0.2), (0.1, 0.0), (3.1, 0.3), (2.0, 0.01), (9.0, 0.4)]),
        ];
        for (case, samples) in cases.iter().enumerate() {
            for longest in [SECOND, 3 * SECOND, 12 * SECOND, 100 * SECOND] {
                for (found, whole) in [(pieces(samples, longest), false), (windows(samples, longest), true)] {
                    assert!(!found.is_empty(), "{case}");
                    let mut before = 0;
                    for piece in &found {
                        assert!(piece.start >= before && piece.end > piece.start && piece.len() <= longest, "{case} {longest}: {found:?}");
                        assert!(!whole || piece.start == before, "{case}: a gap in {found:?}");
                        let left: f32 = samples[before..piece.start].iter().fold(0.0, |most, sample| most.max(sample.abs()));
                        assert!(left < 0.05, "{case} {longest}: a voice before {piece:?} is in no piece");
                        before = piece.end;
                    }
                    assert!(samples[before..].iter().all(|sample| sample.abs() < 0.05), "{case}: the end is in no piece");
                    assert!(!whole || before == samples.len());
                }
            }
        }
        assert!(pieces(&[], SECOND).is_empty() && windows(&[], SECOND).is_empty());
    }
}
