//! Reads what lies on a guest's disk: partition table, file systems, which one is the root, and files in ext4 and FAT.
//!
//! Knows bytes only: mounts nothing, runs nothing, trusts nothing that it reads. Every table is bounded, so a hostile
//! disk costs a few reads and an error.

pub(crate) mod crc;
pub mod ext4;
pub mod fat;
mod gpt;
mod mbr;
mod normalize;
mod root;
mod superblock;
mod unused;
mod view;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

pub use normalize::{Normalizer, Patch};
pub use root::{RootChoice, RootError, RootSelector, choose_root};
pub use superblock::{FileSystem, FsKind, read_file_system};
pub use unused::unused;
pub use view::OverlayView;

/// Size of the sectors in which partition tables count, in bytes. Disks with 4096-byte sectors are not supported.
pub const SECTOR: u64 = 512;

/// At most this many partitions of a disk are looked at.
pub const MAX_PARTITIONS: usize = 128;

/// Bytes that can be read at any offset: a disk, or a part of one.
pub trait ReadAt {
    /// Length in bytes.
    fn size(&self) -> u64;

    /// Fills `buffer` from `offset`, an error where fewer bytes are there.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(buffer.len())?))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

/// An open disk file and its length.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    size: u64,
}

impl DiskFile {
    /// Takes a raw disk; its length is asked for once.
    pub fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }
}

impl ReadAt for DiskFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

/// A window of a disk, so that a file system reads its own offsets.
#[derive(Debug)]
pub(crate) struct Window<'a, D: ReadAt + ?Sized> {
    disk: &'a D,
    start: u64,
    size: u64,
}

impl<'a, D: ReadAt + ?Sized> Window<'a, D> {
    /// The `size` bytes of `disk` from `start` on. Reads past the disk's end fail.
    pub(crate) fn new(disk: &'a D, start: u64, size: u64) -> Self {
        Self { disk, start, size }
    }
}

impl<D: ReadAt + ?Sized> ReadAt for Window<'_, D> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset
            .checked_add(buffer.len() as u64)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        if end > self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let start = self
            .start
            .checked_add(offset)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        self.disk.read_exact_at(buffer, start)
    }
}

impl DiskLayout {
    /// Every file system with the number of its partition (0 is the disk itself) and where it lies, in bytes.
    pub fn file_systems(&self) -> impl Iterator<Item = (u32, u64, &FileSystem)> {
        let bare = self.bare.iter().map(|fs| (0, 0, fs));
        bare.chain(
            self.partitions
                .iter()
                .filter_map(|p| Some((p.number, p.start, p.fs.as_ref()?))),
        )
    }
}

/// Byte ranges of partition `number` (0 is the disk itself) that mean nothing, counted from the disk's start.
pub fn unused_of<D: ReadAt + ?Sized>(
    disk: &D,
    layout: &DiskLayout,
    number: u32,
) -> io::Result<Vec<Range<u64>>> {
    let (start, size) = match layout
        .partitions
        .iter()
        .find(|partition| partition.number == number)
    {
        Some(partition) => (partition.start, partition.size),
        None if number == 0 => (0, disk.size()),
        None => return Ok(Vec::new()),
    };
    let ranges = unused(&Window::new(disk, start, size))?;
    Ok(ranges
        .into_iter()
        .map(|range| range.start + start..range.end + start)
        .collect())
}

/// What a disk holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskLayout {
    pub table: PartitionTable,
    /// Its partitions, by number.
    pub partitions: Vec<Partition>,
    /// The file system of a disk without partition table.
    pub bare: Option<FileSystem>,
}

/// Kind of partition table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartitionTable {
    /// None that we know.
    None,
    Gpt {
        /// The disk's GUID, lower case.
        guid: String,
        /// The primary header or its entries are damaged, and the backup served.
        from_backup: bool,
    },
    Mbr {
        signature: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Number as the kernel counts, from 1; logical partitions of an MBR from 5.
    pub number: u32,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// Type as the table gives it.
    pub kind: PartitionKind,
    /// PARTUUID in the kernel's form, lower case.
    pub uuid: String,
    pub name: Option<String>,
    /// The file system in it.
    pub fs: Option<FileSystem>,
}

/// Type of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartitionKind {
    /// GPT type GUID, lower case.
    Guid(String),
    /// MBR type byte.
    Mbr(u8),
}

/// Reads partition table and superblocks of a disk.
///
/// A damaged table counts as none (the kernel thinks the same); only failing reads are errors.
pub fn read_layout<D: ReadAt + ?Sized>(disk: &D) -> io::Result<DiskLayout> {
    let (table, mut partitions) = match gpt::read(disk)? {
        Some((table, partitions)) => (table, partitions),
        // A file system's boot sector carries the MBR's signature too (vfat, many ext with a loader).
        None => match superblock::read_file_system(disk)? {
            Some(fs) => {
                return Ok(DiskLayout {
                    table: PartitionTable::None,
                    partitions: Vec::new(),
                    bare: Some(fs),
                });
            }
            None => mbr::read(disk)?.unwrap_or((PartitionTable::None, Vec::new())),
        },
    };
    for partition in &mut partitions {
        let window = Window::new(disk, partition.start, partition.size);
        partition.fs = superblock::read_file_system(&window)?;
    }
    Ok(DiskLayout {
        table,
        partitions,
        bare: None,
    })
}

/// Writes 16 bytes as a UUID in text, in the byte order of RFC 9562.
fn uuid_text(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// Reads `N` bytes at `at`; zeroes where the slice is too short, which callers rule out by construction.
fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(found) = bytes.get(at..at + N) {
        out.copy_from_slice(found);
    }
    out
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(bytes, at))
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}

/// Text up to the first NUL, trimmed; `None` where nothing is left. Bytes that are not UTF-8 are replaced.
fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(&bytes[..end]).trim_end().to_owned();
    (!text.is_empty()).then_some(text)
}

/// CPU time of this thread: unlike the wall clock it does not depend on what else runs on the machine.
#[cfg(test)]
fn cpu_time() -> std::time::Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    std::time::Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[cfg(test)]
mod tests;
