//! What a recipe may read: the files beneath its repository, and beneath the directories that the user allows.
//! Knows directories and links, not a recipe's text.
//!
//! A recipe can come from somebody else, so a name in it must not reach the host's files: neither by `..` or an absolute
//! path, nor through a symbolic link in the repository. The kernel resolves the name beneath the directory (openat2(2)),
//! at the time of reading, and what it opened is what is hashed and copied.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use impasto_store::inputs::Access;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::base::bounded;

/// A file that a recipe may not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is {}, outside of the repository {}", resolved.display(), repository.display())]
pub struct Outside {
    /// Where the name leads, without links.
    pub resolved: PathBuf,
    pub repository: PathBuf,
}

impl Outside {
    /// The reason of an error of [`Scope::open`], if it is this one.
    pub fn of(error: &io::Error) -> Option<&Outside> {
        error.get_ref()?.downcast_ref()
    }

    pub fn help(&self) -> String {
        let dir = self.resolved.parent().unwrap_or(Path::new("/")).display();
        format!(
            "if the recipe may read it, allow its directory: `--allow-path {dir}`, or `allow_paths` in the user's config"
        )
    }
}

/// A directory beneath which everything may be read.
#[derive(Debug)]
struct AllowedDir {
    /// Without links.
    path: PathBuf,
    dir: OwnedFd,
}

impl AllowedDir {
    fn new(path: &Path) -> io::Result<AllowedDir> {
        let dir = rustix::fs::open(
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(AllowedDir {
            path: real_path(&dir)?,
            dir,
        })
    }

    /// Opens what lies at a path beneath it; none where the path does not begin with its own.
    fn open(
        &self,
        path: &Path,
        flags: OFlags,
        resolve: ResolveFlags,
    ) -> Option<rustix::io::Result<OwnedFd>> {
        let rest = path.strip_prefix(&self.path).ok()?;
        let rest = if rest.as_os_str().is_empty() {
            Path::new(".")
        } else {
            rest
        };
        Some(openat2(
            &self.dir,
            rest,
            flags,
            Mode::empty(),
            ResolveFlags::BENEATH | resolve,
        ))
    }
}

/// What one recipe may read.
#[derive(Debug)]
pub struct Scope {
    repository: PathBuf,
    /// The repository's first; none for a recipe that may read nothing.
    roots: Vec<AllowedDir>,
}

impl Scope {
    /// The scope of a recipe in `dir`, an absolute path without links. `home` is the user's home directory, if known.
    ///
    /// # Errors
    /// The repository, or an allowed directory, which the error names, cannot be opened.
    pub fn new(
        dir: &Path,
        home: Option<&Path>,
        allowed: &[PathBuf],
    ) -> Result<Scope, (PathBuf, io::Error)> {
        let repository = repository(dir, home);
        let all = std::iter::once(repository).chain(allowed.iter().map(PathBuf::as_path));
        let roots = all.map(|path| AllowedDir::new(path).map_err(|error| (path.to_owned(), error)));
        Ok(Scope {
            repository: repository.to_owned(),
            roots: roots.collect::<Result<_, _>>()?,
        })
    }

    /// The scope of a text that belongs to no directory: it may read nothing.
    pub fn nothing() -> Scope {
        Scope {
            repository: PathBuf::from("(none)"),
            roots: Vec::new(),
        }
    }

    /// The directory beneath which a recipe may read without asking.
    pub fn repository(&self) -> &Path {
        &self.repository
    }

    /// Opens whatever lies at an absolute path, following symbolic links that do not lead out. It waits for nobody.
    ///
    /// # Errors
    /// It cannot be opened; it lies outside ([`Outside`] is the reason then).
    pub fn open(&self, path: &Path, access: Access) -> io::Result<File> {
        let flags = match access {
            Access::Examine => OFlags::PATH | OFlags::CLOEXEC,
            Access::Read => bounded::FLAGS,
        };
        let repository = self
            .roots
            .first()
            .and_then(|root| root.open(path, flags, ResolveFlags::NO_MAGICLINKS));
        match repository {
            Some(Ok(file)) => return Ok(file.into()),
            // It leads out of the repository; or something was renamed meanwhile, and the kernel cannot tell.
            None | Some(Err(Errno::XDEV | Errno::AGAIN)) => {}
            Some(Err(error)) => return Err(error.into()),
        }
        // Where it leads to; nothing is read of it yet.
        let found = openat2(
            CWD,
            path,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::NO_MAGICLINKS,
        );
        let resolved = match found {
            Ok(found) => real_path(&found)?,
            // Whether there is anything outside is nothing that a recipe may learn.
            Err(error) => {
                let plain = without_dots(path);
                if self.roots.iter().any(|root| plain.starts_with(&root.path)) {
                    return Err(error.into());
                }
                return Err(self.outside(plain));
            }
        };
        // No links are left in it: whoever puts one there now gains nothing.
        match self
            .roots
            .iter()
            .find_map(|root| root.open(&resolved, flags, ResolveFlags::NO_SYMLINKS))
        {
            Some(opened) => Ok(opened?.into()),
            None => Err(self.outside(resolved)),
        }
    }

    fn outside(&self, resolved: PathBuf) -> io::Error {
        let outside = Outside {
            resolved,
            repository: self.repository.clone(),
        };
        io::Error::new(io::ErrorKind::PermissionDenied, outside)
    }

    /// Opens a regular file to read it.
    ///
    /// # Errors
    /// As those of [`Scope::open`] and [`bounded::open`].
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        bounded::regular(self.open(path, Access::Read)?)
    }
}

/// The nearest directory from `dir` upwards that holds `.git`, but neither the root nor the user's home directory or one
/// above it: who keeps those in git does not mean every recipe below. Else `dir` itself.
fn repository<'d>(dir: &'d Path, home: Option<&Path>) -> &'d Path {
    let is_too_high =
        |dir: &Path| dir.parent().is_none() || home.is_some_and(|home| home.starts_with(dir));
    let mut candidates = dir.ancestors().take_while(|dir| !is_too_high(dir));
    // A file in a worktree, and in a submodule.
    candidates
        .find(|dir| std::fs::symlink_metadata(dir.join(".git")).is_ok())
        .unwrap_or(dir)
}

/// A path without `.` and `..`, as if no part of it were a link.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

/// The path of an open file, without links.
fn real_path(file: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
