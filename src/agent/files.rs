//! Files that go in and out: inputs and secrets into memory, copies into the image, outputs out of it.
//!
//! Knows paths inside the guest, which is the agent's own root: nothing here can reach the host.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown, lchown};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, SeekFrom, Timespec, Timestamps, UTIME_OMIT, openat2,
    seek, utimensat,
};
use serde_bytes::ByteBuf;

use crate::base::bounded;
use crate::mounts::GuestMounts;
use crate::protocol::{
    AgentStep, Answer, FileOwner, InputKind, Limit, MAX_DATA, Problem, ProblemKind, RUN_DIR,
    RunSubdir,
};
use crate::serve::Channel;

/// A file of the job that is being received.
pub(crate) struct Upload {
    file: File,
    path: PathBuf,
}

impl Upload {
    pub(crate) fn begin(place: RunSubdir, name: &str, mode: u32) -> Result<Self, Problem> {
        let path = job_path(place, name)?;
        let create = || {
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            file.set_permissions(fs::Permissions::from_mode(mode & 0o777))?;
            Ok(file)
        };
        let file = create().map_err(|e| failed("create", &path, e))?;
        Ok(Self { file, path })
    }

    pub(crate) fn write(mut self, bytes: &[u8]) -> Result<Self, Problem> {
        self.file
            .write_all(bytes)
            .map_err(|e| failed("write", &self.path, e))?;
        Ok(self)
    }

    /// Gives it the time that all files of a job have, so that steps that copy it with its time copy no other.
    pub(crate) fn end(self, epoch: Option<u64>) -> Result<(), Problem> {
        let set = epoch.map_or(Ok(()), |epoch| set_modified(&self.path, epoch));
        set.map_err(|e| failed("set the time of", &self.path, e))
    }
}

fn failed(what: &str, path: &Path, error: io::Error) -> Problem {
    Problem::io(what, path.to_string_lossy(), &error)
}

/// Path of a file of the job. A name is one component, whatever it holds.
pub(crate) fn job_path(place: RunSubdir, name: &str) -> Result<PathBuf, Problem> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(Problem::new(
            ProblemKind::Protocol,
            format!("{name:?} is not a valid file name"),
        ));
    }
    Ok(Path::new(RUN_DIR).join(place.dir()).join(name))
}

/// Does a step that runs no program.
pub(crate) fn apply(guest_mounts: &GuestMounts, step: &AgentStep) -> Result<(), Problem> {
    let epoch = guest_mounts.setup.source_date_epoch;
    match step {
        AgentStep::CopyIn {
            input,
            dest,
            mode,
            owner,
            kind,
            modified,
        } => {
            let source = job_path(RunSubdir::Inputs, input)?;
            let owner = owner.as_ref().map(resolve_owner).transpose()?;
            match kind {
                InputKind::File => {
                    copy_file(&source, Path::new(dest), *mode, owner, modified.or(epoch))
                }
                InputKind::Tar => extract(&source, Path::new(dest), owner),
            }
        }
        AgentStep::WriteFile {
            path,
            content,
            mode,
        } => {
            let path = Path::new(path);
            place(path, &mut content.as_slice(), *mode, None, epoch)
        }
        AgentStep::Patch { input, partition } => {
            crate::patch::apply(guest_mounts, *partition, input)
        }
        AgentStep::Remove { path } => remove(Path::new(path)),
        AgentStep::Script { .. }
        | AgentStep::Command { .. }
        | AgentStep::WorkIn { .. }
        | AgentStep::ShowRoot => Err(Problem::new(
            ProblemKind::Protocol,
            "this step is not about a file",
        )),
    }
}

fn copy_file(
    source: &Path,
    dest: &Path,
    mode: Option<u32>,
    owner: Option<(u32, u32)>,
    epoch: Option<u64>,
) -> Result<(), Problem> {
    let mut file = bounded::open(source).map_err(|e| failed("open", source, e))?;
    let own = file
        .metadata()
        .map_err(|e| failed("examine", source, e))?
        .permissions()
        .mode();
    place(dest, &mut file, mode.unwrap_or(own), owner, epoch)
}

/// Writes a file under a name of its own and moves it into place, so a link there is replaced and not followed.
fn place(
    dest: &Path,
    content: &mut dyn Read,
    mode: u32,
    owner: Option<(u32, u32)>,
    epoch: Option<u64>,
) -> Result<(), Problem> {
    let (Some(parent), Some(name)) = (dest.parent(), dest.file_name()) else {
        return Err(failed("write", dest, rustix::io::Errno::ISDIR.into()));
    };
    fs::create_dir_all(parent).map_err(|e| failed("make", parent, e))?;
    let mut temporary = std::ffi::OsString::from(".impasto-");
    temporary.push(name);
    temporary = if temporary.len() > 255 {
        ".impasto-new".into()
    } else {
        temporary
    };
    let temporary = parent.join(temporary);
    let mut write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        io::copy(content, &mut file)?;
        let (user, group) = owner.unwrap_or((0, 0));
        fchown(&file, Some(user), Some(group))?;
        // After chown, which clears set-user-id.
        file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))?;
        drop(file);
        if let Some(epoch) = epoch {
            set_modified(&temporary, epoch)?;
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "inside the guest, not in the store"
        )]
        fs::rename(&temporary, dest)
    };
    write().map_err(|e| {
        // The first error is the one that counts.
        let _ = fs::remove_file(&temporary);
        failed("write", dest, e)
    })
}

