//! Opens and reads files that others may have written: never waits, takes regular files only, and reads at most so much.
//! Knows no recipe and no store; the agent shares it.
//!
//! Opening a FIFO waits for its writer, and a device or a file of `/proc` has no end that its size tells. So the file is
//! opened without waiting, and what was opened is examined, not what the path named a moment before.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Most bytes of a file that holds a few lines: a key, a checksum, a file of `/proc` or `/sys`.
pub const LINES: u64 = 1 << 20;
/// Most bytes of a text or a record that is held in memory.
pub const TEXT: u64 = 64 << 20;

/// For how many bytes of a file there is room at first that does not say its size: such a file of `/proc` is seldom larger.
const UNSIZED: usize = 4096;

/// How every file is opened that others may have written: no waiting for the other end of a FIFO, no terminal that
/// becomes ours.
pub const FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// Opens a regular file to read it, following symbolic links.
///
/// # Errors
/// It cannot be opened; it is not a regular file (of kind `IsADirectory` for a directory, else `InvalidInput`).
pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
    opened(path.as_ref()).map(|(file, _)| file)
}

/// The file and the size that it says to have.
fn opened(path: &Path) -> io::Result<(File, u64)> {
    let file = File::from(rustix::fs::open(path, FLAGS, Mode::empty())?);
    let size = regular_size(&file)?;
    Ok((file, size))
}

/// Opens a directory, to make it durable or to stand for its path.
///
/// # Errors
/// It cannot be opened; it is not a directory.
pub fn open_directory(path: impl AsRef<Path>) -> io::Result<File> {
    Ok(rustix::fs::open(path.as_ref(), FLAGS | OFlags::DIRECTORY, Mode::empty())?.into())
}

/// The same file, if it is a regular one.
///
/// # Errors
/// As those of [`open`].
pub fn regular(file: File) -> io::Result<File> {
    regular_size(&file)?;
    Ok(file)
}

fn regular_size(file: &File) -> io::Result<u64> {
    let stat = file.metadata()?;
    if stat.is_file() {
        Ok(stat.len())
    } else {
        Err(not_regular(stat.file_type()))
    }
}

/// The error for what stands where a regular file is needed.
pub fn not_regular(kind: std::fs::FileType) -> io::Error {
    let what = match () {
        () if kind.is_dir() => {
            return io::Error::new(
                io::ErrorKind::IsADirectory,
                "it is a directory, not a regular file",
            );
        }
        () if kind.is_fifo() => "it is a FIFO, not a regular file",
        () if kind.is_socket() => "it is a socket, not a regular file",
        () if kind.is_char_device() => "it is a character device, not a regular file",
        () if kind.is_block_device() => "it is a block device, not a regular file",
        () => "it is not a regular file",
    };
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// As those of [`open`]; it cannot be read; it is larger (of kind `FileTooLarge`).
pub fn read(path: impl AsRef<Path>, limit: u64) -> io::Result<Vec<u8>> {
    let (file, size) = opened(path.as_ref())?;
    read_sized(file, size, limit)
}

/// Reads a text of at most `limit` bytes.
///
/// # Errors
/// As those of [`read`]; it is not UTF-8 (of kind `InvalidData`).
pub fn read_text(path: impl AsRef<Path>, limit: u64) -> io::Result<String> {
    let bytes = read(path, limit)?;
    String::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

/// Reads the rest of an open file, of at most `limit` bytes.
///
/// # Errors
/// It cannot be read; it is larger (of kind `FileTooLarge`).
pub fn read_open(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let size = file.metadata()?.len();
    read_sized(file, size, limit)
}

/// The size is a hint only: a file of `/proc` has none, and another may grow.
fn read_sized(file: File, size: u64, limit: u64) -> io::Result<Vec<u8>> {
    if size > limit {
        return Err(too_large(limit));
    }
    let mut bytes = Vec::with_capacity(if size == 0 {
        UNSIZED
    } else {
        size as usize + 1
    });
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        Err(too_large(limit))
    } else {
        Ok(bytes)
    }
}

fn too_large(limit: u64) -> io::Error {
    let limit = match limit {
        0..1024 => format!("{limit} bytes"),
        1024..0x10_0000 => format!("{} KiB", limit >> 10),
        _ => format!("{} MiB", limit >> 20),
    };
    io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("it is larger than the limit of {limit}"),
    )
}
