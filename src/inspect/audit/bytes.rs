//! How many bytes differ between two disks that hold the same files, and what those bytes are for.
//! Knows the blocks of ext file systems, not why they differ: bytes of anything else are counted without a name.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use impasto_store::qcow2::{CHUNK, ChunkSource, Content, SourceError};
use serde::Serialize;

use crate::disk::guest::ext4::{Ext4, Inode, InodeContent as FileContent, ReadError};
use crate::disk::guest::{OverlayView, Window, read_layout};

/// Differences are counted in pieces of this size, so that no piece belongs to two things.
const SECTOR: usize = 512;

/// The superblock of an ext file system.
const SUPERBLOCK: Range<u64> = 1024..2048;

/// An inode that is the file system's own, and the first that is not.
const ROOT: u32 = 2;
const FIRST_INODE: u32 = 11;

/// What bytes of a disk are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Contents of files: they lie elsewhere.
    Contents,
    /// Names in directories: in another order, or elsewhere.
    Directories,
    /// Maps of files: where their contents lie.
    Maps,
    /// Extended attributes outside of inodes.
    Attributes,
    Inodes,
    /// The superblock.
    Superblock,
    /// The journal, and other files of the file system's own.
    Journal,
    /// Bitmaps, counts, and whatever is not understood.
    Other,
}

impl Purpose {
    /// The word for it in a report.
    pub fn word(self) -> &'static str {
        match self {
            Self::Contents => "contents of files",
            Self::Directories => "directories",
            Self::Maps => "maps of files",
            Self::Attributes => "attributes",
            Self::Inodes => "inodes",
            Self::Superblock => "superblock",
            Self::Journal => "journal",
            Self::Other => "bitmaps and other",
        }
    }
}

/// The bytes that differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bytes {
    pub bytes: u64,
    /// Chunks of 64 KiB with at least one.
    pub chunks: u64,
    /// Bytes by what they are for.
    pub purposes: BTreeMap<Purpose, u64>,
}

/// Compares two disks of one size byte by byte.
///
/// # Errors
/// A disk cannot be read.
pub fn compare(first: &dyn ChunkSource, second: &dyn ChunkSource) -> io::Result<Bytes> {
    let labels = [Labels::of(first)?, Labels::of(second)?];
    let (mut a, mut b) = (Box::new([0; CHUNK]), Box::new([0; CHUNK]));
    let mut found = Bytes::default();
    let mut next = Some(0);
    while let Some(from) = next {
        let present = [first, second].map(|disk| disk.next_present(from));
        let [in_first, in_second] = present.map(|result| result.map_err(io::Error::other));
        let Some(index) = in_first?.into_iter().chain(in_second?).min() else {
            break;
        };
        read(first, index, &mut a).map_err(io::Error::other)?;
        read(second, index, &mut b).map_err(io::Error::other)?;
        if a != b {
            found.chunks += 1;
            for (number, (a, b)) in (0..).zip(a.chunks_exact(SECTOR).zip(b.chunks_exact(SECTOR))) {
                let differing = a.iter().zip(b).filter(|(a, b)| a != b).count() as u64;
                if differing > 0 {
                    let at = index * CHUNK as u64 + number * SECTOR as u64;
                    let purpose = labels
                        .iter()
                        .find_map(|labels| labels.at(at))
                        .unwrap_or(Purpose::Other);
                    found.bytes += differing;
                    *found.purposes.entry(purpose).or_default() += differing;
                }
            }
        }
        next = index.checked_add(1);
    }
    Ok(found)
}

fn read(disk: &dyn ChunkSource, index: u64, buffer: &mut [u8; CHUNK]) -> Result<(), SourceError> {
    if disk.read_chunk(index, buffer)? == Content::Zero {
        buffer.fill(0);
    }
    Ok(())
}

/// What the parts of a disk are for, by their first byte.
#[derive(Default)]
struct Labels(BTreeMap<u64, (u64, Purpose)>);

