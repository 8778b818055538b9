//! Takes names away: into `trash/`, or for good.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, OFlags, ResolveFlags};

use super::{StoreFs, random_name, split};
use crate::error::{Error, Result};

impl StoreFs {
    /// Moves something to `trash/` under a new name, so that a good one can take its place.
    pub(crate) fn trash(&self, name: &str) -> Result<()> {
        let (parent, last) = split(name);
        self.make_dirs("trash", &mut Vec::new())?;
        let from = match self.open_dir(parent) {
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            other => other.map_err(|errno| self.error("open", parent, errno))?,
        };
        let to = self
            .open_dir("trash")
            .map_err(|errno| self.error("open", "trash", errno))?;
        match rustix::fs::renameat(&from, last, &to, format!("{}-{last}", random_name())) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.error("move to the trash", name, errno)),
        }
    }

    /// Moves what is in the way to the trash, which may be in the way itself.
    pub(super) fn clear(&self, error: Error) -> Result<()> {
        let Error::WrongType { path, .. } = &error else {
            return Err(error);
        };
        tracing::warn!(%error, "moved to the trash");
        let name = path
            .strip_prefix(&self.path)
            .ok()
            .and_then(Path::to_str)
            .unwrap_or_default()
            .to_owned();
        if name != "trash" {
            return self.trash(&name);
        }
        let aside = random_name();
        let moved = |from: &str, to: &OwnedFd, new: &str| {
            rustix::fs::renameat(&self.root, from, to, new)
                .map_err(|errno| self.error("move to the trash", from, errno))
        };
        moved("trash", &self.root, &aside)?;
        self.make_dirs("trash", &mut Vec::new())?;
        let trash = self
            .open_dir("trash")
            .map_err(|errno| self.error("open", "trash", errno))?;
        moved(&aside, &trash, &format!("{aside}-trash"))
    }

    /// Deletes a file or an empty directory; one that is gone, or a directory that is not empty, is left alone.
    pub(crate) fn remove(&self, name: &str, is_dir: bool) -> Result<()> {
        let (parent, last) = split(name);
        let dir = match self.open_dir(parent) {
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            other => other.map_err(|errno| self.error("open", parent, errno))?,
        };
        match rustix::fs::unlinkat(
            &dir,
            last,
            if is_dir {
                AtFlags::REMOVEDIR
            } else {
                AtFlags::empty()
            },
        ) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(rustix::io::Errno::NOTEMPTY | rustix::io::Errno::EXIST) if is_dir => Ok(()),
            Err(errno) => Err(self.error("delete", name, errno)),
        }
    }

    /// Deletes a directory with all that is in it, without recursion and through no symbolic link. What is mounted in it
    /// is an error: it may be the machine's own files.
    pub(crate) fn remove_tree(&self, name: &str) -> Result<()> {
        let mut stack = vec![(name.to_owned(), false)];
        while let Some((dir, emptied)) = stack.pop() {
            if emptied {
                self.remove(&dir, true)?;
                continue;
            }
            let fd = match self.open_resolved(
                &dir,
                OFlags::DIRECTORY | OFlags::RDONLY,
                ResolveFlags::NO_XDEV,
            ) {
                Err(rustix::io::Errno::NOENT) => continue,
                other => other.map_err(|errno| self.error("delete", &dir, errno))?,
            };
            stack.push((dir.clone(), true));
            for entry in self.entries(&dir, fd)? {
                let path = format!("{dir}/{}", entry.name);
                if entry.is_dir {
                    stack.push((path, false))
                } else {
                    self.remove(&path, false)?
                }
            }
        }
        Ok(())
    }
}
