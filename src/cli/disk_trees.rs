//! Disks that were named, as trees and as bytes: tree indexes out of the store, or made on the spot.
//!
//! Knows where a disk is and how it is opened; compares nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use impasto_store::Store;
use impasto_store::qcow2::{ChunkSource, Qcow2, RawFile};

use super::disk_names::{NamedDisk, Origin};
use super::error::CliError;
use super::exit;
use crate::diff::plain;
use crate::guest::View;
use crate::job::load_tree;
use crate::tree::{Tree, make};
use crate::ui;

/// How long a disk is read without a word.
const PATIENCE: Duration = Duration::from_secs(2);

/// The tree of a disk. `store` is the one that its origin is in.
///
/// # Errors
/// It cannot be read, or its file is no disk image that may be opened.
pub(crate) fn tree(disk: &NamedDisk, store: Option<&Store>) -> Result<Tree, CliError> {
    if let (Origin::Store { tree: Some(blob), .. }, Some(store)) = (&disk.origin, store)
        && let Some(tree) = load_tree(store, blob)?
    {
        return Ok(tree);
    }
    let source = open(disk, store)?;
    let (tree, unread) = std::thread::scope(|scope| {
        let (done, wait) = mpsc::channel::<()>();
        let label = &disk.label;
        scope.spawn(move || {
            if wait.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                ui::message(&format!("reading all files of {label}, which has no index…"));
            }
        });
        let made = View::whole(&*source).map_err(io::Error::other).and_then(|view| make::tree(&view, None));
        drop(done);
        made
    })
    .map_err(|source| unreadable(disk, source))?;
    for make::Unread { place, reason, .. } in unread {
        let reason = plain::line(reason.as_bytes());
        ui::message(&format!(
            "warning: the files of {place} of {} cannot be listed: {reason}; it is compared by its bytes",
            disk.label
        ));
    }
    Ok(tree)
}

/// A disk to be read chunk by chunk.
///
/// # Errors
/// It cannot be opened, or its file is no disk image that may be opened.
pub(crate) fn open(disk: &NamedDisk, store: Option<&Store>) -> Result<Box<dyn ChunkSource>, CliError> {
    match &disk.origin {
        Origin::Store { layer, .. } => {
            let store = store.expect("BUG: a disk of a store that was never opened");
            Ok(Box::new(store.disk_reader(layer)?))
        }
        Origin::File(path) => open_file(path, &disk.label),
    }
}

/// The first bytes decide what a file is. A qcow2 passes the gate before anything of it is believed.
fn open_file(path: &Path, label: &str) -> Result<Box<dyn ChunkSource>, CliError> {
    let read = || CliError::io("read", label);
    let file = File::open(path).map_err(read())?;
    let stat = file.metadata().map_err(read())?;
    let none = |reason: String| CliError::Other {
        message: format!("`{label}` is no disk image that can be read: {reason}"),
        help: Some("`qemu-img convert` makes a qcow2 or raw image of an image that you trust".to_owned()),
        code: exit::INTERNAL,
    };
    if !stat.is_file() {
        return Err(none("it is no regular file".to_owned()));
    }
    let mut first = [0; 4];
    if stat.len() >= 512 {
        file.read_exact_at(&mut first, 0).map_err(read())?;
    }
    if Qcow2::has_magic(&first) {
        return Ok(Box::new(Qcow2::open(file).map_err(|error| none(error.to_string()))?));
    }
    if stat.len() == 0 || !stat.len().is_multiple_of(512) {
        return Err(none("it has no qcow2 header, and its length is no number of sectors".to_owned()));
    }
    Ok(Box::new(RawFile::new(file).map_err(read())?))
}

/// A disk's bytes cannot be read.
pub(crate) fn unreadable(disk: &NamedDisk, source: io::Error) -> CliError {
    CliError::Disk { label: disk.label.clone(), source: crate::guest::ext4::ReadError::Io(source) }
}
