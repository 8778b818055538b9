//! Files in `tmp/` that nobody else knows.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::AtFlags;

use super::{StoreFs, random_name, split};
use crate::error::Result;
use crate::holder::Holder;

/// A file in `tmp/` that nobody else knows; deleted when dropped unpublished.
#[derive(Debug)]
pub(crate) struct Temp {
    pub(super) fs: Arc<StoreFs>,
    pub(super) file: File,
    pub(super) name: String,
}

impl Temp {
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Asks the kernel to begin to write out a range, so that the sync at the end has less to wait for.
    pub(crate) fn start_writing(&self, range: std::ops::Range<u64>) {
        // posix_fadvise(2): pages that are not written yet are queued to be, and stay; an error changes nothing.
        if let Some(length) = std::num::NonZeroU64::new(range.end.saturating_sub(range.start)) {
            let _ = rustix::fs::fadvise(
                &self.file,
                range.start,
                Some(length),
                rustix::fs::Advice::DontNeed,
            );
        }
    }

    /// Where it is, for messages.
    pub(crate) fn path(&self) -> PathBuf {
        self.fs.full(&self.name)
    }

    /// Appends bytes.
    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        (&self.file)
            .write_all(bytes)
            .map_err(|source| self.fs.io_error("write", &self.name, source))
    }
}

impl Temp {
    /// Deletes the temporary name; others that the file has got stay.
    pub(crate) fn unlink(&mut self) {
        // A temporary name that stays is garbage, not a hit; the collector takes it.
        if let Ok(dir) = self.fs.open_dir("tmp") {
            let _ = rustix::fs::unlinkat(dir.as_fd(), split(&self.name).1, AtFlags::empty());
        }
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        self.unlink();
    }
}

/// A new name in `tmp/`, which says whose it is: what a process that lives has there is its own.
pub(super) fn temp_name() -> String {
    format!("tmp/{}{}", Holder::prefix(), &random_name()[16..])
}
