//! Decodes audio files ahead of the model, in input order, in groups bounded by memory.

use super::input::{Input, Source};
use crate::error::Result;
use rayon::prelude::*;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use voxtral::audio;
use voxtral::audio::{Channel, LoadOptions, SAMPLE_RATE};

/// A group is complete once it has this many samples: 20 minutes, 77 MB.
const GROUP_SAMPLES: usize = 20 * 60 * SAMPLE_RATE as usize;
/// Maximum files in a group: enough to batch clips of similar length, few enough for early first results.
const GROUP_FILES: usize = 128;
/// Files decoded in parallel; each may be hours long.
const PARALLEL_FILES: usize = 4;

/// A decoded file, or the error.
pub(super) struct Loaded {
    /// Index of the input.
    pub(super) index: usize,
    /// Samples at 16 kHz, mono.
    pub(super) samples: Result<Vec<f32>>,
    /// What was done beyond decoding.
    pub(super) notes: Vec<String>,
}

/// Files to be transcribed together.
pub(super) type Group = Vec<Loaded>;

/// Decodes all inputs and sends them in order. Ends early when the receiver is gone.
pub(super) fn read(inputs: &[Input], channel: Channel, sender: SyncSender<Group>) {
    let mut group = Group::new();
    let mut samples = 0;
    for (block, some) in inputs.chunks(PARALLEL_FILES).enumerate() {
        let loaded: Vec<Loaded> =
            some.par_iter().enumerate().map(|(place, input)| load(block * PARALLEL_FILES + place, input, channel)).collect();
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
        // A closed channel means that the transcription has ended.
        let _ = sender.send(group);
    }
}

fn load(index: usize, input: &Input, channel: Channel) -> Loaded {
    let options = LoadOptions { channel };
    let loaded = match &input.source {
        Source::File => audio::load_with(&input.name, &options),
        Source::Stream(bytes) => {
            let bytes = std::mem::take(&mut *bytes.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
            audio::load_bytes("standard input".as_ref(), bytes, &options)
        }
    };
    let (samples, notes) = match loaded {
        Ok(loaded) => (Ok(loaded.samples), loaded.notes),
        Err(error) => (Err(error), Vec::new()),
    };
    input.length.store(samples.as_ref().map_or(0, Vec::len), Ordering::Relaxed);
    Loaded { index, samples, notes }
}
