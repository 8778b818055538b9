//! A raw disk image as a source of chunks; holes cost nothing.
//! Knows nothing of qcow2: a raw file that begins with a qcow2 header is a disk that begins with these bytes.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::error::SourceError;
use super::{CHUNK, ChunkSource, Content, SECTOR, chunk_range};

/// A raw disk image. Its virtual size is the file's length, rounded up to whole sectors of 512 bytes.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    length: u64,
    /// The extent of data that `next_present` found last, in bytes: asked for once, not once per chunk.
    extent: Mutex<Range<u64>>,
}

impl RawFile {
    /// Takes a regular file. Errors: its length cannot be read, or is beyond what an offset can say.
    pub fn new(file: File) -> io::Result<RawFile> {
        let length = file.metadata()?.len();
        RawFile::prefix(file, length)
    }

    /// Takes the first bytes of a regular file, which has as many. Errors: an offset cannot say how many.
    pub(crate) fn prefix(file: File, length: u64) -> io::Result<RawFile> {
        if length > i64::MAX as u64 - CHUNK as u64 {
            return Err(ErrorKind::FileTooLarge.into());
        }
        Ok(RawFile {
            file,
            length,
            extent: Mutex::new(0..0),
        })
    }

    /// The extent of data that covers `from`, or else the next one.
    fn extent_from(&self, from: u64) -> Result<Option<Range<u64>>, SourceError> {
        let known = self
            .extent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if known.contains(&from) {
            return Ok(Some(known));
        }
        let failed = |errno: Errno| SourceError::Read {
            offset: from,
            length: 0,
            source: errno.into(),
        };
        let extent = match rustix::fs::seek(&self.file, SeekFrom::Data(from)) {
            Ok(start) if start >= self.length => return Ok(None),
            Ok(start) => {
                start..rustix::fs::seek(&self.file, SeekFrom::Hole(start)).map_err(failed)?
            }
            Err(Errno::NXIO) => return Ok(None),
            // A file system that knows no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => 0..self.length,
            Err(errno) => return Err(failed(errno)),
        };
        *self.extent.lock().unwrap_or_else(PoisonError::into_inner) = extent.clone();
        Ok(Some(extent))
    }
}

impl ChunkSource for RawFile {
    fn virtual_size(&self) -> u64 {
        self.length.next_multiple_of(SECTOR)
    }

    fn next_present(&self, from: u64) -> Result<Option<u64>, SourceError> {
        let Some(start) = from
            .checked_mul(CHUNK as u64)
            .filter(|&start| start < self.length)
        else {
            return Ok(None);
        };
        let extent = self
            .extent_from(start)?
            .filter(|extent| extent.start < self.length);
        Ok(extent.map(|extent| (extent.start / CHUNK as u64).max(from)))
    }

    fn read_chunk(&self, index: u64, buffer: &mut [u8; CHUNK]) -> Result<Content, SourceError> {
        let (offset, _) = chunk_range(index, self.virtual_size())?;
        let length = (self.length - offset).min(CHUNK as u64) as usize;
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
