//! Disk images in compressed files: gzip, xz, zstd, and the `disk.raw` of a tar archive in one of these.
//! Knows streams and holes; what the disk inside is, is [`image`](super::image)'s to say.
//!
//! A few bytes may unpack to very many. What comes out is bounded, zeros become holes, and no name of an archive is ever
//! used as a path.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use impasto_store::meter::{Meter, Metered};
use impasto_store::qcow2::{CHUNK, is_zero};

use super::image::ForeignFormat;
use crate::base::cancel::CancelToken;

/// How many bytes a compressed disk image may unpack to where nobody says, holes included.
pub const DEFAULT_LIMIT: u64 = 64 << 30;
/// The variable of the environment that says another.
pub const LIMIT_VARIABLE: &str = "IMPASTO_UNPACK_LIMIT";

/// Memory that a decompressor may take: xz's level 9 needs 65 MiB, zstd's level 22 128 MiB.
const MEMORY_LIMIT: u64 = 256 << 20;
/// log2 of the largest window of zstd, in bytes.
const WINDOW_LOG: u32 = 27;
/// What is read at once.
const PIECE: usize = 1 << 20;
/// Bytes of a record of a tar archive.
const RECORD: usize = 512;
/// The one member of an archive that is read.
const MEMBER: &[u8] = b"disk.raw";
/// Pieces of data that a sparse member may have: what bounds the memory for its map.
const MOST_PIECES: usize = 1 << 22;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagePacking {
    Gzip,
    Xz,
    Zstd,
}

impl ImagePacking {
    fn name(self) -> &'static str {
        match self {
            ImagePacking::Gzip => "gzip",
            ImagePacking::Xz => "xz",
            ImagePacking::Zstd => "zstd",
        }
    }
}

/// Why a compressed file gives no disk image.
#[derive(Debug, thiserror::Error)]
pub enum ImageUnpackError {
    #[error("it cannot be read")]
    Read { source: io::Error },
    /// What comes out cannot be written.
    #[error("what it holds cannot be written")]
    Write { source: io::Error },
    #[error("it is truncated")]
    Truncated,
    /// Something in it, or behind it, is not what its format says.
    #[error("its {} data is damaged, or followed by something else: {reason}", packing.name())]
    Damaged {
        packing: ImagePacking,
        reason: String,
    },
    /// More comes out than is allowed.
    #[error("it unpacks to more than the limit of {}", size(*limit))]
    TooLarge { limit: u64 },
    /// What comes out is compressed again.
    #[error("what it holds is compressed once more: it is {format}")]
    Nested { format: ForeignFormat },
    /// A tar archive of something else than one disk.
    #[error("the archive in it {problem}, and not one file `disk.raw`")]
    Archive { problem: String },
    #[error("cancelled")]
    Cancelled,
}

impl ImageUnpackError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            ImageUnpackError::TooLarge { limit } => Some(format!(
                "if it should be that large, raise the limit: {LIMIT_VARIABLE}={}",
                size(limit.saturating_mul(2))
            )),
            ImageUnpackError::Truncated | ImageUnpackError::Damaged { .. } => {
                Some("get the file again, and compare its checksum".to_owned())
            }
            ImageUnpackError::Nested { .. } => {
                Some("decompress it once, and use what comes out".to_owned())
            }
            ImageUnpackError::Archive { .. } => {
                Some("unpack it first, and use the disk image in it: tar -xf FILE".to_owned())
            }
            ImageUnpackError::Read { .. }
            | ImageUnpackError::Write { .. }
            | ImageUnpackError::Cancelled => None,
        }
    }
}

/// A size as recipes write it.
fn size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let exact = units
        .iter()
        .find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    match exact {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

/// Unpacks files, each into a file without a name.
#[derive(Clone, Copy, Debug)]
pub struct ImageUnpacker<'a> {
    /// A directory on a file system with room.
    pub dir: &'a Path,
    /// Bytes that may come out, holes included.
    pub limit: u64,
    pub cancel: &'a CancelToken,
    /// Is told how much was read.
    pub meter: Option<&'a Meter>,
}

