//! Makes the frozen store of the current format version anew, for `tests/fixtures`. Never after a release of it.
#![allow(clippy::unwrap_used, reason = "a tool for developers")]
#![allow(dead_code, reason = "shares the tests' support")]

use std::path::Path;

use impasto_store::{FORMAT_VERSION, Store};
use support::{MemorySource, SMALL, claim, files, frozen_large, raw, text};

#[path = "../tests/store/support.rs"]
mod support;

fn main() {
    let dir = tempfile::tempdir().unwrap();
    write_frozen(&Store::open(dir.path()).unwrap());
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    std::fs::create_dir_all(&fixtures).unwrap();
    let packed = pack_fixture(dir.path());
    std::fs::write(fixtures.join(format!("store-v{FORMAT_VERSION}.zst")), packed).unwrap();
}

/// Fills an empty store with one of everything.
fn write_frozen(store: &Store) {
    let absent = impasto_store::seal::Absent::AsParent;
    let base = MemorySource::new(10, [(0, Some(text(1))), (1, Some(text(2))), (9, Some(text(3)))]);
    let overlay = MemorySource::new(10, [(0, Some(text(4))), (1, None), (5, Some(raw(5)))]);
    let base = store.seal(None, &base, absent).unwrap().disk.layer;
    let top = store.seal(Some(&base), &overlay, absent).unwrap().disk;
    let small = store.put_blob(SMALL).unwrap();
    let large = store.put_blob(&frozen_large()[..]).unwrap();
    store.blob_sha256(&small.digest).unwrap();
    store.put_claim(&claim(1, Some(top), &[("small", small), ("large", large)])).unwrap();
    store.state_write(&["recipe", "durations"], b"12").unwrap();
    store.put_root("kept", &[impasto_store::refs::Root::Layer(base)]).unwrap();
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
