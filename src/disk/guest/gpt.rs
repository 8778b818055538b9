//! Reads a GUID partition table (UEFI specification, 5.3).
//!
//! Knows headers, checksums and entries, not what lies in a partition.

use std::io;

use super::crc::crc32;
use super::{
    MAX_PARTITIONS, Partition, PartitionKind, PartitionTable, ReadAt, SECTOR, bytes_at, le32, le64,
    text, uuid_text,
};

const SIGNATURE: &[u8; 8] = b"EFI PART";

/// Entries may be larger than 128 bytes by the specification; nobody makes them so, and this bounds what is read.
const MAX_ENTRY_SIZE: u32 = 1024;

/// The table and its partitions; the backup at the disk's end is used where the primary is damaged.
pub(super) fn read<D: ReadAt + ?Sized>(
    disk: &D,
) -> io::Result<Option<(PartitionTable, Vec<Partition>)>> {
    let sectors = disk.size() / SECTOR;
    if sectors < 6 {
        return Ok(None);
    }
    for (lba, from_backup) in [(1, false), (sectors - 1, true)] {
        if let Some((guid, partitions)) = read_at(disk, lba, sectors)? {
            return Ok(Some((
                PartitionTable::Gpt { guid, from_backup },
                partitions,
            )));
        }
    }
    Ok(None)
}

fn read_at<D: ReadAt + ?Sized>(
    disk: &D,
    lba: u64,
    sectors: u64,
) -> io::Result<Option<(String, Vec<Partition>)>> {
    let mut header = [0; SECTOR as usize];
    disk.read_exact_at(&mut header, lba * SECTOR)?;
    let header_size = le32(&header, 12) as usize;
    if &header[..8] != SIGNATURE
        || !(92..=header.len()).contains(&header_size)
        || le64(&header, 24) != lba
    {
        return Ok(None);
    }
    let stored = le32(&header, 16);
    let mut summed = header;
    summed[16..20].fill(0);
    if crc32(&summed[..header_size]) != stored {
        return Ok(None);
    }
    let (entries_lba, count, entry_size) =
        (le64(&header, 72), le32(&header, 80), le32(&header, 84));
    if !(128..=MAX_ENTRY_SIZE).contains(&entry_size) || count as usize > 4 * MAX_PARTITIONS {
        return Ok(None);
    }
    let mut entries = vec![0; count as usize * entry_size as usize];
    let Some(start) = entries_lba.checked_mul(SECTOR) else {
        return Ok(None);
    };
    if start
        .checked_add(entries.len() as u64)
        .is_none_or(|end| end > disk.size())
    {
        return Ok(None);
    }
    disk.read_exact_at(&mut entries, start)?;
    if crc32(&entries) != le32(&header, 88) {
        return Ok(None);
    }
    let partitions = (1..)
        .zip(entries.chunks_exact(entry_size as usize))
        .filter_map(|(number, entry)| partition(number, entry, sectors))
        .take(MAX_PARTITIONS)
        .collect();
    Ok(Some((guid_text(&header, 56), partitions)))
}

/// An entry that is used and lies on the disk.
fn partition(number: u32, entry: &[u8], sectors: u64) -> Option<Partition> {
    let (first, last) = (le64(entry, 32), le64(entry, 40));
    if entry[..16] == [0; 16] || first > last || last >= sectors || first == 0 {
        return None;
    }
    let name: Vec<u16> = entry[56..128]
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    Some(Partition {
        number,
        start: first * SECTOR,
        size: (last - first + 1) * SECTOR,
        kind: PartitionKind::Guid(guid_text(entry, 0)),
        uuid: guid_text(entry, 16),
        name: text(String::from_utf16_lossy(&name).as_bytes()),
        fs: None,
    })
}

/// A GUID: its first three fields are little-endian.
fn guid_text(bytes: &[u8], at: usize) -> String {
    let mut guid: [u8; 16] = bytes_at(bytes, at);
    guid[..4].reverse();
    guid[4..6].reverse();
    guid[6..8].reverse();
    uuid_text(&guid)
}
