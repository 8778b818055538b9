//! Directories: the names in them, in the order in which they lie on the disk.
//!
//! Knows blocks of entries, not paths. The index of a large directory is not used: its blocks look like blocks without
//! names. That a name appears twice is not noticed.

use super::inode::{FLAG_INDEX, FLAG_INLINE_DATA, Inode};
use super::superblock::feature::INCOMPAT_FILETYPE;
use super::{DirEntry, Ext4, ReadError, corrupt};
use crate::disk::guest::crc::crc32c;
use crate::disk::guest::{ReadAt, le16, le32};

/// Bytes of an entry before its name.
const HEAD: usize = 8;

/// An entry in the place of the last, which holds the checksum of a block of names.
const TAIL: usize = 12;
const TAIL_TYPE: u8 = 0xde;

/// An entry of the index.
const INDEX_ENTRY: usize = 8;

/// An inline directory begins with the number of its parent.
const INLINE_PARENT: usize = 4;

impl<D: ReadAt + ?Sized> Ext4<'_, D> {
    /// A directory's names without `.` and `..`, in the order in which they lie on the disk. That a name appears twice
    /// is the caller's to notice.
    pub fn entries(&self, directory: &Inode) -> Result<Vec<DirEntry>, ReadError> {
        if !directory.is_directory() {
            return Err(corrupt(format!(
                "inode {} is not a directory",
                directory.number
            )));
        }
        let mut entries = Vec::new();
        if directory.has(FLAG_INLINE_DATA) {
            let first = directory.block().get(INLINE_PARENT..).unwrap_or_default();
            self.names(directory, first, &mut entries)?;
            self.names(directory, self.inline_rest(directory)?, &mut entries)?;
            return Ok(entries);
        }
        let wrong = |what: &str| corrupt(format!("directory {}: {what}", directory.number));
        let block_size = self.superblock.block_size;
        if !directory.size.is_multiple_of(block_size) {
            return Err(wrong("its size is not a multiple of the block size"));
        }
        let blocks = directory.size / block_size;
        let (mut next, mut bytes) = (0, Vec::new());
        for run in self.map(directory)?.runs {
            if next < blocks && run.logical != next {
                return Err(wrong("a block of it is missing"));
            }
            // What lies behind its end was allocated early, and means nothing.
            for index in 0..run.length.min(blocks - next.min(blocks)) {
                self.read_block(run.start + index, &mut bytes)?;
                if self.superblock.has_sums() && !sum_is_right(directory, &bytes, next == 0) {
                    return Err(wrong("a checksum is wrong"));
                }
                self.names(directory, &bytes, &mut entries)?;
                next += 1;
            }
        }
        if next < blocks {
            Err(wrong("a block of it is missing"))
        } else {
            Ok(entries)
        }
    }

    /// Takes the names of one block, which they fill without a gap.
    fn names(
        &self,
        directory: &Inode,
        block: &[u8],
        entries: &mut Vec<DirEntry>,
    ) -> Result<(), ReadError> {
        let wrong = |what: &str| corrupt(format!("directory {}: {what}", directory.number));
        let has_type = self.superblock.incompat(INCOMPAT_FILETYPE);
        let mut rest = block;
        while !rest.is_empty() {
            let length = if rest.len() < HEAD {
                0
            } else {
                record_length(rest, block.len())
            };
            // Without file types the length of a name has 16 bits, of which no more than 8 are ever used.
            let name_length = usize::from(if has_type {
                u16::from(byte(rest, 6))
            } else {
                le16(rest, 6)
            });
            if length < HEAD + 4
                || !length.is_multiple_of(4)
                || length > rest.len()
                || HEAD + name_length > length
            {
                return Err(wrong("an entry has an invalid length"));
            }
            let inode = le32(rest, 0);
            let name = &rest[HEAD..HEAD + name_length];
            rest = &rest[length..];
            if inode == 0 || name == b"." || name == b".." {
                continue;
            }
            if name.is_empty()
                || name.len() > 255
                || name.iter().any(|byte| matches!(byte, 0 | b'/'))
            {
                return Err(wrong("a name is not valid"));
            }
            if inode > self.superblock.identity.inodes {
                return Err(wrong("an entry names an inode outside the file system"));
            }
            entries.push(DirEntry {
                name: name.to_vec(),
                inode,
            });
        }
        Ok(())
    }
}

fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// Length of an entry: blocks of 64 KiB need a 17th bit, which lies in the lowest two.
fn record_length(entry: &[u8], block: usize) -> usize {
    let stored = usize::from(le16(entry, 4));
    if block < 1 << 16 {
        stored
    } else if stored == 0xffff || stored == 0 {
        block
    } else {
        stored & 0xfffc | (stored & 3) << 16
    }
}

fn sum_is_right(directory: &Inode, block: &[u8], is_first: bool) -> bool {
    sum_of(directory, directory.seed, block, is_first)
        .is_some_and(|(at, sum)| le32(block, at) == sum)
}

/// Where a directory's block keeps its checksum, and what it must be where it begins with `seed`; `None` where it has no
/// room for one.
pub(super) fn sum_of(
    directory: &Inode,
    seed: u32,
    block: &[u8],
    is_first: bool,
) -> Option<(usize, u32)> {
    // The index may still have the tail of the names that were there before.
    if directory.has(FLAG_INDEX)
        && let Some(counts) = index_counts(block, is_first)
    {
        return index_sum_of(seed, block, counts);
    }
    let (names, tail) = block.split_at(block.len() - TAIL);
    let has_tail =
        le32(tail, 0) == 0 && le16(tail, 4) == TAIL as u16 && tail[6..8] == [0, TAIL_TYPE];
    has_tail.then(|| (block.len() - 4, crc32c(seed, names)))
}

/// Where the counts of a block of the index are; `None` where this is a block of names.
fn index_counts(block: &[u8], is_first: bool) -> Option<usize> {
    // The root hides behind `.` and `..`, every other behind an entry without inode that fills its block.
    if is_first {
        let is_root = le16(block, 4) == 12
            && record_length(&block[12..], block.len()) == block.len() - 12
            && block[29] == 8;
        is_root.then_some(32)
    } else {
        (le32(block, 0) == 0 && record_length(block, block.len()) == block.len()).then_some(8)
    }
}

/// The checksum of a block of the index: of its entries, and of the tail behind the room for them.
fn index_sum_of(seed: u32, block: &[u8], counts: usize) -> Option<(usize, u32)> {
    let (limit, count) = (
        usize::from(le16(block, counts)),
        usize::from(le16(block, counts + 2)),
    );
    let tail = counts + limit * INDEX_ENTRY;
    if count > limit || tail + 8 > block.len() {
        return None;
    }
    let summed = crc32c(seed, &block[..counts + count * INDEX_ENTRY]);
    Some((
        tail + 4,
        crc32c(crc32c(summed, &block[tail..tail + 4]), &[0; 4]),
    ))
}
