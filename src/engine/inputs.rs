//! The user's files and directories that stages read: found, hashed once a run, and copied for a sandbox.
//! Knows paths and contents, not stages.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use impasto_stages::action::{Bound, FirmwarePart};
use impasto_store::digest::{BlobDigest, ContentDigest};
use impasto_store::inputs::{
    Access, InputFile, TreeEntry, TreeNode, modified, timed_tree_digest, tree_digest,
};
use impasto_store::{Error as StoreError, Store};
use walkdir::WalkDir;

use super::ignored::Ignored;
use crate::base::bounded;
use crate::base::io::IoError;
use crate::recipe::scope::{Outside, Scope};
use crate::vm::{self, MachineType};

/// Most entries of a directory that is an input, with all that is below it.
const MAX_ENTRIES: usize = 1_000_000;

/// An input that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The store says why.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name in a directory is not UTF-8.
    #[error("the name of `{}` is not UTF-8", path.display())]
    Name { path: PathBuf },
    /// Neither file, directory nor symbolic link.
    #[error("`{}` is neither a file, a directory nor a symbolic link", path.display())]
    Special { path: PathBuf },
    /// A directory with too much in it.
    #[error("`{}` contains more than {MAX_ENTRIES} files and directories", path.display())]
    TooMany { path: PathBuf },
    /// Patterns that cannot be read.
    #[error("{place}: {reason}")]
    Pattern {
        /// The file that they stand in, or `ignore`.
        place: String,
        reason: String,
    },
    /// The file changed between planning and use.
    #[error("`{}` changed while it was read", path.display())]
    Changed { path: PathBuf },
}

impl InputError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            InputError::Io(IoError { source, .. })
            | InputError::Store(StoreError::Io { source, .. }) => {
                Outside::of(source).map(Outside::help)
            }
            _ => None,
        }
    }

    fn io(verb: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        IoError::at(verb, path)(source.into())
    }
}

/// What a path holds.
#[derive(Debug, Clone)]
pub enum Input {
    File(InputFile),
    /// A directory, as the list of what is below it.
    Tree {
        /// Its entries, sorted by path.
        entries: Vec<TreeEntry>,
        /// What stands for it in keys.
        bound: Bound,
    },
}

impl Input {
    /// What stands for it in keys.
    pub fn bound(&self) -> Bound {
        match self {
            Input::File(file) => Bound {
                content: ContentDigest::Blob(file.blob.digest),
                mode: Some(file.mode),
                made_by: None,
            },
            Input::Tree { bound, .. } => *bound,
        }
    }

    /// What stands for it in keys where the times of its files go into the image. A file is a tree of itself.
    pub fn bound_with_times(&self) -> Bound {
        let digest = match self {
            Input::File(file) => {
                let (path, node) = (String::new(), TreeNode::File(*file));
                timed_tree_digest(&[TreeEntry {
                    path,
                    node,
                    modified: file.modified,
                }])
            }
            Input::Tree { entries, .. } => timed_tree_digest(entries),
        };
        Bound {
            content: ContentDigest::Tree(digest),
            mode: None,
            made_by: None,
        }
    }

    /// What a directory holds; none for a file.
    pub fn listing(&self) -> Option<Listing> {
        let Input::Tree { entries, .. } = self else {
            return None;
        };
        let digest = |entry: &TreeEntry| {
            let node = match &entry.node {
                TreeNode::File(file) => format!("{} {:o}", file.blob.digest, file.mode),
                TreeNode::Dir(mode) => format!("directory {mode:o}"),
                TreeNode::Symlink(target) => format!("link {target}"),
            };
            let digest = BlobDigest::of(node.as_bytes()).0;
            u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("BUG: eight bytes"))
        };
        let entries = entries.iter();
        Some(
            entries
                .map(|entry| (entry.path.clone(), digest(entry)))
                .collect(),
        )
    }

    /// The times of its files, each in seconds since 1970.
    pub fn times(&self) -> Vec<u64> {
        match self {
            Input::File(file) => vec![file.modified],
            Input::Tree { entries, .. } => entries.iter().map(|entry| entry.modified).collect(),
        }
    }
}

/// What a directory holds: for each path a few bytes that are others when what is there is.
pub type Listing = BTreeMap<String, u64>;

/// What changed from one listing to another, in a few words; none where nothing did.
pub fn difference(before: &Listing, now: &Listing) -> Option<String> {
    let shown = |path: &str| match path {
        "" => "the directory itself".to_owned(),
        path => path.to_owned(),
    };
    let mut lines = Vec::new();
    for (path, digest) in now {
        match before.get(path) {
            None => lines.push(format!("{} is new", shown(path))),
            Some(was) if was != digest => lines.push(format!("{} changed", shown(path))),
            Some(_) => {}
        }
    }
    let gone = before.keys().filter(|path| !now.contains_key(*path));
    lines.extend(gone.map(|path| format!("{} was removed", shown(path))));
    match lines.as_slice() {
        [] => None,
        [only] => Some(only.clone()),
        [first, rest @ ..] => Some(format!("{first}, and {} more", rest.len())),
    }
}

