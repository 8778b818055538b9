//! What a file is as a disk image, by its bytes alone: qcow2, raw, or a format that others write.
//! Knows formats and what to do about each; starts no program. What a file's tables say is the gates' to check.
//!
//! Every file that comes in as a disk goes through [`open`] or [`recognize`]. A raw disk begins with code of anybody's, so
//! a format counts only by more than its magic: by its version and sizes too, or where nothing else makes sense of the file.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use impasto_store::formats::ImageFormat;
use impasto_store::qcow2::Qcow2;

use crate::base::bounded;
use crate::disk::guest::{self, DiskFile};
use crate::disk::packed::{ImagePacking, ImageUnpackError, ImageUnpacker};

/// Bytes at a file's beginning that tell its format: the second copy of VHDX's header begins 128 KiB from its start.
const HEAD: usize = (128 << 10) + 4;
/// Bytes at its end that do: a trailer of one sector.
const TAIL: usize = 512;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageKind {
    /// A qcow2, which has yet to pass the gate.
    Qcow2,
    /// A disk byte by byte: with a partition table or a file system.
    Raw,
    /// ISO 9660, perhaps with a partition table too, as images for sticks have.
    Iso,
    Other(ForeignFormat),
    /// Nothing that is known here.
    Unknown,
}

/// A format of others: a disk image, or what a disk image may be packed in. Few of them are read, and of these not all
/// that they allow: [`ForeignFormat::readable`] and [`ForeignFormat::packing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignFormat {
    /// QEMU's first.
    Qcow1,
    Qed,
    Vmdk,
    /// Microsoft's first: fixed, dynamic or differencing.
    Vhd,
    /// Microsoft's second.
    Vhdx,
    Vdi,
    Parallels,
    Bochs,
    Dmg,
    /// A compressed loop device.
    Cloop,
    Luks,
    /// A qcow2 that is an ISO 9660 image as well.
    Polyglot,
    Gzip,
    Xz,
    Zstd,
    /// bzip2.
    Bzip2,
    /// LZ4.
    Lz4,
    Zip,
    /// 7-Zip.
    SevenZip,
    /// An appliance of several files.
    Ova,
    Tar,
}

impl fmt::Display for ForeignFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ForeignFormat::Qcow1 => "a qcow image of version 1",
            ForeignFormat::Qed => "a QED image",
            ForeignFormat::Vmdk => "a VMDK image (VMware)",
            ForeignFormat::Vhd => "a VHD image (Virtual PC, Hyper-V, Azure)",
            ForeignFormat::Vhdx => "a VHDX image (Hyper-V)",
            ForeignFormat::Vdi => "a VDI image (VirtualBox)",
            ForeignFormat::Parallels => "a Parallels image",
            ForeignFormat::Bochs => "a Bochs image",
            ForeignFormat::Dmg => "a DMG image (Apple)",
            ForeignFormat::Cloop => "a cloop image",
            ForeignFormat::Luks => "encrypted with LUKS",
            ForeignFormat::Polyglot => "both a qcow2 image and an ISO 9660 image",
            ForeignFormat::Gzip => "compressed with gzip",
            ForeignFormat::Xz => "compressed with xz",
            ForeignFormat::Zstd => "compressed with zstd",
            ForeignFormat::Bzip2 => "compressed with bzip2",
            ForeignFormat::Lz4 => "compressed with lz4",
            ForeignFormat::Zip => "a ZIP archive",
            ForeignFormat::SevenZip => "a 7-Zip archive",
            ForeignFormat::Ova => "an OVA appliance, a tar archive",
            ForeignFormat::Tar => "a tar archive",
        })
    }
}

impl ForeignFormat {
    /// The format as the store reads it, where it does.
    pub fn readable(self) -> Option<ImageFormat> {
        match self {
            ForeignFormat::Vmdk => Some(ImageFormat::Vmdk),
            ForeignFormat::Vhd => Some(ImageFormat::Vhd),
            ForeignFormat::Vhdx => Some(ImageFormat::Vhdx),
            ForeignFormat::Vdi => Some(ImageFormat::Vdi),
            _ => None,
        }
    }

    /// How a file is compressed whose content is read here.
    pub fn packing(self) -> Option<ImagePacking> {
        match self {
            ForeignFormat::Gzip => Some(ImagePacking::Gzip),
            ForeignFormat::Xz => Some(ImagePacking::Xz),
            ForeignFormat::Zstd => Some(ImagePacking::Zstd),
            _ => None,
        }
    }

