//! Disks go out in the formats of other machines' programs, and come in again through our own readers.
//! Needs qemu-utils; the packed ones gzip, xz, zstd and tar.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use impasto_store::Store;
use impasto_store::convert::Format;
use impasto_store::formats::ImageFormat;
use impasto_store::layer::LayerRef;
use impasto_store::qcow2::{CHUNK, ChunkSource, GateError, Qcow2};
use impasto_store::seal::Absent;
use proptest::prelude::*;

use crate::convert::convert_to;
use crate::support::{MemorySource, buffer, raw, text};

/// Each format of a machine's program, and what QEMU calls it.
const IMAGES: [(Format, ImageFormat, &str); 4] = [
    (Format::Vmdk, ImageFormat::Vmdk, "vmdk"),
    (Format::Vhd, ImageFormat::Vhd, "vpc"),
    (Format::Vhdx, ImageFormat::Vhdx, "vhdx"),
    (Format::Vdi, ImageFormat::Vdi, "vdi"),
];

/// A store with one disk of 40 MiB and 3 sectors: text, noise, blocks of which only a chunk is used, the last sectors.
struct Sample {
    store: Store,
    layer: LayerRef,
    bytes: Vec<u8>,
    dir: tempfile::TempDir,
}

impl Sample {
    fn new() -> Sample {
        Sample::of(640 * CHUNK + 3 * 512)
    }

