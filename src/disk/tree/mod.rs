//! The tree index: all that can be seen on a disk, as one text. Its digest is what children bind to.
//!
//! Knows files, partitions and boot areas by what they contain, not where their bytes lie: two disks with one tree are
//! the same to whoever mounts them, though file systems place files again each time.
//!
//! * [`text`] is its form, and the only one: what is equal has equal texts.
//! * [`make`] makes it of a disk, again or from the tree of the disk below; `content` hashes files.
//! * [`compare`] tells two trees apart.

pub mod compare;
mod content;
pub use content::of_bytes as content_digest;
pub mod make;
pub mod text;

use std::fmt;

use impasto_store::blob::BlobRef;
use impasto_store::digest::Digest;
use impasto_store::{Error as StoreError, Store};

/// The tree index of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tree {
    /// Size of the disk in bytes.
    pub size: u64,
    pub table: TableIdentity,
    /// Its partitions, by number.
    pub partitions: Vec<TreePartition>,
    /// What lies outside partitions, and in those without a file system that is read here: boot code, boot loaders, swap,
    /// unknown contents. Parts that are all zero are left out. Ascending, apart.
    pub areas: Vec<Area>,
    /// The file systems, by number of their partitions.
    pub volumes: Vec<Volume>,
}

impl Tree {
    /// The tree with this index out of a store; none where it is not there any more.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn load(store: &Store, index: &BlobRef) -> Result<Option<Tree>, StoreError> {
        let reader = match store.open_blob(&index.digest) {
            Ok(reader) => reader,
            Err(error) => return error.into_miss().map(|_| None),
        };
        let text = reader.into_bytes();
        let text = text.map_err(|source| StoreError::Io {
            verb: "read",
            path: "a tree index".into(),
            source,
        })?;
        Ok(text::parse(&text).ok())
    }
}

/// Kind and identity of a partition table.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum TableIdentity {
    /// None that is known.
    #[default]
    None,
    /// GUID partition table: the disk's GUID.
    Gpt(String),
    /// DOS partition table: the disk's signature.
    Mbr(u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreePartition {
    /// Number as the kernel counts, from 1.
    pub number: u32,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// Type: a GUID, or the byte of a DOS table in hexadecimal.
    pub kind: String,
    pub uuid: String,
    /// Name of a GPT partition; empty without one.
    pub name: String,
}

/// Bytes that are compared as such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    /// The partition that it is the whole content of; none for what lies between partitions.
    pub partition: Option<u32>,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    pub content: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Number of its partition; 0 is the disk itself.
    pub partition: u32,
    /// `ext4`, `vfat`, …
    pub kind: String,
    /// UUID, or serial number; empty without one.
    pub uuid: String,
    pub label: Vec<u8>,
    /// What else its superblock says that can be seen of it: block size, blocks, features, by name in a fixed order.
    pub facts: Vec<(String, String)>,
    /// Its files, ascending by path. An entry that stands for a directory comes before what is in it.
    pub entries: Vec<IndexEntry>,
}

/// A file of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Absolute path in its file system; bytes, of any encoding.
    pub path: Vec<u8>,
    pub kind: EntryKind,
    /// Permission bits, with set-user-id, set-group-id and sticky.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Modification time: seconds since 1970, nanoseconds.
    pub mtime: (i64, u32),
    /// Attributes that `chattr` sets (`FS_IOC_GETFLAGS`), as the kernel numbers them.
    pub flags: u32,
    /// Extended attributes with their full names, by name: capabilities, ACLs, users' own. Values as they are on the disk.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    Dir,
    /// A file with content.
    File {
        /// Length in bytes.
        size: u64,
        /// What it holds, see `content.rs`.
        content: Digest,
    },
    Symlink {
        target: Vec<u8>,
    },
    /// Another name of a file that stands at an earlier path, which tells all the rest.
    HardLink {
        /// The first path of that file.
        first: Vec<u8>,
    },
    Char(u32, u32),
    /// A block device.
    Block(u32, u32),
    Fifo,
    Socket,
}

impl Tree {
    /// The volume of a partition.
    pub fn volume(&self, partition: u32) -> Option<&Volume> {
        self.volumes
            .iter()
            .find(|volume| volume.partition == partition)
    }
}

impl Volume {
    /// Bytes that the file system itself says it has; none where its facts do not tell.
    pub fn size(&self) -> u64 {
        let fact = |name| {
            self.facts
                .iter()
                .find(|fact| fact.0 == name)
                .and_then(|fact| fact.1.parse::<u64>().ok())
        };
        fact("blocks")
            .zip(fact("block-size"))
            .map_or(0, |(blocks, size)| blocks.saturating_mul(size))
    }

    /// The entry at a path, hard links followed.
    pub fn find(&self, path: &[u8]) -> Option<&IndexEntry> {
        let at = |path: &[u8]| {
            self.entries
                .binary_search_by(|entry| entry.path.as_slice().cmp(path))
                .ok()
        };
        let entry = &self.entries[at(path)?];
        match &entry.kind {
            EntryKind::HardLink { first } => Some(&self.entries[at(first)?]),
            _ => Some(entry),
        }
    }
}

/// A partition by its number, 0 being the disk itself, as messages name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionName(pub u32);

impl fmt::Display for PartitionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("the disk"),
            number => write!(f, "partition {number}"),
        }
    }
}
