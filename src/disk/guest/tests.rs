//! Disks made by the usual tools, read by ours; and disks that nobody should make.
#![allow(clippy::disallowed_methods, reason = "tests run sfdisk and mkfs")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;

use super::*;

const UUID: &str = "7d1f4a66-1b2c-4d3e-8f90-a1b2c3d4e5f6";
const MIB: u64 = 1 << 20;

struct Disk {
    dir: tempfile::TempDir,
    path: PathBuf,
}

pub(super) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("cannot start {program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

impl Disk {
    fn new(mib: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        File::create(&path).unwrap().set_len(mib * MIB).unwrap();
        Self { dir, path }
    }

    fn text(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn table(self, script: &str) -> Self {
        let file = self.dir.path().join("table");
        fs::write(&file, script).unwrap();
        let line = format!(
            "sfdisk -q --no-reread --no-tell-kernel '{}' < '{}'",
            self.text(),
            file.display()
        );
        run("sh", &["-c", &line]);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    fn layout(&self) -> DiskLayout {
        read_layout(&DiskFile::new(File::open(&self.path).unwrap()).unwrap()).unwrap()
    }
}

fn mke2fs(path: &Path, kind: &str, more: &[&str]) {
    run(
        "mke2fs",
        &[
            &["-q", "-F", "-t", kind, "-L", "my label", "-U", UUID],
            more,
            &[path.to_str().unwrap()],
        ]
        .concat(),
    );
}

fn gpt() -> Disk {
    Disk::new(64).table(
        "label: gpt\nlabel-id: 6A3B2C1D-0000-4000-8000-000000000001\n\
         start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649, name=bios\n\
         start=4096, size=8192, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=6A3B2C1D-0000-4000-8000-000000000012\n\
         4: start=16384, size=65536, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=Wurzel-ä\n",
    )
}

#[test]
fn a_gpt_is_read_as_sfdisk_wrote_it() {
    let layout = gpt().layout();
    let table = PartitionTable::Gpt {
        guid: "6a3b2c1d-0000-4000-8000-000000000001".to_owned(),
        from_backup: false,
    };
    assert_eq!(layout.table, table);
    let numbers: Vec<_> = layout
        .partitions
        .iter()
        .map(|p| (p.number, p.start / SECTOR, p.size / SECTOR))
        .collect();
    assert_eq!(
        numbers,
        [(1, 2048, 2048), (2, 4096, 8192), (4, 16384, 65536)]
    );
    assert_eq!(
        layout.partitions[1].uuid,
        "6a3b2c1d-0000-4000-8000-000000000012"
    );
    assert_eq!(layout.partitions[2].name.as_deref(), Some("Wurzel-ä"));
    let root = PartitionKind::Guid("4f68bce3-e8cd-4db1-96e7-fbcaf984b709".to_owned());
    assert_eq!(layout.partitions[2].kind, root);
}

#[test]
fn a_damaged_gpt_is_read_from_its_backup() {
    let disk = gpt();
    let good = disk.layout();
    // A byte of the header, and one of the entries.
    for at in [512 + 60, 1024 + 200] {
        let mut bytes = disk.bytes();
        bytes[at] ^= 1;
        let layout = read_layout(bytes.as_slice()).unwrap();
        assert!(
            matches!(
                layout.table,
                PartitionTable::Gpt {
                    from_backup: true,
                    ..
                }
            ),
            "{at}"
        );
        assert_eq!(layout.partitions, good.partitions, "{at}");
        let backup = bytes.len() - 512 + 60;
        bytes[backup] ^= 1;
        let both = read_layout(bytes.as_slice()).unwrap();
        assert_eq!(
            (both.table, both.partitions.len()),
            (PartitionTable::None, 0),
            "{at}: the protective MBR is no table"
        );
    }
}

#[test]
fn an_mbr_is_read_with_its_logical_partitions() {
    let disk = Disk::new(64).table(
        "label: dos\nlabel-id: 0x1234abcd\n1: start=2048, size=4096, type=83\n2: start=8192, size=100000, type=f\n\
         5: start=10240, size=2048, type=83\n6: start=20480, size=4096, type=82\n7: start=30720, size=2048, type=83\n",
    );
    let layout = disk.layout();
    assert_eq!(
        layout.table,
        PartitionTable::Mbr {
            signature: 0x1234_abcd
        }
    );
    let found: Vec<_> = layout
        .partitions
        .iter()
        .map(|p| (p.number, p.start / SECTOR, p.size / SECTOR))
        .collect();
    assert_eq!(
        found,
        [
            (1, 2048, 4096),
            (5, 10240, 2048),
            (6, 20480, 4096),
            (7, 30720, 2048)
        ]
    );
    assert_eq!(layout.partitions[1].uuid, "1234abcd-05");
    assert_eq!(layout.partitions[2].kind, PartitionKind::Mbr(0x82));
}

#[test]
fn a_chain_of_logical_partitions_that_goes_back_ends() {
    let disk = Disk::new(64).table(
        "label: dos\n1: start=8192, size=100000, type=f\n5: start=10240, size=2048, type=83\n6: start=20480, size=4096\n",
    );
    let mut bytes = disk.bytes();
    // The second table's link leads to the first.
    let second = (20480 - 2048) * 512;
    bytes[second + 446 + 16 + 4] = 5;
    bytes[second + 446 + 16 + 8..second + 446 + 16 + 16].copy_from_slice(&[0, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(read_layout(bytes.as_slice()).unwrap().partitions.len(), 2);
}

#[test]
fn ext_file_systems_are_told_apart() {
    for (kind, expected) in [
        ("ext2", FsKind::Ext2),
        ("ext3", FsKind::Ext3),
        ("ext4", FsKind::Ext4),
    ] {
        let disk = Disk::new(8);
        mke2fs(&disk.path, kind, &["-b", "1024"]);
        let expected = FileSystem {
            kind: expected,
            uuid: Some(UUID.to_owned()),
            label: Some("my label".to_owned()),
            block_size: Some(1024),
            dirty: None,
        };
        let layout = disk.layout();
        assert_eq!(
            (layout.table, layout.bare),
            (PartitionTable::None, Some(expected))
        );
    }
}

#[test]
fn an_ext_file_system_tells_what_is_wrong_with_it() {
    let disk = Disk::new(8);
    mke2fs(&disk.path, "ext4", &[]);
    let dirty = |at: usize, value: u8| {
        let mut bytes = disk.bytes();
        bytes[1024 + at] = value;
        read_file_system(bytes.as_slice()).unwrap().unwrap().dirty
    };
    let incompat = disk.bytes()[1024 + 0x60];
    assert_eq!(dirty(0x3a, 1), None);
    assert_eq!(dirty(0x3a, 0).as_deref(), Some("was not unmounted"));
    assert_eq!(dirty(0x3a, 3).as_deref(), Some("has 0 recorded errors"));
    assert_eq!(dirty(0x194, 5).as_deref(), Some("has 5 recorded errors"));
    assert_eq!(
        dirty(0x60, incompat | 4).as_deref(),
        Some("has a journal to replay")
    );
}

#[test]
fn fat_and_swap_are_known() {
    for (bits, mib) in [("12", 4), ("16", 32), ("32", 64)] {
        let disk = Disk::new(mib);
        run(
            "mkfs.vfat",
            &["-F", bits, "-i", "1234abcd", "-n", "ESP", disk.text()],
        );
        let fs = disk.layout().bare.unwrap();
        let found = (fs.kind, fs.uuid.as_deref(), fs.label.as_deref());
        assert_eq!(
            found,
            (FsKind::Vfat, Some("1234-ABCD"), Some("ESP")),
            "FAT{bits}"
        );
    }
    let disk = Disk::new(4);
    run("mkswap", &["-q", "-U", UUID, "-L", "swap", disk.text()]);
    let fs = disk.layout().bare.unwrap();
    assert_eq!(
        (fs.kind, fs.uuid.as_deref(), fs.label.as_deref()),
        (FsKind::Swap, Some(UUID), Some("swap"))
    );
}

/// A blank disk with bytes at offsets.
fn patched(patches: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 256 << 10];
    for (at, patch) in patches {
        bytes[*at..*at + patch.len()].copy_from_slice(patch);
    }
    bytes
}

#[test]
fn what_no_tool_here_makes_is_known_by_its_magic() {
    let uuid: [u8; 16] = std::array::from_fn(|index| index as u8);
    let text = "00010203-0405-0607-0809-0a0b0c0d0e0f";
    let md = [&[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0], &[0; 8][..], &uuid].concat();
    let md_old = [0xfc, 0x4e, 0x2b, 0xa9, 0, 0, 0, 0];
    let size = 256 << 10;
    let cases = [
        (
            patched(&[(0, b"XFSB\0\0\x10\0"), (32, &uuid), (108, b"data")]),
            FsKind::Xfs,
            Some(text),
        ),
        (
            patched(&[
                (65600, b"_BHRfS_M"),
                (65568, &uuid),
                (65536 + 0x12b, b"pool"),
            ]),
            FsKind::Btrfs,
            Some(text),
        ),
        (
            patched(&[(0, b"LUKS\xba\xbe\0\x02"), (168, text.as_bytes())]),
            FsKind::Luks,
            Some(text),
        ),
        (
            patched(&[(512, b"LABELONE"), (536, b"LVM2 001"), (544, b"abc")]),
            FsKind::Lvm2,
            Some("abc"),
        ),
        (patched(&[(4096, &md)]), FsKind::Md, Some(text)),
        (patched(&[(0, &md)]), FsKind::Md, Some(text)),
        (patched(&[(size - 8192, &md)]), FsKind::Md, Some(text)),
        (patched(&[(size - 65536, &md_old)]), FsKind::Md, None),
    ];
    for (bytes, kind, uuid) in cases {
        let fs = read_file_system(bytes.as_slice())
            .unwrap()
            .unwrap_or_else(|| panic!("{kind}"));
        assert_eq!((fs.kind, fs.uuid.as_deref()), (kind, uuid));
    }
    assert_eq!(read_file_system(patched(&[]).as_slice()).unwrap(), None);
}

#[test]
fn unused_blocks_are_those_that_the_file_system_calls_free() {
    for (options, mib) in [
        (&["-b", "1024"][..], 40),
        (&["-b", "4096"], 200),
        (&["-b", "1024", "-O", "^64bit"], 40),
    ] {
        let disk = Disk::new(mib);
        let tree = disk.dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        for index in 0..200 {
            fs::write(tree.join(index.to_string()), vec![b'x'; index * 97]).unwrap();
        }
        let journal = ["-E", "lazy_itable_init=0", "-d", tree.to_str().unwrap()];
        mke2fs(&disk.path, "ext4", &[options, &journal].concat());
        let text = run("dumpe2fs", &[disk.text()]);
        let number = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        let field = |name: &str| number(text.lines().find(|line| line.starts_with(name)).unwrap());
        let (free, block) = (field("Free blocks:"), field("Block size:"));
        let untouched: u64 = groups_without_bitmap(&text);
        let journal = field("Total journal blocks:").min(field("Total journal blocks:")) - 1;
        let found = unused(&DiskFile::new(File::open(&disk.path).unwrap()).unwrap()).unwrap();
        let bytes: u64 = found.iter().map(|range| range.end - range.start).sum();
        assert_eq!(bytes / block, free - untouched + journal, "{options:?}");
        assert!(
            found.windows(2).all(|pair| pair[0].end < pair[1].start),
            "{options:?}"
        );

        // Nothing is lost with them.
        let mut bytes = disk.bytes();
        for range in &found {
            bytes[range.start as usize..range.end as usize].fill(0xaa);
        }
        fs::write(&disk.path, bytes).unwrap();
        run("e2fsck", &["-fn", disk.text()]);
        let content = run("debugfs", &["-R", "cat /199", disk.text()]);
        assert!(content.len() == 199 * 97 && content.bytes().all(|byte| byte == b'x'));
    }
}

/// Free blocks of groups whose bitmap was never written.
fn groups_without_bitmap(dump: &str) -> u64 {
    let mut uninit = false;
    let mut sum = 0;
    for line in dump.lines().map(str::trim) {
        if line.starts_with("Group ") {
            uninit = line.contains("BLOCK_UNINIT");
        } else if let Some((count, _)) = line.split_once(" free blocks,")
            && uninit
        {
            sum += count.parse::<u64>().unwrap();
        }
    }
    sum
}

#[test]
fn a_file_system_that_is_not_clean_has_no_unused_blocks() {
    let disk = Disk::new(8);
    mke2fs(&disk.path, "ext4", &[]);
    let mut bytes = disk.bytes();
    assert!(!unused(bytes.as_slice()).unwrap().is_empty());
    bytes[1024 + 0x3a] = 0;
    assert_eq!(unused(bytes.as_slice()).unwrap(), []);
}

#[test]
fn a_bitmap_that_disagrees_with_its_count_is_left_alone() {
    let disk = Disk::new(8);
    mke2fs(&disk.path, "ext4", &["-b", "4096", "-O", "^64bit"]);
    let mut bytes = disk.bytes();
    let journal_only = {
        // Free blocks of group 0, whose descriptor begins the second block.
        bytes[4096 + 12] ^= 1;
        unused(bytes.as_slice()).unwrap()
    };
    let all: u64 = unused(disk.bytes().as_slice())
        .unwrap()
        .iter()
        .map(|range| range.end - range.start)
        .sum();
    let journal: u64 = journal_only
        .iter()
        .map(|range| range.end - range.start)
        .sum();
    assert!(journal < 5 * MIB && all > journal, "{journal} {all}");
}

fn layout_of(partitions: &[(u32, Option<FsKind>, &str)]) -> DiskLayout {
    let fs = |kind| FileSystem {
        kind,
        uuid: None,
        label: Some("L".to_owned()),
        block_size: None,
        dirty: None,
    };
    let partition = |&(number, kind, guid): &(u32, Option<FsKind>, &str)| Partition {
        number,
        start: 0,
        size: MIB,
        kind: PartitionKind::Guid(guid.to_owned()),
        uuid: String::new(),
        name: None,
        fs: kind.map(fs),
    };
    DiskLayout {
        table: PartitionTable::None,
        partitions: partitions.iter().map(partition).collect(),
        bare: None,
    }
}

#[test]
fn the_root_is_chosen_by_type_then_by_looking() {
    let root = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
    let root = if cfg!(target_arch = "aarch64") {
        "b921b045-1df0-41c3-af44-4c6f280d3fae"
    } else {
        root
    };
    let choose = |partitions: &[_]| {
        choose_root(&layout_of(partitions), &RootSelector::Auto).map_err(|e| e.to_string())
    };
    let (ext4, vfat) = (Some(FsKind::Ext4), Some(FsKind::Vfat));
    assert_eq!(
        choose(&[(1, ext4, ""), (2, ext4, root)]),
        Ok(RootChoice::Partition(2))
    );
    assert_eq!(
        choose(&[(1, ext4, root), (2, ext4, root)]),
        Ok(RootChoice::Probe(vec![1, 2]))
    );
    assert_eq!(
        choose(&[(1, vfat, ""), (2, Some(FsKind::Xfs), ""), (3, ext4, "")]),
        Ok(RootChoice::Probe(vec![2, 3]))
    );
    let luks = "partition 2 is a LUKS container, which cannot be used as a root";
    assert_eq!(
        choose(&[(1, vfat, ""), (2, Some(FsKind::Luks), "")]),
        Err(luks.to_owned())
    );
    let lvm = "partition 1 is a LVM2 physical volume, which cannot be used as a root";
    assert_eq!(
        choose(&[(1, Some(FsKind::Lvm2), root)]),
        Err(lvm.to_owned())
    );
    let nothing = "the disk has no file system that can be the root; it has 1 (vfat LABEL=L), 2 (nothing known)";
    assert_eq!(
        choose(&[(1, vfat, ""), (2, None, "")]),
        Err(nothing.to_owned())
    );
    let two = layout_of(&[(1, ext4, ""), (2, ext4, "")]);
    let error = choose_root(&two, &RootSelector::Label("L".to_owned()))
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "several file systems match root = LABEL=L: 1 (ext4 LABEL=L), 2 (ext4 LABEL=L)"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Flips and overwrites in the places that are parsed: no panic, and nothing that lies outside of the disk.
    #[test]
    fn damage_is_survived(
        which in 0..2_usize,
        damage in prop::collection::vec((0..6_usize, 0..4096_usize, prop::array::uniform4(any::<u8>())), 1..20),
    ) {
        use std::sync::OnceLock;
        static DISKS: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
        let disks = DISKS.get_or_init(|| {
            let ext = Disk::new(8);
            mke2fs(&ext.path, "ext4", &["-b", "1024"]);
            let dos = "label: dos\n1: start=8, size=6000, type=f\n5: start=100, size=200\n6: start=400, size=500\n";
            [ext.bytes(), Disk::new(8).table(dos).bytes()]
        });
        let mut bytes = disks[which].clone();
        let length = bytes.len();
        for (area, offset, value) in damage {
            let at = [0, 1024, 2048, 36 * 512, 300 * 512, length - 4096][area] + offset;
            let end = (at + 4).min(length);
            bytes[at.min(end)..end].copy_from_slice(&value[..end - at.min(end)]);
        }
        let layout = read_layout(bytes.as_slice()).unwrap();
        for partition in &layout.partitions {
            prop_assert!(partition.start + partition.size <= length as u64);
        }
        let found = unused(bytes.as_slice()).unwrap();
        prop_assert!(found.iter().all(|range| range.start < range.end && range.end <= length as u64));
    }

    #[test]
    fn random_disks_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..20_000)) {
        read_layout(bytes.as_slice()).unwrap();
        unused(bytes.as_slice()).unwrap();
    }
}
