//! The user's files: results written under their names, with checksums beside them, and told from changed ones by a stat.
//! Knows files and digests, not stages.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use impasto_store::Owner;
use impasto_store::digest::Digest;
use impasto_store::holder::{FOREIGN_SECS, Holder};
use impasto_store::sha256::Sha256;
use tempfile::NamedTempFile;

use crate::base::bounded;
use crate::engine::history::FileMemory;
use crate::engine::plan::Hit;

/// A file to write for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Which of the node's files; the only one where none is named.
    pub file: Option<String>,
    /// Where it goes, absolute.
    pub path: PathBuf,
    /// Whether it waits for others: it is written, and gets its name with them.
    pub held: bool,
}

/// A file that was written.
#[derive(Debug, Clone)]
pub struct Published {
    pub path: PathBuf,
    /// What it is now.
    pub memory: FileMemory,
}

/// A file that a job wrote for the user.
#[derive(Debug)]
pub enum WrittenTarget {
    Published(Published),
    /// It waits for its name.
    Held(SealedDraft),
}

impl WrittenTarget {
    /// Where it is, or is going to be.
    pub fn path(&self) -> &Path {
        match self {
            WrittenTarget::Published(published) => &published.path,
            WrittenTarget::Held(sealed) => &sealed.path,
        }
    }
}

/// Whether the target's file, and the checksum beside it, are as they were `written` for this result.
pub fn is_current(target: &Target, hit: &Hit, written: Option<&FileMemory>) -> bool {
    let Some(file) = hit.file(target.file.as_ref()) else {
        return false;
    };
    let Some(known) = written else { return false };
    is_unchanged(&target.path, &file.content.digest(), known)
        && bounded::read(checksum_path(&target.path), bounded::LINES)
            .is_ok_and(|line| line == checksum_line(&target.path, known.sha256).as_bytes())
}

/// Whether a file is as it was written, and was made of this.
pub fn is_unchanged(path: &Path, content: &Digest, written: &FileMemory) -> bool {
    written.content == *content && stamp(path).ok() == Some(written.stamp)
}

fn stamp(path: &Path) -> io::Result<(u64, u64, i128, i128)> {
    let stat = std::fs::metadata(path)?;
    let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    Ok((
        stat.dev(),
        stat.ino(),
        nanos(stat.mtime(), stat.mtime_nsec()),
        nanos(stat.ctime(), stat.ctime_nsec()),
    ))
}

/// A file that is being written: it appears under its name when it is whole.
pub struct Draft {
    temp: NamedTempFile,
    path: PathBuf,
    owner: Owner,
}

impl Draft {
    /// Begins a file of a user's; makes the directory where it is missing.
    ///
    /// # Errors
    /// The directory or the file cannot be made.
    pub fn new(path: &Path, owner: &Owner) -> io::Result<Draft> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        owner.create_dirs(dir, 0o777)?;
        if std::fs::metadata(path).is_ok_and(|stat| !stat.is_file()) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "it exists and is not a regular file",
            ));
        }
        let temp = part(dir, owner)?;
        remove_stale(dir, temp.as_file().metadata()?.mtime())?;
        Ok(Draft {
            temp,
            path: path.to_owned(),
            owner: owner.clone(),
        })
    }

    /// Where it is going to be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file to write to.
    pub fn file(&self) -> &File {
        self.temp.as_file()
    }

    /// Makes the file visible under its name, in place of what was there.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn place(self, mode: u32) -> io::Result<()> {
        self.file()
            .set_permissions(std::fs::Permissions::from_mode(mode & 0o777))?;
        self.temp.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }

    /// Makes what was written durable: it only wants its name.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn seal(self, content: Digest, sha256: Sha256, mode: u32) -> io::Result<SealedDraft> {
        let file = self.temp.as_file();
        file.set_permissions(std::fs::Permissions::from_mode(mode & 0o777))?;
        file.sync_all()?;
        Ok(SealedDraft {
            temp: self.temp,
            path: self.path,
            owner: self.owner,
            content,
            sha256,
        })
    }

    /// Makes the file, and its checksum beside it, durable and visible.
    ///
    /// # Errors
    /// One of them cannot be written.
    pub fn publish(self, content: Digest, sha256: Sha256, mode: u32) -> io::Result<Published> {
        self.seal(content, sha256, mode)?.publish()
    }
}

