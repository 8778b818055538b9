//! Disks go out as qcow2 and raw files.

use std::process::Command;

use impasto_store::Store;
use impasto_store::convert::{ConvertOptions, Converted};
use impasto_store::derived::{DerivedKey, DerivedRecord};
use impasto_store::layer::LayerRef;
use impasto_store::qcow2::{CHUNK, ChunkSource, Qcow2};
use impasto_store::seal::Absent;

use crate::support::{Full, MemorySource, buffer, new_file, raw, text, top_chunks};

const ALL: ConvertOptions = ConvertOptions {
    compression_level: None,
    fsync: true,
    digest: true,
    sha256: true,
};

fn convert(store: &Store, layer: &LayerRef, options: ConvertOptions) -> (Converted, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let converted = store
        .convert_qcow2(layer, &new_file(&path), &path, options)
        .unwrap();
    (converted, std::fs::read(path).unwrap())
}

#[test]
fn a_chain_becomes_one_qcow2_that_qemu_reads() {
    let full = Full::new();
    let (converted, bytes) = convert(&full.store, &full.top, ALL);
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
    let out = full.dir.path().join("tmp/y.raw");
    let raw = full
        .store
        .convert_raw(&full.top, &new_file(&out), &out, ALL)
        .unwrap();
    assert_eq!(raw.length, 10 * CHUNK as u64);
    assert!(std::fs::read(&out).unwrap() == expected);
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
    assert!(convert(&other, &sealed.disk.layer, ALL) == convert(&full.store, &full.top, ALL));
    let better = ConvertOptions {
        compression_level: Some(9),
        ..ALL
    };
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
    let (better, bytes) = convert(
        &store,
        &layer,
        ConvertOptions {
            compression_level: Some(19),
            ..ALL
        },
    );
    let (normal, _) = convert(&store, &layer, ALL);
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
    let (_, bytes) = convert(&store, &top, ALL);
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
    let (converted, _) = convert(&full.store, &full.top, ALL);
    let key = DerivedKey::qcow2(full.top.disk, None);
    let record = DerivedRecord {
        key: key.clone(),
        digest: converted.digest.unwrap(),
        sha256: converted.sha256.unwrap(),
        size: converted.length,
    };
    full.store.put_derived(&record).unwrap();
    full.store.put_derived(&record).unwrap();
    assert_eq!(full.store.derived(&key).unwrap(), record);
    let other = DerivedKey::qcow2(full.top.disk, Some(3));
    assert!(full.store.derived(&other).unwrap_err().into_miss().is_ok());
    assert_ne!(key.digest(), DerivedKey::raw(full.top.disk).digest());
}

#[test]
fn derived_keys_are_pinned() {
    // A change here is a format break: bump the store's format version.
    let disk = impasto_store::digest::DiskDigest::of(b"x");
    assert_eq!(DerivedKey::raw(disk).digest().short(), "97bcdb90a94a");
}

#[test]
fn converted_files_are_pinned() {
    // Published checksums change with this one: with zstd's version, which the encoder's id names.
    let (converted, _) = convert(&Full::new().store, &Full::new().top, ALL);
    let id = impasto_store::qcow2::ENCODER.to_string();
    assert_eq!(
        (id.as_str(), converted.digest.unwrap().short().as_str()),
        ("zstd-10507/level-1/checksum", "60fc95df9efe")
    );
}
