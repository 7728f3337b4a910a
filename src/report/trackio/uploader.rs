//! Background uploader: a thread that delivers items to Trackio in order, with retries and exponential backoff.

use super::inbox::FileSink;
use super::server::Server;
use super::{TrackioTarget, system, timestamp};
use crate::error::Result;
use crate::hub::http::RetryPolicy;
use pipeline::events::metrics_log;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// An item to deliver to Trackio.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum UploadItem {
    /// A record in the format of Trackio's fragments.
    Record(Value),
    /// A media file that records refer to.
    Media { from: PathBuf, project: String, run: String, step: u64, name: String },
}

/// The run that system metrics are recorded for: project, run name, run id.
pub(super) type Watched = (String, String, String);

/// A message to the uploader thread.
enum Message {
    Item(UploadItem),
    /// Sets the run that system metrics are recorded for.
    Watch(Option<Watched>),
    /// Delivers what is left within a time limit and ends the thread; the response is the number of undelivered items.
    Finish(SyncSender<usize>, Duration),
}

/// Handle of the uploader thread.
pub(super) struct Uploader {
    sender: SyncSender<Message>,
    warning: Arc<Mutex<Vec<String>>>,
    /// Items that were not accepted because the queue was full.
    lost: u64,
    /// Items handed over, including lost ones.
    sent: u64,
}

/// Capacity of the queue to the thread; larger than the number of items of one step.
const QUEUE_CAPACITY: usize = 4096;
/// Maximum number of items kept while the server is unavailable. Beyond it the oldest are dropped; the metrics log still has them.
const MAX_WAITING: usize = 100_000;
/// Maximum number of items per delivery.
const BATCH: usize = 500;
/// Interval between deliveries.
const INTERVAL: Duration = Duration::from_secs(1);
/// Maximum backoff after failed deliveries.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// Failed deliveries are retried for as long as the run lasts.
const RETRY: RetryPolicy =
    RetryPolicy { max_attempts: u32::MAX, base_delay: Duration::from_secs(2), max_delay: MAX_BACKOFF, max_retry_after: MAX_BACKOFF };
/// How long the end of a run waits for the final delivery.
const FINAL_WAIT: Duration = Duration::from_secs(5);
/// Interval between samples of system metrics.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);

impl Uploader {
    /// Starts the thread.
    pub(super) fn start(place: TrackioTarget) -> Self {
        let (sender, receiver) = sync_channel(QUEUE_CAPACITY);
        let warning = Arc::new(Mutex::new(Vec::new()));
        let warnings = Arc::clone(&warning);
        thread::spawn(move || {
            let transport: Box<dyn Transport> = match place {
                TrackioTarget::Here(folder) => Box::new(FileSink::new(folder)),
                TrackioTarget::Server { address, token } => Box::new(Server::new(address, token)),
            };
            Worker { transport, waiting: VecDeque::new(), dropped: 0, failures: 0, due: Instant::now(), warning: warnings, warned: false }
                .run_loop(&receiver);
        });
        Self { sender, warning, lost: 0, sent: 0 }
    }

    /// Queues an item; waits while the queue is full.
    pub(super) fn send_all(&mut self, item: UploadItem) {
        self.sent += 1;
        if self.sender.send(Message::Item(item)).is_err() {
            self.lost += 1;
        }
    }

    /// Queues an item without waiting; drops it if the queue is full.
    pub(super) fn send(&mut self, item: UploadItem) {
        self.sent += 1;
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Message::Item(item)) {
            self.lost += 1;
        }
    }

    /// Sets the run that system metrics are recorded for; `None` stops them.
    pub(super) fn watch(&mut self, run: Option<Watched>) {
        let _ = self.sender.try_send(Message::Watch(run));
    }

    /// Delivers what is left and ends the thread. Returns the number of items handed over and of those not delivered; `None` after the
    /// first call.
    pub(super) fn flush(&mut self, limit: Duration) -> Option<(u64, u64)> {
        let (answer, left) = sync_channel(1);
        self.sender.send(Message::Finish(answer, limit)).ok()?;
        Some((self.sent, left.recv_timeout(limit + MAX_BACKOFF).unwrap_or(1) as u64 + self.lost))
    }

    /// Ends the thread at the end of a run, with a short wait; undelivered items become a warning.
    pub(super) fn finish(&mut self) {
        if let Some((_, left)) = self.flush(FINAL_WAIT).filter(|(_, left)| *left > 0) {
            let message =
                format!("{left} records were not sent to Trackio; the run log has them, and a resumed run sends its metrics log again");
            self.warning.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        }
    }

    /// Removes and returns the oldest pending warning.
    pub(super) fn warning(&mut self) -> Option<String> {
        let mut warning = self.warning.lock().unwrap_or_else(PoisonError::into_inner);
        (!warning.is_empty()).then(|| warning.remove(0))
    }
}

