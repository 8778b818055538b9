//! The superblock of ext2, ext3 and ext4, and the group descriptors behind it: geometry, features, state.
//!
//! Knows where groups keep their tables, not what is in these. Whoever trusts it asks `fault` first.

use std::io;

use super::{Ext4Identity, ReadError, corrupt};
use crate::disk::guest::crc::{crc16, crc32c};
use crate::disk::guest::{ReadAt, bytes_at, le16, le32, uuid_text};

const MAGIC: u16 = 0xef53;

/// Blocks of 64 KiB, as shift of 1 KiB.
const MAX_LOG_BLOCK_SIZE: u32 = 6;

/// 32 TiB in groups of 128 MiB; descriptors of larger file systems are not read into memory.
const MAX_GROUPS: u64 = 1 << 18;

/// Bits of the three feature words.
pub(in crate::disk::guest) mod feature {
    pub(in crate::disk::guest) const COMPAT_HAS_JOURNAL: u32 = 0x4;
    pub(in crate::disk::guest) const COMPAT_SPARSE_SUPER2: u32 = 0x200;
    pub(in crate::disk::guest) const COMPAT_ORPHAN_FILE: u32 = 0x1000;
    pub(in crate::disk::guest) const INCOMPAT_COMPRESSION: u32 = 0x1;
    pub(in crate::disk::guest) const INCOMPAT_FILETYPE: u32 = 0x2;
    pub(in crate::disk::guest) const INCOMPAT_RECOVER: u32 = 0x4;
    pub(in crate::disk::guest) const INCOMPAT_JOURNAL_DEV: u32 = 0x8;
    pub(in crate::disk::guest) const INCOMPAT_META_BG: u32 = 0x10;
    pub(in crate::disk::guest) const INCOMPAT_EXTENTS: u32 = 0x40;
    pub(in crate::disk::guest) const INCOMPAT_64BIT: u32 = 0x80;
    pub(in crate::disk::guest) const INCOMPAT_MMP: u32 = 0x100;
    pub(in crate::disk::guest) const INCOMPAT_FLEX_BG: u32 = 0x200;
    pub(in crate::disk::guest) const INCOMPAT_EA_INODE: u32 = 0x400;
    pub(in crate::disk::guest) const INCOMPAT_DIRDATA: u32 = 0x1000;
    pub(in crate::disk::guest) const INCOMPAT_CSUM_SEED: u32 = 0x2000;
    pub(in crate::disk::guest) const INCOMPAT_LARGEDIR: u32 = 0x4000;
    pub(in crate::disk::guest) const INCOMPAT_INLINE_DATA: u32 = 0x8000;
    pub(in crate::disk::guest) const INCOMPAT_ENCRYPT: u32 = 0x1_0000;
    pub(in crate::disk::guest) const INCOMPAT_CASEFOLD: u32 = 0x2_0000;
    pub(in crate::disk::guest) const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
    pub(in crate::disk::guest) const RO_COMPAT_HUGE_FILE: u32 = 0x8;
    pub(in crate::disk::guest) const RO_COMPAT_GDT_CSUM: u32 = 0x10;
    pub(in crate::disk::guest) const RO_COMPAT_DIR_NLINK: u32 = 0x20;
    pub(in crate::disk::guest) const RO_COMPAT_EXTRA_ISIZE: u32 = 0x40;
    pub(in crate::disk::guest) const RO_COMPAT_BIGALLOC: u32 = 0x200;
    pub(in crate::disk::guest) const RO_COMPAT_METADATA_CSUM: u32 = 0x400;
    pub(in crate::disk::guest) const RO_COMPAT_ORPHAN_PRESENT: u32 = 0x1_0000;
}
use feature::*;

/// What a superblock says. Its numbers are as stored: they may make no sense.
#[derive(Clone, Debug)]
pub(in crate::disk::guest) struct Superblock {
    /// What users of the file system can see of it.
    pub(in crate::disk::guest) identity: Ext4Identity,
    /// Size of a block in bytes: a power of two from 1 KiB to 64 KiB.
    pub(in crate::disk::guest) block_size: u64,
    /// Number of blocks.
    pub(in crate::disk::guest) blocks: u64,
    /// The first block of the first group.
    pub(in crate::disk::guest) first_block: u64,
    /// Blocks of a group.
    pub(in crate::disk::guest) blocks_per_group: u64,
    /// Clusters of a group, which are blocks without `bigalloc`: bits of its bitmap.
    pub(in crate::disk::guest) clusters_per_group: u64,
    /// Inodes of a group.
    pub(in crate::disk::guest) inodes_per_group: u32,
    /// Size of an inode in bytes.
    pub(in crate::disk::guest) inode_size: u64,
    /// The journal's inode, 0 where it has none in the file system.
    pub(in crate::disk::guest) journal_inode: u32,
    /// The inode that lists deleted files in use; 0 where there is none.
    pub(in crate::disk::guest) orphan_file: u32,
    /// What checksums of metadata begin with.
    pub(in crate::disk::guest) seed: u32,
    /// Size of a group descriptor in bytes.
    descriptor_size: usize,
    /// From this block of descriptors on they lie in the groups that they describe.
    first_meta_group: u64,
    /// Groups with a copy of the superblock, with `sparse_super2`.
    backup_groups: [u32; 2],
    uuid: [u8; 16],
    state: u16,
    error_count: u32,
    last_orphan: u32,
    sum_is_right: bool,
}

