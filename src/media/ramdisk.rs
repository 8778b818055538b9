//! The files of a disk's root as members of an archive, read out of the disk without mounting it.
//! Knows trees and ext4; decides nothing about what is left out.

use std::collections::BTreeMap;
use std::io;

use impasto_store::digest::Digest;

use super::stream::ByteSource;
use super::{ArchiveMember, MemberKind};
use crate::disk::guest::ext4::{Ext4, Extent, InodeContent, Paths, ReadError};
use crate::disk::guest::{OverlayView, ReadAt, Window};
use crate::disk::tree::{EntryKind, IndexEntry, Tree, Volume};

/// The file system of a disk that is its root.
pub struct RootFiles<'a> {
    volume: &'a Volume,
    window: Window<'a, OverlayView<'a>>,
}

/// Where a file's content is.
enum FilePlace {
    Inline(Vec<u8>),
    Extents(Vec<Extent>),
}

/// Files of a disk, as a stream reads them.
pub struct DiskFiles<'a> {
    window: &'a Window<'a, OverlayView<'a>>,
    files: Vec<(FilePlace, Digest)>,
}

impl<'a> RootFiles<'a> {
    /// Chooses the root: the file system with `/etc`, else the first. None where the disk has no ext file system whose
    /// files can be listed.
    pub fn of(tree: &'a Tree, disk: &'a OverlayView<'a>) -> Option<RootFiles<'a>> {
        let ext = || tree.volumes.iter().filter(|volume| is_ext(volume));
        let volume = ext().find(|volume| volume.find(b"/etc").is_some());
        let volume = volume.or_else(|| ext().next())?;
        let size = disk.size();
        let (start, length) = tree
            .partitions
            .iter()
            .find(|partition| partition.number == volume.partition)
            .map_or((0, size), |partition| {
                (partition.start.min(size), partition.size)
            });
        let window = Window::new(disk, start, length.min(size - start));
        Some(RootFiles { volume, window })
    }

    /// Partitions with files that are not those of the root: numbers.
    pub fn others(&self, tree: &Tree) -> Vec<u32> {
        let others = tree.volumes.iter().filter(|volume| {
            is_ext(volume)
                && volume.partition != self.volume.partition
                && volume
                    .entries
                    .iter()
                    .any(|entry| !matches!(entry.path.as_slice(), b"/" | b"/lost+found"))
        });
        others.map(|volume| volume.partition).collect()
    }

    /// What is at a path; none where nothing is.
    pub fn find(&self, path: &[u8]) -> Option<&IndexEntry> {
        self.volume.find(path)
    }

    /// Names in a directory.
    pub fn names(&self, directory: &[u8]) -> impl Iterator<Item = &[u8]> {
        let prefix = [directory, b"/"].concat();
        self.volume.entries.iter().filter_map(move |entry| {
            let name = entry.path.strip_prefix(prefix.as_slice())?;
            (!name.contains(&b'/')).then_some(name)
        })
    }

    /// The members for the entries that `wanted` takes, by path, and their files. A file of which some names are left out
    /// stays under the others.
    ///
    /// # Errors
    /// The disk cannot be read, or is not what its tree says.
    pub fn members(
        &self,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<(Vec<ArchiveMember>, DiskFiles<'_>), ReadError> {
        let fs = Ext4::open(&self.window)?;
        let mut paths = Paths::new(&fs);
        let (mut members, mut files) = (Vec::new(), Vec::new());
        // The name under which a file with several comes first, by the one that the tree gives it.
        let mut first: BTreeMap<&[u8], Vec<u8>> = BTreeMap::new();
        for entry in &self.volume.entries {
            if !wanted(&entry.path) {
                continue;
            }
            let (owner, known) = match &entry.kind {
                EntryKind::HardLink { first } => (self.volume.find(first), first.as_slice()),
                _ => (Some(entry), entry.path.as_slice()),
            };
            let Some(owner) = owner else {
                return Err(missing(known));
            };
            let path = relative(&entry.path);
            let kind = match (&owner.kind, first.get(known)) {
                (EntryKind::File { .. }, Some(first)) => MemberKind::HardLink {
                    first: first.clone(),
                },
                (EntryKind::File { size, content }, None) => {
                    first.insert(known, path.clone());
                    let number = paths.find(known)?.ok_or_else(|| missing(known))?;
                    let inode = fs.inode(number)?;
                    if !inode.is_file() || inode.size != *size {
                        return Err(missing(known));
                    }
                    let place = match fs.content(&inode)? {
                        InodeContent::Inline(bytes) => FilePlace::Inline(bytes),
                        InodeContent::Extents(extents) => FilePlace::Extents(extents),
                    };
                    files.push((place, *content));
                    MemberKind::File {
                        file: files.len() - 1,
                        size: *size,
                    }
                }
                (EntryKind::Symlink { target }, _) => MemberKind::Symlink {
                    target: target.clone(),
                },
                (EntryKind::Dir, _) => MemberKind::Dir,
                (EntryKind::Char(major, minor), _) => MemberKind::Char(*major, *minor),
                (EntryKind::Block(major, minor), _) => MemberKind::Block(*major, *minor),
                (EntryKind::Fifo, _) => MemberKind::Fifo,
                (EntryKind::Socket, _) => MemberKind::Socket,
                (EntryKind::HardLink { .. }, _) => return Err(missing(known)),
            };
            members.push(ArchiveMember {
                path,
                kind,
                mode: u32::from(owner.mode),
                uid: owner.uid,
                gid: owner.gid,
                xattrs: owner.xattrs.clone(),
            });
        }
        let window = &self.window;
        Ok((members, DiskFiles { window, files }))
    }
}

fn is_ext(volume: &Volume) -> bool {
    volume.kind.starts_with("ext")
}

fn missing(path: &[u8]) -> ReadError {
    ReadError::Corrupt {
        what: format!(
            "{} is not what the index of the disk says",
            crate::base::escape::neutralise(path)
        ),
    }
}

fn relative(path: &[u8]) -> Vec<u8> {
    match path.strip_prefix(b"/").unwrap_or(path) {
        b"" => b".".to_vec(),
        path => path.to_vec(),
    }
}

impl ByteSource for DiskFiles<'_> {
    fn read(&self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        let extents = match &self.files[file].0 {
            FilePlace::Inline(bytes) => {
                let bytes = bytes.get(offset as usize..end as usize);
                buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
                return Ok(());
            }
            FilePlace::Extents(extents) => extents,
        };
        // What no extent has is zero.
        buffer.fill(0);
        let from = extents.partition_point(|extent| extent.offset + extent.length <= offset);
        for extent in extents[from..]
            .iter()
            .take_while(|extent| extent.offset < end)
        {
            let (start, stop) = (
                extent.offset.max(offset),
                (extent.offset + extent.length).min(end),
            );
            let part = &mut buffer[(start - offset) as usize..(stop - offset) as usize];
            self.window
                .read_exact_at(part, extent.start + (start - extent.offset))?;
        }
        Ok(())
    }

    /// The tree knows what a file holds: it is not read.
    fn identity(&self, file: usize, offset: u64, length: u64) -> io::Result<Digest> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.files[file].1.as_bytes());
        hasher.update(&offset.to_le_bytes());
        hasher.update(&length.to_le_bytes());
        Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
    }
}
