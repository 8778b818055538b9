//! Lays the tree's tar stream out in a directory, exactly: owners, modes, times, devices, links, extended attributes; or
//! as the caller's [`Rules`] change it. Knows entries and file system calls, not what the files mean.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, IFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags,
    chownat, fchmod, fchown, fsetxattr, futimens, ioctl_getflags, ioctl_setflags, linkat, makedev,
    mkdirat, mknodat, openat, openat2, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::rand::{GetRandomFlags, getrandom};
use tar::{Archive, Entry, EntryType};

use super::error::AssembleError;

/// How many entries of a tree were laid out.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Unpacked {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

/// What a tree gets of what an archive says.
pub(crate) trait Rules {
    /// Why an entry is refused, or not laid out.
    type Error: From<AssembleError>;

    /// Changes an entry before it is laid out; or says that it is left out, with `false`.
    fn entry(&mut self, entry: &mut Meta) -> Result<bool, Self::Error>;
}

/// All as the archive says.
struct Exactly;

impl Rules for Exactly {
    type Error = AssembleError;

    fn entry(&mut self, _: &mut Meta) -> Result<bool, AssembleError> {
        Ok(true)
    }
}

/// Makes an empty directory in `work` for a tree to be laid out in.
///
/// ext4 steps over every inode that was freed within the last minute, one by one, and puts new files near their
/// directory: beside a tree that was just removed, 18,000 files took 7 to 11 s instead of 1 to 2 s. So the directory is
/// asked to lie anywhere (`chattr +T` on its parent), which its name then decides.
pub(super) fn make_root(work: &Path) -> Result<PathBuf, AssembleError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(fd) = rustix::fs::open(work, flags, Mode::empty())
        && let Ok(flags) = ioctl_getflags(&fd)
    {
        // Other file systems do not know it, and do not need it.
        let _ = ioctl_setflags(&fd, flags | IFlags::TOPDIR);
    }
    let mut random = [0; 8];
    getrandom(&mut random, GetRandomFlags::empty())
        .map_err(|e| AssembleError::io("make", work)(e.into()))?;
    let root = work.join(format!("tree-{:016x}", u64::from_le_bytes(random)));
    std::fs::create_dir(&root).map_err(AssembleError::io("make", &root))?;
    Ok(root)
}

/// Lays `stream` out below `root`, an empty directory. No entry leads out of it, whatever it is called: paths are
/// resolved beneath it, through no symbolic link.
///
/// # Errors
/// The stream is no tar file, an entry leads elsewhere, or a file cannot be made.
pub(super) fn unpack(stream: &mut dyn Read, root: &Path) -> Result<Unpacked, AssembleError> {
    unpack_by(stream, root, &mut Exactly)
}

/// Lays `stream` out below `root` by rules, as [`unpack`] does.
///
/// # Errors
/// Those of [`unpack`], and those of the rules.
pub(crate) fn unpack_by<R: Rules>(
    stream: &mut dyn Read,
    root: &Path,
    rules: &mut R,
) -> Result<Unpacked, R::Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(root, flags, Mode::empty())
        .map_err(|e| AssembleError::io("open", root)(e.into()))?;
    let mut unpacker = Unpacker {
        root: fd,
        last: None,
        directories: Vec::new(),
        buffer: vec![0; 1 << 20],
    };
    let mut done = Unpacked::default();
    // Headers are small, and the stream may be a file.
    let mut archive = Archive::new(BufReader::with_capacity(1 << 18, stream));
    let tar = |source| AssembleError::Tar { source };
    for entry in archive.entries().map_err(tar)? {
        let mut entry = entry.map_err(tar)?;
        let mut meta = Meta::of(&mut entry).map_err(tar)?;
        if rules.entry(&mut meta)? {
            unpacker.put(&mut entry, &meta)?;
        }
        done.entries += 1;
        done.bytes = done.bytes.saturating_add(entry.size());
    }
    if done.entries == 0 {
        return Err(tar(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "it has no entries",
        ))
        .into());
    }
    // To the end, behind which a stream that is checked as it is read says whether it was sound.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(tar)?;
    // Filling a directory changes its time.
    for (path, modified) in unpacker.directories.iter().rev() {
        let set = || {
            utimensat(
                &unpacker.root,
                path.as_slice(),
                &times(*modified),
                AtFlags::SYMLINK_NOFOLLOW,
            )
        };
        set().map_err(|e| failed("set the time of", path, e))?;
    }
    Ok(done)
}

