//! The `impasto` program. All of it is in the library.

use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let start = Instant::now();
    // Started by a sandbox of ours, this is its supervisor.
    if let Some(code) = impasto::sandbox::supervisor_main(impasto::debian::toolbox::perform) {
        return code;
    }
    if impasto::cli::complete(std::env::args_os()) {
        return ExitCode::SUCCESS;
    }
    let interrupt = impasto::base::interrupt::Interrupt::default();
    ExitCode::from(impasto::cli::main(std::env::args_os(), start, interrupt))
}
