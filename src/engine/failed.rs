//! The state in which a stage failed: its overlay, kept beside the recipe's logs so that a shell can be opened in it.
//! Knows files and layers; the sandbox opens the shell.

use std::io;
use std::path::{Path, PathBuf};

use impasto_stages::action::RootSpec;
use impasto_store::digest::ActionDigest;
use impasto_store::layer::DiskRef;
use serde::{Deserialize, Serialize};

use crate::base::bounded;
use crate::engine::history::file_name;

/// In a stage that is entered: runs the step that failed again.
pub const AGAIN: &str = "/run/impasto/again";

/// Which file system is `/`, in the form that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoredRoot {
    /// As [`RootSpec::Auto`].
    Auto,
    /// As [`RootSpec::Number`].
    Number(u32),
    /// As [`RootSpec::Label`].
    Label(String),
    /// As [`RootSpec::Uuid`].
    Uuid(String),
}

impl From<&RootSpec> for StoredRoot {
    fn from(root: &RootSpec) -> Self {
        match root {
            RootSpec::Auto => StoredRoot::Auto,
            RootSpec::Number(number) => StoredRoot::Number(*number),
            RootSpec::Label(label) => StoredRoot::Label(label.clone()),
            RootSpec::Uuid(uuid) => StoredRoot::Uuid(uuid.clone()),
        }
    }
}

impl From<StoredRoot> for crate::disk::guest::RootSelector {
    fn from(root: StoredRoot) -> Self {
        match root {
            StoredRoot::Auto => crate::disk::guest::RootSelector::Auto,
            StoredRoot::Number(number) => crate::disk::guest::RootSelector::Number(number),
            StoredRoot::Label(label) => crate::disk::guest::RootSelector::Label(label),
            StoredRoot::Uuid(uuid) => crate::disk::guest::RootSelector::Uuid(uuid),
        }
    }
}

/// The state in which a stage failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedState {
    /// What it was doing.
    pub action: ActionDigest,
    /// The disk that the stage began with.
    pub disk: DiskRef,
    /// Which of its file systems is `/`.
    pub root: StoredRoot,
    /// Which of the Action's steps failed, from 0; none where that is not known.
    #[serde(default)]
    pub step: Option<u32>,
}

impl FailedState {
    fn paths(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let name = file_name(name);
        (
            dir.join(format!("{name}.qcow2")),
            dir.join(format!("{name}.state")),
        )
    }

    /// Keeps an overlay as the state in which the node of this name failed; both must lie on one file system.
    ///
    /// # Errors
    /// It cannot be linked or written.
    pub fn keep(&self, dir: &Path, name: &str, overlay: &Path) -> io::Result<()> {
        let (disk, state) = Self::paths(dir, name);
        Self::forget(dir, name);
        std::fs::hard_link(overlay, disk)?;
        let bytes = rmp_serde::to_vec(self).expect("BUG: a failed state cannot be encoded");
        std::fs::write(state, bytes)
    }

    /// The overlay and the state in which the node of this name failed, if it did when it last ran.
    pub fn find(dir: &Path, name: &str) -> Option<(PathBuf, FailedState)> {
        let (disk, state) = Self::paths(dir, name);
        let bytes = bounded::read(state, bounded::TEXT).ok()?;
        let state = rmp_serde::from_slice(&bytes).ok()?;
        bounded::open(&disk).ok()?;
        Some((disk, state))
    }

    pub fn forget(dir: &Path, name: &str) {
        let (disk, state) = Self::paths(dir, name);
        let _ = std::fs::remove_file(state);
        let _ = std::fs::remove_file(disk);
    }
}