fn failed(verb: &'static str, path: &[u8], errno: Errno) -> AssembleError {
    AssembleError::io(verb, &*show(path))(errno.into())
}

fn show(path: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(path)
}

fn times(modified: Timespec) -> Timestamps {
    // The time of the last access has no meaning in a tree; equal to the other, it is one thing less to differ.
    Timestamps {
        last_access: modified,
        last_modification: modified,
    }
}

/// What an entry says about itself.
pub(crate) struct Meta {
    /// Relative, without `.` and empty parts; empty for the root itself.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryType,
    /// Where a link leads: a symbolic one as it is, a hard one as a path of the tree.
    pub(crate) target: Option<Vec<u8>>,
    /// User and group; none for whoever lays it out.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) mode: Mode,
    pub(crate) modified: Timespec,
    pub(crate) attributes: Vec<(String, Vec<u8>)>,
}

impl Meta {
    fn of<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Meta> {
        let header = entry.header();
        let number = |id: u64| {
            u32::try_from(id).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a huge id"))
        };
        let (uid, gid) = (number(header.uid()?)?, number(header.gid()?)?);
        let mode = Mode::from_raw_mode(header.mode()? & 0o7777);
        let mut modified = Timespec {
            tv_sec: header.mtime()? as i64,
            tv_nsec: 0,
        };
        let kind = header.entry_type();
        let path = plain(&entry.path_bytes());
        let target = entry.link_name_bytes().map(|target| match kind {
            EntryType::Link => plain(&target),
            _ => target.into_owned(),
        });
        let mut attributes = Vec::new();
        for extension in entry.pax_extensions()?.into_iter().flatten() {
            let extension = extension?;
            let Ok(key) = extension.key() else { continue };
            if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                attributes.push((name.to_owned(), extension.value_bytes().to_owned()));
            } else if key == "mtime"
                && let Ok(text) = extension.value()
                && let Some(exact) = decimal(text)
            {
                modified = exact;
            }
        }
        Ok(Meta {
            path,
            kind,
            target,
            owner: Some((uid, gid)),
            mode,
            modified,
            attributes,
        })
    }
}

/// Without `.` and empty parts; `..` stays and is refused where the path is resolved.
fn plain(path: &[u8]) -> Vec<u8> {
    let parts = path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".");
    parts.collect::<Vec<_>>().join(&b'/')
}

/// Seconds with a fraction, as a pax header has them; more than nanoseconds is cut off.
fn decimal(text: &str) -> Option<Timespec> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = whole.parse().ok()?;
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanoseconds: i64 = digits.parse().ok()?;
    let negative = text.starts_with('-') && nanoseconds > 0;
    let (tv_sec, tv_nsec) = if negative {
        (whole - 1, 1_000_000_000 - nanoseconds)
    } else {
        (whole, nanoseconds)
    };
    Some(Timespec {
        tv_sec,
        tv_nsec: tv_nsec as _,
    })
}

struct Unpacker {
    root: OwnedFd,
    /// The directory of the last entry: most entries lie beside the one before.
    last: Option<(Vec<u8>, OwnedFd)>,
    directories: Vec<(Vec<u8>, Timespec)>,
    buffer: Vec<u8>,
}

