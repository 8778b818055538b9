//! Writes layer files: qcow2 version 3, zstd clusters of one chunk, no backing file, the same bytes every time.
//! Knows chunks by index and frames as bytes; not where they came from, nor how the file is named or synced.
//!
//! # Layout
//!
//! Everything but the header has its place decided by what was pushed, so a file is written in one pass, front to back,
//! without holding frames in memory. All numbers are big-endian, all parts begin at a multiple of 64 KiB:
//!
//! ```text
//! header           112 bytes, an end mark of 8, zeros up to 64 KiB
//! L1 table         8 bytes per 512 MiB of disk, at least one entry, zeros up to a multiple of 64 KiB
//! frames           ascending by chunk, each begins at a multiple of 512 bytes, zeros between
//! raw chunks       ascending by chunk, 64 KiB each
//! L2 tables        ascending, 64 KiB each, only those that are not empty
//! refcount table   8 bytes per 2 GiB of file
//! refcount blocks  2 bytes per 64 KiB of file
//! ```
//!
//! A frame is one zstd frame that decodes to exactly one chunk. Its L2 entry is a compressed cluster descriptor: bit 62,
//! the offset in bits 0 to 53, the number of its sectors less one in bits 54 to 61. A raw chunk's entry is its offset
//! and bit 63. A zero chunk's entry is 1. Changing any of this is a format break.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::codec::{MAX_FRAME, check_frame, is_zero};
use super::error::WriteError;
use super::header::{self, Compression, Header, MAX_VIRTUAL_SIZE};
use super::table::{COMPRESSED, COPIED, ZERO};
use super::{CHUNK, SECTOR};

const CLUSTER: u64 = CHUNK as u64;
const CLUSTER_BITS: u32 = CLUSTER.trailing_zeros();
const ENTRY: u64 = 8;
/// Chunks of the disk for which one L2 table of a cluster speaks.
pub(crate) const ENTRIES_PER_TABLE: u64 = CLUSTER / ENTRY;
const REFCOUNT_ORDER: u32 = 4;
const REFCOUNT: u64 = (1 << REFCOUNT_ORDER) / 8;
const REFCOUNTS_PER_BLOCK: u64 = CLUSTER / REFCOUNT;

// Layout: offsets in bytes, chained.
const HEADER_AT: u64 = 0;
const L1_AT: u64 = HEADER_AT + CLUSTER;
const fn data_at(l1_entries: u64) -> u64 {
    L1_AT + (l1_entries * ENTRY).next_multiple_of(CLUSTER)
}

/// Section "Compressed Clusters Descriptor": where the sector count begins, for clusters of 64 KiB.
const SECTORS_SHIFT: u32 = 62 - (CLUSTER_BITS - 8);

/// Bytes that are gathered before they are written.
const BUFFER: usize = 1 << 20;

/// Where a frame or a raw chunk lies in the layer file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameAt {
    /// Byte offset in the file: a multiple of 512 for frames, of 64 KiB for raw chunks.
    pub offset: u64,
    /// Bytes, without padding.
    pub length: u32,
}

/// What a finished layer file looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of the file.
    pub file_length: u64,
    /// Chunks stored as frames.
    pub frames: u64,
    pub raw: u64,
    /// Chunks that are explicit zeros.
    pub zeros: u64,
}

/// Writes one layer file.
///
/// Push frames in ascending order, then raw chunks in ascending order; zero chunks ascending at any time. The same
/// pushes give the same bytes. Until [`Writer::finish`] the file has no header, and nothing takes it for an image.
#[derive(Debug)]
pub struct Writer<'f> {
    file: &'f File,
    header: Header,
    /// Byte offset in the file of the buffer's first byte.
    flushed: u64,
    buffer: Vec<u8>,
    frames: Entries,
    raw: Entries,
    zeros: Entries,
}

/// L2 entries of one sort, ascending by chunk.
#[derive(Debug, Default)]
struct Entries(Vec<(u64, u64)>);

impl Entries {
    fn push(&mut self, what: &'static str, index: u64, entry: u64) -> Result<(), WriteError> {
        match self.0.last() {
            Some(&(last, _)) if last == index => Err(WriteError::Twice { index }),
            Some(&(last, _)) if last > index => Err(WriteError::Order { what, index }),
            _ => {
                self.0.push((index, entry));
                Ok(())
            }
        }
    }
}