impl Superblock {
    /// Reads the superblock of the file system that starts at the disk's first byte; `None` where there is none.
    pub(in crate::disk::guest) fn read<D: ReadAt + ?Sized>(disk: &D) -> io::Result<Option<Self>> {
        let mut bytes = [0; 1024];
        if disk.size() < 2048 {
            return Ok(None);
        }
        disk.read_exact_at(&mut bytes, 1024)?;
        Ok(Self::parse(&bytes))
    }

    /// Takes a superblock apart; `None` where these 1024 bytes are none.
    pub(in crate::disk::guest) fn parse(sb: &[u8; 1024]) -> Option<Self> {
        let log_block_size = le32(sb, 0x18);
        if le16(sb, 0x38) != MAGIC || log_block_size > MAX_LOG_BLOCK_SIZE {
            return None;
        }
        let (compat, incompat, ro_compat) = (le32(sb, 0x5c), le32(sb, 0x60), le32(sb, 0x64));
        let wide = incompat & INCOMPAT_64BIT != 0;
        let count = |low, high| {
            u64::from(le32(sb, low))
                | if wide {
                    u64::from(le32(sb, high)) << 32
                } else {
                    0
                }
        };
        let cut = |bytes: &[u8]| {
            bytes
                .iter()
                .take_while(|byte| **byte != 0)
                .copied()
                .collect()
        };
        let uuid = bytes_at(sb, 0x68);
        let seed = if incompat & INCOMPAT_CSUM_SEED != 0 {
            le32(sb, 0x270)
        } else {
            crc32c(!0, &uuid)
        };
        // The first revision had no field for it.
        let inode_size = if le32(sb, 0x4c) == 0 {
            128
        } else {
            u64::from(le16(sb, 0x58))
        };
        let identity = Ext4Identity {
            uuid: uuid_text(&uuid),
            label: cut(&sb[0x78..0x88]),
            block_size: 1024 << log_block_size,
            blocks: count(0x4, 0x150),
            inodes: le32(sb, 0x0),
            compat,
            incompat,
            ro_compat,
            mount_options: le32(sb, 0x100),
            mount_option_text: cut(&sb[0x200..0x240]),
            reserved_blocks: count(0x8, 0x154),
        };
        Some(Self {
            block_size: u64::from(identity.block_size),
            blocks: identity.blocks,
            first_block: u64::from(le32(sb, 0x14)),
            blocks_per_group: u64::from(le32(sb, 0x20)),
            clusters_per_group: u64::from(le32(sb, 0x24)),
            inodes_per_group: le32(sb, 0x28),
            inode_size,
            journal_inode: if compat & COMPAT_HAS_JOURNAL != 0 {
                le32(sb, 0xe0)
            } else {
                0
            },
            orphan_file: if compat & COMPAT_ORPHAN_FILE != 0 {
                le32(sb, 0x280)
            } else {
                0
            },
            seed,
            descriptor_size: if wide {
                usize::from(le16(sb, 0xfe))
            } else {
                32
            },
            first_meta_group: u64::from(le32(sb, 0x104)),
            backup_groups: [le32(sb, 0x24c), le32(sb, 0x250)],
            uuid,
            state: le16(sb, 0x3a),
            error_count: le32(sb, 0x194),
            last_orphan: le32(sb, 0xe8),
            sum_is_right: ro_compat & RO_COMPAT_METADATA_CSUM == 0
                || crc32c(!0, &sb[..0x3fc]) == le32(sb, 0x3fc),
            identity,
        })
    }

    /// Whether a feature that everybody must know is there.
    pub(in crate::disk::guest) fn incompat(&self, feature: u32) -> bool {
        self.identity.incompat & feature != 0
    }

    /// Whether a feature that writers must know is there.
    pub(in crate::disk::guest) fn ro_compat(&self, feature: u32) -> bool {
        self.identity.ro_compat & feature != 0
    }

    /// Whether metadata has checksums.
    pub(in crate::disk::guest) fn has_sums(&self) -> bool {
        self.ro_compat(RO_COMPAT_METADATA_CSUM)
    }

    /// Whether numbers of blocks have more than 32 bits.
    pub(in crate::disk::guest) fn is_wide(&self) -> bool {
        self.incompat(INCOMPAT_64BIT)
    }

