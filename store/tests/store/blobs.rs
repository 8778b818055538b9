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
    let other_dir = tempfile::tempdir().unwrap();
    let in_pieces = Store::open(other_dir.path()).unwrap();
    for size in [
        0,
        1,
        4095,
        300_000,
        4 << 20,
        (4 << 20) + 1,
        (8 << 20) - 1,
        8 << 20,
        16 << 20,
        (20 << 20) + 7,
    ] {
        for bytes in [
            noise(size as u64, size),
            b"abc".iter().copied().cycle().take(size).collect(),
        ] {
            let blob = store.put_blob(&bytes[..]).unwrap();
            assert_eq!(
                blob,
                BlobRef {
                    digest: BlobDigest::of(&bytes),
                    size: size as u64
                }
            );
            assert!(read_blob(&store, &blob).unwrap() == bytes, "{size}");
            assert_eq!(in_pieces.put_blob_like(&bytes[..], None).unwrap(), blob);
            assert!(read_blob(&in_pieces, &blob).unwrap() == bytes, "{size}");
        }
    }
    assert_eq!(store.verify(false).unwrap().findings, []);
    assert_eq!(in_pieces.verify(false).unwrap().findings, []);
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
        std::fs::metadata(full.dir.path().join("blobs").join(&hex[..2]).join(&hex))
            .unwrap()
            .len()
    };
    assert!(
        size(&full.sharing) * 4 < size(&full.large),
        "{} {}",
        size(&full.sharing),
        size(&full.large)
    );
    assert!(read_blob(&full.store, &full.sharing).unwrap() == sharing());
    // What shares with one that shares names the file that has the bytes: no chain of references.
    let mut third = sharing();
    third.extend(b"more");
    let third = full
        .store
        .put_blob_like(&third[..], Some(&full.sharing.digest))
        .unwrap();
    let hex = full.sharing.digest.to_string();
    std::fs::remove_file(full.dir.path().join("blobs").join(&hex[..2]).join(&hex)).unwrap();
    let missing = full
        .store
        .open_blob(&third.digest)
        .unwrap_err()
        .into_miss()
        .unwrap();
    assert!(
        missing.path.ends_with(&hex),
        "only the first piece, which only the second had, is missed: {missing}"
    );
}

#[test]
fn a_reader_that_is_used_after_the_file_changed_gives_an_error() {
    let full = Full::new();
    let mut reader = full.store.open_blob(&full.large.digest).unwrap();
    let hex = full.large.digest.to_string();
    let path = full.dir.path().join("blobs").join(&hex[..2]).join(&hex);
    // In place: the reader has the same inode. Only root may write what is read-only.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 4096], 1 << 20).unwrap();
    let mut read = Vec::new();
    assert!(reader.read_to_end(&mut read).is_err());
    assert!(large().starts_with(&read), "what it gave before was right");
}

#[test]
fn sha256_is_computed_once() {
    let full = Full::new();
    let sha256 = full
        .store
        .blob_sha256(&full.small.digest)
        .unwrap()
        .to_string();
    assert_eq!(
        sha256,
        "e713d8b824be9a95af442b57876ccd50e947acdf1b45e05a3a61e0f801599668"
    );
    let hex = full.small.digest.to_string();
    std::fs::remove_file(full.dir.path().join("blobs").join(&hex[..2]).join(&hex)).unwrap();
    assert_eq!(
        full.reopen()
            .blob_sha256(&full.small.digest)
            .unwrap()
            .to_string(),
        sha256
    );
}

/// A list of files as a tree index is one: for each a line with numbers and a digest. `edition` changes some lines here
/// and there, and adds some in one place.
fn list(edition: usize) -> Vec<u8> {
    let line = |number: usize, edition: usize| {
        let digest = BlobDigest::of(format!("{number} {edition}").as_bytes());
        let path = format!(
            "/usr/share/package-{}/some/directory/file-{number}",
            number / 40
        );
        format!(
            "f 0644 0 0 {} {} {digest} {path}\n",
            number * 7919 % 100_000,
            1_700_000_000 + edition
        )
    };
    let mut text = String::new();
    for number in 0..16_000 {
        text += &line(
            number,
            if edition > 0 && number % 1600 == edition * 100 {
                edition
            } else {
                0
            },
        );
        if number == 4321 * edition {
            (0..50).for_each(|extra| text += &line(20_000 + extra, edition));
        }
    }
    text.into_bytes()
}

fn stored(store: &Store, blob: &BlobRef) -> u64 {
    let hex = blob.digest.to_string();
    std::fs::metadata(store.path().join("blobs").join(&hex[..2]).join(&hex))
        .unwrap()
        .len()
}

#[test]
fn a_family_of_small_files_costs_little_more_than_what_changes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut family: Vec<BlobRef> = Vec::new();
    for edition in 0..3 {
        let like = family.last().map(|blob| blob.digest);
        family.push(
            store
                .put_blob_like(&list(edition)[..], like.as_ref())
                .unwrap(),
        );
    }
    let alone_dir = tempfile::tempdir().unwrap();
    let alone = Store::open(alone_dir.path()).unwrap();
    let whole = stored(&alone, &alone.put_blob(&list(0)[..]).unwrap());
    let sizes: Vec<_> = family.iter().map(|blob| stored(&store, blob)).collect();
    println!(
        "{} bytes in one piece: {whole}; the family: {sizes:?}",
        family[0].size
    );
    assert!(sizes[0] * 10 < whole * 12, "pieces cost a fifth at most");
    assert!(
        sizes[1..].iter().all(|size| size * 7 < whole),
        "{sizes:?} of {whole}"
    );
    assert_eq!(store.verify(false).unwrap().findings, []);
    let now = impasto_store::gc::GcOptions::default();
    store
        .gc(
            &[impasto_store::refs::Root::Blob(family[2])],
            &[],
            None,
            now,
        )
        .unwrap();
    assert!(
        read_blob(&store, &family[2]).unwrap() == list(2),
        "with the pieces that the others have"
    );
    assert_eq!(store.verify(false).unwrap().findings, []);
}

#[test]
fn what_of_a_family_is_tiny_or_there_already_is_not_cut() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let tiny = noise(1, 256 << 10);
    let blob = store.put_blob_like(&tiny[..], None).unwrap();
    assert!(stored(&store, &blob) < blob.size + 200, "one record");
    let more = noise(1, (256 << 10) + 1);
    let blob = store.put_blob_like(&more[..], Some(&blob.digest)).unwrap();
    assert!(stored(&store, &blob) > blob.size + 500, "a table");
    assert!(read_blob(&store, &blob).unwrap() == more);
    let creates = store.io().creates;
    assert_eq!(store.put_blob_like(&more[..], None).unwrap(), blob);
    assert_eq!(store.put_blob(&more[..]).unwrap(), blob);
    assert_eq!(store.io().creates, creates);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn edited_files_come_back(
        edits in proptest::collection::vec((0usize..5_000_000, 0usize..40_000), 0..6),
        size in prop::sample::select(vec![200_000, 400_000, 5_000_000]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = noise(1, size);
        let like = store.put_blob_like(&first[..], None).unwrap();
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
