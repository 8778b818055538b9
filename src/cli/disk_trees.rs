//! Disks that were named, as trees and as bytes: tree indexes out of the store, or made on the spot.
//!
//! Knows where a disk is and how it is opened; compares nothing.

use std::fs::File;
use std::io;
use std::sync::mpsc;
use std::time::Duration;

use impasto_store::Store;
use impasto_store::qcow2::{ChunkSource, Qcow2, RawFile};

use super::disk_names::{DiskOrigin, NamedDisk};
use super::error::CliError;
use super::exit;
use crate::disk::guest::OverlayView;
use crate::disk::image::{self, ImageKind};
use crate::disk::tree::{Tree, make};
use crate::inspect::diff::plain;
use crate::ui;

/// How long a disk is read without a word.
const PATIENCE: Duration = Duration::from_secs(2);

/// The tree of a disk. `store` is the one that its origin is in.
///
/// # Errors
/// It cannot be read, or its file is not a disk image that may be opened.
pub(crate) fn tree(disk: &NamedDisk, store: Option<&Store>) -> Result<Tree, CliError> {
    if let (
        DiskOrigin::Store {
            tree: Some(blob), ..
        },
        Some(store),
    ) = (&disk.origin, store)
        && let Some(tree) = Tree::load(store, blob)?
    {
        return Ok(tree);
    }
    let source = open(disk, store)?;
    let (tree, unread) = std::thread::scope(|scope| {
        let (done, wait) = mpsc::channel::<()>();
        let label = &disk.label;
        scope.spawn(move || {
            if wait.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                ui::message(&format!(
                    "reading all files of {label}, which has no index…"
                ));
            }
        });
        let made = OverlayView::whole(&*source)
            .map_err(io::Error::other)
            .and_then(|view| make::tree(&view, None));
        drop(done);
        made
    })
    .map_err(|source| unreadable(disk, source))?;
    for unread in unread {
        let unread = plain::line(unread.to_string().as_bytes());
        ui::message(&format!(
            "warning: {}: {unread}; it is compared byte by byte",
            disk.label
        ));
    }
    Ok(tree)
}

/// A disk to be read chunk by chunk.
///
/// # Errors
/// It cannot be opened, or its file is not a disk image that may be opened.
pub(crate) fn open(
    disk: &NamedDisk,
    store: Option<&Store>,
) -> Result<Box<dyn ChunkSource>, CliError> {
    match &disk.origin {
        DiskOrigin::Store { layer, .. } => {
            let store = store.expect("BUG: a disk of a store that was never opened");
            Ok(Box::new(store.disk_reader(layer)?))
        }
        DiskOrigin::File(path) => {
            let opened = image::open(path).map_err(CliError::io("read", &disk.label))?;
            open_file(opened, &disk.label)
        }
        DiskOrigin::Unpacked(file) => {
            let read = || CliError::io("read", &disk.label);
            let image = image::recognize(file).map_err(read())?;
            open_file((file.try_clone().map_err(read())?, image), &disk.label)
        }
    }
}

/// The first bytes decide what a file is. A qcow2 passes the gate before anything of it is believed.
fn open_file(
    (file, image): (File, ImageKind),
    label: &str,
) -> Result<Box<dyn ChunkSource>, CliError> {
    let read = || CliError::io("read", label);
    let none = |reason: String, help: Option<String>| CliError::Other {
        message: format!("`{label}` is not a readable disk image: {reason}"),
        help: help.or_else(|| {
            Some(
                "`qemu-img convert` makes a qcow2 or raw image from an image that you trust"
                    .to_owned(),
            )
        }),
        code: exit::INTERNAL,
    };
    let length = file.metadata().map_err(read())?.len();
    match image {
        ImageKind::Qcow2 => Ok(Box::new(
            Qcow2::open(file).map_err(|error| none(error.to_string(), None))?,
        )),
        ImageKind::Other(format) => {
            let help = Some(format.help());
            match format.readable().map(|readable| readable.open(file)) {
                Some(Ok(source)) => Ok(source),
                Some(Err(reason)) => Err(none(format!("it is {format}, and {reason}"), help)),
                None => Err(none(format!("it is {format}"), help)),
            }
        }
        ImageKind::Raw | ImageKind::Iso | ImageKind::Unknown
            if length > 0 && length.is_multiple_of(512) =>
        {
            Ok(Box::new(RawFile::new(file).map_err(read())?))
        }
        ImageKind::Raw | ImageKind::Iso | ImageKind::Unknown => Err(none(
            "it has no qcow2 header, and its length is not a multiple of the sector size"
                .to_owned(),
            None,
        )),
    }
}

/// A disk's bytes cannot be read.
pub(crate) fn unreadable(disk: &NamedDisk, source: io::Error) -> CliError {
    CliError::Disk {
        label: disk.label.clone(),
        source: crate::disk::guest::ext4::ReadError::Io(source),
    }
}