    /// Whether group descriptors have their second half.
    pub(in crate::disk::guest) fn has_wide_groups(&self) -> bool {
        self.descriptor_size >= 64
    }

    /// A feature of it that is not understood here. Those that only a writer must know do not matter.
    pub(in crate::disk::guest) fn unsupported(&self) -> Option<String> {
        const KNOWN: u32 = INCOMPAT_FILETYPE
            | INCOMPAT_RECOVER
            | INCOMPAT_META_BG
            | INCOMPAT_EXTENTS
            | INCOMPAT_64BIT
            | INCOMPAT_MMP
            | INCOMPAT_FLEX_BG
            | INCOMPAT_EA_INODE
            | INCOMPAT_CSUM_SEED
            | INCOMPAT_LARGEDIR
            | INCOMPAT_INLINE_DATA
            | INCOMPAT_ENCRYPT
            | INCOMPAT_CASEFOLD;
        let named = [
            (INCOMPAT_COMPRESSION, "compression"),
            (INCOMPAT_JOURNAL_DEV, "a journal of another file system"),
            (INCOMPAT_DIRDATA, "data in directories (dirdata)"),
        ];
        let unknown = self.identity.incompat & !KNOWN;
        if let Some((_, name)) = named.iter().find(|(bit, _)| unknown & bit != 0) {
            Some((*name).to_owned())
        } else if unknown != 0 {
            Some(format!("the unknown feature {unknown:#x}"))
        } else if self.identity.compat & COMPAT_HAS_JOURNAL != 0 && self.journal_inode == 0 {
            Some("a journal on another device".to_owned())
        } else {
            None
        }
    }

    /// What it says is wrong with the file system.
    pub(in crate::disk::guest) fn complaint(&self) -> Option<String> {
        if self.state & 2 != 0 || self.error_count > 0 {
            Some(format!("has {} recorded errors", self.error_count))
        } else if self.incompat(INCOMPAT_RECOVER) {
            Some("has a journal to replay".to_owned())
        } else if self.state & 1 == 0 {
            Some("was not unmounted".to_owned())
        } else {
            None
        }
    }

    /// Whether files that nobody names any more wait to be deleted.
    pub(in crate::disk::guest) fn has_orphans(&self) -> bool {
        self.last_orphan != 0 || self.ro_compat(RO_COMPAT_ORPHAN_PRESENT)
    }

