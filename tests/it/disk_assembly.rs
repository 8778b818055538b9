//! A disk made of a tree: the same bytes every time, faultless to the tools that know it, and errors with a way out.
//!
//! The tree is a small one that has what the assembly looks for; its kernel and boot loaders are texts.

mod data;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use impasto::assemble::{AssembleError, assemble};
use impasto::disk::guest::{
    DiskFile, FsKind, PartitionKind, PartitionTable, RootChoice, RootSelector, choose_root,
    read_layout,
};
use impasto_stages::disk::{
    DiskSpec, DiskTable, ExtraFileSystem, MIB, Networking, PartitionSpec, Role, RootFileSystem,
    UserSpec,
};
use tempfile::TempDir;

use crate::base::tool;

const EPOCH: u64 = 1_700_000_000;
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGpJ9vZ0C0m0n8v1xUqvXQ3m4Qb0mQy8m7m0m1m2m3m4 admin@example.org";

/// A tree that has all that a disk needs.
pub(crate) fn tree() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let put = |path: &str, content: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    put(
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/sh\nbuilder:x:1001:1001::/:/bin/sh\n",
    );
    put(
        "etc/group",
        "root:x:0:\nadm:x:4:daemon\nbuilder:x:1001:\nstaff:x:50:\n",
    );
    put("etc/shadow", "root:*:1:0:99999:7:::\n");
    put("etc/gshadow", "root:*::\nadm:*::daemon\n");
    put("etc/skel/.profile", "# profile\n");
    put(
        "etc/hosts",
        "127.0.0.1 localhost\n127.0.1.1 builder.example\n",
    );
    put("etc/os-release", "PRETTY_NAME=\"Small 1 (tree)\"\n");
    put("srv/data/file", "of the tree\n");
    put("etc/resolv.conf", "nameserver 192.0.2.1\n");
    put("etc/ssh/ssh_host_ed25519_key", "of another machine\n");
    put("etc/ssh/sshd_config", "\n");
    put("boot/vmlinuz-6.1.0-9-small", "old kernel\n");
    put("boot/initrd.img-6.1.0-9-small", "old initramfs\n");
    put("boot/vmlinuz-6.1.0-10-small", "kernel\n");
    put("boot/initrd.img-6.1.0-10-small", "initramfs\n");
    for file in [
        "usr/sbin/sshd",
        "usr/bin/sudo",
        "usr/bin/systemd-repart",
        "usr/lib/systemd/systemd-resolved",
    ] {
        put(file, "a program\n");
    }
    put("usr/lib/systemd/systemd-networkd", "a program\n");
    let units = "usr/lib/systemd/system";
    put(
        &format!("{units}/systemd-resolved.service"),
        "[Install]\nWantedBy=sysinit.target\nAlias=resolve1.service\n",
    );
    put(
        &format!("{units}/systemd-networkd.service"),
        "[Install]\nWantedBy=multi-user.target\nAlso=n.socket\n",
    );
    put(
        &format!("{units}/n.socket"),
        "[Install]\nWantedBy=sockets.target\n",
    );
    put("usr/lib/grub/i386-pc/boot.img", &"B".repeat(512));
    put("usr/lib/grub/i386-pc/kernel.img", &"K".repeat(3000));
    put("usr/lib/grub/i386-pc/ext2.mod", "module\n");
    put(
        "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
        "signed GRUB with /EFI/small\0\n",
    );
    put("usr/lib/shim/shimx64.efi.signed", "signed shim\n");
    put("usr/lib/shim/mmx64.efi.signed", "signed manager\n");
    // As grub-mkimage: an image of what it is given.
    put(
        "usr/bin/grub-mkimage",
        "#!/bin/sh\nwhile [ $# -gt 0 ]; do case $1 in -o) out=$2;; -c) config=$2;; esac; shift; done\n\
         cat /usr/lib/grub/i386-pc/kernel.img \"$config\" > \"$out\"\n",
    );
    fs::set_permissions(
        dir.path().join("usr/bin/grub-mkimage"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    fs::copy("/bin/busybox", dir.path().join("usr/bin/busybox"))
        .expect("the package busybox-static is installed");
    for applet in ["sh", "cat"] {
        symlink("busybox", dir.path().join("usr/bin").join(applet)).unwrap();
    }
    symlink("usr/bin", dir.path().join("bin")).unwrap();
    fs::hard_link(
        dir.path().join("etc/skel/.profile"),
        dir.path().join("etc/other-name"),
    )
    .unwrap();
    let data = dir.path().join("srv/data");
    std::os::unix::fs::chown(&data, Some(7), Some(70000)).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o1777)).unwrap();
    fs::create_dir_all(dir.path().join("dev")).unwrap();
    tool(
        "mknod",
        &[
            "-m",
            "666",
            dir.path().join("dev/null").to_str().unwrap(),
            "c",
            "1",
            "3",
        ],
    );
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(
        dir.path().join("usr/bin/sudo"),
        "trusted.note",
        b"kept",
        flags,
    )
    .unwrap();
    fs::set_permissions(
        dir.path().join("usr/bin/sudo"),
        fs::Permissions::from_mode(0o4755),
    )
    .unwrap();
    dir
}

