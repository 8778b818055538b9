//! A thousand valid images, made by qemu-img and qemu-io with random options, read as `qemu-img convert` reads them.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use impasto_store::qcow2::{CHUNK, ChunkSource};
use rayon::prelude::*;
use tempfile::tempdir;

use crate::support::{Random, open, qemu_img, read_all, run};

const IMAGES: u64 = 1000;
const SOURCES: u64 = 24;

/// A sparse raw disk of a random size; every fourth begins with noise that no compression makes smaller.
fn make_source(dir: &Path, number: u64) -> PathBuf {
    let mut random = Random::new(1000 + number);
    let sectors = 1 + random.pick(&[0, 7, 127, 128, 900, 3000, 6143]) + random.below(64);
    let mut disk = vec![0; sectors as usize * 512];
    for _ in 0..random.below(12) {
        let from = random.below(sectors) as usize * 512;
        let length = 512 * (1 + random.below(600) as usize);
        let end = (from + length).min(disk.len());
        random.fill(&mut disk[from..end]);
    }
    if number.is_multiple_of(4) {
        let end = disk.len().min(300_000);
        random.noise(&mut disk[..end]);
    }
    let path = dir.join(format!("source-{number}.raw"));
    fs::write(&path, disk).unwrap();
    path
}

/// Options that belong together: what version 2 cannot have is left out.
fn random_options(random: &mut Random, compressed: bool) -> String {
    let cluster = 512_u64 << random.below(13);
    let mut options = vec![format!("cluster_size={cluster}")];
    if random.below(4) == 0 {
        options.push("compat=0.10".into());
    } else {
        options.push("compat=1.1".into());
        options.push(format!("refcount_bits={}", 1 << random.below(7)));
        options.push(format!("lazy_refcounts={}", random.pick(&["on", "off"])));
        options.push(format!(
            "compression_type={}",
            random.pick(&["zlib", "zstd"])
        ));
    }
    if !compressed {
        options.push(format!(
            "preallocation={}",
            random.pick(&["off", "off", "metadata", "falloc", "full"])
        ));
    }
    options.join(",")
}

/// Writes of all sorts; `qemu-io` compresses whole clusters only.
fn qemu_io(random: &mut Random, image: &Path, size: u64) {
    let mut arguments = vec!["-f".to_string(), "qcow2".to_string()];
    for _ in 0..1 + random.below(15) {
        let offset = random.below(size / 512) * 512;
        let length = (1 + random
            .below((size - offset) / 512)
            .min(random.pick(&[3, 300, 1000])))
            * 512;
        let length = length.min(size - offset);
        let pattern = random.below(256);
        arguments.push("-c".into());
        arguments.push(match random.below(6) {
            0 => format!("write -z {offset} {length}"),
            1 => format!("write -z -u {offset} {length}"),
            2 => format!("discard {offset} {length}"),
            _ => format!("write -P {pattern} {offset} {length}"),
        });
    }
    arguments.push(image.to_str().unwrap().into());
    run("qemu-io", &arguments);
}

/// Makes one image; returns how, for the message of a failing test.
fn make_image(random: &mut Random, sources: &[PathBuf], image: &Path) -> String {
    let way = random.below(8);
    let source = &sources[random.below(sources.len() as u64) as usize];
    let source_size = fs::metadata(source).unwrap().len();
    match way {
        // Written cluster by cluster, as a running guest would.
        0..=2 => {
            let size = 512 * (1 + random.below(6000));
            let options = random_options(random, false);
            qemu_img(
                &format!("create -q -f qcow2 -o {options} {{}} {size}"),
                &[image],
            );
            qemu_io(random, image, size);
            format!("create -o {options} {size}, qemu-io")
        }
        3 | 4 => {
            let options = random_options(random, true);
            qemu_img(
                &format!("convert -q -c -O qcow2 -f raw -o {options} {{}} {{}}"),
                &[source, image],
            );
            // Some compressed clusters are written over, and their room is used again.
            if way == 4 {
                qemu_io(random, image, source_size);
            }
            format!("convert -c -o {options} {}, way {way}", source.display())
        }
        5 | 6 => {
            let options = random_options(random, false);
            let sparse = random.pick(&["0", "4k", "64k"]);
            qemu_img(
                &format!("convert -q -O qcow2 -f raw -S {sparse} -o {options} {{}} {{}}"),
                &[source, image],
            );
            format!("convert -S {sparse} -o {options} {}", source.display())
        }
        _ => {
            let options = random_options(random, true);
            let size = 512 * (1 + random.below(9000));
            let shrink = if size < source_size { "--shrink" } else { "" };
            qemu_img(
                &format!("convert -q -O qcow2 -f raw -o {options} {{}} {{}}"),
                &[source, image],
            );
            // What a snapshot leaves behind when it is deleted, and what becomes of version 2, is valid as well.
            // A refcount of one bit cannot count two users.
            let snapshot = random.below(3) == 0 && !options.contains("refcount_bits=1,");
            if snapshot {
                qemu_img("snapshot -q -c one {}", &[image]);
                qemu_io(random, image, source_size);
                qemu_img("snapshot -q -d one {}", &[image]);
            }
            qemu_img(
                &format!("resize -q -f qcow2 {shrink} {{}} {size}"),
                &[image],
            );
            let amend = random.below(3) == 0 && !options.contains("refcount_bits");
            if amend {
                qemu_img("amend -q -f qcow2 -o compat=1.1 {}", &[image]);
            }
            let source = source.display();
            format!(
                "convert -o {options} {source}, snapshot {snapshot}, resize {shrink} {size}, amend {amend}"
            )
        }
    }
}

