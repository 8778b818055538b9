//! What casync's chunk store and restic's repository take for a disk, and what they grow by for the next one. Both cut
//! files by content and compress, with the settings that they have by themselves.

use std::path::Path;
use std::process::Command;

use super::missing;
use crate::measure::{Row, megabytes};
use crate::site;

/// Bytes that a directory takes on the disk.
pub(super) fn bytes(dir: &Path) -> u64 {
    let output = site::run(site::program("du").args(["-s", "--block-size=1"]).arg(dir));
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number of du")
}

/// Prints sizes; growth in percent of the first.
pub(super) fn told(name: &str, first: u64, growth: u64) -> f64 {
    let share = growth as f64 / first as f64 * 100.0;
    println!(
        "  {name}: first {}, growth {}, {share:.1} % of the first",
        megabytes(first as f64),
        megabytes(growth as f64)
    );
    share
}

/// One program that keeps files.
struct Peer {
    name: &'static str,
    /// Makes the place to keep them in.
    begin: Option<fn(&Path) -> Command>,
    /// Keeps a file there, under a name.
    keep: fn(&Path, &Path, &str) -> Command,
}

const PEERS: [Peer; 2] = [
    Peer {
        name: "casync",
        begin: None,
        keep: |at, file, name| {
            let mut command = site::program("casync");
            command.arg("make").arg(format!("--store={}", at.join("chunks.castr").display()));
            command.arg(at.join(format!("{name}.caibx"))).arg(file);
            command
        },
    },
    Peer {
        name: "restic",
        begin: Some(|at| restic(at, "init")),
        keep: |at, file, _| {
            let mut command = restic(at, "backup");
            command.arg(file);
            command
        },
    },
];

fn restic(at: &Path, verb: &str) -> Command {
    let mut command = site::program("restic");
    // Versions without `--insecure-no-password` are still common.
    command.env("RESTIC_PASSWORD", "measured").args(["--no-cache", "--repo"]).arg(at.join("repository")).arg(verb);
    command
}

/// The peers' growth beside ours. `export` writes the raw disk of the run before the last one (1), or of the last (0); both
/// are kept under one path, as a new version of one file.
pub(super) fn of_peers(dir: &Path, ours: u64, export: impl Fn(usize, &Path)) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut there = Vec::new();
    for peer in PEERS {
        match missing(peer.name, peer.name) {
            None => there.push((peer, Vec::new())),
            Some(row) => rows.push(row),
        }
    }
    let disk = dir.join("disk.raw");
    for back in [1, 0] {
        site::remove(&disk);
        export(back, &disk);
        for (peer, sizes) in &mut there {
            let at = dir.join(peer.name);
            if back == 1 {
                std::fs::create_dir_all(&at).expect("a directory");
                if let Some(begin) = peer.begin {
                    site::run(&mut begin(&at));
                }
            }
            site::run(&mut (peer.keep)(&at, &disk, &format!("disk~{back}")));
            site::settle();
            sizes.push(bytes(&at));
        }
    }
    for (peer, sizes) in there {
        let (first, growth) = (sizes[0], sizes[1] - sizes[0]);
        told(peer.name, first, growth);
        rows.push(Row::fewer_bytes(&format!("the same growth, against {}", peer.name), ours, growth));
        site::remove(&dir.join(peer.name));
    }
    site::remove(&disk);
    rows
}