impl Labels {
    fn of(disk: &dyn ChunkSource) -> io::Result<Self> {
        let view = OverlayView::whole(disk).map_err(io::Error::other)?;
        let mut labels = Self::default();
        for (_, start, _) in read_layout(&view)?.file_systems() {
            let window = Window::new(&view, start, disk.virtual_size().saturating_sub(start));
            // What is no clean ext file system is not understood.
            let Ok(ext) = Ext4::open(&window) else {
                continue;
            };
            labels.add(start, SUPERBLOCK, Purpose::Superblock);
            for number in 1..=ext.identity().inodes {
                let Ok(place) = ext.inode_place(number) else {
                    continue;
                };
                labels.add(start, place, Purpose::Inodes);
                // What else goes wrong: it is not in use, or not understood.
                if let Err(ReadError::Io(error)) = ext
                    .inode(number)
                    .and_then(|inode| labels.inode(&ext, start, &inode))
                {
                    return Err(error);
                }
            }
        }
        Ok(labels)
    }

    fn inode(
        &mut self,
        ext: &Ext4<'_, Window<'_, OverlayView<'_>>>,
        start: u64,
        inode: &Inode,
    ) -> Result<(), ReadError> {
        let purpose = match inode.number {
            number if number < FIRST_INODE && number != ROOT => Purpose::Journal,
            _ if inode.is_directory() => Purpose::Directories,
            _ => Purpose::Contents,
        };
        if let FileContent::Extents(extents) = ext.content(inode)? {
            for extent in extents {
                // The last block of a file ends behind it.
                let end = (extent.start + extent.length).next_multiple_of(SECTOR as u64);
                self.add(start, extent.start..end, purpose);
            }
        }
        ext.blocks_of_map(inode)?
            .into_iter()
            .for_each(|range| self.add(start, range, Purpose::Maps));
        ext.blocks_of_xattrs(inode)?
            .into_iter()
            .for_each(|range| self.add(start, range, Purpose::Attributes));
        Ok(())
    }

    fn add(&mut self, start: u64, range: Range<u64>, purpose: Purpose) {
        // Inodes follow each other.
        if let Some((_, last)) = self.0.range_mut(..=start + range.start).next_back()
            && *last == (start + range.start, purpose)
        {
            last.0 = start + range.end;
        } else {
            self.0
                .insert(start + range.start, (start + range.end, purpose));
        }
    }

    fn at(&self, at: u64) -> Option<Purpose> {
        let (_, (end, purpose)) = self.0.range(..=at).next_back()?;
        (at < *end).then_some(*purpose)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests run mke2fs and debugfs")]
mod tests {
    use std::process::Command;

    use super::*;

    struct PlainBytes(Vec<u8>);

    impl ChunkSource for PlainBytes {
        fn virtual_size(&self) -> u64 {
            self.0.len() as u64
        }

        fn next_present(&self, from: u64) -> Result<Option<u64>, SourceError> {
            Ok((from < self.virtual_size() / CHUNK as u64).then_some(from))
        }

        fn read_chunk(&self, index: u64, buffer: &mut [u8; CHUNK]) -> Result<Content, SourceError> {
            buffer.copy_from_slice(&self.0[index as usize * CHUNK..][..CHUNK]);
            Ok(Content::Data)
        }
    }

    #[test]
    fn bytes_that_differ_are_counted_by_what_they_are_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (image, tree) = (path("image"), path("tree"));
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(path("tree/f"), vec![1; 10_000]).unwrap();
        let tool = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        tool(
            "mke2fs",
            &[
                "-q", "-F", "-t", "ext4", "-b", "4096", "-d", &tree, &image, "8M",
            ],
        );
        let first = PlainBytes(std::fs::read(&image).unwrap());
        let blocks = tool("debugfs", &["-R", "blocks /f", &image]);
        let block: usize = blocks.split_whitespace().next().unwrap().parse().unwrap();
        tool("debugfs", &["-w", "-R", "sif /f mode 0100600", &image]);
        let mut second = PlainBytes(std::fs::read(&image).unwrap());
        let inode_bytes = first
            .0
            .iter()
            .zip(&second.0)
            .filter(|(a, b)| a != b)
            .count() as u64;
        second.0[block * 4096 + 5] = 2;
        // Free, and so for nothing.
        *second.0.last_mut().unwrap() ^= 1;
        let found = compare(&first, &second).unwrap();
        assert_eq!(
            found.purposes.into_iter().collect::<Vec<_>>(),
            [
                (Purpose::Contents, 1),
                (Purpose::Inodes, inode_bytes),
                (Purpose::Other, 1)
            ]
        );
        assert_eq!((found.bytes, inode_bytes > 0), (inode_bytes + 2, true));
        assert_eq!(compare(&first, &first).unwrap(), Bytes::default());
    }
}
