//! What impasto and its supervisor tell each other: before and after the agent's turn on their socket, and in place of it.
//!
//! Knows host paths; the agent never sees these messages.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::container::{ToolFailure, ToolTask};
use crate::disk::guest::DiskLayout;
use crate::sandbox::protocol::{Ceiling, Device, Limit, Problem};

/// The first frame to the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::sandbox) enum SupervisorRequest {
    /// Give the agent a disk.
    Guest(GuestSpec),
    /// Do our own work with the toolbox's programs.
    Tools(ToolPlan),
    /// Try what the sandbox needs, on an empty disk.
    Probe(GuestSpec),
}

/// Work with the toolbox's programs.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::sandbox) struct ToolPlan {
    /// The one directory that can be written, beside memory.
    pub(in crate::sandbox) work: PathBuf,
    /// The tree of programs that is the container's root.
    pub(in crate::sandbox) toolbox: PathBuf,
    pub(in crate::sandbox) task: ToolTask,
    /// Files to which a process writes `0` to be in the control groups of the job.
    pub(in crate::sandbox) groups: Vec<PathBuf>,
    /// Most bytes of files in memory.
    pub(in crate::sandbox) tmpfs: u64,
    /// What the supervisor watches, where no control group does.
    pub(in crate::sandbox) watch: Option<Ceiling>,
}

/// What comes back from it: any number of `Log` and `Phase`, then one of the others.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::sandbox) enum ToolReport {
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

/// A disk for the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::sandbox) struct GuestSpec {
    /// Private directory of the run.
    pub(in crate::sandbox) work: PathBuf,
    /// The overlay, an empty qcow2.
    pub(in crate::sandbox) overlay: PathBuf,
    /// Layer files below it, bottom first.
    pub(in crate::sandbox) chain: Vec<PathBuf>,
    /// Share the host's network.
    pub(in crate::sandbox) network: bool,
    /// The agent gets the supervisor's terminal.
    pub(in crate::sandbox) terminal: bool,
    /// Files to which a process writes `0` to be in the control groups of the job.
    pub(in crate::sandbox) groups: Vec<PathBuf>,
}

/// Ranges of one message, so that it fits into a frame.
pub(in crate::sandbox) const MAX_RANGES: usize = 16384;

/// What the supervisor says.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::sandbox) enum SupervisorEvent {
    /// The disk is there; from the next frame on the agent listens.
    Ready {
        /// What lies on it.
        layout: DiskLayout,
        disk: Device,
        /// Devices of its partitions.
        partitions: Vec<(u32, Device)>,
        /// Milliseconds since the supervisor began, by phase.
        phases: Vec<(String, f64)>,
    },
    /// The sandbox could not be made, or not be closed.
    Problem(Problem),
    /// Bytes of the disk that mean nothing any more; any number of these comes before `Closed`.
    Unused {
        /// Number of the partition, 0 is the disk.
        number: u32,
        /// Start and end, at most [`MAX_RANGES`].
        ranges: Vec<(u64, u64)>,
    },
    /// The disk is closed.
    Closed {
        /// What is wrong with file systems: number of the partition (0 is the disk) and reason.
        dirty: Vec<(u32, String)>,
        /// Milliseconds, by phase.
        phases: Vec<(String, f64)>,
    },
}
