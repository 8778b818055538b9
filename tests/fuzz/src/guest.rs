//! Bytes as a guest's disk: partition table, superblocks, free blocks.

use impasto::disk::guest::{
    RootSelector, choose_root, read_file_system, read_layout, unused, unused_of,
};

/// Must never panic, whatever the bytes are.
pub fn run(data: &[u8]) {
    if let Ok(layout) = read_layout(data) {
        let _ = choose_root(&layout, &RootSelector::Auto);
        for partition in &layout.partitions {
            let _ = unused_of(data, &layout, partition.number);
        }
    }
    let _ = read_file_system(data);
    let _ = unused(data);
}
