//! System calls that `rustix` offers only as unsafe.
//!
//! The agent's one module with unsafe code; each call says why it is sound.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::thread::UnshareFlags;

/// Gives the process a mount name space of its own.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: NEWNS does not touch file descriptors, the one thing that makes the call unsound.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?)
}

/// Takes a file descriptor that the parent left open under this number; `None` where there is none.
///
/// To be called once for a number.
pub(crate) fn inherited(number: RawFd) -> Option<OwnedFd> {
    let open = number > 2 && std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok();
    // SAFETY: it is open, and nobody in this process owns it: Rust opens none under a number that was passed in.
    open.then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// What becomes of a process that touches its terminal from the background: nothing, or what is usual.
pub(crate) fn ignore_background_output(ignore: bool) {
    const SIGTTOU: i32 = 22;
    const SIG_DFL: usize = 0;
    const SIG_IGN: usize = 1;
    unsafe extern "C" {
        fn signal(signal: i32, handler: usize) -> usize;
    }
    // SAFETY: neither handler is code of ours; the call cannot fail for this signal.
    unsafe { signal(SIGTTOU, if ignore { SIG_IGN } else { SIG_DFL }) };
}
