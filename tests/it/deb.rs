//! Debian's own packages, read, chosen and unpacked by us, with dpkg as the oracle.
//!
//! Needs root, for the mirror that tests share and for chroot.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use impasto::deb::closure::closure;
use impasto::deb::control::{Stanza, stanzas};
use impasto::deb::package::Package;
use impasto::debian::tools::ToolboxTree;
use impasto::debian::tools::unpack::{DebSource, unpack};
use impasto_stages::package_set::LockedPackage;
use impasto_store::Store;

use crate::base::tool;
use crate::debian::{SUITE, mirror, run};

/// What the mirror has of the tools that a toolbox has.
const TOOLS: [&str; 10] = [
    "apt",
    "base-passwd",
    "coreutils",
    "dash",
    "dpkg",
    "grep",
    "mawk",
    "sed",
    "tar",
    "gzip",
];

fn index() -> String {
    run(
        "xz -dc \"$1\"",
        &[&mirror().join(format!("dists/{SUITE}/main/binary-amd64/Packages.xz"))],
    )
}

fn packages() -> Vec<PathBuf> {
    let all = walkdir::WalkDir::new(mirror().join("pool"))
        .sort_by_file_name()
        .into_iter()
        .map(Result::unwrap);
    all.map(walkdir::DirEntry::into_path)
        .filter(|path| path.extension().is_some_and(|end| end == "deb"))
        .collect()
}

