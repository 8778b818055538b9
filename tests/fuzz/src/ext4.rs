//! Bytes as an ext file system: everything that can be reached from its root.

use std::collections::HashSet;

use impasto::disk::guest::ext4::{Ext4, InodeContent};

/// Must never panic, and what it names must lie in the file system.
pub fn run(data: &[u8]) {
    let Ok(fs) = Ext4::open(data) else { return };
    let mut todo = vec![fs.root()];
    let mut seen = HashSet::new();
    while let Some(number) = todo.pop() {
        if !seen.insert(number) {
            continue;
        }
        let Ok(inode) = fs.inode(number) else {
            continue;
        };
        if let Ok(entries) = fs.entries(&inode) {
            assert!(
                entries.len() as u64 <= inode.size / 12,
                "{} names in {} bytes",
                entries.len(),
                inode.size
            );
            todo.extend(entries.iter().map(|entry| entry.inode));
        }
        match fs.content(&inode) {
            Ok(InodeContent::Inline(bytes)) => assert_eq!(bytes.len() as u64, inode.size),
            Ok(InodeContent::Extents(extents)) => {
                let mut last = 0;
                for extent in extents {
                    assert!(
                        extent.length > 0 && extent.offset >= last,
                        "{extent:?} after {last}"
                    );
                    assert!(
                        extent.start + extent.length <= data.len() as u64,
                        "{extent:?} of {}",
                        data.len()
                    );
                    last = extent.offset + extent.length;
                }
                assert!(last <= inode.size, "{last} of {}", inode.size);
            }
            Err(_) => {}
        }
        let _ = fs.target(&inode);
        let _ = fs.xattrs(&inode);
        let _ = fs.blocks_of_map(&inode);
        let _ = fs.blocks_of_xattrs(&inode);
    }
}
