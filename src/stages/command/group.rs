//! A running program with everything it started: watched, asked to end, and made to.

use super::events::Voice;
use super::lines::{Ear, Source};
use crate::error::{Error, Result, ResultExt};
use pipeline::process::reaper;
use pipeline::stage::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};
use std::{io, thread};

/// How long a program that is asked to end may take before it is made to.
const GRACE: Duration = Duration::from_secs(5);
/// How often a quiet program is looked at.
const GLANCE: Duration = Duration::from_millis(50);
/// The first wait for a program of whose end the system does not tell.
const SHORTEST: Duration = Duration::from_micros(50);

/// The running program and everything it started; nothing of it survives this value.
pub(super) struct Group {
    child: Child,
    pid: Pid,
    /// Becomes readable when the program ends, where the system has such a thing.
    end: Option<OwnedFd>,
    watched: reaper::ReapedGroup,
}

impl Group {
    pub(super) fn new(mut child: Child) -> Result<Self> {
        match i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            Some(pid) => Ok(Self { child, pid, end: end_of(pid), watched: reaper::watch(pid) }),
            None => {
                let _ = child.kill();
                Err(Error::new(format!("the system gave the program the impossible number {}", child.id())))
            }
        }
    }

    /// Listens until the program has ended, and ends it when the run should stop.
    pub(super) fn finish(mut self, cx: &Context, voice: &mut Voice) -> Result<ExitStatus> {
        let out = self.child.stdout.take().map(|pipe| Ear::new(pipe, Source::Out)).transpose()?;
        let err = self.child.stderr.take().map(|pipe| Ear::new(pipe, Source::Err)).transpose()?;
        let mut ears: Vec<Ear> = out.into_iter().chain(err).collect();
        let mut asked = None;
        let mut pause = SHORTEST;
        while !self.ended()? {
            self.wait(&ears, &mut pause)?;
            for ear in &mut ears {
                let _ = ear.hear(&mut |line| voice.tell(line));
            }
            match asked {
                None if cx.stopping() => {
                    let _ = kill_process_group(self.pid, Signal::TERM);
                    asked = Some(Instant::now());
                }
                Some(since) if since.elapsed() > GRACE => {
                    let _ = kill_process_group(self.pid, Signal::KILL);
                }
                _ => {}
            }
        }
        // The program has ended but is not yet reaped, so its number still names its group: whatever it left running ends too.
        let _ = kill_process_group(self.pid, Signal::KILL);
        // A process that left the group may hold the pipes open: what is in them now is all we wait for.
        for ear in &mut ears {
            ear.drain(&mut |line| voice.tell(line));
        }
        self.watched.end();
        self.child.wait().with_context(|| "cannot learn how the program ended")
    }

    /// Waits until the program prints something or ends, or for a moment.
    fn wait(&self, ears: &[Ear], pause: &mut Duration) -> Result<()> {
        let pipes = ears.iter().filter_map(Ear::pipe);
        let mut doors: Vec<PollFd<'_>> =
            pipes.chain(self.end.as_ref().map(AsFd::as_fd)).map(|door| PollFd::from_borrowed_fd(door, PollFlags::IN)).collect();
        if self.end.is_none() && doors.is_empty() {
            // Nobody holds its pipes: it ends now, or goes on in silence.
            thread::sleep(*pause);
            *pause = (*pause * 2).min(GLANCE);
            return Ok(());
        }
        let glance = Timespec { tv_sec: 0, tv_nsec: GLANCE.subsec_nanos().into() };
        match poll(&mut doors, Some(&glance)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(Error::from(io::Error::from(error)).context("cannot listen to the program")),
        }
    }

    fn ended(&self) -> Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.pid), options) {
            Ok(status) => Ok(status.is_some()),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(Error::from(io::Error::from(error)).context("cannot look after the program")),
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
