//! Which packages, and what else from elsewhere, a graph's nodes have, and what resolves, compares and fetches them.
//! Knows requests, nodes and entries; whom a [`LockRun`] asks is a [`PackageManager`](crate::lock::PackageManager).
//!
//! A graph is made with its recipe's lock, so its nodes have the packages that are right, and a [`LockState`] that says what
//! is missing or stale. A [`LockRun`] gives it a better lock, and tells what happens as [`events`](crate::engine::event).

mod apply;
mod check;
mod disk_size;
mod image;
mod newer;
mod renew;
mod run;
mod sources;
mod wanted;

pub(in crate::engine) use apply::below_stage;
pub use apply::{AppliedLock, LockState, below, source_request};
pub use check::LockGap;
pub use disk_size::{TooSmall, too_small};
pub use newer::Newer;
pub use renew::{Choice, RenewError, Renewal};
pub use run::LockRun;
pub use sources::NewerSource;
pub use wanted::{fetcher, repository};
