//! The FAT file system that UEFI reads boot loaders from: `EFI/BOOT` with some programs.
//! Knows where they lie, not what they do.

use crate::disk::fat16::{CLUSTERS, Fat16, FatEntry, SECTOR, entry, short_name};

/// Programs that the directory has room for, beside the entries for itself and the one above.
const MOST: usize = SECTOR / 32 - 2;
/// Bytes that programs can take: two clusters are directories.
const CAPACITY: usize = (CLUSTERS - 2) * SECTOR;

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
    if bytes > CAPACITY || programs.len() > MOST {
        return Err(EspError::TooLarge { bytes });
    }
    let named = |name: &str, kind, cluster, length| entry(&short_name(name), kind, cluster, length);
    let directory = |name: &str, cluster| named(name, FatEntry::Directory, cluster, 0);
    let mut fat = Fat16::new(b"EFI        ", b"efi ");
    let (efi, boot) = (fat.put(&[0; SECTOR]), fat.put(&[0; SECTOR]));
    let within = [
        directory(".", efi),
        directory("..", 0),
        directory("BOOT", boot),
    ];
    fat.replace(efi, &within.concat());
    let mut within = [directory(".", boot), directory("..", efi)].concat();
    for (name, bytes) in programs {
        let first = fat.put(bytes);
        within.extend(named(name, FatEntry::File, first, bytes.len() as u32));
    }
    fat.replace(boot, &within);
    Ok(fat.finish(&directory("EFI", efi)))
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
