//! How probable given transcripts of a clip are: the model reads each text instead of writing its own.
//!
//! The log-probability of a text is the sum of those of its tokens and of `</s>`, each after the clip, the prompt and the tokens before it.
//! It is what training maximizes. The model's own transcript need not be the most probable text, but a text of something else that was
//! said is far less probable.

use super::transcribe::Utterance;
use super::transcriber::Transcriber;
use crate::audio::Features;
use crate::error::{Error, Result};
use crate::model::TokenBatch;
use burn::tensor::{Int, Tensor, TensorData, activation};

/// Most logits computed at a time: 32 MiB of 32-bit floats, or one text if it is longer.
const LOGITS_AT_ONCE: usize = 8 << 20;

/// How probable a text is as the transcript of a clip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextScore {
    /// Log-probability (natural) of the text and its end.
    pub log_probability: f64,
    /// Number of tokens, the end included.
    pub tokens: usize,
}

impl Transcriber {
    /// Scores texts as transcripts of a clip. The clip is encoded once.
    ///
    /// # Errors
    /// If the logits or the weights are not finite, or the language is unknown.
    pub fn score_texts(&self, utterance: &Utterance, texts: &[&str]) -> Result<Vec<TextScore>> {
        let prompt = self.prompt(utterance.language, self.chunks(utterance.samples.len()))?;
        let features: Features = self.features(utterance.samples)?;
        let audio = self.embed_audio(std::slice::from_ref(&features), &mut || Ok(()))?;
        let targets: Vec<Vec<u32>> = texts
            .iter()
            .map(|text| {
                let mut ids = self.tokenizer.encode(text);
                ids.push(self.special().eos);
                ids
            })
            .collect();
        let mut scores = vec![TextScore { log_probability: 0.0, tokens: 0 }; texts.len()];
        // Texts of similar length share a batch.
        let mut order: Vec<usize> = (0..targets.len()).collect();
        order.sort_by_key(|index| targets[*index].len());
        let mut rest = order.as_slice();
        while !rest.is_empty() {
            let mut rows = 1;
            let width =
                |rows: usize| rest.get(rows - 1).map_or(0, |index| targets[*index].len()) * rows * self.config.text_config.vocab_size;
            while rows < rest.len() && width(rows + 1) <= LOGITS_AT_ONCE {
                rows += 1;
            }
            let (now, later) = rest.split_at(rows);
            let batch: Vec<&[u32]> = now.iter().map(|index| targets[*index].as_slice()).collect();
            for (index, score) in now.iter().zip(self.score_batch(&prompt, &audio, &batch)?) {
                scores[*index] = score;
            }
            rest = later;
        }
        self.loaded.audit.passed()?;
        Ok(scores)
    }

    /// Scores token sequences after the same prompt and audio.
    ///
    /// # Shapes
    /// audio `[audio tokens, text width]`
    fn score_batch(&self, prompt: &[u32], audio: &Tensor<2>, targets: &[&[u32]]) -> Result<Vec<TextScore>> {
        let (rows, longest) = (targets.len(), targets.iter().map(|target| target.len()).max().unwrap_or(0));
        let length = prompt.len() + longest;
        let mut tokens = TokenBatch { ids: Vec::with_capacity(rows * length), rows, length };
        let (mut positions, mut labels) = (Vec::new(), Vec::new());
        for (row, target) in targets.iter().enumerate() {
            // Padding on the right is never seen by what comes before it.
            let padding = std::iter::repeat_n(self.special().pad, longest - target.len());
            tokens.ids.extend(prompt.iter().chain(*target).copied().chain(padding));
            for (place, id) in target.iter().enumerate() {
                positions.push((row * length + prompt.len() + place - 1) as i64);
                labels.push(i64::from(*id));
            }
        }
        let embedded = self.model.embed(&tokens, Some(audio.clone().repeat_dim(0, rows)))?;
        let hidden = self.model.language_model.model.forward(embedded);
        let [_, _, width] = hidden.dims();
        let device = hidden.device();
        let number = positions.len();
        let int = |values: Vec<i64>| Tensor::<1, Int>::from_data(TensorData::new(values, [number]), &device);
        let hidden = hidden.reshape([rows * length, width]).select(0, int(positions));
        let logits = self.model.language_model.lm_head.forward(hidden);
        let chosen = activation::log_softmax(logits, 1).gather(1, int(labels).reshape([number, 1]));
        let chosen = chosen.into_data().convert::<f32>().try_to_vec::<f32>();
        let chosen = chosen.map_err(|error| Error::new(format!("cannot read the logits: {error:?}")))?;
        let mut chosen = chosen.into_iter();
        targets
            .iter()
            .map(|target| {
                let log_probability: f64 = chosen.by_ref().take(target.len()).map(f64::from).sum();
                if log_probability.is_finite() {
                    return Ok(TextScore { log_probability, tokens: target.len() });
                }
                Err(Error::new("the logits are not finite").hint("the weights do not fit the config, or the training diverged"))
            })
            .collect()
    }
}
