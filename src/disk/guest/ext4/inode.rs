//! Inodes: where they lie, what they say, and whether their checksum is right.
//! Knows fields, not what the mapped blocks or the attributes hold.

use std::ops::Range;

use super::superblock::feature::{INCOMPAT_LARGEDIR, RO_COMPAT_METADATA_CSUM};
use super::{Ext4, ReadError, corrupt, time, unsupported};
use crate::disk::guest::crc::crc32c;
use crate::disk::guest::{ReadAt, bytes_at, le16, le32};

/// The oldest form of an inode, in bytes; larger ones keep more fields behind it.
pub(in crate::disk::guest) const OLD_SIZE: usize = 128;

/// Attributes that are inodes of their own, and their hash instead of a time of access.
pub(in crate::disk::guest) const FLAG_EA_INODE: u32 = 0x20_0000;
pub(super) const FLAG_INDEX: u32 = 0x1000;
pub(super) const FLAG_EXTENTS: u32 = 0x8_0000;
pub(super) const FLAG_INLINE_DATA: u32 = 0x1000_0000;
const FLAG_ENCRYPT: u32 = 0x800;

/// A symbolic link's target that is shorter lies in the inode itself.
const SHORT_LINK: u64 = 60;

const TYPE: u16 = 0xf000;
const CHARACTER_DEVICE: u16 = 0x2000;
const DIRECTORY: u16 = 0x4000;
const BLOCK_DEVICE: u16 = 0x6000;
const REGULAR: u16 = 0x8000;
const LINK: u16 = 0xa000;

// Offsets of fields.
pub(in crate::disk::guest) const GENERATION: Range<usize> = 0x64..0x68;
const BLOCK: Range<usize> = 0x28..0x64;
const CHECKSUM_LOW: usize = 0x7c;
const EXTRA_SIZE: usize = 0x80;
const CHECKSUM_HIGH: usize = 0x82;
pub(in crate::disk::guest) const CTIME_EXTRA: usize = 0x84;
pub(in crate::disk::guest) const MTIME_EXTRA: usize = 0x88;
pub(in crate::disk::guest) const ATIME_EXTRA: usize = 0x8c;
const PROJECT: usize = 0x9c;

/// A file, directory or other object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Its number, from 1.
    pub number: u32,
    /// Type and permission bits.
    pub mode: u16,
    pub uid: u32,
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
    pub project: u32,
    /// Generation, which NFS sees.
    pub generation: u32,
    /// Block of extended attributes, 0 for none.
    pub(super) attribute_block: u64,
    /// What the checksums of its blocks begin with.
    pub(super) seed: u32,
    /// Its bytes in the inode table.
    raw: Vec<u8>,
}

impl Inode {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.mode & TYPE == DIRECTORY
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.mode & TYPE == REGULAR
    }

    /// Whether it is a symbolic link.
    pub fn is_link(&self) -> bool {
        self.mode & TYPE == LINK
    }

    /// Whether it is a symbolic link whose target stands in the place of a map.
    pub(super) fn is_short_link(&self) -> bool {
        self.is_link() && self.size < SHORT_LINK && !self.has(FLAG_EXTENTS | FLAG_INLINE_DATA)
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// The 60 bytes that hold a map, a short link's target or a small file's beginning.
    pub(super) fn block(&self) -> &[u8] {
        self.raw.get(BLOCK).unwrap_or_default()
    }

    /// What lies behind the last field: extended attributes, if any.
    pub(super) fn body(&self) -> &[u8] {
        self.raw
            .get(OLD_SIZE + extra_size(&self.raw)..)
            .unwrap_or_default()
    }
}

/// How many bytes of fields an inode has behind the oldest form.
pub(in crate::disk::guest) fn extra_size(raw: &[u8]) -> usize {
    if raw.len() > OLD_SIZE {
        usize::from(le16(raw, EXTRA_SIZE))
    } else {
        0
    }
}

