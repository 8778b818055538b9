//! A disk as one compressed qcow2: copied frames against `qemu-img convert -c`, neither with fsync nor checksum.
//!
//! Ours starts from the store, where the layer was verified since the machine started; `qemu-img` from a raw image with
//! holes, by its own default of writing without sync. Both read from a warm page cache.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use impasto_store::Store;
use impasto_store::convert::{ConvertOptions, ConvertTarget, Format};
use impasto_store::qcow2::RawFile;
use impasto_store::seal::Absent;

use crate::measure::{Goal, Row, detail, interleaved, median, quiet, timed};
use crate::site;

const ROUNDS: usize = 5;

pub(crate) fn rows() -> Vec<Row> {
    let debian = site::debian();
    println!(
        "convert: {} MB of data",
        std::fs::metadata(&debian.data).expect("the data").len() / 1_000_000
    );
    let dir = site::fresh("convert-store");
    let store = Store::open(&dir).expect("a store");
    let source = RawFile::new(File::open(&debian.raw).expect("the base")).expect("the base");
    let sealed = store.seal(None, &source, Absent::Zero).expect("sealed");
    site::warm(&debian.raw);
    quiet();
    let out = site::dir().join("convert.qcow2");
    let mut sums = Vec::new();
    let [ours, zstd, zlib] = interleaved(ROUNDS, |side, round| {
        site::remove(&out);
        site::settle();
        match side {
            0 => {
                let file = File::options()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(&out)
                    .expect("a file");
                let target = ConvertTarget {
                    format: Format::Qcow2,
                    level: None,
                    file: &file,
                    path: &out,
                };
                let options = ConvertOptions::default();
                let (time, converted) =
                    timed(|| store.convert(&sealed.disk.layer, &[target], options));
                converted.expect("converted");
                sums.push(site::sha256(&out));
                if round == 0 {
                    site::run(
                        site::program("qemu-img")
                            .args(["compare", "-q", "-f", "raw"])
                            .arg(&debian.raw)
                            .arg(&out),
                    );
                }
                time
            }
            1 => qemu(&debian.raw, &out, "compression_type=zstd"),
            _ => qemu(&debian.raw, &out, "compression_type=zlib"),
        }
    });
    detail("frame copy", &ours);
    detail("qemu-img convert -c, zstd", &zstd);
    detail("qemu-img convert -c, zlib", &zlib);
    let same = sums.iter().all(|sum| *sum == sums[0]);
    site::remove(&out);
    site::remove(&dir);
    vec![
        Row::against(
            "convert to qcow2 vs qemu-img convert -c (zlib)",
            median(&ours),
            median(&zlib),
            Goal::AtLeast(20.0),
        ),
        Row::against(
            "convert to qcow2 vs qemu-img convert -c (zstd)",
            median(&ours),
            median(&zstd),
            Goal::AtLeast(5.0),
        ),
        Row::fact(
            "convert gives the same SHA-256",
            format!("{} runs", sums.len()),
            "every run",
            same,
        ),
    ]
}

fn qemu(raw: &Path, out: &Path, option: &str) -> Duration {
    let mut convert = site::program("qemu-img");
    site::time(
        convert
            .args(["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", option])
            .arg(raw)
            .arg(out),
    )
}
