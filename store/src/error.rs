//! What can go wrong in the store, with what is needed to say it.
//! Knows paths and causes; hints and exit codes are added by the program that shows it.

use std::io;
use std::path::{Path, PathBuf};

use crate::qcow2::{SourceError, WriteError};

/// Result of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of object a path of the store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A layer's qcow2 file.
    Layer,
    Manifest,
    Blob,
    /// The SHA-256 recorded beside a blob, or the record of a derived file.
    BlobNote,
    Claim,
    /// A checksummed file of `state/`.
    State,
    /// A directory of the store's own.
    Directory,
    /// `format`, leases, roots.
    Other,
}

impl ObjectKind {
    /// The word for it in messages.
    pub fn word(self) -> &'static str {
        match self {
            ObjectKind::Layer => "layer file",
            ObjectKind::Manifest => "manifest",
            ObjectKind::Blob => "blob",
            ObjectKind::BlobNote => "blob record",
            ObjectKind::Claim => "claim",
            ObjectKind::State => "state file",
            ObjectKind::Directory => "directory",
            ObjectKind::Other => "store file",
        }
    }
}

/// Something that the store should hold is absent or damaged: to be built again, with one warning where it was damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} `{}` {}", kind.word(), path.display(), reason)]
pub struct Miss {
    pub kind: ObjectKind,
    /// Where it should be.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: MissReason,
}

/// Why something is a miss.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MissReason {
    /// There is no such file.
    #[error("is missing")]
    Absent,
    /// The file is there with other content than its name promises; it was moved to `trash/` where that was possible.
    #[error("is damaged: {0}")]
    Damaged(String),
}

impl Miss {
    /// Whether it is worth a warning: damage is, absence is not.
    pub fn is_damage(&self) -> bool {
        matches!(self.reason, MissReason::Damaged(_))
    }
}

