//! Makes ext4 file systems inside the raw disk, through `mke2fs -d`: no mount, no loop device.
//! Knows mke2fs' options and how much space a tree needs; the times of its inodes are `ext4_times`' business.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::error::AssembleError;
use super::ext4_times;
use super::partitions::{DiskIdentity, PlannedPartition};
use super::tool::Tool;
use super::tree::TreeAccess;

const BLOCK: u64 = 4096;
const INODE_SIZE: u64 = 256;
const BYTES_PER_INODE: u64 = 16384;
const BLOCKS_PER_GROUP: u64 = 8 * BLOCK;
const DESCRIPTOR_SIZE: u64 = 64;

/// Size of a file system that takes next to nothing, in bytes. Smaller ones are not reckoned.
pub(super) const SMALLEST: u64 = 16 << 20;

/// Every feature, so that neither the toolbox's e2fsprogs nor its configuration decides. What newer ones add by
/// default (orphan_file, metadata_csum_seed), GRUB 2.06 does not read.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                        large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// What cannot be said on the command line.
const CONFIG: &str = "[defaults]\n\tdefault_mntopts = acl,user_xattr\n\tenable_periodic_fsck = 0\n";

/// Makes a file system in a partition of `disk`, with the files of `directory` where one is given.
///
/// # Errors
/// mke2fs fails, or a file.
pub(super) fn make(
    disk: &Path,
    part: &PlannedPartition,
    label: Option<&str>,
    directory: Option<&Path>,
    epoch: u64,
    work: &Path,
) -> Result<(), AssembleError> {
    let DiskIdentity::Uuid { uuid, hash_seed } = part.identity else {
        panic!("BUG: an ext4 without UUID")
    };
    let config = work.join("mke2fs.conf");
    fs::write(&config, CONFIG).map_err(AssembleError::io("write", &config))?;
    let extended = format!(
        "offset={},hash_seed={hash_seed},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard",
        part.start
    );
    let (block, inode, ratio) = (
        BLOCK.to_string(),
        INODE_SIZE.to_string(),
        BYTES_PER_INODE.to_string(),
    );
    let journal = format!("size={}", journal_mib(part.size));
    // Zero would mean the real time.
    let now = epoch.max(1).to_string();
    let tool = Tool::new("mke2fs", epoch)
        .env("MKE2FS_CONFIG", &config)
        .env("E2FSPROGS_FAKE_TIME", now);
    let tool = tool.args([
        "-q", "-F", "-O", FEATURES, "-b", &block, "-I", &inode, "-i", &ratio, "-G", "16", "-m", "1",
    ]);
    let tool = tool.args([
        "-J",
        &journal,
        "-U",
        &uuid.to_string(),
        "-L",
        label.unwrap_or_default(),
        "-E",
        &extended,
    ]);
    let (tool, root) = match directory {
        Some(directory) => {
            let meta =
                fs::symlink_metadata(directory).map_err(AssembleError::io("examine", directory))?;
            let access = TreeAccess {
                uid: meta.uid(),
                gid: meta.gid(),
                mode: meta.mode() & 0o7777,
            };
            (tool.arg("-d").arg(directory), access)
        }
        None => (tool, TreeAccess::root(0o755)),
    };
    tool.arg(disk).arg((part.size / BLOCK).to_string()).run()?;
    let io = |verb| AssembleError::io(verb, disk);
    let file = File::options()
        .read(true)
        .write(true)
        .open(disk)
        .map_err(io("open"))?;
    ext4_times::normalize(&file, part.start, epoch, root).map_err(io("write"))
}

/// Size of the journal in MiB: mke2fs' own choice, which has changed over time.
fn journal_mib(size: u64) -> u64 {
    match size >> 20 {
        0..512 => 4,
        512..1024 => 16,
        1024..2048 => 32,
        _ => 64,
    }
}

/// What a tree takes in a file system.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct TreeUsage {
    blocks: u64,
    inodes: u64,
}

impl TreeUsage {
    /// Counts a tree: each file once, however many names it has.
    pub(super) fn of(tree: &Path) -> Result<TreeUsage, AssembleError> {
        let mut content = TreeUsage::default();
        let mut linked = HashSet::new();
        let mut left = vec![tree.to_owned()];
        while let Some(directory) = left.pop() {
            let mut names = 0;
            for entry in fs::read_dir(&directory).map_err(AssembleError::io("list", &directory))? {
                let entry = entry.map_err(AssembleError::io("list", &directory))?;
                let meta = entry
                    .metadata()
                    .map_err(AssembleError::io("examine", entry.path()))?;
                names += 8 + (entry.file_name().len() as u64).next_multiple_of(4);
                if meta.is_dir() {
                    left.push(entry.path());
                    continue;
                }
                if meta.nlink() > 1 && !linked.insert(meta.ino()) {
                    continue;
                }
                content.inodes += 1;
                // The target of a short link is in its inode.
                if meta.is_file() || meta.len() >= 60 {
                    content.blocks += meta.len().div_ceil(BLOCK);
                }
            }
            content.inodes += 1;
            content.blocks += (names + 64).div_ceil(BLOCK);
        }
        Ok(content)
    }

    /// Bytes of its files and directories.
    pub(super) fn bytes(self) -> u64 {
        self.blocks * BLOCK
    }

    /// Size of the smallest file system that takes it, in whole MiB as bytes; a little more than mke2fs demands.
    pub(super) fn needs(self) -> u64 {
        // Extents of large and scattered files, and directories' checksums.
        let blocks = self.blocks + self.blocks / 200 + 64;
        let mut size = SMALLEST;
        loop {
            let inodes = size / BYTES_PER_INODE;
            if size >= blocks * BLOCK + overhead(size) && inodes > self.inodes + 16 {
                return size;
            }
            // Steps of 2 % keep the loop short and the answer close.
            size = (size + size / 50).next_multiple_of(1 << 20);
        }
    }
}

/// Bytes that a file system of this size keeps for itself.
fn overhead(size: u64) -> u64 {
    let groups = size.div_ceil(BLOCKS_PER_GROUP * BLOCK);
    let descriptors = (groups * DESCRIPTOR_SIZE).div_ceil(BLOCK);
    // mke2fs leaves room to grow a thousandfold.
    let reserved = (descriptors * 1024).min(BLOCK / 4);
    let copies = (0..groups).filter(|group| has_superblock(*group)).count() as u64;
    let tables = size / BYTES_PER_INODE * INODE_SIZE + groups * 2 * BLOCK;
    tables + copies * (1 + descriptors + reserved) * BLOCK + (journal_mib(size) << 20)
}

/// Whether a group has a copy of the superblock: 0, 1, and powers of 3, 5 and 7.
fn has_superblock(group: u64) -> bool {
    let power_of = |base: u64| {
        std::iter::successors(Some(base), |power| power.checked_mul(base)).find(|p| *p >= group)
    };
    group <= 1
        || [3, 5, 7]
            .into_iter()
            .any(|base| power_of(base) == Some(group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks_are_copied_sparsely() {
        let groups: Vec<u64> = (0..50).filter(|group| has_superblock(*group)).collect();
        assert_eq!(groups, [0, 1, 3, 5, 7, 9, 25, 27, 49]);
    }

    #[test]
    fn what_is_needed_grows_with_files_and_with_names() {
        let bytes = |blocks, inodes| TreeUsage { blocks, inodes }.needs();
        assert!(bytes(1, 1) <= 16 << 20);
        assert!(bytes(1 << 17, 1) > 512 << 20);
        assert!(bytes(1 << 17, 1) < 600 << 20);
        assert!(bytes(1, 1 << 17) >= 2 << 30);
    }
}
