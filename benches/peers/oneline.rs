//! What impasto adds to a `run` stage of one line on a Debian disk of 600 MB: from the start of `impasto build` to its
//! exit, by which the claim is durable, the recipe's other stage being cached.
//!
//! The script writes one file, and its own time is not taken off: the figure is an upper bound. The page cache is warm.

use std::path::Path;
use std::process::Command;

use crate::measure::{Goal, Row, detail, interleaved, median, quiet, seconds};
use crate::site;

const RUNS: usize = 9;

pub(crate) fn rows() -> Vec<Row> {
    println!("oneline: one line on a disk of Debian");
    let (dir, store) = (site::fresh("oneline"), site::fresh("oneline-store"));
    write(&dir, "first");
    let output = site::run(build(&dir, &store).args(["--progress", "json"]));
    assert_eq!(site::summary(&output), (2, 0));
    site::settle();
    quiet();
    let [times] = interleaved(RUNS, |_, round| {
        write(&dir, &format!("round {round}"));
        let time = site::time(&mut build(&dir, &store));
        let output = site::run(build(&dir, &store).args(["--progress", "json"]));
        assert_eq!(
            site::summary(&output),
            (0, 2),
            "the edited line was not built"
        );
        site::settle();
        time
    });
    detail("impasto build", &times);
    write(&dir, "last");
    let output = site::run(build(&dir, &store).env("IMPASTO_LOG", "debug"));
    let log = String::from_utf8_lossy(&output.stderr);
    for line in log.lines().filter(|line| line.contains("timings")) {
        println!(
            "  phases: {}",
            line.find("[(").map_or(line, |at| &line[at..])
        );
    }
    site::remove(&store);
    let what = "one-line run stage on 600 MB of Debian, up to the durable claim";
    vec![Row::absolute(
        what,
        median(&times).as_secs_f64(),
        Goal::AtMost(0.8),
        seconds,
    )]
}

fn write(dir: &Path, line: &str) {
    let text = format!(
        "recipe {{\n  name              = \"oneline\"\n  source_date_epoch = 1700000000\n}}\n\n\
         stage \"fetch\" \"base\" {{\n  path = \"{}\"\n}}\n\n\
         stage \"run\" \"line\" {{\n  from     = stage.base\n  commands = [\"echo {line} > /root/line\"]\n}}\n",
        site::debian().qcow2.display()
    );
    std::fs::write(dir.join("impasto.hcl"), text).expect("a recipe");
}

fn build(dir: &Path, store: &Path) -> Command {
    let mut command = site::impasto(store);
    command
        .arg("build")
        .arg(dir)
        .arg("--out")
        .arg(dir.join("out"));
    command
}
