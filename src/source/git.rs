//! Git repositories: which commit a name stands for, and the tree of files of a commit.
//! Knows the host's git program and what it may do; what becomes of a tree is the caller's knowledge.
//!
//! Nothing is checked out: no file of a repository is ever written under its name, no filter, hook or configuration of it
//! is used, and what comes is the content of the commit's objects, of which git checks the digests. Objects come by the
//! commit's name, so that it does not matter where a branch points meanwhile.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tree::{TreeBuilder, TreeContent, TreeError};
use crate::base::cancel::CancelToken;
use crate::base::escape;

/// Bytes of an answer that is kept in memory, at most: a list of a repository's files, or of its branches.
const MAX_ANSWER: u64 = 256 << 20;

/// Bytes of git's own words that are shown.
const MAX_WORDS: usize = 2000;

/// Files and links of a tree, at most.
const MAX_ENTRIES: usize = 1_000_000;

/// Bytes of a symbolic link's target, at most: that of a path (limits.h).
const MAX_TARGET: u64 = 4096;

/// How deep submodules may lie in each other.
const MAX_DEPTH: usize = 8;

/// How often it is looked whether git has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Where a repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GitPlace {
    /// An https, http or ssh URL.
    Url(String),
    /// A directory of this machine.
    Local(PathBuf),
}

impl GitPlace {
    /// As it may be shown.
    fn shown(&self) -> String {
        match self {
            GitPlace::Url(url) => impasto_stages::source::public(url),
            GitPlace::Local(path) => path.display().to_string(),
        }
    }

    /// What git may use to get there; a submodule of a repository elsewhere never reaches this machine's files.
    fn protocols(&self) -> &'static str {
        match self {
            GitPlace::Local(_) => "file:https",
            GitPlace::Url(url) if url.starts_with("http:") => "http:https",
            GitPlace::Url(url) if url.starts_with("ssh:") => "ssh:https",
            GitPlace::Url(_) => "https",
        }
    }
}

/// What a repository does not give.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error("git is not installed")]
    NoGit,
    /// It cannot be started, or what it writes not be read.
    #[error("cannot {verb}")]
    Io {
        verb: &'static str,
        source: io::Error,
    },
    /// Git failed: its own words.
    #[error("git cannot {what} {place}: {said}")]
    Failed {
        what: &'static str,
        place: String,
        said: String,
    },
    /// There is no branch and no tag of this name.
    #[error("{place} has no branch or tag {reference:?}")]
    NoRef {
        place: String,
        reference: String,
        /// The branches and tags that there are.
        known: Vec<String>,
    },
    #[error("{place} has a branch and a tag {reference:?}")]
    Ambiguous { place: String, reference: String },
    /// Nobody has the commit any more.
    #[error("{place} does not have the commit {commit}")]
    NoCommit { place: String, commit: String },
    #[error("{place} has no directory {path:?} in the commit {commit}")]
    NoDirectory {
        place: String,
        commit: String,
        path: String,
    },
    /// A submodule that is somewhere that its repository has no say over.
    #[error("the submodule {path:?} of {place} is at {url:?}, {why}")]
    Submodule {
        place: String,
        path: String,
        url: String,
        why: &'static str,
    },
    /// An object or answer that is not what it should be.
    #[error("{place} cannot be read: {reason}")]
    Malformed { place: String, reason: String },
    #[error("{place} is larger than the limit of {limit} bytes")]
    TooLarge { place: String, limit: u64 },
    /// A file whose path no tree can have.
    #[error("{place} cannot be a tree of files")]
    Tree { place: String, source: TreeError },
    #[error("it would have to be fetched from {place}, which --offline forbids")]
    Offline { place: String },
    #[error("it took longer than {} s", after.as_secs())]
    TimedOut { after: Duration },
    #[error("cancelled")]
    Cancelled,
}

/// What of a commit becomes the tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitPart {
    /// The path of a directory; all of it where it is empty.
    pub subdirectory: String,
    /// Whether the files of submodules are in it; else their directories are empty.
    pub submodules: bool,
}

