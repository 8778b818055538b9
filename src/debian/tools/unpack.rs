//! Lays the data of many packages out in one directory: the *toolbox*, a root of tools that is never booted.
//!
//! Knows archives and where their files go; runs no maintainer script, and takes packages in the order of their names, so
//! that equal packages give equal trees. Owners and times are nobody's: files belong to who unpacks them, and set-user-id
//! bits are dropped, as the tree lies in a directory of the user's.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use impasto_stages::package_set::LockedPackage;
use impasto_store::digest::{Digest, Hasher};
use impasto_store::sha256::Sha256Reader;
use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps, utimensat};
use tar::EntryType;

use crate::assemble::AssembleError;
use crate::assemble::unpack::{Meta, Rules, unpack_by};
use crate::base::io::IoError;
use crate::deb::package::{Package, PackageError};

/// Version of what is made of packages; part of the tree's name.
const VERSION: u32 = 1;
/// BLAKE3 context of the tree's name. Changing it gives every tree another name.
const DOMAIN: &str = "impasto 2026 toolbox v1";
/// The time of all files, in seconds since 1970: 1980-01-01, which every file format can hold.
const TIME: i64 = 315_532_800;
/// Links of the root to directories below `usr`, as Debian has them since the merge.
const MERGED: [&str; 6] = ["bin", "lib", "lib32", "lib64", "libx32", "sbin"];
/// Empty directories in which a sandbox mounts something.
const MOUNT_POINTS: [&str; 6] = ["dev", "proc", "run", "sys", "tmp", "work"];
/// Links that maintainer scripts would make (update-alternatives, diversions), where what they lead to is there.
const LINKS: [(&str, &str); 4] = [
    ("usr/bin/awk", "mawk"),
    ("usr/bin/nawk", "mawk"),
    ("usr/bin/sh", "dash"),
    ("usr/bin/which", "which.debianutils"),
];
/// Files that maintainer scripts would copy, where they are missing.
const COPIES: [(&str, &str); 2] = [
    ("etc/passwd", "usr/share/base-passwd/passwd.master"),
    ("etc/group", "usr/share/base-passwd/group.master"),
];
/// Packages that are unpacked ahead.
const THREADS: usize = 2;
/// Size of the pieces that the decompressors hand over, in bytes, and how many of each package may wait.
const PIECE: usize = 1 << 18;
const WAITING: usize = 256;

/// Opens a `.deb` at its beginning.
pub type OpenDeb<'a> = Box<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync + 'a>;

/// A package, and where its bytes are.
pub struct DebSource<'a> {
    /// Which it must be: what the bytes say otherwise is an error.
    pub package: LockedPackage,
    /// How it is opened.
    pub open: OpenDeb<'a>,
}

/// A tree that was not laid out.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The tree's own directories and links.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A package that cannot be read.
    #[error("the package {package} cannot be used")]
    Package {
        package: String,
        source: PackageError,
    },
    /// A package that is another one than it should be.
    #[error("the package {package} is not the locked one: its {what} is {found}, not {expected}")]
    Other {
        /// The name of the package that was asked for.
        package: String,
        what: &'static str,
        found: String,
        /// What it should be.
        expected: String,
    },
    /// Data of a package that cannot be laid out.
    #[error("the files of {package} cannot be unpacked")]
    Files {
        package: String,
        source: AssembleError,
    },
    /// A device among a package's files.
    #[error("{path:?} of {package} is a device file, which is not allowed in the toolbox")]
    Device { package: String, path: String },
    /// A file of two packages.
    #[error("{path:?} is both in {first} and in {second}")]
    Conflict {
        path: String,
        /// The package that was unpacked first.
        first: String,
        second: String,
    },
}

impl UnpackError {
    fn io(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> UnpackError {
        IoError::at(verb, path)
    }
}

/// Names the tree that a set of packages gives; their order does not count.
pub fn content<'a>(packages: impl IntoIterator<Item = &'a LockedPackage>) -> Digest {
    let mut packages: Vec<_> = packages.into_iter().map(identity).collect();
    packages.sort_unstable();
    packages.dedup();
    let mut hasher = Hasher::new(DOMAIN);
    hasher.update(&VERSION.to_le_bytes());
    for package in packages {
        for text in package {
            hasher
                .update(&(text.len() as u64).to_le_bytes())
                .update(text.as_bytes());
        }
    }
    hasher.finish()
}

/// What names a package in its tree's name, in the order that it goes by there.
fn identity(package: &LockedPackage) -> [String; 4] {
    let LockedPackage {
        name,
        architecture,
        version,
        sha256,
        size: _,
    } = package;
    [
        name.clone(),
        version.clone(),
        architecture.clone(),
        sha256.to_string(),
    ]
}

