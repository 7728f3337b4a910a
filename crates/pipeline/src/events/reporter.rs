//! Telling what happens: the runner and the stages say each fact once, every reporter tells it in its own way.

use crate::error::Error;
use crate::events::{Emitter, Event};
use std::sync::{Arc, Mutex, PoisonError};

/// Tells events to somebody.
pub trait Reporter: Send {
    /// Tells one event.
    fn tell(&mut self, event: &Event) -> Result<(), Error>;

    /// What the others should hear of this reporter, which goes on all the same.
    fn trouble(&mut self) -> Option<String> {
        None
    }
}

/// An emitter that hands every event to each of the reporters, in order. One that fails is heard of once, through the others,
/// and then left out: a full disk below a log must not take the run with it.
pub fn fan_out(reporters: Vec<Box<dyn Reporter>>) -> Emitter {
    let reporters = Arc::new(Mutex::new(reporters));
    Emitter::new(move |event| {
        let mut reporters = reporters.lock().unwrap_or_else(PoisonError::into_inner);
        let mut news = vec![event];
        while let Some(event) = news.pop() {
            reporters.retain_mut(|reporter| match reporter.tell(&event) {
                Ok(()) => {
                    news.extend(reporter.trouble().map(|message| Event::Warning { stage: String::new(), message }));
                    true
                }
                Err(error) => {
                    if !error.message.is_empty() {
                        news.push(Event::Warning {
                            stage: String::new(),
                            message: format!("{}; nothing more is told there", error.message),
                        });
                    }
                    false
                }
            });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Heard(Arc<Mutex<Vec<String>>>);
    impl Reporter for Heard {
        fn tell(&mut self, event: &Event) -> Result<(), Error> {
            if let Event::Note { message, .. } | Event::Warning { message, .. } = event {
                self.0.lock().unwrap().push(message.clone());
            }
            Ok(())
        }
    }
    struct Full;
    impl Reporter for Full {
        fn tell(&mut self, _: &Event) -> Result<(), Error> {
            Err(Error::new("cannot write the log: no space left"))
        }
    }

    #[test]
    fn a_reporter_that_fails_is_heard_of_once_and_the_others_go_on() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let emitter = fan_out(vec![Box::new(Full), Box::new(Heard(Arc::clone(&heard)))]);
        for message in ["one", "two"] {
            emitter.emit(Event::Note { stage: "s".into(), message: message.into() });
        }
        assert_eq!(*heard.lock().unwrap(), ["one", "cannot write the log: no space left; nothing more is told there", "two"]);
    }
}
