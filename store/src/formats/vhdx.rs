//! VHDX, Hyper-V's format: headers, region tables, metadata, a block allocation table, blocks.
//! Knows [MS-VHDX] revision 8, as far as dynamic and fixed disks go that were closed: a log is not replayed.

use std::fs::File;

use super::mapped::{BLOCK, FlatLayout, MappedImage, UNUSED};
use super::{
    MAX_SIZE, checked_size, expect, guid, identifier, le16, le32, le64, length_of, put, read,
};
use crate::digest::DiskDigest;
use crate::qcow2::GateError;

const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;

// 2.2: the header section.
const HEADERS_AT: [u64; 2] = [64 * KIB, 128 * KIB];
const HEADER: u64 = 4 * KIB;
const REGIONS_AT: [u64; 2] = [192 * KIB, 256 * KIB];
const REGIONS: u64 = 64 * KIB;
// What follows it in a file that is written here, in this order.
const LOG_AT: u64 = MIB;
const METADATA_AT: u64 = 2 * MIB;
const TABLE_AT: u64 = 3 * MIB;

/// 2.6: items begin behind the metadata table.
const ITEMS_AT: u64 = 64 * KIB;
const SECTOR: u64 = 512;
/// 2.5.1.1: a block that is there whole. Not there, undefined, zero and unmapped ones read as zeros.
const PRESENT: u64 = 6;
const ABSENT: [u64; 4] = [0, 1, 2, 3];

const BAT: [u8; 16] = uuid(0x2dc27766_f623_4200_9d64_115e9bfd4a08);
const METADATA: [u8; 16] = uuid(0x8b7ca206_4790_4b9a_b8fe_575f050f886e);
const FILE_PARAMETERS: [u8; 16] = uuid(0xcaa16737_fa36_4d43_b3b6_33f0aa44e76b);
const DISK_SIZE: [u8; 16] = uuid(0x2fa54224_cd1b_4876_b211_5dbed83bf4b8);
const DISK_ID: [u8; 16] = uuid(0xbeca12ab_b2e6_4523_93ef_c309e000c746);
const LOGICAL_SECTOR: [u8; 16] = uuid(0x8141bf1d_a96f_4709_ba47_f233a8faab5f);
const PHYSICAL_SECTOR: [u8; 16] = uuid(0xcda348c7_445d_4471_9cc9_e9885251c556);

const fn uuid(value: u128) -> [u8; 16] {
    guid(value.to_be_bytes())
}

/// 2.5.1: so many blocks of the disk, then the entry of a sector bitmap, which only disks with parents have.
const fn blocks_per_bitmap(block: u64) -> u64 {
    (1 << 23) * SECTOR / block
}

/// The file of a disk: dynamic, blocks of 1 MiB in the disk's order, an empty log.
pub(crate) fn layout(disk: &DiskDigest, size: u64, places: Vec<u32>) -> FlatLayout {
    let per = blocks_per_bitmap(BLOCK) as usize;
    let entries = places.len() + places.len().saturating_sub(1) / per;
    let table_length = (entries as u64 * 8).next_multiple_of(MIB);
    let first = TABLE_AT + table_length;
    let mut table = vec![0; entries * 8];
    for (block, place) in places.iter().enumerate() {
        if *place != UNUSED {
            let entry = PRESENT | (first + u64::from(*place) * BLOCK);
            put(&mut table, (block + block / per) * 8, &entry.to_le_bytes());
        }
    }
    let mut parts = vec![(0, creator()), (METADATA_AT, metadata(disk, size))];
    for (at, sequence) in HEADERS_AT.into_iter().zip([1, 2]) {
        parts.push((at, header(disk, sequence)));
    }
    for at in REGIONS_AT {
        parts.push((at, regions(table_length)));
    }
    parts.push((TABLE_AT, table));
    FlatLayout::blocks(first, places, parts)
}

fn creator() -> Vec<u8> {
    let mut bytes = b"vhdxfile".to_vec();
    bytes.extend("impasto".encode_utf16().flat_map(u16::to_le_bytes));
    bytes
}

