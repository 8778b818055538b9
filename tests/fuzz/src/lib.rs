//! What each fuzz target does with its bytes. Knows no fuzzer, so that tests can replay seeds.

pub mod frame;
pub mod qcow2;
pub mod store;
