//! Audio files decoded ahead of the model, in their order, in groups bounded by memory.

use super::input::{Input, Source};
use crate::error::Result;
use rayon::prelude::*;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use voxtral::audio;
use voxtral::audio::SAMPLE_RATE;

/// Samples a group holds at least, unless its files end before: 20 minutes, 77 MB.
const GROUP_SAMPLES: usize = 20 * 60 * SAMPLE_RATE as usize;
/// Files of a group: enough to find clips of like length to put side by side, few enough that the first results come soon.
const GROUP_FILES: usize = 128;
/// Files decoded at the same time: each may be hours long.
const AT_ONCE: usize = 4;

/// A decoded file, or why it could not be decoded.
pub(super) struct Loaded {
    /// Which input it is.
    pub(super) index: usize,
    /// 16 kHz mono.
    pub(super) samples: Result<Vec<f32>>,
}

/// Files to be transcribed together.
pub(super) type Group = Vec<Loaded>;

/// Decodes all inputs and sends them in order; ends early when nobody listens any more.
pub(super) fn read(inputs: &[Input], sender: SyncSender<Group>) {
    let mut group = Group::new();
    let mut samples = 0;
    for (block, some) in inputs.chunks(AT_ONCE).enumerate() {
        let loaded: Vec<Loaded> = some.par_iter().enumerate().map(|(place, input)| load(block * AT_ONCE + place, input)).collect();
        for one in loaded {
            samples += one.samples.as_ref().map_or(0, Vec::len);
            group.push(one);
            if samples >= GROUP_SAMPLES || group.len() >= GROUP_FILES {
                samples = 0;
                if sender.send(std::mem::take(&mut group)).is_err() {
                    return;
                }
            }
        }
    }
    if !group.is_empty() {
        // Nobody listening means that the work was ended elsewhere.
        let _ = sender.send(group);
    }
}

fn load(index: usize, input: &Input) -> Loaded {
    let samples = match &input.source {
        Source::File => audio::load(&input.name),
        Source::Stream(bytes) => {
            let bytes = std::mem::take(&mut *bytes.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
            audio::load_stream("standard input".as_ref(), bytes)
        }
    };
    input.length.store(samples.as_ref().map_or(0, Vec::len), Ordering::Relaxed);
    Loaded { index, samples }
}
