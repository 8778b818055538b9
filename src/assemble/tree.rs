//! The laid-out tree, read and changed as its own programs would see it.
//! Links are followed inside the tree only, and every change leaves the epoch as its time. Knows no file's meaning.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, fchmod,
    fchown, fstat, mkdirat, openat, openat2, readlinkat, renameat, statat, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::error::AssembleError;

type Result<T, E = AssembleError> = std::result::Result<T, E>;

/// Owner, group and permission bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TreeAccess {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
}

impl TreeAccess {
    pub(super) const fn root(mode: u32) -> TreeAccess {
        TreeAccess {
            uid: 0,
            gid: 0,
            mode,
        }
    }

    fn of(stat: &Stat) -> TreeAccess {
        TreeAccess {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
        }
    }
}

/// A tree in a directory.
pub(super) struct RootTree {
    root: OwnedFd,
    path: PathBuf,
    times: Timestamps,
    epoch: u64,
}

impl RootTree {
    /// Opens the directory; what changes from now on gets `epoch` as its time.
    pub(super) fn open(path: &Path, epoch: u64) -> Result<RootTree> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty())
            .map_err(|e| AssembleError::io("open", path)(e.into()))?;
        let time = Timespec {
            tv_sec: i64::try_from(epoch).unwrap_or(i64::MAX),
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        Ok(RootTree {
            root,
            path: path.to_owned(),
            times,
            epoch,
        })
    }

    /// The directory on the host.
    pub(super) fn host_path(&self) -> &Path {
        &self.path
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    fn resolve(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        // Relative and absolute links both end in the tree, as after chroot.
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path.is_empty() { "." } else { path };
        openat2(
            &self.root,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        )
    }

    /// The directory that `path` lies in, and its name there. The name itself may be a link, which nobody follows.
    fn parent<'a>(&self, path: &'a str) -> Result<(OwnedFd, &'a str)> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let fd = self
            .resolve(parent, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(failed("open", parent))?;
        Ok((fd, name))
    }

    /// What `path` leads to, if anything.
    pub(super) fn stat(&self, path: &str) -> Result<Option<Stat>> {
        match self.resolve(path, OFlags::PATH) {
            Ok(fd) => fstat(&fd).map(Some).map_err(failed("examine", path)),
            Err(errno) if is_absent(errno) => Ok(None),
            Err(errno) => Err(failed("examine", path)(errno)),
        }
    }

    pub(super) fn is_file(&self, path: &str) -> Result<bool> {
        Ok(self
            .stat(path)?
            .is_some_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file()))
    }

    /// The first of these that is a file, as a path in the tree.
    pub(super) fn first_file<'a>(&self, paths: &[&'a str]) -> Result<Option<&'a str>> {
        for path in paths {
            if self.is_file(path)? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// What is at `path` itself.
    fn lstat(&self, path: &str) -> Result<Option<Stat>> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = match self.resolve(parent, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(parent) => parent,
            Err(errno) if is_absent(errno) => return Ok(None),
            Err(errno) => return Err(failed("examine", path)(errno)),
        };
        match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(errno) if is_absent(errno) => Ok(None),
            Err(errno) => Err(failed("examine", path)(errno)),
        }
    }

    /// Opens a regular file for reading, if it is there.
    pub(super) fn open_file(&self, path: &str) -> Result<Option<File>> {
        match self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(fd) => {
                let stat = fstat(&fd).map_err(failed("examine", path))?;
                let regular = FileType::from_raw_mode(stat.st_mode).is_file();
                if regular {
                    Ok(Some(File::from(fd)))
                } else {
                    Err(not_regular(path))
                }
            }
            Err(errno) if is_absent(errno) => Ok(None),
            Err(errno) => Err(failed("open", path)(errno)),
        }
    }

    /// A file's content, if it is there.
    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let Some(mut file) = self.open_file(path)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(AssembleError::io("read", path))?;
        Ok(Some(bytes))
    }

    /// A text file's content, empty where it is not there.
    pub(super) fn read_text(&self, path: &str) -> Result<String> {
        let bytes = self.read(path)?.unwrap_or_default();
        String::from_utf8(bytes).map_err(|_| AssembleError::BadFile {
            path: path.to_owned(),
            problem: "it is not UTF-8 text".to_owned(),
        })
    }

    /// Names in a directory, sorted; none where it is not there.
    pub(super) fn list(&self, path: &str) -> Result<Vec<String>> {
        let fd = match self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(fd) => fd,
            Err(errno) if is_absent(errno) => return Ok(Vec::new()),
            Err(errno) => return Err(failed("open", path)(errno)),
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(&fd).map_err(failed("list", path))? {
            let name = entry
                .map_err(failed("list", path))?
                .file_name()
                .to_string_lossy()
                .into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Makes a directory and those above it, where they are not there; one that is there stays as it is.
    pub(super) fn make_dir(&self, path: &str, access: TreeAccess) -> Result<()> {
        if path.is_empty() || self.stat(path)?.is_some() {
            return Ok(());
        }
        self.make_dir(
            path.rsplit_once('/').map_or("", |(parent, _)| parent),
            TreeAccess::root(0o755),
        )?;
        let (parent, name) = self.parent(path)?;
        mkdirat(&parent, name, Mode::from_raw_mode(0o700)).map_err(failed("make", path))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&parent, name, flags, Mode::empty()).map_err(failed("open", path))?;
        own(&fd, access).map_err(failed("set the owner of", path))?;
        self.normalize(&parent, name)
            .map_err(failed("set the time of", path))
    }

    /// Writes a file in place of what is there, a link included, and makes the directories above it.
    pub(super) fn write(
        &self,
        path: &str,
        content: impl AsRef<[u8]>,
        access: TreeAccess,
    ) -> Result<()> {
        self.make_dir(
            path.rsplit_once('/').map_or("", |(parent, _)| parent),
            TreeAccess::root(0o755),
        )?;
        let (parent, name) = self.parent(path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        const NEW: &str = ".impasto-new";
        let fd = openat(&parent, NEW, flags, Mode::from_raw_mode(0o600))
            .map_err(failed("make", path))?;
        let mut file = File::from(fd);
        file.write_all(content.as_ref())
            .map_err(AssembleError::io("write", path))?;
        own(&file, access).map_err(failed("set the owner of", path))?;
        renameat(&parent, NEW, &parent, name).map_err(failed("write", path))?;
        self.normalize(&parent, name)
            .map_err(failed("set the time of", path))
    }

    /// Writes a file again, with the owner and mode that it has; `otherwise` where it is not there.
    pub(super) fn rewrite(
        &self,
        path: &str,
        content: impl AsRef<[u8]>,
        otherwise: TreeAccess,
    ) -> Result<()> {
        let access = self
            .stat(path)?
            .map_or(otherwise, |stat| TreeAccess::of(&stat));
        self.write(path, content, access)
    }

    /// Makes a symbolic link in place of what is there.
    pub(super) fn link(&self, path: &str, target: &str) -> Result<()> {
        self.make_dir(
            path.rsplit_once('/').map_or("", |(parent, _)| parent),
            TreeAccess::root(0o755),
        )?;
        self.remove(path)?;
        let (parent, name) = self.parent(path)?;
        symlinkat(target, &parent, name).map_err(failed("make the link", path))?;
        self.normalize(&parent, name)
            .map_err(failed("set the time of", path))
    }

    /// Removes a file or link, if it is there.
    pub(super) fn remove(&self, path: &str) -> Result<()> {
        if self.lstat(path)?.is_none() {
            return Ok(());
        }
        let (parent, name) = self.parent(path)?;
        unlinkat(&parent, name, AtFlags::empty()).map_err(failed("remove", path))?;
        utimensat(&parent, ".", &self.times, AtFlags::empty())
            .map_err(failed("set the time of", path))
    }

    /// Moves a directory out of the tree to `to` on the host, and leaves an empty one with the same access in its place.
    /// Whether there was one.
    pub(super) fn take_dir(&self, path: &str, to: &Path) -> Result<bool> {
        let Some(stat) = self.lstat(path)? else {
            return Ok(false);
        };
        if !FileType::from_raw_mode(stat.st_mode).is_dir() {
            let problem = "it is not a directory, so nothing can be mounted on it".to_owned();
            return Err(AssembleError::BadFile {
                path: path.to_owned(),
                problem,
            });
        }
        let (parent, name) = self.parent(path)?;
        renameat(&parent, name, CWD, to).map_err(failed("move", path))?;
        self.make_dir(path, TreeAccess::of(&stat))?;
        Ok(true)
    }

    /// Whether `path` itself is a regular file and no link.
    pub(super) fn is_plain_file(&self, path: &str) -> Result<bool> {
        Ok(self
            .lstat(path)?
            .is_some_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file()))
    }

    /// Copies what lies in a directory into another: files, links and directories, all of one owner.
    pub(super) fn copy_into(&self, from: &str, to: &str, uid: u32, gid: u32) -> Result<()> {
        for name in self.list(from)? {
            let (source, dest) = (format!("{from}/{name}"), format!("{to}/{name}"));
            let Some(stat) = self.lstat(&source)? else {
                continue;
            };
            let access = TreeAccess {
                uid,
                gid,
                ..TreeAccess::of(&stat)
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    self.make_dir(&dest, access)?;
                    self.copy_into(&source, &dest, uid, gid)?;
                }
                FileType::RegularFile => {
                    let content = self.read(&source)?.unwrap_or_default();
                    self.write(&dest, content, access)?;
                }
                FileType::Symlink => {
                    let (parent, name) = self.parent(&source)?;
                    let target = readlinkat(&parent, name, Vec::new())
                        .map_err(failed("read the link", &source))?;
                    self.link(&dest, &target.to_string_lossy())?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The epoch as the time of a name and of the directory that it is in.
    fn normalize(&self, parent: &OwnedFd, name: &str) -> Result<(), Errno> {
        utimensat(parent, name, &self.times, AtFlags::SYMLINK_NOFOLLOW)?;
        utimensat(parent, ".", &self.times, AtFlags::empty())
    }
}

fn is_absent(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR)
}

fn not_regular(path: &str) -> AssembleError {
    AssembleError::BadFile {
        path: path.to_owned(),
        problem: "it is not a regular file".to_owned(),
    }
}

fn failed(verb: &'static str, path: &str) -> impl FnOnce(Errno) -> AssembleError {
    move |errno| AssembleError::io(verb, if path.is_empty() { "/" } else { path })(errno.into())
}

fn own(fd: impl std::os::fd::AsFd, access: TreeAccess) -> Result<(), Errno> {
    fchown(
        &fd,
        Some(Uid::from_raw(access.uid)),
        Some(Gid::from_raw(access.gid)),
    )?;
    // After chown, which clears set-user-id.
    fchmod(&fd, Mode::from_raw_mode(access.mode))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_nowhere_but_into_the_tree() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "host").unwrap();
        let dir = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("etc")).unwrap();
        symlink(outside.path().join("secret"), dir.path().join("file")).unwrap();
        let tree = RootTree::open(dir.path(), 1).unwrap();
        assert_eq!(tree.read("/file").unwrap(), None);
        assert_eq!(tree.read("/../../../../../../etc/hostname").unwrap(), None);
        // A link to nothing in the tree is not a directory to write into.
        tree.write("/etc/new", "x", TreeAccess::root(0o644))
            .unwrap_err();
        tree.write("/file", "tree", TreeAccess::root(0o644))
            .unwrap();
        assert_eq!(
            std::fs::read_to_string(outside.path().join("secret")).unwrap(),
            "host"
        );
        assert_eq!(tree.read("/file").unwrap().as_deref(), Some(&b"tree"[..]));
        assert!(!outside.path().join("new").exists());
    }
}
