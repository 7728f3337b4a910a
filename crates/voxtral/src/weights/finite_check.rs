//! Check that memory-mapped weights contain no NaN or infinity.
//!
//! A mapped tensor is not read at load time, which makes loading fast, but a damaged file must not produce results. Up to 64 MiB are
//! checked immediately. Larger checkpoints are checked by a background thread, which also warms the page cache. No
//! [transcriber](crate::inference::transcriber::Transcriber) returns a transcript, and no training starts, before the check is finished.

use super::values::Borrowed;
use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Up to this many bytes are checked immediately.
const IMMEDIATE_BYTES: usize = 64 << 20;

/// A running or finished check of all mapped tensors. Dropping it cancels the check.
#[derive(Debug)]
pub struct FiniteCheck {
    state: Mutex<State>,
    stop: Arc<AtomicBool>,
}

#[derive(Debug)]
enum State {
    Running(Option<JoinHandle<Vec<String>>>),
    Done(Result<()>),
}

impl FiniteCheck {
    /// Starts the check. A small checkpoint is checked before this returns; the error lists its damaged tensors.
    pub(super) fn begin(borrowed: Vec<Borrowed>) -> Result<Self, Vec<String>> {
        Self::begin_above(IMMEDIATE_BYTES, borrowed)
    }

    fn begin_above(limit: usize, borrowed: Vec<Borrowed>) -> Result<Self, Vec<String>> {
        let bytes: usize = borrowed.iter().map(|tensor| tensor.range.len()).sum();
        let stop = Arc::new(AtomicBool::new(false));
        if bytes > limit {
            let (shared, stopped) = (borrowed.clone(), Arc::clone(&stop));
            if let Ok(thread) = thread::Builder::new().name("audit".to_owned()).spawn(move || problems(&shared, &stopped)) {
                return Ok(Self { state: Mutex::new(State::Running(Some(thread))), stop });
            }
        }
        match problems(&borrowed, &stop) {
            wrong if wrong.is_empty() => Ok(Self { state: Mutex::new(State::Done(Ok(()))), stop }),
            wrong => Err(wrong),
        }
    }

    /// Waits for the check to finish. The error lists the tensors with non-finite values.
    pub fn passed(&self) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Running(thread) = &mut *state {
            let outcome = match thread.take().map(JoinHandle::join) {
                Some(Ok(wrong)) if wrong.is_empty() => Ok(()),
                Some(Ok(wrong)) => Err(Error::new(wrong.join("\n  ")).hint("download or copy the file again; it is damaged")),
                _ => Err(Error::new("the weights could not be checked completely")),
            };
            *state = State::Done(outcome);
        }
        match &*state {
            State::Done(outcome) => outcome.clone(),
            State::Running(_) => Ok(()),
        }
    }
}

impl Drop for FiniteCheck {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn problems(borrowed: &[Borrowed], stop: &AtomicBool) -> Vec<String> {
    let check = |tensor: &Borrowed| {
        let problem = tensor.check_finite(stop).err()?;
        Some(format!("{}: tensor `{}` {problem}", tensor.path.display(), tensor.name))
    };
    borrowed.iter().filter_map(check).collect()
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
