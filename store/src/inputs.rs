//! The user's input files: hashed in parallel, and remembered so that an unchanged one is not read again.
//! Knows files' identity and content; which files are inputs is the caller's knowledge.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rayon::prelude::*;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::blob::BlobRef;
use crate::digest::{BlobDigest, Hasher, TreeDigest, domain};
use crate::error::{Error, Result};
use crate::fs::FsTime;
use crate::key::{self, Atom, Describe, Sink, field};
use crate::record::{MAGIC_LEN, decode_unchecked, encode, frame};
use crate::store::{Store, lock};

const NAME: &str = "state/inputs";
pub(crate) const MAGIC: &[u8; MAGIC_LEN] = b"impaINP1";
/// A file that changed so lately is not remembered: it may change again within the same tick of the clock.
const SETTLED_NANOS: i128 = 2_000_000_000;
/// Above so many files only those of this run are remembered.
const MAX_ENTRIES: usize = 1_000_000;
/// Files up to this size are read at once, in bytes.
const SMALL: u64 = 1 << 20;
/// Fewer files than this are examined on the calling thread.
const FEW: usize = 128;

/// An input file, as it was when it was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputFile {
    pub blob: BlobRef,
    pub mode: u32,
    /// When it was last written: whole seconds since 1970, not before.
    pub modified: u64,
}

/// What is remembered of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct KnownInput {
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
    digest: BlobDigest,
}

impl KnownInput {
    fn fits(&self, stat: &Metadata) -> bool {
        self.size == stat.len()
            && self.mtime == (stat.mtime(), stat.mtime_nsec())
            && self.ctime == (stat.ctime(), stat.ctime_nsec())
    }
}

/// Digests of input files by device and inode: a cache.
#[derive(Debug, Default)]
pub(crate) struct InputCache {
    known: HashMap<(u64, u64), (KnownInput, bool)>,
    dirty: bool,
}

/// What one of the user's files is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To be examined only: `O_PATH` is enough.
    Examine,
    /// To be read. Opening must wait for nobody, not even where a FIFO lies.
    Read,
}

/// Opens one of the user's files.
pub type OpenInput<'a> = dyn Fn(&Path, Access) -> io::Result<File> + Sync + 'a;

/// Opens any file, following symbolic links.
///
/// # Errors
/// It cannot be opened.
pub fn open_any(path: &Path, access: Access) -> io::Result<File> {
    let flags = match access {
        Access::Examine => OFlags::PATH,
        Access::Read => OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
    };
    Ok(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// One entry of a tree of input files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// Its path below the tree's root, with `/` between components.
    pub path: String,
    pub node: TreeNode,
    /// When it was last changed: whole seconds since 1970, not before. Enters digests only where it is asked for.
    pub modified: u64,
}

/// What an entry of a tree is. Owners do not enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeNode {
    /// A directory, with its permission bits.
    Dir(u32),
    File(InputFile),
    /// A symbolic link to this.
    Symlink(String),
}

impl Describe for TreeEntry {
    fn describe(&self, sink: &mut dyn Sink) {
        let TreeEntry {
            path,
            node,
            modified: _,
        } = self;
        field(sink, "path", path);
        match node {
            TreeNode::Dir(mode) => {
                sink.put(Atom::Variant(0, "dir"));
                field(sink, "mode", mode);
            }
            TreeNode::File(InputFile {
                blob,
                mode,
                modified: _,
            }) => {
                sink.put(Atom::Variant(1, "file"));
                field(sink, "content", &blob.digest.0);
                field(sink, "mode", mode);
            }
            TreeNode::Symlink(target) => {
                sink.put(Atom::Variant(2, "symlink"));
                field(sink, "target", target);
            }
        }
    }
}

/// The digest of a tree of files. The order of the entries does not matter; their paths must differ.
pub fn tree_digest(entries: &[TreeEntry]) -> TreeDigest {
    let mut sorted = entries.to_vec();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    TreeDigest(key::digest(Hasher::new(domain::TREE), &sorted))
}

