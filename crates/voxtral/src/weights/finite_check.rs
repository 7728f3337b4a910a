//! Looks at what was borrowed from mapped files: whether every value is finite.
//!
//! A borrowed tensor is not read when it is loaded, so that loading takes no time; but a damaged file must not become a result. A little
//! is looked at on the spot. More is looked at by a thread of its own, which also brings the file into memory before it is needed, and
//! nothing leaves a [recogniser](crate::inference::transcriber::Recognizer), and no training begins, before that thread is done.

use super::values::Borrowed;
use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Up to so many bytes are looked at on the spot.
const LITTLE: usize = 64 << 20;

/// The outcome of looking at everything that was borrowed, when it is there. Whoever drops it unasked ends the looking.
#[derive(Debug)]
pub struct FiniteCheck {
    state: Mutex<State>,
    stop: Arc<AtomicBool>,
}

#[derive(Debug)]
enum State {
    Looking(Option<JoinHandle<Vec<String>>>),
    Done(Result<()>),
}

impl FiniteCheck {
    /// Begins to look; what little there is has been looked at when this returns, and what is wrong with it is the error.
    pub(super) fn begin(borrowed: Vec<Borrowed>) -> Result<Self, Vec<String>> {
        Self::begin_above(LITTLE, borrowed)
    }

    fn begin_above(little: usize, borrowed: Vec<Borrowed>) -> Result<Self, Vec<String>> {
        let bytes: usize = borrowed.iter().map(|tensor| tensor.range.len()).sum();
        let stop = Arc::new(AtomicBool::new(false));
        if bytes > little {
            let (shared, stopped) = (borrowed.clone(), Arc::clone(&stop));
            if let Ok(thread) = thread::Builder::new().name("audit".to_owned()).spawn(move || complaints(&shared, &stopped)) {
                return Ok(Self { state: Mutex::new(State::Looking(Some(thread))), stop });
            }
        }
        match complaints(&borrowed, &stop) {
            wrong if wrong.is_empty() => Ok(Self { state: Mutex::new(State::Done(Ok(()))), stop }),
            wrong => Err(wrong),
        }
    }

    /// Waits until everything was looked at; an error names the tensors that hold something else than numbers.
    pub fn passed(&self) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Looking(thread) = &mut *state {
            let outcome = match thread.take().map(JoinHandle::join) {
                Some(Ok(wrong)) if wrong.is_empty() => Ok(()),
                Some(Ok(wrong)) => Err(Error::new(wrong.join("\n  ")).hint("fetch or copy the file again; it is damaged")),
                _ => Err(Error::new("the weights could not be looked at to the end")),
            };
            *state = State::Done(outcome);
        }
        match &*state {
            State::Done(outcome) => outcome.clone(),
            State::Looking(_) => Ok(()),
        }
    }
}

impl Drop for FiniteCheck {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn complaints(borrowed: &[Borrowed], stop: &AtomicBool) -> Vec<String> {
    let look = |tensor: &Borrowed| {
        let problem = tensor.look(stop).err()?;
        Some(format!("{}: tensor `{}` {problem}", tensor.path.display(), tensor.name))
    };
    borrowed.iter().filter_map(look).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::values::tests::borrowed;

    #[test]
    fn much_is_looked_at_by_the_time_it_is_asked_for_and_stays_wrong() {
        let (good, bad) = (borrowed("good", &[1.0; 100]), borrowed("bad", &[1.0, f32::NAN]));
        let audit = FiniteCheck::begin_above(0, vec![good.clone()]).unwrap();
        assert!(audit.passed().is_ok() && audit.passed().is_ok());
        let audit = FiniteCheck::begin_above(0, vec![good, bad.clone()]).unwrap();
        for _ in 0..2 {
            let message = audit.passed().unwrap_err().message;
            assert!(message.contains("x.safetensors: tensor `bad` holds NaN at element 1"), "{message}");
        }
        assert_eq!(FiniteCheck::begin(vec![bad]).unwrap_err().len(), 1, "little is looked at on the spot");
    }
}
