//! Disks go out as qcow2 and raw files.

use std::process::Command;

use impasto_store::Store;
use impasto_store::convert::{ConvertOptions, ConvertTarget, Converted, Format};
use impasto_store::derived::DerivedRecord;
use impasto_store::layer::LayerRef;
use impasto_store::qcow2::{CHUNK, ChunkSource, Qcow2};
use impasto_store::seal::Absent;

use crate::support::{Full, MemorySource, buffer, new_file, raw, text, top_chunks};

const ALL: ConvertOptions = ConvertOptions {
    fsync: true,
    digest: true,
    sha256: true,
};

/// Converts a disk, to one file for each format and level.
pub(crate) fn convert_to<const N: usize>(
    store: &Store,
    layer: &LayerRef,
    formats: [(Format, Option<i32>); N],
) -> [(Converted, Vec<u8>); N] {
    let dir = tempfile::tempdir().unwrap();
    let paths = std::array::from_fn::<_, N, _>(|place| dir.path().join(place.to_string()));
    let files = paths.each_ref().map(|path| new_file(path));
    let targets: [_; N] = std::array::from_fn(|place| ConvertTarget {
        format: formats[place].0,
        level: formats[place].1,
        file: &files[place],
        path: &paths[place],
    });
    let converted = store.convert(layer, &targets, ALL).unwrap();
    std::array::from_fn(|place| (converted[place], std::fs::read(&paths[place]).unwrap()))
}

fn convert(store: &Store, layer: &LayerRef, level: Option<i32>) -> (Converted, Vec<u8>) {
    let [made] = convert_to(store, layer, [(Format::Qcow2, level)]);
    made
}

#[test]
fn a_chain_becomes_one_qcow2_that_qemu_reads() {
    let full = Full::new();
    let (converted, bytes) = convert(&full.store, &full.top, None);
    assert_eq!(converted.length, bytes.len() as u64);
    assert_eq!(
        converted.digest,
        Some(impasto_store::digest::BlobDigest::of(&bytes))
    );
    let path = full.dir.path().join("tmp/x.qcow2");
    std::fs::write(&path, &bytes).unwrap();
    let sum = Command::new("sha256sum").arg(&path).output().unwrap();
    assert!(
        String::from_utf8(sum.stdout)
            .unwrap()
            .starts_with(&converted.sha256.unwrap().to_string())
    );
    let check = Command::new("qemu-img")
        .args(["check", "-f", "qcow2"])
        .arg(&path)
        .output()
        .unwrap();
    assert!(
        check.status.success(),
        "{}",
        String::from_utf8_lossy(&check.stderr)
    );
    let flat = full.dir.path().join("tmp/x.raw");
    let args = ["convert", "-f", "qcow2", "-O", "raw"];
    assert!(
        Command::new("qemu-img")
            .args(args)
            .arg(&path)
            .arg(&flat)
            .status()
            .unwrap()
            .success()
    );
    let mut expected = vec![0; 10 * CHUNK];
    for (index, data) in top_chunks() {
        expected[index as usize * CHUNK..][..CHUNK].copy_from_slice(&data);
    }
    assert!(std::fs::read(&flat).unwrap() == expected);
    let [(raw, bytes)] = convert_to(&full.store, &full.top, [(Format::Raw, None)]);
    assert_eq!(raw.length, 10 * CHUNK as u64);
    assert!(bytes == expected);
}

#[test]
fn the_bytes_depend_on_the_disk_alone() {
    let full = Full::new();
    let flat = MemorySource::new(
        10,
        top_chunks()
            .into_iter()
            .map(|(index, data)| (index, Some(data))),
    );
    let dir = tempfile::tempdir().unwrap();
    let other = Store::open(dir.path()).unwrap();
    let sealed = other.seal(None, &flat, Absent::AsParent).unwrap();
    assert_eq!(sealed.disk.layer.disk, full.top.disk);
    assert_ne!(sealed.disk.layer, full.top);
    assert!(convert(&other, &sealed.disk.layer, None) == convert(&full.store, &full.top, None));
    let better = Some(9);
    assert!(convert(&other, &sealed.disk.layer, better) == convert(&full.store, &full.top, better));
}