/// Asks repositories by the host's git.
pub struct Git<'g> {
    /// A directory of our own on a file system with room.
    pub dir: &'g Path,
    /// Bytes that the files of a tree may have.
    pub limit: u64,
    pub offline: bool,
    pub timeout: Option<Duration>,
    pub cancel: &'g CancelToken,
    /// Is called for each process before it starts.
    pub prepare: &'g (dyn Fn(&mut Command) + Sync),
    /// Whether a directory of this machine may be read.
    pub may_read: &'g (dyn Fn(&Path) -> io::Result<()> + Sync),
}

/// A file of a commit.
struct GitEntry {
    mode: u32,
    object: String,
    path: String,
}

/// A tree that is being collected.
struct GitTree {
    builder: TreeBuilder,
    /// Bytes of its files.
    bytes: Cell<u64>,
}

impl Git<'_> {
    /// The commit that a branch, a tag or a whole name of a reference stands for now; without one, the repository's own
    /// choice (`HEAD`).
    ///
    /// # Errors
    /// There is no such name, or nobody answers.
    pub fn resolve(&self, place: &GitPlace, reference: Option<&str>) -> Result<String, GitError> {
        self.check(place)?;
        let answer = self.run(
            place,
            "read the branches of",
            &["ls-remote", "--", &target(place)],
            None,
        )?;
        let answer = self.text(place, answer)?;
        let refs: BTreeMap<&str, &str> = answer
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .map(|(commit, name)| (name, commit))
            .collect();
        // A tag that is an object of its own points to the commit.
        let find = |name: &str| {
            let peeled = refs.get(format!("{name}^{{}}").as_str());
            peeled.or_else(|| refs.get(name)).copied()
        };
        let commit = match reference {
            None => find("HEAD"),
            Some(name) if name.starts_with("refs/") => find(name),
            Some(name) => {
                let branch = find(&format!("refs/heads/{name}"));
                match (branch, find(&format!("refs/tags/{name}"))) {
                    (Some(branch), Some(tag)) if branch != tag => {
                        return Err(GitError::Ambiguous {
                            place: place.shown(),
                            reference: name.to_owned(),
                        });
                    }
                    (branch, tag) => branch.or(tag),
                }
            }
        };
        match commit {
            Some(commit) if is_commit(commit) => Ok(commit.to_owned()),
            _ => {
                let short = |name: &&str| {
                    let tag = name
                        .strip_prefix("refs/tags/")
                        .filter(|tag| !tag.ends_with("^{}"));
                    name.strip_prefix("refs/heads/").or(tag).map(str::to_owned)
                };
                Err(GitError::NoRef {
                    place: place.shown(),
                    reference: reference.unwrap_or("HEAD").to_owned(),
                    known: refs.keys().filter_map(short).collect(),
                })
            }
        }
    }

    /// The files of a commit.
    ///
    /// # Errors
    /// The repository does not have it, a part of it cannot be had, or it cannot be a tree.
    pub fn tree(
        &self,
        place: &GitPlace,
        commit: &str,
        part: &GitPart,
    ) -> Result<TreeBuilder, GitError> {
        let mut tree = GitTree {
            builder: TreeBuilder::new(),
            bytes: Cell::new(0),
        };
        self.add(&mut tree, place, commit, part, "", 0)?;
        Ok(tree.builder)
    }

    /// Adds the files of a commit below a path of the tree.
    fn add(
        &self,
        tree: &mut GitTree,
        place: &GitPlace,
        commit: &str,
        part: &GitPart,
        below: &str,
        depth: usize,
    ) -> Result<(), GitError> {
        self.check(place)?;
        let dir = tempfile::tempdir_in(self.dir).map_err(GitError::io("make a directory"))?;
        let repository = dir.path();
        self.fetch(repository, place, commit)?;
        let list = ["ls-tree", "-r", "-z", "--full-tree", commit];
        let list = self.run(place, "list the files of", &list, Some(repository))?;
        let list = self.text(place, list)?;
        let malformed = |reason: &str| GitError::Malformed {
            place: place.shown(),
            reason: reason.to_owned(),
        };
        let mut files = Vec::new();
        let mut modules = Vec::new();
        let mut is_there = part.subdirectory.is_empty();
        for line in list.split('\0').filter(|line| !line.is_empty()) {
            let entry = entry(line).ok_or_else(|| malformed("a file without a name"))?;
            let Some(path) = within(&entry.path, &part.subdirectory) else {
                continue;
            };
            is_there = true;
            let path = match below {
                "" => path.to_owned(),
                below => format!("{below}/{path}"),
            };
            match entry.mode {
                0o160_000 => modules.push((entry, path)),
                _ => files.push((entry, path)),
            }
            if files.len() + tree.builder.len() > MAX_ENTRIES {
                return Err(malformed("it has more than a million files"));
            }
        }
        if !is_there {
            return Err(GitError::NoDirectory {
                place: place.shown(),
                commit: commit.to_owned(),
                path: part.subdirectory.clone(),
            });
        }
        self.files(tree, place, repository, files)?;
        for (module, path) in modules {
            tree.builder.dir(&path, 0o755).map_err(wrong(place))?;
            if !part.submodules {
                continue;
            }
            if depth == MAX_DEPTH {
                return Err(malformed("its submodules lie in each other too deep"));
            }
            let at = self.submodule(repository, place, commit, &module.path)?;
            let whole = GitPart {
                subdirectory: String::new(),
                submodules: true,
            };
            self.add(tree, &at, &module.object, &whole, &path, depth + 1)?;
        }
        Ok(())
    }

    /// Gets a commit, without what was before it where the server can do that.
    fn fetch(&self, repository: &Path, place: &GitPlace, commit: &str) -> Result<(), GitError> {
        let format = match commit.len() {
            64 => "--object-format=sha256",
            _ => "--object-format=sha1",
        };
        // Nothing of a template: it could hold hooks.
        let init = ["init", "--quiet", "--bare", "--template=", format, "."];
        self.run(place, "prepare for", &init, Some(repository))?;
        let from = target(place);
        let fetch = |more: &[&str]| {
            let mut words = vec!["fetch", "--quiet", "--no-tags", "--no-recurse-submodules"];
            words.extend(more);
            self.run(place, "fetch from", &words, Some(repository))
        };
        let has = || {
            let object = format!("{commit}^{{commit}}");
            self.run(
                place,
                "read",
                &["cat-file", "-e", &object],
                Some(repository),
            )
        };
        if fetch(&["--depth=1", "--", &from, commit]).is_err() {
            self.is_over()?;
            // Servers of files, and old ones, give only what a name stands for.
            fetch(&["--", &from, "+refs/*:refs/impasto/*"])?;
        }
        match has() {
            Ok(_) => Ok(()),
            Err(GitError::Failed { .. }) => Err(GitError::NoCommit {
                place: place.shown(),
                commit: commit.to_owned(),
            }),
            Err(error) => Err(error),
        }
    }

    /// Adds the content of files and links.
    fn files(
        &self,
        tree: &mut GitTree,
        place: &GitPlace,
        repository: &Path,
        files: Vec<(GitEntry, String)>,
    ) -> Result<(), GitError> {
        let io = || GitError::io("write what git is asked");
        let mut wanted = tempfile::tempfile_in(self.dir).map_err(io())?;
        let list: String = files
            .iter()
            .map(|(entry, _)| format!("{}\n", entry.object))
            .collect();
        wanted
            .write_all(list.as_bytes())
            .and_then(|()| wanted.rewind())
            .map_err(io())?;
        let left = self.limit.saturating_sub(tree.bytes.get());
        // A line of its own for each.
        let most = left.saturating_add(128 * files.len() as u64);
        let request = GitRequest {
            stdin: Some(wanted),
            limit: most,
            dir: Some(repository),
        };
        let content = self.start(
            place,
            "read the files of",
            &["cat-file", "--batch"],
            request,
        )?;
        tree.bytes
            .set(tree.bytes.get() + content.metadata().map_or(0, |stat| stat.len()));
        let content = Arc::new(content);
        let read = || GitError::io("read what git wrote");
        let mut reader = io::BufReader::new(&*content);
        let mut at = 0_u64;
        for (entry, path) in files {
            let malformed = |reason: String| GitError::Malformed {
                place: place.shown(),
                reason,
            };
            let mut line = String::new();
            at += reader.read_line(&mut line).map_err(read())? as u64;
            let mut words = line.trim_end().split(' ');
            let is_asked = words.next() == Some(&entry.object) && words.next() == Some("blob");
            let size = words.next().and_then(|size| size.parse::<u64>().ok());
            let Some(size) = size.filter(|_| is_asked) else {
                return Err(malformed(format!("the file {:?} is missing", entry.path)));
            };
            let offset = at;
            if entry.mode == 0o120_000 {
                let mut target = Vec::new();
                let mut part = Read::take(&mut reader, size.min(MAX_TARGET + 1));
                part.read_to_end(&mut target).map_err(read())?;
                let target = String::from_utf8(target)
                    .ok()
                    .filter(|_| size <= MAX_TARGET);
                let target = target
                    .ok_or_else(|| malformed(format!("the link {:?} leads nowhere", entry.path)))?;
                tree.builder.link(&path, &target).map_err(wrong(place))?;
            } else {
                let mode = if entry.mode & 0o100 == 0 {
                    0o644
                } else {
                    0o755
                };
                let file = content.clone();
                let part = TreeContent::Part { file, offset, size };
                tree.builder.file(&path, mode, part).map_err(wrong(place))?;
            }
            // A line feed ends each.
            at = offset + size + 1;
            reader.seek(io::SeekFrom::Start(at)).map_err(read())?;
        }
        Ok(())
    }

    /// Where a submodule is, as its repository says in the commit.
    fn submodule(
        &self,
        repository: &Path,
        place: &GitPlace,
        commit: &str,
        path: &str,
    ) -> Result<GitPlace, GitError> {
        let blob = format!("{commit}:.gitmodules");
        let words = ["config", "--blob", &blob, "--null", "--list"];
        let settings = self.run(place, "read the submodules of", &words, Some(repository))?;
        let settings = self.text(place, settings)?;
        let mut named: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
        for setting in settings.split('\0') {
            let Some((key, value)) = setting.split_once('\n') else {
                continue;
            };
            let Some(rest) = key.strip_prefix("submodule.") else {
                continue;
            };
            match rest.rsplit_once('.') {
                Some((name, "path")) => named.entry(name).or_default().0 = value,
                Some((name, "url")) => named.entry(name).or_default().1 = value,
                _ => {}
            }
        }
        let url = named
            .values()
            .find(|(at, url)| *at == path && !url.is_empty());
        let Some((_, url)) = url else {
            return Err(GitError::Malformed {
                place: place.shown(),
                reason: format!("its .gitmodules does not say where the submodule {path:?} is"),
            });
        };
        let refused = |why| GitError::Submodule {
            place: place.shown(),
            path: path.to_owned(),
            url: (*url).to_owned(),
            why,
        };
        match (place, url) {
            (_, url) if url.starts_with("./") || url.starts_with("../") => {
                Ok(relative(place, url).ok_or_else(|| refused("which is nowhere"))?)
            }
            (_, url) if url.starts_with("https://") => Ok(GitPlace::Url((*url).to_owned())),
            (GitPlace::Url(from), url) if scheme(from).is_some() && scheme(from) == scheme(url) => {
                Ok(GitPlace::Url((*url).to_owned()))
            }
            (GitPlace::Local(_), url) if url.starts_with('/') => {
                Ok(GitPlace::Local(PathBuf::from(url)))
            }
            _ => Err(refused(
                "which only a repository of this machine may name, or nobody",
            )),
        }
    }

    /// Whether a place may be asked.
    fn check(&self, place: &GitPlace) -> Result<(), GitError> {
        match place {
            GitPlace::Url(_) if self.offline => Err(GitError::Offline {
                place: place.shown(),
            }),
            GitPlace::Url(_) => Ok(()),
            GitPlace::Local(path) => {
                (self.may_read)(path).map_err(GitError::io("open the repository"))
            }
        }
    }

    fn is_over(&self) -> Result<(), GitError> {
        match self.cancel.is_cancelled() {
            true => Err(GitError::Cancelled),
            false => Ok(()),
        }
    }

    /// Runs git, and gives what it writes, which must not be much.
    fn run(
        &self,
        place: &GitPlace,
        what: &'static str,
        words: &[&str],
        dir: Option<&Path>,
    ) -> Result<Vec<u8>, GitError> {
        let request = GitRequest {
            stdin: None,
            limit: MAX_ANSWER,
            dir,
        };
        let mut answer = self.start(place, what, words, request)?;
        let mut bytes = Vec::new();
        answer
            .read_to_end(&mut bytes)
            .map_err(GitError::io("read what git wrote"))?;
        Ok(bytes)
    }

    /// Runs git to its end, and gives what it writes as a file.
    fn start(
        &self,
        place: &GitPlace,
        what: &'static str,
        words: &[&str],
        request: GitRequest<'_>,
    ) -> Result<File, GitError> {
        let GitRequest { stdin, limit, dir } = request;
        let file = || tempfile::tempfile_in(self.dir).map_err(GitError::io("make a file for git"));
        let (mut out, mut said) = (file()?, file()?);
        let clone = |file: &File| {
            file.try_clone()
                .map_err(GitError::io("make a file for git"))
        };
        let mut command = git(place, dir.unwrap_or(self.dir));
        command
            .args(words)
            .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
            .stdout(clone(&out)?)
            .stderr(clone(&said)?);
        (self.prepare)(&mut command);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(GitError::NoGit),
            Err(error) => return Err(GitError::io("start git")(error)),
        };
        let begun = Instant::now();
        let status: ExitStatus = loop {
            if let Some(status) = child.try_wait().map_err(GitError::io("wait for git"))? {
                break status;
            }
            let written = out.metadata().map_or(0, |stat| stat.len());
            let ended = match self.timeout {
                _ if self.cancel.is_cancelled() => Some(GitError::Cancelled),
                Some(after) if begun.elapsed() > after => Some(GitError::TimedOut { after }),
                _ if written > limit => Some(GitError::TooLarge {
                    place: place.shown(),
                    limit,
                }),
                _ => None,
            };
            if let Some(error) = ended {
                // Its helpers end when they find nobody to write to.
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
            std::thread::sleep(LOOK_EVERY);
        };
        if !status.success() {
            return Err(GitError::Failed {
                what,
                place: place.shown(),
                said: words_of(&mut said),
            });
        }
        out.rewind().map_err(GitError::io("read what git wrote"))?;
        if out.metadata().map_or(0, |stat| stat.len()) > limit {
            let place = place.shown();
            return Err(GitError::TooLarge { place, limit });
        }
        Ok(out)
    }

    fn text(&self, place: &GitPlace, bytes: Vec<u8>) -> Result<String, GitError> {
        String::from_utf8(bytes).map_err(|_| GitError::Malformed {
            place: place.shown(),
            reason: "a name in it is not UTF-8".to_owned(),
        })
    }
}

