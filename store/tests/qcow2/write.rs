//! Layer files: what the writer writes is what our reader and qemu-img read, the same bytes every time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use impasto_store::qcow2::{
    CHUNK, ChunkSource, Content, ENCODER, Encoded, FrameAt, GateError, Layout, MAX_FRAME, Qcow2,
    WriteError, Writer, decode_frame, encode_chunk,
};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tempfile::{tempdir, tempfile};

use crate::support::{Random, open, qemu_img, read_all};

/// Chunks to be written: `None` is an explicit zero.
pub(crate) type Chunks = BTreeMap<u64, Option<Box<[u8; CHUNK]>>>;

pub(crate) fn write_layer(
    path: &Path,
    virtual_size: u64,
    chunks: &Chunks,
) -> (Layout, BTreeMap<u64, FrameAt>) {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .unwrap();
    let mut writer = Writer::new(&file, virtual_size).unwrap();
    let mut places = BTreeMap::new();
    let mut raw = Vec::new();
    for (&index, data) in chunks {
        let encoded = data
            .as_ref()
            .map_or(Encoded::Zero, |data| encode_chunk(data, ENCODER.level));
        match encoded {
            Encoded::Zero => writer.push_zero(index).unwrap(),
            Encoded::Frame(frame) => {
                places.insert(index, writer.push_frame(index, &frame).unwrap());
            }
            Encoded::Raw => raw.push(index),
        }
    }
    for index in raw {
        let data = chunks[&index].as_ref().expect("raw chunks have data");
        places.insert(index, writer.push_raw(index, data).unwrap());
    }
    (writer.finish().unwrap(), places)
}

fn as_disk(virtual_size: u64, chunks: &Chunks) -> Vec<u8> {
    let mut disk = vec![0; (virtual_size as usize).next_multiple_of(CHUNK)];
    for (&index, data) in chunks {
        if let Some(data) = data {
            disk[index as usize * CHUNK..][..CHUNK].copy_from_slice(&data[..]);
        }
    }
    disk.truncate(virtual_size as usize);
    disk
}

pub(crate) fn random_chunks(random: &mut Random, chunks: u64, density: u64) -> Chunks {
    (0..chunks)
        .filter_map(|index| match random.below(100) {
            n if n < density => Some((index, Some(random.chunk()))),
            n if n < density + 5 => Some((index, None)),
            _ => None,
        })
        .collect()
}

/// Reads a layer in every way there is, and has qemu-img check it.
fn check_layer(path: &Path, virtual_size: u64, chunks: &Chunks) {
    let expected = as_disk(virtual_size, chunks);
    let layer = open(path);
    assert_eq!(layer.virtual_size(), virtual_size);
    assert!(
        read_all(&layer) == expected,
        "our reader reads something else"
    );
    qemu_img("check -q -f qcow2 {}", &[path]);
    let raw = path.with_extension("raw");
    fs::write(&raw, &expected).unwrap();
    qemu_img("compare -q -f qcow2 -F raw {} {}", &[path, &raw]);
}

#[test]
fn layers_read_back_and_qemu_img_agrees() {
    let dir = tempdir().unwrap();
    let mut random = Random::new(1);
    for case in 0..40 {
        let chunks = random.pick(&[1, 2, 7, 63, 400]);
        let virtual_size = chunks * CHUNK as u64 - random.pick(&[0, 512, 40960, 65024]);
        let density = random.pick(&[0, 10, 60, 95]);
        let mut chunks = random_chunks(&mut random, chunks, density);
        // The last chunk's bytes behind the end of the disk are zeros: a reader of the disk cannot give others.
        let tail = virtual_size as usize % CHUNK;
        if let Some(Some(last)) = chunks
            .get_mut(&(virtual_size / CHUNK as u64))
            .filter(|_| tail > 0)
        {
            last[tail..].fill(0);
        }
        let path = dir.path().join(format!("{case}.qcow2"));
        let (layout, places) = write_layer(&path, virtual_size, &chunks);
        assert_eq!(layout.file_length, fs::metadata(&path).unwrap().len());
        assert_eq!(layout.frames + layout.raw, places.len() as u64);
        check_layer(&path, virtual_size, &chunks);
    }
}

