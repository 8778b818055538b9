//! An archive of files as a tree, so that it is compared as disks are.
//! Knows tar, not what is packed in it.

use std::collections::HashMap;
use std::io::Read;

use impasto_store::digest::BlobDigest;
use impasto_store::{Error as StoreError, Store};

use crate::disk::contents::{Contents, WantedFile};
use crate::disk::guest::ext4::ReadError;
use crate::disk::tree::{EntryKind, IndexEntry, Tree, Volume, content_digest};

/// Longest file in an archive that is read, in bytes.
const LARGEST: u64 = 1 << 30;

/// An archive in a store.
pub(super) struct TarTree {
    store: Store,
    blob: BlobDigest,
    pub(super) tree: Tree,
}

impl TarTree {
    /// Reads all of it; none where it cannot be read as an archive.
    ///
    /// # Errors
    /// The store does not have it.
    pub(super) fn read(store: Store, blob: &BlobDigest) -> Result<Option<Self>, StoreError> {
        let reader = store.open_blob(blob)?;
        let mut entries = HashMap::new();
        let read = || -> std::io::Result<()> {
            let mut archive = tar::Archive::new(reader);
            for entry in archive.entries()? {
                let mut entry = entry?;
                let found = describe(&mut entry)?;
                entries.insert(found.path.clone(), found);
            }
            Ok(())
        };
        if read().is_err() {
            return Ok(None);
        }
        let mut entries: Vec<_> = entries.into_values().collect();
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let (kind, uuid, label) = ("tar".to_owned(), String::new(), Vec::new());
        let volume = Volume {
            partition: 0,
            kind,
            uuid,
            label,
            facts: Vec::new(),
            entries,
        };
        Ok(Some(TarTree {
            store,
            blob: *blob,
            tree: Tree {
                volumes: vec![volume],
                ..Tree::default()
            },
        }))
    }
}

fn path(name: &[u8]) -> Vec<u8> {
    let name = name
        .strip_prefix(b".")
        .filter(|rest| rest.is_empty() || rest[0] == b'/')
        .unwrap_or(name);
    let name = name.strip_prefix(b"/").unwrap_or(name);
    let name = name.strip_suffix(b"/").unwrap_or(name);
    [b"/", name].concat()
}

fn describe(entry: &mut tar::Entry<'_, impl Read>) -> std::io::Result<IndexEntry> {
    let mut xattrs = Vec::new();
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            if let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") {
                xattrs.push((name.to_vec(), extension.value_bytes().to_vec()));
            }
        }
    }
    xattrs.sort_unstable();
    let (name, target) = (
        path(&entry.path_bytes()),
        entry.link_name_bytes().map(|target| target.into_owned()),
    );
    let header = entry.header();
    let number = |number: std::io::Result<u64>| number.map(|number| number as u32);
    // Archives of others leave these fields empty where they mean nothing.
    let device = || {
        Ok::<_, std::io::Error>((
            header.device_major()?.unwrap_or(0),
            header.device_minor()?.unwrap_or(0),
        ))
    };
    let (mode, uid, gid) = (
        header.mode()? as u16 & 0o7777,
        number(header.uid())?,
        number(header.gid())?,
    );
    let mtime = (header.mtime()? as i64, 0);
    let kind = match header.entry_type() {
        tar::EntryType::Directory => EntryKind::Dir,
        tar::EntryType::Symlink => EntryKind::Symlink {
            target: target.unwrap_or_default(),
        },
        tar::EntryType::Link => EntryKind::HardLink {
            first: path(&target.unwrap_or_default()),
        },
        tar::EntryType::Char => device().map(|(major, minor)| EntryKind::Char(major, minor))?,
        tar::EntryType::Block => device().map(|(major, minor)| EntryKind::Block(major, minor))?,
        tar::EntryType::Fifo => EntryKind::Fifo,
        _ => {
            // A header alone can claim any size.
            if entry.size() > LARGEST {
                return Err(std::io::ErrorKind::FileTooLarge.into());
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            EntryKind::File {
                size: bytes.len() as u64,
                content: content_digest(&bytes),
            }
        }
    };
    Ok(IndexEntry {
        path: name,
        kind,
        mode,
        uid,
        gid,
        mtime,
        flags: 0,
        xattrs,
    })
}

impl Contents for TarTree {
    fn files(
        &self,
        wanted: &[WantedFile<'_>],
        limit: u64,
    ) -> Result<Vec<Option<Vec<u8>>>, ReadError> {
        let mut found = vec![None; wanted.len()];
        let places: HashMap<&[u8], usize> = wanted
            .iter()
            .enumerate()
            .map(|(at, (_, path))| (*path, at))
            .collect();
        if places.is_empty() {
            return Ok(found);
        }
        let mut read = || -> std::io::Result<()> {
            let reader = self
                .store
                .open_blob(&self.blob)
                .map_err(std::io::Error::other)?;
            for entry in tar::Archive::new(reader).entries()? {
                let mut entry = entry?;
                if let Some(at) = places.get(path(&entry.path_bytes()).as_slice())
                    && entry.header().entry_type().is_file()
                    && entry.size() <= limit
                {
                    let mut bytes = Vec::new();
                    entry.read_to_end(&mut bytes)?;
                    found[*at] = Some(bytes);
                }
            }
            Ok(())
        };
        read().map_err(ReadError::Io)?;
        Ok(found)
    }

    fn range(&self, _: u64, _: usize) -> Result<Vec<u8>, ReadError> {
        Err(ReadError::Unsupported {
            what: "an archive is not a disk".to_owned(),
        })
    }
}
