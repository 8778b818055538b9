//! Makes FAT file systems inside the raw disk, through dosfstools and mtools: no mount, no loop device.
//! Knows their options, not what the files are for.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::error::AssembleError;
use super::partitions::{DiskIdentity, PlannedPartition};
use super::tool::Tool;
use crate::disk::guest::SECTOR;

/// From this size on FAT32, below it FAT16: mkfs.vfat's own rule, said aloud because the bytes depend on it.
const FAT32_FROM: u64 = 512 << 20;

/// Makes an empty file system in a partition. mkfs.vfat, not mformat: GRUB takes the latter's for a nested partition.
pub(super) fn make(
    disk: &Path,
    part: &PlannedPartition,
    label: Option<&str>,
    epoch: u64,
) -> Result<(), AssembleError> {
    let DiskIdentity::Volume(number) = part.identity else {
        panic!("BUG: a FAT volume without a number")
    };
    let sectors = (part.start / SECTOR).to_string();
    let bits = if part.size < FAT32_FROM { "16" } else { "32" };
    let tool = Tool::new("mkfs.vfat", epoch)
        .arg("--invariant")
        .arg(format!("--offset={sectors}"));
    let tool = tool.args([
        "-h",
        &sectors,
        "-F",
        bits,
        "-i",
        &format!("{number:08x}"),
        "-n",
        label.unwrap_or("NO NAME"),
    ]);
    // The size is counted in KiB.
    tool.arg(disk)
        .arg((part.size / 1024).to_string())
        .run()
        .map(drop)
}

/// Copies files into it, and makes their directories.
pub(super) fn copy_in(
    disk: &Path,
    part: &PlannedPartition,
    files: &[(String, Vec<u8>)],
    epoch: u64,
    work: &Path,
) -> Result<(), AssembleError> {
    let mut image = disk.as_os_str().to_owned();
    image.push(format!("@@{}", part.start));
    let tool = |program| {
        // mtools would read the configuration of the machine that builds.
        Tool::new(program, epoch)
            .env("MTOOLSRC", "/dev/null")
            .env("MTOOLS_SKIP_CHECK", "1")
            .arg("-i")
            .arg(&image)
    };
    let mut directories = BTreeSet::new();
    for (path, _) in files {
        let slashes = path
            .match_indices('/')
            .map(|(at, _)| at)
            .filter(|at| *at > 0);
        directories.extend(slashes.map(|at| format!("::{}", &path[..at])));
    }
    // A set ascends, so each comes after the one that it is in.
    tool("mmd").args(&directories).run()?;
    let staging = work.join("fat");
    for (path, content) in files {
        fs::write(&staging, content).map_err(AssembleError::io("write", &staging))?;
        // Without `-m` the time is that of SOURCE_DATE_EPOCH.
        tool("mcopy")
            .arg("-o")
            .arg(&staging)
            .arg(format!("::{path}"))
            .run()?;
    }
    fs::remove_file(&staging).map_err(AssembleError::io("remove", &staging))
}