impl ImageUnpacker<'_> {
    /// What a compressed file holds: of a tar archive its `disk.raw`, else all that comes out.
    ///
    /// # Errors
    /// It is damaged, truncated or too large, or an archive of something else; or the file cannot be written.
    pub fn unpack(&self, packed: &File, packing: ImagePacking) -> Result<File, ImageUnpackError> {
        let read = |source| ImageUnpackError::Read { source };
        let out =
            tempfile::tempfile_in(self.dir).map_err(|source| ImageUnpackError::Write { source })?;
        let mut input = packed;
        input.seek(SeekFrom::Start(0)).map_err(read)?;
        match self.meter {
            Some(meter) => {
                meter.begin("unpacking", packed.metadata().ok().map(|stat| stat.len()));
                self.unpack_into(Metered::new(input, meter), packing, &out)?;
            }
            None => self.unpack_into(input, packing, &out)?,
        }
        Ok(out)
    }

    /// Unpacks a stream into an empty file; its holes become holes.
    ///
    /// # Errors
    /// As those of [`ImageUnpacker::unpack`].
    pub fn unpack_into(
        &self,
        input: impl Read,
        packing: ImagePacking,
        out: &File,
    ) -> Result<(), ImageUnpackError> {
        let decoder =
            decoder(input, packing).map_err(|source| ImageUnpackError::Read { source })?;
        let mut stream = UnpackedStream { decoder, packing };
        let mut head = [0; RECORD];
        let length = stream.fill(&mut head)?;
        let size = if length == RECORD && is_tar(&head) {
            self.member(&mut stream, &head, out)?
        } else {
            self.copy(&mut stream, &head[..length], (out, 0), u64::MAX)?
        };
        out.set_len(size)
            .map_err(|source| ImageUnpackError::Write { source })
    }

    /// Copies at most so many bytes to a place in a file, those that were read already first; how many there were.
    fn copy(
        &self,
        stream: &mut UnpackedStream<'_>,
        begun: &[u8],
        (out, place): (&File, u64),
        most: u64,
    ) -> Result<u64, ImageUnpackError> {
        let mut buffer = vec![0; PIECE];
        let mut copied = 0;
        let mut begun = begun;
        loop {
            if self.cancel.is_cancelled() {
                return Err(ImageUnpackError::Cancelled);
            }
            let room = (most - copied).min(PIECE as u64) as usize;
            buffer[..begun.len()].copy_from_slice(begun);
            let count = begun.len() + stream.fill(&mut buffer[begun.len()..room])?;
            begun = &[];
            if count == 0 {
                return Ok(copied);
            }
            let at = place + copied;
            if at + count as u64 > self.limit {
                return Err(ImageUnpackError::TooLarge { limit: self.limit });
            }
            for (part, index) in buffer[..count].chunks(CHUNK).zip(0..) {
                if !is_zero(part) {
                    out.write_all_at(part, at + index * CHUNK as u64)
                        .map_err(|source| ImageUnpackError::Write { source })?;
                }
            }
            copied += count as u64;
        }
    }

    /// Takes the one member out of a tar archive that begins with this record; its size.
    fn member(
        &self,
        stream: &mut UnpackedStream<'_>,
        head: &[u8; RECORD],
        out: &File,
    ) -> Result<u64, ImageUnpackError> {
        let member = TarMember::read(stream, head)?;
        if member.size > self.limit {
            return Err(ImageUnpackError::TooLarge { limit: self.limit });
        }
        for (offset, length) in &member.pieces {
            if self.copy(stream, &[], (out, *offset), *length)? < *length {
                return Err(ImageUnpackError::Truncated);
            }
        }
        let stored: u64 = member.pieces.iter().map(|(_, length)| length).sum();
        let mut padding = [0; RECORD];
        let padding = &mut padding[..(stored.next_multiple_of(RECORD as u64) - stored) as usize];
        if stream.fill(padding)? < padding.len() {
            return Err(ImageUnpackError::Truncated);
        }
        self.end(stream)?;
        Ok(member.size)
    }

    /// Nothing but zeros follows.
    fn end(&self, stream: &mut UnpackedStream<'_>) -> Result<(), ImageUnpackError> {
        let mut buffer = vec![0; PIECE];
        let mut seen = 0;
        loop {
            if self.cancel.is_cancelled() {
                return Err(ImageUnpackError::Cancelled);
            }
            let count = stream.fill(&mut buffer)?;
            seen += count as u64;
            match buffer[..count].as_chunks::<RECORD>().0.first() {
                _ if count == 0 => return Ok(()),
                Some(next) if is_tar(next) => {
                    let name = shown_name(next);
                    let problem = format!("holds `{name}` beside `disk.raw`");
                    return Err(ImageUnpackError::Archive { problem });
                }
                _ if !is_zero(&buffer[..count]) => {
                    let problem = "is followed by something else".to_owned();
                    return Err(ImageUnpackError::Archive { problem });
                }
                _ if seen > self.limit => {
                    return Err(ImageUnpackError::TooLarge { limit: self.limit });
                }
                _ => {}
            }
        }
    }
}

