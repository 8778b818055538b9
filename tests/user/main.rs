//! Tests that any user can run: no root, no sandbox, no mounts, no devices. What needs one of these is in `tests/it`.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests run programs, and fail by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

use support::{base, debian, mirror, project, pty, random, repository, server, torture};

mod architecture;
mod archive;
mod bounded;
mod cmdline;
mod completion;
mod config;
mod damage;
mod engine;
mod fetched;
mod git;
mod help;
mod hostile_recipes;
mod live;
mod names;
mod pages;
mod recipe;
mod replay;
mod roots;
mod scope;
mod scripted;
mod sources;
mod tinyipa;
mod trees;
mod units;
mod vendored;