/// An entry whose time counts.
struct Timed(TreeEntry);

impl Describe for Timed {
    fn describe(&self, sink: &mut dyn Sink) {
        self.0.describe(sink);
        field(sink, "modified", &self.0.modified);
    }
}

/// The digest of a tree of files where the times at which they were changed count as well.
pub fn timed_tree_digest(entries: &[TreeEntry]) -> TreeDigest {
    let mut sorted: Vec<_> = entries.iter().cloned().map(Timed).collect();
    sorted.sort_by(|a, b| a.0.path.cmp(&b.0.path));
    TreeDigest(key::digest(Hasher::new(domain::TREE), &sorted))
}

/// When a file was last written, in whole seconds since 1970: what no file system and no archive rounds.
pub fn modified(stat: &Metadata) -> u64 {
    u64::try_from(stat.mtime()).unwrap_or(0)
}

impl Store {
    /// The content and mode of one of the user's files; as [`Store::hash_inputs`].
    pub fn hash_input(&self, path: &Path, open: &OpenInput<'_>) -> Result<InputFile> {
        let mut results = self.hash_inputs(&[path], open);
        results.pop().expect("BUG: one path gives one result")
    }

    /// The content and mode of each of the user's files, in the order of `paths`. A file that did not change since it was
    /// last hashed is examined and not read. `open` is the only way to them: it decides which may be opened.
    pub fn hash_inputs<P: AsRef<Path> + Sync>(
        &self,
        paths: &[P],
        open: &OpenInput<'_>,
    ) -> Vec<Result<InputFile>> {
        let stat = |path: &P| {
            let found = open(path.as_ref(), Access::Examine).and_then(|file| file.metadata());
            match found {
                Ok(stat) if stat.is_file() => Ok(stat),
                Ok(_) => Err(io::Error::other("it is not a regular file")),
                Err(error) => Err(error),
            }
            .map_err(|source| Error::io("stat", path, source))
        };
        // To start rayon's threads takes longer than to examine a few files.
        let stats: Vec<_> = if paths.len() < FEW {
            paths.iter().map(stat).collect()
        } else {
            paths.par_iter().map(stat).collect()
        };
        // The lock is not held while other threads work: one of them may come here.
        let known: Vec<_> = self.with_inputs(|cache| {
            stats
                .iter()
                .map(|stat| cache.find(stat.as_ref().ok()?))
                .collect()
        });
        let digest =
            |((stat, known), path): ((Result<Metadata>, Option<BlobDigest>), &P)| match known {
                Some(digest) => Ok((stat?, digest, false)),
                None => {
                    stat?;
                    self.fs().count_input();
                    let (stat, digest) = hash(path.as_ref(), open)?;
                    Ok((stat, digest, true))
                }
            };
        let results: Vec<Result<_>> = if known.iter().all(Option::is_some) {
            stats
                .into_iter()
                .zip(known)
                .zip(paths)
                .map(digest)
                .collect()
        } else {
            stats
                .into_par_iter()
                .zip(known)
                .zip(paths)
                .map(digest)
                .collect()
        };
        // Asked for after the files were looked at, so that none of them can be newer.
        let any_read = results.iter().flatten().any(|(_, _, read)| *read);
        let now = if any_read { self.fs().now().ok() } else { None };
        self.with_inputs(|cache| {
            let remember = |result: Result<(Metadata, BlobDigest, bool)>| {
                let (stat, digest, read) = result?;
                cache.remember(&stat, digest, read, now);
                let blob = BlobRef {
                    digest,
                    size: stat.len(),
                };
                Ok(InputFile {
                    blob,
                    mode: stat.mode() & 0o7777,
                    modified: modified(&stat),
                })
            };
            results.into_iter().map(remember).collect()
        })
    }

