//! All access of the store to its files: names beneath one directory, durable publishing, reserve, clock, counters.
//! Knows files and directories, not what they hold.

mod publish;
mod remove;
mod temp;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};

use crate::crash;
use crate::error::{Error, ObjectKind, Result};
use crate::owner::Owner;

pub(crate) use temp::Temp;
use temp::temp_name;

/// Store directories are the user's own.
const DIR_MODE: Mode = Mode::RWXU;
/// Published files are never written again.
const FILE_MODE: Mode = Mode::from_raw_mode(0o444);
/// At most this much of a file system is left free, in bytes; of a small one 3 %.
const RESERVE_MAX: u64 = 1 << 30;

/// How often a directory is made again that a collector removed before it was used, and a lock is asked for again.
const RACES: u32 = 100;

/// How often the store did what, for tests that assert on I/O.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoSnapshot {
    pub layer_opens: u64,
    pub manifest_opens: u64,
    /// Blobs and their records opened.
    pub blob_opens: u64,
    pub claim_opens: u64,
    pub state_opens: u64,
    /// The user's input files opened to be hashed.
    pub input_opens: u64,
    pub creates: u64,
    /// Calls of fsync, for files and directories.
    pub fsyncs: u64,
}

#[derive(Debug, Default)]
struct Counters {
    layer: AtomicU64,
    manifest: AtomicU64,
    blob: AtomicU64,
    claim: AtomicU64,
    state: AtomicU64,
    input: AtomicU64,
    creates: AtomicU64,
    fsyncs: AtomicU64,
}

/// The store's directory. Every name is relative to it and resolved beneath it, through no symbolic link.
#[derive(Debug)]
pub(crate) struct StoreFs {
    root: OwnedFd,
    path: PathBuf,
    /// Whose files these are.
    owner: Owner,
    counters: Counters,
}

/// Seconds and nanoseconds by the clock of the store's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FsTime {
    /// Seconds since the epoch.
    pub secs: i64,
    /// Nanoseconds of the second.
    pub nanos: i64,
}

impl FsTime {
    /// As one number, in nanoseconds.
    pub fn as_nanos(self) -> i128 {
        i128::from(self.secs) * 1_000_000_000 + i128::from(self.nanos)
    }
}

/// What should be at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExpectedType {
    File,
    Directory,
}

