//! Programs that answer a machine: started beside it, ended with it, and asked what the machine asked them.
//! Knows requests as lines; how the program is kept apart from the host, and reached, is the sandbox's business.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::Signal;

use super::VmError;
use super::command::ServedPort;
use crate::base::bounded;
use crate::base::escape::neutralise;
use crate::sandbox::{RELAY, SERVER, SUPERVISOR_ARGUMENT, die_with_parent, server_socket};

/// The most requests that are kept to be shown.
const KEPT: usize = 20;
/// Bytes of the program's own words that are shown, and lines.
const WORDS: u64 = 64 << 10;
const LINES: usize = 20;

/// What a machine asked.
#[derive(Debug, Default)]
struct Asked {
    /// The last requests.
    requests: Vec<String>,
    /// Whether a request began so.
    watched: BTreeMap<String, bool>,
}

/// A program that answers a machine; dropping it ends it.
#[derive(Debug)]
pub struct Server {
    child: Mutex<Child>,
    port: u16,
    log: PathBuf,
    asked: Arc<Mutex<Asked>>,
}

impl Server {
    /// Starts a program, whose file is in `work`, the machine's directory.
    ///
    /// # Errors
    /// The process that makes its surroundings cannot be started.
    pub fn start(work: &Path, port: u16, program: &Path) -> Result<Server, VmError> {
        let log = work.join(format!("serve-{port}.log"));
        let words = File::create(&log).map_err(VmError::io("create", &log))?;
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the one home of machines"
        )]
        let mut command = Command::new("/proc/self/exe");
        command
            .args([SUPERVISOR_ARGUMENT, SERVER, &port.to_string()])
            .arg(program)
            .current_dir(work)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(words)
            // A signal from the terminal is impasto's business.
            .process_group(0);
        die_with_parent(&mut command, Signal::KILL);
        let mut child = command.spawn();
        let stdout = child.as_mut().ok().and_then(|child| child.stdout.take());
        let child = child.map_err(VmError::io("start", "a server"))?;
        let asked = Arc::new(Mutex::new(Asked::default()));
        let server = Server {
            child: Mutex::new(child),
            port,
            log,
            asked: asked.clone(),
        };
        let reader = std::thread::Builder::new().name("server".to_owned());
        let stdout = stdout.expect("BUG: just piped");
        let started = reader.spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
                let seen = asked.watched.iter_mut();
                seen.filter(|(begin, _)| line.starts_with(begin.as_str()))
                    .for_each(|(_, seen)| *seen = true);
                if asked.requests.len() == KEPT {
                    asked.requests.remove(0);
                }
                asked.requests.push(neutralise(line.as_bytes()));
            }
        });
        started.map_err(VmError::io("start a thread for", "a server"))?;
        Ok(server)
    }

    /// How a machine in the same directory reaches it.
    pub fn served(&self) -> ServedPort {
        let (port, pid) = (self.port, std::process::id());
        let socket = server_socket(port);
        let relay = format!("/proc/{pid}/exe {SUPERVISOR_ARGUMENT} {RELAY} {socket}");
        ServedPort { port, relay }
    }

    /// Looks from now on for requests that begin so, however many come after.
    pub fn watch(&self, begin: &str) {
        self.asked().watched.insert(begin.to_owned(), false);
    }

    /// Whether a request came that begins so, and is looked for.
    pub fn saw(&self, begin: &str) -> bool {
        self.asked().watched.get(begin) == Some(&true)
    }

    /// How it ended, where it did.
    pub fn ended(&self) -> Option<String> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = child.try_wait().ok().flatten()?;
        let port = self.port;
        tracing::debug!(port, %ended, "a server ended");
        Some(format!("the server for port {port} ended"))
    }

    /// The requests that came, and what the program wrote, as lines that are safe to show.
    pub fn told(&self) -> Vec<String> {
        let port = self.port;
        let mut lines: Vec<String> = self
            .asked()
            .requests
            .iter()
            .map(|request| format!("port {port} was asked: {request}"))
            .collect();
        if lines.is_empty() {
            lines.push(format!("port {port} was not asked for anything"));
        }
        let mut words = Vec::new();
        if let Ok(file) = bounded::open(&self.log) {
            // What can be read of it is enough.
            let _ = file.take(WORDS).read_to_end(&mut words);
        }
        let words: Vec<_> = words.split(|byte| *byte == b'\n').map(neutralise).collect();
        let words = words.into_iter().filter(|line| !line.is_empty());
        let words: Vec<_> = words.map(|line| format!("port {port}: {line}")).collect();
        lines.extend_from_slice(&words[words.len().saturating_sub(LINES)..]);
        lines
    }

    fn asked(&self) -> std::sync::MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its namespaces end with it.
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}
