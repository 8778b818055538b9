//! The names of things: BLAKE3 digests, one type per kind of object, each hashed under a domain of its own.
//! Knows digests, not what is stored under them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Length of every digest, in bytes.
pub const DIGEST_LEN: usize = 32;

/// A BLAKE3 digest without a statement about what it names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; DIGEST_LEN]);

/// A text is not 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a digest: expected 64 hexadecimal digits")]
pub struct ParseDigestError {
    pub text: String,
}

impl Digest {
    /// Thirty-two zero bytes; in a Merkle tree, the digest of a subtree of zero chunks.
    pub const ZERO: Digest = Digest([0; DIGEST_LEN]);

    /// Wraps raw bytes.
    pub const fn from_bytes(bytes: [u8; DIGEST_LEN]) -> Self {
        Digest(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; DIGEST_LEN] {
        &self.0
    }

    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.short())
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseDigestError {
            text: text.chars().take(80).collect(),
        };
        let digits = text.as_bytes();
        if digits.len() != 2 * DIGEST_LEN {
            return Err(error());
        }
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(error()),
        };
        let mut bytes = [0; DIGEST_LEN];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Digest(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_bytes::Bytes::new(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = serde_bytes::ByteArray::<DIGEST_LEN>::deserialize(deserializer)?;
        Ok(Digest(bytes.into_array()))
    }
}

/// Hashes one object under the domain of its type.
#[derive(Clone)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// Starts a hash; `domain` is one of the constants of [`domain`].
    pub fn new(domain: &'static str) -> Self {
        Hasher(blake3::Hasher::new_derive_key(domain))
    }

    /// Adds bytes on the calling thread.
    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }

    /// Adds many bytes (from about 128 KiB it pays), hashing on all cores.
    pub fn update_parallel(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update_rayon(bytes);
        self
    }

    /// The digest of what was added.
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// BLAKE3 `derive_key` contexts, one per type of object, so that no object can be read as another.
/// Changing one is a format break.
pub mod domain {
    /// One 64 KiB chunk of a guest disk.
    pub const CHUNK: &str = "impasto 2026 chunk v1";
    /// An inner node of a disk's Merkle tree.
    pub const DISK_NODE: &str = "impasto 2026 disk-node v1";
    /// A disk: virtual size and root of its tree.
    pub const DISK: &str = "impasto 2026 disk v1";
    pub const MANIFEST: &str = "impasto 2026 manifest v1";
    /// The bytes of a layer's qcow2 file.
    pub const LAYER_FILE: &str = "impasto 2026 layer-file v1";
    pub const BLOB: &str = "impasto 2026 blob v1";
    /// A long file of a guest, by its pieces.
    pub const FILE: &str = "impasto 2026 file v1";
    /// A derived file: how it is made, not its bytes.
    pub const DERIVED: &str = "impasto 2026 derived v1";
    /// A tree of files: of the user's inputs, of a root, of a disk.
    pub const TREE: &str = "impasto 2026 tree v1";
    /// An Action's canonical encoding.
    pub const ACTION: &str = "impasto 2026 action v1";
    pub const CLAIM: &str = "impasto 2026 claim v1";
    /// A node of a recipe's graph.
    pub const NODE: &str = "impasto 2026 node v1";
    /// An identifier that a format of disk images wants.
    pub const IDENTIFIER: &str = "impasto 2026 identifier v1";
    /// A small file of `state/`, `format` and the like: a checksum, not a name.
    pub const STATE: &str = "impasto 2026 state v1";
}

macro_rules! typed {
    ($($(#[$doc:meta])* $name:ident, $domain:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl $name {
            /// Starts the hash that names such an object.
            pub fn hasher() -> Hasher {
                // The domain is hashed once: small objects are many.
                static HASHER: std::sync::OnceLock<Hasher> = std::sync::OnceLock::new();
                HASHER.get_or_init(|| Hasher::new($domain)).clone()
            }

            /// The name of an object with these bytes.
            pub fn of(bytes: &[u8]) -> Self {
                $name(Self::hasher().update(bytes).finish())
            }

            /// The first 12 hexadecimal digits, for people.
            pub fn short(&self) -> String {
                self.0.short()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseDigestError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map($name)
            }
        }
    )*};
}

typed! {
    /// Names the content of a whole guest disk; how it is stored does not enter.
    DiskDigest, domain::DISK;
    /// Names one representation of a disk: the digest of its manifest.
    LayerId, domain::MANIFEST;
    /// Names a file's content.
    BlobDigest, domain::BLOB;
    /// Names a tree of files: the user's by their canonical encoding, a disk's by its tree index.
    TreeDigest, domain::TREE;
    /// Names a unit of work by all of its inputs.
    ActionDigest, domain::ACTION;
    /// Names a claim: the digest of its body, so that signing never changes it.
    ClaimId, domain::CLAIM;
    /// Names a node of a recipe's graph by its definition.
    NodeDigest, domain::NODE;
}

impl TreeDigest {
    /// The name of the tree that a disk's tree index lists: that of the index itself.
    pub fn of_index(index: &BlobDigest) -> TreeDigest {
        TreeDigest(index.0)
    }
}

/// What a child binds to: the content of its parent's output, tagged with what kind of content it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ContentDigest {
    /// A guest disk, by its bytes.
    Disk(DiskDigest),
    /// A tree of files, or a disk by its files.
    Tree(TreeDigest),
    Blob(BlobDigest),
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ContentDigest::Disk(digest) => write!(f, "disk:{digest}"),
            ContentDigest::Tree(digest) => write!(f, "tree:{digest}"),
            ContentDigest::Blob(digest) => write!(f, "blob:{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_reads_back_from_its_text() {
        let digest = BlobDigest::of(b"impasto");
        assert_eq!(digest.to_string().parse::<BlobDigest>(), Ok(digest));
        assert!("xyz".parse::<Digest>().is_err());
        assert!(
            "A".repeat(64).parse::<Digest>().is_err(),
            "one spelling only"
        );
        assert!("é".repeat(32).parse::<Digest>().is_err());
    }

    #[test]
    fn the_same_bytes_have_another_name_in_every_domain() {
        assert_ne!(BlobDigest::of(b"x").0, TreeDigest::of(b"x").0);
    }

    #[test]
    fn digests_are_pinned() {
        // A change here is a format break: bump the store's format version.
        let pinned = "49cdaaad062d67c87514f564";
        assert_eq!(BlobDigest::of(b"impasto").to_string()[..24], *pinned);
    }
}
