//! The content of a guest disk as a Merkle tree over its chunks, and the tree's root as its name.
//! Knows chunks' digests, not where their bytes are.

use rayon::prelude::*;

use crate::digest::{DIGEST_LEN, Digest, DiskDigest, Hasher, domain};
pub use crate::qcow2::{CHUNK, is_zero};

/// Children of an inner node. Changing this is a format break.
const FANOUT: u64 = 256;
/// The digest of a chunk; of one that is all zero, [`Digest::ZERO`]. The last chunk of a disk is padded with zeros.
pub fn chunk_digest(data: &[u8; CHUNK]) -> Digest {
    if is_zero(data) {
        Digest::ZERO
    } else {
        nonzero_chunk_digest(data)
    }
}

/// The digest of a chunk that is known not to be all zero.
pub(crate) fn nonzero_chunk_digest(data: &[u8; CHUNK]) -> Digest {
    Hasher::new(domain::CHUNK).update(data).finish()
}

/// A chunk of zeros, to be read into.
pub(crate) fn chunk_buffer() -> Box<[u8; CHUNK]> {
    vec![0; CHUNK]
        .into_boxed_slice()
        .try_into()
        .expect("BUG: a vector of CHUNK bytes is not CHUNK bytes long")
}

/// How many chunks a disk of so many bytes has.
pub fn chunk_count(virtual_size: u64) -> u64 {
    virtual_size.div_ceil(CHUNK as u64)
}

/// A disk's chunks by their digests; those that are all zero are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskTree {
    virtual_size: u64,
    leaves: Vec<(u64, Digest)>,
}

impl DiskTree {
    /// A disk of so many bytes, all zero.
    pub fn zero(virtual_size: u64) -> DiskTree {
        DiskTree {
            virtual_size,
            leaves: Vec::new(),
        }
    }

    /// A disk of the given chunks: (index, digest), ascending by index, below the disk's end.
    ///
    /// # Panics
    /// When they do not ascend, or lie beyond the end.
    pub fn new(virtual_size: u64, mut leaves: Vec<(u64, Digest)>) -> DiskTree {
        assert!(
            leaves.is_sorted_by(|a, b| a.0 < b.0),
            "BUG: a disk's chunks do not ascend"
        );
        assert!(
            leaves
                .last()
                .is_none_or(|leaf| leaf.0 < chunk_count(virtual_size)),
            "BUG: a chunk lies beyond the disk's end"
        );
        leaves.retain(|leaf| leaf.1 != Digest::ZERO);
        DiskTree {
            virtual_size,
            leaves,
        }
    }

    /// The same disk with some chunks replaced, and a new size; chunks beyond it are gone.
    pub fn with(&self, virtual_size: u64, changes: &[(u64, Digest)]) -> DiskTree {
        let mut leaves = Vec::with_capacity(self.leaves.len() + changes.len());
        let mut old = self
            .leaves
            .iter()
            .filter(|leaf| leaf.0 < chunk_count(virtual_size))
            .peekable();
        for change in changes {
            while let Some(leaf) = old.next_if(|leaf| leaf.0 < change.0) {
                leaves.push(*leaf);
            }
            old.next_if(|leaf| leaf.0 == change.0);
            leaves.push(*change);
        }
        leaves.extend(old);
        DiskTree::new(virtual_size, leaves)
    }

    /// The chunks that are not as in `base`: (index, digest), ascending. What is zero only here is among them.
    pub(crate) fn changes_from(&self, base: &DiskTree) -> Vec<(u64, Digest)> {
        let end = chunk_count(self.virtual_size);
        let mut changes = Vec::new();
        let mut old = base.leaves.iter().filter(|leaf| leaf.0 < end).peekable();
        for leaf in &self.leaves {
            while let Some(gone) = old.next_if(|old| old.0 < leaf.0) {
                changes.push((gone.0, Digest::ZERO));
            }
            if old.next_if(|old| old.0 == leaf.0) != Some(leaf) {
                changes.push(*leaf);
            }
        }
        changes.extend(old.map(|gone| (gone.0, Digest::ZERO)));
        changes
    }

    /// The disk's size in bytes.
    pub fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    /// The chunks that are not all zero: (index, digest), ascending.
    pub fn leaves(&self) -> &[(u64, Digest)] {
        &self.leaves
    }

    /// The digest of one chunk.
    pub fn get(&self, index: u64) -> Digest {
        match self.leaves.binary_search_by_key(&index, |leaf| leaf.0) {
            Ok(at) => self.leaves[at].1,
            Err(_) => Digest::ZERO,
        }
    }

    pub fn digest(&self) -> DiskDigest {
        let mut width = chunk_count(self.virtual_size);
        let mut level = self.leaves.clone();
        while width > 1 {
            let groups: Vec<_> = level
                .chunk_by(|a, b| a.0 / FANOUT == b.0 / FANOUT)
                .collect();
            level = groups
                .into_par_iter()
                .with_min_len(16)
                .map(inner_node)
                .collect();
            width = width.div_ceil(FANOUT);
        }
        let root = level.first().map_or(Digest::ZERO, |node| node.1);
        let mut hasher = DiskDigest::hasher();
        DiskDigest(
            hasher
                .update(&self.virtual_size.to_le_bytes())
                .update(root.as_bytes())
                .finish(),
        )
    }
}

