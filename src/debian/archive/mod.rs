//! Debian archives, read by our own code: signatures, and the indexes that they cover.
//! Knows which files an archive has and who signed them; knows neither packages nor the store.
//!
//! ```text
//! Source ─ release ─→ Release: signed, in time, of the right suite
//!            │ index
//!            ↓
//!          Index: the text of a `Packages` file, as the Release states it
//!
//! DownloadRequest ─ get ─→ files of known size and SHA-256, many at a time
//! ```

mod access;
mod client;
mod error;
mod index;
mod release;
mod signed;
mod unpack;

pub use client::{Client, DownloadRequest, DownloadSource};
pub use error::{ArchiveError, LOGIN};
pub use index::{Cache, PackageIndex};
pub use release::{Release, ReleaseEntry, ReleaseError};

use crate::debian::mirror::Mirror;
pub use crate::source::{Cleartext, Keyring, SignatureError};

/// An archive, and what of it is wanted.
#[derive(Debug, Clone)]
pub struct ArchiveSource {
    /// Its name in messages and locks.
    pub name: String,
    /// Where it can be had, tried in order.
    pub bases: Vec<Mirror>,
    /// The suite, or a path that ends in `/` where the archive is flat.
    pub suite: String,
    /// The components; none where the archive is flat.
    pub components: Vec<String>,
    /// Architectures whose packages are wanted; those for all architectures come with them.
    pub architectures: Vec<String>,
    /// Who must have signed it.
    pub trust: Trust,
    /// Whether it is a directory that stands still: that it has become old is then no sign of an attack.
    pub frozen: bool,
}

/// Who must have signed an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// One of these keys.
    Keys {
        /// Certificates, binary or armored.
        keys: Vec<u8>,
        /// Where they are, for messages.
        place: String,
    },
    /// Nobody: the recipe says that it trusts the archive as it is.
    Unsigned,
}
