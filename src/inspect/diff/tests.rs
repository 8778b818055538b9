//! A rich case, made by hand, and how it is shown.

use std::collections::BTreeMap;

use impasto_store::digest::BlobDigest;

use super::*;
use crate::disk::contents::WantedFile;
use crate::disk::tree::{Area, EntryKind, IndexEntry, TableIdentity, TreePartition, Volume};

/// A tree with what its files hold.
#[derive(Default)]
struct Disk {
    tree: Tree,
    files: BTreeMap<(u32, Vec<u8>), Vec<u8>>,
    start: Vec<u8>,
}

impl Contents for Disk {
    fn files(
        &self,
        wanted: &[WantedFile<'_>],
        limit: u64,
    ) -> Result<Vec<Option<Vec<u8>>>, ReadError> {
        let read = |(partition, path): &WantedFile<'_>| {
            self.files
                .get(&(*partition, path.to_vec()))
                .filter(|bytes| bytes.len() as u64 <= limit)
                .cloned()
        };
        Ok(wanted.iter().map(read).collect())
    }

    fn range(&self, start: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        let mut bytes = self
            .start
            .get(start as usize..)
            .unwrap_or_default()
            .to_vec();
        bytes.resize(length, 0);
        Ok(bytes)
    }
}

impl Disk {
    fn volume(&mut self, partition: u32, kind: &str, facts: &[(&str, &str)]) -> &mut Self {
        self.tree.volumes.push(Volume {
            partition,
            kind: kind.to_owned(),
            uuid: format!("uuid-{partition}"),
            label: b"ro\x1bot".to_vec(),
            facts: facts
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            entries: Vec::new(),
        });
        self.dir("/")
    }

    /// Puts an entry into the last volume.
    fn put(&mut self, path: impl AsRef<[u8]>, kind: EntryKind, mode: u16) -> &mut Self {
        let path = path.as_ref().to_vec();
        let entry = IndexEntry {
            path,
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: (1_700_000_000, 0),
            flags: 0,
            xattrs: Vec::new(),
        };
        self.tree.volumes.last_mut().unwrap().entries.push(entry);
        self
    }

    fn dir(&mut self, path: &str) -> &mut Self {
        self.put(path, EntryKind::Dir, 0o755)
    }

