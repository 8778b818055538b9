//! File systems that mke2fs filled, read as they are and damaged byte by byte.
//! Needs the package e2fsprogs. What the kernel makes of them is compared in the integration tests.
#![allow(
    clippy::disallowed_methods,
    reason = "tests run mke2fs, and have a deadline"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::disk::guest::cpu_time;
use crate::disk::guest::tests::run;

const UUID: &str = "7d1f4a66-1b2c-4d3e-8f90-a1b2c3d4e5f6";

fn noise(length: usize) -> Vec<u8> {
    (0..length as u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 | 1)
        .collect()
}

/// A few files of each sort.
fn plant(tree: &Path) {
    fs::create_dir_all(tree.join("dir/below")).unwrap();
    fs::write(tree.join("dir/small"), b"small").unwrap();
    fs::write(tree.join("dir/below/large"), noise(20_000)).unwrap();
    // A hole after each block: more pieces than an inode has room for.
    let pieces = fs::File::create(tree.join("pieces")).unwrap();
    (0..100).for_each(|piece| pieces.write_all_at(&noise(1024), piece * 2048).unwrap());
    symlink("dir/small", tree.join("short")).unwrap();
    symlink("t".repeat(100), tree.join("long")).unwrap();
    for number in 0..8 {
        fs::write(
            tree.join(format!(
                "dir/{}, number {number}",
                "a name that is not short".repeat(6)
            )),
            b"",
        )
        .unwrap();
    }
}

/// A file system of `size` bytes with what `plant` leaves in a directory.
fn image(size: u64, options: &[&str], plant: impl FnOnce(&Path)) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (tree, path) = (dir.path().join("tree"), dir.path().join("image"));
    fs::create_dir(&tree).unwrap();
    plant(&tree);
    fs::File::create(&path).unwrap().set_len(size).unwrap();
    let (tree, path) = (tree.to_str().unwrap(), path.to_str().unwrap());
    run(
        "mke2fs",
        &[
            &["-q", "-F", "-F", "-L", "my label", "-U", UUID, "-d", tree],
            options,
            &[path],
        ]
        .concat(),
    );
    for request in [
        "ea_set /dir/small user.small x",
        "ea_set -f /dev/stdin /dir user.large",
    ] {
        let value = "v".repeat(600);
        run(
            "sh",
            &[
                "-c",
                &format!("printf {value} | debugfs -w -R '{request}' '{path}' 2>/dev/null"),
            ],
        );
    }
    fs::read(path).unwrap()
}

/// A small one whose metadata has checksums.
fn summed() -> Vec<u8> {
    let options = [
        "-t",
        "ext4",
        "-b",
        "1024",
        "-N",
        "96",
        "-O",
        "^has_journal,^resize_inode,metadata_csum,64bit",
    ];
    image(512 << 10, &options, plant)
}

/// An object and all that is read of it.
type Found = (
    Inode,
    Vec<DirEntry>,
    Option<InodeContent>,
    Option<Vec<u8>>,
    Xattrs,
);

/// Everything from the root on, by inode.
fn walk(bytes: &[u8]) -> Result<BTreeMap<u32, Found>, ReadError> {
    let fs = Ext4::open(bytes)?;
    let mut found = BTreeMap::new();
    let mut todo = vec![fs.root()];
    while let Some(number) = todo.pop() {
        if found.contains_key(&number) {
            continue;
        }
        let inode = fs.inode(number)?;
        let is_directory = inode.is_directory();
        let entries = if is_directory {
            fs.entries(&inode)?
        } else {
            Vec::new()
        };
        todo.extend(entries.iter().map(|entry| entry.inode));
        let content = if inode.is_file() || is_directory {
            Some(fs.content(&inode)?)
        } else {
            None
        };
        let target = if inode.is_link() {
            Some(fs.target(&inode)?)
        } else {
            None
        };
        let xattrs = fs.xattrs(&inode)?;
        found.insert(number, (inode, entries, content, target, xattrs));
    }
    Ok(found)
}

/// Superblock, descriptors, and every metadata block that the walk reads, each once.
fn metadata(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let fs = Ext4::open(bytes).unwrap();
    let mut places = Vec::from([Range {
        start: 1024,
        end: 3072,
    }]);
    for (number, (inode, _, content, ..)) in walk(bytes).unwrap() {
        places.push(fs.inode_place(number).unwrap());
        places.extend(fs.blocks_of_map(&inode).unwrap());
        places.extend(fs.blocks_of_xattrs(&inode).unwrap());
        if let Some(InodeContent::Extents(extents)) = content.filter(|_| inode.is_directory()) {
            places.extend(
                extents
                    .iter()
                    .map(|extent| extent.start..extent.start + extent.length),
            );
        }
    }
    let places: BTreeSet<_> = places
        .into_iter()
        .map(|place: Range<u64>| (place.start, place.end))
        .collect();
    places.into_iter().flat_map(|(start, end)| start..end)
}

