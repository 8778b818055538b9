//! VMDK, VMware's format: one file of the kind `streamOptimized`, grains of 64 KiB compressed one by one.
//! Knows the Virtual Disk Format 5.0, as far as one sparse extent with its descriptor inside goes.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use libdeflater::Decompressor;

use super::{checked_size, expect, geometry, identifier, le16, le32, le64, length_of, put, read};
use crate::digest::DiskDigest;
use crate::qcow2::{CHUNK, ChunkSource, Content, DecodeError, GateError, SourceError};

const SECTOR: u64 = 512;
const GRAIN_SECTORS: u64 = CHUNK as u64 / SECTOR;
const ENTRIES: usize = 512;
const TABLE: usize = ENTRIES * 4;
const DESCRIPTOR_AT: u64 = 1;
const DESCRIPTOR_SECTORS: u64 = 20;
/// Sectors before the first grain.
const OVERHEAD: u64 = 128;
/// The directory's place is in the footer.
const AT_END: u64 = u64::MAX;
// Flags: the bytes that show line ends are valid; grains are compressed; markers stand before grains and tables.
const LINES: u64 = 1;
const COMPRESSED: u64 = 1 << 16;
const MARKERS: u64 = 1 << 17;
// What a marker without data says that the following sectors are.
const MARK_TABLE: u32 = 1;
const MARK_DIRECTORY: u32 = 2;
const MARK_FOOTER: u32 = 3;
/// Bytes in front of a grain's data: the sector of the disk, and how many bytes follow.
const MARKER: usize = 12;
/// A zlib stream's head for deflate with a window of 32 KiB, at the fastest level.
const ZLIB_HEAD: [u8; 2] = [0x78, 0x01];
/// The largest disk that is read, which bounds its tables.
const MAX_DISK: u64 = 2 << 40;

/// Writes an image front to back.
#[derive(Debug)]
pub(crate) struct VmdkWriter<'f> {
    file: &'f File,
    disk: DiskDigest,
    sectors: u64,
    /// Bytes that are in the file, and those that follow.
    written: u64,
    buffer: Vec<u8>,
    /// Chunks and the sectors at which their grains begin.
    grains: Vec<(u64, u32)>,
}

impl<'f> VmdkWriter<'f> {
    pub(crate) fn new(file: &'f File, disk: &DiskDigest, size: u64) -> VmdkWriter<'f> {
        VmdkWriter {
            file,
            disk: *disk,
            sectors: size / SECTOR,
            written: 0,
            buffer: vec![0; (OVERHEAD * SECTOR) as usize],
            grains: Vec::new(),
        }
    }

    /// Appends a chunk, in ascending order: its deflate stream and the Adler-32 of what it was made of.
    pub(crate) fn push(&mut self, index: u64, deflated: &[u8], adler: u32) -> io::Result<()> {
        let sector = self.sector()?;
        self.grains.push((index, sector));
        let length = (ZLIB_HEAD.len() + deflated.len() + 4) as u32;
        self.buffer
            .extend_from_slice(&(index * GRAIN_SECTORS).to_le_bytes());
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.extend_from_slice(&ZLIB_HEAD);
        self.buffer.extend_from_slice(deflated);
        self.buffer.extend_from_slice(&adler.to_be_bytes());
        self.pad();
        if self.buffer.len() >= 1 << 20 {
            self.flush()?;
        }
        Ok(())
    }

    /// Appends tables, directory and footer; returns the file's length.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        let tables = self.sectors.div_ceil(GRAIN_SECTORS * ENTRIES as u64);
        let mut directory = vec![0; (tables as usize * 4).next_multiple_of(SECTOR as usize)];
        let grains = std::mem::take(&mut self.grains);
        let table_of = |grain: &(u64, u32)| grain.0 / ENTRIES as u64;
        for group in grains.chunk_by(|a, b| table_of(a) == table_of(b)) {
            self.marker(MARK_TABLE, TABLE as u64 / SECTOR);
            let at = self.sector()?;
            put(
                &mut directory,
                table_of(&group[0]) as usize * 4,
                &at.to_le_bytes(),
            );
            let mut table = [0; TABLE];
            for (index, sector) in group {
                let entry = (*index % ENTRIES as u64) as usize * 4;
                put(&mut table, entry, &sector.to_le_bytes());
            }
            self.buffer.extend_from_slice(&table);
        }
        self.marker(MARK_DIRECTORY, directory.len() as u64 / SECTOR);
        let at = u64::from(self.sector()?);
        self.buffer.extend_from_slice(&directory);
        self.marker(MARK_FOOTER, 1);
        self.buffer.extend_from_slice(&header(self.sectors, at));
        // The end of the stream.
        self.buffer.extend_from_slice(&[0; SECTOR as usize]);
        self.flush()?;
        self.file.write_all_at(&header(self.sectors, AT_END), 0)?;
        let text = descriptor(&self.disk, self.sectors);
        self.file
            .write_all_at(text.as_bytes(), DESCRIPTOR_AT * SECTOR)?;
        Ok(self.written)
    }

