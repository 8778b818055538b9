//! How long the tree index takes where a stage changed 1 % of the files of a Debian disk: 206 of 20,353, every 50th below
//! `/usr/share`. Of the index alone, as the program's developer log tells it; whole builds are printed beside it, also of a
//! stage that changes nothing.
//!
//! Each run appends another line, so that the stage runs and its layer is stored every time. The page cache is warm.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use crate::measure::{Goal, Row, detail, interleaved, median, quiet, seconds, timed};
use crate::site;

const RUNS: usize = 9;
const CHANGE: &str = "find /usr/share -type f | LC_ALL=C sort | awk 'NR % 50 == 0' | \
                      while read -r file; do echo LINE >> \\\"$file\\\"; done";

pub(super) fn row() -> Row {
    let (change, nothing) = (site::fresh("index-change"), site::fresh("index-nothing"));
    let store = site::fresh("index-store");
    write(&nothing, "true");
    site::run(&mut build(&nothing, &store));
    site::settle();
    quiet();
    let mut indexes = [Vec::new(), Vec::new()];
    let [changed, unchanged] = interleaved(RUNS, |side, round| {
        let (dir, script) = match side {
            0 => (&change, CHANGE.replace("LINE", &format!("round {round}"))),
            _ => (&nothing, format!("true round {round}")),
        };
        write(dir, &script);
        let (time, output) = timed(|| site::run(&mut build(dir, &store)));
        // As with the builds, the first round does not count.
        if round > 0 {
            indexes[side].push(index_time(&output));
        }
        site::settle();
        time
    });
    detail("index, 1 % of the files changed", &indexes[0]);
    detail("index, nothing changed", &indexes[1]);
    detail("whole build, 1 % of the files changed", &changed);
    detail("whole build, nothing changed", &unchanged);
    site::remove(&store);
    let what = "tree index, 1 % of 20,000 files changed";
    Row::absolute(
        what,
        median(&indexes[0]).as_secs_f64(),
        Goal::AtMost(0.15),
        seconds,
    )
}

fn write(dir: &Path, script: &str) {
    let text = format!(
        "recipe {{\n  name              = \"index\"\n  source_date_epoch = 1700000000\n}}\n\n\
         stage \"fetch\" \"base\" {{\n  path = \"{}\"\n}}\n\n\
         stage \"run\" \"measured\" {{\n  from     = stage.base\n  commands = [\"{script}\"]\n}}\n",
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
        .env("IMPASTO_LOG", "impasto::engine::job::known=debug")
        .env("NO_COLOR", "1");
    command
}

/// What a build's developer log tells of the measured stage.
fn index_time(output: &Output) -> Duration {
    let log = String::from_utf8_lossy(&output.stderr);
    let line = log
        .lines()
        .find(|line| line.contains("tree index stage=\"measured\""));
    let elapsed = line.and_then(|line| line.split_once("elapsed=")?.1.split(' ').next());
    elapsed
        .and_then(duration)
        .unwrap_or_else(|| panic!("no time of an index in the log:\n{log}"))
}

/// A duration as `Debug` writes it.
fn duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let scale = match &text[unit_at..] {
        "s" => 1.0,
        "ms" => 1e-3,
        "µs" => 1e-6,
        _ => return None,
    };
    Some(Duration::from_secs_f64(
        text[..unit_at].parse::<f64>().ok()? * scale,
    ))
}