/// The inputs of one run, each hashed once.
pub struct Inputs {
    store: Store,
    dir: PathBuf,
    scope: Arc<Scope>,
    /// By what is left out, and by path.
    known: HashMap<Vec<String>, HashMap<String, Input>>,
}

impl Inputs {
    /// Where relative paths start from.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The inputs of a recipe whose relative paths start from `dir`, and which may read what is in `scope`.
    pub fn new(store: Store, dir: PathBuf, scope: Arc<Scope>) -> Self {
        Inputs {
            store,
            dir,
            scope,
            known: HashMap::new(),
        }
    }

    /// What the recipe may read.
    pub fn scope(&self) -> &Arc<Scope> {
        &self.scope
    }

    /// The absolute path of an input.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What an input holds, without what the patterns name; hashed now if it was not before.
    pub fn get(&mut self, name: &str, ignore: &[String]) -> Result<&Input, InputError> {
        if self.known(name, ignore).is_none() {
            let input = self.hash(name, ignore)?;
            let known = self.known.entry(ignore.to_vec()).or_default();
            known.insert(name.to_owned(), input);
        }
        Ok(&self.known[ignore][name])
    }

    /// What an input holds, where it was looked at.
    pub fn known(&self, name: &str, ignore: &[String]) -> Option<&Input> {
        self.known.get(ignore)?.get(name)
    }

