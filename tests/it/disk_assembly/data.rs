//! Partitions for data: one that takes the rest of the disk, and file systems that are made empty.

use std::thread::sleep;
use std::time::Duration;

use super::*;

/// An xfs, a btrfs and, behind both and the root, an ext4 that takes the rest.
fn with_data() -> DiskSpec {
    let sized = |name, fs, mount, size| PartitionSpec {
        size,
        ..partition(name, Some(fs), Some(mount))
    };
    DiskSpec {
        size: 640 * MIB,
        partitions: vec![
            sized("data", ExtraFileSystem::Ext4, "/srv/data", None),
            sized("db", ExtraFileSystem::Xfs, "/var/db", Some(320 * MIB)),
            sized("pool", ExtraFileSystem::Btrfs, "/pool", Some(160 * MIB)),
        ],
        root_size: Some(64 * MIB),
        ..spec()
    }
}

/// A copy of one partition.
fn part(disk: &Disk, role: Role) -> PathBuf {
    let layout = disk.spec.layout().unwrap();
    let placed = layout.iter().find(|placed| placed.role == role).unwrap();
    let path = disk.work.path().join(format!("{role:?}"));
    let mut bytes = vec![0; usize::try_from(placed.size).unwrap()];
    let file = File::open(&disk.path).unwrap();
    file.read_exact_at(&mut bytes, placed.start).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn xfs_and_btrfs_have_the_same_bytes_each_time() {
    let tree = tree();
    let tar = pack(tree.path());
    let first = make(&with_data(), &tar).unwrap();
    // Their programs take the time in seconds.
    sleep(Duration::from_millis(1100));
    assert_eq!(first.hash(), make(&with_data(), &tar).unwrap().hash());
    let reordered = make_in_order(&with_data(), &tar, true).unwrap();
    for index in [1, 2] {
        let bytes = |disk| fs::read(part(disk, Role::Extra(index))).unwrap();
        assert!(
            bytes(&first) == bytes(&reordered),
            "another order of directories: {index}"
        );
    }
    let seed = "another".to_owned();
    let other = make(
        &DiskSpec {
            seed,
            ..with_data()
        },
        &tar,
    )
    .unwrap();

    let layout = read_layout(&DiskFile::new(File::open(&first.path).unwrap()).unwrap()).unwrap();
    let found = layout.partitions.iter().filter_map(|one| {
        let fs = one.fs.as_ref()?;
        Some((one.number, one.start / MIB, fs.kind, fs.label.as_deref()?))
    });
    let expected = [
        (2, 2, FsKind::Vfat, "ESP"),
        (3, 562, FsKind::Ext4, "DATA"),
        (4, 18, FsKind::Xfs, "DB"),
        (5, 338, FsKind::Btrfs, "POOL"),
        (6, 498, FsKind::Ext4, "root"),
    ];
    assert_eq!(found.collect::<Vec<_>>(), expected);

    let xfs = part(&first, Role::Extra(1));
    let xfs = xfs.to_str().unwrap();
    tool("xfs_repair", &["-n", "-f", xfs]);
    let root = tool(
        "xfs_db",
        &[
            "-f",
            "-r",
            "-c",
            "sb",
            "-c",
            "addr rootino",
            "-c",
            "print",
            xfs,
        ],
    );
    let field = |name: &str| {
        let line = root.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("{name}: {root}")).to_owned()
    };
    for name in ["v3.crtime.sec", "core.mtime.sec", "core.atime.sec"] {
        assert!(field(name).ends_with("Tue Nov 14 22:13:20 2023"), "{root}");
    }
    assert_eq!(field("core.gen"), "core.gen = 1");

    let btrfs = part(&first, Role::Extra(2));
    let btrfs = btrfs.to_str().unwrap();
    tool("btrfs", &["check", "--readonly", btrfs]);
    let dump = tool("btrfs", &["inspect-internal", "dump-tree", btrfs]);
    let times: Vec<_> = dump
        .lines()
        .map(str::trim)
        .filter(|line| {
            ["atime ", "ctime ", "mtime ", "otime "]
                .iter()
                .any(|at| line.starts_with(at))
        })
        .filter(|line| !line.contains(" 0.0 "))
        .collect();
    assert!(times.len() >= 4, "{dump}");
    let wrong = times.iter().find(|line| !line.contains("1700000000.0"));
    assert_eq!(wrong, None);
    // Two disks with the same UUID of a device cannot be in one machine.
    let other = part(&other, Role::Extra(2));
    let own = |path: &str, name: &str| {
        let dump = tool("btrfs", &["inspect-internal", "dump-super", path]);
        let line = dump.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("{name}: {dump}")).to_owned()
    };
    for name in ["fsid", "dev_item.uuid"] {
        let (one, two) = (own(btrfs, name), own(other.to_str().unwrap(), name));
        assert_ne!(one, two);
    }
}

