//! The empty overlay that a stage's changes are written into.
//! Knows no backing file: whoever opens the overlay says what lies below it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::error::WriteError;
use super::header::{self, Compression, Header, MAX_VIRTUAL_SIZE};
use super::{CHUNK, SECTOR};

const CLUSTER: u64 = CHUNK as u64;

/// Makes `file` an empty qcow2: version 3, clusters of one chunk, nothing allocated, no backing field.
///
/// The file must be empty and open for writing; it is not synced. `virtual_size` is in bytes, a multiple of 512.
/// `qemu-storage-daemon` opens it read-write over an explicit backing node.
pub fn create_overlay(file: &File, virtual_size: u64) -> Result<(), WriteError> {
    if virtual_size > MAX_VIRTUAL_SIZE || !virtual_size.is_multiple_of(SECTOR) {
        return Err(WriteError::VirtualSize { virtual_size });
    }
    // header | refcount table | refcount block | L1 table
    let mut header = Header {
        version: 3,
        cluster_bits: CLUSTER.trailing_zeros(),
        virtual_size,
        l1_entries: 0,
        l1_offset: 3 * CLUSTER,
        refcount_table_offset: CLUSTER,
        refcount_table_clusters: 1,
        refcount_order: 4,
        compression: Compression::Deflate,
        header_length: 0,
    };
    header.l1_entries = header.l1_needed().max(1);
    // At most 16 clusters of L1: one refcount block, which has room for 32,768, is always enough.
    let clusters = 3 + (header.l1_entries * 8).div_ceil(CLUSTER);
    let refcounts = [0, 1].repeat(clusters as usize);
    let write = |offset: u64, bytes: &[u8]| {
        file.write_all_at(bytes, offset)
            .map_err(|source| WriteError::Write {
                offset,
                length: bytes.len() as u64,
                source,
            })
    };
    let length = clusters * CLUSTER;
    file.set_len(length).map_err(|source| WriteError::Write {
        offset: 0,
        length,
        source,
    })?;
    write(CLUSTER, &(2 * CLUSTER).to_be_bytes())?;
    write(2 * CLUSTER, &refcounts)?;
    write(0, &header::build(&header))
}
