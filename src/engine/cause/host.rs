//! The host's disks: how full they are, and what they say to who writes to them.
//! Knows paths and the kernel's error numbers, not what was to be written.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::Cause;
use crate::base::human::{bytes, chain};
use crate::base::io::IoError;
use crate::engine::job::{JobError, host_failure};
use crate::engine::plan::PlanError;
use crate::net::DownloadCause;
use crate::sandbox::SandboxError;
use crate::source::vendor::VendorError;

/// How much is written to learn what a disk says to it, in bytes: more than what may wait in memory for its place.
const PROBE: usize = 1 << 20;

/// A file system of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDisk {
    /// Where it is mounted.
    pub path: PathBuf,
    /// The store on it, where it is the store's.
    pub store: Option<PathBuf>,
    /// Bytes that this user may still write.
    pub free: u64,
    /// Bytes that it has.
    pub size: u64,
    /// Inodes that it has; 0 where it makes them as they are needed.
    pub inodes: u64,
    /// Inodes that are free.
    pub free_inodes: u64,
}

/// Why a disk of the host does not take what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Full,
    /// It has no inode left.
    NoInodes,
    /// The user's quota is used up.
    Quota,
    /// It is mounted read-only.
    ReadOnly,
    Failing,
    /// It is on another machine, which has lost the file.
    Stale,
    /// The process, or the host, has too many files open.
    OpenFiles,
}

impl HostDisk {
    /// Looks at the file system that a path is on, or would be.
    pub fn of(path: &Path) -> Option<HostDisk> {
        let dir = path.ancestors().find(|path| path.is_dir())?;
        let found = rustix::fs::statvfs(dir).ok()?;
        let device = |path: &Path| std::fs::metadata(path).ok().map(|found| found.dev());
        let top = dir
            .ancestors()
            .take_while(|path| device(path) == device(dir))
            .last();
        Some(HostDisk {
            path: top.unwrap_or(dir).to_owned(),
            store: None,
            free: found.f_bavail * found.f_frsize,
            size: found.f_blocks * found.f_frsize,
            inodes: found.f_files,
            free_inodes: found.f_favail,
        })
    }

    fn has_no_inodes(&self) -> bool {
        self.inodes > 0 && self.free_inodes == 0
    }
}

/// What is wrong with the disk of a store, found by writing to a directory of it; none where it takes what is written.
/// `largest` is the file that grew most there.
pub fn examine(store: &Path, dir: &Path, largest: &Path) -> Option<Cause> {
    if let Some(limit) = getrlimit(Resource::Fsize).current
        && std::fs::metadata(largest)
            .is_ok_and(|file| file.len().saturating_add(PROBE as u64) >= limit)
    {
        return Some(Cause::FileSize { limit: Some(limit) });
    }
    let write = || -> io::Result<()> {
        let mut file = tempfile::tempfile_in(dir)?;
        // Zeros could be left out.
        file.write_all(&[0xa5; PROBE])?;
        file.sync_data()
    };
    let mut cause = of_errno(Errno::from_io_error(&write().err()?)?, Some(dir))?;
    if let Cause::Host {
        disk: Some(disk), ..
    } = &mut cause
    {
        disk.store = Some(store.to_owned());
    }
    Some(cause)
}

