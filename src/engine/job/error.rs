//! Why a job has no result.
//! Knows errors' fields, not what the engine makes of them, nor what a user can do about them.

use std::io;
use std::path::{Path, PathBuf};

use impasto_store::qcow2::GateError;
use impasto_store::{Error as StoreError, Miss};
use rustix::io::Errno;

use crate::base::human::{causes, chain};
use crate::base::io::IoError;
use crate::debian::packages::fetch::PackageFetchError;
use crate::debian::packages::tools::ToolsError;
use crate::disk::image::ForeignFormat;
use crate::disk::packed::ImageUnpackError;
use crate::engine::cause::{self, Cause, Diagnosis, LogLine, SourceLocation};
use crate::engine::graph::NodeId;
use crate::engine::inputs::InputError;
use crate::engine::plan::PlanError;
use crate::net::{DownloadError, DownloaderError};
use crate::sandbox::SandboxError;
use crate::source::archive::ArchiveTreeError;
use crate::source::git::GitError;
use crate::source::vendor::VendorError;
use crate::vm::VmError;

/// A job without a result.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// A result of another node that it needs is not in the store any more. The node itself, where it is its own.
    #[error("{miss}")]
    Miss {
        /// The node whose result it is.
        from: NodeId,
        miss: Miss,
    },
    /// An input is another one than was planned.
    #[error("`{}` changed while it was read", path.display())]
    Changed { path: PathBuf },
    /// The run was stopped.
    #[error("cancelled")]
    Cancelled,
    /// The stage itself failed, or what it ran on.
    #[error("{}", .0.message)]
    Stage(Box<StageFailure>),
    /// The Action could not be bound.
    #[error(transparent)]
    Plan(Box<PlanError>),
    /// It uses the network, which the user forbids.
    #[error("it has `network = true`, which --offline forbids")]
    Offline,
    /// There is no sandbox for it here.
    #[error("{reason}")]
    NoSandbox { reason: String },
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Store(StoreError),
    /// A virtual machine could not be made.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// A file could not be got.
    #[error(transparent)]
    Fetch(DownloadError),
    /// A URL that is none.
    #[error("`{url}` is not a valid http or https URL")]
    NoUrl { url: String },
    #[error(transparent)]
    Downloader(#[from] DownloaderError),
    /// What a language's lock names cannot be had.
    #[error(transparent)]
    Vendor(VendorError),
    /// A package file cannot be had.
    #[error(transparent)]
    Package(PackageFetchError),
    /// The tools that impasto uses cannot be had.
    #[error(transparent)]
    Tools(ToolsError),
    /// A package file is not what the lock says, or none.
    #[error("package {package} cannot be used: {reason}")]
    NoPackage {
        /// Name, version and architecture.
        package: String,
        reason: String,
    },
    /// A package file of the user's is not the one that the lock names.
    #[error("the lock is stale: `{}` has changed since it was locked", path.display())]
    StaleFile { path: PathBuf, stage: String },
    /// A disk image is refused.
    #[error("{what} is refused as a disk image")]
    Gate {
        what: String,
        source: Box<GateError>,
    },
    /// An image names a stage that made a disk, where it needs a file.
    #[error("{label} made a disk, but an image consists of files")]
    NotAFile { label: String },
    /// An image names a file that the stage did not make.
    #[error("{label} made no file {file:?}")]
    NoFile { label: String, file: String },
    /// A file shall be a disk, and has a format that is not read here.
    #[error("{what} cannot be used as a disk: it is {format}")]
    Format {
        what: String,
        format: ForeignFormat,
        /// What of it is not read, where the format is.
        source: Option<Box<GateError>>,
    },
    /// A repository does not give a commit.
    #[error(transparent)]
    Git(Box<GitError>),
    /// An archive gives no tree of files.
    #[error("{what} cannot be used as a tree of files")]
    Archive {
        what: String,
        source: Box<ArchiveTreeError>,
    },
    /// A compressed file gives no disk image.
    #[error("{what} cannot be used as a disk")]
    Unpack {
        what: String,
        source: ImageUnpackError,
    },
    /// A file is not a disk.
    #[error("{what} is not a disk: {reason}")]
    NoDisk { what: String, reason: String },
    /// An input cannot be used.
    #[error(transparent)]
    Input(InputError),
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The system refused a thread.
    #[error("cannot start a thread")]
    Thread { source: io::Error },
    /// A bug of impasto's.
    #[error("BUG: {message}")]
    Bug { message: String },
}

