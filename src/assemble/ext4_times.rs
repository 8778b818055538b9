//! Finishes the inodes of a new ext4: the epoch as their time, so that equal trees are equal bytes, and the root's owner.
//! Knows inodes and their checksums (kernel documentation, filesystems/ext4), not files.
//!
//! `mke2fs -d` copies times of the directory that it reads: when a file was last read and changed *there*. It does not
//! copy owner and mode of the directory itself.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::tree::TreeAccess;
use crate::disk::guest::crc::crc32c;
use crate::disk::guest::ext4::time::{decode, encode};

// Superblock, which lies at 1024.
const SUPERBLOCK: u64 = 1024;
const MAGIC: (usize, u16) = (0x38, 0xef53);
const UUID: std::ops::Range<usize> = 0x68..0x78;
// Group descriptors, of 64 bytes with the feature 64bit.
const DESCRIPTOR: usize = 64;
const INODE_UNINIT: u16 = 0x1;
// Inodes.
const LINKS: usize = 0x1a;
const MODE: usize = 0x0;
const UID: (usize, usize) = (0x2, 0x78);
const GID: (usize, usize) = (0x18, 0x7a);
const ATIME: usize = 0x8;
const CTIME: usize = 0xc;
const MTIME: usize = 0x10;
const GENERATION: std::ops::Range<usize> = 0x64..0x68;
const CHECKSUM_LOW: std::ops::Range<usize> = 0x7c..0x7e;
const EXTRA_SIZE: usize = 0x80;
const CHECKSUM_HIGH: std::ops::Range<usize> = 0x82..0x84;
const CTIME_EXTRA: usize = 0x84;
const MTIME_EXTRA: usize = 0x88;
const ATIME_EXTRA: usize = 0x8c;
const CRTIME: usize = 0x90;
const CRTIME_EXTRA: usize = 0x94;
/// Extra bytes of an inode that has all of these fields.
const EXTRA: u16 = 32;

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// The number of a file system's root directory.
const ROOT: u32 = 2;

/// Sets the times of every used inode of the file system at `start`, which mke2fs made with the features of `ext4`:
/// access, change and creation become `epoch`, and a modification after it too. Its root gets the access of `root`.
pub(super) fn normalize(disk: &File, start: u64, epoch: u64, root: TreeAccess) -> io::Result<()> {
    let strange = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut superblock = [0; 1024];
    disk.read_exact_at(&mut superblock, start + SUPERBLOCK)?;
    if le16(&superblock, MAGIC.0) != MAGIC.1 {
        return Err(strange("mke2fs left no file system"));
    }
    let block_size = 1024_u64 << le32(&superblock, 0x18);
    let first_block = u64::from(le32(&superblock, 0x14));
    let blocks = u64::from(le32(&superblock, 0x150)) << 32 | u64::from(le32(&superblock, 0x4));
    let blocks_per_group = u64::from(le32(&superblock, 0x20));
    let per_group = le32(&superblock, 0x28);
    let inode_size = usize::from(le16(&superblock, 0x58));
    if usize::from(le16(&superblock, 0xfe)) != DESCRIPTOR
        || inode_size < 256
        || blocks_per_group == 0
    {
        return Err(strange(
            "mke2fs made a file system without the features that were asked for",
        ));
    }
    let seed = crc32c(!0, &superblock[UUID]);
    let groups = (blocks - first_block).div_ceil(blocks_per_group);
    let mut descriptors = vec![0; groups as usize * DESCRIPTOR];
    disk.read_exact_at(&mut descriptors, start + (first_block + 1) * block_size)?;
    for (group, descriptor) in (0..).zip(descriptors.chunks_exact(DESCRIPTOR)) {
        if le16(descriptor, 0x12) & INODE_UNINIT != 0 {
            continue;
        }
        let unused = u32::from(le16(descriptor, 0x1c)) | u32::from(le16(descriptor, 0x32)) << 16;
        let used = per_group.saturating_sub(unused) as usize;
        let table = u64::from(le32(descriptor, 0x8)) | u64::from(le32(descriptor, 0x28)) << 32;
        let mut inodes = vec![0; used * inode_size];
        let at = start + table * block_size;
        disk.read_exact_at(&mut inodes, at)?;
        for (number, inode) in (group * per_group + 1..).zip(inodes.chunks_exact_mut(inode_size)) {
            if number == ROOT {
                set_access(inode, root);
            }
            if le16(inode, LINKS) != 0 || le16(inode, MODE) != 0 {
                normalize_inode(inode, number, seed, epoch);
            }
        }
        disk.write_all_at(&inodes, at)?;
    }
    Ok(())
}

fn set_access(inode: &mut [u8], access: TreeAccess) {
    let mode = le16(inode, MODE) & !0o7777 | (access.mode & 0o7777) as u16;
    let mut put16 =
        |at: usize, value: u32| inode[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes());
    put16(MODE, u32::from(mode));
    for ((low, high), id) in [(UID, access.uid), (GID, access.gid)] {
        put16(low, id);
        put16(high, id >> 16);
    }
}

fn normalize_inode(inode: &mut [u8], number: u32, seed: u32, epoch: u64) {
    // Inodes that mke2fs makes itself may have no extra fields; there is room, and the checksum covers it either way.
    if le16(inode, EXTRA_SIZE) < EXTRA {
        inode[EXTRA_SIZE..EXTRA_SIZE + 2].copy_from_slice(&EXTRA.to_le_bytes());
    }
    let epoch = i64::try_from(epoch).unwrap_or(i64::MAX);
    let (low, extra) = encode(epoch);
    for (field, more) in [
        (ATIME, ATIME_EXTRA),
        (CTIME, CTIME_EXTRA),
        (CRTIME, CRTIME_EXTRA),
    ] {
        put32(inode, field, low);
        put32(inode, more, extra);
    }
    if decode(le32(inode, MTIME), le32(inode, MTIME_EXTRA)) > epoch {
        put32(inode, MTIME, low);
        put32(inode, MTIME_EXTRA, extra);
    }
    inode[CHECKSUM_LOW].fill(0);
    inode[CHECKSUM_HIGH].fill(0);
    let seed = crc32c(crc32c(seed, &number.to_le_bytes()), &inode[GENERATION]);
    let sum = crc32c(seed, inode).to_le_bytes();
    inode[CHECKSUM_LOW].copy_from_slice(&sum[..2]);
    inode[CHECKSUM_HIGH].copy_from_slice(&sum[2..]);
}
