//! Where a file's blocks are: the run of a map through extent trees and indirect blocks.
//!
//! Knows both forms of the map, not what is mapped. A map is at most as large as the file system: pieces ascend, a node
//! without entries is an error, and no block serves twice, so that every step of the walk costs a block of the disk.

use std::collections::HashSet;
use std::ops::Range;

use super::inode::{FLAG_EXTENTS, FLAG_INLINE_DATA, Inode};
use super::{Ext4, ReadError, corrupt, unsupported};
use crate::disk::guest::crc::crc32c;
use crate::disk::guest::{ReadAt, le16, le32};

const EXTENT_MAGIC: u16 = 0xf30a;
const MAX_DEPTH: u16 = 5;

/// Length of the longest extent; a larger number marks one that was never written.
const MAX_EXTENT: u64 = 32768;

/// Size of an entry of an extent tree's node, and of its header.
const ENTRY: usize = 12;

/// Direct blocks in an inode of ext2, before those that name others once, twice and thrice.
const DIRECT: usize = 12;

/// Blocks of a map that are read: enough for 4 TiB in single blocks of 4 KiB.
const MAX_NODES: usize = 1 << 20;

/// Pieces of a file that are kept: 1 TiB between the indirect blocks of a file system with 1 KiB blocks.
const MAX_RUNS: usize = 1 << 22;

/// Blocks that follow each other in the file and on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockRun {
    /// First block in the file.
    pub(super) logical: u64,
    /// First block in the file system.
    pub(super) start: u64,
    /// Blocks.
    pub(super) length: u64,
}

/// A file's blocks, ascending and apart, and those that its map is in.
#[derive(Debug, Default)]
pub(super) struct BlockMap {
    pub(super) runs: Vec<BlockRun>,
    pub(super) nodes: Vec<u64>,
}

impl<D: ReadAt + ?Sized> Ext4<'_, D> {
    /// The map of a file, directory or long symbolic link; empty for everything else.
    pub(super) fn map(&self, inode: &Inode) -> Result<BlockMap, ReadError> {
        let has_blocks = inode.is_file() || inode.is_directory() || inode.is_link();
        if !has_blocks || inode.has(FLAG_INLINE_DATA) || inode.is_short_link() {
            return Ok(BlockMap::default());
        }
        let size = self.superblock.block_size as usize;
        let mut walk = MapWalk {
            fs: self,
            inode,
            map: BlockMap::default(),
            next: 0,
            mapped: 0,
            seen: HashSet::new(),
            spare: Vec::new(),
        };
        if inode.has(FLAG_EXTENTS) {
            let root = inode.block();
            let depth = le16(root, 6);
            if depth > MAX_DEPTH {
                return Err(walk.corrupt("its extent tree is too deep"));
            }
            walk.extents(root, depth, 0..1 << 32)?;
        } else {
            let (direct, indirect) = inode.block().split_at(DIRECT * 4);
            walk.pointers(direct, 0, 1)?;
            let mut span = 1;
            for (level, pointer) in (1..).zip(indirect.chunks_exact(4)) {
                let below = span;
                span *= size as u64 / 4;
                walk.pointer(le32(pointer, 0), level, below, span)?;
            }
        }
        Ok(walk.map)
    }
}

/// Where a node of an extent tree keeps its checksum, behind the room for its entries, and what it must be.
pub(super) fn sum_of(seed: u32, node: &[u8]) -> Option<(usize, u32)> {
    let end = (usize::from(le16(node, 4)) + 1) * ENTRY;
    (end + 4 <= node.len()).then(|| (end, crc32c(seed, &node[..end])))
}

/// A walk through one map.
struct MapWalk<'a, 'd, D: ReadAt + ?Sized> {
    fs: &'a Ext4<'d, D>,
    inode: &'a Inode,
    map: BlockMap,
    /// The first block of the file that may come next.
    next: u64,
    /// Blocks that are mapped.
    mapped: u64,
    /// Indirect blocks.
    seen: HashSet<u64>,
    /// Buffers that are free for the next node.
    spare: Vec<Vec<u8>>,
}

impl<D: ReadAt + ?Sized> MapWalk<'_, '_, D> {
    fn corrupt(&self, what: &str) -> ReadError {
        corrupt(format!("inode {}: {what}", self.inode.number))
    }

    /// Reads a block of the map.
    fn node(&mut self, block: u64) -> Result<Vec<u8>, ReadError> {
        if self.map.nodes.len() >= MAX_NODES {
            return Err(unsupported(format!(
                "the size of the map of inode {}",
                self.inode.number
            )));
        }
        self.map.nodes.push(block);
        let mut bytes = self.spare.pop().unwrap_or_default();
        match self.fs.read_block(block, &mut bytes) {
            Err(ReadError::Corrupt { .. }) => {
                Err(self.corrupt("its map lies outside the file system"))
            }
            result => result.map(|()| bytes),
        }
    }