/// A store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object is absent or damaged. For look-ups this is an answer, not a failure.
    #[error(transparent)]
    Miss(#[from] Miss),
    /// A system call failed.
    #[error("cannot {verb} `{}`", path.display())]
    Io {
        verb: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The file system is full, or would fall below the reserve that the store leaves free.
    #[error("no space for `{}`: {free} bytes are free, {needed} are needed", path.display())]
    NoSpace {
        /// What should have been written.
        path: PathBuf,
        /// Bytes that are free.
        free: u64,
        /// Bytes that it takes, with the reserve.
        needed: u64,
    },
    /// The user's disk quota is used up.
    #[error("no disk quota left for `{}`", path.display())]
    Quota {
        /// What should have been written.
        path: PathBuf,
    },
    /// The file system is mounted read-only, or the store may not be written by this user.
    #[error("the store is read-only: cannot write `{}`", path.display())]
    ReadOnly {
        /// What should have been written.
        path: PathBuf,
    },
    /// The directory holds a store of another format.
    #[error("the store `{}` has format {found}; this version supports {known}", path.display())]
    UnknownFormat {
        path: PathBuf,
        /// Its version and features.
        found: String,
        /// What can be read.
        known: String,
    },
    /// No copy of the version in `format` is valid.
    #[error("`{}` is damaged: none of its three copies is valid", path.display())]
    FormatDamaged {
        /// The `format` file.
        path: PathBuf,
    },
    /// Something else lies where a file or a directory of the store should be, such as a symbolic link or a FIFO.
    #[error("`{}` is {found}, not {wanted}", path.display())]
    WrongType {
        path: PathBuf,
        found: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// The directory holds what a store holds, but no `format`.
    #[error("the store `{}` has lost its file `format`", path.display())]
    FormatMissing { path: PathBuf },
    /// `format` is not made again, as most of what the directory holds is not what a store of this version holds.
    #[error("`{}` gets no new `format`: only {sound} of its {objects} objects are intact", path.display())]
    NotSound {
        path: PathBuf,
        objects: u64,
        /// Those that are as this version writes them.
        sound: u64,
    },
    /// The directory holds something, but no `format`.
    #[error("`{}` is not a store: it is not empty and has no file `format`", path.display())]
    NotAStore { path: PathBuf },
    /// The store's directory is another user's than the one for whom it was opened.
    #[error("the store `{}` belongs to user {owner}, not to user {caller}", path.display())]
    NotYours {
        path: PathBuf,
        owner: u32,
        /// Who called: the user, or the one for whom root works.
        caller: u32,
    },
    /// Every user may write the store's directory.
    #[error("every user may write the store's directory `{}`", path.display())]
    WorldWritable { path: PathBuf },
    /// A disk could not be read.
    #[error("cannot read the disk")]
    ReadDisk { source: SourceError },
    /// A disk changed while it was sealed.
    #[error("chunk {index} of the disk changed while the disk was sealed")]
    DiskChanged { index: u64 },
    /// A disk cannot be a delta to a larger one, unless it ends where a chunk does.
    #[error("a disk of {size} bytes cannot be a delta to one of {parent} bytes")]
    Shrunk {
        /// Its size in bytes.
        size: u64,
        parent: u64,
    },
    /// The compressor gave something that does not decode to what it was given.
    #[error("chunk {index} does not survive compression: the processor or the memory is faulty")]
    Compressor { index: u64 },
    /// A qcow2 file could not be made.
    #[error("cannot make the qcow2 file `{}`", path.display())]
    Qcow2 { path: PathBuf, source: WriteError },
    /// Something is larger than the store's format allows.
    #[error("{what} is {size} bytes, above the limit of {limit}")]
    TooLarge {
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// The largest that is allowed.
        limit: u64,
    },
    /// A root, or what stands for one, cannot be read: what it keeps is unknown, so nothing may be collected.
    #[error("`{}`, which records what to keep, is damaged: {reason}", path.display())]
    RootDamaged {
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A name that would leave its directory.
    #[error("`{name}` is not a valid name for a file of the store")]
    BadName { name: String },
}

impl From<SourceError> for Error {
    /// What a disk of the store itself had to say, such as a miss, comes out as it was.
    fn from(source: SourceError) -> Self {
        match source {
            SourceError::Stopped(inner) => match inner.downcast::<Error>() {
                Ok(error) => *error,
                Err(other) => Error::ReadDisk {
                    source: SourceError::Stopped(other),
                },
            },
            source => Error::ReadDisk { source },
        }
    }
}

impl Error {
    /// An I/O error with its verb and path; full, over-quota and read-only file systems get variants of their own.
    pub fn io(verb: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        let path = path.as_ref().to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull => Error::NoSpace {
                path,
                free: 0,
                needed: 1,
            },
            io::ErrorKind::QuotaExceeded => Error::Quota { path },
            io::ErrorKind::ReadOnlyFilesystem => Error::ReadOnly { path },
            _ => Error::Io { verb, path, source },
        }
    }

    /// An error of the qcow2 writer.
    pub(crate) fn write(path: impl AsRef<Path>, error: WriteError) -> Self {
        match error {
            WriteError::Write { source, .. } => Error::io("write", path, source),
            source => Error::Qcow2 {
                path: path.as_ref().to_owned(),
                source,
            },
        }
    }

    /// The miss that this is, or the failure.
    pub fn into_miss(self) -> Result<Miss> {
        match self {
            Error::Miss(miss) => Ok(miss),
            other => Err(other),
        }
    }

    /// Whether a file cannot be read whoever asks again: the medium is broken, or permissions forbid it. Not where the
    /// process or the machine lacks something, such as memory or descriptors.
    pub(crate) fn is_unreadable(&self) -> bool {
        // EUCLEAN and EBADMSG are what ext4, xfs and btrfs say of damage of their own.
        const CODES: [rustix::io::Errno; 5] = [
            rustix::io::Errno::IO,
            rustix::io::Errno::ACCESS,
            rustix::io::Errno::PERM,
            rustix::io::Errno::UCLEAN,
            rustix::io::Errno::BADMSG,
        ];
        matches!(self, Error::Io { source, .. } if CODES.iter().any(|code| source.raw_os_error() == Some(code.raw_os_error())))
    }

    /// Whether the store itself is damaged or of an unknown format (exit code 5), not the request.
    pub fn is_store_damage(&self) -> bool {
        matches!(
            self,
            Error::UnknownFormat { .. }
                | Error::FormatDamaged { .. }
                | Error::FormatMissing { .. }
                | Error::NotSound { .. }
                | Error::NotAStore { .. }
                | Error::WrongType { .. }
        )
    }
}
