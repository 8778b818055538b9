//! Normalizes the ext2, ext3 and ext4 file systems of a disk that were mounted: what tells when that was, what mounting
//! alone changes, and what the kernel drew at random becomes what it was before, or the epoch, or zero.
//!
//! Knows superblocks, inodes and empty journals, not files or who changed them. It reads two disks and gives patches for
//! the second. Strict as [`unused`](super::unused()) is: what is not understood is left alone.

mod inodes;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;

use impasto_store::qcow2::CHUNK;

use super::crc::crc32c;
use super::ext4::superblock::{BlockGroup, Superblock};
use super::ext4::{Ext4, ReadError};
use super::unused::{JOURNAL_INODE, journal, read_superblock};
use super::{DiskLayout, ReadAt, Window};

/// Bytes to write, and where on the disk.
pub type Patch = (u64, Vec<u8>);

/// Size of the superblocks of file system and journal.
const SUPERBLOCK: usize = 1024;

/// Where the checksum of a file system's superblock is, behind what it covers.
const SUM: Range<usize> = 0x3fc..0x400;

/// Fields of a superblock that tell of mounts and checks: times of mount, write and check, the count of mounts, where it
/// was mounted, how much was written, and the high bits of the times.
const OF_MOUNTS: [Range<usize>; 7] = [
    0x2c..0x34,
    0x34..0x36,
    0x40..0x44,
    0x88..0xc8,
    0x178..0x180,
    0x274..0x276,
    0x277..0x278,
];

/// Fields of an empty journal's superblock that its use changes: sequence, features, checksum type, head, checksum. The
/// kernel sets the features again when it mounts.
const OF_JOURNAL: [Range<usize>; 5] = [0x18..0x1c, 0x24..0x30, 0x50..0x51, 0x58..0x5c, 0xfc..0x100];

/// A disk that was changed, and what it was.
pub struct Normalizer<'a, B: ReadAt + ?Sized, A: ReadAt + ?Sized> {
    /// The disk before.
    pub before: &'a B,
    /// The disk now, all file systems unmounted.
    pub after: &'a A,
    /// What lies on the disk now.
    pub layout: &'a DiskLayout,
    /// Numbers of the partitions whose file systems were mounted; 0 is the whole disk.
    pub mounted: &'a [u32],
    /// Whether a chunk may differ from the one before. Nothing else is read for patches, or patched.
    pub is_present: &'a dyn Fn(u64) -> bool,
    /// The last time that a changed inode may have, in seconds since 1970.
    pub epoch: u64,
    /// Modification times that stay although they are later, in whole seconds since 1970: those of files that were to keep
    /// theirs. What is written in the run itself has fractions of a second.
    pub kept: &'a BTreeSet<u64>,
}

impl<B: ReadAt + ?Sized, A: ReadAt + ?Sized> Normalizer<'_, B, A> {
    /// What to write, sorted by place; patches do not overlap in a file system that makes sense.
    pub fn patches(&self) -> io::Result<Vec<Patch>> {
        let mut patches = Vec::new();
        for number in self.mounted {
            let partition = self
                .layout
                .partitions
                .iter()
                .find(|partition| partition.number == *number);
            let (start, size) = match partition {
                Some(partition) => (partition.start, partition.size),
                None if *number == 0 => (0, self.after.size()),
                None => continue,
            };
            let after = Window::new(self.after, start, size);
            let before = Window::new(self.before, start, size);
            if let Some(now) = Ext4Volume::read(&after)? {
                let was = Ext4Volume::read_before(&before, &now)?;
                let blocks_left = Cell::new(now.superblock.blocks);
                let Normalizer {
                    is_present,
                    epoch,
                    kept,
                    ..
                } = *self;
                let pair = Pair {
                    now: &now,
                    was: was.as_ref(),
                    start,
                    is_present,
                    epoch,
                    kept,
                    blocks_left,
                };
                pair.patches(&mut patches)?;
            }
        }
        patches.sort_by_key(|(at, _)| *at);
        Ok(patches)
    }
}

/// A file system that is understood.
struct Ext4Volume<'a, D: ReadAt + ?Sized> {
    disk: &'a D,
    superblock: Superblock,
    groups: Vec<BlockGroup>,
    /// The same, to find the blocks of an inode.
    ext: Ext4<'a, D>,
}

impl<'a, D: ReadAt + ?Sized> Ext4Volume<'a, D> {
    /// `None` unless it is clean.
    fn read(disk: &'a D) -> io::Result<Option<Self>> {
        match read_superblock(disk)? {
            Some(superblock) if !superblock.has_orphans() && superblock.unsupported().is_none() => {
                Self::of(disk, superblock)
            }
            _ => Ok(None),
        }
    }