fn check_image(number: u64, dir: &Path, sources: &[PathBuf]) -> Result<(), String> {
    let mut random = Random::new(number);
    let image = dir.join(format!("{number}.qcow2"));
    let flat = dir.join(format!("{number}.raw"));
    let how = make_image(&mut random, sources, &image);
    qemu_img("convert -q -f qcow2 -O raw {} {}", &[&image, &flat]);
    let expected = fs::read(&flat).unwrap();
    let file = fs::File::open(&image).unwrap();
    let reader = impasto_store::qcow2::Qcow2::open(file)
        .map_err(|error| format!("{number}: {how}: {error}"))?;
    if reader.virtual_size() != expected.len() as u64 || read_all(&reader) != expected {
        return Err(format!("{number}: {how}: reads differently"));
    }
    // Chunks that nobody named are zero, and chunks can be read in any order.
    for _ in 0..8 {
        let index = random.below(reader.chunks());
        let mut chunk = [0xee; CHUNK];
        reader
            .read_chunk(index, &mut chunk)
            .map_err(|error| format!("{number}: {how}: chunk {index}: {error}"))?;
        let from = index as usize * CHUNK;
        let part = &expected[from..expected.len().min(from + CHUNK)];
        if chunk[..part.len()] != *part || chunk[part.len()..].iter().any(|&byte| byte != 0) {
            return Err(format!("{number}: {how}: chunk {index} reads differently"));
        }
    }
    fs::remove_file(&image).unwrap();
    fs::remove_file(&flat).unwrap();
    Ok(())
}

#[test]
fn a_thousand_images_of_qemu_img_read_as_it_reads_them() {
    let dir = tempdir().unwrap();
    let sources: Vec<PathBuf> = (0..SOURCES)
        .map(|number| make_source(dir.path(), number))
        .collect();
    let failures: Vec<String> = (0..IMAGES)
        .into_par_iter()
        .filter_map(|number| check_image(number, dir.path(), &sources).err())
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {IMAGES}:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn an_image_is_read_by_many_threads_at_once() {
    let dir = tempdir().unwrap();
    let source = make_source(dir.path(), 4);
    for options in [
        "cluster_size=2M",
        "cluster_size=2M,compression_type=zstd",
        "cluster_size=512",
    ] {
        let image = dir.path().join("image.qcow2");
        qemu_img(
            &format!("convert -q -c -O qcow2 -f raw -o {options} {{}} {{}}"),
            &[&source, &image],
        );
        let reader = open(&image);
        let expected = fs::read(&source).unwrap();
        (0..2000_u64).into_par_iter().for_each(|step| {
            let index = step * 7919 % reader.chunks();
            let mut chunk = [0; CHUNK];
            reader.read_chunk(index, &mut chunk).unwrap();
            let from = index as usize * CHUNK;
            let part = &expected[from..expected.len().min(from + CHUNK)];
            assert!(chunk[..part.len()] == *part, "chunk {index} with {options}");
        });
    }
}

#[test]
fn large_compressed_clusters_of_two_images_are_not_mixed_up() {
    // A thread keeps its last decoded cluster, whichever image it belongs to.
    let dir = tempdir().unwrap();
    let images: Vec<_> = (1..3_u8)
        .map(|number| {
            let (raw, image) = (
                dir.path().join("raw"),
                dir.path().join(format!("{number}.qcow2")),
            );
            let disk: Vec<u8> = (0..64)
                .flat_map(|index| [number * 80 + index; CHUNK])
                .collect();
            fs::write(&raw, disk).unwrap();
            qemu_img(
                "convert -q -c -O qcow2 -f raw -o cluster_size=2M {} {}",
                &[&raw, &image],
            );
            image
        })
        .collect();
    let readers: Vec<_> = images.iter().map(|image| open(image)).collect();
    let mut chunk = [0; CHUNK];
    for index in 0..64 {
        for (reader, number) in readers.iter().zip(1..) {
            reader.read_chunk(index, &mut chunk).unwrap();
            assert!(
                chunk == [number * 80 + index as u8; CHUNK],
                "chunk {index} of image {number}"
            );
        }
    }

    // Nor is the half-decoded content of a damaged one kept: the second cluster of the first image is damaged.
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(&images[0])
        .unwrap();
    let l2 = 0x00ff_ffff_ffff_fe00 & be64(&file, be64(&file, 40));
    let offset = be64(&file, l2 + 8) & ((1 << (62 - 13)) - 1);
    file.write_all_at(&[0xff; 64], offset + 1000).unwrap();
    let reader = open(&images[0]);
    reader.read_chunk(0, &mut chunk).unwrap();
    assert!(reader.read_chunk(32, &mut chunk).is_err());
    reader.read_chunk(0, &mut chunk).unwrap();
    assert!(chunk == [80; CHUNK]);
}

fn be64(file: &fs::File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at).unwrap();
    u64::from_be_bytes(bytes)
}

