//! What the user's interrupt does: the first asks for an orderly end where there is something to put in order, the second
//! ends the process at once.
//! Knows signals and time; what is put in order is the listener's business.
//!
//! A kill at any moment loses nothing, so where nobody listens the first interrupt ends the process too: until the first
//! listener there is neither a handler nor a thread, and a signal does what it does to any program. A listener has
//! [`GRACE`]: sandboxes and machines die with the process, whatever it is that does not end.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use signal_hook::low_level::pipe;

use super::bounded;
use super::cancel::CancelToken;

/// How long listeners have for an orderly end.
pub const GRACE: Duration = Duration::from_secs(5);
/// Sent to who writes beyond the limit of file sizes.
const XFSZ: i32 = Signal::XFSZ.as_raw();
/// The exit code of an interrupted process.
pub const EXIT_CODE: u8 = 130;

/// What the process was asked by signals. Clones are one.
#[derive(Debug, Clone)]
pub struct Interrupt {
    cancel: CancelToken,
    listeners: Arc<AtomicUsize>,
    /// Set when signals are watched.
    watched: Arc<OnceLock<()>>,
    end: fn() -> !,
}

/// Somebody who ends in order when the process is interrupted; until it is dropped.
#[derive(Debug)]
pub struct Listener {
    interrupt: Interrupt,
}

impl Interrupt {
    /// `end` ends the process where an orderly end is not waited for. It may wait for nothing: another thread may hold the
    /// standard streams' locks.
    pub fn new(end: fn() -> !) -> Self {
        Interrupt {
            cancel: CancelToken::new(),
            listeners: Arc::default(),
            watched: Arc::default(),
            end,
        }
    }

    /// From now on an interrupt cancels the listener's token, which has to be looked at.
    ///
    /// The first one has SIGINT, SIGTERM and SIGHUP watched, but for those that the process was started to ignore
    /// (`nohup`). And a write beyond the limit of file sizes (RLIMIT_FSIZE) is an error from then on, and ends no process.
    pub fn listen(&self) -> Listener {
        self.listeners.fetch_add(1, Ordering::SeqCst);
        self.watched.get_or_init(|| self.watch());
        Listener {
            interrupt: self.clone(),
        }
    }

    /// Where signals cannot be watched they do what they do to any program.
    fn watch(&self) {
        if let Err(error) = self.handle() {
            tracing::debug!(%error, "signals are not watched");
        }
    }

    /// Whether the process was interrupted while somebody listened.
    pub fn is_interrupted(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Watches signals on a thread of their own. They are handled when this returns.
    fn handle(&self) -> io::Result<()> {
        let (arrived, writer) = UnixStream::pair()?;
        let ignored = ignored();
        // A handler, unlike what is ignored, is not inherited by the programs that are started.
        signal_hook::flag::register(XFSZ, Arc::default())?;
        for signal in [Signal::INT, Signal::TERM, Signal::HUP].map(Signal::as_raw) {
            if ignored & (1 << (signal - 1)) == 0 {
                pipe::register(signal, writer.try_clone()?)?;
            }
        }
        let watched = self.clone();
        let wait = move || {
            // Where all signals are ignored nothing else holds this end, and its being closed would pass for a signal.
            let _held = writer;
            watched.obey(&arrived)
        };
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(wait)?;
        Ok(())
    }

    /// Waits for signals, on the thread that is theirs.
    fn obey(&self, arrived: &UnixStream) {
        if let Err(error) = next(arrived, None) {
            tracing::debug!(%error, "signals are not watched");
            return;
        }
        if self.listeners.load(Ordering::SeqCst) > 0 {
            self.cancel.cancel();
            // The second one, or the end of patience.
            let _ = next(arrived, Some(GRACE));
        }
        (self.end)();
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
    let time = time.map(|time| Timespec {
        tv_sec: time.as_secs().cast_signed(),
        tv_nsec: 0,
    });
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
    let status = bounded::read_text("/proc/self/status", bounded::LINES).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}