/// Lays packages out below `root`, an empty directory.
///
/// # Errors
/// A package cannot be read or is another one, two have the same file, or a file cannot be made.
pub fn unpack(packages: &[DebSource<'_>], root: &Path) -> Result<(), UnpackError> {
    let mut order: Vec<_> = packages.iter().collect();
    order.sort_by_key(|source| identity(&source.package));
    let directory = |path: &str| {
        let path = root.join(path);
        fs::create_dir_all(&path).map_err(UnpackError::io("make", &path))
    };
    for name in MERGED {
        directory(&format!("usr/{name}"))?;
        let link = root.join(name);
        symlink(format!("usr/{name}"), &link).map_err(UnpackError::io("make", &link))?;
    }
    MOUNT_POINTS.iter().try_for_each(|name| directory(name))?;
    let mut tree = UnpackTree {
        package: String::new(),
        files: HashMap::new(),
    };
    let (senders, receivers): (Vec<_>, Vec<_>) =
        order.iter().map(|_| sync_channel(WAITING)).unzip();
    // Taken in order, so that the package that is waited for is always at work.
    let work = Mutex::new(order.iter().zip(senders));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let next = || work.lock().ok()?.next();
                while let Some((source, sender)) = next() {
                    // Nobody listens any more where another package failed.
                    if hand_over(source, &sender).is_none() {
                        return;
                    }
                }
            });
        }
        for (source, receiver) in order.iter().zip(receivers) {
            tree.package.clone_from(&source.package.name);
            let mut pieces = PieceReader {
                receiver,
                piece: Vec::new(),
                start: 0,
                ended: false,
                error: None,
            };
            let done = unpack_by(&mut pieces, root, &mut tree);
            if let Some(error) = pieces.error {
                return Err(error);
            }
            done.map_err(|problem| problem.of(&source.package.name))?;
        }
        Ok(())
    })?;
    finish(root, &tree)
}

type StreamPiece = Result<Vec<u8>, UnpackError>;

/// Hands the data of a package over in pieces, and at the end that it was sound: an empty piece, or an error. None where
/// nobody listens.
fn hand_over(source: &DebSource<'_>, sender: &SyncSender<StreamPiece>) -> Option<()> {
    let end = match read(source, sender) {
        Ok(true) => Ok(Vec::new()),
        Ok(false) => return None,
        Err(error) => Err(error),
    };
    sender.send(end).ok()
}

/// Hands over all but the end. False where nobody listens.
fn read(source: &DebSource<'_>, sender: &SyncSender<StreamPiece>) -> Result<bool, UnpackError> {
    let locked = &source.package;
    let package = || locked.name.clone();
    let failed = |source| UnpackError::Package {
        package: package(),
        source,
    };
    let io = |source| failed(PackageError::Read { source });
    let mut hashed = Sha256Reader::new((source.open)().map_err(io)?);
    {
        let deb = Package::read(&mut hashed).map_err(failed)?;
        let fields = [
            ("Package", &locked.name),
            ("Version", &locked.version),
            ("Architecture", &locked.architecture),
        ];
        for (what, expected) in fields {
            let found = deb.field(what);
            if found != expected {
                let (found, expected) = (found.to_owned(), expected.clone());
                return Err(UnpackError::Other {
                    package: package(),
                    what,
                    found,
                    expected,
                });
            }
        }
        let mut data = deb.data().map_err(io)?;
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            (&mut data)
                .take(PIECE as u64)
                .read_to_end(&mut piece)
                .map_err(io)?;
            if piece.is_empty() {
                break;
            }
            if sender.send(Ok(piece)).is_err() {
                return Ok(false);
            }
        }
    }
    io::copy(&mut hashed, &mut io::sink()).map_err(io)?;
    let found = hashed.finish();
    if found != locked.sha256 {
        return Err(UnpackError::Other {
            package: package(),
            what: "SHA-256",
            found: found.to_string(),
            expected: locked.sha256.to_string(),
        });
    }
    Ok(true)
}

/// What a decompressor hands over, as a stream.
struct PieceReader {
    receiver: Receiver<StreamPiece>,
    piece: Vec<u8>,
    start: usize,
    ended: bool,
    /// Why it ended early.
    error: Option<UnpackError>,
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.start == self.piece.len() && !self.ended {
            self.piece = match self.receiver.recv() {
                Ok(Ok(piece)) => piece,
                Ok(Err(error)) => {
                    self.error = Some(error);
                    return Err(io::Error::other("the package is corrupt"));
                }
                Err(_) => return Err(io::Error::other("the decompressor has stopped")),
            };
            self.start = 0;
            self.ended = self.piece.is_empty();
        }
        let count = buffer.len().min(self.piece.len() - self.start);
        buffer[..count].copy_from_slice(&self.piece[self.start..self.start + count]);
        self.start += count;
        Ok(count)
    }
}

