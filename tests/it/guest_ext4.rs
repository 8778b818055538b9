//! Files that the kernel wrote into ext file systems, read without mounting: everything must be as the kernel sees it.
//!
//! Needs root, loop devices, and the packages acl, e2fsprogs and libcap2-bin.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use impasto::disk::guest::ext4::{Ext4, Inode, InodeContent, Xattrs};
use impasto::disk::guest::{DiskFile, ReadAt};
use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, Timespec, Timestamps};

use crate::base::tool;

const TIB: u64 = 1 << 40;
const BLOCK: u64 = 4096;

/// What is compared of an object.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    inode: u32,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    times: [(i64, i64); 3],
    links: u64,
    device: Option<(u32, u32)>,
    /// Those of the flags that `lsattr` shows.
    flags: Option<u32>,
    xattrs: Xattrs,
    target: Option<Vec<u8>>,
    /// Blocks of 4 KiB that are not zero, by number.
    content: BTreeMap<u64, Vec<u8>>,
}

type Tree = BTreeMap<Vec<u8>, Seen>;

/// A file system in a file, mounted while `work` runs.
pub(crate) fn mounted<T>(image: &Path, options: &str, work: impl FnOnce(&Path) -> T) -> T {
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            tool("umount", &[self.0.to_str().unwrap()]);
        }
    }
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests need root: they mount file systems"
    );
    let point = tempfile::tempdir().unwrap();
    let options = format!("loop,{options}");
    tool(
        "mount",
        &[
            "-t",
            "ext4",
            "-o",
            &options,
            image.to_str().unwrap(),
            point.path().to_str().unwrap(),
        ],
    );
    let _unmount = Unmount(point.path());
    work(point.path())
}

/// Adds the parts of `bytes`, which begin at `offset` of a file, that are not zero.
fn add(content: &mut BTreeMap<u64, Vec<u8>>, mut offset: u64, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let from = (offset % BLOCK) as usize;
        let (part, rest) = bytes.split_at(bytes.len().min(BLOCK as usize - from));
        if part != &[0; BLOCK as usize][..part.len()] {
            let block = content
                .entry(offset / BLOCK)
                .or_insert_with(|| vec![0; BLOCK as usize]);
            block[from..from + part.len()].copy_from_slice(part);
        }
        offset += part.len() as u64;
        bytes = rest;
    }
}

/// The kernel's view of a tree. Names are opened below their directory: paths may be longer than a call takes.
fn kernel(path: &Path, name: Vec<u8>, tree: &mut Tree) {
    let metadata = fs::symlink_metadata(path).unwrap();
    let file_type = metadata.file_type();
    let mut seen = Seen {
        inode: metadata.ino() as u32,
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        size: metadata.size(),
        times: [
            (metadata.mtime(), metadata.mtime_nsec()),
            (metadata.ctime(), metadata.ctime_nsec()),
            (metadata.atime(), metadata.atime_nsec()),
        ],
        links: metadata.nlink(),
        device: None,
        flags: None,
        xattrs: kernel_xattrs(path),
        target: None,
        content: BTreeMap::new(),
    };
    if file_type.is_symlink() {
        seen.target = Some(fs::read_link(path).unwrap().into_os_string().into_vec());
    } else if file_type.is_file() || file_type.is_dir() {
        let file = File::open(path).unwrap();
        seen.flags = Some(rustix::fs::ioctl_getflags(&file).unwrap().bits() & VISIBLE_FLAGS);
        if file_type.is_file() {
            kernel_content(&file, seen.size, &mut seen.content);
        } else {
            let opened = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
            for entry in fs::read_dir(&opened).unwrap() {
                let entry = entry.unwrap().file_name();
                let below = [&name[..], b"/", entry.as_bytes()].concat();
                if entry != "lost+found" {
                    kernel(&opened.join(&entry), below, tree);
                }
            }
        }
    } else {
        let device = metadata.rdev();
        let is_device = matches!(metadata.mode() & 0o170_000, 0o020_000 | 0o060_000);
        seen.device = is_device.then(|| (rustix::fs::major(device), rustix::fs::minor(device)));
    }
    tree.insert(name, seen);
}

