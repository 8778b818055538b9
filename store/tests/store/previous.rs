//! Layers are stored against the nearer of two disks, and read the same whichever it is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use impasto_store::gc::GcOptions;
use impasto_store::layer::{LayerRef, MAX_DEPTH};
use impasto_store::qcow2::{CHUNK, ChunkSource, Content, SourceError};
use impasto_store::refs::Root;
use impasto_store::seal::{Absent, Sealed};
use impasto_store::{Error, Store};
use proptest::prelude::*;

use crate::support::{MemorySource, files, overwrite, raw, read_disk, text};

const COUNT: u64 = 40;

/// A disk as a plain map: the seeds of its chunks.
type Model = BTreeMap<u64, u64>;
/// Edits of a disk: another seed, or zero.
type Edits = BTreeMap<u64, Option<u64>>;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn content(seed: u64) -> Vec<u8> {
    if seed.is_multiple_of(4) {
        raw(seed)
    } else {
        text(seed)
    }
}

fn edited(model: &Model, edits: &Edits) -> Model {
    let mut after = model.clone();
    for (index, seed) in edits {
        match seed {
            Some(seed) => after.insert(*index, *seed),
            None => after.remove(index),
        };
    }
    after
}

fn overlay(edits: &Edits) -> MemorySource {
    MemorySource::new(
        COUNT,
        edits
            .iter()
            .map(|(index, seed)| (*index, seed.map(content))),
    )
}

fn whole(model: &Model) -> MemorySource {
    MemorySource::new(
        COUNT,
        model
            .iter()
            .map(|(index, seed)| (*index, Some(content(*seed)))),
    )
}

fn chunks(model: &Model) -> Vec<(u64, Vec<u8>)> {
    model
        .iter()
        .map(|(index, seed)| (*index, content(*seed)))
        .collect()
}

fn edits(list: impl IntoIterator<Item = (u64, u64)>) -> Edits {
    list.into_iter()
        .map(|(index, seed)| (index, Some(seed)))
        .collect()
}

/// Puts so many layers over a disk, each of which changes a little.
fn pile(
    store: &Store,
    below: Option<&LayerRef>,
    model: &Model,
    layers: u64,
) -> (Option<LayerRef>, Model) {
    let (mut top, mut model) = (below.copied(), model.clone());
    for step in 0..layers {
        let change = edits([(step % COUNT, 1000 + step + model.len() as u64)]);
        model = edited(&model, &change);
        top = Some(
            store
                .seal(top.as_ref(), &overlay(&change), Absent::AsParent)
                .unwrap()
                .disk
                .layer,
        );
    }
    (top, model)
}

/// The disks that a layer's chain comes to, the layer's own first.
fn chain(store: &Store, layer: &LayerRef) -> Vec<LayerRef> {
    let next = |layer: &LayerRef| store.manifest(layer).unwrap().parent;
    std::iter::successors(Some(*layer), next).collect()
}

fn layer_file(store: &Store, layer: &LayerRef) -> PathBuf {
    let hex = layer.disk.to_string();
    store
        .path()
        .join("disks")
        .join(&hex[..2])
        .join(hex)
        .join(format!("{}.qcow2", layer.layer))
}

/// A parent of 30 chunks, a stage that changes 20 of them, and a second run that differs from the first in one.
struct Rebuilt {
    dir: tempfile::TempDir,
    store: Store,
    parent: LayerRef,
    previous: LayerRef,
    change: Edits,
    model: Model,
}

impl Rebuilt {
    fn new() -> Rebuilt {
        let (dir, store) = store();
        let base: Model = (0..30).map(|index| (index, index + 1)).collect();
        let parent = store
            .seal(None, &whole(&base), Absent::Zero)
            .unwrap()
            .disk
            .layer;
        let mut change = edits((5..25).map(|index| (index, 100 + index)));
        let previous = store
            .seal(Some(&parent), &overlay(&change), Absent::AsParent)
            .unwrap()
            .disk
            .layer;
        change.insert(7, Some(200));
        Rebuilt {
            model: edited(&base, &change),
            dir,
            store,
            parent,
            previous,
            change,
        }
    }

    fn seal(&self) -> Sealed {
        let source = overlay(&self.change);
        self.store
            .seal_like(
                Some(&self.parent),
                Some(&self.previous),
                &source,
                Absent::AsParent,
            )
            .unwrap()
    }

    fn parent_of(&self, sealed: &Sealed) -> Option<LayerRef> {
        self.store.manifest(&sealed.disk.layer).unwrap().parent
    }
}

