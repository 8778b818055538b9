//! Bytes as a FAT file system: its files and what they hold.

use impasto::disk::guest::fat::Fat;

/// Files that are read of one file system; all may share their clusters.
const PATIENCE: usize = 16;

/// Must never panic, and no file may be larger than the file system.
pub fn run(data: &[u8]) {
    let Ok(fat) = Fat::open(data) else { return };
    let Ok(files) = fat.files() else { return };
    for file in files.iter().take(PATIENCE) {
        assert!(
            !file.path.starts_with(b"/") && !file.path.ends_with(b"/"),
            "{file:?}"
        );
        if let Ok(bytes) = fat.read(file) {
            assert!(
                bytes.len() as u64 == file.size && bytes.len() <= data.len(),
                "{file:?}"
            );
        }
    }
}
