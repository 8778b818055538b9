//! Disks go in as layers and come out as they were.

use std::path::Path;
use std::process::Command;

use impasto_store::layer::{ChunkLocation, LayerRef, MAX_DEPTH};
use impasto_store::qcow2::CHUNK;
use impasto_store::seal::Absent;
use impasto_store::{Error, Store};
use proptest::prelude::*;

use crate::support::{Full, MemorySource, raw, read_disk, text, top_chunks};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

#[test]
fn an_overlay_over_a_base_reads_as_one_disk() {
    let full = Full::new();
    assert_eq!(read_disk(&full.reopen(), &full.top).unwrap(), top_chunks());
    let manifest = full.store.manifest(&full.top).unwrap();
    let places: Vec<_> = manifest
        .chunks
        .iter()
        .map(|chunk| (chunk.index, chunk.place == ChunkLocation::Zero))
        .collect();
    assert_eq!(
        places,
        [(0, false), (3, true), (5, false)],
        "chunk 4 was zero before: zero over zero is dropped"
    );
}

#[test]
fn qemu_reads_the_chain_as_we_do() {
    let full = Full::new();
    let chain = full.store.chain(&full.top).unwrap();
    assert_eq!(chain.paths().len(), 2);
    let layer = |path: &Path, below: String| {
        format!(
            r#"{{"driver":"qcow2","backing":{below},"file":{{"driver":"file","filename":"{}"}}}}"#,
            path.display()
        )
    };
    let graph = chain
        .paths()
        .iter()
        .fold("null".to_owned(), |below, path| layer(path, below));
    let flat = full.dir.path().join("tmp/flat.raw");
    let status = Command::new("qemu-img")
        .args(["convert", "-O", "raw"])
        .arg(format!("json:{graph}"))
        .arg(&flat)
        .status();
    assert!(status.unwrap().success());
    let mut expected = vec![0; 10 * CHUNK];
    for (index, data) in top_chunks() {
        expected[index as usize * CHUNK..][..CHUNK].copy_from_slice(&data);
    }
    assert!(std::fs::read(&flat).unwrap() == expected);
}

#[test]
fn nothing_changed_is_the_parents_disk() {
    let (_dir, store) = store();
    let base = MemorySource::new(3, [(0, Some(text(1))), (2, Some(raw(2)))]);
    let first = store.seal(None, &base, Absent::AsParent).unwrap();
    let again = MemorySource::new(
        3,
        [(0, Some(text(1))), (1, None), (1, Some(vec![0; CHUNK]))],
    );
    let second = store
        .seal(Some(&first.disk.layer), &again, Absent::AsParent)
        .unwrap();
    assert_eq!(second.disk, first.disk);
    assert_eq!(
        (second.new, second.changed_chunks, second.stored_bytes),
        (false, 0, 0)
    );
}

#[test]
fn an_equal_disk_is_stored_once_whatever_its_parent() {
    let (_dir, store) = store();
    let whole = MemorySource::new(3, [(0, Some(text(1))), (2, Some(raw(2)))]);
    let first = store.seal(None, &whole, Absent::AsParent).unwrap();
    let other = store
        .seal(
            None,
            &MemorySource::new(3, [(0, Some(text(7)))]),
            Absent::AsParent,
        )
        .unwrap();
    let over = MemorySource::new(3, [(0, Some(text(1))), (2, Some(raw(2)))]);
    let second = store
        .seal(Some(&other.disk.layer), &over, Absent::AsParent)
        .unwrap();
    assert_eq!(second.disk, first.disk);
    assert!(!second.new);
}

#[test]
fn a_whole_disk_over_a_parent_loses_what_it_does_not_name() {
    let (_dir, store) = store();
    let base = MemorySource::new(
        4,
        [(0, Some(text(1))), (2, Some(raw(2))), (3, Some(text(3)))],
    );
    let base = store
        .seal(None, &base, Absent::AsParent)
        .unwrap()
        .disk
        .layer;
    let whole = MemorySource::new(4, [(0, Some(text(1))), (1, Some(text(9)))]);
    let sealed = store.seal(Some(&base), &whole, Absent::Zero).unwrap();
    assert_eq!(sealed.changed_chunks, 3);
    assert_eq!(
        read_disk(&store, &sealed.disk.layer).unwrap(),
        [(0, text(1)), (1, text(9))]
    );
}

