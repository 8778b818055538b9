//! Keeps a stage within its limits: control groups where the host has them, else what the agent counts.
//!
//! Knows control groups of both versions (cgroup-v2.rst, cgroup-v1/memory.rst, cgroup-v1/pids.rst), not steps.
//!
//! A group is a directory `impasto-*` beside the processes' own. impasto holds a lock on it; what a killed impasto left
//! has none, and is removed by the next.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use impasto_stages::Limits;
use rustix::fs::{FlockOperation, flock};

use super::protocol::{Ceiling, Limit};
use crate::base::bounded;

/// How the names of our groups begin.
const PREFIX: &str = "impasto-";

/// More than what a group of version 1 is charged at once on all CPUs, in bytes.
const CHARGED: u64 = 8 << 20;

/// Where version 1 counts processes that ended because memory ran out.
const OOM_CONTROL: &str = "memory.oom_control";

/// A limit that a stage reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    pub limit: Limit,
    /// How much it allows: a count of processes, else bytes.
    pub most: u64,
    /// Name of the secret or output, or index of the step, that reached it; none where that is not known.
    pub by: Option<Culprit>,
}

/// What reached a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Culprit {
    /// The step of this index.
    Step(usize),
    /// The secret, output or input of this name.
    Named(String),
}

impl Limit {
    /// Its field in the parameter `limits`.
    pub fn field(self) -> &'static str {
        match self {
            Limit::Processes => "processes",
            Limit::Memory => "memory",
            Limit::Tmpfs => "tmpfs",
            Limit::Secret => "secret",
            Limit::Log => "log",
            Limit::Output => "output",
        }
    }
}

impl Reached {
    /// What to write into a recipe to allow twice as much.
    pub fn help(&self) -> String {
        let more = match self.limit {
            Limit::Processes => (self.most * 2).to_string(),
            _ => format!("\"{}MiB\"", (self.most * 2).div_ceil(1 << 20)),
        };
        format!(
            "if it needs more, raise the limit in the stage: limits = {{ {} = {more} }}",
            self.limit.field()
        )
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = match self.most {
            whole if whole % (1 << 20) == 0 => format!("{} MiB", whole >> 20),
            other => format!("{other} bytes"),
        };
        match self.limit {
            Limit::Processes => write!(
                f,
                "limit `processes`: more than {} processes and threads",
                self.most
            ),
            Limit::Memory => write!(f, "limit `memory`: more than {most}"),
            Limit::Tmpfs => {
                write!(
                    f,
                    "limit `tmpfs`: more than {most} in /tmp, /run and /dev/shm, which are in memory"
                )
            }
            Limit::Secret => write!(f, "limit `secret`: more than {most}"),
            Limit::Log => write!(f, "limit `log`: more than {most} printed"),
            Limit::Output => write!(f, "limit `output`: more than {most} of data"),
        }
    }
}

/// The limits of one job on this machine, in numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) limits: Limits,
    pub(super) ceiling: Ceiling,
    /// Bytes.
    pub(super) tmpfs: u64,
}

impl Bounds {
    pub(super) fn new(limits: Limits) -> Self {
        let memory = machine_memory();
        let ceiling = Ceiling {
            processes: limits.processes,
            memory: limits.memory.unwrap_or(memory - memory / 4),
        };
        Self {
            limits,
            ceiling,
            tmpfs: limits.tmpfs.unwrap_or(memory / 2),
        }
    }

    pub(super) fn reached(&self, limit: Limit, by: Option<Culprit>) -> Reached {
        let most = match limit {
            Limit::Processes => self.ceiling.processes,
            Limit::Memory => self.ceiling.memory,
            Limit::Tmpfs => self.tmpfs,
            Limit::Secret => self.limits.secret,
            Limit::Log => self.limits.log,
            Limit::Output => self.limits.output,
        };
        Reached { limit, most, by }
    }
}

/// The machine's memory in bytes.
fn machine_memory() -> u64 {
    let info = rustix::system::sysinfo();
    // The fields' widths differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    let bytes = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit.max(1)));
    bytes
}

/// Control groups of one job, one directory for each hierarchy that is needed.
pub(super) struct Group {
    dirs: Vec<Dir>,
}

struct Dir {
    path: PathBuf,
    _lock: File,
    /// Files that count how often a limit was reached: name, line in it, and which limit that is.
    counters: Vec<(&'static str, &'static str, Limit)>,
}

