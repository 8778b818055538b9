//! Machines that are left running: started by a process of their own, found again by name, stopped.
//! Knows records of them in the store's directory; a record whose machine is gone is worth nothing.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use impasto_store::Store;
use serde::{Deserialize, Serialize};

use crate::base::bounded;
use crate::cli::error::CliError;
use crate::cli::exit;
use crate::cli::session::Session;
use crate::engine::publish::Draft;
use crate::ui;
use crate::vm::machine::{ConsoleSink, Machine};
use crate::vm::{Network, qmp};

/// Where the records lie in the store's directory.
const DIR: &str = "state/machines";
/// How long a machine may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long its guest may take to switch itself off.
const POWER_OFF: Duration = Duration::from_secs(90);
const TICK: Duration = Duration::from_millis(50);
/// The most bytes of a console that are kept of a machine that nobody looks at.
const MAX_CONSOLE: usize = 64 << 20;

/// A machine that is left running.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MachineRecord {
    name: String,
    /// What it booted.
    image: String,
    /// The directory with its control socket.
    dir: PathBuf,
    /// The port of 127.0.0.1 that leads to its SSH.
    ssh_port: Option<u16>,
}

/// A record that goes with its machine.
pub(super) struct MachineRecordFile(PathBuf);

fn path(store: &Store, name: &str) -> PathBuf {
    store.path().join(DIR).join(format!("{name}.json"))
}

impl MachineRecord {
    /// Tells that a machine runs, until what this gives is dropped.
    pub(super) fn write(
        store: &Store,
        name: &str,
        image: &str,
        machine: &Machine,
        network: Network,
    ) -> Result<MachineRecordFile, CliError> {
        let ssh_port = match network {
            Network::User { ssh_port } => ssh_port,
            Network::Isolated { ssh_port } => Some(ssh_port),
            Network::None => None,
        };
        let path = path(store, name);
        let record = MachineRecord {
            name: name.to_owned(),
            image: image.to_owned(),
            dir: machine.dir().to_owned(),
            ssh_port,
        };
        let io = || CliError::io("write", &path);
        let text = serde_json::to_string(&record).expect("BUG: a record is JSON");
        let draft = Draft::new(&path, store.owner()).map_err(io())?;
        draft.file().write_all(text.as_bytes()).map_err(io())?;
        draft.place(0o600).map_err(io())?;
        Ok(MachineRecordFile(path))
    }

    /// The machines that run, by name; records of others are removed.
    fn all(store: &Store) -> Result<Vec<MachineRecord>, CliError> {
        let dir = store.path().join(DIR);
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(CliError::io("read", &dir)(error)),
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(CliError::io("read", &dir))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let text = bounded::read_text(&path, bounded::LINES).unwrap_or_default();
            let Ok(record) = serde_json::from_str::<MachineRecord>(&text) else {
                continue;
            };
            if qmp::answers(&record.dir) {
                all.push(record);
            } else {
                let _ = std::fs::remove_file(&path);
                let _ = std::fs::remove_file(path.with_extension("log"));
            }
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }
}

impl Drop for MachineRecordFile {
    fn drop(&mut self) {
        // Who looks for the machine removes what is left of it.
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_file(self.0.with_extension("log"));
    }
}

/// Writes a console to standard output, which is a file, until it is long enough.
pub(super) fn sink() -> ConsoleSink {
    let mut left = MAX_CONSOLE;
    Box::new(move |bytes| {
        let part = &bytes[..bytes.len().min(left)];
        left -= part.len();
        super::show(part);
    })
}

