//! What a file is as a disk image, by its bytes alone: qcow2, raw, or a format that others write and impasto does not read.
//! Knows formats and what to do about each; starts no program. Where it is a qcow2, its tables are the gate's to check.
//!
//! Every file that comes in as a disk goes through [`open`] or [`recognize`]. A raw disk begins with code of anybody's, so
//! a format counts only by more than its magic: by its version and sizes too, or where nothing else makes sense of the file.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use impasto_store::qcow2::Qcow2;

use crate::base::bounded;
use crate::disk::guest::{self, DiskFile};

/// Bytes at a file's beginning that tell its format: the second copy of VHDX's header begins 128 KiB from its start.
const HEAD: usize = (128 << 10) + 4;
/// Bytes at its end that do: a trailer of one sector.
const TAIL: usize = 512;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// A qcow2, which has yet to pass the gate.
    Qcow2,
    /// A disk byte by byte: with a partition table or a file system.
    Raw,
    /// ISO 9660, perhaps with a partition table too, as images for sticks have.
    Iso,
    /// Another format.
    Other(Format),
    /// Nothing that is known here.
    Unknown,
}

/// A format that is not read here: a disk image, or what a disk image may be packed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// QEMU's first.
    Qcow1,
    /// QEMU's third.
    Qed,
    /// VMware's.
    Vmdk,
    /// Microsoft's first: fixed, dynamic or differencing.
    Vhd,
    /// Microsoft's second.
    Vhdx,
    /// VirtualBox's.
    Vdi,
    /// Parallels'.
    Parallels,
    /// Bochs' growing one.
    Bochs,
    /// Apple's.
    Dmg,
    /// A compressed loop device.
    Cloop,
    /// An encrypted disk.
    Luks,
    /// A qcow2 that is an ISO 9660 image as well.
    Polyglot,
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
    /// bzip2.
    Bzip2,
    /// LZ4.
    Lz4,
    /// ZIP.
    Zip,
    /// 7-Zip.
    SevenZip,
    /// An appliance of several files.
    Ova,
    /// tar.
    Tar,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Qcow1 => "a qcow image of version 1",
            Format::Qed => "a QED image",
            Format::Vmdk => "a VMDK image (VMware)",
            Format::Vhd => "a VHD image (Virtual PC, Hyper-V, Azure)",
            Format::Vhdx => "a VHDX image (Hyper-V)",
            Format::Vdi => "a VDI image (VirtualBox)",
            Format::Parallels => "a Parallels image",
            Format::Bochs => "a Bochs image",
            Format::Dmg => "a DMG image (Apple)",
            Format::Cloop => "a cloop image",
            Format::Luks => "encrypted with LUKS",
            Format::Polyglot => "both a qcow2 image and an ISO 9660 image",
            Format::Gzip => "compressed with gzip",
            Format::Xz => "compressed with xz",
            Format::Zstd => "compressed with zstd",
            Format::Bzip2 => "compressed with bzip2",
            Format::Lz4 => "compressed with lz4",
            Format::Zip => "a ZIP archive",
            Format::SevenZip => "a 7-Zip archive",
            Format::Ova => "an OVA appliance, a tar archive",
            Format::Tar => "a tar archive",
        })
    }
}

impl Format {
    /// What to do with such a file, so that impasto can read what it holds.
    pub fn help(self) -> String {
        let unpack = |command| format!("decompress it first: {command}");
        // QEMU probes a format unless it is given, and would take a flat disk for raw.
        let convert =
            |driver| format!("convert it first, if you trust it: qemu-img convert -f {driver} -O qcow2 FILE NEW.qcow2");
        match self {
            Format::Qcow1 => convert("qcow"),
            Format::Qed => convert("qed"),
            Format::Vmdk => convert("vmdk"),
            Format::Vhd => convert("vpc"),
            Format::Vhdx => convert("vhdx"),
            Format::Vdi => convert("vdi"),
            Format::Parallels => convert("parallels"),
            Format::Bochs => convert("bochs"),
            Format::Dmg => convert("dmg"),
            Format::Cloop => convert("cloop"),
            Format::Polyglot => convert("qcow2"),
            Format::Luks => "decrypt it first: cryptsetup open FILE NAME, then \
                             qemu-img convert -f raw -O qcow2 /dev/mapper/NAME NEW.qcow2"
                .to_owned(),
            Format::Gzip => unpack("gzip -d FILE"),
            Format::Xz => unpack("xz -d FILE"),
            Format::Zstd => unpack("zstd -d FILE"),
            Format::Bzip2 => unpack("bzip2 -d FILE"),
            Format::Lz4 => unpack("lz4 -d FILE"),
            Format::Zip => "unpack it first: unzip FILE".to_owned(),
            Format::SevenZip => "unpack it first: 7z x FILE".to_owned(),
            Format::Ova => "unpack it (tar -xf FILE) and convert the disk in it: \
                            qemu-img convert -f vmdk -O qcow2 DISK.vmdk NEW.qcow2"
                .to_owned(),
            Format::Tar => "unpack it first: tar -xf FILE".to_owned(),
        }
    }
}

