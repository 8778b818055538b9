//! From a disk of the store to files: all the formats that are asked for by one reading of the disk.
//! Knows layers and formats; where a file goes, and whether it is kept, is the caller's.
//!
//! Nothing unverified is handed out. A qcow2 of zstd clusters is copied frame by frame out of layer files that
//! [`Store::chain`] found whole, by their digest now or since the machine started, as for QEMU; of all other formats
//! every chunk that is read is checked against its own digest.

mod deflate;
mod format;
mod outputs;
mod packed;
mod sums;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rayon::prelude::*;

pub use format::Format;
use outputs::{FlatOutput, Outputs, PreparedChunk, Wanted};
use packed::Packing;

use crate::chain::{DiskReader, LocatedChunk};
use crate::digest::BlobDigest;
use crate::disk::{CHUNK, chunk_buffer};
use crate::error::{ObjectKind, Result};
use crate::layer::{ChunkLocation, Encoder, LayerRef};
use crate::qcow2::{ENCODER, Encoded, EncoderId};
use crate::seal::compress_at;
use crate::sha256::Sha256;
use crate::store::Store;

/// Chunks that are worked on at once.
const BATCH: usize = 256;
/// The most that is read at once where frames lie next to each other, in bytes.
const RUN: u64 = 4 << 20;

/// What is done to files that are written, beside writing them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConvertOptions {
    /// Make the files durable.
    pub fsync: bool,
    /// Compute the digest of each file.
    pub digest: bool,
    /// Compute the SHA-256 of each file.
    pub sha256: bool,
}

/// A file to write.
#[derive(Debug, Clone, Copy)]
pub struct ConvertTarget<'a> {
    pub format: Format,
    /// Compress at this level; [`Format::levels`] says which there are.
    pub level: Option<i32>,
    /// Empty, and open for reading and writing.
    pub file: &'a File,
    /// Its name in errors.
    pub path: &'a Path,
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

