//! Threads that stay for the next task: to begin one costs as much as a short step.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

/// As many threads as there were ever tasks at once; they end when this is dropped and the tasks are done.
pub(super) struct WorkerPool<'scope, 'env, T> {
    scope: &'scope Scope<'scope, 'env>,
    work: Arc<dyn Fn(T) + Send + Sync + 'scope>,
    desk: Arc<WorkerQueue<T>>,
}

/// Where tasks lie until a thread takes them.
struct WorkerQueue<T> {
    state: Mutex<State<T>>,
    bell: Condvar,
}

struct State<T> {
    tasks: VecDeque<T>,
    /// Threads that wait for a task.
    idle: usize,
    closed: bool,
}

impl<'scope, 'env, T: Send + 'scope> WorkerPool<'scope, 'env, T> {
    /// Threads that do `work`, which does not panic.
    pub(super) fn new(scope: &'scope Scope<'scope, 'env>, work: impl Fn(T) + Send + Sync + 'scope) -> Self {
        let state = State { tasks: VecDeque::new(), idle: 0, closed: false };
        Self { scope, work: Arc::new(work), desk: Arc::new(WorkerQueue { state: Mutex::new(state), bell: Condvar::new() }) }
    }

    /// Hands a task to a thread that is free, or to a new one.
    pub(super) fn give(&self, task: T) {
        let mut state = self.desk.lock();
        state.tasks.push_back(task);
        if state.tasks.len() <= state.idle {
            self.desk.bell.notify_one();
            return;
        }
        drop(state);
        let (work, desk) = (Arc::clone(&self.work), Arc::clone(&self.desk));
        self.scope.spawn(move || {
            while let Some(task) = desk.next() {
                work(task);
            }
        });
    }
}

impl<T> WorkerQueue<T> {
    /// The next task; none when there will be no more.
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
            state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for WorkerPool<'_, '_, T> {
    fn drop(&mut self) {
        self.desk.lock().closed = true;
        self.desk.bell.notify_all();
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
            // Each row of three goes on only when all three are at it.
            let (together, done) = (Barrier::new(3), channel());
            let (together, tell, seen) = (Arc::new(together), done.0, &seen);
            let crew = WorkerPool::new(scope, move |task: usize| {
                together.wait();
                seen.lock().unwrap().push((task, thread::current().id()));
                let _ = tell.send(());
            });
            for row in 0..20 {
                (0..3).for_each(|task| crew.give(3 * row + task));
                (0..3).for_each(|_| done.1.recv().unwrap());
                // One that has told may not wait for the next task yet.
                while crew.desk.lock().idle < 3 {
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
