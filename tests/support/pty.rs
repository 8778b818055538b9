//! A command on a terminal: a real pty, read by a terminal's emulator, which wraps lines again when its size changes.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A command that runs on a terminal.
pub(crate) struct Pty {
    child: Child,
    master: OwnedFd,
    read: Receiver<Vec<u8>>,
    /// What came and is no whole character yet.
    rest: Vec<u8>,
    terminal: avt::Terminal,
    /// All that the command wrote.
    pub(crate) written: String,
}

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

impl Pty {
    /// Starts a command on a terminal of some columns and rows.
    pub(crate) fn start(mut command: Command, columns: u16, rows: u16) -> Pty {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(slave.try_clone().unwrap())
            .stderr(slave)
            .env("TERM", "xterm");
        tcsetwinsize(&master, size(columns, rows)).unwrap();
        let child = child.spawn().unwrap();
        // The command alone holds the other end from here on.
        drop(command);
        let (sender, read) = channel();
        let mut reader = File::from(master.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO is the end.
            while let Ok(count) = reader.read(&mut buffer)
                && count > 0
                && sender.send(buffer[..count].to_vec()).is_ok()
            {}
        });
        let terminal =
            avt::Terminal::with_scrollback(columns.into(), rows.into(), Some(1000)).unwrap();
        Pty {
            child,
            master,
            read,
            rest: Vec::new(),
            terminal,
            written: String::new(),
        }
    }

    /// Shows a text as if it had been typed.
    pub(crate) fn show(&mut self, text: &str) {
        self.terminal.feed(text);
    }

    /// Takes what comes within some time; whether more may come.
    pub(crate) fn read(&mut self, time: Duration) -> bool {
        use std::sync::mpsc::RecvTimeoutError::Disconnected;
        let bytes = match self.read.recv_timeout(time) {
            Ok(bytes) => bytes,
            Err(error) => return error != Disconnected,
        };
        self.rest.extend(bytes);
        let whole = match std::str::from_utf8(&self.rest) {
            Ok(_) => self.rest.len(),
            Err(error) => error.valid_up_to(),
        };
        let text = String::from_utf8(self.rest.drain(..whole).collect()).unwrap();
        self.terminal.feed(text.as_str());
        self.written += &text;
        true
    }

    /// Waits until the rows of the terminal are as they should be.
    pub(crate) fn wait_for(&mut self, what: &str, is_so: impl Fn(&[String]) -> bool) {
        let start = Instant::now();
        while !is_so(&self.rows()) {
            let more = self.read(Duration::from_millis(50));
            assert!(
                more && start.elapsed() < PATIENCE,
                "{what}:\n{}",
                self.rows().join("\n")
            );
        }
    }

    /// Changes the terminal's size.
    pub(crate) fn resize(&mut self, columns: u16, rows: u16) {
        while let Ok(bytes) = self.read.try_recv() {
            self.rest.extend(bytes);
        }
        self.read(Duration::ZERO);
        self.terminal.resize(columns.into(), rows.into());
        tcsetwinsize(&self.master, size(columns, rows)).unwrap();
    }

    /// The rows that are to be seen, without blanks at their ends.
    pub(crate) fn rows(&self) -> Vec<String> {
        let mut rows: Vec<_> = self
            .terminal
            .screen()
            .visible_lines()
            .map(|line| line.text().trim_end().to_owned())
            .collect();
        while rows.last().is_some_and(String::is_empty) {
            rows.pop();
        }
        rows
    }

    /// The emulator.
    pub(crate) fn terminal(&self) -> &avt::Terminal {
        &self.terminal
    }

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end: the exit code.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let start = Instant::now();
        while self.read(Duration::from_millis(50)) {
            assert!(
                start.elapsed() < 5 * PATIENCE,
                "it does not end:\n{}",
                self.rows().join("\n")
            );
        }
        self.child.wait().unwrap().code()
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // Only a test that failed leaves it running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_col: columns,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
