//! Reads a DOS partition table with its chain of logical partitions.
//!
//! Knows sectors and type bytes, not what lies in a partition.

use std::io;

use super::{MAX_PARTITIONS, Partition, PartitionKind, PartitionTable, ReadAt, SECTOR, le32};

/// Type bytes that hold a chain of logical partitions.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// Type byte of the one entry that protects a GPT; such a table is not an MBR.
const PROTECTIVE: u8 = 0xee;

struct MbrEntry {
    kind: u8,
    first: u64,
    count: u64,
}

fn entries(sector: &[u8; 512]) -> Option<[MbrEntry; 4]> {
    (sector[510..] == [0x55, 0xaa]).then(|| {
        std::array::from_fn(|index| {
            let at = 446 + 16 * index;
            MbrEntry {
                kind: sector[at + 4],
                first: u64::from(le32(sector, at + 8)),
                count: u64::from(le32(sector, at + 12)),
            }
        })
    })
}

/// The table and its partitions, `None` where there is none.
pub(super) fn read<D: ReadAt + ?Sized>(
    disk: &D,
) -> io::Result<Option<(PartitionTable, Vec<Partition>)>> {
    let sectors = disk.size() / SECTOR;
    let mut sector = [0; 512];
    if sectors < 2 {
        return Ok(None);
    }
    disk.read_exact_at(&mut sector, 0)?;
    let Some(primary) = entries(&sector) else {
        return Ok(None);
    };
    let signature = le32(&sector, 440);
    let mut partitions = Vec::new();
    let mut chain = None;
    for (number, entry) in (1..).zip(&primary) {
        if entry.kind == PROTECTIVE || !fits(entry.first, entry.count, sectors) && entry.kind != 0 {
            return Ok(None);
        }
        match entry.kind {
            0 => {}
            kind if EXTENDED.contains(&kind) => chain = chain.or(Some((entry.first, entry.count))),
            _ => partitions.push(partition(number, entry, 0, signature)),
        }
    }
    if let Some((start, count)) = chain {
        read_logical(disk, start, count, signature, &mut partitions)?;
    }
    Ok((!partitions.is_empty()).then_some((PartitionTable::Mbr { signature }, partitions)))
}

/// Follows the chain inside the extended partition. A chain must go forward, so it ends.
fn read_logical<D: ReadAt + ?Sized>(
    disk: &D,
    start: u64,
    count: u64,
    signature: u32,
    partitions: &mut Vec<Partition>,
) -> io::Result<()> {
    let mut at = start;
    let mut sector = [0; 512];
    for number in 5.. {
        disk.read_exact_at(&mut sector, at * SECTOR)?;
        let Some([logical, next, ..]) = entries(&sector) else {
            return Ok(());
        };
        if logical.kind != 0 {
            if partitions.len() >= MAX_PARTITIONS
                || !fits(at - start + logical.first, logical.count, count)
            {
                return Ok(());
            }
            partitions.push(partition(number, &logical, at, signature));
        }
        if !EXTENDED.contains(&next.kind) || start + next.first <= at || next.first >= count {
            return Ok(());
        }
        at = start + next.first;
    }
    Ok(())
}

fn fits(first: u64, count: u64, sectors: u64) -> bool {
    first > 0 && count > 0 && first + count <= sectors
}

fn partition(number: u32, entry: &MbrEntry, base: u64, signature: u32) -> Partition {
    Partition {
        number,
        start: (base + entry.first) * SECTOR,
        size: entry.count * SECTOR,
        kind: PartitionKind::Mbr(entry.kind),
        uuid: format!("{signature:08x}-{number:02x}"),
        name: None,
        fs: None,
    }
}
