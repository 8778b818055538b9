//! Reads files out of a FAT12, FAT16 or FAT32 file system without mounting it.
//!
//! Knows the format, not which files matter. The bytes may be a hostile guest's: a cluster belongs to one directory only,
//! paths have an end, and no file is larger than the file system.
//!
//! Source of the format: Microsoft's "FAT: General Overview of On-Disk Format" 1.03, and the kernel's `fs/fat`.

use std::collections::HashSet;

use super::ext4::{Extent, ReadError, corrupt, unsupported};
use super::{ReadAt, le16, le32};

/// An entry of a directory, in bytes.
const ENTRY: usize = 32;

/// A file allocation table of 64 MiB: those of larger file systems are not read into memory.
const MAX_CLUSTERS: u64 = 1 << 24;

/// Longest path that is given out, in bytes; the kernel takes no longer one.
const MAX_PATH: usize = 4096;

/// The first data cluster's number.
const FIRST_CLUSTER: u32 = 2;

const ATTRIBUTE_LABEL: u8 = 0x08;
const ATTRIBUTE_DIRECTORY: u8 = 0x10;
const ATTRIBUTE_LONG_NAME: u8 = 0x0f;

/// What a FAT file system says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FatIdentity {
    /// Volume serial number, where the boot sector has one.
    pub serial: Option<u32>,
    /// Label, from the root directory or else the boot sector; trailing spaces removed, empty where there is none.
    pub label: Vec<u8>,
    /// 12, 16 or 32.
    pub bits: u8,
    /// Size of a cluster in bytes.
    pub cluster_size: u32,
    /// Number of data clusters.
    pub clusters: u32,
    /// Whether it was not unmounted.
    pub dirty: bool,
}

/// A file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FatFile {
    /// Path from the root, parts joined by `/`, without a leading one, in UTF-8.
    pub path: Vec<u8>,
    /// Whether it is a directory.
    pub directory: bool,
    /// Size in bytes; 0 for directories.
    pub size: u64,
    /// Last change: seconds since 1970, local time taken as UTC.
    pub mtime: i64,
    /// Attribute bits as stored: read-only 0x01, hidden 0x02, system 0x04, directory 0x10, archive 0x20.
    pub attributes: u8,
    /// First cluster; 0 for an empty file.
    cluster: u32,
}

/// An open file system. Reading changes nothing, so threads may share it.
#[derive(Debug)]
pub struct Fat<'d, D: ReadAt + ?Sized> {
    disk: &'d D,
    identity: FatIdentity,
    /// The file allocation table, as stored.
    table: Vec<u8>,
    /// First byte of the first data cluster.
    data: u64,
    root: FatRoot,
}

/// Where the root directory is.
#[derive(Clone, Copy, Debug)]
enum FatRoot {
    /// Before the clusters: first byte and length.
    Fixed(u64, usize),
    /// In clusters, as any other.
    Cluster(u32),
}

