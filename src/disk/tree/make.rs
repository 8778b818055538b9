//! Makes the tree index of a disk: all of it, or only what differs from the disk below, whose tree is known.
//!
//! Knows file systems through `guest`; mounts nothing. A file whose inode is at the same place, whose map of blocks is the
//! same and whose chunks the stage did not write is not read again. What cannot be read file by file is an area, compared by
//! its bytes, and told.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use impasto_store::digest::Digest;
use rayon::prelude::*;

use super::{
    Area, EntryKind, IndexEntry, PartitionName, TableIdentity, Tree, TreePartition, Volume, content,
};
use crate::disk::guest::ext4::{self, Ext4, Extent, Inode, InodeContent, ReadError};
use crate::disk::guest::fat::Fat;
use crate::disk::guest::{self, DiskLayout, FsKind, OverlayView, PartitionKind, ReadAt, Window};

/// Fields of an ext superblock, by offset and length, that tell of use or of placement: free counts, times, mounts, the last
/// mount point, orphans, the seed of directory hashes, the copy of the journal's inode, errors, overhead, the checksum; or
/// that are facts with names of their own. All others are settings, known here or not, and a change of one is a change of
/// the disk.
const NO_SETTINGS: [(usize, usize); 20] = [
    (0x0, 20),
    (0x5c, 44),
    (0x100, 4),
    (0x150, 8),
    (0x200, 64),
    (0x270, 4),
    (0x2c, 10),
    (0x40, 4),
    (0x88, 64),
    (0xe8, 4),
    (0xec, 16),
    (0x108, 4),
    (0x10c, 68),
    (0x158, 4),
    (0x178, 8),
    (0x194, 4),
    (0x198, 104),
    (0x248, 4),
    (0x274, 8),
    (0x3fc, 4),
];
/// What the index of a file system may take of memory, in bytes: ten million files of usual names.
const MEMORY: u64 = 4 << 30;
/// Bytes of the longest path; deeper trees are compared by bytes.
const MAX_PATH: usize = 16 << 10;
/// Attributes that `chattr` can set, of those that the kernel shows: the others say how a file is stored.
const SETTABLE: u32 = 0x6213_c0ff;
/// The fact that holds the features that a reader may ignore, in hexadecimal.
const RO_COMPAT: &str = "ro-compat";
/// One of them: metadata has checksums.
const METADATA_CSUM: u32 = 0x400;
/// The first two sectors of an ext file system, which are a boot loader's.
const BOOT_BLOCK: u64 = 1024;

/// The disk that a stage began with.
pub struct BaseIndex<'a> {
    pub tree: &'a Tree,
    /// Its bytes.
    pub disk: &'a OverlayView<'a>,
}

/// A part of a disk that is compared by its bytes although it holds a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    pub place: PartitionName,
    /// Why its files cannot be listed, or what cannot be vouched for.
    pub reason: String,
    /// Whether its files are listed all the same.
    pub listed: bool,
    /// It contradicts itself, or was not closed: more than something that is not understood here.
    pub damaged: bool,
}

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unread {
                place,
                reason,
                listed: false,
                ..
            } => write!(f, "the files of {place} cannot be listed: {reason}"),
            Unread {
                place,
                reason,
                listed: true,
                ..
            } => write!(f, "{place} {reason}"),
        }
    }
}

/// The tree of a disk, and what of it could not be read. `below` may only save work.
///
/// # Errors
/// The disk's own bytes cannot be read.
pub fn tree(
    disk: &OverlayView<'_>,
    below: Option<&BaseIndex<'_>>,
) -> io::Result<(Tree, Vec<Unread>)> {
    let layout = guest::read_layout(disk)?;
    let mut tree = Tree {
        size: disk.size(),
        table: table(&layout),
        ..Tree::default()
    };
    let mut unread = Vec::new();
    tree.partitions = layout.partitions.iter().map(partition).collect();
    // Of a disk that is divided otherwise nothing can be taken over; the end of a partition may have moved.
    let starts = |tree: &Tree| -> Vec<(u32, u64)> {
        let starts = tree.partitions.iter().map(|one| (one.number, one.start));
        starts.collect()
    };
    let same = |below: &&BaseIndex<'_>| {
        below.tree.table == tree.table && starts(below.tree) == starts(&tree)
    };
    let below = below.filter(same);
    let leaves = leaves(&layout, disk.size());
    let mut end = 0;
    for leaf in &leaves {
        tree.areas.extend(area(disk, below, None, end..leaf.start)?);
        end = leaf.end;
        let volume = match leaf.kind {
            Some(kind) => read_volume(disk, leaf, kind, below),
            None => Ok(None),
        };
        let mut behind = None;
        let bytes = match volume {
            Ok(Some(volume)) => {
                // FAT is never mounted by a sandbox: whoever reads it reads bytes.
                let is_fat = volume.kind == FsKind::Vfat.to_string();
                let bytes = if is_fat {
                    leaf.start..leaf.end
                } else if !has_sums(&volume) {
                    let kind = &volume.kind;
                    let reason =
                        format!("is an {kind} without checksums of its metadata (metadata_csum)");
                    unread.push(Unread {
                        place: PartitionName(leaf.number),
                        reason,
                        listed: true,
                        damaged: false,
                    });
                    leaf.start..leaf.end
                } else {
                    behind = Some(leaf.start.saturating_add(volume.size()).min(leaf.end)..leaf.end);
                    leaf.start..leaf.start + BOOT_BLOCK
                };
                tree.volumes.push(volume);
                bytes
            }
            Ok(None) => leaf.start..leaf.end,
            Err(ReadError::Io(error)) => return Err(error),
            Err(error) => {
                let damaged = !matches!(error, ReadError::Unsupported { .. });
                unread.push(Unread {
                    place: PartitionName(leaf.number),
                    reason: error.to_string(),
                    listed: false,
                    damaged,
                });
                leaf.start..leaf.end
            }
        };
        tree.areas
            .extend(area(disk, below, Some(leaf.number), bytes)?);
        if let Some(bytes) = behind {
            tree.areas
                .extend(area(disk, below, Some(leaf.number), bytes)?);
        }
    }
    tree.areas
        .extend(area(disk, below, None, end..disk.size())?);
    tree.volumes.sort_by_key(|volume| volume.partition);
    Ok((tree, unread))
}

