//! What files, directories and symbolic links hold, and where it lies.
//! Knows sizes and holes, not names.

use std::ops::Range;

use super::inode::{FLAG_INLINE_DATA, Inode};
use super::map::BlockMap;
use super::{Ext4, Extent, InodeContent, ReadError, corrupt};
use crate::disk::guest::ReadAt;

impl<D: ReadAt + ?Sized> Ext4<'_, D> {
    /// Where a file's or a directory's content is: without holes, cut at its size.
    pub fn content(&self, inode: &Inode) -> Result<InodeContent, ReadError> {
        if inode.has(FLAG_INLINE_DATA) {
            return self.inline(inode).map(InodeContent::Inline);
        }
        if inode.is_short_link() {
            return self.target(inode).map(InodeContent::Inline);
        }
        let block_size = self.superblock.block_size;
        let runs = self.map(inode)?.runs;
        let extents = runs.into_iter().map_while(|run| {
            let offset = run.logical * block_size;
            let length = (run.length * block_size).min(inode.size.checked_sub(offset)?);
            (length > 0).then_some(Extent {
                offset,
                start: run.start * block_size,
                length,
            })
        });
        Ok(InodeContent::Extents(extents.collect()))
    }

    /// Where the blocks lie that map a file's content, in bytes: its extent tree below the inode, or indirect blocks.
    /// Inode and these unchanged, the content lies where it lay.
    pub fn blocks_of_map(&self, inode: &Inode) -> Result<Vec<Range<u64>>, ReadError> {
        Ok(self.ranges(&self.map(inode)?))
    }

    pub(super) fn ranges(&self, map: &BlockMap) -> Vec<Range<u64>> {
        let size = self.superblock.block_size;
        map.nodes
            .iter()
            .map(|block| block * size..(block + 1) * size)
            .collect()
    }

    /// A symbolic link's target.
    pub fn target(&self, link: &Inode) -> Result<Vec<u8>, ReadError> {
        let wrong = || {
            corrupt(format!(
                "inode {}: it is not a symbolic link with a target",
                link.number
            ))
        };
        if !link.is_link() || link.size == 0 || link.size > self.superblock.block_size {
            return Err(wrong());
        }
        let size = link.size as usize;
        let target = if link.has(FLAG_INLINE_DATA) {
            self.inline(link)?
        } else if link.is_short_link() {
            link.block().get(..size).ok_or_else(wrong)?.to_vec()
        } else {
            self.read_small(link, size)?
        };
        if target.contains(&0) {
            Err(wrong())
        } else {
            Ok(target)
        }
    }

    /// The first `size` bytes of a file, which the caller has found to be few.
    pub(super) fn read_small(&self, inode: &Inode, size: usize) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; size];
        let InodeContent::Extents(extents) = self.content(inode)? else {
            return self.inline(inode);
        };
        for extent in extents
            .iter()
            .take_while(|extent| extent.offset < size as u64)
        {
            let from = extent.offset as usize;
            let to =
                size.min(from.saturating_add(usize::try_from(extent.length).unwrap_or(usize::MAX)));
            self.disk
                .read_exact_at(&mut bytes[from..to], extent.start)
                .map_err(ReadError::Io)?;
        }
        Ok(bytes)
    }

    /// The content of a file that lies in its inode: the first 60 bytes in place of a map, the rest as an attribute.
    fn inline(&self, inode: &Inode) -> Result<Vec<u8>, ReadError> {
        let mut bytes = inode.block().to_vec();
        bytes.extend_from_slice(self.inline_rest(inode)?);
        let size = usize::try_from(inode.size)
            .ok()
            .filter(|size| *size <= bytes.len());
        bytes.truncate(size.ok_or_else(|| {
            corrupt(format!(
                "inode {}: its content is not in the inode",
                inode.number
            ))
        })?);
        Ok(bytes)
    }
}
