//! Puts volatile files back at the end of a job: what says when or where it ran shall not tell two runs apart.
//!
//! Knows paths with `*` and what lay there before the first step, not why a path is volatile. Only regular files on the
//! disk's own file systems are touched, and no link is ever followed: steps may have put anything in a log's place.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, ftruncate, open,
    openat2, statx, unlinkat,
};

use crate::mounts::{GuestMounts, UndoStep};
use crate::protocol::Problem;

/// What was there before the first step.
#[derive(Default)]
pub(crate) struct Volatile {
    /// Parts of each path.
    patterns: Vec<Vec<OsString>>,
    /// Mounts of the disk's own file systems, by number: what a step mounts over them is not the image.
    mounts: BTreeSet<u64>,
    files: BTreeMap<PathBuf, FileSnapshot>,
    directories: BTreeSet<PathBuf>,
}

/// What tells that a file was changed: inode, size, modification and change time. The last cannot be set by a step.
#[derive(PartialEq, Eq)]
struct FileSnapshot(u64, u64, (i64, u32), (i64, u32));

impl FileSnapshot {
    fn of(found: &Statx) -> Self {
        let (mtime, ctime) = (found.stx_mtime, found.stx_ctime);
        Self(
            found.stx_ino,
            found.stx_size,
            (mtime.tv_sec, mtime.tv_nsec),
            (ctime.tv_sec, ctime.tv_nsec),
        )
    }
}

/// Directories and files at volatile paths, each directory before what it holds.
#[derive(Default)]
struct VolatilePaths {
    files: Vec<(PathBuf, Statx)>,
    /// Those below a path that is volatile as a whole.
    directories: Vec<PathBuf>,
}

impl Volatile {
    /// Looks at what is there now. Paths are absolute; `*` stands for any bytes within one part, and a directory for all
    /// that is below it.
    pub(crate) fn snapshot(guest_mounts: &GuestMounts, paths: &[String]) -> Result<Self, Problem> {
        let parts = |path: &String| {
            path.split('/')
                .filter(|part| !matches!(*part, "" | "."))
                .map(OsString::from)
                .collect()
        };
        let mut volatile = Self {
            patterns: paths.iter().map(parts).collect(),
            ..Self::default()
        };
        let mounted = guest_mounts
            .undo_log
            .iter()
            .filter_map(|trace| match trace {
                UndoStep::Mounted { path, .. } => Some(path.as_path()),
                UndoStep::Made(_) => None,
            });
        for path in mounted.chain([Path::new("/")]) {
            let found = examine(path).map_err(|e| failed("examine", path, e))?;
            volatile.mounts.insert(found.stx_mnt_id);
        }
        let found = volatile.find()?;
        volatile.files = found
            .files
            .into_iter()
            .map(|(path, found)| (path, FileSnapshot::of(&found)))
            .collect();
        volatile.directories = found.directories.into_iter().collect();
        Ok(volatile)
    }

    /// Empties files that were there before and are not as they were, and removes new ones, with the new directories
    /// that held nothing else. Every process of the steps must have ended.
    pub(crate) fn restore(&self) -> Result<(), Problem> {
        let found = self.find()?;
        let mut emptied = BTreeSet::new();
        for (path, found) in &found.files {
            match self.files.get(path) {
                Some(seen) if *seen == FileSnapshot::of(found) => {}
                // Its bytes are those of another name as well, which is perhaps not volatile.
                Some(_) if found.stx_size == 0 || found.stx_nlink > 1 => {}
                Some(_) => done(empty(path)).map_err(|e| failed("empty", path, e))?,
                None => {
                    done(remove(path, AtFlags::empty())).map_err(|e| failed("remove", path, e))?;
                    emptied.extend(path.parent().map(Path::to_path_buf));
                }
            }
        }
        for path in found
            .directories
            .iter()
            .rev()
            .filter(|path| !self.directories.contains(*path))
        {
            if emptied.contains(path) {
                match remove(path, AtFlags::REMOVEDIR) {
                    // It holds something that is no regular file, or was there already.
                    Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => continue,
                    result => done(result).map_err(|e| failed("remove", path, e))?,
                }
                emptied.extend(path.parent().map(Path::to_path_buf));
            }
        }
        Ok(())
    }

    fn find(&self) -> Result<VolatilePaths, Problem> {
        let mut found = VolatilePaths::default();
        for pattern in &self.patterns {
            self.descend(Path::new("/"), pattern, &mut found)?;
        }
        // Two paths may lead to one file.
        found.files.sort_by(|a, b| a.0.cmp(&b.0));
        found.files.dedup_by(|a, b| a.0 == b.0);
        found.directories.sort();
        found.directories.dedup();
        Ok(found)
    }

