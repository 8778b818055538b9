//! The overlay as a raw file: `qemu-storage-daemon` over an explicit chain, exported by FUSE.
//!
//! Knows qcow2 files and their order, not what the guest keeps in them. Every node names its driver and the bottom has
//! `backing: null`, so nothing is ever probed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, configure_io_flusher_behavior, kill_process};
use serde_json::{Value, json};

use super::request::ExportSpec;
use crate::sandbox::protocol::{Problem, ProblemKind};

pub(super) const DAEMON: &str = "qemu-storage-daemon";

/// `FUSE_SUPER_MAGIC` of linux/magic.h.
const FUSE_MAGIC: i64 = 0x6573_5546;

/// A daemon that does not come up in this time is broken.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// Closing writes the overlay's tables; on a slow disk that takes a while.
const STOP_DEADLINE: Duration = Duration::from_secs(120);

/// How long the daemon may take to notice that it was told to stop.
const TELL_AGAIN: Duration = Duration::from_millis(100);

/// A running daemon and the file it exports.
pub(super) struct Export {
    daemon: Child,
    path: PathBuf,
}

impl Export {
    /// Starts the daemon and waits until the export answers.
    pub(super) fn start(plan: &ExportSpec) -> Result<Self, Problem> {
        let path = plan.path.clone();
        File::create(&path).map_err(|e| Problem::io("create", path.to_string_lossy(), &e))?;
        if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/fuse") {
            return Err(Problem::io("open", "/dev/fuse", &error).of_kind(ProblemKind::HostLacks));
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the sandbox, which runs programs"
        )]
        let mut command = Command::new(DAEMON);
        for node in nodes(&plan.chain, &plan.overlay)? {
            command.arg("--blockdev").arg(node.to_string());
        }
        let export = json!({
            "type": "fuse", "id": "disk", "node-name": "overlay",
            "mountpoint": utf8(&path)?, "writable": true,
        });
        command.arg("--export").arg(export.to_string());
        // A signal from the terminal must not reach it before the guest is closed.
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // Pages that wait for the daemon must not make it wait. Not every root may say so, and it works without.
        let _ = configure_io_flusher_behavior(true);
        let daemon = command.spawn();
        let _ = configure_io_flusher_behavior(false);
        let daemon = daemon.map_err(|error| {
            let kind = if error.kind() == io::ErrorKind::NotFound {
                ProblemKind::HostLacks
            } else {
                ProblemKind::Io
            };
            Problem::io("start", DAEMON, &error).of_kind(kind)
        })?;
        let mut export = Self { daemon, path };
        match export.wait_until_mounted() {
            Ok(()) => Ok(export),
            Err(problem) => {
                // Errors here change nothing: the problem is already known.
                let _ = export.daemon.kill();
                let _ = export.daemon.wait();
                Err(problem)
            }
        }
    }

    fn wait_until_mounted(&mut self) -> Result<(), Problem> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self
                .daemon
                .try_wait()
                .map_err(|e| Problem::io("wait for", DAEMON, &e))?
            {
                return Err(Problem::new(
                    ProblemKind::Io,
                    format!(
                        "{DAEMON} exited immediately ({status}): {}",
                        self.last_words()
                    ),
                ));
            }
            let found = rustix::fs::statfs(&self.path)
                .map_err(|e| Problem::io("examine", self.path.to_string_lossy(), &e.into()))?;
            // The field's width differs between architectures.
            #[allow(clippy::unnecessary_cast)]
            if found.f_type as i64 == FUSE_MAGIC {
                return Ok(());
            }
            if begun.elapsed() > START_DEADLINE {
                return Err(Problem::new(
                    ProblemKind::Io,
                    format!("{DAEMON} has exported nothing after {START_DEADLINE:?}"),
                ));
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    /// What the daemon said before it ended, on one line.
    fn last_words(&mut self) -> String {
        let mut text = Vec::new();
        if let Some(stderr) = self.daemon.stderr.take() {
            // A partial message is better than none.
            let _ = stderr.take(4096).read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The daemon's process, to be watched.
    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.daemon)
    }

    /// Ends the daemon and demands that it closed its files without complaint.
    pub(super) fn stop(mut self) -> Result<(), Problem> {
        let begun = Instant::now();
        let mut told = None;
        let status = loop {
            // Its handler only sets a flag: where that happens just before it waits for events, it waits on. The next
            // signal wakes it.
            if told.is_none_or(|told: Instant| told.elapsed() > TELL_AGAIN) {
                kill_process(self.pid(), Signal::TERM)
                    .map_err(|e| Problem::io("stop", DAEMON, &e.into()))?;
                told = Some(Instant::now());
            }
            match self
                .daemon
                .try_wait()
                .map_err(|e| Problem::io("wait for", DAEMON, &e))?
            {
                Some(status) => break status,
                None if begun.elapsed() > STOP_DEADLINE => {
                    let what = format!(
                        "{DAEMON} is still running {STOP_DEADLINE:?} after it was asked to stop"
                    );
                    return Err(Problem::new(ProblemKind::WriteBack, what));
                }
                None => std::thread::sleep(Duration::from_micros(300)),
            }
        };
        if status.success() {
            return Ok(());
        }
        let what = format!("{DAEMON} exited with {status}: {}", self.last_words());
        Err(Problem::new(ProblemKind::WriteBack, what))
    }
}

fn utf8(path: &Path) -> Result<&str, Problem> {
    path.to_str().ok_or_else(|| Problem {
        kind: ProblemKind::Io,
        what: "paths of the store must be UTF-8, this is not:".to_owned(),
        path: Some(path.to_string_lossy().into_owned()),
        errno: None,
    })
}

/// The block graph, bottom first; each node refers to the one before it.
fn nodes(chain: &[PathBuf], overlay: &Path) -> Result<Vec<Value>, Problem> {
    let mut nodes = Vec::with_capacity(chain.len() + 1);
    let mut backing = Value::Null;
    for (index, layer) in chain.iter().enumerate() {
        let name = format!("layer{index}");
        nodes.push(json!({
            "driver": "qcow2", "node-name": name, "read-only": true, "backing": backing,
            // Layers are immutable, and file locks can block for ever on a network file system.
            "file": {"driver": "file", "filename": utf8(layer)?, "read-only": true, "locking": "off"},
        }));
        backing = Value::String(name);
    }
    nodes.push(json!({
        "driver": "qcow2", "node-name": "overlay", "backing": backing,
        "discard": "unmap", "detect-zeroes": "unmap",
        // A crash loses the overlay as a whole, so nothing here needs to be durable; sealing makes it so.
        "cache": {"direct": false, "no-flush": true},
        "file": {
            "driver": "file", "filename": utf8(overlay)?, "locking": "off", "discard": "unmap",
            "cache": {"direct": false, "no-flush": true},
        },
    }));
    Ok(nodes)
}
