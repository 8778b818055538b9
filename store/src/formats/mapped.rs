//! Formats that hold a disk in blocks as they are: where each chunk goes, and a reader for such files.
//! Knows offsets and blocks, not the structures around them.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::MAX_SIZE;
use crate::qcow2::{CHUNK, ChunkSource, Content, GateError, SourceError};

/// Bytes of a block that is written.
pub(super) const BLOCK: u64 = 1 << 20;
const CHUNKS_PER_BLOCK: u64 = BLOCK / CHUNK as u64;
/// The place of a block that is all zero.
pub(super) const UNUSED: u32 = u32::MAX;

/// A file whose layout is known from which chunks a disk has: they can be written in any order.
#[derive(Debug)]
pub(crate) struct FlatLayout {
    /// Bytes of the file.
    pub(crate) length: u64,
    /// All that is not the disk's content, by its offset.
    pub(crate) parts: Vec<(u64, Vec<u8>)>,
    /// Where the first block lies, and which of the file's blocks each of the disk's is; none where the disk begins
    /// with the file.
    blocks: Option<(u64, Vec<u32>)>,
}

impl FlatLayout {
    /// The disk's bytes, then what else there is.
    pub(super) fn plain(length: u64, parts: Vec<(u64, Vec<u8>)>) -> FlatLayout {
        FlatLayout {
            length,
            parts,
            blocks: None,
        }
    }

    /// Blocks that are not all zero, from `first` on.
    pub(super) fn blocks(first: u64, places: Vec<u32>, parts: Vec<(u64, Vec<u8>)>) -> FlatLayout {
        FlatLayout {
            length: first + count(&places) * BLOCK,
            parts,
            blocks: Some((first, places)),
        }
    }

    /// Where a chunk that is not zero goes.
    pub(crate) fn offset(&self, chunk: u64) -> u64 {
        match &self.blocks {
            None => chunk * CHUNK as u64,
            Some((first, places)) => {
                let place = places[(chunk / CHUNKS_PER_BLOCK) as usize];
                first + u64::from(place) * BLOCK + chunk % CHUNKS_PER_BLOCK * CHUNK as u64
            }
        }
    }
}

/// For each block of a disk its place in the file: those that hold one of these chunks, ascending, without gaps.
pub(crate) fn used_blocks(size: u64, chunks: impl Iterator<Item = u64>) -> Vec<u32> {
    let mut places = vec![UNUSED; size.div_ceil(BLOCK) as usize];
    let mut next = 0;
    for chunk in chunks {
        let place = &mut places[(chunk / CHUNKS_PER_BLOCK) as usize];
        if *place == UNUSED {
            *place = next;
            next += 1;
        }
    }
    places
}

/// How many blocks the file has.
pub(super) fn count(places: &[u32]) -> u64 {
    places.iter().filter(|place| **place != UNUSED).count() as u64
}

/// A file that holds a disk in blocks as they are.
#[derive(Debug)]
pub(super) struct MappedImage {
    file: File,
    virtual_size: u64,
    /// Bytes of a block, a multiple of a chunk.
    block: u64,
    /// Blocks that are there, ascending, and their offsets in the file.
    blocks: Vec<(u32, u64)>,
}

impl MappedImage {
    /// Takes blocks, ascending by their number on the disk.
    ///
    /// # Errors
    /// One lies beyond the file's end or overlaps another, or what is before `first`.
    pub(super) fn new(
        file: File,
        file_length: u64,
        (virtual_size, block): (u64, u64),
        first: u64,
        blocks: Vec<(u32, u64)>,
    ) -> Result<MappedImage, GateError> {
        debug_assert!(virtual_size <= MAX_SIZE && block.is_multiple_of(CHUNK as u64));
        let mut offsets: Vec<u64> = blocks.iter().map(|(_, offset)| *offset).collect();
        offsets.sort_unstable();
        let mut free = first;
        for offset in offsets {
            if offset < free {
                return Err(GateError::Overlap {
                    what: "block",
                    offset,
                });
            }
            free = offset.saturating_add(block);
            if free > file_length {
                return Err(GateError::OutOfBounds {
                    what: "block",
                    offset,
                    length: block,
                    file_length,
                });
            }
        }
        Ok(MappedImage {
            file,
            virtual_size,
            block,
            blocks,
        })
    }

    fn chunks_per_block(&self) -> u64 {
        self.block / CHUNK as u64
    }
}

impl ChunkSource for MappedImage {
    fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    fn next_present(&self, from: u64) -> Result<Option<u64>, SourceError> {
        let per = self.chunks_per_block();
        let at = self
            .blocks
            .partition_point(|(block, _)| u64::from(*block) < from / per);
        let found = self
            .blocks
            .get(at)
            .map(|(block, _)| (u64::from(*block) * per).max(from));
        Ok(found.filter(|chunk| *chunk < self.chunks()))
    }

    fn read_chunk(&self, index: u64, buffer: &mut [u8; CHUNK]) -> Result<Content, SourceError> {
        if index >= self.chunks() {
            return Err(SourceError::BeyondEnd {
                index,
                virtual_size: self.virtual_size,
            });
        }
        let per = self.chunks_per_block();
        let Ok(at) = self
            .blocks
            .binary_search_by_key(&(index / per), |(block, _)| u64::from(*block))
        else {
            buffer.fill(0);
            return Ok(Content::Zero);
        };
        let start = index * CHUNK as u64;
        let length = (self.virtual_size - start).min(CHUNK as u64) as usize;
        let offset = self.blocks[at].1 + index % per * CHUNK as u64;
        self.file
            .read_exact_at(&mut buffer[..length], offset)
            .map_err(|source| SourceError::Read {
                offset,
                length: length as u64,
                source,
            })?;
        buffer[length..].fill(0);
        Ok(Content::Data)
    }
}
