//! The FAT file system that UEFI reads boot loaders from, made byte by byte: `EFI/BOOT` with some programs.
//! Knows the format (Microsoft, "FAT: General Overview of On-Disk Format"), not what the programs do.

const SECTOR: usize = 512;
/// One cluster is one sector, and there are as many as make it FAT16: from 4085 to 65524.
const SECTORS: usize = 16384;
const FAT_SECTORS: usize = 64;
const ROOT_ENTRIES: usize = 512;
const ENTRY: usize = 32;
const ROOT_START: usize = 1 + 2 * FAT_SECTORS;
const DATA_START: usize = ROOT_START + ROOT_ENTRIES * ENTRY / SECTOR;
/// Bytes that programs can take: two clusters are directories.
const CAPACITY: usize = (SECTORS - DATA_START - 2) * SECTOR;
/// 1 January 1980, the first day that there is.
const DATE: u16 = 0x21;
const DIRECTORY: u8 = 0x10;
const FILE: u8 = 0x20;

/// A file system that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EspError {
    #[error("the boot loaders for UEFI have {bytes} bytes, and there is space for {CAPACITY}")]
    TooLarge { bytes: usize },
}

/// The file system with these programs in `EFI/BOOT`, by names of at most eight letters and three behind a dot.
pub(super) fn image(programs: &[(String, Vec<u8>)]) -> Result<Vec<u8>, EspError> {
    let clusters = |bytes: &[u8]| bytes.len().div_ceil(SECTOR);
    let bytes = programs
        .iter()
        .map(|(_, bytes)| clusters(bytes) * SECTOR)
        .sum();
    if bytes > CAPACITY || programs.len() > 10 {
        return Err(EspError::TooLarge { bytes });
    }
    let mut disk = vec![0; SECTORS * SECTOR];
    disk[..SECTOR].copy_from_slice(&boot_sector());
    let mut fat = vec![0_u16; FAT_SECTORS * SECTOR / 2];
    // The medium's type, the end mark, and the two directories of one cluster.
    fat[..4].copy_from_slice(&[0xfff8, 0xffff, 0xffff, 0xffff]);
    let place = |cluster: usize| (DATA_START + cluster - 2) * SECTOR;
    let mut boot = [entry(".", DIRECTORY, 3, 0), entry("..", DIRECTORY, 2, 0)].concat();
    let mut next = 4;
    for (name, bytes) in programs {
        let count = clusters(bytes);
        for (cluster, slot) in fat.iter_mut().enumerate().skip(next).take(count) {
            let is_last = cluster + 1 == next + count;
            *slot = if is_last { 0xffff } else { cluster as u16 + 1 };
        }
        disk[place(next)..][..bytes.len()].copy_from_slice(bytes);
        boot.extend(entry(name, FILE, next as u16, bytes.len() as u32));
        next += count;
    }
    let efi = [
        entry(".", DIRECTORY, 2, 0),
        entry("..", DIRECTORY, 0, 0),
        entry("BOOT", DIRECTORY, 3, 0),
    ];
    let root = entry("EFI", DIRECTORY, 2, 0);
    for (at, bytes) in [
        (ROOT_START * SECTOR, &root[..]),
        (place(2), &efi.concat()),
        (place(3), &boot),
    ] {
        disk[at..at + bytes.len()].copy_from_slice(bytes);
    }
    for copy in 0..2 {
        let start = (1 + copy * FAT_SECTORS) * SECTOR;
        for (slot, value) in disk[start..].chunks_exact_mut(2).zip(&fat) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
    }
    Ok(disk)
}

fn boot_sector() -> [u8; SECTOR] {
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
    put(36, &[0x80, 0, 0x29]);
    put(39, b"efi ");
    put(43, b"EFI        FAT16   ");
    put(510, &[0x55, 0xaa]);
    sector
}

fn entry(name: &str, attributes: u8, cluster: u16, size: u32) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..11].fill(b' ');
    let (base, end) = match name.rsplit_once('.') {
        Some((base, end)) if !base.is_empty() && base != "." => (base, end),
        _ => (name, ""),
    };
    for (slot, byte) in entry[..8].iter_mut().zip(base.bytes()) {
        *slot = byte;
    }
    for (slot, byte) in entry[8..11].iter_mut().zip(end.bytes()) {
        *slot = byte;
    }
    entry[11] = attributes;
    for at in [16, 18, 24] {
        entry[at..at + 2].copy_from_slice(&DATE.to_le_bytes());
    }
    entry[26..28].copy_from_slice(&cluster.to_le_bytes());
    entry[28..].copy_from_slice(&size.to_le_bytes());
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::guest::fat::Fat;

    #[test]
    fn our_reader_finds_the_programs() {
        let programs = [
            ("BOOTX64.EFI".to_owned(), vec![7; 1_000_001]),
            ("GRUBX64.EFI".to_owned(), vec![8; 512]),
        ];
        let image = image(&programs).unwrap();
        let fat = Fat::open(image.as_slice()).unwrap();
        let files = fat.files().unwrap();
        let found: Vec<_> = files
            .iter()
            .map(|file| (String::from_utf8_lossy(&file.path).into_owned(), file.size))
            .collect();
        let expected = [
            ("EFI".to_owned(), 0),
            ("EFI/BOOT".to_owned(), 0),
            ("EFI/BOOT/BOOTX64.EFI".to_owned(), 1_000_001),
            ("EFI/BOOT/GRUBX64.EFI".to_owned(), 512),
        ];
        let mut found = found;
        found.sort();
        assert_eq!(found, expected);
        let first = files.iter().find(|file| file.size == 1_000_001).unwrap();
        assert!(fat.read(first).unwrap() == vec![7; 1_000_001]);
    }

    #[test]
    fn programs_that_do_not_fit_are_refused() {
        let error = image(&[("A.EFI".to_owned(), vec![0; 9 << 20])]).unwrap_err();
        assert!(error.to_string().contains("9437184 bytes"), "{error}");
    }
}
