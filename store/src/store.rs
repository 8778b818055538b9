//! The store as a whole: opening it, its `format`, and what all of its parts share.
//! Knows the gate of versions; what lies behind it is known by the module of each kind of object.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::digest::{Hasher, domain};
use crate::error::{Error, Miss, MissReason, ObjectKind, Result};
use crate::fs::{ExpectedType, FsTime, IoSnapshot, StoreDirEntry, StoreFs};
use crate::index::Index;
use crate::inputs::InputCache;
use crate::meter::Meter;
use crate::owner::Owner;
use crate::stamp::Stamps;

/// Version of the format that this code reads and writes; see `FORMAT.md`.
pub const FORMAT_VERSION: u32 = 2;
/// Feature flags that this code knows.
pub const FORMAT_FEATURES: &[&str] = &[];

// `format`: three equal copies of one line of 128 bytes; changing this is a format break.
const COPY_LEN: usize = 128;
const COPIES: usize = 3;
const CHECK_AT: usize = 63;
const FORMAT_WORD: &str = "impasto-store";

/// A content-addressed store in one directory. Cheap to clone; every clone is the same store.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
    /// Whether what is found damaged is left where it is.
    look_only: bool,
    /// Counts the bytes of what takes long.
    meter: Option<Arc<Meter>>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) fs: Arc<StoreFs>,
    /// Where root keeps what it executes or believes, while it works for the store's owner; else the store itself.
    private: Option<Arc<StoreFs>>,
    pub(crate) stamps: Mutex<Option<Stamps>>,
    pub(crate) index: Mutex<Option<Index>>,
    pub(crate) inputs: Mutex<Option<InputCache>>,
}

/// A directory in `tmp/` for work in progress, deleted with all that is in it when dropped. Where the process is killed
/// instead, [`Store::sweep_tmp`] deletes it.
#[derive(Debug)]
pub struct Scratch {
    fs: Arc<StoreFs>,
    name: String,
    path: PathBuf,
}

impl Store {
    /// Opens the store in a directory, or makes one where the directory is missing or empty.
    /// An existing store is not written to. A store of another format is refused, and never changed.
    ///
    /// # Errors
    /// It cannot be read or made, is of another format, or belongs to another user than the one as whom this process runs.
    pub fn open(path: impl AsRef<Path>) -> Result<Store> {
        Store::open_for(path, &Owner::caller())
    }

    /// The same for a user whom this process may work for.
    ///
    /// # Errors
    /// As for [`Store::open`], of that user.
    pub fn open_for(path: impl AsRef<Path>, owner: &Owner) -> Result<Store> {
        let fs = Arc::new(StoreFs::open(path.as_ref(), owner)?);
        match read_format(&fs)? {
            Some(bytes) => check_format(&fs, &bytes)?,
            None => create_format(&fs)?,
        }
        let private = owner
            .private()
            .map(|parent| open_private(parent, &fs))
            .transpose()?
            .map(Arc::new);
        Ok(Store::without_format(fs, private))
    }

    /// The store in a directory whose `format` was not looked at.
    pub(crate) fn without_format(fs: Arc<StoreFs>, private: Option<Arc<StoreFs>>) -> Store {
        let inner = Inner {
            fs,
            private,
            stamps: Mutex::default(),
            index: Mutex::default(),
            inputs: Mutex::default(),
        };
        Store {
            inner: Arc::new(inner),
            look_only: false,
            meter: None,
        }
    }

    /// The store's directory, absolute.
    pub fn path(&self) -> &Path {
        self.inner.fs.path()
    }

    /// What the store has done to its files since it was opened.
    pub fn io(&self) -> IoSnapshot {
        self.inner.fs.io()
    }

    /// What time it is by the clock of the store's file system.
    pub fn now(&self) -> Result<FsTime> {
        self.inner.fs.now()
    }

