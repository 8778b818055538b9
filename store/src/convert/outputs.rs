//! The files that chunks go to: those whose layout is known beforehand, and those that are written front to back.
//! Knows formats' writers; reads no disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{ConvertTarget, Format};
use crate::chain::{DiskMap, LocatedChunk};
use crate::digest::DiskDigest;
use crate::disk::CHUNK;
use crate::error::{Error, Result};
use crate::formats::{self, FlatLayout, VmdkWriter};
use crate::qcow2::{Compression, ENCODER, Encoded, MAX_FRAME, Writer};

/// In which forms the outputs want a chunk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Levels of zstd frames.
    pub(super) zstd: Vec<i32>,
    /// Levels of deflate streams.
    pub(super) deflate: Vec<i32>,
    /// As it is, kept until it is written in its turn.
    pub(super) data: bool,
    /// As it is, written at once.
    flat: bool,
}

impl Wanted {
    pub(super) fn of(targets: &[ConvertTarget<'_>]) -> Wanted {
        let mut wanted = Wanted::default();
        let add = |levels: &mut Vec<i32>, level| {
            if !levels.contains(&level) {
                levels.push(level);
            }
        };
        for target in targets {
            match target.format {
                Format::Qcow2 => add(&mut wanted.zstd, zstd_level(target)),
                Format::Qcow2Zlib | Format::Vmdk => {
                    add(&mut wanted.deflate, deflate_level(target));
                }
                Format::Qcow2Plain => wanted.data = true,
                Format::Raw | Format::Vhd | Format::Vhdx | Format::Vdi => wanted.flat = true,
                Format::RawGzip | Format::RawXz | Format::RawZstd | Format::Gce => {}
            }
        }
        wanted
    }

    /// Whether nothing but zstd frames of one level is wanted: these need not be decoded.
    pub(super) fn copies_frames(&self) -> bool {
        self.zstd.len() == 1 && self.deflate.is_empty() && !self.data && !self.flat
    }
}

fn zstd_level(target: &ConvertTarget<'_>) -> i32 {
    target.level.unwrap_or(ENCODER.level)
}

fn deflate_level(target: &ConvertTarget<'_>) -> i32 {
    target.format.deflate_level(target.level)
}

/// A chunk in the forms that are wanted.
#[derive(Debug)]
pub(super) struct PreparedChunk {
    pub(super) found: LocatedChunk,
    /// By level.
    pub(super) zstd: Vec<(i32, Encoded)>,
    /// By level; as long as the chunk or longer where it cannot be made smaller.
    pub(super) deflated: Vec<(i32, Vec<u8>)>,
    /// The Adler-32 of its bytes, where it was deflated.
    pub(super) adler: u32,
    pub(super) data: Option<Box<[u8; CHUNK]>>,
}

impl PreparedChunk {
    pub(super) fn new(found: LocatedChunk) -> PreparedChunk {
        PreparedChunk {
            found,
            zstd: Vec::new(),
            deflated: Vec::new(),
            adler: 0,
            data: None,
        }
    }

    fn deflated(&self, level: i32) -> &[u8] {
        let found = self.deflated.iter().find(|(made, _)| *made == level);
        &found.expect("BUG: a level that was not asked for").1
    }
}

/// All files that chunks go to, each with its place among the targets.
#[derive(Debug)]
pub(super) struct Outputs<'a> {
    pub(super) flat: Vec<FlatOutput<'a>>,
    pub(super) ordered: Vec<OrderedOutput<'a>>,
}

impl<'a> Outputs<'a> {
    pub(super) fn new(
        targets: &[ConvertTarget<'a>],
        map: &DiskMap,
        disk: &DiskDigest,
    ) -> Result<Outputs<'a>> {
        let size = map.tree.virtual_size();
        let places = || formats::used_blocks(size, map.chunks.iter().map(|found| found.index));
        let (mut flat, mut ordered) = (Vec::new(), Vec::new());
        for (place, target) in targets.iter().enumerate() {
            let layout = match target.format {
                Format::Raw => formats::raw_layout(size),
                Format::Vhd => formats::vhd_layout(disk, size),
                Format::Vhdx => formats::vhdx_layout(disk, size, places()),
                Format::Vdi => formats::vdi_layout(disk, size, places()),
                Format::Qcow2 | Format::Qcow2Zlib | Format::Qcow2Plain | Format::Vmdk => {
                    ordered.push(OrderedOutput::new(place, target, disk, size)?);
                    continue;
                }
                Format::RawGzip | Format::RawXz | Format::RawZstd | Format::Gce => continue,
            };
            flat.push(FlatOutput::new(place, target, layout, size)?);
        }
        Ok(Outputs { flat, ordered })
    }

    /// Writes what follows the chunks: places and lengths of the files.
    pub(super) fn finish(self) -> Result<Vec<(usize, u64)>> {
        let mut lengths = Vec::new();
        for output in self.flat {
            lengths.push((output.place, output.layout.length));
        }
        for output in self.ordered {
            lengths.push((output.place, output.finish()?));
        }
        Ok(lengths)
    }
}