    fn marker(&mut self, kind: u32, sectors: u64) {
        let mut marker = [0; SECTOR as usize];
        put(&mut marker, 0, &sectors.to_le_bytes());
        put(&mut marker, 12, &kind.to_le_bytes());
        self.buffer.extend_from_slice(&marker);
    }

    /// The sector that is written next.
    fn sector(&self) -> io::Result<u32> {
        let sector = (self.written + self.buffer.len() as u64) / SECTOR;
        sector
            .try_into()
            .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "a VMDK ends at 2 TiB"))
    }

    fn pad(&mut self) {
        let padded = self.buffer.len().next_multiple_of(SECTOR as usize);
        self.buffer.resize(padded, 0);
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

fn header(sectors: u64, directory: u64) -> [u8; SECTOR as usize] {
    let mut bytes = [0; SECTOR as usize];
    put(&mut bytes, 0, b"KDMV");
    put(&mut bytes, 4, &3_u32.to_le_bytes());
    let flags = (LINES | COMPRESSED | MARKERS) as u32;
    put(&mut bytes, 8, &flags.to_le_bytes());
    put(&mut bytes, 12, &sectors.to_le_bytes());
    put(&mut bytes, 20, &GRAIN_SECTORS.to_le_bytes());
    put(&mut bytes, 28, &DESCRIPTOR_AT.to_le_bytes());
    put(&mut bytes, 36, &DESCRIPTOR_SECTORS.to_le_bytes());
    put(&mut bytes, 44, &(ENTRIES as u32).to_le_bytes());
    put(&mut bytes, 56, &directory.to_le_bytes());
    put(&mut bytes, 64, &OVERHEAD.to_le_bytes());
    put(&mut bytes, 73, b"\n \r\n");
    put(&mut bytes, 77, &1_u16.to_le_bytes());
    bytes
}

fn descriptor(disk: &DiskDigest, sectors: u64) -> String {
    let id = identifier(disk, "vmdk");
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    // Heads and sectors that every BIOS emulation gives a disk of that size.
    let cylinders = (sectors / (255 * 63)).clamp(1, 65535);
    let (heads, track) = match geometry(sectors * SECTOR) {
        (small, heads, track) if u64::from(small) < 1024 && heads <= 16 => {
            (u64::from(heads), u64::from(track))
        }
        _ => (255, 63),
    };
    let cylinders = if heads == 255 {
        cylinders
    } else {
        (sectors / (heads * track)).max(1)
    };
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={}\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
         # Extent description\nRW {sectors} SPARSE \"disk.vmdk\"\n\n\
         # The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"4\"\nddb.adapterType = \"lsilogic\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"{heads}\"\n\
         ddb.geometry.sectors = \"{track}\"\nddb.longContentID = \"{}\"\n",
        // All bits set means that there is none.
        hex(&[id[0] & 0x7f, id[1], id[2], id[3]]),
        hex(&id),
    )
}

/// An image that was checked: each grain is where no other is, and is what its marker says.
#[derive(Debug)]
pub(super) struct VmdkImage {
    file: File,
    file_length: u64,
    virtual_size: u64,
    /// Grains that are there, ascending by chunk: chunk, and sector of the file.
    grains: Vec<(u32, u32)>,
}

