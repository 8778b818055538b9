//! What a new layer is a delta to: a layer of one of the chains at hand, so that few bytes are stored, now and later.
//! Knows what manifests say of chunks; reads no layer file.
//!
//! A chain holds [`MAX_DEPTH`] layers above its bottom. While there is room, the base that leaves the fewest bytes is taken.
//! A full chain is squashed: its upper layers and the new one become one. Squashing to the bottom would store again all that
//! the chain differs from it by, for every few edits; squashing two layers makes room for only one. So of all places to cut
//! it, the one is taken at which
//!
//! ```text
//! bytes of the new layer / bytes of the layers that it replaces, its own content among them, without the largest
//! ```
//!
//! is least: layers of about the same size become one, and a large one below small ones stays as it is. A byte that is stored
//! again lies in a layer of at least twice the size afterwards, or beside the largest; so after *n* edits of equal size
//! each byte was written about log *n* times: 1.8 times after 60 edits, 5 times after 1,000, 7 times after 100,000.

use std::collections::HashMap;

use crate::chain::DiskReader;
use crate::digest::{Digest, DiskDigest};
use crate::disk::{CHUNK, DiskTree, chunk_count};
use crate::layer::{ChunkLocation, MAX_DEPTH, Manifest};
use crate::qcow2::SECTOR;

/// What a file system allocates at least, in bytes.
const BLOCK: u64 = 4096;
/// What any layer takes beside its chunks: header, first table, reference counts (table and block), and the manifest.
const FIXED: u64 = 5 * BLOCK;
/// What a chunk takes in the manifest: its digest, and about as much as that for index, length and offset.
const ENTRY: u64 = 40;
/// Chunks that one block of the second tables is about.
const CHUNKS_PER_BLOCK: u64 = BLOCK / 8;
/// What a chunk is taken to be stored as of which nothing is known.
const UNKNOWN: u64 = CHUNK as u64 / 2;

/// A place in a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Base {
    /// Which of the disks at hand.
    pub(crate) disk: usize,
    /// How many layers of its chain, from the bottom; with none of them the new layer is a delta to nothing.
    pub(crate) layers: usize,
}

/// Which of `disks` has this chunk, and where in its map: the first of those that do.
pub(crate) fn find_chunk(
    disks: &[DiskReader],
    index: u64,
    digest: &Digest,
) -> Option<(usize, usize)> {
    disks.iter().enumerate().find_map(|(disk, reader)| {
        let chunks = &reader.map().chunks;
        let at = chunks
            .binary_search_by_key(&index, |found| found.index)
            .ok()?;
        (chunks[at].digest == *digest).then_some((disk, at))
    })
}

/// What the disk `new` is stored as a delta to. Of several places that cost the same it is the one with the shortest chain.
pub(crate) fn choose(new: &DiskTree, name: &DiskDigest, disks: &[DiskReader]) -> Base {
    let sizes: HashMap<_, _> = new
        .leaves()
        .iter()
        .map(|(index, digest)| (*index, bytes_of(disks, *index, digest)))
        .collect();
    let place = |(disk, reader): (usize, &DiskReader)| {
        let (bytes, layers) = place(
            &reader.map().manifests,
            name,
            &costs(&reader.map().manifests, new, &sizes),
        );
        (bytes, layers, disk)
    };
    let best = disks.iter().enumerate().map(place).min();
    best.map_or(Base { disk: 0, layers: 0 }, |(_, layers, disk)| Base {
        disk,
        layers,
    })
}

/// The best place in one chain: bytes of the new layer there, and the number of layers below it.
fn place(chain: &[Manifest], name: &DiskDigest, costs: &[u64]) -> (u64, usize) {
    // A chain must not come to the new disk twice.
    let usable = chain
        .iter()
        .take_while(|manifest| manifest.disk != *name)
        .count();
    let cheapest = (0..=usable)
        .map(|layers| (costs[layers], layers))
        .min()
        .unwrap_or((costs[0], 0));
    if cheapest.1 <= MAX_DEPTH as usize {
        return cheapest;
    }
    let sizes: Vec<_> = chain.iter().map(stored_bytes).collect();
    let cut = squash_at(&sizes, costs);
    (costs[cut], cut)
}

/// Where a full chain is cut: so many layers stay. `sizes` are those of the chain's layers, `costs` of the new one over each
/// number of them, in bytes.
fn squash_at(sizes: &[u64], costs: &[u64]) -> usize {
    let own = costs[sizes.len()];
    let (mut sum, mut largest) = (own, own);
    let mut best = (f64::INFINITY, 0);
    for cut in (0..sizes.len()).rev() {
        sum += sizes[cut];
        largest = largest.max(sizes[cut]);
        best = match costs[cut] as f64 / (sum - largest) as f64 {
            ratio if ratio <= best.0 => (ratio, cut),
            _ => best,
        };
    }
    best.1
}