/// Reads an image and compares it with what qemu-img makes of it.
fn check_against_qemu(image: &Path) {
    let flat = image.with_extension("flat");
    qemu_img("convert -q -f qcow2 -O raw {} {}", &[image, &flat]);
    assert!(
        read_all(&open(image)) == fs::read(&flat).unwrap(),
        "{}",
        image.display()
    );
}

#[test]
fn a_file_that_ends_within_the_last_sector_of_a_compressed_cluster_is_read() {
    let dir = tempdir().unwrap();
    let image = dir.path().join("image.qcow2");
    qemu_img("create -q -f qcow2 {} 1M", &[&image]);
    run(
        "qemu-io",
        &[
            "-f",
            "qcow2",
            "-c",
            "write -c -P 5 0 64k",
            image.to_str().unwrap(),
        ],
    );
    // qemu-io writes whole clusters; a sector's padding carries nothing, so it may be missing.
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(&image)
        .unwrap();
    let descriptor = be64(&file, 0x00ff_ffff_ffff_fe00 & be64(&file, be64(&file, 40)));
    let offset = descriptor & ((1 << 54) - 1);
    assert_eq!(
        descriptor >> 54,
        0b01 << 8,
        "compressed, one sector: {descriptor:#x}"
    );
    file.set_len(offset + 100).unwrap();
    check_against_qemu(&image);
}

#[test]
fn clusters_that_are_neighbours_in_the_file_but_not_on_the_disk_are_kept_apart() {
    let dir = tempdir().unwrap();
    let image = dir.path().join("image.qcow2");
    qemu_img("create -q -f qcow2 -o cluster_size=4k {} 256k", &[&image]);
    let writes = [
        "write -P 1 0 4k",
        "write -P 2 8k 4k",
        "write -P 3 12k 8k",
        "write -P 4 4096 512",
    ];
    let mut arguments = vec!["-f", "qcow2"];
    arguments.extend(writes.iter().take(3).flat_map(|write| ["-c", write]));
    arguments.push(image.to_str().unwrap());
    run("qemu-io", &arguments);
    check_against_qemu(&image);
    run(
        "qemu-io",
        &["-f", "qcow2", "-c", writes[3], image.to_str().unwrap()],
    );
    check_against_qemu(&image);
}

#[test]
fn tables_of_many_clusters_are_read() {
    // 512 MiB in clusters of 512 bytes: an L1 table of 128 KiB right behind the refcount table.
    let dir = tempdir().unwrap();
    let image = dir.path().join("image.qcow2");
    qemu_img("create -q -f qcow2 -o cluster_size=512 {} 512M", &[&image]);
    let places = [0_u64, 1 << 15, 100 << 20, (512 << 20) - 512];
    let writes: Vec<String> = places
        .iter()
        .map(|place| format!("write -P 7 {place} 512"))
        .collect();
    let mut arguments = vec!["-f", "qcow2"];
    arguments.extend(writes.iter().flat_map(|write| ["-c", write]));
    arguments.push(image.to_str().unwrap());
    run("qemu-io", &arguments);
    let reader = open(&image);
    let mut found = Vec::new();
    let mut chunk = [0; CHUNK];
    reader
        .for_each_present(&mut |index| {
            reader.read_chunk(index, &mut chunk)?;
            found.extend(
                chunk
                    .iter()
                    .zip(index * CHUNK as u64..)
                    .filter(|(byte, _)| **byte == 7)
                    .map(|(_, at)| at),
            );
            Ok(())
        })
        .unwrap();
    let expected: Vec<u64> = places
        .iter()
        .flat_map(|&place| place..place + 512)
        .collect();
    assert!(found == expected);
}
