//! Writes the header of a swap space (mkswap(8), include/linux/swap.h): one page, the rest is free.
//! Knows its fields only.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::error::AssembleError;
use super::partitions::{DiskIdentity, PlannedPartition};

/// Page size of the machines that disks are made for, in bytes.
const PAGE: usize = 4096;

/// Makes a partition a swap space.
pub(super) fn make(
    disk: &File,
    part: &PlannedPartition,
    label: Option<&str>,
) -> Result<(), AssembleError> {
    let DiskIdentity::Uuid { uuid, .. } = part.identity else {
        panic!("BUG: a swap space without UUID")
    };
    let mut page = [0; PAGE];
    page[1024..1028].copy_from_slice(&1_u32.to_le_bytes());
    let last = u32::try_from(part.size / PAGE as u64 - 1).unwrap_or(u32::MAX);
    page[1028..1032].copy_from_slice(&last.to_le_bytes());
    page[1036..1052].copy_from_slice(&uuid.0);
    let label = label.unwrap_or_default().as_bytes();
    page[1052..1052 + label.len()].copy_from_slice(label);
    page[PAGE - 10..].copy_from_slice(b"SWAPSPACE2");
    disk.write_all_at(&page, part.start)
        .map_err(AssembleError::io("write", "the disk"))
}
