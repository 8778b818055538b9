//! impasto builds disk images in layers: a recipe's stages are nodes of a graph, every node's inputs are hashed, each
//! result is a layer in a content-addressed store, and only dirty nodes run again.
//!
//! The way of the data, and the module that each part lives in:
//!
//! ```text
//! recipe text ─ recipe ─→ Recipe ─ graph ─→ Graph ─ plan ─→ cached, dirty or pending
//!                                                             │ engine, schedule
//!                                                             ↓
//!                     user's files ←─ publish ─ job ─→ sandbox (supervisor, agent) or our own code
//!                                                │
//!                                                └─→ impasto_store: layer, blobs, claim
//! ```
//!
//! The rooms, each knowing only those above it in this list; `tests/user/architecture.rs` holds them to it:
//!
//! * [`base`]: the process and its environment.
//! * [`net`] gets files from elsewhere.
//! * [`source`]: what comes in from elsewhere, and trees of files.
//! * [`disk`]: readers of partition tables and file systems, and the index of a disk's files.
//! * [`media`]: ramdisks and archives, of a disk's files and others.
//! * [`recipe`] reads and evaluates HCL; `impasto_stages` knows what each kind of stage means.
//! * [`deb`] reads Debian's formats; [`lock`] is the file of locked packages, and what it needs of a package manager.
//! * [`sandbox`] runs steps on a disk; [`vm`] boots disks in QEMU.
//! * [`assemble`] makes a disk of a tree, and grows disks, inside the sandbox.
//! * [`debian`]: archives, apt, roots made of packages.
//! * [`inspect`]: what is in a disk, what changed, and whether it comes out the same again.
//! * [`checks`]: what tests ask of an image, answered by its disk and by a machine that boots it.
//! * [`engine`]: graph, plan, schedule, and the loop that runs it.
//! * [`image`] is what users get: where files go, what must hold before they appear.
//! * [`ui`] alone prints; [`cli`] is one file per command.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests run programs and edit files"
    )
)]

pub mod assemble;
pub mod base;
pub mod checks;
pub mod cli;
pub mod deb;
pub mod debian;
pub mod disk;
pub mod engine;
pub mod image;
pub mod inspect;
pub mod lock;
pub mod media;
pub mod net;
pub mod recipe;
pub mod sandbox;
pub mod source;
pub mod ui;
pub mod vm;