/// Whether the metadata that the files of an ext file system were read from has checksums. Without them what reads well
/// may be damage, and bitmaps and counts can be wrong unseen.
fn has_sums(volume: &Volume) -> bool {
    let fact = volume.facts.iter().find(|(name, _)| name == RO_COMPAT);
    let bits = fact.and_then(|(_, bits)| u32::from_str_radix(bits, 16).ok());
    bits.is_some_and(|bits| bits & METADATA_CSUM != 0)
}

/// A partition that holds no other, or the disk itself.
struct Leaf {
    number: u32,
    start: u64,
    end: u64,
    kind: Option<FsKind>,
}

/// Ascending by start, apart: where partitions overlap, the later one is left to the area before it.
fn leaves(layout: &DiskLayout, size: u64) -> Vec<Leaf> {
    if let Some(fs) = &layout.bare {
        return vec![Leaf {
            number: 0,
            start: 0,
            end: size,
            kind: Some(fs.kind),
        }];
    }
    let mut leaves: Vec<Leaf> = layout
        .partitions
        .iter()
        .filter(|one| {
            let holds = |other: &guest::Partition| {
                other.number != one.number
                    && other.start > one.start
                    && other.start < one.start.saturating_add(one.size)
            };
            !layout.partitions.iter().any(holds)
        })
        .map(|one| Leaf {
            number: one.number,
            start: one.start.min(size),
            end: one.start.saturating_add(one.size).min(size),
            kind: one.fs.as_ref().map(|fs| fs.kind),
        })
        .collect();
    leaves.sort_by_key(|leaf| leaf.start);
    let mut end = 0;
    leaves.retain(|leaf| {
        let apart = leaf.start >= end && leaf.end - leaf.start >= BOOT_BLOCK;
        end = if apart { leaf.end } else { end };
        apart
    });
    leaves
}

fn table(layout: &DiskLayout) -> TableIdentity {
    match &layout.table {
        guest::PartitionTable::None => TableIdentity::None,
        guest::PartitionTable::Gpt { guid, .. } => TableIdentity::Gpt(guid.clone()),
        guest::PartitionTable::Mbr { signature } => TableIdentity::Mbr(*signature),
    }
}

fn partition(partition: &guest::Partition) -> TreePartition {
    let kind = match &partition.kind {
        PartitionKind::Guid(guid) => guid.clone(),
        PartitionKind::Mbr(byte) => format!("{byte:02x}"),
    };
    let guest::Partition {
        number,
        start,
        size,
        uuid,
        name,
        ..
    } = partition;
    TreePartition {
        number: *number,
        start: *start,
        size: *size,
        kind,
        uuid: uuid.clone(),
        name: name.clone().unwrap_or_default(),
    }
}

fn area(
    disk: &OverlayView<'_>,
    below: Option<&BaseIndex<'_>>,
    partition: Option<u32>,
    range: Range<u64>,
) -> io::Result<Option<Area>> {
    let (start, size) = (range.start, range.end.saturating_sub(range.start));
    let same = |area: &&Area| (area.partition, area.start, area.size) == (partition, start, size);
    if let Some(known) = below.and_then(|below| below.tree.areas.iter().find(same))
        && !disk.is_written(range)
    {
        return Ok(Some(known.clone()));
    }
    Ok(content::of_range(disk, start, size)?.map(|content| Area {
        partition,
        start,
        size,
        content,
    }))
}

