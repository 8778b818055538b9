//! Integration tests.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests run programs, and fail by panicking"
)]

mod apt;
mod archive;
mod audit;
mod base;
mod bootstrap;
mod chain;
mod cleanup;
mod cutoff;
mod deb;
mod debian;
mod diff;
mod disk_assembly;
mod doors;
mod failures;
mod guest_ext4;
mod hosts;
mod kernel_module;
mod kill;
mod laid_on;
mod limits;
mod lock;
mod mirror;
mod offline;
mod packages;
mod project;
mod random;
mod recipe;
mod recipes;
mod refused;
mod replay;
mod repository;
mod sandbox;
mod sandbox_disk;
mod sandbox_kill;
mod sbom;
mod settle;
mod site;
mod store;
mod toolbox;
mod tree_index;
mod units;
mod vm;
mod volatile;
mod wiped;
mod words;
