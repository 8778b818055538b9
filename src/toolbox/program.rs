//! Runs one program of the toolbox: its output goes to the log, its last lines are kept for the error.
//! Knows processes, not what they are for.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use super::ToolFailure;

/// Lines of a program's output that are kept.
const KEPT_LINES: usize = 200;

/// A program that is to be run.
pub(super) struct Program {
    name: String,
    command: Command,
}

/// A program that has run.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// Its last lines, of both outputs.
    pub(super) lines: Vec<String>,
}

impl Program {
    /// `name`, found in the usual directories, with nothing of the host's environment.
    pub(super) fn new(name: &str) -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the inside of a sandbox, which runs programs")]
        let mut command = Command::new(name);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("LANG", "C.UTF-8")
            .env("TZ", "UTC")
            .stdin(Stdio::null());
        Program { name: name.to_owned(), command }
    }

    pub(super) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    pub(super) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(super) fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It cannot be started. A program that fails is no error but a status.
    pub(super) fn run(mut self, log: &mut dyn FnMut(&[u8])) -> Result<Ended, ToolFailure> {
        let name = self.name.clone();
        let failed = |verb: &'static str| {
            let name = name.clone();
            move |error: io::Error| match error.kind() {
                io::ErrorKind::NotFound => ToolFailure {
                    message: format!("the program `{name}` is not installed on this host"),
                    help: Some(format!("install it: apt-get install {name}")),
                },
                _ => ToolFailure { message: format!("cannot {verb} `{name}`: {error}"), help: None },
            }
        };
        let (mut reader, writer) = io::pipe().map_err(failed("make a pipe for"))?;
        let copy = writer.try_clone().map_err(failed("make a pipe for"))?;
        let mut child = self.command.stdout(writer).stderr(copy).spawn().map_err(failed("start"))?;
        // Our own ends of the pipe would keep it open.
        drop(self);
        let mut tail = Tail::default();
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
        Ok(Ended { status, lines: tail.finish() })
    }
}

/// The last lines of what comes in pieces.
#[derive(Default)]
struct Tail {
    lines: std::collections::VecDeque<String>,
    open: Vec<u8>,
}

impl Tail {
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
