//! What is on a disk: our own readers. Knows no store, and mounts nothing.
//!
//! * [`guest`] reads partition tables and file systems.
//! * [`tree`] is the list of a disk's files, whose digest children bind to.
//! * [`contents`] reads files out of a disk whose tree is known.
//! * [`image`] says what a file is as a disk image.
//! * [`packed`] takes disk images out of compressed files.
//! * `fat16` makes small file systems for firmware and for guests.

pub mod contents;
pub(crate) mod fat16;
pub mod guest;
pub mod image;
pub mod packed;
pub mod tree;