impl Group {
    /// Makes the groups; none where the host has none to give.
    pub(super) fn make(ceiling: &Ceiling) -> Option<Group> {
        let places = CgroupDirs::find()?;
        let name = unique_name()?;
        let mut group = Group { dirs: Vec::new() };
        match places {
            CgroupDirs::Unified(parents) => {
                let made = parents.iter().find_map(|parent| {
                    let dir = make_dir(parent, &name)?;
                    // A group whose parent does not share its controllers has no such files.
                    if dir.0.join("pids.max").exists() && dir.0.join("memory.max").exists() {
                        return Some(dir);
                    }
                    let _ = fs::remove_dir(&dir.0);
                    None
                })?;
                let counters = vec![
                    ("pids.events", "max", Limit::Processes),
                    ("memory.events", "oom", Limit::Memory),
                ];
                group.dirs.push(Dir {
                    path: made.0,
                    _lock: made.1,
                    counters,
                });
                group.set("pids.max", ceiling.processes + 1)?;
                group.set("memory.max", ceiling.memory)?;
                // Without swap accounting there is no such file.
                let _ = group.set("memory.swap.max", 0);
            }
            CgroupDirs::Apart { pids, memory } => {
                let (path, lock) = make_dir(&pids, &name)?;
                let counters = vec![("pids.events", "max", Limit::Processes)];
                group.dirs.push(Dir {
                    path,
                    _lock: lock,
                    counters,
                });
                group.set("pids.max", ceiling.processes + 1)?;
                let (path, lock) = make_dir(&memory, &name)?;
                let counters = vec![(OOM_CONTROL, "oom_kill", Limit::Memory)];
                group.dirs.push(Dir {
                    path,
                    _lock: lock,
                    counters,
                });
                group.set("memory.limit_in_bytes", ceiling.memory)?;
                let _ = group.set("memory.memsw.limit_in_bytes", ceiling.memory);
            }
        }
        Some(group)
    }

    fn set(&self, file: &str, value: u64) -> Option<()> {
        let dir = self.dirs.last()?;
        fs::write(dir.path.join(file), value.to_string()).ok()
    }

    /// The files to which a process writes `0` to be in the groups.
    pub(super) fn doors(&self) -> Vec<PathBuf> {
        self.dirs
            .iter()
            .map(|dir| dir.path.join("cgroup.procs"))
            .collect()
    }

    /// The limit that processes in it have reached.
    pub(super) fn reached(&self) -> Option<Limit> {
        let counters = self
            .dirs
            .iter()
            .flat_map(|dir| dir.counters.iter().map(move |counter| (dir, counter)));
        counters.into_iter().find_map(|(dir, (file, line, limit))| {
            let text = bounded::read_text(dir.path.join(file), bounded::LINES).ok()?;
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            let (_, count) = lines.find(|(name, _)| name == line)?;
            (count.trim() != "0" && (*file != OOM_CONTROL || dir.was_full())).then_some(*limit)
        })
    }
}

impl Dir {
    /// Whether a group of version 1 came to its own limit of memory: such a group also counts processes that ended
    /// because memory ran out around it.
    fn was_full(&self) -> bool {
        let number = |file: &str| -> Option<u64> {
            bounded::read_text(self.path.join(file), bounded::LINES)
                .ok()?
                .trim()
                .parse()
                .ok()
        };
        let (most, limit) = (
            number("memory.max_usage_in_bytes"),
            number("memory.limit_in_bytes"),
        );
        // Pages are charged many at a time.
        most.zip(limit)
            .is_none_or(|(most, limit)| most.saturating_add(CHARGED) >= limit)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for dir in &self.dirs {
            // Whoever is still in it has been killed and is about to end; then the next one removes it.
            let _ = fs::remove_dir(&dir.path);
        }
    }
}

/// The directories in which this host lets control groups be made that keep stages within `processes` and `memory`; none
/// where these are counted instead.
pub fn control_groups() -> Option<Vec<PathBuf>> {
    let group = Group::make(&Bounds::new(Limits::default()).ceiling)?;
    Some(
        group
            .dirs
            .iter()
            .filter_map(|dir| Some(dir.path.parent()?.to_path_buf()))
            .collect(),
    )
}

fn unique_name() -> Option<String> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).ok()?;
    Some(format!("{PREFIX}{:016x}", u64::from_ne_bytes(bytes)))
}

