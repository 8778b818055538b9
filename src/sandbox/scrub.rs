//! An overlay without what was deleted in it.
//!
//! Knows chunks and ranges of bytes, not file systems.

use std::ops::Range;

use impasto_store::qcow2::{CHUNK, ChunkSource, Content, SourceError};

/// A job's overlay in which bytes without meaning are zeros: what sealing shall read.
///
/// A chunk that means nothing as a whole is zero even where the overlay does not have it: a file was deleted that lies
/// in a layer below.
pub struct Scrubbed<'a> {
    source: &'a dyn ChunkSource,
    unused: &'a [Range<u64>],
    /// Whole chunks, by index.
    chunks: Vec<Range<u64>>,
}

impl<'a> Scrubbed<'a> {
    /// `unused` is [`Finished::unused`](super::Finished::unused): in bytes, sorted, apart.
    pub fn new(source: &'a dyn ChunkSource, unused: &'a [Range<u64>]) -> Self {
        let size = source.virtual_size();
        let chunk = CHUNK as u64;
        let whole = |range: &Range<u64>| {
            // The last chunk may be cut off by the disk's end.
            let end = if range.end >= size { size.div_ceil(chunk) } else { range.end / chunk };
            range.start.div_ceil(chunk)..end
        };
        let chunks = unused.iter().map(whole).filter(|range| !range.is_empty()).collect();
        Self { source, unused, chunks }
    }

    fn whole_from(&self, from: u64) -> Option<u64> {
        let at = self.chunks.partition_point(|range| range.end <= from);
        self.chunks.get(at).map(|range| range.start.max(from))
    }
}

impl ChunkSource for Scrubbed<'_> {
    fn virtual_size(&self) -> u64 {
        self.source.virtual_size()
    }

    fn next_present(&self, from: u64) -> Result<Option<u64>, SourceError> {
        let present = self.source.next_present(from)?;
        Ok(present.into_iter().chain(self.whole_from(from)).min())
    }

    fn read_chunk(&self, index: u64, buffer: &mut [u8; CHUNK]) -> Result<Content, SourceError> {
        if self.whole_from(index) == Some(index) {
            buffer.fill(0);
            return Ok(Content::Zero);
        }
        let content = self.source.read_chunk(index, buffer)?;
        if content == Content::Data {
            let chunk = index * CHUNK as u64..(index + 1) * CHUNK as u64;
            let first = self.unused.partition_point(|range| range.end <= chunk.start);
            for range in self.unused[first..].iter().take_while(|range| range.start < chunk.end) {
                let start = range.start.max(chunk.start) - chunk.start;
                let end = range.end.min(chunk.end) - chunk.start;
                buffer[start as usize..end as usize].fill(0);
            }
        }
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chunks 1 and 3 of four and a half are there, all ones.
    struct Sparse;

    impl ChunkSource for Sparse {
        fn virtual_size(&self) -> u64 {
            4 * CHUNK as u64 + 512
        }

        fn next_present(&self, from: u64) -> Result<Option<u64>, SourceError> {
            Ok([1, 3].into_iter().find(|index| *index >= from))
        }

        fn read_chunk(&self, index: u64, buffer: &mut [u8; CHUNK]) -> Result<Content, SourceError> {
            let present = [1, 3].contains(&index);
            buffer.fill(u8::from(present));
            Ok(if present { Content::Data } else { Content::Zero })
        }
    }

    fn present(source: &dyn ChunkSource) -> Vec<u64> {
        let mut found = Vec::new();
        source
            .for_each_present(&mut |index| {
                found.push(index);
                Ok(())
            })
            .unwrap();
        found
    }

    #[test]
    fn chunks_without_meaning_are_present_zeros() {
        let chunk = CHUNK as u64;
        let unused = [chunk / 2..2 * chunk, 3 * chunk - 1..3 * chunk + 8, 4 * chunk..4 * chunk + 512];
        let scrubbed = Scrubbed::new(&Sparse, &unused);
        assert_eq!(present(&scrubbed), [1, 3, 4]);
        let mut buffer = [7; CHUNK];
        assert_eq!(scrubbed.read_chunk(1, &mut buffer).unwrap(), Content::Zero);
        assert_eq!(buffer, [0; CHUNK]);
        assert_eq!(scrubbed.read_chunk(3, &mut buffer).unwrap(), Content::Data);
        assert!(buffer[..8] == [0; 8] && buffer[8..].iter().all(|&byte| byte == 1));
        assert_eq!(scrubbed.read_chunk(4, &mut buffer).unwrap(), Content::Zero);
    }

    #[test]
    fn without_ranges_the_source_shows_through() {
        let scrubbed = Scrubbed::new(&Sparse, &[]);
        assert_eq!(present(&scrubbed), [1, 3]);
        let mut buffer = [7; CHUNK];
        scrubbed.read_chunk(3, &mut buffer).unwrap();
        assert_eq!(buffer, [1; CHUNK]);
    }
}
