//! Packages of distributions: resolved into the lock, fetched by their digests, known to be out of date.
//! A directory for each package manager that is known, behind [`PackageManager`](crate::lock::PackageManager).
//!
//! ```text
//! request + what the stages below install ─ resolve ─→ lock ─ fetch by SHA-256 ─→ store ─ install, offline ─→ disk
//!                      ↑ signed indexes, the manager's own solver
//! ```

pub mod apt;
pub mod fetch;
pub mod files;
pub mod host;
pub mod places;
pub mod tools;