impl<'f> Writer<'f> {
    /// Begins a layer file in `file`, which must be empty and open for writing.
    ///
    /// `virtual_size` is the disk's, in bytes: a multiple of 512, at most [`MAX_VIRTUAL_SIZE`].
    pub fn new(file: &'f File, virtual_size: u64) -> Result<Writer<'f>, WriteError> {
        Writer::with_compression(file, virtual_size, Compression::Zstd)
    }

    /// The same, with frames of either kind: what others read who do not know zstd. Layer files have zstd.
    pub fn with_compression(
        file: &'f File,
        virtual_size: u64,
        compression: Compression,
    ) -> Result<Writer<'f>, WriteError> {
        if virtual_size > MAX_VIRTUAL_SIZE || !virtual_size.is_multiple_of(SECTOR) {
            return Err(WriteError::VirtualSize { virtual_size });
        }
        let mut header = Header {
            version: 3,
            cluster_bits: CLUSTER_BITS,
            virtual_size,
            l1_entries: 0,
            l1_offset: L1_AT,
            refcount_table_offset: 0,
            refcount_table_clusters: 0,
            refcount_order: REFCOUNT_ORDER,
            compression,
            header_length: 0,
        };
        header.l1_entries = header.l1_needed().max(1);
        let flushed = data_at(header.l1_entries);
        Ok(Writer {
            file,
            header,
            flushed,
            buffer: Vec::with_capacity(BUFFER + CHUNK),
            frames: Entries::default(),
            raw: Entries::default(),
            zeros: Entries::default(),
        })
    }

    /// Appends a frame of at most [`MAX_FRAME`] bytes: one zstd frame whose header says 65,536 bytes, or a deflate stream.
    ///
    /// Its content is not decoded here; a frame that does not keep its header's promise makes a damaged layer.
    pub fn push_frame(&mut self, index: u64, frame: &[u8]) -> Result<FrameAt, WriteError> {
        self.check_index(index)?;
        if !self.raw.0.is_empty() {
            return Err(WriteError::Order {
                what: "frame",
                index,
            });
        }
        if frame.len() > MAX_FRAME {
            let (length, limit) = (frame.len() as u64, MAX_FRAME as u64);
            return Err(WriteError::FrameTooLong {
                index,
                length,
                limit,
            });
        }
        if self.header.compression == Compression::Zstd {
            check_frame(frame).map_err(|source| WriteError::Frame { index, source })?;
        }
        let offset = self.position();
        let sectors = (frame.len() as u64).div_ceil(SECTOR);
        self.frames.push(
            "frame",
            index,
            COMPRESSED | (sectors - 1) << SECTORS_SHIFT | offset,
        )?;
        self.put(frame, SECTOR)?;
        Ok(FrameAt {
            offset,
            length: frame.len() as u32,
        })
    }

    /// Appends a chunk as it is. No frame can follow.
    pub fn push_raw(&mut self, index: u64, data: &[u8; CHUNK]) -> Result<FrameAt, WriteError> {
        self.check_index(index)?;
        if self.raw.0.is_empty() {
            self.put(&[], CLUSTER)?;
        }
        let offset = self.position();
        self.raw.push("raw chunk", index, COPIED | offset)?;
        self.put(data, CLUSTER)?;
        Ok(FrameAt {
            offset,
            length: CHUNK as u32,
        })
    }

    /// Says that a chunk is zero, whatever the layers below hold.
    pub fn push_zero(&mut self, index: u64) -> Result<(), WriteError> {
        self.check_index(index)?;
        self.zeros.push("zero chunk", index, ZERO)
    }