/// What git works with.
struct GitRequest<'r> {
    stdin: Option<File>,
    /// Bytes that it may write.
    limit: u64,
    /// The repository.
    dir: Option<&'r Path>,
}

impl GitError {
    fn io(verb: &'static str) -> impl FnOnce(io::Error) -> GitError {
        move |source| GitError::Io { verb, source }
    }
}

fn wrong(place: &GitPlace) -> impl FnOnce(TreeError) -> GitError {
    let place = place.shown();
    move |source| GitError::Tree { place, source }
}

/// Git without whatever it would ask, run or read of others.
fn git(place: &GitPlace, dir: &Path) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "git gets repositories, in no sandbox: it runs nothing of theirs"
    )]
    let mut command = Command::new("git");
    for (key, value) in [
        ("core.hooksPath", "/dev/null"),
        ("core.fsmonitor", "false"),
        ("core.askPass", ""),
        ("credential.helper", ""),
        ("fetch.fsckObjects", "true"),
        ("protocol.version", "2"),
        ("gc.auto", "0"),
        ("maintenance.auto", "false"),
        ("advice.detachedHead", "false"),
    ] {
        command.arg("-c").arg(format!("{key}={value}"));
    }
    // A local repository may be another user's; nothing of it is run.
    for (name, value) in [
        ("GIT_CONFIG_COUNT", "1"),
        ("GIT_CONFIG_KEY_0", "safe.directory"),
        ("GIT_CONFIG_VALUE_0", "*"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_ALLOW_PROTOCOL", place.protocols()),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_ASKPASS", ""),
        ("SSH_ASKPASS", ""),
        ("GIT_SSH_COMMAND", "ssh -oBatchMode=yes"),
        ("GIT_NO_REPLACE_OBJECTS", "1"),
        ("GIT_LFS_SKIP_SMUDGE", "1"),
        ("LC_ALL", "C"),
    ] {
        command.env(name, value);
    }
    for name in [
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_CONFIG",
        "GIT_CONFIG_PARAMETERS",
        "GIT_TEMPLATE_DIR",
        "GIT_NAMESPACE",
        "GIT_SSH",
        "GIT_PROXY_COMMAND",
        "GIT_TRACE",
    ] {
        command.env_remove(name);
    }
    command.current_dir(dir);
    command
}

