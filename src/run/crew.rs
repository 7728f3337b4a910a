//! Threads that stay for the next task: to begin one costs as much as a short step.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

/// As many threads as there were ever tasks at once; they end when this is dropped and the tasks are done.
pub(super) struct Crew<'scope, 'env, T> {
    scope: &'scope Scope<'scope, 'env>,
    work: Arc<dyn Fn(T) + Send + Sync + 'scope>,
    tasks: Sender<T>,
    waiting: Arc<Mutex<Receiver<T>>>,
    busy: Arc<AtomicUsize>,
    threads: usize,
}

impl<'scope, 'env, T: Send + 'scope> Crew<'scope, 'env, T> {
    /// Threads that do `work`, which does not panic.
    pub(super) fn new(scope: &'scope Scope<'scope, 'env>, work: impl Fn(T) + Send + Sync + 'scope) -> Self {
        let (tasks, waiting) = channel();
        Self { scope, work: Arc::new(work), tasks, waiting: Arc::new(Mutex::new(waiting)), busy: Arc::default(), threads: 0 }
    }

    /// Hands a task to a thread that is free, or to a new one.
    pub(super) fn give(&mut self, task: T) {
        // The threads hold the other end of the channel, so somebody is there to take it.
        let _ = self.tasks.send(task);
        if self.busy.fetch_add(1, Ordering::SeqCst) < self.threads {
            return;
        }
        self.threads += 1;
        let (work, waiting, busy) = (Arc::clone(&self.work), Arc::clone(&self.waiting), Arc::clone(&self.busy));
        self.scope.spawn(move || {
            let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
            while let Ok(task) = next() {
                work(task);
                busy.fetch_sub(1, Ordering::SeqCst);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::thread;

    #[test]
    fn every_task_has_a_thread_at_once_and_threads_are_used_again() {
        let seen = Mutex::new(Vec::new());
        thread::scope(|scope| {
            // Each row of three goes on only when all three are at it.
            let (together, done) = (Barrier::new(3), channel());
            let (together, tell, seen) = (Arc::new(together), done.0, &seen);
            let mut crew = Crew::new(scope, move |task: usize| {
                together.wait();
                seen.lock().unwrap().push((task, thread::current().id()));
                let _ = tell.send(());
            });
            for row in 0..20 {
                (0..3).for_each(|task| crew.give(3 * row + task));
                (0..3).for_each(|_| done.1.recv().unwrap());
            }
        });
        let seen = seen.into_inner().unwrap();
        let mut tasks: Vec<_> = seen.iter().map(|(task, _)| *task).collect();
        tasks.sort_unstable();
        assert_eq!(tasks, (0..60).collect::<Vec<_>>());
        let mut threads: Vec<_> = seen.iter().map(|(_, thread)| format!("{thread:?}")).collect();
        threads.sort();
        threads.dedup();
        // One may not have come back for the next task yet when it is given.
        assert!((3..=6).contains(&threads.len()), "{} threads", threads.len());
    }
}
