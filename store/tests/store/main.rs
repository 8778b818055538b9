//! The store through its public interface: what comes back, what is noticed, what survives.
#![allow(
    clippy::disallowed_methods,
    reason = "tests start processes and edit files"
)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod blobs;
mod claims;
mod collect;
mod concurrent;
mod convert;
mod crash;
mod damage;
mod edits;
mod fixture;
mod formats;
mod full;
mod previous;
mod seal;
mod support;
mod wrong_type;