    /// What makes no sense in it, for a disk of `size` bytes.
    pub(in crate::disk::guest) fn fault(&self, size: u64) -> Option<&'static str> {
        // Clusters are at most 2 GiB; a group has a bitmap of one block for them.
        let clusters = if self.ro_compat(RO_COMPAT_BIGALLOC) {
            1 << 21
        } else {
            1
        };
        if !self.sum_is_right {
            Some("its checksum is wrong")
        } else if self
            .blocks
            .checked_mul(self.block_size)
            .is_none_or(|bytes| bytes > size)
        {
            Some("the file system is larger than its disk")
        } else if self.first_block >= self.blocks || self.first_block > 1 {
            Some("it has no first block")
        } else if !(8..=self.block_size * 8 * clusters).contains(&self.blocks_per_group) {
            Some("its group size is not valid")
        } else if !(8..=self.block_size * 8).contains(&u64::from(self.inodes_per_group))
            || !(128..=self.block_size).contains(&self.inode_size)
            || !self.inode_size.is_power_of_two()
        {
            Some("its inode count or size is not valid")
        } else if !matches!(self.descriptor_size, 32 | 64) || self.groups() > MAX_GROUPS {
            Some("its group descriptors' count or size is not valid")
        } else if self.groups() * u64::from(self.inodes_per_group)
            != u64::from(self.identity.inodes)
        {
            Some("its inode count does not match its groups")
        } else {
            None
        }
    }

    fn groups(&self) -> u64 {
        (self.blocks - self.first_block).div_ceil(self.blocks_per_group)
    }

    /// Where a block lies, in bytes; `None` where there is no such block.
    pub(in crate::disk::guest) fn place(&self, block: u64) -> Option<u64> {
        (self.first_block..self.blocks)
            .contains(&block)
            .then(|| block * self.block_size)
    }

    /// Reads the group descriptors. Those of a superblock with a fault cannot be read.
    pub(in crate::disk::guest) fn read_groups<D: ReadAt + ?Sized>(
        &self,
        disk: &D,
    ) -> Result<Vec<BlockGroup>, ReadError> {
        let per_block = self.block_size / self.descriptor_size as u64;
        let mut groups = Vec::with_capacity(self.groups() as usize);
        let mut bytes = vec![0; self.block_size as usize];
        for index in 0..self.groups().div_ceil(per_block) {
            let place = self.place(self.descriptor_block(index, per_block));
            let place =
                place.ok_or_else(|| corrupt("group descriptors lie outside the file system"))?;
            disk.read_exact_at(&mut bytes, place)
                .map_err(ReadError::Io)?;
            for (number, descriptor) in
                (index * per_block..self.groups()).zip(bytes.chunks_exact(self.descriptor_size))
            {
                groups.push(self.group(number as u32, descriptor));
            }
        }
        Ok(groups)
    }

    /// The block in which the `index`th block of descriptors lies: `ext4_group_desc_block()` of the kernel.
    fn descriptor_block(&self, index: u64, per_block: u64) -> u64 {
        let superblock = 1024 / self.block_size;
        if !self.incompat(INCOMPAT_META_BG) || index < self.first_meta_group {
            return superblock + 1 + index;
        }
        let group = index * per_block;
        let first = self.first_block + group * self.blocks_per_group;
        // With clusters the first group begins with the boot block, and the superblock is its second.
        let boot = u64::from(self.block_size == 1024 && index == 0 && self.first_block == 0);
        first + u64::from(self.has_superblock(group)) + boot
    }

    fn has_superblock(&self, group: u64) -> bool {
        let is_power = |base: u64| {
            std::iter::successors(Some(base), |n| n.checked_mul(base)).any(|n| n == group)
        };
        if group == 0 {
            return true;
        }
        if self.identity.compat & COMPAT_SPARSE_SUPER2 != 0 {
            return self
                .backup_groups
                .iter()
                .any(|backup| u64::from(*backup) == group);
        }
        let sparse = self.ro_compat(RO_COMPAT_SPARSE_SUPER);
        !sparse || group == 1 || is_power(3) || is_power(5) || is_power(7)
    }

    fn group(&self, number: u32, bytes: &[u8]) -> BlockGroup {
        let wide = bytes.len() >= 64;
        let high = |at| {
            if wide {
                u64::from(le32(bytes, at)) << 32
            } else {
                0
            }
        };
        let count = |low, high| {
            u32::from(le16(bytes, low))
                | if wide {
                    u32::from(le16(bytes, high)) << 16
                } else {
                    0
                }
        };
        BlockGroup {
            block_bitmap: high(0x20) | u64::from(le32(bytes, 0)),
            inode_bitmap: high(0x24) | u64::from(le32(bytes, 4)),
            inode_table: high(0x28) | u64::from(le32(bytes, 8)),
            free_blocks: count(0xc, 0x2c),
            free_inodes: count(0xe, 0x2e),
            unused_inodes: count(0x1c, 0x32),
            block_bitmap_sum: count(0x18, 0x38),
            inode_bitmap_sum: count(0x1a, 0x3a),
            flags: le16(bytes, 0x12),
            sum_is_right: self
                .group_sum(number, bytes)
                .is_none_or(|sum| sum == le16(bytes, 0x1e)),
        }
    }

    /// The checksum that a descriptor must have; `None` without such a feature.
    fn group_sum(&self, number: u32, bytes: &[u8]) -> Option<u16> {
        let (before, after) = (bytes.get(..0x1e)?, bytes.get(0x20..)?);
        let number = number.to_le_bytes();
        if self.has_sums() {
            let sum = crc32c(crc32c(self.seed, &number), before);
            Some(crc32c(crc32c(sum, &[0; 2]), after) as u16)
        } else if self.ro_compat(RO_COMPAT_GDT_CSUM) {
            Some(crc16(
                crc16(crc16(crc16(!0, &self.uuid), &number), before),
                after,
            ))
        } else {
            None
        }
    }
}

#[derive(Clone, Debug)]
pub(in crate::disk::guest) struct BlockGroup {
    /// Block of its bitmap of free blocks.
    pub(in crate::disk::guest) block_bitmap: u64,
    /// Block of its bitmap of free inodes.
    pub(in crate::disk::guest) inode_bitmap: u64,
    /// First block of its inodes.
    pub(in crate::disk::guest) inode_table: u64,
    /// How many of its blocks are free.
    pub(in crate::disk::guest) free_blocks: u32,
    /// How many of its inodes are free.
    pub(in crate::disk::guest) free_inodes: u32,
    /// How many inodes at the end of its table were never used.
    pub(in crate::disk::guest) unused_inodes: u32,
    /// Checksum of its bitmap of blocks; only the lower half in a short descriptor.
    pub(in crate::disk::guest) block_bitmap_sum: u32,
    /// Checksum of its bitmap of inodes; only the lower half in a short descriptor.
    pub(in crate::disk::guest) inode_bitmap_sum: u32,
    /// Whether tables were never written.
    pub(in crate::disk::guest) flags: u16,
    /// Whether its checksum is right, or it needs none.
    pub(in crate::disk::guest) sum_is_right: bool,
}