/// The cause that an error of the host has, where it is one of a disk or of what the kernel gives.
pub fn of_error(error: &(dyn Error + 'static)) -> Option<Cause> {
    use impasto_store::Error as StoreError;
    // Errors that only pass others on say nothing themselves.
    match error.downcast_ref::<JobError>() {
        Some(JobError::Sandbox(inner)) => return of_error(inner),
        Some(JobError::Store(inner)) => return of_error(inner),
        Some(JobError::Plan(inner)) => return of_error(&**inner),
        Some(JobError::Fetch(inner) | JobError::Vendor(VendorError::Download(inner))) => {
            return of_error(&inner.cause);
        }
        _ => {}
    }
    if let Some(PlanError::Store(inner)) = error.downcast_ref() {
        return of_error(inner);
    }
    let (mut path, mut errno) = (None, None);
    for error in chain(error) {
        let found: Option<&Path> = match (
            error.downcast_ref::<StoreError>(),
            error.downcast_ref::<JobError>(),
            error.downcast_ref::<SandboxError>(),
        ) {
            (Some(StoreError::NoSpace { path, .. }), ..) => {
                errno = errno.or(Some(Errno::NOSPC));
                Some(path)
            }
            (Some(StoreError::Quota { path }), ..) => {
                errno = errno.or(Some(Errno::DQUOT));
                Some(path)
            }
            (Some(StoreError::Io { path, .. }), ..)
            | (_, Some(JobError::Io(IoError { path, .. })), _)
            | (
                _,
                _,
                Some(SandboxError::Io(IoError { path, .. }) | SandboxError::Overlay { path, .. }),
            ) => Some(path),
            (_, _, Some(SandboxError::Failed(problem))) => {
                errno = errno.or(problem.errno.map(Errno::from_raw_os_error));
                None
            }
            _ => match error.downcast_ref() {
                Some(DownloadCause::Write(IoError { path, .. })) => Some(path),
                _ => None,
            },
        };
        path = path.or(found);
    }
    of_errno(errno.or_else(|| host_failure(error))?, path)
}

/// The cause that an error number of the host has.
fn of_errno(errno: Errno, path: Option<&Path>) -> Option<Cause> {
    let disk = path.and_then(HostDisk::of);
    let refusal = match errno {
        Errno::NOSPC if disk.as_ref().is_some_and(HostDisk::has_no_inodes) => Refusal::NoInodes,
        Errno::NOSPC => Refusal::Full,
        Errno::DQUOT => Refusal::Quota,
        Errno::ROFS => Refusal::ReadOnly,
        Errno::STALE => Refusal::Stale,
        Errno::IO => Refusal::Failing,
        Errno::MFILE | Errno::NFILE => Refusal::OpenFiles,
        Errno::FBIG => {
            return Some(Cause::FileSize {
                limit: getrlimit(Resource::Fsize).current,
            });
        }
        _ => return None,
    };
    Some(Cause::Host { refusal, disk })
}

impl Refusal {
    pub(super) fn code(self) -> &'static str {
        match self {
            Refusal::Full => "host_disk_full",
            Refusal::NoInodes => "host_no_inodes",
            Refusal::Quota => "host_quota",
            Refusal::ReadOnly => "host_read_only",
            Refusal::Failing => "host_disk_fails",
            Refusal::Stale => "host_stale_file",
            Refusal::OpenFiles => "host_open_files",
        }
    }

    pub(super) fn describe(
        self,
        disk: Option<&HostDisk>,
        f: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        let Some(HostDisk {
            path,
            store,
            free,
            size,
            inodes,
            ..
        }) = disk
        else {
            return f.write_str(match self {
                Refusal::Full => "a disk of this host is full",
                Refusal::NoInodes => "a disk of this host has no inodes left",
                Refusal::Quota => "a quota on this host is used up",
                Refusal::ReadOnly => "a disk of this host is mounted read-only",
                Refusal::Failing => "a disk of this host is failing",
                Refusal::Stale => "a network file system has lost the file",
                Refusal::OpenFiles => "too many files are open",
            });
        };
        let path = match store {
            Some(store) if store != path => format!(
                "{}, which holds the store {}",
                path.display(),
                store.display()
            ),
            _ => path.display().to_string(),
        };
        match self {
            Refusal::Full => {
                write!(
                    f,
                    "the host's disk is full: {} of {} are free in {path}",
                    bytes(*free),
                    bytes(*size)
                )
            }
            Refusal::NoInodes => {
                write!(
                    f,
                    "the host's disk has no inodes left: it has {inodes}, one per file, in {path}"
                )
            }
            Refusal::Quota => write!(f, "the quota on the host's disk is used up, in {path}"),
            Refusal::ReadOnly => write!(f, "the host's disk is mounted read-only, in {path}"),
            Refusal::Failing => write!(f, "the host's disk is failing, in {path}"),
            Refusal::Stale => write!(f, "the network file system has lost the file, in {path}"),
            Refusal::OpenFiles => f.write_str("too many files are open"),
        }
    }
}
