//! Runs the steps of an Action on a guest's disk, in isolation, and leaves the result in a qcow2 overlay.
//!
//! Knows disks, steps and files, not recipes, the graph, keys or the cache. What a sandbox promises is [`Sandbox`].

mod confine;
mod emulate;
mod environment;
mod host_view;
mod kind;
mod limits;
mod link;
mod memory;
mod namespace;
pub mod protocol;
#[cfg(test)]
mod protocol_tests;
mod session;
mod sys;
mod terminal;
mod tools;
mod trim;
mod usage;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use environment::GuestEnvironment;
pub use host_view::{LazyPolicy, NetworkPolicy, PolicyError, ReadPolicy};
pub use kind::{SandboxKind, SandboxSetup};
pub use limits::{Culprit, Reached, control_groups};
pub use namespace::{
    NamespaceSandbox, ProbePiece, RELAY, SERVER, SUPERVISOR_ARGUMENT, UserNameSpace,
    lacks as server_lacks, probe, probe_user_namespace, server_socket, storage_version,
    supervisor_main,
};
pub use protocol::{AgentStep, FileOwner, InputKind, Limit, Problem, StepFacts, Stream};
pub(crate) use sys::{confine, die_with_parent, keep_sizes, move_elsewhere};
pub(crate) use terminal::SavedTerminal;
pub use terminal::restore_terminal;
pub use tools::{
    GUEST_DISK, MOUNT_POINTS, Perform, ToolDisk, ToolEnd, ToolEvent, ToolFailure, ToolJob, ToolTask,
};
pub use trim::TrimmedOverlay;

use impasto_stages::Limits;
use impasto_store::claim::Isolation;

use crate::base::cancel::CancelToken;
use crate::base::io::IoError;
use crate::disk::guest::{RootError, RootSelector};

/// The agent: a static executable, built with impasto.
static AGENT: &[u8] = include_bytes!(env!("IMPASTO_AGENT"));

/// BLAKE3 of the embedded agent.
pub fn agent_digest() -> [u8; 32] {
    static DIGEST: std::sync::OnceLock<[u8; 32]> = std::sync::OnceLock::new();
    *DIGEST.get_or_init(|| *blake3::hash(AGENT).as_bytes())
}

/// A place where steps run. What they see there is in the job: a sandbox has nothing of its own to say about it.
pub trait Sandbox: Send + Sync {
    /// Runs one job to its end, on the calling thread; when it returns no process, mount or device of it is left.
    ///
    /// A step that fails is an [`Outcome`], not an error. After [`Outcome::Ok`], and after a step that failed, the
    /// overlay holds cleanly unmounted file systems; after anything else it is worth nothing.
    fn run(
        &self,
        job: SandboxJob<'_>,
        events: &mut dyn FnMut(SandboxEvent<'_>),
    ) -> Result<Finished, SandboxError>;

    /// Does our own work with the toolbox's programs, on the calling thread; when it returns no process or mount of it is
    /// left. Files of [`ToolJob::work`] are worth something only after [`ToolEnd::Done`].
    fn run_tools(
        &self,
        job: ToolJob<'_>,
        events: &mut dyn FnMut(ToolEvent<'_>),
    ) -> Result<ToolEnd, SandboxError>;

    /// What claims record about it. Asked once a job: it may take a while the first time.
    fn facts(&self) -> SandboxFacts;
}

/// Facts of a sandbox, recorded and never keyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxFacts {
    /// [`SandboxKind::name`].
    pub name: &'static str,
    /// What stands between guest and host.
    pub isolation: Isolation,
    /// Release of the kernel that runs the guest.
    pub kernel: String,
    /// BLAKE3 of the agent.
    pub agent: [u8; 32],
    /// Version of the program that serves the disk; `None` where it cannot be asked.
    pub storage: Option<String>,
}

/// One job: a disk, what to do on it, and what to bring back.
pub struct SandboxJob<'a> {
    /// A private, empty directory on the store's file system.
    pub work: &'a Path,
    /// Where the overlay shall be made.
    pub overlay: &'a Path,
    /// Layer files, bottom first, verified by the caller and kept open until the job has ended; none is a blank disk.
    pub chain: Vec<PathBuf>,
    /// Size of the disk in bytes.
    pub virtual_size: u64,
    pub root: RootSelector,
    /// What to do, in order.
    pub steps: Vec<AgentStep>,
    /// Files for the steps, by name.
    pub inputs: Vec<SandboxInput<'a>>,
    /// Directories of the host that the steps see, read-only, below `/run/impasto`: by their names there.
    pub trees: Vec<(String, PathBuf)>,
    /// Directories of the host that the steps can write to, below `/run/impasto/caches`: by their names there. Nothing of
    /// them becomes part of the disk.
    pub caches: Vec<(String, PathBuf)>,
    pub scripts: Vec<(String, Vec<u8>)>,
    /// What runs the disk's programs, where they are for another machine than this.
    pub emulator: Option<Emulator>,
    pub secrets: Vec<(String, Vec<u8>)>,
    /// Files to bring back: name, and path in the guest.
    pub outputs: Vec<(String, String)>,
    /// Paths in the guest whose files shall not differ because steps ran at another time: after success, what was changed
    /// there is empty and what is new is gone. `*` stands for any bytes within one part of a path, a directory for all
    /// that is below it.
    pub volatile: Vec<String>,
    /// Environment of steps, beside what every step has.
    pub env: Vec<(String, String)>,
    /// Files that the end of a failed step's output names, which are looked at for [`Finished::facts`].
    pub suspects: fn(&[u8]) -> Vec<String>,
    /// Time of files that impasto writes, in seconds, and `SOURCE_DATE_EPOCH` of steps.
    pub source_date_epoch: Option<u64>,
    /// What else steps see of the place where they run.
    pub environment: GuestEnvironment,
    /// The host's policy for steps that can reach the network; none where they cannot.
    pub network: Option<&'a NetworkPolicy>,
    /// Whether steps may mount, make devices and make namespaces, with which they could change the host.
    pub privileged: bool,
    /// How much of the machine it may use.
    pub limits: Limits,
    /// Longest duration of the whole job.
    pub timeout: Option<Duration>,
    /// What gets this process's own standard streams once the steps are done. Then nothing that was written is kept, and
    /// outputs, limits of processes and memory, and time-out mean nothing: whoever types is there to stop it.
    pub shell: Option<ShellCommand>,
    /// Ends the job early.
    pub cancel: CancelToken,
}

