//! Why a stage or the host failed: one list of causes, each found from facts.
//! Knows causes, not what to do about them; `find` draws the conclusions, `clues` reads what programs print, `host` looks at disks.
//!
//! ```text
//! exit status, signal, errno ─┐
//! free blocks and inodes      ├─ find ─→ Cause ─┐
//! the switch `network`        │                 ├─→ Diagnosis: cause, places, line of the log
//! lines of the log ── clues ──┘   recipe, script ┘
//! ```

mod clues;
mod find;
mod host;

use std::fmt;

use impasto_stages::Origin;
use schemars::JsonSchema;
use serde::Serialize;

pub use clues::{Clues, LogLine, suspects};
pub use find::{Evidence, find};
pub use host::{HostDisk, Refusal, examine as examine_host, of_error};

use crate::base::human::bytes;
use crate::sandbox::Reached;

/// Why something failed. Paths are the guest's, but for those of the host's causes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// A name is to be resolved in a stage without network.
    Offline {
        /// The name, where it is known.
        name: Option<String>,
    },
    /// A name cannot be resolved, though the stage has the host's network.
    UnknownHost {
        /// The name, where it is known.
        name: Option<String>,
    },
    /// apt does not know a package.
    UnknownPackage {
        package: String,
        /// Whether the stage has the network.
        network: bool,
    },
    /// What starts a file is not in the image: a script's interpreter, a program's loader.
    NoInterpreter {
        /// The file; none for the stage's own script.
        file: Option<String>,
        /// What it names.
        interpreter: String,
    },
    /// The script's lines end as Windows has it.
    LineEnds,
    /// A program is not in the image.
    NoProgram {
        /// Its name or path.
        program: String,
    },
    /// The image's programs are for another machine than the recipe says.
    ForeignPrograms {
        /// Debian's name of that machine.
        machine: String,
    },
    /// A file may not be executed.
    NotExecutable {
        file: String,
        /// Its permission bits.
        mode: u32,
        /// What forbids it is its file system.
        noexec: bool,
    },
    /// A directory was to be executed.
    IsDirectory {
        /// The directory.
        file: String,
    },
    /// What the step did needs `privileged`.
    NotPrivileged,
    /// A file system of the image's disk has no space left.
    DiskFull {
        /// Where it is mounted.
        at: String,
        /// Bytes that were free at the least; none where it was not seen to be full.
        free: Option<u64>,
        /// Bytes that it has.
        size: u64,
    },
    /// A file system of the image's disk has no inode left.
    NoInodes {
        /// Where it is mounted.
        at: String,
        /// Inodes that it has.
        inodes: u64,
    },
    /// A quota of the image's own file system.
    Quota,
    /// A stage's limit.
    Limit(Reached),
    /// The kernel ended a process because the machine, or what impasto itself runs in, has no memory left.
    NoMemory,
    /// A file would become larger than the process may write.
    FileSize {
        /// The limit in bytes, where it is known.
        limit: Option<u64>,
    },
    /// A disk of the host cannot be written.
    Host {
        /// What is wrong with it.
        refusal: Refusal,
        /// The disk, where it is known which.
        disk: Option<HostDisk>,
    },
}

