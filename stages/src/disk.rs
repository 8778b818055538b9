//! What a `disk` stage makes: sizes, partitions, users and the rest that the assembly follows, all of it keyed.
//! Knows the disk's layout in bytes; knows no file system's format and no tree.

use std::collections::BTreeMap;

use impasto_store::key::{Atom, Describe, Sink, field};
use serde::{Deserialize, Serialize};

/// Alignment of partitions, and the unit of every size, in bytes.
pub const MIB: u64 = 1 << 20;

/// Size of the partition that holds GRUB's core image for BIOS, in bytes.
pub const BIOS_BOOT_SIZE: u64 = MIB;

/// Smallest EFI system partition: below it, FAT16 has too few clusters for some firmware. In bytes.
pub const MIN_EFI_SIZE: u64 = 16 * MIB;

/// Smallest root partition that is worth a file system, in bytes.
pub const MIN_ROOT_SIZE: u64 = 16 * MIB;

/// A disk to be made of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// Size of the disk in bytes, a multiple of [`MIB`].
    pub size: u64,
    pub table: DiskTable,
    /// Whether a BIOS can boot it.
    pub bios: bool,
    /// Whether UEFI firmware can boot it.
    pub efi: bool,
    /// Every GUID and UUID of the disk is derived from it.
    pub seed: String,
    /// The root's file system.
    pub file_system: RootFileSystem,
    pub label: String,
    /// Size of the EFI system partition in bytes, where there is one.
    pub efi_size: u64,
    /// Partitions between the boot loaders' and the root.
    pub partitions: Vec<PartitionSpec>,
    /// Size of the root in bytes, a multiple of [`MIB`], where one of the partitions takes what is left.
    pub root_size: Option<u64>,
    /// The image's host name.
    pub host_name: String,
    /// Users by name; `root` stands for the one that is there.
    pub users: BTreeMap<String, UserSpec>,
    /// How the image gets its addresses.
    pub networking: Networking,
    /// Whether boot loader, kernel and login also use the first serial port.
    pub console: bool,
    /// Arguments of the kernel, beyond those that follow from the rest.
    pub kernel_arguments: Vec<String>,
    /// Whether the partition that takes what is left grows at boot to what its disk has.
    pub growpart: bool,
}

/// How the disk is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum DiskTable {
    /// A GUID partition table.
    #[default]
    Gpt,
    /// Not at all: the root file system is the whole disk.
    None,
}

/// File system of the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RootFileSystem {
    /// ext4.
    #[default]
    Ext4,
}

/// A partition beside the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionSpec {
    /// Its name in the partition table.
    pub name: String,
    /// Its size in bytes, a multiple of [`MIB`]; what the others leave where none is given.
    pub size: Option<u64>,
    /// What it holds, empty; nothing where none is given.
    pub file_system: Option<ExtraFileSystem>,
    /// Where it is mounted.
    pub mount: Option<String>,
    /// The file system's label.
    pub label: Option<String>,
}

/// File system of a partition beside the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExtraFileSystem {
    /// ext4.
    Ext4,
    Vfat,
    Swap,
    Xfs,
    Btrfs,
}

impl ExtraFileSystem {
    /// What fstab(5) calls it.
    pub fn name(self) -> &'static str {
        match self {
            ExtraFileSystem::Ext4 => "ext4",
            ExtraFileSystem::Vfat => "vfat",
            ExtraFileSystem::Swap => "swap",
            ExtraFileSystem::Xfs => "xfs",
            ExtraFileSystem::Btrfs => "btrfs",
        }
    }

    /// Size of the smallest partition that it is made in, in bytes.
    pub fn smallest(self) -> u64 {
        match self {
            ExtraFileSystem::Ext4 => 8 * MIB,
            ExtraFileSystem::Vfat => MIN_EFI_SIZE,
            ExtraFileSystem::Swap => MIB,
            // Both are what their programs demand.
            ExtraFileSystem::Xfs => 300 * MIB,
            ExtraFileSystem::Btrfs => 128 * MIB,
        }
    }

    /// Whether a running machine can make it larger.
    pub fn grows(self) -> bool {
        match self {
            ExtraFileSystem::Ext4 | ExtraFileSystem::Xfs | ExtraFileSystem::Btrfs => true,
            ExtraFileSystem::Vfat | ExtraFileSystem::Swap => false,
        }
    }
}

/// How the image gets its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Networking {
    /// By DHCP on every Ethernet card, through systemd-networkd.
    #[default]
    Dhcp,
    /// The tree is left as it is.
    None,
}

/// A user of the image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UserSpec {
    /// Public keys that may log in, one line each.
    pub ssh_keys: Vec<String>,
    /// What crypt(5) says goes into `/etc/shadow`; no password works where none is given.
    pub password_hash: Option<String>,
    /// Whether sudo asks for nothing.
    pub sudo: bool,
    pub shell: String,
    /// Groups of the tree that the user is put into.
    pub groups: Vec<String>,
    /// The number; the next free one from 1000 where none is given.
    pub uid: Option<u32>,
}

