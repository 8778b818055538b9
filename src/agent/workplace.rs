//! The directory in which steps' processes run, and as whom: `/` and root unless a step says otherwise.
//!
//! Knows the guest's users and what belongs to the job, not what the steps are.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{fchown, lchown};
use std::path::{Path, PathBuf};

use crate::base::bounded;
use crate::kernel;
use crate::mounts::io_problem;
use crate::protocol::{CACHES, Problem, ProblemKind, RUN_DIR};

/// Where steps run, and as whom.
pub(crate) struct Workplace {
    dir: PathBuf,
    user: Option<GuestUser>,
}

/// A user of the guest.
struct GuestUser {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

impl Default for Workplace {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("/"),
            user: None,
        }
    }
}

impl Workplace {
    /// Makes the directory, and gives it, secrets, caches and these outputs to the user.
    pub(crate) fn make<'a>(
        dir: &str,
        user: Option<&str>,
        outputs: impl Iterator<Item = &'a (impl AsFd + 'a)>,
    ) -> Result<Self, Problem> {
        let user = user.map(find).transpose()?;
        let dir = PathBuf::from(dir);
        fs::create_dir_all(&dir).map_err(io_problem("make", &dir))?;
        if let Some(GuestUser { uid, gid, .. }) = &user {
            let owner = (*uid, *gid);
            give(&dir, owner)?;
            kernel::open_secrets()?;
            give(&Path::new(RUN_DIR).join("secrets"), owner)?;
            kernel::close_secrets()?;
            let caches = Path::new(RUN_DIR).join(CACHES);
            if caches.exists() {
                give(&caches, owner)?;
            }
            // So that /dev/stdout can be opened.
            for output in outputs {
                fchown(output, Some(*uid), Some(*gid))
                    .map_err(io_problem("give away", Path::new("the output")))?;
            }
        }
        Ok(Self { dir, user })
    }

    /// What the launched agent is told of it: the directory, user and group.
    pub(crate) fn arguments(&self) -> [OsString; 3] {
        let (uid, gid) = self
            .user
            .as_ref()
            .map_or((0, 0), |user| (user.uid, user.gid));
        [
            self.dir.clone().into(),
            uid.to_string().into(),
            gid.to_string().into(),
        ]
    }

    /// The environment that names the user.
    pub(crate) fn env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.user.iter().flat_map(|user| {
            [
                ("HOME", user.home.as_str()),
                ("USER", &user.name),
                ("LOGNAME", &user.name),
            ]
        })
    }
}

/// Gives a directory with all below it to a user.
fn give(path: &Path, (uid, gid): (u32, u32)) -> Result<(), Problem> {
    lchown(path, Some(uid), Some(gid)).map_err(io_problem("give away", path))?;
    let found = fs::symlink_metadata(path).map_err(io_problem("examine", path))?;
    if found.is_dir() {
        for entry in fs::read_dir(path).map_err(io_problem("read", path))? {
            give(&entry.map_err(io_problem("read", path))?.path(), (uid, gid))?;
        }
    }
    Ok(())
}

/// The user of this name in the guest's passwd(5).
fn find(name: &str) -> Result<GuestUser, Problem> {
    let path = Path::new("/etc/passwd");
    let text = bounded::read(path, bounded::TEXT).map_err(io_problem("read", path))?;
    let text = String::from_utf8_lossy(&text);
    let user = text.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        match fields.as_slice() {
            [found, _, uid, gid, _, home, ..] if *found == name => Some(GuestUser {
                name: name.to_owned(),
                uid: uid.parse().ok()?,
                gid: gid.parse().ok()?,
                home: (*home).to_owned(),
            }),
            _ => None,
        }
    });
    let missing = format!("the root has no user {name:?} to run as");
    user.ok_or_else(|| Problem::new(ProblemKind::Io, missing))
}

/// GuestUser and group out of [`Workplace::arguments`]; none for root.
pub(crate) fn parse_user(uid: &OsString, gid: &OsString) -> io::Result<Option<(u32, u32)>> {
    let number = |text: &OsString| text.to_str()?.parse().ok();
    match (number(uid), number(gid)) {
        (Some(0), Some(0)) => Ok(None),
        (Some(uid), Some(gid)) => Ok(Some((uid, gid))),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}
