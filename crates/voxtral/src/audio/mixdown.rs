//! From the channels of a recording to one: the mean of those that have sound, or the one that was asked for.

use super::channel::Channel;
use super::decode::{BlockReader, Input, damaged};
use crate::error::Result;

/// Samples (of all channels) that are kept to mix them without decoding twice: 16 MB.
const KEPT: usize = 1 << 22;
/// Seconds after which levels are no longer measured: more than the longest recording that is read.
const LONGEST: f64 = 25.0 * 3600.0;
/// A channel whose power is below this share of the loudest one's is silent: 60 dB.
const SILENT: f64 = 1e-6;
/// A channel of dither only: less than two steps of 16 bits, and 30 dB below the loudest one.
const DITHER: (f64, f64) = ((2.0 / 32_768.0) * (2.0 / 32_768.0), 1e-3);
/// Channels cancel each other if their sum has less than this share of the power of the loudest one alone: 3 dB. Of independent channels,
/// the sum always has more.
const CANCELLED: f64 = 0.5;
/// Of channels within this share of the loudest power, the first one is taken: 1 dB.
const AS_LOUD: f64 = 0.79;

/// What a recording is, after it was mixed down.
#[derive(Debug)]
pub(super) struct MixedSound {
    pub(super) rate: u32,
    pub(super) channels: u16,
    pub(super) notes: Vec<String>,
}

/// How the channels become one.
#[derive(Clone, Debug, PartialEq)]
enum Mix {
    /// One channel, counting from 0.
    One(usize),
    /// The mean of all channels.
    All,
    /// The mean of some channels, counting from 0.
    Some(Vec<usize>),
}

/// Decodes a recording and hands out its mono samples with their rate, block by block. `sink` returns whether to go on.
pub(super) fn mixed(input: &Input, channel: Channel, sink: &mut dyn FnMut(u32, &[f32]) -> Result<bool>) -> Result<MixedSound> {
    let mut reader = BlockReader::open(input)?;
    let (mut block, mut mono) = (Vec::new(), Vec::new());
    let empty = || damaged(&input.name, "contains 0 samples").hint("remove this file, or record it again");
    let Some((rate, channels)) = reader.next(&mut block)? else { return Err(empty()) };
    let width = usize::from(channels);
    let mut notes = Vec::new();

    let mix = match (channel.number(), channels) {
        (Some(number), _) if number > channels => {
            let has = if channels == 1 { "1 channel".to_owned() } else { format!("{channels} channels") };
            let asked = format!("has {has}; `channel = {}` asks for channel {number}", quoted(channel));
            return Err(damaged(&input.name, asked).hint("name a channel that it has, or \"mix\""));
        }
        (Some(number), _) => Mix::One(usize::from(number) - 1),
        (None, 1) => Mix::One(0),
        (None, _) => {
            let mut levels = Levels::new(width);
            let mut kept = Vec::new();
            let mut all_kept = true;
            loop {
                levels.add(&block);
                all_kept = all_kept && kept.len() + block.len() <= KEPT;
                if all_kept {
                    kept.extend_from_slice(&block);
                } else {
                    kept = Vec::new();
                }
                // Longer than anything that is read: `sink` says so in the second pass.
                let endless = levels.frames > LONGEST * f64::from(rate);
                if endless || reader.next(&mut block)?.is_none() {
                    break;
                }
            }
            let mix = levels.decide(&mut notes);
            notes.extend(reader.notes());
            if all_kept {
                // Blocks of the size of a decoder's, so that one allocation serves all of them.
                for part in kept.chunks(width * 4096) {
                    mix.apply(part, width, &mut mono);
                    if !sink(rate, &mono)? {
                        break;
                    }
                }
                return Ok(MixedSound { rate, channels, notes });
            }
            reader = BlockReader::open(input)?;
            if reader.next(&mut block)? != Some((rate, channels)) {
                return Err(damaged(&input.name, "was changed while it was read").hint("run again when it is complete"));
            }
            mix
        }
    };
    let twice = channel.is_mix() && channels > 1;
    loop {
        let go_on = if width == 1 {
            sink(rate, &block)?
        } else {
            mix.apply(&block, width, &mut mono);
            sink(rate, &mono)?
        };
        if !go_on || reader.next(&mut block)?.is_none() {
            break;
        }
    }
    if !twice {
        notes.extend(reader.notes());
    }
    Ok(MixedSound { rate, channels, notes })
}

/// The setting as it is written in TOML.
fn quoted(channel: Channel) -> String {
    match channel {
        Channel::Number(number) => number.to_string(),
        word => format!("\"{word}\""),
    }
}

/// A channel in a sentence, counting from 0.
fn named(channel: usize, channels: usize) -> String {
    match (channel, channels) {
        (0, 2) => "the left channel".to_owned(),
        (1, 2) => "the right channel".to_owned(),
        _ => format!("channel {}", channel + 1),
    }
}

impl Mix {
    fn apply(&self, interleaved: &[f32], width: usize, mono: &mut Vec<f32>) {
        mono.clear();
        let frames = interleaved.chunks_exact(width.max(1));
        match self {
            Self::One(channel) => mono.extend(frames.filter_map(|frame| frame.get(*channel))),
            Self::All => mono.extend(frames.map(|frame| frame.iter().sum::<f32>() / width as f32)),
            Self::Some(channels) => {
                let count = channels.len().max(1) as f32;
                mono.extend(frames.map(|frame| channels.iter().filter_map(|channel| frame.get(*channel)).sum::<f32>() / count));
            }
        }
    }
}

