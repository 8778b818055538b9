//! QEMU's control protocol: what the driver asks of a machine, beside what the guest sees.
//! Knows commands of QMP; knows no guest.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::channel::VmChannel;
use super::screen;
use crate::base::bounded;

/// How long QEMU may take for an answer. It answers between two of the guest's instructions, also under TCG.
const PATIENCE: Duration = Duration::from_secs(10);

/// The name of the control socket in a machine's directory.
pub(super) const SOCKET: &str = "control";

/// A connection that has said hello. QEMU talks to one client at a time: it is made for a question and let go.
pub(super) struct Qmp(VmChannel);

impl Qmp {
    /// Connects to the machine that runs in `dir`.
    pub(super) fn connect(dir: &Path) -> io::Result<Qmp> {
        let mut channel = VmChannel::connect(dir, SOCKET, Instant::now() + PATIENCE)?;
        channel.receive(|value| value.get("QMP").is_some())?;
        let mut qmp = Qmp(channel);
        qmp.execute(&json!({"execute": "qmp_capabilities"}))?;
        Ok(qmp)
    }

    /// The answer to a command.
    pub(super) fn execute(&mut self, command: &Value) -> io::Result<Value> {
        // What is neither is an event.
        let answer = self.0.ask(command, |value| {
            value.get("return").is_some() || value.get("error").is_some()
        })?;
        match answer.get("error") {
            Some(error) => Err(io::Error::other(
                error["desc"].as_str().unwrap_or("QEMU refused").to_owned(),
            )),
            None => Ok(answer["return"].clone()),
        }
    }
}

/// Whether a machine runs in a directory and can be talked to.
pub fn answers(dir: &Path) -> bool {
    Qmp::connect(dir).is_ok()
}

/// Presses the power button (ACPI): the guest decides what that means.
///
/// # Errors
/// There is no machine, or it does not answer.
pub fn press_power(dir: &Path) -> io::Result<()> {
    Qmp::connect(dir)?
        .execute(&json!({"execute": "system_powerdown"}))
        .map(drop)
}

/// Has QEMU end itself.
///
/// # Errors
/// There is no machine, or it does not answer.
pub fn quit(dir: &Path) -> io::Result<()> {
    Qmp::connect(dir)?
        .execute(&json!({"execute": "quit"}))
        .map(drop)
}

/// The machine's screen as a PNG.
pub(super) fn screenshot(dir: &Path) -> io::Result<Vec<u8>> {
    // QEMU writes it, in its own directory. Its PNG needs QEMU 7.1.
    let name = "screen.ppm";
    Qmp::connect(dir)?
        .execute(&json!({"execute": "screendump", "arguments": {"filename": name}}))?;
    let path = dir.join(name);
    let ppm = bounded::read(&path, screen::MAX_PICTURE)?;
    std::fs::remove_file(&path)?;
    screen::png(&ppm)
}
