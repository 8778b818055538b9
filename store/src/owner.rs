//! Whose a store is, and whose the files are that are written for them: the caller's, also where root works for them.
//!
//! Knows users by number; who called whom is for the program to know.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid};

/// The user for whom files are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    uid: Uid,
    /// Root that works for this user: their group, and where root keeps what it executes or believes.
    root: Option<(Option<Gid>, PathBuf)>,
}

impl Owner {
    /// The user as whom this process runs.
    pub fn caller() -> Owner {
        Owner {
            uid: rustix::process::geteuid(),
            root: None,
        }
    }

    /// The user for whom this process works as root, as under sudo: what it writes for them is theirs. What root executes
    /// or believes (trees of programs, which files were hashed, work in progress) stays in `private`, a directory of
    /// root's own.
    pub fn behind_root(uid: u32, gid: Option<u32>, private: PathBuf) -> Owner {
        Owner {
            uid: Uid::from_raw(uid),
            root: Some((gid.map(Gid::from_raw), private)),
        }
    }

    pub fn uid(&self) -> u32 {
        self.uid.as_raw()
    }

    /// Root's own directory, where it works for another user.
    pub(crate) fn private(&self) -> Option<&Path> {
        self.root.as_ref().map(|(_, private)| private.as_path())
    }

    /// Makes an open file that this process has just created the user's.
    ///
    /// # Errors
    /// Its owner cannot be changed.
    pub fn give(&self, file: impl AsFd) -> io::Result<()> {
        match &self.root {
            None => Ok(()),
            Some((gid, _)) => Ok(rustix::fs::fchown(file, Some(self.uid), *gid)?),
        }
    }

    /// The same for a directory, by its name in another one.
    pub(crate) fn give_dir(&self, parent: impl AsFd, name: impl AsRef<OsStr>) -> io::Result<()> {
        if self.root.is_none() {
            return Ok(());
        }
        // Whoever owns the parent may have put something else there: only a directory is given away, and no link followed.
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir: OwnedFd =
            rustix::fs::openat(parent, name.as_ref().as_bytes(), flags, Mode::empty())?;
        self.give(dir)
    }

    /// Makes a directory and those above it that are missing, all of them the user's.
    ///
    /// # Errors
    /// One cannot be made, or given to the user.
    pub fn create_dirs(&self, path: &Path, mode: u32) -> io::Result<()> {
        match std::fs::metadata(path) {
            Ok(stat) if stat.is_dir() => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        self.create_dirs(parent, mode)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let parent = rustix::fs::open(parent, flags, Mode::empty())?;
        match rustix::fs::mkdirat(&parent, name.as_bytes(), Mode::from_raw_mode(mode)) {
            Ok(()) => self.give_dir(&parent, name),
            // Another process was first.
            Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}