    fn with_inputs<T>(&self, use_it: impl FnOnce(&mut InputCache) -> T) -> T {
        use_it(lock(&self.inner.inputs).get_or_insert_with(|| self.load_inputs()))
    }

    fn load_inputs(&self) -> InputCache {
        let body = self.cache_read(NAME, MAGIC).ok().flatten();
        let list: Vec<((u64, u64), KnownInput)> = body
            .and_then(|body| decode_unchecked(&body).ok())
            .unwrap_or_default();
        InputCache {
            known: list
                .into_iter()
                .map(|(file, known)| (file, (known, false)))
                .collect(),
            dirty: false,
        }
    }

    pub(crate) fn flush_inputs(&self) -> Result<()> {
        let mut guard = lock(&self.inner.inputs);
        let Some(cache) = guard.as_mut().filter(|cache| cache.dirty) else {
            return Ok(());
        };
        let all = cache.known.len() <= MAX_ENTRIES;
        let entries = cache.known.iter().filter(|(_, (_, used))| all || *used);
        let mut list: Vec<_> = entries.map(|(file, (known, _))| (*file, *known)).collect();
        list.sort_unstable_by_key(|(file, _)| *file);
        self.fs().replace(NAME, &frame(MAGIC, &encode(&list)))?;
        cache.dirty = false;
        Ok(())
    }
}

impl InputCache {
    fn find(&self, stat: &Metadata) -> Option<BlobDigest> {
        let (known, _) = self.known.get(&(stat.dev(), stat.ino()))?;
        known.fits(stat).then_some(known.digest)
    }

    fn remember(&mut self, stat: &Metadata, digest: BlobDigest, read: bool, now: Option<FsTime>) {
        let at = (stat.dev(), stat.ino());
        if !read {
            if let Some((_, used)) = self.known.get_mut(&at) {
                *used = true;
            }
            return;
        }
        let ctime = FsTime {
            secs: stat.ctime(),
            nanos: stat.ctime_nsec(),
        };
        self.dirty = true;
        if now.is_none_or(|now| now.as_nanos() - ctime.as_nanos() < SETTLED_NANOS) {
            self.known.remove(&at);
            return;
        }
        let known = KnownInput {
            size: stat.len(),
            mtime: (stat.mtime(), stat.mtime_nsec()),
            ctime: (stat.ctime(), stat.ctime_nsec()),
            digest,
        };
        self.known.insert(at, (known, true));
    }
}

