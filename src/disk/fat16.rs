//! Makes small FAT file systems byte by byte (Microsoft, "FAT: General Overview of On-Disk Format"): 8 MiB of FAT16.
//! Knows clusters and entries of directories, not what the files are for. The same bytes every time: no time is in them.

/// Bytes of a sector, which is a cluster too.
pub(crate) const SECTOR: usize = 512;
// The layout, in sectors: boot sector | FAT | FAT | root directory | data. There are as many clusters as make it FAT16: from
// 4085 to 65524.
const SECTORS: usize = 16384;
const FAT_SECTORS: usize = 64;
const ROOT_ENTRIES: usize = 512;
const ENTRY: usize = 32;
const FAT_START: usize = 1;
const ROOT_START: usize = FAT_START + 2 * FAT_SECTORS;
const DATA_START: usize = ROOT_START + ROOT_ENTRIES * ENTRY / SECTOR;
/// Clusters that files and directories can take.
pub(crate) const CLUSTERS: usize = SECTORS - DATA_START;
/// The first cluster has number 2.
const FIRST_CLUSTER: usize = 2;
/// 1 January 1980, the first day that there is.
const DATE: u16 = 0x21;

/// What an entry of a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FatEntry {
    Label = 0x08,
    Directory = 0x10,
    File = 0x20,
}

/// A file system that is being made.
pub(crate) struct Fat16 {
    disk: Vec<u8>,
    fat: Vec<u16>,
    next: usize,
}

impl Fat16 {
    /// An empty one with this label and volume id.
    pub(crate) fn new(label: &[u8; 11], id: &[u8; 4]) -> Fat16 {
        let mut disk = vec![0; SECTORS * SECTOR];
        disk[..SECTOR].copy_from_slice(&boot_sector(label, id));
        let mut fat = vec![0; FAT_SECTORS * SECTOR / 2];
        // The medium's type and the end mark.
        (fat[0], fat[1]) = (0xfff8, 0xffff);
        Fat16 {
            disk,
            fat,
            next: FIRST_CLUSTER,
        }
    }

    /// Puts bytes behind those that are there, and gives their first cluster: 0 where there are none.
    ///
    /// # Panics
    /// All clusters together are more than [`CLUSTERS`].
    pub(crate) fn put(&mut self, bytes: &[u8]) -> u16 {
        let (first, count) = (self.next, bytes.len().div_ceil(SECTOR));
        if count == 0 {
            return 0;
        }
        // Each cluster names the next one of its file, the last says that it is the last.
        for (cluster, slot) in self.fat.iter_mut().enumerate().skip(first).take(count) {
            let is_last = cluster + 1 == first + count;
            *slot = if is_last { 0xffff } else { cluster as u16 + 1 };
        }
        self.next += count;
        self.replace(first as u16, bytes);
        first as u16
    }

    /// Writes bytes into the clusters from `first` on, which were put there before.
    pub(crate) fn replace(&mut self, first: u16, bytes: &[u8]) {
        let start = (DATA_START + usize::from(first) - FIRST_CLUSTER) * SECTOR;
        self.disk[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// The file system with these entries of its root directory.
    pub(crate) fn finish(mut self, root: &[u8]) -> Vec<u8> {
        for copy in 0..2 {
            let start = (FAT_START + copy * FAT_SECTORS) * SECTOR;
            for (slot, value) in self.disk[start..].chunks_exact_mut(2).zip(&self.fat) {
                slot.copy_from_slice(&value.to_le_bytes());
            }
        }
        self.disk[ROOT_START * SECTOR..][..root.len()].copy_from_slice(root);
        self.disk
    }
}

fn boot_sector(label: &[u8; 11], id: &[u8; 4]) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0xeb, 0x3c, 0x90]);
    put(3, b"MSWIN4.1");
    put(11, &(SECTOR as u16).to_le_bytes());
    // Sectors of a cluster, reserved sectors, FATs.
    put(13, &[1, 1, 0, 2]);
    put(17, &(ROOT_ENTRIES as u16).to_le_bytes());
    put(19, &(SECTORS as u16).to_le_bytes());
    put(21, &[0xf8]);
    put(22, &(FAT_SECTORS as u16).to_le_bytes());
    // Sectors of a track, and heads: a geometry that nobody asks for.
    put(24, &[32, 0, 64, 0]);
    // A hard disk; the volume id and the label follow.
    put(36, &[0x80, 0, 0x29]);
    put(39, id);
    put(43, label);
    put(54, b"FAT16   ");
    put(510, &[0x55, 0xaa]);
    sector
}

/// An entry of a directory, by its short name.
pub(crate) fn entry(name: &[u8; 11], kind: FatEntry, cluster: u16, length: u32) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..11].copy_from_slice(name);
    entry[11] = kind as u8;
    for date in [16, 18, 24] {
        entry[date..date + 2].copy_from_slice(&DATE.to_le_bytes());
    }
    entry[26..28].copy_from_slice(&cluster.to_le_bytes());
    entry[28..].copy_from_slice(&length.to_le_bytes());
    entry
}

/// A name of at most eight letters and three behind a dot as entries have it; what is longer is cut.
pub(crate) fn short_name(name: &str) -> [u8; 11] {
    let mut short = [b' '; 11];
    let (base, end) = match name.rsplit_once('.') {
        Some((base, end)) if !base.is_empty() && base != "." => (base, end),
        _ => (name, ""),
    };
    for (slot, byte) in short[..8].iter_mut().zip(base.bytes()) {
        *slot = byte;
    }
    for (slot, byte) in short[8..].iter_mut().zip(end.bytes()) {
        *slot = byte;
    }
    short
}

/// The entries before a file's own that hold its real name, 13 characters each, the last part first.
///
/// # Panics
/// The name is not ASCII, empty, or longer than 26 characters.
pub(crate) fn long_name(name: &str, short: &[u8; 11]) -> Vec<u8> {
    assert!(
        name.is_ascii() && (1..=26).contains(&name.len()),
        "BUG: a file called {name}"
    );
    let sum = short
        .iter()
        .fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let parts: Vec<_> = name.as_bytes().chunks(13).collect();
    let mut entries = Vec::new();
    for (index, part) in parts.iter().enumerate().rev() {
        let mut entry = [0; ENTRY];
        let last = if index + 1 == parts.len() { 0x40 } else { 0 };
        (entry[0], entry[11], entry[13]) = ((index as u8 + 1) | last, 0x0f, sum);
        // A name that does not fill its entry ends with a zero, and all behind that is ones.
        let characters = part
            .iter()
            .map(|byte| u16::from(*byte))
            .chain([0])
            .chain(std::iter::repeat(0xffff));
        let places = (1..11)
            .step_by(2)
            .chain((14..26).step_by(2))
            .chain((28..32).step_by(2));
        for (place, character) in places.zip(characters) {
            entry[place..place + 2].copy_from_slice(&character.to_le_bytes());
        }
        entries.extend(entry);
    }
    entries
}
