//! The seeds of the fuzz targets, replayed without a fuzzer: as they are, cut, and with bytes changed.

use std::fs;
use std::path::Path;

use crate::support::Random;

#[path = "../../../tests/fuzz/src/formats.rs"]
#[expect(unreachable_pub, reason = "a file that the fuzz targets share")]
mod formats;
#[path = "../../../tests/fuzz/src/frame.rs"]
#[expect(unreachable_pub, reason = "a file that the fuzz targets share")]
mod frame;
#[path = "../../../tests/fuzz/src/qcow2.rs"]
#[expect(unreachable_pub, reason = "a file that the fuzz targets share")]
mod qcow2;
#[path = "../../../tests/fuzz/src/store.rs"]
#[expect(unreachable_pub, reason = "a file that the fuzz targets share")]
mod store;

fn replay(target: &str, least: usize, run: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fuzz/seeds")
        .join(target);
    let mut paths: Vec<_> = fs::read_dir(&seeds)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(
        paths.len() >= least,
        "{} seeds in {}",
        paths.len(),
        seeds.display()
    );
    for path in paths {
        let seed = fs::read(&path).unwrap();
        run(&seed);
        let mut random = Random::new(seed.len() as u64);
        for _ in 0..100 {
            run(&seed[..random.below(seed.len() as u64) as usize]);
            let mut changed = seed.clone();
            for _ in 0..1 + random.below(4) {
                let at = random.below(seed.len() as u64) as usize;
                changed[at] = random.next() as u8;
            }
            run(&changed);
        }
    }
}

#[test]
fn seeds_of_images_are_replayed() {
    replay("qcow2", 8, qcow2::run);
}

#[test]
fn seeds_of_other_formats_are_replayed() {
    replay("formats", 8, formats::run);
}

#[test]
fn seeds_of_frames_are_replayed() {
    replay("frame", 7, frame::run);
}

#[test]
fn seeds_of_store_objects_are_replayed() {
    replay("store", 7, store::run);
}
