//! Reads files out of an ext2, ext3 or ext4 file system without mounting it.
//!
//! Knows the format and its checksums; does not know paths, which files matter, or how the disk is stored. The bytes may
//! be a hostile guest's: every number is checked against the file system's size, no tree is followed deeper than the
//! format allows, and nothing is handed out whose checksum is wrong. That a directory contains itself is the caller's to
//! notice, by inode numbers.
//!
//! Source of the format: <https://docs.kernel.org/filesystems/ext4/>, and the kernel's `fs/ext4` where that is silent.

use std::io;
use std::ops::Range;

use super::ReadAt;

/// What a file system says of itself that its users can see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
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
    Unsupported {
        /// The feature.
        what: String,
    },
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

/// A file, directory or other object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Its number, from 1.
    pub number: u32,
    /// Type and permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Last change of content: seconds since 1970, and nanoseconds as stored (a hostile disk may hold more than 10⁹).
    pub mtime: (i64, u32),
    /// Last change of the inode, as `mtime`.
    pub ctime: (i64, u32),
    /// Last access, as `mtime`.
    pub atime: (i64, u32),
    /// Number of hard links; 1 for a directory with more subdirectories than can be counted.
    pub links: u32,
    /// Flags, as `lsattr` shows them, and some of the format's own.
    pub flags: u32,
    /// Major and minor number of a device node.
    pub device: Option<(u32, u32)>,
    /// Project.
    pub project: u32,
    /// Generation, which NFS sees.
    pub generation: u32,
    /// Its bytes in the inode table.
    raw: Vec<u8>,
}

/// Extended attributes: full names and values, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name: 1 to 255 bytes, neither `/` nor NUL, not `.` or `..`.
    pub name: Vec<u8>,
    /// What it names.
    pub inode: u32,
}

/// Where a file's content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
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
    identity: Identity,
}

impl<'d, D: ReadAt + ?Sized> Ext4<'d, D> {
    /// Opens the file system that starts at the disk's first byte.
    pub fn open(disk: &'d D) -> Result<Self, ReadError> {
        let _ = Self { disk, identity: Identity::default() };
        Err(later())
    }

    /// What it says of itself.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Number of the root directory's inode.
    pub fn root(&self) -> u32 {
        2
    }

    /// Reads an inode that is in use.
    pub fn inode(&self, number: u32) -> Result<Inode, ReadError> {
        let _ = (number, self.disk.size());
        Err(later())
    }

    /// Where an inode's bytes lie in the file system.
    pub fn inode_place(&self, number: u32) -> Result<Range<u64>, ReadError> {
        let _ = number;
        Err(later())
    }

    /// A directory's names without `.` and `..`, in the order in which they lie on the disk. That a name appears twice is
    /// the caller's to notice.
    pub fn entries(&self, directory: &Inode) -> Result<Vec<DirEntry>, ReadError> {
        let _ = directory;
        Err(later())
    }

    /// Where a file's or a directory's content is: without holes, cut at its size.
    pub fn content(&self, inode: &Inode) -> Result<Content, ReadError> {
        let _ = &inode.raw;
        Err(later())
    }

    /// Where the blocks lie that map a file's content, in bytes: its extent tree below the inode, or indirect blocks.
    /// Inode and these unchanged, the content lies where it lay.
    pub fn blocks_of_map(&self, inode: &Inode) -> Result<Vec<Range<u64>>, ReadError> {
        let _ = inode;
        Err(later())
    }

    /// A symbolic link's target.
    pub fn target(&self, link: &Inode) -> Result<Vec<u8>, ReadError> {
        let _ = link;
        Err(later())
    }

    /// Extended attributes by full name, sorted; values as on disk (those of ACLs are not what `getxattr` gives).
    pub fn xattrs(&self, inode: &Inode) -> Result<Xattrs, ReadError> {
        let _ = inode;
        Err(later())
    }

    /// Where extended attributes lie outside the inode, in bytes: the block that it names, and the inodes, maps and
    /// contents of large values. Inode and these unchanged, the attributes are as they were.
    pub fn blocks_of_xattrs(&self, inode: &Inode) -> Result<Vec<Range<u64>>, ReadError> {
        let _ = inode;
        Err(later())
    }
}

fn later() -> ReadError {
    ReadError::Unsupported { what: "this part of ext4".to_owned() }
}
