//! A store as format version 2 wrote it: what is read from it must stay the same for ever.
//!
//! To make it again (before 0.1.0 only): `cargo run -p impasto-store --example fixture`.

use std::path::Path;

use impasto_store::Store;
use impasto_store::claim::FileContent;

use crate::support::{action, read_blob, unpack_fixture};

#[test]
fn the_frozen_store_is_read_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    unpack_fixture(&packed(), dir.path());
    let store = Store::open(dir.path()).unwrap();
    let report = store.verify(false).unwrap();
    assert_eq!(report.findings, []);
    let found = store.lookup(&action(1)).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].claim.short(), "49f1f51a0c23");
    let claim = store.claim(&action(1), &found[0].claim).unwrap();
    assert_eq!(claim.stage, "tools");
    let disk = claim.result.disk.unwrap();
    assert_eq!(disk.layer.disk.short(), "0212cb60c927");
    let contents: Vec<_> = crate::support::read_disk(&store, &disk.layer)
        .unwrap()
        .into_iter()
        .map(|(index, data)| (index, impasto_store::digest::BlobDigest::of(&data).short()))
        .collect();
    let contents: Vec<_> = contents
        .iter()
        .map(|(index, digest)| (*index, digest.as_str()))
        .collect();
    assert_eq!(
        contents,
        [
            (0, "23fd2d348d33"),
            (5, "7d4a7389c771"),
            (9, "809a0ecbe6ba")
        ]
    );
    let FileContent::Blob(file) = &claim.result.files["small"].content else {
        panic!()
    };
    assert_eq!(read_blob(&store, file).unwrap(), crate::support::SMALL);
    assert_eq!(
        read_blob(&store, &claim.result.tree.unwrap()).unwrap(),
        crate::support::TREE
    );
    let FileContent::Blob(file) = &claim.result.files["large"].content else {
        panic!()
    };
    assert!(read_blob(&store, file).unwrap() == crate::support::frozen_large());
    assert_eq!(
        store
            .state_read(&["recipe", "durations"])
            .unwrap()
            .as_deref(),
        Some(&b"12"[..])
    );
    assert_eq!(store.roots().unwrap(), ["kept"]);
}

fn packed() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store-v2.zst"))
        .unwrap()
}

#[test]
fn the_fixture_is_small() {
    assert!(packed().len() < 100_000, "{}", packed().len());
}
