//! Our numbers beside those of installed programs, measured in one run: `benches/run.sh [ROW…]`.
//!
//! Each module is one comparison and says what is compared, and with which state of the page cache. What a row came to is
//! printed and kept (`target/bench/results.json`) when it is measured. Exit 1 where a goal is missed. `--readme` puts the
//! table of this commit into `benches/README.md`; `--small` runs every row once on tiny data, and judges no figure.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for measuring"
)]

mod chain;
mod convert;
mod demo;
mod formats;
mod graph;
mod inputs;
mod measure;
mod media;
mod noop;
mod oneline;
mod packages;
mod results;
mod seal;
mod site;
mod tests;
mod trees;
mod vendor;

use std::process::ExitCode;

use results::Results;

type Comparison = fn() -> Vec<measure::Row>;

/// Name on the command line, and what gives its rows.
const ROWS: [(&str, Comparison); 15] = [
    ("noop", noop::rows),
    ("oneline", oneline::rows),
    ("plan", graph::rows),
    ("seal", seal::rows),
    ("convert", convert::rows),
    ("formats", formats::rows),
    ("inputs", inputs::rows),
    ("chain", chain::rows),
    ("demo", demo::rows),
    ("trees", trees::rows),
    ("packages", packages::rows),
    ("tests", tests::rows),
    ("media", media::rows),
    ("vendor", vendor::rows),
    ("exchanges", trees::exchanges),
];

/// Rows that take as long as all others together: measured where they are named, and once on tiny data.
const LONG: [&str; 1] = ["exchanges"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--small") {
        measure::make_small();
    }
    let names = ROWS.map(|(row, _)| row);
    let mut results = Results::open();
    if arguments.iter().any(|argument| argument == "--readme") {
        let needed: Vec<&str> = names
            .into_iter()
            .filter(|name| !LONG.contains(name))
            .collect();
        return match results.write_readme(&needed) {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => {
                println!("{message}");
                ExitCode::FAILURE
            }
        };
    }
    // cargo adds options of its own.
    let wanted: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    if let Some(unknown) = wanted.iter().find(|name| !names.contains(&name.as_str())) {
        println!("no such row: {unknown}. There are: {}", names.join(" "));
        return ExitCode::from(2);
    }
    let mut all = Vec::new();
    let asked = |row: &str| match wanted.as_slice() {
        [] => measure::small() || !LONG.contains(&row),
        names => names.iter().any(|name| *name == row),
    };
    for (name, measure) in ROWS.iter().filter(|(row, _)| asked(row)) {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or_default().to_owned();
        // One that fails does not keep the others from being measured.
        let rows =
            std::panic::catch_unwind(measure).unwrap_or_else(|_| vec![measure::Row::failed(name)]);
        println!("\n{}", measure::table(&rows));
        results.add(name, &load, &rows);
        all.extend(rows);
    }
    println!("{}", measure::table(&all));
    if all.iter().all(measure::Row::ok) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
