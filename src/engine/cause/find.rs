//! From the evidence of a stage that failed to its cause. Facts come first; words decide only where nothing else does.
//! Knows what follows from what; looks at nothing itself but the host's disk.

use std::path::Path;

use rustix::io::Errno;

use super::clues::{self, Clue, Clues, LogLine};
use super::{Cause, host};
use crate::sandbox::protocol::{FileFacts, ProblemKind, Space, StepFacts};
use crate::sandbox::{Outcome, Problem};

/// Less than this is no room: what is left of a file system that is full, in bytes.
const NO_ROOM: u64 = 128 << 10;

/// A file system that has this much left, in parts of its size, was not full.
const ROOMY: u64 = 8;

/// What is not a part of the image's disk, under the names that it has there.
const IN_MEMORY: [&str; 7] = [
    "/tmp",
    "/run",
    "/dev",
    "/proc",
    "/sys",
    "/var/run",
    "/var/lock",
];

/// SIGKILL and SIGXFSZ, which a shell passes on as an exit code above 128.
const KILL: i32 = 9;
const XFSZ: i32 = 25;

/// What is known of a stage that failed.
pub struct Evidence<'a> {
    /// How its job ended.
    pub outcome: &'a Outcome,
    /// What the agent saw, where it was asked.
    pub facts: Option<&'a StepFacts>,
    /// What the step printed.
    pub clues: &'a Clues,
    /// Whether it had the network.
    pub network: bool,
    /// Whether it was privileged.
    pub privileged: bool,
    /// The text of the script that failed, where it was one.
    pub script: Option<&'a str>,
    /// How many processes the kernel ended for want of memory on the whole machine while it ran.
    pub oom_kills: u64,
    /// The store on the host, the job's directory in it, and the file there that grows.
    pub host: (&'a Path, &'a Path, &'a Path),
}

/// The cause, and the line of the log that says so. None where nothing is known beyond the message.
pub fn find(evidence: &Evidence<'_>) -> Option<(Cause, Option<LogLine>)> {
    let alone = |cause| (cause, None);
    match evidence.outcome {
        Outcome::LimitReached(reached) => Some(alone(Cause::Limit(reached.clone()))),
        Outcome::Damaged { .. } => {
            host::examine(evidence.host.0, evidence.host.1, evidence.host.2).map(alone)
        }
        Outcome::StepFailed { code, signal, .. } => {
            // What a guest cannot write because the host does not take it is an I/O error to it.
            killed(evidence, *code, *signal)
                .or_else(|| full_disk(evidence, None))
                .or_else(|| started(evidence, *code))
        }
        Outcome::StepRefused { problem, .. } if problem.kind == ProblemKind::ForeignShell => {
            let machine = problem.path.clone().unwrap_or_default();
            Some(alone(Cause::ForeignPrograms { machine }))
        }
        Outcome::StepRefused { problem, .. } | Outcome::OutputRefused { problem, .. } => {
            full_disk(evidence, Some(problem))
        }
        Outcome::TimedOut { .. } => unreachable(evidence),
        Outcome::Ok | Outcome::Cancelled | Outcome::ShellEnded { .. } => None,
    }
}

fn said(clues: &Clues, clue: Clue, cause: Cause) -> (Cause, Option<LogLine>) {
    (cause, clues.line(clue).cloned())
}

/// Signals that tell a cause.
fn killed(
    evidence: &Evidence<'_>,
    code: Option<i32>,
    signal: Option<i32>,
) -> Option<(Cause, Option<LogLine>)> {
    let clues = evidence.clues;
    let by = |number: i32| signal == Some(number) || code == Some(128 + number);
    if by(XFSZ) || clues.recent(Clue::TooLarge).is_some() {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
        // Without a limit of ours the step has set one itself.
        return limit.map(|limit| {
            said(
                clues,
                Clue::TooLarge,
                Cause::FileSize { limit: Some(limit) },
            )
        });
    }
    let memory = by(KILL) || clues.recent(Clue::Memory).is_some();
    (memory && evidence.oom_kills > 0).then(|| said(clues, Clue::Memory, Cause::NoMemory))
}

