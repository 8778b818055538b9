//! A disk as bytes: chunks of an overlay over those of the disk below it.
//!
//! Knows chunk sources and keeps what was read last; does not know what the bytes mean.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use impasto_store::qcow2::{CHUNK, ChunkSource, Content, SourceError};

use super::ReadAt;

/// Chunks that are kept, in each of [`SHARDS`] parts: 160 MiB together. Inodes and directories of a usual system lie in
/// one to two thousand.
const KEPT: usize = 160;
/// Parts of the cache, each behind a lock of its own.
const SHARDS: usize = 16;

type Chunk = Arc<Box<[u8; CHUNK]>>;

/// A disk whose chunks come from `top`, or from `base` where `top` says nothing about them.
pub struct OverlayView<'a> {
    top: &'a dyn ChunkSource,
    base: Option<&'a dyn ChunkSource>,
    /// What `top` says anything about, ascending.
    present: Vec<u64>,
    shards: Vec<Mutex<Shard>>,
    zero: Chunk,
}

#[derive(Default)]
struct Shard {
    chunks: HashMap<u64, Chunk>,
    order: VecDeque<u64>,
}

impl<'a> OverlayView<'a> {
    /// A stage's overlay over the disk that the stage began with.
    ///
    /// # Errors
    /// The overlay cannot be read.
    pub fn over(top: &'a dyn ChunkSource, base: &'a dyn ChunkSource) -> Result<Self, SourceError> {
        Self::new(top, Some(base))
    }

    /// A whole disk.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn whole(disk: &'a dyn ChunkSource) -> Result<Self, SourceError> {
        Self::new(disk, None)
    }

    fn new(
        top: &'a dyn ChunkSource,
        base: Option<&'a dyn ChunkSource>,
    ) -> Result<Self, SourceError> {
        let mut present = Vec::new();
        top.for_each_present(&mut |index| {
            present.push(index);
            Ok(())
        })?;
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Ok(OverlayView {
            top,
            base,
            present,
            shards,
            zero: Arc::new(buffer()),
        })
    }

    /// Whether `top` says anything about a chunk; without a disk below, whether the chunk may be other than zero.
    pub fn is_present(&self, chunk: u64) -> bool {
        self.present.binary_search(&chunk).is_ok()
    }

    /// Whether `top` says anything about any of these bytes.
    pub fn is_written(&self, bytes: Range<u64>) -> bool {
        let chunk = CHUNK as u64;
        let first = self
            .present
            .partition_point(|index| *index < bytes.start / chunk);
        self.present
            .get(first)
            .is_some_and(|index| *index < bytes.end.div_ceil(chunk))
    }

    /// The first chunk at or behind `from` that may be other than zero.
    ///
    /// # Errors
    /// The disk below cannot be read.
    pub fn next_data(&self, from: u64) -> Result<Option<u64>, SourceError> {
        let top = self
            .present
            .get(self.present.partition_point(|index| *index < from))
            .copied();
        let base = self
            .base
            .map(|base| base.next_present(from))
            .transpose()?
            .flatten();
        Ok(top.into_iter().chain(base).min())
    }

    fn chunk(&self, index: u64) -> Result<Chunk, SourceError> {
        let shard = &self.shards[(index % SHARDS as u64) as usize];
        let lock = || shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = lock().chunks.get(&index) {
            return Ok(found.clone());
        }
        let source = if self.is_present(index) {
            Some(self.top)
        } else {
            // A disk that grew is zero where the one below it ends.
            self.base.filter(|base| index < base.chunks())
        };
        let mut buffer = buffer();
        let chunk = match source
            .map(|source| source.read_chunk(index, &mut buffer))
            .transpose()?
        {
            Some(Content::Data) => Arc::new(buffer),
            Some(Content::Zero) | None => self.zero.clone(),
        };
        let mut shard = lock();
        if shard.chunks.insert(index, chunk.clone()).is_none() {
            shard.order.push_back(index);
        }
        if shard.order.len() > KEPT
            && let Some(oldest) = shard.order.pop_front()
        {
            shard.chunks.remove(&oldest);
        }
        Ok(chunk)
    }
}

