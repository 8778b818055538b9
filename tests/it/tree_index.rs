//! Tree indexes: of a disk that was changed at random, made from the one before and from nothing; and of disks that are
//! hard to read.
//!
//! Needs root, loop devices and the package e2fsprogs.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use impasto::disk::guest::OverlayView;
use impasto::disk::tree::make::{BaseIndex, tree};
use impasto::disk::tree::{EntryKind, Tree, text};
use impasto_store::qcow2::{CHUNK, ChunkSource, Content, SourceError};

use crate::base::tool;
use crate::guest_ext4::mounted;

/// Chunks of a disk in memory: all of them, or those that differ from another's.
struct Chunks {
    bytes: Vec<u8>,
    present: Vec<u64>,
}

impl Chunks {
    fn whole(bytes: Vec<u8>) -> Self {
        let present = (0..bytes.len().div_ceil(CHUNK) as u64).collect();
        Chunks { bytes, present }
    }

    fn over(bytes: Vec<u8>, before: &[u8]) -> Self {
        let differs = |index: &u64| {
            let range = *index as usize * CHUNK..bytes.len().min((*index as usize + 1) * CHUNK);
            bytes[range.clone()] != before[range]
        };
        let present = (0..bytes.len().div_ceil(CHUNK) as u64)
            .filter(differs)
            .collect();
        Chunks { bytes, present }
    }
}

impl ChunkSource for Chunks {
    fn virtual_size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn next_present(&self, from: u64) -> Result<Option<u64>, SourceError> {
        Ok(self
            .present
            .get(self.present.partition_point(|index| *index < from))
            .copied())
    }

    fn read_chunk(&self, index: u64, buffer: &mut [u8; CHUNK]) -> Result<Content, SourceError> {
        buffer.copy_from_slice(&self.bytes[index as usize * CHUNK..][..CHUNK]);
        Ok(Content::Data)
    }
}

fn whole(bytes: &[u8]) -> Tree {
    let chunks = Chunks::whole(bytes.to_vec());
    let (tree, unread) = tree(&OverlayView::whole(&chunks).unwrap(), None).unwrap();
    assert_eq!(unread, []);
    tree
}

/// An empty file system of 48 MiB.
fn image(dir: &Path, options: &str) -> PathBuf {
    let path = dir.join("disk.raw");
    File::create(&path).unwrap().set_len(48 << 20).unwrap();
    let size = ["-b", "4096", "-N", "8000"];
    tool(
        "mke2fs",
        &[
            &["-q", "-F", "-t", "ext4", "-E", options],
            &size[..],
            &[path.to_str().unwrap()],
        ]
        .concat(),
    );
    path
}

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % end
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() {
            None
        } else {
            Some(&from[self.below(from.len())])
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = [0, 1, 100, 5_000, 70_000, 400_000][self.below(6)] + self.below(50);
        let byte = self.below(256) as u8;
        (0..length)
            .map(|at| byte.wrapping_add((at / 7) as u8))
            .collect()
    }
}

