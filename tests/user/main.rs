//! Tests that an ordinary user can run: no root, no sandbox, no devices, no mounts. What needs one of these is in `tests/it`.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests run programs, and fail by panicking"
)]

#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "../it/base.rs"]
mod base;
mod engine;
#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "../it/project.rs"]
mod project;
mod scripted;
