//! What casync's chunk store and restic's repository take for a disk, and what they grow by for the next one. Both cut
//! files by content and compress, with the settings that they have by themselves.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::missing;
use crate::measure::{Row, megabytes};
use crate::site;

/// Bytes that a directory takes on the disk.
pub(super) fn bytes(dir: &Path) -> u64 {
    let output = site::run(site::program("du").args(["-s", "--block-size=1"]).arg(dir));
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .expect("a number of du")
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
            command
                .arg("make")
                .arg(format!("--store={}", at.join("chunks.castr").display()));
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
    command
        .env("RESTIC_PASSWORD", "measured")
        .args(["--no-cache", "--repo"])
        .arg(at.join("repository"))
        .arg(verb);
    command
}

/// The peers that are installed, each with its repository.
pub(super) struct Peers {
    dir: PathBuf,
    /// Each with what its repository took after each disk, in bytes.
    there: Vec<(Peer, Vec<u64>)>,
    missing: Vec<Row>,
}

impl Peers {
    /// Empty repositories below a directory.
    pub(super) fn begin(dir: &Path) -> Peers {
        let (mut there, mut rows) = (Vec::new(), Vec::new());
        for peer in PEERS {
            match missing(peer.name, peer.name) {
                None => there.push((peer, Vec::new())),
                Some(row) => rows.push(row),
            }
        }
        for (peer, _) in &there {
            let at = dir.join(peer.name);
            std::fs::create_dir_all(&at).expect("a directory");
            if let Some(begin) = peer.begin {
                site::run(&mut begin(&at));
            }
        }
        Peers {
            dir: dir.to_owned(),
            there,
            missing: rows,
        }
    }

    /// Has each of them keep the next disk, which `export` writes. All are kept under one path, as versions of one file.
    pub(super) fn keep(&mut self, export: impl FnOnce(&Path)) {
        let disk = self.dir.join("disk.raw");
        export(&disk);
        for (peer, sizes) in &mut self.there {
            let at = self.dir.join(peer.name);
            site::run(&mut (peer.keep)(
                &at,
                &disk,
                &format!("disk-{}", sizes.len()),
            ));
            site::settle();
            sizes.push(bytes(&at));
        }
        site::remove(&disk);
    }

    /// Our growth beside theirs from the first disk to the last.
    pub(super) fn rows(self, what: &str, ours: u64) -> Vec<Row> {
        let mut rows = self.missing;
        for (peer, sizes) in self.there {
            let (first, growth) = (sizes[0], sizes[sizes.len() - 1] - sizes[0]);
            told(peer.name, first, growth);
            rows.push(Row::fewer_bytes(
                &format!("{what}, against {}", peer.name),
                ours,
                growth,
            ));
            site::remove(&self.dir.join(peer.name));
        }
        rows
    }
}