fn source(stanza: &Stanza<'_>) -> DebSource<'static> {
    let field = |name: &str| stanza.get(name).unwrap().to_owned();
    let [name, version, architecture, sha256] =
        ["Package", "Version", "Architecture", "SHA256"].map(field);
    let path = mirror().join(field("Filename"));
    let package = LockedPackage {
        name,
        architecture,
        version,
        sha256: sha256.parse().unwrap(),
        size: field("Size").parse().unwrap(),
    };
    DebSource {
        package,
        open: Box::new(move || Ok(Box::new(File::open(&path)?))),
    }
}

#[test]
fn every_package_reads_as_dpkg_reads_it() {
    // A kernel would take as long as all others together.
    let mut all = packages();
    all.retain(|path| fs::metadata(path).unwrap().len() < 4 << 20);
    assert!(all.len() > 100, "{}", all.len());
    for path in &all {
        let deb = path.to_str().unwrap();
        let package = Package::read(File::open(path).unwrap()).unwrap();
        assert_eq!(
            package.control(),
            tool("dpkg-deb", &["--info", deb, "control"]),
            "{deb}"
        );
        let expected = run("dpkg-deb --fsys-tarfile \"$1\" | b2sum", &[path]);
        let mut data = tempfile::NamedTempFile::new().unwrap();
        io::copy(&mut package.data().unwrap(), &mut data).unwrap();
        assert_eq!(run("b2sum < \"$1\"", &[data.path()]), expected, "{deb}");
    }
}

/// Every file below a directory with what must be equal.
fn listed(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let all = walkdir::WalkDir::new(root).into_iter().map(Result::unwrap);
    all.map(|entry| {
        let stat = entry.metadata().unwrap();
        let content = if stat.is_file() {
            fs::read(entry.path()).unwrap()
        } else {
            fs::read_link(entry.path())
                .map(|to| to.into_os_string().into_encoded_bytes())
                .unwrap_or_default()
        };
        (
            entry.path().strip_prefix(root).unwrap().to_owned(),
            (stat.mode(), content),
        )
    })
    .collect()
}

#[test]
fn a_toolbox_has_the_files_that_dpkg_unpacks_and_its_tools_run() {
    let index = index();
    let chosen = closure(stanzas(&index), &TOOLS, "amd64").unwrap();
    let sources: Vec<_> = chosen.iter().map(source).collect();
    println!("{} packages", sources.len());
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    fs::create_dir(&ours).unwrap();
    unpack(&sources, &ours).unwrap();

    fs::create_dir_all(theirs.join("usr")).unwrap();
    run(
        "cd \"$1\"; for name in bin lib lib32 lib64 libx32 sbin; do mkdir usr/$name; ln -s usr/$name $name; done
         mkdir proc sys dev run tmp work",
        &[&theirs],
    );
    for stanza in &chosen {
        let path = mirror().join(stanza.get("Filename").unwrap());
        run(
            "dpkg-deb --fsys-tarfile \"$1\" | tar -x --keep-directory-symlink -C \"$2\"",
            &[&path, &theirs],
        );
    }
    let unchanged = listed(&ours);
    let (mut ours_listed, theirs_listed) = (unchanged.clone(), listed(&theirs));
    for made in [
        "etc/passwd",
        "etc/group",
        "usr/bin/awk",
        "usr/bin/nawk",
        "usr/bin/which",
    ] {
        ours_listed.remove(Path::new(made));
    }
    let paths = |all: &BTreeMap<PathBuf, _>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(paths(&ours_listed), paths(&theirs_listed));
    for (path, (mode, content)) in &ours_listed {
        let (other, theirs) = &theirs_listed[path];
        assert!(content == theirs, "{path:?}");
        // Of directories the first package decides, and set-user-id bits are dropped.
        if mode & 0o170_000 != 0o040_000 {
            assert_eq!(
                mode & 0o170_777,
                (other & 0o170_777) | (u32::from(mode & 0o170_000 == 0o100_000) * 0o600),
                "{path:?}"
            );
        }
    }
    let said = tool(
        "chroot",
        &[
            ours.to_str().unwrap(),
            "/bin/sh",
            "-euc",
            "dpkg --version | head -1; apt-get --version | head -1; echo 1 2 | awk '{ print $1 + $2 }'; id -un",
        ],
    );
    let lines: Vec<_> = said.lines().collect();
    assert!(
        lines[0].contains("dpkg") && lines[1].starts_with("apt ") && lines[2..] == ["3", "root"],
        "{said}"
    );

    // The tree of the store is the same, and is there at once the second time.
    let store = Store::open(dir.path().join("store")).unwrap();
    let begin = std::time::Instant::now();
    let tree = ToolboxTree::open_or_make(&store, &sources).unwrap();
    let made = begin.elapsed();
    let set: Vec<_> = sources
        .iter()
        .map(|source| source.package.clone())
        .collect();
    let begin = std::time::Instant::now();
    assert_eq!(ToolboxTree::open(&store, &set).unwrap(), Some(tree.clone()));
    println!("made in {made:?}, opened in {:?}", begin.elapsed());
    let (first, second) = (unchanged, listed(tree.path()));
    let unequal: Vec<_> = first
        .iter()
        .filter(|(path, file)| second.get(*path) != Some(file))
        .collect();
    assert!(
        unequal.is_empty() && first.len() == second.len(),
        "{:?}",
        unequal.iter().map(|(path, _)| path).collect::<Vec<_>>()
    );
    let times: Vec<_> = walkdir::WalkDir::new(tree.path())
        .into_iter()
        .map(|entry| entry.unwrap().metadata().unwrap().mtime())
        .filter(|time| *time != 315_532_800)
        .collect();
    assert_eq!(times, [0; 0]);
}

#[test]
fn a_package_that_is_not_whole_is_refused() {
    let path = packages()
        .into_iter()
        .find(|path| path.to_str().unwrap().contains("/dash_"))
        .unwrap();
    let good = fs::read(path).unwrap();
    for end in [0, 7, 60, 130, good.len() / 2, good.len() - 1] {
        let read = || -> Result<u64, Box<dyn std::error::Error>> {
            let package = Package::read(&good[..end])?;
            Ok(io::copy(&mut package.data()?, &mut io::sink())?)
        };
        // The last byte may be padding.
        assert!(
            read().is_err() || end == good.len() - 1,
            "{end} of {}",
            good.len()
        );
    }
}