#[test]
fn a_disk_can_grow_and_shrink_by_whole_chunks() {
    let (_dir, store) = store();
    let base = MemorySource {
        size: 2 * CHUNK as u64 + 512,
        ..MemorySource::new(3, [(0, Some(text(1)))])
    };
    let base = store
        .seal(None, &base, Absent::AsParent)
        .unwrap()
        .disk
        .layer;
    let grown = MemorySource::new(5, [(4, Some(text(2)))]);
    let grown = store
        .seal(Some(&base), &grown, Absent::AsParent)
        .unwrap()
        .disk;
    assert_eq!(grown.virtual_size, 5 * CHUNK as u64);
    assert_eq!(
        read_disk(&store, &grown.layer).unwrap(),
        [(0, text(1)), (4, text(2))]
    );
    let shrunk = MemorySource::new(1, []);
    let shrunk = store
        .seal(Some(&grown.layer), &shrunk, Absent::AsParent)
        .unwrap()
        .disk;
    assert_eq!(read_disk(&store, &shrunk.layer).unwrap(), [(0, text(1))]);
    let odd = MemorySource {
        size: 512,
        ..MemorySource::default()
    };
    let error = store
        .seal(Some(&grown.layer), &odd, Absent::AsParent)
        .unwrap_err();
    assert!(matches!(error, Error::Shrunk { size: 512, .. }), "{error}");
}

#[test]
fn a_deep_chain_is_shortened_and_reads_the_same() {
    let (_dir, store) = store();
    let first = MemorySource::new(
        40,
        [
            (0, Some(text(100))),
            (1, Some(raw(101))),
            (2, Some(text(102))),
        ],
    );
    let mut expected = first.clone();
    let mut layer = store
        .seal(None, &first, Absent::AsParent)
        .unwrap()
        .disk
        .layer;
    let mut depths = Vec::new();
    for step in 0..40u64 {
        // Noise in odd chunks, an own chunk each, and one that comes and goes.
        let own = if step % 2 == 0 { text(step) } else { raw(step) };
        let coming = (step % 3 == 0).then(|| text(7));
        let overlay = MemorySource::new(40, [(step % 39, Some(own)), (39, coming)]);
        expected.chunks.extend(overlay.chunks.clone());
        layer = store
            .seal(Some(&layer), &overlay, Absent::AsParent)
            .unwrap()
            .disk
            .layer;
        depths.push(store.manifest(&layer).unwrap().depth);
    }
    assert_eq!(depths.iter().max(), Some(&MAX_DEPTH));
    let squashed = depths.windows(2).filter(|pair| pair[1] <= pair[0]).count();
    assert_eq!(
        squashed, 2,
        "of layers that are about as large as each other, all at once: {depths:?}"
    );
    let expected: Vec<_> = expected
        .chunks
        .into_iter()
        .filter_map(|(index, data)| Some((index, data?)))
        .collect();
    assert!(read_disk(&store, &layer).unwrap() == expected);
    assert_eq!(store.verify(false).unwrap().findings, []);
}

#[test]
fn the_number_of_threads_does_not_show() {
    let chunks = (0..700).map(|index| {
        (
            index,
            Some(if index % 5 == 0 {
                raw(index)
            } else {
                text(index)
            }),
        )
    });
    let source = MemorySource::new(700, chunks);
    let seal = |threads| {
        let (dir, store) = store();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let sealed = pool
            .install(|| store.seal(None, &source, Absent::AsParent))
            .unwrap();
        drop(dir);
        sealed
    };
    assert_eq!(seal(1), seal(5));
}

