//! Disk images of other machines' programs: VMDK, VHD, VHDX and VDI, each with its writer and a strict reader.
//! Knows bytes of open files and chunks by index; no path, no store, and starts no program.
//!
//! What `convert` writes is read here again. So is what others write in the same way; a kind of file that is not
//! written here (differencing, encrypted, of several files, with a log to replay) is refused by the name of what it has.
//!
//! Identifiers that a format wants are derived from the disk, times are 1970 or the format's own beginning: the same
//! disk gives the same bytes.

mod mapped;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

use std::fs::File;
use std::os::unix::fs::FileExt;

pub(crate) use mapped::{FlatLayout, used_blocks};
pub(crate) use vdi::layout as vdi_layout;
pub(crate) use vhd::layout as vhd_layout;
pub(crate) use vhdx::layout as vhdx_layout;
pub(crate) use vmdk::VmdkWriter;

use crate::digest::{DiskDigest, Hasher, domain};
use crate::qcow2::{ChunkSource, GateError};

/// A format of another machine's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    /// VMware: `streamOptimized`, one file.
    Vmdk,
    /// Virtual PC, Azure: fixed.
    Vhd,
    /// Hyper-V.
    Vhdx,
    /// VirtualBox.
    Vdi,
}

impl ImageFormat {
    /// Checks an image and makes it readable.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or has something that is not read here.
    pub fn open(self, file: File) -> Result<Box<dyn ChunkSource>, GateError> {
        Ok(match self {
            ImageFormat::Vmdk => Box::new(vmdk::open(file)?),
            ImageFormat::Vhd => Box::new(vhd::open(file)?),
            ImageFormat::Vhdx => Box::new(vhdx::open(file)?),
            ImageFormat::Vdi => Box::new(vdi::open(file)?),
        })
    }
}

/// The largest disk that is read in one of these formats, in bytes: what bounds the memory that its tables take.
const MAX_SIZE: u64 = 8 << 40;

/// The layout of a raw disk.
pub(crate) fn raw_layout(size: u64) -> FlatLayout {
    FlatLayout::plain(size, Vec::new())
}

/// A UUID for `what` of a disk, in the order of its text: version 8 (RFC 9562), made of the disk's content.
fn identifier(disk: &DiskDigest, what: &str) -> [u8; 16] {
    let mut hasher = Hasher::new(domain::IDENTIFIER);
    let digest = hasher
        .update(disk.0.as_bytes())
        .update(what.as_bytes())
        .finish();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_bytes()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

/// A UUID as Microsoft's structures hold it: the first three fields in little endian.
const fn guid(text_order: [u8; 16]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = text_order;
    let [i, j, k, l, m, n, o, p] = rest;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}

/// Cylinders, heads and sectors per track for programs that still ask (Virtual Hard Disk Image Format Specification 1.0,
/// appendix "CHS Calculation").
fn geometry(size: u64) -> (u16, u8, u8) {
    let total = (size / 512).min(65535 * 16 * 255);
    let (heads, sectors) = if total >= 65535 * 16 * 63 {
        (16, 255)
    } else {
        let tracks = total / 17;
        let heads = tracks.div_ceil(1024).max(4);
        if tracks < heads * 1024 && heads <= 16 {
            (heads, 17)
        } else if total / 31 < 16 * 1024 {
            (16, 31)
        } else {
            (16, 63)
        }
    };
    let cylinders = total / sectors / heads;
    (cylinders as u16, heads as u8, sectors as u8)
}

/// Reads a structure that must lie within the file.
fn read(
    file: &File,
    file_length: u64,
    what: &'static str,
    offset: u64,
    length: u64,
) -> Result<Vec<u8>, GateError> {
    if offset > file_length || length > file_length - offset {
        return Err(GateError::OutOfBounds {
            what,
            offset,
            length,
            file_length,
        });
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, offset)
        .map_err(|source| GateError::Read {
            what,
            offset,
            source,
        })?;
    Ok(bytes)
}

fn length_of(file: &File) -> Result<u64, GateError> {
    let stat = file.metadata().map_err(|source| GateError::Read {
        what: "file's length",
        offset: 0,
        source,
    })?;
    Ok(stat.len())
}

/// A disk's size that may be read.
fn checked_size(size: u64, limit: u64) -> Result<u64, GateError> {
    if size == 0 || !size.is_multiple_of(512) {
        return Err(GateError::Misaligned {
            what: "virtual size",
            offset: size,
            alignment: 512,
        });
    }
    if size > limit {
        return Err(GateError::TooLarge {
            what: "virtual size",
            value: size,
            limit,
        });
    }
    Ok(size)
}

/// Refuses a field that does not hold what it must.
fn expect(what: &'static str, offset: u64, value: u64, wanted: u64) -> Result<(), GateError> {
    if value == wanted {
        Ok(())
    } else {
        Err(GateError::Field {
            what,
            offset,
            value,
        })
    }
}

fn le16(bytes: &[u8], at: usize) -> u64 {
    u64::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn le32(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u64::from(u32::from_le_bytes(word))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// Puts bytes into a structure.
fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