impl<'d, D: ReadAt + ?Sized> Fat<'d, D> {
    /// Opens the file system that starts at the disk's first byte.
    pub fn open(disk: &'d D) -> Result<Self, ReadError> {
        let mut boot = [0; 512];
        disk.read_exact_at(&mut boot, 0).map_err(ReadError::Io)?;
        let sector = u64::from(le16(&boot, 11));
        let (per_cluster, fats, entries) = (
            u64::from(boot[13]),
            u64::from(boot[16]),
            u64::from(le16(&boot, 17)),
        );
        let reserved = u64::from(le16(&boot, 14));
        let small_or_large = |small, large| {
            if le16(&boot, small) == 0 {
                le32(&boot, large)
            } else {
                0
            }
        };
        let sectors = u64::from(le16(&boot, 19)).max(u64::from(small_or_large(19, 32)));
        let is_32 = le16(&boot, 22) == 0;
        let table_sectors = u64::from(le16(&boot, 22)).max(u64::from(small_or_large(22, 36)));
        if boot[510..] != [0x55, 0xaa]
            || !matches!(sector, 512 | 1024 | 2048 | 4096)
            || !per_cluster.is_power_of_two()
            || reserved == 0
            || !matches!(fats, 1..=4)
            || table_sectors == 0
        {
            return Err(corrupt("boot sector: this is not a FAT file system"));
        }
        if sectors * sector > disk.size() {
            return Err(corrupt(
                "boot sector: the file system is larger than its disk",
            ));
        }
        let root_start = reserved + fats * table_sectors;
        let data = root_start + (entries * ENTRY as u64).div_ceil(sector);
        let clusters = sectors
            .checked_sub(data)
            .ok_or_else(|| corrupt("boot sector: it has no space for files"))?;
        let clusters = clusters / per_cluster;
        let bits: u8 = if is_32 {
            32
        } else if clusters < 4085 {
            12
        } else {
            16
        };
        if clusters > MAX_CLUSTERS {
            return Err(unsupported("a FAT of more than 16 million clusters"));
        }
        let table_bytes = ((clusters + u64::from(FIRST_CLUSTER)) * u64::from(bits)).div_ceil(8);
        if table_bytes > table_sectors * sector {
            return Err(corrupt(
                "boot sector: its table is too small for its clusters",
            ));
        }
        let mut table = vec![0; table_bytes as usize];
        disk.read_exact_at(&mut table, reserved * sector)
            .map_err(ReadError::Io)?;
        // FAT32 keeps the fields that both have later.
        let extended = if is_32 { 64 } else { 36 };
        let has_serial = matches!(boot[extended + 2], 0x28 | 0x29);
        let identity = FatIdentity {
            serial: has_serial.then(|| le32(&boot, extended + 3)),
            label: if boot[extended + 2] == 0x29 {
                label(&boot[extended + 7..extended + 18])
            } else {
                Vec::new()
            },
            bits,
            cluster_size: (per_cluster * sector) as u32,
            clusters: clusters as u32,
            dirty: boot[extended + 1] & 1 != 0,
        };
        let root = if is_32 {
            FatRoot::Cluster(le32(&boot, 44))
        } else {
            FatRoot::Fixed(root_start * sector, entries as usize * ENTRY)
        };
        let mut fat = Self {
            disk,
            identity,
            table,
            data: data * sector,
            root,
        };
        if let Some(label) = fat.root_label()? {
            fat.identity.label = label;
        }
        Ok(fat)
    }

    /// What it says of itself.
    pub fn identity(&self) -> &FatIdentity {
        &self.identity
    }

    /// Every file and directory but the root, a directory before what it holds; files of a directory as they lie in it.
    pub fn files(&self) -> Result<Vec<FatFile>, ReadError> {
        let mut seen = HashSet::new();
        let mut files: Vec<FatFile> = Vec::new();
        self.read_entries(&self.directory(self.root, &mut seen)?, &[], &mut files)?;
        let mut next = 0;
        while let Some(file) = files.get(next) {
            next += 1;
            if file.directory {
                let (prefix, start) = (
                    [&file.path[..], b"/"].concat(),
                    FatRoot::Cluster(file.cluster),
                );
                self.read_entries(&self.directory(start, &mut seen)?, &prefix, &mut files)?;
            }
        }
        Ok(files)
    }

    /// Where a file's content is, in pieces that ascend in the file; empty for directories.
    pub fn content(&self, file: &FatFile) -> Result<Vec<Extent>, ReadError> {
        let wrong = |what| corrupt(format!("{}: {what}", file.path.escape_ascii()));
        let size = u64::from(self.identity.cluster_size);
        let mut extents: Vec<Extent> = Vec::new();
        let (mut cluster, mut offset) = (file.cluster, 0);
        while offset < file.size {
            let start = self
                .place(cluster)
                .ok_or_else(|| wrong("its cluster chain is too short"))?;
            let length = size.min(file.size - offset);
            match extents.last_mut() {
                Some(last) if last.start + last.length == start => last.length += length,
                _ => extents.push(Extent {
                    offset,
                    start,
                    length,
                }),
            }
            offset += length;
            if offset / size > u64::from(self.identity.clusters) {
                return Err(wrong("its cluster chain is a cycle"));
            }
            cluster = self.after(cluster);
        }
        Ok(extents)
    }

    /// A file's bytes, all at once.
    pub fn read(&self, file: &FatFile) -> Result<Vec<u8>, ReadError> {
        let mut bytes = Vec::new();
        for extent in self.content(file)? {
            let from = bytes.len();
            bytes.resize(from + extent.length as usize, 0);
            self.disk
                .read_exact_at(&mut bytes[from..], extent.start)
                .map_err(ReadError::Io)?;
        }
        Ok(bytes)
    }

