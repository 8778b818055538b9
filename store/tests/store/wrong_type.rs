//! What is not a regular file where an object should be, or not a directory where one should be: never followed, never
//! waited for; a miss, found by `verify`, and out of the way when the same is stored again.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use impasto_store::derived::{DerivedKey, DerivedRecord};
use impasto_store::digest::BlobDigest;
use impasto_store::gc::GcOptions;
use impasto_store::refs::Root;
use impasto_store::verify::{Code, Finding};
use impasto_store::{Error, Owner, Store};
use rustix::fs::{CWD, FileType, Mode};

use crate::damage::read_all;
use crate::support::{Full, files, overwrite};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// To a good copy of what should be there.
    Symlink,
    Dangling,
    Directory,
    /// A regular file, in the place of a directory.
    File,
    Fifo,
    Socket,
    /// One that gives zeros without end.
    Device,
}

const FOR_FILES: [Kind; 6] = [
    Kind::Symlink,
    Kind::Dangling,
    Kind::Directory,
    Kind::Fifo,
    Kind::Socket,
    Kind::Device,
];
const FOR_DIRECTORIES: [Kind; 6] = [
    Kind::Symlink,
    Kind::Dangling,
    Kind::File,
    Kind::Fifo,
    Kind::Socket,
    Kind::Device,
];

impl Kind {
    /// Puts one in the place of what is there, which goes to `aside`.
    fn put(self, path: &Path, aside: &Path) {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root: they make devices"
        );
        std::fs::rename(path, aside).unwrap();
        let node = |file_type, device| {
            rustix::fs::mknodat(CWD, path, file_type, Mode::RUSR | Mode::WUSR, device).unwrap()
        };
        match self {
            Kind::Symlink => symlink(aside, path).unwrap(),
            Kind::Dangling => symlink("nowhere", path).unwrap(),
            Kind::File => std::fs::write(path, "a file").unwrap(),
            Kind::Fifo => node(FileType::Fifo, 0),
            Kind::Socket => node(FileType::Socket, 0),
            Kind::Device => node(FileType::CharacterDevice, rustix::fs::makedev(1, 5)),
            Kind::Directory => {
                std::fs::create_dir(path).unwrap();
                std::fs::write(path.join("in it"), "x").unwrap();
            }
        }
    }
}

fn derived() -> DerivedRecord {
    let key = DerivedKey {
        disk: impasto_store::digest::DiskDigest(BlobDigest::of(b"disk").0),
        format: "raw".to_owned(),
        options: Default::default(),
        encoder: String::new(),
    };
    DerivedRecord {
        key,
        digest: BlobDigest::of(b"x"),
        sha256: impasto_store::sha256::Sha256([7; 32]),
        size: 1,
    }
}

