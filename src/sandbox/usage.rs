//! What the processes of a pid namespace use, counted from its `/proc`: for hosts without control groups.
//!
//! Knows `/proc`, not limits; compiled into impasto and into the agent.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use super::protocol::{Ceiling, Limit};
use crate::base::bounded;

/// At least this long lies between two counts.
const INTERVAL: Duration = Duration::from_millis(50);

/// Counts now and then, and says what is above a ceiling.
pub(crate) struct Watcher {
    ceiling: Ceiling,
    next: Instant,
}

impl Watcher {
    pub(crate) fn new(ceiling: Ceiling) -> Self {
        Self {
            ceiling,
            next: Instant::now(),
        }
    }

    /// The limit that is reached; none where it is not yet time to count.
    pub(crate) fn look(&mut self) -> Option<Limit> {
        let now = Instant::now();
        if now < self.next {
            return None;
        }
        // What cannot be listed is not counted: there is nobody to tell who could do better.
        let (threads, memory) = count().ok()?;
        // Many processes take long to count; the watcher shall not be what uses the machine.
        self.next = Instant::now() + INTERVAL.max(now.elapsed() * 4);
        if threads > self.ceiling.processes {
            return Some(Limit::Processes);
        }
        (memory > self.ceiling.memory).then_some(Limit::Memory)
    }
}

/// Threads, and bytes of memory that no file backs, without the caller's own.
fn count() -> io::Result<(u64, u64)> {
    let own = std::process::id();
    let (mut threads, mut kilobytes) = (0, 0);
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process may have ended meanwhile.
        let Ok(status) = bounded::read_text(format!("/proc/{pid}/status"), bounded::LINES) else {
            continue;
        };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        if pid != own {
            threads += field("Threads:").unwrap_or(0);
            kilobytes += field("RssAnon:").unwrap_or(0) + field("RssShmem:").unwrap_or(0);
        }
    }
    Ok((threads, kilobytes << 10))
}
