//! Our own work with a distribution's programs: packages chosen, roots out of packages, disks out of roots or grown.
//! Runs inside a sandbox's container (`crate::sandbox`), whose root is the toolbox: knows its one directory, no store, no host
//! and no network.
//!
//! ```text
//! work/apt/        what a resolution reads     → work/result.json
//! work/packages/   what a bootstrap installs   → work/tree.tar
//! work/tree.tar    what a disk is made of      → work/disk/disk.raw
//! work/guest.raw   a disk of the store's       → the same, changed
//! ```

mod apt;
mod bootstrap;
mod program;
mod resolve;
mod tools;

use std::fs;
use std::path::Path;

use impasto_stages::bootstrap::BootstrapSpec;
use impasto_stages::disk::DiskSpec;
use serde::{Deserialize, Serialize};

use crate::base::bounded;
use crate::base::human::with_causes;
use crate::disk::guest::RootSelector;
use crate::sandbox::{GUEST_DISK, ToolFailure, ToolTask};

pub use bootstrap::PACKAGES;
pub use resolve::{
    APT, RESULT, ResolveOutcome, ResolveRequest, ResolveResult, ResolveSource, ResolvedPackage,
    Variant,
};
pub use tools::{EMULATOR, SUITE, TOOLS, makes};

/// What can be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToolboxTask {
    /// Asks apt what an installation would install and remove: the file [`RESULT`].
    Resolve { request: Box<ResolveRequest> },
    /// Makes a root out of the packages of the directory [`PACKAGES`]: the tar archive [`TREE`].
    Bootstrap {
        /// What was asked for; the packages are those that the directory has.
        spec: Box<BootstrapSpec>,
        /// Seconds since 1970 that stand for "now".
        epoch: u64,
    },
    /// Makes a disk of the tree [`TREE`]: the raw file [`DISK`].
    AssembleDisk {
        spec: Box<DiskSpec>,
        /// Seconds since 1970 that stand for "now".
        epoch: u64,
        /// Whether its directories shall list their files in another order.
        reordered: bool,
    },
    /// Grows the disk [`GUEST_DISK`], which is as large as it shall be.
    Resize {
        /// Bytes that it had before.
        was: u64,
        /// The partition that grows.
        partition: RootSelector,
        /// Seconds since 1970 that stand for "now".
        epoch: u64,
    },
}

impl ToolboxTask {
    /// As a sandbox carries it to [`perform`].
    pub fn packed(&self) -> ToolTask {
        let body = rmp_serde::to_vec(self).expect("BUG: a task is plain data");
        ToolTask {
            body,
            foreign: self.foreign().map(str::to_owned),
        }
    }

    /// Debian's name of the machine whose programs it runs, where that is not this one.
    fn foreign(&self) -> Option<&str> {
        match self {
            ToolboxTask::Bootstrap { spec, .. } if spec.architecture != ARCHITECTURE => {
                Some(&spec.architecture)
            }
            _ => None,
        }
    }
}

/// Debian's name of the machine that this binary is for.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};

/// The file that holds a tree: read by the making of a disk, written by a bootstrap.
pub const TREE: &str = "tree.tar";

/// The file that holds a disk that was made.
pub const DISK: &str = "disk/disk.raw";

/// Does a [`ToolboxTask`] in a directory: the [`Perform`](crate::sandbox::Perform) of our sandboxes. `phase` is told which part
/// of the work is over.
///
/// # Errors
/// It cannot be done.
pub fn perform(
    body: &[u8],
    work: &Path,
    log: &mut dyn FnMut(&[u8]),
    phase: &mut dyn FnMut(&str),
) -> Result<(), ToolFailure> {
    let task = rmp_serde::from_slice::<ToolboxTask>(body);
    match task
        .map_err(|error| ToolFailure::new(format!("BUG: the task cannot be read: {error}")))?
    {
        ToolboxTask::Resolve { request } => resolve::resolve(&request, work, log),
        ToolboxTask::Bootstrap { spec, epoch } => {
            bootstrap::bootstrap(&spec, epoch, work, log, phase)
        }
        ToolboxTask::AssembleDisk {
            spec,
            epoch,
            reordered,
        } => disk(&spec, epoch, reordered, work, log, phase),
        ToolboxTask::Resize {
            was,
            partition,
            epoch,
        } => {
            let mut line = |line: &str| log(format!("{line}\n").as_bytes());
            let disk = work.join(GUEST_DISK);
            crate::assemble::resize(&disk, was, &partition, epoch, &mut line, phase).map_err(
                |error| ToolFailure {
                    message: with_causes(&error),
                    help: error.help(),
                },
            )
        }
    }
}

fn disk(
    spec: &DiskSpec,
    epoch: u64,
    reordered: bool,
    work: &Path,
    log: &mut dyn FnMut(&[u8]),
    phase: &mut dyn FnMut(&str),
) -> Result<(), ToolFailure> {
    let path = work.join(DISK);
    let dir = path.parent().expect("BUG: the disk lies in a directory");
    fs::create_dir(dir).map_err(ToolFailure::io("make", dir))?;
    let tree = work.join(TREE);
    let mut tree = bounded::open(&tree).map_err(ToolFailure::io("read", &tree))?;
    let mut line = |line: &str| log(format!("{line}\n").as_bytes());
    let made = crate::assemble::assemble(spec, &mut tree, epoch, reordered, dir, &mut line, phase)
        .map_err(|error| ToolFailure {
            message: with_causes(&error),
            help: error.help(),
        })?;
    assert_eq!(made, path, "BUG: the disk lies elsewhere");
    Ok(())
}
