//! Packages of distributions: settled into the lock, fetched by their digests, known to be out of date.
//! Knows package managers only by [`PackageManager`]: a file for each of them.
//!
//! ```text
//! request + what the stages below install ─ settle ─→ lock ─ fetch by SHA-256 ─→ store ─ install, offline ─→ disk
//!                      ↑ signed indexes, the manager's own solver
//! ```

pub mod apt;
pub mod fetch;
pub mod files;
mod manager;
pub mod places;
pub mod tools;

pub use manager::{Below, Keep, Layer, ManagerError, Newer, PackageManager, Question};