    /// The same file system earlier; `None` where another one was there, or none.
    fn read_before<A: ReadAt + ?Sized>(
        disk: &'a D,
        now: &Ext4Volume<'_, A>,
    ) -> io::Result<Option<Self>> {
        // It may have grown or shrunk.
        let superblock = match Superblock::read(disk) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            result => result?,
        };
        let same = |was: &Superblock| {
            let now = &now.superblock;
            was.identity.uuid == now.identity.uuid
                && was.block_size == now.block_size
                && was.blocks == now.blocks
                && was.first_block == now.first_block
                && was.blocks_per_group == now.blocks_per_group
                && was.inodes_per_group == now.inodes_per_group
                && was.inode_size == now.inode_size
                && was.seed == now.seed
                && was.has_sums() == now.has_sums()
                && was.is_wide() == now.is_wide()
        };
        match superblock.filter(|was| was.fault(disk.size()).is_none() && same(was)) {
            Some(superblock) => Self::of(disk, superblock),
            None => Ok(None),
        }
    }

    fn of(disk: &'a D, superblock: Superblock) -> io::Result<Option<Self>> {
        match superblock.read_groups(disk) {
            Ok(groups) => {
                let mut tables: Vec<_> = groups.iter().map(|group| group.inode_table).collect();
                tables.sort_unstable();
                // One table for several groups would be normalized as often.
                let size = (u64::from(superblock.inodes_per_group) * superblock.inode_size)
                    .div_ceil(superblock.block_size);
                let apart = tables.windows(2).all(|pair| pair[1] - pair[0] >= size);
                let ext = Ext4::of(disk, superblock.clone(), groups.clone());
                Ok(apart.then_some(Self {
                    disk,
                    superblock,
                    groups,
                    ext,
                }))
            }
            Err(ReadError::Io(error)) => Err(error),
            Err(_) => Ok(None),
        }
    }
}

/// One file system, now and before.
struct Pair<'a, B: ReadAt + ?Sized, A: ReadAt + ?Sized> {
    now: &'a Ext4Volume<'a, A>,
    was: Option<&'a Ext4Volume<'a, B>>,
    /// Its first byte on the disk.
    start: u64,
    is_present: &'a dyn Fn(u64) -> bool,
    epoch: u64,
    kept: &'a BTreeSet<u64>,
    /// Blocks whose checksums may still be looked at.
    blocks_left: Cell<u64>,
}

impl<B: ReadAt + ?Sized, A: ReadAt + ?Sized> Pair<'_, B, A> {
    fn patches(&self, patches: &mut Vec<Patch>) -> io::Result<()> {
        self.inodes(patches)?;
        if let Some(was) = self.was {
            self.superblock(was, patches)?;
            self.journal(was, patches)?;
        }
        Ok(())
    }

    /// Whether all bytes of a range of the file system may differ from those before.
    fn all_present(&self, range: &Range<u64>) -> bool {
        let chunk = CHUNK as u64;
        let (first, end) = (
            (self.start + range.start) / chunk,
            (self.start + range.end).div_ceil(chunk),
        );
        (first..end).all(self.is_present)
    }

    /// A superblock of file system or journal, now and before; `None` where they cannot differ.
    fn both(&self, was: &Ext4Volume<'_, B>, at: u64) -> io::Result<Option<[[u8; SUPERBLOCK]; 2]>> {
        if !self.all_present(&(at..at + SUPERBLOCK as u64)) {
            return Ok(None);
        }
        let (mut now, mut before) = ([0; SUPERBLOCK], [0; SUPERBLOCK]);
        self.now.disk.read_exact_at(&mut now, at)?;
        was.disk.read_exact_at(&mut before, at)?;
        Ok((now != before).then_some([now, before]))
    }

    fn superblock(&self, was: &Ext4Volume<'_, B>, patches: &mut Vec<Patch>) -> io::Result<()> {
        let at = SUPERBLOCK as u64;
        let Some([mut now, before]) = self.both(was, at)? else {
            return Ok(());
        };
        for field in OF_MOUNTS {
            now[field.clone()].copy_from_slice(&before[field]);
        }
        if self.now.superblock.has_sums() {
            let sum = crc32c(!0, &now[..SUM.start]);
            now[SUM].copy_from_slice(&sum.to_le_bytes());
        }
        patches.push((self.start + at, now.to_vec()));
        Ok(())
    }

    /// An empty journal's blocks are dropped, so nothing remembers the sequence that it had come to.
    fn journal(&self, was: &Ext4Volume<'_, B>, patches: &mut Vec<Patch>) -> io::Result<()> {
        if self.now.superblock.journal_inode != JOURNAL_INODE
            || was.superblock.journal_inode != JOURNAL_INODE
        {
            return Ok(());
        }
        let (now, before) = (journal(self.now.disk)?, journal(was.disk)?);
        let Some((now, _)) = now
            .zip(before)
            .filter(|(now, before)| now.first == before.first)
        else {
            return Ok(());
        };
        let at = now.first;
        let Some([mut now, before]) = self.both(was, at)? else {
            return Ok(());
        };
        for field in OF_JOURNAL {
            now[field.clone()].copy_from_slice(&before[field]);
        }
        // All else is as it was, so the checksum is right if it was.
        if now == before {
            patches.push((self.start + at, now.to_vec()));
        }
        Ok(())
    }
}