    /// Writes tables and, last, the header. Does not sync the file.
    pub fn finish(mut self) -> Result<Layout, WriteError> {
        self.put(&[], CLUSTER)?;
        let data_end = self.position();
        let mut layout = Layout {
            file_length: 0,
            frames: self.frames.0.len() as u64,
            raw: self.raw.0.len() as u64,
            zeros: self.zeros.0.len() as u64,
        };
        let mut entries = std::mem::take(&mut self.frames.0);
        let mut refcounts = vec![1_u16; (data_end / CLUSTER) as usize];
        count_frames(
            &mut refcounts[(data_at(self.header.l1_entries) / CLUSTER) as usize..],
            &entries,
            &self.header,
        );
        entries.append(&mut self.raw.0);
        entries.append(&mut self.zeros.0);
        entries.sort_unstable();
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(WriteError::Twice { index: pair[0].0 });
        }

        let l1 = self.put_l2_tables(&entries)?;
        refcounts.resize((self.position() / CLUSTER) as usize, 1);
        self.put_refcounts(refcounts)?;
        self.flush()?;
        layout.file_length = self.position();

        self.write_at(L1_AT, &l1)?;
        let mut first = header::build(&self.header).to_vec();
        first.resize(CLUSTER as usize, 0);
        self.write_at(HEADER_AT, &first)?;
        let (offset, length) = (layout.file_length, 0);
        self.file
            .set_len(layout.file_length)
            .map_err(|source| WriteError::Write {
                offset,
                length,
                source,
            })?;
        Ok(layout)
    }

    /// Returns the L1 table, padded to whole clusters.
    fn put_l2_tables(&mut self, entries: &[(u64, u64)]) -> Result<Vec<u8>, WriteError> {
        let mut l1 = vec![0; (data_at(self.header.l1_entries) - L1_AT) as usize];
        for group in entries.chunk_by(|a, b| a.0 / ENTRIES_PER_TABLE == b.0 / ENTRIES_PER_TABLE) {
            let mut table = vec![0; CLUSTER as usize];
            for &(index, entry) in group {
                put_entry(&mut table, index % ENTRIES_PER_TABLE, entry);
            }
            put_entry(
                &mut l1,
                group[0].0 / ENTRIES_PER_TABLE,
                COPIED | self.position(),
            );
            self.put(&table, CLUSTER)?;
        }
        Ok(l1)
    }

    /// Appends refcount table and blocks for all clusters before them and for themselves.
    fn put_refcounts(&mut self, mut refcounts: Vec<u16>) -> Result<(), WriteError> {
        let before = refcounts.len() as u64;
        let (mut table, mut blocks) = (1, 1);
        loop {
            let needed = (before + table + blocks).div_ceil(REFCOUNTS_PER_BLOCK);
            if needed <= blocks {
                break;
            }
            blocks = needed;
            table = blocks.div_ceil(ENTRIES_PER_TABLE);
        }
        refcounts.resize((before + table + blocks) as usize, 1);
        refcounts.resize((blocks * REFCOUNTS_PER_BLOCK) as usize, 0);

        self.header.refcount_table_offset = self.position();
        self.header.refcount_table_clusters = table;
        let first_block = self.position() + table * CLUSTER;
        let mut bytes = vec![0; (table * CLUSTER) as usize];
        for block in 0..blocks {
            put_entry(&mut bytes, block, first_block + block * CLUSTER);
        }
        self.put(&bytes, CLUSTER)?;
        for block in refcounts.chunks(REFCOUNTS_PER_BLOCK as usize) {
            let bytes: Vec<u8> = block.iter().flat_map(|count| count.to_be_bytes()).collect();
            self.put(&bytes, CLUSTER)?;
        }
        Ok(())
    }

    fn check_index(&self, index: u64) -> Result<(), WriteError> {
        if index < self.header.virtual_size.div_ceil(CLUSTER) {
            Ok(())
        } else {
            Err(WriteError::BeyondEnd { index })
        }
    }

    fn position(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    /// Appends bytes and zeros up to the next multiple of `alignment`.
    fn put(&mut self, bytes: &[u8], alignment: u64) -> Result<(), WriteError> {
        self.buffer.extend_from_slice(bytes);
        // Every write but the last ends at a multiple of a sector at least, so `flushed` is aligned.
        let padding = self.position().next_multiple_of(alignment) - self.position();
        self.buffer.resize(self.buffer.len() + padding as usize, 0);
        if self.buffer.len() >= BUFFER {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), WriteError> {
        self.write_at(self.flushed, &self.buffer)?;
        self.flushed = self.position();
        self.buffer.clear();
        Ok(())
    }

    /// Writes bytes, and leaves blocks of zeros as holes: the file was empty, and tables are mostly zeros.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), WriteError> {
        let mut at = 0;
        for run in bytes
            .chunks(BLOCK)
            .collect::<Vec<_>>()
            .chunk_by(|a, b| is_zero(a) == is_zero(b))
        {
            let length = run.iter().map(|block| block.len()).sum::<usize>();
            if !is_zero(run[0]) {
                let (offset, part) = (offset + at as u64, &bytes[at..at + length]);
                let error = |source| WriteError::Write {
                    offset,
                    length: length as u64,
                    source,
                };
                self.file.write_all_at(part, offset).map_err(error)?;
            }
            at += length;
        }
        Ok(())
    }
}

