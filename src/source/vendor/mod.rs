//! What a language's own lock names, as a tree that the language's tool reads without network.
//! Knows locks, indexes and the host's settings for them; knows neither stages nor the store, and solves nothing.
//!
//! ```text
//! lock ─ read ─→ VendorItem ─ locate, by the host's indexes ─→ VendorFile ─ downloaded, by hash ─→ add ─→ tree
//! ```
//!
//! A lock decides alone which files these are: indexes are only asked where they lie, and which of several files of a
//! Python package are for the interpreter.

mod cargo;
mod host;
mod marker;
mod npm;
mod page;
mod python;
mod requirements;
mod wheel;

use std::path::PathBuf;

use impasto_stages::vendor::VendorSpec;
use impasto_store::sha256::{Sha256, Sha512};

pub use host::VendorHost;

use crate::base::io::IoError;
use crate::net::{Checksum, Download, DownloadCause, DownloadError, Expected, Place};
use crate::source::tree::{TreeBuilder, TreeError};

/// Bytes of a file that a lock names, at most: wheels of numerical libraries have a few GB.
const MOST: u64 = 8 << 30;

/// Files that a lock names, at most.
const MAX_FILES: usize = 50_000;

/// Why what a lock names cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum VendorError {
    /// The lock cannot be used as it is.
    #[error("{lock}: {problem}")]
    Lock {
        /// The lock's path, with the line where that is known.
        lock: String,
        problem: String,
        help: String,
    },
    /// The host does not say where files are.
    #[error("{problem}")]
    Settings { problem: String, help: String },
    /// An index has not what the lock names.
    #[error("{item}: {problem}")]
    Index {
        /// What the lock calls it.
        item: String,
        problem: String,
        help: String,
    },
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// What was fetched is not what its kind is.
    #[error("{item} cannot be used: {problem}")]
    Content { item: String, problem: String },
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Io(#[from] IoError),
}

impl VendorError {
    /// What to do about it, where that is known.
    pub fn help(&self) -> Option<String> {
        match self {
            VendorError::Lock { help, .. }
            | VendorError::Settings { help, .. }
            | VendorError::Index { help, .. } => Some(help.clone()),
            VendorError::Download(error) => match error.cause {
                DownloadCause::Checksum { .. } => Some(
                    "the index gives another file than the lock names: do not use it before you know why"
                        .to_owned(),
                ),
                DownloadCause::Status { code: 401 | 403 } => Some(
                    "the host's cargo, pip or npm needs a login for this index".to_owned(),
                ),
                DownloadCause::Unreachable { .. } => Some(
                    "check the network, and which index the host's cargo, pip or npm uses".to_owned(),
                ),
                _ => None,
            },
            _ => None,
        }
    }
}

/// A file that a lock names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VendorItem {
    /// How messages call it, such as `serde 1.0.219`.
    pub name: String,
    /// What decides which file it is: equal for equal files.
    pub key: String,
    what: LockedFile,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum LockedFile {
    Crate(cargo::LockedCrate),
    Wheel(requirements::Requirement),
    Tarball(npm::Tarball),
}

/// A file that is to be fetched.
#[derive(Debug)]
pub struct VendorFile {
    /// What it is called.
    pub name: String,
    pub download: Download,
}

/// Fetches pages of an index, in order; none for those that the server does not have.
pub type GetPages<'a> = dyn FnMut(Vec<Download>) -> Result<Vec<Option<Vec<u8>>>, VendorError> + 'a;

/// The files that a lock names, in its order. `path` is what messages call it.
///
/// # Errors
/// The lock cannot be read, or names something without a hash or from elsewhere than an index.
pub fn read(spec: &VendorSpec, path: &str, text: &str) -> Result<Vec<VendorItem>, VendorError> {
    let items = match spec {
        VendorSpec::Cargo => cargo::read(path, text),
        VendorSpec::Python(target) => requirements::read(target, path, text),
        VendorSpec::Npm { machine } => npm::read(machine, path, text),
    }?;
    if items.len() > MAX_FILES {
        return Err(lock_error(
            path,
            format!(
                "it names {} files; at most {MAX_FILES} are taken",
                items.len()
            ),
            "split what depends on so many",
        ));
    }
    Ok(items)
}

/// Where the files are, each in the place of its item.
///
/// # Errors
/// The host names no index, or the index has no such file.
pub fn locate(
    spec: &VendorSpec,
    items: &[&VendorItem],
    host: &VendorHost,
    get: &mut GetPages<'_>,
) -> Result<Vec<VendorFile>, VendorError> {
    match spec {
        VendorSpec::Cargo => cargo::locate(items, host, get),
        VendorSpec::Python(target) => python::locate(target, items, host, get),
        VendorSpec::Npm { .. } => npm::locate(items, host),
    }
}

/// Adds a file to the tree: its name, and where it lies. Files that are made of it lie below `scratch` while the tree is
/// used.
///
/// # Errors
/// It is not what it should be, or is there twice.
pub fn add(
    tree: &mut TreeBuilder,
    item: &VendorItem,
    name: &str,
    file: PathBuf,
    scratch: &std::path::Path,
) -> Result<(), VendorError> {
    match &item.what {
        LockedFile::Crate(wanted) => cargo::add(tree, wanted, &file, scratch),
        LockedFile::Wheel(_) => python::add(tree, name, file),
        LockedFile::Tarball(wanted) => npm::add(tree, wanted, file),
    }
}

/// Adds what tells the tool to use the tree.
///
/// # Errors
/// A file of the same name is there.
pub fn finish(
    spec: &VendorSpec,
    tree: &mut TreeBuilder,
    items: &[VendorItem],
) -> Result<(), VendorError> {
    match spec {
        VendorSpec::Cargo => cargo::finish(tree, items),
        VendorSpec::Python(_) | VendorSpec::Npm { .. } => Ok(()),
    }
}

/// An error about a lock.
fn lock_error(lock: &str, problem: impl Into<String>, help: &str) -> VendorError {
    VendorError::Lock {
        lock: lock.to_owned(),
        problem: problem.into(),
        help: help.to_owned(),
    }
}

/// A file known by its checksum, at any of these places.
fn download(name: &str, checksum: Checksum, places: Vec<Place>) -> Download {
    Download {
        name: Some(name.to_owned()),
        expected: Expected::hashed(checksum, MOST),
        places,
    }
}

/// Whether a name or a version is plain: it gets into paths and addresses.
fn is_plain(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+!~".contains(c);
    !text.is_empty()
        && text.len() <= 200
        && !text.starts_with(['.', '-'])
        && text.chars().all(plain)
}

fn sha256(text: &str) -> Option<Sha256> {
    text.to_ascii_lowercase().parse().ok()
}

fn sha512(text: &str) -> Option<Sha512> {
    Sha512::parse(&text.to_ascii_lowercase())
}
