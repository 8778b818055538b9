//! Damage on purpose: no read gives wrong bytes, `verify` names the file, and what was damaged can be stored again.

use std::path::Path;

use impasto_store::verify::Code;
use impasto_store::{Error, Store};

use crate::support::{
    Full, SMALL, TREE, files, large, overwrite, read_blob, read_disk, sharing, top_chunks,
};

/// Everything that the store holds, asked for: each answer is right, or a miss.
pub(crate) fn read_all(full: &Full, store: &Store) -> Vec<Error> {
    let mut errors = Vec::new();
    let mut note = |error: Error| errors.push(error);
    match read_disk(store, &full.top) {
        Ok(chunks) => assert!(chunks == top_chunks(), "wrong bytes from a disk"),
        Err(error) => note(error),
    }
    let small = [(full.small, SMALL.to_vec()), (full.tree, TREE.to_vec())];
    for (blob, content) in small
        .into_iter()
        .chain([(full.large, large()), (full.sharing, sharing())])
    {
        match read_blob(store, &blob) {
            Ok(bytes) => assert!(bytes == content, "wrong bytes from a blob"),
            Err(error) => note(error),
        }
    }
    match store.claim(&full.claim.action, &full.claim.id()) {
        Ok(claim) => assert_eq!(claim, full.claim),
        Err(error) => note(error),
    }
    for layer in [full.base, full.top] {
        if let Err(error) = store.chain(&layer) {
            note(error);
        }
    }
    match store.lookup(&full.claim.action) {
        Ok(found) => assert!(
            found
                .iter()
                .all(|summary| summary.result == full.claim.result)
        ),
        Err(error) => note(error),
    }
    match store.state_read(&["recipe", "durations"]) {
        Ok(Some(bytes)) => assert_eq!(bytes, b"12"),
        Ok(None) => {}
        Err(error) => note(error),
    }
    match store.blob_sha256(&full.small.digest) {
        Ok(sha256) => assert!(sha256.to_string().starts_with("e713")),
        Err(error) => note(error),
    }
    errors
}

/// Where to flip a byte: the ends, and a few places between.
fn positions(length: usize) -> Vec<usize> {
    let mut positions: Vec<_> = (0..length.min(20))
        .chain(length.saturating_sub(12)..length)
        .collect();
    positions.extend((1..10).map(|part| length * part / 10));
    positions.sort_unstable();
    positions.dedup();
    positions.retain(|position| *position < length);
    positions
}

fn expect_found(full: &Full, path: &Path, what: &str) {
    let report = match Store::open(full.dir.path()) {
        Ok(store) => store.verify(false).unwrap(),
        // Nothing is left of `format`.
        Err(error) => return assert!(error.is_store_damage(), "{error}"),
    };
    let found = report
        .findings
        .iter()
        .any(|finding| finding.path == path && finding.code.is_damage());
    assert!(
        found,
        "{what} of {} was not found: {:?}",
        path.display(),
        report.findings
    );
}

/// Damages one file, looks, and puts the store back as it was.
fn with_damage(full: &Full, path: &Path, damaged: Option<&[u8]>, what: &str, gone: bool) {
    let good = std::fs::read(path).unwrap();
    match damaged {
        Some(bytes) => overwrite(path, bytes),
        None => std::fs::remove_file(path).unwrap(),
    }
    if !gone {
        expect_found(full, path, what);
    }
    match Store::open(full.dir.path()) {
        Ok(store) => {
            for error in read_all(full, &store) {
                assert!(
                    matches!(error, Error::Miss(_)),
                    "{what} of {}: {error}",
                    path.display()
                );
            }
        }
        Err(error) => assert!(error.is_store_damage(), "{error}"),
    }
    // Reading moved it away.
    let _ = std::fs::remove_dir_all(full.dir.path().join("trash"));
    let _ = std::fs::remove_file(path);
    std::fs::write(path, good).unwrap();
}

#[test]
fn a_flipped_byte_is_never_handed_out_and_always_found() {
    let full = Full::new();
    for path in full.files() {
        let good = std::fs::read(&path).unwrap();
        for position in positions(good.len()) {
            let mut bad = good.clone();
            bad[position] ^= 1 << (position % 8);
            with_damage(
                &full,
                &path,
                Some(&bad),
                &format!("byte {position} flipped"),
                false,
            );
        }
    }
    assert_eq!(
        full.reopen().verify(false).unwrap().findings,
        [],
        "all is as it was"
    );
}