/// Opens a file that shall be a disk image, and tells what it is; a FIFO is not waited for.
///
/// # Errors
/// It cannot be opened or read, or is not a regular file.
pub fn open(path: &Path) -> io::Result<(File, Image)> {
    let file = bounded::open(path)?;
    let image = recognize(&file)?;
    Ok((file, image))
}

/// What an open regular file is.
///
/// # Errors
/// It cannot be read.
pub fn recognize(file: &File) -> io::Result<Image> {
    let size = file.metadata()?.len();
    let mut head = vec![0; HEAD.min(usize::try_from(size).unwrap_or(HEAD))];
    file.read_exact_at(&mut head, 0)?;
    let mut tail = vec![0; TAIL.min(head.len())];
    let at = size - tail.len() as u64;
    file.read_exact_at(&mut tail, at)?;
    let ends = Ends { head: &head, tail: &tail, size };
    if Qcow2::has_magic(&head) {
        return Ok(match (be32(&head, 4), ends.is_iso()) {
            (Some(1), _) => Image::Other(Format::Qcow1),
            (_, true) => Image::Other(Format::Polyglot),
            _ => Image::Qcow2,
        });
    }
    if let Some(format) = ends.image_format() {
        return Ok(Image::Other(format));
    }
    if ends.is_iso() {
        return Ok(Image::Iso);
    }
    if is_raw(file, size)? {
        return Ok(Image::Raw);
    }
    Ok(ends.packed().map_or(Image::Unknown, Image::Other))
}

/// Whether a file is a disk byte by byte: whole sectors, and a partition table or a file system.
///
/// # Errors
/// It cannot be read.
pub fn is_raw(file: &File, size: u64) -> io::Result<bool> {
    if size == 0 || !size.is_multiple_of(512) {
        return Ok(false);
    }
    let layout = guest::read_layout(&DiskFile::new(file.try_clone()?)?)?;
    Ok(!layout.partitions.is_empty() || layout.bare.is_some())
}

/// Which format a file has that is not read here and that was kept as a file; it is read to its end.
///
/// # Errors
/// It cannot be read.
pub fn format_of(mut file: impl Read) -> io::Result<Option<Format>> {
    let mut head = Vec::new();
    file.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
    let mut tail = head[head.len() - TAIL.min(head.len())..].to_vec();
    let mut size = head.len() as u64;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                size += count as u64;
                tail.extend_from_slice(&buffer[..count]);
                tail.drain(..tail.len() - TAIL);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let ends = Ends { head: &head, tail: &tail, size };
    let qcow1 = Qcow2::has_magic(&head) && be32(&head, 4) == Some(1);
    Ok(qcow1.then_some(Format::Qcow1).or_else(|| ends.image_format()).or_else(|| ends.packed()))
}

/// A file's beginning and its end, which may be the same bytes.
struct Ends<'a> {
    head: &'a [u8],
    tail: &'a [u8],
    size: u64,
}