    /// Refuses what would take the file system below the reserve that the store leaves free.
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        self.inner.fs.reserve(bytes)?;
        // Work in progress lies there.
        self.private_apart()
            .map_or(Ok(()), |private| private.reserve(bytes))
    }

    /// Whose the store is, and what is written for them.
    pub fn owner(&self) -> &Owner {
        self.inner.fs.owner()
    }

    /// A new directory for work in progress, on the store's file system, or root's own where root works for another user.
    pub fn scratch(&self) -> Result<Scratch> {
        let fs = self.private().clone();
        let name = fs.temp_dir()?;
        let path = fs.full(&name);
        Ok(Scratch { fs, name, path })
    }

    /// Writes the caches (index, stamps, digests of inputs) that changed. Losing them costs time only.
    pub fn flush(&self) -> Result<()> {
        // One that cannot be written is no reason to lose the others.
        self.flush_index()
            .and(self.flush_stamps())
            .and(self.flush_inputs())
    }

    /// The same store, which leaves damaged objects where they are, or not.
    pub(crate) fn without_quarantine(&self, look_only: bool) -> Store {
        Store {
            look_only,
            ..self.clone()
        }
    }

    /// The same store, which tells a meter how far it is where something takes long: sealing, converting, verifying.
    pub fn metered(&self, meter: Arc<Meter>) -> Store {
        Store {
            meter: Some(meter),
            ..self.clone()
        }
    }

    /// What is told how far long work is.
    pub fn meter(&self) -> Option<&Arc<Meter>> {
        self.meter.as_ref()
    }

    /// A phase of long work begins, of so many bytes.
    pub(crate) fn begin(&self, what: &'static str, bytes: u64) {
        if let Some(meter) = &self.meter {
            meter.begin(what, Some(bytes));
        }
    }

    /// What was written is made durable from here on: nobody knows how far that is.
    pub(crate) fn begin_sync(&self) {
        if let Some(meter) = &self.meter {
            meter.begin("syncing", None);
        }
    }

    /// So many bytes of it are done.
    pub(crate) fn count(&self, bytes: u64) {
        if let Some(meter) = &self.meter {
            meter.add(bytes);
        }
    }

    pub(crate) fn fs(&self) -> &Arc<StoreFs> {
        &self.inner.fs
    }

    /// Where things lie that are executed, or believed without another look.
    pub(crate) fn private(&self) -> &Arc<StoreFs> {
        self.inner.private.as_ref().unwrap_or(&self.inner.fs)
    }

    /// Root's own directory, where this is not the store itself.
    pub(crate) fn private_apart(&self) -> Option<&Arc<StoreFs>> {
        self.inner.private.as_ref()
    }

    /// The miss that a damaged object is; it is moved away so that a good one can take its place.
    pub(crate) fn damaged(&self, kind: ObjectKind, name: &str, reason: impl ToString) -> Error {
        tracing::debug!(name, reason = reason.to_string(), "damaged");
        // On a read-only store it stays where it is, and is a miss every time.
        if !self.look_only
            && let Err(error) = self.fs().trash(name)
        {
            tracing::debug!(%error, "quarantine failed");
        }
        let reason = MissReason::Damaged(reason.to_string());
        Miss {
            kind,
            path: self.fs().full(name),
            reason,
        }
        .into()
    }

    /// The miss that an object is which is not a regular file, or lies below what is not a directory; other errors as they are.
    pub(crate) fn as_damage(&self, kind: ObjectKind, error: Error) -> Error {
        match error {
            Error::WrongType {
                path,
                found,
                wanted,
            } => {
                let name = path
                    .strip_prefix(self.path())
                    .ok()
                    .and_then(Path::to_str)
                    .unwrap_or_default();
                let kind = if wanted == ExpectedType::File.word() {
                    kind
                } else {
                    ObjectKind::Directory
                };
                self.damaged(kind, name, format!("it is {found}, not {wanted}"))
            }
            other => other,
        }
    }

    /// Opens an object's file. Absent, or not a regular file: a miss.
    pub(crate) fn open_object(&self, kind: ObjectKind, name: &str) -> Result<File> {
        match self.fs().open_read(kind, name) {
            Ok(file) => file.ok_or_else(|| self.absent(kind, name)),
            Err(error) => Err(self.as_damage(kind, error)),
        }
    }

    /// The entries of a directory; none where it is absent, or damaged and moved away.
    pub(crate) fn entries(&self, name: &str) -> Result<Vec<StoreDirEntry>> {
        match self.fs().list(name) {
            Err(error @ Error::WrongType { .. }) if !self.look_only => self
                .as_damage(ObjectKind::Directory, error)
                .into_miss()
                .map(|_| Vec::new()),
            other => other,
        }
    }

    /// A whole object of at most `limit` bytes. Absent, larger, or not a regular file: a miss.
    pub(crate) fn read_object(&self, kind: ObjectKind, name: &str, limit: u64) -> Result<Vec<u8>> {
        match self.fs().read(kind, name, limit) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(self.absent(kind, name)),
            Err(Error::TooLarge { .. }) => Err(self.damaged(kind, name, "it is too large")),
            Err(error) => Err(self.as_damage(kind, error)),
        }
    }

    /// Publishes a small object durably. Where its name is taken, `check` looks at what is there, and moves it away if
    /// it is damaged.
    pub(crate) fn put_record(
        &self,
        name: &str,
        bytes: &[u8],
        check: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let mut temp = self.fs().temp()?;
        temp.write_all(bytes)?;
        if self.fs().publish(&[(&temp, name)])? == [true] {
            return Ok(());
        }
        if let Err(error) = check() {
            error.into_miss()?;
            self.fs().publish(&[(&temp, name)])?;
        }
        Ok(())
    }

    pub(crate) fn absent(&self, kind: ObjectKind, name: &str) -> Error {
        Miss {
            kind,
            path: self.fs().full(name),
            reason: MissReason::Absent,
        }
        .into()
    }
}

