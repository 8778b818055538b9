//! Checks what says which blocks and inodes are in use: nobody reads it to read files, and a wrong bit costs the next writer
//! a file.
//!
//! Knows bitmaps, inodes that are free, and checksums; where a file system has none it can tell nothing.

use super::inode::{own_seed, sum_is_right};
use super::superblock::BlockGroup;
use super::{Ext4, ReadError, corrupt};
use crate::disk::guest::crc::crc32c;
use crate::disk::guest::{ReadAt, le16};

/// Flags of a group: its bitmaps were never written, and whoever reads the group makes them up.
const INODE_UNINIT: u16 = 1;
const BLOCK_UNINIT: u16 = 2;
/// Inodes below this number are the file system's own.
const FIRST_INODE: u32 = 11;

impl<D: ReadAt + ?Sized> Ext4<'_, D> {
    /// Whether every bitmap has its checksum, and every inode that is not in use, or the file system's own, looks so.
    ///
    /// # Errors
    /// One does not, or cannot be read.
    pub fn check_allocation(&self) -> Result<(), ReadError> {
        if !self.has_sums() {
            return Ok(());
        }
        let sb = &self.superblock;
        for (number, group) in (0..).zip(&self.groups) {
            let wrong = |what| corrupt(format!("group {number}: its {what} bitmap is damaged"));
            if group.flags & BLOCK_UNINIT == 0
                && !self
                    .bitmap(
                        group.block_bitmap,
                        sb.clusters_per_group,
                        group.block_bitmap_sum,
                    )?
                    .1
            {
                return Err(wrong("block"));
            }
            if group.flags & INODE_UNINIT == 0 {
                let (used, is_right) = self.bitmap(
                    group.inode_bitmap,
                    u64::from(sb.inodes_per_group),
                    group.inode_bitmap_sum,
                )?;
                if !is_right {
                    return Err(wrong("inode"));
                }
                self.check_free_inodes(number, group, &used)?;
            }
        }
        Ok(())
    }

    /// A bitmap of so many bits, and whether its checksum is this one and the rest of its block is set, as writers leave it.
    fn bitmap(&self, block: u64, bits: u64, sum: u32) -> Result<(Vec<u8>, bool), ReadError> {
        let mut bitmap = Vec::new();
        self.read_block(block, &mut bitmap)?;
        let (bits, padding) = bitmap
            .split_at_checked(bits as usize / 8)
            .ok_or_else(|| corrupt("a bitmap does not fit into its block"))?;
        let known = if self.superblock.has_wide_groups() {
            u32::MAX
        } else {
            0xffff
        };
        let is_right = crc32c(self.superblock.seed, bits) & known == sum & known
            && padding.iter().all(|byte| *byte == 0xff);
        Ok((bitmap, is_right))
    }

    fn check_free_inodes(
        &self,
        number: u32,
        group: &BlockGroup,
        used: &[u8],
    ) -> Result<(), ReadError> {
        let sb = &self.superblock;
        let per_block = (sb.block_size / sb.inode_size) as u32;
        let first = number * sb.inodes_per_group + 1;
        let is_used = |index: u32| used[index as usize / 8] >> (index % 8) & 1 == 1;
        // Those behind it were never written.
        let end = sb.inodes_per_group.saturating_sub(group.unused_inodes);
        let mut block = Vec::new();
        for start in (0..end).step_by(per_block as usize) {
            let is_looked_at = |index: &u32| !is_used(*index) || first + *index < FIRST_INODE;
            let mut indexes = (start..end.min(start + per_block))
                .filter(is_looked_at)
                .peekable();
            if indexes.peek().is_none() {
                continue;
            }
            self.read_block(group.inode_table + u64::from(start / per_block), &mut block)?;
            for index in indexes {
                let at = (index - start) as usize * sb.inode_size as usize;
                let raw = &block[at..at + sb.inode_size as usize];
                let inode = first + index;
                if raw.iter().all(|byte| *byte == 0) {
                    continue;
                }
                if !sum_is_right(own_seed(sb.seed, inode, raw), raw) {
                    return Err(corrupt(format!("inode {inode}: its checksum is wrong")));
                }
                if inode >= FIRST_INODE && le16(raw, 0x1a) != 0 {
                    return Err(corrupt(format!("inode {inode} is free, and has links")));
                }
            }
        }
        Ok(())
    }
}
