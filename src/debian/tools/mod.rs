//! Keeps the toolbox: the tree of a set of packages, unpacked once and then used by every sandbox.
//!
//! Knows where the tree lies (`state/trees/` of a store: a cache, which may be lost) and whether it is still what was
//! unpacked: beside it lies an index of its files. Every use compares their sizes, times and inodes with it; the first use
//! after a start of the machine also what they hold. A tree that differs is made again, never repaired. Does not know what the
//! tools do.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use impasto_stages::package_set::LockedPackage;
use impasto_store::Store;
use impasto_store::digest::{BlobDigest, Digest, Hasher, domain};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub mod unpack;

use unpack::{DebSource, UnpackError, content, unpack};

use crate::base::bounded;
use crate::base::io::IoError;

/// The tree, and its index, in the directory of its name.
const ROOT: &str = "root";
const INDEX: &str = "index";
/// Largest index that is read, in bytes.
const INDEX_LIMIT: u64 = 256 << 20;
/// State below which it is remembered which trees were compared by content.
const CHECKED: &str = "toolbox";

/// A toolbox that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ToolboxError {
    /// Packages cannot be unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error(transparent)]
    Store(#[from] impasto_store::Error),
    /// A file of the tree cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
}

impl ToolboxError {
    fn io(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ToolboxError {
        IoError::at(verb, path)
    }
}

/// A toolbox that was found to be what its packages give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolboxTree {
    digest: Digest,
    path: PathBuf,
}

/// A file of the tree, as the index has it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    stat: Stat,
    /// What a file holds, or where a link leads; zero for directories.
    content: Digest,
}

/// What is compared at every use.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stat {
    #[serde(with = "serde_bytes")]
    path: Vec<u8>,
    mode: u32,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
    inode: u64,
}

