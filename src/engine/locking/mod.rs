//! Whether the lock is right for a graph, what its entries give to the nodes, and what makes it right again.
//! Knows requests, nodes and entries; whom [`Renewal`] asks is a [`PackageManager`](crate::lock::PackageManager).

mod apply;
mod renew;
mod room;
mod wanted;

pub use apply::{LockState, apply, below, tidied};
pub use renew::{Choice, ImageFiles, RenewError, Renewal, below_of};
pub use room::{TooSmall, too_small};
pub use wanted::{repository, wanted};
