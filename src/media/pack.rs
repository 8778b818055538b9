//! Writes streams, compressed or as they are: all processors work on one, and the bytes are the same every time.
//! Knows compressors and pieces, not what is in them.
//!
//! A gzip file is one member, whose pieces are deflate blocks that end at a byte and refer to nothing before them: so every
//! reader takes it, kernels included, and a piece that was compressed before can be taken over as it is. zstd and xz compress
//! a stream as a whole, in parts of a size of their own.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;

use impasto_stages::media::ENCODERS;
use impasto_store::digest::Digest;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::deflate::BlockCompressor;
use super::stream::{ByteSource, MediaPiece, MediaStream};

/// Pieces that are worked on at once.
const AT_ONCE: usize = 32;
/// A gzip head without name and time (RFC 1952).
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
/// An empty last deflate block.
const DEFLATE_END: [u8; 2] = [3, 0];
/// Bytes that xz compresses by themselves: more than the dictionary of any level up to 8 has.
const XZ_BLOCK: u64 = 32 << 20;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamPacking {
    None,
    /// A level from 1 to 9.
    Gzip(i32),
    /// A preset from 0 to 9.
    Xz(i32),
    /// A level from 1 to 19.
    Zstd(i32),
}

/// What was compressed, in the order of the file: so that the next file takes over what is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceIndex {
    /// Compressor and level.
    encoder: String,
    pieces: Vec<PackedPiece>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct PackedPiece {
    /// What stands for the piece's bytes.
    identity: Digest,
    /// Bytes of it.
    length: u64,
    crc: u32,
    /// Bytes of it, compressed.
    packed: u64,
}

impl PieceIndex {
    /// Reads the form of [`PieceIndex::to_bytes`]; none where it is another.
    pub fn of_bytes(bytes: &[u8]) -> Option<PieceIndex> {
        rmp_serde::from_slice(bytes).ok()
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        rmp_serde::to_vec(self).expect("BUG: an index of pieces cannot be encoded")
    }
}

/// A file that was written before, with its index.
#[derive(Debug)]
pub struct Earlier {
    pub index: PieceIndex,
    pub file: File,
}

/// What was written.
#[derive(Debug, Default)]
pub struct PackedStream {
    /// What the next file can take over; none for forms that take over nothing.
    pub index: Option<PieceIndex>,
    /// Pieces that an earlier file had.
    pub kept: usize,
    /// Pieces in all.
    pub pieces: usize,
}

/// Writes a stream into a file, which is empty. `progress` is told how many bytes of the stream are done; the work ends
/// where it says no.
///
/// # Errors
/// A file cannot be read or written; [`io::ErrorKind::Interrupted`] where `progress` said no.
pub fn write(
    stream: &MediaStream,
    source: &dyn ByteSource,
    packing: StreamPacking,
    earlier: Option<&Earlier>,
    out: &File,
    progress: &dyn Fn(u64) -> bool,
) -> io::Result<PackedStream> {
    let pieces = stream.pieces().len();
    match packing {
        StreamPacking::Gzip(level) => gzip(stream, source, level, earlier, out, progress),
        StreamPacking::None => {
            copy(stream, source, &mut io::BufWriter::new(out), progress)?;
            Ok(PackedStream {
                pieces,
                ..PackedStream::default()
            })
        }
        StreamPacking::Zstd(level) => {
            let mut encoder = zstd::Encoder::new(out, level)?;
            // One is enough for the form that many give, so that the number of processors does not matter.
            encoder.multithread(threads())?;
            encoder.include_checksum(true)?;
            encoder.set_pledged_src_size(Some(stream.length()))?;
            copy(stream, source, &mut encoder, progress)?;
            encoder.finish()?;
            Ok(PackedStream {
                pieces,
                ..PackedStream::default()
            })
        }
        StreamPacking::Xz(level) => {
            let mut encoder = liblzma::stream::MtStreamBuilder::new();
            // Kernels know no other sum.
            encoder.check(liblzma::stream::Check::Crc32);
            encoder
                .preset(level as u32)
                .block_size(XZ_BLOCK)
                .threads(threads());
            let encoder = encoder.encoder().map_err(io::Error::other)?;
            let mut encoder = liblzma::write::XzEncoder::new_stream(out, encoder);
            copy(stream, source, &mut encoder, progress)?;
            encoder.finish()?;
            Ok(PackedStream {
                pieces,
                ..PackedStream::default()
            })
        }
    }
}

