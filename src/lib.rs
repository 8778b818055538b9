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
//! * [`recipe`] reads and evaluates HCL; `impasto_stages` knows what each kind of stage means.
//! * [`graph`] makes equal stages of different combinations one node.
//! * [`plan`] binds a node's inputs to contents and looks the key up; [`reason`] tells why it must run.
//! * [`memory`] is what is remembered of runs, and may be lost; [`roots`] is what the collector keeps for a checkout.
//! * [`forecast`] tells how long a run will take, from how long its stages took before.
//! * [`schedule`] is a pure state machine; [`engine`] is the one loop around it; [`job`] is one unit of work.
//! * [`cause`] finds out why something failed, and what to do about it.
//! * [`sandbox`] runs steps on a disk; [`guest`] reads partition tables and file systems.
//! * [`tree`] is the list of a disk's files, whose digest children bind to.
//! * [`diff`] tells what differs between two disks, and which stage a disk's bytes come from.
//! * [`toolbox`] is our own work with a distribution's programs: roots out of packages.
//! * [`sbom`] lists a disk's packages, with origins and licences.
//! * [`deb`] reads Debian's formats, and lays packages out as a tree of tools.
//! * [`assemble`] makes a disk of a tree, inside the sandbox.
//! * [`audit`] tells two builds of a recipe apart.
//! * [`vm`] boots disks in QEMU; [`image`] tells what a file is as a disk image.
//! * [`event`] is what happens; [`ui`] alone prints it; [`cli`] is one file per command.
//! * [`archive`] gets signed indexes and packages from Debian's archives.
//! * [`interrupt`] is what SIGINT, SIGTERM and SIGHUP do.
//! * [`config`] reads settings.
//! * [`bounded`] alone opens files to read them; [`scope`] says which of them a recipe may read.
//! * [`mirror`] is where the host gets Debian's packages; [`host`] alone reads the environment and the clock.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests run programs and edit files"))]

pub mod archive;
pub mod assemble;
pub mod audit;
pub mod bounded;
pub mod cause;
pub mod cli;
pub mod config;
pub mod deb;
pub mod diff;
pub mod engine;
pub mod event;
pub mod fetch;
pub mod forecast;
pub mod graph;
pub mod guest;
pub mod host;
pub mod image;
pub mod inputs;
pub mod interrupt;
pub mod job;
pub mod lock;
pub mod log;
pub mod memory;
pub mod mirror;
pub mod packages;
pub mod plan;
pub mod publish;
pub mod reason;
pub mod recipe;
pub mod roots;
pub mod sandbox;
pub mod sbom;
pub mod schedule;
pub mod scope;
pub mod shell;
pub mod toolbox;
pub mod tree;
pub mod ui;
pub mod vm;