impl<D: ReadAt + ?Sized> Ext4<'_, D> {
    /// Where an inode's bytes lie in the file system.
    pub fn inode_place(&self, number: u32) -> Result<Range<u64>, ReadError> {
        let sb = &self.superblock;
        let outside = || corrupt(format!("inode {number} lies outside the file system"));
        if number == 0 || number > sb.identity.inodes {
            return Err(outside());
        }
        let (group, index) = (
            (number - 1) / sb.inodes_per_group,
            (number - 1) % sb.inodes_per_group,
        );
        let group = self.groups.get(group as usize).ok_or_else(outside)?;
        let start =
            sb.place(group.inode_table).ok_or_else(outside)? + u64::from(index) * sb.inode_size;
        let end = start + sb.inode_size;
        if end > sb.blocks * sb.block_size {
            Err(outside())
        } else {
            Ok(start..end)
        }
    }

    /// Reads an inode that is in use.
    pub fn inode(&self, number: u32) -> Result<Inode, ReadError> {
        let place = self.inode_place(number)?;
        let mut raw = vec![0; self.superblock.inode_size as usize];
        self.disk
            .read_exact_at(&mut raw, place.start)
            .map_err(ReadError::Io)?;
        let seed = own_seed(self.superblock.seed, number, &raw);
        let extra = extra_size(&raw);
        if OLD_SIZE + extra > raw.len() || !extra.is_multiple_of(4) {
            return Err(corrupt(format!("inode {number}: its size is not valid")));
        }
        if self.superblock.ro_compat(RO_COMPAT_METADATA_CSUM) && !sum_is_right(seed, &raw) {
            return Err(corrupt(format!("inode {number}: its checksum is wrong")));
        }
        self.parse(number, seed, raw)
    }

    fn parse(&self, number: u32, seed: u32, raw: Vec<u8>) -> Result<Inode, ReadError> {
        let (mode, links, flags) = (le16(&raw, 0x0), le16(&raw, 0x1a), le32(&raw, 0x20));
        if links == 0 {
            return Err(corrupt(format!("inode {number} is not in use")));
        }
        if flags & FLAG_ENCRYPT != 0 {
            return Err(unsupported(format!("the encryption of inode {number}")));
        }
        let kind = mode & TYPE;
        let word = |low, high| u32::from(le16(&raw, low)) | u32::from(le16(&raw, high)) << 16;
        let has_high_size = kind == REGULAR || self.superblock.incompat(INCOMPAT_LARGEDIR);
        let high_size = if has_high_size {
            u64::from(le32(&raw, 0x6c)) << 32
        } else {
            0
        };
        let high_block = if self.superblock.is_wide() {
            u64::from(le16(&raw, 0x76)) << 32
        } else {
            0
        };
        let extra = |at| field(&raw, at).unwrap_or(0);
        let time = |at, more| {
            let extra = extra(more);
            (time::decode(le32(&raw, at), extra), extra >> 2)
        };
        Ok(Inode {
            number,
            mode,
            uid: word(0x2, 0x78),
            gid: word(0x18, 0x7a),
            size: high_size | u64::from(le32(&raw, 0x4)),
            mtime: time(0x10, MTIME_EXTRA),
            ctime: time(0xc, CTIME_EXTRA),
            atime: time(0x8, ATIME_EXTRA),
            links: u32::from(links),
            flags,
            device: matches!(kind, CHARACTER_DEVICE | BLOCK_DEVICE).then(|| device(&raw[BLOCK])),
            project: extra(PROJECT),
            generation: le32(&raw, GENERATION.start),
            attribute_block: high_block | u64::from(le32(&raw, 0x68)),
            seed,
            raw,
        })
    }
}

/// A field behind the oldest form, where the inode reaches that far.
pub(in crate::disk::guest) fn field(raw: &[u8], at: usize) -> Option<u32> {
    (at + 4 <= OLD_SIZE + extra_size(raw)).then(|| le32(raw, at))
}

/// Major and minor number: 8 bits each in the first word, or 12 and 20 in the second.
fn device(block: &[u8]) -> (u32, u32) {
    let old = le32(block, 0);
    if old != 0 {
        return (old >> 8 & 0xff, old & 0xff);
    }
    let new = le32(block, 4);
    (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00)
}

/// What the checksums of an inode and its blocks begin with; `seed` is the file system's.
pub(in crate::disk::guest) fn own_seed(seed: u32, number: u32, raw: &[u8]) -> u32 {
    crc32c(crc32c(seed, &number.to_le_bytes()), &raw[GENERATION])
}

/// Where an inode keeps its checksum: the low half, and the high one where its fields reach that far.
pub(in crate::disk::guest) fn sum_places(raw: &[u8]) -> (usize, Option<usize>) {
    let has_high = CHECKSUM_HIGH + 2 <= OLD_SIZE + extra_size(raw);
    (CHECKSUM_LOW, has_high.then_some(CHECKSUM_HIGH))
}

/// The checksum that an inode must have, whatever it has; `seed` is its own.
pub(in crate::disk::guest) fn sum_of(seed: u32, raw: &[u8]) -> u32 {
    let (_, high) = sum_places(raw);
    let mut sum = crc32c(seed, &raw[..CHECKSUM_LOW]);
    sum = crc32c(crc32c(sum, &[0; 2]), &raw[CHECKSUM_LOW + 2..OLD_SIZE]);
    if raw.len() > OLD_SIZE {
        sum = crc32c(sum, &raw[OLD_SIZE..CHECKSUM_HIGH]);
        let high = if high.is_some() {
            [0; 2]
        } else {
            bytes_at(raw, CHECKSUM_HIGH)
        };
        sum = crc32c(crc32c(sum, &high), &raw[CHECKSUM_HIGH + 2..]);
    }
    sum
}

/// Whether an inode has the checksum that it must have; `seed` is its own.
pub(in crate::disk::guest) fn sum_is_right(seed: u32, raw: &[u8]) -> bool {
    let (low, high) = sum_places(raw);
    let (sum, low) = (sum_of(seed, raw), le16(raw, low));
    high.map_or(sum as u16 == low, |high| {
        sum == u32::from(low) | u32::from(le16(raw, high)) << 16
    })
}
