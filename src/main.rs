//! The `impasto` program. All of it is in the library.

use std::process::ExitCode;
use std::time::Instant;

use impasto::base::interrupt::{EXIT_CODE, Interrupt};

fn main() -> ExitCode {
    let start = Instant::now();
    // Started by a sandbox of ours, this is its supervisor.
    if let Some(code) = impasto::sandbox::supervisor_main(impasto::debian::toolbox::perform) {
        return code;
    }
    if impasto::cli::complete(std::env::args_os()) {
        return ExitCode::SUCCESS;
    }
    let interrupt = Interrupt::new(end);
    ExitCode::from(impasto::cli::main(std::env::args_os(), start, interrupt))
}

/// Ends the process at the user's word, and leaves the terminal as it was.
fn end() -> ! {
    impasto::sandbox::restore_terminal();
    impasto::ui::clear_at_exit();
    std::process::exit(EXIT_CODE.into())
}
