//! Reads files and ranges out of a disk, where a comparison shows more than a tree index tells.
//!
//! Knows paths in a tree and the file systems that `guest` reads; decides nothing. A disk is opened when something is first
//! asked of it: where nothing is to be shown, nothing is read.

use std::io;

use impasto_store::qcow2::ChunkSource;

use crate::disk::guest::ext4::{Ext4, InodeContent, Paths, ReadError};
use crate::disk::guest::fat::Fat;
use crate::disk::guest::{OverlayView, ReadAt, Window};
use crate::disk::tree::{Tree, Volume};

/// A file by the partition of its file system and its path there.
pub type WantedFile<'a> = (u32, &'a [u8]);

/// What a disk holds, beyond its tree.
pub trait Contents: Sync {
    /// The bytes of files, in the order asked. None for what is not there, is no regular file, or has more than `limit`
    /// bytes.
    ///
    /// # Errors
    /// The disk cannot be read, or is not what its tree says.
    fn files(
        &self,
        wanted: &[WantedFile<'_>],
        limit: u64,
    ) -> Result<Vec<Option<Vec<u8>>>, ReadError>;

    /// Bytes of the disk.
    ///
    /// # Errors
    /// The disk cannot be read, or ends before.
    fn range(&self, start: u64, length: usize) -> Result<Vec<u8>, ReadError>;
}

pub type OpenDisk<'a> = &'a (dyn Fn() -> io::Result<Box<dyn ChunkSource>> + Sync);

/// A disk whose tree is known.
pub struct OnDisk<'a> {
    /// How to open it.
    pub open: OpenDisk<'a>,
    pub tree: &'a Tree,
}

impl OnDisk<'_> {
    fn with<T>(
        &self,
        work: impl FnOnce(&OverlayView<'_>) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let source = (self.open)().map_err(ReadError::Io)?;
        let view =
            OverlayView::whole(&*source).map_err(|error| ReadError::Io(io::Error::other(error)))?;
        work(&view)
    }
}

impl Contents for OnDisk<'_> {
    fn files(
        &self,
        wanted: &[WantedFile<'_>],
        limit: u64,
    ) -> Result<Vec<Option<Vec<u8>>>, ReadError> {
        let mut found = vec![None; wanted.len()];
        if wanted.is_empty() {
            return Ok(found);
        }
        self.with(|view| {
            for volume in &self.tree.volumes {
                let here: Vec<_> = (0..wanted.len())
                    .filter(|at| wanted[*at].0 == volume.partition)
                    .map(|at| (at, wanted[at].1))
                    .collect();
                if !here.is_empty() {
                    read_volume(
                        &window(view, self.tree, volume),
                        volume,
                        &here,
                        limit,
                        &mut found,
                    )?;
                }
            }
            Ok(found)
        })
    }

    fn range(&self, start: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        self.with(|view| {
            let mut bytes = vec![0; length];
            view.read_exact_at(&mut bytes, start)
                .map_err(ReadError::Io)?;
            Ok(bytes)
        })
    }
}

fn window<'v, 'd>(
    view: &'v OverlayView<'d>,
    tree: &Tree,
    volume: &Volume,
) -> Window<'v, OverlayView<'d>> {
    let size = view.size();
    let partition = tree
        .partitions
        .iter()
        .find(|partition| partition.number == volume.partition);
    let (start, length) = partition.map_or((0, size), |partition| {
        (partition.start.min(size), partition.size)
    });
    Window::new(view, start, length.min(size - start))
}

fn read_volume(
    window: &Window<'_, OverlayView<'_>>,
    volume: &Volume,
    wanted: &[(usize, &[u8])],
    limit: u64,
    found: &mut [Option<Vec<u8>>],
) -> Result<(), ReadError> {
    if volume.kind == "vfat" {
        let fs = Fat::open(window)?;
        let files = fs.files()?;
        for (at, path) in wanted {
            let file = files
                .iter()
                .find(|file| path.strip_prefix(b"/") == Some(&file.path) && !file.directory);
            if let Some(file) = file.filter(|file| file.size <= limit) {
                found[*at] = Some(fs.read(file)?);
            }
        }
        return Ok(());
    }
    let fs = Ext4::open(window)?;
    let mut paths = Paths::new(&fs);
    for (at, path) in wanted {
        if let Some(number) = paths.find(path)? {
            found[*at] = read(&fs, window, number, limit)?;
        }
    }
    Ok(())
}

/// A file's bytes; none for what is no regular file, or has more than `limit` of them.
fn read<D: ReadAt + ?Sized>(
    fs: &Ext4<'_, D>,
    window: &D,
    number: u32,
    limit: u64,
) -> Result<Option<Vec<u8>>, ReadError> {
    let inode = fs.inode(number)?;
    if !inode.is_file() || inode.size > limit {
        return Ok(None);
    }
    let extents = match fs.content(&inode)? {
        InodeContent::Inline(bytes) => return Ok(Some(bytes)),
        InodeContent::Extents(extents) => extents,
    };
    let mut bytes = vec![0; usize::try_from(inode.size).unwrap_or(0)];
    for extent in extents {
        let from = usize::try_from(extent.offset).unwrap_or(usize::MAX);
        let end = from.saturating_add(usize::try_from(extent.length).unwrap_or(usize::MAX));
        // Extents end within the file's size.
        let Some(part) = bytes.get_mut(from..end) else {
            continue;
        };
        window
            .read_exact_at(part, extent.start)
            .map_err(ReadError::Io)?;
    }
    Ok(Some(bytes))
}