fn set_modified(path: &Path, seconds: u64) -> io::Result<()> {
    let tv_sec = i64::try_from(seconds).unwrap_or(i64::MAX);
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec { tv_sec, tv_nsec: 0 },
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Lays out a tar stream below `dest`. The agent's root is the guest's, so no entry can lead out of it.
fn extract(source: &Path, dest: &Path, owner: Option<(u32, u32)>) -> Result<(), Problem> {
    let unpack = || -> io::Result<()> {
        fs::create_dir_all(dest)?;
        let mut archive = tar::Archive::new(bounded::open(source)?);
        archive.set_preserve_permissions(true);
        archive.set_preserve_ownerships(owner.is_none());
        // The library takes 0 for 1, so the times are set here.
        archive.set_preserve_mtime(false);
        archive.set_overwrite(true);
        let mut directories = Vec::new();
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = dest.join(entry.path()?);
            let mode = entry.header().mode()?;
            let kind = entry.header().entry_type();
            let modified = entry.header().mtime()?;
            if !entry.unpack_in(dest)? {
                let name = path.display().to_string();
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{name} leads out of the archive"),
                ));
            }
            if let Some((user, group)) = owner {
                lchown(&path, Some(user), Some(group))?;
                if !kind.is_symlink() {
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777))?;
                }
            }
            if kind.is_dir() {
                directories.push((path, modified));
            } else {
                set_modified(&path, modified)?;
            }
        }
        // Filling a directory changes its time.
        directories
            .iter()
            .rev()
            .try_for_each(|(path, modified)| set_modified(path, *modified))
    };
    unpack().map_err(|e| failed("lay out files in", dest, e))
}

fn remove(path: &Path) -> Result<(), Problem> {
    let result = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|e| failed("remove", path, e)),
    }
}

fn resolve_owner(owner: &FileOwner) -> Result<(u32, u32), Problem> {
    Ok((
        resolve_id("/etc/passwd", &owner.user)?,
        resolve_id("/etc/group", &owner.group)?,
    ))
}

/// A number, or the third field of the line that begins with the name (passwd(5), group(5)).
fn resolve_id(database: &str, name: &str) -> Result<u32, Problem> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let text = bounded::read(database, bounded::TEXT)
        .map_err(|e| failed("read", Path::new(database), e))?;
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines().map(|line| line.split(':'));
    let id = lines.find_map(|mut fields| {
        (fields.next() == Some(name))
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    });
    id.ok_or_else(|| {
        Problem::new(
            ProblemKind::Io,
            format!("the image's {database} has no entry {name:?}"),
        )
    })
}

/// Sends a regular file of the guest, of at most `most` bytes of data; holes are not read. The outer error is a broken
/// channel.
pub(crate) fn collect(
    channel: &mut Channel,
    path: &str,
    most: u64,
) -> io::Result<Result<Answer, Problem>> {
    let file = match open_output(path) {
        Ok(file) => file,
        Err(problem) => return Ok(Err(problem)),
    };
    let found = file.metadata()?;
    let size = found.len();
    channel.send(&Answer::Output {
        size,
        mode: found.permissions().mode() & 0o7777,
    })?;
    let unread = |error: rustix::io::Errno| failed("read", Path::new(path), error.into());
    let (mut at, mut sent) = (0, 0);
    let mut buffer = vec![0; MAX_DATA];
    while at < size {
        let data = match seek(&file, SeekFrom::Data(at)) {
            Ok(data) => data.min(size),
            // Nothing but a hole is left.
            Err(rustix::io::Errno::NXIO) => size,
            Err(error) => return Ok(Err(unread(error))),
        };
        if data > at {
            channel.send(&Answer::Hole(data - at))?;
            at = data;
            continue;
        }
        let end = match seek(&file, SeekFrom::Hole(at)) {
            Ok(end) => end.min(size),
            Err(error) => return Ok(Err(unread(error))),
        };
        sent += end - at;
        if sent > most {
            return Ok(Ok(Answer::Limit(Limit::Output)));
        }
        while at < end {
            let want = buffer
                .len()
                .min(usize::try_from(end - at).unwrap_or(usize::MAX));
            match rustix::io::pread(&file, &mut buffer[..want], at) {
                Ok(0) => {
                    return Ok(Err(Problem::new(
                        ProblemKind::Io,
                        format!("{path} shrank while it was read"),
                    )));
                }
                Ok(count) => {
                    channel.send(&Answer::Data(ByteBuf::from(&buffer[..count])))?;
                    at += count as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Ok(Err(unread(error))),
            }
        }
    }
    Ok(Ok(Answer::Ok))
}

/// Opens a regular file; its directories may be links inside the guest, itself may not.
fn open_output(path: &str) -> Result<File, Problem> {
    let open = || -> rustix::io::Result<_> {
        let root = rustix::fs::open(
            "/",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        openat2(
            &root,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    };
    let problem = |kind, what: &str| Problem {
        kind,
        what: what.to_owned(),
        path: Some(path.to_owned()),
        errno: None,
    };
    match open() {
        Ok(fd) => {
            let file = File::from(fd);
            match file.metadata() {
                Ok(found) if found.is_file() => Ok(file),
                _ => Err(problem(
                    ProblemKind::OutputRefused,
                    "an output must be a regular file, this is not one:",
                )),
            }
        }
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Err(problem(
            ProblemKind::OutputMissing,
            "the output does not exist:",
        )),
        Err(rustix::io::Errno::LOOP) => Err(problem(
            ProblemKind::OutputRefused,
            "an output must be a regular file, this is a symbolic link:",
        )),
        Err(error) => {
            Err(failed("open", Path::new(path), error.into()).of_kind(ProblemKind::OutputRefused))
        }
    }
}
