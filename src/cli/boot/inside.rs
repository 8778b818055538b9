//! What `impasto boot` does in a guest: runs a command, or logs in.
//! Knows what the user sees of it; [`crate::vm::access`] gets in.

use std::time::{Duration, Instant};

use super::Boot;
use crate::base::cancel::CancelToken;
use crate::cli::error::CliError;
use crate::cli::exit;
use crate::cli::session::Session;
use crate::ui;
use crate::vm::access::{AccessOffer, GuestError};
use crate::vm::machine::Machine;
use crate::vm::ssh::SshAccess;

/// How long a guest may take to let somebody in, where the user says nothing.
const PATIENCE: Duration = Duration::from_secs(600);
/// The most lines of the console that are shown where nobody got in.
const SHOWN: usize = 20;

impl Boot {
    /// Runs the command, or logs in: the exit code.
    pub(super) fn inside(
        &self,
        session: &Session,
        machine: &mut Machine,
        ssh: Option<SshAccess>,
        deadline: Option<Instant>,
        cancel: &CancelToken,
    ) -> Result<u8, CliError> {
        let offer = AccessOffer {
            agent: !self.ssh,
            console: !self.ssh,
            ssh,
        };
        let deadline = deadline.unwrap_or_else(|| Instant::now() + PATIENCE);
        let done = machine
            .wait_for_access(&offer, deadline, cancel)
            .and_then(|access| {
                let Some(line) = &self.run else {
                    return Ok(None);
                };
                tracing::debug!(by = access.name(), after = ?session.start.elapsed(), "got in");
                let ran = machine.run_line(access, &offer, line, deadline, cancel)?;
                Ok(Some(ran))
            });
        match (done, &offer.ssh) {
            (Ok(Some(ran)), _) => {
                let mut text = ran.output.join("\n");
                if !text.is_empty() {
                    text.push('\n');
                }
                ui::output(&text)?;
                Ok(u8::try_from(ran.code).unwrap_or(exit::STAGE))
            }
            (Ok(None), Some(ssh)) => {
                let status = ssh.command().status();
                let status = status.map_err(CliError::io("start", "ssh"))?;
                let code = status.code().and_then(|code| u8::try_from(code).ok());
                Ok(code.unwrap_or(exit::STAGE))
            }
            (Ok(None), None) => panic!("BUG: nothing to log in with"),
            (Err(GuestError::Cancelled), _) => Ok(exit::INTERRUPTED),
            (Err(GuestError::Vm(error)), _) => Err(error.into()),
            (Err(error), _) => {
                let lines = machine.console_lines();
                let last = lines.iter().filter(|line| !line.trim().is_empty());
                let last: Vec<_> = last.cloned().collect();
                for line in &last[last.len().saturating_sub(SHOWN)..] {
                    ui::message(&format!("  {line}"));
                }
                ui::message(&format!("error: {error}"));
                Ok(exit::STAGE)
            }
        }
    }
}