/// Levels of the channels and of their sum.
struct Levels {
    frames: f64,
    /// Sum and sum of squares of each channel.
    channels: Vec<(f64, f64)>,
    /// Sum and sum of squares of the sum of all channels.
    sum: (f64, f64),
}

impl Levels {
    fn new(width: usize) -> Self {
        Self { frames: 0.0, channels: vec![(0.0, 0.0); width], sum: (0.0, 0.0) }
    }

    fn add(&mut self, interleaved: &[f32]) {
        for frame in interleaved.chunks_exact(self.channels.len()) {
            let mut sum = 0.0;
            for ((total, squares), sample) in self.channels.iter_mut().zip(frame) {
                let sample = f64::from(*sample);
                *total += sample;
                *squares += sample * sample;
                sum += sample;
            }
            self.sum.0 += sum;
            self.sum.1 += sum * sum;
            self.frames += 1.0;
        }
    }

    /// Decides how to mix, and says so if it is not the mean of all channels. Constant offsets are no sound.
    fn decide(&self, notes: &mut Vec<String>) -> Mix {
        let frames = self.frames.max(1.0);
        let power = |(total, squares): (f64, f64)| (squares / frames - (total / frames).powi(2)).max(0.0);
        let powers: Vec<f64> = self.channels.iter().map(|channel| power(*channel)).collect();
        let loudest = powers.iter().copied().fold(0.0, f64::max);
        if loudest == 0.0 {
            return Mix::All;
        }
        let silent = |power: f64| power <= SILENT * loudest || (power < DITHER.0 && power < DITHER.1 * loudest);
        let (quiet, with_sound): (Vec<usize>, Vec<usize>) = (0..powers.len()).partition(|channel| silent(powers[*channel]));
        if with_sound.len() > 1 && power(self.sum) < CANCELLED * loudest {
            let taken = powers.iter().position(|power| *power >= AS_LOUD * loudest).unwrap_or(0);
            notes.push(format!("the channels cancel each other (opposite phases): {} alone is used", named(taken, powers.len())));
            return Mix::One(taken);
        }
        if quiet.is_empty() {
            return Mix::All;
        }
        let names: Vec<String> = quiet.iter().map(|channel| named(*channel, powers.len())).collect();
        let are = if names.len() == 1 { "is silent and was" } else { "are silent and were" };
        notes.push(format!("{} {are} left out of the mix", names.join(", ")));
        match with_sound.as_slice() {
            [one] => Mix::One(*one),
            _ => Mix::Some(with_sound),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two seconds of a tone as speech would be, and of another one.
    fn tone(n: usize, step: f64) -> f32 {
        (0.3 * (n as f64 * step).sin()) as f32
    }

    fn decided(width: usize, frame: impl Fn(usize) -> Vec<f32>) -> (Mix, String) {
        let mut levels = Levels::new(width);
        levels.add(&(0..32_000).flat_map(&frame).collect::<Vec<f32>>());
        let mut notes = Vec::new();
        (levels.decide(&mut notes), notes.join("; "))
    }

    #[test]
    fn channels_with_sound_are_mixed_and_others_told() {
        let (one, other) = (|n| tone(n, 0.05), |n| tone(n, 0.081));
        let quiet = |mix: (Mix, String)| assert_eq!(mix, (Mix::All, String::new()));
        quiet(decided(2, |n| vec![one(n), one(n)]));
        quiet(decided(2, |n| vec![one(n), other(n)]));
        quiet(decided(2, |n| vec![one(n), 0.02 * other(n)]));
        quiet(decided(2, |_| vec![0.0, 0.0]));
        quiet(decided(2, |n| vec![one(n), 0.5 * one(n) - 0.8 * other(n)]));
        quiet(decided(3, |n| vec![one(n), other(n), tone(n, 0.13)]));
        // Opposite phases, also with other levels, offsets and a bit of noise.
        for gain in [-1.0, -0.9, -0.5, -1.8] {
            let (mix, note) = decided(2, |n| vec![one(n) + 0.2, gain * one(n) + 0.2 + 0.01 * other(n)]);
            assert_eq!(mix, Mix::One(usize::from(gain < -1.5)), "{gain}");
            assert!(note.contains("cancel each other"), "{note}");
        }
        // A silent channel, as zeros, as an offset, as dither or as what a codec leaves of it.
        for silence in [0.0, 0.1] {
            let dither = |n: usize| silence + [0.0, 1.0, -1.0, 0.0, 1.0][n % 5] / 32_768.0;
            assert_eq!(decided(2, |n| vec![one(n), silence]).0, Mix::One(0));
            let (mix, note) = decided(2, |n| vec![dither(n), one(n)]);
            assert_eq!((mix, note.as_str()), (Mix::One(1), "the left channel is silent and was left out of the mix"));
        }
        let (mix, note) = decided(4, |n| vec![one(n), 0.0, other(n), 0.0]);
        assert_eq!((mix, note.as_str()), (Mix::Some(vec![0, 2]), "channel 2, channel 4 are silent and were left out of the mix"));
    }
}