impl Ends<'_> {
    /// ECMA-119, 8.1.2: the volume descriptors begin with sector 16.
    fn is_iso(&self) -> bool {
        self.head.get(0x8001..0x8006) == Some(b"CD001")
    }

    /// A format of disk images whose header is whole: also where the file could be a raw disk, this is what it is.
    fn image_format(&self) -> Option<Format> {
        let head = self.head;
        let starts = |magic: &[u8]| head.starts_with(magic);
        let is_power = |at, range: std::ops::RangeInclusive<u32>| {
            le32(head, at).is_some_and(|value| value.is_power_of_two() && range.contains(&value))
        };
        // VMware, Virtual Disk Format 5.0: the four bytes show whether a transfer changed line ends. COWD is ESX's own.
        let vmdk = starts(b"KDMV") && matches!(le32(head, 4), Some(1..=3)) && head.get(73..77) == Some(b"\n \r\n")
            || starts(b"COWD") && le32(head, 4) == Some(1) && is_power(16, 1..=1 << 20);
        // QEMU, docs/interop/qed_spec.txt: clusters of 4 KiB to 64 MiB, tables of 1 to 16 of them.
        let qed = starts(b"QED\0") && is_power(4, 1 << 12..=1 << 26) && is_power(8, 1..=16);
        // [MS-VHDX] 2.2: an identifier at 0, headers at 64 KiB and 128 KiB, of which one is valid.
        let vhdx = starts(b"vhdxfile")
            && [64 << 10, 128 << 10].into_iter().any(|at: usize| head.get(at..at + 4) == Some(b"head"));
        // VirtualBox, VDICore.h: text, a signature, the version 1.1 (or 0.1), in little endian.
        let vdi = le32(head, 0x40) == Some(0xbeda_107f) && matches!(le32(head, 0x44), Some(0x1_0001 | 1));
        // QEMU, docs/interop/parallels.txt.
        let parallels = (starts(b"WithoutFreeSpace") || starts(b"WithouFreSpacExt")) && le32(head, 16) == Some(2);
        // Bochs, iodev/hdimage/hdimage.h: magic, type, subtype, version 1 or 2.
        let bochs = starts(b"Bochs Virtual HD Image\0") && matches!(le32(head, 64), Some(0x1_0000 | 0x2_0000));
        // A trailer: its signature, version 4, its own length, all big endian.
        let dmg = self.tail.starts_with(b"koly") && be32(self.tail, 4) == Some(4) && be32(self.tail, 8) == Some(512);
        // LUKS 1 and 2 (On-Disk Format Specification, 2.3.1).
        let luks = starts(b"LUKS\xba\xbe") && matches!(head.get(6..8), Some([0, 1 | 2]));
        let vhd = is_vhd_footer(head.get(..TAIL).unwrap_or_default()) || is_vhd_footer(self.tail);
        let found = [
            (vmdk, Format::Vmdk),
            (qed, Format::Qed),
            (vhdx, Format::Vhdx),
            (vdi, Format::Vdi),
            (parallels, Format::Parallels),
            (bochs, Format::Bochs),
            (dmg, Format::Dmg),
            (luks, Format::Luks),
            (vhd, Format::Vhd),
        ];
        found.into_iter().find_map(|(is, format)| is.then_some(format))
    }

    /// What begins with text, and what a disk image may be packed in: weak magics, so only for what is no disk otherwise.
    fn packed(&self) -> Option<Format> {
        let head = self.head;
        let starts = |magic: &[u8]| head.starts_with(magic);
        if head.get(257..262) == Some(b"ustar") && self.size.is_multiple_of(512) {
            let name = head[..100].split(|byte| *byte == 0).next().unwrap_or_default();
            // Open Virtualization Format, 6.4: the descriptor comes first.
            return Some(if name.ends_with(b".ovf") { Format::Ova } else { Format::Tar });
        }
        let found = [
            (starts(b"# Disk DescriptorFile"), Format::Vmdk),
            (starts(b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop"), Format::Cloop),
            (starts(b"\x1f\x8b\x08"), Format::Gzip),
            (starts(b"\xfd7zXZ\0"), Format::Xz),
            (starts(b"\x28\xb5\x2f\xfd"), Format::Zstd),
            (starts(b"BZh") && matches!(head.get(3), Some(b'1'..=b'9')), Format::Bzip2),
            (starts(b"\x04\x22\x4d\x18"), Format::Lz4),
            (starts(b"PK\x03\x04"), Format::Zip),
            (starts(b"7z\xbc\xaf\x27\x1c"), Format::SevenZip),
        ];
        found.into_iter().find_map(|(is, format)| is.then_some(format))
    }
}

/// Whether these bytes are the footer of a VHD, with its checksum (Virtual Hard Disk Image Format Specification 1.0).
fn is_vhd_footer(bytes: &[u8]) -> bool {
    if bytes.len() != TAIL || !bytes.starts_with(b"conectix") {
        return false;
    }
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let is_kind = matches!(be32(bytes, 60), Some(2..=4)); // fixed, dynamic, differencing
    is_kind && be32(bytes, 64) == Some(!(sum(&bytes[..64]) + sum(&bytes[68..])))
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}