/// How git is told of a place.
fn target(place: &GitPlace) -> String {
    match place {
        GitPlace::Url(url) => url.clone(),
        GitPlace::Local(path) => OsStr::to_string_lossy(path.as_os_str()).into_owned(),
    }
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A line of `git ls-tree -z`: `MODE TYPE OBJECT<tab>PATH`.
fn entry(line: &str) -> Option<GitEntry> {
    let (fields, path) = line.split_once('\t')?;
    let mut fields = fields.split(' ');
    let mode = u32::from_str_radix(fields.next()?, 8).ok()?;
    let object = fields.nth(1).filter(|object| is_commit(object))?;
    Some(GitEntry {
        mode,
        object: object.to_owned(),
        path: path.to_owned(),
    })
}

/// The rest of a path below a directory; all of it where there is none.
fn within<'p>(path: &'p str, directory: &str) -> Option<&'p str> {
    match directory {
        "" => Some(path),
        directory => path.strip_prefix(directory)?.strip_prefix('/'),
    }
}

/// Where a relative address leads, seen from a repository.
fn relative(place: &GitPlace, url: &str) -> Option<GitPlace> {
    let base = match place {
        GitPlace::Url(url) => url.clone(),
        GitPlace::Local(path) => path.to_str()?.to_owned(),
    };
    let root = base.find("://").map_or(0, |at| at + 3);
    let mut base = base.trim_end_matches('/').to_owned();
    let mut rest = url;
    loop {
        if let Some(next) = rest.strip_prefix("./") {
            rest = next;
        } else if let Some(next) = rest.strip_prefix("../") {
            rest = next;
            let end = base.rfind('/').filter(|end| *end > root)?;
            base.truncate(end);
        } else {
            break;
        }
    }
    let joined = format!("{base}/{rest}");
    Some(match place {
        GitPlace::Url(_) => GitPlace::Url(joined),
        GitPlace::Local(_) => GitPlace::Local(joined.into()),
    })
}

