//! Makes the frozen store of the current format version again, for `tests/fixtures`. Never after a release of it.
#![allow(clippy::disallowed_methods, reason = "a tool for developers")]
#![allow(clippy::unwrap_used, reason = "a tool for developers")]
#![allow(dead_code, reason = "shares the tests' support")]

use std::path::Path;

use impasto_store::{FORMAT_VERSION, Store};
use support::{MemorySource, SMALL, TREE, claim, files, frozen_large, raw, text};

#[path = "../tests/store/support.rs"]
mod support;

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    write_frozen(&store);
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    std::fs::create_dir_all(&fixtures).unwrap();
    let packed = pack_fixture(dir.path());
    std::fs::write(
        fixtures.join(format!("store-v{FORMAT_VERSION}.zst")),
        packed,
    )
    .unwrap();
    // The index is a cache, and no part of what is frozen.
    store.flush().unwrap();
    write_seeds(dir.path());
}

/// Fills an empty store with one of everything.
fn write_frozen(store: &Store) {
    let absent = impasto_store::seal::Absent::AsParent;
    let base = MemorySource::new(
        10,
        [(0, Some(text(1))), (1, Some(text(2))), (9, Some(text(3)))],
    );
    let overlay = MemorySource::new(10, [(0, Some(text(4))), (1, None), (5, Some(raw(5)))]);
    let base = store.seal(None, &base, absent).unwrap().disk.layer;
    let top = store.seal(Some(&base), &overlay, absent).unwrap().disk;
    let small = store.put_blob(SMALL).unwrap();
    let large = store.put_blob(&frozen_large()[..]).unwrap();
    store.blob_sha256(&small.digest).unwrap();
    let mut claim = claim(1, Some(top), &[("small", small), ("large", large)]);
    claim.result.tree = Some(store.put_blob(TREE).unwrap());
    store.put_claim(&claim).unwrap();
    store.state_write(&["recipe", "durations"], b"12").unwrap();
    store
        .put_root("kept", &[impasto_store::refs::Root::Layer(base)])
        .unwrap();
}

/// Packs the files of a store into one, for `support::unpack_fixture`.
fn pack_fixture(dir: &Path) -> Vec<u8> {
    let mut packed = Vec::new();
    for path in files(dir) {
        let name = path.strip_prefix(dir).unwrap().to_str().unwrap().as_bytes();
        let content = std::fs::read(&path).unwrap();
        packed.extend((name.len() as u64).to_le_bytes());
        packed.extend((content.len() as u64).to_le_bytes());
        packed.extend(name);
        packed.extend(content);
    }
    zstd::encode_all(&packed[..], 19).unwrap()
}

/// Small objects of the store as seeds for the fuzz target `store`: a byte for the kind, then the body.
fn write_seeds(dir: &Path) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds/store");
    std::fs::create_dir_all(&seeds).unwrap();
    let write = |name: String, kind: u8, body: &[u8]| {
        std::fs::write(seeds.join(name), [&[kind], body].concat()).unwrap()
    };
    for (number, path) in files(dir).into_iter().enumerate() {
        let bytes = std::fs::read(&path).unwrap();
        if path
            .extension()
            .is_some_and(|extension| extension == "manifest")
        {
            write(format!("manifest-{number}"), 0, &bytes);
        } else if bytes.starts_with(b"impaCLM1") {
            // Within the record an array of the body, as bin 16, and more.
            let length = usize::from(u16::from_be_bytes([bytes[18], bytes[19]]));
            write("claim".to_owned(), 1, &bytes[20..20 + length]);
            write("claim-record".to_owned(), 6, &bytes);
        } else if bytes.starts_with(b"impaBLP1") {
            write("plain".to_owned(), 2, &bytes[16..bytes.len() - 32]);
        } else if bytes.starts_with(b"impaBLC1") {
            let tail = bytes.len() - 40;
            let length = u64::from_le_bytes(bytes[tail..tail + 8].try_into().unwrap()) as usize;
            let record = &bytes[tail - length..tail];
            write("table".to_owned(), 3, &record[16..record.len() - 32]);
        } else if bytes.starts_with(b"impaIDX1") {
            write("index".to_owned(), 5, &bytes[16..bytes.len() - 32]);
        }
    }
}
