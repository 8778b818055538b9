//! From a disk of the store to one file: a compressed qcow2 by copying frames, or a sparse raw image.
//! Knows layers and formats; where the file goes, and whether it is kept, is the caller's.
//!
//! Nothing unverified is handed out. The qcow2 is copied frame by frame out of layer files that [`Store::chain`] found
//! whole, by their digest now or since the machine started, as for QEMU; a frame that is made again, and every chunk
//! of a raw image, is checked against its own digest.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rayon::prelude::*;

use crate::chain::{DiskReader, LocatedChunk};
use crate::derived::DerivedKey;
use crate::digest::BlobDigest;
use crate::disk::{CHUNK, chunk_buffer};
use crate::error::{Error, ObjectKind, Result};
use crate::hash_file::hash_range;
use crate::layer::{ChunkLocation, Encoder, LayerRef};
use crate::qcow2::{ChunkSource, ENCODER, Encoded, EncoderId, Writer};
use crate::seal::compress_at;
use crate::sha256::{Sha256, Sha256Writer};
use crate::store::Store;

/// Chunks that are worked on at once.
const BATCH: usize = 256;
/// The most that is read at once where frames lie next to each other, in bytes.
const RUN: u64 = 4 << 20;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConvertOptions {
    /// Compress again at this level of zstd, instead of copying frames (qcow2 only).
    pub compression_level: Option<i32>,
    /// Make the file durable.
    pub fsync: bool,
    /// Compute the digest of the file.
    pub digest: bool,
    /// Compute the SHA-256 of the file.
    pub sha256: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Converted {
    /// The file's length in bytes.
    pub length: u64,
    /// Its digest, if asked for.
    pub digest: Option<BlobDigest>,
    /// Its SHA-256, if asked for.
    pub sha256: Option<Sha256>,
}

impl DerivedKey {
    /// The key of a disk as qcow2.
    pub fn qcow2(disk: crate::digest::DiskDigest, compression_level: Option<i32>) -> DerivedKey {
        let level = compression_level.unwrap_or(ENCODER.level);
        DerivedKey {
            disk,
            format: "qcow2".to_owned(),
            options: [("compression_level".to_owned(), level.to_string())].into(),
            encoder: EncoderId { level, ..ENCODER }.to_string(),
        }
    }

    /// The key of a disk as raw image.
    pub fn raw(disk: crate::digest::DiskDigest) -> DerivedKey {
        DerivedKey {
            disk,
            format: "raw".to_owned(),
            options: Default::default(),
            encoder: String::new(),
        }
    }
}

impl Store {
    /// Writes a disk as one compressed qcow2 without backing file into `out`, which must be empty and open for reading
    /// and writing; `path` names it in errors. The same disk gives the same bytes, however it is stored.
    pub fn convert_qcow2(
        &self,
        layer: &LayerRef,
        out: &File,
        path: &Path,
        options: ConvertOptions,
    ) -> Result<Converted> {
        let map = self.disk_map(layer)?;
        self.verified_chain(layer, &map)?;
        let disk = self.open_disk(map)?;
        let level = options.compression_level.unwrap_or(ENCODER.level);
        let wanted = Encoder::from(EncoderId { level, ..ENCODER });
        let write_error = |error| Error::write(path, error);
        let mut writer = Writer::new(out, disk.virtual_size()).map_err(write_error)?;
        let mut raw = Vec::new();
        self.begin("converting", (disk.map().chunks.len() * CHUNK) as u64);
        for run in runs(&disk, wanted) {
            match run {
                FrameRun::Copy(found, start, length) => {
                    let bytes = self.read_run(&disk, found[0].layer, start, length)?;
                    for found in found {
                        let ChunkLocation::Frame { offset, length } = found.place else {
                            continue;
                        };
                        let at = (offset - start) as usize;
                        writer
                            .push_frame(found.index, &bytes[at..at + length as usize])
                            .map_err(write_error)?;
                    }
                    self.count((found.len() * CHUNK) as u64);
                }
                FrameRun::Encode(found) => {
                    let encode = |found: &LocatedChunk| {
                        let (mut data, mut back) = (chunk_buffer(), chunk_buffer());
                        disk.read_found(found, &mut data)?;
                        let encoded = compress_at(found.index, &data, &mut back, level);
                        self.count(CHUNK as u64);
                        encoded
                    };
                    let frames: Vec<_> = found.par_iter().map(encode).collect::<Result<_>>()?;
                    for (found, frame) in found.iter().zip(frames) {
                        match frame {
                            Encoded::Frame(frame) => drop(
                                writer
                                    .push_frame(found.index, &frame)
                                    .map_err(write_error)?,
                            ),
                            Encoded::Raw => raw.push(*found),
                            Encoded::Zero => {}
                        }
                    }
                }
                FrameRun::Raw(found) => {
                    self.count((found.len() * CHUNK) as u64);
                    raw.extend(found);
                }
            }
        }
        for batch in raw.chunks(BATCH) {
            let read = |found: &LocatedChunk| {
                let mut data = chunk_buffer();
                disk.read_found(found, &mut data)?;
                Ok(data)
            };
            let contents: Vec<_> = batch.par_iter().map(read).collect::<Result<_>>()?;
            for (found, data) in batch.iter().zip(contents) {
                writer.push_raw(found.index, &data).map_err(write_error)?;
            }
        }
        let length = writer.finish().map_err(write_error)?.file_length;
        self.finish(out, path, length, options)
    }

    /// Writes a disk as a raw image with holes where it is zero into `out`, which must be empty and open for reading and
    /// writing; `path` names it in errors.
    pub fn convert_raw(
        &self,
        layer: &LayerRef,
        out: &File,
        path: &Path,
        options: ConvertOptions,
    ) -> Result<Converted> {
        let disk = self.disk_reader(layer)?;
        let size = disk.virtual_size();
        out.set_len(size)
            .map_err(|source| Error::io("extend", path, source))?;
        self.begin("converting", (disk.map().chunks.len() * CHUNK) as u64);
        disk.map().chunks.par_chunks(16).try_for_each(|batch| {
            let mut data = chunk_buffer();
            for found in batch {
                disk.read_found(found, &mut data)?;
                let at = found.index * CHUNK as u64;
                let length = (size - at).min(CHUNK as u64) as usize;
                out.write_all_at(&data[..length], at)
                    .map_err(|source| Error::io("write", path, source))?;
            }
            self.count((batch.len() * CHUNK) as u64);
            Ok::<_, Error>(())
        })?;
        self.finish(out, path, size, options)
    }

    /// The file's checksums, as asked for.
    fn finish(
        &self,
        out: &File,
        path: &Path,
        length: u64,
        options: ConvertOptions,
    ) -> Result<Converted> {
        // Both digests read all of the file at once: the slower one is shown.
        self.begin("checksums", length);
        let digest = || {
            let mut hasher = BlobDigest::hasher();
            hash_range(out, 0..length, &mut hasher)?;
            Ok::<_, io::Error>(BlobDigest(hasher.finish()))
        };
        let sha256 = || {
            let mut sha256 = Sha256Writer::default();
            let mut reader = FileReader { file: out, at: 0 }.take(length);
            let mut buffer = vec![0; 1 << 20];
            loop {
                match reader.read(&mut buffer)? {
                    0 => return Ok::<_, io::Error>(sha256.finish()),
                    count => {
                        io::Write::write_all(&mut sha256, &buffer[..count])?;
                        self.count(count as u64);
                    }
                }
            }
        };
        let sync = || {
            if options.fsync {
                out.sync_all()
            } else {
                Ok(())
            }
        };
        let (synced, (digest, sha256)) = rayon::join(sync, || {
            rayon::join(
                || options.digest.then(digest).transpose(),
                || options.sha256.then(sha256).transpose(),
            )
        });
        synced.map_err(|source| Error::io("sync", path, source))?;
        let read_error = |source| Error::io("read", path, source);
        Ok(Converted {
            length,
            digest: digest.map_err(read_error)?,
            sha256: sha256.map_err(read_error)?,
        })
    }

    fn read_run(&self, disk: &DiskReader, layer: u32, start: u64, length: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        disk.file(layer)
            .read_exact_at(&mut bytes, start)
            .map_err(|source| {
                let name = disk.map().manifests[layer as usize].layer_ref().file_name();
                match source.kind() {
                    io::ErrorKind::UnexpectedEof => {
                        self.damaged(ObjectKind::Layer, &name, "it is truncated")
                    }
                    _ => self.fs().io_error("read", &name, source),
                }
            })?;
        Ok(bytes)
    }
}

/// Chunks that are treated alike, next to each other.
enum FrameRun<'a> {
    /// Frames within so many bytes of a layer file from an offset on.
    Copy(&'a [LocatedChunk], u64, u64),
    /// Chunks to be compressed again.
    Encode(&'a [LocatedChunk]),
    /// Chunks that no encoder made smaller.
    Raw(&'a [LocatedChunk]),
}

fn runs<'a>(disk: &'a DiskReader, wanted: Encoder) -> impl Iterator<Item = FrameRun<'a>> {
    let map = disk.map();
    let kind = move |found: &LocatedChunk| match found.place {
        // Another encoder may make smaller, or larger, what this one left as it is.
        _ if map.manifests[found.layer as usize].encoder != wanted => 0,
        ChunkLocation::Frame { .. } => 1,
        ChunkLocation::Raw { .. } | ChunkLocation::Zero => 2,
    };
    let mut rest = &map.chunks[..];
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let mut count = 1;
        let (mut start, mut end) = (0, 0);
        if let ChunkLocation::Frame { offset, length } = first.place {
            (start, end) = (offset, offset + u64::from(length));
        }
        while let Some(next) = rest
            .get(count)
            .filter(|next| count < BATCH && kind(next) == kind(first))
        {
            if let (1, ChunkLocation::Frame { offset, length }) = (kind(first), next.place) {
                let next_end = offset + u64::from(length);
                // Frames of one layer ascend; a gap larger than padding is not worth reading.
                let near = next.layer == first.layer && offset >= end && offset - end < 4096;
                if !near || next_end - start > RUN {
                    break;
                }
                end = next_end;
            }
            count += 1;
        }
        let (run, after) = rest.split_at(count);
        let run = match kind(first) {
            0 => FrameRun::Encode(run),
            1 => FrameRun::Copy(run, start, end - start),
            _ => FrameRun::Raw(run),
        };
        rest = after;
        Some(run)
    })
}

struct FileReader<'f> {
    file: &'f File,
    at: u64,
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
