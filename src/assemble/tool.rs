//! Runs the programs that write what is not written here, each with a fixed environment.
//! Knows processes, not what they are asked to do.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::error::AssembleError;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program with its arguments and environment.
pub(super) struct Tool {
    program: &'static str,
    command: Command,
}

impl Tool {
    /// A program of the toolbox.
    pub(super) fn new(program: &'static str, epoch: u64) -> Tool {
        Self::named(program, program, epoch)
    }

    /// A program of the tree, run inside it.
    pub(super) fn in_tree(program: &'static str, path: &str, tree: &Path, epoch: u64) -> Tool {
        Self::named("chroot", program, epoch).arg(tree).arg(path)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this runs inside the sandbox, which runs programs"
    )]
    fn named(start: &str, program: &'static str, epoch: u64) -> Tool {
        let mut command = Command::new(start);
        command.env_clear().stdin(Stdio::null()).current_dir("/");
        let fixed = [
            ("PATH", PATH),
            ("LC_ALL", "C"),
            ("TZ", "UTC"),
            ("HOME", "/"),
        ];
        command
            .envs(fixed)
            .env("SOURCE_DATE_EPOCH", epoch.to_string());
        // It copies the attributes of a tree's files.
        crate::sandbox::confine(&mut command, start == "mke2fs");
        Tool { program, command }
    }

    pub(super) fn arg(mut self, argument: impl AsRef<OsStr>) -> Tool {
        self.command.arg(argument);
        self
    }

    pub(super) fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Tool {
        self.command.args(arguments);
        self
    }

    pub(super) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Tool {
        self.command.env(name, value);
        self
    }

    /// Has it change no file's size.
    pub(super) fn keep_sizes(mut self) -> Tool {
        crate::sandbox::keep_sizes(&mut self.command);
        self
    }

    /// Runs it to its end and gives what it wrote to its standard output.
    ///
    /// # Errors
    /// It cannot be started, or says that it failed.
    pub(super) fn run(self) -> Result<Vec<u8>, AssembleError> {
        let program = self.program;
        let output = self.output()?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let mut lines: Vec<_> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .rev()
            .take(4)
            .collect();
        lines.reverse();
        let message = if lines.is_empty() {
            output.status.to_string()
        } else {
            lines.join("; ")
        };
        Err(AssembleError::Tool { program, message })
    }

    /// Runs it to its end and gives what it wrote and how it ended.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn output(mut self) -> Result<Output, AssembleError> {
        self.command
            .output()
            .map_err(AssembleError::io("start", self.program))
    }
}
