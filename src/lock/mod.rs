//! The lock: which package files, and which other files, the stages of a recipe get, as text beside the recipe.
//! Knows its text and what it needs of a [`PackageManager`]; knows no graph, asks no archive, and runs no solver.
//!
//! A stage's kind says what it wants ([`PackageRequest`](impasto_stages::package_set::PackageRequest)); the lock's entry says
//! which files that came to, what it was asked, and what it was resolved against: the packages that the stages below put
//! into the disk. An entry that was asked something else, or resolved against something else, is stale, and nothing of it
//! is used. What is written is read back before, by the code that reads it in the next run.

mod check;
mod file;
mod manager;
mod report;
mod source;

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use impasto_store::Owner;

pub use check::MAX_INSTALLED;
pub use file::{LockArchive, LockEntry, LockFile, LockPackage, LockTable, RefusedEntry, TOOLBOX};
pub use manager::{
    BaseLayer, InstalledBase, ManagerError, NewerVersion, PackageHint, PackageManager, Pinning,
    ResolveQuery, ToolNeed,
};
pub use report::changes;
pub use source::LockSource;

use crate::base::bounded;
use crate::base::io::IoError;
use crate::recipe::Recipe;

/// The lock cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// It is a link: who writes to it would write somewhere else, or would put a file in its place.
    #[error("cannot write the lock {}: it is a symbolic link", path.display())]
    Link { path: PathBuf },
    /// It is none.
    #[error("the lock {} cannot be parsed: {reason}", path.display())]
    Syntax {
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
}

/// Where a recipe's lock lies: `impasto.lock` in a recipe's directory, `NAME.lock` beside a recipe `NAME.hcl`.
pub fn path_of(recipe: &Recipe) -> PathBuf {
    if recipe.path.is_dir() {
        recipe.path.join("impasto.lock")
    } else {
        recipe.path.with_extension("lock")
    }
}

impl LockFile {
    /// Reads a lock; an empty one where there is none.
    ///
    /// # Errors
    /// It cannot be read, or is not one.
    pub fn load(path: &Path) -> Result<LockFile, LockError> {
        match bounded::read_text(path, bounded::TEXT) {
            Ok(text) => LockFile::parse(&text).map_err(|reason| LockError::Syntax {
                path: path.to_owned(),
                reason,
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(LockFile::default()),
            Err(error) => Err(IoError::at("read the lock", path)(error)),
        }
    }

    /// Writes it durably, whole or not at all, as a file of its user. A file that is there keeps its permissions, and its
    /// owner where the caller may give files away.
    ///
    /// # Errors
    /// It cannot be written, or is a symbolic link.
    pub fn save(&self, path: &Path, owner: &Owner) -> Result<(), LockError> {
        let failed = |error| IoError::at("write the lock", path)(error);
        let before = match std::fs::symlink_metadata(path) {
            Ok(found) if found.is_symlink() => {
                return Err(LockError::Link {
                    path: path.to_owned(),
                });
            }
            Ok(found) => Some(found),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        let dir = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new()
            .prefix(".impasto.lock.")
            .tempfile_in(dir)
            .map_err(failed)?;
        std::io::Write::write_all(&mut file, self.to_string().as_bytes()).map_err(failed)?;
        if let Some(before) = &before {
            // Only root may give files away, and a lock of another owner is as good.
            let _ =
                std::os::unix::fs::fchown(file.as_file(), Some(before.uid()), Some(before.gid()));
        }
        owner.give(&file).map_err(failed)?;
        let mode = before.map_or(0o644, |before| before.permissions().mode() & 0o777);
        file.as_file()
            .set_permissions(Permissions::from_mode(mode))
            .map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        bounded::open_directory(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(failed)
    }
}
