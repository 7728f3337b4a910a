//! Signals: what stops a run in good order, and what suspends it.

use crate::error::{Result, ResultExt};
use pipeline::process::suspend::suspend;
use pipeline::scheduler::StopSignal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

/// Installs signal handlers: the first SIGINT or SIGTERM requests a stop, a second one ends the program with exit code 130. SIGHUP, which a
/// closed terminal sends, requests a stop too, and never counts as the second one: shells and systemd send it after, or besides, another signal.
/// SIGTSTP (Ctrl-Z) stops the programs of the stages with this one. What the starter of this program chose to ignore (`nohup`) is ignored.
pub(super) fn listen() -> Result<StopSignal> {
    let stop = StopSignal::default();
    let armed = Arc::new(AtomicBool::new(false));
    let installing = || "cannot install signal handlers";
    let ignored = ignored();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&armed))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&armed)))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop.asked)))
            .with_context(installing)?;
    }
    if !ignored.contains(&SIGHUP) {
        signal_hook::flag::register(SIGHUP, Arc::clone(&stop.asked)).with_context(installing)?;
    }
    if !ignored.contains(&SIGTSTP) {
        let mut signals = Signals::new([SIGTSTP]).with_context(installing)?;
        thread::Builder::new()
            .name("suspend".to_owned())
            .spawn(move || signals.forever().for_each(|signal| suspend(|| _ = emulate_default_handler(signal))))
            .with_context(installing)?;
    }
    Ok(stop)
}

/// Those of SIGHUP and SIGTSTP that were ignored when this program was started.
#[cfg(target_os = "linux")]
fn ignored() -> Vec<i32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok()).unwrap_or(0);
    [SIGHUP, SIGTSTP].into_iter().filter(|signal| mask >> (signal - 1) & 1 == 1).collect()
}

/// Those of SIGHUP and SIGTSTP that were ignored when this program was started. Without a way to ask, a program that prints to no terminal counts
/// as one that `nohup` started.
#[cfg(not(target_os = "linux"))]
fn ignored() -> Vec<i32> {
    use std::io::IsTerminal;
    if std::io::stdout().is_terminal() || std::io::stderr().is_terminal() { Vec::new() } else { vec![SIGHUP] }
}