/// The files of a file system; none for what is not read here.
fn read_volume(
    disk: &OverlayView<'_>,
    leaf: &Leaf,
    kind: FsKind,
    below: Option<&BaseIndex<'_>>,
) -> Result<Option<Volume>, ReadError> {
    if let Some(known) = below
        .and_then(|below| below.tree.volume(leaf.number))
        .filter(|known| known.kind == kind.to_string())
        && !disk.is_written(leaf.start..leaf.end)
    {
        return Ok(Some(known.clone()));
    }
    let window = Window::new(disk, leaf.start, leaf.end - leaf.start);
    match kind {
        FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4 => {
            let below_window =
                below.map(|below| Window::new(below.disk, leaf.start, leaf.end - leaf.start));
            // A tree below that does not fit saves nothing, that is all.
            let old = below
                .zip(below_window.as_ref())
                .and_then(|(below, window)| {
                    let volume = below
                        .tree
                        .volume(leaf.number)
                        .filter(|volume| volume.kind == kind.to_string())?;
                    Some(Old {
                        fs: Ext4::open(window).ok()?,
                        volume,
                        paths: paths(volume),
                    })
                });
            let fs = Ext4::open(&window)?;
            fs.check_allocation()?;
            let present = |range: Range<u64>| {
                disk.is_written(leaf.start + range.start..leaf.start + range.end)
            };
            let left = AtomicU64::new(MEMORY);
            TreeWalk {
                disk: &window,
                fs: &fs,
                old: old.as_ref(),
                present: &present,
                left: &left,
            }
            .volume(leaf.number, kind)
            .map(Some)
        }
        FsKind::Vfat => read_fat(&window, leaf.number).map(Some),
        FsKind::Swap => Ok(None),
        other => Err(ReadError::Unsupported {
            what: format!("{other}: its files are not read here"),
        }),
    }
}

fn paths(volume: &Volume) -> HashMap<&[u8], &IndexEntry> {
    volume
        .entries
        .iter()
        .map(|entry| (entry.path.as_slice(), entry))
        .collect()
}

/// The same file system on the disk below.
struct Old<'a> {
    fs: Ext4<'a, Window<'a, OverlayView<'a>>>,
    volume: &'a Volume,
    paths: HashMap<&'a [u8], &'a IndexEntry>,
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

struct TreeWalk<'a> {
    disk: &'a Window<'a, OverlayView<'a>>,
    fs: &'a Ext4<'a, Window<'a, OverlayView<'a>>>,
    old: Option<&'a Old<'a>>,
    /// Whether the stage may have written to a range of the file system.
    present: &'a (dyn Fn(Range<u64>) -> bool + Sync),
    /// What the tree may still take of memory, in bytes.
    left: &'a AtomicU64,
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
    fn volume(&self, partition: u32, kind: FsKind) -> Result<Volume, ReadError> {
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

fn bare(path: Vec<u8>, kind: EntryKind) -> IndexEntry {
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

fn facts(identity: &ext4::Ext4Identity) -> Vec<(String, String)> {
    let fact = |name: &str, value: String| (name.to_owned(), value);
    vec![
        fact("block-size", identity.block_size.to_string()),
        fact("blocks", identity.blocks.to_string()),
        fact("inodes", identity.inodes.to_string()),
        fact("reserved", identity.reserved_blocks.to_string()),
        fact("compat", format!("{:x}", identity.compat)),
        fact("incompat", format!("{:x}", identity.incompat)),
        fact(RO_COMPAT, format!("{:x}", identity.ro_compat)),
        fact("mount-options", format!("{:x}", identity.mount_options)),
        fact(
            "more-options",
            identity.mount_option_text.escape_ascii().to_string(),
        ),
    ]
}

fn read_fat(window: &Window<'_, OverlayView<'_>>, partition: u32) -> Result<Volume, ReadError> {
    let fs = Fat::open(window)?;
    let files = fs.files()?;
    let sum: u128 = files.iter().map(|file| u128::from(file.size)).sum();
    if sum > u128::from(window.size()) {
        return Err(ReadError::Corrupt {
            what: "files share clusters".to_owned(),
        });
    }
    let mut entries = vec![IndexEntry {
        mode: 0o755,
        ..bare(b"/".to_vec(), EntryKind::Dir)
    }];
    for file in files {
        let kind = match file.directory {
            true => EntryKind::Dir,
            false => {
                let extents = fs.content(&file)?;
                let content =
                    content::of_extents(window, file.size, &extents).map_err(ReadError::Io)?;
                EntryKind::File {
                    size: file.size,
                    content,
                }
            }
        };
        let path = [b"/", file.path.as_slice()].concat();
        entries.push(IndexEntry {
            mode: 0o755,
            mtime: (file.mtime, 0),
            ..bare(path, kind)
        });
    }
    entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    entries.dedup_by(|a, b| a.path == b.path);
    let uuid = fs
        .identity()
        .serial
        .map(|serial| format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff));
    let (uuid, label) = (uuid.unwrap_or_default(), fs.identity().label.clone());
    Ok(Volume {
        partition,
        kind: FsKind::Vfat.to_string(),
        uuid,
        label,
        facts: Vec::new(),
        entries,
    })
}
