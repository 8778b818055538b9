//! An overlay without what was deleted in it, and normalized.
//!
//! Knows chunks, ranges and patches of bytes, not file systems.

use std::ops::Range;

use impasto_store::qcow2::{CHUNK, ChunkSource, Content, SourceError};

use crate::disk::guest::Patch;

/// A job's overlay in which bytes without meaning are zeros: what sealing shall read.
///
/// A chunk that means nothing as a whole is zero even where the overlay does not have it: a file was deleted that lies
/// in a layer below.
pub struct TrimmedOverlay<'a> {
    source: &'a dyn ChunkSource,
    unused: &'a [Range<u64>],
    /// Whole chunks, by index.
    chunks: Vec<Range<u64>>,
    /// Sorted by place.
    patches: &'a [Patch],
    /// Nothing was changed: no chunk is shown.
    is_as_below: bool,
}

impl<'a> TrimmedOverlay<'a> {
    /// `unused` is [`Finished::unused`](super::Finished::unused): in bytes, sorted, apart.
    pub fn new(source: &'a dyn ChunkSource, unused: &'a [Range<u64>]) -> Self {
        let size = source.virtual_size();
        let chunk = CHUNK as u64;
        let whole = |range: &Range<u64>| {
            // The last chunk may be cut off by the disk's end.
            let end = if range.end >= size {
                size.div_ceil(chunk)
            } else {
                range.end / chunk
            };
            range.start.div_ceil(chunk)..end
        };
        let chunks = unused
            .iter()
            .map(whole)
            .filter(|range| !range.is_empty())
            .collect();
        Self {
            source,
            unused,
            chunks,
            patches: &[],
            is_as_below: false,
        }
    }

    /// The same with bytes written over it: sorted by place, apart, and in chunks that the overlay has.
    #[must_use]
    pub fn patched(self, patches: &'a [Patch]) -> Self {
        Self { patches, ..self }
    }

    /// Shows nothing at all where all that it would show is on the disk below, but for bytes without meaning. The time
    /// that this takes ends with the first difference.
    ///
    /// # Errors
    /// One of the two cannot be read.
    pub fn skip_unchanged(self, below: &dyn ChunkSource) -> Result<Self, SourceError> {
        let (mut now, mut before) = (Box::new([0; CHUNK]), Box::new([0; CHUNK]));
        let mut next = self.source.next_present(0)?;
        while let Some(index) = next {
            self.read_chunk(index, &mut now)?;
            if below.read_chunk(index, &mut before)? == Content::Zero {
                before.fill(0);
            }
            self.clear_unused(index, &mut before);
            if now != before {
                return Ok(self);
            }
            next = self.source.next_present(index + 1)?;
        }
        Ok(Self {
            is_as_below: true,
            ..self
        })
    }

    fn clear_unused(&self, index: u64, buffer: &mut [u8; CHUNK]) {
        let chunk = index * CHUNK as u64..(index + 1) * CHUNK as u64;
        let first = self
            .unused
            .partition_point(|range| range.end <= chunk.start);
        for range in self.unused[first..]
            .iter()
            .take_while(|range| range.start < chunk.end)
        {
            let start = range.start.max(chunk.start) - chunk.start;
            let end = range.end.min(chunk.end) - chunk.start;
            buffer[start as usize..end as usize].fill(0);
        }
    }

    /// Writes patches into a chunk; whether there are any.
    fn patch(&self, index: u64, buffer: &mut [u8; CHUNK]) -> bool {
        let chunk = index * CHUNK as u64..(index + 1) * CHUNK as u64;
        // Patches are shorter than a chunk, so those that reach in begin in the one before.
        let first = self
            .patches
            .partition_point(|(at, _)| *at + (CHUNK as u64) < chunk.start);
        let mut any = false;
        for (at, bytes) in self.patches[first..]
            .iter()
            .take_while(|(at, _)| *at < chunk.end)
        {
            let (start, end) = (
                (*at).max(chunk.start),
                (*at + bytes.len() as u64).min(chunk.end),
            );
            if start < end {
                let part = &bytes[(start - at) as usize..(end - at) as usize];
                buffer[(start - chunk.start) as usize..(end - chunk.start) as usize]
                    .copy_from_slice(part);
                any = true;
            }
        }
        any
    }

    fn whole_from(&self, from: u64) -> Option<u64> {
        let at = self.chunks.partition_point(|range| range.end <= from);
        self.chunks.get(at).map(|range| range.start.max(from))
    }
}

