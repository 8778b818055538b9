//! Files go in as blobs and come out as they were.

use std::io::Read;

use impasto_store::Store;
use impasto_store::blob::BlobRef;
use impasto_store::digest::BlobDigest;
use proptest::prelude::*;

use crate::support::{Full, large, noise, read_blob, sharing};

#[test]
fn files_of_all_sizes_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for size in [0, 1, 4095, 4 << 20, (4 << 20) + 1, (8 << 20) - 1, 8 << 20, (20 << 20) + 7] {
        for bytes in [noise(size as u64, size), b"abc".iter().copied().cycle().take(size).collect()] {
            let blob = store.put_blob(&bytes[..]).unwrap();
            assert_eq!(blob, BlobRef { digest: BlobDigest::of(&bytes), size: size as u64 });
            assert!(read_blob(&store, &blob).unwrap() == bytes, "{size}");
        }
    }
    assert_eq!(store.verify(false).unwrap().findings, []);
}

#[test]
fn the_same_content_is_stored_once() {
    let full = Full::new();
    let before = full.files();
    full.store.put_blob(crate::support::SMALL).unwrap();
    full.store.put_blob(&large()[..]).unwrap();
    assert_eq!(full.files(), before);
}

#[test]
fn a_similar_file_shares_its_pieces() {
    let full = Full::new();
    let size = |blob: &BlobRef| {
        let hex = blob.digest.to_string();
        std::fs::metadata(full.dir.path().join("blobs").join(&hex[..2]).join(&hex)).unwrap().len()
    };
    assert!(size(&full.sharing) * 4 < size(&full.large), "{} {}", size(&full.sharing), size(&full.large));
    assert!(read_blob(&full.store, &full.sharing).unwrap() == sharing());
    // What shares with one that shares names the file that has the bytes: no chain of references.
    let mut third = sharing();
    third.extend(b"more");
    let third = full.store.put_blob_like(&third[..], Some(&full.sharing.digest)).unwrap();
    let hex = full.sharing.digest.to_string();
    std::fs::remove_file(full.dir.path().join("blobs").join(&hex[..2]).join(&hex)).unwrap();
    let missing = full.store.open_blob(&third.digest).unwrap_err().into_miss().unwrap();
    assert!(missing.path.ends_with(&hex), "only the first piece, which only the second had, is missed: {missing}");
}

#[test]
fn a_reader_that_is_used_after_the_file_changed_gives_an_error() {
    let full = Full::new();
    let mut reader = full.store.open_blob(&full.large.digest).unwrap();
    let hex = full.large.digest.to_string();
    let path = full.dir.path().join("blobs").join(&hex[..2]).join(&hex);
    // In place: the reader has the same inode.
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 4096], 1 << 20).unwrap();
    let mut read = Vec::new();
    assert!(reader.read_to_end(&mut read).is_err());
    assert!(large().starts_with(&read), "what it gave before was right");
}

#[test]
fn sha256_is_computed_once() {
    let full = Full::new();
    let sha256 = full.store.blob_sha256(&full.small.digest).unwrap().to_string();
    assert_eq!(sha256, "e713d8b824be9a95af442b57876ccd50e947acdf1b45e05a3a61e0f801599668");
    let hex = full.small.digest.to_string();
    std::fs::remove_file(full.dir.path().join("blobs").join(&hex[..2]).join(&hex)).unwrap();
    assert_eq!(full.reopen().blob_sha256(&full.small.digest).unwrap().to_string(), sha256);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn edited_large_files_come_back(edits in proptest::collection::vec((0usize..5_000_000, 0usize..40_000), 0..6)) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = noise(1, 5_000_000);
        let like = store.put_blob(&first[..]).unwrap();
        let mut second = first;
        for (at, length) in edits {
            let at = at.min(second.len());
            let end = (at + length).min(second.len());
            second.splice(at..end, noise(at as u64, length / 2));
        }
        let blob = store.put_blob_like(&second[..], Some(&like.digest)).unwrap();
        prop_assert!(read_blob(&store, &blob).unwrap() == second);
    }
}
