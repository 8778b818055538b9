//! The only reader of the environment, the current directory, the clock, the CPU count and the user's identity.
//! Knows no recipe and no store.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use impasto_store::Owner;

use crate::base::bounded;

/// What cannot be found out of the process itself.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("cannot find the current directory: {}", if .0.kind() == io::ErrorKind::NotFound { "it was deleted".to_owned() } else { .0.to_string() })]
    Directory(io::Error),
    /// The path of the program.
    #[error("cannot find the path of this program: {0}")]
    Program(io::Error),
}

impl HostError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        let HostError::Directory(error) = self else {
            return None;
        };
        (error.kind() == io::ErrorKind::NotFound)
            .then(|| "change to a directory that exists".to_owned())
    }
}

/// What the process knows of the machine and the user, read once.
#[derive(Debug, Clone)]
pub struct Host {
    /// The environment, for `IMPASTO_VAR_*` and a recipe's `env()`.
    pub env: Vec<(String, String)>,
    pub cwd: PathBuf,
    /// Logical CPUs that this process may use.
    pub cpus: usize,
    /// Whether the process runs as root.
    pub root: bool,
    /// The user who called sudo, where root works for them.
    pub sudo: Option<SudoCaller>,
    /// Whether standard input is a terminal.
    pub stdin_is_terminal: bool,
    /// Whether standard error is a terminal.
    pub stderr_is_terminal: bool,
    /// The path of this program.
    pub exe: PathBuf,
    pub kernel: String,
}

impl Host {
    /// Reads all of it.
    ///
    /// # Errors
    /// The current directory or the path of the program cannot be told.
    #[expect(clippy::disallowed_methods, reason = "this is their one home")]
    pub fn read() -> Result<Host, HostError> {
        let env: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        // Only root was started by sudo: from others it is a variable like any other.
        let root = rustix::process::geteuid().is_root();
        let sudo = if root { SudoCaller::of(&env) } else { None };
        Ok(Host {
            env,
            sudo,
            cwd: std::env::current_dir().map_err(HostError::Directory)?,
            cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get()),
            root,
            stdin_is_terminal: std::io::stdin().is_terminal(),
            stderr_is_terminal: std::io::stderr().is_terminal(),
            exe: std::env::current_exe().map_err(HostError::Program)?,
            kernel: read_line("/proc/sys/kernel/osrelease"),
        })
    }

    /// A variable of the environment.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.env
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The directories in which programs are looked for.
    pub fn path_dirs(&self) -> impl Iterator<Item = &Path> {
        self.var("PATH")
            .unwrap_or_default()
            .split(':')
            .filter(|dir| !dir.is_empty())
            .map(Path::new)
    }

    /// The store's directory where nobody names one: in the user's cache directory.
    pub fn default_store(&self) -> PathBuf {
        self.xdg("XDG_CACHE_HOME", ".cache").join("impasto")
    }

    /// The directory for temporary files that may be too large for a file system in memory (hier(7)).
    pub fn large_temporary_files(&self) -> PathBuf {
        let dir = self.var("TMPDIR").map(PathBuf::from);
        dir.filter(|dir| dir.is_absolute())
            .unwrap_or_else(|| "/var/tmp".into())
    }

    /// The directory of the user's settings, of all programs.
    pub fn config_dir(&self) -> PathBuf {
        self.xdg("XDG_CONFIG_HOME", ".config")
    }

    fn xdg(&self, name: &str, default: &str) -> PathBuf {
        // A relative XDG path is to be ignored (XDG Base Directory Specification).
        let dir = self
            .var(name)
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute());
        // Debian's word for a user without a home: nothing can be made there, and the error has the path.
        let home = || {
            self.home_path()
                .unwrap_or_else(|| PathBuf::from("/nonexistent"))
        };
        dir.unwrap_or_else(|| home().join(default))
    }

    /// Where the user lives: for root the user who called sudo, as what `HOME` is then is sudo's configuration to decide;
    /// else `HOME`, or what `/etc/passwd` says where that is no absolute path.
    fn home_path(&self) -> Option<PathBuf> {
        if let Some(home) = self.sudo.as_ref().and_then(|caller| caller.home.clone()) {
            return Some(home);
        }
        let home = self
            .var("HOME")
            .map(PathBuf::from)
            .filter(|home| home.is_absolute());
        home.or_else(|| User::by_uid(rustix::process::geteuid().as_raw()).map(|user| user.home))
    }

    /// The user's home directory, without links; none where nothing names one that is there.
    pub fn home(&self) -> Option<PathBuf> {
        std::fs::canonicalize(self.home_path()?).ok()
    }

    /// For whom files are written.
    pub fn owner(&self) -> Owner {
        match &self.sudo {
            None => Owner::caller(),
            Some(caller) => {
                let home = User::by_uid(0).map_or("/root".into(), |root| root.home);
                Owner::behind_root(caller.uid, caller.gid, home.join(".cache/impasto-sudo"))
            }
        }
    }

    /// Whether messages may be coloured when they go to standard error.
    pub fn colour(&self) -> bool {
        self.stderr_is_terminal
            && self.var("NO_COLOR").is_none_or(str::is_empty)
            && self.var("TERM") != Some("dumb")
    }

    /// Whether lines can be drawn again and again on standard error.
    pub fn draws(&self) -> bool {
        self.stderr_is_terminal && self.var("TERM") != Some("dumb")
    }

    /// Seconds since 1970, for records that tell when they were made.
    #[expect(clippy::disallowed_methods, reason = "this is its one home")]
    pub fn now(&self) -> u64 {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    }
}

/// Who called sudo, as sudo(8) tells: by `SUDO_UID` and `SUDO_GID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SudoCaller {
    pub uid: u32,
    pub gid: Option<u32>,
    /// Where the user lives, if `/etc/passwd` knows.
    pub home: Option<PathBuf>,
}

impl SudoCaller {
    /// `None` where it was root that called, or nobody.
    fn of(env: &[(String, String)]) -> Option<SudoCaller> {
        let number = |name| env.iter().find(|(key, _)| key == name)?.1.parse().ok();
        let uid = number("SUDO_UID").filter(|uid| *uid != 0)?;
        Some(SudoCaller {
            uid,
            gid: number("SUDO_GID"),
            home: User::by_uid(uid).map(|user| user.home),
        })
    }
}

/// A user of `/etc/passwd` (passwd(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub home: PathBuf,
}

impl User {
    /// The user of a number; `None` also for users that only a directory service knows.
    pub fn by_uid(uid: u32) -> Option<User> {
        let text = bounded::read_text("/etc/passwd", bounded::LINES).ok()?;
        text.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, number, _, _, home, _] = fields[..] else {
                return None;
            };
            let is_it = number.parse() == Ok(uid) && home.starts_with('/');
            is_it.then(|| User {
                name: name.to_owned(),
                home: home.into(),
            })
        })
    }
}

fn read_line(path: &str) -> String {
    bounded::read_text(path, bounded::LINES)
        .unwrap_or_default()
        .trim_end()
        .to_owned()
}