/// The tree as a stream of bytes. Times are fixed, as a stage that makes trees fixes them.
pub(crate) fn pack(tree: &Path) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let (to, from) = (file.path().to_str().unwrap(), tree.to_str().unwrap());
    let options = [
        "--format=pax",
        "--xattrs",
        "--xattrs-include=*",
        "--sort=name",
        "--numeric-owner",
    ];
    tool(
        "tar",
        &[
            &options[..],
            &["--mtime=@1600000000.5", "-C", from, "-cf", to, "."],
        ]
        .concat(),
    );
    fs::read(file.path()).unwrap()
}

pub(crate) fn spec() -> DiskSpec {
    let admin = UserSpec {
        ssh_keys: vec![KEY.to_owned()],
        sudo: true,
        shell: "/bin/sh".to_owned(),
        groups: vec!["adm".to_owned()],
        ..UserSpec::default()
    };
    DiskSpec {
        size: 128 * MIB,
        table: DiskTable::Gpt,
        bios: true,
        efi: true,
        seed: "a seed".to_owned(),
        file_system: RootFileSystem::Ext4,
        label: "root".to_owned(),
        efi_size: 16 * MIB,
        partitions: vec![
            partition("swap", Some(ExtraFileSystem::Swap), None),
            partition("data", Some(ExtraFileSystem::Ext4), Some("/srv/data")),
            partition("exchange", Some(ExtraFileSystem::Vfat), None),
            partition("raw", None, None),
        ],
        root_size: None,
        host_name: "small.example.org".to_owned(),
        users: BTreeMap::from([("admin".to_owned(), admin)]),
        networking: Networking::Dhcp,
        console: true,
        kernel_arguments: vec!["quiet".to_owned()],
        growpart: true,
    }
}

fn partition(
    name: &str,
    file_system: Option<ExtraFileSystem>,
    mount: Option<&str>,
) -> PartitionSpec {
    let label = file_system.map(|_| name.to_uppercase());
    PartitionSpec {
        name: name.to_owned(),
        size: Some(16 * MIB),
        file_system,
        mount: mount.map(str::to_owned),
        label,
    }
}

/// A disk that was made, and what it was made in.
struct Disk {
    work: TempDir,
    path: PathBuf,
    spec: DiskSpec,
}

fn make(spec: &DiskSpec, tar: &[u8]) -> Result<Disk, AssembleError> {
    make_in_order(spec, tar, false)
}

fn make_in_order(spec: &DiskSpec, tar: &[u8], reordered: bool) -> Result<Disk, AssembleError> {
    let work = tempfile::tempdir().unwrap();
    let path = assemble(
        spec,
        &mut &*tar,
        EPOCH,
        reordered,
        work.path(),
        &mut |_| {},
        &mut |_| {},
    )?;
    Ok(Disk {
        work,
        path,
        spec: spec.clone(),
    })
}

impl Disk {
    fn start(&self, role: Role) -> u64 {
        self.spec
            .layout()
            .unwrap()
            .iter()
            .find(|placed| placed.role == role)
            .unwrap()
            .start
    }

    fn device(&self, role: Role) -> String {
        format!("{}?offset={}", self.path.display(), self.start(role))
    }

    fn debugfs(&self, request: &str) -> String {
        tool("debugfs", &["-R", request, &self.device(Role::Root)])
    }

    fn cat(&self, path: &str) -> String {
        self.debugfs(&format!("cat {path}"))
    }

    fn mtype(&self, path: &str) -> String {
        tool(
            "mtype",
            &[
                "-i",
                &format!("{}@@{}", self.path.display(), self.start(Role::Efi)),
                &format!("::{path}"),
            ],
        )
    }

    fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update_reader(File::open(&self.path).unwrap())
            .unwrap();
        hasher.finalize()
    }
}