impl Unpacker {
    fn put<R: Read>(&mut self, entry: &mut Entry<'_, R>, meta: &Meta) -> Result<(), AssembleError> {
        let refuse = |problem| AssembleError::Entry {
            path: show(&meta.path).into_owned(),
            problem,
        };
        let kind = meta.kind;
        let target = || {
            meta.target
                .as_deref()
                .ok_or_else(|| refuse("is a link to nothing"))
        };
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        if meta.path.is_empty() {
            if !kind.is_dir() {
                return Err(refuse("has no name"));
            }
            let root = self
                .root
                .try_clone()
                .map_err(AssembleError::io("open", "/"))?;
            return self.finish_directory(&root, meta);
        }
        let (parent, name) = match meta.path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&meta.path[..slash], &meta.path[slash + 1..]),
            None => (&b""[..], &meta.path[..]),
        };
        if name == b".." || parent.split(|byte| *byte == b'/').any(|part| part == b"..") {
            return Err(refuse("points outside the tree"));
        }
        if self.last.as_ref().is_none_or(|(path, _)| path != parent) {
            let fd = self.directory(parent)?;
            self.last = Some((parent.to_owned(), fd));
        }
        // A clone of the handle would cost a system call for every entry.
        let (path, parent) = self.last.take().expect("BUG: set above");
        let result = match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(entry, &parent, name, meta)
            }
            EntryType::Directory => self.subdirectory(&parent, name, meta),
            EntryType::Symlink => {
                let target = target()?;
                let made = replacing(&parent, name, || symlinkat(target, &parent, name))
                    .and_then(|()| own(&parent, name, meta))
                    .and_then(|()| {
                        utimensat(
                            &parent,
                            name,
                            &times(meta.modified),
                            AtFlags::SYMLINK_NOFOLLOW,
                        )
                    });
                made.map_err(|e| failed("make the link", &meta.path, e))
            }
            EntryType::Link => {
                let target = target()?;
                self.hard_link(target, &parent, name, meta)
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let header = entry.header();
                let numbers = header
                    .device_major()
                    .and_then(|major| Ok((major, header.device_minor()?)));
                let (major, minor) = numbers.map_err(|source| AssembleError::Tar { source })?;
                let (ty, device) = match kind {
                    EntryType::Char => (
                        FileType::CharacterDevice,
                        makedev(major.unwrap_or(0), minor.unwrap_or(0)),
                    ),
                    EntryType::Block => (
                        FileType::BlockDevice,
                        makedev(major.unwrap_or(0), minor.unwrap_or(0)),
                    ),
                    _ => (FileType::Fifo, 0),
                };
                let made = replacing(&parent, name, || {
                    mknodat(&parent, name, ty, meta.mode, device)
                })
                .and_then(|()| own(&parent, name, meta))
                // Not through umask, and again after chown.
                .and_then(|()| rustix::fs::chmodat(&parent, name, meta.mode, AtFlags::empty()))
                .and_then(|()| {
                    utimensat(
                        &parent,
                        name,
                        &times(meta.modified),
                        AtFlags::SYMLINK_NOFOLLOW,
                    )
                });
                made.map_err(|e| failed("make the device", &meta.path, e))
            }
            _ => Err(refuse("is of a type that trees cannot contain")),
        };
        self.last = Some((path, parent));
        result
    }

    /// A directory of the tree; made where an archive does not name it.
    fn directory(&self, path: &[u8]) -> Result<OwnedFd, AssembleError> {
        let open = |path: &[u8]| {
            let path = if path.is_empty() { b"." } else { path };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve =
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            openat2(&self.root, path, flags, Mode::empty(), resolve)
        };
        match open(path) {
            Err(Errno::NOENT) => {
                let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
                    Some(slash) => (&path[..slash], &path[slash + 1..]),
                    None => (&b""[..], path),
                };
                let parent = self.directory(parent)?;
                mkdirat(&parent, name, Mode::from_raw_mode(0o755))
                    .map_err(|e| failed("make", path, e))?;
                open(path)
            }
            // A link where the archive has a directory leads to files that it does not name.
            Err(Errno::LOOP | Errno::NOTDIR) => {
                let problem = "is under something that is not a directory";
                return Err(AssembleError::Entry {
                    path: show(path).into_owned(),
                    problem,
                });
            }
            other => other,
        }
        .map_err(|e| failed("open", path, e))
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        parent: &OwnedFd,
        name: &[u8],
        meta: &Meta,
    ) -> Result<(), AssembleError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || openat(parent, name, flags, Mode::from_raw_mode(0o600));
        let mut file =
            File::from(replacing(parent, name, open).map_err(|e| failed("make", &meta.path, e))?);
        loop {
            let count = match entry.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(AssembleError::Tar { source }),
            };
            let written = file.write_all(&self.buffer[..count]);
            written.map_err(AssembleError::io("write", &*show(&meta.path)))?;
        }
        finish(&file, meta)?;
        futimens(&file, &times(meta.modified)).map_err(|e| failed("set the time of", &meta.path, e))
    }

    fn subdirectory(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        meta: &Meta,
    ) -> Result<(), AssembleError> {
        let io = |e| failed("make", &meta.path, e);
        match mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) | Ok(()) => {}
            Err(error) => return Err(io(error)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(parent, name, flags, Mode::empty()).map_err(io)?;
        self.finish_directory(&directory, meta)
    }

    fn finish_directory(&mut self, directory: &OwnedFd, meta: &Meta) -> Result<(), AssembleError> {
        finish(directory, meta)?;
        let path = if meta.path.is_empty() {
            b".".to_vec()
        } else {
            meta.path.clone()
        };
        self.directories.push((path, meta.modified));
        Ok(())
    }

    fn hard_link(
        &self,
        target: &[u8],
        parent: &OwnedFd,
        name: &[u8],
        meta: &Meta,
    ) -> Result<(), AssembleError> {
        let (directory, file) = match target.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&target[..slash], &target[slash + 1..]),
            None => (&b""[..], target),
        };
        let directory = self.directory(directory)?;
        let link = || linkat(&directory, file, parent, name, AtFlags::empty());
        replacing(parent, name, link).map_err(|e| failed("make the link", &meta.path, e))
    }
}

