//! Packages as they are, and as they should not be.

use std::io::Write;

use proptest::prelude::*;

use super::*;

pub(crate) fn member(name: &str, content: &[u8]) -> Vec<u8> {
    let mut out = format!(
        "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
        0,
        0,
        0,
        "100644",
        content.len()
    )
    .into_bytes();
    out.extend_from_slice(content);
    out.extend((content.len() % 2 == 1).then_some(b'\n'));
    out
}

pub(crate) fn tarball(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn packed(bytes: &[u8], suffix: &str) -> Vec<u8> {
    match suffix {
        "" => bytes.to_vec(),
        ".zst" => zstd::encode_all(bytes, 3).unwrap(),
        ".xz" => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        _ => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
    }
}

const CONTROL: &str =
    "Package: hello\nVersion: 1:2-3\nArchitecture: amd64\nDescription: words\n more\n";

pub(crate) fn deb(control: &str, data: &[u8], suffix: &str) -> Vec<u8> {
    let control = tarball(&[
        ("./postinst", b"#!/bin/sh\n"),
        ("./control", control.as_bytes()),
    ]);
    [
        &b"!<arch>\n"[..],
        &member("debian-binary", b"2.0\n"),
        &member(&format!("control.tar{suffix}"), &packed(&control, suffix)),
        &member(&format!("data.tar{suffix}/"), &packed(data, suffix)),
    ]
    .concat()
}

fn read_all(bytes: &[u8]) -> Result<(String, Vec<u8>), String> {
    let told = |error: &dyn std::error::Error| match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let package = Package::read(bytes).map_err(|error| told(&error))?;
    let control = package.control().to_owned();
    let mut data = Vec::new();
    package
        .data()
        .and_then(|mut reader| reader.read_to_end(&mut data))
        .map_err(|error| told(&error))?;
    Ok((control, data))
}

#[test]
fn packages_of_every_packing_are_read() {
    let data = tarball(&[("./usr/bin/hello", &[7; 300_001])]);
    for suffix in ["", ".gz", ".xz", ".zst"] {
        let bytes = deb(CONTROL, &data, suffix);
        assert_eq!(
            read_all(&bytes).unwrap(),
            (CONTROL.to_owned(), data.clone()),
            "{suffix}"
        );
        // A member of another sort may stand between, and anything behind.
        let extra = [&bytes[..], &member("anything", b"x")].concat();
        assert_eq!(read_all(&extra).unwrap().1, data);
        // Streams that follow one another are one.
        if !suffix.is_empty() {
            let (first, second) = data.split_at(1000);
            let joined = [packed(first, suffix), packed(second, suffix)].concat();
            let control = packed(&tarball(&[("control", CONTROL.as_bytes())]), suffix);
            let bytes = [
                &b"!<arch>\n"[..],
                &member("debian-binary", b"2.1\nmore\n"),
                &member("_gpgorigin", b"odd"),
                &member(&format!("control.tar{suffix}"), &control),
                &member("_other", b""),
                &member(&format!("data.tar{suffix}"), &joined),
            ];
            assert_eq!(read_all(&bytes.concat()).unwrap().1, data, "{suffix}");
        }
    }
}

#[test]
fn a_stanza_of_an_index_is_made() {
    let control =
        "Package: hello\nVersion: 2\nArchitecture: all\nsize: 3\nDescription: words\n more\n";
    let bytes = deb(control, b"", "");
    let package = Package::read(bytes.as_slice()).unwrap();
    assert_eq!(
        String::from_utf8(package.index_stanza("pool/h.deb", 17, Sha256([7; 32]))).unwrap(),
        format!(
            "Package: hello\nVersion: 2\nArchitecture: all\nDescription: words\n more\nFilename: pool/h.deb\nSize: 17\n\
             SHA256: {}\n\n",
            "07".repeat(32)
        )
    );
}

#[test]
fn what_is_no_package_is_refused_with_the_reason() {
    let good = deb(CONTROL, &tarball(&[("./x", b"x")]), ".xz");
    let swap = |from: &str, to: &str| {
        let at = good
            .windows(from.len())
            .position(|window| window == from.as_bytes())
            .unwrap();
        [&good[..at], to.as_bytes(), &good[at + from.len()..]].concat()
    };
    let of = |control: &str| deb(control, b"", "");
    let refused = |bytes: &[u8]| read_all(bytes).unwrap_err();
    let twice = [CONTROL, "\n", CONTROL].concat();
    for (bytes, reason) in [
        (
            swap("!<arch>", "!<tree>"),
            "this is not a Debian package: it is not an ar archive",
        ),
        (
            swap("2.0", "3.0"),
            "the package has the format \"3.0\", but only 2.x is supported",
        ),
        (
            swap("debian-binary", "debian-tertia"),
            "has \"debian-tertia\" instead of debian-binary",
        ),
        (
            swap("control.tar.xz", "control.tar.bz"),
            "has \"control.tar.bz\" instead of control.tar",
        ),
        (
            swap("control.tar.xz ", "data.tar.xz    "),
            "has \"data.tar.xz\" instead of control.tar",
        ),
        (
            swap("data.tar.xz/", "data.tar.zst"),
            "Unknown frame descriptor",
        ),
        (good[..100].to_vec(), "failed to fill whole buffer"),
        (good[..good.len() - 40].to_vec(), "it ends early"),
        (swap("`\n2.0", "``2.0"), "a member has no header"),
        (
            of("Version: 1\n"),
            "the package's control file has no package name",
        ),
        (of("Package: ../x\nVersion: 1\n"), "has no package name"),
        (of("Package: x\n"), "has no version"),
        (
            of("Package: x\nVersion: 1\nArchitecture: a/b\n"),
            "has no architecture",
        ),
        (of(&twice), "is not a single stanza"),
    ] {
        let told = refused(&bytes);
        assert!(told.contains(reason), "{told:?} has no {reason:?}");
    }
    let no_control = [
        &b"!<arch>\n"[..],
        &member("debian-binary", b"2.0\n"),
        &member("control.tar", &tarball(&[("x", b"y")])),
    ];
    assert!(refused(&no_control.concat()).contains("control file is missing"));
    let mut tampered = good.clone();
    let at = tampered.len() - 100;
    tampered[at] ^= 1;
    assert!(read_all(&tampered).is_err(), "xz has a checksum");
}

#[test]
fn a_bomb_is_not_unpacked() {
    let member = ArMember::new(io::repeat(0), u64::MAX);
    let mut data = DebData::new(member, Packing::None, 10_000).unwrap();
    let error = io::copy(&mut data, &mut io::sink()).unwrap_err();
    assert!(error.to_string().contains("more than the limit"), "{error}");
    let zeros = tarball(&[("control", &vec![0; CONTROL_LIMIT as usize + 1])]);
    let bytes = [
        &b"!<arch>\n"[..],
        &member_of("debian-binary", b"2.0\n"),
        &member_of("control.tar.zst", &packed(&zeros, ".zst")),
    ];
    assert!(
        read_all(&bytes.concat())
            .unwrap_err()
            .contains("is too large")
    );
}

use member as member_of;

proptest! {
    #[test]
    fn damage_is_an_error_or_harmless(at in 0usize..1000, bit in 0u8..8, end in 0usize..1000) {
        for suffix in ["", ".gz", ".xz", ".zst"] {
            let mut bytes = deb(CONTROL, &tarball(&[("./x", b"x")]), suffix);
            let length = bytes.len();
            bytes[at % length] ^= 1 << bit;
            let _ = read_all(&bytes);
            let _ = read_all(&bytes[..end % length]);
        }
    }
}
