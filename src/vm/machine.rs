//! A running machine: its process, its serial console, its screen and its power.
//! Knows nothing of images; what the machine is made of is in the [`Spec`].
//!
//! QEMU gets a death signal of the thread that starts it: that thread must live as long as the machine.

use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::transcript::{Transcript, find};
use super::{Console, Firmware, MachineType, QEMU, Spec, VmError, command, qmp};
use crate::base::cancel::CancelToken;
use crate::sandbox::die_with_parent;

/// How soon a wait notices that it was cancelled, or that the machine ended.
const TICK: Duration = Duration::from_millis(20);
/// How long QEMU may take to end when it is told to.
const END_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of QEMU's own words that are kept.
const MAX_WORDS: u64 = 8 << 10;
/// The longest path of a socket (unix(7)).
const MAX_SOCKET: usize = 107;

/// The name of the agent's socket of a machine that impasto itself talks to.
pub(super) const AGENT: &str = "agent";

/// What a console shows of a guest that comes no further, and what that means. The last ones tell least.
const TROUBLE: [(&str, &str); 8] = [
    ("Kernel panic - not syncing", "the kernel panicked"),
    ("Oops: 0", "the kernel oopsed"),
    ("kernel BUG at", "the kernel found a bug of its own"),
    ("general protection fault, probably", "the kernel oopsed"),
    (
        "grub rescue>",
        "the boot loader found nothing to boot and waits for commands",
    ),
    (
        "(initramfs)",
        "the initramfs did not find its root and waits for commands",
    ),
    (
        "You are in emergency mode",
        "the system stopped in emergency mode",
    ),
    (
        "Cannot open access to console",
        "the system stopped in emergency mode",
    ),
];

/// Takes the bytes of a serial console as they come.
pub type ConsoleSink = Box<dyn FnMut(&[u8]) + Send>;

/// What a wait came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleMatch {
    Text,
    /// The end of the time.
    TimedOut,
    /// The token was cancelled.
    Cancelled,
    /// The end of the machine.
    Ended,
}

/// A machine that runs; dropping it ends it.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    stdin: Option<ChildStdin>,
    console: Arc<Transcript>,
    /// Where in the console the next wait begins, in bytes from its start.
    position: usize,
    words: Option<JoinHandle<String>>,
    work: PathBuf,
    begun: Instant,
    has_control: bool,
}

/// A guest that comes no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What it means.
    pub what: &'static str,
    /// The line of the console that says so.
    pub line: String,
}