fn inode_at(fs: &Ext4<'_, [u8]>, path: &str) -> Inode {
    path.split('/')
        .fold(fs.inode(fs.root()).unwrap(), |inode, name| {
            let entries = fs.entries(&inode).unwrap();
            let entry = entries.iter().find(|entry| entry.name == name.as_bytes());
            fs.inode(entry.unwrap_or_else(|| panic!("{path}: no {name}")).inode)
                .unwrap()
        })
}

fn content_of(fs: &Ext4<'_, [u8]>, bytes: &[u8], inode: &Inode) -> Vec<u8> {
    match fs.content(inode).unwrap() {
        InodeContent::Inline(content) => content,
        InodeContent::Extents(extents) => {
            let mut content = vec![0; inode.size as usize];
            for extent in extents {
                let from = &bytes[extent.start as usize..][..extent.length as usize];
                content[extent.offset as usize..][..from.len()].copy_from_slice(from);
            }
            content
        }
    }
}

#[test]
fn what_mke2fs_wrote_is_read() {
    let bytes = summed();
    let fs = Ext4::open(&bytes[..]).unwrap();
    let identity = fs.identity();
    assert_eq!(
        (&identity.uuid[..], &identity.label[..]),
        (UUID, &b"my label"[..])
    );
    assert_eq!(
        (identity.block_size, identity.blocks, identity.inodes),
        (1024, 512, 96)
    );
    assert_eq!(
        content_of(&fs, &bytes, &inode_at(&fs, "dir/small")),
        b"small"
    );
    assert_eq!(
        content_of(&fs, &bytes, &inode_at(&fs, "dir/below/large")),
        noise(20_000)
    );
    let pieces = inode_at(&fs, "pieces");
    let content = content_of(&fs, &bytes, &pieces);
    assert_eq!(
        (pieces.size, content.len()),
        (2048 * 99 + 1024, 2048 * 99 + 1024)
    );
    assert!((0..100).all(|piece| content[piece * 2048..][..1024] == noise(1024)));
    assert!(
        !fs.blocks_of_map(&pieces).unwrap().is_empty(),
        "a tree below the inode"
    );
    assert_eq!(fs.target(&inode_at(&fs, "short")).unwrap(), b"dir/small");
    assert_eq!(
        fs.target(&inode_at(&fs, "long")).unwrap(),
        "t".repeat(100).as_bytes()
    );
    assert_eq!(fs.entries(&inode_at(&fs, "dir")).unwrap().len(), 10);
    let xattr = |path, name: &[u8], value: &[u8]| {
        assert_eq!(
            fs.xattrs(&inode_at(&fs, path)).unwrap(),
            [(name.to_vec(), value.to_vec())]
        );
    };
    xattr("dir/small", b"user.small", b"x");
    xattr("dir", b"user.large", "v".repeat(600).as_bytes());
    assert_eq!(fs.blocks_of_xattrs(&inode_at(&fs, "dir")).unwrap().len(), 1);
}

#[test]
fn blocks_of_64_kib_are_read() {
    let names: BTreeSet<_> = (0..4000)
        .map(|number| format!("name number {number}").into_bytes())
        .collect();
    let bytes = image(
        64 << 20,
        &[
            "-t",
            "ext4",
            "-b",
            "65536",
            "-N",
            "5000",
            "-O",
            "^has_journal",
        ],
        |tree| {
            names.iter().for_each(|name| {
                fs::write(tree.join(String::from_utf8_lossy(name).as_ref()), b"").unwrap()
            });
            plant(tree);
        },
    );
    let fs = Ext4::open(&bytes[..]).unwrap();
    let root = fs.inode(fs.root()).unwrap();
    assert!(root.size >= 128 << 10, "more than one block of names");
    let found = fs.entries(&root).unwrap();
    assert!(found.iter().all(|entry| fs.inode(entry.inode).is_ok()));
    assert_eq!(
        found
            .iter()
            .filter(|entry| names.contains(&entry.name))
            .count(),
        4000
    );
    assert_eq!(
        content_of(&fs, &bytes, &inode_at(&fs, "dir/below/large")),
        noise(20_000)
    );
}

#[test]
fn the_first_revision_of_the_format_is_read() {
    let bytes = image(1 << 20, &["-r", "0", "-b", "1024", "-O", "none"], plant);
    let found = walk(&bytes).unwrap();
    assert_eq!(found.len(), 17);
}

/// Flips bits of every `step`th of these bytes in turn, and gives what is then read to `check`.
fn flip(
    original: &[u8],
    step: usize,
    mut check: impl FnMut(u64, Result<BTreeMap<u32, Found>, ReadError>),
) {
    let mut bytes = original.to_vec();
    for at in metadata(original).step_by(step) {
        let mask = if at % 3 == 0 { 0xff } else { 1 << (at % 8) };
        bytes[at as usize] ^= mask;
        let begun = cpu_time();
        check(at, walk(&bytes));
        assert!(
            cpu_time() - begun < Duration::from_secs(1),
            "byte {at} takes {:?}",
            cpu_time() - begun
        );
        bytes[at as usize] ^= mask;
    }
}