fn decoder<'r>(input: impl Read + 'r, packing: ImagePacking) -> io::Result<Box<dyn Read + 'r>> {
    Ok(match packing {
        ImagePacking::Gzip => Box::new(flate2::read::MultiGzDecoder::new(input)),
        ImagePacking::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(
                MEMORY_LIMIT,
                liblzma::stream::CONCATENATED,
            )?;
            Box::new(liblzma::read::XzDecoder::new_stream(input, stream))
        }
        ImagePacking::Zstd => {
            let mut decoder = zstd::Decoder::new(input)?;
            decoder.window_log_max(WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}

/// What comes out of a decompressor.
struct UnpackedStream<'r> {
    decoder: Box<dyn Read + 'r>,
    packing: ImagePacking,
}

impl UnpackedStream<'_> {
    /// Fills a buffer as far as there is something to fill it with.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ImageUnpackError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.decoder.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Decompressors make errors of their own, without a number of the system's.
                Err(source) if source.raw_os_error().is_some() => {
                    return Err(ImageUnpackError::Read { source });
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(ImageUnpackError::Truncated);
                }
                Err(error) => {
                    return Err(ImageUnpackError::Damaged {
                        packing: self.packing,
                        reason: error.to_string(),
                    });
                }
            }
        }
        Ok(filled)
    }
}

/// A member of an archive: a file, perhaps with holes.
struct TarMember {
    size: u64,
    /// Where it has data: offset and length, ascending; stored one behind the other.
    pieces: Vec<(u64, u64)>,
}

impl TarMember {
    /// Reads on to the member's data.
    fn read(
        stream: &mut UnpackedStream<'_>,
        head: &[u8; RECORD],
    ) -> Result<TarMember, ImageUnpackError> {
        let header = tar::Header::from_byte_slice(head);
        let name = header.path_bytes();
        let kind = header.entry_type();
        if name.strip_prefix(b"./").unwrap_or(&name) != MEMBER
            || !(kind.is_file() || kind.is_gnu_sparse())
        {
            let name = shown_name(head);
            let problem = match kind {
                _ if kind.is_pax_local_extensions() || kind.is_pax_global_extensions() => {
                    "is in pax format".to_owned()
                }
                _ => format!("holds `{name}`"),
            };
            return Err(ImageUnpackError::Archive { problem });
        }
        let number = |number: io::Result<u64>| number.map_err(|_| wrong_map());
        let stored = number(header.entry_size())?;
        let Some(gnu) = header.as_gnu().filter(|_| kind.is_gnu_sparse()) else {
            return Ok(TarMember {
                size: stored,
                pieces: vec![(0, stored)],
            });
        };
        let mut member = TarMember {
            size: number(gnu.real_size())?,
            pieces: Vec::new(),
        };
        member.add(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut record = tar::GnuExtSparseHeader::new();
            if stream.fill(record.as_mut_bytes())? < RECORD {
                return Err(ImageUnpackError::Truncated);
            }
            let before = member.pieces.len();
            member.add(record.sparse())?;
            more = record.is_extended();
            if more && member.pieces.len() == before {
                return Err(wrong_map());
            }
        }
        let sum = member.pieces.iter().map(|(_, length)| length).sum::<u64>();
        if sum == stored {
            Ok(member)
        } else {
            Err(wrong_map())
        }
    }

    fn add(&mut self, entries: &[tar::GnuSparseHeader]) -> Result<(), ImageUnpackError> {
        for entry in entries.iter().filter(|entry| !entry.is_empty()) {
            let numbers = entry.offset().and_then(|at| Ok((at, entry.length()?)));
            let (offset, length) = numbers.map_err(|_| wrong_map())?;
            if length == 0 {
                continue;
            }
            // Only the last one may end within a record: the next one would begin behind padding.
            let free = self.pieces.last().map_or(0, |(at, length)| at + length);
            let is_whole = self
                .pieces
                .last()
                .is_none_or(|(_, length)| length.is_multiple_of(RECORD as u64));
            let fits = offset
                .checked_add(length)
                .is_some_and(|end| end <= self.size);
            if offset < free || !is_whole || !fits || self.pieces.len() == MOST_PIECES {
                return Err(wrong_map());
            }
            self.pieces.push((offset, length));
        }
        Ok(())
    }
}

fn wrong_map() -> ImageUnpackError {
    ImageUnpackError::Archive {
        problem: "has sizes that contradict each other".to_owned(),
    }
}

/// Whether a record is the header of a tar archive's member, by magic and checksum.
fn is_tar(record: &[u8; RECORD]) -> bool {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let header = tar::Header::from_byte_slice(record);
    &record[257..262] == b"ustar"
        && header
            .cksum()
            .is_ok_and(|stated| stated == sum(&record[..148]) + 8 * 32 + sum(&record[156..]))
}

/// A member's name, safe to show.
fn shown_name(record: &[u8; RECORD]) -> String {
    let name = tar::Header::from_byte_slice(record).path_bytes();
    name.escape_ascii().to_string()
}

#[cfg(test)]
mod tests;
