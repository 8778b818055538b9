//! Partition tables that grow: the last partition's end, the GPT's backup at the new end, the protective MBR's entry.
//! Knows headers, entries and checksums (UEFI specification, 5.2 and 5.3), not what lies in a partition.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use impasto_stages::disk::MIB;

use super::GrowTarget;
use super::error::ResizeError;
use crate::disk::guest::crc::crc32;
use crate::disk::guest::{DiskLayout, PartitionTable, SECTOR};

type Sector = [u8; SECTOR as usize];

// Of a GPT's header.
const SUM: usize = 16;
const OWN: usize = 24;
const OTHER: usize = 32;
const LAST_USABLE: usize = 48;
const ENTRIES_AT: usize = 72;
const ENTRIES_SUM: usize = 88;
/// Of an entry: its last sector.
const LAST: usize = 40;

// Of an MBR: four entries, each with a type, the last sector as cylinder, head, sector, and first sector and count.
const MBR_ENTRIES: usize = 446;
const MBR_ENTRY: usize = 16;
const PROTECTIVE: u8 = 0xee;
/// Beyond what cylinder, head and sector can say.
const FAR: [u8; 3] = [0xfe, 0xff, 0xff];

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from(le32(bytes, at)) | u64::from(le32(bytes, at + 4)) << 32
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn sector(disk: &File, number: u64) -> io::Result<Sector> {
    let mut bytes = [0; SECTOR as usize];
    disk.read_exact_at(&mut bytes, number * SECTOR)?;
    Ok(bytes)
}

/// How many bytes the target can have on a disk of `size` bytes, at least what it has. Its end is aligned as `disk` does it,
/// so that both ways to a size give one layout.
///
/// # Errors
/// The disk cannot be read; within, the table does not allow it.
pub(super) fn room(
    disk: &File,
    size: u64,
    layout: &DiskLayout,
    target: &GrowTarget<'_>,
) -> io::Result<Result<u64, ResizeError>> {
    let whole = size / MIB * MIB;
    let end = match layout.table {
        PartitionTable::None => size,
        // The backup lies behind the last partition.
        PartitionTable::Gpt { .. } => whole.saturating_sub(MIB),
        PartitionTable::Mbr { .. } => {
            if let Err(refused) = check_mbr(&sector(disk, 0)?, target) {
                return Ok(Err(refused));
            }
            whole
        }
    };
    let room = end.saturating_sub(target.start).max(target.size);
    if matches!(layout.table, PartitionTable::Mbr { .. })
        && (target.start + room) / SECTOR > u64::from(u32::MAX)
    {
        return Ok(Err(ResizeError::MbrLimit { size }));
    }
    Ok(Ok(room))
}

/// Gives the target `length` bytes, and the table its places on a disk of `size` bytes. Nothing is written that is right
/// already.
///
/// # Errors
/// The disk cannot be read or written; within, the table is one that is not changed here.
pub(super) fn grow(
    disk: &File,
    size: u64,
    layout: &DiskLayout,
    target: &GrowTarget<'_>,
    length: u64,
) -> io::Result<Result<(), ResizeError>> {
    match layout.table {
        PartitionTable::None => Ok(Ok(())),
        PartitionTable::Gpt { .. } => grow_gpt(disk, size, layout, target, length),
        PartitionTable::Mbr { .. } => {
            if length != target.size {
                let mut mbr = sector(disk, 0)?;
                let at = MBR_ENTRIES + (target.number as usize - 1) * MBR_ENTRY;
                put(&mut mbr, at + 5, &FAR);
                // `room` holds it to 32 bits.
                put(&mut mbr, at + 12, &((length / SECTOR) as u32).to_le_bytes());
                disk.write_all_at(&mbr, 0)?;
            }
            Ok(Ok(()))
        }
    }
}

/// Only a primary partition grows, and no other entry may lie behind it: an extended one is not listed as a partition.
fn check_mbr(mbr: &Sector, target: &GrowTarget<'_>) -> Result<(), ResizeError> {
    let number = target.number;
    if number > 4 {
        return Err(ResizeError::Logical { number });
    }
    let first = |entry: u32| {
        let at = MBR_ENTRIES + (entry as usize - 1) * MBR_ENTRY;
        (mbr[at + 4] != 0).then(|| u64::from(le32(mbr, at + 8)))
    };
    let behind = (1..=4)
        .filter(|entry| *entry != number)
        .find(|entry| first(*entry).is_some_and(|first| first * SECTOR > target.start));
    match behind {
        Some(behind) => Err(ResizeError::BehindExtended { number, behind }),
        None => Ok(()),
    }
}

