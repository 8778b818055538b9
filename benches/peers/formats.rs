//! One disk in seven formats by one reading of it, against `qemu-img convert` to each of them, one after the other; neither
//! with fsync nor checksum. Both read from a warm page cache, ours from the store, `qemu-img` from a raw image with holes.
//! The disk is the Debian one of all rows: 3 GiB with 704 MB of data, files of packages as ext4 lays them out.
//!
//! Then the sums: what both of ours take of one file, and of all seven at once, beyond writing the files, against
//! `sha256sum`, which computes one of them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use impasto_store::Store;
use impasto_store::convert::{ConvertOptions, ConvertTarget, Format};
use impasto_store::layer::LayerRef;
use impasto_store::qcow2::RawFile;
use impasto_store::seal::Absent;

use crate::measure::{Goal, Row, detail, interleaved, median, quiet, seconds, sized, timed};
use crate::site;

/// A round of `qemu-img` takes a minute.
const ROUNDS: usize = 2;
/// The raw format's place.
const RAW: usize = 2;

/// Each format with QEMU's name for it, and its options there.
const FORMATS: [(Format, &str, &[&str]); 7] = [
    (
        Format::Qcow2,
        "qcow2",
        &["-c", "-o", "compression_type=zstd"],
    ),
    (
        Format::Qcow2Zlib,
        "qcow2",
        &["-c", "-o", "compression_type=zlib"],
    ),
    (Format::Raw, "raw", &[]),
    (Format::Vmdk, "vmdk", &["-o", "subformat=streamOptimized"]),
    (Format::Vhd, "vpc", &["-o", "subformat=fixed,force_size=on"]),
    (Format::Vhdx, "vhdx", &["-o", "subformat=dynamic"]),
    (Format::Vdi, "vdi", &[]),
];

pub(crate) fn rows() -> Vec<Row> {
    let debian = site::debian();
    let dir = site::fresh("formats-store");
    let store = Store::open(&dir).expect("a store");
    let source = RawFile::new(File::open(&debian.raw).expect("the base")).expect("the base");
    let sealed = store.seal(None, &source, Absent::Zero).expect("sealed");
    site::warm(&debian.raw);
    quiet();
    let paths: Vec<PathBuf> = (0..FORMATS.len())
        .map(|place| site::dir().join(format!("formats.{place}")))
        .collect();
    let clear = || paths.iter().for_each(|path| site::remove(path));
    let mut sums: Vec<String> = Vec::new();
    let mut equal = 0;
    let [ours, theirs] = interleaved(sized(ROUNDS, 1), |side, _| {
        clear();
        site::settle();
        if side == 1 {
            let times = FORMATS.iter().zip(&paths);
            return times
                .map(|((_, driver, options), path)| qemu(&debian.raw, path, driver, options))
                .sum();
        }
        let time = convert(
            &store,
            &sealed.disk.layer,
            &paths,
            ConvertOptions::default(),
        );
        sums.push(paths.iter().map(|path| site::sha256(path)).collect());
        if sums.len() == 1 {
            for ((_, driver, _), path) in FORMATS.iter().zip(&paths) {
                let mut compare = site::program("qemu-img");
                compare.args(["compare", "-q", "-f", "raw", "-F", driver]);
                site::run(compare.arg(&debian.raw).arg(path));
                equal += 1;
            }
        }
        time
    });
    detail("seven formats by one reading", &ours);
    detail("qemu-img convert, one after the other", &theirs);
    let layer = &sealed.disk.layer;
    let raw = sums_row(
        "SHA-256 of a raw disk of 3 GiB with 0.7 GB of data",
        &paths[RAW..=RAW],
        |sums| {
            clear();
            site::settle();
            let options = ConvertOptions {
                sha256: sums,
                ..ConvertOptions::default()
            };
            convert_raw(&store, layer, &paths[RAW], options)
        },
    );
    let all = sums_row("both sums of all seven files", &paths, |sums| {
        clear();
        site::settle();
        let options = ConvertOptions {
            sha256: sums,
            digest: sums,
            ..ConvertOptions::default()
        };
        convert(&store, layer, &paths, options)
    });
    clear();
    site::remove(&dir);
    let same = sums.iter().all(|sum| *sum == sums[0]);
    let median_time = median(&ours);
    vec![
        Row::absolute(
            "one disk of 3 GiB with 704 MB of data in seven formats",
            median_time.as_secs_f64(),
            Goal::AtMost(5.0),
            seconds,
        ),
        Row::against(
            "the same vs qemu-img convert, one after the other",
            median_time,
            median(&theirs),
            Goal::AtLeast(8.0),
        ),
        Row::fact(
            "the same: equal by qemu-img compare, same bytes",
            format!("{equal} formats, {} runs", sums.len()),
            "every format, every run",
            same && equal == FORMATS.len(),
        ),
        raw,
        all,
    ]
}

/// Sums of files that were written with and without them, against `sha256sum` of the same files.
fn sums_row(what: &str, paths: &[PathBuf], mut write: impl FnMut(bool) -> Duration) -> Row {
    let [without, with, peer] = interleaved(sized(ROUNDS, 1), |side, _| {
        if side == 2 {
            return site::time(site::program("sha256sum").args(paths));
        }
        write(side == 1)
    });
    detail("written", &without);
    detail("written, with sums", &with);
    detail("sha256sum", &peer);
    let ours = median(&with).saturating_sub(median(&without));
    Row::against(what, ours, median(&peer), Goal::AtMost(1.1))
}

/// Writes all formats; how long that takes.
fn convert(
    store: &Store,
    layer: &LayerRef,
    paths: &[PathBuf],
    options: ConvertOptions,
) -> Duration {
    let files: Vec<File> = paths.iter().map(|path| create(path)).collect();
    let targets: Vec<_> = FORMATS
        .iter()
        .zip(files.iter().zip(paths))
        .map(|((format, ..), (file, path))| ConvertTarget {
            format: *format,
            level: None,
            file,
            path,
        })
        .collect();
    let (time, made) = timed(|| store.convert(layer, &targets, options));
    made.expect("converted");
    time
}

/// The same of the raw format alone.
fn convert_raw(store: &Store, layer: &LayerRef, path: &Path, options: ConvertOptions) -> Duration {
    let target = ConvertTarget {
        format: Format::Raw,
        level: None,
        file: &create(path),
        path,
    };
    let (time, made) = timed(|| store.convert(layer, &[target], options));
    made.expect("converted");
    time
}

fn create(path: &Path) -> File {
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .expect("a file")
}

fn qemu(raw: &Path, out: &Path, driver: &str, options: &[&str]) -> Duration {
    let mut convert = site::program("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", driver]);
    site::time(convert.args(options).arg(raw).arg(out))
}
