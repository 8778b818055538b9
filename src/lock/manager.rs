//! What impasto needs of a package manager.
//! Knows requests and lock entries; `crate::debian` has one.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use impasto_stages::Secret;
use impasto_stages::package_set::PackageRequest;

use super::LockEntry;
use crate::recipe::scope::Scope;

/// What is to be resolved.
pub struct ResolveQuery<'a> {
    pub request: &'a PackageRequest,
    /// What the disk has that it goes into; for a root of its own, nothing.
    pub below: InstalledBase<'a>,
    /// The stages' secrets: logins of archives are among them.
    pub secrets: &'a BTreeMap<String, Secret>,
    /// Where the user's own package files lie.
    pub dir: &'a Path,
    /// What the recipe may read.
    pub scope: &'a Scope,
    /// What of an earlier answer is to stay.
    pub keep: Pinning<'a>,
    /// The tools to resolve it with.
    pub tools: &'a LockEntry,
}

/// What a disk has in packages before a stage runs: predicted, without any disk being built.
#[derive(Default)]
pub struct InstalledBase<'a> {
    /// The disk image that it began with, where it did: the package manager's files of it, by their paths.
    pub image: Option<&'a BTreeMap<String, Vec<u8>>>,
    /// What stages have done since, the lowest first.
    pub stages: Vec<BaseLayer<'a>>,
}

/// The packages of a stage below.
#[derive(Clone, Copy)]
pub struct BaseLayer<'a> {
    pub request: &'a PackageRequest,
    /// What that came to.
    pub entry: &'a LockEntry,
    pub secrets: &'a BTreeMap<String, Secret>,
}

/// What of an earlier answer is to stay as it is.
#[derive(Clone, Copy)]
pub enum Pinning<'a> {
    /// Nothing: the newest of everything.
    Nothing,
    /// Every version, where it can still be had, but for packages of these names.
    AllBut(&'a LockEntry, &'a [String]),
}

/// A locked package of which there is a newer version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewerVersion {
    pub name: String,
    /// The machine that it is for.
    pub architecture: String,
    /// The version in the lock.
    pub locked: String,
    pub newest: String,
    /// The archive that has it.
    pub archive: String,
    /// Whether that is an archive of security updates.
    pub security: bool,
}

/// A question that could not be answered.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ManagerError {
    /// What is wrong: about which package, archive or file.
    pub message: String,
    pub help: Option<PackageHint>,
    /// What the package manager itself said of it, trimmed.
    pub said: Vec<String>,
    /// The lines of the request that it is about, as [`PackageRequest::lines`] has them.
    pub about: Vec<String>,
}

/// What a user can do about packages that cannot be had. How is the command line's knowledge, which puts it into words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackageHint {
    /// These words, which need no command.
    Text(String),
    /// These words, and how packages are resolved again.
    Settle(String),
    /// These words, and how a mirror is named.
    Mirror(String),
    /// The file has gone from its archive: resolve the packages again, or name a snapshot of the archive.
    Gone,
}

impl From<&str> for PackageHint {
    fn from(text: &str) -> Self {
        PackageHint::Text(text.to_owned())
    }
}

impl From<String> for PackageHint {
    fn from(text: String) -> Self {
        PackageHint::Text(text)
    }
}

/// What tools are needed for beyond what every recipe needs. As text, it is a line of their request in the lock.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ToolNeed {
    /// Running programs of this architecture, which is not this machine's.
    Emulator(String),
    /// Making a file system of this type.
    FileSystem(String),
}

impl fmt::Display for ToolNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ToolNeed::Emulator(architecture) => write!(f, "emulator {architecture}"),
            ToolNeed::FileSystem(name) => write!(f, "file-system {name}"),
        }
    }
}

impl ToolNeed {
    /// Reads a line of a request; none where an older or newer impasto wrote something else.
    pub fn parse(line: &str) -> Option<ToolNeed> {
        match line.split_once(' ')? {
            ("emulator", architecture) => Some(ToolNeed::Emulator(architecture.to_owned())),
            ("file-system", name) => Some(ToolNeed::FileSystem(name.to_owned())),
            _ => None,
        }
    }
}

/// One package manager: resolves what stages want, and tells what is newer. Asks archives; builds nothing.
/// It is asked on a thread of its own, beside which its caller tells how much has come.
pub trait PackageManager: Sync {
    /// The files of a disk that tell which packages it has, by their paths; a disk without the first has none.
    fn state_files(&self) -> &'static [&'static str];

    /// The tools that impasto itself always needs here, and those for `more`: resolved without any tool.
    ///
    /// # Errors
    /// An archive cannot be had, is not signed as it must be, or lacks one of the tools.
    fn resolve_toolbox(&self, more: &[ToolNeed]) -> Result<LockEntry, ManagerError>;

    /// Resolves what a stage wants. Name and combinations of the entry are the caller's.
    ///
    /// # Errors
    /// An archive cannot be had or believed; a package is unknown, or does not go with the others.
    fn resolve(&self, query: &ResolveQuery<'_>) -> Result<LockEntry, ManagerError>;

    /// The packages of an entry of which an archive has newer versions.
    ///
    /// # Errors
    /// An archive cannot be had or believed.
    fn newer(
        &self,
        query: &ResolveQuery<'_>,
        entry: &LockEntry,
    ) -> Result<Vec<NewerVersion>, ManagerError>;
}
