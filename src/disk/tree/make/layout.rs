//! How a disk is divided: its partitions, and the areas that are compared by their bytes.

use std::io;
use std::ops::Range;

use super::{BOOT_BLOCK, BaseIndex};
use crate::disk::guest::{self, DiskLayout, FsKind, OverlayView, PartitionKind};
use crate::disk::tree::{Area, TableIdentity, TreePartition, content};

/// A partition that holds no other, or the disk itself.
pub(super) struct Leaf {
    pub(super) number: u32,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) kind: Option<FsKind>,
}

/// Ascending by start, apart: where partitions overlap, the later one is left to the area before it.
pub(super) fn leaves(layout: &DiskLayout, size: u64) -> Vec<Leaf> {
    if let Some(fs) = &layout.bare {
        return vec![Leaf {
            number: 0,
            start: 0,
            end: size,
            kind: Some(fs.kind),
        }];
    }
    let mut leaves: Vec<Leaf> = layout
        .partitions
        .iter()
        .filter(|one| {
            let holds = |other: &guest::Partition| {
                other.number != one.number
                    && other.start > one.start
                    && other.start < one.start.saturating_add(one.size)
            };
            !layout.partitions.iter().any(holds)
        })
        .map(|one| Leaf {
            number: one.number,
            start: one.start.min(size),
            end: one.start.saturating_add(one.size).min(size),
            kind: one.fs.as_ref().map(|fs| fs.kind),
        })
        .collect();
    leaves.sort_by_key(|leaf| leaf.start);
    let mut end = 0;
    leaves.retain(|leaf| {
        let apart = leaf.start >= end && leaf.end - leaf.start >= BOOT_BLOCK;
        end = if apart { leaf.end } else { end };
        apart
    });
    leaves
}

pub(super) fn table(layout: &DiskLayout) -> TableIdentity {
    match &layout.table {
        guest::PartitionTable::None => TableIdentity::None,
        guest::PartitionTable::Gpt { guid, .. } => TableIdentity::Gpt(guid.clone()),
        guest::PartitionTable::Mbr { signature } => TableIdentity::Mbr(*signature),
    }
}

pub(super) fn partition(partition: &guest::Partition) -> TreePartition {
    let kind = match &partition.kind {
        PartitionKind::Guid(guid) => guid.clone(),
        PartitionKind::Mbr(byte) => format!("{byte:02x}"),
    };
    let guest::Partition {
        number,
        start,
        size,
        uuid,
        name,
        ..
    } = partition;
    TreePartition {
        number: *number,
        start: *start,
        size: *size,
        kind,
        uuid: uuid.clone(),
        name: name.clone().unwrap_or_default(),
    }
}

pub(super) fn area(
    disk: &OverlayView<'_>,
    below: Option<&BaseIndex<'_>>,
    partition: Option<u32>,
    range: Range<u64>,
) -> io::Result<Option<Area>> {
    let (start, size) = (range.start, range.end.saturating_sub(range.start));
    let same = |area: &&Area| (area.partition, area.start, area.size) == (partition, start, size);
    if let Some(known) = below.and_then(|below| below.tree.areas.iter().find(same))
        && !disk.is_written(range)
    {
        return Ok(Some(known.clone()));
    }
    Ok(content::of_range(disk, start, size)?.map(|content| Area {
        partition,
        start,
        size,
        content,
    }))
}
