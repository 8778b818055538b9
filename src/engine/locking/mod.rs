//! Whether the lock is right for a graph, what its entries give to the nodes, and what makes it right again.
//! Knows requests, nodes and entries; whom [`Renewal`] asks is a [`PackageManager`](crate::lock::PackageManager).

mod apply;
mod disk_size;
mod renew;
mod wanted;

pub use apply::{LockState, apply, below, tidied};
pub use disk_size::{TooSmall, too_small};
pub use renew::{Choice, ImageFiles, RenewError, Renewal, base_of};
pub use wanted::{repository, wanted};
