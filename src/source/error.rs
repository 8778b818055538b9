//! What goes wrong with what comes from elsewhere. Every message names the place, and none shows a password.
//! Knows no recipe; what to do about an error is said where the recipe is known.

use std::io;

use super::git::GitError;
use super::openpgp::SignatureError;
use super::sums::SumsError;
use crate::net::{DownloadError, DownloaderError};

/// A source that cannot be had, or not be believed.
#[derive(Debug, thiserror::Error)]
pub enum SourceLookupError {
    #[error(transparent)]
    Download(#[from] DownloadError),
    #[error(transparent)]
    Downloader(#[from] DownloaderError),
    #[error(transparent)]
    Git(#[from] GitError),
    /// An address that nobody can ask.
    #[error("{url:?} is not an http or https URL with a host")]
    Address {
        /// Without user name and password.
        url: String,
    },
    /// A list of checksums that does not tell a file's.
    #[error("{place} cannot be used as a list of checksums")]
    Sums {
        /// Its URL or path.
        place: String,
        source: SumsError,
    },
    /// A list that is not signed by whom it must be.
    #[error("{place} cannot be trusted")]
    Signature {
        /// Its URL or path.
        place: String,
        source: SignatureError,
    },
    /// No signature within a list, and none beside it.
    #[error("{place} is not signed, and none of {} is there", tried.join(", "))]
    NoSignature {
        /// Its URL or path.
        place: String,
        /// Names of files that could have held the signature.
        tried: Vec<String>,
    },
    /// A file of this machine.
    #[error("cannot read {path}")]
    Read { path: String, source: io::Error },
}
