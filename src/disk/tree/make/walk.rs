//! Walks an ext file system, and takes over from the disk below what cannot have changed.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use impasto_store::digest::Digest;
use rayon::prelude::*;

use super::{MAX_PATH, MEMORY, NO_SETTINGS, SETTABLE, facts};
use crate::disk::guest::ext4::{self, Ext4, Extent, Inode, InodeContent, ReadError};
use crate::disk::guest::{FsKind, OverlayView, ReadAt, Window};
use crate::disk::tree::{EntryKind, IndexEntry, Volume, content};

pub(super) fn paths(volume: &Volume) -> HashMap<&[u8], &IndexEntry> {
    volume
        .entries
        .iter()
        .map(|entry| (entry.path.as_slice(), entry))
        .collect()
}

/// The same file system on the disk below.
pub(super) struct Old<'a> {
    pub(super) fs: Ext4<'a, Window<'a, OverlayView<'a>>>,
    pub(super) volume: &'a Volume,
    pub(super) paths: HashMap<&'a [u8], &'a IndexEntry>,
}

impl Old<'_> {
    /// What a file held there.
    fn content(&self, path: &[u8], size: u64) -> Option<Digest> {
        let entry = match &self.paths.get(path)?.kind {
            EntryKind::HardLink { first } => self.volume.find(first)?,
            _ => self.paths[path],
        };
        match &entry.kind {
            EntryKind::File { size: old, content } if *old == size => Some(*content),
            _ => None,
        }
    }
}

/// A file whose content is to be hashed.
struct Todo {
    entry: usize,
    size: u64,
    extents: Vec<Extent>,
}

/// A directory to be read: its path, its inode, and its number on the disk below where it was there under that path.
struct Directory {
    path: Vec<u8>,
    inode: Inode,
    old: Option<u32>,
}

pub(super) struct TreeWalk<'a> {
    pub(super) disk: &'a Window<'a, OverlayView<'a>>,
    pub(super) fs: &'a Ext4<'a, Window<'a, OverlayView<'a>>>,
    pub(super) old: Option<&'a Old<'a>>,
    /// Whether the stage may have written to a range of the file system.
    pub(super) present: &'a (dyn Fn(Range<u64>) -> bool + Sync),
    /// What the tree may still take of memory, in bytes.
    pub(super) left: &'a AtomicU64,
}

/// What a name in a directory stands for.
struct FoundInode {
    inode: Inode,
    entry: IndexEntry,
    /// Where the content is that is to be hashed: its size, and its extents.
    todo: Option<(u64, Vec<Extent>)>,
    /// The inode's number on the disk below, where the name was there.
    old: Option<u32>,
}