/// A destination of items: the inbox folder or a server.
pub(super) trait Transport {
    /// Delivers items from the front and returns how many. The others are passed again in the next call.
    fn deliver(&mut self, items: &[UploadItem]) -> Result<usize>;
}

/// State of the uploader thread.
struct Worker {
    transport: Box<dyn Transport>,
    waiting: VecDeque<UploadItem>,
    /// Number of dropped items.
    dropped: usize,
    /// Consecutive failures.
    failures: u32,
    /// Time of the next delivery.
    due: Instant,
    warning: Arc<Mutex<Vec<String>>>,
    /// Whether a delivery failure was already reported.
    warned: bool,
}

impl Worker {
    /// The thread's loop: queues items, samples system metrics, delivers.
    fn run_loop(&mut self, receiver: &Receiver<Message>) {
        let (mut watched, mut next_sample, mut machine) = (None::<Watched>, Instant::now(), system::Machine::default());
        loop {
            match receiver.recv_timeout(INTERVAL) {
                Ok(Message::Item(item)) => self.take(item),
                Ok(Message::Watch(run)) => {
                    (watched, next_sample) = (run, Instant::now() + SAMPLE_INTERVAL);
                    machine.sample();
                }
                Ok(Message::Finish(answer, limit)) => {
                    let end = Instant::now() + limit;
                    while !self.waiting.is_empty() && !self.deliver() && Instant::now() < end {
                        thread::sleep(INTERVAL / 4);
                    }
                    let _ = answer.send(self.waiting.len() + self.dropped);
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if let Some((project, run, id)) = watched.as_ref().filter(|_| Instant::now() >= next_sample) {
                next_sample = Instant::now() + SAMPLE_INTERVAL;
                let time = metrics_log::now();
                let metrics = machine.sample();
                if !metrics.is_empty() {
                    self.take(UploadItem::Record(json!({
                        "v": 1, "kind": "system_metric", "project": project, "run": run, "run_id": id, "metrics": metrics,
                        "timestamp": timestamp(&time), "log_id": format!("{id}-system-{time}"),
                    })));
                }
            }
            if !self.waiting.is_empty() && Instant::now() >= self.due {
                self.deliver();
            }
        }
    }

    /// Queues an item; drops the oldest one if too many are waiting.
    fn take(&mut self, item: UploadItem) {
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
            self.dropped += 1;
        }
        self.waiting.push_back(item);
    }

    /// Delivers the waiting items. Returns whether all were delivered.
    fn deliver(&mut self) -> bool {
        self.due = Instant::now() + INTERVAL;
        while !self.waiting.is_empty() {
            let items: Vec<UploadItem> = self.waiting.iter().take(BATCH).cloned().collect();
            match self.transport.deliver(&items) {
                Ok(count) => {
                    self.failures = 0;
                    self.waiting.drain(..count.min(items.len()));
                }
                Err(error) => {
                    self.failures += 1;
                    // An unreadable media file must not block the items after it.
                    if self.failures.is_multiple_of(4) && matches!(self.waiting.front(), Some(UploadItem::Media { .. })) {
                        self.waiting.pop_front();
                        self.dropped += 1;
                    }
                    self.due = Instant::now() + RETRY.backoff(self.failures);
                    if !std::mem::replace(&mut self.warned, true) {
                        let hint = error.hint.map(|hint| format!(": {hint}")).unwrap_or_default();
                        let message = format!("Trackio: {}{hint}; uploads are retried, the run continues", error.message);
                        self.warning.lock().unwrap_or_else(PoisonError::into_inner).push(message);
                    }
                    return false;
                }
            }
        }
        true
    }
}