fn threads() -> u32 {
    rayon::current_num_threads().clamp(1, 64) as u32
}

fn stopped() -> io::Error {
    io::ErrorKind::Interrupted.into()
}

/// Writes a stream as it is; its pieces are read by all processors.
fn copy(
    stream: &MediaStream,
    source: &dyn ByteSource,
    out: &mut impl Write,
    progress: &dyn Fn(u64) -> bool,
) -> io::Result<()> {
    let mut done = 0;
    for batch in stream.pieces().chunks(AT_ONCE) {
        let read: Vec<Vec<u8>> = batch
            .par_iter()
            .map(|piece| piece.read(source))
            .collect::<io::Result<_>>()?;
        for bytes in &read {
            out.write_all(bytes)?;
            done += bytes.len() as u64;
        }
        if !progress(done) {
            return Err(stopped());
        }
    }
    out.flush()
}

/// Where an earlier file has a piece.
#[derive(Clone, Copy)]
struct PiecePlace {
    offset: u64,
    piece: PackedPiece,
}

fn gzip(
    stream: &MediaStream,
    source: &dyn ByteSource,
    level: i32,
    earlier: Option<&Earlier>,
    mut out: &File,
    progress: &dyn Fn(u64) -> bool,
) -> io::Result<PackedStream> {
    let encoder = format!("{ENCODERS}, gzip {level}");
    let mut known = HashMap::new();
    if let Some(earlier) = earlier.filter(|earlier| earlier.index.encoder == encoder) {
        let mut offset = GZIP_HEAD.len() as u64;
        for piece in &earlier.index.pieces {
            known.insert(
                piece.identity,
                PiecePlace {
                    offset,
                    piece: *piece,
                },
            );
            offset += piece.packed;
        }
    }
    let work = |compressor: &mut BlockCompressor, piece: &MediaPiece| {
        let identity = piece.identity(source)?;
        if let (Some(place), Some(earlier)) = (known.get(&identity), earlier) {
            let mut packed = vec![0; place.piece.packed as usize];
            earlier.file.read_exact_at(&mut packed, place.offset)?;
            return Ok((place.piece, packed, true));
        }
        let plain = piece.read(source)?;
        let packed = compressor.compress(&plain)?;
        let made = PackedPiece {
            identity,
            length: plain.len() as u64,
            crc: crc32fast::hash(&plain),
            packed: packed.len() as u64,
        };
        Ok((made, packed, false))
    };
    let mut index = PieceIndex {
        encoder,
        pieces: Vec::with_capacity(stream.pieces().len()),
    };
    let (mut crc, mut done, mut kept) = (crc32fast::Hasher::new(), 0, 0);
    out.write_all(&GZIP_HEAD)?;
    for batch in stream.pieces().chunks(AT_ONCE) {
        let made: Vec<_> = batch
            .par_iter()
            .map_init(|| BlockCompressor::new(level), work)
            .collect::<io::Result<_>>()?;
        for (piece, packed, was_kept) in made {
            out.write_all(&packed)?;
            crc.combine(&crc32fast::Hasher::new_with_initial_len(
                piece.crc,
                piece.length,
            ));
            done += piece.length;
            kept += usize::from(was_kept);
            index.pieces.push(piece);
        }
        if !progress(done) {
            return Err(stopped());
        }
    }
    out.write_all(&DEFLATE_END)?;
    out.write_all(&crc.finalize().to_le_bytes())?;
    // The length, as far as four bytes go.
    out.write_all(&(done as u32).to_le_bytes())?;
    let pieces = index.pieces.len();
    Ok(PackedStream {
        index: Some(index),
        kept,
        pieces,
    })
}

