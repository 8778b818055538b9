//! Integration tests.
#![allow(clippy::disallowed_methods, reason = "tests run programs")]

mod base;
mod chain;
mod project;
mod sandbox;
mod sandbox_disk;
mod sandbox_kill;