impl ToolboxTree {
    /// The tree of a set of packages, where it was made before and is still sound: no package is needed then.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn open(store: &Store, set: &[LockedPackage]) -> Result<Option<ToolboxTree>, ToolboxError> {
        let digest = content(set);
        let dir = store.tree_path(&digest);
        let path = dir.join(ROOT);
        let Some((index, name)) = read_index(&dir.join(INDEX)) else {
            return Ok(None);
        };
        let unlike = |what: &str| {
            tracing::debug!(path = %path.display(), what, "the toolbox is made again");
            Ok(None)
        };
        match stats(&path) {
            Ok(stats) if stats.iter().eq(index.iter().map(|record| &record.stat)) => {}
            Ok(_) => return unlike("a file was modified"),
            Err(error) => return unlike(&error.to_string()),
        }
        if !is_checked(store, &digest, &name) {
            let sound = index
                .par_iter()
                .all(|record| holds(&path, &record.stat).ok() == Some(record.content));
            if !sound {
                return unlike("a file has different content");
            }
            set_checked(store, &digest, &name);
        }
        Ok(Some(ToolboxTree { digest, path }))
    }

    /// The tree of packages: the one that is there, or a new one. Several processes may do this at once.
    ///
    /// # Errors
    /// A package cannot be unpacked, or the store cannot be written.
    pub fn open_or_make(
        store: &Store,
        packages: &[DebSource<'_>],
    ) -> Result<ToolboxTree, ToolboxError> {
        let set: Vec<_> = packages
            .iter()
            .map(|source| source.package.clone())
            .collect();
        match ToolboxTree::open(store, &set)? {
            Some(tree) => Ok(tree),
            None => ToolboxTree::make(store, &set, packages),
        }
    }

    fn make(
        store: &Store,
        set: &[LockedPackage],
        packages: &[DebSource<'_>],
    ) -> Result<ToolboxTree, ToolboxError> {
        let digest = content(set);
        let scratch = store.scratch()?;
        let root = scratch.path().join(ROOT);
        fs::create_dir(&root).map_err(ToolboxError::io("make", &root))?;
        unpack(packages, &root)?;
        let read = |error| ToolboxError::io("read", &root)(error);
        let records = stats(&root).map_err(read)?.into_par_iter().map(|stat| {
            let content = holds(&root, &stat)?;
            Ok(Record { stat, content })
        });
        let index: Vec<Record> = records.collect::<io::Result<_>>().map_err(read)?;
        let (bytes, name) = frame(&index);
        let path = scratch.path().join(INDEX);
        fs::write(&path, bytes).map_err(ToolboxError::io("write", &path))?;
        let path = store.publish_tree(scratch, &digest)?.join(ROOT);
        set_checked(store, &digest, &name);
        Ok(ToolboxTree { digest, path })
    }

    /// The root of the tree. Nothing may write below it.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The index as it lies on the disk: its digest, then its bytes.
fn frame(index: &[Record]) -> (Vec<u8>, Digest) {
    let body = rmp_serde::to_vec(index).expect("BUG: an index that cannot be written");
    let name = Hasher::new(domain::STATE).update(&body).finish();
    ([&name.as_bytes()[..], &body].concat(), name)
}

/// An index and its digest; none where there is none, or it is damaged.
fn read_index(path: &Path) -> Option<(Vec<Record>, Digest)> {
    let bytes = bounded::read(path, INDEX_LIMIT).ok()?;
    let (name, body) = bytes.split_first_chunk()?;
    let name = Digest::from_bytes(*name);
    let sound = Hasher::new(domain::STATE).update(body).finish() == name;
    Some((rmp_serde::from_slice(body).ok().filter(|_| sound)?, name))
}

/// All files of a tree, by path.
fn stats(root: &Path) -> io::Result<Vec<Stat>> {
    let entries = walkdir::WalkDir::new(root).sort_by_file_name();
    entries
        .into_iter()
        .map(|entry| {
            let entry = entry?;
            let stat = entry.metadata()?;
            let path = entry.path().strip_prefix(root).unwrap_or(entry.path());
            Ok(Stat {
                path: path.as_os_str().as_bytes().to_vec(),
                mode: stat.mode(),
                size: stat.size(),
                mtime: (stat.mtime(), stat.mtime_nsec()),
                ctime: (stat.ctime(), stat.ctime_nsec()),
                inode: stat.ino(),
            })
        })
        .collect()
}

fn holds(root: &Path, stat: &Stat) -> io::Result<Digest> {
    const KIND: u32 = 0o170_000;
    let path = root.join(OsStr::from_bytes(&stat.path));
    Ok(match stat.mode & KIND {
        0o100_000 => BlobDigest::of(&bounded::read(path, stat.size)?).0,
        0o120_000 => BlobDigest::of(fs::read_link(path)?.as_os_str().as_bytes()).0,
        _ => Digest::ZERO,
    })
}

/// Whether this index was compared with its files by content since the machine started.
fn is_checked(store: &Store, tree: &Digest, index: &Digest) -> bool {
    let known = store
        .state_read(&[CHECKED, &tree.to_string()])
        .ok()
        .flatten();
    known.is_some_and(|known| stamp(index).is_some_and(|now| known == now))
}

fn set_checked(store: &Store, tree: &Digest, index: &Digest) {
    // On a store that cannot be written it is compared every time.
    if let Some(stamp) = stamp(index)
        && let Err(error) = store.state_write(&[CHECKED, &tree.to_string()], &stamp)
    {
        tracing::debug!(%error, "cannot be recorded");
    }
}

fn stamp(index: &Digest) -> Option<Vec<u8>> {
    let boot = impasto_store::boot_id()?;
    Some(format!("{boot} {index}").into_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use impasto_store::sha256::Sha256;
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

    use super::*;
    use crate::deb::package::tests::{deb, tarball};

    struct Case {
        dir: tempfile::TempDir,
        deb: Vec<u8>,
        opened: AtomicUsize,
    }

    impl Case {
        fn new() -> Case {
            let data = tarball(&[
                ("./usr/bin/tool", b"tool"),
                ("./usr/bin/other", &[7; 100_000]),
            ]);
            let deb = deb(
                "Package: tool\nVersion: 1\nArchitecture: all\n",
                &data,
                ".xz",
            );
            Case {
                dir: tempfile::tempdir().unwrap(),
                deb,
                opened: AtomicUsize::new(0),
            }
        }

        fn packages(&self) -> Vec<DebSource<'_>> {
            let sha256 = Sha256::of(&self.deb);
            let [name, version, architecture] = ["tool", "1", "all"].map(str::to_owned);
            let open = || -> io::Result<Box<dyn Read + Send>> {
                self.opened.fetch_add(1, Ordering::Relaxed);
                Ok(Box::new(io::Cursor::new(self.deb.clone())))
            };
            vec![DebSource {
                package: LockedPackage {
                    name,
                    architecture,
                    version,
                    sha256,
                    size: self.deb.len() as u64,
                },
                open: Box::new(open),
            }]
        }

        fn tree(&self) -> ToolboxTree {
            let store = Store::open(self.dir.path()).unwrap();
            ToolboxTree::open_or_make(&store, &self.packages()).unwrap()
        }

        fn opened(&self) -> usize {
            self.opened.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_tree_is_made_once_and_again_when_it_is_damaged() {
        let case = Case::new();
        let tree = case.tree();
        assert_eq!((case.tree(), case.opened()), (tree.clone(), 1));
        let tool = tree.path().join("usr/bin/tool");
        let damages: [(&str, &dyn Fn()); 7] = [
            ("other bytes, of one length and time", &|| {
                let time = Timespec {
                    tv_sec: fs::metadata(&tool).unwrap().mtime(),
                    tv_nsec: 0,
                };
                fs::write(&tool, "evil").unwrap();
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                utimensat(CWD, &tool, &times, AtFlags::empty()).unwrap();
            }),
            ("another file", &|| {
                fs::write(tree.path().join("etc"), "x").unwrap()
            }),
            ("a file less", &|| fs::remove_file(&tool).unwrap()),
            ("a copy", &|| {
                fs::copy(&tool, tree.path().join("copy")).unwrap();
                fs::remove_file(&tool).unwrap();
                fs::hard_link(tree.path().join("copy"), &tool).unwrap();
                fs::remove_file(tree.path().join("copy")).unwrap();
            }),
            ("no index", &|| {
                fs::remove_file(tree.path().with_file_name(INDEX)).unwrap()
            }),
            ("another index", &|| {
                let path = tree.path().with_file_name(INDEX);
                let mut bytes = fs::read(&path).unwrap();
                bytes[50] ^= 1;
                fs::write(&path, bytes).unwrap();
            }),
            ("nothing", &|| {
                fs::remove_dir_all(tree.path().parent().unwrap()).unwrap()
            }),
        ];
        for (number, (what, damage)) in damages.into_iter().enumerate() {
            damage();
            assert_eq!(case.tree(), tree);
            assert_eq!(case.opened(), number + 2, "{what}");
            assert_eq!(fs::read_to_string(&tool).unwrap(), "tool", "{what}");
            assert_eq!(
                (case.tree(), case.opened()),
                (tree.clone(), number + 2),
                "{what}: it is sound again"
            );
        }
    }

    #[test]
    fn after_a_start_of_the_machine_the_bytes_are_compared() {
        let case = Case::new();
        let tree = case.tree();
        let store = Store::open(case.dir.path()).unwrap();
        let forget = || {
            store
                .state_remove(&[CHECKED, &tree.digest.to_string()])
                .unwrap()
        };
        forget();
        assert_eq!((case.tree(), case.opened()), (tree.clone(), 1));
        // As if the disk had lost bytes without anybody writing: the index has the new times and the old content.
        fs::write(tree.path().join("usr/bin/tool"), "lost").unwrap();
        let path = tree.path().with_file_name(INDEX);
        let (mut index, _) = read_index(&path).unwrap();
        for (record, stat) in index.iter_mut().zip(stats(tree.path()).unwrap()) {
            record.stat = stat;
        }
        fs::write(&path, frame(&index).0).unwrap();
        forget();
        assert_eq!((case.tree(), case.opened()), (tree.clone(), 2));
        assert_eq!(
            fs::read_to_string(tree.path().join("usr/bin/tool")).unwrap(),
            "tool"
        );
    }

    #[test]
    fn several_at_once_get_the_same_tree() {
        let case = Case::new();
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| case.tree())).collect();
            let all: Vec<_> = all
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect();
            assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
        });
        let made = case.opened();
        assert_eq!(
            (
                fs::read_to_string(case.tree().path().join("bin/tool"))
                    .unwrap()
                    .as_str(),
                case.opened()
            ),
            ("tool", made)
        );
    }
}
