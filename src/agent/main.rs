//! The agent: impasto's own process inside a sandbox. It makes the guest's world, runs steps in it, and closes it.
//!
//! Knows one guest and one job, not recipes, keys, layers or the store. It is one static executable:
//! requests come on standard input, answers go back the same way. Its one argument, where there is one, is the number of
//! the file descriptor that a shell shall read from.

#[path = "../base"]
mod base {
    #[allow(
        dead_code,
        unreachable_pub,
        reason = "impasto uses the rest; for impasto it is public"
    )]
    pub(crate) mod bounded;
}
mod close;
#[path = "../sandbox/confine.rs"]
mod confine;
#[path = "../sandbox/emulate.rs"]
#[allow(dead_code, reason = "impasto uses the rest")]
mod emulate;
mod facts;
mod files;
mod kernel;
#[path = "../sandbox/memory.rs"]
mod memory;
mod mounts;
mod nodes;
mod patch;
mod placement;
#[path = "../sandbox/protocol.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "each side uses its half; for impasto it is public"
)]
mod protocol;
mod serve;
mod steps;
mod sys;
#[path = "../sandbox/usage.rs"]
mod usage;
mod volatile;
mod workplace;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(word) if word == steps::LAUNCH => steps::launch(arguments.collect()),
        Some(word) if word == emulate::MAP_IDS => match emulate::map_ids() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) | Err(_) => ExitCode::FAILURE,
        },
        // Whoever is left without answer sees the exit code; the reason has gone through the socket if it still works.
        word => match serve::serve(word.and_then(|word| word.to_str()?.parse().ok())) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
    }
}
