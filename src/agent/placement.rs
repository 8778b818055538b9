//! Lets ext4 place files by what is written in which order, not by when or on which CPU: equal steps give equal bytes.
//! Knows the kernel's options and settings for that, not what is mounted where.
//!
//! * `nodelalloc`: blocks are chosen when a program writes, not when the kernel finds time or needs memory.
//! * `data=writeback`: blocks of a deleted file can be used again at once, not after the next commit of the journal, which
//!   any program on the host may cause by `sync`. What it takes away is order after a crash, and no disk is kept then.
//! * `commit`: blocks of directories and maps still wait for a commit, so none comes by itself every five seconds.
//! * `no_prefetch_block_bitmaps`: a thread that reads bitmaps behind the mount decides which groups are looked at first.
//! * `mb_group_prealloc`: small files share a piece of the disk with others that were written on the same CPU.

use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};

use crate::protocol::Device;

/// Mount options, of which the first that the kernel takes shall hold: it refuses what concerns a journal where there is
/// none, and Linux before 5.13 does not know the last.
pub(crate) const OPTIONS: [&str; 4] = [
    "nodelalloc,data=writeback,commit=86400,no_prefetch_block_bitmaps",
    "nodelalloc,no_prefetch_block_bitmaps",
    "nodelalloc,data=writeback,commit=86400",
    "nodelalloc",
];

/// Where the kernel's settings of mounted file systems are; to be opened while the host's `/sys` can be named.
pub(crate) struct MountSettings(Option<OwnedFd>);

impl MountSettings {
    pub(crate) fn open() -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self(openat(CWD, "/sys", flags, Mode::empty()).ok())
    }

    /// Changes those of the ext4 on `device`. Where the host keeps them from us, or a later kernel has another name for
    /// them, files are placed as well as ever.
    pub(crate) fn apply(&self, device: Device) {
        let Some(sys) = &self.0 else { return };
        let link = readlinkat(
            sys,
            format!("dev/block/{}:{}", device.major, device.minor),
            Vec::new(),
        );
        let Some(name) = link
            .ok()
            .and_then(|link| link.to_str().ok()?.rsplit('/').next().map(str::to_owned))
        else {
            return;
        };
        let setting = format!("fs/ext4/{name}/mb_group_prealloc");
        if let Ok(file) = openat(
            sys,
            setting,
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            let _ = std::fs::File::from(file).write_all(b"0");
        }
    }
}