fn header(disk: &DiskDigest, sequence: u64) -> Vec<u8> {
    let mut bytes = vec![0; HEADER as usize];
    put(&mut bytes, 0, b"head");
    put(&mut bytes, 8, &sequence.to_le_bytes());
    put(&mut bytes, 16, &identifier(disk, "vhdx file"));
    put(&mut bytes, 32, &identifier(disk, "vhdx data"));
    put(&mut bytes, 66, &1_u16.to_le_bytes());
    put(&mut bytes, 68, &(MIB as u32).to_le_bytes());
    put(&mut bytes, 72, &LOG_AT.to_le_bytes());
    sealed(bytes)
}

fn regions(table_length: u64) -> Vec<u8> {
    let mut bytes = vec![0; REGIONS as usize];
    put(&mut bytes, 0, b"regi");
    put(&mut bytes, 8, &2_u32.to_le_bytes());
    let regions = [(BAT, TABLE_AT, table_length), (METADATA, METADATA_AT, MIB)];
    for (index, (id, at, length)) in regions.into_iter().enumerate() {
        let entry = 16 + index * 32;
        put(&mut bytes, entry, &id);
        put(&mut bytes, entry + 16, &at.to_le_bytes());
        put(&mut bytes, entry + 24, &(length as u32).to_le_bytes());
        put(&mut bytes, entry + 28, &1_u32.to_le_bytes());
    }
    sealed(bytes)
}

fn metadata(disk: &DiskDigest, size: u64) -> Vec<u8> {
    // Flags: 2 of the disk rather than the file, 4 must be understood.
    let mut parameters = [0; 8];
    put(&mut parameters, 0, &(BLOCK as u32).to_le_bytes());
    let sector = (SECTOR as u32).to_le_bytes();
    let items: [([u8; 16], u32, &[u8]); 5] = [
        (FILE_PARAMETERS, 4, &parameters),
        (DISK_SIZE, 6, &size.to_le_bytes()),
        (DISK_ID, 6, &identifier(disk, "vhdx disk")),
        (LOGICAL_SECTOR, 6, &sector),
        (PHYSICAL_SECTOR, 6, &sector),
    ];
    let mut bytes = vec![0; ITEMS_AT as usize];
    put(&mut bytes, 0, b"metadata");
    put(&mut bytes, 10, &(items.len() as u16).to_le_bytes());
    for (index, (id, flags, value)) in items.into_iter().enumerate() {
        let entry = 32 + index * 32;
        let at = bytes.len() as u32;
        put(&mut bytes, entry, &id);
        put(&mut bytes, entry + 16, &at.to_le_bytes());
        put(&mut bytes, entry + 20, &(value.len() as u32).to_le_bytes());
        put(&mut bytes, entry + 24, &flags.to_le_bytes());
        bytes.extend_from_slice(value);
    }
    bytes
}

/// Puts the checksum into a structure that has room for it behind its four bytes of signature.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = crc32c(&bytes);
    put(&mut bytes, 4, &sum.to_le_bytes());
    bytes
}

/// Whether a structure has its signature, and the checksum of its bytes.
fn is_sealed(bytes: &[u8], signature: &[u8; 4]) -> bool {
    let mut cleared = bytes.to_vec();
    cleared[4..8].fill(0);
    bytes.starts_with(signature) && le32(bytes, 4) == u64::from(crc32c(&cleared))
}

/// CRC-32C (Castagnoli), bit by bit through a table of sixteen: structures of 64 KiB at most.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0; 16];
        let mut index = 0;
        while index < 16 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 4 {
                value = if value & 1 == 1 {
                    value >> 1 ^ 0x82f6_3b78
                } else {
                    value >> 1
                };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    let nibble = |sum: u32, value: u8| sum >> 4 ^ TABLE[((sum ^ u32::from(value)) & 15) as usize];
    !bytes
        .iter()
        .fold(!0, |sum, byte| nibble(nibble(sum, *byte), byte >> 4))
}

