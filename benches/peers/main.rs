//! Our numbers beside those of installed programs, measured in one run: `benches/run.sh [ROW…]`.
//!
//! Each module is one comparison and says what is compared, and with which state of the page cache. Exit 1 where a goal
//! is missed.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used, reason = "a program for measuring")]

mod chain;
mod convert;
mod demo;
mod graph;
mod inputs;
mod measure;
mod noop;
mod oneline;
mod packages;
mod seal;
mod site;
mod trees;

use std::process::ExitCode;

type Comparison = fn() -> Vec<measure::Row>;

/// Name on the command line, and what gives its rows.
const ROWS: [(&str, Comparison); 10] = [
    ("noop", noop::rows),
    ("oneline", oneline::rows),
    ("plan", graph::rows),
    ("seal", seal::rows),
    ("convert", convert::rows),
    ("inputs", inputs::rows),
    ("chain", chain::rows),
    ("demo", demo::rows),
    ("trees", trees::rows),
    ("packages", packages::rows),
];

fn main() -> ExitCode {
    // cargo adds options of its own.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let Some(unknown) = wanted.iter().find(|name| ROWS.iter().all(|(row, _)| row != name)) {
        println!("no such row: {unknown}. There are: {}", ROWS.map(|(row, _)| row).join(" "));
        return ExitCode::from(2);
    }
    let mut rows = Vec::new();
    for (_, measure) in ROWS.iter().filter(|(row, _)| wanted.is_empty() || wanted.iter().any(|name| name == row)) {
        rows.extend(measure());
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("\n{cpus} CPUs, load {}\n\n{}", load.trim(), measure::table(&rows));
    if rows.iter().all(measure::Row::ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