/// A program that runs those of another machine.
#[derive(Debug, Clone)]
pub struct Emulator {
    /// The machine, as distributions call it.
    pub architecture: String,
    /// The emulator itself: a static executable.
    pub program: Vec<u8>,
}

/// Longest program of an emulator, in bytes.
const MAX_EMULATOR: u64 = 64 << 20;

impl Emulator {
    /// The emulator for an architecture, out of a tree of tools with Debian's package qemu-user-static.
    ///
    /// # Errors
    /// There is none for this architecture, or it cannot be read.
    pub fn of_tools(tools: &Path, architecture: &str) -> Result<Emulator, SandboxError> {
        let name = emulate::emulator_of(architecture).map_err(|error| {
            SandboxError::HostLacks(Problem::new(
                protocol::ProblemKind::HostLacks,
                error.to_string(),
            ))
        })?;
        let path = tools.join("usr/bin").join(name);
        let program = crate::base::bounded::read(&path, MAX_EMULATOR)
            .map_err(SandboxError::io("read", &path))?;
        Ok(Emulator {
            architecture: architecture.to_owned(),
            program,
        })
    }
}

impl SandboxJob<'_> {
    /// A job without disk and steps, to be filled.
    pub fn empty() -> Self {
        SandboxJob {
            work: Path::new(""),
            overlay: Path::new(""),
            chain: Vec::new(),
            virtual_size: 0,
            root: RootSelector::Auto,
            steps: Vec::new(),
            inputs: Vec::new(),
            trees: Vec::new(),
            caches: Vec::new(),
            scripts: Vec::new(),
            emulator: None,
            secrets: Vec::new(),
            outputs: Vec::new(),
            volatile: Vec::new(),
            env: Vec::new(),
            suspects: |_| Vec::new(),
            source_date_epoch: None,
            environment: GuestEnvironment::default(),
            network: None,
            privileged: false,
            limits: Limits::default(),
            timeout: None,
            shell: None,
            cancel: CancelToken::new(),
        }
    }
}

/// A shell in a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShellCommand {
    /// What it runs; it is interactive where there is none.
    pub line: Option<String>,
}

/// A file for a job.
pub struct SandboxInput<'a> {
    /// Its name: one path component.
    pub name: String,
    pub mode: u32,
    /// Where its bytes are. A tree is a tar stream, to be laid out by a step.
    pub path: &'a Path,
}

/// What a job tells while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxEvent<'a> {
    StepStarted {
        /// Its index in [`SandboxJob::steps`].
        index: usize,
    },
    /// Bytes that a step printed, as they came.
    Log {
        /// Standard output or error.
        stream: Stream,
        /// At most [`protocol::MAX_LOG`] bytes.
        bytes: &'a [u8],
    },
    /// A step has succeeded.
    StepFinished {
        /// Its index in [`SandboxJob::steps`].
        index: usize,
    },
}