/// Checks an image and makes it readable.
pub(super) fn open(file: File) -> Result<VmdkImage, GateError> {
    let file_length = length_of(&file)?;
    let header = read(&file, file_length, "header", 0, SECTOR)?;
    let sectors = check_extent(&header, 0)?;
    let virtual_size = checked_size(sectors.saturating_mul(SECTOR), MAX_DISK)?;
    check_descriptor(&file, file_length, &header)?;
    let mut directory_at = le64(&header, 56);
    if directory_at == AT_END {
        // A footer between its marker and the end of the stream.
        let at = file_length.saturating_sub(3 * SECTOR);
        let end = read(&file, file_length, "footer", at, 3 * SECTOR)?;
        expect(
            "footer's marker",
            at + 12,
            le32(&end, 12),
            MARK_FOOTER.into(),
        )?;
        let footer = &end[SECTOR as usize..][..SECTOR as usize];
        directory_at = le64(footer, 56);
        expect(
            "footer's capacity",
            at + SECTOR,
            check_extent(footer, at)?,
            sectors,
        )?;
        if directory_at == AT_END {
            return Err(GateError::Field {
                what: "footer's directory",
                offset: at + SECTOR + 56,
                value: directory_at,
            });
        }
    }
    let tables = sectors.div_ceil(GRAIN_SECTORS * ENTRIES as u64);
    let at = directory_at.saturating_mul(SECTOR);
    let directory = read(&file, file_length, "grain directory", at, tables * 4)?;
    let mut image = VmdkImage {
        file,
        file_length,
        virtual_size,
        grains: Vec::new(),
    };
    for table in 0..tables {
        image.read_table(table, le32(&directory, table as usize * 4))?;
    }
    image.check_grains()?;
    Ok(image)
}

/// The capacity, in sectors, of an extent whose header, or its copy in the footer, is understood.
fn check_extent(header: &[u8], at: u64) -> Result<u64, GateError> {
    let field = |what, place: usize, value, wanted| expect(what, at + place as u64, value, wanted);
    field(
        "signature",
        0,
        le32(header, 0),
        u64::from(u32::from_le_bytes(*b"KDMV")),
    )?;
    if !matches!(le32(header, 4), 1..=3) {
        return field("version", 4, le32(header, 4), 3).map(|()| 0);
    }
    let flags = le32(header, 8);
    if flags & (COMPRESSED | MARKERS) != COMPRESSED | MARKERS {
        return Err(GateError::Unsupported {
            what: "grains that are not compressed: of VMDKs only `streamOptimized` is read",
        });
    }
    field(
        "line ends",
        73,
        le32(header, 73),
        u64::from(u32::from_le_bytes(*b"\n \r\n")),
    )?;
    field("compression", 77, le16(header, 77), 1)?;
    field("grain size", 20, le64(header, 20), GRAIN_SECTORS)?;
    field(
        "entries of a grain table",
        44,
        le32(header, 44),
        ENTRIES as u64,
    )?;
    Ok(le64(header, 12))
}

/// The text inside: one extent, which is this file, without a parent.
fn check_descriptor(file: &File, file_length: u64, header: &[u8]) -> Result<(), GateError> {
    let (at, sectors) = (le64(header, 28), le64(header, 36));
    if at == 0 || sectors == 0 || sectors > 2048 {
        return Err(GateError::Unsupported {
            what: "its description in another file",
        });
    }
    let at = at.saturating_mul(SECTOR);
    // QEMU looks for a parent in so many sectors, whatever the header says.
    let length = (sectors.max(DESCRIPTOR_SECTORS) * SECTOR).min(file_length.saturating_sub(at));
    let bytes = read(file, file_length, "description", at, length)?;
    let text = String::from_utf8_lossy(&bytes);
    if text.contains("parentFileNameHint") {
        return Err(GateError::Unsupported {
            what: "a parent image",
        });
    }
    let lines = text.split('\0').next().unwrap_or_default().lines();
    let (mut extents, mut parent, mut kind) = (0, None, None);
    for line in lines.map(str::trim) {
        if ["RW ", "RDONLY ", "NOACCESS "]
            .iter()
            .any(|word| line.starts_with(word))
        {
            extents += 1;
        } else if let Some((name, value)) = line.split_once('=') {
            match name.trim() {
                "parentCID" => parent = Some(value.trim().to_ascii_lowercase()),
                "createType" => kind = Some(value.trim().trim_matches('"').to_owned()),
                _ => {}
            }
        }
    }
    if parent.as_deref() != Some("ffffffff") {
        return Err(GateError::Unsupported {
            what: "a parent image",
        });
    }
    if kind.as_deref() != Some("streamOptimized") || extents != 1 {
        return Err(GateError::Unsupported {
            what: "several files, or another kind than `streamOptimized`",
        });
    }
    Ok(())
}