/// Changes a tree of files in some way.
fn change(root: &Path, random: &mut Random) {
    let (mut files, mut dirs) = (Vec::new(), vec![root.to_owned()]);
    let mut rest = vec![root.to_owned()];
    while let Some(dir) = rest.pop() {
        let mut names: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        names.sort();
        for path in names {
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            if kind.is_dir() && !path.ends_with("lost+found") {
                dirs.push(path.clone());
                rest.push(path);
            } else if kind.is_file() {
                files.push(path);
            }
        }
    }
    let dir = random.pick(&dirs).unwrap().clone();
    let new = dir.join(format!("n{}", random.below(1_000_000)));
    let file = random.pick(&files).cloned();
    let open = |path: &Path| OpenOptions::new().write(true).open(path).unwrap();
    match (random.below(14), file) {
        (0..4, _) | (_, None) => fs::write(new, random.bytes()).unwrap(),
        (4, Some(file)) => open(&file)
            .write_all_at(&random.bytes(), random.below(100_000) as u64)
            .unwrap(),
        (5, Some(file)) => OpenOptions::new()
            .append(true)
            .open(file)
            .unwrap()
            .write_all(&random.bytes())
            .unwrap(),
        (6, Some(file)) => open(&file).set_len(random.below(2 << 20) as u64).unwrap(),
        (7, Some(file)) => fs::remove_file(file).unwrap(),
        #[expect(
            clippy::disallowed_methods,
            reason = "on a mounted disk, not in the store"
        )]
        (8, Some(file)) => fs::rename(file, new).unwrap(),
        (9, Some(file)) => fs::hard_link(file, new).unwrap(),
        (10, Some(file)) => symlink(file, new).unwrap(),
        (11, Some(file)) => {
            fs::set_permissions(
                &file,
                fs::Permissions::from_mode(0o600 + random.below(64) as u32),
            )
            .unwrap();
            lchown(&file, Some(random.below(9) as u32), None).unwrap();
        }
        (12, Some(_)) => fs::create_dir(new).unwrap(),
        (_, Some(_)) if dir != root && dirs.len() > 4 => fs::remove_dir_all(dir).unwrap(),
        (_, Some(file)) => {
            let name = format!("user.n{}", random.below(3));
            let value = vec![7; random.below(300)];
            rustix::fs::setxattr(
                &file,
                name.as_str(),
                &value,
                rustix::fs::XattrFlags::empty(),
            )
            .unwrap();
        }
    }
}

#[test]
fn the_index_of_a_changed_tree_is_that_from_scratch() {
    for seed in 0..4 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let dir = tempfile::tempdir().unwrap();
        let image = image(dir.path(), "lazy_itable_init=0");
        mounted(&image, "noatime", |root| {
            (0..60).for_each(|_| change(root, &mut random))
        });
        let mut before = fs::read(&image).unwrap();
        let mut below = whole(&before);
        for round in 0..8 {
            let count = [1, 3, 20][random.below(3)];
            mounted(&image, "noatime", |root| {
                (0..count).for_each(|_| change(root, &mut random))
            });
            let after = fs::read(&image).unwrap();
            let base = Chunks::whole(before);
            let top = Chunks::over(after.clone(), &base.bytes);
            let (view, old) = (
                OverlayView::over(&top, &base).unwrap(),
                OverlayView::whole(&base).unwrap(),
            );
            let (found, unread) = tree(
                &view,
                Some(&BaseIndex {
                    tree: &below,
                    disk: &old,
                }),
            )
            .unwrap();
            assert_eq!(unread, []);
            let scratch = whole(&after);
            assert_eq!(
                text::write(&found),
                text::write(&scratch),
                "seed {seed}, round {round}"
            );
            assert_eq!(text::parse(&text::write(&scratch)).as_ref(), Ok(&scratch));
            (before, below) = (after, scratch);
        }
    }
}

#[test]
fn a_wrong_tree_below_changes_nothing_of_what_is_written() {
    // Of an index that belongs to another disk only what is not written can be taken over: the caller's promise.
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), "lazy_itable_init=0");
    mounted(&image, "noatime", |root| {
        fs::write(root.join("a"), b"one").unwrap()
    });
    let bytes = fs::read(&image).unwrap();
    let (top, base) = (
        Chunks::whole(bytes.clone()),
        Chunks::whole(vec![0; bytes.len()]),
    );
    let mut wrong = whole(&bytes);
    for entry in &mut wrong.volumes[0].entries {
        if let EntryKind::File { content, .. } = &mut entry.kind {
            *content = impasto_store::digest::Digest::ZERO;
        }
    }
    let (view, old) = (
        OverlayView::over(&top, &base).unwrap(),
        OverlayView::whole(&base).unwrap(),
    );
    let (found, _) = tree(
        &view,
        Some(&BaseIndex {
            tree: &wrong,
            disk: &old,
        }),
    )
    .unwrap();
    assert_eq!(found, whole(&bytes));
}