impl ChunkSource for TrimmedOverlay<'_> {
    fn virtual_size(&self) -> u64 {
        self.source.virtual_size()
    }

    fn next_present(&self, from: u64) -> Result<Option<u64>, SourceError> {
        if self.is_as_below {
            return Ok(None);
        }
        let present = self.source.next_present(from)?;
        Ok(present.into_iter().chain(self.whole_from(from)).min())
    }

    fn read_chunk(&self, index: u64, buffer: &mut [u8; CHUNK]) -> Result<Content, SourceError> {
        if self.whole_from(index) == Some(index) {
            buffer.fill(0);
            return Ok(Content::Zero);
        }
        let content = self.source.read_chunk(index, buffer)?;
        match content {
            Content::Data => self.clear_unused(index, buffer),
            Content::Zero => buffer.fill(0),
        }
        Ok(if self.patch(index, buffer) {
            Content::Data
        } else {
            content
        })
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
            Ok(if present {
                Content::Data
            } else {
                Content::Zero
            })
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
        let unused = [
            chunk / 2..2 * chunk,
            3 * chunk - 1..3 * chunk + 8,
            4 * chunk..4 * chunk + 512,
        ];
        let scrubbed = TrimmedOverlay::new(&Sparse, &unused);
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
        let scrubbed = TrimmedOverlay::new(&Sparse, &[]);
        assert_eq!(present(&scrubbed), [1, 3]);
        let mut buffer = [7; CHUNK];
        scrubbed.read_chunk(3, &mut buffer).unwrap();
        assert_eq!(buffer, [1; CHUNK]);
    }

    #[test]
    fn patches_lie_over_what_is_left_and_over_the_edges_of_chunks() {
        let chunk = CHUNK as u64;
        let patches = [(chunk + 4, vec![7; 4]), (4 * chunk - 2, vec![8; 4])];
        let unused = [chunk..chunk + 16, 2 * chunk..2 * chunk + 1];
        let scrubbed = TrimmedOverlay::new(&Sparse, &unused).patched(&patches);
        let mut buffer = [9; CHUNK];
        assert_eq!(scrubbed.read_chunk(1, &mut buffer).unwrap(), Content::Data);
        assert_eq!(
            buffer[..17],
            [0, 0, 0, 0, 7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1]
        );
        scrubbed.read_chunk(3, &mut buffer).unwrap();
        assert_eq!(buffer[CHUNK - 3..], [1, 8, 8]);
        assert_eq!(scrubbed.read_chunk(4, &mut buffer).unwrap(), Content::Data);
        assert_eq!(buffer[..3], [8, 8, 0]);
    }

    #[test]
    fn what_is_as_below_is_not_there() {
        let chunk = CHUNK as u64;
        /// All ones, but for the byte of the one chunk that is another.
        struct Ones(u64, usize);
        impl ChunkSource for Ones {
            fn virtual_size(&self) -> u64 {
                Sparse.virtual_size()
            }
            fn next_present(&self, from: u64) -> Result<Option<u64>, SourceError> {
                Ok((from < 5).then_some(from))
            }
            fn read_chunk(
                &self,
                index: u64,
                buffer: &mut [u8; CHUNK],
            ) -> Result<Content, SourceError> {
                buffer.fill(1);
                if index == self.0 {
                    buffer[self.1] = 2;
                }
                Ok(Content::Data)
            }
        }
        let unused = [chunk..chunk + 16, 3 * chunk..4 * chunk];
        let seen = |below: &Ones, patches: &[Patch]| {
            let scrubbed = TrimmedOverlay::new(&Sparse, &unused).patched(patches);
            present(&scrubbed.skip_unchanged(below).unwrap())
        };
        assert_eq!(
            seen(&Ones(2, 0), &[]),
            [] as [u64; 0],
            "the overlay does not have that chunk"
        );
        assert_eq!(
            seen(&Ones(1, 15), &[]),
            [] as [u64; 0],
            "the byte means nothing"
        );
        assert_eq!(seen(&Ones(3, 9), &[]), [] as [u64; 0]);
        assert_eq!(seen(&Ones(1, 16), &[]), [1, 3]);
        assert_eq!(
            seen(&Ones(1, 16), &[(chunk + 16, vec![2])]),
            [] as [u64; 0],
            "settled"
        );
        assert_eq!(seen(&Ones(9, 0), &[(chunk + 16, vec![2])]), [1, 3]);
    }
}