/// `EXT4_FL_USER_VISIBLE`, without extents and inline data: whether these are used is the kernel's own affair.
const VISIBLE_FLAGS: u32 = 0x725b_dfff & !0x1008_1000;

fn kernel_xattrs(path: &Path) -> Xattrs {
    let mut names = vec![0; 1 << 16];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap();
    let mut xattrs: Xattrs = Vec::new();
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0; 1 << 16];
        let length = rustix::fs::lgetxattr(path, CString::new(name).unwrap(), &mut value).unwrap();
        value.truncate(length);
        xattrs.push((name.to_vec(), value));
    }
    xattrs.sort();
    xattrs
}

/// Reads what is not a hole.
fn kernel_content(file: &File, size: u64, content: &mut BTreeMap<u64, Vec<u8>>) {
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
        let end = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(start))
            .unwrap()
            .min(size);
        let mut bytes = vec![0; (end - start) as usize];
        file.read_exact_at(&mut bytes, start).unwrap();
        add(content, start, &bytes);
        at = end;
    }
}

/// An ACL as `getxattr` gives it: each entry has an id there, on the disk only those that need one.
fn acl(stored: &[u8]) -> Vec<u8> {
    assert_eq!(&stored[..4], [1, 0, 0, 0], "the version on the disk");
    let (mut rest, mut given) = (&stored[4..], vec![2, 0, 0, 0]);
    while !rest.is_empty() {
        let has_id = matches!(rest[0], 2 | 8);
        given.extend_from_slice(&rest[..4]);
        given.extend_from_slice(if has_id { &rest[4..8] } else { &[0xff; 4] });
        rest = &rest[if has_id { 8 } else { 4 }..];
    }
    given
}

/// Our view of the same tree.
fn ours<D: ReadAt + ?Sized>(fs: &Ext4<'_, D>, disk: &D) -> Tree {
    let mut tree = Tree::new();
    let mut todo = vec![(Vec::new(), fs.root())];
    while let Some((name, number)) = todo.pop() {
        let inode = fs.inode(number).unwrap();
        if inode.is_directory() {
            for entry in fs
                .entries(&inode)
                .unwrap()
                .into_iter()
                .filter(|entry| entry.name != b"lost+found")
            {
                todo.push(([&name[..], b"/", &entry.name].concat(), entry.inode));
            }
        }
        tree.insert(name, one(fs, disk, &inode));
    }
    tree
}

fn one<D: ReadAt + ?Sized>(fs: &Ext4<'_, D>, disk: &D, inode: &Inode) -> Seen {
    let mut content = BTreeMap::new();
    match fs.content(inode).unwrap() {
        _ if !inode.is_file() => {}
        InodeContent::Inline(bytes) => add(&mut content, 0, &bytes),
        InodeContent::Extents(extents) => {
            let mut last = 0;
            for extent in extents {
                assert!(
                    extent.offset >= last && extent.offset + extent.length <= inode.size,
                    "{extent:?}"
                );
                last = extent.offset + extent.length;
                let mut bytes = vec![0; extent.length as usize];
                disk.read_exact_at(&mut bytes, extent.start).unwrap();
                add(&mut content, extent.offset, &bytes);
            }
        }
    }
    let time = |(seconds, nanoseconds)| (seconds, i64::from(nanoseconds));
    let mut xattrs = fs.xattrs(inode).unwrap();
    for (name, value) in &mut xattrs {
        if name.starts_with(b"system.posix_acl_") {
            *value = acl(value);
        }
    }
    Seen {
        inode: inode.number,
        mode: u32::from(inode.mode),
        owner: (inode.uid, inode.gid),
        size: inode.size,
        times: [time(inode.mtime), time(inode.ctime), time(inode.atime)],
        links: u64::from(inode.links),
        device: inode.device,
        flags: (inode.is_file() || inode.is_directory()).then_some(inode.flags & VISIBLE_FLAGS),
        xattrs,
        target: inode.is_link().then(|| fs.target(inode).unwrap()),
        content,
    }
}

