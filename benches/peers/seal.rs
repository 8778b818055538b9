//! Sealing what a stage changed, durable and verified, against `zstd -1 -T0` over the same data.
//!
//! Ours reads an overlay as `qemu-storage-daemon` leaves it, hashes every chunk, compresses, decompresses and compares,
//! hashes the layer file, syncs it and its manifest, and publishes both. zstd reads the same chunks from one file and
//! syncs nothing. Both read from a warm page cache, and write to the same file system on all cores.

use std::fs::File;
use std::time::Duration;

use impasto_store::Store;
use impasto_store::qcow2::Qcow2;
use impasto_store::seal::Absent;

use crate::measure::{Goal, ROUNDS, Row, detail, interleaved, median, quiet, timed};
use crate::site;

pub(crate) fn rows() -> Vec<Row> {
    let debian = site::debian();
    let bytes = std::fs::metadata(&debian.data).expect("the data").len();
    println!("seal: {} MB in chunks that are not zero", bytes / 1_000_000);
    site::warm(&debian.data);
    site::warm(&debian.qcow2);
    quiet();
    let (mut stored, has_zstd) = (0, site::has("zstd", "zstd"));
    let [ours, peer] = interleaved(ROUNDS, |side, _| {
        site::settle();
        if side == 0 {
            let dir = site::fresh("seal-store");
            let store = Store::open(&dir).expect("a store");
            let (time, sealed) = timed(|| {
                let source = Qcow2::open(File::open(&debian.qcow2).expect("the overlay"))
                    .expect("the overlay");
                store.seal(None, &source, Absent::AsParent).expect("sealed")
            });
            assert!(
                sealed.new && sealed.changed_chunks == bytes / 65536,
                "{sealed:?}"
            );
            stored = sealed.stored_bytes;
            drop(store);
            site::remove(&dir);
            time
        } else if !has_zstd {
            Duration::ZERO
        } else {
            let out = site::dir().join("seal.zst");
            let mut zstd = site::program("zstd");
            let time = site::time(
                zstd.args(["-1", "-T0", "-q", "-f"])
                    .arg(&debian.data)
                    .arg("-o")
                    .arg(&out),
            );
            site::remove(&out);
            time
        }
    });
    detail("store.seal", &ours);
    detail("zstd -1 -T0", &peer);
    println!("  the layer has {} MB", stored / 1_000_000);
    vec![Row::against(
        "seal changed data, durable and verified, vs zstd -1 -T0",
        median(&ours),
        median(&peer),
        Goal::AtLeast(0.6),
    )]
}
