//! A running program with everything it started: watched, asked to end, and made to.

use super::lines::{Line, Source, listen};
use super::voice::Voice;
use crate::error::{Doing, Error, Result};
use crate::leash::Leash;
use crate::stage::Context;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a program that is asked to end may take before it is made to.
const GRACE: Duration = Duration::from_secs(5);
/// How often a quiet program is looked at.
const GLANCE: Duration = Duration::from_millis(50);
/// The first wait for a program that has closed its pipes.
const SHORTEST: Duration = Duration::from_micros(50);

/// The running program and everything it started; nothing of it survives this value.
pub(super) struct Group {
    child: Child,
    pid: Pid,
}

impl Group {
    pub(super) fn new(mut child: Child) -> Result<Self> {
        match i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            Some(pid) => Ok(Self { child, pid }),
            None => {
                let _ = child.kill();
                Err(Error::new(format!("the system gave the program the impossible number {}", child.id())))
            }
        }
    }

    /// Listens until the program has ended, and ends it when the run should stop.
    pub(super) fn finish(mut self, cx: &Context, voice: &mut Voice) -> Result<ExitStatus> {
        let (sender, lines) = sync_channel(256);
        let out = self.child.stdout.take().map(|pipe| listen(pipe, Source::Out, sender.clone()));
        let err = self.child.stderr.take().map(|pipe| listen(pipe, Source::Err, sender));
        let mut asked = None;
        let mut pause = SHORTEST;
        loop {
            let glance = lines.recv_timeout(GLANCE);
            match glance {
                Ok(line) => voice.tell(line),
                Err(RecvTimeoutError::Timeout) => {}
                // Nobody holds its pipes: it ends now, or goes on in silence.
                Err(RecvTimeoutError::Disconnected) => {
                    thread::sleep(pause);
                    pause = (pause * 2).min(GLANCE);
                }
            }
            if self.ended()? {
                break;
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
        drain(&lines, voice);
        drop((out, err));
        self.child.wait().doing(|| "cannot learn how the program ended")
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

/// Takes what is still in the pipes. A process that left the group may hold them open: we wait for it only briefly.
fn drain(lines: &Receiver<Line>, voice: &mut Voice) {
    let until = Instant::now() + GRACE;
    while Instant::now() < until
        && let Ok(line) = lines.recv_timeout(Duration::from_secs(1))
    {
        voice.tell(line);
    }
}

/// Hands a lock on to the program, and asks the kernel to end it when we are killed without a chance to do so ourselves.
pub(super) fn tie(command: &mut Command, leash: &Leash) {
    let leash = leash.as_raw_fd();
    let ask = move || {
        // SAFETY: the file is open in the process that forked, which waits in `spawn` and holds it meanwhile.
        #[allow(unsafe_code, reason = "a number is all that may cross a fork")]
        let leash = unsafe { BorrowedFd::borrow_raw(leash) };
        rustix::io::fcntl_setfd(leash, rustix::io::FdFlags::empty())?;
        #[cfg(target_os = "linux")]
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; these are a `fcntl` and a `prctl`.
    #[allow(unsafe_code, reason = "the one way to say this before the program starts")]
    unsafe {
        command.pre_exec(ask);
    }
}
