//! What the tests of both binaries use. Each of them compiles it: `tests/it`, which needs root, and `tests/user`.
#![allow(
    dead_code,
    unused_imports,
    reason = "each of the two uses a part of it"
)]

pub(crate) mod base;
pub(crate) mod debian;
pub(crate) mod mirror;
pub(crate) mod project;
pub(crate) mod pty;
pub(crate) mod random;
pub(crate) mod repository;
pub(crate) mod server;
pub(crate) mod torture;