/// A file in which every chunk has its place from the beginning.
#[derive(Debug)]
pub(super) struct FlatOutput<'a> {
    place: usize,
    file: &'a File,
    path: &'a Path,
    layout: FlatLayout,
    /// Bytes of the disk.
    size: u64,
}

impl<'a> FlatOutput<'a> {
    fn new(
        place: usize,
        target: &ConvertTarget<'a>,
        layout: FlatLayout,
        size: u64,
    ) -> Result<FlatOutput<'a>> {
        let (file, path) = (target.file, target.path);
        file.set_len(layout.length)
            .map_err(|source| Error::io("extend", path, source))?;
        for (at, bytes) in &layout.parts {
            file.write_all_at(bytes, *at)
                .map_err(|source| Error::io("write", path, source))?;
        }
        Ok(FlatOutput {
            place,
            file,
            path,
            layout,
            size,
        })
    }

    pub(super) fn write(&self, index: u64, data: &[u8; CHUNK]) -> Result<()> {
        let length = (self.size - index * CHUNK as u64).min(CHUNK as u64) as usize;
        self.file
            .write_all_at(&data[..length], self.layout.offset(index))
            .map_err(|source| Error::io("write", self.path, source))
    }
}

/// A file that is written front to back.
#[derive(Debug)]
pub(super) struct OrderedOutput<'a> {
    place: usize,
    path: &'a Path,
    format: Format,
    level: i32,
    writer: OrderedWriter<'a>,
    /// Chunks of a qcow2 that follow its frames.
    raw: Vec<LocatedChunk>,
}

#[derive(Debug)]
enum OrderedWriter<'a> {
    Qcow2(Writer<'a>),
    Vmdk(VmdkWriter<'a>),
}

impl<'a> OrderedOutput<'a> {
    fn new(
        place: usize,
        target: &ConvertTarget<'a>,
        disk: &DiskDigest,
        size: u64,
    ) -> Result<OrderedOutput<'a>> {
        let qcow2 = |compression| {
            Writer::with_compression(target.file, size, compression)
                .map(OrderedWriter::Qcow2)
                .map_err(|error| Error::write(target.path, error))
        };
        let (writer, level) = match target.format {
            Format::Vmdk => {
                let writer = VmdkWriter::new(target.file, disk, size);
                (OrderedWriter::Vmdk(writer), deflate_level(target))
            }
            Format::Qcow2 => (qcow2(Compression::Zstd)?, zstd_level(target)),
            _ => (qcow2(Compression::Deflate)?, deflate_level(target)),
        };
        Ok(OrderedOutput {
            place,
            path: target.path,
            format: target.format,
            level,
            writer,
            raw: Vec::new(),
        })
    }

    /// Takes the next chunk.
    pub(super) fn push(&mut self, chunk: &PreparedChunk) -> Result<()> {
        let index = chunk.found.index;
        if let OrderedWriter::Vmdk(writer) = &mut self.writer {
            return writer
                .push(index, chunk.deflated(self.level), chunk.adler)
                .map_err(|source| Error::io("write", self.path, source));
        }
        match self.format {
            Format::Qcow2 => {
                let made = chunk.zstd.iter().find(|(level, _)| *level == self.level);
                match &made.expect("BUG: a level that was not asked for").1 {
                    Encoded::Frame(frame) => self.push_frame(index, frame)?,
                    Encoded::Raw => self.raw.push(chunk.found),
                    Encoded::Zero => {}
                }
            }
            Format::Qcow2Zlib => match chunk.deflated(self.level) {
                frame if frame.len() <= MAX_FRAME => self.push_frame(index, frame)?,
                _ => self.raw.push(chunk.found),
            },
            _ => {
                let data = chunk.data.as_ref().expect("BUG: data was asked for");
                self.push_raw(index, data)?;
            }
        }
        Ok(())
    }

    fn qcow2(&mut self) -> &mut Writer<'a> {
        match &mut self.writer {
            OrderedWriter::Qcow2(writer) => writer,
            OrderedWriter::Vmdk(_) => unreachable!("a VMDK has no clusters"),
        }
    }

    fn push_frame(&mut self, index: u64, frame: &[u8]) -> Result<()> {
        let path = self.path;
        let pushed = self.qcow2().push_frame(index, frame);
        pushed
            .map(|_| ())
            .map_err(|error| Error::write(path, error))
    }

    pub(super) fn push_raw(&mut self, index: u64, data: &[u8; CHUNK]) -> Result<()> {
        let path = self.path;
        let pushed = self.qcow2().push_raw(index, data);
        pushed
            .map(|_| ())
            .map_err(|error| Error::write(path, error))
    }

    /// The chunks that are to be pushed as they are, when all have been seen.
    pub(super) fn take_raw(&mut self) -> Vec<LocatedChunk> {
        std::mem::take(&mut self.raw)
    }

    fn finish(self) -> Result<u64> {
        match self.writer {
            OrderedWriter::Qcow2(writer) => writer
                .finish()
                .map(|layout| layout.file_length)
                .map_err(|error| Error::write(self.path, error)),
            OrderedWriter::Vmdk(writer) => writer
                .finish()
                .map_err(|source| Error::io("write", self.path, source)),
        }
    }
}