impl Store {
    /// Writes a disk into each of these files; the results are in their order. The same disk gives the same bytes,
    /// however it is stored.
    pub fn convert(
        &self,
        layer: &LayerRef,
        targets: &[ConvertTarget<'_>],
        options: ConvertOptions,
    ) -> Result<Vec<Converted>> {
        let map = self.disk_map(layer)?;
        let wanted = Wanted::of(targets);
        if wanted.copies_frames() {
            self.verified_chain(layer, &map)?;
        }
        let disk = self.open_disk(map)?;
        let mut lengths = vec![0; targets.len()];
        let mut outputs = Outputs::new(targets, disk.map(), &layer.disk)?;
        if wanted != Wanted::default() {
            self.begin("converting", (disk.map().chunks.len() * CHUNK) as u64);
            self.convert_chunks(&disk, &mut outputs, &wanted)?;
            self.write_raw_clusters(&disk, &mut outputs)?;
        }
        for (place, length) in outputs.finish()? {
            lengths[place] = length;
        }
        for (length, target) in lengths.iter_mut().zip(targets) {
            if let Some(packing) = Packing::of(target.format) {
                *length = self.write_packed(&disk, packing, target)?;
            }
        }
        self.sums(targets, &lengths, options)
    }

    /// Reads every chunk that is not zero once, and hands it to all outputs: while one batch is written in order, the
    /// next one is read and compressed.
    fn convert_chunks(
        &self,
        disk: &DiskReader,
        outputs: &mut Outputs<'_>,
        wanted: &Wanted,
    ) -> Result<()> {
        let Outputs { flat, ordered } = outputs;
        let mut ready: Vec<PreparedChunk> = Vec::new();
        let mut runs = runs(disk, wanted);
        loop {
            let run = runs.next();
            if run.is_none() && ready.is_empty() {
                return Ok(());
            }
            let write = || {
                ordered
                    .par_iter_mut()
                    .try_for_each(|output| ready.iter().try_for_each(|chunk| output.push(chunk)))
            };
            let prepare = || match run {
                Some(run) => self.prepare(disk, run, flat, wanted),
                None => Ok(Vec::new()),
            };
            let (written, next) = rayon::join(write, prepare);
            written?;
            ready = next?;
        }
    }

    /// Reads a run of chunks, compresses them as the outputs want them, and writes them where their order is of no matter.
    fn prepare(
        &self,
        disk: &DiskReader,
        run: ChunkRun<'_>,
        flat: &[FlatOutput<'_>],
        wanted: &Wanted,
    ) -> Result<Vec<PreparedChunk>> {
        let chunks = match run {
            ChunkRun::Copy(found, start, length) => {
                let bytes = self.read_run(disk, found[0].layer, start, length)?;
                let level = wanted.zstd[0];
                let frame = |found: &LocatedChunk| {
                    let ChunkLocation::Frame { offset, length } = found.place else {
                        unreachable!("a run to copy consists of frames")
                    };
                    let at = (offset - start) as usize;
                    let frame = bytes[at..at + length as usize].to_vec();
                    PreparedChunk {
                        zstd: vec![(level, Encoded::Frame(frame))],
                        ..PreparedChunk::new(*found)
                    }
                };
                found.iter().map(frame).collect()
            }
            ChunkRun::Read(found) => found
                .par_iter()
                .map(|found| prepare_one(disk, *found, flat, wanted))
                .collect::<Result<Vec<_>>>()?,
        };
        self.count((chunks.len() * CHUNK) as u64);
        Ok(chunks)
    }

    /// Chunks that no encoder made smaller follow all frames of a qcow2.
    fn write_raw_clusters(&self, disk: &DiskReader, outputs: &mut Outputs<'_>) -> Result<()> {
        for output in &mut outputs.ordered {
            for batch in output.take_raw().chunks(BATCH) {
                let read = |found: &LocatedChunk| {
                    let mut data = chunk_buffer();
                    disk.read_found(found, &mut data)?;
                    Ok(data)
                };
                let contents: Vec<_> = batch.par_iter().map(read).collect::<Result<_>>()?;
                for (found, data) in batch.iter().zip(contents) {
                    output.push_raw(found.index, &data)?;
                }
            }
        }
        Ok(())
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

/// The encoder of zstd frames at a level.
fn zstd_at(level: i32) -> Encoder {
    Encoder::from(EncoderId { level, ..ENCODER })
}

fn prepare_one(
    disk: &DiskReader,
    found: LocatedChunk,
    flat: &[FlatOutput<'_>],
    wanted: &Wanted,
) -> Result<PreparedChunk> {
    let made_by = disk.map().manifests[found.layer as usize].encoder;
    let mut chunk = PreparedChunk::new(found);
    let is_raw = matches!(found.place, ChunkLocation::Raw { .. });
    if is_raw && wanted.copies_frames() && zstd_at(wanted.zstd[0]) == made_by {
        chunk.zstd.push((wanted.zstd[0], Encoded::Raw));
        return Ok(chunk);
    }
    let mut data = chunk_buffer();
    let frame = disk.read_found(&found, &mut data)?;
    for output in flat {
        output.write(found.index, &data)?;
    }
    let mut back = chunk_buffer();
    for level in &wanted.zstd {
        // Another encoder may make smaller, or larger, what this one left as it is.
        let encoded = match &frame {
            _ if made_by != zstd_at(*level) => compress_at(found.index, &data, &mut back, *level)?,
            Some(frame) => Encoded::Frame(frame.clone()),
            None => Encoded::Raw,
        };
        chunk.zstd.push((*level, encoded));
    }
    for level in &wanted.deflate {
        let stream = deflate::compress(found.index, &data, &mut back, *level)?;
        chunk.deflated.push((*level, stream));
    }
    if !wanted.deflate.is_empty() {
        chunk.adler = libdeflater::adler32(&data[..]);
    }
    chunk.data = wanted.data.then_some(data);
    Ok(chunk)
}

/// Chunks that are treated alike, next to each other.
enum ChunkRun<'a> {
    /// Frames within so many bytes of a layer file from an offset on, to be copied unread.
    Copy(&'a [LocatedChunk], u64, u64),
    Read(&'a [LocatedChunk]),
}

fn runs<'a>(disk: &'a DiskReader, wanted: &Wanted) -> impl Iterator<Item = ChunkRun<'a>> {
    let map = disk.map();
    let copied = wanted.copies_frames().then(|| zstd_at(wanted.zstd[0]));
    let is_copied = move |found: &LocatedChunk| {
        matches!(found.place, ChunkLocation::Frame { .. })
            && copied == Some(map.manifests[found.layer as usize].encoder)
    };
    let mut rest = &map.chunks[..];
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let mut count = 1;
        let (mut start, mut end) = (0, 0);
        if let ChunkLocation::Frame { offset, length } = first.place {
            (start, end) = (offset, offset + u64::from(length));
        }
        let copies = is_copied(first);
        while let Some(next) = rest
            .get(count)
            .filter(|next| count < BATCH && is_copied(next) == copies)
        {
            if let (true, ChunkLocation::Frame { offset, length }) = (copies, next.place) {
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
        rest = after;
        Some(match copies {
            true => ChunkRun::Copy(run, start, end - start),
            false => ChunkRun::Read(run),
        })
    })
}
