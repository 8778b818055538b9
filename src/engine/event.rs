//! What happens during a run, as owned values in order: the engine tells, the user interfaces listen.
//! Knows no output format.

use std::path::PathBuf;
use std::time::Duration;

use impasto_store::sha256::Sha256;
use schemars::JsonSchema;
use serde::Serialize;

use crate::engine::cause::Diagnosis;

/// Something that happened, and when.
#[derive(Debug, Clone)]
pub struct Event {
    /// Since the start of the run.
    pub at: Duration,
    /// What happened.
    pub kind: EventKind,
}

/// What can happen.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// The packages of a stage are being resolved: before the run starts, or in a command that only locks.
    ResolveStarted {
        /// The node's label; `toolbox` for the tools that impasto itself uses.
        stage: String,
    },
    /// The packages of a stage are resolved.
    ResolveFinished {
        /// The node's label, or `toolbox`.
        stage: String,
        /// How many package files it gets.
        packages: usize,
        /// Their bytes.
        bytes: u64,
        /// How long it took.
        wall_ms: u64,
    },
    /// The locked packages of a stage are being compared with what their archives have now.
    CompareStarted {
        /// The node's label.
        stage: String,
    },
    /// The lock is another one than before.
    Locked {
        /// The lock.
        #[serde(serialize_with = "lossy")]
        #[schemars(with = "String")]
        path: PathBuf,
        /// What changed, an entry or a package each.
        changes: Vec<String>,
        /// Whether it was written; a dry run writes nothing.
        written: bool,
    },
    /// All package files that are needed are in the store.
    PackagesFetched {
        /// How many there are.
        packages: usize,
        /// Their bytes.
        bytes: u64,
        /// How long it took.
        wall_ms: u64,
    },
    /// The plan is made.
    RunStarted {
        /// Nodes that are asked for, and all that they need.
        nodes: usize,
        /// How many of them are known to be cached.
        cached: usize,
    },
    /// A stage begins to run.
    StageStarted {
        /// The node's label.
        stage: String,
        kind: &'static str,
        /// Why it runs.
        reason: String,
    },
    /// How long what is left of the run takes, judged by earlier runs; comes again when that changes.
    Estimate {
        /// Until the end, as if nothing had to be downloaded; none where no stage that is left was ever timed.
        remaining_ms: Option<u64>,
        /// Stages that are left and of which no earlier run is known: `remaining_ms` is without them.
        unknown: usize,
    },
    /// How long a stage took before; comes after its start, where that is known.
    Expected {
        /// The node's label.
        stage: String,
        /// How long it took.
        wall_ms: u64,
    },
    /// How far something long is: a download, or a disk or file that is read, written or checked.
    Progress {
        /// The node's label, or `toolbox`; none where it is for several stages, as the download of packages is.
        stage: Option<String>,
        /// What is done, such as `download`, `sealing` or `converting`.
        what: &'static str,
        /// Bytes so far.
        done_bytes: u64,
        /// Bytes in all, where that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        total_bytes: Option<u64>,
    },
    /// The user asked the run to end: what runs is being stopped.
    Interrupted,
    /// A stage wrote a line.
    Log {
        /// The node's label.
        stage: String,
        /// The line: redacted, without control characters.
        line: String,
    },
    /// A stage's result is there.
    StageFinished {
        /// The node's label.
        stage: String,
        /// Whether it ran, or its result was found.
        how: How,
        /// How long it took.
        wall_ms: u64,
        /// Bytes that it added to the store.
        stored_bytes: u64,
        /// Bytes of its layer's file, or of its files where it made no disk; not looked at where nothing ran.
        #[serde(skip_serializing_if = "Option::is_none")]
        result_bytes: Option<u64>,
        /// With what its result is to be believed: `unlocked`, `weak isolation`.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        caveats: Vec<String>,
    },
    /// A part of the work is over: of a stage's, or of what the run does beside them. Parts of one stage may lie in each
    /// other, and come when they end.
    Phase {
        /// The node's label, where it is a stage's.
        #[serde(skip_serializing_if = "Option::is_none")]
        stage: Option<String>,
        /// What was done.
        name: String,
        /// When it began, since the start of the run.
        #[serde(rename = "start_ms", serialize_with = "millis")]
        #[schemars(with = "u64")]
        start: Duration,
        /// How long it took.
        #[serde(rename = "wall_ms", serialize_with = "millis")]
        #[schemars(with = "u64")]
        wall: Duration,
    },
    /// A stage gave no result.
    StageFailed {
        /// The node's label.
        stage: String,
        /// Why.
        error: String,
        /// What caused that, outermost first.
        causes: Vec<String>,
        /// The way out.
        help: Option<String>,
        /// The last lines that it wrote.
        last_lines: Vec<String>,
        /// What is known of the cause, and where it stands.
        #[serde(flatten)]
        diagnosis: Diagnosis,
        /// How long it took.
        wall_ms: u64,
    },
    /// A stage will not run.
    StageCancelled {
        /// The node's label.
        stage: String,
    },
    /// Something that the user should know and that does not stop the run.
    Warning {
        /// The node's label, where it is about one.
        stage: Option<String>,
        message: String,
    },
    /// A file was written for the user, or is there already.
    Published {
        /// Where.
        #[serde(serialize_with = "lossy")]
        #[schemars(with = "String")]
        path: PathBuf,
        /// Its length in bytes.
        bytes: u64,
        /// Its SHA-256, in hexadecimal.
        #[schemars(with = "String")]
        sha256: Sha256,
        /// Whether it had to be written.
        written: bool,
    },
    /// An image's files were not written, though its stages may have succeeded: those of an earlier run stay.
    ImageNotWritten {
        /// The image, as selectors call it.
        image: String,
        /// Why.
        error: String,
        /// What to do about it.
        help: Option<String>,
    },
    /// The run is over.
    RunFinished {
        /// Nodes that ran.
        built: usize,
        /// Nodes whose results were found.
        cached: usize,
        /// Nodes that gave no result.
        failed: usize,
        /// Nodes that did not run because of a failure or an interrupt.
        cancelled: usize,
        /// How long the run took.
        wall_ms: u64,
    },
}

/// A duration in whole milliseconds.
fn millis<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_millis() as u64)
}

/// A path as text, whatever its bytes are.
fn lossy<S: serde::Serializer>(path: &std::path::Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// How a stage's result came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// The stage ran.
    Built,
    /// The result was found.
    Cached,
}
