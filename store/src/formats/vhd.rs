//! VHD, Virtual PC's and Azure's format: the disk as it is, and a footer of 512 bytes.
//! Knows the Virtual Hard Disk Image Format Specification 1.0, of which it reads and writes fixed disks.

use std::fs::File;

use super::mapped::FlatLayout;
use super::{MAX_SIZE, checked_size, geometry, identifier, length_of, put, read};
use crate::digest::DiskDigest;
use crate::qcow2::{GateError, RawFile};

const FOOTER: u64 = 512;
/// What the size is rounded up to: Azure takes whole MiB only.
const UNIT: u64 = 1 << 20;
/// A reserved bit that is always set.
const FEATURES: u32 = 2;
const VERSION: u32 = 0x1_0000;
const FIXED: u32 = 2;
/// Programs that mean the size in bytes, not the one that the geometry gives, as QEMU's block/vpc.c knows them. Ours says
/// that it is Hyper-V, which every reader knows.
const BY_SIZE: [&[u8; 4]; 5] = [b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS"];

/// The file of a disk: fixed, its size rounded up to whole MiB.
pub(crate) fn layout(disk: &DiskDigest, size: u64) -> FlatLayout {
    let size = size.next_multiple_of(UNIT);
    let mut footer = vec![0; FOOTER as usize];
    put(&mut footer, 0, b"conectix");
    put(&mut footer, 8, &FEATURES.to_be_bytes());
    put(&mut footer, 12, &VERSION.to_be_bytes());
    put(&mut footer, 16, &u64::MAX.to_be_bytes());
    put(&mut footer, 28, BY_SIZE[0]);
    put(&mut footer, 32, &0xa_0000_u32.to_be_bytes());
    put(&mut footer, 36, b"Wi2k");
    put(&mut footer, 40, &size.to_be_bytes());
    put(&mut footer, 48, &size.to_be_bytes());
    let (cylinders, heads, sectors) = geometry(size);
    put(&mut footer, 56, &cylinders.to_be_bytes());
    put(&mut footer, 58, &[heads, sectors]);
    put(&mut footer, 60, &FIXED.to_be_bytes());
    put(&mut footer, 68, &identifier(disk, "vhd"));
    let sum = checksum(&footer);
    put(&mut footer, 64, &sum.to_be_bytes());
    FlatLayout::plain(size + FOOTER, vec![(size, footer)])
}

/// The complement of the sum of all bytes but those of the checksum itself.
fn checksum(footer: &[u8]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    !(sum(&footer[..64]) + sum(&footer[68..]))
}

/// Checks an image and makes it readable.
pub(super) fn open(file: File) -> Result<RawFile, GateError> {
    let file_length = length_of(&file)?;
    let at = file_length.saturating_sub(FOOTER);
    let footer = read(&file, file_length, "footer", at, FOOTER)?;
    let be32 = |place: usize| {
        let mut word = [0; 4];
        word.copy_from_slice(&footer[place..place + 4]);
        u32::from_be_bytes(word)
    };
    let be64 = |place| u64::from(be32(place)) << 32 | u64::from(be32(place + 4));
    let field = |what, place: usize, wanted: u64, value: u64| {
        super::expect(what, at + place as u64, value, wanted)
    };
    field("cookie", 0, u64::from_be_bytes(*b"conectix"), be64(0))?;
    if be32(64) != checksum(&footer) {
        return Err(GateError::Checksum {
            what: "footer",
            offset: at,
        });
    }
    match be32(60) {
        FIXED => {}
        3 => {
            return Err(GateError::Unsupported {
                what: "dynamic blocks, and only fixed VHDs are read",
            });
        }
        _ => {
            return Err(GateError::Unsupported {
                what: "a parent image",
            });
        }
    }
    field("version", 12, u64::from(VERSION), be32(12).into())?;
    field("data offset", 16, u64::MAX, be64(16))?;
    if footer[84] != 0 {
        return Err(GateError::Unsupported {
            what: "a saved state",
        });
    }
    let size = checked_size(be64(48), MAX_SIZE)?;
    field("size", 48, at, size)?;
    let chs = u64::from(be32(56) >> 16) * u64::from(footer[58]) * u64::from(footer[59]) * 512;
    let by_size = BY_SIZE.iter().any(|app| **app == footer[28..32]);
    let largest = 65535 * 16 * 255 * 512;
    if !by_size && chs != size && chs != largest {
        // Which of both its writer means decides where the disk ends.
        return Err(GateError::Unsupported {
            what: "a geometry of another size than the disk's",
        });
    }
    // Without its footer the file is a raw disk.
    RawFile::prefix(file, size).map_err(|source| GateError::Read {
        what: "file's length",
        offset: 0,
        source,
    })
}
