//! qcow2 files: a strict reader for images of any origin, and a deterministic writer for layer files.
//! Knows open files and bytes; no path, store, digest or manifest. Never starts a program.
//!
//! * [`Qcow2::open`] is the gate: it accepts a file only after every table entry in it was looked at.
//! * [`ChunkSource`] is how everything else reads a disk: [`Qcow2`], [`RawFile`].
//! * [`create_overlay`] makes the empty file that `qemu-storage-daemon` writes a stage's changes into.
//! * [`encode_chunk`] and [`Writer`] make a layer file, which is a plain qcow2 of zstd clusters.

mod codec;
mod error;
mod gate;
mod header;
mod overlay;
mod raw;
mod reader;
mod table;
mod writer;

pub use codec::{
    ENCODER, Encoded, EncoderId, MAX_FRAME, MAX_WINDOW, decode_frame, encode_chunk, is_zero,
};
pub use error::{DecodeError, GateError, SourceError, WriteError};
pub use header::{Compression, HEADER_AREA, Header, MAGIC, MAX_VIRTUAL_SIZE};
pub use overlay::create_overlay;
pub use raw::RawFile;
pub use reader::Qcow2;
pub use writer::{FrameAt, Layout, Writer};

/// Bytes of a chunk, the unit of disks: 64 KiB of guest disk, aligned. Changing this is a format break.
pub const CHUNK: usize = 65536;

/// The unit in which compressed cluster descriptors count, in bytes.
pub(crate) const SECTOR: u64 = 512;

/// What [`ChunkSource::read_chunk`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nothing is stored; the buffer was filled with zeros.
    Zero,
    /// The buffer holds what is stored, which may still be all zero.
    Data,
}

/// A disk, or a layer's part of one, in chunks of [`CHUNK`] bytes.
pub trait ChunkSource: Sync {
    /// Bytes of the guest disk, a multiple of 512.
    fn virtual_size(&self) -> u64;

    /// The first chunk at or behind `from` that this source says anything about: data or explicit zeros.
    ///
    /// All chunks that it never names are as in the parent (a layer) or zero (a whole disk).
    fn next_present(&self, from: u64) -> Result<Option<u64>, SourceError>;

    /// Reads one chunk. A last chunk that is not whole is filled up with zeros.
    ///
    /// Errors: the file cannot be read, its content is damaged, or the disk ends before `index`.
    fn read_chunk(&self, index: u64, buffer: &mut [u8; CHUNK]) -> Result<Content, SourceError>;

    /// Number of chunks of the disk, the last one perhaps not whole.
    fn chunks(&self) -> u64 {
        self.virtual_size().div_ceil(CHUNK as u64)
    }

    /// Calls `each` with all present chunks in ascending order, until it fails.
    fn for_each_present(
        &self,
        each: &mut dyn FnMut(u64) -> Result<(), SourceError>,
    ) -> Result<(), SourceError> {
        let mut from = 0;
        while let Some(index) = self.next_present(from)? {
            each(index)?;
            from = index + 1;
        }
        Ok(())
    }
}

/// The first byte of a chunk and how many bytes of the disk it has, or an error beyond the end.
fn chunk_range(index: u64, virtual_size: u64) -> Result<(u64, usize), SourceError> {
    match index.checked_mul(CHUNK as u64) {
        Some(start) if start < virtual_size => {
            Ok((start, (virtual_size - start).min(CHUNK as u64) as usize))
        }
        _ => Err(SourceError::BeyondEnd {
            index,
            virtual_size,
        }),
    }
}