impl Cause {
    /// Its name for machines, which never changes.
    pub fn code(&self) -> &'static str {
        match self {
            Cause::Offline { .. } => "offline",
            Cause::UnknownHost { .. } => "unknown_host",
            Cause::UnknownPackage { .. } => "unknown_package",
            Cause::NoInterpreter { .. } => "no_interpreter",
            Cause::LineEnds => "line_ends",
            Cause::NoProgram { .. } => "no_program",
            Cause::ForeignPrograms { .. } => "foreign_programs",
            Cause::NotExecutable { .. } => "not_executable",
            Cause::IsDirectory { .. } => "is_directory",
            Cause::NotPrivileged => "not_privileged",
            Cause::DiskFull { .. } => "image_disk_full",
            Cause::NoInodes { .. } => "image_no_inodes",
            Cause::Quota => "image_quota",
            Cause::Limit(_) => "limit",
            Cause::NoMemory => "no_memory",
            Cause::FileSize { .. } => "file_size_limit",
            Cause::Host { refusal, .. } => refusal.code(),
        }
    }

    /// Whether the host failed, and the next stage would meet the same.
    pub fn is_host(&self) -> bool {
        matches!(self, Cause::Host { .. } | Cause::FileSize { .. })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Offline { name: Some(name) } => {
                write!(f, "the stage has no network, so `{name}` cannot be reached")
            }
            Cause::Offline { name: None } => {
                write!(f, "the stage has no network, so nothing can be reached")
            }
            Cause::UnknownHost { name } => {
                let name = name
                    .as_ref()
                    .map_or("a host".to_owned(), |name| format!("`{name}`"));
                write!(
                    f,
                    "{name} cannot be resolved, although the stage has network access"
                )
            }
            Cause::UnknownPackage {
                package,
                network: false,
            } => {
                write!(
                    f,
                    "apt in the image does not know the package `{package}`, and the stage has no network to ask"
                )
            }
            Cause::UnknownPackage {
                package,
                network: true,
            } => {
                write!(f, "apt in the image does not know the package `{package}`")
            }
            Cause::NoInterpreter { file, interpreter } => {
                let file = file
                    .as_ref()
                    .map_or("the script".to_owned(), |file| format!("`{file}`"));
                match interpreter.strip_suffix('\r') {
                    Some(name) => write!(
                        f,
                        "{file} has Windows line endings (CRLF): its first line names `{name}\\r`"
                    ),
                    None => write!(
                        f,
                        "{file} needs the interpreter `{interpreter}`, which is not in the image"
                    ),
                }
            }
            Cause::LineEnds => {
                write!(
                    f,
                    "the script has Windows line endings (CRLF), and the shell takes the CR as a part of every \
                           line"
                )
            }
            Cause::NoProgram { program } if program.contains('/') => {
                write!(f, "there is no file `{program}` in the image")
            }
            Cause::NoProgram { program } => {
                write!(f, "the program `{program}` is not in the image")
            }
            Cause::ForeignPrograms { machine } => {
                write!(
                    f,
                    "the image's programs are for {machine}, and the recipe does not say so"
                )
            }
            Cause::NotExecutable {
                file, noexec: true, ..
            } => {
                write!(f, "`{file}` is on a file system mounted with noexec")
            }
            Cause::NotExecutable { file, mode, .. } => {
                write!(f, "`{file}` has the mode {mode:04o}: it cannot be executed")
            }
            Cause::IsDirectory { file } => write!(f, "`{file}` is a directory, not a program"),
            Cause::NotPrivileged => {
                write!(
                    f,
                    "steps cannot mount, create devices or create namespaces unless the stage is privileged"
                )
            }
            Cause::DiskFull {
                at,
                free: Some(free),
                size,
            } => {
                write!(
                    f,
                    "the image's disk is full: {at} has {} free of {}",
                    bytes(*free),
                    bytes(*size)
                )
            }
            Cause::DiskFull {
                at,
                free: None,
                size,
            } => {
                write!(
                    f,
                    "the image's disk was full for a moment: {at} has {} in total",
                    bytes(*size)
                )
            }
            Cause::NoInodes { at, inodes } => {
                write!(
                    f,
                    "the image's disk has no inodes left: {at} has {inodes}, one per file"
                )
            }
            Cause::Quota => write!(f, "a quota of the image's file system is used up"),
            Cause::Limit(reached) => write!(f, "the stage reached the {reached}"),
            Cause::NoMemory => {
                write!(
                    f,
                    "this machine ran out of memory: the kernel killed a process of the stage, which was within \
                           its own limit"
                )
            }
            Cause::FileSize { limit } => {
                let limit = limit.map_or(String::new(), |limit| format!(" of {}", bytes(limit)));
                write!(
                    f,
                    "a file would be larger than the limit{limit} that impasto was started with (ulimit -f)"
                )
            }
            Cause::Host { refusal, disk } => refusal.describe(disk.as_ref(), f),
        }
    }
}

/// What begins, or is, at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// The very line that failed.
    Line,
    /// A script of which some line failed.
    Script,
    /// A command of the stage.
    Command,
    Stage,
    /// A parameter's value.
    Value,
}

/// A line of a file, as messages show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SourceLocation {
    /// What is there.
    pub what: What,
    /// The file: relative to the current directory where it lies below it.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
}

impl fmt::Display for SourceLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file.starts_with("--") {
            true => f.write_str(&self.file),
            false => write!(f, "{}:{}", self.file, self.line),
        }
    }
}

/// What messages say of a stage that failed.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// Where its block begins.
    pub stage: Option<SourceLocation>,
    /// Where its script begins, where it has one.
    pub script: Option<SourceLocation>,
    /// The stage whose disk it works on, in the first place.
    pub disk: Option<DiskMaker>,
}

/// The stage that a disk comes from.
#[derive(Debug, Clone)]
pub struct DiskMaker {
    /// How messages call it.
    pub label: String,
    /// Whether its recipe says how large the disk is.
    pub has_size: bool,
    /// Where its block begins.
    pub place: Option<SourceLocation>,
}

/// What is known of a failure beside its message.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Diagnosis {
    /// A word for the cause, such as `image_disk_full`, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'static str>,
    /// Where it stands: the nearest place first (script, command), the stage's block last.
    pub places: Vec<SourceLocation>,
    /// The line of the log that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_line: Option<LogLine>,
}

impl Diagnosis {
    /// As text, a line each. `shown` are lines of the log that are shown anyway.
    pub fn lines(&self, shown: &[String]) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.places.is_empty() {
            let named = |place: &SourceLocation| match place.what {
                What::Line => format!("at {place}"),
                What::Value => format!("in {place}"),
                What::Script => format!("in the script {place}"),
                What::Command => format!("in the command {place}"),
                What::Stage => format!("in the stage {place}"),
            };
            lines.push(self.places.iter().map(named).collect::<Vec<_>>().join(", "));
        }
        let hidden = self
            .log_line
            .iter()
            .filter(|line| !shown.contains(&line.text));
        lines.extend(hidden.map(|line| format!("line {} of its log: {}", line.number, line.text)));
        lines
    }
}

impl SourceLocation {
    /// A place of a recipe whose directory messages call `dir`, with a `/` at its end; empty for the current one.
    pub fn of(what: What, dir: &str, origin: &Origin) -> SourceLocation {
        // A value of the command line has an option's name for a file.
        let dir = if origin.path.starts_with("--") {
            ""
        } else {
            dir
        };
        SourceLocation {
            what,
            file: format!("{dir}{}", origin.path),
            line: origin.line,
        }
    }
}