/// One chunk of a proptest case, by its seed.
fn chunk_of(seed: u64) -> Option<Box<[u8; CHUNK]>> {
    (!seed.is_multiple_of(7)).then(|| Random::new(seed).chunk())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_is_written_is_read_back(
        disk in 1_u64..20_000,
        picked in proptest::collection::btree_map(0_u64..20_000, any::<u64>(), 0..60),
    ) {
        let dir = tempdir().unwrap();
        let path = dir.path().join("layer.qcow2");
        let chunks: Chunks =
            picked.into_iter().map(|(index, seed)| (index % disk, chunk_of(seed))).collect();
        let (layout, places) = write_layer(&path, disk * CHUNK as u64, &chunks);
        let layer = open(&path);
        prop_assert_eq!(fs::metadata(&path).unwrap().len(), layout.file_length);

        let mut named = Vec::new();
        layer.for_each_present(&mut |index| { named.push(index); Ok(()) }).unwrap();
        prop_assert!(named.iter().eq(chunks.keys()));
        let mut buffer = [0; CHUNK];
        for (&index, data) in &chunks {
            let zero = data.as_ref().is_none_or(|data| data.iter().all(|&byte| byte == 0));
            let content = layer.read_chunk(index, &mut buffer).unwrap();
            prop_assert_eq!(content, if zero { Content::Zero } else { Content::Data });
            prop_assert!(data.as_ref().map_or(zero, |data| **data == buffer));
        }

        // Frames and raw chunks are where the writer said.
        let file = fs::read(&path).unwrap();
        for (index, FrameAt { offset, length }) in places {
            let bytes = &file[offset as usize..][..length as usize];
            match <&[u8; CHUNK]>::try_from(bytes) {
                Ok(raw) => buffer = *raw,
                Err(_) => decode_frame(bytes, &mut buffer).unwrap(),
            }
            prop_assert!(**chunks[&index].as_ref().unwrap() == buffer);
        }
        qemu_img("check -q -f qcow2 {}", &[&path]);
    }
}

/// A layer with a frame, a frame that fills many sectors, raw chunks, zeros, and a second L2 table.
fn golden_chunks() -> Chunks {
    let mut random = Random::new(2024);
    let mut half = Box::new([0; CHUNK]);
    random.noise(&mut half[..30_000]);
    let mut noise = Box::new([0; CHUNK]);
    random.noise(&mut noise[..]);
    let text = Box::new(std::array::from_fn(|at| b"impasto "[at / 3 % 8]));
    [
        (0, Some(text)),
        (1, Some(half)),
        (2, None),
        (5, Some(noise.clone())),
        (8200, Some(noise)),
        (8201, None),
    ]
    .into()
}

#[test]
fn a_layer_has_the_same_bytes_every_time() {
    let dir = tempdir().unwrap();
    let digests: Vec<String> = (0..3)
        .map(|number| {
            let path = dir.path().join(format!("{number}.qcow2"));
            write_layer(&path, 1 << 30, &golden_chunks());
            qemu_img("check -q -f qcow2 {}", &[&path]);
            let digest = Sha256::digest(fs::read(&path).unwrap());
            digest.iter().map(|byte| format!("{byte:02x}")).collect()
        })
        .collect();
    // Another digest is a format break, or another encoder: see ENCODER and the layout in writer.rs.
    assert_eq!(digests, [GOLDEN; 3]);
}

const GOLDEN: &str = "53b085f2f8d944ebb8d5909c534e473fe9c39f8f16c9c5abd248918a205714da";

#[test]
fn a_layer_without_a_chunk_is_a_disk_of_zeros() {
    let dir = tempdir().unwrap();
    for (number, size) in [0, 512, 1 << 30, 64 << 40].into_iter().enumerate() {
        let path = dir.path().join(format!("{number}.qcow2"));
        write_layer(&path, size, &Chunks::new());
        qemu_img("check -q -f qcow2 {}", &[&path]);
        assert_eq!(open(&path).virtual_size(), size);
        assert_eq!(open(&path).next_present(0).unwrap(), None);
    }
}