/// Starts impasto once more, which boots the machine, and waits until that runs.
pub(super) fn start(session: &Session, store: &Store) -> Result<u8, CliError> {
    let taken = MachineRecord::all(store)?;
    let name = (1..)
        .map(|number| format!("machine-{number}"))
        .find(|name| !taken.iter().any(|record| record.name == *name))
        .expect("BUG: numbers have an end");
    let record = path(store, &name);
    let log = record.with_extension("log");
    let dir = record.parent().unwrap_or(Path::new("/"));
    store
        .owner()
        .create_dirs(dir, 0o700)
        .map_err(CliError::io("make", dir))?;
    let io = || CliError::io("write", &log);
    let console = std::fs::File::create(&log).map_err(io())?;
    let errors = console.try_clone().map_err(io())?;
    let arguments = session.arguments.iter().skip(1);
    let arguments = arguments.filter(|argument| *argument != "--background");
    #[expect(
        clippy::disallowed_methods,
        reason = "impasto itself, which stays with the machine"
    )]
    let mut command = Command::new(&session.host.exe);
    command
        .args(arguments)
        .args(["--as-background", &name])
        .stdin(Stdio::null())
        .stdout(console)
        .stderr(errors)
        .process_group(0);
    let mut child = command
        .spawn()
        .map_err(CliError::io("start", &session.host.exe))?;
    let begun = Instant::now();
    while !record.exists() {
        let status = child
            .try_wait()
            .map_err(CliError::io("wait for", &session.host.exe))?;
        if status.is_some() || begun.elapsed() > PATIENCE {
            let _ = child.kill();
            let text = bounded::read_text(&log, bounded::TEXT).unwrap_or_default();
            let _ = std::fs::remove_file(&log);
            for line in text.lines() {
                ui::message(&crate::base::escape::neutralise(line.as_bytes()));
            }
            let code = status.and_then(|status| status.code());
            return Ok(code
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(exit::INTERNAL));
        }
        std::thread::sleep(TICK);
    }
    let text =
        bounded::read_text(&record, bounded::LINES).map_err(CliError::io("read", &record))?;
    let told: MachineRecord = serde_json::from_str(&text).map_err(|error| CliError::Other {
        message: format!("cannot read `{}`: {error}", record.display()),
        help: None,
        code: exit::INTERNAL,
    })?;
    let mut message = format!("{name} runs {}", told.image);
    if let Some(port) = told.ssh_port {
        message += &format!("\nits SSH:     port {port} of 127.0.0.1");
    }
    message += &format!("\nits console: {}", log.display());
    message += &format!("\nto stop it:  impasto boot --stop={name}");
    ui::message(&message);
    Ok(exit::OK)
}

/// Stops a machine: by its power button, else by QEMU.
pub(super) fn stop(store: &Store, name: &str, timeout: Option<Duration>) -> Result<u8, CliError> {
    let all = MachineRecord::all(store)?;
    let known = all
        .iter()
        .map(|record| format!("{} ({})", record.name, record.image))
        .collect::<Vec<_>>()
        .join(", ");
    let record = match (name, all.as_slice()) {
        (_, []) => {
            return Err(CliError::usage(
                "no machine was left running",
                "`impasto boot --background …` starts one",
            ));
        }
        ("", [only]) => only,
        ("", _) => {
            return Err(CliError::usage(
                format!("several machines run: {known}"),
                "name one, such as --stop=machine-1",
            ));
        }
        (name, all) => all
            .iter()
            .find(|record| record.name == name)
            .ok_or_else(|| {
                CliError::usage(
                    format!("no machine is called `{name}`"),
                    format!("these run: {known}"),
                )
            })?,
    };
    let by_itself =
        qmp::press_power(&record.dir).is_ok() && ended(record, timeout.unwrap_or(POWER_OFF));
    if !by_itself {
        let _ = qmp::quit(&record.dir);
        if !ended(record, PATIENCE) {
            return Err(CliError::Other {
                message: format!("{} does not end", record.name),
                help: None,
                code: exit::INTERNAL,
            });
        }
    }
    let how = if by_itself {
        "its guest switched it off"
    } else {
        "its guest did not switch it off, so its power was cut"
    };
    ui::message(&format!("{} has ended: {how}", record.name));
    Ok(exit::OK)
}

fn ended(record: &MachineRecord, patience: Duration) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        if !qmp::answers(&record.dir) {
            return true;
        }
        std::thread::sleep(TICK * 4);
    }
    false
}