impl ExpectedType {
    pub(crate) fn word(self) -> &'static str {
        match self {
            ExpectedType::File => "a regular file",
            ExpectedType::Directory => "a directory",
        }
    }
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StoreDirEntry {
    /// Its name in the directory.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

impl StoreFs {
    /// Opens the directory of a user, creating it where it is missing. Another user's is refused: what it holds would be
    /// believed, and what is written to it would be theirs.
    pub(crate) fn open(path: &Path, owner: &Owner) -> Result<StoreFs> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => {
                let created = owner.create_dirs(path, DIR_MODE.as_raw_mode());
                created.map_err(|source| Error::io("create", path, source))?;
                rustix::fs::open(path, flags, Mode::empty())
            }
            other => other,
        };
        let root = opened.map_err(|errno| Error::io("open", path, errno.into()))?;
        // What is handed to other programs must hold wherever they run.
        let path =
            std::path::absolute(path).map_err(|source| Error::io("resolve", path, source))?;
        let stat =
            rustix::fs::fstat(&root).map_err(|errno| Error::io("stat", &path, errno.into()))?;
        if stat.st_mode & 0o002 != 0 {
            return Err(Error::WorldWritable { path });
        }
        if stat.st_uid != owner.uid() {
            return Err(Error::NotYours {
                path,
                owner: stat.st_uid,
                caller: owner.uid(),
            });
        }
        Ok(StoreFs {
            root,
            path,
            owner: owner.clone(),
            counters: Counters::default(),
        })
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The absolute path of a name, for messages and for programs that open it.
    pub(crate) fn full(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn io(&self) -> IoSnapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        IoSnapshot {
            layer_opens: get(&self.counters.layer),
            manifest_opens: get(&self.counters.manifest),
            blob_opens: get(&self.counters.blob),
            claim_opens: get(&self.counters.claim),
            state_opens: get(&self.counters.state),
            input_opens: get(&self.counters.input),
            creates: get(&self.counters.creates),
            fsyncs: get(&self.counters.fsyncs),
        }
    }

    /// Counts the opening of one of the user's files, which is none of the store's.
    pub(crate) fn count_input(&self) {
        self.counters.input.fetch_add(1, Ordering::Relaxed);
    }

    fn error(&self, verb: &'static str, name: &str, errno: rustix::io::Errno) -> Error {
        let path = self.full(name);
        match errno {
            rustix::io::Errno::NOSPC => {
                let free = self.free().map_or(0, |(free, _)| free);
                Error::NoSpace {
                    path,
                    free,
                    needed: free + 1,
                }
            }
            _ => Error::io(verb, path, errno.into()),
        }
    }

    /// Like [`Error::io`] for a name in the store.
    pub(crate) fn io_error(&self, verb: &'static str, name: &str, source: io::Error) -> Error {
        match source.raw_os_error() {
            Some(code) => self.error(verb, name, rustix::io::Errno::from_raw_os_error(code)),
            None => Error::io(verb, self.full(name), source),
        }
    }

    fn open_at(&self, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        self.open_resolved(name, flags, ResolveFlags::empty())
    }

    fn open_resolved(
        &self,
        name: &str,
        flags: OFlags,
        more: ResolveFlags,
    ) -> rustix::io::Result<OwnedFd> {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | more;
        // BENEATH answers EAGAIN when a rename anywhere on the system raced with it.
        loop {
            match rustix::fs::openat2(
                &self.root,
                name,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            ) {
                Err(rustix::io::Errno::AGAIN) => {}
                other => return other,
            }
        }
    }

    fn open_dir(&self, name: &str) -> rustix::io::Result<OwnedFd> {
        self.open_at(
            if name.is_empty() { "." } else { name },
            OFlags::DIRECTORY | OFlags::RDONLY,
        )
    }

    /// The error that names what is in the way to `name`: the first directory above it that is none, or what lies there
    /// itself and is not `wanted`. None where nothing is.
    fn obstacle(&self, name: &str, wanted: ExpectedType) -> Result<Option<Error>> {
        let ends = name
            .match_indices('/')
            .map(|(end, _)| (end, ExpectedType::Directory));
        for (end, wanted) in ends.chain([(name.len(), wanted)]) {
            let Some(stat) = self.stat(&name[..end])? else {
                return Ok(None);
            };
            if let Some(error) = self.wrong_type(&name[..end], &stat, wanted) {
                return Ok(Some(error));
            }
        }
        Ok(None)
    }

    /// The error that something is not what it should be, if that is so.
    pub(crate) fn wrong_type(
        &self,
        name: &str,
        stat: &std::fs::Metadata,
        wanted: ExpectedType,
    ) -> Option<Error> {
        let right = match wanted {
            ExpectedType::File => stat.is_file(),
            ExpectedType::Directory => stat.is_dir(),
        };
        let (path, wanted) = (self.full(name), wanted.word());
        (!right).then(|| Error::WrongType {
            path,
            found: type_word(stat),
            wanted,
        })
    }

    /// Opens a file to be read; `None` where there is none. What is not a regular file is not read from, and no opening
    /// waits.
    pub(crate) fn open_read(&self, kind: ObjectKind, name: &str) -> Result<Option<File>> {
        let counter = match kind {
            ObjectKind::Layer => &self.counters.layer,
            ObjectKind::Manifest => &self.counters.manifest,
            ObjectKind::Blob | ObjectKind::BlobNote => &self.counters.blob,
            ObjectKind::Claim => &self.counters.claim,
            ObjectKind::State | ObjectKind::Directory | ObjectKind::Other => &self.counters.state,
        };
        match self.open_at(name, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(fd) => {
                counter.fetch_add(1, Ordering::Relaxed);
                let file = File::from(fd);
                let stat = file
                    .metadata()
                    .map_err(|source| self.io_error("stat", name, source))?;
                self.wrong_type(name, &stat, ExpectedType::File)
                    .map_or(Ok(Some(file)), Err)
            }
            Err(rustix::io::Errno::NOENT) => Ok(None),
            // A symbolic link, a socket, a device without driver; or one of these in the place of a directory.
            Err(
                rustix::io::Errno::NOTDIR
                | rustix::io::Errno::LOOP
                | rustix::io::Errno::NXIO
                | rustix::io::Errno::NODEV,
            ) => self
                .obstacle(name, ExpectedType::File)?
                .map_or(Ok(None), Err),
            Err(errno) => Err(self.error("open", name, errno)),
        }
    }

    /// A whole file of at most `limit` bytes; `None` where there is none.
    pub(crate) fn read(&self, kind: ObjectKind, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(mut file) = self.open_read(kind, name)? else {
            return Ok(None);
        };
        let size = file
            .metadata()
            .map_err(|source| self.io_error("stat", name, source))?
            .len();
        if size > limit {
            return Err(Error::TooLarge {
                what: kind.word(),
                size,
                limit,
            });
        }
        let mut bytes = Vec::with_capacity(size as usize + 1);
        (&mut file)
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| self.io_error("read", name, source))?;
        Ok(Some(bytes))
    }

    /// Type, size in bytes and times of what has a name; `None` where nothing has.
    pub(crate) fn stat(&self, name: &str) -> Result<Option<std::fs::Metadata>> {
        // Of a symbolic link, which is none of the store's, the link itself.
        match self.open_at(name, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(fd) => {
                let file = File::from(fd);
                file.metadata()
                    .map(Some)
                    .map_err(|source| self.io_error("stat", name, source))
            }
            // Below a symbolic link there is nothing of ours either.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                Ok(None)
            }
            Err(errno) => Err(self.error("stat", name, errno)),
        }
    }

    /// Like [`StoreFs::stat`] of what is a regular file; `None` for all else.
    pub(crate) fn stat_file(&self, name: &str) -> Result<Option<std::fs::Metadata>> {
        Ok(self.stat(name)?.filter(std::fs::Metadata::is_file))
    }

    /// The entries of a directory, sorted; none where nothing has the name. Any other error is one.
    pub(crate) fn list(&self, name: &str) -> Result<Vec<StoreDirEntry>> {
        let fd = match self.open_dir(name) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT) => return Ok(Vec::new()),
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                return self
                    .obstacle(name, ExpectedType::Directory)?
                    .map_or(Ok(Vec::new()), Err);
            }
            Err(errno) => return Err(self.error("list", name, errno)),
        };
        self.entries(name, fd)
    }

    fn entries(&self, name: &str, fd: OwnedFd) -> Result<Vec<StoreDirEntry>> {
        let list = || -> rustix::io::Result<Vec<StoreDirEntry>> {
            let mut entries = Vec::new();
            for entry in rustix::fs::Dir::read_from(&fd)? {
                let entry = entry?;
                let raw = entry.file_name().to_bytes();
                if raw == b"." || raw == b".." {
                    continue;
                }
                let is_dir = match entry.file_type() {
                    rustix::fs::FileType::Unknown => {
                        let stat =
                            rustix::fs::statat(&fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
                        rustix::fs::FileType::from_raw_mode(stat.st_mode)
                            == rustix::fs::FileType::Directory
                    }
                    file_type => file_type == rustix::fs::FileType::Directory,
                };
                entries.push(StoreDirEntry {
                    name: String::from_utf8_lossy(raw).into_owned(),
                    is_dir,
                });
            }
            entries.sort();
            Ok(entries)
        };
        list().map_err(|errno| self.error("list", name, errno))
    }

    /// Free bytes, and how many of them the store leaves alone.
    fn free(&self) -> Result<(u64, u64)> {
        let stat = rustix::fs::fstatvfs(&self.root)
            .map_err(|errno| Error::io("stat", &self.path, errno.into()))?;
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        Ok((
            stat.f_bavail.saturating_mul(stat.f_frsize),
            (total / 100 * 3).min(RESERVE_MAX),
        ))
    }

    /// Refuses what would take the file system below its reserve: 3 %, at most 1 GiB.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<()> {
        let (free, reserve) = self.free()?;
        let needed = bytes.saturating_add(reserve);
        if free < needed {
            return Err(Error::NoSpace {
                path: self.path.clone(),
                free,
                needed,
            });
        }
        Ok(())
    }

    /// Makes a directory and those above it. The names of those that got a new entry are added to `touched`. What is not
    /// a directory, but has the name of one, goes to the trash.
    pub(crate) fn make_dirs(&self, name: &str, touched: &mut Vec<String>) -> Result<()> {
        match self.open_at(
            if name.is_empty() { "." } else { name },
            OFlags::PATH | OFlags::DIRECTORY,
        ) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::NOENT) => {}
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                if let Some(error) = self.obstacle(name, ExpectedType::Directory)? {
                    self.clear(error)?;
                }
            }
            Err(errno) => return Err(self.error("open", name, errno)),
        }
        let (parent, last) = split(name);
        if !parent.is_empty() {
            self.make_dirs(parent, touched)?;
        }
        let parent_fd = self
            .open_dir(parent)
            .map_err(|errno| self.error("open", parent, errno))?;
        match rustix::fs::mkdirat(&parent_fd, last, DIR_MODE) {
            Ok(()) => {
                let given = self.owner.give_dir(&parent_fd, last);
                given.map_err(|source| self.io_error("change the owner of", name, source))?;
                touched.push(parent.to_owned());
            }
            // Another process made it: its entry is made durable all the same.
            Err(rustix::io::Errno::EXIST) => touched.push(parent.to_owned()),
            Err(errno) => return Err(self.error("create", name, errno)),
        }
        Ok(())
    }

    /// A new file in `tmp/`, open for reading and writing.
    pub(crate) fn temp(self: &Arc<Self>) -> Result<Temp> {
        self.make_dirs("tmp", &mut Vec::new())?;
        let name = temp_name();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let dir = self
            .open_dir("tmp")
            .map_err(|errno| self.error("open", "tmp", errno))?;
        let fd = rustix::fs::openat(&dir, split(&name).1, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.error("create", &name, errno))?;
        self.counters.creates.fetch_add(1, Ordering::Relaxed);
        crash::point("temp.created");
        let temp = Temp {
            fs: self.clone(),
            file: File::from(fd),
            name,
        };
        let given = self.owner.give(&temp.file);
        given.map_err(|source| self.io_error("change the owner of", &temp.name, source))?;
        Ok(temp)
    }

    /// A new directory in `tmp/`: its name.
    pub(crate) fn temp_dir(&self) -> Result<String> {
        let name = temp_name();
        self.make_dirs(&name, &mut Vec::new())?;
        Ok(name)
    }

    /// Keeps other processes from what is done under the same lock, until it is dropped. Where there are no such locks,
    /// or another process does not give it up in a second, nothing is kept from anybody.
    pub(crate) fn lock_dir(&self, name: &str) -> Result<OwnedFd> {
        self.make_dirs(name, &mut Vec::new())?;
        let dir = self
            .open_dir(name)
            .map_err(|errno| self.error("open", name, errno))?;
        for _ in 0..RACES {
            match rustix::fs::flock(&dir, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    std::thread::sleep(std::time::Duration::from_millis(10))
                }
                Err(errno) => {
                    tracing::debug!(%errno, name, "no lock");
                    break;
                }
                Ok(()) => break,
            }
        }
        Ok(dir)
    }

    /// Says that something was used just now. A store that cannot be written cannot be collected either, so that is not an error.
    pub(crate) fn freshen(&self, name: &str) {
        if let Ok(fd) = self.open_at(name, OFlags::RDONLY | OFlags::NONBLOCK) {
            let now = rustix::fs::Timespec {
                tv_sec: 0,
                tv_nsec: rustix::fs::UTIME_NOW,
            };
            let times = rustix::fs::Timestamps {
                last_access: now,
                last_modification: now,
            };
            let _ = rustix::fs::futimens(fd, &times);
        }
    }

    /// What time it is by the clock of the store's file system.
    pub(crate) fn now(self: &Arc<Self>) -> Result<FsTime> {
        let probe = self.temp()?;
        let stat = probe
            .file
            .metadata()
            .map_err(|source| self.io_error("stat", &probe.name, source))?;
        Ok(FsTime {
            secs: stat.mtime(),
            nanos: stat.mtime_nsec(),
        })
    }
}

/// The word for what a file is.
fn type_word(stat: &std::fs::Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    let file_type = stat.file_type();
    match () {
        () if file_type.is_file() => "a regular file",
        () if file_type.is_dir() => "a directory",
        () if file_type.is_symlink() => "a symbolic link",
        () if file_type.is_fifo() => "a FIFO",
        () if file_type.is_socket() => "a socket",
        () => "a device",
    }
}

/// 128 random bits, in hexadecimal.
pub(crate) fn random_name() -> String {
    let mut bits = [0u8; 16];
    let filled = rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty());
    assert!(
        filled == Ok(bits.len()),
        "BUG: the kernel gives no random bits: {filled:?}"
    );
    format!("{:032x}", u128::from_le_bytes(bits))
}

/// The directory and the last component of a name.
pub(crate) fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}
