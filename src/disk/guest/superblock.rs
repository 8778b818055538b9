//! Recognises file systems and containers by their superblocks.
//!
//! Knows identity (type, UUID, label) and whether an ext file system was closed cleanly, not what files it holds.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use super::ext4::superblock::{Superblock, feature::*};
use super::{ReadAt, bytes_at, le16, le32, text, uuid_text};

/// A file system, or a container that stands in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    pub kind: FsKind,
    /// UUID as `blkid` prints it.
    pub uuid: Option<String>,
    pub label: Option<String>,
    /// Block size in bytes, where the superblock says it.
    pub block_size: Option<u32>,
    /// What is wrong with it: not unmounted cleanly, errors recorded. Only ext says so.
    pub dirty: Option<String>,
}

/// Type of a file system or container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FsKind {
    /// ext2: no journal.
    Ext2,
    /// ext3: a journal and no feature of ext4.
    Ext3,
    /// ext4.
    Ext4,
    Xfs,
    Btrfs,
    /// FAT12, FAT16 or FAT32.
    Vfat,
    Swap,
    /// A physical volume of LVM2.
    Lvm2,
    Luks,
    /// A member of a Linux software RAID.
    Md,
}

impl FsKind {
    /// The kernel's name of it, `None` for what is never mounted here.
    pub fn mount_type(self) -> Option<&'static str> {
        match self {
            // The ext4 driver serves all three, and every kernel with ext support has it.
            Self::Ext2 | Self::Ext3 | Self::Ext4 => Some("ext4"),
            Self::Xfs => Some("xfs"),
            Self::Btrfs => Some("btrfs"),
            Self::Vfat | Self::Swap | Self::Lvm2 | Self::Luks | Self::Md => None,
        }
    }
}

impl FsKind {
    /// Whether it holds other volumes, which are not opened here.
    pub fn is_container(self) -> bool {
        matches!(self, Self::Lvm2 | Self::Luks | Self::Md)
    }
}

impl fmt::Display for FsKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Vfat => "vfat",
            Self::Swap => "swap",
            Self::Lvm2 => "LVM2 physical volume",
            Self::Luks => "LUKS container",
            Self::Md => "md RAID member",
        })
    }
}

/// Recognises what starts at offset 0 of `disk`; `None` where nothing is known.
pub fn read_file_system<D: ReadAt + ?Sized>(disk: &D) -> io::Result<Option<FileSystem>> {
    // Everything but btrfs (64 KiB) and old md superblocks (at the end) shows itself in the first 8 KiB.
    let mut head = vec![0; 8192.min(usize::try_from(disk.size()).unwrap_or(usize::MAX))];
    disk.read_exact_at(&mut head, 0)?;
    if head.len() < 4096 {
        return Ok(None);
    }
    // Containers first: what they hold may look like a file system of its own.
    let found = luks(&head)
        .or_else(|| lvm2(&head))
        .or_else(|| md_at(&head, 0))
        .or_else(|| md_at(&head, 4096));
    if found.is_some() {
        return Ok(found);
    }
    if let Some(found) = md_at_end(disk)? {
        return Ok(Some(found));
    }
    if let Some(found) = ext(&head).or_else(|| xfs(&head)).or_else(|| swap(&head)) {
        return Ok(Some(found));
    }
    if let Some(found) = btrfs(disk)? {
        return Ok(Some(found));
    }
    Ok(vfat(&head))
}

fn file_system(
    kind: FsKind,
    uuid: Option<[u8; 16]>,
    label: Option<String>,
    block_size: Option<u32>,
) -> FileSystem {
    let uuid = uuid
        .filter(|bytes| bytes != &[0; 16])
        .map(|bytes| uuid_text(&bytes));
    FileSystem {
        kind,
        uuid,
        label,
        block_size,
        dirty: None,
    }
}

/// ext2, ext3, ext4: <https://docs.kernel.org/filesystems/ext4/super.html>.
fn ext(head: &[u8]) -> Option<FileSystem> {
    const EXT4_INCOMPAT: u32 = INCOMPAT_EXTENTS
        | INCOMPAT_64BIT
        | INCOMPAT_MMP
        | INCOMPAT_FLEX_BG
        | INCOMPAT_EA_INODE
        | INCOMPAT_CSUM_SEED
        | INCOMPAT_LARGEDIR
        | INCOMPAT_INLINE_DATA
        | INCOMPAT_ENCRYPT
        | INCOMPAT_CASEFOLD;
    const EXT4_RO_COMPAT: u32 = RO_COMPAT_HUGE_FILE
        | RO_COMPAT_GDT_CSUM
        | RO_COMPAT_DIR_NLINK
        | RO_COMPAT_EXTRA_ISIZE
        | RO_COMPAT_BIGALLOC
        | RO_COMPAT_METADATA_CSUM;
    let bytes = head.get(1024..2048)?;
    let sb = Superblock::parse(bytes.try_into().ok()?)?;
    let kind = if sb.incompat(INCOMPAT_JOURNAL_DEV) {
        return None;
    } else if sb.incompat(EXT4_INCOMPAT) || sb.ro_compat(EXT4_RO_COMPAT) {
        FsKind::Ext4
    } else if sb.identity.compat & COMPAT_HAS_JOURNAL != 0 {
        FsKind::Ext3
    } else {
        FsKind::Ext2
    };
    let label = text(&sb.identity.label);
    let mut fs = file_system(
        kind,
        Some(bytes_at(bytes, 0x68)),
        label,
        Some(sb.identity.block_size),
    );
    fs.dirty = sb.complaint();
    Some(fs)
}

