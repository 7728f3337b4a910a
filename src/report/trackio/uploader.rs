//! Carries parcels to Trackio in a thread of its own, in order, again and again until they are there.

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

/// Something for Trackio.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum UploadItem {
    /// A record in the form of Trackio's fragments.
    Record(Value),
    /// A file that records speak of.
    Media { from: PathBuf, project: String, run: String, step: u64, name: String },
}

/// A project, a run's name and its id.
pub(super) type Watched = (String, String, String);

enum Word {
    Item(UploadItem),
    /// Whose run the machine's numbers belong to.
    Watch(Option<Watched>),
    /// The last word, and how long to try; answered with how many parcels did not get there.
    Finish(SyncSender<usize>, Duration),
}

/// The reporter's end.
pub(super) struct Uploader {
    words: SyncSender<Word>,
    trouble: Arc<Mutex<Vec<String>>>,
    lost: u64,
    sent: u64,
}

/// Parcels between the reporter and the thread; more than a step ever makes.
const QUEUE: usize = 4096;
/// Parcels that wait for a server that is away; beyond it the oldest go, and the journal still has them.
const WAITING: usize = 100_000;
/// Parcels in one delivery.
const AT_ONCE: usize = 500;
/// From one delivery to the next.
const BEAT: Duration = Duration::from_secs(1);
/// The longest pause after deliveries that failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Deliveries that failed are tried again for as long as the run goes on.
const RETRY: RetryPolicy =
    RetryPolicy { max_attempts: u32::MAX, base_delay: Duration::from_secs(2), max_delay: PATIENCE, max_retry_after: PATIENCE };
/// How long the end of a run waits for the last delivery.
const LAST: Duration = Duration::from_secs(5);
/// From one look at the machine to the next.
const LOOK: Duration = Duration::from_secs(10);

impl Uploader {
    pub(super) fn start(place: TrackioTarget) -> Self {
        let (words, heard) = sync_channel(QUEUE);
        let trouble = Arc::new(Mutex::new(Vec::new()));
        let of_thread = Arc::clone(&trouble);
        thread::spawn(move || {
            let way: Box<dyn Transport> = match place {
                TrackioTarget::Here(folder) => Box::new(FileSink::new(folder)),
                TrackioTarget::Server { address, token } => Box::new(Server::new(address, token)),
            };
            Round { way, waiting: VecDeque::new(), dropped: 0, failures: 0, due: Instant::now(), trouble: of_thread, told: false }
                .go(&heard);
        });
        Self { words, trouble, lost: 0, sent: 0 }
    }

    /// Hands over a parcel, however long that takes.
    pub(super) fn send_all(&mut self, parcel: UploadItem) {
        self.sent += 1;
        if self.words.send(Word::Item(parcel)).is_err() {
            self.lost += 1;
        }
    }

    /// Hands over a parcel; never waits.
    pub(super) fn send(&mut self, parcel: UploadItem) {
        self.sent += 1;
        if let Err(TrySendError::Full(_)) = self.words.try_send(Word::Item(parcel)) {
            self.lost += 1;
        }
    }

    pub(super) fn watch(&mut self, run: Option<Watched>) {
        let _ = self.words.try_send(Word::Watch(run));
    }

    /// Waits for the last delivery, and says how many parcels there were and how many did not get there; none after the first time.
    pub(super) fn settle(&mut self, patience: Duration) -> Option<(u64, u64)> {
        let (answer, left) = sync_channel(1);
        self.words.send(Word::Finish(answer, patience)).ok()?;
        Some((self.sent, left.recv_timeout(patience + PATIENCE).unwrap_or(1) as u64 + self.lost))
    }

    /// Waits a little for the last delivery.
    pub(super) fn finish(&mut self) {
        if let Some((_, left)) = self.settle(LAST).filter(|(_, left)| *left > 0) {
            let message =
                format!("{left} numbers did not get to Trackio; the run's log has them, and running on sends what a journal holds");
            self.trouble.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        }
    }

    /// What went wrong since last asked.
    pub(super) fn trouble(&mut self) -> Option<String> {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        (!trouble.is_empty()).then(|| trouble.remove(0))
    }
}

/// A way parcels go.
pub(super) trait Transport {
    /// Delivers the first parcels and says how many. What it does not count is brought again.
    fn deliver(&mut self, parcels: &[UploadItem]) -> Result<usize>;
}

/// The thread's work.
struct Round {
    way: Box<dyn Transport>,
    waiting: VecDeque<UploadItem>,
    /// How many were given up.
    dropped: usize,
    failures: u32,
    due: Instant,
    trouble: Arc<Mutex<Vec<String>>>,
    told: bool,
}

impl Round {
    fn go(&mut self, heard: &Receiver<Word>) {
        let (mut watched, mut look, mut machine) = (None::<Watched>, Instant::now(), system::Machine::default());
        loop {
            match heard.recv_timeout(BEAT) {
                Ok(Word::Item(parcel)) => self.take(parcel),
                Ok(Word::Watch(run)) => {
                    (watched, look) = (run, Instant::now() + LOOK);
                    machine.look();
                }
                Ok(Word::Finish(answer, patience)) => {
                    let end = Instant::now() + patience;
                    while !self.waiting.is_empty() && !self.deliver() && Instant::now() < end {
                        thread::sleep(BEAT / 4);
                    }
                    let _ = answer.send(self.waiting.len() + self.dropped);
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if let Some((project, run, id)) = watched.as_ref().filter(|_| Instant::now() >= look) {
                look = Instant::now() + LOOK;
                let time = metrics_log::now();
                let metrics = machine.look();
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

    fn take(&mut self, parcel: UploadItem) {
        if self.waiting.len() >= WAITING {
            self.waiting.pop_front();
            self.dropped += 1;
        }
        self.waiting.push_back(parcel);
    }

    /// Delivers what waits, and says whether all of it is there.
    fn deliver(&mut self) -> bool {
        self.due = Instant::now() + BEAT;
        while !self.waiting.is_empty() {
            let parcels: Vec<UploadItem> = self.waiting.iter().take(AT_ONCE).cloned().collect();
            match self.way.deliver(&parcels) {
                Ok(count) => {
                    self.failures = 0;
                    self.waiting.drain(..count.min(parcels.len()));
                }
                Err(error) => {
                    self.failures += 1;
                    // A recording that cannot be read must not keep back what comes after it.
                    if self.failures.is_multiple_of(4) && matches!(self.waiting.front(), Some(UploadItem::Media { .. })) {
                        self.waiting.pop_front();
                        self.dropped += 1;
                    }
                    self.due = Instant::now() + RETRY.backoff(self.failures);
                    if !std::mem::replace(&mut self.told, true) {
                        let hint = error.hint.map(|hint| format!(": {hint}")).unwrap_or_default();
                        let message = format!("Trackio: {}{hint}; it is tried again now and then, and the run goes on", error.message);
                        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).push(message);
                    }
                    return false;
                }
            }
        }
        true
    }
}
