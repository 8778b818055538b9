//! The user's terminal on its way into a sandbox and back.
//!
//! Knows file descriptors and terminals, not who types. Only the namespace sandbox can hand descriptors over.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::Pid;
use rustix::termios::{
    OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr, tcsetpgrp,
};

use super::sys;

/// Standard input, output and error for a shell.
pub(super) struct ShellTerminal {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Hands this process's standard streams over, with one byte.
pub(super) fn send(socket: &UnixStream) -> io::Result<()> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let fds = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(
        control.push(SendAncillaryMessage::ScmRights(&fds)),
        "BUG: the buffer holds three descriptors"
    );
    match sendmsg(
        socket,
        &[IoSlice::new(&[0])],
        &mut control,
        SendFlags::NOSIGNAL,
    )? {
        1 => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Receives what [`send`] sent.
pub(super) fn receive(socket: &File) -> io::Result<ShellTerminal> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let mut fds = fds.next().ok_or(io::ErrorKind::InvalidData)?;
    match (fds.next(), fds.next(), fds.next()) {
        (Some(stdin), Some(stdout), Some(stderr)) => Ok(ShellTerminal {
            stdin,
            stdout,
            stderr,
        }),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// How the user's terminal was before a shell had it.
pub(crate) struct SavedTerminal(Option<(Pid, Termios)>);

/// What was saved last and is not restored yet, for a process that has to end at once.
static LAST: Mutex<Option<(Pid, Termios)>> = Mutex::new(None);

impl SavedTerminal {
    /// Looks at standard input; what is no terminal needs no saving.
    pub(crate) fn new() -> Self {
        let stdin = io::stdin();
        if !isatty(&stdin) {
            return Self(None);
        }
        let saved = tcgetpgrp(&stdin).ok().zip(tcgetattr(&stdin).ok());
        LAST.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&saved);
        Self(saved)
    }

    /// Takes the terminal back. What cannot be restored is left: the user's own shell puts it right as well.
    pub(crate) fn restore(self) {
        restore(self.0, OptionalActions::Drain);
        LAST.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Takes back a terminal that a shell or a machine still has, for a process that ends at once. Waits for nothing.
pub fn restore_terminal() {
    if let Ok(mut last) = LAST.try_lock() {
        restore(last.take(), OptionalActions::Now);
    }
}

fn restore(saved: Option<(Pid, Termios)>, when: OptionalActions) {
    if let Some((group, attributes)) = saved {
        sys::ignore_background_output();
        let _ = tcsetpgrp(io::stdin(), group);
        let _ = tcsetattr(io::stdin(), when, &attributes);
    }
}
