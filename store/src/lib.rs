//! impasto's content-addressed store: digests, keys, qcow2 layers, blobs, claims.
//! Knows bytes and their names; knows no recipe, stage or sandbox, and starts no program.

pub mod digest;
pub mod key;
pub mod qcow2;