#[test]
fn what_cannot_be_listed_is_an_area_and_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let good = |features: &str| {
        let path = dir.path().join("disk.raw");
        File::create(&path).unwrap().set_len(16 << 20).unwrap();
        tool(
            "mke2fs",
            &[
                "-q",
                "-F",
                "-t",
                "ext4",
                "-O",
                features,
                path.to_str().unwrap(),
            ],
        );
        let map = tool("debugfs", &["-R", "imap <2>", path.to_str().unwrap()]);
        let block: usize = map
            .split("located at block ")
            .nth(1)
            .unwrap()
            .split(',')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        (fs::read(&path).unwrap(), block)
    };
    let told = |bytes: Vec<u8>| {
        let chunks = Chunks::whole(bytes);
        let (tree, unread) = tree(&OverlayView::whole(&chunks).unwrap(), None).unwrap();
        assert!(tree.volumes.is_empty() && tree.areas.len() == 1, "{tree:?}");
        assert_eq!(unread.len(), 1);
        format!("{}: {}", unread[0].place, unread[0].reason)
    };
    // The superblock lies at 1024. Without checksums what is wrong shows first.
    let (plain, _) = good("^metadata_csum");
    let mut dirty = plain.clone();
    dirty[1024 + 0x60] |= 4;
    assert_eq!(
        told(dirty),
        "the disk: the file system has a journal to replay"
    );
    let mut errors = plain;
    errors[1024 + 0x3a] |= 2;
    assert_eq!(
        told(errors),
        "the disk: the file system has 0 recorded errors"
    );
    let (mut corrupt, block) = good("metadata_csum");
    let size = 1024 << corrupt[1024 + 0x18];
    corrupt[block * size + 256 + 4] ^= 1;
    assert_eq!(told(corrupt), "the disk: inode 2: its checksum is wrong");
}

#[test]
fn names_of_one_file_are_one_group_whatever_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), "lazy_itable_init=0");
    mounted(&image, "noatime", |root| {
        fs::create_dir(root.join("b")).unwrap();
        fs::write(root.join("b/z"), b"one").unwrap();
        fs::hard_link(root.join("b/z"), root.join("z")).unwrap();
        fs::hard_link(root.join("b/z"), root.join("a")).unwrap();
    });
    let tree = whole(&fs::read(&image).unwrap());
    let kinds: HashMap<_, _> = tree.volumes[0]
        .entries
        .iter()
        .map(|entry| (entry.path.clone(), entry.kind.clone()))
        .collect();
    assert!(matches!(
        kinds[b"/a".as_slice()],
        EntryKind::File { size: 3, .. }
    ));
    for other in [b"/b/z".as_slice(), b"/z"] {
        assert_eq!(
            kinds[other],
            EntryKind::HardLink {
                first: b"/a".to_vec()
            }
        );
    }
}

