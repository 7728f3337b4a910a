//! Reaper: a helper process that kills the child processes of this one if it is killed itself.
//!
//! The reaper is a second instance of this program. It reads process group ids from a pipe. When the pipe closes, which the kernel does
//! even for a killed process, it kills the remaining groups. Compared with PR_SET_PDEATHSIG, this reaches all processes of a group, and
//! needs no `fork` of this process to start a child.

use super::suspend;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeSet;
use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};

/// The command that starts the reaper: the program and its argument.
static PROGRAM: OnceLock<(PathBuf, &'static str)> = OnceLock::new();
static REAPER: LazyLock<Option<Mutex<ChildStdin>>> = LazyLock::new(|| start().map(Mutex::new));

/// Enables the reaper: this executable acts as one when started with `argument`.
pub fn configure(argument: &'static str) {
    if let Ok(program) = std::env::current_exe() {
        let _ = PROGRAM.set((program, argument));
    }
}

/// A process group that the reaper kills if this process dies.
#[derive(Debug)]
pub struct ReapedGroup(Option<Pid>);

/// Starts the reaper, if it is not running yet. It does not inherit file descriptors made inheritable later.
pub fn start_reaper() {
    LazyLock::force(&REAPER);
}

/// Registers a process group with the reaper.
pub fn watch(group: Pid) -> ReapedGroup {
    send('+', group);
    ReapedGroup(Some(group))
}

impl ReapedGroup {
    /// Unregisters an ended group: its id may be reused.
    pub fn end(&mut self) {
        if let Some(group) = self.0.take() {
            suspend::ended(group);
            send('-', group);
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
    // A process group of its own, so that Ctrl-C at the terminal does not reach it.
    command.arg(argument).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().ok()?.stdin
}

/// Sends a registration to the reaper. Errors are ignored: the next run also finds orphaned processes, by the liveness lock.
fn send(sign: char, group: Pid) {
    if let Some(reaper) = &*REAPER {
        let line = format!("{sign}{}\n", group.as_raw_nonzero());
        let _ = reaper.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
    }
}

/// Runs the reaper: waits until standard input is closed, then kills the registered groups.
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
