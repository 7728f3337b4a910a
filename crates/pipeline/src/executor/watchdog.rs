//! An eye on a stage while it works: on the time it takes, on its silence, and on whoever asks it to stop.

use crate::error::{Error, ErrorKind, Result};
use crate::events::Emitter;
use crate::stage::StageOutcome;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often the watch looks.
const GLANCE: Duration = Duration::from_millis(20);

/// How long a stage may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchdogLimits {
    /// In all.
    pub timeout: Option<Duration>,
    /// Without a word.
    pub stall_timeout: Option<Duration>,
}

/// The watch over one try at a stage.
#[derive(Debug)]
pub struct Watchdog {
    /// How long it may take.
    pub limits: WatchdogLimits,
    asked: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    heard: Arc<Mutex<Instant>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expired {
    Late,
    Silent,
}

impl Watchdog {
    /// A watch; `asked` is set when the whole run should stop.
    pub fn new(limits: WatchdogLimits, asked: Arc<AtomicBool>) -> Self {
        // Without limits there is nothing to watch: the stage looks at what the run is asked itself.
        let stop = if limits == WatchdogLimits::default() { Arc::clone(&asked) } else { Arc::default() };
        Self { limits, asked, stop, heard: Arc::new(Mutex::new(Instant::now())) }
    }

    /// The flag the stage looks at.
    pub fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Whether the whole run should stop.
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// An emitter through which the watch hears the stage.
    pub fn listen(&self, to: Emitter) -> Emitter {
        if self.limits.stall_timeout.is_none() {
            return to;
        }
        let heard = Arc::clone(&self.heard);
        Emitter::new(move |event| {
            *heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            to.emit(event);
        })
    }

    /// Watches over some work. A panic in it becomes an error.
    pub fn watch(&self, work: impl FnOnce() -> Result<StageOutcome>) -> Result<StageOutcome> {
        let work = || catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(panicked(payload.as_ref())));
        if self.limits == WatchdogLimits::default() {
            return work();
        }
        let begun = Instant::now();
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = begun;
        let (tell, told) = channel::<()>();
        let (outcome, over) = thread::scope(|scope| {
            let watch = scope.spawn(move || {
                let mut over = None;
                while told.recv_timeout(GLANCE) == Err(RecvTimeoutError::Timeout) {
                    if over.is_none() && !self.asked() {
                        over = self.over(begun);
                    }
                    if over.is_some() || self.asked() {
                        self.stop.store(true, Ordering::Relaxed);
                    }
                }
                over
            });
            let outcome = work();
            drop(tell);
            (outcome, watch.join().unwrap_or_default())
        });
        match over {
            Some(over) if outcome.is_err() && !self.asked() => Err(self.told(over)),
            _ => outcome,
        }
    }

    fn over(&self, begun: Instant) -> Option<Expired> {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let past = |since: Instant, limit: Option<Duration>| limit.is_some_and(|limit| since.elapsed() >= limit);
        if past(begun, self.limits.timeout) {
            Some(Expired::Late)
        } else {
            past(heard, self.limits.stall_timeout).then_some(Expired::Silent)
        }
    }

    fn told(&self, over: Expired) -> Error {
        let (limit, kind) = match over {
            Expired::Late => (self.limits.timeout, ErrorKind::Timeout),
            Expired::Silent => (self.limits.stall_timeout, ErrorKind::Stalled),
        };
        let limit = words(limit.unwrap_or_default());
        let (message, name) = match over {
            Expired::Late => (format!("it took longer than its timeout of {limit}"), "timeout"),
            Expired::Silent => (format!("it said nothing for {limit}, so it counts as stuck"), "stall_timeout"),
        };
        Error::new(message).kind(kind).hint(format!("run again to go on from its last checkpoint, or raise `{name}`"))
    }
}

fn panicked(payload: &(dyn Any + Send)) -> Error {
    let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    let said = text.unwrap_or("no message");
    let kind = ErrorKind::of_panic(said);
    match kind {
        ErrorKind::OutOfMemory => Error::new(format!("there is not enough memory: {said}"))
            .hint("choose a smaller `batch_size` with more `gradient_accumulation`, or a smaller `precision`"),
        ErrorKind::LostDevice => Error::new(format!("the device gave up: {said}"))
            .hint("run again to go on from the last checkpoint; if it happens again, look at the driver's log"),
        _ => Error::new(format!("the stage panicked: {said}")).hint("this is a bug in voxpipe; please report it with the line above"),
    }
    .kind(kind)
}

/// A duration as one would write it.
pub(crate) fn words(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        seconds if seconds % 3600 == 0 => format!("{} h", seconds / 3600),
        seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}