/// An unnamed copy of what a reader gives, to be read at any place.
///
/// # Errors
/// It cannot be read or written.
pub fn copied(mut reader: impl Read, mut file: File) -> io::Result<File> {
    io::copy(&mut reader, &mut file)?;
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom};

    use super::*;
    use crate::media::stream::{Memory, StreamBuilder};

    fn files() -> Memory {
        let text = |n: u32| format!("line {n} of {}\n", n % 7).repeat(5000 + n as usize * 100);
        let mut noise = vec![0; 2 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        Memory(
            (0..40)
                .map(|n| text(n).into_bytes())
                .chain([noise, Vec::new()])
                .collect(),
        )
    }

    fn stream(memory: &Memory) -> (MediaStream, Vec<u8>) {
        let mut builder = StreamBuilder::default();
        for (index, bytes) in memory.0.iter().enumerate() {
            builder.begin(&[index as u8]);
            builder.file(index, bytes.len() as u64);
        }
        (builder.finish(), memory.0.concat())
    }

    fn written(
        stream: &MediaStream,
        memory: &Memory,
        packing: StreamPacking,
        earlier: Option<&Earlier>,
    ) -> (Vec<u8>, PackedStream) {
        let mut file = tempfile::tempfile().unwrap();
        let packed = write(stream, memory, packing, earlier, &file, &|_| true).unwrap();
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        (bytes, packed)
    }

    #[test]
    fn every_form_reads_back_and_is_the_same_every_time() {
        let memory = files();
        let (stream, plain) = stream(&memory);
        for packing in [
            StreamPacking::None,
            StreamPacking::Gzip(1),
            StreamPacking::Gzip(6),
            StreamPacking::Gzip(9),
            StreamPacking::Xz(1),
            StreamPacking::Zstd(3),
        ] {
            let (bytes, _) = written(&stream, &memory, packing, None);
            let mut back = Vec::new();
            match packing {
                StreamPacking::None => back.clone_from(&bytes),
                StreamPacking::Gzip(_) => {
                    flate2::read::GzDecoder::new(&bytes[..])
                        .read_to_end(&mut back)
                        .map(drop)
                        .unwrap();
                }
                StreamPacking::Xz(_) => {
                    liblzma::read::XzDecoder::new(&bytes[..])
                        .read_to_end(&mut back)
                        .map(drop)
                        .unwrap();
                }
                StreamPacking::Zstd(_) => back = zstd::decode_all(&bytes[..]).unwrap(),
            }
            assert!(back == plain, "{packing:?}");
            let one = rayon::ThreadPoolBuilder::new()
                .num_threads(1)
                .build()
                .unwrap();
            let again = one.install(|| written(&stream, &memory, packing, None).0);
            assert!(again == bytes, "{packing:?}");
        }
    }

    #[test]
    fn pieces_are_taken_over_and_the_bytes_do_not_tell() {
        let mut memory = files();
        let (before, _) = stream(&memory);
        let (bytes, packed) = written(&before, &memory, StreamPacking::Gzip(6), None);
        let index = PieceIndex::of_bytes(&packed.index.unwrap().to_bytes()).unwrap();
        let file = copied(&bytes[..], tempfile::tempfile().unwrap()).unwrap();
        let earlier = Earlier { index, file };
        memory.0[20].extend_from_slice(b"one more line\n");
        let (after, _) = stream(&memory);
        let (whole, none) = written(&after, &memory, StreamPacking::Gzip(6), None);
        let (shared, some) = written(&after, &memory, StreamPacking::Gzip(6), Some(&earlier));
        assert!(whole == shared);
        assert_eq!(none.kept, 0);
        assert!(
            some.kept >= some.pieces - 2,
            "{} of {}",
            some.kept,
            some.pieces
        );
        // Another level takes over nothing.
        let (_, other) = written(&after, &memory, StreamPacking::Gzip(5), Some(&earlier));
        assert_eq!(other.kept, 0);
    }

    #[test]
    fn a_stopped_work_ends() {
        let memory = files();
        let (stream, _) = stream(&memory);
        for packing in [
            StreamPacking::None,
            StreamPacking::Gzip(1),
            StreamPacking::Zstd(1),
        ] {
            let file = tempfile::tempfile().unwrap();
            let error = write(&stream, &memory, packing, None, &file, &|_| false).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        }
    }
}
