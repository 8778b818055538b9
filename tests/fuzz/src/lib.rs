//! What each fuzz target does with its bytes. Knows no fuzzer, so that tests can replay seeds.

pub mod archive;
pub mod control;
pub mod deb;
pub mod ext4;
pub mod fat;
pub mod formats;
pub mod frame;
pub mod guest;
pub mod log;
pub mod packed;
pub mod protocol;
pub mod qcow2;
pub mod recipe;
pub mod store;