#[test]
fn another_representation_stands_in_for_a_missing_parent() {
    let (dir, store) = store();
    let zero = store
        .seal(None, &MemorySource::new(4, []), Absent::AsParent)
        .unwrap()
        .disk
        .layer;
    // The same disk twice: flat, and over the empty one.
    let disk = MemorySource::new(4, [(0, Some(text(1)))]);
    let flat = store
        .seal(None, &disk, Absent::AsParent)
        .unwrap()
        .disk
        .layer;
    let aside = dir.path().join("aside");
    let flat_dir = disk_dir(&store, &flat);
    std::fs::rename(&flat_dir, &aside).unwrap();
    let delta = store
        .seal(Some(&zero), &disk, Absent::AsParent)
        .unwrap()
        .disk
        .layer;
    assert_eq!(delta.disk, flat.disk);
    assert_ne!(delta.layer, flat.layer);
    let child = MemorySource::new(4, [(1, Some(text(2)))]);
    let child = store
        .seal(Some(&delta), &child, Absent::AsParent)
        .unwrap()
        .disk
        .layer;
    std::fs::remove_dir_all(&flat_dir).unwrap();
    std::fs::rename(&aside, &flat_dir).unwrap();
    assert_eq!(store.manifest(&child).unwrap().parent, Some(delta));
    assert_eq!(
        read_disk(&store, &child).unwrap(),
        [(0, text(1)), (1, text(2))]
    );
    assert!(store.has_layer(&child).unwrap());
    std::fs::remove_dir_all(&flat_dir).unwrap();
    let error = store.chain(&child).unwrap_err();
    assert!(!error.into_miss().unwrap().is_damage());
    assert!(!store.has_layer(&child).unwrap());
}

fn disk_dir(store: &Store, layer: &LayerRef) -> std::path::PathBuf {
    let hex = layer.disk.to_string();
    store.path().join("disks").join(&hex[..2]).join(hex)
}

#[test]
fn asking_for_a_layer_opens_no_layer_file() {
    let full = Full::new();
    let store = full.reopen();
    assert!(store.has_layer(&full.top).unwrap());
    assert_eq!(store.lookup(&full.claim.action).unwrap().len(), 1);
    let io = store.io();
    assert_eq!(
        (io.layer_opens, io.claim_opens, io.blob_opens, io.creates),
        (0, 0, 0, 0),
        "{io:?}"
    );
}

/// What this thread has read so far (proc(5), `rchar`).
fn bytes_read() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix("rchar: "))
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn a_chain_stays_what_was_verified_whatever_its_names_stand_for_later() {
    let full = Full::new();
    let chain = full.store.chain(&full.top).unwrap();
    let before: Vec<_> = chain
        .paths()
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    for layer in std::iter::successors(Some(full.top), |layer| {
        full.store.manifest(layer).unwrap().parent
    }) {
        let path = disk_dir(&full.store, &layer).join(format!("{}.qcow2", layer.layer));
        let other = path.with_extension("other");
        std::fs::write(&other, "another file").unwrap();
        std::fs::rename(&other, &path).unwrap();
    }
    let after: Vec<_> = chain
        .paths()
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    assert!(before == after);
    let Err(Error::Miss(_)) = full.store.chain(&full.top) else {
        panic!("the names stand for other files")
    };
}

#[test]
fn a_layer_file_is_hashed_once_per_boot() {
    let full = Full::new();
    // The temporary name was deleted before the stamp was taken: sealing vouches for its own file.
    let length = full.store.layer_length(&full.top).unwrap().unwrap();
    let hashed = |store: &Store| {
        let before = bytes_read();
        store.chain(&full.top).unwrap();
        bytes_read() - before >= length
    };
    assert!(!hashed(&full.store));
    let store = full.reopen();
    assert!(!hashed(&store), "the stamps were written");
    std::fs::remove_file(full.dir.path().join("state/stamps")).unwrap();
    let store = full.reopen();
    assert!(hashed(&store));
    assert!(!hashed(&store));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn chains_of_arbitrary_overlays_read_as_a_plain_map(
        overlays in proptest::collection::vec(
            proptest::collection::btree_map(0u64..30, proptest::option::of(0u64..12), 0..12), 1..6),
    ) {
        let (_dir, store) = store();
        let content = |seed: u64| if seed.is_multiple_of(4) { raw(seed) } else { text(seed) };
        let mut model = std::collections::BTreeMap::new();
        let mut layer: Option<LayerRef> = None;
        for overlay in overlays {
            let chunks = overlay.into_iter().map(|(index, seed)| (index, seed.map(content)));
            let source = MemorySource::new(30, chunks);
            model.extend(source.chunks.clone());
            layer = Some(store.seal(layer.as_ref(), &source, Absent::AsParent).unwrap().disk.layer);
        }
        let expected: Vec<_> = model.into_iter().filter_map(|(index, data)| Some((index, data?))).collect();
        prop_assert!(read_disk(&store, &layer.unwrap()).unwrap() == expected);
    }
}