/// Makes a group and locks it, after removing those that nobody holds.
fn make_dir(parent: &Path, name: &str) -> Option<(PathBuf, File)> {
    sweep(parent);
    let path = parent.join(name);
    // Another's sweep may come between making and locking; once is bad luck.
    for _ in 0..3 {
        if let Err(error) = fs::create_dir(&path)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return None;
        }
        let Ok(lock) = bounded::open_directory(&path) else {
            continue;
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() && path.exists() {
            return Some((path, lock));
        }
    }
    None
}

/// Removes groups that a killed impasto left.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(PREFIX))
        {
            continue;
        }
        let Ok(dir) = bounded::open_directory(entry.path()) else {
            continue;
        };
        if flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // It stays where somebody is in it.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Directories in which groups may be made.
enum CgroupDirs {
    /// Version 2: the own group and those above it, nearest first. A group with processes cannot share its controllers.
    Unified(Vec<PathBuf>),
    /// Version 1.
    Apart { pids: PathBuf, memory: PathBuf },
}

impl CgroupDirs {
    fn find() -> Option<CgroupDirs> {
        let groups = bounded::read_text("/proc/self/cgroup", bounded::LINES).ok()?;
        let mounts = bounded::read_text("/proc/self/mountinfo", bounded::LINES).ok()?;
        Self::read(&groups, &mounts)
    }

    /// From the texts of `/proc/self/cgroup` and `/proc/self/mountinfo`.
    fn read(groups: &str, mounts: &str) -> Option<CgroupDirs> {
        let own = |controller: &str| {
            let path = groups.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let (controllers, path) = (fields.next()?, fields.next()?);
                controllers
                    .split(',')
                    .any(|name| name == controller)
                    .then_some(path)
            })?;
            mounts
                .lines()
                .find_map(|line| place(line, controller, path))
        };
        if let (Some((_, pids)), Some((_, memory))) = (own("pids"), own("memory")) {
            return Some(CgroupDirs::Apart { pids, memory });
        }
        let (top, nearest) = own("")?;
        let parents = nearest.ancestors().take_while(|dir| dir.starts_with(&top));
        Some(CgroupDirs::Unified(
            parents.map(Path::to_path_buf).collect(),
        ))
    }
}

/// Where a line of mountinfo (proc_pid_mountinfo(5)) shows a controller's hierarchy, and the group `path` in it; no
/// controller's name is version 2.
fn place(line: &str, controller: &str, path: &str) -> Option<(PathBuf, PathBuf)> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point) = (before.next()?, PathBuf::from(before.next()?));
    let mut after = after.split(' ');
    let (kind, options) = (after.next()?, after.nth(1)?);
    let fits = match controller {
        "" => kind == "cgroup2",
        _ => kind == "cgroup" && options.split(',').any(|option| option == controller),
    };
    let below = Path::new(path).strip_prefix(root).ok().filter(|_| fits)?;
    let group = if below.as_os_str().is_empty() {
        point.clone()
    } else {
        point.join(below)
    };
    Some((point, group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_in_both_versions() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let Some(CgroupDirs::Unified(parents)) =
            CgroupDirs::read("0::/user.slice/user-0.slice/session-1.scope\n", mounts)
        else {
            panic!("version 2")
        };
        let expected = [
            "user.slice/user-0.slice/session-1.scope",
            "user.slice/user-0.slice",
            "user.slice",
            "",
        ];
        let expected: Vec<_> = expected
            .iter()
            .map(|path| Path::new("/sys/fs/cgroup").join(path))
            .collect();
        assert_eq!(parents, expected);

        let mounts = "32 30 0:28 / /cg/memory rw shared:9 - cgroup cgroup rw,memory\n\
                      33 30 0:29 /box /cg/pids rw - cgroup cgroup rw,pids\n\
                      34 30 0:30 / /cg/unified rw - cgroup2 cgroup2 rw\n";
        let Some(CgroupDirs::Apart { pids, memory }) =
            CgroupDirs::read("8:pids:/box/in\n4:memory:/a\n0::/\n", mounts)
        else {
            panic!("version 1")
        };
        assert_eq!(
            (pids, memory),
            (PathBuf::from("/cg/pids/in"), PathBuf::from("/cg/memory/a"))
        );
        assert!(CgroupDirs::read("", "").is_none());
    }

    #[test]
    fn a_limit_names_itself_and_the_parameter() {
        let reached = Reached {
            limit: Limit::Memory,
            most: 64 << 20,
            by: None,
        };
        assert_eq!(reached.to_string(), "limit `memory`: more than 64 MiB");
        assert!(
            reached.help().ends_with("limits = { memory = \"128MiB\" }"),
            "{}",
            reached.help()
        );
    }
}
