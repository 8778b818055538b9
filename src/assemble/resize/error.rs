//! Why a disk was not grown, and the way out.
//! Knows errors' fields, not who shows them.

use impasto_stages::disk::MIB;

use crate::assemble::AssembleError;
use crate::disk::guest::{FsKind, RootError};

/// A disk that was not grown.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    /// A file or a program failed.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// Neither a table nor a file system.
    #[error("the disk has neither partitions nor a file system that is known")]
    Nothing,
    /// What the recipe names is not there.
    #[error(transparent)]
    NotFound(RootError),
    /// More than one partition could be the root.
    #[error(
        "which partition is the root is not known: {} could be",
        numbered(numbers)
    )]
    Several { numbers: Vec<u32> },
    /// Only the backup of the GPT can be read.
    #[error("the primary partition table is damaged: only its backup can be read")]
    DamagedTable,
    /// A GPT whose boot sector lists partitions of its own.
    #[error("the disk has a hybrid MBR: its boot sector lists partitions beside those of the GPT")]
    Hybrid,
    #[error("partition {number} cannot grow: partition {behind} ({}{} MiB) lies behind it", kind.map_or(String::new(), |kind| format!("{kind}, ")), size / MIB)]
    Behind {
        number: u32,
        /// The next one on the disk.
        behind: u32,
        /// What is known to be in it.
        kind: Option<FsKind>,
        /// Its length in bytes.
        size: u64,
    },
    /// An extended partition behind it, of which no logical one is listed.
    #[error("partition {number} cannot grow: entry {behind} of the partition table lies behind it")]
    BehindExtended { number: u32, behind: u32 },
    #[error("partition {number} lies in an extended partition, which is not grown")]
    Logical { number: u32 },
    #[error("an MBR cannot say where a partition ends beyond 2 TiB, and the disk is to have {} GiB", size >> 30)]
    MbrLimit {
        /// Bytes of the disk.
        size: u64,
    },
    /// Something that is not ext4.
    #[error("{what} ({kind}) cannot be grown here")]
    Kind { what: String, kind: FsKind },
    #[error("the file system of {what} {reason}")]
    NotClean { what: String, reason: String },
    #[error("the file system of {what} has {feature}, which is not grown here")]
    Feature { what: String, feature: String },
    #[error("the file system of {what} is damaged: {reason}")]
    Damaged {
        what: String,
        /// What was found.
        reason: String,
    },
    /// It was in order before.
    #[error("resize2fs left a file system that is damaged: {reason}")]
    DamagedAfter { reason: String },
}

fn numbered(numbers: &[u32]) -> String {
    let numbers: Vec<_> = numbers.iter().map(u32::to_string).collect();
    numbers.join(", ")
}

impl ResizeError {
    /// The same, found after growing.
    pub(super) fn after(self) -> ResizeError {
        match self {
            ResizeError::Damaged { reason, .. } => ResizeError::DamagedAfter { reason },
            other => other,
        }
    }

    /// The way out, for the user.
    pub fn help(&self) -> Option<String> {
        const BEFORE: &str = "grow the image before it is fetched, such as by `virt-resize`";
        Some(match self {
            ResizeError::Assemble(error) => return error.help(),
            ResizeError::Nothing => "build on a disk with a partition table, or with an ext4 on all of it".to_owned(),
            ResizeError::NotFound(_) => {
                "set `partition` to the number of the last partition, or to \"LABEL=…\" or \"UUID=…\" of its ext4".to_owned()
            }
            ResizeError::Several { .. } => {
                "set `root` in the stage that fetches the disk, or `partition` in this one".to_owned()
            }
            ResizeError::DamagedTable => {
                "write it anew in the base image: `fdisk` reads the backup, and its command `w` writes both".to_owned()
            }
            ResizeError::Hybrid => {
                "write a plain protective MBR in the base image (`gdisk`, commands x, n, w), or resize it before it is \
                 fetched"
                    .to_owned()
            }
            ResizeError::Behind { kind: Some(FsKind::Swap), behind, .. } => format!(
                "delete it in the base image (`sfdisk --delete IMAGE {behind}`, and its line in /etc/fstab) and use a swap \
                 file, or place it before the other"
            ),
            ResizeError::Behind { behind, .. } => format!(
                "name the last partition, `partition = {behind}`, or {BEFORE}, which moves what lies behind"
            ),
            ResizeError::BehindExtended { .. } | ResizeError::Logical { .. } => {
                format!("use a base image with a GPT, or {BEFORE}")
            }
            ResizeError::MbrLimit { .. } => "use a base image with a GPT, or at most `size = \"2047GiB\"`".to_owned(),
            ResizeError::Kind { kind: FsKind::Xfs | FsKind::Btrfs, .. } => {
                "it grows only where it is mounted: remove this stage, give the machine a larger disk, and have it grow at \
                 boot, by cloud-init or by x-systemd.growfs in /etc/fstab"
                    .to_owned()
            }
            ResizeError::Kind { kind: FsKind::Lvm2, .. } => {
                "what is in it grows in the machine (growpart, pvresize, lvextend --resizefs); or use a base image with the \
                 root in a partition of its own"
                    .to_owned()
            }
            ResizeError::Kind { .. } => "only ext4 is grown: name its partition in `partition`".to_owned(),
            ResizeError::NotClean { reason, .. } if reason.contains("error") => {
                "repair it in the base image: `e2fsck -f`".to_owned()
            }
            ResizeError::NotClean { .. } => {
                "put a stage of kind run before this one, with commands = [\"true\"]: it mounts the file system, which \
                 replays the journal"
                    .to_owned()
            }
            ResizeError::Feature { .. } => BEFORE.to_owned(),
            ResizeError::Damaged { .. } => "repair it in the base image: `e2fsck -f`".to_owned(),
            ResizeError::DamagedAfter { .. } => {
                format!("this is a fault of resize2fs or impasto, please report it; until then, {BEFORE}")
            }
        })
    }
}