/// Does what makes a file; once more without the one that is there, as a later entry counts.
fn replacing<T>(
    parent: &OwnedFd,
    name: &[u8],
    make: impl Fn() -> Result<T, Errno>,
) -> Result<T, Errno> {
    match make() {
        Err(Errno::EXIST) => {
            unlinkat(parent, name, AtFlags::empty())?;
            make()
        }
        result => result,
    }
}

fn own(parent: &OwnedFd, name: &[u8], meta: &Meta) -> Result<(), Errno> {
    let Some((uid, gid)) = meta.owner else {
        return Ok(());
    };
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    chownat(
        parent,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

/// Owner, then mode and attributes: a change of owner clears set-user-id and capabilities.
fn finish(file: impl AsFd, meta: &Meta) -> Result<(), AssembleError> {
    let io = |verb| move |e| failed(verb, &meta.path, e);
    if let Some((uid, gid)) = meta.owner {
        fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(io("set the owner of"))?;
    }
    fchmod(&file, meta.mode).map_err(io("set the mode of"))?;
    for (name, value) in &meta.attributes {
        let set = fsetxattr(&file, name.as_str(), value, XattrFlags::empty());
        set.map_err(io("set an extended attribute of"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions() {
        let read = |text| decimal(text).map(|time| (time.tv_sec, time.tv_nsec));
        assert_eq!(read("17"), Some((17, 0)));
        assert_eq!(read("17.5"), Some((17, 500_000_000)));
        assert_eq!(read("17.1234567891"), Some((17, 123_456_789)));
        assert_eq!(read("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(read("x"), None);
    }

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn link(builder: &mut tar::Builder<Vec<u8>>, path: &str, target: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        builder.append_link(&mut header, path, target).unwrap();
    }

    #[test]
    fn no_entry_leads_out() {
        let outside = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        let bytes = archive(|builder| {
            link(builder, "out", outside.path().to_str().unwrap());
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            builder
                .append_data(&mut header, "out/file", &b"x"[..])
                .unwrap();
        });
        let error = unpack(&mut bytes.as_slice(), root.path()).unwrap_err();
        assert!(matches!(error, AssembleError::Entry { .. }), "{error}");
        assert!(!outside.path().join("file").exists());
    }

    #[test]
    fn what_is_no_archive_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        for bytes in [&b""[..], &[7; 2048]] {
            let error = unpack(&mut &*bytes, root.path()).unwrap_err();
            assert!(matches!(error, AssembleError::Tar { .. }), "{error}");
        }
    }
}