/// How a stage failed.
#[derive(Debug, Default)]
pub struct StageFailure {
    pub message: String,
    /// What that comes of, where it is known.
    pub cause: Option<Cause>,
    /// The line of the log that says so.
    pub log_line: Option<LogLine>,
    /// Where in the recipe and its scripts, the nearest place first.
    pub places: Vec<SourceLocation>,
    /// The way out, where no cause has one.
    pub help: Option<String>,
    /// What it wrote last.
    pub last_lines: Vec<String>,
    /// How it can be entered.
    pub shell: Enter,
}

/// How a stage that failed can be entered, to look around.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Enter {
    /// Not at all: it runs no programs in an image.
    #[default]
    Never,
    /// As it was when its step failed.
    AsItFailed,
    /// As it was before its first step: what it left is worth nothing.
    AsItBegan,
}

/// What the system refused somewhere among an error's causes, where that is the host's failure: no space, no quota, no
/// more open files, a read-only or vanished file system, a disk that fails.
pub(crate) fn host_failure(error: &(dyn std::error::Error + 'static)) -> Option<Errno> {
    chain(error)
        .filter_map(|error| error.downcast_ref().and_then(Errno::from_io_error))
        .find(|errno| {
            matches!(
                *errno,
                Errno::NOSPC
                    | Errno::DQUOT
                    | Errno::FBIG
                    | Errno::ROFS
                    | Errno::IO
                    | Errno::STALE
                    | Errno::MFILE
                    | Errno::NFILE
            )
        })
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        JobError::Store(error)
    }
}

impl From<InputError> for JobError {
    fn from(error: InputError) -> Self {
        match error {
            InputError::Changed { path } => JobError::Changed { path },
            other => JobError::Input(other),
        }
    }
}

impl JobError {
    /// An Action that could not be bound.
    pub fn plan(error: PlanError) -> Self {
        match error {
            PlanError::Store(error) => JobError::Store(error),
            error => JobError::Plan(Box::new(error)),
        }
    }

    /// Whether the host failed, not the stage: a full or failing disk, or no more of what the kernel gives.
    pub fn is_host_failure(&self) -> bool {
        use StoreError::{NoSpace, Quota, ReadOnly};
        if let JobError::Stage(failure) = self {
            return failure.cause.as_ref().is_some_and(Cause::is_host);
        }
        matches!(
            self,
            JobError::Thread { .. }
                | JobError::Store(NoSpace { .. } | Quota { .. } | ReadOnly { .. })
        ) || host_failure(self).is_some()
            || cause::of_error(self).is_some()
    }

    pub(super) fn io(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JobError {
        IoError::at(verb, path)
    }

    /// The message, what caused it, the stage's last lines, and what is known beside them.
    pub fn into_parts(self) -> (String, Vec<String>, Vec<String>, Diagnosis) {
        let message = self.to_string();
        let mut causes = causes(&self);
        match self {
            JobError::Stage(failure) => {
                let StageFailure {
                    cause,
                    log_line,
                    places,
                    last_lines,
                    ..
                } = *failure;
                // The message says which limit.
                let told = matches!(cause, Some(Cause::Limit(_)));
                causes.extend(cause.as_ref().filter(|_| !told).map(ToString::to_string));
                (
                    message,
                    causes,
                    last_lines,
                    Diagnosis {
                        cause: cause.map(|cause| cause.code()),
                        places,
                        log_line,
                    },
                )
            }
            other => {
                let cause = cause::of_error(&other);
                causes.extend(cause.as_ref().map(ToString::to_string));
                let cause = cause.map(|cause| cause.code());
                (
                    message,
                    causes,
                    Vec::new(),
                    Diagnosis {
                        cause,
                        ..Diagnosis::default()
                    },
                )
            }
        }
    }
}
