//! VDI, VirtualBox's format: a header, a table of blocks of 1 MiB, the blocks.
//! Knows VDICore.h and VDI.cpp of VirtualBox, as far as dynamic and fixed images of version 1.1 go.

use std::fs::File;

use super::mapped::{BLOCK, FlatLayout, MappedImage, UNUSED, count};
use super::{
    MAX_SIZE, checked_size, expect, geometry, identifier, le32, le64, length_of, put, read,
};
use crate::digest::DiskDigest;
use crate::qcow2::GateError;

const TEXT: &[u8] = b"<<< Oracle VM VirtualBox Disk Image >>>\n";
const SIGNATURE: u64 = 0xbeda_107f;
const VERSION: u64 = 0x1_0001;
/// Bytes of the header behind signature and version, with and without a second geometry at its end.
const HEADER: u64 = 400;
const SHORT_HEADER: u64 = 384;
const DYNAMIC: u64 = 1;
const FIXED: u64 = 2;
const TABLE_AT: u64 = 512;
/// An entry of a block that nobody wrote, and of one that reads as zeros.
const FREE: u64 = 0xffff_ffff;
const ZERO: u64 = 0xffff_fffe;

/// The file of a disk: dynamic, blocks in the disk's order.
pub(crate) fn layout(disk: &DiskDigest, size: u64, places: Vec<u32>) -> FlatLayout {
    let first = (TABLE_AT + places.len() as u64 * 4).next_multiple_of(BLOCK);
    let mut header = vec![0; 512];
    put(&mut header, 0, TEXT);
    let mut put32 = |at: usize, value: u64| put(&mut header, at, &(value as u32).to_le_bytes());
    put32(64, SIGNATURE);
    put32(68, VERSION);
    put32(72, HEADER);
    put32(76, DYNAMIC);
    put32(340, TABLE_AT);
    put32(344, first);
    put32(360, 512);
    put32(376, BLOCK);
    put32(384, places.len() as u64);
    put32(388, count(&places));
    let (cylinders, heads, sectors) = geometry(size);
    put32(456, u64::from(cylinders));
    put32(460, u64::from(heads));
    put32(464, u64::from(sectors));
    put32(468, 512);
    put(&mut header, 368, &size.to_le_bytes());
    put(&mut header, 392, &identifier(disk, "vdi"));
    put(&mut header, 408, &identifier(disk, "vdi last change"));
    debug_assert_eq!(UNUSED, FREE as u32);
    let table = places
        .iter()
        .flat_map(|place| place.to_le_bytes())
        .collect();
    FlatLayout::blocks(first, places, vec![(0, header), (TABLE_AT, table)])
}

/// Checks an image and makes it readable.
pub(super) fn open(file: File) -> Result<MappedImage, GateError> {
    let file_length = length_of(&file)?;
    let header = read(&file, file_length, "header", 0, 512)?;
    let number = |what, at: usize, wanted| expect(what, at as u64, le32(&header, at), wanted);
    number("signature", 64, SIGNATURE)?;
    number("version", 68, VERSION)?;
    if le32(&header, 72) != SHORT_HEADER {
        number("header's length", 72, HEADER)?;
    }
    if !matches!(le32(&header, 76), DYNAMIC | FIXED) {
        return Err(GateError::Unsupported {
            what: "a kind of VDI other than dynamic and fixed",
        });
    }
    number("flags", 80, 0)?;
    number("sector size", 360, 512)?;
    number("block size", 376, BLOCK)?;
    number("additional data of blocks", 380, 0)?;
    if header[424..456].iter().any(|byte| *byte != 0) {
        return Err(GateError::Unsupported {
            what: "a parent image",
        });
    }
    let size = checked_size(le64(&header, 368), MAX_SIZE)?;
    let blocks = size.div_ceil(BLOCK);
    number("number of blocks", 384, blocks)?;
    let (table_at, first) = (le32(&header, 340), le32(&header, 344));
    if table_at < 512 {
        return Err(GateError::Overlap {
            what: "table of blocks",
            offset: table_at,
        });
    }
    let table = read(&file, file_length, "table of blocks", table_at, blocks * 4)?;
    if first < table_at + blocks * 4 {
        return Err(GateError::Overlap {
            what: "data",
            offset: first,
        });
    }
    let allocated = le32(&header, 388);
    let mut found = Vec::new();
    for block in 0..blocks as usize {
        let place = le32(&table, block * 4);
        if matches!(place, FREE | ZERO) {
            continue;
        }
        if place >= allocated {
            return Err(GateError::Field {
                what: "entry of a block",
                offset: table_at + block as u64 * 4,
                value: place,
            });
        }
        found.push((block as u32, first + place * BLOCK));
    }
    MappedImage::new(file, file_length, (size, BLOCK), first, found)
}