/// Reads and hashes one file. A file that changed meanwhile is read again.
fn hash(path: &Path, open: &OpenInput<'_>) -> Result<(Metadata, BlobDigest)> {
    const ATTEMPTS: u32 = 5;
    let error = |source| Error::Io {
        verb: "read",
        path: path.to_owned(),
        source,
    };
    for _ in 0..ATTEMPTS {
        let file = open(path, Access::Read).map_err(error)?;
        let before = file.metadata().map_err(error)?;
        if !before.is_file() {
            return Err(error(io::Error::other("it is not a regular file")));
        }
        let mut hasher = BlobDigest::hasher();
        let length = if before.len() <= SMALL {
            let mut bytes = Vec::with_capacity(before.len() as usize + 1);
            // It may grow, or be a file of the kernel, whose size tells nothing.
            (&file)
                .take(before.len() + 1)
                .read_to_end(&mut bytes)
                .map_err(error)?;
            hasher.update(&bytes);
            bytes.len() as u64
        } else {
            match crate::hash_file::hash_range(&file, 0..before.len(), &mut hasher) {
                Err(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
                    return Err(error(source));
                }
                _ => before.len(),
            }
        };
        let after = file.metadata().map_err(error)?;
        let same = |stat: &Metadata| {
            (
                stat.len(),
                stat.mtime(),
                stat.mtime_nsec(),
                stat.ctime(),
                stat.ctime_nsec(),
            )
        };
        if length == before.len() && same(&before) == same(&after) {
            return Ok((after, BlobDigest(hasher.finish())));
        }
    }
    Err(error(io::Error::other("it changed while it was read")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        (dir, store)
    }

    fn age(path: &Path) {
        // Neither utimes nor anything else sets ctime: the rule is tested through the clock.
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    }

    #[test]
    fn a_file_that_just_changed_is_read_every_time() {
        let (dir, store) = store();
        let path = dir.path().join("x");
        std::fs::write(&path, "one").unwrap();
        let first = store.hash_input(&path, &open_any).unwrap();
        std::fs::write(&path, "two").unwrap();
        age(&path);
        let second = store.hash_input(&path, &open_any).unwrap();
        assert_eq!(
            first.blob,
            BlobRef {
                digest: BlobDigest::of(b"one"),
                size: 3
            }
        );
        assert_eq!(second.blob.digest, BlobDigest::of(b"two"));
        assert_eq!(store.io().input_opens, 2);
    }

    #[test]
    fn a_settled_file_is_not_opened_again_not_even_by_the_next_process() {
        let (dir, store) = store();
        let path = dir.path().join("x");
        std::fs::write(&path, "one").unwrap();
        let stat = std::fs::metadata(&path).unwrap();
        let later = FsTime {
            secs: stat.ctime() + 3,
            nanos: stat.ctime_nsec(),
        };
        let mut cache = InputCache::default();
        cache.remember(&stat, BlobDigest::of(b"one"), true, Some(later));
        *lock(&store.inner.inputs) = Some(cache);
        store.flush().unwrap();
        let again = Store::open(dir.path().join("store")).unwrap();
        assert_eq!(
            again.hash_input(&path, &open_any).unwrap().blob.digest,
            BlobDigest::of(b"one")
        );
        assert_eq!(again.io().input_opens, 0);
        std::fs::write(&path, "two").unwrap();
        assert_eq!(
            again.hash_input(&path, &open_any).unwrap().blob.digest,
            BlobDigest::of(b"two")
        );
    }

    #[test]
    fn large_files_and_errors_keep_their_places() {
        let (dir, store) = store();
        let (large, missing) = (dir.path().join("large"), dir.path().join("missing"));
        let bytes = vec![7; 3 << 20];
        std::fs::write(&large, &bytes).unwrap();
        let results = store.hash_inputs(&[missing, large, dir.path().to_owned()], &open_any);
        assert!(matches!(&results[0], Err(Error::Io { verb: "stat", .. })));
        assert_eq!(
            results[1].as_ref().unwrap().blob.digest,
            BlobDigest::of(&bytes)
        );
        assert!(results[2].is_err(), "a directory is no file");
    }

    #[test]
    fn tree_digests_are_pinned_and_do_not_depend_on_order() {
        let file = InputFile {
            blob: BlobRef {
                digest: BlobDigest::of(b"x"),
                size: 1,
            },
            mode: 0o644,
            modified: 7,
        };
        let entry = |path: &str, node| TreeEntry {
            path: path.to_owned(),
            node,
            modified: 7,
        };
        let mut entries = [
            entry("b", TreeNode::File(file)),
            entry("a", TreeNode::Dir(0o755)),
            entry("c", TreeNode::Symlink("b".to_owned())),
        ];
        let digest = tree_digest(&entries);
        let mut reversed = entries.to_vec();
        reversed.reverse();
        assert_eq!(tree_digest(&reversed), digest);
        // A change here is a format break: bump the store's format version.
        assert_eq!(digest.short(), "f7e779206f54");
        // Times count only where they are asked for.
        let timed = timed_tree_digest(&entries);
        assert_eq!(timed_tree_digest(&reversed), timed);
        entries[2].modified = 8;
        assert_eq!(tree_digest(&entries), digest);
        assert_ne!(timed_tree_digest(&entries), timed);
        assert_ne!(timed, digest);
    }
}
