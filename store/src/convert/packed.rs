//! Raw disks in compressed files: gzip, xz, zstd, and the tar archive that Google Compute Engine takes.
//! Knows blocks of a disk and compressors; each block is compressed by itself, so all processors work on one file.

use std::io;
use std::os::unix::fs::FileExt;

use libdeflater::{CompressionLvl, Compressor};
use rayon::prelude::*;

use super::format::{GZIP_LEVEL, XZ_LEVEL};
use super::{ConvertTarget, Format, zstd_at};
use crate::chain::DiskReader;
use crate::disk::{CHUNK, chunk_buffer};
use crate::error::{Error, Result};
use crate::qcow2::{ChunkSource, ENCODER};
use crate::store::Store;

/// Bytes of the stream that are compressed by themselves.
const PIECE: usize = 1 << 20;
/// Pieces that are worked on at once.
const AT_ONCE: usize = 16;

/// How a raw disk is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Xz,
    Zstd,
    /// A sparse member of a tar archive, in gzip.
    Gce,
}

impl Packing {
    pub(super) fn of(format: Format) -> Option<Packing> {
        match format {
            Format::RawGzip => Some(Packing::Gzip),
            Format::RawXz => Some(Packing::Xz),
            Format::RawZstd => Some(Packing::Zstd),
            Format::Gce => Some(Packing::Gce),
            _ => None,
        }
    }
}

/// Part of what is packed.
#[derive(Debug, Clone)]
enum Segment {
    Bytes(Vec<u8>),
    /// Chunks of the disk.
    Chunks(std::ops::Range<u64>),
}

impl Store {
    /// Writes a packed disk; returns the file's length.
    pub(super) fn write_packed(
        &self,
        disk: &DiskReader,
        packing: Packing,
        target: &ConvertTarget<'_>,
    ) -> Result<u64> {
        let size = disk.virtual_size();
        let segments = match packing {
            Packing::Gce => tar(disk),
            _ => vec![Segment::Chunks(0..disk.chunks())],
        };
        let total = segments.iter().map(Segment::length).sum();
        self.begin("compressing", total);
        let pieces: Vec<Segment> = segments.into_iter().flat_map(Segment::split).collect();
        let write_error = |source| Error::io("write", target.path, source);
        let mut at = 0;
        for batch in pieces.chunks(AT_ONCE) {
            let packed: Vec<_> = batch
                .par_iter()
                .map(|piece| {
                    let packed = pack(disk, packing, piece, size)?;
                    self.count(piece.length());
                    Ok(packed)
                })
                .collect::<Result<_>>()?;
            for piece in &packed {
                target.file.write_all_at(piece, at).map_err(write_error)?;
                at += piece.len() as u64;
            }
        }
        Ok(at)
    }
}

impl Segment {
    fn length(&self) -> u64 {
        match self {
            Segment::Bytes(bytes) => bytes.len() as u64,
            Segment::Chunks(chunks) => (chunks.end - chunks.start) * CHUNK as u64,
        }
    }

    fn split(self) -> Vec<Segment> {
        const STEP: u64 = (PIECE / CHUNK) as u64;
        match self {
            Segment::Bytes(_) => vec![self],
            Segment::Chunks(chunks) => chunks
                .clone()
                .step_by(STEP as usize)
                .map(|start| Segment::Chunks(start..(start + STEP).min(chunks.end)))
                .collect(),
        }
    }
}

/// A piece of the stream, compressed: a member, stream or frame of its own, as each of the formats allows.
fn pack(disk: &DiskReader, packing: Packing, piece: &Segment, size: u64) -> Result<Vec<u8>> {
    if let (Packing::Zstd, Segment::Chunks(chunks)) = (packing, piece) {
        return pack_frames(disk, chunks.clone(), size);
    }
    let plain = match piece {
        Segment::Bytes(bytes) => bytes.clone(),
        Segment::Chunks(chunks) => read(disk, chunks.clone(), size)?,
    };
    let bytes = match packing {
        Packing::Xz => liblzma::encode_all(&plain[..], XZ_LEVEL),
        Packing::Zstd => zstd::bulk::compress(&plain, ENCODER.level),
        Packing::Gzip | Packing::Gce => gzip(&plain),
    };
    bytes.map_err(|_| Error::Compressor { index: 0 })
}

/// Chunks of a disk; beyond its end there is nothing, beyond the last whole chunk of an archive's member zeros.
fn read(disk: &DiskReader, chunks: std::ops::Range<u64>, size: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; ((chunks.end - chunks.start) as usize) * CHUNK];
    for (index, part) in chunks.clone().zip(bytes.as_chunks_mut::<CHUNK>().0) {
        disk.read(index, part)?;
    }
    let length = size.saturating_sub(chunks.start * CHUNK as u64);
    bytes.truncate(length.min(bytes.len() as u64) as usize);
    Ok(bytes)
}

