//! Layer files: what the writer writes is what our reader and qemu-img read, the same bytes every time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use impasto_store::qcow2::{CHUNK, ChunkSource, ENCODER, Encoded, FrameAt, Layout, Writer, encode_chunk};
use tempfile::tempdir;

use crate::support::{Random, open, qemu_img, read_all};

/// Chunks to be written: `None` is an explicit zero.
pub(crate) type Chunks = BTreeMap<u64, Option<Box<[u8; CHUNK]>>>;

pub(crate) fn write_layer(path: &Path, virtual_size: u64, chunks: &Chunks) -> (Layout, BTreeMap<u64, FrameAt>) {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let mut writer = Writer::new(&file, virtual_size).unwrap();
    let mut places = BTreeMap::new();
    let mut raw = Vec::new();
    for (&index, data) in chunks {
        let encoded = data.as_ref().map_or(Encoded::Zero, |data| encode_chunk(data, ENCODER.level));
        match encoded {
            Encoded::Zero => writer.push_zero(index).unwrap(),
            Encoded::Frame(frame) => drop(places.insert(index, writer.push_frame(index, &frame).unwrap())),
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
    assert!(read_all(&layer) == expected, "our reader reads something else");
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
        let chunks = random_chunks(&mut random, chunks, density);
        let mut chunks = chunks;
        // The last chunk's bytes behind the end of the disk are zeros: a reader of the disk cannot give others.
        let tail = virtual_size as usize % CHUNK;
        if let Some(Some(last)) = chunks.get_mut(&(virtual_size / CHUNK as u64)).filter(|_| tail > 0) {
            last[tail..].fill(0);
        }
        let path = dir.path().join(format!("{case}.qcow2"));
        let (layout, places) = write_layer(&path, virtual_size, &chunks);
        assert_eq!(layout.file_length, fs::metadata(&path).unwrap().len());
        assert_eq!(layout.frames + layout.raw, places.len() as u64);
        check_layer(&path, virtual_size, &chunks);
    }
}
