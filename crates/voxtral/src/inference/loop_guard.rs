//! Loop guard: recognizes a transcript that repeats itself without end, and bounds the length of all others.
//!
//! A model ends a transcript with `</s>`. A model that is badly trained, or that listens to noise, may repeat itself instead, and would hold
//! its batch until the memory is full. What counts as a loop depends on how fast somebody would have to speak:
//!
//! | tokens so far | a loop is |
//! |---|---|
//! | up to 64, plus 16 per second of audio | nothing: most languages need fewer tokens |
//! | up to 64, plus 64 per second | 64 tokens or more at the end that are one sequence, repeated 16 times |
//! | more, which no script needs for speech | 64 tokens or more at the end that are one sequence, repeated 4 times |
//! | 1024, plus 128 per second, or the model's context | everything, repeated or not |
//!
//! The second line leaves room for scripts that take two or three tokens per character (Khmer, Lao, Amharic and others) and for speakers who
//! do repeat themselves.

use crate::audio::SAMPLE_RATE;

/// Tokens that a clip of any length may have, and that a loop has at least.
const FEW: usize = 64;
/// Tokens per second of most languages, several times the rate of a fast speaker.
const USUAL_RATE: usize = 16;
/// Tokens per second that no speaker exceeds in any script: 20 characters of 3 tokens.
const HIGHEST_RATE: usize = 64;
/// Number of times a sequence is repeated before it is a loop: at a rate that a speaker may have, and above.
const REPEATS: (usize, usize) = (16, 4);

/// When to end the transcript of one clip that does not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopGuard {
    /// Up to here nothing is a loop.
    usual: usize,
    /// From here few repetitions are enough.
    highest: usize,
}

impl LoopGuard {
    /// The guard for a clip of `samples` samples.
    #[must_use]
    pub fn new(samples: usize) -> Self {
        Self { usual: usual_length(samples), highest: length(FEW, HIGHEST_RATE, samples) }
    }

    /// Whether these tokens end in a loop. To be asked after each token.
    #[must_use]
    pub fn is_loop(self, tokens: &[u32]) -> bool {
        if tokens.len() < self.usual {
            return false;
        }
        let repeats = if tokens.len() < self.highest { REPEATS.0 } else { REPEATS.1 };
        (1..=tokens.len() / repeats).any(|period| {
            let tail = &tokens[tokens.len() - (period * repeats).max(FEW).min(tokens.len())..];
            // The last token differs for most periods, so it is compared first.
            tail.len() >= FEW && tail[tail.len() - 1] == tail[tail.len() - 1 - period] && tail[period..] == tail[..tail.len() - period]
        })
    }
}

/// Number of tokens that the transcript of a clip of `samples` samples has at most in most languages: 64, plus 16 per second. It tells how
/// much memory a batch is likely to take.
#[must_use]
pub fn usual_length(samples: usize) -> usize {
    length(FEW, USUAL_RATE, samples)
}

/// Number of tokens at which the transcript of a clip is ended in any case: 1024, plus 128 per second, within the model's context of
/// `context` tokens with a prompt of `prompt` tokens.
#[must_use]
pub fn longest(samples: usize, prompt: usize, context: usize) -> usize {
    length(16 * FEW, 2 * HIGHEST_RATE, samples).min(context.saturating_sub(prompt)).max(usual_length(samples))
}

fn length(least: usize, rate: usize, samples: usize) -> usize {
    least + samples.saturating_mul(rate).div_ceil(SAMPLE_RATE as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: usize = SAMPLE_RATE as usize;

    /// The number of tokens after which a clip that repeats `unit` is ended.
    fn ended(seconds: usize, before: usize, unit: &[u32]) -> Option<usize> {
        let guard = LoopGuard::new(seconds * SECOND);
        let mut tokens: Vec<u32> = (0..before as u32).map(|id| 10_000 + id).collect();
        for id in unit.iter().cycle().take(5000) {
            tokens.push(*id);
            if guard.is_loop(&tokens) {
                return Some(tokens.len());
            }
        }
        None
    }

    #[test]
    fn a_loop_is_ended_soon() {
        let unit: Vec<u32> = (0..400).collect();
        assert_eq!(ended(1, 0, &unit[..1]), Some(80), "as soon as a clip is longer than most are");
        assert_eq!(ended(10, 30, &unit[..2]), Some(64 + 160));
        assert_eq!(ended(1, 7, &unit[..10]), Some(128), "four times are enough where nobody speaks that fast");
        assert_eq!(ended(1, 0, &unit[..100]), Some(400), "a sentence, four times");
        assert_eq!(ended(30, 0, &unit[..40]), Some(16 * 40), "sixteen times at a rate somebody may speak at");
        assert_eq!(ended(2, 0, &unit[..400]), Some(1600));
    }

    #[test]
    fn what_somebody_may_say_is_no_loop() {
        let unit: Vec<u32> = (0..150).collect();
        let guard = LoopGuard::new(14 * SECOND);
        assert!(!guard.is_loop(&unit.repeat(6)), "a sentence of a script with three tokens per character, six times in 14 s");
        assert!(!guard.is_loop(&[7; 64 + 14 * 16 - 1]), "most speakers are slower, but the text is no longer than it may be");
        let varied: Vec<u32> = (0..4000).collect();
        assert!((0..4000).all(|length| !guard.is_loop(&varied[..length])), "nothing is repeated");
        // The repetition has to go on to the end.
        let mut then_more = vec![7; 500];
        then_more.push(8);
        assert!(!guard.is_loop(&then_more));
    }

    #[test]
    fn lengths_grow_with_the_clip_and_end_with_the_context() {
        assert_eq!((usual_length(1), usual_length(30 * SECOND)), (65, 64 + 480));
        assert_eq!(longest(10 * SECOND, 400, 131_072), 1024 + 1280);
        assert_eq!(longest(1200 * SECOND, 15_000, 32_768), 64 + 16 * 1200, "no less than was always allowed");
        assert_eq!(longest(600 * SECOND, 7500, 32_768), 25_268, "prompt and transcript share the context");
        assert!(longest(usize::MAX, 0, usize::MAX) > 0);
    }
}