    fn file(&mut self, path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> &mut Self {
        let (path, content) = (path.as_ref(), content.as_ref());
        let partition = self.tree.volumes.last().unwrap().partition;
        self.files
            .insert((partition, path.to_vec()), content.to_vec());
        self.put(
            path,
            EntryKind::File {
                size: content.len() as u64,
                content: BlobDigest::of(content).0,
            },
            0o644,
        )
    }

    /// Changes the entry that was put last.
    fn with(&mut self, change: impl FnOnce(&mut IndexEntry)) -> &mut Self {
        change(
            self.tree
                .volumes
                .last_mut()
                .unwrap()
                .entries
                .last_mut()
                .unwrap(),
        );
        self
    }

    fn done(&mut self) -> Disk {
        for volume in &mut self.tree.volumes {
            volume.entries.sort_by(|a, b| a.path.cmp(&b.path));
        }
        std::mem::take(self)
    }
}

const CAP_NET_RAW: [u8; 20] = [
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

fn disk(size: u64, partitions: Vec<TreePartition>, boot: u8) -> Disk {
    let mut start = vec![0; 1 << 20];
    start[10] = boot;
    start[20_000] = boot;
    let area = |partition, start, size, byte: u8| Area {
        partition,
        start,
        size,
        content: BlobDigest::of(&[byte]).0,
    };
    let areas = vec![
        area(None, 0, 1 << 20, boot),
        area(Some(14), 1 << 20, 1 << 20, boot),
        area(Some(1), 4 << 20, 1024, boot),
    ];
    let table = TableIdentity::Gpt("disk-guid".to_owned());
    Disk {
        tree: Tree {
            size,
            table,
            partitions,
            areas,
            ..Tree::default()
        },
        start,
        ..Disk::default()
    }
}

fn partition(number: u32, start: u64, size: u64, kind: &str) -> TreePartition {
    let (kind, name) = (kind.to_owned(), String::new());
    TreePartition {
        number,
        start,
        size,
        kind,
        uuid: format!("partuuid-{number}"),
        name,
    }
}

fn status(packages: &[(&str, &str, &str)]) -> String {
    let stanza = |(name, version, architecture): &(&str, &str, &str)| {
        format!(
            "Package: {name}\nStatus: install ok installed\nArchitecture: {architecture}\nVersion: {version}\n\n"
        )
    };
    packages.iter().map(stanza).collect()
}

fn before() -> Disk {
    let bios = partition(14, 1 << 20, 1 << 20, "21686148-6449-6e6f-744e-656564454649");
    let mut disk = disk(
        1 << 30,
        vec![partition(1, 4 << 20, 100 << 20, "linux"), bios],
        1,
    );
    let device = |minor| EntryKind::Char(1, minor);
    disk.volume(
        1,
        "ext4",
        &[
            ("blocks", "25600"),
            ("compat", "2c"),
            ("incompat", "2c2"),
            ("mount-options", "c"),
        ],
    )
    .file(
        "/var/lib/dpkg/status",
        status(&[
            ("openssl", "3.0.15-1", "amd64"),
            ("nano", "7.2-1", "amd64"),
            ("libc6", "2.36", "amd64"),
            ("libc6", "2.36", "i386"),
        ]),
    )
    .file("/etc/app.conf", "one\ntwo\nthree\n")
    .file("/etc/binary", b"\0\x01")
    .file(
        "/etc/long",
        (0..100)
            .map(|line| format!("line {line}\n"))
            .collect::<String>(),
    )
    .file("/etc/mode", "m")
    .with(|entry| entry.mtime = (1_700_000_000, 5))
    .file("/bin/ping", "ping")
    .with(|entry| entry.xattrs = vec![(b"security.capability".to_vec(), CAP_NET_RAW.to_vec())])
    .file("/etc/acl", "acl")
    .file("/etc/old", "gone")
    .dir("/gone")
    .file("/gone/a", "aaaa")
    .file("/gone/b", "bb")
    .dir("/timed")
    .dir("/timed/one")
    .put("/dev-null", device(3), 0o666)
    .put(
        "/link",
        EntryKind::Symlink {
            target: b"old/target".to_vec(),
        },
        0o777,
    )
    .put(
        "/becomes",
        EntryKind::Symlink {
            target: b"else".to_vec(),
        },
        0o777,
    )
    .file("/hard-1", "hard")
    .put(
        "/hard-2",
        EntryKind::HardLink {
            first: b"/hard-1".to_vec(),
        },
        0,
    )
    .done()
}

fn after() -> Disk {
    let bios = partition(14, 1 << 20, 1 << 20, "21686148-6449-6e6f-744e-656564454649");
    let esp = partition(
        15,
        200 << 20,
        4 << 20,
        "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    );
    let mut disk = disk(
        2 << 30,
        vec![partition(1, 4 << 20, 101 << 20, "linux"), bios, esp],
        2,
    );
    let acl = [
        1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 7, 0, 0xe8, 3, 0, 0, 4, 0, 4, 0, 0x10, 0, 7, 0, 0x20, 0, 0, 0,
    ];
    disk.volume(
        1,
        "ext4",
        &[
            ("blocks", "25856"),
            ("compat", "102c"),
            ("incompat", "42c2"),
            ("mount-options", "4"),
        ],
    )
    .file(
        "/var/lib/dpkg/status",
        status(&[
            ("openssl", "3.0.16-1", "amd64"),
            ("gdb\x1b[1m", "13.1-3", "amd64"),
            ("libc6", "2.36", "amd64"),
            ("libc6", "2.37", "i386"),
        ]),
    )
    .file("/etc/app.conf", "one\n\x1b]0;title\x07two\nthree")
    .file("/etc/binary", b"\0\x02")
    .file(
        "/etc/long",
        (0..100)
            .map(|line| format!("{line}. line\n"))
            .collect::<String>(),
    )
    .file("/etc/mode", "m")
    .with(|entry| (entry.mode, entry.uid, entry.gid, entry.flags) = (0o4755, 1000, 100, 0x10))
    .file("/bin/ping", "ping")
    .file("/etc/acl", "acl")
    .with(|entry| entry.xattrs = vec![(b"system.posix_acl_access".to_vec(), acl.to_vec())])
    .dir("/new")
    .dir("/new/deep")
    .file("/new/a", vec![7; 3000])
    .file("/new/deep/b", "b")
    .file("/new/deep/su", "su")
    .with(|entry| entry.mode = 0o4755)
    .put(
        "/new/a-link",
        EntryKind::HardLink {
            first: b"/new/a".to_vec(),
        },
        0,
    )
    .dir("/new-empty")
    .file(b"/\x1b[31mred\n\xff\\", "red")
    .dir("/timed")
    .with(|entry| entry.mtime.0 += 1)
    .dir("/timed/one")
    .with(|entry| entry.mtime.0 += 1)
    .put("/dev-null", EntryKind::Char(1, 5), 0o666)
    .put(
        "/link",
        EntryKind::Symlink {
            target: b"new/\ntarget".to_vec(),
        },
        0o777,
    )
    .dir("/becomes")
    .file("/becomes/file", "in it")
    .file("/hard-2", "hard")
    .put("/pipe", EntryKind::Fifo, 0o600)
    .put("/sda", EntryKind::Block(8, 0), 0o660)
    .volume(15, "vfat", &[])
    .file("/EFI", "boot")
    .done()
}

fn compared(before: &Disk, after: &Disk) -> DiffReport {
    report(
        &Side {
            name: "base",
            tree: &before.tree,
            contents: before,
        },
        &Side {
            name: "too\x1bls",
            tree: &after.tree,
            contents: after,
        },
        true,
    )
    .unwrap()
}

#[test]
fn a_rich_case_as_text() {
    insta::assert_snapshot!(render::render(&compared(&before(), &after()), false));
}

#[test]
fn a_rich_case_with_every_file() {
    let mut report = compared(&before(), &after());
    // The rest is as above.
    report.packages.clear();
    report.areas.clear();
    report.file_systems.clear();
    report.partition_table.clear();
    report.files.iter_mut().for_each(|file| file.text = None);
    insta::assert_snapshot!(render::render(&report, true));
}

#[test]
fn a_rich_case_as_counts() {
    insta::assert_snapshot!(stat::render(&compared(&before(), &after())));
}

#[test]
fn a_rich_case_as_json() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&compared(&before(), &after())).unwrap());
}