    /// Hashes many files in one go; what cannot be read is told when it is asked for.
    pub fn prefetch<'n>(&mut self, names: impl Iterator<Item = &'n str>) {
        let mut files: Vec<&str> = names
            .filter(|name| self.known(name, &[]).is_none())
            .collect();
        files.sort_unstable();
        files.dedup();
        // What this gives for a directory is an error, and no answer.
        let paths: Vec<_> = files.iter().map(|name| self.path(name)).collect();
        for (name, result) in files.iter().zip(
            self.store
                .hash_inputs(&paths, &|path, access| self.open(path, access)),
        ) {
            if let Ok(file) = result {
                let known = self.known.entry(Vec::new()).or_default();
                known.insert((*name).to_owned(), Input::File(file));
            }
        }
    }

    /// A file of the UEFI firmware that this host has. Where it is not installed nothing that was done with it can be
    /// found; what needs it says so when it runs.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn firmware(
        &self,
        machine: MachineType,
        secure: bool,
        part: FirmwarePart,
    ) -> Result<Bound, InputError> {
        let path = vm::uefi_file(machine, secure, part);
        let bound = |digest| Bound {
            content: ContentDigest::Blob(digest),
            mode: None,
            made_by: None,
        };
        match self.store.hash_input(&path, &|path, _| bounded::open(path)) {
            Ok(file) => Ok(bound(file.blob.digest)),
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(bound(BlobDigest::of(b"")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Forgets what an input held, so that it is looked at again.
    pub fn forget(&mut self, name: &str) {
        for known in self.known.values_mut() {
            known.remove(name);
        }
    }

    fn hash(&self, name: &str, ignore: &[String]) -> Result<Input, InputError> {
        let path = self.path(name);
        let open = |path: &Path, access| self.open(path, access);
        let stat = open(&path, Access::Examine).and_then(|file| file.metadata());
        let stat = stat.map_err(|error| InputError::io("read", &path, error))?;
        if stat.is_file() {
            return Ok(Input::File(self.store.hash_input(&path, &open)?));
        }
        if !stat.is_dir() {
            return Err(InputError::Special { path });
        }
        let mut entries = Vec::new();
        let mut files = Vec::new();
        let mut ignored = Ignored::new(&self.scope, &self.dir, &path, ignore)?;
        let mut walk = WalkDir::new(&path)
            .sort_by_file_name()
            .follow_root_links(true)
            .into_iter();
        while let Some(entry) = walk.next() {
            let entry = entry.map_err(|error| {
                let at = error.path().unwrap_or(&path).to_owned();
                InputError::io("read", &at, error)
            })?;
            let is_dir = entry.file_type().is_dir() || entry.depth() == 0;
            if entry.depth() > 0 && ignored.has(entry.path(), is_dir) {
                if is_dir {
                    walk.skip_current_dir();
                }
                continue;
            }
            if is_dir {
                ignored.enter(&self.scope, entry.path())?;
            }
            if entries.len() + files.len() >= MAX_ENTRIES {
                return Err(InputError::TooMany { path });
            }
            let name = |bytes: &Path| {
                bytes.to_str().map(str::to_owned).ok_or(InputError::Name {
                    path: entry.path().into(),
                })
            };
            let below = name(entry.path().strip_prefix(&path).unwrap_or(entry.path()))?;
            let kind = entry.file_type();
            let failed = |error| InputError::io("read", entry.path(), error);
            if kind.is_dir() || entry.depth() == 0 {
                let stat = open(entry.path(), Access::Examine)
                    .and_then(|file| file.metadata())
                    .map_err(failed)?;
                let node = TreeNode::Dir(stat.mode() & 0o7777);
                entries.push(TreeEntry {
                    path: below,
                    node,
                    modified: modified(&stat),
                });
            } else if kind.is_symlink() {
                let target = std::fs::read_link(entry.path()).map_err(failed)?;
                let stat = std::fs::symlink_metadata(entry.path()).map_err(failed)?;
                let node = TreeNode::Symlink(name(&target)?);
                entries.push(TreeEntry {
                    path: below,
                    node,
                    modified: modified(&stat),
                });
            } else if kind.is_file() {
                files.push((below, entry.into_path()));
            } else {
                return Err(InputError::Special {
                    path: entry.into_path(),
                });
            }
        }
        let paths: Vec<_> = files.iter().map(|(_, path)| path).collect();
        for ((below, _), result) in files.iter().zip(self.store.hash_inputs(&paths, &open)) {
            let file = result?;
            entries.push(TreeEntry {
                path: below.clone(),
                node: TreeNode::File(file),
                modified: file.modified,
            });
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let bound = Bound {
            content: ContentDigest::Tree(tree_digest(&entries)),
            mode: None,
            made_by: None,
        };
        Ok(Input::Tree { entries, bound })
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<std::fs::File> {
        match access {
            Access::Examine => self.scope.open(path, access),
            Access::Read => self.scope.open_file(path),
        }
    }
}

/// Copies a file while hashing it, and compares with what the plan says it holds.
///
/// # Errors
/// [`InputError::Changed`] where the copy is another file than was planned; it lies out of the scope.
pub fn copy_file(
    scope: &Scope,
    from: &Path,
    to: &mut impl Write,
    planned: BlobDigest,
) -> Result<u64, InputError> {
    let mut file = scope
        .open_file(from)
        .map_err(|error| InputError::io("open", from, error))?;
    let mut hasher = BlobDigest::hasher();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let count = file
            .read(&mut buffer)
            .map_err(|error| InputError::io("read", from, error))?;
        if count == 0 {
            break;
        }
        hasher.update_parallel(&buffer[..count]);
        to.write_all(&buffer[..count])
            .map_err(|error| InputError::io("copy", from, error))?;
        size += count as u64;
    }
    if BlobDigest(hasher.finish()) != planned {
        return Err(InputError::Changed {
            path: from.to_owned(),
        });
    }
    Ok(size)
}

/// Packs a directory's planned entries as a tar stream of fixed form: sorted, owned by root, of the time `epoch` (seconds
/// since 1970), or of their own times where that is none. Every file is compared with what the plan says it holds.
///
/// # Errors
/// [`InputError::Changed`] where a file is another one than was planned.
pub fn pack_tree(
    scope: &Scope,
    root: &Path,
    entries: &[TreeEntry],
    epoch: Option<u64>,
    out: &mut (impl Write + Seek),
) -> Result<(), InputError> {
    let mut tar = tar::Builder::new(out);
    for entry in entries {
        let path = root.join(&entry.path);
        let name = if entry.path.is_empty() {
            "."
        } else {
            &entry.path
        };
        let mut header = tar::Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(epoch.unwrap_or(entry.modified));
        let fail = |error| InputError::io("pack", &path, error);
        match &entry.node {
            TreeNode::Dir(mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                header.set_size(0);
                tar.append_data(&mut header, name, io::empty())
                    .map_err(fail)?;
            }
            TreeNode::Symlink(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                tar.append_link(&mut header, name, target).map_err(fail)?;
            }
            TreeNode::File(planned) => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_mode(planned.mode);
                header.set_size(planned.blob.size);
                let file = scope.open_file(&path).map_err(fail)?;
                let mut reader = HashingReader {
                    inner: file.take(planned.blob.size),
                    hasher: BlobDigest::hasher(),
                };
                tar.append_data(&mut header, name, &mut reader)
                    .map_err(fail)?;
                let whole = reader.inner.limit() == 0
                    && reader.inner.into_inner().read(&mut [0]).map_err(fail)? == 0;
                if !whole || BlobDigest(reader.hasher.finish()) != planned.blob.digest {
                    return Err(InputError::Changed { path });
                }
            }
        }
    }
    tar.finish()
        .map_err(|error| InputError::io("pack", root, error))
}

struct HashingReader<R> {
    inner: R,
    hasher: impasto_store::digest::Hasher,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
