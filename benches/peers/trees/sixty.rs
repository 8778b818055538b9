//! One package of sixty is another (`sixty.hcl`: ltrace instead of gdb). Measured are
//!
//! * the bytes that the store grows by, against what the stage `tools` and all after it took the first time, and against
//!   what casync's chunk store and restic's repository grow by for the raw disks of the stage `clean`. A peer's first
//!   figure is that of the whole disk, ours without what `base` took: so the bytes are compared, not the shares;
//! * how long `impasto diff` of the two disks of `tools` takes, and whether it names all that diffoscope finds.
//!
//! All figures are what `du` tells, of the store or of all that the peer keeps. The page cache is warm.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{diffoscope, growth};
use crate::measure::{
    Goal, Row, detail, interleaved, median, megabytes, quiet, seconds, sized, small, timed,
};
use crate::site;

const DIFF_RUNS: usize = 9;
const FIRST: &str = "one=gdb";
const SECOND: &str = "one=ltrace";

/// What takes the place of one another: small ones and larger ones, none of which the others need.
const EXCHANGED: [&str; 30] = [
    "ltrace",
    "tree",
    "hdparm",
    "smartmontools",
    "nmap",
    "zsh",
    "fish",
    "ncdu",
    "pv",
    "telnet",
    "whois",
    "iperf3",
    "fio",
    "stress",
    "lshw",
    "hwinfo",
    "ipset",
    "nftables",
    "conntrack",
    "arping",
    "fping",
    "bmon",
    "nload",
    "moreutils",
    "sqlite3",
    "rlwrap",
    "pwgen",
    "lzop",
    "zip",
    "p7zip",
];

pub(super) fn exchanges() -> Vec<Row> {
    let sixty = Sixty::new();
    let rows = sixty.exchanges();
    site::remove(&sixty.dir);
    rows
}

pub(super) fn rows() -> Vec<Row> {
    let sixty = Sixty::new();
    let mut rows = sixty.growth();
    rows.push(sixty.diff_time());
    rows.extend(diffoscope::rows(&sixty));
    site::remove(&sixty.dir);
    rows
}

/// The recipe and its store.
pub(super) struct Sixty {
    /// Where all of it is.
    pub(super) dir: PathBuf,
    store: PathBuf,
}

impl Sixty {
    fn new() -> Sixty {
        let dir = site::fresh("sixty");
        let recipe = sized("benches/peers/sixty.hcl", "benches/peers/small.hcl");
        site::run(site::program("cp").arg(recipe).arg(dir.join("impasto.hcl")));
        if small() {
            std::fs::copy(site::tiny(), dir.join("base.qcow2")).expect("the base");
        }
        Sixty {
            store: dir.join("store"),
            dir,
        }
    }

    fn growth(&self) -> Vec<Row> {
        self.build(FIRST, Some("base"));
        let zero = growth::bytes(&self.store);
        self.build(FIRST, None);
        let first = growth::bytes(&self.store);
        self.exchange(SECOND);
        let growth = growth::bytes(&self.store) - first;
        let first = first - zero;
        let share = growth::told("impasto, from the stage base on", first, growth);
        println!("  (all before that: {})", megabytes(zero as f64));
        let what = "store growth, one package of sixty is another";
        let mut rows = vec![Row::absolute(what, share, Goal::AtMost(15.0), |value| {
            format!("{value:.1} %")
        })];
        let mut peers = growth::Peers::begin(&self.dir);
        peers.keep(|disk| self.export("clean~1", disk));
        peers.keep(|disk| self.export("clean~0", disk));
        rows.extend(peers.rows("the same growth", growth));
        rows
    }

    /// The same growth over many exchanges, one after the other, each built on the store that the last one left.
    fn exchanges(&self) -> Vec<Row> {
        let packages = sized(&EXCHANGED[..], &EXCHANGED[..2]);
        self.build(FIRST, None);
        let first = growth::bytes(&self.store);
        let mut last = first;
        let mut peers = growth::Peers::begin(&self.dir);
        peers.keep(|disk| self.export("clean~0", disk));
        for package in packages {
            self.exchange(&format!("one={package}"));
            let now = growth::bytes(&self.store);
            println!("  {package}: {}", megabytes(now as f64 - last as f64));
            last = now;
            peers.keep(|disk| self.export("clean~0", disk));
        }
        peers.rows(
            &format!(
                "store growth over {} exchanges of one package of sixty",
                packages.len()
            ),
            last - first,
        )
    }

    fn diff_time(&self) -> Row {
        quiet();
        let [times] = interleaved(DIFF_RUNS, |_, _| timed(|| self.diff(&[])).0);
        detail("impasto diff", &times);
        let what = "diff of two disks of 600 MB, one package of sixty is another";
        Row::absolute(
            what,
            median(&times).as_secs_f64(),
            Goal::AtMost(0.3),
            seconds,
        )
    }

    /// What differs between the disks of both runs of `tools`.
    pub(super) fn diff(&self, options: &[&str]) -> Output {
        let output = self
            .command("diff", SECOND)
            .args(["tools~1", "tools~0"])
            .args(options)
            .output();
        let output = output.expect("impasto can be started");
        let log = String::from_utf8_lossy(&output.stderr);
        // Exit code 10: they differ.
        assert_eq!(output.status.code(), Some(10), "{log}");
        output
    }

    /// Writes the disk of a stage's run as a raw image.
    pub(super) fn export(&self, name: &str, path: &Path) {
        let mut command = site::impasto(&self.store);
        command
            .args(["layer", "export"])
            .arg(&self.dir)
            .args([name, "--var", SECOND])
            .arg("--output")
            .arg(path);
        site::run(&mut command);
    }

    /// Locks another package in the place of the last one, and builds.
    fn exchange(&self, variable: &str) {
        // The small recipe installs nothing.
        if !small() {
            site::run(self.command("update", variable).arg("tools"));
        }
        self.build(variable, None);
    }

    fn build(&self, variable: &str, stage: Option<&str>) {
        site::run(
            self.command("build", variable)
                .args(stage)
                .arg("--out")
                .arg(self.dir.join("out")),
        );
        site::settle();
    }

    fn command(&self, name: &str, variable: &str) -> Command {
        let mut command = site::impasto(&self.store);
        command.arg(name).arg(&self.dir).args(["--var", variable]);
        command
    }
}
