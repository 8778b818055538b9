//! Ramdisks and archives: members with their owners and modes become streams of bytes, which are compressed in pieces.
//! Knows formats; what goes into one, and where it is kept, is the caller's knowledge.
//!
//! * [`stream`]: a stream that is known before it is written, cut into pieces.
//! * [`cpio`], [`tar`] and [`iso`] make one of members.
//! * [`ramdisk`] reads members out of a disk.
//! * [`pack`] writes a stream, and compresses it.

pub mod cpio;
mod deflate;
pub mod iso;
pub mod pack;
pub mod ramdisk;
pub mod stream;
pub mod tar;

/// Something that goes into an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveMember {
    /// Its path without a slash before or behind it; `.` for the root.
    pub path: Vec<u8>,
    pub kind: MemberKind,
    /// Permission bits, with set-user-id, set-group-id and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Extended attributes: full names and values, by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    Dir,
    File {
        /// Its number in the [`stream::ByteSource`].
        file: usize,
        /// Its length in bytes.
        size: u64,
    },
    Symlink {
        target: Vec<u8>,
    },
    /// Another name of the file at this path, which comes before it.
    HardLink {
        first: Vec<u8>,
    },
    /// Major and minor number.
    Char(u32, u32),
    /// Major and minor number.
    Block(u32, u32),
    Fifo,
    Socket,
}

/// A member that a format cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {problem}", crate::base::escape::neutralise(path))]
pub struct MemberError {
    pub path: Vec<u8>,
    /// What is wrong with it.
    pub problem: &'static str,
}
