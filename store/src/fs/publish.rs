//! Gives files their names, durably: what has a name is whole, after a power cut too.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::AtFlags;

use super::{FILE_MODE, RACES, StoreFs, Temp, split};
use crate::crash;
use crate::error::Result;

impl StoreFs {
    fn sync_dir(&self, name: &str) -> Result<()> {
        let fd = self
            .open_dir(name)
            .map_err(|errno| self.error("open", name, errno))?;
        self.counters.fsyncs.fetch_add(1, Ordering::Relaxed);
        rustix::fs::fsync(fd).map_err(|errno| self.error("sync", name, errno))
    }

    /// Publishes files under their names, all durable when this returns: every file is synced before the first gets its
    /// name, then the directories are. Says for each whether it is new; where a name is taken, the file that has it
    /// stays, and the caller must look at what it holds.
    pub(crate) fn publish(&self, files: &[(&Temp, &str)]) -> Result<Vec<bool>> {
        crash::point("publish.before-sync");
        for (temp, name) in files {
            rustix::fs::fchmod(&temp.file, FILE_MODE)
                .map_err(|errno| self.error("change the mode of", name, errno))?;
            self.counters.fsyncs.fetch_add(1, Ordering::Relaxed);
            rustix::fs::fsync(&temp.file).map_err(|errno| self.error("sync", name, errno))?;
        }
        crash::point("publish.synced");
        let mut touched = Vec::new();
        let mut new = Vec::with_capacity(files.len());
        for (temp, name) in files {
            if !new.is_empty() {
                crash::point("publish.half-linked");
            }
            new.push(self.link(temp, name, &mut touched)?);
            touched.push(split(name).0.to_owned());
        }
        crash::point("publish.linked");
        touched.sort_unstable();
        touched.dedup();
        touched.iter().try_for_each(|dir| self.sync_dir(dir))?;
        Ok(new)
    }

    /// Gives a file its name, in a directory that is made where it is missing. Whether the name was free, or is the
    /// file's own already.
    fn link(&self, temp: &Temp, name: &str, touched: &mut Vec<String>) -> Result<bool> {
        let (parent, last) = split(name);
        let tmp = self
            .open_dir("tmp")
            .map_err(|errno| self.error("open", "tmp", errno))?;
        // A collector may remove the directory between the calls, while it is empty.
        for _ in 0..RACES {
            self.make_dirs(parent, touched)?;
            let dir = match self.open_dir(parent) {
                Err(rustix::io::Errno::NOENT) => continue,
                other => other.map_err(|errno| self.error("open", parent, errno))?,
            };
            match rustix::fs::linkat(&tmp, split(&temp.name).1, &dir, last, AtFlags::empty()) {
                Ok(()) => return Ok(true),
                // A file system over a network may have done it and lost the answer: then it is our own inode.
                Err(rustix::io::Errno::EXIST) => {
                    let there = rustix::fs::statat(&dir, last, AtFlags::SYMLINK_NOFOLLOW);
                    let ours = temp
                        .file
                        .metadata()
                        .map_err(|source| self.io_error("stat", name, source))?;
                    return Ok(there.is_ok_and(|there| {
                        (there.st_dev, there.st_ino) == (ours.dev(), ours.ino())
                    }));
                }
                Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => return Err(self.error("publish", name, errno)),
            }
        }
        Err(self.error("publish", name, rustix::io::Errno::NOENT))
    }

    /// Puts a file in the place of another, or in a free one, at once and durably.
    pub(crate) fn publish_over(&self, temp: Temp, name: &str) -> Result<()> {
        self.counters.fsyncs.fetch_add(1, Ordering::Relaxed);
        rustix::fs::fsync(&temp.file).map_err(|errno| self.error("sync", name, errno))?;
        crash::point("root.before-rename");
        let mut touched = Vec::new();
        let parent = split(name).0;
        self.make_dirs(parent, &mut touched)?;
        let dir = self
            .open_dir(parent)
            .map_err(|errno| self.error("open", parent, errno))?;
        self.rename_over(&temp, &dir, name)?;
        touched.push(parent.to_owned());
        touched.iter().try_for_each(|dir| self.sync_dir(dir))
    }

    /// Puts a file in the place of another, or in a free one, at once but not durably: for caches.
    pub(crate) fn replace(self: &Arc<Self>, name: &str, bytes: &[u8]) -> Result<()> {
        let mut temp = self.temp()?;
        temp.write_all(bytes)?;
        crash::point("state.before-rename");
        let parent = split(name).0;
        self.make_dirs(parent, &mut Vec::new())?;
        let dir = self
            .open_dir(parent)
            .map_err(|errno| self.error("open", parent, errno))?;
        self.rename_over(&temp, &dir, name)
    }

    /// Gives a temporary file its name, in `dir`, in the place of any other. A directory that has the name goes to the trash.
    fn rename_over(&self, temp: &Temp, dir: &OwnedFd, name: &str) -> Result<()> {
        let tmp = self
            .open_dir("tmp")
            .map_err(|errno| self.error("open", "tmp", errno))?;
        let rename = || rustix::fs::renameat(&tmp, split(&temp.name).1, dir, split(name).1);
        let renamed = match rename() {
            Err(
                rustix::io::Errno::ISDIR | rustix::io::Errno::NOTEMPTY | rustix::io::Errno::EXIST,
            ) => {
                self.trash(name)?;
                rename()
            }
            other => other,
        };
        renamed.map_err(|errno| self.error("replace", name, errno))
    }

    /// Puts a directory in the place of another, or in a free one, at once but not durably: for caches. The other one goes
    /// to the trash.
    pub(crate) fn publish_dir(&self, from: &str, to: &str) -> Result<()> {
        self.make_dirs(split(to).0, &mut Vec::new())?;
        let open = |name| {
            self.open_dir(split(name).0)
                .map_err(|errno| self.error("open", split(name).0, errno))
        };
        let (from_dir, to_dir) = (open(from)?, open(to)?);
        loop {
            let (last, new) = (split(from).1, split(to).1);
            let exchange = rustix::fs::RenameFlags::EXCHANGE;
            match rustix::fs::renameat_with(&from_dir, last, &to_dir, new, exchange) {
                Ok(()) => return self.trash(from),
                Err(rustix::io::Errno::NOENT) => {}
                // Not every file system can exchange.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => self.trash(to)?,
                Err(errno) => return Err(self.error("replace", to, errno)),
            }
            match rustix::fs::renameat(&from_dir, last, &to_dir, new) {
                Ok(()) => return Ok(()),
                // Another process was first.
                Err(rustix::io::Errno::NOTEMPTY | rustix::io::Errno::EXIST) => {}
                Err(errno) => return Err(self.error("replace", to, errno)),
            }
        }
    }
}
