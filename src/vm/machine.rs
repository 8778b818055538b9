//! A running machine: its process, its serial console, its guest's agent.
//! Knows nothing of images; what the machine is made of is in the [`Spec`].
//!
//! QEMU gets a death signal of the thread that starts it: that thread must live as long as the machine.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::channel::VmChannel;
use super::{Console, QEMU, Spec, VmError, command};
use crate::base::cancel::CancelToken;
use crate::sandbox::die_with_parent;

/// How soon a wait notices that it was cancelled, or that the machine ended.
const TICK: Duration = Duration::from_millis(20);
/// How long QEMU may take to end when it is told to.
const END_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of the serial console that are kept for those who wait.
const KEPT: usize = 1 << 20;
/// Bytes of QEMU's own words that are kept.
const MAX_WORDS: u64 = 8 << 10;
/// The longest path of a socket (unix(7)).
const MAX_SOCKET: usize = 107;

/// The name of the agent's socket of a machine that impasto itself talks to.
const AGENT: &str = "agent";
/// The name of the control socket.
const CONTROL: &str = "control";

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
}

/// What the serial console has shown.
#[derive(Debug, Default)]
struct Transcript {
    state: Mutex<TranscriptText>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct TranscriptText {
    /// The end of what was shown.
    bytes: Vec<u8>,
    /// How many bytes before that are gone.
    dropped: usize,
    /// Whether nothing more will come.
    ended: bool,
}

impl Transcript {
    fn lock(&self) -> MutexGuard<'_, TranscriptText> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, bytes: &[u8]) {
        let mut shown = self.lock();
        shown.bytes.extend_from_slice(bytes);
        // Twice as much, so that what is kept is moved rarely.
        if shown.bytes.len() > 2 * KEPT {
            let excess = shown.bytes.len() - KEPT;
            shown.bytes.drain(..excess);
            shown.dropped += excess;
        }
        self.news.notify_all();
    }

    fn end(&self) {
        self.lock().ended = true;
        self.news.notify_all();
    }
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
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the one home of machines"
        )]
        let mut command = Command::new(QEMU);
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
            io::ErrorKind::NotFound => VmError::NoQemu,
            _ => VmError::io("start", QEMU)(error),
        })?;
        let console = Arc::new(Transcript::default());
        match child.stdout.take() {
            Some(stdout) => {
                let console = console.clone();
                let mut sink = sink.unwrap_or_else(|| Box::new(|_| {}));
                spawn("console", move || read_console(stdout, &console, &mut sink))?;
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
            shown = console
                .news
                .wait_timeout(shown, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
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

    /// Asks the guest's agent whether it is there, until it is. The machine must have its socket at
    /// [`Machine::agent_socket`].
    ///
    /// # Errors
    /// It gave no answer in this time.
    pub fn ping_agent(&self, patience: Duration) -> Result<(), VmError> {
        ask_agent(
            &self.work,
            AGENT,
            &json!({"execute": "guest-ping"}),
            patience,
        )
        .map(drop)
    }

    /// Where the agent's socket of a machine that impasto itself talks to is: to be given to QEMU, which runs in the
    /// machine's directory.
    pub fn agent_socket() -> PathBuf {
        PathBuf::from(AGENT)
    }

    /// The name of the control socket, which [`Machine::stop`] needs.
    pub fn control_socket() -> &'static str {
        CONTROL
    }

    /// Presses the power button and waits for the guest to switch itself off; ends the machine where it does not.
    /// Whether the guest did it itself.
    ///
    /// # Errors
    /// QEMU gave up, or cannot be waited for.
    pub fn stop(mut self, patience: Duration) -> Result<bool, VmError> {
        let deadline = Instant::now() + patience;
        let pressed = self.press_power(deadline);
        if pressed.is_ok() && self.wait(Some(deadline), &CancelToken::new())? == ConsoleMatch::Ended
        {
            return Ok(true);
        }
        self.end()?;
        Ok(false)
    }

    fn press_power(&self, deadline: Instant) -> io::Result<()> {
        let mut channel = VmChannel::connect(&self.work, CONTROL, deadline)?;
        let is_answer =
            |value: &Value| value.get("return").is_some() || value.get("error").is_some();
        channel.receive(|value| value.get("QMP").is_some())?;
        channel.ask(&json!({"execute": "qmp_capabilities"}), is_answer)?;
        channel
            .ask(&json!({"execute": "system_powerdown"}), is_answer)
            .map(drop)
    }

    /// Ends the machine at once, as if its power were cut; QEMU puts the terminal right.
    ///
    /// # Errors
    /// QEMU cannot be waited for.
    pub fn kill(mut self) -> Result<(), VmError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), VmError> {
        // It may have ended by itself.
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

/// Asks the agent behind a socket until it answers.
///
/// # Errors
/// It gave no answer in this time.
pub fn ask_agent(
    dir: &Path,
    socket: &str,
    question: &Value,
    patience: Duration,
) -> Result<Value, VmError> {
    let end = Instant::now() + patience;
    let mut turn = 0_u64;
    while Instant::now() < end {
        turn += 1;
        // What was asked before the agent was there can be lost, or answered late: each turn begins again, with a number
        // that tells its answers from older ones.
        let deadline = end.min(Instant::now() + Duration::from_secs(2));
        let answer = VmChannel::connect(dir, socket, deadline).and_then(|mut channel| {
            let sync = json!({"execute": "guest-sync", "arguments": {"id": turn}});
            channel.ask(&sync, |value| value["return"] == turn)?;
            channel.ask(question, |value| {
                value.get("return").is_some() || value.get("error").is_some()
            })
        });
        match answer {
            Ok(answer) => return Ok(answer),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
    Err(VmError::Silent {
        who: "the guest's agent",
        seconds: patience.as_secs(),
    })
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

fn read_console(mut stdout: impl Read, console: &Transcript, sink: &mut dyn FnMut(&[u8])) {
    let mut buffer = [0; 4096];
    loop {
        match stdout.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
            Ok(count) => {
                sink(&buffer[..count]);
                console.push(&buffer[..count]);
            }
        }
    }
    console.end();
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
    crate::base::escape::neutralise(OsStr::new(&text).as_bytes())
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    if text.is_empty() {
        return Some(0);
    }
    bytes.windows(text.len()).position(|window| window == text)
}
