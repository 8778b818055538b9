//! Hashing of open files.
//! Knows offsets and buffers, not names.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::digest::Hasher;

/// How much is read and hashed at once, in bytes.
const BUFFER: usize = 2 << 20;
/// From here on hashing on all cores pays, in bytes.
const PARALLEL: usize = 128 << 10;

/// Adds a range of a file's bytes to a hash. Errors: the file ends before the range does, or cannot be read.
pub(crate) fn hash_range(file: &File, range: Range<u64>, hasher: &mut Hasher) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER.min((range.end.saturating_sub(range.start)) as usize)];
    let mut at = range.start;
    while at < range.end {
        let part = (range.end - at).min(BUFFER as u64) as usize;
        let bytes = &mut buffer[..part];
        file.read_exact_at(bytes, at)?;
        if part >= PARALLEL {
            hasher.update_parallel(bytes)
        } else {
            hasher.update(bytes)
        };
        at += part as u64;
    }
    Ok(())
}