#[test]
fn the_same_tree_gives_the_same_disk() {
    let tree = tree();
    let tar = pack(tree.path());
    let first = make(&spec(), &tar).unwrap();
    // Another directory, read by others in between, and another time in every inode that the first had.
    let second = make(&spec(), &tar).unwrap();
    assert_ne!(first.work.path(), second.work.path());
    assert_eq!(first.hash(), second.hash());
    let other = DiskSpec {
        seed: "another".to_owned(),
        ..spec()
    };
    assert_ne!(first.hash(), make(&other, &tar).unwrap().hash());
    // Equal in one second proves little: no time of this machine is in any inode.
    for path in [
        "/",
        "/etc/hostname",
        "/etc/passwd",
        "/lost+found",
        "/usr/bin/busybox",
        "<7>",
        "<8>",
        "/dev/null",
    ] {
        let stat = first.debugfs(&format!("stat {path}"));
        let times: Vec<_> = stat
            .lines()
            .filter(|line| line.contains("time: "))
            .collect();
        assert_eq!(times.len(), 4, "{path}: {stat}");
        for time in times {
            let is_mtime = time.contains("mtime");
            assert!(
                time.contains("0x6553f100:00000000") || is_mtime && time.contains("0x5f5e1000"),
                "{path}: {time}"
            );
        }
    }
}

#[test]
fn tools_find_no_fault_in_it() {
    let tree = tree();
    let disk = make(&spec(), &pack(tree.path())).unwrap();
    let path = disk.path.to_str().unwrap();
    for role in [Role::Root, Role::Extra(1)] {
        tool("e2fsck", &["-fn", &disk.device(role)]);
    }
    for role in [Role::Efi, Role::Extra(2)] {
        let part = disk.work.path().join("part");
        let mut bytes = vec![0; 16 << 20];
        File::open(path)
            .unwrap()
            .read_exact_at(&mut bytes, disk.start(role))
            .unwrap();
        fs::write(&part, bytes).unwrap();
        tool("fsck.vfat", &["-n", part.to_str().unwrap()]);
    }
    assert!(tool("sfdisk", &["--verify", path]).contains("No errors detected"));
    let json: serde_json::Value = serde_json::from_str(&tool("sfdisk", &["-J", path])).unwrap();
    let names: Vec<_> = json["partitiontable"]["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["bios", "esp", "swap", "data", "exchange", "raw", "root"]
    );

    let layout = read_layout(&DiskFile::new(File::open(path).unwrap()).unwrap()).unwrap();
    assert!(matches!(
        layout.table,
        PartitionTable::Gpt {
            from_backup: false,
            ..
        }
    ));
    let found: Vec<_> = layout
        .partitions
        .iter()
        .map(|p| {
            (
                p.start,
                p.fs.as_ref().map(|fs| fs.kind),
                p.fs.as_ref().and_then(|fs| fs.label.as_deref()),
            )
        })
        .collect();
    let mib = |n: u64| n * MIB;
    let expected = [
        (mib(1), None, None),
        (mib(2), Some(FsKind::Vfat), Some("ESP")),
        (mib(18), Some(FsKind::Swap), Some("SWAP")),
        (mib(34), Some(FsKind::Ext4), Some("DATA")),
        (mib(50), Some(FsKind::Vfat), Some("EXCHANGE")),
        (mib(66), None, None),
        (mib(82), Some(FsKind::Ext4), Some("root")),
    ];
    assert_eq!(found, expected);
    let root = choose_root(&layout, &RootSelector::Auto).unwrap();
    assert_eq!(root, RootChoice::Partition(7));
    let kind = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709".to_owned();
    assert_eq!(layout.partitions[6].kind, PartitionKind::Guid(kind));
}