/// The frames of chunks as they are, one behind the other, where the encoder is the same.
fn pack_frames(disk: &DiskReader, chunks: std::ops::Range<u64>, size: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut data = chunk_buffer();
    for index in chunks {
        let found = disk.map().find(index);
        let frame = match found {
            Some(found) => {
                let frame = disk.read_found(found, &mut data)?;
                let made_by = disk.map().manifests[found.layer as usize].encoder;
                frame.filter(|_| made_by == zstd_at(ENCODER.level))
            }
            None => {
                data.fill(0);
                None
            }
        };
        let length = (size - index * CHUNK as u64).min(CHUNK as u64) as usize;
        match frame {
            Some(frame) if length == CHUNK => bytes.extend(frame),
            _ => {
                let frame = zstd::bulk::compress(&data[..length], ENCODER.level);
                bytes.extend(frame.map_err(|_| Error::Compressor { index })?);
            }
        }
    }
    Ok(bytes)
}

fn gzip(plain: &[u8]) -> io::Result<Vec<u8>> {
    let level = CompressionLvl::new(GZIP_LEVEL).unwrap_or_default();
    let mut compressor = Compressor::new(level);
    let mut out = vec![0; compressor.gzip_compress_bound(plain.len())];
    let length = compressor.gzip_compress(plain, &mut out);
    out.truncate(length.map_err(io::Error::other)?);
    Ok(out)
}

/// Bytes of a record of a tar archive.
const RECORD: usize = 512;
/// What Google Compute Engine takes: disks of whole GiB.
const UNIT: u64 = 1 << 30;

/// A tar archive in old GNU format with one sparse member `disk.raw`, rounded up to whole GiB.
fn tar(disk: &DiskReader) -> Vec<Segment> {
    let chunk = CHUNK as u64;
    let size = disk.virtual_size();
    let real = size.next_multiple_of(UNIT);
    // Runs of chunks that are not zero.
    let mut runs: Vec<std::ops::Range<u64>> = Vec::new();
    for found in &disk.map().chunks {
        match runs.last_mut() {
            Some(run) if run.end == found.index => run.end += 1,
            _ => runs.push(found.index..found.index + 1),
        }
    }
    let bytes = |run: &std::ops::Range<u64>| {
        let start = run.start * chunk;
        (start, (run.end * chunk).min(size) - start)
    };
    let mut map: Vec<(u64, u64)> = runs.iter().map(bytes).collect();
    // GNU tar ends the map of a file that ends with a hole in this way.
    map.push((real, 0));
    let stored: u64 = map.iter().map(|(_, length)| length).sum();
    let mut segments = vec![Segment::Bytes(tar_head(&map, stored, real))];
    segments.extend(runs.into_iter().map(Segment::Chunks));
    let padding = stored.next_multiple_of(RECORD as u64) - stored;
    // Two empty records, and up to a block of twenty as every tar does.
    segments.push(Segment::Bytes(vec![0; padding as usize + 2 * RECORD]));
    segments
}

fn tar_head(map: &[(u64, u64)], stored: u64, real: u64) -> Vec<u8> {
    // A number of eleven octal digits; of more in binary, with the first bit set.
    let number = |value: u64| {
        let mut field = [0; 12];
        if value < 1 << 33 {
            let text = format!("{value:011o}");
            field[..11].copy_from_slice(text.as_bytes());
        } else {
            field[0] = 0x80;
            field[4..].copy_from_slice(&value.to_be_bytes());
        }
        field
    };
    let entries = |record: &mut [u8], entries: &[(u64, u64)]| {
        for (place, (offset, length)) in record.chunks_exact_mut(24).zip(entries) {
            place[..12].copy_from_slice(&number(*offset));
            place[12..].copy_from_slice(&number(*length));
        }
    };
    let mut head = vec![0; RECORD];
    head[..8].copy_from_slice(b"disk.raw");
    head[100..108].copy_from_slice(b"0000644\0");
    head[108..116].copy_from_slice(b"0000000\0");
    head[116..124].copy_from_slice(b"0000000\0");
    head[124..136].copy_from_slice(&number(stored));
    head[136..148].copy_from_slice(&number(0));
    head[148..156].fill(b' ');
    head[156] = b'S';
    head[257..265].copy_from_slice(b"ustar  \0");
    let (first, mut rest) = map.split_at(map.len().min(4));
    entries(&mut head[386..482], first);
    head[482] = u8::from(!rest.is_empty());
    head[483..495].copy_from_slice(&number(real));
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    while !rest.is_empty() {
        let (these, after) = rest.split_at(rest.len().min(21));
        let mut record = [0; RECORD];
        entries(&mut record[..504], these);
        record[504] = u8::from(!after.is_empty());
        head.extend_from_slice(&record);
        rest = after;
    }
    head
}
