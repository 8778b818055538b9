//! Integration tests.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests run programs, and fail by panicking"
)]

mod apt;
mod architecture;
mod archive;
mod audit;
mod base;
mod bootstrap;
mod bounded;
mod causes;
mod chain;
mod cleanup;
mod cmdline;
mod completion;
mod config;
mod copy_times;
mod cutoff;
mod damage;
mod deb;
mod debian;
mod debris;
mod diff;
mod disk_assembly;
mod doctor;
mod doors;
mod failures;
mod faults;
mod guest_ext4;
mod help;
mod hostile_recipes;
mod hosts;
mod image_block;
mod images;
mod interrupt;
mod kernel_module;
mod kill;
mod limits;
mod live;
mod lock;
mod lock_hostile;
mod mirror;
mod names;
mod normalize;
mod offline;
mod owners;
mod packages;
mod pages;
mod picture;
mod power;
mod project;
mod pty;
mod random;
mod rebase;
mod recipe;
mod recipes;
mod records;
mod refused;
mod replay;
mod repository;
mod roots;
mod sandbox;
mod sandbox_disk;
mod sandbox_kill;
mod sbom;
mod scope;
mod site;
mod store;
mod test_stage;
mod toolbox;
mod torture;
mod tree_index;
mod twins;
mod units;
mod vm;
mod volatile;
mod wiped;
mod words;