impl Scratch {
    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name in the store.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = self.fs.remove_tree(&self.name) {
            tracing::debug!(%error, "left in tmp/");
        }
    }
}

/// Root's own directory for a store of another user: named by the store, whose leases protect what is in it.
fn open_private(parent: &Path, fs: &StoreFs) -> Result<StoreFs> {
    let path = fs
        .path()
        .canonicalize()
        .map_err(|source| Error::io("resolve", fs.path(), source))?;
    let name = Hasher::new(domain::STATE)
        .update(path.as_os_str().as_bytes())
        .finish();
    StoreFs::open(&parent.join(&name.to_string()[..16]), &Owner::caller())
}

/// A lock whose data is a cache: what a panicking thread left in it is used all the same.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn format_copy(version: u32, features: &[&str]) -> Vec<u8> {
    let text = format!("{FORMAT_WORD} {version} {}", features.join(","));
    let mut copy = format!("{text:<CHECK_AT$}").into_bytes();
    assert!(
        copy.len() == CHECK_AT,
        "BUG: the features do not fit into a copy of `format`"
    );
    let check = Hasher::new(domain::STATE).update(&copy).finish();
    copy.extend_from_slice(check.to_string().as_bytes());
    copy.push(b'\n');
    copy
}

/// Version and features of a valid copy.
fn parse_copy(copy: &[u8]) -> Option<(u32, Vec<String>)> {
    let (text, rest) = copy.split_at_checked(CHECK_AT)?;
    let check = Hasher::new(domain::STATE).update(text).finish();
    if rest.strip_suffix(b"\n")? != check.to_string().as_bytes() {
        return None;
    }
    let mut words = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
    if words.next() != Some(FORMAT_WORD) {
        return None;
    }
    let version = words.next()?.parse().ok()?;
    let features = words
        .next()
        .map(|list| list.split(',').map(str::to_owned).collect())
        .unwrap_or_default();
    Some((version, features))
}

/// The bytes of `format`; none of a file that is much too large, or not a regular one.
pub(crate) fn read_format(fs: &StoreFs) -> Result<Option<Vec<u8>>> {
    match fs.read(ObjectKind::Other, "format", 1 << 16) {
        Err(Error::TooLarge { .. } | Error::WrongType { .. }) => Ok(Some(Vec::new())),
        other => other,
    }
}

fn check_format(fs: &StoreFs, bytes: &[u8]) -> Result<()> {
    let valid: Vec<_> = bytes.chunks(COPY_LEN).filter_map(parse_copy).collect();
    if valid.is_empty() {
        return Err(Error::FormatDamaged {
            path: fs.full("format"),
        });
    }
    // Should copies disagree, the one that is unknown here decides: another version has been at work.
    for (version, features) in valid {
        let known = features
            .iter()
            .all(|feature| FORMAT_FEATURES.contains(&feature.as_str()));
        if version != FORMAT_VERSION || !known {
            let with = |features: String| {
                if features.is_empty() {
                    features
                } else {
                    format!(" with {features}")
                }
            };
            return Err(Error::UnknownFormat {
                path: fs.path().to_owned(),
                found: format!("{version}{}", with(features.join(", "))),
                known: format!("{FORMAT_VERSION}{}", with(FORMAT_FEATURES.join(", "))),
            });
        }
    }
    Ok(())
}

