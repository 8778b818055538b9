//! A stage that is edited again and again: every edit stores about what it changes, however long the chain has become.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use impasto_store::Store;
use impasto_store::layer::{LayerRef, MAX_DEPTH};
use impasto_store::qcow2::CHUNK;
use impasto_store::seal::Absent;

use crate::support::{MemorySource, raw, read_disk, text};

/// Chunks of the disk.
const COUNT: u64 = 4000;
/// Chunks that the edited stage changes on the disk below it: 4 MiB.
const STAGE: u64 = 64;
const EDITS: u64 = 40;
/// What an edit of a few small chunks may take at most, in bytes, and on average.
const MOST: u64 = 200_000;
const AVERAGE: u64 = 80_000;

/// Bytes that a directory takes on the disk, with all that is in it.
fn allocated(path: &Path) -> u64 {
    let own = std::fs::symlink_metadata(path).unwrap().blocks() * 512;
    let below = std::fs::read_dir(path).into_iter().flatten();
    own + below
        .map(|entry| allocated(&entry.unwrap().path()))
        .sum::<u64>()
}

/// What edit `edit` changes on the stage's disk: three chunks that every edit changes, two that others left alone.
fn edit(edit: u64) -> impl Iterator<Item = (u64, Option<Vec<u8>>)> {
    let common = (0..3).map(move |at| (at * 700, Some(text(10_000 + 10 * edit + at))));
    common.chain((0..2).map(move |at| (1000 + 2 * edit + at, Some(text(20_000 + 2 * edit + at)))))
}

/// The stage's own changes, which no edit touches.
fn stage() -> impl Iterator<Item = (u64, Option<Vec<u8>>)> {
    (0..STAGE).map(|at| (2000 + at, Some(raw(at))))
}

/// A store with a base, two small stages over it, and the stage to be edited, as it came out first.
fn begin(store: &Store) -> (LayerRef, LayerRef) {
    let seal = |below: Option<&LayerRef>, source: &MemorySource| {
        store
            .seal(below, source, Absent::AsParent)
            .unwrap()
            .disk
            .layer
    };
    let base = seal(
        None,
        &MemorySource::new(COUNT, (0..900).map(|at| (at, Some(text(at))))),
    );
    let small = seal(
        Some(&base),
        &MemorySource::new(COUNT, [(950, Some(text(950)))]),
    );
    let below = seal(
        Some(&small),
        &MemorySource::new(COUNT, [(951, Some(text(951)))]),
    );
    let first = seal(
        Some(&below),
        &MemorySource::new(COUNT, stage().chain(edit(0))),
    );
    (below, first)
}

/// Edits the stage; gives the last result, and what each edit took.
fn run(
    store: &Store,
    mut previous: LayerRef,
    seal: impl Fn(u64, &LayerRef) -> LayerRef,
) -> (LayerRef, Vec<u64>) {
    let mut sizes = Vec::new();
    for edit in 1..=EDITS {
        let before = allocated(store.path());
        previous = seal(edit, &previous);
        sizes.push(allocated(store.path()) - before);
        let depth = store.manifest(&previous).unwrap().depth;
        assert!(depth <= MAX_DEPTH);
    }
    (previous, sizes)
}

fn check(store: &Store, last: &LayerRef, expected: &MemorySource, sizes: &[u64]) {
    let sum: u64 = sizes.iter().sum();
    assert!(sizes.iter().all(|size| *size <= MOST), "{sizes:?}");
    assert!(
        sum / EDITS <= AVERAGE,
        "{} bytes an edit: {sizes:?}",
        sum / EDITS
    );
    let expected: Vec<_> = expected
        .chunks
        .iter()
        .map(|(index, data)| (*index, data.clone().unwrap()))
        .collect();
    assert!(read_disk(store, last).unwrap() == expected);
    assert_eq!(store.verify(false).unwrap().findings, []);
}

/// The disk below the stage, with what the stage and some edits left there.
fn disk(edits: impl IntoIterator<Item = u64>) -> MemorySource {
    let below = (0..900).chain([950, 951]).map(|at| (at, Some(text(at))));
    MemorySource::new(
        COUNT,
        below.chain(stage()).chain(edits.into_iter().flat_map(edit)),
    )
}

#[test]
fn a_stage_that_runs_again_and_again_stores_what_its_edits_change() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (below, first) = begin(&store);
    // The stage writes all that it ever wrote, over the disk below.
    let (last, sizes) = run(&store, first, |last, previous| {
        let source = MemorySource::new(COUNT, stage().chain((0..=last).flat_map(edit)));
        store
            .seal_like(Some(&below), Some(previous), &source, Absent::AsParent)
            .unwrap()
            .disk
            .layer
    });
    check(&store, &last, &disk(0..=EDITS), &sizes);
}

#[test]
fn a_disk_that_is_changed_again_and_again_stores_what_changes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (_, first) = begin(&store);
    let (last, sizes) = run(&store, first, |last, previous| {
        let source = MemorySource::new(COUNT, edit(last));
        store
            .seal(Some(previous), &source, Absent::AsParent)
            .unwrap()
            .disk
            .layer
    });
    check(&store, &last, &disk(0..=EDITS), &sizes);
}

#[test]
fn an_edit_of_the_same_chunks_does_not_make_the_chain_longer() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (below, first) = begin(&store);
    let (last, sizes) = run(&store, first, |last, previous| {
        let source = MemorySource::new(COUNT, stage().chain(edit(0)).chain(edit(last).take(3)));
        store
            .seal_like(Some(&below), Some(previous), &source, Absent::AsParent)
            .unwrap()
            .disk
            .layer
    });
    let mut expected = disk([0]);
    expected.chunks.extend(edit(EDITS).take(3));
    check(&store, &last, &expected, &sizes);
    assert_eq!(
        store.manifest(&last).unwrap().parent,
        Some(first),
        "over the stage's first result"
    );
}

#[test]
fn what_stands_on_an_edited_stage_stores_what_the_edits_change() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (below, first) = begin(&store);
    let above = || (0..STAGE).map(|at| (3000 + at, Some(raw(500 + at))));
    let child = |below: &LayerRef, previous: Option<&LayerRef>| {
        let source = MemorySource::new(COUNT, above());
        store
            .seal_like(Some(below), previous, &source, Absent::AsParent)
            .unwrap()
            .disk
            .layer
    };
    let mut top = child(&first, None);
    let (mut edited, mut sizes) = (first, Vec::new());
    for last in 1..=EDITS {
        let before = allocated(dir.path());
        let source = MemorySource::new(COUNT, stage().chain((0..=last).flat_map(edit)));
        edited = store
            .seal_like(Some(&below), Some(&edited), &source, Absent::AsParent)
            .unwrap()
            .disk
            .layer;
        top = child(&edited, Some(&top));
        sizes.push((allocated(dir.path()) - before) / 2);
    }
    let mut expected = disk(0..=EDITS);
    expected.chunks.extend(above());
    check(&store, &top, &expected, &sizes);
    assert!(
        STAGE * CHUNK as u64 > 10 * MOST,
        "storing a stage again would show"
    );
}
