//! Makes the tree index of a disk: all of it, or only what differs from the disk below, whose tree is known.
//!
//! Knows file systems through `guest`; mounts nothing. A file whose inode is at the same place, whose map of blocks is the
//! same and whose chunks the stage did not write is not read again. What cannot be read file by file is an area, compared by
//! its bytes, and told.

mod layout;
mod walk;

use std::io;
use std::ops::Range;
use std::sync::atomic::AtomicU64;

use super::{EntryKind, IndexEntry, PartitionName, Tree, Volume, content};
use crate::disk::guest::ext4::{self, Ext4, ReadError};
use crate::disk::guest::fat::Fat;
use crate::disk::guest::{self, FsKind, OverlayView, ReadAt, Window};
use layout::{Leaf, area, leaves, partition, table};
use walk::{Old, TreeWalk, bare, paths};

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
            what: other.to_string(),
        }),
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
