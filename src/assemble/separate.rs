//! File systems whose programs know no place within a disk: each is made in a file of its own, and copied into its partition.
//! Knows files and bytes; knows no file system.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};

use super::error::AssembleError;
use super::partitions::PlannedPartition;

/// What is copied at once, in bytes.
const PIECE: usize = 1 << 20;

/// A file as large as a partition, in which its file system is made.
pub(super) struct SeparateFile {
    path: PathBuf,
    file: File,
    start: u64,
}

impl SeparateFile {
    /// An empty one below `work`.
    pub(super) fn create(work: &Path, part: &PlannedPartition) -> Result<Self, AssembleError> {
        let path = work.join("partition.raw");
        let io = |verb| AssembleError::io(verb, &path);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(io("make"))?;
        file.set_len(part.size).map_err(io("make"))?;
        let start = part.start;
        Ok(SeparateFile { path, file, start })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Has the file changed.
    pub(super) fn edit(
        &self,
        edit: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<(), AssembleError> {
        edit(&self.file).map_err(AssembleError::io("write", &self.path))
    }

    /// Copies what is in it to its partition, which is zero, and removes it.
    pub(super) fn place(self, disk: &File) -> Result<(), AssembleError> {
        let copied = pieces(&self.file, |at, bytes| {
            if bytes.iter().any(|byte| *byte != 0) {
                disk.write_all_at(bytes, self.start + at)?;
            }
            Ok(())
        });
        copied
            .and_then(|()| fs::remove_file(&self.path))
            .map_err(AssembleError::io("copy", &self.path))
    }
}

/// Gives what a sparse file holds, with the offset of each piece: at most [`PIECE`] bytes from a multiple of it on.
pub(super) fn pieces(
    file: &File,
    mut take: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let size = file.metadata()?.len();
    let mut bytes = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        at = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data - data % PIECE as u64,
            // Nothing behind it.
            Err(rustix::io::Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let length = (size - at).min(PIECE as u64);
        let piece = &mut bytes[..length as usize];
        file.read_exact_at(piece, at)?;
        take(at, piece)?;
        at += length;
    }
    Ok(())
}