const INDEX: u32 = 0x1000;
const EXTENTS: u32 = 0x8_0000;
const INLINE: u32 = 0x1000_0000;

/// What a file system can hold.
#[derive(Clone, Copy)]
struct Case<'a> {
    kind: &'a str,
    options: &'a [&'a str],
    mib: u64,
    /// Flags that some inode must have.
    uses: u32,
    /// Size of a sparse file.
    sparse: u64,
    /// Hard links to one file.
    links: u32,
    /// Names in one directory.
    names: u32,
    /// Bytes of the longest symbolic link, and of the largest attribute.
    link: usize,
    attribute: usize,
}

const EXT4: Case<'_> = Case {
    kind: "ext4",
    options: &["-b", "4096"],
    mib: 64,
    uses: INDEX | EXTENTS,
    sparse: 15 * TIB,
    links: 300,
    names: 400,
    link: 4095,
    attribute: 1500,
};

/// Makes the file system, has the kernel fill it, and demands that both read the same.
fn compare(case: &Case<'_>) -> Tree {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    File::create(&image)
        .unwrap()
        .set_len(case.mib << 20)
        .unwrap();
    tool(
        "mke2fs",
        &[
            &["-q", "-F", "-t", case.kind],
            case.options,
            &[image.to_str().unwrap()],
        ]
        .concat(),
    );
    mounted(&image, "noatime", |root| fill(root, case));
    let mut theirs = Tree::new();
    mounted(&image, "ro,noatime", |root| {
        kernel(root, Vec::new(), &mut theirs)
    });
    let disk = DiskFile::new(File::open(&image).unwrap()).unwrap();
    let fs = Ext4::open(&disk).unwrap();
    let found = ours(&fs, &disk);
    let used = found
        .values()
        .fold(0, |flags, seen| flags | fs.inode(seen.inode).unwrap().flags);
    assert_eq!(
        used & case.uses,
        case.uses,
        "what should be tried was not used"
    );
    for (path, seen) in &theirs {
        let other = found
            .get(path)
            .unwrap_or_else(|| panic!("{} is missing", path.escape_ascii()));
        assert!(
            seen.content == other.content,
            "{}: its content is another",
            path.escape_ascii()
        );
        assert_eq!(seen, other, "{}", path.escape_ascii());
    }
    assert_eq!(
        theirs.len(),
        found.len(),
        "names that the kernel does not see"
    );
    assert!(theirs.len() > 450, "{} names", theirs.len());
    theirs
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(length)
    .collect()
}

fn fill(root: &Path, case: &Case<'_>) {
    fill_content(root, case);
    fill_names(root, case);
    fill_metadata(root);
    fill_attributes(root, case);
}