#[test]
fn a_second_run_costs_what_differs_from_the_first() {
    let rebuilt = Rebuilt::new();
    let sealed = rebuilt.seal();
    assert_eq!(rebuilt.parent_of(&sealed), Some(rebuilt.previous));
    assert_eq!(sealed.changed_chunks, 20, "against the parent");
    assert_eq!(
        rebuilt
            .store
            .manifest(&sealed.disk.layer)
            .unwrap()
            .chunks
            .len(),
        1
    );
    assert!(read_disk(&rebuilt.store, &sealed.disk.layer).unwrap() == chunks(&rebuilt.model));
    let (_dir, alone) = store();
    let flat = alone
        .seal(None, &whole(&rebuilt.model), Absent::Zero)
        .unwrap();
    assert_eq!(
        flat.disk.layer.disk, sealed.disk.layer.disk,
        "the base does not enter the disk's name"
    );
}

#[test]
fn a_disk_that_fell_back_to_its_parent_costs_what_differs_from_the_parent() {
    let rebuilt = Rebuilt::new();
    let source = overlay(&edits([(3, 300)]));
    let sealed = rebuilt
        .store
        .seal_like(
            Some(&rebuilt.parent),
            Some(&rebuilt.previous),
            &source,
            Absent::AsParent,
        )
        .unwrap();
    assert_eq!(rebuilt.parent_of(&sealed), Some(rebuilt.parent));
}

#[test]
fn a_whole_disk_without_a_parent_can_be_a_delta_to_the_previous() {
    let rebuilt = Rebuilt::new();
    let source = whole(&rebuilt.model);
    let sealed = rebuilt
        .store
        .seal_like(None, Some(&rebuilt.previous), &source, Absent::Zero)
        .unwrap();
    assert_eq!(rebuilt.parent_of(&sealed), Some(rebuilt.previous));
    assert!(read_disk(&rebuilt.store, &sealed.disk.layer).unwrap() == chunks(&rebuilt.model));
}

#[test]
fn the_previous_disk_again_is_found_before_anything_is_written() {
    let mut rebuilt = Rebuilt::new();
    rebuilt.change.insert(7, Some(107));
    let before = files(rebuilt.dir.path());
    let creates = rebuilt.store.io().creates;
    let sealed = rebuilt.seal();
    assert_eq!(
        (sealed.disk.layer, sealed.new, sealed.stored_bytes),
        (rebuilt.previous, false, 0)
    );
    assert_eq!(
        (files(rebuilt.dir.path()), rebuilt.store.io().creates),
        (before, creates)
    );
}

#[test]
fn a_previous_disk_that_is_the_parent_changes_nothing() {
    let (one, two) = (Rebuilt::new(), Rebuilt::new());
    let source = overlay(&one.change);
    let like = one
        .store
        .seal_like(
            Some(&one.parent),
            Some(&one.parent),
            &source,
            Absent::AsParent,
        )
        .unwrap();
    assert_eq!(
        like,
        two.store
            .seal(Some(&two.parent), &source, Absent::AsParent)
            .unwrap()
    );
}

#[test]
fn a_missing_or_damaged_previous_disk_is_left_out_of_account() {
    let alone = Rebuilt::new();
    let expected = alone
        .store
        .seal(
            Some(&alone.parent),
            &overlay(&alone.change),
            Absent::AsParent,
        )
        .unwrap();
    type Damage = fn(&Rebuilt);
    let damage: [(&str, Damage); 4] = [
        ("no files", |rebuilt| {
            std::fs::remove_dir_all(
                layer_file(&rebuilt.store, &rebuilt.previous)
                    .parent()
                    .unwrap(),
            )
            .unwrap();
        }),
        ("no layer file", |rebuilt| {
            std::fs::remove_file(layer_file(&rebuilt.store, &rebuilt.previous)).unwrap();
        }),
        ("damaged manifest", |rebuilt| {
            overwrite(
                &layer_file(&rebuilt.store, &rebuilt.previous).with_extension("manifest"),
                b"garbage",
            );
        }),
        ("damaged layer file", |rebuilt| {
            let path = layer_file(&rebuilt.store, &rebuilt.previous);
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            overwrite(&path, &bytes);
        }),
    ];
    for (what, damage) in damage {
        let rebuilt = Rebuilt::new();
        damage(&rebuilt);
        assert_eq!(rebuilt.seal(), expected, "{what}");
        let trash = std::fs::read_dir(rebuilt.dir.path().join("trash")).map_or(0, Iterator::count);
        assert_eq!(trash > 0, what.starts_with("damaged"), "{what}");
        let findings = rebuilt.store.verify(false).unwrap().findings;
        assert!(
            findings.iter().all(|finding| !finding.code.is_damage()),
            "{what}: {findings:?}"
        );
    }
}

