//! Runs one program of the toolbox: its output goes to the log, its last lines are kept for the error.
//! Knows processes, not what they are for.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::sandbox::ToolFailure;

/// Lines of a program's output that are kept.
const KEPT_LINES: usize = 200;

/// A program that is to be run.
pub(super) struct HostProgram {
    name: String,
    command: Command,
}

/// A program that has run.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// Its last lines, of both outputs.
    pub(super) lines: Vec<String>,
}

/// A program that has run, with all that it said.
pub(super) struct ProgramOutput {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl HostProgram {
    /// `name`, found in the usual directories, with nothing of the host's environment.
    pub(super) fn new(name: &str) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the inside of a sandbox, which runs programs"
        )]
        let mut command = Command::new(name);
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", "/root")
            .env("LANG", "C.UTF-8")
            .env("TZ", "UTC")
            .stdin(Stdio::null());
        crate::sandbox::confine(&mut command, false);
        HostProgram {
            name: name.to_owned(),
            command,
        }
    }

    pub(super) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    pub(super) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives it a file to read.
    pub(super) fn stdin(mut self, file: impl Into<Stdio>) -> Self {
        self.command.stdin(file);
        self
    }

    /// Starts it with a pipe for what it writes to its standard output; the rest goes nowhere.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(mut self) -> Result<Child, ToolFailure> {
        let child = self
            .command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        child.map_err(failed(&self.name, "start"))
    }

    /// Runs it to its end and gives all that it said, for programs that say little.
    ///
    /// # Errors
    /// It cannot be started. A program that fails is not an error but a status.
    pub(super) fn output(mut self) -> Result<ProgramOutput, ToolFailure> {
        let output = self.command.output().map_err(failed(&self.name, "start"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(ProgramOutput {
            status: output.status,
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        })
    }

    /// Runs it to its end; that it fails is an error, whose words are its last line.
    ///
    /// # Errors
    /// It cannot be started, or says that it failed.
    pub(super) fn succeed(self, log: &mut dyn FnMut(&[u8])) -> Result<(), ToolFailure> {
        let name = self.name.clone();
        let ended = self.run(log)?;
        if ended.status.success() {
            return Ok(());
        }
        let said = |line: &&String| !line.is_empty();
        let why = ended
            .lines
            .iter()
            .rev()
            .find(|line| line.starts_with("E: "))
            .or(ended.lines.iter().rev().find(said));
        let why = why.map_or(ended.status.to_string(), |line| {
            line.trim_start_matches("E: ").to_owned()
        });
        Err(ToolFailure::new(format!("`{name}` failed: {why}")))
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It cannot be started. A program that fails is not an error but a status.
    pub(super) fn run(mut self, log: &mut dyn FnMut(&[u8])) -> Result<Ended, ToolFailure> {
        let name = self.name.clone();
        let failed = |verb| failed(&name, verb);
        let (mut reader, writer) = io::pipe().map_err(failed("make a pipe for"))?;
        let copy = writer.try_clone().map_err(failed("make a pipe for"))?;
        let mut child = self
            .command
            .stdout(writer)
            .stderr(copy)
            .spawn()
            .map_err(failed("start"))?;
        // Our own ends of the pipe would keep it open.
        drop(self);
        let mut tail = OutputTail::default();
        let mut buffer = [0; 16 << 10];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    log(&buffer[..count]);
                    tail.push(&buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read from")(error)),
            }
        }
        let status = child.wait().map_err(failed("wait for"))?;
        Ok(Ended {
            status,
            lines: tail.finish(),
        })
    }
}

fn failed(name: &str, verb: &'static str) -> impl FnOnce(io::Error) -> ToolFailure {
    move |error| match error.kind() {
        io::ErrorKind::NotFound => ToolFailure {
            message: format!("the program `{name}` is not installed on this host"),
            help: Some(format!("install it: apt-get install {name}")),
        },
        _ => ToolFailure::new(format!("cannot {verb} `{name}`: {error}")),
    }
}

/// The last lines of what comes in pieces.
#[derive(Default)]
struct OutputTail {
    lines: std::collections::VecDeque<String>,
    open: Vec<u8>,
}

impl OutputTail {
    fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.open.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.line();
            }
        }
    }

    fn line(&mut self) {
        let line = String::from_utf8_lossy(&self.open).trim_end().to_owned();
        self.open.clear();
        if self.lines.len() == KEPT_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    fn finish(mut self) -> Vec<String> {
        if !self.open.is_empty() {
            self.line();
        }
        self.lines.into()
    }
}