/// What a layer for `new` takes over each number of a chain's layers, in bytes, by the number: over none of them first.
fn costs(chain: &[Manifest], new: &DiskTree, sizes: &HashMap<u64, u64>) -> Vec<u64> {
    let end = chunk_count(new.virtual_size());
    let wanted: HashMap<u64, Digest> = new.leaves().iter().copied().collect();
    let wanted = |index: u64| wanted.get(&index).copied().unwrap_or(Digest::ZERO);
    let mut content = 0;
    let mut blocks: HashMap<u64, u32> = HashMap::new();
    for (index, _) in new.leaves() {
        content += ENTRY + sizes[index];
        *blocks.entry(index / CHUNKS_PER_BLOCK).or_default() += 1;
    }
    let mut costs = vec![FIXED + content + blocks.len() as u64 * BLOCK];
    let mut there: HashMap<u64, Digest> = HashMap::new();
    for manifest in chain {
        let mut changes: Vec<_> = manifest
            .chunks
            .iter()
            .map(|chunk| (chunk.index, chunk.digest))
            .collect();
        // What a smaller disk cuts off is zero for a larger one above it.
        let count = chunk_count(manifest.virtual_size);
        changes.extend(
            there
                .keys()
                .filter(|index| **index >= count)
                .map(|index| (*index, Digest::ZERO)),
        );
        for (index, digest) in changes.into_iter().filter(|(index, _)| *index < end) {
            let before = there.insert(index, digest).unwrap_or(Digest::ZERO);
            let wanted = wanted(index);
            let size = ENTRY + sizes.get(&index).copied().unwrap_or(0);
            let block = blocks.entry(index / CHUNKS_PER_BLOCK).or_default();
            match (before == wanted, digest == wanted) {
                (true, false) => {
                    content += size;
                    *block += 1;
                }
                (false, true) => {
                    content -= size;
                    *block -= 1;
                }
                _ => {}
            }
        }
        let blocks = blocks.values().filter(|changed| **changed > 0).count() as u64;
        costs.push(FIXED + content + blocks * BLOCK);
    }
    costs
}

/// What a layer that is there takes, in bytes, by the same measure.
fn stored_bytes(manifest: &Manifest) -> u64 {
    let mut blocks: Vec<_> = manifest
        .chunks
        .iter()
        .map(|chunk| chunk.index / CHUNKS_PER_BLOCK)
        .collect();
    blocks.dedup();
    let content: u64 = manifest
        .chunks
        .iter()
        .map(|chunk| ENTRY + bytes_at(chunk.place))
        .sum();
    FIXED + content + blocks.len() as u64 * BLOCK
}

/// What a chunk of the new disk takes: what it takes already, or about what the one took that was there before.
fn bytes_of(disks: &[DiskReader], index: u64, digest: &Digest) -> u64 {
    match find_chunk(disks, index, digest) {
        Some((disk, at)) => bytes_at(disks[disk].map().chunks[at].place),
        None => disks
            .iter()
            .find_map(|disk| disk.map().find(index))
            .map_or(UNKNOWN, |found| bytes_at(found.place)),
    }
}

fn bytes_at(place: ChunkLocation) -> u64 {
    match place {
        ChunkLocation::Zero => 0,
        ChunkLocation::Frame { length, .. } => u64::from(length).next_multiple_of(SECTOR),
        ChunkLocation::Raw { .. } => CHUNK as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stores so many edits of `edit` bytes each, all of other chunks, over layers of the given sizes: bytes in all, and the
    /// most of one edit.
    fn edits(below: &[u64], count: u64, edit: u64) -> (u64, u64) {
        let (mut chain, mut sum, mut most) = (below.to_vec(), 0, 0);
        for _ in 0..count {
            let mut costs = vec![edit; chain.len() + 1];
            for at in (0..chain.len()).rev() {
                costs[at] = costs[at + 1] + chain[at];
            }
            let layers = if chain.len() <= MAX_DEPTH as usize {
                chain.len()
            } else {
                squash_at(&chain, &costs)
            };
            chain.truncate(layers);
            chain.push(costs[layers]);
            sum += costs[layers];
            most = most.max(costs[layers]);
            assert!(chain.len() <= MAX_DEPTH as usize + 1);
        }
        (sum, most)
    }

    #[test]
    fn what_edits_cost_grows_with_the_logarithm_of_their_number() {
        let stages = [180_000_000, 600_000, 600_000, 600_000, 33_000_000];
        for below in [&stages[..], &[100_000]] {
            for count in [30, 60, 100, 1_000, 10_000, 50_000] {
                let (sum, _) = edits(below, count, 100_000);
                let each = sum as f64 / count as f64 / 100_000.0;
                let bound = 0.6 * (count as f64).log2();
                assert!(
                    each <= bound,
                    "{count} edits over {below:?}: each {each:.2} times its size, bound {bound:.2}"
                );
            }
        }
        let (_, most) = edits(&stages, 60, 100_000);
        assert!(most <= 2_000_000, "{most}");
    }

    #[test]
    fn layers_of_one_size_are_squashed_and_larger_ones_below_them_stay() {
        let sizes = [900, 500, 100, 10, 10, 10, 10];
        let costs = [1550, 650, 150, 50, 40, 30, 20, 10];
        assert_eq!(squash_at(&sizes, &costs), 3);
        // What is written over again and again is worth nothing: all of it can go.
        let costs = [960, 60, 10, 10, 10, 10, 10, 10];
        assert_eq!(squash_at(&sizes, &costs), 2);
    }
}