fn scheme(url: &str) -> Option<&str> {
    url.split_once("://").map(|(scheme, _)| scheme)
}

/// The end of what git said, on one line.
fn words_of(said: &mut File) -> String {
    let mut bytes = Vec::new();
    let _ = said.rewind();
    let _ = said.read_to_end(&mut bytes);
    let text = escape::neutralise(&bytes[bytes.len().saturating_sub(MAX_WORDS)..]);
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_submodules_lie_beside_their_repository() {
        let url = GitPlace::Url("https://h/team/app.git".to_owned());
        let found = |url: &str, place: &GitPlace| relative(place, url).map(|place| place.shown());
        assert_eq!(
            found("../lib.git", &url).as_deref(),
            Some("https://h/team/lib.git")
        );
        assert_eq!(
            found("../../x/lib.git", &url).as_deref(),
            Some("https://h/x/lib.git")
        );
        assert_eq!(found("../../../lib.git", &url), None);
        let local = GitPlace::Local("/srv/app".into());
        assert_eq!(found("../lib", &local).as_deref(), Some("/srv/lib"));
    }

    #[test]
    fn lines_of_a_list_are_read() {
        let object = "a".repeat(40);
        let read = entry(&format!("100755 blob {object}\tbin/a b")).unwrap();
        assert_eq!(
            (read.mode, &*read.object, &*read.path),
            (0o100_755, &*object, "bin/a b")
        );
        assert!(entry("100644 blob zz\ta").is_none());
        assert_eq!(within("a/b", "a"), Some("b"));
        assert_eq!(within("ab/c", "a"), None);
    }
}
