//! What comes in from elsewhere than a distribution's archive, and the trees of files that are made of it.
//! Knows formats, addresses, signatures and checksums; knows neither stages nor the store.
//!
//! ```text
//! request + what the lock has ─ Resolver ─→ the same, or another file with its SHA-256: what the lock is to say
//! ```

pub mod archive;
mod cleartext;
mod error;
pub mod git;
pub mod oci;
mod openpgp;
mod resolve;
mod sums;
pub mod tree;
pub mod vendor;

pub use cleartext::Cleartext;
pub use error::SourceLookupError;
pub use openpgp::{Keyring, SignatureError, Verified};
pub use resolve::{FileQuery, Found, FoundFile, KnownFile, Resolver};
pub use sums::{ChecksumList, SumsError};
