//! Tests that need root: sandboxes, mounts, devices, real Debian. What any user can run is in `tests/user`.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests run programs, and fail by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

use support::{base, debian, mirror, project, pty, random, repository, server, torture};

mod apt;
mod audit;
mod bootstrap;
mod builds;
mod causes;
mod chain;
mod cleanup;
mod cmdline;
mod copy_times;
mod cutoff;
mod deb;
mod debris;
mod diff;
mod disk_assembly;
mod doctor;
mod doors;
mod estimates;
mod failures;
mod faults;
mod fetch;
mod foreign;
mod formats;
mod guest_ext4;
mod hosts;
mod image_block;
mod images;
mod interrupt;
mod kernel_module;
mod kill;
mod limits;
mod lock;
mod lock_events;
mod lock_hostile;
mod media;
mod mirrors;
mod normalize;
mod offline;
mod owners;
mod packages;
mod picture;
mod power;
mod rebase;
mod recipes;
mod records;
mod refused;
mod resize;
mod sandbox;
mod sandbox_disk;
mod sandbox_kill;
mod sbom;
mod site;
mod store;
mod system;
mod test_stage;
mod tinyipa;
mod toolbox;
mod tree_index;
mod twins;
mod ubuntu;
mod vm;
mod volatile;
mod wiped;
mod words;