/// Space on the image's disk. `problem` is what the agent itself could not do.
fn full_disk(
    evidence: &Evidence<'_>,
    problem: Option<&Problem>,
) -> Option<(Cause, Option<LogLine>)> {
    let clues = evidence.clues;
    let errno = problem
        .and_then(|problem| problem.errno)
        .map(Errno::from_raw_os_error);
    if errno == Some(Errno::DQUOT) || clues.line(Clue::Quota).is_some() {
        return Some(said(clues, Clue::Quota, Cause::Quota));
    }
    let spaces = &evidence.facts?.spaces;
    let told = errno == Some(Errno::NOSPC) || clues.line(Clue::NoSpace).is_some();
    let no_inodes = |space: &&Space| space.inodes > 0 && space.free_inodes == 0;
    if let Some(space) = spaces.iter().find(no_inodes) {
        let cause = Cause::NoInodes {
            at: space.path.escape_debug().to_string(),
            inodes: space.inodes,
        };
        return Some(said(clues, Clue::NoSpace, cause));
    }
    let fullest = spaces.iter().min_by_key(|space| space.free)?;
    let full = fullest.free < NO_ROOM.min(fullest.size / 64);
    // One large piece that does not fit leaves the rest free.
    let tight = told && fullest.free < fullest.size / ROOMY;
    let (space, free) = if full || tight {
        (fullest, Some(fullest.free))
    } else {
        (full_meanwhile(evidence, spaces, problem)?, None)
    };
    let cause = Cause::DiskFull {
        at: space.path.escape_debug().to_string(),
        free,
        size: space.size,
    };
    Some(said(clues, Clue::NoSpace, cause))
}

/// The file system that was full between two looks of the agent: the one of the file that could not be written.
fn full_meanwhile<'a>(
    evidence: &Evidence<'_>,
    spaces: &'a [Space],
    problem: Option<&Problem>,
) -> Option<&'a Space> {
    // A privileged step may have mounted something there.
    if problem.is_some() || evidence.privileged {
        return None;
    }
    let line = evidence.clues.line(Clue::NoSpace)?;
    let file = Path::new(clues::last_path(&line.text)?);
    if IN_MEMORY.iter().any(|dir| file.starts_with(dir)) {
        return None;
    }
    spaces
        .iter()
        .filter(|space| file.starts_with(&space.path))
        .max_by_key(|space| space.path.len())
}

/// A program that was not started, a name that was not resolved: what was printed last counts.
fn started(evidence: &Evidence<'_>, code: Option<i32>) -> Option<(Cause, Option<LogLine>)> {
    let clues = evidence.clues;
    if evidence.script.is_some_and(|text| text.contains("\r\n")) {
        return Some((Cause::LineEnds, None));
    }
    let own_script = evidence
        .facts
        .and_then(|facts| facts.files.iter().find(|file| is_own(file)));
    if let Some(interpreter) = own_script.and_then(lacking)
        && code == Some(127)
    {
        let cause = Cause::NoInterpreter {
            file: None,
            interpreter: interpreter.clone(),
        };
        return Some(said(clues, Clue::Start, cause));
    }
    // A program that is not there, or cannot start, is the last word of a shell that stops at errors.
    if let Some(line) = clues.recent(Clue::Start)
        && let Some(cause) = not_started(evidence, code, line)
        && (matches!(code, Some(126 | 127))
            || later(clues.line(Clue::Start), clues.line(Clue::Unreachable)))
    {
        return Some((cause, Some(line.clone())));
    }
    if let Some(line) = clues.recent(Clue::Permission)
        && !evidence.privileged
    {
        return Some((Cause::NotPrivileged, Some(line.clone())));
    }
    unreachable(evidence)
}

fn is_own(file: &FileFacts) -> bool {
    file.name.starts_with("/run/impasto/scripts/")
}

fn later(one: Option<&LogLine>, other: Option<&LogLine>) -> bool {
    one.map(|line| line.number) > other.map(|line| line.number)
}

/// What the guest's files say to a shell's complaint.
fn not_started(evidence: &Evidence<'_>, code: Option<i32>, line: &LogLine) -> Option<Cause> {
    let name = clues::complaint(&line.text)?;
    let file = evidence
        .facts?
        .files
        .iter()
        .find(|file| file.name == name)?;
    let missing = code == Some(127) || line.text.contains("not found");
    // A file that is only read or written needs no such bit: shells end with this code where they cannot execute.
    let denied = code == Some(126);
    let name = || name.clone();
    Some(match file {
        // What is not a path may be a file of the current directory.
        FileFacts { mode: None, .. } if missing || file.name.contains('/') => {
            Cause::NoProgram { program: name() }
        }
        FileFacts {
            directory: true, ..
        } if denied => Cause::IsDirectory { file: name() },
        FileFacts {
            mode: Some(mode), ..
        } if denied && mode & 0o111 == 0 => Cause::NotExecutable {
            file: name(),
            mode: *mode,
            noexec: false,
        },
        FileFacts {
            noexec: true,
            mode: Some(mode),
            ..
        } if denied => Cause::NotExecutable {
            file: name(),
            mode: *mode,
            noexec: true,
        },
        file => Cause::NoInterpreter {
            file: Some(name()),
            interpreter: lacking(file)?.clone(),
        },
    })
}

