//! Brings a file system from one tree of files to another: the changes come as a stream, contents after their frames.
//!
//! Knows files, not why they change. Whoever asked compares the result: what could not be done exactly shows there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, makedev, mknodat, utimensat,
};
use rustix::mount::{UnmountFlags, mount_bind, unmount};

use crate::base::bounded;
use crate::files::job_path;
use crate::mounts::GuestMounts;
use crate::protocol::{self, Change, PatchNode, Problem, ProblemKind, Put, RUN_DIR, RunSubdir};

/// What is compared and written at once, in bytes: a block, so that blocks which stay the same stay where they are.
const BLOCK: usize = 4096;

/// Applies the changes that an input holds to the file system of a partition.
pub(crate) fn apply(
    guest_mounts: &GuestMounts,
    partition: u32,
    input: &str,
) -> Result<(), Problem> {
    let source = job_path(RunSubdir::Inputs, input)?;
    let Some(mounted) = guest_mounts.mount_point(partition) else {
        return Err(Problem::new(
            ProblemKind::Protocol,
            format!("partition {partition} is not mounted"),
        ));
    };
    // What is mounted on its directories hides what lies in them; a bind shows the file system alone.
    let bare = Path::new(RUN_DIR).join("bare");
    fs::create_dir_all(&bare).map_err(|e| failed("make", &bare, e))?;
    mount_bind(mounted, &bare).map_err(|e| failed("bind", mounted, e.into()))?;
    let result = bounded::open(&source)
        .map_err(|e| failed("open", &source, e))
        .and_then(|file| patch(&mut BufReader::with_capacity(1 << 20, file), &bare));
    unmount(&bare, UnmountFlags::DETACH).map_err(|e| failed("unmount", &bare, e.into()))?;
    result
}

fn failed(what: &str, path: &Path, error: io::Error) -> Problem {
    Problem::io(what, path.to_string_lossy(), &error)
}

fn patch(changes: &mut impl Read, root: &Path) -> Result<(), Problem> {
    let mut directories = Vec::new();
    let broken = |error| failed("read", Path::new("the changes"), error);
    while let Some(change) = protocol::read::<Change>(changes).map_err(broken)? {
        match change {
            Change::Remove { path } => {
                let path = below(root, &path);
                remove(&path).map_err(|e| failed("remove", &path, e))?;
            }
            Change::Put(put) => {
                let path = below(root, &put.path);
                make(&put, &path, root, changes).map_err(|e| failed("write", &path, e))?;
                match put.node {
                    PatchNode::HardLink { .. } => {}
                    // Filling a directory changes its time.
                    PatchNode::Dir => directories.push((path, put)),
                    _ => set_attributes(&put, &path).map_err(|e| failed("change", &path, e))?,
                }
            }
        }
    }
    directories.iter().rev().try_for_each(|(path, put)| {
        set_attributes(put, path).map_err(|e| failed("change", path, e))
    })
}

fn below(root: &Path, path: &[u8]) -> PathBuf {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    if path.is_empty() {
        root.to_path_buf()
    } else {
        root.join(std::ffi::OsStr::from_bytes(path))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.is_dir() {
        fs::remove_dir(path)
    } else {
        fs::remove_file(path)
    }
}

/// Makes what is to be at a path; owner, mode, time and attributes come after.
fn make(put: &Put, path: &Path, root: &Path, contents: &mut impl Read) -> io::Result<()> {
    let existing = match fs::symlink_metadata(path) {
        Ok(found) => Some(found.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let keeps = existing.is_some_and(|existing| match &put.node {
        PatchNode::Dir => existing.is_dir(),
        PatchNode::Kept => true,
        PatchNode::File { fresh, .. } => existing.is_file() && !fresh,
        _ => false,
    });
    if existing.is_some() && !keeps {
        remove(path)?;
    }
    let node = |kind, device| Ok(mknodat(CWD, path, kind, Mode::empty(), device)?);
    match &put.node {
        PatchNode::Kept => Ok(()),
        PatchNode::Dir if keeps => Ok(()),
        PatchNode::Dir => fs::DirBuilder::new().mode(0o700).create(path),
        PatchNode::File { size, runs, .. } => write(path, *size, runs, contents),
        PatchNode::Symlink { target } => symlink(std::ffi::OsStr::from_bytes(target), path),
        PatchNode::HardLink { first } => fs::hard_link(below(root, first), path),
        PatchNode::Char(major, minor) => node(FileType::CharacterDevice, makedev(*major, *minor)),
        PatchNode::Block(major, minor) => node(FileType::BlockDevice, makedev(*major, *minor)),
        PatchNode::Fifo => node(FileType::Fifo, 0),
        PatchNode::Socket => node(FileType::Socket, 0),
    }
}

/// Writes a file: only blocks that differ from what is there. What no run covers is zero.
fn write(path: &Path, size: u64, runs: &[(u64, u64)], contents: &mut impl Read) -> io::Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    // Behind it nothing is there that could be as it shall be: a hole reads like zeros that were written.
    let old_size = file.metadata()?.len().min(size);
    file.set_len(size)?;
    let (mut new, mut old) = ([0; BLOCK], [0; BLOCK]);
    let mut end = 0;
    for &(start, length) in runs {
        zero(&file, end, start)?;
        end = start + length;
        let mut at = start;
        while at < end {
            // Blocks of the file, not of the run: only these can stay where they are.
            let part = (end - at).min(BLOCK as u64 - at % BLOCK as u64) as usize;
            contents.read_exact(&mut new[..part])?;
            file.read_exact_at(&mut old[..part], at)?;
            if at + part as u64 > old_size || new[..part] != old[..part] {
                file.write_all_at(&new[..part], at)?;
            }
            at += part as u64;
        }
    }
    zero(&file, end, size)
}

/// Makes a range of a file zero where it is not.
fn zero(file: &File, start: u64, end: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
    let mut at = start;
    while at < end {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if data >= end {
            return Ok(());
        }
        let hole = seek(file, SeekFrom::Hole(data))?.min(end);
        fallocate(
            file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            data,
            hole - data,
        )?;
        at = hole;
    }
    Ok(())
}

/// Gives a file its owner, mode, extended attributes and time.
fn set_attributes(put: &Put, path: &Path) -> io::Result<()> {
    let is_link =
        matches!(put.node, PatchNode::Symlink { .. }) || fs::symlink_metadata(path)?.is_symlink();
    lchown(path, Some(put.uid), Some(put.gid))?;
    if !is_link {
        fs::set_permissions(path, fs::Permissions::from_mode(put.mode))?;
    }
    attributes(put, path)?;
    let (tv_sec, nanos) = put.mtime;
    let time = Timespec {
        tv_sec,
        tv_nsec: nanos.into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Extended attributes: those that are named, and no others.
fn attributes(put: &Put, path: &Path) -> io::Result<()> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        // The file system has none.
        Err(rustix::io::Errno::OPNOTSUPP) if put.xattrs.is_empty() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for name in names[..length]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        if !put
            .xattrs
            .iter()
            .any(|(wanted, _)| wanted.as_slice() == name)
        {
            rustix::fs::lremovexattr(path, name)?;
        }
    }
    for (name, value) in &put.xattrs {
        rustix::fs::lsetxattr(path, name.as_slice(), value, XattrFlags::empty())?;
    }
    Ok(())
}