/// What a partition of the layout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// GRUB's core image for BIOS.
    BiosBoot,
    /// The EFI system partition.
    Efi,
    /// The partition of this index in [`DiskSpec::partitions`].
    Extra(usize),
    /// The root, which has the last number.
    Root,
}

/// A partition's place on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    pub role: Role,
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
}

/// A disk whose partitions do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the partitions need {} MiB, and the disk has {} MiB", needed / MIB, size / MIB)]
pub struct Overfull {
    /// Bytes that the partitions need, the one that takes what is left at its smallest.
    pub needed: u64,
    /// Bytes of the disk.
    pub size: u64,
}

impl DiskSpec {
    /// The partitions by number, from 1: the boot loaders', the others, the root. The one that takes what is left lies behind
    /// all others on the disk, whatever its number, so that it can grow.
    ///
    /// # Errors
    /// What is left is less than [`MIN_ROOT_SIZE`], or the smallest file system of its kind.
    pub fn layout(&self) -> Result<Vec<Placed>, Overfull> {
        if self.table == DiskTable::None {
            if self.size < MIN_ROOT_SIZE {
                return Err(Overfull {
                    needed: MIN_ROOT_SIZE,
                    size: self.size,
                });
            }
            return Ok(vec![Placed {
                role: Role::Root,
                start: 0,
                size: self.size,
            }]);
        }
        let bios = self.bios.then_some((Role::BiosBoot, Some(BIOS_BOOT_SIZE)));
        let efi = self.efi.then_some((Role::Efi, Some(self.efi_size)));
        let extras = self.partitions.iter().enumerate();
        let extras = extras.map(|(index, partition)| (Role::Extra(index), partition.size));
        let wanted: Vec<_> = bios
            .into_iter()
            .chain(efi)
            .chain(extras)
            .chain([(Role::Root, self.root_size)])
            .collect();
        // The primary table and its entries lie in the first MiB, the backup in the last.
        let fixed: u64 = wanted.iter().filter_map(|(_, size)| *size).sum();
        let left = self.size.saturating_sub(fixed + 2 * MIB);
        let least = match self.growing() {
            Role::Extra(index) => self.partitions[index]
                .file_system
                .map_or(MIB, ExtraFileSystem::smallest),
            _ => MIN_ROOT_SIZE,
        };
        if left < least {
            return Err(Overfull {
                needed: fixed + 2 * MIB + least,
                size: self.size,
            });
        }
        let mut start = MIB;
        let place = |(role, size): (Role, Option<u64>)| {
            let placed = Placed {
                role,
                start: size.map_or(MIB + fixed, |_| start),
                size: size.unwrap_or(left),
            };
            start += size.unwrap_or(0);
            placed
        };
        Ok(wanted.into_iter().map(place).collect())
    }

    /// The partition that takes what the others leave.
    pub fn growing(&self) -> Role {
        let extra = self.partitions.iter().position(|one| one.size.is_none());
        extra.map_or(Role::Root, Role::Extra)
    }

    /// Whether anything can boot it.
    pub fn is_bootable(&self) -> bool {
        self.bios || self.efi
    }
}

impl Describe for DiskSpec {
    fn describe(&self, sink: &mut dyn Sink) {
        // No `..`: a new field does not compile until it is keyed.
        let DiskSpec {
            size,
            table,
            bios,
            efi,
            seed,
            file_system,
            label,
            efi_size,
            partitions,
            root_size,
            host_name,
            users,
            networking,
            console,
            kernel_arguments,
            growpart,
        } = self;
        field(sink, "size", size);
        // Keys of disks with a partition table are older than the choice.
        if *table != DiskTable::Gpt {
            field(sink, "table", table);
        }
        field(sink, "bios", bios);
        field(sink, "efi", efi);
        field(sink, "seed", seed);
        field(sink, "file_system", file_system);
        field(sink, "label", label);
        field(sink, "efi_size", efi_size);
        field(sink, "partitions", partitions);
        // And those of disks whose root takes what is left.
        if let Some(root_size) = root_size {
            field(sink, "root_size", root_size);
        }
        field(sink, "host_name", host_name);
        field(sink, "users", users);
        field(sink, "networking", networking);
        field(sink, "console", console);
        field(sink, "kernel_arguments", kernel_arguments);
        field(sink, "growpart", growpart);
    }
}

impl Describe for PartitionSpec {
    fn describe(&self, sink: &mut dyn Sink) {
        let PartitionSpec {
            name,
            size,
            file_system,
            mount,
            label,
        } = self;
        field(sink, "name", name);
        match size {
            Some(size) => field(sink, "size", size),
            None => field(sink, "size", "the rest"),
        }
        field(sink, "file_system", file_system);
        field(sink, "mount", mount);
        field(sink, "label", label);
    }
}

