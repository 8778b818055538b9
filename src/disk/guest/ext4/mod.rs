//! Reads files out of an ext2, ext3 or ext4 file system without mounting it.
//!
//! Knows the format and its checksums; does not know paths, which files matter, or how the disk is stored. The bytes may
//! be a hostile guest's: every number is checked against the file system's size, no tree is followed deeper than the
//! format allows, and nothing is handed out whose checksum is wrong. That a directory contains itself is the caller's to
//! notice, by inode numbers.
//!
//! Source of the format: <https://docs.kernel.org/filesystems/ext4/>, and the kernel's `fs/ext4` where that is silent.

mod allocation;
mod content;
mod directory;
pub(in crate::disk::guest) mod inode;
mod map;
mod paths;
mod reseed;
pub(in crate::disk::guest) mod superblock;
pub(crate) mod time;
mod xattr;

use std::io;

use super::ReadAt;
use superblock::{BlockGroup, Superblock};

pub use inode::Inode;
pub use paths::Paths;

/// What a file system says of itself that its users can see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ext4Identity {
    /// UUID in text, lower case.
    pub uuid: String,
    /// Label, up to its first NUL: at most 16 bytes.
    pub label: Vec<u8>,
    /// Size of a block in bytes.
    pub block_size: u32,
    /// Number of blocks.
    pub blocks: u64,
    /// Number of inodes, used or not.
    pub inodes: u32,
    /// Features that a writer and a reader may ignore.
    pub compat: u32,
    /// Features that nobody may ignore.
    pub incompat: u32,
    /// Features that a reader may ignore.
    pub ro_compat: u32,
    /// Default mount options, as bits.
    pub mount_options: u32,
    /// Default mount options, as text: at most 64 bytes.
    pub mount_option_text: Vec<u8>,
    /// Blocks that only root may fill.
    pub reserved_blocks: u64,
}

/// Why something cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A feature that is not understood here.
    #[error("{what} is not supported")]
    Unsupported { what: String },
    /// The file system was not closed, so that its content is not what it says.
    #[error("the file system {reason}")]
    NotClean {
        /// What is left to do.
        reason: String,
    },
    /// The bytes contradict themselves.
    #[error("{what}")]
    Corrupt {
        /// Where, and what is wrong there.
        what: String,
    },
    /// The disk cannot be read.
    #[error("cannot read the disk")]
    Io(#[source] io::Error),
}

/// Extended attributes: full names and values, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name: 1 to 255 bytes, neither `/` nor NUL, not `.` or `..`.
    pub name: Vec<u8>,
    pub inode: u32,
}

/// Where a file's content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InodeContent {
    /// Here: a small file in its inode.
    Inline(Vec<u8>),
    /// In these parts of the file system; everything else up to the file's size is zero.
    Extents(Vec<Extent>),
}

/// A part of a file that lies in one piece. Extents of a file ascend and do not overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte in the file.
    pub offset: u64,
    /// First byte in the file system.
    pub start: u64,
    /// Bytes.
    pub length: u64,
}

/// A clean file system that is understood. Reading changes nothing, so threads may share it.
#[derive(Debug)]
pub struct Ext4<'d, D: ReadAt + ?Sized> {
    disk: &'d D,
    superblock: Superblock,
    groups: Vec<BlockGroup>,
}

impl<'d, D: ReadAt + ?Sized> Ext4<'d, D> {
    /// Opens the file system that starts at the disk's first byte.
    pub fn open(disk: &'d D) -> Result<Self, ReadError> {
        let superblock = Superblock::read(disk).map_err(ReadError::Io)?;
        let superblock = superblock.ok_or_else(|| corrupt("there is no superblock"))?;
        // Features first: an unknown one may say what the other numbers mean.
        if let Some(what) = superblock.unsupported() {
            return Err(unsupported(what));
        }
        if let Some(fault) = superblock.fault(disk.size()) {
            return Err(corrupt(format!("superblock: {fault}")));
        }
        if let Some(reason) = superblock.complaint() {
            return Err(ReadError::NotClean { reason });
        }
        if superblock.has_orphans() {
            return Err(ReadError::NotClean {
                reason: "has deleted files to clean up".to_owned(),
            });
        }
        let groups = superblock.read_groups(disk)?;
        if let Some(group) = groups.iter().position(|group| !group.sum_is_right) {
            return Err(corrupt(format!(
                "group {group}: the checksum of its descriptor is wrong"
            )));
        }
        Ok(Self::of(disk, superblock, groups))
    }

    /// Takes what has been read and found without fault.
    pub(in crate::disk::guest) fn of(
        disk: &'d D,
        superblock: Superblock,
        groups: Vec<BlockGroup>,
    ) -> Self {
        Self {
            disk,
            superblock,
            groups,
        }
    }

    /// Whether its metadata has checksums: without them a wrong byte of it can look right.
    pub fn has_sums(&self) -> bool {
        self.superblock.has_sums()
    }

    /// What it says of itself.
    pub fn identity(&self) -> &Ext4Identity {
        &self.superblock.identity
    }

    /// Number of the root directory's inode.
    pub fn root(&self) -> u32 {
        2
    }

    /// Reads a block into `bytes`, which become as long as it.
    fn read_block(&self, block: u64, bytes: &mut Vec<u8>) -> Result<(), ReadError> {
        let place = self.superblock.place(block);
        let place =
            place.ok_or_else(|| corrupt(format!("block {block} lies outside the file system")))?;
        bytes.resize(self.superblock.block_size as usize, 0);
        self.disk.read_exact_at(bytes, place).map_err(ReadError::Io)
    }
}

pub(super) fn corrupt(what: impl Into<String>) -> ReadError {
    ReadError::Corrupt { what: what.into() }
}

pub(super) fn unsupported(what: impl Into<String>) -> ReadError {
    ReadError::Unsupported { what: what.into() }
}

#[cfg(test)]
mod tests;
