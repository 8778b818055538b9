//! Trees of unpacked packages: what comes out, and what is refused.

use std::os::unix::fs::MetadataExt;

use impasto_store::sha256::Sha256;

use super::*;
use crate::deb::package::tests::deb;

fn source<'a>(name: &str, bytes: &'a [u8]) -> DebSource<'a> {
    let sha256 = Sha256::of(bytes);
    let (version, architecture) = ("1".to_owned(), "all".to_owned());
    let package = LockedPackage {
        name: name.to_owned(),
        architecture,
        version,
        sha256,
        size: bytes.len() as u64,
    };
    DebSource {
        package,
        open: Box::new(move || Ok(Box::new(io::Cursor::new(bytes.to_vec())))),
    }
}

fn package(name: &str, data: &[u8]) -> Vec<u8> {
    deb(
        &format!("Package: {name}\nVersion: 1\nArchitecture: all\n"),
        data,
        ".zst",
    )
}

fn entries(build: impl FnOnce(&mut dyn FnMut(EntryType, &str, &str, u32))) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    build(&mut |kind, path, content, mode| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(99);
        header.set_size(0);
        if kind.is_file() {
            header.set_size(content.len() as u64);
            return builder
                .append_data(&mut header, path, content.as_bytes())
                .unwrap();
        }
        if kind.is_symlink() || kind.is_hard_link() {
            return builder.append_link(&mut header, path, content).unwrap();
        }
        if matches!(kind, EntryType::Char) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        builder.append_data(&mut header, path, io::empty()).unwrap();
    });
    builder.into_inner().unwrap()
}

/// Every path with what there is to tell of it.
fn listed(root: &Path) -> Vec<String> {
    let all = walkdir::WalkDir::new(root)
        .sort_by_file_name()
        .into_iter()
        .map(Result::unwrap);
    all.map(|entry| {
        let stat = entry.metadata().unwrap();
        let target = fs::read_link(entry.path())
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        let content = if stat.is_file() {
            fs::read_to_string(entry.path()).unwrap()
        } else {
            String::new()
        };
        let path = entry.path().strip_prefix(root).unwrap().display();
        format!(
            "{path} {:o} {} {target}{content}",
            stat.mode(),
            stat.mtime()
        )
    })
    .collect()
}

fn laid_out(packages: &[DebSource<'_>]) -> Result<tempfile::TempDir, String> {
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    match unpack(packages, root.path()) {
        Ok(()) => Ok(root),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            Err(format!("{error}{}", cause.unwrap_or_default()))
        }
    }
}

#[test]
fn packages_become_one_tree_whatever_their_order() {
    let a = package(
        "a",
        &entries(|put| {
            put(EntryType::Directory, "./", "", 0o700);
            put(EntryType::Directory, "./bin/", "", 0o755);
            put(EntryType::Regular, "./bin/mawk", "awk", 0o4755);
            put(EntryType::Link, "./bin/second", "./bin/mawk", 0o755);
            put(EntryType::Regular, "./bin/dash", "sh", 0o755);
            put(EntryType::Directory, "./usr/share/doc/", "", 0o700);
        }),
    );
    let b = package(
        "b",
        &entries(|put| {
            put(EntryType::Symlink, "./lib64", "usr/lib64", 0o777);
            put(EntryType::Directory, "./usr/share/doc/", "", 0o755);
            put(EntryType::Symlink, "./usr/share/doc/b", "../a", 0o777);
            put(
                EntryType::Regular,
                "./usr/share/base-passwd/passwd.master",
                "root:",
                0o600,
            );
            put(EntryType::Regular, "./etc/b.conf", "b", 0o640);
        }),
    );
    let first = laid_out(&[source("b", &b), source("a", &a)]).unwrap();
    let second = laid_out(&[source("a", &a), source("b", &b)]).unwrap();
    let tree = listed(first.path());
    assert_eq!(tree, listed(second.path()));
    for line in [
        "bin 120777 315532800 usr/bin",
        "lib64 120777 315532800 usr/lib64",
        "usr/bin/mawk 100755 315532800 awk",
        "usr/bin/awk 120777 315532800 mawk",
        "usr/bin/sh 120777 315532800 dash",
        "usr/share/doc 40700 315532800 ",
        "usr/share/doc/b 120777 315532800 ../a",
        "etc/passwd 100600 315532800 root:",
        "work 40755 315532800 ",
    ] {
        assert!(
            tree.iter().any(|found| found == line),
            "{line} is not in {tree:#?}"
        );
    }
    let inode = |path: &str| fs::metadata(first.path().join(path)).unwrap().ino();
    assert_eq!(inode("usr/bin/second"), inode("usr/bin/mawk"));
}

#[test]
fn what_does_not_belong_into_a_tree_is_refused() {
    let outside = tempfile::tempdir().unwrap();
    let file = |path: &str| entries(|put| put(EntryType::Regular, path, "x", 0o644));
    let (a, b) = (
        package("a", &file("./bin/x")),
        package("b", &file("./usr/bin/x")),
    );
    let told = laid_out(&[source("a", &a), source("b", &b)]).unwrap_err();
    assert_eq!(told, "\"usr/bin/x\" is both in a and in b");
    let device = package(
        "c",
        &entries(|put| put(EntryType::Char, "dev/null", "", 0o666)),
    );
    let told = laid_out(&[source("c", &device)]).unwrap_err();
    assert_eq!(
        told,
        "\"dev/null\" of c is a device file, which is not allowed in the toolbox"
    );
    let link = package(
        "d",
        &entries(|put| {
            put(
                EntryType::Symlink,
                "etc",
                outside.path().to_str().unwrap(),
                0o777,
            );
            put(EntryType::Regular, "etc/x", "x", 0o644);
        }),
    );
    let told = laid_out(&[source("d", &link)]).unwrap_err();
    assert!(
        told.contains("is under something that is not a directory"),
        "{told}"
    );
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    let told = laid_out(&[source("other", &a)]).unwrap_err();
    assert_eq!(
        told,
        "the package other is not the locked one: its Package is a, not other"
    );
    let mut source = source("a", &a);
    source.package.sha256 = Sha256([0; 32]);
    assert!(laid_out(&[source]).unwrap_err().contains("its SHA-256 is "));
}

#[test]
fn a_set_has_one_name_and_another_set_another() {
    let identity = |name: &str, version: &str| LockedPackage {
        name: name.to_owned(),
        architecture: "all".to_owned(),
        version: version.to_owned(),
        sha256: Sha256([0; 32]),
        size: 1,
    };
    let (a, b) = (identity("a", "1"), identity("b", "1"));
    assert_eq!(content([&a, &b]), content([&b, &a, &b]));
    assert_ne!(content([&a, &b]), content([&a]));
    assert_ne!(
        content([&identity("a", "12")]),
        content([&identity("a1", "2")])
    );
    // A change here makes every toolbox again, and runs every stage again that was made with one.
    assert_eq!(content([&a, &b]).to_string()[..16], *"6693dd6c94c3f84c");
}
