//! Makes a bootable disk of a tree: partition table, file systems, boot loaders, and what turns a tree into a machine. And
//! grows disks (`resize`).
//! Runs as root inside a sandbox; mounts no file system, uses no device, and leaves the same bytes every time.
//!
//! ```text
//! tar ─ unpack ─→ tree ─ configure, users, grub ─→ tree ─ mke2fs -d ─→ root ┐
//!                   └─ esp: signed boot loaders ─→ FAT ────────────────────→├→ raw disk
//!                   └─ grub: the tree's own grub-mkimage ─→ core image ────→┘
//! ```

mod architecture;
mod btrfs;
mod configure;
mod error;
mod esp;
mod ext4;
mod ext4_times;
mod fat;
mod gpt;
mod grub;
mod ids;
mod partitions;
mod resize;
mod separate;
mod swap;
mod tool;
mod tree;
pub(crate) mod unpack;
mod users;
mod xfs;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use impasto_stages::disk::{DiskSpec, DiskTable, ExtraFileSystem, MIB, PartitionSpec, Role};

pub use error::AssembleError;
pub use resize::{ResizeError, resize};

use architecture::Architecture;
use ids::Ids;
use partitions::PlannedPartition;
use tree::RootTree;

/// Makes the disk that `spec` describes of `tree`, a tar stream, below `work`, an empty directory of the caller's.
/// Its directories list their files in another order where `reordered` says so: the same tree all the same.
/// Gives the path of the disk: a raw file, sparse where nothing was written. `log` takes lines for the stage's log, `phase`
/// which part of the work is over.
///
/// Programs that it runs: `mke2fs`; `mkfs.vfat`, `mmd` and `mcopy` for UEFI; `chroot` and the tree's `grub-mkimage` for
/// BIOS; `mkfs.xfs` and `mkfs.btrfs` where a partition is one.
///
/// # Errors
/// The tree lacks something, or does not fit; or a program or a file fails.
pub fn assemble(
    spec: &DiskSpec,
    tree: &mut dyn Read,
    epoch: u64,
    reordered: bool,
    work: &Path,
    log: &mut dyn FnMut(&str),
    phase: &mut dyn FnMut(&str),
) -> Result<PathBuf, AssembleError> {
    let ids = Ids { seed: &spec.seed };
    let parts = partitions::parts(spec, &ids, reordered)?;
    let root = parts.last().expect("BUG: a layout without root");

    let directory = unpack::make_root(work)?;
    let unpacked = unpack::unpack(tree, &directory)?;
    log(&format!(
        "laid out {} entries, {} MiB",
        unpacked.entries,
        unpacked.bytes / MIB
    ));
    phase("unpack");

    let tree = RootTree::open(&directory, epoch)?;
    let machine = Architecture::of(&tree)?;
    configure::configure(&tree, spec, &parts, log)?;
    users::add(&tree, &spec.users)?;
    if spec.is_bootable() {
        grub::configure(&tree, spec, machine, root)?;
    }
    let bios = if spec.bios {
        Some(grub::bios_images(&tree, machine, root)?)
    } else {
        None
    };
    let efi = if spec.efi {
        Some(esp::efi_files(&tree, machine, root)?)
    } else {
        None
    };
    phase("configure");

    let moved = move_out(&tree, spec, work)?;
    check_space(spec, &parts, &directory, &moved)?;
    let path = work.join("disk.raw");
    let io = |verb| AssembleError::io(verb, &path);
    let disk = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(io("make"))?;
    disk.set_len(spec.size).map_err(io("make"))?;
    if spec.table == DiskTable::Gpt {
        let entries: Vec<_> = parts.iter().map(|part| part.entry(spec, machine)).collect();
        gpt::write(&disk, spec.size, ids.uuid("disk"), &entries).map_err(io("write"))?;
    }
    for part in &parts {
        match part.role {
            Role::BiosBoot => bios
                .as_ref()
                .expect("BUG: no image for BIOS")
                .embed(&disk, part)?,
            Role::Efi => efi
                .as_ref()
                .expect("BUG: no files for UEFI")
                .write(&path, part, epoch, work)?,
            Role::Extra(index) => {
                let files = moved.get(&index).map(PathBuf::as_path);
                make_extra(
                    &path,
                    &disk,
                    part,
                    &spec.partitions[index],
                    files,
                    epoch,
                    work,
                )?;
            }
            Role::Root => {
                phase("boot loaders");
                log(&format!(
                    "making the root file system, {} MiB",
                    part.size / MIB
                ));
                ext4::make(
                    &path,
                    part,
                    Some(&spec.label),
                    Some(&directory),
                    epoch,
                    work,
                )?;
                phase("root file system");
            }
        }
    }
    Ok(path)
}

