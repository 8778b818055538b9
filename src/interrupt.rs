//! What the user's interrupt does: the first asks for an orderly end where there is something to put in order, the second
//! ends the process at once.
//! Knows signals and time; what is put in order is the listener's business.
//!
//! A kill at any moment loses nothing, so where nobody listens the first interrupt ends the process too. A listener has
//! [`GRACE`]: sandboxes and machines die with the process, whatever it is that does not end.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use signal_hook::low_level::pipe;

use crate::sandbox::{CancelToken, SavedTerminal};

/// How long listeners have for an orderly end.
pub const GRACE: Duration = Duration::from_secs(5);
/// Sent to who writes beyond the limit of file sizes.
const XFSZ: i32 = Signal::XFSZ.as_raw();
/// The exit code of an interrupted process.
pub const EXIT_CODE: u8 = 130;

/// What the process was asked by signals. Clones are one.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    cancel: CancelToken,
    listeners: Arc<AtomicUsize>,
}

/// Somebody who ends in order when the process is interrupted; until it is dropped.
#[derive(Debug)]
pub struct Listener {
    interrupt: Interrupt,
}

impl Interrupt {
    /// Watches SIGINT, SIGTERM and SIGHUP on a thread of its own, but for those that the process was started to ignore
    /// (`nohup`). Where there cannot be such a thread, a signal does what it does to any program.
    ///
    /// A write beyond the limit of file sizes (RLIMIT_FSIZE) is an error from then on, and ends no process.
    pub fn watch() -> Interrupt {
        // A handler, unlike what is ignored, is not inherited by the programs that are started.
        if let Err(error) = signal_hook::flag::register(XFSZ, Arc::default()) {
            tracing::debug!(%error, "SIGXFSZ is not handled");
        }
        let interrupt = Interrupt::default();
        let watched = interrupt.clone();
        let thread = std::thread::Builder::new().name("signals".to_owned());
        if let Err(error) = thread.spawn(move || watched.run()) {
            tracing::debug!(%error, "signals are not watched");
        }
        interrupt
    }

    /// From now on an interrupt cancels the listener's token, which has to be looked at.
    pub fn listen(&self) -> Listener {
        self.listeners.fetch_add(1, Ordering::SeqCst);
        Listener { interrupt: self.clone() }
    }

    /// Whether the process was interrupted while somebody listened.
    pub fn is_interrupted(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Waits for signals, on the thread that is theirs.
    fn run(&self) {
        if let Err(error) = self.handle() {
            tracing::debug!(%error, "signals are not watched");
        }
    }

    fn handle(&self) -> io::Result<()> {
        let (arrived, writer) = UnixStream::pair()?;
        let ignored = ignored();
        for signal in [Signal::INT, Signal::TERM, Signal::HUP].map(Signal::as_raw) {
            if ignored & (1 << (signal - 1)) == 0 {
                pipe::register(signal, writer.try_clone()?)?;
            }
        }
        next(&arrived, None)?;
        if self.listeners.load(Ordering::SeqCst) > 0 {
            self.cancel.cancel();
            // The second one, or the end of patience.
            next(&arrived, Some(GRACE))?;
        }
        // Nothing that may wait is done here: another thread may hold the streams' locks.
        SavedTerminal::restore_last();
        std::process::exit(EXIT_CODE.into());
    }
}

impl Listener {
    /// Is cancelled when the process is interrupted.
    pub fn token(&self) -> CancelToken {
        self.interrupt.cancel.clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.interrupt.listeners.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Waits for the next signal, of which each writes a byte, or until the time is over.
fn next(mut arrived: &UnixStream, time: Option<Duration>) -> io::Result<()> {
    let time = time.map(|time| Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: 0 });
    loop {
        match poll(&mut [PollFd::new(arrived, PollFlags::IN)], time.as_ref()) {
            Ok(0) => return Ok(()),
            Ok(_) => return io::Read::read(&mut arrived, &mut [0]).map(drop),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The signals that this process was started to ignore, a bit each (proc(5)); none where the kernel does not say.
fn ignored() -> u64 {
    let status = crate::bounded::read_text("/proc/self/status", crate::bounded::LINES).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