    /// Takes a run, after those that came before it.
    fn push(&mut self, run: BlockRun) -> Result<(), ReadError> {
        let sb = &self.fs.superblock;
        let last = run
            .start
            .checked_add(run.length)
            .and_then(|end| end.checked_sub(1));
        if sb.place(run.start).is_none() || last.and_then(|last| sb.place(last)).is_none() {
            return Err(self.corrupt("a block of it lies outside the file system"));
        }
        self.mapped += run.length;
        if self.mapped > sb.blocks {
            return Err(self.corrupt("it has more blocks than the file system"));
        }
        self.next = run.logical + run.length;
        let count = self.map.runs.len();
        match self.map.runs.last_mut() {
            Some(last)
                if last.logical + last.length == run.logical
                    && last.start + last.length == run.start =>
            {
                last.length += run.length;
            }
            _ if count >= MAX_RUNS => {
                return Err(unsupported(format!(
                    "the number of pieces of inode {}",
                    self.inode.number
                )));
            }
            _ => self.map.runs.push(run),
        }
        Ok(())
    }

    /// One node of an extent tree, for these blocks of the file.
    fn extents(&mut self, node: &[u8], depth: u16, span: Range<u64>) -> Result<(), ReadError> {
        let (entries, room) = (usize::from(le16(node, 2)), usize::from(le16(node, 4)));
        if le16(node, 0) != EXTENT_MAGIC
            || le16(node, 6) != depth
            || entries > room
            || (room + 1) * ENTRY > node.len()
        {
            return Err(self.corrupt("its extent tree is damaged"));
        }
        let entries = &node[ENTRY..(entries + 1) * ENTRY];
        // Nodes that lie on each other's blocks cannot both have an entry in their own span.
        if entries.is_empty() && depth > 0 {
            return Err(self.corrupt("its extent tree has an empty node"));
        }
        let mut entries = entries.chunks_exact(ENTRY).peekable();
        while let Some(entry) = entries.next() {
            let logical = u64::from(le32(entry, 0));
            if logical < self.next.max(span.start) || logical >= span.end {
                return Err(self.corrupt("its extents are not in order"));
            }
            if depth > 0 {
                let end = entries
                    .peek()
                    .map_or(span.end, |next| u64::from(le32(next, 0)));
                let block = u64::from(le16(entry, 8)) << 32 | u64::from(le32(entry, 4));
                let below = self.node(block)?;
                self.check_sum(&below)?;
                if le16(&below, 2) == 0 {
                    return Err(self.corrupt("its extent tree has an empty node"));
                }
                self.extents(&below, depth - 1, logical..end)?;
                self.spare.push(below);
                continue;
            }
            let start = u64::from(le16(entry, 6)) << 32 | u64::from(le32(entry, 8));
            let length = u64::from(le16(entry, 4));
            let written = length <= MAX_EXTENT;
            let length = if written { length } else { length - MAX_EXTENT };
            if length == 0 || logical + length > span.end {
                return Err(self.corrupt("an extent has an invalid length"));
            }
            if written {
                self.push(BlockRun {
                    logical,
                    start,
                    length,
                })?;
            }
            self.next = logical + length;
        }
        Ok(())
    }

    fn check_sum(&self, node: &[u8]) -> Result<(), ReadError> {
        let right = !self.fs.superblock.has_sums()
            || sum_of(self.inode.seed, node).is_some_and(|(at, sum)| le32(node, at) == sum);
        if right {
            Ok(())
        } else {
            Err(self.corrupt("the checksum of its extent tree is wrong"))
        }
    }

    /// A row of pointers, each of which stands for `span` blocks of the file: data itself, or a block of pointers.
    fn pointers(&mut self, row: &[u8], level: u32, span: u64) -> Result<(), ReadError> {
        let per_block = self.fs.superblock.block_size / 4;
        row.chunks_exact(4).try_for_each(|pointer| {
            self.pointer(le32(pointer, 0), level, span / per_block.max(1), span)
        })
    }

    /// One pointer, which stands for the next `span` blocks, and each of those below it for `below`.
    fn pointer(&mut self, block: u32, level: u32, below: u64, span: u64) -> Result<(), ReadError> {
        let (logical, block) = (self.next, u64::from(block));
        if block == 0 {
            self.next = logical + span;
        } else if level == 0 {
            self.push(BlockRun {
                logical,
                start: block,
                length: 1,
            })?;
        } else {
            if !self.seen.insert(block) {
                return Err(self.corrupt("a block of its map appears twice"));
            }
            let row = self.node(block)?;
            self.pointers(&row, level - 1, below)?;
            self.spare.push(row);
        }
        Ok(())
    }
}