/// A store with one of everything; its derived record is in no claim.
fn filled() -> Full {
    let full = Full::new();
    full.store.put_derived(&derived()).unwrap();
    full
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Puts `kind` in the place of each of `names` in a copy of a store, and looks at what comes of it.
fn with(full: &Full, kind: Kind, names: &[PathBuf]) {
    let what = format!("{kind:?} at {names:?}");
    let (dir, aside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    copy(full.dir.path(), dir.path());
    for (number, name) in names.iter().enumerate() {
        kind.put(
            &dir.path().join(name),
            &aside.path().join(number.to_string()),
        );
    }
    let is = |name: &str| names.iter().any(|there| there == Path::new(name));
    let store = match Store::open(dir.path()) {
        Ok(store) => store,
        Err(error) => {
            assert!(
                is("format") && matches!(error, Error::FormatDamaged { .. }),
                "{what}: {error}"
            );
            Store::renew_format(dir.path(), &Owner::caller()).unwrap();
            Store::open(dir.path()).unwrap()
        }
    };
    if !is("format") {
        let findings = store.verify(false).unwrap().findings;
        for name in names {
            let found = |finding: &&Finding| {
                finding.path == dir.path().join(name) && finding.code.is_damage()
            };
            assert!(
                findings.iter().any(|finding| found(&finding)),
                "{what}: {name:?} is not in {findings:?}"
            );
        }
    }
    // The collector does not wait, and deletes nothing that is needed: at most what nothing names any more.
    let now = GcOptions::default();
    let count = || {
        files(dir.path())
            .iter()
            .filter(|path| !path.ends_with("tmp") && !path.ends_with("trash"))
            .count()
    };
    let before = count();
    match store.gc(
        &[Root::Claim(full.claim.action, full.claim.id())],
        &[],
        None,
        now,
    ) {
        Ok(report) => assert_eq!(count() + report.removed.len(), before, "{what}"),
        Err(error) => {
            assert!(
                matches!(error, Error::RootDamaged { .. } | Error::WrongType { .. }),
                "{what}: {error}"
            );
            assert_eq!(count(), before, "{what}");
        }
    }
    let store = Store::open(dir.path()).unwrap();
    for error in read_all(full, &store) {
        assert!(matches!(error, Error::Miss(_)), "{what}: {error}");
    }
    // All that is missing can be stored again, and is right then.
    let again = Full::fill(dir);
    again.store.put_derived(&derived()).unwrap();
    assert_eq!(again.store.derived(&derived().key).unwrap(), derived());
    let store = again.reopen();
    assert!(read_all(&again, &store).is_empty(), "{what}");
    assert_eq!(store.root("kept").unwrap().map(|root| root.len()), Some(1));
    store.verify(true).unwrap();
    assert_eq!(store.verify(false).unwrap().findings, [], "{what}");
    // What lies outside was not touched through a link.
    for number in 0..names.len() {
        assert!(aside.path().join(number.to_string()).exists(), "{what}");
    }
}

fn names(full: &Full, pick: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let names = files(full.dir.path())
        .into_iter()
        .map(|path| path.strip_prefix(full.dir.path()).unwrap().to_owned());
    let names: Vec<_> = names.filter(|name| pick(name.to_str().unwrap())).collect();
    assert!(!names.is_empty());
    names
}

#[test]
fn what_is_not_a_regular_file_at_the_name_of_a_layer_or_manifest_is_a_miss() {
    let full = filled();
    for kind in FOR_FILES {
        with(&full, kind, &names(&full, |name| name.ends_with(".qcow2")));
        with(
            &full,
            kind,
            &names(&full, |name| name.ends_with(".manifest")),
        );
    }
}

#[test]
fn what_is_not_a_regular_file_at_the_name_of_a_claim_or_blob_is_a_miss() {
    let full = filled();
    for kind in FOR_FILES {
        with(
            &full,
            kind,
            &names(&full, |name| name.starts_with("claims/")),
        );
        with(
            &full,
            kind,
            &names(&full, |name| {
                name.starts_with("blobs/") && !name.contains('.')
            }),
        );
        with(
            &full,
            kind,
            &names(&full, |name| {
                name.starts_with("blobs/") && name.contains('.')
            }),
        );
    }
}

#[test]
fn what_is_not_a_regular_file_at_the_name_of_a_small_file_is_no_obstacle() {
    let full = filled();
    for kind in FOR_FILES {
        for top in ["state/index", "state/stamps", "roots/", "format"] {
            with(&full, kind, &names(&full, |name| name.starts_with(top)));
        }
    }
}

#[test]
fn what_is_not_a_directory_is_no_obstacle() {
    let full = filled();
    let parents = |below: usize| {
        let mut parents: Vec<PathBuf> = names(&full, |name| {
            ["claims", "disks", "blobs"]
                .iter()
                .any(|top| name.starts_with(top))
        })
        .into_iter()
        .filter_map(|name| name.parent().map(Path::to_owned))
        .filter_map(|name| {
            name.ancestors()
                .find(|name| name.components().count() == below)
                .map(Path::to_owned)
        })
        .collect();
        parents.dedup();
        parents
    };
    let tops = ["roots", "state", "tmp", "trash", "leases"].map(PathBuf::from);
    drop(full.store.lease().unwrap());
    std::fs::create_dir_all(full.dir.path().join("trash")).unwrap();
    for kind in FOR_DIRECTORIES {
        for below in 1..=3 {
            with(&full, kind, &parents(below));
        }
        for top in &tops {
            with(&full, kind, std::slice::from_ref(top));
        }
    }
}

#[test]
fn a_lease_that_is_not_a_file_counts_for_a_day_and_is_moved_away_then() {
    for kind in FOR_FILES {
        let full = Full::new();
        let (aside, lease) = (
            tempfile::tempdir().unwrap(),
            full.dir.path().join("leases/x"),
        );
        std::fs::create_dir_all(lease.parent().unwrap()).unwrap();
        std::fs::write(&lease, "").unwrap();
        kind.put(&lease, &aside.path().join("0"));
        let now = GcOptions::default();
        assert_eq!(
            full.store.gc(&[], &[], None, now).unwrap().leases,
            ["leases/x"],
            "{kind:?}"
        );
        let long_ago = rustix::fs::Timespec {
            tv_sec: 1_000_000_000,
            tv_nsec: 0,
        };
        let times = rustix::fs::Timestamps {
            last_access: long_ago,
            last_modification: long_ago,
        };
        rustix::fs::utimensat(CWD, &lease, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let report = full.store.gc(&[], &[], None, now).unwrap();
        assert!(
            report.leases.is_empty() && !report.removed.is_empty(),
            "{kind:?}: {report:?}"
        );
    }
}

#[test]
fn verify_names_what_a_claim_needs_and_does_not_have() {
    let full = Full::new();
    let claim = files(&full.dir.path().join("claims")).remove(0);
    let hex = |blob: &BlobDigest| {
        full.dir
            .path()
            .join("blobs")
            .join(&blob.to_string()[..2])
            .join(blob.to_string())
    };
    let chain = full.store.chain(&full.top).unwrap();
    let layer = std::fs::read_link(chain.paths().pop().unwrap()).unwrap();
    let manifest = layer.with_extension("manifest");
    for missing in [
        hex(&full.tree.digest),
        hex(&full.small.digest),
        manifest,
        layer,
    ] {
        let bytes = std::fs::read(&missing).unwrap();
        std::fs::remove_file(&missing).unwrap();
        let report = full.reopen().verify(false).unwrap();
        let found = |finding: &Finding| {
            let names = finding.detail.contains(missing.to_str().unwrap());
            finding.code == Code::Incomplete && finding.path == claim && names
        };
        assert!(
            report.findings.iter().any(found),
            "{}: {:?}",
            missing.display(),
            report.findings
        );
        assert!(
            report
                .findings
                .iter()
                .all(|finding| !finding.code.is_damage()),
            "{:?}",
            report.findings
        );
        std::fs::write(&missing, bytes).unwrap();
    }
    assert_eq!(full.reopen().verify(false).unwrap().findings, []);
}

/// A file whose bytes cannot be read: the kernel answers EIO for memory that is not there.
struct Unreadable(PathBuf);

impl Unreadable {
    fn new(path: &Path) -> Unreadable {
        let memory = format!("/proc/{}/mem", std::process::id());
        let status = std::process::Command::new("mount")
            .args(["--bind", &memory])
            .arg(path)
            .status()
            .unwrap();
        assert!(status.success());
        let error = std::fs::read(path).unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(rustix::io::Errno::IO.raw_os_error())
        );
        Unreadable(path.to_owned())
    }
}

impl Drop for Unreadable {
    fn drop(&mut self) {
        std::process::Command::new("umount")
            .arg(&self.0)
            .status()
            .unwrap();
    }
}

#[test]
fn verify_goes_on_after_an_input_error() {
    let full = Full::new();
    let damaged = files(&full.dir.path().join("disks")).remove(0);
    overwrite(&damaged, b"garbage");
    for kind in ["claims", "blobs"] {
        let path = files(&full.dir.path().join(kind)).remove(0);
        let _unreadable = Unreadable::new(&path);
        for repair in [false, true] {
            let report = full.reopen().verify(repair).unwrap();
            let found = |code, path: &Path| {
                report
                    .findings
                    .iter()
                    .any(|found| found.code == code && found.path == path)
            };
            assert!(found(Code::Unreadable, &path), "{:?}", report.findings);
            assert!(
                found(Code::ManifestDamaged, &damaged) || kind == "blobs",
                "{:?}",
                report.findings
            );
        }
        // The collector cannot tell what is needed.
        if kind == "claims" {
            let (before, claim) = (
                files(full.dir.path()),
                Root::Claim(full.claim.action, full.claim.id()),
            );
            let error = full
                .reopen()
                .gc(&[claim], &[], None, GcOptions::default())
                .unwrap_err();
            assert!(matches!(error, Error::Io { verb: "read", .. }), "{error}");
            assert_eq!(files(full.dir.path()), before);
        }
    }
}

#[test]
fn a_format_is_repaired_from_one_good_copy_and_made_again_on_request() {
    let full = Full::new();
    let path = full.dir.path().join("format");
    let good = std::fs::read(&path).unwrap();
    for copy in 0..3 {
        let mut bad = vec![b'x'; good.len()];
        bad[copy * 128..][..128].copy_from_slice(&good[..128]);
        overwrite(&path, &bad);
        let codes: Vec<_> = full
            .reopen()
            .verify(true)
            .unwrap()
            .findings
            .iter()
            .map(|found| found.code)
            .collect();
        assert_eq!(codes, [Code::FormatCopyDamaged]);
        assert_eq!(std::fs::read(&path).unwrap(), good);
    }
    // None is left, or the file is not.
    overwrite(&path, b"garbage");
    assert!(matches!(
        Store::open(full.dir.path()),
        Err(Error::FormatDamaged { .. })
    ));
    Store::renew_format(full.dir.path(), &Owner::caller()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), good);
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(
        Store::open(full.dir.path()),
        Err(Error::FormatMissing { .. })
    ));
    Store::renew_format(full.dir.path(), &Owner::caller()).unwrap();
    assert_eq!(full.reopen().verify(false).unwrap().findings, []);
    // What another version wrote is not taken for ours.
    let mut other = b"impasto-store 9".to_vec();
    other.resize(63, b' ');
    let check = blake3::derive_key("impasto 2026 state v1", &other);
    other.extend(
        check
            .iter()
            .flat_map(|byte| format!("{byte:02x}").into_bytes()),
    );
    other.push(b'\n');
    overwrite(&path, &other);
    assert!(matches!(
        Store::renew_format(full.dir.path(), &Owner::caller()),
        Err(Error::UnknownFormat { .. })
    ));
    assert_eq!(std::fs::read(&path).unwrap(), other);
    // Nor what is mostly damaged.
    std::fs::remove_file(&path).unwrap();
    for path in files(full.dir.path())
        .iter()
        .filter(|path| !path.starts_with(full.dir.path().join("state")))
    {
        overwrite(path, b"garbage");
    }
    assert!(matches!(
        Store::renew_format(full.dir.path(), &Owner::caller()),
        Err(Error::NotSound { sound: 0..=3, .. })
    ));
    assert!(!path.exists());
    // A directory of somebody's own is left alone.
    std::fs::write(full.dir.path().join("letter"), "dear").unwrap();
    assert!(matches!(
        Store::renew_format(full.dir.path(), &Owner::caller()),
        Err(Error::NotAStore { .. })
    ));
}
