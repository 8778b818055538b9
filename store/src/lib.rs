//! impasto's content-addressed store: digests, keys, qcow2 layers, blobs, claims.
//! Knows bytes and their names; knows no recipe, stage or sandbox, and starts no program.
//!
//! `store/FORMAT.md` says what lies on the disk. [`Store`] is the way to all of it:
//!
//! * [`digest`] names things ([`sha256`] as others do), [`key`] encodes and explains what is hashed into a key;
//! * [`seal`] makes layers of what a stage changed, `base` says over which disk, [`layer`] is their manifest, [`disk`] the tree that names a disk;
//! * [`chain`] finds and verifies the files of a disk, and reads it; [`convert`] writes it to one file, of which
//!   [`derived`] remembers the digests;
//! * [`blob`] holds files, [`inputs`] hashes the user's own;
//! * [`claim`] says what an Action gave, [`index`] says it fast;
//! * [`refs`] and [`lease`] keep things, [`gc`] deletes the others, `debris` what dead processes left, whose files
//!   [`holder`] tells; [`verify`] checks every byte; an [`Owner`] is the user whose store it is;
//! * [`qcow2`] reads foreign images strictly and writes layer files, [`formats`] does so with images of other machines'
//!   programs; they know nothing of the rest.
//!
//! All access to the store's files is in `fs`, all damage comes out as an [`error::Miss`], every crash point has a name in
//! [`crash`]. Calls block, work on rayon's current pool, and can be made from any number of threads and processes.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests edit files"))]

mod base;
pub mod blob;
pub mod chain;
pub mod claim;
pub mod convert;
pub mod crash;
mod cut;
mod debris;
pub mod derived;
pub mod digest;
pub mod disk;
pub mod error;
pub mod formats;
mod fs;
pub mod gc;
mod hash_file;
pub mod holder;
pub mod index;
pub mod inputs;
pub mod key;
pub mod layer;
pub mod lease;
pub mod meter;
mod owner;
pub mod qcow2;
mod record;
pub mod refs;
mod repair;
pub mod seal;
pub mod sha256;
mod stamp;
mod state;
mod store;
mod trees;
pub mod verify;
mod walk;

pub use error::{Error, Miss, Result};
pub use fs::{FsTime, IoSnapshot};
pub use owner::Owner;
pub use stamp::boot_id;
pub use store::{FORMAT_FEATURES, FORMAT_VERSION, Scratch, Store};