    /// What to do with such a file, so that impasto can read what it holds.
    pub fn help(self) -> String {
        let unpack = |command| format!("decompress it first: {command}");
        // QEMU probes a format unless it is given, and would take a flat disk for raw.
        let convert = |driver| {
            format!(
                "convert it first, if you trust it: qemu-img convert -f {driver} -O qcow2 FILE NEW.qcow2"
            )
        };
        match self {
            ForeignFormat::Qcow1 => convert("qcow"),
            ForeignFormat::Qed => convert("qed"),
            ForeignFormat::Vmdk => convert("vmdk"),
            ForeignFormat::Vhd => convert("vpc"),
            ForeignFormat::Vhdx => convert("vhdx"),
            ForeignFormat::Vdi => convert("vdi"),
            ForeignFormat::Parallels => convert("parallels"),
            ForeignFormat::Bochs => convert("bochs"),
            ForeignFormat::Dmg => convert("dmg"),
            ForeignFormat::Cloop => convert("cloop"),
            ForeignFormat::Polyglot => convert("qcow2"),
            ForeignFormat::Luks => "decrypt it first: cryptsetup open FILE NAME, then \
                             qemu-img convert -f raw -O qcow2 /dev/mapper/NAME NEW.qcow2"
                .to_owned(),
            // Compressed files are files to a recipe that does not say what they are.
            ForeignFormat::Gzip | ForeignFormat::Xz | ForeignFormat::Zstd => {
                "if it holds a disk image, write `as = \"disk\"` in the stage that fetches it"
                    .to_owned()
            }
            ForeignFormat::Bzip2 => unpack("bzip2 -d FILE"),
            ForeignFormat::Lz4 => unpack("lz4 -d FILE"),
            ForeignFormat::Zip => "unpack it first: unzip FILE".to_owned(),
            ForeignFormat::SevenZip => "unpack it first: 7z x FILE".to_owned(),
            ForeignFormat::Ova => "unpack it (tar -xf FILE) and convert the disk in it: \
                            qemu-img convert -f vmdk -O qcow2 DISK.vmdk NEW.qcow2"
                .to_owned(),
            ForeignFormat::Tar => "unpack it first: tar -xf FILE".to_owned(),
        }
    }
}

/// Opens a file that shall be a disk image, and tells what it is; a FIFO is not waited for.
///
/// # Errors
/// It cannot be opened or read, or is not a regular file.
pub fn open(path: &Path) -> io::Result<(File, ImageKind)> {
    let file = bounded::open(path)?;
    let image = recognize(&file)?;
    Ok((file, image))
}

/// Of a compressed file what it holds, and what that is; of another file itself.
///
/// # Errors
/// It cannot be decompressed, or what it holds is compressed again.
pub fn unpacked(
    file: File,
    image: ImageKind,
    unpacker: &ImageUnpacker<'_>,
) -> Result<(File, ImageKind), ImageUnpackError> {
    let packing = match image {
        ImageKind::Other(format) => format.packing(),
        _ => None,
    };
    let Some(packing) = packing else {
        return Ok((file, image));
    };
    let file = unpacker.unpack(&file, packing)?;
    match recognize(&file).map_err(|source| ImageUnpackError::Read { source })? {
        ImageKind::Other(format) if format.packing().is_some() => {
            Err(ImageUnpackError::Nested { format })
        }
        image => Ok((file, image)),
    }
}