fn fill_content(root: &Path, case: &Case<'_>) {
    fs::write(root.join("empty"), b"").unwrap();
    for length in [
        1, 59, 60, 61, 100, 128, 156, 160, 161, 500, 1023, 1024, 1025, 4096, 4097, 300_000,
        3_000_000,
    ] {
        fs::write(
            root.join(format!("noise-{length}")),
            noise(length, length as u64),
        )
        .unwrap();
    }
    // Pieces enough for a tree of several levels, and a hole after each.
    let pieces = File::create(root.join("pieces")).unwrap();
    for piece in 0..2500 {
        pieces
            .write_all_at(&noise(1024, piece), piece * 8192)
            .unwrap();
    }
    // Ends where indirect blocks of each level begin and end.
    let holes = File::create(root.join("holes")).unwrap();
    for at in [
        11, 12, 267, 268, 1035, 1036, 65_803, 65_804, 1_049_611, 1_049_612,
    ] {
        for block in [1024, 4096] {
            if at * block < case.sparse {
                holes.write_all_at(&noise(1, at), at * block).unwrap();
            }
        }
    }
    let sparse = File::create(root.join("sparse")).unwrap();
    for at in [0, case.sparse / 3, case.sparse - 10] {
        sparse.write_all_at(b"0123456789", at).unwrap();
    }
    let nothing = File::create(root.join("nothing")).unwrap();
    nothing.set_len(case.sparse).unwrap();
    // Blocks that nobody wrote, some behind the end.
    let allocated = File::create(root.join("allocated")).unwrap();
    let _ = rustix::fs::fallocate(&allocated, FallocateFlags::KEEP_SIZE, 0, 200_000);
    allocated.write_all_at(&noise(5000, 7), 50_000).unwrap();
    let cut = File::create(root.join("cut")).unwrap();
    cut.write_all_at(&noise(100_000, 8), 0).unwrap();
    cut.set_len(50_001).unwrap();
}

