//! Lines run in a guest: by its agent, else by SSH, else at its console.
//! Knows the three ways and their order; no file is ever written into the guest for them.

use std::time::{Duration, Instant};

use serde_json::json;

use super::agent::{self, ask_agent};
use super::machine::{Machine, Trouble};
use super::ssh::SshAccess;
use super::{VmError, console_shell};
use crate::base::cancel::CancelToken;
use crate::base::escape::neutralise;

/// What a shell does with a line, which is its `$1`: standard output and standard error become one, of which 64 KiB are
/// kept, and the exit code is the line's.
pub(super) const WRAPPER: &str = "exec 3>&1; c=$({ { /bin/sh -c \"$1\" 3>&- 4>&- </dev/null; echo $? >&4; } 2>&1 | \
    { head -c 65536; cat >/dev/null; } >&3; } 4>&1); exit \"$c\"";

/// How long a guest that has both is given for its agent once SSH may work.
const AGENT_FIRST: Duration = Duration::from_secs(45);
/// How long one try of SSH may take.
const SSH_TRY: Duration = Duration::from_secs(30);
/// How often what may come is looked for.
const TICK: Duration = Duration::from_millis(200);
/// The most lines of an output that are told, and of characters in them.
const MAX_LINES: usize = 200;

/// What a login prompt ends with.
pub const LOGIN: &str = "login:";

/// How lines get into a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestAccess {
    Agent,
    Ssh,
    Console,
}

impl GuestAccess {
    /// Its name, for reports and for people.
    pub fn name(self) -> &'static str {
        match self {
            GuestAccess::Agent => "the guest agent",
            GuestAccess::Ssh => "SSH",
            GuestAccess::Console => "the console",
        }
    }
}

/// The ways that a guest may have.
#[derive(Debug, Clone)]
pub struct AccessOffer {
    pub agent: bool,
    pub ssh: Option<SshAccess>,
    /// Whether its console may have a shell.
    pub console: bool,
}

/// A line that was run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// What it wrote, as lines that are safe to show.
    pub output: Vec<String>,
}

impl Ran {
    pub(super) fn new(code: i32, output: &[u8]) -> Self {
        let text = output.strip_suffix(b"\n").unwrap_or(output);
        let lines = text.split(|byte| *byte == b'\n').map(neutralise);
        let mut output: Vec<_> = match text {
            [] => Vec::new(),
            _ => lines.collect(),
        };
        if output.len() > MAX_LINES {
            let excess = output.len() - MAX_LINES;
            output.drain(..excess);
            output.insert(0, format!("[{excess} lines before this are left out]"));
        }
        Ran { code, output }
    }
}

