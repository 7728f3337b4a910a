//! Worker pool: threads are reused, as starting one costs as much as a short step.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

/// A pool that grows to the largest number of concurrent tasks. Its threads end when it is dropped and all tasks are done.
pub(super) struct WorkerPool<'scope, 'env, T> {
    scope: &'scope Scope<'scope, 'env>,
    work: Arc<dyn Fn(T) + Send + Sync + 'scope>,
    queue: Arc<WorkerQueue<T>>,
}

/// The queue of waiting tasks.
struct WorkerQueue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    tasks: VecDeque<T>,
    /// The number of threads that wait for a task.
    idle: usize,
    closed: bool,
}

impl<'scope, 'env, T: Send + 'scope> WorkerPool<'scope, 'env, T> {
    /// A pool of threads that run `work`, which must not panic.
    pub(super) fn new(scope: &'scope Scope<'scope, 'env>, work: impl Fn(T) + Send + Sync + 'scope) -> Self {
        let state = State { tasks: VecDeque::new(), idle: 0, closed: false };
        Self { scope, work: Arc::new(work), queue: Arc::new(WorkerQueue { state: Mutex::new(state), changed: Condvar::new() }) }
    }

    /// Hands a task to an idle thread, or to a new one.
    pub(super) fn give(&self, task: T) {
        let mut state = self.queue.lock();
        state.tasks.push_back(task);
        if state.tasks.len() <= state.idle {
            self.queue.changed.notify_one();
            return;
        }
        drop(state);
        let (work, queue) = (Arc::clone(&self.work), Arc::clone(&self.queue));
        self.scope.spawn(move || {
            while let Some(task) = queue.next() {
                work(task);
            }
        });
    }
}

impl<T> WorkerQueue<T> {
    /// Waits for the next task; `None` when the pool is closed.
    fn next(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(task) = state.tasks.pop_front() {
                return Some(task);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for WorkerPool<'_, '_, T> {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::mpsc::channel;
    use std::thread;

    #[test]
    fn every_task_has_a_thread_at_once_and_threads_are_used_again() {
        let seen = Mutex::new(Vec::new());
        thread::scope(|scope| {
            // Each group of three proceeds only when all three tasks run.
            let (together, done) = (Barrier::new(3), channel());
            let (together, sender, seen) = (Arc::new(together), done.0, &seen);
            let pool = WorkerPool::new(scope, move |task: usize| {
                together.wait();
                seen.lock().unwrap().push((task, thread::current().id()));
                let _ = sender.send(());
            });
            for row in 0..20 {
                (0..3).for_each(|task| pool.give(3 * row + task));
                (0..3).for_each(|_| done.1.recv().unwrap());
                // A thread that has sent its message may not be idle yet.
                while pool.queue.lock().idle < 3 {
                    thread::yield_now();
                }
            }
        });
        let seen = seen.into_inner().unwrap();
        let mut tasks: Vec<_> = seen.iter().map(|(task, _)| *task).collect();
        tasks.sort_unstable();
        assert_eq!(tasks, (0..60).collect::<Vec<_>>());
        let mut threads: Vec<_> = seen.iter().map(|(_, thread)| format!("{thread:?}")).collect();
        threads.sort();
        threads.dedup();
        assert_eq!(threads.len(), 3);
    }
}
