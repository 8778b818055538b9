//! Contents made by hand for each reason, and bytes of any kind.

use proptest::prelude::*;

use super::*;
use crate::disk::tree::content_digest;

/// 2026-11-20 17:21:34 UTC, when the first build ended; the second began ten minutes later.
const NOW: u64 = 1_795_195_294;

fn runs() -> [AuditRun; 2] {
    let run = |host: &str, lang: &str, zone: &str, path: &str, cpus, started, ended| AuditRun {
        host_name: host.to_owned(),
        lang: lang.to_owned(),
        timezone: zone.to_owned(),
        path: path.to_owned(),
        cpus,
        started,
        ended,
    };
    [
        run("impasto", "C.UTF-8", "UTC", "/home/u/recipe", 4, 0, NOW),
        run(
            "elsewhere",
            "et_EE.UTF-8",
            "<+14>-14",
            "/tmp/x/elsewhere/home/u/recipe",
            1,
            NOW + 600,
            NOW + 660,
        ),
    ]
}

fn entry(path: &str, content: &[u8]) -> IndexEntry {
    let kind = EntryKind::File {
        size: content.len() as u64,
        content: content_digest(content),
    };
    let path = path.as_bytes().to_vec();
    IndexEntry {
        path,
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        flags: 0,
        xattrs: Vec::new(),
    }
}

fn ask(path: &str, before: &[u8], after: &[u8]) -> Option<DifferenceCause> {
    let (first, second) = (entry(path, before), entry(path, after));
    let before = SeenFile {
        entry: &first,
        content: Some(before),
    };
    let after = SeenFile {
        entry: &second,
        content: Some(after),
    };
    cause(path.as_bytes(), Some(&before), Some(&after), &runs())
}

#[track_caller]
fn expect(kind: CauseKind, path: &str, before: &[u8], after: &[u8]) -> DifferenceCause {
    let cause =
        ask(path, before, after).unwrap_or_else(|| panic!("{path}: no reason, not {kind:?}"));
    assert_eq!(cause.kind, kind, "{path}: {}", cause.what);
    cause
}

#[track_caller]
fn expect_text(kind: CauseKind, before: &str, after: &str) -> DifferenceCause {
    expect(
        kind,
        "/usr/share/own/file",
        before.as_bytes(),
        after.as_bytes(),
    )
}

/// Bytes that look random, the same each time.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut reader = blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof();
    let mut bytes = vec![0; length];
    reader.fill(&mut bytes);
    bytes
}

fn gzip(content: &[u8], time: u32) -> Vec<u8> {
    let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
    let mut out = vec![0; compressor.gzip_compress_bound(content.len())];
    let length = compressor.gzip_compress(content, &mut out).unwrap();
    out.truncate(length);
    out[4..8].copy_from_slice(&time.to_le_bytes());
    out
}

