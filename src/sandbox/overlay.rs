//! Makes the empty overlay that a job writes into.
//!
//! Knows the header of an empty qcow2 (QEMU's docs/interop/qcow2), nothing of layers.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

const CLUSTER: u64 = 65536;

/// Guest bytes that one entry of the first table covers.
const PER_L1_ENTRY: u64 = CLUSTER / 8 * CLUSTER;

/// Writes a new, empty qcow2 (version 3, 64 KiB clusters) without a backing file.
pub(super) fn create(path: &Path, virtual_size: u64) -> io::Result<()> {
    let l1_entries = virtual_size.div_ceil(PER_L1_ENTRY).max(1);
    let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER);
    // Header, table of refcounts, one block of them, first table.
    let used = 3 + l1_clusters;
    let l1_entries = u32::try_from(l1_entries).map_err(|_| io::ErrorKind::InvalidInput)?;
    if used > CLUSTER / 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut header = Vec::new();
    header.extend(b"QFI\xfb");
    header.extend(3_u32.to_be_bytes());
    header.extend(0_u64.to_be_bytes()); // backing file
    header.extend(0_u32.to_be_bytes());
    header.extend(16_u32.to_be_bytes()); // cluster bits
    header.extend(virtual_size.to_be_bytes());
    header.extend(0_u32.to_be_bytes()); // encryption
    header.extend(l1_entries.to_be_bytes());
    header.extend((3 * CLUSTER).to_be_bytes());
    header.extend(CLUSTER.to_be_bytes()); // refcount table
    header.extend(1_u32.to_be_bytes());
    header.extend([0; 12]); // snapshots
    header.extend([0; 24]); // features
    header.extend(4_u32.to_be_bytes()); // 16-bit refcounts
    header.extend(112_u32.to_be_bytes());
    header.extend([0; 8]); // compression type, padding
    header.resize(CLUSTER as usize, 0);
    header.extend((2 * CLUSTER).to_be_bytes());
    header.resize(2 * CLUSTER as usize, 0);
    for _ in 0..used {
        header.extend(1_u16.to_be_bytes());
    }
    header.resize(3 * CLUSTER as usize, 0);
    let mut file = File::create_new(path)?;
    file.write_all(&header)?;
    file.set_len(used * CLUSTER)
}
