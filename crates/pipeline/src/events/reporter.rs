//! Reporters: the sinks of the event stream.

use crate::error::Error;
use crate::events::{Emitter, Event};
use std::sync::{Arc, Mutex, PoisonError};
use voxpipe_io::secrets::redactor::Redactor;

/// A sink for events, such as a log, the terminal or an experiment tracker.
pub trait Reporter: Send {
    /// Handles an event. After an error, the reporter gets no more events.
    fn report_event(&mut self, event: &Event) -> Result<(), Error>;

    /// A problem to report as a warning, after which the reporter continues. Called after each event.
    fn warning(&mut self) -> Option<String> {
        None
    }
}

/// An emitter that passes every event to each of the reporters, in order.
///
/// A reporter that fails is removed, and the others get one warning: a full disk under a log must not stop the run. Secrets are redacted in
/// what stages say.
pub fn fan_out(reporters: Vec<Box<dyn Reporter>>) -> Emitter {
    let reporters = Arc::new(Mutex::new(reporters));
    Emitter::new(move |mut event| {
        redact(&mut event);
        let mut reporters = reporters.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pending = vec![event];
        while let Some(event) = pending.pop() {
            reporters.retain_mut(|reporter| match reporter.report_event(&event) {
                Ok(()) => {
                    pending.extend(reporter.warning().map(|message| Event::Warning { stage: String::new(), message }));
                    true
                }
                Err(error) => {
                    if !error.message.is_empty() {
                        pending.push(Event::Warning {
                            stage: String::new(),
                            message: format!("{}; no more events are sent there", error.message),
                        });
                    }
                    false
                }
            });
        }
    })
}

/// Redacts the texts of an event that a stage, a program or another machine wrote.
fn redact(event: &mut Event) {
    let texts: Vec<&mut String> = match event {
        Event::Progress { unit, detail, .. } => vec![unit, detail],
        Event::Note { message, .. }
        | Event::Warning { message, .. }
        | Event::StageParked { message, .. }
        | Event::GateFailed { message, .. }
        | Event::StageFinished { summary: message, .. } => vec![message],
        Event::StageFailed { message, hint, .. } => std::iter::once(message).chain(hint).collect(),
        _ => return,
    };
    let (secrets, _) = Redactor::of_environment();
    for text in texts {
        *text = secrets.redact(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Messages(Arc<Mutex<Vec<String>>>);
    impl Reporter for Messages {
        fn report_event(&mut self, event: &Event) -> Result<(), Error> {
            if let Event::Note { message, .. } | Event::Warning { message, .. } = event {
                self.0.lock().unwrap().push(message.clone());
            }
            Ok(())
        }
    }
    struct Full;
    impl Reporter for Full {
        fn report_event(&mut self, _: &Event) -> Result<(), Error> {
            Err(Error::new("cannot write the log: no space left"))
        }
    }

    #[test]
    fn a_failing_reporter_gives_one_warning_and_the_others_continue() {
        let messages = Arc::new(Mutex::new(Vec::new()));
        let emitter = fan_out(vec![Box::new(Full), Box::new(Messages(Arc::clone(&messages)))]);
        for message in ["one", "two"] {
            emitter.emit(Event::Note { stage: "s".into(), message: message.into() });
        }
        assert_eq!(*messages.lock().unwrap(), ["one", "cannot write the log: no space left; no more events are sent there", "two"]);
    }
}
