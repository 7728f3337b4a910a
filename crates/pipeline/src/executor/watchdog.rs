//! Watchdog: enforces the timeout and the stall timeout of a stage, and passes on stop requests. Time in which the program is suspended
//! (Ctrl-Z) does not count.

use crate::error::{Error, ErrorKind, Result};
use crate::events::Emitter;
use crate::process::suspend::Stopwatch;
use crate::stage::StageOutcome;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How often the watchdog checks.
const INTERVAL: Duration = Duration::from_millis(20);

/// The time limits of a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchdogLimits {
    /// The maximum duration of an attempt.
    pub timeout: Option<Duration>,
    /// The maximum time without an event.
    pub stall_timeout: Option<Duration>,
}

/// The watchdog of one attempt at a stage.
#[derive(Debug)]
pub struct Watchdog {
    /// The time limits.
    pub limits: WatchdogLimits,
    asked: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    last_event: Arc<Mutex<Stopwatch>>,
}

/// The limit that expired.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expired {
    Timeout,
    StallTimeout,
}

impl Watchdog {
    /// A watchdog; `asked` is set when the whole run should stop.
    pub fn new(limits: WatchdogLimits, asked: Arc<AtomicBool>) -> Self {
        // Without limits there is nothing to watch: the stage checks the stop flag of the run directly.
        let stop = if limits == WatchdogLimits::default() { Arc::clone(&asked) } else { Arc::default() };
        Self { limits, asked, stop, last_event: Arc::new(Mutex::new(Stopwatch::start())) }
    }

    /// The stop flag for the stage.
    pub fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Whether the whole run should stop.
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Wraps an emitter, so that every event resets the stall timeout.
    pub fn listen(&self, to: Emitter) -> Emitter {
        if self.limits.stall_timeout.is_none() {
            return to;
        }
        let last_event = Arc::clone(&self.last_event);
        Emitter::new(move |event| {
            *last_event.lock().unwrap_or_else(PoisonError::into_inner) = Stopwatch::start();
            to.emit(event);
        })
    }

    /// Runs `work` under the watchdog. A panic in it becomes an error.
    pub fn watch(&self, work: impl FnOnce() -> Result<StageOutcome>) -> Result<StageOutcome> {
        let work = || catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(panicked(payload.as_ref())));
        if self.limits == WatchdogLimits::default() {
            return work();
        }
        let begun = Stopwatch::start();
        *self.last_event.lock().unwrap_or_else(PoisonError::into_inner) = begun;
        let (sender, ended) = channel::<()>();
        let (outcome, expired) = thread::scope(|scope| {
            let watch = scope.spawn(move || {
                let mut expired = None;
                while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    if expired.is_none() && !self.asked() {
                        expired = self.expired(begun);
                    }
                    if expired.is_some() || self.asked() {
                        self.stop.store(true, Ordering::Relaxed);
                    }
                }
                expired
            });
            let outcome = work();
            drop(sender);
            (outcome, watch.join().unwrap_or_default())
        });
        match expired {
            Some(expired) if outcome.is_err() && !self.asked() => Err(self.expired_error(expired)),
            _ => outcome,
        }
    }

    fn expired(&self, begun: Stopwatch) -> Option<Expired> {
        let last_event = *self.last_event.lock().unwrap_or_else(PoisonError::into_inner);
        let past = |since: Stopwatch, limit: Option<Duration>| limit.is_some_and(|limit| since.elapsed() >= limit);
        if past(begun, self.limits.timeout) {
            Some(Expired::Timeout)
        } else {
            past(last_event, self.limits.stall_timeout).then_some(Expired::StallTimeout)
        }
    }

    fn expired_error(&self, expired: Expired) -> Error {
        let (limit, kind) = match expired {
            Expired::Timeout => (self.limits.timeout, ErrorKind::Timeout),
            Expired::StallTimeout => (self.limits.stall_timeout, ErrorKind::Stalled),
        };
        let limit = words(limit.unwrap_or_default());
        let (message, name) = match expired {
            Expired::Timeout => (format!("it exceeded its timeout of {limit}"), "timeout"),
            Expired::StallTimeout => (format!("it reported no progress for {limit} and counts as stalled"), "stall_timeout"),
        };
        Error::new(message).kind(kind).hint(format!("run again to resume from its last checkpoint, or raise `{name}`"))
    }
}

fn panicked(payload: &(dyn Any + Send)) -> Error {
    let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    let message = text.unwrap_or("no message");
    let kind = ErrorKind::of_panic(message);
    match kind {
        ErrorKind::OutOfMemory => Error::new(format!("out of memory: {message}"))
            .hint("use a smaller `batch_size` with more `gradient_accumulation`, or a lower `precision`"),
        ErrorKind::LostDevice => Error::new(format!("the GPU or its driver failed: {message}"))
            .hint("run again to resume from the last checkpoint; if it happens again, check the driver's log"),
        _ => Error::new(format!("the stage panicked: {message}")).hint("this is a bug in voxpipe; please report it with the line above"),
    }
    .kind(kind)
}

/// Formats a duration with the largest whole unit: `500 ms`, `90 s`, `2 min`, `1 h`.
pub(crate) fn words(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        seconds if seconds % 3600 == 0 => format!("{} h", seconds / 3600),
        seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}
