//! Our own work with a distribution's programs: roots out of packages, disks out of roots.
//! Runs inside a sandbox's room (`crate::sandbox`): knows its one directory, no store and no host.

mod bootstrap;
mod program;

use std::path::Path;

use impasto_stages::bootstrap::BootstrapSpec;
use serde::{Deserialize, Serialize};

/// What can be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Task {
    /// Makes a root out of packages: the tar archive [`TREE`].
    Bootstrap {
        /// What is installed.
        spec: Box<BootstrapSpec>,
        /// Seconds since 1970 that stand for "now".
        epoch: u64,
    },
}

/// The file that holds a tree: read by the making of a disk, written by a bootstrap.
pub const TREE: &str = "tree.tar";

/// Why something could not be done, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolFailure {
    /// What happened.
    pub message: String,
    /// The way out, where there is one.
    pub help: Option<String>,
}

/// Does a task in a directory.
///
/// # Errors
/// It cannot be done.
pub fn perform(task: &Task, work: &Path, log: &mut dyn FnMut(&[u8])) -> Result<(), ToolFailure> {
    match task {
        Task::Bootstrap { spec, epoch } => bootstrap::bootstrap(spec, *epoch, work, log),
    }
}