/// What an open regular file is.
///
/// # Errors
/// It cannot be read.
pub fn recognize(file: &File) -> io::Result<ImageKind> {
    let size = file.metadata()?.len();
    let mut head = vec![0; HEAD.min(usize::try_from(size).unwrap_or(HEAD))];
    file.read_exact_at(&mut head, 0)?;
    let mut tail = vec![0; TAIL.min(head.len())];
    let at = size - tail.len() as u64;
    file.read_exact_at(&mut tail, at)?;
    let ends = Ends {
        head: &head,
        tail: &tail,
        size,
    };
    if Qcow2::has_magic(&head) {
        return Ok(match (be32(&head, 4), ends.is_iso()) {
            (Some(1), _) => ImageKind::Other(ForeignFormat::Qcow1),
            (_, true) => ImageKind::Other(ForeignFormat::Polyglot),
            _ => ImageKind::Qcow2,
        });
    }
    if let Some(format) = ends.image_format() {
        return Ok(ImageKind::Other(format));
    }
    if ends.is_iso() {
        return Ok(ImageKind::Iso);
    }
    if is_raw(file, size)? {
        return Ok(ImageKind::Raw);
    }
    Ok(ends.packed().map_or(ImageKind::Unknown, ImageKind::Other))
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
pub fn format_of(mut file: impl Read) -> io::Result<Option<ForeignFormat>> {
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
    let ends = Ends {
        head: &head,
        tail: &tail,
        size,
    };
    let qcow1 = Qcow2::has_magic(&head) && be32(&head, 4) == Some(1);
    Ok(qcow1
        .then_some(ForeignFormat::Qcow1)
        .or_else(|| ends.image_format())
        .or_else(|| ends.packed()))
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
    fn image_format(&self) -> Option<ForeignFormat> {
        let head = self.head;
        let starts = |magic: &[u8]| head.starts_with(magic);
        let is_power = |at, range: std::ops::RangeInclusive<u32>| {
            le32(head, at).is_some_and(|value| value.is_power_of_two() && range.contains(&value))
        };
        // VMware, Virtual Disk Format 5.0: the four bytes show whether a transfer changed line ends. COWD is ESX's own.
        let vmdk = starts(b"KDMV")
            && matches!(le32(head, 4), Some(1..=3))
            && head.get(73..77) == Some(b"\n \r\n")
            || starts(b"COWD") && le32(head, 4) == Some(1) && is_power(16, 1..=1 << 20);
        // QEMU, docs/interop/qed_spec.txt: clusters of 4 KiB to 64 MiB, tables of 1 to 16 of them.
        let qed = starts(b"QED\0") && is_power(4, 1 << 12..=1 << 26) && is_power(8, 1..=16);
        // [MS-VHDX] 2.2: an identifier at 0, headers at 64 KiB and 128 KiB, of which one is valid.
        let vhdx = starts(b"vhdxfile")
            && [64 << 10, 128 << 10]
                .into_iter()
                .any(|at: usize| head.get(at..at + 4) == Some(b"head"));
        // VirtualBox, VDICore.h: text, a signature, the version 1.1 (or 0.1), in little endian.
        let vdi =
            le32(head, 0x40) == Some(0xbeda_107f) && matches!(le32(head, 0x44), Some(0x1_0001 | 1));
        // QEMU, docs/interop/parallels.txt.
        let parallels = (starts(b"WithoutFreeSpace") || starts(b"WithouFreSpacExt"))
            && le32(head, 16) == Some(2);
        // Bochs, iodev/hdimage/hdimage.h: magic, type, subtype, version 1 or 2.
        let bochs = starts(b"Bochs Virtual HD Image\0")
            && matches!(le32(head, 64), Some(0x1_0000 | 0x2_0000));
        // A trailer: its signature, version 4, its own length, all big endian.
        let dmg = self.tail.starts_with(b"koly")
            && be32(self.tail, 4) == Some(4)
            && be32(self.tail, 8) == Some(512);
        // LUKS 1 and 2 (On-Disk Format Specification, 2.3.1).
        let luks = starts(b"LUKS\xba\xbe") && matches!(head.get(6..8), Some([0, 1 | 2]));
        let vhd = is_vhd_footer(head.get(..TAIL).unwrap_or_default()) || is_vhd_footer(self.tail);
        let found = [
            (vmdk, ForeignFormat::Vmdk),
            (qed, ForeignFormat::Qed),
            (vhdx, ForeignFormat::Vhdx),
            (vdi, ForeignFormat::Vdi),
            (parallels, ForeignFormat::Parallels),
            (bochs, ForeignFormat::Bochs),
            (dmg, ForeignFormat::Dmg),
            (luks, ForeignFormat::Luks),
            (vhd, ForeignFormat::Vhd),
        ];
        found
            .into_iter()
            .find_map(|(is, format)| is.then_some(format))
    }

    /// What begins with text, and what a disk image may be packed in: weak magics, so only for what is not a disk otherwise.
    fn packed(&self) -> Option<ForeignFormat> {
        let head = self.head;
        let starts = |magic: &[u8]| head.starts_with(magic);
        if head.get(257..262) == Some(b"ustar") && self.size.is_multiple_of(512) {
            let name = head[..100]
                .split(|byte| *byte == 0)
                .next()
                .unwrap_or_default();
            // Open Virtualization Format, 6.4: the descriptor comes first.
            return Some(if name.ends_with(b".ovf") {
                ForeignFormat::Ova
            } else {
                ForeignFormat::Tar
            });
        }
        let found = [
            (starts(b"# Disk DescriptorFile"), ForeignFormat::Vmdk),
            (
                starts(b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop"),
                ForeignFormat::Cloop,
            ),
            (starts(b"\x1f\x8b\x08"), ForeignFormat::Gzip),
            (starts(b"\xfd7zXZ\0"), ForeignFormat::Xz),
            (starts(b"\x28\xb5\x2f\xfd"), ForeignFormat::Zstd),
            (
                starts(b"BZh") && matches!(head.get(3), Some(b'1'..=b'9')),
                ForeignFormat::Bzip2,
            ),
            (starts(b"\x04\x22\x4d\x18"), ForeignFormat::Lz4),
            (starts(b"PK\x03\x04"), ForeignFormat::Zip),
            (starts(b"7z\xbc\xaf\x27\x1c"), ForeignFormat::SevenZip),
        ];
        found
            .into_iter()
            .find_map(|(is, format)| is.then_some(format))
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
    bytes
        .get(at..at + 4)?
        .try_into()
        .ok()
        .map(u32::from_le_bytes)
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at + 4)?
        .try_into()
        .ok()
        .map(u32::from_be_bytes)
}