/// A chunk of zeros, which come from the system and are not written.
fn buffer() -> Box<[u8; CHUNK]> {
    vec![0; CHUNK]
        .into_boxed_slice()
        .try_into()
        .expect("BUG: a vector of CHUNK bytes is not CHUNK bytes long")
}

impl ReadAt for OverlayView<'_> {
    fn size(&self) -> u64 {
        self.top.virtual_size()
    }

    /// An error of a source is the inner error of the one that this gives.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if offset
            .checked_add(buffer.len() as u64)
            .is_none_or(|end| end > self.size())
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut offset = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let start = (offset % CHUNK as u64) as usize;
            let (part, after) = rest.split_at_mut(rest.len().min(CHUNK - start));
            let chunk = self
                .chunk(offset / CHUNK as u64)
                .map_err(io::Error::other)?;
            part.copy_from_slice(&chunk[start..start + part.len()]);
            offset += part.len() as u64;
            rest = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chunks by index: all bytes alike, 0 for a chunk that is named and empty.
    struct Plain(u64, &'static [(u64, u8)]);

    impl ChunkSource for Plain {
        fn virtual_size(&self) -> u64 {
            self.0
        }

        fn next_present(&self, from: u64) -> Result<Option<u64>, SourceError> {
            Ok(self
                .1
                .iter()
                .map(|chunk| chunk.0)
                .find(|index| *index >= from))
        }

        fn read_chunk(&self, index: u64, buffer: &mut [u8; CHUNK]) -> Result<Content, SourceError> {
            let byte = self
                .1
                .iter()
                .find(|chunk| chunk.0 == index)
                .map_or(0, |chunk| chunk.1);
            buffer.fill(byte);
            Ok(if byte == 0 {
                Content::Zero
            } else {
                Content::Data
            })
        }
    }

    #[test]
    fn the_top_hides_what_is_below_and_reads_cross_chunks() {
        let size = 400 * CHUNK as u64 + 512;
        let (top, base) = (
            Plain(size, &[(1, 7), (2, 0), (400, 9)]),
            Plain(size, &[(0, 1), (2, 2), (3, 3)]),
        );
        let view = OverlayView::over(&top, &base).unwrap();
        let byte = |offset| {
            let mut byte = [0];
            view.read_exact_at(&mut byte, offset).map(|()| byte[0])
        };
        let chunk = CHUNK as u64;
        assert_eq!(
            [0, 1, 2, 3, 4].map(|index| byte(index * chunk).unwrap()),
            [1, 7, 0, 3, 0]
        );
        let mut across = [5; 4];
        view.read_exact_at(&mut across, chunk - 2).unwrap();
        assert_eq!(across, [1, 1, 7, 7]);
        assert_eq!(byte(size - 1).unwrap(), 9);
        assert_eq!(byte(size).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(view.is_present(2) && !view.is_present(0));
        let written = [
            0..chunk,
            0..chunk + 1,
            3 * chunk - 1..3 * chunk,
            3 * chunk..400 * chunk,
            400 * chunk..size,
        ];
        assert_eq!(
            written.map(|bytes| view.is_written(bytes)),
            [false, true, true, false, true]
        );
        let found: Vec<_> = (0..5).map(|from| view.next_data(from).unwrap()).collect();
        assert_eq!(found, [Some(0), Some(1), Some(2), Some(3), Some(400)]);
    }

    #[test]
    fn more_chunks_than_are_kept_are_read_again() {
        let size = 3000 * CHUNK as u64;
        let disk = Plain(size, &[(5, 5), (2999, 29)]);
        let view = OverlayView::whole(&disk).unwrap();
        let mut byte = [0];
        for offset in (0..size).step_by(CHUNK).chain([5 * CHUNK as u64]) {
            view.read_exact_at(&mut byte, offset).unwrap();
        }
        assert_eq!(byte, [5]);
    }
}