fn fill_names(root: &Path, case: &Case<'_>) {
    let odd = root.join("odd");
    fs::create_dir(&odd).unwrap();
    let names: [&[u8]; 9] = [
        b"new\nline",
        b"\x1b[31mred",
        b"\xff\xfe",
        b" ",
        b"...",
        b"-rf",
        b"a\\b",
        "ä ö ü 中".as_bytes(),
        &[b'x'; 255],
    ];
    for name in names {
        fs::write(odd.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let many = root.join("many");
    fs::create_dir(&many).unwrap();
    for number in 0..case.names {
        File::create(many.join(format!("a name that fills its directory, number {number}")))
            .unwrap();
    }
    for number in (0..case.names).step_by(3) {
        fs::remove_file(many.join(format!("a name that fills its directory, number {number}")))
            .unwrap();
    }
    let links = root.join("links");
    fs::create_dir(&links).unwrap();
    fs::write(links.join("0"), b"one file").unwrap();
    for number in 1..case.links {
        fs::hard_link(links.join("0"), links.join(number.to_string())).unwrap();
    }
    // A path of 4095 bytes, where no call takes the whole.
    let mut at = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut length = root.as_os_str().len();
    while length + 256 < 4095 {
        let name = "d".repeat(200);
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(
            &at,
            &name,
            OFlags::RDONLY | OFlags::DIRECTORY,
            Mode::empty(),
        )
        .unwrap();
        length += 201;
    }
    let last = "f".repeat(4095 - length - 1);
    rustix::fs::openat(&at, last, OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    let targets = root.join("targets");
    fs::create_dir(&targets).unwrap();
    for length in [1, 58, 59, 60, 61, 100, 200, case.link] {
        symlink(
            OsString::from_vec(vec![b't'; length]),
            targets.join(length.to_string()),
        )
        .unwrap();
    }
}

fn fill_metadata(root: &Path) {
    let file = |name: &str, mode| {
        let path = root.join(name);
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    };
    file("setuid", 0o4755);
    file("setgid", 0o2711);
    file("nobody may", 0);
    let owned = file("owned", 0o640);
    std::os::unix::fs::chown(&owned, Some(70_000), Some(u32::MAX - 1)).unwrap();
    fs::create_dir(root.join("sticky")).unwrap();
    fs::set_permissions(root.join("sticky"), Permissions::from_mode(0o1777)).unwrap();
    for (name, kind, mode, device) in [
        ("block", FileType::BlockDevice, 0o660, (8, 1)),
        ("character", FileType::CharacterDevice, 0o666, (1, 3)),
        ("large device", FileType::BlockDevice, 0o600, (300, 70_000)),
        ("fifo", FileType::Fifo, 0o644, (0, 0)),
        ("socket", FileType::Socket, 0o755, (0, 0)),
    ] {
        let device = rustix::fs::makedev(device.0, device.1);
        rustix::fs::mknodat(
            CWD,
            root.join(name),
            kind,
            Mode::from_raw_mode(mode),
            device,
        )
        .unwrap();
    }
    for (number, (seconds, nanoseconds)) in [
        (-1, 500_000_000),
        (-(1 << 31), 0),
        (1 << 31, 1),
        ((1 << 32) + 5, 999_999_999),
        (15_000_000_000, 7),
    ]
    .into_iter()
    .enumerate()
    {
        let time = Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(
            CWD,
            file(&format!("time-{number}"), 0o644),
            &times,
            AtFlags::empty(),
        )
        .unwrap();
    }
    let immutable = file("immutable", 0o644);
    tool("chattr", &["+i", immutable.to_str().unwrap()]);
    let append = file("append", 0o644);
    tool("chattr", &["+ad", append.to_str().unwrap()]);
}

fn fill_attributes(root: &Path, case: &Case<'_>) {
    let dir = root.join("attributes");
    fs::create_dir(&dir).unwrap();
    let file = |name: &str| {
        let path = dir.join(name);
        fs::write(&path, name).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let set = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    tool(
        "setcap",
        &["cap_net_raw,cap_sys_admin+ep", &file("capable")],
    );
    tool("setfacl", &["-m", "u:1000:rwx,g:50:r,m::rx", &file("acl")]);
    let default = dir.join("default acl");
    fs::create_dir(&default).unwrap();
    tool(
        "setfacl",
        &["-d", "-m", "u:0:rx,g:70000:rwx", default.to_str().unwrap()],
    );
    fs::write(default.join("inherits"), b"").unwrap();
    for value in [&b""[..], b"x", b"\0\xff\0"] {
        set(
            &file(&format!("value-{}", value.len())),
            "user.value",
            value,
        );
    }
    let kinds = file("kinds");
    for name in ["user.a", "trusted.b", "security.c", "user.\u{e4}"] {
        set(&kinds, name, name.as_bytes());
    }
    let crowded = file("crowded");
    for number in 0..6 {
        set(
            &crowded,
            &format!("user.number {number}"),
            &noise(100, number),
        );
    }
    let large = noise(case.attribute.min(60_000), 3);
    // Two files share a block of attributes, or an inode with a value.
    for name in ["large", "large too"] {
        set(
            &file(name),
            "user.large",
            &large[..case.attribute.min(large.len())],
        );
    }
    symlink("nowhere", dir.join("link")).unwrap();
    set(
        dir.join("link").to_str().unwrap(),
        "trusted.of a link",
        b"yes",
    );
    set(root.to_str().unwrap(), "trusted.of the root", b"yes");
}

#[test]
fn an_ext4_is_read_as_the_kernel_reads_it() {
    let seen = compare(&EXT4);
    assert_eq!(seen[&b"/sparse"[..]].size, 15 * TIB);
    assert_eq!(seen[&b"/sparse"[..]].content.len(), 3);
    assert!(seen.keys().any(|path| path.len() > 3900), "a long path");
    assert!(seen[&b"/attributes/capable"[..]].xattrs[0].0 == b"security.capability");
}

#[test]
fn an_ext4_with_small_blocks_is_read_as_the_kernel_reads_it() {
    compare(&Case {
        options: &["-b", "1024"],
        sparse: 3 * TIB,
        link: 1000,
        attribute: 700,
        ..EXT4
    });
}

#[test]
fn an_ext3_is_read_as_the_kernel_reads_it() {
    compare(&Case {
        kind: "ext3",
        uses: INDEX,
        sparse: TIB,
        options: &["-b", "4096", "-I", "256"],
        ..EXT4
    });
}

#[test]
fn an_ext2_is_read_as_the_kernel_reads_it() {
    let small = Case {
        kind: "ext2",
        uses: 0,
        sparse: 10 << 30,
        link: 1000,
        attribute: 700,
        ..EXT4
    };
    compare(&Case {
        options: &["-b", "1024", "-I", "128"],
        ..small
    });
    compare(&Case {
        options: &[
            "-b",
            "2048",
            "-I",
            "256",
            "-O",
            "^filetype,^sparse_super,^resize_inode,^dir_index",
        ],
        ..small
    });
}

#[test]
fn small_files_in_inodes_are_read_as_the_kernel_reads_them() {
    // Files that began in their inodes cannot grow as large as others.
    compare(&Case {
        options: &["-b", "4096", "-O", "inline_data"],
        uses: INDEX | EXTENTS | INLINE,
        sparse: 3 * TIB,
        ..EXT4
    });
    compare(&Case {
        options: &["-b", "1024", "-I", "1024", "-O", "inline_data"],
        uses: INDEX | EXTENTS | INLINE,
        sparse: 10 << 30,
        link: 1000,
        attribute: 400,
        ..EXT4
    });
}

#[test]
fn large_attributes_in_inodes_are_read_as_the_kernel_reads_them() {
    let large = Case {
        attribute: 60_000,
        ..EXT4
    };
    compare(&Case {
        options: &["-b", "4096", "-O", "ea_inode"],
        ..large
    });
    compare(&Case {
        options: &["-b", "4096", "-O", "ea_inode,^metadata_csum"],
        ..large
    });
}

#[test]
fn other_layouts_are_read_as_the_kernel_reads_them() {
    compare(&Case {
        options: &["-b", "4096", "-O", "bigalloc", "-C", "16384"],
        ..EXT4
    });
    // Descriptors of two blocks, the second in the group that it describes.
    let small = Case {
        sparse: TIB,
        link: 1000,
        attribute: 700,
        ..EXT4
    };
    let large = Case { mib: 256, ..small };
    compare(&Case {
        options: &["-b", "1024", "-O", "meta_bg,^resize_inode"],
        ..large
    });
    compare(&Case {
        options: &["-b", "1024", "-O", "meta_bg,^resize_inode,^sparse_super"],
        ..large
    });
    compare(&Case {
        options: &["-b", "1024", "-O", "bigalloc", "-C", "4096"],
        ..small
    });
    compare(&Case {
        options: &["-b", "2048", "-O", "^metadata_csum,uninit_bg,64bit"],
        ..small
    });
    compare(&Case {
        options: &[
            "-b",
            "4096",
            "-O",
            "^metadata_csum,uninit_bg,^64bit",
            "-I",
            "128",
        ],
        ..EXT4
    });
    compare(&Case {
        options: &[
            "-b",
            "4096",
            "-O",
            "metadata_csum_seed,large_dir",
            "-g",
            "4096",
        ],
        ..EXT4
    });
}

#[test]
fn large_directories_and_many_links_are_read_as_the_kernel_reads_them() {
    let options = ["-b", "1024", "-N", "40000"];
    let many = Case {
        options: &options,
        sparse: TIB,
        link: 1000,
        attribute: 700,
        ..EXT4
    };
    let seen = compare(&Case {
        mib: 256,
        names: 20_000,
        links: 65_000,
        ..many
    });
    assert_eq!(seen[&b"/links/0"[..]].links, 65_000);
}

#[test]
fn a_mounted_or_unfinished_file_system_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    File::create(&image).unwrap().set_len(16 << 20).unwrap();
    tool(
        "mke2fs",
        &["-q", "-F", "-t", "ext4", image.to_str().unwrap()],
    );
    let open = |bytes: &[u8]| Ext4::open(bytes).map(drop).unwrap_err().to_string();
    let copy = |path: &Path| {
        let mut bytes = Vec::new();
        File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    };
    let message = mounted(&image, "noatime", |root| {
        fs::write(root.join("file"), b"content").unwrap();
        File::open(root.join("file")).unwrap().sync_all().unwrap();
        open(&copy(&image))
    });
    assert_eq!(message, "the file system has a journal to replay");
    assert!(Ext4::open(&copy(&image)[..]).is_ok(), "unmounted again");
}