#[test]
fn at_the_limit_the_cheaper_of_squashing_and_the_other_base_is_taken() {
    let (_dir, store) = store();
    let base: Model = (0..30).map(|index| (index, index + 1)).collect();
    let bottom = store
        .seal(None, &whole(&base), Absent::Zero)
        .unwrap()
        .disk
        .layer;
    let (full, deep) = pile(&store, Some(&bottom), &base, u64::from(MAX_DEPTH));
    let full = full.unwrap();
    assert_eq!(store.manifest(&full).unwrap().depth, MAX_DEPTH);

    // The previous disk is full, and the parent far away: squashed over the previous one's bottom.
    let far: Model = (0..30).map(|index| (index, index + 501)).collect();
    let far = store
        .seal(None, &whole(&far), Absent::Zero)
        .unwrap()
        .disk
        .layer;
    let squashed = edited(&deep, &edits([(35, 35)]));
    let sealed = store
        .seal_like(Some(&far), Some(&full), &whole(&squashed), Absent::Zero)
        .unwrap();
    assert_eq!(chain(&store, &sealed.disk.layer)[1..], [bottom]);
    assert!(read_disk(&store, &sealed.disk.layer).unwrap() == chunks(&squashed));

    // The parent is full, and the previous disk as near as it is: no squashing.
    let near = sealed.disk.layer;
    let change = edits([(36, 36)]);
    let sealed = store
        .seal_like(
            Some(&full),
            Some(&near),
            &overlay(&change),
            Absent::AsParent,
        )
        .unwrap();
    assert_eq!(chain(&store, &sealed.disk.layer)[1..], [near, bottom]);
    assert!(read_disk(&store, &sealed.disk.layer).unwrap() == chunks(&edited(&deep, &change)));
    assert_eq!(store.verify(false).unwrap().findings, []);
}

#[test]
fn runs_without_end_keep_the_chain_short() {
    let (_dir, store) = store();
    let base: Model = (0..30).map(|index| (index, index + 1)).collect();
    let parent = store
        .seal(None, &whole(&base), Absent::Zero)
        .unwrap()
        .disk
        .layer;
    let mut previous: Option<LayerRef> = None;
    let mut bases = Vec::new();
    for run in 0..24 {
        let mut change = edits((5..25).map(|index| (index, 100 + index)));
        change.insert(5 + run % 3, Some(900 + run));
        let sealed = store
            .seal_like(
                Some(&parent),
                previous.as_ref(),
                &overlay(&change),
                Absent::AsParent,
            )
            .unwrap()
            .disk
            .layer;
        assert!(
            read_disk(&store, &sealed).unwrap() == chunks(&edited(&base, &change)),
            "run {run}"
        );
        bases.push(chain(&store, &sealed).len());
        previous = Some(sealed);
    }
    assert!(
        bases.iter().all(|length| *length <= MAX_DEPTH as usize + 1),
        "{bases:?}"
    );
}

#[test]
fn the_collector_keeps_what_a_kept_layer_is_a_delta_to() {
    let rebuilt = Rebuilt::new();
    let layer = rebuilt.seal().disk.layer;
    let now = GcOptions::default();
    let report = rebuilt
        .store
        .gc(&[Root::Layer(layer)], &[], None, now)
        .unwrap();
    assert_eq!(report.removed, []);
    assert!(read_disk(&rebuilt.store, &layer).unwrap() == chunks(&rebuilt.model));
    rebuilt
        .store
        .gc(&[Root::Layer(rebuilt.parent)], &[], None, now)
        .unwrap();
    assert!(rebuilt.store.manifest(&rebuilt.previous).is_err());
}

#[test]
fn the_number_of_threads_does_not_show_with_a_previous_disk() {
    let seal = |threads| {
        let rebuilt = Rebuilt::new();
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(|| rebuilt.seal())
    };
    assert_eq!(seal(1), seal(5));
}

/// Gives another content each time a chunk is read.
struct Restless(AtomicU64);

impl ChunkSource for Restless {
    fn virtual_size(&self) -> u64 {
        COUNT * CHUNK as u64
    }

    fn next_present(&self, from: u64) -> Result<Option<u64>, SourceError> {
        Ok((from <= 3).then_some(3))
    }