#[test]
fn equal_disks_have_nothing_to_show() {
    let report = compared(&after(), &after());
    assert!(report.equal);
    assert_eq!(stat::render(&report), "");
    assert_eq!(render::render(&report, true).lines().count(), 1);
}

#[test]
fn nothing_that_is_shown_moves_the_cursor() {
    let (before, after) = (before(), after());
    for report in [compared(&before, &after), compared(&after, &before)] {
        let json = serde_json::to_string(&report).unwrap();
        for text in [
            render::render(&report, false),
            render::render(&report, true),
            stat::render(&report),
            json,
        ] {
            let bad = text
                .chars()
                .find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
            assert_eq!(bad, None);
        }
    }
}

#[test]
fn many_texts_are_cut_and_told() {
    let disk = |content: &str| {
        let mut disk = Disk::default();
        disk.volume(0, "ext4", &[]);
        for number in 0..text::MOST_FILES + 3 {
            disk.file(format!("/{number:04}"), content);
        }
        disk.done()
    };
    let report = compared(&disk("a\n"), &disk("b\n"));
    assert_eq!(report.texts_left_out, 3);
    assert_eq!(
        report
            .files
            .iter()
            .filter(|file| file.text.is_some())
            .count(),
        text::MOST_FILES
    );
    assert!(
        render::render(&report, false)
            .ends_with("3 more files that may be text were not compared line by line\n")
    );
}

#[test]
fn what_is_no_text_takes_no_text_s_place() {
    let disk = |content: &str| {
        let mut disk = Disk::default();
        disk.volume(0, "ext4", &[]);
        for number in 0..text::MOST_FILES {
            disk.file(format!("/{number:04}"), format!("{content}\0"));
            disk.file(format!("/{number:04}.text"), content);
        }
        disk.done()
    };
    let report = compared(&disk("a\n"), &disk("b\n"));
    assert_eq!(report.texts_left_out, 0);
    assert_eq!(
        report
            .files
            .iter()
            .filter(|file| file.text.is_some())
            .count(),
        text::MOST_FILES
    );
}

#[test]
fn many_files_that_differ_only_in_their_time_are_one_line() {
    let disk = |seconds| {
        let mut disk = Disk::default();
        disk.volume(0, "ext4", &[]);
        for number in 0..30 {
            disk.file(format!("/{number}"), "x")
                .with(|entry| entry.mtime.0 = seconds);
        }
        disk.done()
    };
    let report = compared(&disk(1), &disk(2));
    assert_eq!(
        render::render(&report, false),
        "base → too\\x1bls\n\nfiles:\n  ~ 30 files differ only in their time\n"
    );
    assert_eq!(render::render(&report, true).lines().count(), 33);
}