/// What was laid out so far.
struct UnpackTree {
    /// The package that is unpacked.
    package: String,
    /// Every path, with its package; none for directories, which many packages have.
    files: HashMap<Vec<u8>, Option<String>>,
}

/// Why a package's entry was not laid out; the package is known to the caller.
enum UnpackProblem {
    Files(AssembleError),
    Device(String),
    Conflict { path: String, first: String },
}

impl From<AssembleError> for UnpackProblem {
    fn from(error: AssembleError) -> UnpackProblem {
        UnpackProblem::Files(error)
    }
}

impl UnpackProblem {
    fn of(self, package: &str) -> UnpackError {
        let package = package.to_owned();
        match self {
            UnpackProblem::Files(source) => UnpackError::Files { package, source },
            UnpackProblem::Device(path) => UnpackError::Device { package, path },
            UnpackProblem::Conflict { path, first } => UnpackError::Conflict {
                path,
                first,
                second: package,
            },
        }
    }
}

impl Rules for UnpackTree {
    type Error = UnpackProblem;

    fn entry(&mut self, entry: &mut Meta) -> Result<bool, UnpackProblem> {
        let show = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        let is_dir = entry.kind.is_dir();
        if entry.path.is_empty() && is_dir {
            return Ok(false);
        }
        if matches!(entry.kind, EntryType::Char | EntryType::Block) {
            return Err(UnpackProblem::Device(show(&entry.path)));
        }
        // The links of the merge are there already, and a package may bring them itself.
        if entry.kind.is_symlink()
            && let Some(name) = MERGED.iter().find(|name| name.as_bytes() == entry.path)
            && entry.target.as_deref() == Some(format!("usr/{name}").as_bytes())
        {
            return Ok(false);
        }
        entry.path = merged(std::mem::take(&mut entry.path));
        if entry.kind == EntryType::Link {
            entry.target = entry.target.take().map(merged);
        }
        entry.owner = None;
        // Its user must be able to read and to remove it.
        let least = if is_dir { 0o700 } else { 0o600 };
        entry.mode = Mode::from_raw_mode(entry.mode.as_raw_mode() & 0o777 | least);
        entry.modified = Timespec {
            tv_sec: TIME,
            tv_nsec: 0,
        };
        entry.attributes.clear();
        let package = (!is_dir).then(|| self.package.clone());
        match self.files.get(&entry.path) {
            None => {
                self.files.insert(entry.path.clone(), package);
                Ok(true)
            }
            // The first package decides a directory's mode.
            Some(None) if is_dir => Ok(false),
            Some(first) => {
                let first = first
                    .clone()
                    .unwrap_or_else(|| "another package, as a directory,".to_owned());
                Err(UnpackProblem::Conflict {
                    path: show(&entry.path),
                    first,
                })
            }
        }
    }
}

/// Where a path of a package lies after the merge.
fn merged(path: Vec<u8>) -> Vec<u8> {
    let first = path.split(|&byte| byte == b'/').next().unwrap_or_default();
    if MERGED.iter().any(|name| name.as_bytes() == first) {
        [b"usr/", path.as_slice()].concat()
    } else {
        path
    }
}

/// What maintainer scripts would have done, and the modes and times of directories.
fn finish(root: &Path, tree: &UnpackTree) -> Result<(), UnpackError> {
    let is_there = |path: &Path| fs::symlink_metadata(path).is_ok();
    for (link, target) in LINKS {
        let link = root.join(link);
        if !is_there(&link) && is_there(&link.with_file_name(target)) {
            symlink(target, &link).map_err(UnpackError::io("make", &link))?;
        }
    }
    for (copy, from) in COPIES {
        let (copy, from) = (root.join(copy), root.join(from));
        // Through no link: a package could have made it lead out.
        let is_file = fs::symlink_metadata(&from).is_ok_and(|stat| stat.is_file());
        if !is_there(&copy)
            && is_file
            && copy
                .parent()
                .is_some_and(|parent| parent.is_dir() && !parent.is_symlink())
        {
            fs::copy(&from, &copy).map_err(UnpackError::io("write", &copy))?;
        }
    }
    let time = Timespec {
        tv_sec: TIME,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    for entry in walkdir::WalkDir::new(root).contents_first(true) {
        let entry = entry.map_err(|error| UnpackError::io("list", root)(error.into()))?;
        let path = entry.path();
        // The modes of those that no package names are the umask's.
        let below = path
            .strip_prefix(root)
            .unwrap_or(path)
            .as_os_str()
            .as_bytes();
        if entry.file_type().is_dir() && !tree.files.contains_key(below) {
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(path, mode).map_err(UnpackError::io("set the mode of", path))?;
        }
        let set = utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW);
        set.map_err(|errno| UnpackError::io("set the time of", path)(errno.into()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
