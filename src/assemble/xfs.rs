//! Makes empty xfs file systems, through `mkfs.xfs`, which takes the time and random numbers: both are put right afterwards.
//! Knows mkfs.xfs' options, the superblock and inodes (fs/xfs/libxfs/xfs_format.h); knows no other block.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::error::AssembleError;
use super::partitions::{DiskIdentity, PlannedPartition};
use super::separate::SeparateFile;
use super::tool::Tool;
use crate::disk::guest::crc::crc32c;

/// Allocation groups have at most this many bytes.
const LARGEST_GROUP: u64 = 1 << 40;

/// Makes a file system in a partition of `disk`.
///
/// # Errors
/// mkfs.xfs fails, or a file.
pub(super) fn make(
    disk: &File,
    part: &PlannedPartition,
    label: Option<&str>,
    epoch: u64,
    work: &Path,
) -> Result<(), AssembleError> {
    let DiskIdentity::Uuid { uuid, .. } = part.identity else {
        panic!("BUG: an xfs without UUID")
    };
    let made = SeparateFile::create(work, part)?;
    // What newer ones reckon by the processors that they find.
    let groups = part.size.div_ceil(LARGEST_GROUP).max(4);
    let log = (part.size / 2048).clamp(64 << 20, 1 << 30) / 4096 * 4096;
    let tool = Tool::new("mkfs.xfs", epoch)
        .args(["-q", "-K", "-b", "size=4096", "-s", "size=512", "-m"])
        .arg(format!("uuid={uuid}"))
        .arg("-d")
        .arg(format!("agcount={groups}"))
        .arg("-l")
        .arg(format!("size={log}"));
    let tool = match label {
        Some(label) => tool.args(["-L", label]),
        None => tool,
    };
    tool.arg(made.path()).run()?;
    made.edit(|file| normalize(file, epoch))?;
    made.place(disk)
}

/// Inodes of the chunk that the root is the first of.
const CHUNK_INODES: u64 = 64;

/// Bytes of an inode's fields.
const MODE: std::ops::Range<usize> = 2..4;
const TIMES: [usize; 4] = [32, 40, 48, 144];
const GENERATION: std::ops::Range<usize> = 92..96;
const SUM: std::ops::Range<usize> = 100..104;
/// The lowest byte of the flags, and the flag in it that makes times nanoseconds since 1901.
const FLAGS: usize = 127;
const BIG_TIME: u8 = 8;

/// Gives the inodes of an empty file system the time `epoch`, in seconds since 1970, and one generation.
fn normalize(file: &File, epoch: u64) -> io::Result<()> {
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "mkfs.xfs wrote something else");
    let mut head = [0; 512];
    file.read_exact_at(&mut head, 0)?;
    let be32 = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let root = u64::from(be32(56)) << 32 | u64::from(be32(60));
    let (block, inode) = (u64::from(be32(4)), u64::from(be32(104) >> 16));
    if !head.starts_with(b"XFSB") || !(256..=2048).contains(&inode) || root > u64::from(u32::MAX) {
        return Err(odd());
    }
    let per_block = block / inode;
    for number in root..root + CHUNK_INODES {
        let at = number / per_block * block + number % per_block * inode;
        let mut bytes = vec![0; inode as usize];
        file.read_exact_at(&mut bytes, at)?;
        if !bytes.starts_with(b"IN") {
            return Err(odd());
        }
        // One that is free has nothing of now.
        if bytes[MODE] == [0, 0] {
            continue;
        }
        let time = match bytes[FLAGS] & BIG_TIME {
            0 => epoch << 32,
            _ => (epoch + (1 << 31)).saturating_mul(1_000_000_000),
        };
        for field in TIMES {
            bytes[field..field + 8].copy_from_slice(&time.to_be_bytes());
        }
        bytes[GENERATION].copy_from_slice(&1_u32.to_be_bytes());
        bytes[SUM].fill(0);
        let sum = !crc32c(!0, &bytes);
        // Little-endian, unlike all else.
        bytes[SUM].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&bytes, at)?;
    }
    Ok(())
}