#[test]
fn a_cut_file_is_never_handed_out_and_always_found() {
    let full = Full::new();
    for path in full.files() {
        let good = std::fs::read(&path).unwrap();
        for length in [0, 1, good.len() / 2, good.len() - 1] {
            // A cache is not synced: empty it is what a power cut leaves of it, and counts as lost.
            let lost = length == 0 && path.starts_with(full.dir.path().join("state"));
            with_damage(
                &full,
                &path,
                Some(&good[..length]),
                &format!("cut to {length}"),
                lost,
            );
        }
        let longer = [&good[..], b"x"].concat();
        with_damage(&full, &path, Some(&longer), "a byte more", false);
    }
}

#[test]
fn a_deleted_file_is_a_miss() {
    let full = Full::new();
    for path in full.files() {
        with_damage(&full, &path, None, "deleted", true);
    }
}

#[test]
fn another_valid_object_in_its_place_is_not_believed() {
    let full = Full::new();
    let all = full.files();
    for path in &all {
        for other in all.iter().filter(|other| *other != path) {
            // Equal content under another name, such as a second state file, would be no damage.
            let (good, bytes) = (std::fs::read(path).unwrap(), std::fs::read(other).unwrap());
            if good != bytes {
                with_damage(
                    &full,
                    path,
                    Some(&bytes),
                    &format!("{} in the place", other.display()),
                    false,
                );
            }
        }
    }
}

#[test]
fn what_was_damaged_is_stored_again() {
    let full = Full::new();
    let good: Vec<_> = full
        .files()
        .into_iter()
        .map(|path| (std::fs::read(&path).unwrap(), path))
        .collect();
    for (_, path) in &good {
        let mut bytes = std::fs::read(path).unwrap();
        if let Some(middle) = bytes.len().checked_div(2) {
            bytes[middle] ^= 1;
        }
        overwrite(path, &bytes);
    }
    let misses = read_all(&full, &full.reopen());
    assert!(
        misses.len() >= 5 && misses.iter().all(|error| matches!(error, Error::Miss(_))),
        "{misses:?}"
    );
    // The same work again, in the same place: layer files whose manifests were moved away are still there, damaged.
    let (layers, blobs) = (
        [full.base, full.top],
        [full.tree, full.small, full.large, full.sharing],
    );
    let again = Full::fill(full.dir);
    assert_eq!(
        (
            [again.base, again.top],
            [again.tree, again.small, again.large, again.sharing]
        ),
        (layers, blobs)
    );
    let store = again.reopen();
    assert!(read_all(&again, &store).is_empty());
    let findings = store.verify(false).unwrap().findings;
    let format = again.dir.path().join("format");
    assert!(
        findings.iter().all(|finding| finding.path == format),
        "{findings:?}"
    );
}

#[test]
fn verify_can_move_damage_away() {
    let full = Full::new();
    let claim = files(&full.dir.path().join("claims")).remove(0);
    overwrite(&claim, b"garbage");
    let found: Vec<_> = full
        .store
        .verify(true)
        .unwrap()
        .findings
        .iter()
        .map(|finding| finding.code)
        .collect();
    assert_eq!(found, [Code::ClaimDamaged]);
    assert_eq!(full.store.verify(true).unwrap().findings, []);
}

#[test]
fn damage_is_moved_away_and_named_once() {
    let full = Full::new();
    let path = files(&full.dir.path().join("disks"))
        .into_iter()
        .find(|path| path.extension().unwrap() == "qcow2")
        .unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    overwrite(&path, &bytes);
    let store = full.reopen();
    let miss = store.chain(&full.top).unwrap_err().into_miss().unwrap();
    assert!(miss.is_damage());
    assert_eq!(miss.path, path);
    assert!(miss.to_string().starts_with("layer file `"), "{miss}");
    assert!(!path.exists());
    let again = store.chain(&full.top).unwrap_err().into_miss().unwrap();
    assert!(!again.is_damage(), "the second time it is just not there");
}
