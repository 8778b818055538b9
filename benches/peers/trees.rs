//! What tree indexes cost, and what they are good for; four measurements:
//!
//! * [`index`]: the index of a disk of which a stage changed 1 % of the files;
//! * [`sixty`]: what the store grows by where one package of sixty is another, against casync and restic; and a comparison
//!   of the two disks, against what diffoscope finds;
//! * [`audit`]: building a recipe again under other conditions and comparing, against building it.
//!
//! Needs the host's mirror of Debian. The page cache is warm, but for what a cold build downloads. A peer that is not
//! installed is a missed goal, and named.

mod audit;
mod diffoscope;
mod growth;
mod index;
mod sixty;

use std::process::Command;

use crate::measure::{Row, sized, small};

pub(crate) fn rows() -> Vec<Row> {
    println!("trees: indexes of trees, and what follows from them");
    let mut rows = vec![index::row()];
    rows.extend(sixty::rows());
    rows.extend(audit::rows());
    rows
}

/// Many exchanges of one package, which take long: a group of its own.
pub(crate) fn exchanges() -> Vec<Row> {
    println!("exchanges: thirty times one package of sixty is another");
    sixty::exchanges()
}

/// The row of a peer that cannot be started, which names its package.
fn missing(program: &str, package: &str) -> Option<Row> {
    if !small() && Command::new(program).arg("--help").output().is_ok() {
        return None;
    }
    let why = sized("not installed", "left out");
    println!("  {program} is {why}: apt-get install {package}");
    Some(Row::fact(
        &format!("comparison with {program}"),
        why.to_owned(),
        "installed",
        small(),
    ))
}
