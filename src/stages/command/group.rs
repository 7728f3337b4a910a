//! A program in its own process group: supervision, graceful termination (SIGTERM), then SIGKILL.

use super::events::OutputReporter;
use super::lines::{PipeReader, Source};
use crate::error::{Error, Result, ResultExt};
use pipeline::events::Event;
use pipeline::process::peak_memory::peak_of_program;
use pipeline::process::suspend::Stopwatch;
use pipeline::process::{reaper, suspend};
use pipeline::stage::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};
use std::{io, thread};

/// Grace period between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// Maximum poll interval.
const MAX_POLL: Duration = Duration::from_millis(50);
/// First poll interval if the system does not notify about process exit (no pidfd).
const FIRST_POLL: Duration = Duration::from_micros(50);

/// Peak memory of a program, looked at while it runs: the system forgets it with the process.
struct Memory {
    peak: Option<u64>,
    looked: Instant,
}

impl Memory {
    /// Asks for the peak, at most every [`MAX_POLL`]: of a program that ends sooner nothing is known.
    fn look(&mut self, pid: u32) {
        if self.looked.elapsed() >= MAX_POLL {
            self.looked = Instant::now();
            self.peak = self.peak.max(peak_of_program(pid));
        }
    }
}

/// A running program and its process group. Dropping it kills the whole group.
pub(super) struct Group {
    child: Child,
    pid: Pid,
    /// A pidfd, readable when the program ends (Linux only).
    end: Option<OwnedFd>,
    watched: reaper::ReapedGroup,
}

impl Group {
    /// Starts a program that leads its own process group.
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        command.process_group(0);
        suspend::spawn(|| {
            let mut child = command.spawn()?;
            match i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                Some(pid) => Ok((Self { child, pid, end: end_of(pid), watched: reaper::watch(pid) }, Some(pid))),
                None => {
                    let _ = child.kill();
                    Err(io::Error::other(format!("invalid process id {}", child.id())))
                }
            }
        })
    }

    /// Reads output until the program has ended. Terminates it when the run is stopped.
    pub(super) fn finish(mut self, cx: &Context, output: &mut OutputReporter) -> Result<ExitStatus> {
        let out = self.child.stdout.take().map(|pipe| PipeReader::new(pipe, Source::Out)).transpose()?;
        let err = self.child.stderr.take().map(|pipe| PipeReader::new(pipe, Source::Err)).transpose()?;
        let mut encoder: Vec<PipeReader> = out.into_iter().chain(err).collect();
        let mut terminated: Option<Stopwatch> = None;
        let mut pause = FIRST_POLL;
        let mut memory = Memory { peak: None, looked: Instant::now() };
        while !self.ended()? {
            memory.look(self.child.id());
            self.wait(&encoder, &mut pause)?;
            for ear in &mut encoder {
                let _ = ear.read_lines(&mut |line| output.tell(line));
            }
            match terminated {
                None if cx.stopping() => {
                    let _ = kill_process_group(self.pid, Signal::TERM);
                    terminated = Some(Stopwatch::start());
                }
                Some(since) if since.elapsed() > GRACE => {
                    let _ = kill_process_group(self.pid, Signal::KILL);
                }
                _ => {}
            }
        }
        if let Some(bytes) = memory.peak {
            let (stage, process) = (cx.stage.clone(), "program".to_owned());
            cx.emitter.emit(Event::PeakMemory { stage, process, bytes });
        }
        // The program has ended but is not reaped yet, so its pid still names the group: kill whatever it left running.
        let _ = kill_process_group(self.pid, Signal::KILL);
        // A process that left the group may keep the pipes open: read only what they contain now.
        for ear in &mut encoder {
            ear.drain(&mut |line| output.tell(line));
        }
        self.watched.end();
        self.child.wait().with_context(|| "cannot read the exit status of the program")
    }

    /// Waits until the program prints something or ends, at most [`MAX_POLL`].
    fn wait(&self, encoder: &[PipeReader], pause: &mut Duration) -> Result<()> {
        let pipes = encoder.iter().filter_map(PipeReader::pipe);
        let mut fds: Vec<PollFd<'_>> =
            pipes.chain(self.end.as_ref().map(AsFd::as_fd)).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        if self.end.is_none() && fds.is_empty() {
            // All its pipes are closed: it is ending, or runs without output.
            thread::sleep(*pause);
            *pause = (*pause * 2).min(MAX_POLL);
            return Ok(());
        }
        let glance = Timespec { tv_sec: 0, tv_nsec: MAX_POLL.subsec_nanos().into() };
        match poll(&mut fds, Some(&glance)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(Error::from(io::Error::from(error)).context("cannot read the output of the program")),
        }
    }

    /// Whether the program has ended, without reaping it.
    fn ended(&self) -> Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.pid), options) {
            Ok(status) => Ok(status.is_some()),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(Error::from(io::Error::from(error)).context("cannot query the state of the program")),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process_group(self.pid, Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

#[cfg(target_os = "linux")]
fn end_of(pid: Pid) -> Option<OwnedFd> {
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

#[cfg(not(target_os = "linux"))]
fn end_of(_: Pid) -> Option<OwnedFd> {
    None
}
