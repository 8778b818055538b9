//! The checksums that begin with an inode's generation: those of the blocks of its map, and of a directory's blocks.
//! Knows which blocks have one, not why a generation changes. The inode's own checksum is the caller's.

use super::inode::{FLAG_EXTENTS, FLAG_INLINE_DATA, Inode};
use super::{Ext4, ReadError, corrupt, directory, map};
use crate::disk::guest::{ReadAt, le16, le32};

impl<D: ReadAt + ?Sized> Ext4<'_, D> {
    /// What the checksums outside of an inode become if they begin with `seed`: where each lies in the file system, in
    /// bytes, and its value.
    ///
    /// # Errors
    /// The disk cannot be read; a block is damaged, or has a wrong checksum today.
    pub(in crate::disk::guest) fn reseeded(
        &self,
        inode: &Inode,
        seed: u32,
    ) -> Result<Vec<(u64, u32)>, ReadError> {
        let has_tree = inode.has(FLAG_EXTENTS) && le16(inode.block(), 6) > 0;
        if !self.superblock.has_sums()
            || inode.has(FLAG_INLINE_DATA)
            || !inode.is_directory() && !has_tree
        {
            return Ok(Vec::new());
        }
        let block_size = self.superblock.block_size;
        let (mut sums, mut bytes) = (Vec::new(), Vec::new());
        let mut take =
            |block: u64, bytes: &[u8], today: Option<(usize, u32)>, then: Option<(usize, u32)>| {
                let right = today.is_some_and(|(at, sum)| le32(bytes, at) == sum);
                let then = then.filter(|_| right);
                let (at, sum) =
                    then.ok_or_else(|| corrupt(format!("block {block}: a checksum is wrong")))?;
                sums.push((block * block_size + at as u64, sum));
                Ok(())
            };
        let found = self.map(inode)?;
        if has_tree {
            for node in found.nodes {
                self.read_block(node, &mut bytes)?;
                take(
                    node,
                    &bytes,
                    map::sum_of(inode.seed, &bytes),
                    map::sum_of(seed, &bytes),
                )?;
            }
        }
        if inode.is_directory() {
            let blocks = inode.size / block_size;
            for run in found.runs.iter().take_while(|run| run.logical < blocks) {
                for index in 0..run.length.min(blocks - run.logical) {
                    let (block, is_first) = (run.start + index, run.logical + index == 0);
                    self.read_block(block, &mut bytes)?;
                    let sum = |seed| directory::sum_of(inode, seed, &bytes, is_first);
                    take(block, &bytes, sum(inode.seed), sum(seed))?;
                }
            }
        }
        Ok(sums)
    }
}