#[test]
fn its_tree_is_a_machines_root() {
    let tree = tree();
    let disk = make(&spec(), &pack(tree.path())).unwrap();
    let layout = read_layout(&DiskFile::new(File::open(&disk.path).unwrap()).unwrap()).unwrap();
    let uuid = |index: usize| {
        layout.partitions[index]
            .fs
            .as_ref()
            .unwrap()
            .uuid
            .clone()
            .unwrap()
    };
    let fstab = disk.cat("/etc/fstab");
    let lines: Vec<_> = fstab.lines().skip(1).map(str::to_owned).collect();
    let expected = [
        format!(
            "UUID={} / ext4 errors=remount-ro,x-systemd.growfs 0 1",
            uuid(6)
        ),
        format!("UUID={} /srv/data ext4 defaults 0 2", uuid(3)),
        format!("UUID={} none swap sw 0 0", uuid(2)),
        format!(
            "UUID={} /boot/efi vfat umask=0077,nofail 0 2",
            uuid(1).to_uppercase()
        ),
    ];
    assert_eq!(lines, expected);
    assert_eq!(disk.cat("/etc/hostname"), "small.example.org\n");
    assert_eq!(
        disk.cat("/etc/hosts"),
        "127.0.0.1 localhost\n127.0.1.1\tsmall.example.org small\n"
    );
    assert_eq!(disk.cat("/etc/machine-id"), "");
    let list = disk.debugfs("ls /etc/ssh");
    assert!(
        list.contains("sshd_config") && !list.contains("ssh_host"),
        "{list}"
    );

    assert!(
        disk.cat("/etc/passwd")
            .ends_with("admin:x:1000:1000::/home/admin:/bin/sh\n")
    );
    assert!(
        disk.cat("/etc/shadow")
            .ends_with("admin:!:19675:0:99999:7:::\n")
    );
    assert!(disk.cat("/etc/group").contains("adm:x:4:daemon,admin\n"));
    assert!(disk.cat("/etc/gshadow").contains("adm:*::daemon,admin\n"));
    assert_eq!(
        disk.cat("/home/admin/.ssh/authorized_keys"),
        format!("{KEY}\n")
    );
    assert_eq!(disk.cat("/home/admin/.profile"), "# profile\n");
    assert_eq!(
        disk.cat("/etc/sudoers.d/90-impasto"),
        "admin ALL=(ALL:ALL) NOPASSWD: ALL\n"
    );
    let stat = |path: &str| disk.debugfs(&format!("stat {path}"));
    assert!(stat("/home/admin/.ssh/authorized_keys").contains("Mode:  0600"));
    assert!(stat("/home/admin/.ssh").contains("User:  1000   Group:  1000"));
    // The tree's own, as they were.
    assert!(stat("/usr/bin/sudo").contains("Mode:  04755"));
    assert!(
        disk.debugfs("ea_get /usr/bin/sudo trusted.note")
            .contains("kept")
    );
    assert!(stat("/dev/null").contains("Type: character special"));
    assert!(stat("/etc/other-name").contains("Links: 2"));

    let link = |path: &str| disk.debugfs(&format!("stat {path}"));
    assert!(link("/etc/resolv.conf").contains("\"../run/systemd/resolve/stub-resolv.conf\""));
    for (unit, wants) in [
        ("systemd-networkd.service", "multi-user.target.wants"),
        ("n.socket", "sockets.target.wants"),
        ("systemd-resolved.service", "sysinit.target.wants"),
        ("impasto-ssh-keygen.service", "multi-user.target.wants"),
    ] {
        assert!(
            link(&format!("/etc/systemd/system/{wants}/{unit}")).contains("Type: symlink"),
            "{unit}"
        );
    }
    assert!(link("/etc/systemd/system/resolve1.service").contains("Type: symlink"));
    assert_eq!(
        disk.cat("/etc/repart.d/50-root.conf"),
        "[Partition]\nType=root\n"
    );
    // What lay below a mount point lies in its partition.
    let data = disk.device(Role::Extra(1));
    assert_eq!(
        tool("debugfs", &["-R", "cat /file", &data]),
        "of the tree\n"
    );
    let root = tool("debugfs", &["-R", "stat /", &data]);
    assert!(
        root.contains("Mode:  01777") && root.contains("User:     7   Group: 70000"),
        "{root}"
    );
    assert!(!disk.debugfs("ls /srv/data").contains("file"));
}

