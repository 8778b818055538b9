//! Our own work with the toolbox's programs: what is asked for, what comes back, and the conversation about it.
//! Knows frames, limits and ends, neither the work nor where it is done.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use impasto_stages::Limits;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::limits::{Bounds, Reached};
use super::link::{Link, LinkError};
use super::protocol::{Limit, Problem};
use super::session::SessionError;
use crate::base::cancel::CancelToken;

/// Work with the toolbox's programs.
pub struct ToolJob<'a> {
    /// A private directory on the store's file system: what the task reads is there, and what it makes comes there.
    pub work: &'a Path,
    pub task: ToolTask,
    /// The directory whose programs do it: nothing else of the host is seen but its kernel, and no network.
    pub toolbox: &'a Path,
    /// A disk that it changes, the file [`GUEST_DISK`] of its directory.
    pub disk: Option<ToolDisk<'a>>,
    /// How much of the machine it may use.
    pub limits: Limits,
    pub timeout: Option<Duration>,
    pub cancel: CancelToken,
}

/// A disk for work with the toolbox's programs: an overlay that is made for it, over what lies below.
pub struct ToolDisk<'a> {
    /// Where the overlay shall be: what the work changed.
    pub overlay: &'a Path,
    /// Layer files below it, bottom first.
    pub chain: Vec<PathBuf>,
    /// Its size in bytes; what the layers do not have is zero.
    pub virtual_size: u64,
}

/// What the disk of [`ToolJob::disk`] is called in the job's directory: a raw file.
pub const GUEST_DISK: &str = "guest.raw";

/// What such work tells while it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolEvent<'a> {
    /// Bytes that a program printed, as they came.
    Log(&'a [u8]),
    /// A part of the work is over, which began where the one before it ended.
    Phase(&'a str),
}

/// How such work ended.
#[derive(Debug)]
pub enum ToolEnd {
    Done,
    /// It could not be done.
    Failed(ToolFailure),
    /// The time was over.
    TimedOut {
        /// [`ToolJob::timeout`].
        after: Duration,
    },
    /// A limit of [`ToolJob::limits`] was reached.
    LimitReached(Reached),
    /// [`CancelToken::cancel`] was called.
    Cancelled,
}

/// Work for the toolbox's programs, which the sandbox only carries to the [`Perform`] of its supervisor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ToolTask {
    /// What is to be done, as [`Perform`] reads it.
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
    /// Debian's name of the machine whose programs it runs, where that is not this one.
    pub foreign: Option<String>,
}

/// Does the work of a [`ToolTask`], given its body, in the directory that can be written. Bytes go to the log; a phase's
/// name is told when it is over.
pub type Perform =
    fn(&[u8], &Path, &mut dyn FnMut(&[u8]), &mut dyn FnMut(&str)) -> Result<(), ToolFailure>;

/// Why something could not be done, and the hint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolFailure {
    pub message: String,
    /// The way out, where there is one.
    pub help: Option<String>,
}

impl ToolFailure {
    /// One without a way out.
    pub fn new(message: impl Into<String>) -> Self {
        ToolFailure {
            message: message.into(),
            help: None,
        }
    }

    /// What the system refused.
    pub fn io(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| ToolFailure::new(format!("cannot {verb} {}: {error}", path.display()))
    }
}

/// Empty directories that a toolbox must have, on which the container mounts what is the kernel's, or of this run.
pub const MOUNT_POINTS: [&str; 6] = ["proc", "sys", "dev", "run", "tmp", "work"];

/// What who does the work says: any number of `Log` and `Phase`, then one of the others.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToolReport {
    /// Bytes that programs printed.
    Log(ByteBuf),
    /// A part of the work is over.
    Phase(String),
    Done,
    /// The work could not be done.
    Failed(ToolFailure),
    /// The job has reached a limit. The last message.
    Limit(Limit),
    /// The sandbox could not be made.
    Problem(Problem),
}

/// From the request, which is the sandbox's own, to the end of the work.
pub(super) fn run_tools_session(
    link: &mut Link,
    request: &impl Serialize,
    bounds: &Bounds,
    events: &mut dyn FnMut(ToolEvent<'_>),
) -> Result<ToolEnd, SessionError> {
    let end = run_tools_unlimited(link, request, bounds, events);
    let stopped = match &end {
        Err(SessionError::Stop(LinkError::Limit(limit))) => Some(*limit),
        Err(SessionError::Stop(LinkError::TimedOut | LinkError::Cancelled)) => None,
        _ => link.reached(),
    };
    match stopped {
        Some(limit) => Ok(ToolEnd::LimitReached(bounds.reached(limit, None))),
        None => end,
    }
}

fn run_tools_unlimited(
    link: &mut Link,
    request: &impl Serialize,
    bounds: &Bounds,
    events: &mut dyn FnMut(ToolEvent<'_>),
) -> Result<ToolEnd, SessionError> {
    link.send(request)?;
    let mut printed = 0;
    loop {
        match link.receive()? {
            ToolReport::Log(bytes) => {
                events(ToolEvent::Log(&bytes));
                printed += bytes.len() as u64;
                if printed > bounds.limits.log {
                    return Ok(ToolEnd::LimitReached(bounds.reached(Limit::Log, None)));
                }
            }
            ToolReport::Phase(name) => events(ToolEvent::Phase(&name)),
            ToolReport::Limit(limit) => {
                return Ok(ToolEnd::LimitReached(bounds.reached(limit, None)));
            }
            ToolReport::Done => return Ok(ToolEnd::Done),
            ToolReport::Failed(failure) => return Ok(ToolEnd::Failed(failure)),
            ToolReport::Problem(problem) => return Err(SessionError::Problem(problem)),
        }
    }
}
