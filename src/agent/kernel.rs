//! The kernel's own file systems in the guest: `/proc`, `/sys`, `/dev`, and memory for what shall never be in a layer.
//!
//! Knows what of the host shows through them, and hides it.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::mount::{MountFlags, mount_bind, mount_remount};

use crate::memory::{self, TmpfsDir};
use crate::mounts::{io_problem, mount_at};
use crate::nodes;
use crate::protocol::{Problem, RUN_DIR, Setup};

/// Directories that must be there to mount on.
pub(crate) const MOUNT_POINTS: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/tmp"];

/// The kernel's settings, which are the host's.
const READ_ONLY: [&str; 6] = [
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/irq",
    "/proc/bus",
    "/proc/fs",
    "/proc/mtrr",
];

/// What tells of the host, or reaches into it: its memory, keys, timers and firmware.
const HIDDEN: [&str; 13] = [
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/latency_stats",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/acpi",
    "/proc/scsi",
    "/proc/asound",
    "/sys/firmware",
    "/sys/fs/cgroup",
];

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const KERNEL: MountFlags = SAFE.union(MountFlags::NOEXEC);

/// Bytes of the file system of device files, which holds no others but by mistake.
const DEV_SIZE: &str = "mode=0755,size=1m";

/// Mounts them all. The umask must be 0.
pub(crate) fn mount_all(setup: &Setup) -> Result<(), Problem> {
    mount_at("proc", Path::new("/proc"), "proc", KERNEL, "")?;
    mount_at(
        "sysfs",
        Path::new("/sys"),
        "sysfs",
        KERNEL | MountFlags::RDONLY,
        "",
    )?;
    mount_at(
        "devtmpfs",
        Path::new("/dev"),
        "tmpfs",
        MountFlags::NOSUID,
        DEV_SIZE,
    )?;
    nodes::make_all(Path::new("/dev"), &setup.disk)?;
    for (path, mode) in [("/dev/pts", 0o755), ("/dev/shm", 0o755)] {
        fs::DirBuilder::new()
            .mode(mode)
            .create(path)
            .map_err(io_problem("make", Path::new(path)))?;
    }
    let pts = "newinstance,ptmxmode=0666,mode=0620,gid=5";
    mount_at(
        "devpts",
        Path::new("/dev/pts"),
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        pts,
    )?;
    // What a host's kernel does not have needs no guard.
    for path in READ_ONLY
        .map(Path::new)
        .into_iter()
        .filter(|path| path.exists())
    {
        mount_bind(path, path).map_err(|e| io_problem("bind", path)(e.into()))?;
        mount_remount(path, MountFlags::BIND | MountFlags::RDONLY | KERNEL, "")
            .map_err(|e| io_problem("make read-only", path)(e.into()))?;
    }
    for path in HIDDEN.map(Path::new) {
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => {
                mount_at(
                    "tmpfs",
                    path,
                    "tmpfs",
                    KERNEL | MountFlags::RDONLY,
                    "mode=0555,size=4k",
                )?;
            }
            Ok(_) => {
                mount_bind("/dev/null", path).map_err(|e| io_problem("hide", path)(e.into()))?
            }
            Err(_) => {}
        }
    }
    let place = |path, mode| TmpfsDir {
        path: Path::new(path),
        mode,
        flags: SAFE,
    };
    memory::share(
        setup.tmpfs,
        &[
            place("/run", 0o755),
            place("/tmp", 0o1777),
            place("/dev/shm", 0o1777),
        ],
    )?;
    let run = Path::new(RUN_DIR);
    for dir in [
        run.to_path_buf(),
        run.join("inputs"),
        run.join("scripts"),
        run.join("secrets"),
    ] {
        let mode = if dir.ends_with("secrets") {
            0o700
        } else {
            0o755
        };
        fs::DirBuilder::new()
            .mode(mode)
            .create(&dir)
            .map_err(io_problem("make", &dir))?;
    }
    // Unlike tmpfs, ramfs never goes to swap.
    mount_at("ramfs", &run.join("secrets"), "ramfs", KERNEL, "mode=0700")
}

/// Lets the secrets be given to another user, until [`close_secrets`].
pub(crate) fn open_secrets() -> Result<(), Problem> {
    let path = Path::new(RUN_DIR).join("secrets");
    mount_remount(&path, MountFlags::BIND | KERNEL, "")
        .map_err(|e| io_problem("make writable", &path)(e.into()))
}

/// Lets nobody write beside the secrets any more: a ramfs knows no limit.
pub(crate) fn close_secrets() -> Result<(), Problem> {
    let path = Path::new(RUN_DIR).join("secrets");
    mount_remount(&path, MountFlags::BIND | MountFlags::RDONLY | KERNEL, "")
        .map_err(|e| io_problem("make read-only", &path)(e.into()))
}