fn cpio(members: &[(&str, &[u8], u64)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, (name, content, time)) in members
        .iter()
        .chain(&[("TRAILER!!!", &b""[..], 0)])
        .enumerate()
    {
        let (ino, size, length) = (index + 1, content.len(), name.len() + 1);
        out.extend(
            format!(
                "070701{ino:08x}000081a40000000000000000{:08x}{time:08x}{size:08x}",
                1
            )
            .bytes(),
        );
        out.extend(format!("{:032x}{length:08x}{:08x}{name}\0", 0, 0).bytes());
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

fn tar(members: &[(&str, &[u8], u64)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content, time) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(*time);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn ar(members: &[(&str, &[u8], u64)]) -> Vec<u8> {
    let mut out = b"!<arch>\n".to_vec();
    for (name, content, time) in members {
        out.extend(
            format!(
                "{:<16}{time:<12}{:<6}{:<6}{:<8}{:<10}`\n",
                format!("{name}/"),
                0,
                0,
                644,
                content.len()
            )
            .bytes(),
        );
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(2), b'\n');
    }
    out
}

/// Members stored, not deflated.
fn zip(members: &[(&str, &[u8], u64)]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, content, time) in members {
        let at = out.len() as u32;
        let mut common = vec![20, 0, 0, 0, 0, 0];
        common.extend((*time as u32).to_le_bytes());
        common.extend(libdeflater::crc32(content).to_le_bytes());
        common.extend([(content.len() as u32).to_le_bytes(); 2].concat());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        out.extend([b"PK\x03\x04", &common[..], name.as_bytes(), content].concat());
        directory.extend(
            [
                b"PK\x01\x02\x14\0",
                &common[..],
                &[0; 10],
                &at.to_le_bytes(),
                name.as_bytes(),
            ]
            .concat(),
        );
    }
    let (start, count) = (out.len() as u32, (members.len() as u16).to_le_bytes());
    out.extend_from_slice(&directory);
    out.extend([b"PK\x05\x06\0\0\0\0", &count[..], &count].concat());
    out.extend([(directory.len() as u32).to_le_bytes(), start.to_le_bytes()].concat());
    out.extend([0, 0]);
    out
}

/// A file of 64 bits with one segment, a note, and something behind it.
fn elf(id: &[u8; 8], rest: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 64 + 56];
    out[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    out[0x20] = 64;
    out[0x36] = 56;
    out[0x38] = 1;
    out[64] = 4;
    out[64 + 8] = 120;
    out[64 + 0x20] = 24;
    out.extend(
        [
            &[4, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0],
            &b"GNU\0"[..],
            id,
            rest,
        ]
        .concat(),
    );
    out
}

#[test]
fn files_are_known_by_their_paths() {
    let two = (
        b"0123456789abcdef0123456789abcdef\n",
        b"fedcba9876543210fedcba9876543210\n",
    );
    for (path, kind) in [
        ("/etc/machine-id", CauseKind::MachineId),
        ("/var/lib/dbus/machine-id", CauseKind::MachineId),
        ("/etc/ssh/ssh_host_ed25519_key", CauseKind::SshHostKey),
        ("/etc/ssh/ssh_host_rsa_key.pub", CauseKind::SshHostKey),
        ("/var/lib/systemd/random-seed", CauseKind::RandomSeed),
        ("/srv/own/random-seed", CauseKind::RandomSeed),
        ("/var/log/own/x", CauseKind::Log),
        ("/log/own/x", CauseKind::Log),
        ("/var/cache/ldconfig/aux-cache", CauseKind::Cache),
        ("/var/cache/man/index.db", CauseKind::Cache),
        ("/var/lib/apt/lists/x_Packages", CauseKind::PackageVersion),
        ("/etc/localtime", CauseKind::TimeZone),
        ("/srv/id", CauseKind::RandomId),
    ] {
        expect(kind, path, two.0, two.1);
    }
    assert_eq!(ask("/etc/ssh/ssh_host_x/y", b"a", b"b"), None);
    assert_eq!(
        expect(CauseKind::Log, "/srv/own.log", b"one", b"three").what,
        "It is a log, by its name."
    );
    assert!(
        expect(CauseKind::MachineId, "/etc/machine-id", two.0, two.1)
            .remedy
            .contains("operation `machine-id`")
    );
}

#[test]
fn random_bytes_and_keys_are_known_by_their_content() {
    expect(
        CauseKind::RandomSeed,
        "/srv/x",
        &noise(1, 32),
        &noise(2, 32),
    );
    expect(
        CauseKind::RandomSeed,
        "/srv/x",
        &noise(1, 4096),
        &noise(2, 4096),
    );
    assert_eq!(ask("/srv/x", &noise(1, 4096), &noise(2, 4095)), None);
    let key = |n: u64| format!("-----BEGIN RSA PRIVATE KEY-----\n{}\n", n * 1_234_567);
    expect(
        CauseKind::GeneratedKey,
        "/etc/ssl/private/x.key",
        key(1).as_bytes(),
        key(2).as_bytes(),
    );
    let public = |n: u64| format!("ssh-ed25519 AAAA{n}/{n} root@x\n");
    expect(
        CauseKind::GeneratedKey,
        "/root/.ssh/id.pub",
        public(123).as_bytes(),
        public(456).as_bytes(),
    );
    let token = [
        "Pr2q/Y8+bAk0ZxWc7LmNd1EeRt5u\n",
        "8hVgTz3/QsXo+J6fKiYpB4wCnUa9\n",
    ];
    expect(
        CauseKind::RandomSeed,
        "/srv/x",
        token[0].as_bytes(),
        token[1].as_bytes(),
    );
    let salts = ["$6$aaaa$bbbb", "$6$cccc$dddd"]
        .map(|hash| format!("root:{hash}:19000:0:99999:7:::\nx:*:1::::::\n"));
    let cause = expect(
        CauseKind::PasswordSalt,
        "/etc/shadow",
        salts[0].as_bytes(),
        salts[1].as_bytes(),
    );
    assert_eq!(
        cause.what,
        "It contains passwords that were hashed with new salts: root."
    );
    let days = ["20777", "20778"].map(|day| format!("root:*:{day}:0:99999:7:::\n"));
    expect(
        CauseKind::BuildTime,
        "/etc/shadow",
        days[0].as_bytes(),
        days[1].as_bytes(),
    );
    assert_eq!(ask("/etc/shadow", b"root:*:1:", b"root:!:1:"), None);
    assert_eq!(ask("/etc/shadow", b"root:*:1:", b"x"), None);
}

#[test]
fn times_of_the_build_are_found_in_every_form() {
    for (before, after) in [
        (
            "built Fri Nov 20 17:10:00 UTC 2026\n",
            "built Fri Nov 20 17:31:40 UTC 2026\n",
        ),
        (
            "built Fri Nov 20 17:10:00 UTC 2026\n",
            "built Sat Nov 21 07:31:40 +14 2026\n",
        ),
        (
            "BUILD=\"2026-11-20T17:10:00Z\"\n",
            "BUILD=\"2026-11-21T07:31:40+14:00\"\n",
        ),
        ("1795190000\n", "1795195900\n"),
        ("t=1795190000.5 v=2\n", "t=1795195900.123 v=2\n"),
        (
            "a\nNov 20 17:10:00 start\nb\n",
            "a\nNov 20 17:31:40 start\nb\n",
        ),
        (
            "12:01:02 took 3 s\n12:01:05 took 4 s\n",
            "03:14:15 took 92 s\n03:15:15 took 4 s\n",
        ),
    ] {
        let cause = expect_text(CauseKind::BuildTime, before, after);
        assert!(
            cause.remedy.contains("SOURCE_DATE_EPOCH"),
            "{}",
            cause.remedy
        );
    }
    let stamp = |time: u64| {
        [
            &b"\0binary\0\xff"[..],
            &(time as u32).to_le_bytes(),
            b"\0rest\0",
        ]
        .concat()
    };
    expect(
        CauseKind::BuildTime,
        "/x",
        &stamp(NOW - 100),
        &stamp(NOW + 630),
    );
    // Dates that are not of the builds.
    assert_eq!(ask("/x", b"2020-01-01\n", b"2021-01-01\n"), None);
    assert_eq!(ask("/x", b"version 1.2\n", b"version 1.3\n"), None);
}

#[test]
fn conditions_are_found_alone_and_together() {
    let cause = expect_text(CauseKind::HostName, "on impasto\n", "on elsewhere\n");
    assert_eq!(
        cause.what,
        "It contains the host name, impasto in one build and elsewhere in the other."
    );
    expect_text(
        CauseKind::HostName,
        "impasto by impasto\nx\n",
        "impasto by elsewhere\nx\n",
    );
    expect_text(CauseKind::Locale, "LANG=C.UTF-8\n", "LANG=et_EE.UTF-8\n");
    expect_text(
        CauseKind::BuildPath,
        "-I/home/u/recipe/x\n",
        "-I/tmp/x/elsewhere/home/u/recipe/x\n",
    );
    expect_text(CauseKind::TimeZone, "+0000\n", "+1400\n");
    expect_text(
        CauseKind::TimeZone,
        "Thu Jan  1 00:00:00 UTC 1970\n",
        "Thu Jan  1 14:00:00 +14 1970\n",
    );
    expect_text(CauseKind::TimeZone, "TZ=UTC\n", "TZ=<+14>-14\n");
    expect_text(CauseKind::CpuCount, "make -j4\n", "make -j1\n");
    expect_text(CauseKind::RandomId, "id=tmp.aBcDeF\n", "id=tmp.xYz123\n");
    expect_text(
        CauseKind::RandomId,
        "f81d4fae-7dec-11d0-a765-00a0c91e6bf6 x\n",
        "0b3ff6f9-94f5-4ed1-9cbb-bc0d18fe79a2 x\n",
    );
    expect_text(
        CauseKind::Checksums,
        &format!("{:032x}  a\n", 7),
        &format!("{:032x}  a\n", 0xabcd),
    );
    let cause = expect_text(
        CauseKind::HostName,
        "impasto 1795190000 4\n",
        "elsewhere 1795195900 1\n",
    );
    assert!(
        cause
            .what
            .contains("in the other, and the time of the build, and the number of CPUs, 4"),
        "{}",
        cause.what
    );
    let cause = expect_text(
        CauseKind::HostName,
        "impasto\nmore\nx\n",
        "elsewhere\nless\ny\nz\n",
    );
    assert!(
        cause.what.ends_with("and differs in more."),
        "{}",
        cause.what
    );
    assert_eq!(ask("/x", b"one\n", b"two\n"), None);
    // A name that is part of a word is none.
    assert_eq!(ask("/x", b"impastos\n", b"elsewheres\n"), None);
}

#[test]
fn orders_of_directories_and_locales_are_told_apart() {
    expect_text(CauseKind::DirectoryOrder, "b\na\nc\n", "a\nc\nb\n");
    expect_text(
        CauseKind::DirectoryOrder,
        "/a/c /a/b /a/d\n",
        "/a/d /a/c /a/b\n",
    );
    expect_text(CauseKind::DirectoryOrder, "c\0b\0a\0", "a\0c\0b\0");
    // Sorted by bytes in one build by chance.
    expect_text(CauseKind::DirectoryOrder, "A\nB\na\n", "a\nB\nA\n");
    expect_text(CauseKind::Collation, "A\nB\na\nb\n", "a\nA\nb\nB\n");
    expect_text(CauseKind::Collation, "Bc\nab\nca\n", "ab\nBc\nca\n");
}

#[test]
fn compiled_files_tell_their_times_and_ids() {
    let pyc = |time: u32, rest: &str| {
        [
            b"\xa7\r\r\n\0\0\0\0",
            &time.to_le_bytes()[..],
            b"\x05\0\0\0",
            rest.as_bytes(),
        ]
        .concat()
    };
    expect(
        CauseKind::PycTimestamp,
        "/usr/lib/x.pyc",
        &pyc(1, "code"),
        &pyc(2, "code"),
    );
    expect(
        CauseKind::BuildId,
        "/usr/bin/x",
        &elf(b"abcdefgh", b"code"),
        &elf(b"12345678", b"code"),
    );
    let cause = expect(
        CauseKind::BuildId,
        "/usr/bin/x",
        &elf(b"abcdefgh", b"code"),
        &elf(b"12345678", b"other"),
    );
    assert!(
        cause.what.contains("compiled differently"),
        "{}",
        cause.what
    );
    let (before, after) = (
        elf(b"abcdefgh", b"\0built 1795190000\0"),
        elf(b"12345678", b"\0built 1795195900\0"),
    );
    let cause = expect(CauseKind::BuildTime, "/usr/bin/x", &before, &after);
    assert!(
        cause.what.ends_with("its build ID follows from that."),
        "{}",
        cause.what
    );
}

#[test]
fn archives_are_looked_into() {
    type Pack = fn(&[(&str, &[u8], u64)]) -> Vec<u8>;
    let forms: [(Pack, &str); 4] = [
        (tar, "x.tar"),
        (ar, "x.a"),
        (zip, "x.zip"),
        (cpio, "x.cpio"),
    ];
    for (pack, path) in forms {
        let two: [(&str, &[u8], u64); 2] = [("a", b"one", 5), ("b", b"two", 5)];
        let reversed = [two[1], two[0]];
        expect(CauseKind::ArchiveOrder, path, &pack(&two), &pack(&reversed));
        expect(
            CauseKind::ArchiveTimes,
            path,
            &pack(&two),
            &pack(&[two[0], ("b", b"two", 6)]),
        );
        let cause = expect(
            CauseKind::HostName,
            path,
            &pack(&[two[0], ("b", b"impasto", 5)]),
            &pack(&[two[0], ("b", b"elsewhere", 6)]),
        );
        assert!(
            cause
                .what
                .starts_with("Its member b contains the host name"),
            "{}",
            cause.what
        );
        assert_eq!(
            ask(path, &pack(&[("a", b"1", 5)]), &pack(&[("a", b"2", 5)])),
            None
        );
    }
    let nested = |name: &str| {
        ar(&[
            ("control", b"x", 0),
            (
                "data.tar",
                &gzip(&tar(&[("etc/own", name.as_bytes(), 0)]), 0),
                0,
            ),
        ])
    };
    let cause = expect(
        CauseKind::HostName,
        "x.deb",
        &nested("impasto"),
        &nested("elsewhere"),
    );
    assert!(
        cause
            .what
            .starts_with("Its member data.tar, in it etc/own contains"),
        "{}",
        cause.what
    );
    let ids = ["1", "2"].map(|id| tar(&[("./etc/machine-id", id.as_bytes(), 0)]));
    expect(CauseKind::MachineId, "root.tar", &ids[0], &ids[1]);
}

#[test]
fn initramfs_are_looked_into_behind_microcode_and_compression() {
    let early = cpio(&[("kernel/x86/microcode/GenuineIntel.bin", b"code", 0)]);
    let zeros = [0; 512];
    let orders: [[(&str, &[u8], u64); 2]; 2] = [
        [("init", b"x", 1), ("bin", b"y", 1)],
        [("bin", b"y", 1), ("init", b"x", 1)],
    ];
    let orders = orders.each_ref().map(|members| cpio(members));
    let times = [cpio(&[("init", b"x", 1)]), cpio(&[("init", b"x", 2)])];
    for (made, how) in [
        (orders, "in a different order"),
        (times, "with different times"),
    ] {
        let packed = made
            .each_ref()
            .map(|made| [gzip(made, 0), zstd::bulk::compress(made, 3).unwrap()]);
        for form in 0..2 {
            let files = packed
                .each_ref()
                .map(|packed| [&early[..], &zeros, &packed[form]].concat());
            for files in [
                &files,
                &packed.each_ref().map(|packed| packed[form].clone()),
                &made,
            ] {
                let cause = expect(
                    CauseKind::Initramfs,
                    "/boot/initrd.img-6.1",
                    &files[0],
                    &files[1],
                );
                assert!(cause.what.ends_with(&format!("{how}.")), "{}", cause.what);
            }
        }
    }
}

#[test]
fn compression_itself_may_differ() {
    expect(
        CauseKind::GzipTime,
        "/x.gz",
        &gzip(b"same", 1),
        &gzip(b"same", 2),
    );
    expect(
        CauseKind::HostName,
        "/x.gz",
        &gzip(b"on impasto", 1),
        &gzip(b"on elsewhere", 2),
    );
    expect(
        CauseKind::GzipTime,
        "/x.gz",
        &gzip(b"one", 1),
        &gzip(b"two", 2),
    );
    let levels = [1, 19].map(|level| {
        zstd::bulk::compress(&b"some text, some more text, some text".repeat(90), level).unwrap()
    });
    assert_ne!(levels[0], levels[1]);
    expect(CauseKind::CpuCount, "/x.zst", &levels[0], &levels[1]);
    // More than may be unpacked: the header is all that is told.
    let zeros = vec![0; 65 << 20];
    expect(
        CauseKind::GzipTime,
        "/x.gz",
        &gzip(&zeros, 1),
        &gzip(&zeros, 2),
    );
    assert_eq!(
        ask(
            "/x.zst",
            &zstd::bulk::compress(&zeros, 1).unwrap(),
            &zstd::bulk::compress(&zeros[1..], 1).unwrap()
        ),
        None
    );
}

#[test]
fn packages_are_named_with_their_versions() {
    let status = |version: &str| {
        format!(
            "Package: openssl\nStatus: install ok installed\nVersion: {version}\n\nPackage: x\nVersion: 1\n"
        )
    };
    let cause = expect(
        CauseKind::PackageVersion,
        "/var/lib/dpkg/status",
        status("3.0.15").as_bytes(),
        status("3.0.16").as_bytes(),
    );
    assert_eq!(
        cause.what,
        "It lists different versions of packages: openssl 3.0.15 → 3.0.16."
    );
}

#[test]
fn entries_may_differ_in_what_is_no_content() {
    let ask = |change: fn(&mut IndexEntry)| {
        let before = entry("/x", b"same");
        let mut after = before.clone();
        change(&mut after);
        let seen = [&before, &after].map(|entry| SeenFile {
            entry,
            content: None,
        });
        cause(b"/x", Some(&seen[0]), Some(&seen[1]), &runs()).map(|cause| cause.kind)
    };
    assert_eq!(
        ask(|entry| entry.mtime = (1, 0)),
        Some(CauseKind::ModificationTime)
    );
    assert_eq!(ask(|entry| entry.mode = 0o600), Some(CauseKind::Umask));
    assert_eq!(ask(|entry| entry.mode = 0o664), Some(CauseKind::Umask));
    assert_eq!(ask(|entry| entry.mode = 0o755), None);
    assert_eq!(ask(|entry| entry.uid = 1), None);
    assert_eq!(ask(|entry| entry.kind = EntryKind::Fifo), None);
    let link = |target: &str| IndexEntry {
        kind: EntryKind::Symlink {
            target: target.as_bytes().to_vec(),
        },
        ..entry("/l", b"")
    };
    let links = [link("/run/impasto"), link("/run/elsewhere")];
    let seen = links.each_ref().map(|entry| SeenFile {
        entry,
        content: None,
    });
    assert_eq!(
        cause(b"/l", Some(&seen[0]), Some(&seen[1]), &runs())
            .unwrap()
            .kind,
        CauseKind::HostName
    );
}

#[test]
fn names_that_are_there_once_may_tell_why() {
    let ask = |path: &str, side: usize| {
        let entry = entry(path, b"");
        let seen = SeenFile {
            entry: &entry,
            content: None,
        };
        let (before, after) = if side == 0 {
            (Some(&seen), None)
        } else {
            (None, Some(&seen))
        };
        cause(path.as_bytes(), before, after, &runs()).map(|cause| cause.kind)
    };
    assert_eq!(ask("/srv/elsewhere.conf", 1), Some(CauseKind::HostName));
    assert_eq!(ask("/srv/elsewhere.conf", 0), None);
    assert_eq!(
        ask("/srv/image-20261120.txt", 1),
        Some(CauseKind::BuildTime)
    );
    assert_eq!(ask("/srv/tmp.a1B2c3", 1), Some(CauseKind::RandomId));
    assert_eq!(ask("/var/log/journal/x", 0), Some(CauseKind::Log));
    assert_eq!(ask("/srv/x", 0), None);
}

#[test]
fn what_a_guest_wrote_is_neutralised() {
    let hostile = [("\x1b[31mred\n", &b"impasto"[..], 0)];
    let other = [("\x1b[31mred\n", &b"elsewhere"[..], 0)];
    let cause = expect(
        CauseKind::HostName,
        "/\x1b]0;x\x07.tar",
        &tar(&hostile),
        &tar(&other),
    );
    assert!(
        !cause.what.contains('\x1b') && !cause.remedy.contains('\x1b'),
        "{cause:?}"
    );
    let cause = expect(CauseKind::Log, "/var/log/\x1b\"x", b"a", b"b");
    assert!(
        cause.remedy.contains(r#"volatile = ["/var/log/\\x1b\"x"]"#),
        "{}",
        cause.remedy
    );
}

#[test]
fn names_in_json_are_stable() {
    let names = [
        CauseKind::SshHostKey,
        CauseKind::PycTimestamp,
        CauseKind::BuildId,
        CauseKind::DirectoryOrder,
    ];
    let text = serde_json::to_string(&names).unwrap();
    assert_eq!(
        text,
        r#"["ssh-host-key","pyc-timestamp","build-id","directory-order"]"#
    );
}

/// Contents of every form that is known.
fn samples() -> Vec<Vec<u8>> {
    let members: [(&str, &[u8], u64); 2] = [
        ("init", b"1795190000 on impasto", 5),
        ("etc/b", b"/home/u/recipe", 6),
    ];
    let cpio = cpio(&members);
    vec![
        gzip(&cpio, 1),
        [&cpio[..], &zstd::bulk::compress(&cpio, 3).unwrap()].concat(),
        cpio,
        tar(&members),
        ar(&members),
        zip(&members),
        elf(b"abcdefgh", b"1795190000\0code"),
        b"\xa7\r\r\n\0\0\0\0\x01\0\0\0\x05\0\0\0code".to_vec(),
        b"Fri Nov 20 17:10:00 UTC 2026 9999-12-31T23:59:59+99:99 0000-01-01 Feb 29 00:00 99:99:99"
            .to_vec(),
        b"root:$6$a$b:20777:0:99999:7:::\nx:$:9223372036854775807::\n".to_vec(),
        b"Package: x\nVersion: 1\n\nPackage: y\n".to_vec(),
    ]
}

const PATHS: &[&str] = &[
    "/x",
    "/boot/initrd.img",
    "/etc/shadow",
    "/var/lib/dpkg/status",
    "/x.gz",
    "",
    "/2026-11-20.log",
];

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let samples = samples();
    let changed = (
        0..samples.len(),
        proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        any::<prop::sample::Index>(),
    );
    let changed = changed.prop_map(move |(which, changes, end)| {
        let mut bytes = samples[which].clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if end.index(4) == 0 {
            bytes.truncate(end.index(bytes.len()));
        }
        bytes
    });
    prop_oneof![4 => changed, 1 => proptest::collection::vec(any::<u8>(), 0..600), 1 => "[ -~\n]{0,200}".prop_map(String::into_bytes)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn any_bytes_are_taken(before in bytes(), after in bytes(), path in 0..PATHS.len()) {
        if let Some(cause) = ask(PATHS[path], &before, &after) {
            prop_assert!(before != after);
            prop_assert!(cause.what.ends_with('.') && cause.what.len() < 2000, "{}", cause.what);
            prop_assert!(!cause.what.chars().any(char::is_control), "{}", cause.what);
        }
    }

    #[test]
    fn any_conditions_are_taken(started in any::<u64>(), length in any::<u64>(), zone in "[<>+0-9A-Z:/-]{0,12}", host in ".{0,12}", which in 0..11_usize) {
        let [mut first, mut second] = runs();
        (first.started, first.ended, first.timezone, first.host_name) = (started, started.saturating_add(length), zone, host.clone());
        (second.started, second.ended, second.lang) = (length, started, host);
        let samples = samples();
        let (before, after) = (&samples[which], &samples[8]);
        let (a, b) = (entry("/x", before), entry("/x", after));
        let (a, b) = (SeenFile { entry: &a, content: Some(before) }, SeenFile { entry: &b, content: Some(after) });
        cause(b"/x", Some(&a), Some(&b), &[first.clone(), second.clone()]);
        cause(b"/2026-11-20 17:21 Nov 20", None, Some(&b), &[first, second]);
    }
}

#[test]
fn long_contents_take_no_long_time() {
    let begun = std::time::Instant::now();
    let text = |step: u64| {
        (0..400_000_u64)
            .map(|n| format!("{} 17:10:{:02}\n", n * step, n % 60))
            .collect::<String>()
            .into_bytes()
    };
    let (mut before, mut after) = (text(3), text(7));
    before.truncate(8 << 20);
    after.truncate(8 << 20);
    ask("/x", &before, &after);
    ask("/x", &noise(1, 8 << 20), &noise(2, 8 << 20));
    ask("/x", &vec![b'J'; 8 << 20], &vec![b'1'; (8 << 20) - 1]);
    assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
}
