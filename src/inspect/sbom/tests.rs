use serde_json::Value;

use super::spdx::{Subject, document};
use super::*;
use crate::disk::tree::IndexEntry;

struct Files(BTreeMap<Vec<u8>, Vec<u8>>);

impl Contents for Files {
    fn files(
        &self,
        wanted: &[(u32, &[u8])],
        limit: u64,
    ) -> Result<Vec<Option<Vec<u8>>>, ReadError> {
        let find = |path: &[u8]| {
            self.0
                .get(path)
                .filter(|bytes| bytes.len() as u64 <= limit)
                .cloned()
        };
        Ok(wanted.iter().map(|(_, path)| find(path)).collect())
    }

    fn range(&self, _: u64, _: usize) -> Result<Vec<u8>, ReadError> {
        unreachable!("no bytes of the disk are asked for")
    }
}

const STATUS: &str = "\
Package: libstdc++6
Status: install ok installed
Architecture: amd64
Version: 12.2.0-14+deb12u1
Source: gcc-12 (12.2.0-14)
Installed-Size: 2800

Package: hello
Status: install ok half-configured
Architecture: all
Version: 1:2.10-3
";

fn disk() -> (Tree, Files) {
    let link = |target: &str| {
        (
            EntryKind::Symlink {
                target: target.into(),
            },
            None,
        )
    };
    let file = |text: &str| {
        (
            EntryKind::File {
                size: text.len() as u64,
                content: impasto_store::digest::Digest::ZERO,
            },
            Some(text.to_owned()),
        )
    };
    let dep5 = "Format: dep5\n\nFiles: *\nLicense: GPL-3+ and own\n\nLicense: own\n words\n";
    let paths = [
        ("/bin", link("usr/bin")),
        ("/etc", (EntryKind::Dir, None)),
        ("/etc/os-release", link("../usr/lib/os-release")),
        ("/usr", (EntryKind::Dir, None)),
        ("/usr/bin", (EntryKind::Dir, None)),
        ("/usr/bin/hello", file("hello")),
        ("/usr/bin/mine", file("mine")),
        ("/usr/lib", (EntryKind::Dir, None)),
        (
            "/usr/lib/os-release",
            file("ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"),
        ),
        ("/usr/lib/own.ko.xz", file("module")),
        ("/usr/share", (EntryKind::Dir, None)),
        ("/usr/share/doc", (EntryKind::Dir, None)),
        ("/usr/share/doc/gcc", (EntryKind::Dir, None)),
        ("/usr/share/doc/gcc/copyright", file(dep5)),
        ("/usr/share/doc/libstdc++6", link("gcc")),
        (
            "/var/lib/apt/extended_states",
            file("Package: libstdc++6\nArchitecture: amd64\nAuto-Installed: 1\n"),
        ),
        (
            "/var/lib/dpkg/info/hello.list",
            file("/.\n/bin\n/bin/hello\n/usr/share/doc/libstdc++6\n"),
        ),
        ("/var/lib/dpkg/status", file(STATUS)),
    ];
    let entry = |(path, (kind, _)): &(&str, (EntryKind, Option<String>))| IndexEntry {
        path: path.as_bytes().to_vec(),
        kind: kind.clone(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: (1_700_000_000, 0),
        flags: 0,
        xattrs: Vec::new(),
    };
    let volume = Volume {
        partition: 1,
        kind: "ext4".to_owned(),
        uuid: String::new(),
        label: Vec::new(),
        facts: Vec::new(),
        entries: paths.iter().map(entry).collect(),
    };
    let files = paths
        .into_iter()
        .filter_map(|(path, (_, text))| Some((path.as_bytes().to_vec(), text?.into_bytes())));
    (
        Tree {
            volumes: vec![volume],
            ..Tree::default()
        },
        Files(files.collect()),
    )
}

fn origins() -> Origins {
    let [name, version, architecture] =
        ["libstdc++6", "12.2.0-14+deb12u1", "amd64"].map(str::to_owned);
    let origin = PackageOrigin {
        sha256: Some("ab".repeat(32).parse().unwrap()),
        archive: Some("https://mirror.example.org/debian/".to_owned()),
        path: Some("pool/main/g/gcc-12/libstdc++6_12.2.0-14+deb12u1_amd64.deb".to_owned()),
    };
    let package = PackageName {
        name,
        architecture,
        version,
    };
    Origins::from([(package, origin)])
}

#[test]
fn packages_are_listed_with_what_is_known() {
    let (tree, files) = disk();
    let bill = read(&tree, &files, &origins()).unwrap().unwrap();
    assert_eq!(
        text(&bill),
        "PACKAGE     VERSION                     ARCHITECTURE  SIZE    ORIGIN\n\
         hello       1:2.10-3 (half-configured)  all           -       -\n\
         libstdc++6  12.2.0-14+deb12u1           amd64         2.9 MB  https://mirror.example.org/debian/\n"
    );
    let json: Value = serde_json::from_str(&json(&bill)).unwrap();
    assert_eq!(json[1]["source"]["version"], "12.2.0-14");
    assert_eq!(
        (&json[0]["automatic"], &json[1]["automatic"]),
        (&Value::Bool(false), &Value::Bool(true))
    );
    assert_eq!(
        (&json[0]["size"], &json[1]["size"]),
        (&Value::Null, &Value::from(2800 * 1024))
    );
    // The link to os-release, os-release itself, `mine`, the module, the copyright file, apt's file, `status`.
    assert_eq!(
        bill.unlisted,
        Some(Unlisted {
            files: 7,
            kernel_modules: 1
        })
    );
    assert_eq!(bill.written, 1_700_000_000);
    assert_eq!(read(&Tree::default(), &files, &origins()).unwrap(), None);
}

#[test]
fn the_document_is_the_same_every_time_and_has_licenses_through_links() {
    let (tree, files) = disk();
    let bill = read(&tree, &files, &origins()).unwrap().unwrap();
    let copyrights = copyrights(&tree, &files, &bill.packages).unwrap();
    let subject = || Subject {
        name: "image.demo",
        content: "disk-0123".to_owned(),
        epoch: 1_700_000_000,
    };
    let told = document(&subject(), &bill, &copyrights);
    assert_eq!(told, document(&subject(), &bill, &copyrights));
    insta::assert_snapshot!(told.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
}

#[test]
fn links_in_circles_lead_nowhere() {
    let (mut tree, _) = disk();
    for entry in &mut tree.volumes[0].entries {
        if let EntryKind::Symlink { target } = &mut entry.kind {
            *target = entry.path.clone();
        }
    }
    assert_eq!(locate(&tree, b"/etc/os-release"), None);
    assert_eq!(
        locate(&tree, b"/../usr/./bin//hello"),
        Some((1, b"/usr/bin/hello".to_vec()))
    );
}
