//! The supervisor as impasto sees it: a process to start, to talk to, and to wait for.
//! Knows processes and time, not what is said.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::supervisor::SUPERVISOR_ARGUMENT;
use crate::base::bounded;
use crate::base::cancel::CancelToken;
use crate::sandbox::SandboxError;
use crate::sandbox::limits::Group;
use crate::sandbox::link::Link;

/// Killing takes milliseconds; after this long something is stuck in the kernel.
const END_DEADLINE: Duration = Duration::from_secs(60);

/// The supervisor's process. Its death signal is bound to the thread that starts it, so that thread must wait for it.
pub(super) struct Supervisor {
    child: Child,
    socket: Option<UnixStream>,
    log: PathBuf,
}

impl Supervisor {
    pub(super) fn start(executable: &Path, work: &Path) -> Result<Self, SandboxError> {
        let log = work.join("supervisor.log");
        let (ours, theirs) =
            UnixStream::pair().map_err(SandboxError::io("make", "a socket pair"))?;
        let stderr = File::create(&log).map_err(SandboxError::io("create", &log))?;
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the sandbox, which runs programs"
        )]
        let child = Command::new(executable)
            .arg(SUPERVISOR_ARGUMENT)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(stderr)
            // What is typed at the terminal is for impasto, which ends the sandbox in its own way.
            .process_group(0)
            .spawn()
            .map_err(SandboxError::io("start", executable))?;
        Ok(Self {
            child,
            socket: Some(ours),
            log,
        })
    }

    pub(super) fn link(
        &mut self,
        deadline: Option<Instant>,
        cancel: CancelToken,
        group: Option<Group>,
    ) -> Result<Link, SandboxError> {
        let socket = self.socket.take().expect("BUG: the link is taken once");
        Link::new(socket, deadline, cancel, group).map_err(SandboxError::io("use", "a socket"))
    }

    /// Waits for the end of everything; the channel must be closed. True after exit 0.
    pub(super) fn end(&mut self) -> Result<bool, SandboxError> {
        let wait = |error| SandboxError::io("wait for", "the supervisor")(error);
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().map_err(wait)? {
                return Ok(status.success());
            }
            if begun.elapsed() > END_DEADLINE {
                let _ = self.child.kill();
                return Err(self.broken(format!(
                    "its processes are still running {END_DEADLINE:?} after they were killed"
                )));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    pub(super) fn broken(&self, reason: String) -> SandboxError {
        let mut log = Vec::new();
        if let Ok(file) = bounded::open(&self.log) {
            // What can be read of it is enough.
            let _ = file.take(4096).read_to_end(&mut log);
        }
        let log = String::from_utf8_lossy(&log)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        SandboxError::Broken { reason, log }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // After `end` both do nothing; before it nobody is left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
