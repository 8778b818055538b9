//! The disk's partitions with their identifiers: what every part of the assembly agrees on.
//! Knows types and numbers, not how they are written.

use impasto_stages::disk::{DiskSpec, ExtraFileSystem, Overfull, Role};

use super::architecture::Architecture;
use super::gpt;
use super::ids::{Ids, Uuid};

/// Partition types (UEFI specification, 5.3.3; GRUB; the Discoverable Partitions Specification).
const BIOS_BOOT: &str = "21686148-6449-6e6f-744e-656564454649";
const EFI_SYSTEM: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
pub(super) const LINUX_DATA: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";
const SWAP: &str = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f";

/// A partition, and the identity of what is in it.
pub(super) struct PlannedPartition {
    pub(super) role: Role,
    /// First byte on the disk.
    pub(super) start: u64,
    /// Length in bytes.
    pub(super) size: u64,
    pub(super) name: String,
    pub(super) identity: DiskIdentity,
    /// The partition's own GUID.
    uuid: Uuid,
}

/// How the content of a partition is called in fstab(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskIdentity {
    /// It has no name.
    None,
    /// The UUID of a file system or swap space, and ext4's seed of directory hashes.
    Uuid { uuid: Uuid, hash_seed: Uuid },
    /// The serial number of a FAT volume.
    Volume(u32),
}

impl PlannedPartition {
    /// What follows `UUID=` in fstab(5).
    pub(super) fn fs_id(&self) -> String {
        match self.identity {
            DiskIdentity::None => panic!("BUG: a partition without file system has no UUID"),
            DiskIdentity::Uuid { uuid, .. } => uuid.to_string(),
            DiskIdentity::Volume(number) => format!("{:04X}-{:04X}", number >> 16, number & 0xffff),
        }
    }

    /// Its entry in the partition table.
    pub(super) fn entry(&self, spec: &DiskSpec, machine: Architecture) -> gpt::GptEntry {
        let kind = match self.role {
            Role::BiosBoot => BIOS_BOOT,
            Role::Efi => EFI_SYSTEM,
            Role::Root => machine.root_type(),
            Role::Extra(index) => match spec.partitions[index].file_system {
                Some(ExtraFileSystem::Swap) => SWAP,
                Some(_) | None => LINUX_DATA,
            },
        };
        gpt::GptEntry {
            kind: Uuid::parse(kind),
            uuid: self.uuid,
            start: self.start,
            size: self.size,
            name: self.name.clone(),
        }
    }
}

/// The partitions of a disk, in their order. `reordered` gives directories another order.
pub(super) fn parts(
    spec: &DiskSpec,
    ids: &Ids<'_>,
    reordered: bool,
) -> Result<Vec<PlannedPartition>, Overfull> {
    let seed = if reordered {
        "other hash seed"
    } else {
        "hash seed"
    };
    let part = |placed: impasto_stages::disk::Placed| {
        let (name, file_system) = match placed.role {
            Role::BiosBoot => ("bios", None),
            Role::Efi => ("esp", Some(ExtraFileSystem::Vfat)),
            Role::Root => ("root", Some(ExtraFileSystem::Ext4)),
            Role::Extra(index) => (
                spec.partitions[index].name.as_str(),
                spec.partitions[index].file_system,
            ),
        };
        // By name, not by number: another partition before it leaves it what it is called.
        let identity = match file_system {
            None => DiskIdentity::None,
            Some(ExtraFileSystem::Vfat) => {
                DiskIdentity::Volume(ids.volume(&format!("volume {name}")))
            }
            Some(_) => DiskIdentity::Uuid {
                uuid: ids.uuid(&format!("file system {name}")),
                hash_seed: ids.uuid(&format!("{seed} {name}")),
            },
        };
        PlannedPartition {
            role: placed.role,
            start: placed.start,
            size: placed.size,
            name: name.to_owned(),
            identity,
            uuid: ids.uuid(&format!("partition {name}")),
        }
    };
    Ok(spec.layout()?.into_iter().map(part).collect())
}