/// A file that is written and durable, and waits for its name. Dropped, it is gone.
#[derive(Debug)]
pub struct SealedDraft {
    temp: NamedTempFile,
    path: PathBuf,
    owner: Owner,
    content: Digest,
    sha256: Sha256,
}

impl SealedDraft {
    /// Where it is going to be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn sha256(&self) -> Sha256 {
        self.sha256
    }

    /// Its length in bytes.
    ///
    /// # Errors
    /// The file system does not say.
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.temp.as_file().metadata()?.len())
    }

    /// Makes the file visible, with its checksum beside it.
    ///
    /// # Errors
    /// One of them cannot be written.
    pub fn publish(self) -> io::Result<Published> {
        let dir = self.path.parent().unwrap_or(Path::new("/")).to_owned();
        let mut checksum = part(&dir, &self.owner)?;
        checksum.write_all(checksum_line(&self.path, self.sha256).as_bytes())?;
        checksum
            .as_file()
            .set_permissions(std::fs::Permissions::from_mode(0o644))?;
        checksum.as_file().sync_all()?;
        let checksum_path = checksum_path(&self.path);
        let published = self.publish_alone()?;
        checksum
            .persist(checksum_path)
            .map_err(|error| error.error)?;
        bounded::open_directory(&dir)?.sync_all()?;
        Ok(published)
    }

    /// Makes the file visible. It is durable with the directory.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn publish_alone(self) -> io::Result<Published> {
        let SealedDraft {
            temp,
            path,
            content,
            sha256,
            ..
        } = self;
        temp.persist(&path).map_err(|error| error.error)?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        bounded::open_directory(dir)?.sync_all()?;
        let memory = FileMemory {
            content,
            size: std::fs::metadata(&path)?.len(),
            sha256,
            stamp: stamp(&path)?,
        };
        Ok(Published { path, memory })
    }
}

/// Makes a directory of a user's where it is missing, and tries to write there.
///
/// # Errors
/// It cannot be made, is not a directory, or cannot be written.
pub fn writable_dir(dir: &Path, owner: &Owner) -> io::Result<()> {
    owner.create_dirs(dir, 0o777)?;
    let temp = part(dir, owner)?;
    remove_stale(dir, temp.as_file().metadata()?.mtime())
}

const PREFIX: &str = ".impasto-";
const SUFFIX: &str = ".part";

/// A file in the making, which names its process.
fn part(dir: &Path, owner: &Owner) -> io::Result<NamedTempFile> {
    let prefix = format!("{PREFIX}{}", Holder::prefix());
    let part = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(SUFFIX)
        .tempfile_in(dir)?;
    owner.give(&part)?;
    Ok(part)
}

/// Removes what processes left that were killed while they wrote; of a process that cannot be looked at, or of an
/// earlier version, what was not written for a day. `now` is in seconds by the clock of the file system.
fn remove_stale(dir: &Path, now: i64) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(part) = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX))
        else {
            continue;
        };
        let stale = match Holder::of_name(part).and_then(|holder| holder.is_alive()) {
            Some(alive) => !alive,
            None => entry
                .metadata()
                .is_ok_and(|stat| now - stat.mtime() >= FOREIGN_SECS),
        };
        if stale {
            // Somebody else may be as quick.
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// The checksum's file, beside the file.
fn checksum_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sha256");
    PathBuf::from(name)
}

/// The line that `sha256sum -c` reads.
fn checksum_line(path: &Path, sha256: Sha256) -> String {
    format!(
        "{sha256}  {}\n",
        path.file_name().unwrap_or_default().to_string_lossy()
    )
}
