//! What a new layer is a delta to: of the disks at hand the one that leaves the fewest bytes to be stored.
//! Knows what manifests say of chunks; reads no layer file.

use crate::chain::{DiskMap, DiskReader};
use crate::digest::{Digest, DiskDigest};
use crate::disk::{CHUNK, DiskTree};
use crate::layer::{MAX_DEPTH, Place};
use crate::qcow2::{CHUNKS_PER_TABLE, SECTOR};

/// Which of `disks` has this chunk, and where in its map: the first of those that do.
pub(crate) fn find_chunk(disks: &[DiskReader], index: u64, digest: &Digest) -> Option<(usize, usize)> {
    disks.iter().enumerate().find_map(|(disk, reader)| {
        let chunks = &reader.map().chunks;
        let at = chunks.binary_search_by_key(&index, |found| found.index).ok()?;
        (chunks[at].digest == *digest).then_some((disk, at))
    })
}

/// The disk that the disk `new` is stored against: of several that cost the same the first. There is none where all
/// chains are full, or come to the new disk themselves, which a chain must not do twice.
pub(crate) fn cheapest<'a>(new: &DiskTree, name: &DiskDigest, disks: &'a [DiskReader]) -> Option<&'a DiskMap> {
    let fits = |map: &&DiskMap| {
        map.manifests.len() as u32 <= MAX_DEPTH && map.manifests.iter().all(|manifest| manifest.disk != *name)
    };
    disks.iter().map(DiskReader::map).filter(fits).min_by_key(|map| bytes_over(map, new, disks))
}

/// Bytes that a layer over `base` takes, without those of chunks that none of `disks` has: they cost the same over all.
fn bytes_over(base: &DiskMap, new: &DiskTree, disks: &[DiskReader]) -> u64 {
    let (mut bytes, mut last_table) = (0, None);
    for (index, digest) in new.changes_from(&base.tree) {
        if let Some((disk, at)) = find_chunk(disks, index, &digest) {
            bytes += match disks[disk].map().chunks[at].place {
                Place::Zero => 0,
                Place::Frame { length, .. } => u64::from(length).next_multiple_of(SECTOR),
                Place::Raw { .. } => CHUNK as u64,
            };
        }
        let table = index / CHUNKS_PER_TABLE;
        if last_table.replace(table) != Some(table) {
            bytes += CHUNK as u64;
        }
    }
    bytes
}