/// What a file names that starts it and is not there. A guest wrote it, so only plain names are shown.
fn lacking(file: &FileFacts) -> Option<&String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
    file.lacks
        .as_ref()
        .filter(|name| name.strip_suffix('\r').unwrap_or(name).chars().all(plain))
}

/// Names and packages that only a network knows.
fn unreachable(evidence: &Evidence<'_>) -> Option<(Cause, Option<LogLine>)> {
    let clues = evidence.clues;
    if let Some(line) = clues.recent(Clue::UnknownPackage)
        && let Some(package) = clues::package_name(&line.text)
    {
        return Some((
            Cause::UnknownPackage {
                package,
                network: evidence.network,
            },
            Some(line.clone()),
        ));
    }
    let line = clues.line(Clue::Unreachable)?;
    let name = clues::host_name(&line.text);
    let cause = if evidence.network {
        Cause::UnknownHost { name }
    } else {
        Cause::Offline { name }
    };
    Some((cause, Some(line.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence<'a>(outcome: &'a Outcome, facts: &'a StepFacts, clues: &'a Clues) -> Evidence<'a> {
        Evidence {
            outcome,
            facts: Some(facts),
            clues,
            network: false,
            privileged: false,
            script: None,
            oom_kills: 0,
            host: (Path::new("/"), Path::new("/"), Path::new("/")),
        }
    }

    #[test]
    fn a_disk_that_was_full_between_two_looks_is_known_by_the_file() {
        let space = |path: &str| Space {
            path: path.to_owned(),
            size: 1000,
            free: 900,
            inodes: 10,
            free_inodes: 9,
        };
        let facts = StepFacts {
            spaces: vec![space("/"), space("/boot")],
            files: Vec::new(),
        };
        let outcome = Outcome::StepFailed {
            index: 0,
            code: Some(1),
            signal: None,
        };
        let found = |line: &str| {
            let mut clues = Clues::default();
            clues.push(line);
            find(&evidence(&outcome, &facts, &clues)).and_then(|(cause, _)| match cause {
                Cause::DiskFull { at, free, .. } => Some((at, free)),
                _ => None,
            })
        };
        let at = |at: &str| Some((at.to_owned(), None));
        assert_eq!(
            found("dd: error writing '/big': No space left on device"),
            at("/")
        );
        assert_eq!(
            found("cp: error copying '/tmp/a' to '/boot/a': No space left on device"),
            at("/boot")
        );
        assert_eq!(
            found("E: You don't have enough free space in /var/cache/apt/archives/."),
            at("/")
        );
        assert_eq!(
            found("dd: error writing '/tmp/big': No space left on device"),
            None
        );
        let script = "/run/impasto/scripts/script-0: 1: echo: I/O error: No space left on device";
        assert_eq!(found(script), None, "it is not said where");
        let mut clues = Clues::default();
        clues.push("dd: error writing '/mnt/big': No space left on device");
        let privileged = Evidence {
            privileged: true,
            ..evidence(&outcome, &facts, &clues)
        };
        assert!(
            find(&privileged).is_none(),
            "it may have mounted something there"
        );
    }

    #[test]
    fn what_a_guest_wrote_is_shown_only_where_it_is_plain() {
        let file = |lacks: &str| FileFacts {
            name: "/run/impasto/scripts/script-0".to_owned(),
            mode: Some(0o755),
            directory: false,
            noexec: false,
            lacks: Some(lacks.to_owned()),
        };
        let found = |lacks: &str| {
            let facts = StepFacts {
                spaces: Vec::new(),
                files: vec![file(lacks)],
            };
            let outcome = Outcome::StepFailed {
                index: 0,
                code: Some(127),
                signal: None,
            };
            find(&evidence(&outcome, &facts, &Clues::default())).map(|(cause, _)| cause.to_string())
        };
        assert!(found("/bin/zsh").is_some_and(|text| text.contains("`/bin/zsh`")));
        assert_eq!(found("/bin/\x1b]52;c;aGk=\x07"), None);
    }
}