/// A region of the file.
#[derive(Clone, Copy)]
struct Region {
    at: u64,
    length: u64,
}

/// Checks an image and makes it readable.
pub(super) fn open(file: File) -> Result<MappedImage, GateError> {
    let file_length = length_of(&file)?;
    let id = read(&file, file_length, "identifier", 0, 8)?;
    if id != b"vhdxfile" {
        return Err(GateError::Field {
            what: "identifier",
            offset: 0,
            value: le64(&id, 0),
        });
    }
    check_header(&file, file_length)?;
    let (table, metadata) = find_regions(&file, file_length)?;
    let (size, block) = read_metadata(&file, file_length, metadata)?;
    let blocks = size.div_ceil(block);
    let per = blocks_per_bitmap(block);
    let entries = blocks + (blocks - 1) / per;
    if table.length < entries * 8 {
        return Err(GateError::TooSmall {
            what: "block allocation table",
            value: table.length,
            minimum: entries * 8,
        });
    }
    let bytes = read(
        &file,
        file_length,
        "block allocation table",
        table.at,
        entries * 8,
    )?;
    let mut found = Vec::new();
    for index in 0..blocks {
        let at = (index + index / per) as usize * 8;
        let entry = le64(&bytes, at);
        let (state, offset) = (entry & 7, entry & !(MIB - 1));
        let reserved = entry & (MIB - 1) & !7;
        if reserved != 0 || state != PRESENT && !ABSENT.contains(&state) {
            return Err(GateError::Field {
                what: "entry of a block",
                offset: table.at + at as u64,
                value: entry,
            });
        }
        if state == PRESENT {
            for region in [table, metadata] {
                if offset < region.at + region.length && region.at < offset.saturating_add(block) {
                    return Err(GateError::Overlap {
                        what: "block",
                        offset,
                    });
                }
            }
            found.push((index as u32, offset));
        }
    }
    MappedImage::new(file, file_length, (size, block), MIB, found)
}

/// The header in force: it must say that there is no log to replay.
fn check_header(file: &File, file_length: u64) -> Result<(), GateError> {
    let mut current: Option<(u64, Vec<u8>)> = None;
    for at in HEADERS_AT {
        let bytes = read(file, file_length, "header", at, HEADER)?;
        let newer = |(_, other): &(u64, Vec<u8>)| le64(&bytes, 8) > le64(other, 8);
        if is_sealed(&bytes, b"head") && current.as_ref().is_none_or(newer) {
            current = Some((at, bytes));
        }
    }
    let Some((at, header)) = current else {
        return Err(GateError::Checksum {
            what: "headers",
            offset: HEADERS_AT[0],
        });
    };
    expect("version", at + 66, le16(&header, 66), 1)?;
    if header[48..64].iter().any(|byte| *byte != 0) {
        return Err(GateError::Unsupported {
            what: "a log to be replayed: it was not closed",
        });
    }
    Ok(())
}