impl Machine {
    /// Starts QEMU in `work`, a private directory. Under [`Console::Pipe`], `sink` gets every byte of the serial
    /// console, on a thread of its own.
    ///
    /// # Errors
    /// QEMU is not installed or cannot be started, or a path cannot be given to it.
    pub fn start(spec: &Spec, work: &Path, sink: Option<ConsoleSink>) -> Result<Machine, VmError> {
        if let Some(socket) = &spec.guest_agent
            && socket.as_os_str().len() > MAX_SOCKET
        {
            return Err(VmError::LongSocket {
                path: socket.clone(),
            });
        }
        if spec.machine == MachineType::Virt
            && spec.firmware == Firmware::Bios
            && spec.kernel.is_none()
        {
            return Err(VmError::NoBios);
        }
        let (program, package) = spec.machine.program();
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the one home of machines"
        )]
        let mut command = Command::new(program);
        command
            .args(command::arguments(spec)?)
            .current_dir(work)
            .stderr(Stdio::piped());
        let signal = match spec.console {
            // It has the terminal, and puts it right before it ends.
            Console::Terminal => Signal::TERM,
            Console::Pipe => {
                command.stdin(Stdio::piped()).stdout(Stdio::piped());
                // A signal from the terminal is impasto's business.
                command.process_group(0);
                Signal::KILL
            }
        };
        die_with_parent(&mut command, signal);
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if program == QEMU => VmError::NoQemu,
            io::ErrorKind::NotFound => VmError::NoProgram { program, package },
            _ => VmError::io("start", program)(error),
        })?;
        let console = Arc::new(Transcript::default());
        TROUBLE.iter().for_each(|(text, _)| console.watch(text));
        match child.stdout.take() {
            Some(stdout) => {
                let console = console.clone();
                let mut sink = sink.unwrap_or_else(|| Box::new(|_| {}));
                spawn("console", move || console.fill(stdout, &mut sink))?;
            }
            None => console.end(),
        }
        let stderr = child.stderr.take().expect("BUG: just piped");
        let words = spawn("qemu", move || last_words(stderr))?;
        let stdin = child.stdin.take();
        Ok(Machine {
            child,
            stdin,
            console,
            position: 0,
            words: Some(words),
            work: work.to_owned(),
            begun: Instant::now(),
            has_control: spec.control,
        })
    }

    /// Waits until the serial console shows `text`, behind what the last wait saw. Bytes are compared as they come, so
    /// escape sequences within the text hide it.
    ///
    /// # Errors
    /// The machine cannot be waited for.
    pub fn wait_for(
        &mut self,
        text: &str,
        deadline: Option<Instant>,
        cancel: &CancelToken,
    ) -> Result<ConsoleMatch, VmError> {
        let mut searched = self.position;
        let console = self.console.clone();
        let mut shown = console.lock();
        loop {
            let from = searched
                .saturating_sub(shown.dropped)
                .min(shown.bytes.len());
            if let Some(at) = find(&shown.bytes[from..], text.as_bytes()) {
                self.position = shown.dropped + from + at + text.len();
                return Ok(ConsoleMatch::Text);
            }
            // The text's beginning may have come already.
            let end = shown.dropped + shown.bytes.len();
            searched = end.saturating_sub(text.len()).max(self.position);
            if shown.ended {
                return Ok(ConsoleMatch::Ended);
            }
            if cancel.is_cancelled() {
                return Ok(ConsoleMatch::Cancelled);
            }
            let left = deadline.map_or(TICK, |deadline| {
                deadline.saturating_duration_since(Instant::now()).min(TICK)
            });
            if left.is_zero() {
                return Ok(ConsoleMatch::TimedOut);
            }
            shown = console.wait(shown, left);
        }
    }

    /// Types bytes on the serial console.
    ///
    /// # Errors
    /// The machine has ended, or its console is the user's terminal.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), VmError> {
        let stdin = self
            .stdin
            .as_mut()
            .ok_or(io::ErrorKind::NotConnected.into());
        let sent = stdin.and_then(|stdin| stdin.write_all(bytes).and_then(|()| stdin.flush()));
        sent.map_err(VmError::io("write", "the serial console"))
    }

    /// Waits for the machine's own end.
    ///
    /// # Errors
    /// QEMU gave up, or cannot be waited for.
    pub fn wait(
        &mut self,
        deadline: Option<Instant>,
        cancel: &CancelToken,
    ) -> Result<ConsoleMatch, VmError> {
        loop {
            if let Some(status) = self.try_wait()? {
                return self.verdict(status).map(|()| ConsoleMatch::Ended);
            }
            if cancel.is_cancelled() {
                return Ok(ConsoleMatch::Cancelled);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(ConsoleMatch::TimedOut);
            }
            std::thread::sleep(TICK);
        }
    }

    /// Where the agent's socket of a machine that impasto itself talks to is: to be given to QEMU, which runs in the
    /// machine's directory.
    pub fn agent_socket() -> PathBuf {
        PathBuf::from(AGENT)
    }

    /// The directory that QEMU runs in, with the sockets that lead to it.
    pub fn dir(&self) -> &Path {
        &self.work
    }

    /// How long it has been running.
    pub fn uptime(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Looks for a text on the serial console from now on, however much comes after it.
    pub fn watch(&self, text: &str) {
        self.console.watch(text);
    }

    /// How long after its start the console showed a text that is watched for.
    pub fn saw(&self, text: &str) -> Option<Duration> {
        let seen = self.console.seen(text)?;
        Some(seen.saturating_duration_since(self.begun))
    }

    /// What keeps the guest from coming any further, where its console tells.
    pub fn trouble(&self) -> Option<Trouble> {
        let (text, what) = TROUBLE
            .iter()
            .find(|(text, _)| self.console.seen(text).is_some())?;
        let line = self
            .console
            .lines()
            .into_iter()
            .find(|line| line.contains(text));
        Some(Trouble {
            what,
            line: line.unwrap_or_else(|| (*text).to_owned()),
        })
    }

    /// How many bytes the console had shown at the end of what the last wait saw.
    pub(super) fn console_position(&self) -> usize {
        self.position
    }

    /// What the console showed between two such places, as far as it is kept.
    pub(super) fn console_between(&self, from: usize, until: usize) -> Vec<u8> {
        let shown = self.console.lock();
        let place = |at: usize| at.saturating_sub(shown.dropped).min(shown.bytes.len());
        let (from, until) = (place(from), place(until));
        shown.bytes[from..until.max(from)].to_vec()
    }

    /// What the serial console has shown, as lines that are safe to show: the end of it, where it is much.
    pub fn console_lines(&self) -> Vec<String> {
        self.console.lines()
    }

    /// Whether the machine has ended.
    ///
    /// # Errors
    /// QEMU cannot be waited for.
    pub fn has_ended(&mut self) -> Result<bool, VmError> {
        Ok(self.try_wait()?.is_some())
    }

    /// The machine's screen as a PNG.
    ///
    /// # Errors
    /// It has ended, or has no control socket.
    pub fn screenshot(&self) -> Result<Vec<u8>, VmError> {
        qmp::screenshot(&self.work).map_err(VmError::io("take a picture of", "the screen"))
    }

    /// Presses the power button and waits for the guest to switch itself off: whether it did.
    ///
    /// # Errors
    /// QEMU gave up, or cannot be waited for.
    pub fn power_off(&mut self, patience: Duration, cancel: &CancelToken) -> Result<bool, VmError> {
        let deadline = Instant::now() + patience;
        let pressed = qmp::press_power(&self.work);
        Ok(pressed.is_ok() && self.wait(Some(deadline), cancel)? == ConsoleMatch::Ended)
    }

    /// Ends the machine at once, as if its power were cut; QEMU puts the terminal right.
    ///
    /// # Errors
    /// QEMU cannot be waited for.
    pub fn kill(mut self) -> Result<(), VmError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), VmError> {
        // QEMU is asked, told, and made to. It may have ended by itself.
        if self.has_control && self.try_wait()?.is_none() {
            let _ = qmp::quit(&self.work);
        }
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + END_DEADLINE;
        while self.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                self.child.wait().map_err(VmError::io("wait for", QEMU))?;
                break;
            }
            std::thread::sleep(TICK / 4);
        }
        Ok(())
    }

    fn try_wait(&mut self) -> Result<Option<ExitStatus>, VmError> {
        self.child.try_wait().map_err(VmError::io("wait for", QEMU))
    }

    /// Whether QEMU ended as it should: the guest switched itself off, or somebody told QEMU to end.
    fn verdict(&mut self, status: ExitStatus) -> Result<(), VmError> {
        if status.success() || status.signal() == Some(Signal::TERM.as_raw()) {
            return Ok(());
        }
        let words = self
            .words
            .take()
            .and_then(|words| words.join().ok())
            .unwrap_or_default();
        Err(VmError::Failed { status, words })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Where it cannot be ended here, the death signal does it.
        let _ = self.end();
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, VmError> {
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work);
    thread.map_err(VmError::io("start a thread for", name))
}

/// The beginning of what QEMU says of itself, on one line. All is read, so that it never waits for us.
fn last_words(mut stderr: impl Read) -> String {
    let mut words = Vec::new();
    // A partial message is better than none.
    let _ = stderr.by_ref().take(MAX_WORDS).read_to_end(&mut words);
    let _ = io::copy(&mut stderr, &mut io::sink());
    let text = String::from_utf8_lossy(&words)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    crate::base::escape::neutralise(text.as_bytes())
}
