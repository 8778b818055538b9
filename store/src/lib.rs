//! impasto's content-addressed store: digests, keys, qcow2 layers, blobs, claims.
//! Knows bytes and their names; knows no recipe, stage or sandbox, and starts no program.

pub mod blob;
pub mod chain;
pub mod claim;
pub mod convert;
pub mod crash;
mod cut;
pub mod derived;
pub mod digest;
pub mod disk;
pub mod error;
mod fs;
pub mod gc;
mod hash_file;
pub mod index;
pub mod inputs;
pub mod key;
pub mod layer;
pub mod lease;
pub mod qcow2;
mod record;
pub mod refs;
pub mod seal;
mod stamp;
mod state;
mod store;
pub mod verify;
mod walk;

pub use error::{Error, Miss, Result};
pub use fs::{FsTime, IoSnapshot};
pub use store::{FORMAT_FEATURES, FORMAT_VERSION, Scratch, Store};
