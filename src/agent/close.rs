//! Closes the guest: takes back what was added, writes everything out, unmounts.
//!
//! Knows what `mounts` made, not what steps did. Any error here means that the layer must not be kept.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, syncfs, utimensat};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{chdir, pivot_root};

use crate::base::bounded;
use crate::mounts::{CreatedPath, GuestMounts, UndoStep, modified};
use crate::protocol::{Problem, ProblemKind};

/// Where the guest's root is while it is being closed: below the tmpfs that was its `/run`.
const OLD: &str = "/old";

/// Unmounts every file system of the disk, in order.
pub(crate) fn close(guest_mounts: GuestMounts) -> Result<(), Problem> {
    let mounts = mount_points()?;
    let old = Path::new("/run").join(OLD.trim_start_matches('/'));
    fs::create_dir(&old).map_err(|e| failed("make", &old, e))?;
    chdir("/run").map_err(|e| failed("enter", Path::new("/run"), e.into()))?;
    pivot_root(".", &old).map_err(|e| failed("leave the root for", &old, e.into()))?;
    chdir("/").map_err(|e| failed("enter", Path::new("/run"), e.into()))?;
    let disks: Vec<&Path> = guest_mounts.undo_log.iter().filter_map(mounted).collect();
    // What hides mount points goes first: everything that is not a file system of the disk, last mounted first.
    for path in mounts.iter().rev() {
        match path.strip_prefix("/run") {
            // The tmpfs that is the root now stays; what is mounted on it goes.
            Ok(rest) if rest.as_os_str().is_empty() => {}
            Ok(rest) => unmount_at(&Path::new("/").join(rest), true)?,
            Err(_) if disks.contains(&path.as_path()) => {}
            Err(_) => unmount_at(&below_old(path), true)?,
        }
    }
    for trace in guest_mounts.undo_log.iter().rev() {
        match trace {
            UndoStep::Made(made) => take_back(made)?,
            // A step may have unmounted it.
            UndoStep::Mounted { path, .. } if !mounts.contains(path) => {}
            UndoStep::Mounted { path, .. } => {
                let path = below_old(path);
                let directory =
                    bounded::open_directory(&path).map_err(|e| failed("open", &path, e))?;
                write_out(directory, &path)?;
                unmount_at(&path, false)?;
            }
        }
    }
    let root = Path::new(OLD);
    write_out(guest_mounts.directory, root)?;
    unmount_at(root, false)
}

fn mounted(trace: &UndoStep) -> Option<&Path> {
    match trace {
        UndoStep::Mounted { path, .. } => Some(path),
        UndoStep::Made(_) => None,
    }
}

/// Writes a file system out; `directory` is on it.
fn write_out(directory: File, path: &Path) -> Result<(), Problem> {
    syncfs(&directory)
        .map_err(|e| failed("write out", path, e.into()).of_kind(ProblemKind::WriteBack))
}

fn failed(what: &str, path: &Path, error: io::Error) -> Problem {
    Problem::io(what, path.to_string_lossy(), &error)
}

/// The same path, seen from where the agent stands now.
fn below_old(path: &Path) -> PathBuf {
    Path::new(OLD).join(path.strip_prefix("/").unwrap_or(path))
}

fn unmount_at(path: &Path, lazily: bool) -> Result<(), Problem> {
    match unmount(path, UnmountFlags::NOFOLLOW) {
        // Memory file systems may stay busy without harm to the disk below them.
        Err(rustix::io::Errno::BUSY) if lazily => {
            unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
                .map_err(|e| failed("unmount", path, e.into()))
        }
        result => {
            result.map_err(|e| failed("unmount", path, e.into()).of_kind(ProblemKind::WriteBack))
        }
    }
}

/// Mount points in the order of mounting, without the root's.
fn mount_points() -> Result<Vec<PathBuf>, Problem> {
    let path = Path::new("/proc/self/mountinfo");
    let text = bounded::read(path, bounded::TEXT).map_err(|e| failed("read", path, e))?;
    let points = text
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.split(|&byte| byte == b' ').nth(4));
    Ok(points
        .map(unescape)
        .filter(|path| path != Path::new("/"))
        .collect())
}

/// Blanks and backslashes are written as three octal digits (proc_pid_mountinfo(5)).
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(value) if byte == b'\\' => {
                out.push(value);
                rest = &tail[3..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// Removes a mount point that the image did not have, and gives its directory the time back unless a step changed it.
fn take_back(made: &CreatedPath) -> Result<(), Problem> {
    let path = below_old(&made.path);
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    if !parent.starts_with(OLD) || !path.exists() {
        return Ok(());
    }
    let now = modified(parent)?;
    let removed = if made.directory {
        fs::remove_dir(&path)
    } else {
        fs::remove_file(&path)
    };
    match removed {
        // A step put something below it: then it belongs to the image.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(()),
        result => result.map_err(|e| failed("remove", &path, e))?,
    }
    let (tv_sec, tv_nsec) = if now == made.parent_after {
        made.parent_before
    } else {
        now
    };
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec { tv_sec, tv_nsec },
    };
    utimensat(CWD, parent, &times, AtFlags::empty())
        .map_err(|e| failed("set the time of", parent, e.into()))
}