#[test]
fn pushes_that_make_no_layer_are_errors() {
    let file = tempfile().unwrap();
    let new = || Writer::new(&file, 10 * CHUNK as u64 - 512).unwrap();
    let Encoded::Frame(frame) = encode_chunk(&[7; CHUNK], 1) else {
        panic!("a run is compressible")
    };
    let raw = [9; CHUNK];

    for size in [1, 513, (64 << 40) + 512, u64::MAX] {
        assert!(
            matches!(Writer::new(&file, size), Err(WriteError::VirtualSize { virtual_size }) if virtual_size == size)
        );
    }
    assert!(matches!(
        new().push_frame(10, &frame),
        Err(WriteError::BeyondEnd { index: 10 })
    ));
    assert!(matches!(
        new().push_raw(u64::MAX, &raw),
        Err(WriteError::BeyondEnd { .. })
    ));
    assert!(matches!(
        new().push_zero(10),
        Err(WriteError::BeyondEnd { index: 10 })
    ));
    assert!(matches!(
        new().push_frame(0, &frame[..3]),
        Err(WriteError::Frame { index: 0, .. })
    ));
    assert!(matches!(
        new().push_frame(0, b"not a frame"),
        Err(WriteError::Frame { index: 0, .. })
    ));
    let other = zstd::bulk::compress(&[7; 100], 1).unwrap();
    assert!(matches!(
        new().push_frame(0, &other),
        Err(WriteError::Frame { index: 0, .. })
    ));
    let mut long = frame.clone();
    long.resize(MAX_FRAME + 1, 0);
    assert!(matches!(
        new().push_frame(0, &long),
        Err(WriteError::FrameTooLong { index: 0, .. })
    ));

    let mut writer = new();
    writer.push_frame(4, &frame).unwrap();
    assert!(matches!(
        writer.push_frame(4, &frame),
        Err(WriteError::Twice { index: 4 })
    ));
    assert!(matches!(
        writer.push_frame(3, &frame),
        Err(WriteError::Order {
            what: "frame",
            index: 3
        })
    ));
    writer.push_raw(2, &raw).unwrap();
    assert!(matches!(
        writer.push_frame(5, &frame),
        Err(WriteError::Order {
            what: "frame",
            index: 5
        })
    ));
    assert!(matches!(
        writer.push_raw(1, &raw),
        Err(WriteError::Order {
            what: "raw chunk",
            index: 1
        })
    ));
    writer.push_zero(4).unwrap();
    assert!(matches!(
        writer.push_zero(3),
        Err(WriteError::Order {
            what: "zero chunk",
            index: 3
        })
    ));
    assert!(matches!(
        writer.finish(),
        Err(WriteError::Twice { index: 4 })
    ));
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_that_says_where() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("x");
    fs::write(&path, "").unwrap();
    let read_only = File::open(&path).unwrap();
    let writer = Writer::new(&read_only, 1 << 20).unwrap();
    let error = writer.finish().unwrap_err();
    assert!(
        matches!(
            error,
            WriteError::Write {
                offset: 131_072,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_layer_without_its_header_is_no_image() {
    let file = tempfile().unwrap();
    let mut writer = Writer::new(&file, 64 << 20).unwrap();
    for index in 0..64 {
        writer.push_raw(index, &[1; CHUNK]).unwrap();
    }
    drop(writer);
    let result = Qcow2::open(file);
    assert!(
        matches!(result, Err(GateError::NotQcow2 { magic: 0 })),
        "{result:?}"
    );
}

/// Reads that this thread has made so far, as the kernel counts them.
fn reads() -> u64 {
    let counters = fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = counters
        .lines()
        .find_map(|line| line.strip_prefix("syscr: "))
        .unwrap();
    line.parse().unwrap()
}

#[test]
fn opening_reads_tables_only_and_a_chunk_costs_one_read() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("layer.qcow2");
    // Three L2 tables, 300 frames.
    let chunks: Chunks = (0..300)
        .map(|number| (number * 80, Some(Box::new([1 + number as u8 % 200; CHUNK]))))
        .collect();
    write_layer(&path, 3 << 29, &chunks);
    let file = File::open(&path).unwrap();
    // Looking at the counters is a read itself.
    let start = reads();
    let idle = reads() - start;
    let start = reads();
    let layer = Qcow2::open(file).unwrap();
    // Header, L1, refcount table; three L2 tables twice, as there are compressed clusters.
    assert!(
        reads() - start - idle <= 3 + 2 * 3,
        "{} reads",
        reads() - start - idle
    );
    let mut buffer = [0; CHUNK];
    let start = reads();
    layer
        .for_each_present(&mut |index| layer.read_chunk(index, &mut buffer).map(drop))
        .unwrap();
    assert_eq!(
        reads() - start - idle,
        300 + 3,
        "a read per frame and per table"
    );
}