#[test]
fn another_level_gives_another_file_of_the_same_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let words = |seed: u32| {
        let mut text: Vec<u8> = (0..20_000)
            .flat_map(|number| (seed + number * 7).to_string().into_bytes())
            .collect();
        text.truncate(CHUNK);
        text
    };
    let source = MemorySource::new(
        4,
        [(0, Some(words(1))), (1, Some(raw(1))), (3, Some(words(9)))],
    );
    let layer = store
        .seal(None, &source, Absent::AsParent)
        .unwrap()
        .disk
        .layer;
    let (better, bytes) = convert(&store, &layer, Some(19));
    let (normal, _) = convert(&store, &layer, None);
    assert!(better.digest != normal.digest);
    let path = dir.path().join("tmp/better.qcow2");
    std::fs::write(&path, &bytes).unwrap();
    let image = Qcow2::open(std::fs::File::open(path).unwrap()).unwrap();
    let mut buffer = buffer();
    for (index, data) in source.chunks {
        image.read_chunk(index, &mut buffer).unwrap();
        assert!(Some(&buffer[..]) == data.as_deref(), "chunk {index}");
    }
}

#[test]
fn long_runs_of_frames_are_copied_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let content = |index: u64| {
        if index % 50 == 7 {
            raw(index)
        } else {
            text(index)
        }
    };
    let base = MemorySource::new(1500, (0..1500).map(|index| (index, Some(content(index)))));
    let base = store
        .seal(None, &base, Absent::AsParent)
        .unwrap()
        .disk
        .layer;
    let overlay = MemorySource::new(
        1500,
        (0..1500)
            .step_by(11)
            .map(|index| (index, Some(content(index + 5000)))),
    );
    let top = store
        .seal(Some(&base), &overlay, Absent::AsParent)
        .unwrap()
        .disk
        .layer;
    let (_, bytes) = convert(&store, &top, None);
    let path = dir.path().join("tmp/long.qcow2");
    std::fs::write(&path, &bytes).unwrap();
    let image = Qcow2::open(std::fs::File::open(path).unwrap()).unwrap();
    let mut buffer = buffer();
    for index in 0..1500 {
        image.read_chunk(index, &mut buffer).unwrap();
        let expected = if index % 11 == 0 {
            content(index + 5000)
        } else {
            content(index)
        };
        assert!(buffer[..] == expected, "chunk {index}");
    }
}

#[test]
fn what_came_out_is_remembered_by_how_it_was_made() {
    let full = Full::new();
    let (converted, _) = convert(&full.store, &full.top, None);
    let key = Format::Qcow2.key(full.top.disk, None);
    let record = DerivedRecord {
        key: key.clone(),
        digest: converted.digest.unwrap(),
        sha256: converted.sha256.unwrap(),
        size: converted.length,
    };
    full.store.put_derived(&record).unwrap();
    full.store.put_derived(&record).unwrap();
    assert_eq!(full.store.derived(&key).unwrap(), record);
    let other = Format::Qcow2.key(full.top.disk, Some(3));
    assert!(full.store.derived(&other).unwrap_err().into_miss().is_ok());
    assert_ne!(key.digest(), Format::Raw.key(full.top.disk, None).digest());
}

#[test]
fn derived_keys_are_pinned() {
    // A change here is a format break: bump the store's format version.
    let disk = impasto_store::digest::DiskDigest::of(b"x");
    assert_eq!(Format::Raw.key(disk, None).digest().short(), "97bcdb90a94a");
}

#[test]
fn converted_files_are_pinned() {
    // Published checksums change with this one: with zstd's version, which the encoder's id names.
    let (converted, _) = convert(&Full::new().store, &Full::new().top, None);
    let id = impasto_store::qcow2::ENCODER.to_string();
    assert_eq!(
        (id.as_str(), converted.digest.unwrap().short().as_str()),
        ("zstd-10507/level-1/checksum", "60fc95df9efe")
    );
}