#[test]
fn what_the_kernel_writes_into_them_stays() {
    let tree = tree();
    let disk = make(&with_data(), &pack(tree.path())).unwrap();
    for role in [Role::Extra(1), Role::Extra(2)] {
        let image = part(&disk, role);
        let mount = tempfile::tempdir().unwrap();
        let point = mount.path().to_str().unwrap();
        let attach = || tool("mount", &["-o", "loop", image.to_str().unwrap(), point]);
        attach();
        fs::write(mount.path().join("file"), vec![7; 3 << 20]).unwrap();
        tool("umount", &[point]);
        attach();
        let read = fs::read(mount.path().join("file")).unwrap();
        tool("umount", &[point]);
        assert_eq!(read, vec![7; 3 << 20], "{role:?}");
    }
}

#[test]
fn the_partition_that_takes_the_rest_grows() {
    let tree = tree();
    let disk = make(&with_data(), &pack(tree.path())).unwrap();
    let fstab = disk.cat("/etc/fstab");
    let line = |mount: &str| {
        let line = fstab.lines().find(|line| line.contains(mount)).unwrap();
        line.split_once(' ').unwrap().1.to_owned()
    };
    assert_eq!(line(" / "), "/ ext4 errors=remount-ro 0 1");
    let expected = "/srv/data ext4 defaults,x-systemd.growfs 0 2";
    assert_eq!(line("/srv/data"), expected);
    assert_eq!(line("/var/db"), "/var/db xfs defaults 0 0");
    assert_eq!(line("/pool"), "/pool btrfs defaults 0 0");
    let kind = "0fc63daf-8483-4772-8e79-3d69d8477de4";
    let file = disk.cat("/etc/repart.d/50-data-000-data.conf");
    assert_eq!(file, format!("[Partition]\nType={kind}\n"));
    assert!(!disk.debugfs("ls /etc/repart.d").contains("root.conf"));

    // Without systemd-repart, a unit of its own.
    fs::remove_file(tree.path().join("usr/bin/systemd-repart")).unwrap();
    fs::write(tree.path().join("usr/bin/growpart"), "").unwrap();
    let disk = make(&with_data(), &pack(tree.path())).unwrap();
    let unit = disk.cat("/etc/systemd/system/impasto-grow-data.service");
    assert!(
        unit.contains("Before=systemd-growfs@srv-data.service\n"),
        "{unit}"
    );
    assert!(unit.contains("RequiresMountsFor=/srv/data\n"), "{unit}");
    let script = disk.cat("/usr/lib/impasto/grow-data");
    assert!(script.contains("findmnt -no SOURCE /srv/data"), "{script}");
}

#[test]
fn what_does_not_fit_says_what_to_enlarge() {
    let large = |path: &'static str| {
        refusal(move |tree, spec| {
            *spec = with_data();
            fs::write(tree.join(path), vec![1; 72 << 20]).unwrap();
        })
    };
    let refused = large("usr/large");
    assert!(
        refused.starts_with("the partition \"root\" is too small for what the tree has in /:"),
        "{refused}"
    );
    assert!(refused.contains("make `root_size` at least"), "{refused}");
    let refused = large("srv/data/large");
    assert!(
        refused.contains("need a disk of 704 MiB, and it has 640 MiB"),
        "{refused}"
    );
    let refused = refusal(|tree, spec| {
        *spec = with_data();
        fs::create_dir_all(tree.join("var/db")).unwrap();
        fs::write(tree.join("var/db/file"), "").unwrap();
    });
    assert!(
        refused.contains("which the partition \"db\" would hide"),
        "{refused}"
    );
}
