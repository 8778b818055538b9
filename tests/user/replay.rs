//! The seeds of the fuzz targets that live in this crate, replayed without a fuzzer: as they are, cut, and with bytes
//! changed.

use std::path::Path;

use crate::random::Random;

#[path = "../fuzz/src/control.rs"]
#[expect(unreachable_pub, reason = "a file that the fuzz targets share")]
mod control;
#[path = "../fuzz/src/deb.rs"]
#[expect(unreachable_pub, reason = "a file that the fuzz targets share")]
mod deb;
#[path = "../fuzz/src/ext4.rs"]
#[expect(unreachable_pub, reason = "a file that the fuzz targets share")]
mod ext4;
#[path = "../fuzz/src/fat.rs"]
#[expect(unreachable_pub, reason = "a file that the fuzz targets share")]
mod fat;
#[path = "../fuzz/src/guest.rs"]
#[expect(unreachable_pub, reason = "a file that the fuzz targets share")]
mod guest;
#[path = "../fuzz/src/log.rs"]
#[expect(unreachable_pub, reason = "a file that the fuzz targets share")]
mod log;
#[path = "../fuzz/src/packed.rs"]
#[expect(unreachable_pub, reason = "a file that the fuzz targets share")]
mod packed;
#[path = "../fuzz/src/protocol.rs"]
#[expect(unreachable_pub, reason = "a file that the fuzz targets share")]
mod protocol;
#[path = "../fuzz/src/recipe.rs"]
#[expect(unreachable_pub, reason = "a file that the fuzz targets share")]
mod recipe;

fn replay(target: &str, least: usize, run: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/seeds")
        .join(target);
    let mut paths: Vec<_> = std::fs::read_dir(&seeds)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let (rounds, from) = (crate::torture::count("replay", 100), crate::torture::seed());
    assert!(
        paths.len() >= least,
        "{} seeds in {}",
        paths.len(),
        seeds.display()
    );
    for path in paths {
        let seed = std::fs::read(&path).unwrap();
        run(&seed);
        let mut random = Random::new(from);
        for _ in 0..rounds {
            run(&seed[..random.below(seed.len() as u64) as usize]);
            let mut changed = seed.clone();
            for _ in 0..1 + random.below(4) {
                changed[random.below(seed.len() as u64) as usize] = random.below(256) as u8;
            }
            run(&changed);
        }
    }
}

#[test]
fn seeds_of_recipes_are_replayed() {
    replay("recipe", 4, recipe::run);
}

#[test]
fn seeds_of_guest_disks_are_replayed() {
    replay("guest", 3, guest::run);
}

#[test]
fn seeds_of_logs_are_replayed() {
    replay("log", 3, log::run);
}

#[test]
fn seeds_of_the_protocol_are_replayed() {
    replay("protocol", 3, protocol::run);
}

#[test]
fn seeds_of_ext_file_systems_are_replayed() {
    replay("ext4", 4, ext4::run);
}

#[test]
fn seeds_of_fat_file_systems_are_replayed() {
    replay("fat", 2, fat::run);
}

#[test]
fn seeds_of_packages_are_replayed() {
    replay("deb", 4, deb::run);
}

#[test]
fn seeds_of_control_files_are_replayed() {
    replay("control", 4, control::run);
}

#[test]
fn seeds_of_packed_images_are_replayed() {
    replay("packed", 8, packed::run);
}
