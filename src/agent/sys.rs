//! System calls that `rustix` offers only as unsafe.
//!
//! The agent's one module with unsafe code; each call says why it is sound.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::thread::UnshareFlags;

use crate::confine::Instruction;

/// Gives the process namespaces of its own for mounts and for control groups.
pub(crate) fn unshare_own() -> io::Result<()> {
    unshare(UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP)
}

/// Gives this process namespaces of its own.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    assert!(
        !flags.contains(UnshareFlags::FILES),
        "BUG: file descriptors must stay shared"
    );
    // SAFETY: the only unsound flag is ruled out above.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// `struct sock_fprog` of linux/filter.h.
#[repr(C)]
struct ExecProgram {
    length: u16,
    instructions: *const Instruction,
}

/// Lets this process, and those that it starts, make only the system calls that the filter allows.
pub(crate) fn filter_calls(filter: &[Instruction]) -> io::Result<()> {
    const PR_SET_SECCOMP: i32 = 22;
    const SECCOMP_MODE_FILTER: usize = 2;
    unsafe extern "C" {
        fn prctl(option: i32, mode: usize, filter: *const ExecProgram) -> i32;
    }
    let length = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = ExecProgram {
        length,
        instructions: filter.as_ptr(),
    };
    // SAFETY: prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER) reads one `struct sock_fprog` and the instructions that it
    // points to, which outlive the call.
    if unsafe { prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &raw const program) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
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