    /// What lies below `directory`, a real one, at the path that `pattern` is the rest of.
    fn descend(
        &self,
        directory: &Path,
        pattern: &[OsString],
        found: &mut VolatilePaths,
    ) -> Result<(), Problem> {
        let Some((part, rest)) = pattern.split_first() else {
            return Ok(());
        };
        if !part.as_bytes().contains(&b'*') {
            return self.visit(directory.join(part), rest, found);
        }
        for name in names(directory)? {
            if matches(part.as_bytes(), name.as_bytes()) {
                self.visit(directory.join(name), rest, found)?;
            }
        }
        Ok(())
    }

    fn visit(
        &self,
        path: PathBuf,
        rest: &[OsString],
        found: &mut VolatilePaths,
    ) -> Result<(), Problem> {
        let at = match examine(&path) {
            Ok(at) if self.mounts.contains(&at.stx_mnt_id) => at,
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("examine", &path, error)),
        };
        match (FileType::from_raw_mode(at.stx_mode.into()), rest) {
            (FileType::RegularFile, []) => found.files.push((path, at)),
            (FileType::Directory, []) => self.below(&path, found)?,
            (FileType::Directory, rest) => self.descend(&path, rest, found)?,
            _ => {}
        }
        Ok(())
    }

    /// All that is below a directory.
    fn below(&self, top: &Path, found: &mut VolatilePaths) -> Result<(), Problem> {
        let mut open = vec![top.to_path_buf()];
        while let Some(directory) = open.pop() {
            for name in names(&directory)? {
                let path = directory.join(name);
                let at = examine(&path).map_err(|e| failed("examine", &path, e))?;
                if !self.mounts.contains(&at.stx_mnt_id) {
                    continue;
                }
                match FileType::from_raw_mode(at.stx_mode.into()) {
                    FileType::RegularFile => found.files.push((path, at)),
                    FileType::Directory => {
                        found.directories.push(path.clone());
                        open.push(path);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn failed(what: &str, path: &Path, error: io::Error) -> Problem {
    Problem::io(what, path.to_string_lossy(), &error)
}

/// What may not be changed (`chattr +i`, `+a`) stays.
fn done(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

fn examine(path: &Path) -> io::Result<Statx> {
    Ok(statx(
        CWD,
        path,
        AtFlags::SYMLINK_NOFOLLOW,
        StatxFlags::BASIC_STATS | StatxFlags::MNT_ID,
    )?)
}

fn names(directory: &Path) -> Result<Vec<OsString>, Problem> {
    let read = || {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<Vec<_>>>()
    };
    read().map_err(|e| failed("read", directory, e))
}

/// Opens a path of the image without following a link anywhere.
fn open_real(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let root = open(
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Owner, mode and attributes stay.
fn empty(path: &Path) -> io::Result<()> {
    let file = open_real(path, OFlags::WRONLY | OFlags::NONBLOCK)?;
    Ok(ftruncate(&file, 0)?)
}

fn remove(path: &Path, flags: AtFlags) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let parent = open_real(parent, OFlags::PATH | OFlags::DIRECTORY)?;
    Ok(unlinkat(&parent, name, flags)?)
}

/// Whether a name is of a pattern in which `*` stands for any bytes.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let mut parts = pattern.split(|byte| *byte == b'*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        if part.is_empty() {
            continue;
        }
        // The first place is as good as any: what comes behind it has the most room there.
        match rest.windows(part.len()).position(|window| window == part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    // There was no `*`.
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_bytes() {
        for (pattern, name) in [
            ("*", "x"),
            ("*", ""),
            ("**", "x"),
            ("*.bin", "pkgcache.bin"),
            ("*.bin", ".bin"),
            ("a*", "a"),
            ("a*b*c", "abc"),
            ("a*b*c", "a-b-b-c-c"),
            ("a*aba", "aababa"),
            ("log", "log"),
        ] {
            assert!(
                matches(pattern.as_bytes(), name.as_bytes()),
                "{pattern} {name}"
            );
        }
        for (pattern, name) in [
            ("*.bin", "bin"),
            ("a*a", "a"),
            ("a*b*c", "acb"),
            ("log", "log1"),
            ("log", ""),
            ("*a*ab", "ab"),
        ] {
            assert!(
                !matches(pattern.as_bytes(), name.as_bytes()),
                "{pattern} {name}"
            );
        }
    }
}