impl VmdkImage {
    fn read_table(&mut self, table: u64, sector: u64) -> Result<(), GateError> {
        if sector == 0 {
            return Ok(());
        }
        let at = sector * SECTOR;
        let bytes = read(
            &self.file,
            self.file_length,
            "grain table",
            at,
            TABLE as u64,
        )?;
        for entry in 0..ENTRIES {
            let chunk = table * ENTRIES as u64 + entry as u64;
            let sector = le32(&bytes, entry * 4);
            // One is a grain that reads as zeros.
            if sector <= 1 {
                continue;
            }
            if chunk >= self.chunks() {
                return Err(GateError::Field {
                    what: "entry of a grain beyond the disk's end",
                    offset: at + entry as u64 * 4,
                    value: sector,
                });
            }
            self.grains.push((chunk as u32, sector as u32));
        }
        Ok(())
    }

    /// Every grain has a marker that names it, and ends before the next one begins.
    fn check_grains(&self) -> Result<(), GateError> {
        let mut places: Vec<_> = self
            .grains
            .iter()
            .map(|(chunk, at)| (*at, *chunk))
            .collect();
        places.sort_unstable();
        let mut free = 1;
        for (sector, chunk) in places {
            let at = u64::from(sector) * SECTOR;
            if at < free {
                return Err(GateError::Overlap {
                    what: "grain",
                    offset: at,
                });
            }
            let marker = read(&self.file, self.file_length, "grain", at, MARKER as u64)?;
            expect(
                "grain's place on the disk",
                at,
                le64(&marker, 0),
                u64::from(chunk) * GRAIN_SECTORS,
            )?;
            let length = le32(&marker, 8);
            if length == 0 || length > 2 * CHUNK as u64 {
                return Err(GateError::Field {
                    what: "grain's length",
                    offset: at + 8,
                    value: length,
                });
            }
            free = at + MARKER as u64 + length;
            if free > self.file_length {
                return Err(GateError::OutOfBounds {
                    what: "grain",
                    offset: at,
                    length,
                    file_length: self.file_length,
                });
            }
        }
        Ok(())
    }

    fn read_grain(
        &self,
        sector: u32,
        out: &mut [u8; CHUNK],
        least: usize,
    ) -> Result<(), SourceError> {
        thread_local! {
            static INFLATE: RefCell<Decompressor> = RefCell::new(Decompressor::new());
        }
        let at = u64::from(sector) * SECTOR;
        let marker = read(&self.file, self.file_length, "grain", at, MARKER as u64)?;
        let length = le32(&marker, 8).min(2 * CHUNK as u64);
        let at = at + MARKER as u64;
        let bytes = read(&self.file, self.file_length, "grain", at, length)?;
        let bad = |source| SourceError::Cluster { offset: at, source };
        let filled = INFLATE
            .with_borrow_mut(|inflate| inflate.zlib_decompress(&bytes, out))
            .map_err(|_| {
                bad(DecodeError::Invalid {
                    codec: "zlib",
                    reason: "bad data, or more than a grain",
                })
            })?;
        if filled < least {
            return Err(bad(DecodeError::Length {
                expected: CHUNK as u64,
                actual: filled as u64,
            }));
        }
        out[filled..].fill(0);
        Ok(())
    }
}

impl ChunkSource for VmdkImage {
    fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    fn next_present(&self, from: u64) -> Result<Option<u64>, SourceError> {
        let at = self
            .grains
            .partition_point(|(chunk, _)| u64::from(*chunk) < from);
        Ok(self.grains.get(at).map(|(chunk, _)| u64::from(*chunk)))
    }

    fn read_chunk(&self, index: u64, buffer: &mut [u8; CHUNK]) -> Result<Content, SourceError> {
        if index >= self.chunks() {
            return Err(SourceError::BeyondEnd {
                index,
                virtual_size: self.virtual_size,
            });
        }
        let Ok(at) = self
            .grains
            .binary_search_by_key(&index, |(chunk, _)| u64::from(*chunk))
        else {
            buffer.fill(0);
            return Ok(Content::Zero);
        };
        // The last grain may be as short as the disk; what it has beyond the disk's end is not part of it.
        let rest = (self.virtual_size - index * CHUNK as u64).min(CHUNK as u64) as usize;
        self.read_grain(self.grains[at].1, buffer, rest)?;
        buffer[rest..].fill(0);
        Ok(Content::Data)
    }
}