fn xfs(head: &[u8]) -> Option<FileSystem> {
    let block_size = u32::from_be_bytes(bytes_at(head, 4));
    (head.starts_with(b"XFSB")
        && block_size.is_power_of_two()
        && (512..=65536).contains(&block_size))
    .then(|| {
        file_system(
            FsKind::Xfs,
            Some(bytes_at(head, 32)),
            text(&head[108..120]),
            Some(block_size),
        )
    })
}

fn btrfs<D: ReadAt + ?Sized>(disk: &D) -> io::Result<Option<FileSystem>> {
    let mut sb = [0; 4096];
    if disk.size() < 65536 + sb.len() as u64 {
        return Ok(None);
    }
    disk.read_exact_at(&mut sb, 65536)?;
    Ok((&sb[64..72] == b"_BHRfS_M").then(|| {
        file_system(
            FsKind::Btrfs,
            Some(bytes_at(&sb, 32)),
            text(&sb[0x12b..0x22b]),
            Some(le32(&sb, 0x90)),
        )
    }))
}

/// Swap space with 4096-byte pages; its superblock ends the first page.
fn swap(head: &[u8]) -> Option<FileSystem> {
    (&head[4086..4096] == b"SWAPSPACE2").then(|| {
        file_system(
            FsKind::Swap,
            Some(bytes_at(head, 1036)),
            text(&head[1052..1068]),
            Some(4096),
        )
    })
}

/// The label of a physical volume lies in one of the first four sectors.
fn lvm2(head: &[u8]) -> Option<FileSystem> {
    (0..4)
        .map(|sector| &head[sector * 512..(sector + 1) * 512])
        .find_map(|sector| {
            (sector.starts_with(b"LABELONE") && &sector[24..32] == b"LVM2 001").then(|| {
                FileSystem {
                    kind: FsKind::Lvm2,
                    uuid: text(&sector[32..64]),
                    label: None,
                    block_size: None,
                    dirty: None,
                }
            })
        })
}

fn luks(head: &[u8]) -> Option<FileSystem> {
    head.starts_with(b"LUKS\xba\xbe").then(|| FileSystem {
        kind: FsKind::Luks,
        uuid: text(&head[168..208]),
        label: None,
        block_size: None,
        dirty: None,
    })
}

/// md metadata 1.1 (at 0) and 1.2 (at 4096).
fn md_at(head: &[u8], at: usize) -> Option<FileSystem> {
    let sb = head.get(at..at + 256)?;
    (le32(sb, 0) == 0xa92b_4efc && le32(sb, 4) == 1)
        .then(|| file_system(FsKind::Md, Some(bytes_at(sb, 16)), text(&sb[32..64]), None))
}

/// md metadata 1.0 (8 KiB before the end, aligned to 4 KiB) and 0.90 (the last aligned 64 KiB).
fn md_at_end<D: ReadAt + ?Sized>(disk: &D) -> io::Result<Option<FileSystem>> {
    if disk.size() < 128 * 1024 {
        return Ok(None);
    }
    let mut sb = [0; 256];
    disk.read_exact_at(&mut sb, ((disk.size() - 8192) / 4096) * 4096)?;
    if let Some(found) = md_at(&sb, 0) {
        return Ok(Some(found));
    }
    disk.read_exact_at(&mut sb, disk.size() / 65536 * 65536 - 65536)?;
    let old = le32(&sb, 0) == 0xa92b_4efc && le32(&sb, 4) == 0;
    Ok(old.then(|| file_system(FsKind::Md, None, None, None)))
}

/// FAT has no magic of its own: a boot sector whose numbers all make sense.
fn vfat(head: &[u8]) -> Option<FileSystem> {
    let (bytes_per_sector, sectors_per_cluster) = (le16(head, 11), head[13]);
    let (reserved, fats) = (le16(head, 14), head[16]);
    let plausible = head[510..512] == [0x55, 0xaa]
        && matches!(head[0], 0xeb | 0xe9)
        && matches!(bytes_per_sector, 512 | 1024 | 2048 | 4096)
        && sectors_per_cluster.is_power_of_two()
        && reserved > 0
        && matches!(fats, 1 | 2)
        && (head[21] == 0xf0 || head[21] >= 0xf8);
    if !plausible {
        return None;
    }
    // FAT32 has no 16-bit count of sectors per FAT and keeps its extended fields later.
    let extended = if le16(head, 22) == 0 { 64 } else { 36 };
    if !matches!(head[extended + 2], 0x28 | 0x29) {
        return Some(file_system(
            FsKind::Vfat,
            None,
            None,
            Some(u32::from(bytes_per_sector)),
        ));
    }
    let serial = le32(head, extended + 3);
    let label = text(&head[extended + 7..extended + 18]).filter(|label| label != "NO NAME");
    Some(FileSystem {
        kind: FsKind::Vfat,
        uuid: Some(format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff)),
        label,
        block_size: Some(u32::from(bytes_per_sector)),
        dirty: None,
    })
}
