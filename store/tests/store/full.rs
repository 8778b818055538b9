//! Full and read-only file systems. On a small tmpfs, which takes root to mount.

use std::path::Path;
use std::process::Command;

use impasto_store::seal::Absent;
use impasto_store::{Error, Store};

use crate::support::{MemorySource, claim, noise, raw, read_disk, text};

/// A tmpfs of so many KiB, unmounted when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn new(kib: u32) -> Small {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root: they mount small file systems"
        );
        let dir = tempfile::tempdir().unwrap();
        mount(
            &[
                "-t",
                "tmpfs",
                "-o",
                &format!("size={kib}k,mode=700"),
                "tmpfs",
            ],
            dir.path(),
        );
        Small(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        Command::new("umount").arg(self.0.path()).status().unwrap();
    }
}

fn mount(args: &[&str], path: &Path) {
    assert!(
        Command::new("mount")
            .args(args)
            .arg(path)
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn a_full_file_system_is_named_and_nothing_is_left_of_the_attempt() {
    let small = Small::new(3000);
    let store = Store::open(small.path()).unwrap();
    let base = MemorySource::new(64, [(0, Some(text(1)))]);
    let base = store.seal(None, &base, Absent::AsParent).unwrap().disk;
    store.put_claim(&claim(1, Some(base), &[])).unwrap();
    let huge = MemorySource::new(64, (0..64).map(|index| (index, Some(raw(index)))));
    let error = store
        .seal(Some(&base.layer), &huge, Absent::AsParent)
        .unwrap_err();
    let Error::NoSpace { path, free, needed } = &error else {
        panic!("{error:?}")
    };
    assert!(path.starts_with(small.path()) && free < needed, "{error}");
    let error = store.put_blob(&noise(1, 6 << 20)[..]).unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error:?}");
    // Filled to the last byte by somebody else.
    let filler = small.path().join("blobs-of-another");
    let _ = std::fs::write(&filler, vec![1; 8 << 20]);
    for error in [
        store.put_claim(&claim(2, Some(base), &[])).unwrap_err(),
        store.put_blob(&b"x"[..]).unwrap_err(),
        store.state_write(&["x"], &[1; 5000]).unwrap_err(),
    ] {
        assert!(matches!(error, Error::NoSpace { .. }), "{error:?}");
    }
    std::fs::remove_file(filler).unwrap();
    assert_eq!(
        std::fs::read_dir(small.path().join("tmp")).unwrap().count(),
        0
    );
    let store = Store::open(small.path()).unwrap();
    assert_eq!(store.verify(false).unwrap().findings, []);
    assert_eq!(read_disk(&store, &base.layer).unwrap(), [(0, text(1))]);
    store.put_blob(&b"x"[..]).unwrap();
}

#[test]
fn a_read_only_store_is_read_and_says_so_when_written() {
    let small = Small::new(4000);
    let store = Store::open(small.path()).unwrap();
    let base = MemorySource::new(4, [(0, Some(text(1)))]);
    let base = store.seal(None, &base, Absent::AsParent).unwrap().disk;
    let blob = store.put_blob(&b"blob"[..]).unwrap();
    store
        .put_claim(&claim(1, Some(base), &[("blob", blob)]))
        .unwrap();
    store.flush().unwrap();
    drop(store);
    mount(&["-o", "remount,ro"], small.path());
    let store = Store::open(small.path()).unwrap();
    assert_eq!(store.lookup(&crate::support::action(1)).unwrap().len(), 1);
    assert_eq!(read_disk(&store, &base.layer).unwrap(), [(0, text(1))]);
    assert_eq!(store.chain(&base.layer).unwrap().paths().len(), 1);
    assert_eq!(
        store.open_blob(&blob.digest).unwrap().into_bytes().unwrap(),
        b"blob"
    );
    assert_eq!(
        store.put_blob(&b"blob"[..]).unwrap(),
        blob,
        "what is there need not be written"
    );
    for error in [
        store.put_blob(&b"new"[..]).unwrap_err(),
        store.put_claim(&claim(2, Some(base), &[])).unwrap_err(),
        store.state_write(&["x"], b"x").unwrap_err(),
        store.lease().unwrap_err(),
        store
            .seal(
                Some(&base.layer),
                &MemorySource::new(4, [(1, Some(text(2)))]),
                Absent::AsParent,
            )
            .unwrap_err(),
    ] {
        assert!(matches!(error, Error::ReadOnly { .. }), "{error:?}");
    }
}

#[test]
fn what_is_mounted_in_debris_is_never_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (mounted, debris) = (dir.path().join("tmp/a/mounted"), dir.path().join("tmp/b"));
    std::fs::create_dir_all(&mounted).unwrap();
    std::fs::create_dir_all(&debris).unwrap();
    mount(&["-t", "tmpfs", "tmpfs"], &mounted);
    std::fs::write(mounted.join("precious"), "x").unwrap();
    for path in [
        mounted.join("precious"),
        mounted.clone(),
        dir.path().join("tmp/a"),
        debris.clone(),
    ] {
        std::fs::File::open(path)
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH)
            .unwrap();
    }
    let swept = store.sweep_tmp();
    let left = mounted.join("precious").exists();
    Command::new("umount").arg(&mounted).status().unwrap();
    assert!(matches!(swept, Err(Error::Io { .. })), "{swept:?}");
    assert!(left && !debris.exists(), "the rest is deleted");
}
