//! Questions and answers as lines of JSON over a socket: the guest's agent and QEMU's control protocol speak so.
//! Knows lines and time, not what is asked.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::base::bounded;

/// The most bytes of a line that are read: the other side may be a hostile guest.
const MAX_LINE: u64 = 1 << 20;

pub(super) struct VmChannel {
    reader: BufReader<UnixStream>,
    deadline: Instant,
}

impl VmChannel {
    /// Connects to a socket in `dir`, however long the path to that is: a socket's own must fit into 108 bytes.
    pub(super) fn connect(dir: &Path, name: &str, deadline: Instant) -> io::Result<VmChannel> {
        let dir = bounded::open_directory(dir)?;
        let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
        Ok(VmChannel {
            reader: BufReader::new(UnixStream::connect(path)?),
            deadline,
        })
    }

    /// Gives it another end of its time.
    pub(super) fn extend(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Sends a question, and gives the first answer that `is_it` takes.
    pub(super) fn ask(
        &mut self,
        question: &Value,
        is_it: impl Fn(&Value) -> bool,
    ) -> io::Result<Value> {
        self.arm()?;
        self.reader
            .get_mut()
            .write_all(format!("{question}\n").as_bytes())?;
        self.receive(is_it)
    }

    /// The first answer that `is_it` takes; what is no JSON, or something else, is passed over.
    pub(super) fn receive(&mut self, is_it: impl Fn(&Value) -> bool) -> io::Result<Value> {
        loop {
            self.arm()?;
            let mut line = Vec::new();
            let count = (&mut self.reader)
                .take(MAX_LINE)
                .read_until(b'\n', &mut line)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // The agent puts a byte 0xff before an answer after which it is in step.
            let start = line.iter().position(|byte| *byte == b'{').unwrap_or(0);
            if let Ok(value) = serde_json::from_slice(&line[start..])
                && is_it(&value)
            {
                return Ok(value);
            }
        }
    }

    /// Sets what is left of the time.
    fn arm(&self) -> io::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left < Duration::from_millis(1) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.reader.get_ref().set_read_timeout(Some(left))?;
        self.reader.get_ref().set_write_timeout(Some(left))
    }
}