/// Why a line could not be run in a guest.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    #[error("{}: {}", .0.what, .0.line)]
    Trouble(Trouble),
    #[error("the machine switched itself off")]
    Ended,
    #[error("cancelled")]
    Cancelled,
    #[error("it did not end in time")]
    TimedOut,
    /// No way in by the end of the time.
    #[error("{0}")]
    NoAccess(String),
    #[error("{who} gave an answer that means nothing")]
    Nonsense { who: &'static str },
    #[error("{who} refused: {reason}")]
    Refused { who: &'static str, reason: String },
    #[error(transparent)]
    Vm(#[from] VmError),
}

impl Machine {
    /// Whether there is sense in waiting for the guest.
    ///
    /// # Errors
    /// It comes no further, the machine has ended, or the wait was cancelled.
    pub fn go_on(&mut self, cancel: &CancelToken) -> Result<(), GuestError> {
        if let Some(trouble) = self.trouble() {
            return Err(GuestError::Trouble(trouble));
        }
        if self.has_ended()? {
            // Where QEMU gave up, it says why.
            self.wait(None, cancel)?;
            return Err(GuestError::Ended);
        }
        if cancel.is_cancelled() {
            return Err(GuestError::Cancelled);
        }
        Ok(())
    }

    /// Waits for the best way in that a guest has.
    ///
    /// # Errors
    /// None of them works by `deadline`, or there is no sense in waiting for it any longer.
    pub fn wait_for_access(
        &mut self,
        offer: &AccessOffer,
        deadline: Instant,
        cancel: &CancelToken,
    ) -> Result<GuestAccess, GuestError> {
        self.watch(LOGIN);
        let ping = json!({"execute": "guest-ping"});
        loop {
            self.go_on(cancel)?;
            if offer.agent {
                let turn = Duration::from_secs(1);
                let answer = ask_agent(self.dir(), super::machine::AGENT, &ping, turn);
                if answer.is_ok() {
                    return Ok(GuestAccess::Agent);
                }
            }
            let login = self.saw(LOGIN);
            let is_late = login.is_some_and(|login| self.uptime() > login + AGENT_FIRST);
            if let Some(ssh) = &offer.ssh
                && (!offer.agent || is_late)
            {
                let turn = deadline.min(Instant::now() + SSH_TRY);
                if ssh.run("true", turn, &mut || self.go_on(cancel))?.code == 0 {
                    return Ok(GuestAccess::Ssh);
                }
            }
            if offer.console && console_shell::has_prompt(self) {
                return Ok(GuestAccess::Console);
            }
            // A console that asks for a login lets nobody in.
            let is_closed = login.is_some() && !offer.agent && offer.ssh.is_none();
            if is_closed || Instant::now() >= deadline {
                return Err(GuestError::NoAccess(self.no_access(offer, login.is_some())));
            }
            std::thread::sleep(TICK);
        }
    }

    /// How far a guest came that let nobody in.
    fn no_access(&self, offer: &AccessOffer, login: bool) -> String {
        let mut ways = Vec::new();
        if offer.agent {
            ways.push("its guest agent did not answer");
        }
        if offer.ssh.is_some() {
            ways.push("SSH did not let the key of this boot in");
        }
        if offer.console {
            ways.push("its console showed no shell");
        }
        let ways = if ways.is_empty() {
            "it has neither a guest agent nor cloud-init and an SSH server".to_owned()
        } else {
            ways.join(", ")
        };
        let shown = self.console_lines().join("\n");
        let has = |texts: &[&str]| texts.iter().any(|text| shown.contains(text));
        let far = if login {
            "the guest booted to its login prompt"
        } else if has(&["Linux version", "Booting Linux"]) {
            if has(&["systemd[1]", "Welcome to "]) {
                "the system started and did not get as far as a login prompt"
            } else if has(&["Run /init as init process", "Loading, please wait"]) {
                "it did not get further than the initramfs"
            } else {
                "the kernel started and did not get as far as a login prompt"
            }
        } else if has(&["GNU GRUB", "Welcome to GRUB", "grub>"]) {
            "it did not get further than the boot loader"
        } else if shown.trim().is_empty() {
            "nothing came on its serial console"
        } else {
            "it did not get as far as a login prompt"
        };
        format!("{far}: {ways}")
    }

    /// Runs a line by a shell, as root.
    ///
    /// # Errors
    /// It does not end by `deadline`, cannot be run, or there is no sense in waiting for it any longer.
    pub fn run_line(
        &mut self,
        access: GuestAccess,
        offer: &AccessOffer,
        line: &str,
        deadline: Instant,
        cancel: &CancelToken,
    ) -> Result<Ran, GuestError> {
        match (access, &offer.ssh) {
            (GuestAccess::Agent, _) => {
                let dir = self.dir().to_owned();
                agent::run(&dir, super::machine::AGENT, line, deadline, &mut || {
                    self.go_on(cancel)
                })
            }
            (GuestAccess::Ssh, Some(ssh)) => ssh.run(line, deadline, &mut || self.go_on(cancel)),
            (GuestAccess::Ssh, None) => panic!("BUG: a way in that was not offered"),
            (GuestAccess::Console, _) => console_shell::run(self, line, deadline, cancel),
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "the shell here is the one that guests have"
)]
mod tests {
    use super::*;

    #[test]
    fn the_wrapper_keeps_exit_code_and_a_bounded_output() {
        let run = |line: &str| {
            std::process::Command::new("/bin/sh")
                .args(["-c", WRAPPER, "sh", line])
                .output()
                .unwrap()
        };
        let output = run("echo out; echo err >&2; exit 7");
        assert_eq!(output.status.code(), Some(7));
        assert_eq!(output.stdout, b"out\nerr\n");
        let flood = run("yes | head -c 3000000; exit 3");
        assert_eq!((flood.status.code(), flood.stdout.len()), (Some(3), 65536));
        assert_eq!(run("kill -9 $$").status.code(), Some(137));
    }
}