#[test]
fn with_checksums_no_changed_byte_of_metadata_is_believed() {
    let bytes = summed();
    let whole = walk(&bytes).unwrap();
    let (mut flips, mut refused) = (0, 0);
    flip(&bytes, 1, |at, result| {
        flips += 1;
        match result {
            Ok(found) => assert!(found == whole, "byte {at} changes what is read"),
            Err(_) => refused += 1,
        }
    });
    assert!(
        flips > 10_000 && refused * 10 > flips * 8,
        "{refused} of {flips} refused"
    );
}

#[test]
fn without_checksums_every_changed_byte_of_metadata_is_survived() {
    for options in [
        &["-t", "ext2", "-b", "1024", "-N", "96"][..],
        &[
            "-t",
            "ext4",
            "-b",
            "1024",
            "-N",
            "96",
            "-O",
            "^metadata_csum",
        ],
    ] {
        let bytes = image(
            512 << 10,
            &[options, &["-O", "^has_journal,^resize_inode"]].concat(),
            plant,
        );
        let mut refused = 0;
        flip(&bytes, 5, |_, result| refused += u32::from(result.is_err()));
        assert!(refused > 300, "{refused} refused");
    }
}

#[test]
fn what_is_not_understood_is_refused_in_words() {
    let bytes = image(
        512 << 10,
        &["-t", "ext2", "-b", "1024", "-I", "128", "-N", "96"],
        plant,
    );
    let refused = |at: usize, bits: u8| {
        let mut bytes = bytes.clone();
        bytes[at] |= bits;
        Ext4::open(&bytes[..]).map(drop).unwrap_err().to_string()
    };
    let (state, compat, incompat, orphan) = (1024 + 0x3a, 1024 + 0x5c, 1024 + 0x60, 1024 + 0xe8);
    assert_eq!(refused(incompat, 0x1), "compression is not supported");
    assert_eq!(
        refused(incompat, 0x8),
        "a journal of another file system is not supported"
    );
    assert_eq!(
        refused(incompat + 1, 0x10),
        "data in directories (dirdata) is not supported"
    );
    assert_eq!(
        refused(incompat + 3, 0x80),
        "the unknown feature 0x80000000 is not supported"
    );
    assert_eq!(
        refused(compat, 0x4),
        "a journal on another device is not supported"
    );
    assert_eq!(refused(state, 0x2), "the file system has 0 recorded errors");
    assert_eq!(
        refused(incompat, 0x4),
        "the file system has a journal to replay"
    );
    assert_eq!(
        refused(orphan, 12),
        "the file system has deleted files to clean up"
    );
    assert_eq!(
        refused(1024 + 0x66, 0x1),
        "the file system has deleted files to clean up"
    );
    let fs = Ext4::open(&bytes[..]).unwrap();
    let small = inode_at(&fs, "dir/small").number;
    let mut encrypted = bytes.clone();
    encrypted[fs.inode_place(small).unwrap().start as usize + 0x21] |= 0x8;
    let error = Ext4::open(&encrypted[..])
        .unwrap()
        .inode(small)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the encryption of inode {small} is not supported")
    );
    for outside in [0, 97, u32::MAX] {
        assert!(
            matches!(fs.inode(outside), Err(ReadError::Corrupt { .. })),
            "{outside}"
        );
    }
    assert_eq!(
        fs.inode(90).unwrap_err().to_string(),
        "inode 90 is not in use"
    );
}

#[test]
fn a_map_that_goes_in_rings_ends() {
    let bytes = image(
        512 << 10,
        &["-t", "ext2", "-b", "1024", "-I", "128", "-N", "96"],
        plant,
    );
    let fs = Ext4::open(&bytes[..]).unwrap();
    let pieces = inode_at(&fs, "pieces");
    let indirect = fs.blocks_of_map(&pieces).unwrap()[0].start;
    let mut bytes = bytes.clone();
    let at = fs.inode_place(pieces.number).unwrap().start as usize;
    // Thrice indirect, by blocks that all are the same one, which names only itself.
    let number = (indirect as u32 / 1024).to_le_bytes();
    bytes[at + 0x28 + 14 * 4..][..4].copy_from_slice(&number);
    bytes[at + 0x28 + 12 * 4..][..8].fill(0);
    bytes[indirect as usize..][..1024]
        .chunks_exact_mut(4)
        .for_each(|pointer| pointer.copy_from_slice(&number));
    let error = walk(&bytes).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("inode {}: a block of its map appears twice", pieces.number)
    );
}