impl Describe for UserSpec {
    fn describe(&self, sink: &mut dyn Sink) {
        let UserSpec {
            ssh_keys,
            password_hash,
            sudo,
            shell,
            groups,
            uid,
        } = self;
        field(sink, "ssh_keys", ssh_keys);
        field(sink, "password_hash", password_hash);
        field(sink, "sudo", sudo);
        field(sink, "shell", shell);
        field(sink, "groups", groups);
        field(sink, "uid", uid);
    }
}

impl Describe for RootFileSystem {
    fn describe(&self, sink: &mut dyn Sink) {
        sink.put(match self {
            RootFileSystem::Ext4 => Atom::Variant(0, "ext4"),
        });
    }
}

impl Describe for DiskTable {
    fn describe(&self, sink: &mut dyn Sink) {
        sink.put(match self {
            DiskTable::Gpt => Atom::Variant(0, "gpt"),
            DiskTable::None => Atom::Variant(1, "none"),
        });
    }
}

impl Describe for ExtraFileSystem {
    fn describe(&self, sink: &mut dyn Sink) {
        sink.put(match self {
            ExtraFileSystem::Ext4 => Atom::Variant(0, "ext4"),
            ExtraFileSystem::Vfat => Atom::Variant(1, "vfat"),
            ExtraFileSystem::Swap => Atom::Variant(2, "swap"),
            ExtraFileSystem::Xfs => Atom::Variant(3, "xfs"),
            ExtraFileSystem::Btrfs => Atom::Variant(4, "btrfs"),
        });
    }
}

impl Describe for Networking {
    fn describe(&self, sink: &mut dyn Sink) {
        sink.put(match self {
            Networking::Dhcp => Atom::Variant(0, "dhcp"),
            Networking::None => Atom::Variant(1, "none"),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(size: u64) -> DiskSpec {
        DiskSpec {
            size,
            table: DiskTable::Gpt,
            bios: true,
            efi: true,
            seed: "seed".to_owned(),
            file_system: RootFileSystem::Ext4,
            label: "root".to_owned(),
            efi_size: 64 * MIB,
            partitions: vec![PartitionSpec {
                name: "swap".to_owned(),
                size: Some(8 * MIB),
                file_system: Some(ExtraFileSystem::Swap),
                mount: None,
                label: None,
            }],
            root_size: None,
            host_name: "debian".to_owned(),
            users: BTreeMap::new(),
            networking: Networking::Dhcp,
            console: true,
            kernel_arguments: Vec::new(),
            growpart: true,
        }
    }

    #[test]
    fn root_is_last_and_fills_the_rest() {
        let layout = spec(1024 * MIB).layout().unwrap();
        let shown: Vec<_> = layout
            .iter()
            .map(|p| (p.role, p.start / MIB, p.size / MIB))
            .collect();
        let expected = [
            (Role::BiosBoot, 1, 1),
            (Role::Efi, 2, 64),
            (Role::Extra(0), 66, 8),
            (Role::Root, 74, 1024 - 74 - 1),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_grows_is_last_whatever_its_number() {
        let mut spec = spec(1024 * MIB);
        spec.root_size = Some(256 * MIB);
        spec.partitions[0] = PartitionSpec {
            name: "data".to_owned(),
            size: None,
            file_system: Some(ExtraFileSystem::Xfs),
            mount: Some("/srv".to_owned()),
            label: None,
        };
        let shown = |spec: &DiskSpec| -> Vec<_> {
            let layout = spec.layout().unwrap();
            let mib = |p: &Placed| (p.role, p.start / MIB, p.size / MIB);
            layout.iter().map(mib).collect()
        };
        let expected = [
            (Role::BiosBoot, 1, 1),
            (Role::Efi, 2, 64),
            (Role::Extra(0), 322, 1024 - 322 - 1),
            (Role::Root, 66, 256),
        ];
        assert_eq!(shown(&spec), expected);
        // The smallest of its kind must fit.
        spec.size = (322 + 299 + 1) * MIB;
        let needed = spec.size + MIB;
        assert_eq!(spec.layout().unwrap_err().needed, needed);
        spec.size = needed;
        assert_eq!(shown(&spec)[2], (Role::Extra(0), 322, 300));
    }

    #[test]
    fn without_table_the_root_is_the_whole_disk() {
        let bare = |size| DiskSpec {
            table: DiskTable::None,
            ..spec(size)
        };
        let layout = bare(150 * MIB).layout().unwrap();
        let [root] = layout.as_slice() else {
            panic!("{layout:?}")
        };
        assert_eq!(
            (root.role, root.start, root.size),
            (Role::Root, 0, 150 * MIB)
        );
        assert!(bare(8 * MIB).layout().is_err());
    }

    #[test]
    fn a_disk_without_room_for_a_root_says_what_it_needs() {
        let needed = (74 + 16 + 1) * MIB;
        assert_eq!(
            spec(80 * MIB).layout(),
            Err(Overfull {
                needed,
                size: 80 * MIB
            })
        );
        assert!(spec(needed).layout().is_ok());
    }
}