    fn of(size: usize) -> Sample {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        let mut bytes = vec![0; size];
        let mut put = |index: usize, data: &[u8]| {
            if let Some(part) = bytes.chunks_mut(CHUNK).nth(index) {
                let length = part.len();
                part.copy_from_slice(&data[..length]);
            }
        };
        for index in (0..70).chain([100, 200, 201, 639]) {
            let data = match index % 7 {
                3 => raw(index as u64),
                _ => text(index as u64),
            };
            put(index, &data);
        }
        put(640, &text(5));
        let chunks = bytes.chunks(CHUNK).enumerate().map(|(index, part)| {
            let mut data = part.to_vec();
            data.resize(CHUNK, 0);
            (index as u64, Some(data))
        });
        let source = MemorySource {
            chunks: chunks.collect(),
            size: size as u64,
        };
        let layer = store.seal(None, &source, Absent::Zero).unwrap().disk.layer;
        Sample {
            store,
            layer,
            bytes,
            dir,
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn ok(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Whether QEMU finds the same disk in a file as in the raw one.
fn compare(raw: &Path, driver: &str, file: &Path) {
    let line = ["compare", "-f", "raw", "-F", driver];
    let paths = [raw.to_str().unwrap(), file.to_str().unwrap()];
    ok("qemu-img", &[&line[..], &paths].concat());
}

/// All of a disk's bytes.
fn read_all(source: &dyn ChunkSource) -> Vec<u8> {
    let mut bytes = vec![0; source.virtual_size() as usize];
    let mut data = buffer();
    source
        .for_each_present(&mut |index| {
            source.read_chunk(index, &mut data)?;
            let part = bytes.chunks_mut(CHUNK).nth(index as usize).unwrap();
            let length = part.len();
            part.copy_from_slice(&data[..length]);
            Ok(())
        })
        .unwrap();
    bytes
}

#[test]
fn every_format_is_the_disk_to_qemu_and_to_our_own_reader() {
    let sample = Sample::new();
    let raw = sample.write("raw", &sample.bytes);
    let formats = [
        Format::Vmdk,
        Format::Vhd,
        Format::Vhdx,
        Format::Vdi,
        Format::Qcow2,
        Format::Qcow2Zlib,
        Format::Qcow2Plain,
        Format::Raw,
    ];
    // All by one reading, and each by one of its own: the same bytes.
    let together = convert_to(&sample.store, &sample.layer, formats.map(|f| (f, None)));
    for (format, made) in formats.into_iter().zip(&together) {
        let [alone] = convert_to(&sample.store, &sample.layer, [(format, None)]);
        assert!(alone == *made, "{format:?}");
        assert_eq!(made.0.length, made.1.len() as u64, "{format:?}");
    }
    for ((format, reader, driver), (_, bytes)) in IMAGES.into_iter().zip(&together) {
        let path = sample.write(driver, bytes);
        compare(&raw, driver, &path);
        if driver != "vpc" {
            ok("qemu-img", &["check", "-f", driver, path.to_str().unwrap()]);
        }
        let read = read_all(&*reader.open(File::open(&path).unwrap()).unwrap());
        let (disk, rest) = read.split_at(sample.bytes.len());
        assert!(disk == sample.bytes, "{format:?}");
        assert!(rest.iter().all(|byte| *byte == 0), "{format:?}");
        let whole = read.len().is_multiple_of(1 << 20);
        assert_eq!(
            !rest.is_empty(),
            format == Format::Vhd && whole,
            "{format:?}"
        );
    }
    for (_, bytes) in &together[4..7] {
        let path = sample.write("qcow2", bytes);
        compare(&raw, "qcow2", &path);
        ok(
            "qemu-img",
            &["check", "-f", "qcow2", path.to_str().unwrap()],
        );
        let image = Qcow2::open(File::open(&path).unwrap()).unwrap();
        assert!(read_all(&image) == sample.bytes);
    }
    assert!(together[7].1 == sample.bytes);
    // Old QEMU: no feature that it does not know.
    assert_eq!(together[5].1[72..80], [0; 8]);
}

#[test]
fn packed_disks_are_what_the_usual_programs_unpack() {
    let sample = Sample::new();
    let formats = [Format::RawGzip, Format::RawXz, Format::RawZstd, Format::Gce];
    let made = convert_to(&sample.store, &sample.layer, formats.map(|f| (f, None)));
    let again = convert_to(&sample.store, &sample.layer, formats.map(|f| (f, None)));
    assert!(made == again);
    for (program, (_, bytes)) in ["gzip", "xz", "zstd"].into_iter().zip(&made) {
        let path = sample.write(program, bytes);
        let plain = ok(
            program,
            &["-d", "-c", "-q", "--force", path.to_str().unwrap()],
        );
        assert!(plain == sample.bytes, "{program}");
    }
    let path = sample.write("disk.tar.gz", &made[3].1);
    let at = sample.dir.path().to_str().unwrap();
    ok("tar", &["-C", at, "-xzf", path.to_str().unwrap()]);
    let disk = File::open(sample.dir.path().join("disk.raw")).unwrap();
    assert_eq!(disk.metadata().unwrap().len(), 1 << 30);
    let mut start = vec![0; sample.bytes.len()];
    disk.read_exact_at(&mut start, 0).unwrap();
    assert!(start == sample.bytes);
    let list = ok("tar", &["-tvzf", path.to_str().unwrap()]);
    let list = String::from_utf8(list).unwrap();
    assert!(list.contains("1073741824 1970-01-01"), "{list}");
}

#[test]
fn an_empty_disk_has_a_file_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let source = MemorySource::new(80, []);
    let layer = store.seal(None, &source, Absent::Zero).unwrap().disk.layer;
    let made = convert_to(&store, &layer, IMAGES.map(|(format, ..)| (format, None)));
    for ((format, reader, _), (_, bytes)) in IMAGES.into_iter().zip(made) {
        let path = dir.path().join("tmp/empty");
        std::fs::write(&path, bytes).unwrap();
        let image = reader.open(File::open(&path).unwrap()).unwrap();
        assert!(read_all(&*image) == vec![0; 80 * CHUNK], "{format:?}");
    }
}

#[test]
fn what_qemu_writes_in_the_same_way_is_read_and_another_kind_is_named() {
    let sample = Sample::of(640 * CHUNK);
    let raw = sample.write("raw", &sample.bytes);
    let out = sample.dir.path().join("out");
    for (driver, option, reader, refused) in [
        ("vmdk", "subformat=streamOptimized", ImageFormat::Vmdk, None),
        (
            "vpc",
            "subformat=fixed,force_size=on",
            ImageFormat::Vhd,
            None,
        ),
        ("vhdx", "subformat=dynamic", ImageFormat::Vhdx, None),
        ("vhdx", "subformat=fixed", ImageFormat::Vhdx, None),
        ("vdi", "static=off", ImageFormat::Vdi, None),
        ("vdi", "static=on", ImageFormat::Vdi, None),
        (
            "vmdk",
            "subformat=monolithicSparse",
            ImageFormat::Vmdk,
            Some("streamOptimized"),
        ),
        (
            "vpc",
            "subformat=dynamic",
            ImageFormat::Vhd,
            Some("dynamic blocks"),
        ),
    ] {
        let line = ["convert", "-f", "raw", "-O", driver, "-o", option];
        let paths = [raw.to_str().unwrap(), out.to_str().unwrap()];
        ok("qemu-img", &[&line[..], &paths].concat());
        match (reader.open(File::open(&out).unwrap()), refused) {
            (Ok(image), None) => assert!(read_all(&*image) == sample.bytes, "{driver} {option}"),
            (Err(error), Some(word)) => {
                assert!(
                    error.to_string().contains(word),
                    "{driver} {option}: {error}"
                );
            }
            (found, _) => panic!("{driver} {option}: {:?}", found.err()),
        }
    }
}

/// A file of each format, small, to be damaged.
fn small_images() -> Vec<(ImageFormat, Vec<u8>)> {
    let sample = Sample::of(70 * CHUNK);
    IMAGES
        .into_iter()
        .map(|(format, reader, _)| {
            let [(_, bytes)] = convert_to(&sample.store, &sample.layer, [(format, None)]);
            (reader, bytes)
        })
        .collect()
}

fn open(reader: ImageFormat, bytes: &[u8]) -> Result<Box<dyn ChunkSource>, GateError> {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    reader.open(file)
}

#[test]
fn a_lie_in_a_header_is_refused_as_what_it_is() {
    let images = small_images();
    let [(_, vmdk), (_, vhd), (_, vhdx), (_, vdi)] = &images[..] else {
        unreachable!()
    };
    let edited = |bytes: &[u8], at: usize, value: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    let footer = vmdk.len() - 1024;
    let directory = u64::from_le_bytes(vmdk[footer + 56..footer + 64].try_into().unwrap());
    let table_at = |place: usize| {
        let at = directory as usize * 512 + place * 4;
        u32::from_le_bytes(vmdk[at..at + 4].try_into().unwrap()) as usize * 512
    };
    let huge = u64::MAX.to_le_bytes();
    let hint = b"parentFileNameHint=\"/etc/passwd\"\n";
    // In place of a comment.
    let comment = vmdk
        .windows(6)
        .position(|bytes| bytes == b"# The ")
        .unwrap();
    let two = b"RW 1 FLAT \"/etc/passwd\" 0\n";
    let cases: Vec<(&str, ImageFormat, Vec<u8>)> = vec![
        // Of another size than header and footer agree on, a disk of exabytes, none.
        (
            "footer's capacity",
            ImageFormat::Vmdk,
            edited(vmdk, 12, &[1]),
        ),
        ("virtual size", ImageFormat::Vmdk, edited(vmdk, 12, &[0; 8])),
        ("virtual size", ImageFormat::Vmdk, edited(vmdk, 12, &huge)),
        ("description", ImageFormat::Vmdk, edited(vmdk, 28, &[0; 8])),
        ("parent", ImageFormat::Vmdk, edited(vmdk, 9000, hint)),
        (
            "several files",
            ImageFormat::Vmdk,
            edited(vmdk, comment, two),
        ),
        (
            "grain",
            ImageFormat::Vmdk,
            edited(vmdk, table_at(0), &[128, 0, 0, 0, 128]),
        ),
        (
            "overlaps",
            ImageFormat::Vmdk,
            edited(vmdk, table_at(0) + 4, &[128, 0]),
        ),
        (
            "beyond",
            ImageFormat::Vmdk,
            edited(vmdk, table_at(0), &[0xff; 4]),
        ),
        (
            "length",
            ImageFormat::Vmdk,
            edited(vmdk, 65536 + 8, &[0xff; 4]),
        ),
        (
            "grain directory",
            ImageFormat::Vmdk,
            edited(vmdk, footer + 56, &huge[1..]),
        ),
        (
            "checksum",
            ImageFormat::Vhd,
            edited(vhd, vhd.len() - 460, &[9]),
        ),
        ("cookie", ImageFormat::Vhd, vhd[..vhd.len() - 1].to_vec()),
        ("size", ImageFormat::Vhd, vhd[512..].to_vec()),
        (
            "headers",
            ImageFormat::Vhdx,
            edited(vhdx, 65536, &vec![0; 65540]),
        ),
        (
            "region",
            ImageFormat::Vhdx,
            edited(vhdx, 192 << 10, &vec![0; 65540]),
        ),
        ("metadata", ImageFormat::Vhdx, edited(vhdx, 2 << 20, b"M")),
        (
            "overlaps",
            ImageFormat::Vhdx,
            edited(vhdx, 3 << 20, &[6, 0, 0x30]),
        ),
        (
            "beyond",
            ImageFormat::Vhdx,
            edited(vhdx, (3 << 20) + 5, &[0xff]),
        ),
        ("entry", ImageFormat::Vhdx, edited(vhdx, 3 << 20, &[7])),
        (
            "virtual size",
            ImageFormat::Vhdx,
            edited(vhdx, (2 << 20) + 65536 + 8, &huge),
        ),
        (
            "block size",
            ImageFormat::Vhdx,
            edited(vhdx, (2 << 20) + 65536, &[1]),
        ),
        (
            "parent",
            ImageFormat::Vhdx,
            edited(vhdx, (2 << 20) + 65536 + 4, &[2]),
        ),
        (
            "number of blocks",
            ImageFormat::Vdi,
            edited(vdi, 384, &[99]),
        ),
        ("block size", ImageFormat::Vdi, edited(vdi, 376, &[0; 4])),
        ("virtual size", ImageFormat::Vdi, edited(vdi, 368, &huge)),
        ("parent", ImageFormat::Vdi, edited(vdi, 440, &[1])),
        ("kind", ImageFormat::Vdi, edited(vdi, 76, &[4])),
        ("overlaps", ImageFormat::Vdi, edited(vdi, 512, &[1])),
        ("entry", ImageFormat::Vdi, edited(vdi, 512, &[77])),
        ("overlaps", ImageFormat::Vdi, edited(vdi, 340, &[0; 4])),
    ];
    for (word, reader, bytes) in cases {
        let error = open(reader, &bytes).err();
        let text = error.as_ref().map(ToString::to_string).unwrap_or_default();
        assert!(text.contains(word), "{reader:?}, {word}: {text}");
    }
}

#[test]
fn a_file_that_was_cut_is_refused_or_gives_no_chunk_that_is_cut() {
    for (reader, bytes) in small_images() {
        for cut in [
            0,
            1,
            511,
            512,
            4096,
            70_000,
            bytes.len() / 2,
            bytes.len() - 513,
        ] {
            assert!(
                open(reader, &bytes[..cut]).is_err(),
                "{reader:?} of {cut} bytes"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the bytes are: an error or a disk, never a panic, a loop or more memory than the file is worth.
    #[test]
    fn bytes_that_were_changed_give_an_error_or_a_disk(
        edits in prop::collection::vec((0..4096_usize, any::<[u8; 8]>(), 1..9_usize, any::<bool>()), 1..4),
    ) {
        use std::sync::OnceLock;
        static IMAGES: OnceLock<Vec<(ImageFormat, Vec<u8>)>> = OnceLock::new();
        for (reader, bytes) in IMAGES.get_or_init(small_images) {
            let mut bytes = bytes.clone();
            // Where structures are: at the beginning, at the end, and where VHDX has its own.
            let structures = [0, bytes.len() - 4096, (64 << 10) - 2048, 2 << 20, (2 << 20) + 65536, 3 << 20];
            for (edit, (at, value, length, is_structure)) in edits.iter().enumerate() {
                let base = structures[(at + edit) % structures.len()];
                let at = if *is_structure { base + at % 600 } else { at * 977 };
                let at = at.min(bytes.len() - 8);
                bytes[at..at + length.min(&8)].copy_from_slice(&value[..*length.min(&8)]);
            }
            let Ok(image) = open(*reader, &bytes) else { continue };
            let mut data = buffer();
            let mut from = 0;
            for _ in 0..100 {
                let Ok(Some(index)) = image.next_present(from) else { break };
                prop_assert!(index >= from && index < image.chunks());
                let _ = image.read_chunk(index, &mut data);
                from = index + 1;
            }
            prop_assert!(image.read_chunk(image.chunks(), &mut data).is_err());
        }
    }
}

#[test]
fn converted_images_are_pinned() {
    // Published checksums change with these: with a layout, or with the version of an encoder, which its id names.
    let sample = Sample::new();
    let made = convert_to(&sample.store, &sample.layer, Format::ALL.map(|f| (f, None)));
    let pinned: Vec<String> = Format::ALL
        .iter()
        .zip(&made)
        .map(|(format, (converted, _))| {
            let digest = converted.digest.unwrap().short();
            format!("{format:?} {} {digest}", format.encoder(None))
        })
        .collect();
    let expected = [
        "Qcow2 zstd-10507/level-1/checksum 555d31165f3f",
        "Qcow2Zlib libdeflate-1.26.1/level-1 6810e0dc496e",
        "Qcow2Plain  3f0e895e2158",
        "Raw  6c25aae00408",
        "RawGzip libdeflate-1.26.1/gzip/level-6 c70bc9a23412",
        "RawXz xz-5.8/level-3 9a8bf691bf1c",
        "RawZstd zstd-10507/level-1/checksum b30abecc794d",
        "Vmdk libdeflate-1.26.1/level-1 7172631ae4a6",
        "Vhd  3bdce85ec7c7",
        "Vhdx  b6c85319ebe6",
        "Vdi  744b1128f622",
        "Gce libdeflate-1.26.1/gzip/level-6 eb3210a8c4c6",
    ];
    assert_eq!(pinned, expected);
}