/// The block allocation table and the metadata.
fn find_regions(file: &File, file_length: u64) -> Result<(Region, Region), GateError> {
    let mut valid = None;
    for at in REGIONS_AT {
        let bytes = read(file, file_length, "region table", at, REGIONS)?;
        if is_sealed(&bytes, b"regi") {
            valid = Some((at, bytes));
            break;
        }
    }
    let Some((at, bytes)) = valid else {
        return Err(GateError::Checksum {
            what: "region tables",
            offset: REGIONS_AT[0],
        });
    };
    // 2.2.3: both regions are there once; another one that need not be understood is nothing to a reader.
    let count = le32(&bytes, 8);
    if count > 2047 {
        return Err(GateError::TooLarge {
            what: "the number of regions",
            value: count,
            limit: 2047,
        });
    }
    let (mut table, mut metadata) = (None, None);
    for entry in (0..count as usize).map(|index| 16 + index * 32) {
        let region = Region {
            at: le64(&bytes, entry + 16),
            length: le32(&bytes, entry + 24),
        };
        let known = match &bytes[entry..entry + 16] {
            id if *id == BAT => Some(&mut table),
            id if *id == METADATA => Some(&mut metadata),
            _ => None,
        };
        let offset = at + entry as u64;
        match known {
            Some(slot) if slot.is_none() => *slot = Some(region),
            None if bytes[entry + 28] & 1 == 0 => {}
            _ => {
                return Err(GateError::Field {
                    what: "region",
                    offset,
                    value: le64(&bytes, entry),
                });
            }
        }
        if region.at < MIB || !region.at.is_multiple_of(MIB) || region.length == 0 {
            return Err(GateError::Misaligned {
                what: "region",
                offset: region.at,
                alignment: MIB,
            });
        }
        if region.at.saturating_add(region.length) > file_length {
            return Err(GateError::OutOfBounds {
                what: "region",
                offset: region.at,
                length: region.length,
                file_length,
            });
        }
    }
    match (table, metadata) {
        (Some(table), Some(metadata))
            if table.at + table.length <= metadata.at
                || metadata.at + metadata.length <= table.at =>
        {
            Ok((table, metadata))
        }
        (Some(table), Some(_)) => Err(GateError::Overlap {
            what: "region",
            offset: table.at,
        }),
        _ => Err(GateError::TooSmall {
            what: "the number of regions",
            value: count,
            minimum: 2,
        }),
    }
}

/// Bytes of the disk and of a block.
fn read_metadata(file: &File, file_length: u64, region: Region) -> Result<(u64, u64), GateError> {
    let table = read(file, file_length, "metadata", region.at, ITEMS_AT)?;
    if !table.starts_with(b"metadata") {
        return Err(GateError::Field {
            what: "metadata",
            offset: region.at,
            value: le64(&table, 0),
        });
    }
    let count = le16(&table, 10);
    if count > 2047 {
        return Err(GateError::TooLarge {
            what: "the number of items of metadata",
            value: count,
            limit: 2047,
        });
    }
    let (mut parameters, mut size, mut sector) = (None, None, None);
    for entry in (0..count as usize).map(|index| 32 + index * 32) {
        let (at, length) = (le32(&table, entry + 16), le32(&table, entry + 20));
        let (slot, wanted) = match &table[entry..entry + 16] {
            id if *id == FILE_PARAMETERS => (Some(&mut parameters), 8),
            id if *id == DISK_SIZE => (Some(&mut size), 8),
            id if *id == LOGICAL_SECTOR => (Some(&mut sector), 4),
            id if *id == DISK_ID || *id == PHYSICAL_SECTOR => (None, 0),
            _ if table[entry + 24] & 4 == 0 => (None, 0),
            _ => {
                return Err(GateError::Field {
                    what: "item of metadata",
                    offset: region.at + entry as u64,
                    value: le64(&table, entry),
                });
            }
        };
        let Some(slot) = slot else { continue };
        if at < ITEMS_AT || at + length > region.length || length != wanted || slot.is_some() {
            return Err(GateError::Field {
                what: "place of an item of metadata",
                offset: region.at + entry as u64 + 16,
                value: at,
            });
        }
        let mut value = read(
            file,
            file_length,
            "item of metadata",
            region.at + at,
            length,
        )?;
        value.resize(8, 0);
        *slot = Some(le64(&value, 0));
    }
    let missing = || GateError::TooSmall {
        what: "the number of items of metadata",
        value: count,
        minimum: 5,
    };
    let parameters = parameters.ok_or_else(missing)?;
    let size = size.ok_or_else(missing)?;
    expect(
        "sector size",
        region.at,
        sector.ok_or_else(missing)?,
        SECTOR,
    )?;
    if parameters >> 32 & 2 != 0 {
        return Err(GateError::Unsupported {
            what: "a parent image",
        });
    }
    let block = parameters & u64::from(u32::MAX);
    if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&block) {
        return Err(GateError::Field {
            what: "block size",
            offset: region.at,
            value: block,
        });
    }
    Ok((checked_size(size, MAX_SIZE)?, block))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
