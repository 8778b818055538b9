//! File systems made by mkfs.vfat and filled by mtools, read as they are and damaged.
//! Needs the packages dosfstools and mtools.
#![allow(clippy::disallowed_methods, reason = "tests run mkfs.vfat and mtools")]

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use super::*;
use crate::disk::guest::cpu_time;
use crate::disk::guest::tests::run;

/// 2024-02-29 12:34:56.
const TIME: i64 = 1_709_210_096;

fn noise(length: usize) -> Vec<u8> {
    (0..length as u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

/// Name and content of each file; the longest name has this many bytes.
fn plan(longest: usize) -> BTreeMap<String, Vec<u8>> {
    let names = [
        "UPPER.TXT",
        "lower.txt",
        "Mixed Case.Text",
        "noext",
        "EFI/BOOT/BOOTX64.EFI",
        "EFI/deep/er/x",
        "ä中.md",
    ];
    let mut files: BTreeMap<_, _> = names
        .iter()
        .map(|name| ((*name).to_owned(), name.as_bytes().to_vec()))
        .collect();
    files.insert("empty".to_owned(), Vec::new());
    files.insert("large.bin".to_owned(), noise(70_001));
    files.insert("n".repeat(longest), noise(3));
    (0..40).for_each(|number| {
        drop(files.insert(
            format!("EFI/many/a long name, number {number}"),
            noise(number),
        ))
    });
    files
}

/// A file system with the planned files, of this many KiB.
fn image(bits: u8, kib: u32) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (image, file) = (dir.path().join("image"), dir.path().join("file"));
    let (image, file) = (image.to_str().unwrap(), file.to_str().unwrap());
    let kind = [
        "-C",
        "-F",
        &bits.to_string(),
        "-i",
        "12345678",
        "-n",
        "ESP",
        image,
        &kib.to_string(),
    ];
    run("mkfs.vfat", &kind);
    let tool = |program: &str, arguments: &[&str]| {
        let call = [
            &[
                "LC_ALL=C.UTF-8",
                "TZ=UTC",
                "MTOOLSRC=/dev/null",
                program,
                "-i",
                image,
            ],
            arguments,
        ]
        .concat();
        run("env", &call);
    };
    tool(
        "mmd",
        &[
            "::EFI",
            "::EFI/BOOT",
            "::EFI/deep",
            "::EFI/deep/er",
            "::EFI/many",
            "::gone",
        ],
    );
    // What is deleted leaves gaps, in directories and between clusters.
    for name in ["gone first, by a long name", "x1", "x2"] {
        fs::write(file, noise(9000)).unwrap();
        tool("mcopy", &[file, &format!("::{name}")]);
    }
    tool("mdel", &["::x1"]);
    // mtools does not let a name's entries fill more than the clusters of 512 bytes that FAT32 has here.
    let longest = if bits == 32 { 150 } else { 255 };
    for (path, content) in plan(longest) {
        fs::write(file, content).unwrap();
        run("touch", &["-d", &format!("@{TIME}"), file]);
        tool("mcopy", &["-m", file, &format!("::{path}")]);
    }
    tool("mdel", &["::gone first, by a long name", "::x2"]);
    tool("mrd", &["::gone"]);
    tool("mattrib", &["+r", "+h", "+s", "-a", "::UPPER.TXT"]);
    fs::read(image).unwrap()
}

#[test]
fn files_of_every_width_are_read_as_mtools_wrote_them() {
    for (bits, kib) in [(12, 4000), (16, 16_000), (32, 40_000)] {
        let bytes = image(bits, kib);
        let fat = Fat::open(&bytes[..]).unwrap();
        let identity = fat.identity();
        assert_eq!(
            (identity.bits, identity.serial, &identity.label[..]),
            (bits, Some(0x1234_5678), &b"ESP"[..])
        );
        assert!(!identity.dirty);
        let listed = fat.files().unwrap();
        let directories: Vec<_> = listed
            .iter()
            .filter(|file| file.directory)
            .map(|file| &file.path[..])
            .collect();
        assert_eq!(directories.len(), 5, "FAT{bits}");
        assert!(directories.contains(&&b"EFI/deep/er"[..]));
        let files: Vec<_> = listed.iter().filter(|file| !file.directory).collect();
        let read: BTreeMap<_, _> = files
            .iter()
            .map(|file| {
                (
                    String::from_utf8(file.path.clone()).unwrap(),
                    fat.read(file).unwrap(),
                )
            })
            .collect();
        let planned = plan(if bits == 32 { 150 } else { 255 });
        assert_eq!(
            read.keys().collect::<Vec<_>>(),
            planned.keys().collect::<Vec<_>>(),
            "FAT{bits}"
        );
        assert!(read == planned, "FAT{bits}: a content is another");
        assert!(
            files.iter().all(|file| file.mtime == TIME),
            "FAT{bits}: {files:?}"
        );
        let attributes = |path: &[u8]| {
            files
                .iter()
                .find(|file| file.path == path)
                .unwrap()
                .attributes
        };
        assert_eq!(
            (attributes(b"UPPER.TXT"), attributes(b"lower.txt")),
            (0x07, 0x20)
        );
    }
}

#[test]
fn names_without_long_form_are_those_of_the_code_page() {
    let mut entry = [b' '; ENTRY];
    entry[..11].copy_from_slice(b"\x05BC\x81    T\x9a ");
    entry[12] = 0x08;
    assert_eq!(short_name(&entry), "σbcü.TÜ");
    entry[12] = 0x10;
    assert_eq!(short_name(&entry), "σBCü.tÜ");
    assert_eq!(CODE_PAGE.chars().count(), 128);
}

#[test]
fn dates_are_counted_as_the_calendar_goes() {
    assert_eq!(
        seconds(0, 0),
        315_532_800,
        "1980 begins where a date is missing"
    );
    assert_eq!(
        seconds(44 << 9 | 2 << 5 | 29, 12 << 11 | 34 << 5 | 28),
        TIME
    );
    assert_eq!(
        seconds(127 << 9 | 12 << 5 | 31, 23 << 11 | 59 << 5 | 29),
        4_354_819_198
    );
}

#[test]
fn a_directory_that_contains_itself_ends() {
    let mut bytes = image(16, 16_000);
    let fat = Fat::open(&bytes[..]).unwrap();
    let files = fat.files().unwrap();
    let cluster = |path: &[u8]| files.iter().find(|file| file.path == path).unwrap().cluster;
    let (inner, outer) = (cluster(b"EFI/deep/er"), cluster(b"EFI/deep"));
    let at = fat.place(outer).unwrap() as usize;
    let entry = (at..)
        .step_by(ENTRY)
        .find(|at| u32::from(le16(&bytes, at + 26)) == inner)
        .unwrap();
    bytes[entry + 26..entry + 28].copy_from_slice(&(outer as u16).to_le_bytes());
    let error = Fat::open(&bytes[..])
        .unwrap()
        .files()
        .unwrap_err()
        .to_string();
    assert_eq!(error, format!("cluster {outer} is in two directories"));
}

#[test]
fn changed_bytes_are_survived() {
    let bytes = image(12, 400);
    let walk = |bytes: &[u8]| {
        let Ok(fat) = Fat::open(bytes) else { return };
        for file in fat.files().unwrap_or_default() {
            let _ = fat.read(&file);
        }
    };
    let mut changed = bytes.clone();
    // Boot sector, table, root and the first directories.
    for at in (0..40_000).step_by(23) {
        changed[at] ^= if at % 2 == 0 { 0xff } else { 1 << (at % 8) };
        let begun = cpu_time();
        walk(&changed);
        assert!(
            cpu_time() - begun < Duration::from_secs(1),
            "byte {at} takes {:?}",
            cpu_time() - begun
        );
        changed[at] = bytes[at];
    }
    (0..2000)
        .step_by(9)
        .for_each(|length| walk(&bytes[..length]));
}

#[test]
fn a_long_name_may_have_characters_beyond_16_bits() {
    let mut short = [b' '; ENTRY];
    short[..8].copy_from_slice(b"CRAB~1  ");
    let sum = short[..11]
        .iter()
        .fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let mut entry = [0xff; ENTRY];
    (entry[0], entry[11], entry[13]) = (0x41, ATTRIBUTE_LONG_NAME, sum);
    entry[1..7].copy_from_slice(&[0x3e, 0xd8, 0x80, 0xdd, 0, 0]);
    let name = |entry: &[u8]| {
        let mut long = LongName::default();
        long.take(entry);
        long.finish(&short)
            .map(|units| String::from_utf16_lossy(&units))
    };
    assert_eq!(name(&entry).as_deref(), Some("🦀"));
    entry[13] ^= 1;
    assert_eq!(name(&entry), None, "a name of another file");
}
