//! Writes a GUID partition table (UEFI specification, 5.3): protective MBR, primary, backup.
//! Knows entries and checksums, not what lies in a partition.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::ids::Uuid;
use crate::disk::guest::SECTOR;
use crate::disk::guest::crc::crc32;

const ENTRIES: usize = 128;
const ENTRY_SIZE: usize = 128;
const HEADER_SIZE: usize = 92;

/// Sectors that a table's entries take.
const ENTRY_SECTORS: u64 = (ENTRIES * ENTRY_SIZE) as u64 / SECTOR;

/// A partition to be entered.
pub(super) struct GptEntry {
    pub(super) kind: Uuid,
    pub(super) uuid: Uuid,
    /// First byte.
    pub(super) start: u64,
    /// Length in bytes.
    pub(super) size: u64,
    /// At most 36 letters.
    pub(super) name: String,
}

/// Writes the table onto an empty disk of `size` bytes; its sectors must be zero where nothing is written.
pub(super) fn write(disk: &File, size: u64, guid: Uuid, partitions: &[GptEntry]) -> io::Result<()> {
    let last = size / SECTOR - 1;
    let entries = entries(partitions);
    disk.write_all_at(&protective_mbr(last), 0)?;
    disk.write_all_at(&header(1, last, 2, last, guid, &entries), SECTOR)?;
    disk.write_all_at(&entries, 2 * SECTOR)?;
    let backup = last - ENTRY_SECTORS;
    disk.write_all_at(&entries, backup * SECTOR)?;
    disk.write_all_at(
        &header(last, 1, backup, last, guid, &entries),
        last * SECTOR,
    )
}

fn entries(partitions: &[GptEntry]) -> Vec<u8> {
    let mut table = vec![0; ENTRIES * ENTRY_SIZE];
    for (bytes, partition) in table.chunks_exact_mut(ENTRY_SIZE).zip(partitions) {
        bytes[..16].copy_from_slice(&partition.kind.guid_bytes());
        bytes[16..32].copy_from_slice(&partition.uuid.guid_bytes());
        bytes[32..40].copy_from_slice(&(partition.start / SECTOR).to_le_bytes());
        bytes[40..48]
            .copy_from_slice(&((partition.start + partition.size) / SECTOR - 1).to_le_bytes());
        for (pair, unit) in bytes[56..]
            .chunks_exact_mut(2)
            .zip(partition.name.encode_utf16())
        {
            pair.copy_from_slice(&unit.to_le_bytes());
        }
    }
    table
}

fn header(
    own: u64,
    other: u64,
    entries_at: u64,
    last: u64,
    guid: Uuid,
    entries: &[u8],
) -> [u8; SECTOR as usize] {
    let mut header = [0; SECTOR as usize];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"EFI PART");
    put(8, &0x0001_0000_u32.to_le_bytes());
    put(12, &(HEADER_SIZE as u32).to_le_bytes());
    put(24, &own.to_le_bytes());
    put(32, &other.to_le_bytes());
    put(40, &(2 + ENTRY_SECTORS).to_le_bytes());
    put(48, &(last - ENTRY_SECTORS - 1).to_le_bytes());
    put(56, &guid.guid_bytes());
    put(72, &entries_at.to_le_bytes());
    put(80, &(ENTRIES as u32).to_le_bytes());
    put(84, &(ENTRY_SIZE as u32).to_le_bytes());
    put(88, &crc32(entries).to_le_bytes());
    let sum = crc32(&header[..HEADER_SIZE]);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    header
}

/// One partition of type 0xee over the whole disk, or as much as 32 bits can say.
fn protective_mbr(last: u64) -> [u8; SECTOR as usize] {
    let mut mbr = [0; SECTOR as usize];
    let entry = &mut mbr[446..462];
    // Cylinder, head and sector of LBA 1, and "beyond what they can say".
    entry[1..4].copy_from_slice(&[0x00, 0x02, 0x00]);
    entry[4] = 0xee;
    entry[5..8].copy_from_slice(&[0xff, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&1_u32.to_le_bytes());
    entry[12..].copy_from_slice(&u32::try_from(last).unwrap_or(u32::MAX).to_le_bytes());
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    mbr
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::guest::{DiskFile, PartitionKind, PartitionTable, read_layout};

    const KIND: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";

    #[test]
    fn our_reader_takes_both_copies() {
        let size = 32 << 20;
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        let (disk, part) = (Uuid([7; 16]), Uuid([9; 16]));
        let entry = GptEntry {
            kind: Uuid::parse(KIND),
            uuid: part,
            start: 1 << 20,
            size: 4 << 20,
            name: "data".to_owned(),
        };
        write(&file, size, disk, &[entry]).unwrap();
        for from_backup in [false, true] {
            if from_backup {
                file.write_all_at(&[0; 512], 512).unwrap();
            }
            let layout = read_layout(&DiskFile::new(file.try_clone().unwrap()).unwrap()).unwrap();
            assert_eq!(
                layout.table,
                PartitionTable::Gpt {
                    guid: disk.to_string(),
                    from_backup
                }
            );
            let [partition] = layout.partitions.as_slice() else {
                panic!("{layout:?}")
            };
            assert_eq!((partition.start, partition.size), (1 << 20, 4 << 20));
            assert_eq!(partition.kind, PartitionKind::Guid(KIND.to_owned()));
            assert_eq!(
                (partition.uuid.clone(), partition.name.as_deref()),
                (part.to_string(), Some("data"))
            );
        }
    }
}