    /// First byte of a data cluster; `None` where there is none of that number.
    fn place(&self, cluster: u32) -> Option<u64> {
        let index = cluster
            .checked_sub(FIRST_CLUSTER)
            .filter(|index| *index < self.identity.clusters)?;
        Some(self.data + u64::from(index) * u64::from(self.identity.cluster_size))
    }

    /// The cluster that follows; a number without a cluster at a chain's end.
    fn after(&self, cluster: u32) -> u32 {
        let at = cluster as usize;
        match self.identity.bits {
            12 => {
                // Two entries share three bytes.
                let pair = u32::from(le16(&self.table, at + at / 2));
                if at.is_multiple_of(2) {
                    pair & 0xfff
                } else {
                    pair >> 4
                }
            }
            16 => u32::from(le16(&self.table, at * 2)),
            _ => le32(&self.table, at * 4) & 0x0fff_ffff,
        }
    }

    /// All bytes of a directory; no cluster of it may be in `seen`, where they are added.
    fn directory(&self, start: FatRoot, seen: &mut HashSet<u32>) -> Result<Vec<u8>, ReadError> {
        let mut bytes = Vec::new();
        let mut cluster = match start {
            FatRoot::Fixed(start, length) => {
                bytes.resize(length, 0);
                self.disk
                    .read_exact_at(&mut bytes, start)
                    .map_err(ReadError::Io)?;
                return Ok(bytes);
            }
            FatRoot::Cluster(cluster) => cluster,
        };
        if self.place(cluster).is_none() {
            return Err(corrupt(format!(
                "a directory starts outside the file system, in cluster {cluster}"
            )));
        }
        while let Some(place) = self.place(cluster) {
            if !seen.insert(cluster) {
                return Err(corrupt(format!("cluster {cluster} is in two directories")));
            }
            let from = bytes.len();
            bytes.resize(from + self.identity.cluster_size as usize, 0);
            self.disk
                .read_exact_at(&mut bytes[from..], place)
                .map_err(ReadError::Io)?;
            // What lies behind the last entry was never written.
            if bytes[from..].chunks_exact(ENTRY).any(|entry| entry[0] == 0) {
                break;
            }
            cluster = self.after(cluster);
        }
        Ok(bytes)
    }

    /// Takes the files of a directory's bytes; paths begin with `prefix`.
    fn read_entries(
        &self,
        bytes: &[u8],
        prefix: &[u8],
        files: &mut Vec<FatFile>,
    ) -> Result<(), ReadError> {
        let mut long = LongName::default();
        for entry in bytes.chunks_exact(ENTRY).take_while(|entry| entry[0] != 0) {
            let attributes = entry[11];
            if entry[0] == 0xe5 {
                long = LongName::default();
            } else if attributes & 0x3f == ATTRIBUTE_LONG_NAME {
                long.take(entry);
            } else if attributes & ATTRIBUTE_LABEL != 0 {
                long = LongName::default();
            } else {
                let name = match std::mem::take(&mut long).finish(entry) {
                    Some(units) => String::from_utf16(&units)
                        .map_err(|_| corrupt("a name is not valid UTF-16"))?,
                    None => short_name(entry),
                };
                if name == "." || name == ".." {
                    continue;
                }
                let path = [prefix, name.as_bytes()].concat();
                if name.is_empty() || name.contains(['/', '\0']) {
                    return Err(corrupt(format!(
                        "{}: the name is not valid",
                        path.escape_ascii()
                    )));
                }
                if path.len() > MAX_PATH {
                    return Err(unsupported("a path of more than 4096 bytes"));
                }
                // Before FAT32 the upper half had another use.
                let high_cluster = if self.identity.bits == 32 {
                    u32::from(le16(entry, 20)) << 16
                } else {
                    0
                };
                let directory = attributes & ATTRIBUTE_DIRECTORY != 0;
                files.push(FatFile {
                    path,
                    directory,
                    size: if directory {
                        0
                    } else {
                        u64::from(le32(entry, 28))
                    },
                    mtime: seconds(le16(entry, 24), le16(entry, 22)),
                    attributes,
                    cluster: u32::from(le16(entry, 26)) | high_cluster,
                });
            }
        }
        Ok(())
    }

