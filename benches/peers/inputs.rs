//! Hashing a tree of inputs of 20,000 files and 500 MB against `b3sum` on the same files.
//!
//! Ours walks, hashes and makes the tree's digest, with an empty index; `b3sum` is given the paths, so it walks nothing.
//! Both read from a warm page cache. Then again with a warm index, where no file may be read.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use impasto::engine::inputs::{Input, Inputs};
use impasto_store::Store;

use crate::measure::{Goal, ROUNDS, Row, detail, interleaved, median, quiet, sized, timed};
use crate::site;

/// How many files, and their bytes together.
fn size() -> (u64, u64) {
    sized((20_000, 500_000_000), (200, 1_000_000))
}

pub(crate) fn rows() -> Vec<Row> {
    let (files, bytes) = size();
    let ((tree, names), has_b3sum) = (tree(), site::has("b3sum", "b3sum"));
    println!("inputs: {files} files, {} MB", bytes / 1_000_000);
    for name in &names {
        site::warm(&tree.join(name));
    }
    quiet();
    let mut digests = Vec::new();
    let [ours, peer] = interleaved(ROUNDS, |side, _| {
        if side == 0 {
            let dir = site::fresh("inputs-store");
            let store = Store::open(&dir).expect("a store");
            let (time, digest) = timed(|| hash(&store, &tree));
            assert_eq!(store.io().input_opens, files);
            digests.push(digest);
            time
        } else if !has_b3sum {
            Duration::ZERO
        } else {
            // The names are shorter than what a command line can hold.
            site::time(site::program("b3sum").current_dir(&tree).args(&names))
        }
    });
    assert!(digests.iter().all(|digest| *digest == digests[0]));
    detail("walk, hash, tree digest", &ours);
    detail("b3sum", &peer);

    let dir = site::fresh("inputs-store");
    let store = Store::open(&dir).expect("a store");
    hash(&store, &tree);
    store.flush().expect("the index is kept");
    let mut opened = 0;
    let warm: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let store = Store::open(&dir).expect("a store");
            let (time, digest) = timed(|| hash(&store, &tree));
            assert_eq!(digest, digests[0]);
            opened += store.io().input_opens;
            time
        })
        .collect();
    detail("the same with a warm index", &warm);
    site::remove(&dir);
    vec![
        Row::against(
            "hash 20,000 inputs of 500 MB, cold index, vs b3sum",
            median(&ours),
            median(&peer),
            Goal::AtMost(1.5),
        ),
        Row::fact(
            "the same with a warm index: files read",
            opened.to_string(),
            "0",
            opened == 0,
        ),
    ]
}

fn hash(store: &Store, tree: &Path) -> String {
    let scope = impasto::recipe::scope::Scope::new(tree, None, &[])
        .expect("a directory")
        .into();
    let mut inputs = Inputs::new(store.clone(), tree.to_owned(), scope);
    let input = inputs.get(".", &[]).expect("inputs");
    assert!(matches!(input, Input::Tree { .. }));
    format!("{:?}", input.bound())
}

/// Files of many sizes, most of them small, with 25 kB on average: made once. Returns their names below the directory.
fn tree() -> (PathBuf, Vec<String>) {
    let (files, bytes) = size();
    let at = site::dir().join("inputs");
    let name = |index: u64| format!("d{:03}/e{}/file-{index}.bin", index / 100, index % 7);
    let names: Vec<String> = (0..files).map(name).collect();
    let done = at.with_extension("done");
    if !done.exists() {
        site::remove(&at);
        let mut noise = 0x696d_7061_7374_6f31_u64;
        let mut next = move || {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise
        };
        // Sizes from 2^8 to 2^17, each power as likely as the others, scaled to the sum.
        let weights: Vec<f64> = (0..files)
            .map(|_| 2_f64.powf(8.0 + (next() % 9000) as f64 / 1000.0))
            .collect();
        let scale = bytes as f64 / weights.iter().sum::<f64>();
        let mut buffer = Vec::new();
        for (name, weight) in names.iter().zip(&weights) {
            let path = at.join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            let size = (weight * scale) as usize;
            buffer.clear();
            while buffer.len() < size {
                buffer.extend_from_slice(&next().to_le_bytes());
            }
            File::create(path)
                .expect("a file")
                .write_all(&buffer[..size])
                .expect("written");
        }
        // Files that have just changed are not remembered.
        std::thread::sleep(Duration::from_secs(3));
        File::create(done).expect("a mark");
    }
    (at, names)
}