/// A job that came to its end.
#[derive(Debug)]
pub struct Finished {
    pub outcome: Outcome,
    /// What was brought back; empty unless the outcome is [`Outcome::Ok`].
    pub outputs: Vec<Output>,
    /// Bytes of the disk, sorted, whose content means nothing: free blocks of the file systems that were mounted, and
    /// their journals'. Sealing shall read the overlay through [`TrimmedOverlay`], so that what was deleted is not kept.
    pub unused: Vec<Range<u64>>,
    /// Numbers of the partitions whose file systems were mounted, 0 for the whole disk.
    pub mounted: Vec<u32>,
    /// What there was to see in the guest after a step failed.
    pub facts: Option<StepFacts>,
    /// How many processes the kernel ended meanwhile because memory ran out, on the whole machine.
    pub oom_kills: u64,
    pub begun: Instant,
    /// Where the time went since then, in order: phase and duration. Those of the supervisor lie within others.
    pub timings: Vec<(String, Duration)>,
}

/// A file that was brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its name in [`SandboxJob::outputs`].
    pub name: String,
    /// A regular file in [`SandboxJob::work`].
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    /// Its permission bits in the guest.
    pub mode: u32,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every step succeeded, every output was brought back, the disk is closed and clean.
    Ok,
    /// A step's program failed. The disk is closed and clean.
    StepFailed {
        index: usize,
        /// Exit code, `None` where a signal ended it.
        code: Option<i32>,
        signal: Option<i32>,
    },
    /// A step could not be done. The disk is closed and clean.
    StepRefused { index: usize, problem: Problem },
    /// An output is not there, or is no regular file. The disk is closed and clean.
    OutputRefused {
        name: String,
        /// Why, with its path.
        problem: Problem,
    },
    /// The time was over.
    TimedOut {
        /// [`SandboxJob::timeout`].
        after: Duration,
    },
    /// A limit of [`SandboxJob::limits`] was reached.
    LimitReached(Reached),
    /// [`CancelToken::cancel`] was called.
    Cancelled,
    /// The shell of [`SandboxJob::shell`] has ended. 128 and the number where a signal ended it.
    ShellEnded { code: i32 },
    /// Guest data was lost: an error while writing, or a file system that is not clean.
    Damaged { problem: Problem },
}

impl Finished {
    /// The exit code of the job's shell, 128 and the number where a signal ended it.
    ///
    /// # Errors
    /// It was not reached.
    pub fn shell_code(self) -> Result<i32, SandboxError> {
        match self.outcome {
            Outcome::ShellEnded { code } => Ok(code),
            Outcome::Cancelled => Ok(crate::base::interrupt::EXIT_CODE.into()),
            Outcome::LimitReached(reached) => {
                Err(SandboxError::Prepare(format!("the {reached} is reached")))
            }
            Outcome::Damaged { problem } => Err(SandboxError::Failed(problem)),
            outcome => Err(SandboxError::Prepare(format!("{outcome:?}"))),
        }
    }
}

impl Outcome {
    /// Whether the result may be kept.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Ok)
    }

    /// Whether the overlay holds a state that can be looked at.
    pub fn leaves_a_disk(&self) -> bool {
        match self {
            Self::Ok
            | Self::StepFailed { .. }
            | Self::StepRefused { .. }
            | Self::OutputRefused { .. } => true,
            Self::TimedOut { .. }
            | Self::LimitReached(_)
            | Self::Cancelled
            | Self::ShellEnded { .. }
            | Self::Damaged { .. } => false,
        }
    }
}

/// Why a job could not be run. Nothing of it may be kept.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The namespace sandbox needs root.
    #[error("the namespace sandbox needs root, but this is user {uid}")]
    NotRoot { uid: u32 },
    /// The host lacks a device or a program.
    #[error("the host cannot serve as a sandbox: {0}")]
    HostLacks(Problem),
    /// The host's policy for steps with network is of no use.
    #[error("no mirror for stages with network")]
    Policy(#[source] PolicyError),
    /// No file system can be the root.
    #[error("no root file system")]
    Root(#[source] RootError),
    /// No partition, or several, holds a shell.
    #[error("no root file system: {0}")]
    NoRoot(Problem),
    /// The guest could not be made.
    #[error("the sandbox failed: {0}")]
    Failed(Problem),
    /// What a shell shall find there cannot be laid out.
    #[error("the stage's files cannot be prepared: {0}")]
    Prepare(String),
    /// A process of the sandbox ended, or said what it must not.
    #[error("the sandbox stopped unexpectedly: {reason}{}", if .log.is_empty() { String::new() } else { format!(" ({log})") })]
    Broken {
        reason: String,
        /// What its processes printed last.
        log: String,
    },
    /// The overlay cannot be made.
    #[error("cannot make the overlay {}", .path.display())]
    Overlay {
        path: PathBuf,
        source: impasto_store::qcow2::WriteError,
    },
    /// A call on the host's side failed.
    #[error(transparent)]
    Io(#[from] IoError),
}

impl SandboxError {
    /// What makes this of the system's error, for `map_err`.
    pub(crate) fn io(
        verb: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        IoError::at(verb, path)
    }
}

impl fmt::Debug for SandboxJob<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Secrets and contents stay out.
        f.debug_struct("Job")
            .field("work", &self.work)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}