    fn read_chunk(&self, _: u64, buffer: &mut [u8; CHUNK]) -> Result<Content, SourceError> {
        buffer.copy_from_slice(&text(5000 + self.0.fetch_add(1, Ordering::Relaxed)));
        Ok(Content::Data)
    }
}

#[test]
fn a_disk_that_changes_between_hashing_and_compressing_is_refused() {
    let rebuilt = Rebuilt::new();
    let source = Restless(AtomicU64::new(0));
    let error = rebuilt
        .store
        .seal_like(
            Some(&rebuilt.parent),
            Some(&rebuilt.previous),
            &source,
            Absent::AsParent,
        )
        .unwrap_err();
    assert!(matches!(error, Error::DiskChanged { index: 3 }), "{error}");
}

/// How parent and previous disk hang together.
#[derive(Debug, Clone, Copy)]
enum Relation {
    PreviousOnParent,
    ParentOnPrevious,
    BothOnAnother,
    Strangers,
    Same,
}

fn seeds(count: usize) -> impl Strategy<Value = Edits> {
    proptest::collection::btree_map(0..COUNT, proptest::option::of(0u64..12), 0..count)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_two_bases_give_the_same_disk_for_no_more_bytes(
        relation in prop::sample::select(vec![
            Relation::PreviousOnParent,
            Relation::ParentOnPrevious,
            Relation::BothOnAnother,
            Relation::Strangers,
            Relation::Same,
        ]),
        depths in (prop::sample::select(vec![1, 2, 15, 16, 17]), prop::sample::select(vec![0, 1, 15, 16])),
        (first, second, change) in (seeds(30), seeds(30), seeds(30)),
        like_previous: bool,
        absent in prop::sample::select(vec![Absent::AsParent, Absent::Zero]),
    ) {
        // Deterministic, so that two stores hold the same.
        let prepare = |store: &Store| {
            let (bottom, model) = pile(store, None, &Model::new(), depths.0);
            let on = |below: &Option<LayerRef>, model: &Model, edits: &Edits, layers| {
                let layer = store.seal(below.as_ref(), &overlay(edits), Absent::AsParent).unwrap().disk.layer;
                pile(store, Some(&layer), &edited(model, edits), layers)
            };
            let (one, one_model) = on(&bottom, &model, &first, depths.1);
            let (two, two_model) = match relation {
                Relation::PreviousOnParent | Relation::ParentOnPrevious => on(&one, &one_model, &second, 0),
                Relation::BothOnAnother => on(&bottom, &model, &second, 1),
                Relation::Strangers => on(&None, &Model::new(), &second, 1),
                Relation::Same => (one, one_model.clone()),
            };
            match relation {
                Relation::ParentOnPrevious => (two.unwrap(), two_model, one.unwrap(), one_model),
                _ => (one.unwrap(), one_model, two.unwrap(), two_model),
            }
        };
        let ((_one, with), (_two, without)) = (store(), store());
        let (parent, parent_model, previous, previous_model) = prepare(&with);
        prop_assert_eq!(prepare(&without).0, parent);
        let model = edited(if like_previous { &previous_model } else { &parent_model }, &change);
        let source = match absent {
            Absent::Zero => whole(&model),
            Absent::AsParent => {
                let all = (0..COUNT).map(|index| (index, model.get(&index).copied()));
                overlay(&all.filter(|(index, seed)| parent_model.get(index) != seed.as_ref()).collect())
            }
        };
        let sealed = with.seal_like(Some(&parent), Some(&previous), &source, absent).unwrap();
        let alone = without.seal(Some(&parent), &source, absent).unwrap();
        prop_assert_eq!(sealed.disk.layer.disk, alone.disk.layer.disk);
        prop_assert_eq!((sealed.new, sealed.disk.virtual_size), (alone.new, alone.disk.virtual_size));
        let layer = sealed.disk.layer;
        prop_assert!(read_disk(&with, &layer).unwrap() == chunks(&model));
        let file_length = |store: &Store, layer| store.manifest(layer).unwrap().file_length;
        // What is weighed is what the file system allocates; a file's length is a multiple of a chunk.
        prop_assert!(file_length(&with, &layer) <= file_length(&without, &alone.disk.layer) + CHUNK as u64);
        let chain = chain(&with, &layer);
        prop_assert!(chain.len() <= MAX_DEPTH as usize + 1);
        let disks: std::collections::HashSet<_> = chain.iter().map(|layer| layer.disk).collect();
        prop_assert_eq!(disks.len(), chain.len(), "a chain comes to one disk twice");
        prop_assert_eq!(with.verify(false).unwrap().findings, []);
    }
}