/// Makes what a partition beside the root holds: the files of a directory, where one is given.
fn make_extra(
    path: &Path,
    disk: &File,
    part: &PlannedPartition,
    extra: &PartitionSpec,
    files: Option<&Path>,
    epoch: u64,
    work: &Path,
) -> Result<(), AssembleError> {
    let label = extra.label.as_deref();
    match extra.file_system {
        None => Ok(()),
        Some(ExtraFileSystem::Ext4) => ext4::make(path, part, label, files, epoch, work),
        Some(ExtraFileSystem::Vfat) => fat::make(path, part, label, epoch),
        Some(ExtraFileSystem::Swap) => swap::make(disk, part, label),
        Some(ExtraFileSystem::Xfs) => xfs::make(disk, part, label, epoch, work),
        Some(ExtraFileSystem::Btrfs) => btrfs::make(disk, part, label, epoch, work),
    }
}

/// Moves what the tree has below the mount points of further partitions to where those are made of it.
/// Gives the directories by the partitions' indices.
fn move_out(
    tree: &RootTree,
    spec: &DiskSpec,
    work: &Path,
) -> Result<BTreeMap<usize, PathBuf>, AssembleError> {
    let mut mounts: Vec<_> = spec
        .partitions
        .iter()
        .enumerate()
        .filter_map(|(index, part)| Some((index, part, part.mount.as_ref()?)))
        .collect();
    // The inner before the outer: what the outer takes with it is the inner's empty mount point.
    mounts.sort_by_key(|(_, _, mount)| std::cmp::Reverse(mount.len()));
    let mut moved = BTreeMap::new();
    for (index, part, mount) in mounts {
        if part.file_system == Some(ExtraFileSystem::Ext4) {
            let place = work.join(format!("partition-{index}"));
            if tree.take_dir(mount, &place)? {
                moved.insert(index, place);
            }
        } else if !tree.list(mount)?.is_empty() {
            // FAT knows no owners, and the others are made empty.
            return Err(AssembleError::Hides {
                partition: part.name.clone(),
                mount: mount.clone(),
            });
        }
    }
    Ok(moved)
}

/// Says what is needed before mke2fs finds out block by block.
fn check_space(
    spec: &DiskSpec,
    parts: &[PlannedPartition],
    directory: &Path,
    moved: &BTreeMap<usize, PathBuf>,
) -> Result<(), AssembleError> {
    for part in parts {
        let (directory, mount) = match part.role {
            Role::Root => (directory, "/"),
            Role::Extra(index) => {
                let Some(directory) = moved.get(&index) else {
                    continue;
                };
                let mount = spec.partitions[index].mount.as_deref();
                (directory.as_path(), mount.unwrap_or_default())
            }
            Role::BiosBoot | Role::Efi => continue,
        };
        let usage = ext4::TreeUsage::of(directory)?;
        let needs = usage.needs();
        if needs <= part.size.max(ext4::SMALLEST) {
            continue;
        }
        return Err(if part.role == spec.growing() {
            AssembleError::TooSmall {
                content: usage.bytes(),
                // The table's backup lies behind it.
                needed: (part.start + needs + MIB).next_multiple_of(64 * MIB),
                size: spec.size,
            }
        } else {
            AssembleError::PartitionTooSmall {
                partition: part.name.clone(),
                mount: mount.to_owned(),
                needed: needs,
                size: part.size,
            }
        });
    }
    Ok(())
}