    /// The label as an entry of the root directory has it.
    fn root_label(&self) -> Result<Option<Vec<u8>>, ReadError> {
        let root = self.directory(self.root, &mut HashSet::new())?;
        let mut entries = root.chunks_exact(ENTRY).take_while(|entry| entry[0] != 0);
        let found = entries.find(|entry| {
            entry[0] != 0xe5
                && entry[11] & ATTRIBUTE_LABEL != 0
                && entry[11] & 0x3f != ATTRIBUTE_LONG_NAME
        });
        Ok(found.map(|entry| label(&entry[..11])))
    }
}

/// A label without the spaces that fill it up.
fn label(bytes: &[u8]) -> Vec<u8> {
    let label = bytes.trim_ascii_end();
    if label == b"NO NAME" {
        Vec::new()
    } else {
        label.to_vec()
    }
}

/// A long name while its entries come: the last part first, all before the short name.
#[derive(Default)]
struct LongName {
    units: Vec<u16>,
    checksum: u8,
    /// Number of the part that came last, 0 for none.
    part: u8,
}

impl LongName {
    const LAST: u8 = 0x40;

    /// 255 characters.
    const MAX_PARTS: u8 = 20;

    /// Takes a part; one that does not follow what came before leaves no name at all, as in the kernel.
    fn take(&mut self, entry: &[u8]) {
        let (part, checksum) = (entry[0] & !Self::LAST, entry[13]);
        let is_first = entry[0] & Self::LAST != 0;
        let follows = is_first || part + 1 == self.part && checksum == self.checksum;
        if !follows || part == 0 || part > Self::MAX_PARTS {
            *self = Self::default();
            return;
        }
        let rest = if is_first {
            Vec::new()
        } else {
            std::mem::take(&mut self.units)
        };
        let places = [1..11, 14..26, 28..32];
        let units = places
            .iter()
            .flat_map(|place| entry[place.clone()].as_chunks::<2>().0);
        *self = Self {
            units: units
                .map(|unit| u16::from_le_bytes(*unit))
                .chain(rest)
                .collect(),
            checksum,
            part,
        };
    }

    /// The name, if it is complete and belongs to this short name.
    fn finish(mut self, entry: &[u8]) -> Option<Vec<u16>> {
        let sum = entry[..11]
            .iter()
            .fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        if self.part != 1 || self.checksum != sum {
            return None;
        }
        let end = self
            .units
            .iter()
            .position(|unit| *unit == 0)
            .unwrap_or(self.units.len());
        self.units.truncate(end);
        Some(self.units)
    }
}

/// The upper half of code page 437, which short names are in.
const CODE_PAGE: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
                         αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// A name of 8 and 3 characters; two bits say which part is to be shown in lower case.
fn short_name(entry: &[u8]) -> String {
    const LOWER_BASE: u8 = 0x08;
    const LOWER_EXTENSION: u8 = 0x10;
    let mut base = entry[..8].to_vec();
    // The byte of a deleted entry would mean one.
    if base[0] == 0x05 {
        base[0] = 0xe5;
    }
    let character = |byte: u8, lower: bool| match byte.checked_sub(0x80) {
        Some(index) => CODE_PAGE
            .chars()
            .nth(usize::from(index))
            .unwrap_or(char::REPLACEMENT_CHARACTER),
        None if lower => char::from(byte.to_ascii_lowercase()),
        None => char::from(byte),
    };
    let part = |bytes: &[u8], flag| {
        let lower = entry[12] & flag != 0;
        let end = bytes
            .iter()
            .rposition(|byte| *byte != b' ')
            .map_or(0, |last| last + 1);
        bytes[..end]
            .iter()
            .map(|byte| character(*byte, lower))
            .collect::<String>()
    };
    let (mut name, extension) = (
        part(&base, LOWER_BASE),
        part(&entry[8..11], LOWER_EXTENSION),
    );
    if !extension.is_empty() {
        name.push('.');
        name.push_str(&extension);
    }
    name
}

/// Seconds since 1970 of a date since 1980 and a time in steps of two seconds.
fn seconds(date: u16, time: u16) -> i64 {
    let (year, month, day) = (
        i64::from(date >> 9) + 1980,
        i64::from(date >> 5 & 15).max(1),
        i64::from(date & 31).max(1),
    );
    // Years begin in March, so that a leap day is the last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let (hour, minute, second) = (
        i64::from(time >> 11),
        i64::from(time >> 5 & 63),
        i64::from(time & 31) * 2,
    );
    ((days * 24 + hour) * 60 + minute) * 60 + second
}

#[cfg(test)]
mod tests;
