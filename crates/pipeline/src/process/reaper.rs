//! A process that ends what this one has started, should it die without a chance to do so itself.
//!
//! It is this program once more. It reads the numbers of process groups from a pipe, and when the pipe is closed, which the kernel does
//! for a killed process too, it ends those that are left. Unlike a signal at the parent's death that reaches everything in a group,
//! and programs can be started without copying this process first.

use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeSet;
use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};

/// What starts the guard: the program and its argument.
static PROGRAM: OnceLock<(PathBuf, &'static str)> = OnceLock::new();
static GUARD: LazyLock<Option<Mutex<ChildStdin>>> = LazyLock::new(|| start().map(Mutex::new));

/// Names the program that is a guard when it is started with `argument`; without this there is none.
pub fn configure(argument: &'static str) {
    if let Ok(program) = std::env::current_exe() {
        let _ = PROGRAM.set((program, argument));
    }
}

/// A process group that the guard ends if this process cannot.
#[derive(Debug)]
pub struct ReapedGroup(Option<Pid>);

/// Starts the guard, if there is none yet. What this process hands on to others from now on the guard does not get.
pub fn start_reaper() {
    LazyLock::force(&GUARD);
}

/// Has a process group watched.
pub fn watch(group: Pid) -> ReapedGroup {
    tell('+', group);
    ReapedGroup(Some(group))
}

impl ReapedGroup {
    /// The group has ended: its number may soon be another's.
    pub fn end(&mut self) {
        if let Some(group) = self.0.take() {
            tell('-', group);
        }
    }
}

impl Drop for ReapedGroup {
    fn drop(&mut self) {
        self.end();
    }
}

fn start() -> Option<ChildStdin> {
    let (program, argument) = PROGRAM.get()?;
    let mut command = Command::new(program);
    // A group of its own: what is typed at the terminal is not meant for it.
    command.arg(argument).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().ok()?.stdin
}

/// A guard that is gone is no reason to stop: the next run finds what this one leaves, too.
fn tell(sign: char, group: Pid) {
    if let Some(guard) = &*GUARD {
        let line = format!("{sign}{}\n", group.as_raw_nonzero());
        let _ = guard.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
    }
}

/// Stands guard until standard input is closed.
pub fn stand() {
    let mut groups = BTreeSet::new();
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        match line.split_at_checked(1).map(|(sign, number)| (sign, number.parse::<i32>())) {
            Some(("+", Ok(group))) => _ = groups.insert(group),
            Some(("-", Ok(group))) => _ = groups.remove(&group),
            _ => {}
        }
    }
    for group in groups.into_iter().filter(|group| *group > 1).filter_map(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}