#[test]
fn boot_loaders_find_the_root() {
    let tree = tree();
    let disk = make(&spec(), &pack(tree.path())).unwrap();
    let layout = read_layout(&DiskFile::new(File::open(&disk.path).unwrap()).unwrap()).unwrap();
    let uuid = layout.partitions[6]
        .fs
        .as_ref()
        .unwrap()
        .uuid
        .clone()
        .unwrap();
    let config = disk.cat("/boot/grub/grub.cfg");
    let new = format!(
        "linux /boot/vmlinuz-6.1.0-10-small root=UUID={uuid} ro console=tty0 console=ttyS0,115200 quiet\n"
    );
    let (first, second) = (
        config.find(&new).unwrap(),
        config.find("vmlinuz-6.1.0-9-small").unwrap(),
    );
    assert!(first < second, "{config}");
    let defaults = disk.cat("/etc/default/grub.d/50-impasto.cfg");
    assert!(
        defaults.contains("GRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0,115200 quiet\"\n"),
        "{defaults}"
    );

    let early = format!(
        "search.fs_uuid {uuid} root\nset prefix=($root)/boot/grub\nconfigfile ($root)/boot/grub/grub.cfg\n"
    );
    assert_eq!(disk.mtype("/EFI/small/grub.cfg"), early);
    assert_eq!(disk.mtype("/EFI/BOOT/BOOTX64.EFI"), "signed shim\n");
    assert!(
        disk.mtype("/EFI/BOOT/grubx64.efi")
            .starts_with("signed GRUB")
    );
    assert_eq!(disk.mtype("/EFI/BOOT/mmx64.efi"), "signed manager\n");

    let file = File::open(&disk.path).unwrap();
    let mut mbr = [0; 512];
    file.read_exact_at(&mut mbr, 0).unwrap();
    assert_eq!(mbr[0..3], *b"BBB");
    assert_eq!(mbr[0x5c..0x64], 2048_u64.to_le_bytes());
    let mut core = vec![0; 4096];
    file.read_exact_at(&mut core, MIB).unwrap();
    assert!(core.starts_with(b"KKK"));
    assert_eq!(core[0x1f4..0x1fc], 2049_u64.to_le_bytes());
    assert_eq!(&core[3000..3000 + early.len()], early.as_bytes());
    // What grub-install leaves, for those who install GRUB's next version.
    assert_eq!(disk.cat("/boot/grub/i386-pc/ext2.mod"), "module\n");
}

#[test]
fn a_disk_can_be_as_small_as_the_error_says() {
    let tree = tree();
    fs::write(tree.path().join("large"), vec![1; 40 << 20]).unwrap();
    let tar = pack(tree.path());
    let small = DiskSpec {
        partitions: Vec::new(),
        size: 64 * MIB,
        ..spec()
    };
    let error = make(&small, &tar).err().unwrap();
    let AssembleError::TooSmall {
        content,
        needed,
        size,
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(size, 64 * MIB);
    assert!(content > 40 << 20 && content < 48 << 20, "{content}");
    assert!(
        error
            .help()
            .unwrap()
            .contains(&format!("\"{}MiB\"", needed / MIB))
    );
    let disk = make(
        &DiskSpec {
            size: needed,
            ..small
        },
        &tar,
    )
    .unwrap();
    tool("e2fsck", &["-fn", &disk.device(Role::Root)]);
}

/// The message and the hint of a disk that cannot be made.
fn refusal(change: impl FnOnce(&Path, &mut DiskSpec)) -> String {
    let (tree, mut spec) = (tree(), spec());
    change(tree.path(), &mut spec);
    let error = make(&spec, &pack(tree.path()))
        .err()
        .expect("a disk that cannot be made was made");
    format!("{error}\n{}", error.help().unwrap_or_default())
}

#[test]
fn what_is_missing_is_named_with_its_package() {
    let without = |path: &'static str| {
        refusal(move |tree, _| {
            let path = tree.join(path);
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap()
            } else {
                fs::remove_file(path).unwrap()
            }
        })
    };
    for (path, expected) in [
        ("boot", &["no kernel", "linux-image-cloud-amd64"][..]),
        (
            "boot/initrd.img-6.1.0-9-small",
            &["6.1.0-9-small without an initramfs", "initramfs-tools"],
        ),
        ("usr/lib/grub/i386-pc", &["no GRUB for BIOS", "grub-pc-bin"]),
        ("usr/bin/grub-mkimage", &["no grub-mkimage", "grub-common"]),
        (
            "usr/lib/grub/x86_64-efi-signed",
            &["no signed GRUB", "grub-efi-amd64-signed and shim-signed"],
        ),
        (
            "usr/lib/systemd/systemd-networkd",
            &["no systemd-networkd", "systemd-sysv"],
        ),
        (
            "usr/bin/systemd-repart",
            &["no program that grows", "cloud-guest-utils"],
        ),
        (
            "usr/bin/sudo",
            &["no sudo, which the user \"admin\"", "add sudo to"],
        ),
    ] {
        let refusal = without(path);
        assert!(
            expected.iter().all(|part| refusal.contains(part)),
            "{path}: {refusal}"
        );
    }
}

