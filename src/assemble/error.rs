//! Why a disk was not assembled, and the hint.
//! Knows errors' fields, not who shows them.

use std::io;
use std::path::Path;

use impasto_stages::disk::{MIB, Overfull};

use crate::base::io::IoError;

/// A disk that was not assembled.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The tree's stream ends early, or is no tar file.
    #[error("cannot read the tree as a tar file")]
    Tar { source: io::Error },
    /// An entry of the tree that is not laid out.
    #[error("the tree's entry {path:?} {problem}")]
    Entry {
        /// Its path in the tar file.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    #[error("{program} failed: {message}")]
    Tool {
        program: &'static str,
        /// What it wrote last, or how it ended.
        message: String,
    },
    /// The partitions do not fit.
    #[error(transparent)]
    Overfull(#[from] Overfull),
    /// The tree does not fit.
    #[error(
        "the disk is too small for its tree: {} MiB of files need a disk of {} MiB, and it has {} MiB",
        content / MIB, needed / MIB, size / MIB
    )]
    TooSmall {
        /// Bytes that the tree's files take, in whole blocks.
        content: u64,
        /// Bytes of the smallest disk that takes them.
        needed: u64,
        /// Bytes of the disk.
        size: u64,
    },
    /// What the tree has below a mount point does not fit.
    #[error(
        "the partition {partition:?} is too small for what the tree has in {mount}: {} MiB are needed, and it has {} MiB",
        needed / MIB, size / MIB
    )]
    PartitionTooSmall {
        partition: String,
        /// Where it is mounted.
        mount: String,
        /// Bytes of the smallest partition that takes it.
        needed: u64,
        /// Bytes of the partition.
        size: u64,
    },
    /// The boot loader's files do not fit into their partition.
    #[error("the boot loader does not fit: {needed} bytes into a partition of {} MiB", size / MIB)]
    BootLoaderTooLarge {
        /// Bytes that it needs.
        needed: u64,
        /// Bytes of its partition.
        size: u64,
    },
    /// Something that the disk needs is not in the tree.
    #[error("the tree has no {what}")]
    Missing {
        /// What is missing, and what for.
        what: String,
        /// Packages that bring it, as Debian calls them.
        packages: &'static str,
    },
    /// A kernel without its initramfs.
    #[error(
        "the tree has the kernel {kernel} without an initramfs, which finds the root by its UUID"
    )]
    NoInitramfs { kernel: String },
    /// Programs of the tree are for a machine that is not supported.
    #[error("the tree is for an architecture that is not supported: {found}")]
    Machine {
        /// What its programs' headers say.
        found: String,
    },
    /// A boot loader that a machine does not have.
    #[error("{machine} machines have no BIOS")]
    NoBios { machine: &'static str },
    /// A user that is there already.
    #[error("the user {name:?} is already in the tree, with the UID {uid}")]
    UserExists { name: String, uid: u32 },
    /// A user's own group is there already.
    #[error(
        "the user {name:?} needs a group of the same name, but the tree already has one with the GID {gid}"
    )]
    GroupExists { name: String, gid: u32 },
    /// A number that is taken.
    #[error("the UID {uid} of the user {name:?} belongs to {other:?} in the tree")]
    UidTaken {
        name: String,
        uid: u32,
        other: String,
    },
    /// A group that is not in the tree.
    #[error("the user {name:?} is to be in the group {group:?}, which the tree does not have")]
    NoGroup { name: String, group: String },
    /// A shell that is not in the tree.
    #[error("the tree has no {shell}, the shell of the user {name:?}")]
    NoShell { name: String, shell: String },
    /// A partition that would hide files of the tree, and cannot hold them.
    #[error(
        "the tree has files in {mount}, which the partition {partition:?} would hide and cannot store"
    )]
    Hides {
        partition: String,
        /// Where it is mounted.
        mount: String,
    },
    /// A file of the tree that is not as it should be.
    #[error("the tree's {path} cannot be parsed: {problem}")]
    BadFile {
        /// Its path in the tree.
        path: String,
        problem: String,
    },
}

impl AssembleError {
    pub(super) fn io(
        verb: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(io::Error) -> AssembleError {
        IoError::at(verb, path)
    }

    pub(super) fn missing(what: impl Into<String>, packages: &'static str) -> AssembleError {
        AssembleError::Missing {
            what: what.into(),
            packages,
        }
    }

    /// The way out, for the user.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            AssembleError::Overfull(overfull) => format!("make `size` at least \"{}MiB\"", overfull.needed / MIB),
            AssembleError::TooSmall { needed, .. } => format!(
                "make `size` at least \"{}MiB\"; add what later stages install and what the image needs at run time",
                needed / MIB
            ),
            AssembleError::PartitionTooSmall { mount, needed, .. } => {
                let size = if mount == "/" { "`root_size`" } else { "its `size`" };
                format!("make {size} at least \"{}MiB\"", needed / MIB)
            }
            AssembleError::BootLoaderTooLarge { .. } => "make `efi_size` larger".to_owned(),
            AssembleError::Missing { packages, .. } => {
                format!("add {packages} to `packages` of the stage that makes the tree")
            }
            AssembleError::NoInitramfs { .. } => {
                "add initramfs-tools to `packages` of the stage that makes the tree".to_owned()
            }
            AssembleError::NoBios { .. } => "use `bootloader = [\"efi\"]`".to_owned(),
            AssembleError::UserExists { .. } | AssembleError::GroupExists { .. } => {
                "use another name in `users`; to change a user that a package creates, use a `run` stage".to_owned()
            }
            AssembleError::UidTaken { .. } => "use another `uid`, or omit it".to_owned(),
            AssembleError::NoGroup { group, .. } => {
                format!("remove {group:?} from `groups`, or add the package that creates the group to the tree")
            }
            AssembleError::NoShell { .. } => {
                "use a shell that the tree has, such as \"/bin/sh\", or add the shell's package to the tree".to_owned()
            }
            AssembleError::Hides { .. } => "use ext4, which can take the files, or mount it elsewhere".to_owned(),
            AssembleError::Tar { .. } => "`tree` takes what a `bootstrap` stage makes, or a plain tar file".to_owned(),
            // The room was estimated before; the message says what it ran out of.
            AssembleError::Tool { program: "mke2fs", .. } => "make `size` larger if it ran out of space".to_owned(),
            AssembleError::Io(IoError { verb: "start", path, source }) if source.kind() == io::ErrorKind::NotFound => {
                let package = match path.to_str() {
                    Some("mke2fs" | "e2fsck" | "resize2fs") => "e2fsprogs",
                    Some("mkfs.vfat") => "dosfstools",
                    Some("mmd" | "mcopy") => "mtools",
                    Some("mkfs.xfs") => "xfsprogs",
                    Some("mkfs.btrfs") => "btrfs-progs",
                    _ => return None,
                };
                format!("install it on this host: apt-get install {package}")
            }
            _ => return None,
        })
    }
}