fn create_format(fs: &Arc<StoreFs>) -> Result<()> {
    // `tmp` alone is what a kill between the two steps below leaves.
    let entries = fs.list("")?;
    if entries.iter().any(|entry| entry.name != "tmp") {
        // Another process may just have finished the same.
        return match read_format(fs)? {
            Some(bytes) => check_format(fs, &bytes),
            None if looks_like_a_store(&entries) => Err(Error::FormatMissing {
                path: fs.path().to_owned(),
            }),
            None => Err(Error::NotAStore {
                path: fs.path().to_owned(),
            }),
        };
    }
    let mut temp = fs.temp()?;
    temp.write_all(&new_format())?;
    fs.publish(&[(&temp, "format")])?;
    Ok(())
}

/// Whether a directory holds what stores hold, and nothing else.
fn looks_like_a_store(entries: &[StoreDirEntry]) -> bool {
    const OBJECTS: [&str; 3] = ["claims", "disks", "blobs"];
    const OTHERS: [&str; 6] = ["format", "roots", "leases", "state", "tmp", "trash"];
    let is = |names: &[&str], entry: &StoreDirEntry| names.contains(&entry.name.as_str());
    entries.iter().any(|entry| is(&OBJECTS, entry))
        && entries
            .iter()
            .all(|entry| is(&OBJECTS, entry) || is(&OTHERS, entry))
}

/// A `format` of this version.
pub(crate) fn new_format() -> Vec<u8> {
    format_copy(FORMAT_VERSION, FORMAT_FEATURES).repeat(COPIES)
}

/// Three times the first valid copy among the bytes of `format`, if there is one.
pub(crate) fn whole_format(bytes: &[u8]) -> Option<Vec<u8>> {
    bytes
        .chunks(COPY_LEN)
        .find(|copy| parse_copy(copy).is_some())
        .map(|copy| copy.repeat(COPIES))
}

/// How many of the three copies of `format` are valid.
pub(crate) fn valid_format_copies(bytes: &[u8]) -> usize {
    let whole = bytes.len() == COPY_LEN * COPIES;
    let valid = bytes
        .chunks(COPY_LEN)
        .filter(|copy| parse_copy(copy).is_some())
        .count();
    if whole { valid } else { valid.min(COPIES - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_opens_again_and_one_that_is_none_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        Store::open(&path).unwrap();
        Store::open(&path).unwrap();
        assert!(matches!(
            Store::open(dir.path()),
            Err(Error::NotAStore { .. })
        ));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn any_valid_copy_of_format_serves() {
        let dir = tempfile::tempdir().unwrap();
        Store::open(dir.path()).unwrap();
        let path = dir.path().join("format");
        let good = std::fs::read(&path).unwrap();
        assert_eq!(valid_format_copies(&good), 3);
        std::fs::remove_file(&path).unwrap();
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 0x20;
            std::fs::write(&path, &bad).unwrap();
            Store::open(dir.path()).unwrap();
            assert_eq!(valid_format_copies(&bad), 2, "byte {position}");
        }
        std::fs::write(&path, &good[..COPY_LEN]).unwrap();
        Store::open(dir.path()).unwrap();
        std::fs::write(&path, &good[..COPY_LEN - 1]).unwrap();
        assert!(matches!(
            Store::open(dir.path()),
            Err(Error::FormatDamaged { .. })
        ));
    }

    #[test]
    fn an_unknown_version_or_feature_is_refused_and_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("format");
        for copy in [
            format_copy(FORMAT_VERSION - 1, &[]),
            format_copy(FORMAT_VERSION + 1, &[]),
            format_copy(FORMAT_VERSION, &["turbo"]),
        ] {
            std::fs::write(&path, &copy).unwrap();
            let error = Store::open(dir.path()).unwrap_err();
            assert!(matches!(error, Error::UnknownFormat { .. }), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), copy);
        }
    }

    #[test]
    fn the_format_file_is_pinned() {
        let copy = String::from_utf8(format_copy(2, &[])).unwrap();
        assert_eq!(copy.len(), COPY_LEN);
        assert!(copy.starts_with("impasto-store 2 "), "{copy}");
    }
}
