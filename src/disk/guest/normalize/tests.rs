//! Disks of `mke2fs`, changed by `debugfs`: what is normalized, what is left alone.
#![allow(
    clippy::disallowed_methods,
    reason = "tests run mke2fs, debugfs and e2fsck"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::disk::guest::read_layout;

const EPOCH: u64 = 1_700_000_000;

fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A file system with the file `/f`, all of it of a time before the epoch; and one that requests changed.
struct Disks {
    dir: tempfile::TempDir,
    before: Vec<u8>,
}

impl Disks {
    fn new(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        std::fs::write(dir.path().join("f"), "content").unwrap();
        let image_text = image.to_str().unwrap();
        let output = Command::new("mke2fs")
            .args([&["-q", "-F", "-t", "ext4"], options, &[image_text, "8M"]].concat())
            .env("E2FSPROGS_FAKE_TIME", "1600000000")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let disks = Disks {
            before: Vec::new(),
            dir,
        };
        let file = disks.dir.path().join("f");
        disks.debugfs(&[
            &format!("write {} f", file.display()),
            "sif f atime 1600000000",
            "sif f ctime 1600000000",
            "sif f mtime 1600000000",
        ]);
        Disks {
            before: std::fs::read(image).unwrap(),
            ..disks
        }
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn debugfs(&self, requests: &[&str]) -> Vec<u8> {
        let script = self.dir.path().join("requests");
        std::fs::write(&script, requests.join("\n")).unwrap();
        tool(
            "debugfs",
            &[
                "-w",
                "-f",
                script.to_str().unwrap(),
                self.image().to_str().unwrap(),
            ],
        );
        std::fs::read(self.image()).unwrap()
    }

    /// The disk after requests, normalized and checked.
    fn settled(&self, requests: &[&str]) -> (Vec<u8>, Vec<Patch>) {
        let mut after = self.debugfs(requests);
        let patches = patches(&self.before, &after, EPOCH, &|_| true);
        apply(&mut after, &patches);
        std::fs::write(self.image(), &after).unwrap();
        check(&self.image());
        (after, patches)
    }

    fn stat(&self, file: &str) -> String {
        tool(
            "debugfs",
            &[
                "-R",
                &format!("stat {file}"),
                self.image().to_str().unwrap(),
            ],
        )
    }
}

fn check(image: &Path) {
    tool("e2fsck", &["-fn", image.to_str().unwrap()]);
}

fn patches(
    before: &[u8],
    after: &[u8],
    epoch: u64,
    is_present: &dyn Fn(u64) -> bool,
) -> Vec<Patch> {
    let layout = read_layout(after).unwrap();
    Normalizer {
        before,
        after,
        layout: &layout,
        mounted: &[0],
        is_present,
        epoch,
        kept: &BTreeSet::new(),
    }
    .patches()
    .unwrap()
}

fn apply(disk: &mut [u8], patches: &[Patch]) {
    for (at, bytes) in patches {
        disk[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
    }
}

#[test]
fn what_changed_is_brought_to_the_epoch() {
    let disks = Disks::new(&[]);
    let late = [
        "sif f mtime @2000000000",
        "sif f mtime_extra 123456789",
        "sif f ctime 2100000000",
        "sif f mode 0100600",
    ];
    let (_, found) = disks.settled(&late);
    assert_eq!(found.len(), 1, "only the file's inode");
    let stat = disks.stat("f");
    assert!(
        stat.contains(" ctime: 0x6553f100:00000000")
            && stat.contains(" mtime: 0x6553f100:00000000"),
        "{stat}"
    );
    assert!(
        stat.contains(" atime: 0x5f5e1000:"),
        "an earlier time stays: {stat}"
    );
}

#[test]
fn what_only_the_kernel_sees_is_as_before() {
    let disks = Disks::new(&[]);
    let (after, _) = disks.settled(&[
        "sif f ctime 1650000000",
        "sif f version 7",
        "ssv mnt_count 9",
        "ssv wtime 1999999999",
        "ssv mtime 1",
    ]);
    let differs: Vec<_> = (0..after.len())
        .filter(|at| after[*at] != disks.before[*at])
        .collect();
    assert_eq!(differs, [] as [usize; 0]);
}

#[test]
fn what_the_kernel_drew_becomes_zero() {
    let disks = Disks::new(&[]);
    disks.settled(&["sif f generation 77", "sif f version 5"]);
    let stat = disks.stat("f");
    assert!(
        stat.contains("Generation: 0 ") && stat.contains("Version: 0x00000000:00000000"),
        "{stat}"
    );
}

#[test]
fn a_generation_whose_checksums_are_not_right_stays() {
    let disks = Disks::new(&[]);
    // debugfs leaves the checksums of the directory's blocks as they are.
    let mut after = disks.debugfs(&["sif lost+found generation 77"]);
    let found = patches(&disks.before, &after, EPOCH, &|_| true);
    assert!(
        found.iter().all(|(_, bytes)| bytes.len() == 256),
        "{found:?}"
    );
    apply(&mut after, &found);
    std::fs::write(disks.image(), &after).unwrap();
    assert!(disks.stat("lost+found").contains("Generation: 77"));
}

#[test]
fn deleted_files_leave_no_inode() {
    let disks = Disks::new(&[]);
    let (after, found) = disks.settled(&["rm f", "sif <13> dtime 1800000000"]);
    let ext = Superblock::read(after.as_slice()).unwrap().unwrap();
    let groups = ext.read_groups(after.as_slice()).unwrap();
    let at = (groups[0].inode_table * ext.block_size + 11 * ext.inode_size) as usize;
    assert!(after[at..at + 256].iter().all(|byte| *byte == 0) && !found.is_empty());
}

#[test]
fn nothing_is_patched_outside_of_what_may_differ() {
    let disks = Disks::new(&[]);
    let after = disks.debugfs(&["sif f mtime 2000000000", "ssv mnt_count 3"]);
    assert_eq!(patches(&disks.before, &after, EPOCH, &|_| false), []);
    for (at, bytes) in patches(&disks.before, &after, EPOCH, &|chunk| chunk == 0) {
        assert!(at + bytes.len() as u64 <= CHUNK as u64);
    }
}

#[test]
fn another_file_system_before_is_no_before() {
    let (disks, other) = (Disks::new(&[]), Disks::new(&["-b", "1024"]));
    let mut after = other.before.clone();
    let found = patches(&disks.before, &after, 1_500_000_000, &|_| true);
    assert!(
        found.len() > 2 && found.iter().all(|(at, _)| *at != 1024),
        "the superblock stays"
    );
    apply(&mut after, &found);
    std::fs::write(other.image(), &after).unwrap();
    check(&other.image());
    assert!(other.stat("f").contains(" mtime: 0x59682f00:00000000"));
}

#[test]
fn what_is_not_understood_is_left_alone() {
    let disks = Disks::new(&[]);
    let clean = disks.debugfs(&["sif f mtime 2000000000"]);
    let ext = Superblock::read(clean.as_slice()).unwrap().unwrap();
    let groups = ext.read_groups(clean.as_slice()).unwrap();
    let inode = (groups[0].inode_table * ext.block_size + 11 * ext.inode_size) as usize;
    let bitmap = (groups[0].inode_bitmap * ext.block_size) as usize;
    // A wrong checksum of an inode, a bitmap that contradicts its count, recorded errors, a superblock that is damaged.
    for (at, name) in [
        (inode + 0x20, "inode"),
        (bitmap + 3, "bitmap"),
        (1024 + 0x3a, "state"),
        (1024 + 0x28, "geometry"),
    ] {
        let mut after = clean.clone();
        after[at] ^= 0xff;
        let found = patches(&disks.before, &after, EPOCH, &|_| true);
        assert!(found.iter().all(|(at, _)| *at == 1024), "{name}: {found:?}");
    }
}

#[test]
fn old_inodes_have_no_room_for_late_epochs() {
    let disks = Disks::new(&["-I", "128"]);
    let after = disks.debugfs(&["sif f mtime 2000000000"]);
    assert_eq!(patches(&disks.before, &after, EPOCH, &|_| true).len(), 1);
    assert_eq!(patches(&disks.before, &after, 5_000_000_000, &|_| true), []);
    disks.settled(&["sif f mtime 2000000000"]);
    assert!(disks.stat("f").contains("mtime: 0x6553f100"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_bytes_make_it_panic(changes in prop::collection::vec((0usize..0x20000, any::<u8>()), 1..40), fix in any::<bool>()) {
        static DISKS: std::sync::OnceLock<(Vec<u8>, Vec<u8>)> = std::sync::OnceLock::new();
        let (before, after) = DISKS.get_or_init(|| {
            let disks = Disks::new(&["-O", "^metadata_csum"]);
            let after = disks.debugfs(&["sif f mtime 2000000000"]);
            (disks.before, after)
        });
        let mut after = after.clone();
        for (at, byte) in changes {
            // The superblock is hit often: it decides about everything else.
            let at = if fix { 1024 + at % 1024 } else { at };
            after[at] = byte;
        }
        patches(before, &after, EPOCH, &|_| true);
        patches(&after, before, EPOCH, &|_| true);
    }
}
