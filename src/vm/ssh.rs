//! SSH into a machine, by a key that is made for one boot and never leaves its directory.
//! Knows OpenSSH's client, not what is run by it.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::VmError;
use super::access::{GuestError, Ran, WRAPPER};
use crate::base::bounded;
use crate::sandbox::die_with_parent;

/// The programs.
const SSH: &str = "ssh";
const KEYGEN: &str = "ssh-keygen";
/// How soon the end of a line is noticed.
const TICK: Duration = Duration::from_millis(20);
/// The most bytes of an output that are taken.
const MAX_OUTPUT: u64 = 128 << 10;

/// The user that a key of impasto's own lets in; may become root.
pub const USER: &str = "impasto";

/// How to get into a guest by SSH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshAccess {
    /// The private key's file.
    pub key: PathBuf,
    /// The port of 127.0.0.1 that leads into the guest.
    pub port: u16,
    pub user: String,
}

/// Makes a key in a private directory: the private key's file, and the public key.
///
/// # Errors
/// OpenSSH is not installed, or failed.
pub fn make_key(dir: &Path) -> Result<(PathBuf, String), VmError> {
    let path = dir.join("ssh-key");
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one home of machines"
    )]
    let made = Command::new(KEYGEN)
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "impasto", "-f"])
        .arg(&path)
        .stdin(Stdio::null())
        .output();
    let output = made.map_err(|error| no_program(KEYGEN, error))?;
    if !output.status.success() {
        return Err(VmError::io("make", &path)(std::io::Error::other(
            crate::base::escape::neutralise(&output.stderr),
        )));
    }
    let public = path.with_extension("pub");
    let text = bounded::read_text(&public, bounded::LINES).map_err(VmError::io("read", &public))?;
    Ok((path, text.trim().to_owned()))
}

fn no_program(program: &'static str, error: std::io::Error) -> VmError {
    match error.kind() {
        std::io::ErrorKind::NotFound => VmError::NoProgram {
            program,
            package: "openssh-client",
        },
        _ => VmError::io("start", program)(error),
    }
}

impl SshAccess {
    /// OpenSSH's client with all that gets it into the guest, but for what it is to run.
    pub fn command(&self) -> Command {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the one home of machines"
        )]
        let mut command = Command::new(SSH);
        command.args(["-q", "-F", "none", "-p", &self.port.to_string(), "-i"]);
        command.arg(&self.key);
        // Its host key is new at every boot.
        for option in [
            "BatchMode=yes",
            "ConnectTimeout=20",
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
        ] {
            command.args(["-o", option]);
        }
        command.arg(format!("{}@127.0.0.1", self.user));
        die_with_parent(&mut command, Signal::TERM);
        command
    }

    /// Runs a line as root; OpenSSH's own failure is exit code 255.
    pub(super) fn run(
        &self,
        line: &str,
        deadline: Instant,
        go_on: &mut dyn FnMut() -> Result<(), GuestError>,
    ) -> Result<Ran, GuestError> {
        let sudo = if self.user == "root" { "" } else { "sudo -n " };
        self.run_by(sudo, line, deadline, go_on)
    }

    /// Runs a line as the user that logs in.
    ///
    /// # Errors
    /// OpenSSH is not installed, or the line does not end by `deadline`.
    pub fn run_as_user(
        &self,
        line: &str,
        deadline: Instant,
        go_on: &mut dyn FnMut() -> Result<(), GuestError>,
    ) -> Result<Ran, GuestError> {
        self.run_by("", line, deadline, go_on)
    }

    fn run_by(
        &self,
        by: &str,
        line: &str,
        deadline: Instant,
        go_on: &mut dyn FnMut() -> Result<(), GuestError>,
    ) -> Result<Ran, GuestError> {
        let mut command = self.command();
        command.arg(format!(
            "{by}/bin/sh -c {} sh {}",
            quoted(WRAPPER),
            quoted(line)
        ));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let child = command.spawn().map_err(|error| no_program(SSH, error))?;
        let mut child = SshProcess(child);
        let stdout = child.0.stdout.take().expect("BUG: just piped");
        let stderr = child.0.stderr.take().expect("BUG: just piped");
        let read = |pipe: Box<dyn Read + Send>| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                // What was read before an error is better than nothing.
                let _ = pipe.take(MAX_OUTPUT).read_to_end(&mut bytes);
                bytes
            })
        };
        let (out, err) = (read(Box::new(stdout)), read(Box::new(stderr)));
        loop {
            let status = child.0.try_wait().map_err(VmError::io("wait for", SSH))?;
            if let Some(status) = status {
                let mut output = out.join().unwrap_or_default();
                output.extend(err.join().unwrap_or_default());
                return Ok(Ran::new(status.code().unwrap_or(255), &output));
            }
            go_on()?;
            if Instant::now() >= deadline {
                return Err(GuestError::TimedOut);
            }
            std::thread::sleep(TICK);
        }
    }
}

/// A process that has ended when this is dropped.
struct SshProcess(Child);

impl Drop for SshProcess {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A text as one word of a shell.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
