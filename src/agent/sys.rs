//! System calls that `rustix` offers only as unsafe.
//!
//! The agent's one module with unsafe code; each call says why it is sound.
#![allow(unsafe_code)]

use std::io;

use rustix::thread::UnshareFlags;

/// Gives the process a mount name space of its own.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: NEWNS does not touch file descriptors, the one thing that makes the call unsound.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?)
}
