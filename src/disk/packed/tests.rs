//! Files that unpack to a disk, and files that only look so.

use std::io::Write;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::disk::image::{ImageKind, recognize, unpacked};

const ALL: [ImagePacking; 3] = [ImagePacking::Gzip, ImagePacking::Xz, ImagePacking::Zstd];

fn pack(bytes: &[u8], packing: ImagePacking) -> Vec<u8> {
    match packing {
        ImagePacking::Gzip => {
            let level = flate2::Compression::fast();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        ImagePacking::Xz => liblzma::encode_all(bytes, 0).unwrap(),
        ImagePacking::Zstd => {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.include_checksum(true).unwrap();
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
    }
}

/// A disk of 5 MiB and a sector with a partition table, of which only its beginning and its end are not zero.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; (5 << 20) + 512];
    disk[450] = 0x83;
    disk[454..458].copy_from_slice(&2048_u32.to_le_bytes());
    disk[458..462].copy_from_slice(&4096_u32.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk.iter_mut()
        .rev()
        .zip(1..700)
        .for_each(|(byte, value)| *byte = value as u8);
    disk
}

fn file(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

/// What a file unpacks to.
fn unpack_up_to(bytes: &[u8], packing: ImagePacking, limit: u64) -> Result<File, ImageUnpackError> {
    let unpacker = ImageUnpacker {
        dir: &std::env::temp_dir(),
        limit,
        cancel: &CancelToken::new(),
        meter: None,
    };
    unpacker.unpack(&file(bytes), packing)
}

fn unpack(bytes: &[u8], packing: ImagePacking) -> Result<Vec<u8>, ImageUnpackError> {
    unpack_up_to(bytes, packing, 1 << 30).map(|file| {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    })
}

fn header(name: &str, size: u64, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(size);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

/// A member as tar writes it.
fn member(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = header(name, bytes.len() as u64, tar::EntryType::Regular)
        .as_bytes()
        .to_vec();
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(RECORD), 0);
    out
}

/// A sparse member of a size, with so much data, and with this map.
fn sparse(size: u64, map: &[(u64, u64)], data: &[u8]) -> Vec<u8> {
    let mut head = header("disk.raw", data.len() as u64, tar::EntryType::GNUSparse);
    let gnu = head.as_gnu_mut().unwrap();
    let octal = |field: &mut [u8; 12], value: u64| {
        field[..11].copy_from_slice(format!("{value:011o}").as_bytes());
    };
    let put = |place: &mut tar::GnuSparseHeader, (offset, length): &(u64, u64)| {
        octal(&mut place.offset, *offset);
        octal(&mut place.numbytes, *length);
    };
    let (first, mut rest) = map.split_at(map.len().min(4));
    gnu.sparse
        .iter_mut()
        .zip(first)
        .for_each(|(place, piece)| put(place, piece));
    gnu.isextended[0] = u8::from(!rest.is_empty());
    octal(&mut gnu.realsize, size);
    head.set_cksum();
    let mut out = head.as_bytes().to_vec();
    while !rest.is_empty() {
        let (these, after) = rest.split_at(rest.len().min(21));
        let mut record = tar::GnuExtSparseHeader::new();
        record
            .sparse_mut()
            .iter_mut()
            .zip(these)
            .for_each(|(place, piece)| put(place, piece));
        record.isextended[0] = u8::from(!after.is_empty());
        out.extend_from_slice(record.as_bytes());
        rest = after;
    }
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(RECORD), 0);
    out
}

fn ended(mut archive: Vec<u8>) -> Vec<u8> {
    archive.resize(archive.len() + 2 * RECORD, 0);
    archive.resize(archive.len().next_multiple_of(20 * RECORD), 0);
    archive
}

#[test]
fn what_comes_out_is_the_disk_with_its_holes() {
    let disk = disk();
    // Two members, streams or frames are what their contents are, one behind the other.
    let (front, back) = disk.split_at(1_234_567);
    for packing in ALL {
        let whole = pack(&disk, packing);
        let halves = [pack(front, packing), pack(back, packing)].concat();
        let archive = pack(&ended(member("disk.raw", &disk)), packing);
        let dotted = pack(&ended(member("./disk.raw", &disk)), packing);
        for packed in [whole, halves, archive, dotted] {
            let out = unpack_up_to(&packed, packing, 1 << 30).unwrap();
            assert!(out.metadata().unwrap().blocks() * 512 <= 4 * CHUNK as u64);
            assert!(unpack(&packed, packing).unwrap() == disk, "{packing:?}");
        }
        assert!(unpack(&pack(b"", packing), packing).unwrap().is_empty());
    }
}

#[test]
fn a_sparse_member_has_its_pieces_where_its_map_says() {
    let data: Vec<u8> = (0..30 * RECORD).map(|at| (at / 7) as u8 | 1).collect();
    let pieces: Vec<(u64, u64)> = (0..30).map(|at| (at * 100_000, RECORD as u64)).collect();
    let mut map = pieces.clone();
    map.push((4 << 20, 0));
    let archive = pack(&ended(sparse(4 << 20, &map, &data)), ImagePacking::Gzip);
    let out = unpack(&archive, ImagePacking::Gzip).unwrap();
    let mut expected = vec![0; 4 << 20];
    for ((offset, length), part) in pieces.iter().zip(data.chunks(RECORD)) {
        expected[*offset as usize..][..*length as usize].copy_from_slice(part);
    }
    assert!(out == expected);
}

#[test]
fn what_is_truncated_is_never_taken() {
    let disk = disk();
    for packing in ALL {
        for packed in [
            pack(&disk, packing),
            pack(&ended(member("disk.raw", &disk)), packing),
        ] {
            for cut in [
                1,
                5,
                9,
                20,
                packed.len() / 2,
                packed.len() - 9,
                packed.len() - 1,
            ] {
                let error = unpack(&packed[..cut], packing).unwrap_err();
                assert!(
                    matches!(
                        error,
                        ImageUnpackError::Truncated | ImageUnpackError::Damaged { .. }
                    ),
                    "{packing:?} of {cut} bytes: {error}"
                );
            }
        }
        // The stream is whole, the archive in it is not.
        let short = pack(&member("disk.raw", &disk)[..70_000], packing);
        assert!(matches!(
            unpack(&short, packing),
            Err(ImageUnpackError::Truncated)
        ));
    }
}

#[test]
fn what_follows_and_what_is_damaged_is_told() {
    let disk = disk();
    for packing in ALL {
        let packed = pack(&disk, packing);
        let followed = [&packed[..], b"something else"].concat();
        let mut changed = packed.clone();
        let at = packed.len() - 6;
        changed[at] ^= 0x55;
        for bytes in [followed, changed] {
            let error = unpack(&bytes, packing).unwrap_err();
            assert!(
                matches!(
                    error,
                    ImageUnpackError::Damaged { .. } | ImageUnpackError::Truncated
                ),
                "{packing:?}: {error}"
            );
        }
    }
}

#[test]
fn what_unpacks_to_too_much_is_refused_by_its_limit() {
    let (limit, zeros) = (8 << 20, vec![0; (8 << 20) + 1]);
    for packing in ALL {
        let at_most = pack(&zeros[1..], packing);
        assert_eq!(
            unpack_up_to(&at_most, packing, limit)
                .unwrap()
                .metadata()
                .unwrap()
                .len(),
            limit
        );
        let member = ended(member("disk.raw", &zeros));
        for more in [&zeros, &member] {
            let error = unpack_up_to(&pack(more, packing), packing, limit).unwrap_err();
            assert_eq!(
                error.to_string(),
                "it unpacks to more than the limit of 8MiB"
            );
            let help = error.help().unwrap();
            assert!(help.ends_with("IMPASTO_UNPACK_LIMIT=16MiB"), "{help}");
        }
        // An archive that says so is not read on, and one that goes on for ever ends.
        let said = ended(sparse(1 << 32, &[(0, 512)], &[1; 512]));
        let padded = [ended(self::member("disk.raw", b"x")), zeros.clone()].concat();
        for archive in [said, padded] {
            let error = unpack_up_to(&pack(&archive, packing), packing, limit).unwrap_err();
            assert!(
                matches!(error, ImageUnpackError::TooLarge { .. }),
                "{error}"
            );
        }
    }
}

#[test]
fn an_archive_of_something_else_than_one_disk_is_named() {
    let other = |kind| header("disk.raw", 0, kind).as_bytes().to_vec();
    let two = [member("disk.raw", b"one"), member("two\n", b"two")].concat();
    let after = [ended(member("disk.raw", b"one")), b"more".to_vec()].concat();
    let overlap = [(512, 512), (0, 512)];
    for (archive, problem) in [
        (two, "holds `two\\n` beside `disk.raw`"),
        (member("../disk.raw", b"up"), "holds `../disk.raw`"),
        (member("/disk.raw", b"up"), "holds `/disk.raw`"),
        (member("notes.txt", b"text"), "holds `notes.txt`"),
        (other(tar::EntryType::Symlink), "holds `disk.raw`"),
        (other(tar::EntryType::Directory), "holds `disk.raw`"),
        (other(tar::EntryType::XHeader), "is in pax format"),
        (after, "is followed by something else"),
        (sparse(4096, &overlap, &[1; 1024]), "contradict"),
        (sparse(512, &[(512, 512)], &[1; 512]), "contradict"),
        (sparse(4096, &[(0, 512)], &[1; 1024]), "contradict"),
        (sparse(4096, &[(0, 5), (512, 5)], &[1; 10]), "contradict"),
        (sparse(4096, &[(4096, 0); 50], &[]), "contradict"),
    ] {
        let error = unpack(
            &pack(&ended(archive), ImagePacking::Gzip),
            ImagePacking::Gzip,
        )
        .unwrap_err();
        assert!(matches!(error, ImageUnpackError::Archive { .. }), "{error}");
        assert!(error.to_string().contains(problem), "{problem}: {error}");
    }
}

#[test]
fn what_is_in_it_is_recognised_by_its_own_bytes_and_once_only() {
    let open = |bytes: &[u8]| {
        let file = file(bytes);
        let image = recognize(&file).unwrap();
        let unpacker = ImageUnpacker {
            dir: &std::env::temp_dir(),
            limit: 1 << 30,
            cancel: &CancelToken::new(),
            meter: None,
        };
        unpacked(file, image, &unpacker).map(|(_, image)| image)
    };
    let mut qcow2 = b"QFI\xfb\0\0\0\x03".to_vec();
    qcow2.resize(4096, 0);
    for packing in ALL {
        assert_eq!(open(&pack(&qcow2, packing)).unwrap(), ImageKind::Qcow2);
        assert_eq!(open(&pack(&disk(), packing)).unwrap(), ImageKind::Raw);
        assert_eq!(open(&pack(b"text", packing)).unwrap(), ImageKind::Unknown);
        let twice = pack(&pack(&disk(), ImagePacking::Xz), packing);
        assert_eq!(
            open(&twice).unwrap_err().to_string(),
            "what it holds is compressed once more: it is compressed with xz"
        );
    }
    assert_eq!(open(&disk()).unwrap(), ImageKind::Raw);
}

#[test]
fn nothing_goes_on_that_was_cancelled() {
    let cancel = CancelToken::new();
    cancel.cancel();
    let unpacker = ImageUnpacker {
        dir: &std::env::temp_dir(),
        limit: 1 << 30,
        cancel: &cancel,
        meter: None,
    };
    let packed = file(&pack(&disk(), ImagePacking::Zstd));
    assert!(matches!(
        unpacker.unpack(&packed, ImagePacking::Zstd),
        Err(ImageUnpackError::Cancelled)
    ));
}
