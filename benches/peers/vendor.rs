//! A build in which nothing is to be done, with a hundred crates and the wheels of ironic-python-agent that were fetched before,
//! against the same build without them: what the two stages take of a no-op build, and how many connections they make.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use crate::measure::{Goal, Row, detail, interleaved, median, quiet, seconds, small};
use crate::site;

const RUNS: usize = 40;
const CRATES: usize = 100;

pub(crate) fn rows() -> Vec<Row> {
    let (dir, store) = (site::fresh("vendor"), site::fresh("vendor-store"));
    let (with, without) = (dir.join("with"), dir.join("without"));
    let head = "recipe {\n  name              = \"vendor\"\n  source_date_epoch = 1700000000\n}\n\n\
                stage \"archive\" \"it\" {\n  format = \"tar\"\n  files  = {\n    recipe = \"impasto.hcl\"\n";
    let mut crates = "stage \"vendor\" \"crates\" {\n  lock = \"Cargo.lock\"\n}\n".to_owned();
    let mut members = "    crates = stage.crates\n".to_owned();
    for at in [&with, &without] {
        std::fs::create_dir(at).expect("a directory");
    }
    std::fs::write(with.join("Cargo.lock"), lock()).expect("a lock");
    if !small() {
        // Wheels come from another index, which a test does without.
        site::run(
            site::program("cp")
                .arg("recipes/tinyipa/requirements.txt")
                .arg(&with),
        );
        crates += "\nstage \"vendor\" \"wheels\" {\n  lock   = \"requirements.txt\"\n  python = \"cp311\"\n}\n";
        members += "    wheels = stage.wheels\n";
    }
    std::fs::write(
        with.join("impasto.hcl"),
        format!("{head}{members}  }}\n}}\n\n{crates}"),
    )
    .expect("a recipe");
    std::fs::write(without.join("impasto.hcl"), format!("{head}  }}\n}}\n")).expect("a recipe");
    for at in [&with, &without] {
        site::run(&mut build(at, &store));
    }
    let connections = site::traced(&build(&with, &store), &dir, "connect", &["AF_INET"]);
    site::settle();
    quiet();
    let [with, without] = interleaved(RUNS, |side, _| {
        site::time(&mut build(if side == 0 { &with } else { &without }, &store))
    });
    detail("no-op build with vendored files", &with);
    detail("the same without", &without);
    site::remove(&store);
    let more = median(&with).saturating_sub(median(&without));
    vec![
        Row::absolute(
            "no-op build with 100 crates and 49 wheels: beyond one without",
            more.as_secs_f64(),
            Goal::AtMost(0.005),
            seconds,
        ),
        Row::fact(
            "the same: connections",
            connections.to_string(),
            "0",
            connections == 0,
        ),
    ]
}

/// The first crates of our own lock.
fn lock() -> String {
    let own = std::fs::read_to_string("Cargo.lock").expect("our own lock");
    let mut lock = "version = 4\n".to_owned();
    let wanted = if small() { 1 } else { CRATES };
    let packages = own.split("[[package]]\n").skip(1);
    for package in packages
        .filter(|package| package.contains("\nchecksum = "))
        .take(wanted)
    {
        let lines = ["name = ", "version = ", "source = ", "checksum = "];
        lock += "\n[[package]]\n";
        for line in package
            .lines()
            .filter(|line| lines.iter().any(|start| line.starts_with(start)))
        {
            writeln!(lock, "{line}").expect("text");
        }
    }
    lock
}

fn build(dir: &Path, store: &Path) -> Command {
    let mut command = site::impasto(store);
    command.arg("build").arg("it").arg("--recipe").arg(dir);
    command
}
