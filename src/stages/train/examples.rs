//! Builds training examples (prompt, target tokens, audio features) from the clips of a dataset.

use super::augment::Augment;
use crate::data::clip_row::ClipRow;
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use voxtral::audio::read_wav16k;
use voxtral::inference::encoder_cache::FeatureCache;
use voxtral::inference::transcriber::Transcriber;
use voxtral::training::collate::{Example, ExampleAudio, LoadAudio};

/// Mel features of a dataset up to this size (2 GiB) stay in memory; larger ones are computed for each batch.
const FEATURES_IN_MEMORY: u64 = 2 << 30;

/// A clip and the tokens of its transcript.
pub(super) type Tokenized = (ClipRow, Vec<u32>);

/// Upper bound of the number of audio chunks in the clips.
pub(super) fn chunks(recognizer: &Transcriber, folder: &Path, records: &[Tokenized]) -> usize {
    // Estimated from the file size (2 bytes per sample, plus a header), so that no clip is read twice.
    let bytes = |record: &ClipRow| fs::metadata(folder.join(&record.audio_path)).map_or(0, |file| file.len());
    records.iter().map(|(record, _)| recognizer.chunks(usize::try_from(bytes(record) / 2).unwrap_or(usize::MAX))).sum()
}

/// Builds one example per record. With a feature cache (`memory`), examples load the output of the frozen audio encoder on demand.
/// Otherwise they hold log-mel features, computed now if all of them fit into [`FEATURES_IN_MEMORY`], else on demand.
pub(super) fn examples(
    recognizer: &Transcriber,
    folder: &Path,
    records: &[Tokenized],
    memory: Option<&FeatureCache>,
) -> Result<Vec<Example>> {
    let audio = &recognizer.config.audio_config;
    let (frames, mel) = (audio.chunk_frames(), Arc::new(recognizer.mel.clone()));
    let encoder = memory.map(|memory| Arc::new(recognizer.encoder(memory)));
    let size = chunks(recognizer, folder, records) * frames * audio.num_mel_bins * size_of::<f32>();
    let fits = size as u64 <= FEATURES_IN_MEMORY;
    let example = |(record, text): &Tokenized| {
        let path = folder.join(&record.audio_path);
        let samples = read_wav16k(&path)?;
        let chunks = recognizer.chunks(samples.len());
        let mut ids = recognizer.prompt(record.language.as_deref(), chunks).map_err(|error| error.context(&record.audio_path))?;
        let prompt = ids.len();
        ids.extend(text);
        ids.push(recognizer.special().eos);
        let sound: LoadAudio = if let Some(encoder) = encoder.clone() {
            Arc::new(move || Ok(ExampleAudio::Rows(encoder.encode(&read_wav16k(&path)?)?)))
        } else if fits {
            let ready = Arc::new(mel.features(&samples, frames)?);
            Arc::new(move || Ok(ExampleAudio::Features(ready.clone())))
        } else {
            let mel = mel.clone();
            Arc::new(move || Ok(ExampleAudio::Features(Arc::new(mel.features(&read_wav16k(&path)?, frames)?))))
        };
        Ok(Example { name: record.audio_path.clone(), sound, chunks, ids, prompt, anew: None })
    };
    records.par_iter().map(example).collect()
}

/// Adds augmentation to examples: the changes to a clip depend only on the seed, the epoch and the clip's name. A slowed-down clip may
/// fill more chunks and then has a longer prompt.
pub(super) fn augmented(
    recognizer: &Transcriber,
    folder: &Path,
    records: &[Tokenized],
    examples: Vec<Example>,
    augment: &Augment,
    seed: u64,
) -> Result<Vec<Example>> {
    let (mel, augmentation) = (Arc::new(recognizer.mel.clone()), Arc::new(augment.augmentation()));
    let frames = recognizer.config.audio_config.chunk_frames();
    let capacity = recognizer.capacity();
    let of = |(mut example, (record, _)): (Example, &Tokenized)| {
        let path = folder.join(&record.audio_path);
        let samples = read_wav16k(&path)?.len();
        let most = recognizer.chunks((samples as f64 * augment.longest()).ceil() as usize + 1);
        let prompts = (1..=most).map(|chunks| recognizer.prompt(record.language.as_deref(), chunks)).collect::<Result<Vec<_>>>();
        let prompts = prompts.map_err(|error| error.context(&record.audio_path))?;
        let (plain, tail) = (example.clone(), example.ids[example.prompt..].to_vec());
        let (mel, augmentation) = (Arc::clone(&mel), Arc::clone(&augmentation));
        example.anew = Some(Arc::new(move |epoch| {
            let Some(drawn) = augmentation.draw(seed, &plain.name, epoch) else { return Ok(plain.clone()) };
            let length = drawn.length(samples);
            let chunks = length.div_ceil(capacity);
            let Some(prompt) = prompts.get(chunks.saturating_sub(1)) else {
                return Err(Error::new(format!("the augmented clip fills {chunks} chunks, more than the maximum of {most}")));
            };
            let (path, mel, augmentation) = (path.clone(), Arc::clone(&mel), Arc::clone(&augmentation));
            let sound: LoadAudio = Arc::new(move || {
                let mut features = mel.features(&drawn.apply(read_wav16k(&path)?)?, frames)?;
                augmentation.mask(&drawn, &mut features, length);
                Ok(ExampleAudio::Features(Arc::new(features)))
            });
            let ids = [prompt.as_slice(), &tail].concat();
            Ok(Example { name: plain.name.clone(), sound, chunks, ids, prompt: prompt.len(), anew: None })
        }));
        Ok(example)
    };
    examples.into_par_iter().zip(records).map(of).collect()
}