fn grow_gpt(
    disk: &File,
    size: u64,
    layout: &DiskLayout,
    target: &GrowTarget<'_>,
    length: u64,
) -> io::Result<Result<(), ResizeError>> {
    let mut primary = sector(disk, 1)?;
    let header_size = le32(&primary, 12) as usize;
    let (count, entry_size) = (le32(&primary, 80) as usize, le32(&primary, 84) as usize);
    // The reader held them to bounds when it took the table.
    let mut entries = vec![0; count * entry_size];
    let entries_at = le64(&primary, ENTRIES_AT);
    disk.read_exact_at(&mut entries, entries_at * SECTOR)?;
    let length_of_entries = (entries.len() as u64).div_ceil(SECTOR);
    let last = size / SECTOR - 1;
    let old_backup = le64(&primary, OTHER);
    if old_backup == last && length == target.size {
        return Ok(Ok(()));
    }
    let mut mbr = sector(disk, 0)?;
    if !protect(&mut mbr, last) {
        return Ok(Err(ResizeError::Hybrid));
    }
    let at = (target.number as usize - 1) * entry_size + LAST;
    put(
        &mut entries,
        at,
        &((target.start + length) / SECTOR - 1).to_le_bytes(),
    );
    put(&mut primary, ENTRIES_SUM, &crc32(&entries).to_le_bytes());
    put(&mut primary, OTHER, &last.to_le_bytes());
    let last_usable = last - length_of_entries - 1;
    put(&mut primary, LAST_USABLE, &last_usable.to_le_bytes());
    let mut backup = primary;
    put(&mut backup, OWN, &last.to_le_bytes());
    put(&mut backup, OTHER, &1_u64.to_le_bytes());
    put(&mut backup, ENTRIES_AT, &(last_usable + 1).to_le_bytes());
    for header in [&mut primary, &mut backup] {
        put(header, SUM, &[0; 4]);
        let sum = crc32(&header[..header_size]);
        put(header, SUM, &sum.to_le_bytes());
    }
    if old_backup != last {
        forget(disk, layout, old_backup, length_of_entries)?;
    }
    disk.write_all_at(&mbr, 0)?;
    disk.write_all_at(&primary, SECTOR)?;
    disk.write_all_at(&entries, entries_at * SECTOR)?;
    disk.write_all_at(&entries, (last_usable + 1) * SECTOR)?;
    disk.write_all_at(&backup, last * SECTOR)?;
    Ok(Ok(()))
}

/// Has a protective MBR cover the disk whose last sector is this; false where it lists other partitions. One that protects
/// nothing is left as it is.
fn protect(mbr: &mut Sector, last: u64) -> bool {
    let kinds: [u8; 4] = std::array::from_fn(|entry| mbr[MBR_ENTRIES + entry * MBR_ENTRY + 4]);
    let Some(entry) = kinds.iter().position(|kind| *kind == PROTECTIVE) else {
        return true;
    };
    if kinds.iter().any(|kind| ![0, PROTECTIVE].contains(kind)) {
        return false;
    }
    let at = MBR_ENTRIES + entry * MBR_ENTRY;
    let count = u32::try_from(last).unwrap_or(u32::MAX);
    put(mbr, at + 12, &count.to_le_bytes());
    true
}

/// Zeroes the backup that lies where the partition grows to: somebody might take it for the table.
fn forget(disk: &File, layout: &DiskLayout, backup: u64, length: u64) -> io::Result<()> {
    let end = disk.metadata()?.len() / SECTOR;
    let Some(first) = backup.checked_sub(length).filter(|_| backup < end) else {
        return Ok(());
    };
    let (start, end) = (first * SECTOR, (backup + 1) * SECTOR);
    let inside = layout
        .partitions
        .iter()
        .any(|one| one.start < end && start < one.start + one.size);
    if inside || &sector(disk, backup)?[..8] != b"EFI PART" {
        return Ok(());
    }
    disk.write_all_at(&vec![0; (end - start) as usize], start)
}
