//! `impasto audit` of the Debian 12 recipe, of which the first result is cached, against the cold build of that result into
//! an empty store. The audit builds the same again, under other conditions and into an empty store, and compares.
//!
//! Both download their packages from the host's mirror.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::demo::recipe_at;
use crate::measure::{Goal, Row, detail, median, quiet, sized, timed};
use crate::site;

/// A run of both takes some minutes.
const RUNS: usize = 2;

pub(super) fn rows() -> [Row; 2] {
    let dir = site::fresh("audit");
    let recipe = dir.join("recipe");
    recipe_at(&recipe);
    let store = dir.join("store");
    let (mut builds, mut audits, mut codes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..sized(RUNS, 1) {
        site::remove(&store);
        quiet();
        builds.push(site::time(&mut command("build", &recipe, &store)));
        site::settle();
        quiet();
        let (time, code) = audit(&recipe, &store);
        audits.push(time);
        codes.push(code);
        site::settle();
    }
    detail("impasto build, cold", &builds);
    detail("impasto audit of it", &audits);
    site::remove(&dir);
    let found = codes
        .iter()
        .map(|code| code.map_or("killed".to_owned(), |code| code.to_string()))
        .collect::<Vec<_>>()
        .join(", ");
    let what = "audit of Debian 12, against its cold build";
    [
        Row::against(what, median(&audits), median(&builds), Goal::AtMost(1.15)),
        Row::fact(
            "exit codes of these audits",
            found,
            "0 (equal)",
            codes.iter().all(|code| *code == Some(0)),
        ),
    ]
}

fn command(name: &str, recipe: &Path, store: &Path) -> Command {
    let mut command = site::impasto(store);
    command
        .arg(name)
        .arg(recipe)
        .args(["--only", "variant=minimal"])
        .arg("--out")
        .arg(recipe.join("out"));
    command
}

/// How long an audit takes, and its exit code; what it found is printed where that is a difference.
fn audit(recipe: &Path, store: &Path) -> (Duration, Option<i32>) {
    let mut command = command("audit", recipe, store);
    let (time, output) = timed(|| command.output().expect("impasto can be started"));
    if !output.status.success() {
        print!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    (time, output.status.code())
}
