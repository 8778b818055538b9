//! What impasto and its supervisor tell each other: before and after the agent's turn on their socket, and in place of it.
//!
//! Knows host paths; the agent never sees these messages.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::disk::guest::DiskLayout;
use crate::sandbox::ToolTask;
use crate::sandbox::protocol::{Ceiling, Device, Problem};

/// The first frame to the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum SupervisorRequest {
    /// Give the agent a disk.
    Guest(GuestSpec),
    /// Do our own work with the toolbox's programs.
    Tools(ToolPlan),
    /// Try what the sandbox needs, on an empty disk.
    Probe(GuestSpec),
}

/// Work with the toolbox's programs.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ToolPlan {
    /// The one directory that can be written, beside memory.
    pub(super) work: PathBuf,
    /// The tree of programs that is the container's root.
    pub(super) toolbox: PathBuf,
    pub(super) task: ToolTask,
    /// The disk that the work changes.
    pub(super) disk: Option<ExportSpec>,
    /// Files to which a process writes `0` to be in the control groups of the job.
    pub(super) groups: Vec<PathBuf>,
    /// Most bytes of files in memory.
    pub(super) tmpfs: u64,
    /// What the supervisor watches, where no control group does.
    pub(super) watch: Option<Ceiling>,
}

/// An overlay that is to be shown as a raw file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ExportSpec {
    /// The raw file.
    pub(super) path: PathBuf,
    /// The overlay, a qcow2.
    pub(super) overlay: PathBuf,
    /// Layer files below it, bottom first.
    pub(super) chain: Vec<PathBuf>,
}

/// A disk for the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct GuestSpec {
    /// Private directory of the run.
    pub(super) work: PathBuf,
    /// The disk, over an empty overlay.
    pub(super) disk: ExportSpec,
    /// Share the host's network.
    pub(super) network: bool,
    /// The agent gets the supervisor's terminal.
    pub(super) terminal: bool,
    /// Files to which a process writes `0` to be in the control groups of the job.
    pub(super) groups: Vec<PathBuf>,
}

/// Ranges of one message, so that it fits into a frame.
pub(super) const MAX_RANGES: usize = 16384;

/// What the supervisor says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum SupervisorEvent {
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