/// The node above some siblings, of which at least one is there.
fn inner_node(children: &[(u64, Digest)]) -> (u64, Digest) {
    let mut bytes = [0; FANOUT as usize * DIGEST_LEN];
    for (index, digest) in children {
        let at = (index % FANOUT) as usize * DIGEST_LEN;
        bytes[at..at + DIGEST_LEN].copy_from_slice(digest.as_bytes());
    }
    (
        children[0].0 / FANOUT,
        Hasher::new(domain::DISK_NODE).update(&bytes).finish(),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule of `FORMAT.md` word for word, over every chunk.
    fn plain(virtual_size: u64, leaves: &[(u64, Digest)]) -> DiskDigest {
        let mut level = vec![Digest::ZERO; chunk_count(virtual_size) as usize];
        for (index, digest) in leaves {
            level[*index as usize] = *digest;
        }
        while level.len() > 1 {
            level = level
                .chunks(256)
                .map(|children| {
                    if children.iter().all(|child| *child == Digest::ZERO) {
                        return Digest::ZERO;
                    }
                    let mut bytes: Vec<u8> = children
                        .iter()
                        .flat_map(|child| *child.as_bytes())
                        .collect();
                    bytes.resize(256 * 32, 0);
                    Hasher::new(domain::DISK_NODE).update(&bytes).finish()
                })
                .collect();
        }
        let root = level.first().copied().unwrap_or(Digest::ZERO);
        DiskDigest(
            DiskDigest::hasher()
                .update(&virtual_size.to_le_bytes())
                .update(root.as_bytes())
                .finish(),
        )
    }

    fn leaf(seed: u64) -> Digest {
        Hasher::new(domain::CHUNK)
            .update(&seed.to_le_bytes())
            .finish()
    }

    proptest! {
        #[test]
        fn sparse_and_plain_trees_agree(
            size in 0u64..300_000,
            indexes in proptest::collection::btree_set(0u64..300_000, 0..40),
        ) {
            let virtual_size = size * CHUNK as u64 / 7 * 512 / 512;
            let count = chunk_count(virtual_size);
            let leaves: Vec<_> = indexes.into_iter().filter(|i| *i < count).map(|i| (i, leaf(i))).collect();
            prop_assert_eq!(DiskTree::new(virtual_size, leaves.clone()).digest(), plain(virtual_size, &leaves));
        }

        #[test]
        fn changes_give_the_tree_of_the_changed_disk(
            before in proptest::collection::btree_map(0u64..600, 0u64..9, 0..40),
            changes in proptest::collection::btree_map(0u64..600, 0u64..9, 0..40),
        ) {
            let to_leaf = |(index, seed): (&u64, &u64)| (*index, if *seed == 0 { Digest::ZERO } else { leaf(*seed) });
            let size = 600 * CHUNK as u64;
            let old = DiskTree::new(size, before.iter().map(to_leaf).collect());
            let list: Vec<_> = changes.iter().map(to_leaf).collect();
            let mut after = before;
            after.extend(changes);
            let new = DiskTree::new(size, after.iter().map(to_leaf).collect());
            prop_assert_eq!(&old.with(size, &list), &new);
            let least = new.changes_from(&old);
            prop_assert!(least.iter().all(|change| list.contains(change) && old.get(change.0) != change.1));
            prop_assert_eq!(old.with(size, &least), new);
        }
    }

    #[test]
    fn disk_digests_are_pinned() {
        // A change here is a format break: bump the store's format version.
        let chunk = |byte| chunk_digest(&[byte; CHUNK]);
        assert_eq!(chunk(0), Digest::ZERO);
        let disks = [
            DiskTree::zero(0),
            DiskTree::zero(CHUNK as u64),
            DiskTree::new(512, vec![(0, chunk(1))]),
            DiskTree::new(
                1 << 30,
                vec![
                    (0, chunk(1)),
                    (255, chunk(2)),
                    (256, chunk(3)),
                    (16383, chunk(4)),
                ],
            ),
        ];
        let names: Vec<_> = disks
            .iter()
            .map(|disk| disk.digest().to_string()[..16].to_owned())
            .collect();
        assert_eq!(
            names,
            [
                "e24467951f04a826",
                "66166572a4d6e2be",
                "0168408a8f207ca8",
                "d0ce641b0253c6db"
            ]
        );
    }

    #[test]
    fn size_alone_makes_another_disk() {
        assert_ne!(DiskTree::zero(512).digest(), DiskTree::zero(1024).digest());
    }

    #[test]
    fn a_huge_sparse_disk_is_as_cheap_as_its_data() {
        let size = 15 << 40;
        let last = chunk_count(size) - 1;
        let tree = DiskTree::new(size, vec![(3, leaf(3)), (last, leaf(4))]);
        assert_eq!(tree.get(last), leaf(4));
        assert_ne!(tree.digest(), DiskTree::zero(size).digest());
    }
}