/// What a file system can leave out of a file, in bytes.
const BLOCK: usize = 4096;

/// Sets the refcounts of the clusters that frames lie in: one per frame that touches a cluster.
///
/// `refcounts` begins at the first data cluster and is one everywhere, which is right for raw chunks.
fn count_frames(refcounts: &mut [u16], frames: &[(u64, u64)], header: &Header) {
    let base = data_at(header.l1_entries) / CLUSTER;
    let mut seen = 0;
    for &(_, entry) in frames {
        let offset = entry & ((1 << SECTORS_SHIFT) - 1);
        let sectors = ((entry & !COMPRESSED) >> SECTORS_SHIFT) + 1;
        let last = (offset + sectors * SECTOR - 1) / CLUSTER - base;
        for cluster in offset / CLUSTER - base..=last {
            if cluster >= seen {
                seen = cluster + 1;
            } else {
                refcounts[cluster as usize] += 1;
            }
        }
    }
}

fn put_entry(table: &mut [u8], index: u64, entry: u64) {
    let at = (index * ENTRY) as usize;
    table[at..at + ENTRY as usize].copy_from_slice(&entry.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refcounts_of_a_file_that_needs_several_blocks_cover_every_cluster() {
        // As if that many raw chunks had been pushed: the file has a hole there instead of gigabytes. Among those
        // around one block is the case where a second block is needed only because the first counts itself.
        let around = REFCOUNTS_PER_BLOCK - 24..REFCOUNTS_PER_BLOCK - 12;
        for chunks in around.chain([100, 5 * REFCOUNTS_PER_BLOCK]) {
            let file = tempfile::tempfile().unwrap();
            let mut writer = Writer::new(&file, MAX_VIRTUAL_SIZE).unwrap();
            writer.flushed += chunks * CLUSTER;
            let layout = writer.finish().unwrap();
            let read = |offset: u64, length: u64| {
                let mut bytes = vec![0; length as usize];
                file.read_exact_at(&mut bytes, offset).unwrap();
                bytes
            };
            let numbers = |bytes: &[u8]| -> Vec<u64> {
                bytes
                    .as_chunks::<8>()
                    .0
                    .iter()
                    .map(|entry| u64::from_be_bytes(*entry))
                    .collect()
            };
            let header = Header::parse(&read(0, 4096), layout.file_length).unwrap();
            let table = numbers(&read(
                header.refcount_table_offset,
                header.refcount_table_clusters * CLUSTER,
            ));
            let blocks: Vec<u64> = table.into_iter().filter(|&offset| offset != 0).collect();
            let counts: Vec<u8> = blocks
                .iter()
                .flat_map(|&offset| read(offset, CLUSTER))
                .collect();
            let (ones, rest) = counts.split_at((layout.file_length / CLUSTER * REFCOUNT) as usize);
            assert!(
                ones.as_chunks::<2>().0.iter().all(|count| *count == [0, 1]),
                "{chunks} chunks"
            );
            assert!(rest.iter().all(|&byte| byte == 0), "{chunks} chunks");
            let used = (layout.file_length / CLUSTER).div_ceil(REFCOUNTS_PER_BLOCK);
            assert_eq!(blocks.len() as u64, used, "{chunks} chunks");
            assert_eq!(layout.file_length, blocks[blocks.len() - 1] + CLUSTER);
        }
    }
}