impl TreeWalk<'_> {
    pub(super) fn volume(&self, partition: u32, kind: FsKind) -> Result<Volume, ReadError> {
        let (mut entries, mut todo) = (Vec::new(), Vec::new());
        // By inode: the places in `entries` of files with several names.
        let mut linked: HashMap<u32, Vec<usize>> = HashMap::new();
        let mut seen = HashSet::from([self.fs.root()]);
        let root = self.fs.inode(self.fs.root())?;
        entries.push(self.entry(b"/".to_vec(), &root, EntryKind::Dir)?);
        let mut level = vec![Directory {
            path: Vec::new(),
            inode: root,
            old: self.old.map(|old| old.fs.root()),
        }];
        while !level.is_empty() {
            let read: Vec<_> = level
                .par_iter()
                .map(|directory| self.directory(directory))
                .collect::<Result<_, _>>()?;
            level.clear();
            for FoundInode {
                inode,
                entry,
                todo: content,
                old,
            } in read.into_iter().flatten()
            {
                let is_dir = entry.kind == EntryKind::Dir;
                if is_dir && !seen.insert(inode.number) {
                    return Err(ReadError::Corrupt {
                        what: format!("directory inode {} appears twice", inode.number),
                    });
                }
                if !is_dir && inode.links > 1 {
                    let names = linked.entry(inode.number).or_default();
                    names.push(entries.len());
                    if names.len() > 1 {
                        entries.push(bare(entry.path, EntryKind::Fifo));
                        continue;
                    }
                }
                todo.extend(content.map(|(size, extents)| Todo {
                    entry: entries.len(),
                    size,
                    extents,
                }));
                if is_dir {
                    level.push(Directory {
                        path: entry.path.clone(),
                        inode,
                        old,
                    });
                }
                entries.push(entry);
            }
        }
        self.hash(&mut entries, todo)?;
        link(&mut entries, linked);
        entries.par_sort_unstable_by(|a, b| a.path.cmp(&b.path));
        if let Some(twice) = entries.windows(2).find(|pair| pair[0].path == pair[1].path) {
            let what = format!("{} appears twice", twice[0].path.escape_ascii());
            return Err(ReadError::Corrupt { what });
        }
        let identity = self.fs.identity();
        let (uuid, label) = (identity.uuid.clone(), identity.label.clone());
        Ok(Volume {
            partition,
            kind: kind.to_string(),
            uuid,
            label,
            facts: self.facts(identity)?,
            entries,
        })
    }

    /// Names, attributes and maps can be shared on a disk, and be many times as large in memory.
    fn charge(&self, found: &FoundInode) -> Result<(), ReadError> {
        let xattrs = found
            .entry
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum::<usize>();
        let target = if let EntryKind::Symlink { target } = &found.entry.kind {
            target.len()
        } else {
            0
        };
        let extents = found
            .todo
            .as_ref()
            .map_or(0, |(_, extents)| extents.len() * size_of::<Extent>());
        let bytes =
            (size_of::<FoundInode>() + found.entry.path.len() + xattrs + target + extents) as u64;
        let left = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            });
        left.map(drop).map_err(|_| ReadError::Unsupported {
            what: format!("an index of more than {MEMORY} bytes"),
        })
    }

    /// What is in a directory.
    fn directory(&self, directory: &Directory) -> Result<Vec<FoundInode>, ReadError> {
        let names = self.fs.entries(&directory.inode)?;
        let old = self.old_names(directory);
        let find = |name: ext4::DirEntry| {
            let inode = self.fs.inode(name.inode)?;
            let path = [directory.path.as_slice(), b"/", &name.name].concat();
            if path.len() > MAX_PATH {
                return Err(ReadError::Unsupported {
                    what: format!("paths of more than {MAX_PATH} bytes"),
                });
            }
            let old = match &old {
                OldNames::None => None,
                OldNames::Same => Some(name.inode),
                OldNames::Read(names) => names.get(&name.name).copied(),
            };
            let mut todo = None;
            let kind = match inode.mode & 0xf000 {
                0x4000 => EntryKind::Dir,
                0x8000 => self.file(&path, &inode, old, &mut todo)?,
                0xa000 => EntryKind::Symlink {
                    target: self.fs.target(&inode)?,
                },
                0x2000 | 0x6000 => {
                    let (major, minor) = inode.device.unwrap_or_default();
                    if inode.mode & 0xf000 == 0x2000 {
                        EntryKind::Char(major, minor)
                    } else {
                        EntryKind::Block(major, minor)
                    }
                }
                0x1000 => EntryKind::Fifo,
                0xc000 => EntryKind::Socket,
                _ => {
                    let what = format!("inode {} has the mode {:o}", inode.number, inode.mode);
                    return Err(ReadError::Corrupt { what });
                }
            };
            let found = FoundInode {
                entry: self.entry(path, &inode, kind)?,
                inode,
                todo,
                old,
            };
            self.charge(&found)?;
            Ok(found)
        };
        names.into_iter().map(find).collect()
    }

    fn entry(
        &self,
        path: Vec<u8>,
        inode: &Inode,
        kind: EntryKind,
    ) -> Result<IndexEntry, ReadError> {
        Ok(IndexEntry {
            path,
            kind,
            mode: inode.mode & 0o7777,
            uid: inode.uid,
            gid: inode.gid,
            mtime: inode.mtime,
            flags: inode.flags & SETTABLE,
            xattrs: self.xattrs(inode)?,
        })
    }

    /// Extended attributes, and the number of the project, where the file is of one, as `project`.
    fn xattrs(&self, inode: &Inode) -> Result<ext4::Xattrs, ReadError> {
        let mut xattrs = self.fs.xattrs(inode)?;
        if inode.project != 0 {
            xattrs.push((b"project".to_vec(), inode.project.to_be_bytes().to_vec()));
            xattrs.sort_unstable();
        }
        Ok(xattrs)
    }

    fn facts(&self, identity: &ext4::Ext4Identity) -> Result<Vec<(String, String)>, ReadError> {
        let mut superblock = [0; 1024];
        self.disk
            .read_exact_at(&mut superblock, 1024)
            .map_err(ReadError::Io)?;
        for (at, length) in NO_SETTINGS {
            superblock[at..at + length].fill(0);
        }
        let mut facts = facts(identity);
        facts.push((
            "other-settings".to_owned(),
            content::of_bytes(&superblock).to_string(),
        ));
        Ok(facts)
    }

    /// A file, whose digest is what it was where nobody wrote to it; else it is put on the list.
    fn file(
        &self,
        path: &[u8],
        inode: &Inode,
        old: Option<u32>,
        todo: &mut Option<(u64, Vec<Extent>)>,
    ) -> Result<EntryKind, ReadError> {
        let size = inode.size;
        let content = self.fs.content(inode)?;
        if let Some(below) = self.old
            && old == Some(inode.number)
            && self.is_as_below(below, inode, &content)
            && let Some(content) = below.content(path, size)
        {
            return Ok(EntryKind::File { size, content });
        }
        let content = match content {
            InodeContent::Inline(bytes) => content::of_bytes(&bytes),
            InodeContent::Extents(extents) => {
                *todo = Some((size, extents));
                Digest::ZERO
            }
        };
        Ok(EntryKind::File { size, content })
    }

    /// Whether a file has the content of the one with the same number below.
    fn is_as_below(&self, below: &Old<'_>, inode: &Inode, content: &InodeContent) -> bool {
        let untouched =
            |ranges: &[Range<u64>]| !ranges.iter().any(|range| (self.present)(range.clone()));
        let same_place = |place: Range<u64>| {
            untouched(std::slice::from_ref(&place))
                && below
                    .fs
                    .inode_place(inode.number)
                    .is_ok_and(|old| old == place)
        };
        let in_place = self.fs.inode_place(inode.number).is_ok_and(same_place)
            && self
                .fs
                .blocks_of_map(inode)
                .is_ok_and(|blocks| untouched(&blocks));
        let same_map = || {
            let old = below
                .fs
                .inode(inode.number)
                .and_then(|old| Ok((old.size, below.fs.content(&old)?)));
            old.is_ok_and(|(size, old)| size == inode.size && old == *content)
        };
        let same_blocks = match content {
            InodeContent::Inline(_) => true,
            InodeContent::Extents(extents) => !extents
                .iter()
                .any(|one| (self.present)(one.start..one.start + one.length)),
        };
        same_blocks && (in_place || same_map())
    }

    /// The names in a directory as they were below.
    fn old_names(&self, directory: &Directory) -> OldNames {
        let (Some(below), Some(number)) = (self.old, directory.old) else {
            return OldNames::None;
        };
        if number == directory.inode.number
            && self
                .fs
                .content(&directory.inode)
                .is_ok_and(|content| self.is_as_below(below, &directory.inode, &content))
        {
            return OldNames::Same;
        }
        let names = below
            .fs
            .inode(number)
            .and_then(|inode| below.fs.entries(&inode));
        names.map_or(OldNames::None, |names| {
            OldNames::Read(
                names
                    .into_iter()
                    .map(|name| (name.name, name.inode))
                    .collect(),
            )
        })
    }

    /// Hashes what is to be hashed, in the order in which it lies on the disk.
    fn hash(&self, entries: &mut [IndexEntry], mut todo: Vec<Todo>) -> Result<(), ReadError> {
        let sum: u128 = todo
            .iter()
            .flat_map(|one| &one.extents)
            .map(|extent| u128::from(extent.length))
            .sum();
        if sum > u128::from(self.disk.size()) {
            return Err(ReadError::Corrupt {
                what: "files share blocks".to_owned(),
            });
        }
        todo.sort_unstable_by_key(|one| one.extents.first().map_or(0, |extent| extent.start));
        let disk = self.disk;
        let digests: Vec<_> = todo
            .par_iter()
            .with_min_len(8)
            .map(|one| content::of_extents(disk, one.size, &one.extents))
            .collect::<io::Result<_>>()
            .map_err(ReadError::Io)?;
        for (one, digest) in todo.iter().zip(digests) {
            if let EntryKind::File { content, .. } = &mut entries[one.entry].kind {
                *content = digest;
            }
        }
        Ok(())
    }
}

enum OldNames {
    None,
    Same,
    Read(HashMap<Vec<u8>, u32>),
}

/// Gives the first path of each file with several names what the file is; the others name it.
fn link(entries: &mut [IndexEntry], linked: HashMap<u32, Vec<usize>>) {
    for places in linked.into_values() {
        let Some((&known, _)) = places.split_first() else {
            continue;
        };
        let Some(&first) = places.iter().min_by_key(|place| &entries[**place].path) else {
            continue;
        };
        if first != known {
            // All but the path changes places.
            let (path, other) = (entries[first].path.clone(), entries[known].path.clone());
            entries.swap(first, known);
            entries[first].path = path;
            entries[known].path = other;
        }
        let path = entries[first].path.clone();
        for place in places.into_iter().filter(|place| *place != first) {
            let own = std::mem::take(&mut entries[place].path);
            entries[place] = bare(
                own,
                EntryKind::HardLink {
                    first: path.clone(),
                },
            );
        }
    }
}

pub(super) fn bare(path: Vec<u8>, kind: EntryKind) -> IndexEntry {
    IndexEntry {
        path,
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        flags: 0,
        xattrs: Vec::new(),
    }
}