#[test]
fn users_of_the_tree_are_not_overwritten() {
    let with = |name: &str, user: UserSpec| {
        let user = UserSpec {
            shell: "/bin/sh".to_owned(),
            ..user
        };
        refusal(move |_, spec| spec.users = BTreeMap::from([(name.to_owned(), user)]))
    };
    let refused = with("builder", UserSpec::default());
    assert!(
        refused.starts_with("the user \"builder\" is already in the tree, with the UID 1001\n"),
        "{refused}"
    );
    let refused = with("staff", UserSpec::default());
    assert!(
        refused.contains("already has one with the GID 50"),
        "{refused}"
    );
    let refused = with(
        "new",
        UserSpec {
            uid: Some(1001),
            ..UserSpec::default()
        },
    );
    assert!(
        refused.contains("the UID 1001 of the user \"new\" belongs to \"builder\""),
        "{refused}"
    );
    let refused = with(
        "new",
        UserSpec {
            groups: vec!["docker".to_owned()],
            ..UserSpec::default()
        },
    );
    assert!(
        refused.contains("the group \"docker\", which the tree does not have"),
        "{refused}"
    );
    let refused =
        refusal(|_, spec| spec.users.get_mut("admin").unwrap().shell = "/bin/zsh".to_owned());
    assert!(
        refused.contains("no /bin/zsh, the shell of the user \"admin\""),
        "{refused}"
    );
}

#[test]
fn other_trees_are_refused() {
    let refused = refusal(|_, spec| spec.partitions[1].file_system = Some(ExtraFileSystem::Vfat));
    assert!(
        refused.starts_with(
            "the tree has files in /srv/data, which the partition \"data\" would hide"
        ),
        "{refused}"
    );
    let refused =
        refusal(|tree, _| fs::write(tree.join("srv/data/large"), vec![1; 20 << 20]).unwrap());
    assert!(
        refused
            .starts_with("the partition \"data\" is too small for what the tree has in /srv/data"),
        "{refused}"
    );
    let refused =
        refusal(|tree, _| fs::write(tree.join("usr/bin/busybox"), "#!/bin/sh\n").unwrap());
    assert!(refused.contains("is not a 64-bit ELF file"), "{refused}");
    let error = make(&spec(), b"no tar file").err().unwrap();
    assert!(matches!(error, AssembleError::Tar { .. }), "{error}");
}

#[test]
fn a_disk_that_nothing_boots_needs_no_kernel() {
    let tree = tree();
    fs::remove_dir_all(tree.path().join("boot")).unwrap();
    fs::remove_dir_all(tree.path().join("usr/lib/grub")).unwrap();
    // Mount points that the tree does not have, one in the other.
    let partitions = vec![
        partition("outer", Some(ExtraFileSystem::Ext4), Some("/new/place")),
        partition(
            "inner",
            Some(ExtraFileSystem::Ext4),
            Some("/new/place/inside"),
        ),
    ];
    let spec = DiskSpec {
        bios: false,
        efi: false,
        partitions,
        users: BTreeMap::new(),
        ..spec()
    };
    let disk = make(&spec, &pack(tree.path())).unwrap();
    tool("e2fsck", &["-fn", &disk.device(Role::Root)]);
    tool("e2fsck", &["-fn", &disk.device(Role::Extra(0))]);
    assert!(tool("debugfs", &["-R", "ls /", &disk.device(Role::Extra(0))]).contains("inside"));
    assert_eq!(disk.cat("/etc/fstab").lines().count(), 4);
}

#[test]
fn a_disk_without_table_is_its_root_file_system() {
    let tree = tree();
    fs::remove_dir_all(tree.path().join("boot")).unwrap();
    fs::remove_dir_all(tree.path().join("usr/lib/grub")).unwrap();
    let spec = DiskSpec {
        table: DiskTable::None,
        bios: false,
        efi: false,
        partitions: Vec::new(),
        users: BTreeMap::new(),
        label: "bare".to_owned(),
        ..spec()
    };
    let disk = make(&spec, &pack(tree.path())).unwrap();
    tool("e2fsck", &["-fn", disk.path.to_str().unwrap()]);
    let label = tool("e2label", &[disk.path.to_str().unwrap()]);
    assert_eq!(label.trim(), "bare");
    assert_eq!(fs::metadata(&disk.path).unwrap().len(), spec.size);
    let fstab = disk.cat("/etc/fstab");
    assert!(
        fstab.lines().nth(1).unwrap().contains(" / ext4 "),
        "{fstab}"
    );
    // No partition is there that could grow.
    assert!(!disk.debugfs("ls /etc").contains("repart.d"));
    assert_eq!(disk.hash(), make(&spec, &pack(tree.path())).unwrap().hash());
}