#[test]
fn what_is_hard_to_name_or_to_hold_is_indexed_right_and_shown_safely() {
    const TIB: u64 = 1 << 40;
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), "lazy_itable_init=0");
    let odd: &[&[u8]] = &[
        b"new\nline",
        b"\x1b[31mred",
        b"not \xff\xfe UTF-8",
        b"back\\slash",
        b" blank ",
        b"-",
    ];
    let mut deep = String::new();
    while deep.len() < 4080 {
        deep += "/d";
    }
    mounted(&image, "noatime", |root| {
        for name in odd {
            fs::write(root.join(std::ffi::OsStr::from_bytes(name)), b"x").unwrap();
        }
        // Longer than a path may be: step by step.
        let mut at = File::open(root).unwrap();
        for part in deep.split('/').skip(1) {
            rustix::fs::mkdirat(&at, part, rustix::fs::Mode::RWXU).unwrap();
            let flags = rustix::fs::OFlags::DIRECTORY;
            at = rustix::fs::openat(&at, part, flags, rustix::fs::Mode::empty())
                .unwrap()
                .into();
        }
        let sparse = File::create(root.join("sparse")).unwrap();
        sparse.set_len(15 * TIB).unwrap();
        sparse.write_all_at(b"here", 7 * TIB + 5).unwrap();
        fs::write(root.join("many"), b"names").unwrap();
        fs::create_dir(root.join("names")).unwrap();
        (0..20_000).for_each(|number| {
            fs::hard_link(root.join("many"), root.join(format!("names/{number}"))).unwrap()
        });
        fs::write(root.join("ping"), b"").unwrap();
        tool(
            "setcap",
            &["cap_net_raw+ep", root.join("ping").to_str().unwrap()],
        );
        tool(
            "setfacl",
            &["-m", "u:1000:r", root.join("many").to_str().unwrap()],
        );
        fs::write(root.join("fixed"), b"").unwrap();
        tool("chattr", &["+i", root.join("fixed").to_str().unwrap()]);
        tool(
            "mknod",
            &[root.join("null").to_str().unwrap(), "c", "1", "3"],
        );
        tool("mkfifo", &[root.join("pipe").to_str().unwrap()]);
    });
    let begun = std::time::Instant::now();
    let tree = whole(&fs::read(&image).unwrap());
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    let text = text::write(&tree);
    assert_eq!(text::parse(&text).as_ref(), Ok(&tree));
    assert!(
        text.iter()
            .all(|byte| byte.is_ascii_graphic() || b" \n".contains(byte))
    );
    let volume = &tree.volumes[0];
    let find = |path: &[u8]| {
        volume
            .find(path)
            .unwrap_or_else(|| panic!("{} is not there", path.escape_ascii()))
    };
    odd.iter().for_each(|name| {
        assert!(matches!(
            find(&[b"/", *name].concat()).kind,
            EntryKind::File { size: 1, .. }
        ))
    });
    assert_eq!(find(deep.as_bytes()).kind, EntryKind::Dir);
    assert!(matches!(find(b"/sparse").kind, EntryKind::File { size, .. } if size == 15 * TIB));
    let links = volume
        .entries
        .iter()
        .filter(|entry| matches!(&entry.kind, EntryKind::HardLink { first } if first == b"/many"));
    assert_eq!(links.count(), 20_000);
    let attribute = |path: &[u8]| {
        find(path)
            .xattrs
            .iter()
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(attribute(b"/ping"), [b"security.capability"]);
    assert_eq!(attribute(b"/many"), [b"system.posix_acl_access"]);
    assert_eq!(find(b"/fixed").flags, 0x10);
    assert_eq!(
        (&find(b"/null").kind, &find(b"/pipe").kind),
        (&EntryKind::Char(1, 3), &EntryKind::Fifo)
    );
}

#[test]
fn settings_of_a_file_system_are_content_and_its_use_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), "lazy_itable_init=0");
    let path = image.to_str().unwrap();
    mounted(&image, "noatime", |root| {
        fs::write(root.join("a"), b"one").unwrap()
    });
    let mut before = whole(&fs::read(&image).unwrap());
    // Mounted, read, written to and brought back.
    mounted(&image, "noatime", |root| {
        let modified = fs::metadata(root).unwrap().modified().unwrap();
        fs::write(root.join("b"), vec![1; 100_000]).unwrap();
        fs::remove_file(root.join("b")).unwrap();
        File::open(root).unwrap().set_modified(modified).unwrap();
    });
    assert_eq!(whole(&fs::read(&image).unwrap()), before);
    let settings: [&[&str]; 5] = [
        &["-e", "panic"],
        &["-c", "7"],
        &["-i", "3d"],
        &["-u", "12"],
        &["-E", "stride=16,stripe_width=32"],
    ];
    for setting in settings {
        tool("tune2fs", &[setting, &[path]].concat());
        let after = whole(&fs::read(&image).unwrap());
        assert_ne!(after, before, "tune2fs {setting:?}");
        before = after;
    }
    tool("debugfs", &["-w", "-R", "set_inode_field a projid 5", path]);
    let after = whole(&fs::read(&image).unwrap());
    assert_eq!(
        after.volumes[0].find(b"/a").unwrap().xattrs,
        [(b"project".to_vec(), vec![0, 0, 0, 5])]
    );
}
